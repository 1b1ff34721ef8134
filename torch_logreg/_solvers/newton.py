"""Newton's method for one problem on few rows, where an operation costs more than its arithmetic."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Factorable
from torch_logreg._contracts.solver import Callback, Iteration, Solution
from torch_logreg._solvers.search import ARMIJO, MAX_DAMPING, MAX_HALVINGS, NOISE, TURNED, blame, largest
from torch_logreg._solvers.stopping import FLATTENED, STILL

# Of a step that had to be cut, lengths that are tried too: where classes are nearly separable dozens of such
# steps follow one another, and half of a whole one is often far from the best.
LENGTHS = (0.25, 0.5, 0.7, 1.4)
# Of the slope along a whole step, what is left where twice its length is tried too, and so on: a quadratic
# function leaves nothing, and exp(-z), what is left of losses where classes are nearly separable, 0.37.
STEEP, LONGEST = 0.28, 64.0


class Point(NamedTuple):
    """Weights, and what F is there."""

    w: Tensor  # (1, n_parameters)
    gradient: Tensor  # (1, n_parameters)
    value: float
    norm: float  # max |gradient|


class SmallNewton:
    """The damped Newton method by factorisation, as `NaturalSGD` makes it for many problems.

    The same steps and stopping rule with numbers in place of arrays over the problems: arrays of one number
    would take as long as all products of the rows together. The line search is the same too, but that the
    best of a few lengths is taken where a whole step is too long, and longer ones where it is too short.
    `n_before` updates were made by another method.
    """

    def __init__(
        self,
        objective: Factorable,
        max_iter: int,
        tol: float | None,
        callback: Callback,
        n_before: int = 0,
    ) -> None:
        self._objective, self._max_iter, self._tol, self._callback = objective, max_iter, tol, callback
        self._n_before = n_before
        self._eps = objective.eps
        self._least = 4 * float(torch.finfo(objective.dtype).eps)
        self._tiny = float(torch.finfo(objective.dtype).tiny)
        self._decrease = max((tol or 0.0) ** 2, 4 * self._eps)  # as in `Progress`
        self._damping = self._least  # as in `Cholesky`

    def run(self, w: Tensor) -> Solution:
        here = self._start(w)
        reason, n_iter = "max_iter", self._n_before
        while reason == "max_iter" and n_iter < self._max_iter:
            direction, info = self._direction(here)
            if not n_iter:
                direction = self._objective.hints.stretch(w, direction)
            before, (here, step, decrement, failed) = here, self._backtrack(here, direction, info)
            if self._tol is not None:
                reason = self._reason(before, step, decrement, failed, self._tol)
                if reason == "converged" and step >= 1 and self._falls_on(here, direction, decrement, step):
                    reason = "max_iter"
            damping = self._damping * 100 if failed else self._damping / 100
            self._damping = min(max(damping, self._least), MAX_DAMPING)
            if self._tell(n_iter, before, step, here.w, reason) and reason == "max_iter":
                reason = "callback"
            n_iter += 1
        found = np.array([here.value]), np.array([here.norm]), np.array([n_iter], dtype=np.int32)
        return Solution(here.w, *found, [reason])

    def _start(self, w: Tensor) -> Point:
        point = self._at(w)
        if not (math.isfinite(point.value) and math.isfinite(point.norm)):
            found = torch.tensor([point.value, point.norm], dtype=w.dtype, device=w.device)
            blame(self._objective, w, found)
        return point

    def _at(self, w: Tensor) -> Point:
        F, gradient = self._objective.value_and_gradient(w)
        value, norm = torch.cat([F, largest(gradient)]).cpu().tolist()
        return Point(w, gradient, value, norm)

    def _direction(self, here: Point) -> tuple[Tensor, Tensor]:
        """The direction (1, n_parameters), and what is not 0 where the factorisation failed, (1,)."""
        matrix = self._objective.curvature(here.w).matrix()
        matrix.diagonal(dim1=1, dim2=2).mul_(1 + self._damping).clamp_(min=self._tiny)
        factor, info = torch.linalg.cholesky_ex(matrix)
        direction = torch.cholesky_solve(here.gradient.unsqueeze(2), factor).squeeze(2).neg_()
        return direction, info.to(direction.dtype)

    def _backtrack(self, here: Point, direction: Tensor, info: Tensor) -> tuple[Point, float, float, bool]:
        """See `backtrack`: where it ended, the step, the decrement, and whether `info` is not 0."""
        slope = torch.linalg.vecdot(here.gradient, direction)
        highest, step, w = here.value + 4 * self._eps * abs(here.value), 1.0, here.w + direction
        noise = here.value + NOISE * self._eps * abs(here.value)
        for _ in range(MAX_HALVINGS):
            found, (along, failed, left) = self._along(w, direction, slope, info)
            turned = found.value <= noise and abs(left) <= TURNED * abs(along)
            if along <= 0 and (found.value <= highest + ARMIJO * step * along or turned):
                if step == 1:
                    found, step = self._longer(here, direction, found, left, along)
                else:
                    found, step = self._best(here, direction, found, step)
                return found, step, -along, failed != 0
            if not along <= 0:  # NaN too
                break
            step /= 2
            w = here.w + step * direction
        return here, 0.0, -along, failed != 0

    def _along(self, w: Tensor, direction: Tensor, *more: Tensor) -> tuple[Point, list[float]]:
        """The point, `more` numbers and last the slope there along the direction, in one transfer."""
        F, gradient = self._objective.value_and_gradient(w)
        numbers = [F, largest(gradient), *more, torch.linalg.vecdot(gradient, direction)]
        value, norm, *rest = torch.cat(numbers).cpu().tolist()
        return Point(w, gradient, value, norm), rest

    def _longer(
        self, here: Point, direction: Tensor, found: Point, left: float, along: float
    ) -> tuple[Point, float]:
        """The point found by a whole step, or one of several such, while F falls on by much."""
        step = 1.0
        while step < LONGEST and left < STEEP * along:
            before = left
            longer, (left,) = self._along(here.w + 2 * step * direction, direction)
            if not (longer.value < found.value and left <= -0.5 * before):  # far beyond the lowest point
                break
            found, step = longer, 2 * step
        return found, step

    def _best(self, here: Point, direction: Tensor, found: Point, step: float) -> tuple[Point, float]:
        """What is lowest of the point found at `step` and of those near it."""
        best = step
        for length in LENGTHS:
            tried = self._at(here.w + length * step * direction)
            if tried.value < found.value:
                found, best = tried, length * step
        return found, best

    def _reason(self, before: Point, step: float, decrement: float, failed: bool, tol: float) -> str:
        """See `Progress.record`."""
        if before.value <= self._eps**2:
            return "separation"
        if not failed and before.norm <= tol and decrement / 2 <= self._decrease * before.value:
            return "converged"
        improvable = failed and self._damping < MAX_DAMPING
        return "max_iter" if step or improvable else "precision"

    def _falls_on(self, here: Point, direction: Tensor, decrement: float, step: float) -> bool:
        """See `Progress`; a whole step left much of the slope where a longer one was taken."""
        left = -float(torch.linalg.vecdot(here.gradient, direction))
        steep = step > 1 or left > FLATTENED * decrement
        return steep and float(self._objective.hints.reach(direction)) > STILL

    def _tell(self, number: int, before: Point, step: float, w: Tensor, reason: str) -> bool:
        """Whether the callback says to stop."""
        F, norm, length = np.array([before.value]), np.array([before.norm]), np.array([step])
        done, read = np.array([reason != "max_iter"]), self._objective.rows.rows_read
        return self._callback(Iteration(number, F, norm, length, read, w, done))
