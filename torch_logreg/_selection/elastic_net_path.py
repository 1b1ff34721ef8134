"""Every C and l1_ratio on every fold, where there is an L1 term: chains of problems over rising C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from torch_logreg._checks.data import TrainingData
from torch_logreg._contracts.composite import Composite
from torch_logreg._contracts.solver import Callback, Iteration, Solver
from torch_logreg._data.tensors import n_stored
from torch_logreg._fit.elastic_net import ElasticNetProblem, path_problem
from torch_logreg._fit.linear import regular_C
from torch_logreg._fit.present import Present
from torch_logreg._runtime.devices import supports_float64
from torch_logreg._selection.folds import rows_of
from torch_logreg._selection.path import Path

# Of the numbers of an l1_ratio and of a C, an iteration, and what makes the coefficients then.
Watch: TypeAlias = Callable[[int, int, Iteration, Callable[[], tuple[np.ndarray, np.ndarray]]], bool]

NEAR = 3.0  # growth of C up to which a path is straight enough to go on along it


@dataclass(frozen=True)
class ElasticNetPath:
    """Solves for each l1_ratio one C after another, on all rows and on each fold.

    Each C starts from the solutions of the smaller ones before, on the same rows: what these have other than
    0 is nearly what is wanted. The solution of all rows with the same C, from which the folds of an L2
    penalty start, is further away, and took more Newton steps on all data tried but for Cs far apart. Folds
    are no batch, for each has signs of its own to find, and all would wait for the last.

    The first working set has the largest slopes, more of them than the sequential strong rule keeps: with
    that rule (Tibshirani et al. 2012) paths took as many steps, and no less time.
    """

    data: TrainingData
    counts: np.ndarray  # (n_folds, n_rows): how often each row is in the training part of each fold
    device: torch.device
    fit_intercept: bool
    make_solver: Callable[..., Solver[Composite]]
    tol: float | None
    seed: Callable[[], int]  # of samples of the rows
    max_memory: int  # bytes that the rows of a fold may take
    watch: Watch  # is told of each iteration on all rows, and may end it

    def solve(self, Cs: np.ndarray, l1_ratios: Sequence[float]) -> list[Path]:
        """A path of each l1_ratio, all of them above 0, for finite `Cs` in rising order."""
        exact = torch.float64 if supports_float64(self.device) else torch.float32
        Cs, n_folds = regular_C(Cs, self.data, exact), len(self.counts)
        K = 1 if len(self.data.classes) == 2 else len(self.data.classes)
        shape = (n_folds, len(Cs), K, self.data.X.shape[1])
        paths = [Path.unsolved(*shape) for _ in l1_ratios]
        for fold in (n_folds, *range(n_folds)):  # all rows first
            data = self.data if fold == n_folds else self._of_fold(fold)
            present = Present.of(data, self.fit_intercept)
            if len(present.index) == 1:
                for path in paths:
                    path.coef[fold], path.intercept[fold] = present.constant(shape[-1])
                    path.reasons[fold], path.gap[fold] = "converged", 0.0
                continue
            problem = path_problem(data, self.device, self.fit_intercept, self.seed)
            for number, (ratio, path) in enumerate(zip(l1_ratios, paths, strict=True)):
                self._chain(problem, number, ratio, Cs, path, fold)
        return paths

    def _of_fold(self, fold: int) -> TrainingData:
        """The rows that a fold trains on, gathered where there is memory for them; else all with weights."""
        times, data = self.counts[fold], self.data
        if _n_bytes(data) > self.max_memory:
            return data._replace(weights=data.weights * times)
        rows = np.flatnonzero(times)
        weights = data.weights[rows] * times[rows]
        return data._replace(X=rows_of(data.X, rows), codes=data.codes[rows], weights=weights)

    def _chain(
        self, problem: ElasticNetProblem, number: int, l1_ratio: float, Cs: np.ndarray, path: Path, fold: int
    ) -> None:
        """Each C on one set of rows."""
        solved: list[tuple[float, Tensor]] = []
        for place, C in enumerate(Cs.tolist()):
            one, callback = problem.having(C, l1_ratio), self._callback(problem, number, place, fold)
            solution = self.make_solver().minimize(one.objective, _start(one, C, solved), callback)
            w = one.final(solution.w)
            certificate, reason, found = one.certificate(solution, w), solution.reasons[0], one.attributes(w)
            if reason == "converged" and self.tol is not None:
                proved = certificate.gap <= 2 * self.tol * certificate.objective
                reason = reason if proved else "rounding"
            path.coef[fold, place], path.intercept[fold, place] = found["coef_"], found["intercept_"]
            path.objective[fold, place], path.gap[fold, place] = certificate
            path.n_iter[fold, place], path.reasons[fold, place] = solution.n_iter[0], reason
            if found["coef_"].any():  # else a cold start is better, which takes samples of the rows
                solved.append((C, w))

    def finish(
        self, path: Path, pair: tuple[int, int], C: float, l1_ratio: float, numbers: tuple[int, int]
    ) -> None:
        """Take one step more for that pair on all rows, in place on a path over l1_ratios and Cs.

        The rule of convergence may leave an error of 1e-6 of predictions, by which fits that ought to be
        equal differ. A Newton step squares it.
        """
        here = (-1, *pair)
        may_go_on = path.reasons[here] == "converged" and path.n_iter[here] < self.make_solver().max_iter
        if not may_go_on or not path.coef[here].any():
            return
        problem = path_problem(self.data, self.device, self.fit_intercept, self.seed).having(C, l1_ratio)
        start = problem.at(path.coef[here], path.intercept[here])
        callback = self._callback(problem, *numbers, len(self.counts))
        solution = self.make_solver(max_iter=1, tol=None).minimize(problem.objective, start, callback)
        w = problem.final(solution.w)
        certificate, found = problem.certificate(solution, w), problem.attributes(w)
        path.coef[here], path.intercept[here] = found["coef_"], found["intercept_"]
        path.objective[here], path.gap[here] = certificate
        path.n_iter[here] += solution.n_iter[0]

    def _callback(self, problem: ElasticNetProblem, number: int, place: int, fold: int) -> Callback:
        if fold < len(self.counts):
            return _go_on

        def watch(iteration: Iteration) -> bool:
            def coefficients() -> tuple[np.ndarray, np.ndarray]:
                found = problem.attributes(iteration.w)
                return found["coef_"], found["intercept_"]

            return self.watch(number, place, iteration, coefficients)

        return watch


def _start(problem: ElasticNetProblem, C: float, solved: list[tuple[float, Tensor]]) -> Tensor:
    """Where the last two solutions lead straight on over log C, which spares a step where Cs are close.

    Coefficients that are 0 stay so, as do those that would change their sign. Only the last solution where C
    grows too fast for that.
    """
    if len(solved) < 2:
        return solved[-1][1] if solved else problem.start
    (before, earlier), (last, w) = solved[-2:]
    if not before < last or last * NEAR < C:
        return w
    ahead = w + float(np.log(C / last) / np.log(last / before)) * (w - earlier)
    return torch.where((problem.objective.threshold > 0) & (ahead * w <= 0), 0.0, ahead)


def _n_bytes(data: TrainingData) -> int:
    """About what X takes; of sparse rows each number has a column number."""
    n_rows, d = data.X.shape
    stored = n_stored(data.X)
    return n_rows * d * data.X.dtype.itemsize if stored < 0 else stored * (data.X.dtype.itemsize + 8)


def _go_on(iteration: Iteration) -> bool:
    return False
