"""Proximal Newton steps on working sets: exact zeros, and a bound of how far from its minimum F is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from torch_logreg._contracts.composite import Composite, Look, Working
from torch_logreg._contracts.solver import Callback, Iteration, Solution, Solver
from torch_logreg._solvers.quadratic import Array, Quadratic, minimise, nearest

# Parameters of a working set, at least and at most where all are 0: so many that their Hessian takes `SET_WORK`
# multiplications. And how many times those that are not 0.
SET_SIZES, SET_WORK, SET_GROWTH = (20, 100), 2**24, 2
# Multiplications for a Hessian from which it is kept while steps leave at most this part of the residual.
KEPT_WORK, KEPT = 2**24, 0.3
# Of the largest violation on all columns, what is left on a working set before all are looked at again; and
# of the residual of F, what is left of that of its quadratic model.
INNER, MODEL = 0.03, 0.005
# Of the decrease that a step promises: what it has to bring, and above what part of it damping is eased.
ARMIJO, TRUSTED = 1e-4, 0.9
FIRST_DAMPING, DAMPING_GROWTH, LEAST_DAMPING = 1e-3, 8.0, 1e-6  # in scaled coordinates
HALVINGS = 30
# Continuation: each penalty is so many times weaker than the one before, from so far above the wanted one.
WEAKER, FAR = 8.0, 64.0
ROUGH = 1e-2  # the tolerance of all but the last
EXACT = 1e-9  # of a threshold, by which slopes may exceed it where not a step is made
LOOKS = 100  # at all columns, on the way to one solution
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
        if self.tol is not None and _worst(objective, look, 1)[1] <= EXACT and run.is_solved(look, np.inf):
            return run.solution(look, "converged")
        if not bool(w.any()):
            look = self._start(objective, look, run)
        reason, look = run.solve(objective, look, self.tol)
        return run.solution(look, reason)

    def _start(self, objective: Composite, look: Look, run: _Run) -> Look:
        """Where samples of the rows and stronger penalties lead from no coefficients."""
        w = look.w
        for sample in objective.samples():
            reason, found = run.solve(sample, sample.look(w), ROUGH, sample.rows.n_rows)
            if run.ended:
                break
            w = found.w
        else:
            if w is look.w:
                w = self._from_stronger(objective, look, run)
        return look if w is look.w else objective.look(w)

    def _from_stronger(self, objective: Composite, look: Look, run: _Run) -> Tensor:
        factor = _largest_ratio(objective, look) / WEAKER
        w = look.w
        if factor <= FAR / WEAKER:
            return w
        while factor > 1 and not run.ended:
            stronger = objective.times(factor)
            w = run.solve(stronger, stronger.look(w), ROUGH)[1].w
            factor /= WEAKER
        return w


def _ratios(objective: Composite, look: Look) -> tuple[Tensor, Tensor]:
    """How many times their thresholds slopes of penalised parameters that are 0 are, and which are not 0."""
    threshold = objective.threshold
    nonzero = ((look.w != 0) & (threshold > 0))[0]
    ratios = torch.where(threshold > 0, look.slopes.abs() / threshold, 0.0)[0]
    return ratios, nonzero


def _largest_ratio(objective: Composite, look: Look) -> float:
    return float(_ratios(objective, look)[0].amax())


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

    def is_solved(self, look: Look, promised: float) -> bool:
        """Whether a look, after a step that promised so much, is at the minimum."""
        if self.tol is None:
            return False
        F = abs(look.value)
        least = max(self.tol**2, 4 * self.objective.eps) * F
        return look.gap <= 2 * self.tol * F and min(promised, max(look.gap, 0.0)) <= least

    def solution(self, look: Look, reason: str) -> Solution:
        slopes = float(_residual(self.objective, look))
        n_iter = np.full(1, self.n_iter, dtype=np.int32)
        return Solution(look.w, np.full(1, look.value), np.full(1, slopes), n_iter, [reason], np.full(1, look.gap))

    def solve(self, objective: Composite, look: Look, tol: float | None, n_rows: int = 0) -> tuple[str, Look]:
        """Minimise from a look as far as `tol`; why it ended, and the last look."""
        self.damping = 0.0
        is_last = objective is self.objective
        n, (least, most) = objective.rows.n_rows, SET_SIZES
        smallest = int(min(max((SET_WORK / n) ** 0.5, least), most))
        working: Working | None = None
        size, promised, bound = smallest, np.inf, look.bound
        if not is_last and (tol is None or look.gap <= 2 * tol * abs(look.value)):
            return "converged", look
        if not self.max_iter:
            self.ended = "max_iter"
        previous = np.inf
        for _ in range(LOOKS):
            if self.ended:
                return self.ended, look
            index, worst = _worst(objective, look, size)
            if working is not None and torch.equal(index, before):
                working.at(look)
            else:
                working, before, self._kept = objective.on(index, look), index, None
            promised, moved = self._on(working, tol, INNER * worst, bound, n_rows, is_last)
            look = working.look()
            bound = max(bound, look.bound)
            if is_last and self.is_solved(look, promised):
                return "converged", look
            if not is_last and look.gap <= 2 * ROUGH * abs(look.value):
                return "converged", look
            if not moved and not self.ended and look.gap >= previous and size >= 2 * len(index):
                return "precision", look
            size = max(smallest, SET_GROWTH * _n_nonzero(objective, look), size if moved else 2 * size)
            previous = look.gap
        return "precision", look

    def _on(
        self, working: Working, tol: float | None, enough: float, bound: float, n_rows: int, is_last: bool
    ) -> tuple[float, bool]:
        """Steps on a working set; what the last of them promised, and whether any led down."""
        promised, moved, last = np.inf, False, np.inf
        keeps = self.objective.rows.n_rows * len(working.u) ** 2 >= KEPT_WORK
        while not self.ended:
            slopes = working.slopes()
            found = nearest(slopes[: working.n], working.u[: working.n], working.threshold)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(found != 0, np.abs(found) / working.threshold, 0.0).max(initial=0.0)
            F = abs(working.value)
            least = 0.0 if tol is None else max(tol**2, 4 * self.objective.eps) * F
            near = ratio <= max(enough, 0.1 * tol if tol else 0.0)
            if near and promised < np.inf and (not is_last or promised <= least):
                break
            before, norm = working.value, float(np.abs(found).max(initial=0.0))
            if not keeps or norm > KEPT * last:
                self._kept = None
            last, was_kept = norm, self._kept is not None
            promised, length = self._step(working, slopes, found)
            if length == 0 and was_kept:
                self._kept = None
                promised, length = self._step(working, slopes, found)
            moved = moved or length > 0
            self._tell(working, before, norm, length, bound, n_rows)
            if length == 0 or promised <= 4 * np.finfo(float).eps * F:
                break
        return promised, moved

    def _step(self, working: Working, slopes: Array, found: Array) -> tuple[float, float]:
        """A step to the minimum of the quadratic model; what it promised, and how much of it was made."""
        u, n = working.u, working.n
        if self._kept is None:
            self._kept = Hessian.of(working)
        model = _Model.of(working, self._kept, slopes, self.damping)
        residual = MODEL * float(np.abs(found).max(initial=0.0))
        aim = model.minimum(u, max(residual, 4e-16 * float(np.abs(slopes).max(initial=0.0))))
        change = float(slopes @ (aim - u) + (np.abs(aim[:n]) - np.abs(u[:n])) @ working.threshold)
        if not change < 0:
            return 0.0, 0.0
        working.aim(aim)
        length, noise = 1.0, NOISE * self.objective.eps * abs(working.value)
        for _ in range(HALVINGS):
            value = working.value_along(length)
            if value <= working.value + ARMIJO * length * change + (noise if -change < noise else 0.0):
                break
            length /= 2
        else:
            return -change / 2, 0.0
        self._adapt(length, working.value - value, -change)
        working.go(length)
        return -change / 2, length

    def _adapt(self, length: float, decrease: float, promised: float) -> None:
        """More damping where the model is not to be trusted, less where it is: Levenberg's rule."""
        if length < 0.5:
            self.damping = max(FIRST_DAMPING, DAMPING_GROWTH * self.damping)
        elif length == 1 and self.damping:
            self.damping /= DAMPING_GROWTH
            if self.damping < LEAST_DAMPING:
                self.damping = 0.0

    def _tell(
        self, working: Working, before: float, norm: float, length: float, bound: float, n_rows: int
    ) -> None:
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
            n_rows,
            np.full(1, np.nan if n_rows else before - bound),
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


def _worst(objective: Composite, look: Look, size: int) -> tuple[Tensor, float]:
    """A working set of about `size` parameters, and the largest violation in parts of a threshold."""
    ratios, nonzero = _ratios(objective, look)
    signs = look.w[0].sign()
    threshold = objective.threshold[0]
    violation = torch.where(
        nonzero, ((look.slopes[0] + threshold * signs) / threshold).abs(), (ratios - 1).clamp(min=0)
    )
    violation = torch.where(threshold > 0, violation, 0.0)
    n_penalised = int((threshold > 0).sum())
    key = torch.where(nonzero, torch.inf, torch.where(threshold > 0, ratios, -1.0))
    size = min(n_penalised, max(size, SET_GROWTH * int(nonzero.sum())))
    return key.topk(size).indices.sort().values, float(violation.amax())


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
        inverse = scipy.linalg.pinvh(corner) if n_free else corner
        back = inverse @ sides.T  # (free, n)
        free = inverse @ slopes[n:]
        reduced = slopes[:n] - sides @ free
        if matrix is not None:
            reduced_matrix = matrix[:n, :n] - sides @ back
            reduced_matrix.flat[:: n + 1] += damping
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
