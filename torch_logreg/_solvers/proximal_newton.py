"""Proximal Newton steps on working sets: exact zeros, and a bound of how far from its minimum F is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.composite import Composite, Look, Working
from torch_logreg._contracts.solver import Callback, Iteration, Solution, Solver
from torch_logreg._solvers.quadratic import Array, Quadratic, minimise, nearest

# Parameters of a working set, at least and at most where all are 0: so many that their Hessian takes
# `SET_WORK` multiplications. And how many times those that are not 0.
SET_SIZES, SET_WORK, SET_GROWTH = (20, 100), 2**24, 1.5
# Multiplications for a Hessian from which it is kept while steps leave at most this part of the residual.
KEPT_WORK, KEPT = 2**24, 0.15
# Of the largest violation on all columns, what is left on a working set before all are looked at again; and
# of the residual of F, what is left of that of its quadratic model: from least to most, as much as the last
# step left, squared (Eisenstat, Walker 1996, choice 2).
INNER, MODEL, ROUGH_MODEL = 0.1, 0.005, 0.1
ARMIJO = 1e-4  # of the decrease that a step promises, what it has to bring
FIRST_DAMPING, DAMPING_GROWTH, LEAST_DAMPING = 1e-3, 8.0, 1e-6  # in scaled coordinates
# Of the mean curvature, added to a Hessian: where columns are collinear, or all classes of one have
# coefficients, it is singular, and what rounding makes of a curvature of 0 may be negative.
RIDGE = 1e-11
HALVINGS, ATTEMPTS = 30, 8  # of a step, and dampings tried until one leads down
# Continuation: each penalty is so many times weaker than the one before, from so far above the wanted one.
WEAKER, FAR = 8.0, 64.0
ROUGH = 1e-2  # the tolerance of all but the last
EXACT = 1e-9  # of a threshold, by which slopes may exceed it where not a step is made
STALLED = 3  # working sets in a row on which no step leads down
NOISE = 64.0  # times eps, by which F may rise by rounding


@dataclass(frozen=True)
class ProximalNewton(Solver[Composite]):
    """Newton steps for F with its L1 term, each to the minimum of a quadratic model with that term.

    Few parameters are worked on at a time: those that are not 0 and those whose slopes most exceed their
    thresholds. All are then looked at, which also gives a point of the dual problem, and with it a bound of
    F from below. Large data are solved on samples first, weak penalties after stronger ones.

    Parameters
    ----------
    max_iter : int
        Most Newton steps, those on samples and with stronger penalties included.
    tol : float or None
        F has converged once it is above its minimum by at most ``2 * tol`` of itself, and the last step
        promised at most ``tol**2`` of it.

    References
    ----------
    Lee, Sun, Saunders (2014), Proximal Newton-type methods for minimizing composite functions, SIAM Journal
    on Optimization 24(3).
    Lee, Battle, Raina, Ng (2006), Efficient sparse coding algorithms, NIPS 19 (the search for signs).
    Massias, Gramfort, Salmon (2018), Celer: a fast solver for the lasso with dual extrapolation, ICML 35
    (working sets by a duality gap).
    """

    max_iter: int = 100
    tol: float | None = 1e-4

    def minimize(self, objective: Composite, w: Tensor, callback: Callback) -> Solution:
        run = _Run(objective, self.max_iter, self.tol, callback)
        look = objective.look(w)
        if _worst_ratio(objective, look) <= EXACT and run.is_solved(look, np.inf):
            return run.solution(look, "converged")
        if not bool(w.any()):
            look = self._start(objective, look, run)
        reason, look = run.solve(objective, look)
        return run.solution(look, reason)

    def _start(self, objective: Composite, look: Look, run: _Run) -> Look:
        """Where samples of the rows and stronger penalties lead from no coefficients."""
        w = look.w
        for sample in objective.samples():
            _, found = run.solve(sample, sample.look(w), sample.rows.n_rows)
            if run.ended:
                break
            w = found.w
        else:
            if w is look.w:
                w = self._from_stronger(objective, look, run)
        return look if w is look.w else objective.look(w)

    def _from_stronger(self, objective: Composite, look: Look, run: _Run) -> Tensor:
        ratios, _ = _ratios(objective, look)
        w, factor = look.w, float(ratios.amax()) / WEAKER
        if factor <= FAR / WEAKER or len(ratios) <= SET_SIZES[1]:
            return w
        while factor > 1 and not run.ended:
            stronger = objective.times(factor)
            w = run.solve(stronger, stronger.look(w))[1].w
            factor /= WEAKER
        return w


def _ratios(objective: Composite, look: Look) -> tuple[Tensor, Tensor]:
    """How many times their thresholds slopes of penalised parameters that are 0 are, and which are not 0."""
    threshold = objective.threshold
    nonzero = ((look.w != 0) & (threshold > 0))[0]
    ratios = torch.where(threshold > 0, look.slopes.abs() / threshold, 0.0)[0]
    return ratios, nonzero


@dataclass
class _Run:
    """The steps of one call of `minimize`, and what is told of them."""

    objective: Composite
    max_iter: int
    tol: float | None
    callback: Callback
    n_iter: int = 0
    ended: str = ""  # "max_iter" or "callback"
    damping: float = field(default=0.0, init=False)
    _kept: Hessian | None = field(default=None, init=False)
    _left: float = field(default=MODEL, init=False)  # of a residual, by the minimum of a model

    def is_solved(self, look: Look, promised: float) -> bool:
        """Whether a look, after a step that promised so much, is at the minimum."""
        if self.tol is None:
            return False
        F = abs(look.value)
        return look.gap <= 2 * self.tol * F and min(promised, max(look.gap, 0.0)) <= self._least * F

    def solution(self, look: Look, reason: str) -> Solution:
        slopes = float(_residual(self.objective, look))
        n_iter = np.full(1, self.n_iter, dtype=np.int32)
        return Solution(
            look.w, np.full(1, look.value), np.full(1, slopes), n_iter, [reason], np.full(1, look.gap)
        )

    def solve(self, objective: Composite, look: Look, n_rows: int = 0) -> tuple[str, Look]:
        """Minimise from a look; why it ended, and the last look.

        On a sample of `n_rows` rows, or with a penalty that is not the wanted one, only roughly.
        """
        self.damping, is_last = 0.0, objective is self.objective
        smallest = int(min(max((SET_WORK / objective.rows.n_rows) ** 0.5, SET_SIZES[0]), SET_SIZES[1]))
        size, stalled, bound, working = smallest, 0, look.bound, _Set(objective)
        if not self.max_iter:
            self.ended = "max_iter"
        while not self.ended:
            F, n_nonzero = abs(look.value), _n_nonzero(objective, look)
            # Of a sample no more is worth finding than what sampling alone leaves.
            rough = 0.0 if is_last else max(n_nonzero / (2 * n_rows) if n_rows else 0.0, ROUGH**2 * F)
            if rough and look.gap <= ROUGH * F:
                break
            enough = working.choose(look, size)
            if working.is_new:
                self._kept = None
            first, last = self._on(working.set, _Aim(enough, rough, bound, n_rows))
            look = working.set.look()
            bound = max(bound, look.bound)
            if is_last and self.is_solved(look, last):
                return "converged", look
            if rough and first <= rough:
                break
            stalled = stalled + 1 if first <= 4 * self.objective.eps * F else 0
            if stalled == STALLED and self.tol is not None:
                return "precision", look
            size = max(smallest, int(SET_GROWTH * _n_nonzero(objective, look)), size * (2 if stalled else 1))
        return self.ended or "converged", look

    def _on(self, working: Working, aim: _Aim) -> tuple[float, float]:
        """Steps on a working set, one at least; what the first and the last of them promised."""
        first, promised, before = np.inf, np.inf, np.inf
        n_rows = aim.n_rows or self.objective.rows.n_rows
        keeps = n_rows * len(working.u) ** 2 >= KEPT_WORK
        while not self.ended:
            slopes = working.slopes()
            found = nearest(slopes[: working.n], working.u[: working.n], working.threshold)
            norm = float(np.abs(found).max(initial=0.0))
            if promised < np.inf and self._is_enough(working, found, promised, aim):
                break
            # What is not a matrix is that of the point where it is multiplied with: it cannot be kept.
            is_matrix = self._kept is not None and self._kept.matrix is not None
            if not keeps or not is_matrix or norm > KEPT * before:
                self._kept = None
            contraction = norm / before if before < np.inf else 1.0
            self._left = min(max(contraction**2, MODEL), ROUGH_MODEL)
            value, before = working.value, norm
            promised, length = self._step(working, slopes, found)
            first = promised if first == np.inf else first
            self._tell(working, value, norm, length, aim)
            if not length:
                break
        return first, promised

    def _is_enough(self, working: Working, found: Array, promised: float, aim: _Aim) -> bool:
        """Whether it is time to look at all parameters, after a step that promised so much."""
        F = abs(working.value)
        if promised <= max(aim.rough, self._least * F):
            return True
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(found != 0, np.abs(found) / working.threshold, 0.0)
        return float(ratios.max(initial=0.0)) <= aim.enough

    @property
    def _least(self) -> float:
        """The part of F that a last step promises at most."""
        return max(0.0 if self.tol is None else self.tol**2, 4 * self.objective.eps)

    def _step(self, working: Working, slopes: Array, found: Array) -> tuple[float, float]:
        """A step to the minimum of the quadratic model; what it promised, and how much of it was made."""
        promised, was_kept = 0.0, self._kept is not None
        for _ in range(ATTEMPTS):
            if self._kept is None:
                self._kept = Hessian.of(working)
            promised, length = self._try(working, self._kept, slopes, found)
            if length or promised <= self.objective.eps * abs(working.value):
                return promised, length
            if was_kept:
                self._kept, was_kept = None, False
            else:
                self.damping = max(FIRST_DAMPING, DAMPING_GROWTH * self.damping)
        return promised, 0.0

    def _try(self, working: Working, hessian: Hessian, slopes: Array, found: Array) -> tuple[float, float]:
        """A step with the damping as it is."""
        u, n = working.u, working.n
        model = _Model.of(working, hessian, slopes, self.damping)
        residual = self._left * float(np.abs(found).max(initial=0.0))
        aim = model.minimum(u, max(residual, 4e-16 * float(np.abs(slopes).max(initial=0.0))))
        change = float(slopes @ (aim - u) + (np.abs(aim[:n]) - np.abs(u[:n])) @ working.threshold)
        if not change < 0:
            return max(change, 0.0), 0.0
        working.aim(aim)
        length, noise = 1.0, NOISE * self.objective.eps * abs(working.value)
        for _ in range(HALVINGS):
            value = working.value_along(length)
            if value <= working.value + ARMIJO * length * change + (noise if -change < noise else 0.0):
                break
            length /= 2
        else:
            return -change / 2, 0.0
        self._adapt(length)
        working.go(length)
        return -change / 2, length

    def _adapt(self, length: float) -> None:
        """More damping where the model is not to be trusted, less where it is: Levenberg's rule."""
        if length < 0.5:
            self.damping = max(FIRST_DAMPING, DAMPING_GROWTH * self.damping)
        elif length == 1 and self.damping:
            self.damping /= DAMPING_GROWTH
            if self.damping < LEAST_DAMPING:
                self.damping = 0.0

    def _tell(self, working: Working, before: float, norm: float, length: float, aim: _Aim) -> None:
        w, number = working.parameters(), self.n_iter
        self.n_iter += 1
        iteration = Iteration(
            number,
            np.full(1, before),
            np.full(1, norm),
            np.full(1, length),
            self.objective.rows.rows_read,
            w,
            np.zeros(1, dtype=bool),
            aim.n_rows,
            np.full(1, np.nan if aim.rough else before - aim.bound),
            np.full(1, np.count_nonzero(working.u[: working.n])),
        )
        if self.callback(iteration):
            self.ended = "callback"
        elif self.n_iter >= self.max_iter:
            self.ended = "max_iter"


