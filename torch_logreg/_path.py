"""Every C on every fold: all of these problems solved together, over one set of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from torch_logreg._coordinates import Coordinates, elsewhere, for_problems
from torch_logreg._design import DesignObjective, small_design
from torch_logreg._folds import FoldRows
from torch_logreg._inputs import TrainingData, features_to, float_dtype, supports_float64, to_tensor
from torch_logreg._losses import LOSSES, Loss
from torch_logreg._metrics import Cholesky, Kronecker, Shared
from torch_logreg._natural import CHOLESKY_PARAMETERS, FACTOR_PARAMETERS, MEMORY, Descent
from torch_logreg._objective import LinearObjective
from torch_logreg._problems import Method, is_small, linear_objective
from torch_logreg._rows import ArrayRows
from torch_logreg._solver import Callback, Iteration, Progress, Solution, Solver

OWN_METRICS_WORK = (
    2**28
)  # multiplications for the Fisher matrices of all problems, up to which each has its own
LEAVE_NUMBERS = 2**12  # raw predictions of a pass, from which it pays to start anew with fewer problems
LEAVE = 0.5  # of the problems left

# Of the number of the first C, an iteration, and what makes the coefficients of the last C.
Watch: TypeAlias = Callable[[int, Iteration, Callable[[], tuple[np.ndarray, np.ndarray]]], bool]


class Path(NamedTuple):
    """Solutions for the folds, and last for all rows: every array is (n_folds + 1, n_Cs, ...)."""

    coef: np.ndarray  # (n_folds + 1, n_Cs, K, d) float64
    intercept: np.ndarray  # (n_folds + 1, n_Cs, K) float64
    objective: np.ndarray  # F
    n_iter: np.ndarray
    reasons: np.ndarray  # of str


@dataclass(frozen=True)
class PathSolver:
    """Solves for each C on all rows, and from there for each C on each fold, in the metric of all rows."""

    data: TrainingData
    counts: np.ndarray  # (n_folds, n_rows): how often each row is in the training part of each fold
    device: torch.device
    fit_intercept: bool
    make_solver: Callable[[int], Solver]  # of the updates left
    max_iter: int
    tol: float | None
    natural: bool  # whether metrics may be shared
    seed: Callable[[], int]  # of samples of the rows
    max_memory: int  # bytes for the problems solved at once
    watch: Watch  # is told of each iteration on all rows, and may end it

    @cached_property
    def loss(self) -> Loss:
        return LOSSES["binary" if len(self.data.classes) == 2 else "softmax"]

    @cached_property
    def K(self) -> int:
        return self.loss.n_outputs(len(self.data.classes))

    @cached_property
    def dtype(self) -> torch.dtype:
        return float_dtype(self.data.X, self.device)

    @cached_property
    def exact(self) -> torch.dtype:
        return torch.float64 if supports_float64(self.device) else self.dtype

    @cached_property
    def on_device(self) -> tuple[Any, Tensor, Tensor, Tensor]:
        """X, targets, weights (1, n_rows) and counts."""
        device = self.device
        codes = to_tensor(self.data.codes, device, torch.int64)
        few = torch.uint8 if self.counts.max(initial=0) < 256 else torch.int32
        return (
            features_to(self.data.X, device, self.dtype),
            self.loss.encode(codes, self.dtype),
            to_tensor(self.data.weights[None], device, self.dtype),
            to_tensor(self.counts, device, few),
        )

    def rows(self, n_problems: int) -> ArrayRows:
        X, target, weights, _ = self.on_device
        return ArrayRows(X, target, weights, n_problems * self.K)

    def solve(self, Cs: np.ndarray) -> Path:
        """`Cs` in rising order: each chunk of them starts from the end of the one before."""
        n_folds, d = len(self.counts), self.data.X.shape[1]
        shape = (n_folds + 1, len(Cs))
        path = Path(
            np.zeros((*shape, self.K, d)),
            np.zeros((*shape, self.K)),
            np.zeros(shape),
            np.zeros(shape, dtype=np.int32),
            np.full(shape, "max_iter", dtype="<U16"),
        )
        at_once = max(1, self.max_memory // self._problem_bytes())
        n_Cs, folds_at_once = max(1, at_once // max(n_folds, 1)), max(1, min(n_folds, at_once))
        for first in range(0, len(Cs), n_Cs):
            chunk = np.arange(first, min(first + n_Cs, len(Cs)))
            common = self._on_all_rows(path, Cs, chunk)
            for start in range(0, n_folds, folds_at_once):
                self._on_folds(path, Cs, chunk, np.arange(start, min(start + folds_at_once, n_folds)), common)
        return path

    def _problem_bytes(self) -> int:
        """About what one problem of a batch takes: weights, secant pairs, a metric or what it is made of."""
        n_rows, d = self.data.X.shape
        m = d + self.fit_intercept
        p = self.K * m
        vectors = p * (2 * MEMORY * self.dtype.itemsize + 12 * self.exact.itemsize)
        matrix = 4 * self.exact.itemsize * (p**2 if p <= CHOLESKY_PARAMETERS else m**2)
        held = self._small() and self._own_metrics(1)
        return vectors + matrix + (10 * self.exact.itemsize * n_rows * self.K if held else 0)

    def _small(self) -> bool:
        return is_small(self.rows(1), self.K, self.fit_intercept)

    def _own_metrics(self, n_problems: int) -> bool:
        n_rows, d = self.data.X.shape
        return n_problems * n_rows * (self.K * (d + self.fit_intercept)) ** 2 <= OWN_METRICS_WORK

    # ---- all rows ----

    def _on_all_rows(self, path: Path, Cs: np.ndarray, chunk: np.ndarray) -> _Common:
        rows = self.rows(len(chunk))
        C = torch.tensor(Cs[chunk], dtype=self.exact, device=self.device)
        method: Method = "growing" if self.natural else "full"
        objective = linear_objective(rows, self.loss, C, self.K, self.fit_intercept, method, self.seed)
        coordinates = objective.coordinates
        before = np.maximum(chunk - len(chunk), 0)  # of the chunk before, for the first: zeros
        w = self._weights(coordinates, path.coef[-1, before], path.intercept[-1, before])

        def callback(iteration: Iteration) -> bool:
            def largest_C() -> tuple[np.ndarray, np.ndarray]:
                coef, intercept = coordinates.to_raw(iteration.w)
                return coef[-1].cpu().numpy(), intercept[-1].cpu().numpy()

            return self.watch(int(chunk[0]), iteration, largest_C)

        solution = self.make_solver(self.max_iter).minimize(objective, w, callback)
        w = coordinates.canonical(solution.w)
        self._keep(path, coordinates, solution, [len(self.counts)], chunk)
        return _Common(objective, w)

    def _weights(self, coordinates: Coordinates, coef: np.ndarray, intercept: np.ndarray) -> Tensor:
        given = (torch.as_tensor(array, dtype=self.exact, device=self.device) for array in (coef, intercept))
        return coordinates.canonical(coordinates.from_raw(*given))

    def _keep(
        self, path: Path, coordinates: Coordinates, solution: Solution, folds: Any, Cs: np.ndarray
    ) -> None:
        here, shape = np.ix_(folds, Cs), (len(Cs), len(folds))

        def by_fold(of_problem: Any) -> np.ndarray:
            return np.swapaxes(np.reshape(of_problem, (*shape, *np.shape(of_problem)[1:])), 0, 1)

        coef, intercept = coordinates.to_raw(coordinates.canonical(solution.w))
        path.coef[here], path.intercept[here] = by_fold(coef.cpu().numpy()), by_fold(intercept.cpu().numpy())
        path.objective[here], path.reasons[here] = by_fold(solution.objective), by_fold(solution.reasons)
        path.n_iter[here] += by_fold(solution.n_iter)

    # ---- folds ----

    def _on_folds(
        self, path: Path, Cs: np.ndarray, chunk: np.ndarray, folds: np.ndarray, common: _Common
    ) -> None:
        path.coef[np.ix_(folds, chunk)] = path.coef[-1, chunk]
        path.intercept[np.ix_(folds, chunk)] = path.intercept[-1, chunk]
        metric: Cholesky | Kronecker | None = None
        own = not self.natural or (self._small() and self._own_metrics(len(chunk) * len(folds)))
        weight_sums = self._fold_weights(folds)
        strength = 1 / (torch.tensor(Cs[chunk], dtype=self.exact, device=self.device) * weight_sums.mean())
        eps = float(torch.finfo(self.dtype).eps)
        if not own:
            metric = common.metric(for_problems(common.objective.coordinates, strength, eps))
        left, n_left = chunk, self.max_iter
        while len(left):
            objective = self._fold_objective(Cs[left], folds, common, strength[np.isin(chunk, left)], metric)
            here = np.ix_(folds, left)
            start = (np.swapaxes(array[here], 0, 1).reshape(-1, *array.shape[2:]) for array in path[:2])
            w = self._weights(objective.coordinates, *start)
            leave = self._leave(len(left), len(folds), n_left)
            if metric is None:
                solution = self.make_solver(n_left).minimize(objective, w, leave)
            else:
                shared = Shared(metric.select(np.flatnonzero(np.isin(chunk, left))), len(folds))
                progress = Progress(objective, self.tol)
                solution = Descent(objective, shared, True, n_left, progress, leave).run(w)
            self._keep(path, objective.coordinates, solution, folds, left)
            n_left -= int(solution.n_iter.max(initial=0))
            left = left[(path.reasons[here] == "callback").any(axis=0)]

    def _fold_weights(self, folds: np.ndarray) -> Tensor:
        every = torch.as_tensor(folds, device=self.device)
        return FoldRows(self.rows(1), self.on_device[3], every).weight_sum(self.exact)

    def _fold_objective(
        self,
        Cs: np.ndarray,
        folds: np.ndarray,
        common: _Common,
        strength: Tensor,
        metric: Cholesky | Kronecker | None,
    ) -> LinearObjective | DesignObjective:
        n_folds = len(folds)
        fold = torch.as_tensor(np.tile(folds, len(Cs)), device=self.device)
        rows = FoldRows(self.rows(len(fold)), self.on_device[3], fold)
        C = torch.tensor(np.repeat(Cs, n_folds), dtype=self.exact, device=self.device)
        if metric is None and self._small():
            return small_design(rows, C, self.loss, self.K, self.fit_intercept)
        of_problem, eps = strength.repeat_interleave(n_folds), float(torch.finfo(self.dtype).eps)
        coordinates = for_problems(common.objective.coordinates, of_problem, eps)
        return LinearObjective(rows, self.loss, C, self.K, self.fit_intercept, coordinates)

    def _leave(self, n_Cs: int, n_folds: int, n_left: int) -> Callback:
        """Ends a run once enough Cs are done on all folds that it pays to go on without them."""
        large = n_Cs * n_folds * self.K * self.data.X.shape[0] >= LEAVE_NUMBERS

        def callback(iteration: Iteration) -> bool:
            if not large or iteration.number + 1 >= n_left:
                return False
            done = iteration.done.reshape(n_Cs, n_folds).all(axis=1).sum()
            return bool(LEAVE * n_Cs <= done < n_Cs)

        return callback


class _Common(NamedTuple):
    """What folds take from the solution on all rows."""

    objective: LinearObjective | DesignObjective
    w: Tensor  # (n_Cs, n_parameters)

    def metric(self, coordinates: Coordinates) -> Cholesky | Kronecker | None:
        """The Fisher matrix for each C, in other coordinates; None where products must do."""
        objective, p, K = self.objective, self.objective.n_parameters, self.objective.n_outputs
        sample, _, n_rows = (
            objective.batches[-1] if objective.batches else (objective, 0.0, objective.rows.n_rows)
        )
        if K == 1 and p <= CHOLESKY_PARAMETERS:
            cholesky = Cholesky(objective)
            cholesky.set(elsewhere(sample.curvature(self.w), objective.coordinates, coordinates))
            return cholesky
        if p // K > FACTOR_PARAMETERS:
            return None
        kronecker, rough = Kronecker(objective, sample, n_rows), sample.rough()
        curvature = rough.curvature(self.w.to(rough.dtype))
        kronecker.set(elsewhere(curvature, objective.coordinates, coordinates))
        return kronecker
