"""Every pair of C and l1_ratio on every fold: which are solved as smooth problems, and which are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from torch_logreg._selection.elastic_net_path import ElasticNetPath
from torch_logreg._selection.path import Path, PathSolver, solve_present


class Grid(NamedTuple):
    """What there is to choose from."""

    Cs: np.ndarray  # (n_Cs,), in the caller's order
    l1_ratios: np.ndarray  # (n_l1_ratios,)

    @property
    def order(self) -> np.ndarray:
        """The places of the Cs, in rising order."""
        return np.argsort(self.Cs, kind="stable")

    @property
    def n_with_l1(self) -> int:
        """How many pairs have an L1 term; a C of infinity leaves no penalty."""
        return int(np.isfinite(self.Cs).sum() * (self.l1_ratios > 0).sum())

    @property
    def n_at_once(self) -> int:
        """How many Cs are solved together at most; with an L1 term it is one after another."""
        are_all_with_l1 = self.n_with_l1 == len(self.Cs) * len(self.l1_ratios)
        return 1 if are_all_with_l1 else len(self.Cs)

    def number_of(self, ratio: int, C: int) -> tuple[int | None, int]:
        """The number of a pair among the l1_ratios above 0, None without an L1 term, and among rising Cs."""
        has_l1 = self.l1_ratios[ratio] > 0 and bool(np.isfinite(self.Cs[C]))
        return int((self.l1_ratios[:ratio] > 0).sum()) if has_l1 else None, int(np.argsort(self.order)[C])

    def name_of(self, ratio: int, C: int) -> str:
        """What a warning calls a pair."""
        name = f"C={self.Cs[C]:.4g}"
        return f"{name}, l1_ratio={self.l1_ratios[ratio]:.4g}" if self.l1_ratios.any() else name

    def n_iter(self, path: Path, max_iter: int) -> np.ndarray:
        """Updates of the weights, with an L1 term one at least: to find intercepts where all else is 0."""
        least = np.where(self.l1_ratios[:, None] > 0, min(max_iter, 1), 0)
        return np.maximum(path.n_iter, least.astype(np.int32))

    def n_nonzero(self, coef: np.ndarray) -> np.ndarray:
        """How many of `coef` (n_l1_ratios, n_Cs, K, d) are not 0; all of a fit without an L1 term."""
        counted = np.count_nonzero(coef, axis=(2, 3))
        return np.where(self.l1_ratios[:, None] > 0, counted, coef[0, 0].size)


def solve_grid(smooth: PathSolver, with_l1: ElasticNetPath | None, grid: Grid) -> Path:
    """Solutions of all pairs: every array is (n_folds + 1, n_l1_ratios, n_Cs, ...).

    Without an L1 term one path serves all l1_ratios.
    """
    order = grid.order
    rising, has_l1 = grid.Cs[order], grid.l1_ratios > 0
    if with_l1 is None:
        path = solve_present(smooth, rising)
        return _stacked([path] * len(has_l1), order)
    n_finite, ratios = int(np.isfinite(rising).sum()), grid.l1_ratios[has_l1].tolist()
    if has_l1.all():
        of_infinity = _starting_at(smooth, n_finite)
        rest = solve_present(of_infinity, rising[n_finite:]) if n_finite < len(order) else None
        return _stacked([_joined(path, rest) for path in with_l1.solve(rising[:n_finite], ratios)], order)
    without = solve_present(smooth, rising)
    rest = Path(*(array[:, n_finite:] for array in without))
    found = iter(with_l1.solve(rising[:n_finite], ratios))
    return _stacked([_joined(next(found), rest) if is_l1 else without for is_l1 in has_l1], order)


def finish(with_l1: ElasticNetPath, path: Path, grid: Grid, pair: tuple[int, int]) -> None:
    """Take one step more for the pair chosen, if it has an L1 term: see `ElasticNetPath.finish`."""
    ratio, C = pair
    number, place = grid.number_of(ratio, C)
    if number is not None:
        with_l1.finish(path, pair, float(grid.Cs[C]), float(grid.l1_ratios[ratio]), (number, place))


def _starting_at(solver: PathSolver, first: int) -> PathSolver:
    """The solver, which tells of its Cs as if there were `first` before them."""
    watch = solver.watch
    return replace(solver, watch=lambda number, *told: watch(first + number, *told))


def _joined(path: Path, rest: Path | None) -> Path:
    """One path of the Cs of both."""
    if rest is None:
        return path
    return Path(*(np.concatenate(both, axis=1) for both in zip(path, rest, strict=True)))


def _stacked(paths: Sequence[Path], order: np.ndarray) -> Path:
    """Paths over Cs in that order as one, over those in the caller's order."""
    back = np.argsort(order)
    if len(paths) == 1:  # coefficients may be many numbers, and are not copied twice
        return Path(*(array[:, back][:, None] for array in paths[0]))
    return Path(*(np.stack(arrays, axis=1)[:, :, back] for arrays in zip(*paths, strict=True)))