def _n_nonzero(objective: Composite, look: Look) -> int:
    return int(_ratios(objective, look)[1].sum())


def _residual(objective: Composite, look: Look) -> Tensor:
    """The largest number of the subgradient that is nearest to 0."""
    w, slopes, threshold = look.w, look.slopes, objective.threshold
    shrunk = (slopes.abs() - threshold).clamp(min=0)
    return torch.where(w != 0, (slopes + threshold * w.sign()).abs(), shrunk).amax()


def _worst_ratio(objective: Composite, look: Look) -> float:
    """The largest violation of a penalised parameter, in parts of its threshold."""
    ratios, nonzero = _ratios(objective, look)
    threshold = objective.threshold
    slack = torch.where(threshold > 0, (look.slopes / threshold + look.w.sign()).abs(), 0.0)[0]
    return float(torch.where(nonzero, slack, (ratios - 1).clamp(min=0)).amax())


class _Aim(NamedTuple):
    """How far to go on a working set, and what is known meanwhile."""

    enough: float  # violations in parts of a threshold
    rough: float  # what a step promises where no more is worth finding; 0 for all there is
    bound: float  # F over all rows is nowhere below it
    n_rows: int  # of the sample; 0 for all rows


class _Set:
    """The working set, which stays as it is while all that violate are in it."""

    set: Working

    def __init__(self, objective: Composite) -> None:
        self._objective, self.is_new = objective, False
        self._has_part = objective.threshold[0] > 0
        self._index: Tensor | None = None

    def choose(self, look: Look, size: int) -> float:
        """Set about `size` parameters to work on; returns which violations are small enough for a next look.

        Nothing but a solution is enough where no parameter that is left out violates.
        """
        ratios, nonzero = _ratios(self._objective, look)
        wanted = nonzero | (ratios > 1)
        n_penalised = int(self._has_part.sum())
        if self._index is not None and not _is_left_out(wanted, self._index):
            self.set.at(look)
            self.is_new = False
            return 0.0
        key = torch.where(nonzero, torch.inf, torch.where(self._has_part, ratios, -1.0))
        size = min(n_penalised, max(size, int(SET_GROWTH * int(nonzero.sum()))))
        self._index = key.topk(size).indices.sort().values
        self.set, self.is_new = self._objective.on(self._index, look), True
        return 0.0 if size == n_penalised else INNER * _worst_ratio(self._objective, look)


