"""Points, and the line search."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Curved, Hints, Point
from torch_logreg._contracts.solver import Evaluated
from torch_logreg._solvers.per_problem import (
    Numbers,
    column,
    each,
    every,
    index,
    no,
    pick,
    some,
    to_host,
    where,
)

ARMIJO = 1e-4
MAX_HALVINGS = 30
# Times eps, by which sums over the rows may rise by rounding alone where slopes say that they fall, and the
# part of the slope that may be left, or have turned, for that.
NOISE, TURNED = 64.0, 0.5
# Of a step that had to be cut, lengths that are tried too: where classes are nearly separable dozens of such
# steps follow one another, and half of a whole one is often far from the best.
LENGTHS = (0.25, 0.5, 0.7, 1.4)
# Of the slope along a whole step, which Newton's leaves 0: what is left where a fit may end. More is no harm
# if all raw predictions move by so little that the curvature is the same where the step ends.
FLATTENED, STILL = 0.1, 0.1
# Of the slope along a whole step, what is left where twice its length is tried too, and so on: a quadratic
# function leaves nothing, and exp(-z), what is left of losses where classes are nearly separable, 0.37.
STEEP, LONGEST = 0.28, 64.0


class State(NamedTuple):
    """A point, what F is there, and the same on the host."""

    at: Point
    value: Tensor  # (P,)
    gradient: Tensor  # (P, n_parameters)
    objective: Numbers
    gradient_norm: Numbers  # max |gradient|

    @property
    def w(self) -> Tensor:
        """The weights, (P, n_parameters)."""
        return self.at.w

    def select(self, problems: np.ndarray, fewer: Curved) -> State:
        """The state of some of the problems, for the objective of these."""
        here = index(problems, self.w.device)
        w, value, gradient = (each.index_select(0, here) for each in (self.w, self.value, self.gradient))
        known = pick(self.objective, problems), pick(self.gradient_norm, problems)
        return State(fewer.at(w), value, gradient, *known)


def start(objective: Curved, w: Tensor) -> State:
    """The state at `w`."""
    at = objective.at(w)
    return state_at(objective, Evaluated(at, *at.value_and_gradient()))


def state_at(objective: Curved, known: Evaluated) -> State:
    """The state at a point where F is known, and finite."""
    numbers = [known.value, largest(known.gradient)]
    state = State(*known, *to_host(numbers))
    if not (every(abs(state.objective) < np.inf) and every(state.gradient_norm < np.inf)):
        _blame(objective, state.w, torch.stack(numbers))
    return state


def _blame(objective: Curved, w: Tensor, found: Tensor) -> None:
    """Raise ValueError for an F that is not finite at the parameters `w` to start from, or for X."""
    if bool(w.any()):
        value, gradient = objective.value_and_gradient(torch.zeros_like(w))
        if bool(value.isfinite().all() and gradient.isfinite().all()):
            raise ValueError(
                "The loss or its gradient is not finite at the coefficients to start from, those of "
                "coef_init, intercept_init or a warm start: pass smaller ones, or none."
            )
    objective.rows.check_finite(found)


def largest(gradient: Tensor) -> Tensor:
    """Max |gradient| of each problem, (P,)."""
    return torch.linalg.vector_norm(gradient, torch.inf, dim=1)


def least_decrease(tol: float | None, eps: float) -> float:
    """The relative decrease that is to be seen: none below rounding can be, whatever `tol` asks for."""
    return max((tol or 0.0) ** 2, 4 * eps)


def provable(decrease: float) -> float:
    """The relative decrease that a direction predicts, up to which it is worth solving for as a proof.

    Far from the optimum a fit does not end, whatever `tol`: F goes on to fall where the step ends.
    """
    return min(decrease, STILL**2)


class Trial(NamedTuple):
    """Where a line search ended."""

    state: State
    step: Numbers  # 0 for a problem that did not move
    decrement: Numbers  # -gradient @ direction: twice the decrease a Newton step predicts
    left: Numbers  # the same with the gradient that the step reached, if that was up to a whole one
    verdict: Numbers  # what `Directions.judge` says
    direction: Tensor  # (P, n_parameters), the whole step
    hints: Hints

    def falls_on(self, before: State) -> Numbers:
        """Whether F goes on to fall where the step from `before` ends, so that its decrement says too little.

        A row of much leverage has all of the curvature along a direction while its loss vanishes, and
        Newton's steps are as short as that takes; once it has, those of the other rows are long.
        """
        steep = (self.step > 1) | ((self.step == 1) & (self.left > FLATTENED * self.decrement))
        # The curvature of the loss by a raw prediction is 1/4 at most, so its part of the decrement is that
        # of the square of the largest move: a larger decrement need not be asked how far it goes.
        short = steep & (self.decrement <= STILL**2)
        return steep & (no(short) | (self.reach(before) > STILL)) if some(short) else steep

    def reach(self, before: State) -> Numbers:
        """By how much the whole step from `before`, made at least, moves a raw prediction at most."""
        moved = self.state.at.distance(before.at)
        if moved is None:
            return to_host([self.hints.reach(self.direction)])[0]
        return to_host([moved])[0] / where(self.step > 1, self.step, 1.0)


def backtrack(
    objective: Curved,
    state: State,
    direction: Tensor,
    judge: Callable[[Tensor], Tensor],
    tries_lengths: bool = False,
) -> Trial:
    """Armijo backtracking from the whole step, each problem with its own step length.

    All that the host learns of an iteration comes in one transfer with the outcome of a trial, what `judge`
    says of the gradient reached too. A value that rises by rounding alone is accepted, by more where slopes
    tell that it falls (Hager, Zhang 2005, SIAM Journal on Optimization 16(1), the approximate Wolfe
    conditions); a problem whose direction does not descend stays where it is. With `tries_lengths`, which
    only one problem may have, the best of a few lengths is taken where a whole step is too long, and longer
    ones where it is too short.
    """
    slope, step = torch.linalg.vecdot(state.gradient, direction), each(1.0, objective.n_problems)
    rounding, w = objective.eps * abs(state.objective), state.w + direction
    highest, noise = state.objective + 4 * rounding, state.objective + NOISE * rounding
    for _ in range(MAX_HALVINGS):
        at = objective.at(w)
        value, gradient = at.value_and_gradient()
        slope_there = torch.linalg.vecdot(gradient, direction)
        report = [value, largest(gradient), slope, slope_there, judge(gradient)]
        F, norm, along, left, verdict = to_host(report)
        descends = along <= 0  # False for NaN too
        enough = descends & (F <= highest + ARMIJO * step * along)
        if done := every(enough):
            break
        enough = enough | (descends & (F <= noise) & (abs(left) <= TURNED * abs(along)))
        if every(enough == descends):
            break
        step = where(enough, step, step / 2)
        w = state.w + column(step, w) * direction
    reached = State(at, value, gradient, F, norm)
    if not (done or every(enough)):
        step, reached = step * enough, _where(objective, enough, reached, state)
    elif tries_lengths and (step < 1 or left < STEEP * along):
        line = _Line(objective, state, direction)
        reached, step = line.best(reached, step) if step < 1 else line.longer(reached, left, along)
    return Trial(reached, step, -along, -left, verdict, direction, objective.hints)


def foresee(objective: Curved, state: State, direction: Tensor) -> Trial:
    """The whole step as it is predicted, with F as it is before."""
    nothing, step = each(0.0, len(direction)), each(1.0, len(direction))
    decrement = to_host([-torch.linalg.vecdot(state.gradient, direction)])[0]
    after = state._replace(at=objective.at(state.w + direction))
    return Trial(after, step, decrement, nothing, nothing, direction, objective.hints)


def _where(objective: Curved, moved: Numbers, reached: State, before: State) -> State:
    if not isinstance(moved, np.ndarray):
        return reached if moved else before
    on_device = torch.as_tensor(moved, dtype=torch.bool, device=before.w.device)
    return State(
        objective.at(torch.where(on_device[:, None], reached.w, before.w)),
        torch.where(on_device, reached.value, before.value),
        torch.where(on_device[:, None], reached.gradient, before.gradient),
        np.where(moved, reached.objective, before.objective),
        np.where(moved, reached.gradient_norm, before.gradient_norm),
    )


class _Line(NamedTuple):
    """Points along the direction of one problem."""

    objective: Curved
    start: State
    direction: Tensor

    def at(self, length: float) -> tuple[State, float]:
        """The point, and the slope there."""
        at = self.objective.at(self.start.w + length * self.direction)
        value, gradient = at.value_and_gradient()
        slope = torch.linalg.vecdot(gradient, self.direction)
        *known, left = to_host([value, largest(gradient), slope])
        return State(at, value, gradient, *known), left

    def longer(self, found: State, left: float, along: float) -> tuple[State, float]:
        """The point found by a whole step, or one of several such, while F falls on by much."""
        step = 1.0
        while step < LONGEST and left < STEEP * along:
            before, (longer, left) = left, self.at(2 * step)
            if not (longer.objective < found.objective and left <= -0.5 * before):  # far beyond the lowest
                break
            found, step = longer, 2 * step
        return found, step

    def best(self, found: State, step: float) -> tuple[State, float]:
        """What is lowest of the point found at `step` and of those near it."""
        best = step
        for length in LENGTHS:
            tried, _ = self.at(length * step)
            if tried.objective < found.objective:
                found, best = tried, length * step
        return found, best
