"""Points, and the line search."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Objective

ARMIJO = 1e-4
MAX_HALVINGS = 30
# Times eps, by which sums over the rows may rise by rounding alone where slopes say that they fall, and the
# part of the slope that may be left, or have turned, for that.
NOISE, TURNED = 64.0, 0.5
MAX_DAMPING = 1.0  # of a Fisher matrix, in parts of its diagonal

Evaluate: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]


class State(NamedTuple):
    """A point, what F is there, and the same on the host."""

    w: Tensor  # (P, n_parameters)
    value: Tensor  # (P,)
    gradient: Tensor  # (P, n_parameters)
    objective: np.ndarray  # (P,)
    gradient_norm: np.ndarray  # (P,) max |gradient|

    def select(self, problems: np.ndarray) -> State:
        index = torch.as_tensor(problems, dtype=torch.int64, device=self.w.device)
        w, value, gradient = (tensor.index_select(0, index) for tensor in self[:3])
        return State(w, value, gradient, self.objective[problems], self.gradient_norm[problems])


def start(objective: Objective, w: Tensor, evaluate: Evaluate | None = None) -> State:
    """The point `w`; `evaluate` stands in for the objective's `value_and_gradient`."""
    value, gradient = (evaluate or objective.value_and_gradient)(w)
    state = State(w, value, gradient, *_to_host([value, largest(gradient)]))
    if not (np.isfinite(state.objective).all() and np.isfinite(state.gradient_norm).all()):
        blame(objective, w, torch.stack([value, largest(gradient)]))
    return state


def blame(objective: Objective, w: Tensor, found: Tensor) -> None:
    """Raise ValueError for an F that is not finite at the weights `w` to start from, or for X."""
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


def _to_host(numbers: list[Tensor]) -> np.ndarray:
    """Several (P,) tensors in one transfer, of the dtype that holds them all."""
    return torch.cat(numbers).cpu().numpy().reshape(len(numbers), -1)


class Trial(NamedTuple):
    """Where a line search ended."""

    state: State
    step: np.ndarray  # (P,), 0 for a problem that did not move
    decrement: np.ndarray  # (P,) -gradient @ direction: twice the decrease a Newton step predicts
    left: np.ndarray  # (P,) the same with the gradient reached
    reach: Callable[[], Tensor]  # (P,) by how much the whole step moves a raw prediction at most
    verdict: np.ndarray  # (P,) as given


def backtrack(
    objective: Objective, state: State, direction: Tensor, verdict: Tensor | Callable[[Tensor], Tensor]
) -> Trial:
    """Armijo backtracking from the whole step, each problem with its own step length.

    All that the host learns of an iteration comes in one transfer with the outcome of a trial: `verdict`
    (P,) too, which may be a function of the gradient reached. A value that rises by rounding alone is
    accepted, by more where slopes tell that it falls (Hager, Zhang 2005, SIAM Journal on Optimization 16(1),
    the approximate Wolfe conditions); a problem whose direction does not descend stays where it is.
    """
    slope = torch.linalg.vecdot(state.gradient, direction)
    highest = state.objective + 4 * objective.eps * np.abs(state.objective)
    noise = state.objective + NOISE * objective.eps * np.abs(state.objective)
    w, step = state.w + direction, np.ones(len(highest))
    for _ in range(MAX_HALVINGS):
        value, gradient = objective.value_and_gradient(w)
        judged = verdict(gradient) if callable(verdict) else verdict
        left = torch.linalg.vecdot(gradient, direction)
        report = _to_host([slope, value, largest(gradient), judged, left])
        descends = report[0] <= 0  # False for NaN too
        turned = (report[1] <= noise) & (np.abs(report[4]) <= TURNED * np.abs(report[0]))
        enough = ((report[1] <= highest + ARMIJO * step * report[0]) | turned) & descends
        if all(enough == descends):  # for a few problems several times as fast as `.all()`
            break
        step = np.where(enough, step, step / 2)
        lengths = torch.as_tensor(step, dtype=w.dtype, device=w.device)
        w = state.w + lengths[:, None] * direction
    reached = State(w, value, gradient, report[1], report[2])
    if not all(enough):
        moved = torch.as_tensor(enough, dtype=torch.bool, device=w.device)
        reached = State(
            torch.where(moved[:, None], w, state.w),
            torch.where(moved, value, state.value),
            torch.where(moved[:, None], gradient, state.gradient),
            np.where(enough, report[1], state.objective),
            np.where(enough, report[2], state.gradient_norm),
        )

    def reach() -> Tensor:
        return objective.hints.reach(direction)

    return Trial(reached, step * enough, -report[0], -report[4], reach, report[3])