def _is_left_out(wanted: Tensor, index: Tensor) -> bool:
    """Whether some of the parameters that are wanted have none of these numbers."""
    left = wanted.clone()
    left[index] = False
    return bool(left.any())


class Hessian(NamedTuple):
    """That of a working set, by parts."""

    matrix: Array | None  # (n + free, n + free); None where it is only multiplied with
    sides: Array  # (n, free)
    corner: Array  # (free, free)

    @classmethod
    def of(cls, working: Working) -> Hessian:
        """The Hessian where the working set is."""
        matrix, n, size = working.matrix(), working.n, len(working.u)
        if matrix is not None:
            return cls(matrix, matrix[:n, n:], matrix[n:, n:])
        units = np.eye(size - n, size, n)
        columns = np.array([working.product(unit) for unit in units]).reshape(size - n, size).T
        return cls(None, columns[:n], columns[n:])


class _Model:
    """The quadratic model of F on a working set, without the parameters that are free.

    These are at their best for every choice of the others: by the Schur complement of their Hessian, which
    also centres the columns by what rows weigh in it.
    """

    def __init__(self, q: Quadratic, back: Array, free: Array, damping: float) -> None:
        self._q, self._back, self._free, self._damping = q, back, free, damping

    @classmethod
    def of(cls, working: Working, hessian: Hessian, slopes: Array, damping: float) -> _Model:
        n, u = working.n, working.u
        matrix, sides, corner = hessian
        n_free = len(corner)
        if n_free > 1:  # a shift of all outputs changes nothing
            corner = corner + np.trace(corner) / n_free**2
        least = np.finfo(float).eps * np.trace(corner) + np.finfo(float).tiny
        inverse = 1 / (corner + least) if n_free == 1 else np.linalg.inv(corner + least * np.eye(n_free))
        back = inverse @ sides.T  # (free, n)
        free = inverse @ slopes[n:]
        reduced = slopes[:n] - sides @ free
        if matrix is not None:
            reduced_matrix = matrix[:n, :n] - sides @ back
            reduced_matrix.flat[:: n + 1] += damping + RIDGE * reduced_matrix.trace() / n
            diagonal = reduced_matrix.diagonal()

            def product(v: Array) -> Array:
                return reduced_matrix @ v

            Hu = product(u[:n])
            q = Quadratic(product, reduced_matrix, diagonal, reduced - Hu, working.threshold)
        else:
            diagonal = working.diagonal()[:n] + damping

            def by_rows(v: Array) -> Array:
                wide = np.concatenate([v, np.zeros(n_free)])
                return working.product(wide)[:n] - sides @ (back @ v) + damping * v

            q = Quadratic(by_rows, None, diagonal, reduced - by_rows(u[:n]), working.threshold)
        return cls(q, back, free, damping)

    def minimum(self, u: Array, residual: float) -> Array:
        """Where the model is smallest, from u."""
        n = len(self._q.linear)
        found = minimise(self._q, u[:n], residual)
        return np.concatenate([found, u[n:] - self._free - self._back @ (found - u[:n])])
