"""Every C on every fold: all of these problems solved together, over one set of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from torch_logreg._checks.data import TrainingData
from torch_logreg._contracts.objective import Factorable
from torch_logreg._contracts.solver import Evaluated, Iteration, Solution, Solver
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.folds import FoldRows
from torch_logreg._data.sparse import without_duplicates
from torch_logreg._data.tensors import features_to, float_dtype, to_tensor
from torch_logreg._fit.linear import linear_objective, regular_C, shape_of
from torch_logreg._fit.plan import (
    DESIGNS,
    Method,
    Shape,
    choose,
    has_own_metrics,
    is_best_dense,
    matrix_numbers,
    natural_settings,
    plan_of,
    shared_metric_of,
)
from torch_logreg._fit.present import Present
from torch_logreg._fit.used import Used
from torch_logreg._linear.coordinates import Coordinates, Moved, for_problems
from torch_logreg._linear.design import Columns
from torch_logreg._linear.held import hold_all
from torch_logreg._linear.held_sparse import hold_sparse
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.objective import ColumnsObjective
from torch_logreg._linear.row_space import Span, row_space
from torch_logreg._linear.streamed import Streamed
from torch_logreg._losses.losses import LOSSES, Loss
from torch_logreg._runtime.devices import supports_float64
from torch_logreg._runtime.out_of_memory import check_room
from torch_logreg._solvers.natural import NaturalSGD

SCRATCH = 3 * 2**24  # bytes that any fit takes, for however few problems

# Designs of folds that are held, by their names in the plan.
HOLDERS: dict[str, Callable[[FoldRows, LinearModel], Columns]] = {
    "held columns": hold_all,
    "held sparse columns": hold_sparse,
}

# Of the number of the first C, an iteration, and what makes the coefficients of the last C.
Watch: TypeAlias = Callable[[int, Iteration, Callable[[], tuple[np.ndarray, np.ndarray]]], bool]


class Path(NamedTuple):
    """Solutions for the folds, and last for all rows: every array is (n_folds + 1, n_Cs, ...)."""

    coef: np.ndarray  # (n_folds + 1, n_Cs, K, d) float64
    intercept: np.ndarray  # (n_folds + 1, n_Cs, K) float64
    objective: np.ndarray  # F, for folds of the point before the last
    n_iter: np.ndarray
    reasons: np.ndarray  # of str
    gap: np.ndarray  # by how much F is above its minimum at most; NaN where nobody can tell

    @classmethod
    def unsolved(cls, n_folds: int, n_Cs: int, K: int, d: int) -> Path:
        """Zeros, after no iterations."""
        shape = (n_folds + 1, n_Cs)
        return cls(
            np.zeros((*shape, K, d)),
            np.zeros((*shape, K)),
            np.zeros(shape),
            np.zeros(shape, dtype=np.int32),
            np.full(shape, "max_iter", dtype="<U16"),
            np.full(shape, np.nan),
        )


@dataclass(frozen=True)
class PathSolver:
    """Solves for each C on all rows, and from there for each C on each fold, in the metric of all rows."""

    data: TrainingData
    counts: np.ndarray  # (n_folds, n_rows): how often each row is in the training part of each fold
    device: torch.device
    fit_intercept: bool
    make_solver: Callable[..., Solver[Factorable]]  # of `natural_settings`, if `natural`
    natural: bool  # whether metrics may be shared
    factorises: bool  # the whole Fisher matrix, however large
    seed: Callable[[], int]  # of samples of the rows
    max_memory: int  # bytes for the problems solved at once
    watch: Watch  # is told of each iteration on all rows, and may end it
    in_row_space: bool = False  # whether X is the columns of the rows' space
    by_columns: bool = False  # see `Shape`

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
        """`Cs` in rising order, of the columns in use."""
        used = Used.of(self.data)
        if used.index is None:
            return self._solve(Cs)

        def watch(
            first: int, iteration: Iteration, largest_C: Callable[[], tuple[np.ndarray, np.ndarray]]
        ) -> bool:
            def wide() -> tuple[np.ndarray, np.ndarray]:
                coef, intercept = largest_C()
                return used.widen_array(coef), intercept

            return self.watch(first, iteration, wide)

        path = replace(self, data=used.narrow(self.data), watch=watch)._solve(Cs)
        return path._replace(coef=used.widen_array(path.coef))

    def _solve(self, Cs: np.ndarray) -> Path:
        """In the space that the plan says."""
        Cs = regular_C(Cs, self.data, self.exact)
        shape = self._shape(len(Cs) * (len(self.counts) + 1))
        if choose(DESIGNS, shape) == "rows" and (found := row_space(self.rows(1), self._model(Cs))):
            return self._in_row_space(Cs, *found)
        data = self.data
        if is_best_dense(shape):
            data = data._replace(X=without_duplicates(self.on_device[0]).toarray())
        return replace(self, data=data, by_columns=True)._by_columns(Cs)

    def _by_columns(self, Cs: np.ndarray) -> Path:
        """Each chunk of `Cs` starts from the end of the one before."""
        n_folds, d = len(self.counts), self.data.X.shape[1]
        path = Path.unsolved(n_folds, len(Cs), self.K, d)
        at_once = max(1, (self.max_memory - SCRATCH) // self._problem_bytes())
        self._check_room(min(at_once, len(Cs) * max(n_folds, 1)))
        n_Cs, folds_at_once = max(1, at_once // max(n_folds, 1)), max(1, min(n_folds, at_once))
        for first in range(0, len(Cs), n_Cs):
            chunk = np.arange(first, min(first + n_Cs, len(Cs)))
            common = self._on_all_rows(path, Cs, chunk)
            for fold in range(0, n_folds, folds_at_once):
                self._on_folds(path, Cs, chunk, np.arange(fold, min(fold + folds_at_once, n_folds)), common)
        return path

    def _in_row_space(self, Cs: np.ndarray, B: Tensor, span: Span) -> Path:
        """The path of few rows of many columns: that of the columns B of the rows' space."""

        def to_raw(coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            flat = coef.reshape(-1, *coef.shape[-2:]), intercept.reshape(-1, coef.shape[-2])
            given = (torch.as_tensor(array, dtype=self.exact, device=self.device) for array in flat)
            raw, shifted = (tensor.cpu().numpy() for tensor in span.to_raw(*given))
            return raw.reshape(*coef.shape[:-1], -1), shifted.reshape(intercept.shape)

        def watch(
            first: int, iteration: Iteration, largest_C: Callable[[], tuple[np.ndarray, np.ndarray]]
        ) -> bool:
            return self.watch(first, iteration, lambda: to_raw(*largest_C()))

        of_columns = replace(
            self, data=self.data._replace(X=B), watch=watch, by_columns=True, in_row_space=True
        )
        path = of_columns._by_columns(Cs)
        coef, intercept = to_raw(path.coef, path.intercept)
        return path._replace(coef=coef, intercept=intercept)

    def _shape(self, n_problems: int) -> Shape:
        method: Method = "growing" if self.natural else "full"
        return shape_of(
            self.rows(1),
            self.K,
            self.fit_intercept,
            method,
            n_problems=n_problems,
            starts_at_zero=False,
            by_columns=self.by_columns,
            is_orthogonal=self.in_row_space,
        )

    def _problem_bytes(self) -> int:
        """About what one problem of a batch takes: weights, secant pairs, a metric or what it is made of."""
        n_rows, d = self.data.X.shape
        m = d + self.fit_intercept
        p = self.K * m
        vectors = p * (2 * NaturalSGD.memory * self.dtype.itemsize + 12 * self.exact.itemsize)
        shape = self._shape(1)
        held = has_own_metrics(shape) or choose(DESIGNS, shape) == "held sparse columns"
        return vectors + self._matrix_bytes() + (10 * self.exact.itemsize * n_rows * self.K if held else 0)

    def _matrix_bytes(self) -> int:
        shape = self._shape(1)
        numbers = shape.n_parameters**2 if self.factorises else matrix_numbers(shape)
        return 4 * self.exact.itemsize * numbers

    def _check_room(self, n_problems: int) -> None:
        """Raise MemoryError if so many problems at once are more than the device has memory for."""
        solver, p = "solver='newton-cg' or 'auto'", self._shape(1).n_parameters
        check_room(
            n_problems * self._problem_bytes(),
            self.device,
            f"{n_problems} problem(s) of {p} coefficients at once with max_batch_memory={self.max_memory}",
            f"use {solver}" if n_problems == 1 else f"use a smaller max_batch_memory, or {solver}",
        )

    # ---- all rows ----

    def _on_all_rows(self, path: Path, Cs: np.ndarray, chunk: np.ndarray) -> _AllRows:
        rows = self.rows(len(chunk))
        plan = plan_of(self._shape(len(chunk)))
        objective = linear_objective(rows, self._model(Cs[chunk]), plan, self.seed)
        objective.is_orthogonal = self.in_row_space
        coordinates = objective.coordinates
        before = np.maximum(chunk - len(chunk), 0)  # of the chunk before, for the first: zeros
        w = self._weights(coordinates, path.coef[-1, before], path.intercept[-1, before])

        def callback(iteration: Iteration) -> bool:
            def largest_C() -> tuple[np.ndarray, np.ndarray]:
                coef, intercept = coordinates.to_raw(iteration.w)
                return coef[-1].cpu().numpy(), intercept[-1].cpu().numpy()

            return self.watch(int(chunk[0]), iteration, largest_C)

        solution = self._solver(objective).minimize(objective, w, callback)
        w = coordinates.canonical(solution.w)
        self._keep(path, coordinates, solution, [len(self.counts)], chunk)
        return _AllRows(objective, w)

    def _model(self, Cs: np.ndarray) -> LinearModel:
        C = torch.tensor(Cs, dtype=self.exact, device=self.device)
        return LinearModel(self.loss, C, self.K, self.fit_intercept)

    def _solver(self, objective: Factorable) -> Solver[Factorable]:
        return self._natural(objective) if self.natural else self.make_solver()

    def _natural(self, objective: Factorable, **changed: Any) -> NaturalSGD:
        made = self.make_solver()
        return NaturalSGD(made.max_iter, made.tol, **natural_settings(objective) | changed)

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
        self, path: Path, Cs: np.ndarray, chunk: np.ndarray, folds: np.ndarray, common: _AllRows
    ) -> None:
        """All of these folds for all of these Cs, the folds of a C in a row."""
        n_folds = len(folds)
        weight_sums = FoldRows(self.rows(1), self.on_device[3], self._index(folds)).weight_sum(self.exact)
        C = torch.tensor(Cs[chunk], dtype=self.exact, device=self.device)
        strength, eps = 1 / (C * weight_sums.mean()), float(torch.finfo(self.dtype).eps)
        shape = self._shape(len(chunk) * n_folds)
        here, kind = common.objective.coordinates, shared_metric_of(shape)
        shares = self.natural and not has_own_metrics(shape) and kind != "products"
        rows = FoldRows(
            self.rows(len(chunk) * n_folds), self.on_device[3], self._index(np.tile(folds, len(chunk)))
        )
        model = self._model(Cs[chunk].repeat(n_folds))
        raw = [array[-1, chunk].repeat(n_folds, axis=0) for array in path[:2]]
        if not shares and (design := choose(DESIGNS, shape)) in HOLDERS:
            held = HOLDERS[design](rows, model)
            objective = ColumnsObjective(held, self.loss)
            objective.is_orthogonal = self.in_row_space
            w = self._weights(held.coordinates, *raw)
            solution = self._solver(objective).minimize(objective, w, _go_on)
            self._keep(path, held.coordinates, solution, folds, chunk)
            return
        coordinates = for_problems(here, strength.repeat_interleave(n_folds), eps)
        objective = ColumnsObjective(Streamed(rows, model, coordinates), self.loss)
        w = self._weights(coordinates, *raw)
        if shares:
            there = for_problems(here, strength, eps)
            metric = self._natural(common.objective, metric=kind).metric_at(
                common.objective, common.w, lambda of: Moved(of, here, there)
            )
            at = objective.at(w)
            known = Evaluated(at, *at.value_and_gradient(n_alike=n_folds))
            solution = self._natural(objective).resume(objective, known, metric, _go_on)
        else:
            solution = self._solver(objective).minimize(objective, w, _go_on)
        self._keep(path, coordinates, solution, folds, chunk)

    def _index(self, numbers: np.ndarray) -> Tensor:
        return torch.as_tensor(numbers, dtype=torch.int64, device=self.device)


def _go_on(iteration: Iteration) -> bool:
    return False


def solve_present(solver: PathSolver, Cs: np.ndarray) -> Path:
    """Solve, with classes that have no weight, on all rows or on a fold, as in `Present`.

    Folds that have the classes of all rows are solved together, and each other by itself.
    """
    data, counts, n_folds = solver.data, solver.counts, len(solver.counts)
    on_all = Present.of(data, solver.fit_intercept)
    on_folds = [Present.of(data, solver.fit_intercept, times) for times in counts]
    alike = np.array([np.array_equal(present.index, on_all.index) for present in on_folds], dtype=bool)
    if on_all.are_all and alike.all():
        return solver.solve(Cs)
    path = Path.unsolved(n_folds, len(Cs), solver.K, data.X.shape[1])

    def keep(rows: Any, found: Path) -> None:
        for whole, part in zip(path, found, strict=True):
            whole[rows] = part

    keep([*np.flatnonzero(alike), n_folds], _solve_narrow(replace(solver, counts=counts[alike]), on_all, Cs))
    for fold in np.flatnonzero(~alike):
        alone = replace(
            solver,
            data=data._replace(weights=data.weights * counts[fold]),
            counts=counts[:0],
            watch=lambda first, iteration, largest_C: False,
        )
        keep([fold], _solve_narrow(alone, on_folds[fold], Cs))
    return path


def _solve_narrow(solver: PathSolver, present: Present, Cs: np.ndarray) -> Path:
    """The path of the classes that are `present`, as one of all classes."""
    if len(present.index) == 1:
        path = Path.unsolved(len(solver.counts), len(Cs), solver.K, solver.data.X.shape[1])
        path.coef[:], path.intercept[:] = present.constant(path.coef.shape[-1])
        path.reasons[:] = "converged"
        return path

    def watch(
        first: int, iteration: Iteration, largest_C: Callable[[], tuple[np.ndarray, np.ndarray]]
    ) -> bool:
        return solver.watch(first, iteration, lambda: present.widen_arrays(*largest_C()))

    narrow = replace(solver, data=present.narrow(solver.data), watch=watch)
    path = narrow.solve(present.inverse_strength(Cs))
    coef, intercept = present.widen_arrays(path.coef, path.intercept)
    return path._replace(coef=coef, intercept=intercept)


class _AllRows(NamedTuple):
    """The solution on all rows, from which folds start."""

    objective: ColumnsObjective
    w: Tensor  # (n_Cs, n_parameters)
