"""What solvers share: points, the line search, and which problems are done and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from torch_logreg._solver import Callback, Iteration, Objective, Solution

ARMIJO = 1e-4
MAX_HALVINGS = 30
# Times eps, by which sums over the rows may rise by rounding alone where slopes say that they fall, and the
# part of the slope that may be left, or have turned, for that.
NOISE, TURNED = 64.0, 0.5
MAX_DAMPING = 1.0  # of a Fisher matrix, in parts of its diagonal
# Of the slope along a whole step, which Newton's leaves 0: what is left where a fit may end. More is no harm
# if all raw predictions move by so little that the curvature is the same where the step ends.
FLATTENED, STILL = 0.1, 0.1
LEAVE = 0.25  # of the problems in a batch: once so many are done it goes on without them
LEAVE_NUMBERS = 2**12  # raw predictions of all problems, below which it does not pay

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
        return objective.reach(direction)

    return Trial(reached, step * enough, -report[0], -report[4], reach, report[3])


def _falls_on(trial: Trial) -> np.ndarray:
    """Whether the objective goes on to fall where the step ends, so that its decrement says too little.

    A row of much leverage has all of the curvature along a direction while its loss vanishes, and Newton's
    steps are as short as that takes; once it has, those of the other rows are long.
    """
    steep = (trial.step == 1) & (trial.left > FLATTENED * trial.decrement)
    return steep & (trial.reach().cpu().numpy() > STILL) if any(steep) else steep


class Progress:
    """Which of P problems are done and why, how often each was updated, and how much was read.

    Problems that are done may leave the batch: `done` and all that is told of an update are of those that
    are still in it.
    """

    def __init__(self, objective: Objective, tol: float | None) -> None:
        eps, n_problems = objective.eps, objective.n_problems
        self.tol, self._rows = tol, objective.rows
        # A decrease below rounding cannot be seen, whatever tol asks for.
        self._decrease, self._vanished = max((tol or 0.0) ** 2, 4 * eps), eps**2
        self.reasons = ["max_iter"] * n_problems
        self.updates = 0
        self.n_iter = np.zeros(n_problems, dtype=np.int32)
        self.done = np.zeros(n_problems, dtype=bool)
        self._here = np.arange(n_problems)
        self._numbers = objective.rows.n_rows * objective.n_outputs  # raw predictions of a problem
        self._gone: State | None = None  # of all problems, as they were when they left

    def record(
        self, before: State, trial: Trial, trust: np.ndarray, improvable: np.ndarray, callback: Callback
    ) -> bool:
        """Take in one update; True once there is nothing left to do.

        A problem is solved if at the weights before the update max |gradient| <= tol and the predicted
        relative decrease <= tol², and if a whole step then leaves little of the slope along it, as predicted;
        that update is taken all the same. `trust` (P,), up to 1, divides the
        decrement where it may be too small and is 0 where it says nothing; `improvable` says where a better
        direction may yet be found.
        """
        self.n_iter[self._here] += ~self.done
        if self.tol is not None:
            self._stop(before, trial, trust, improvable)
        return self._tell(before, trial, callback)

    def record_batch(self, before: State, trial: Trial, callback: Callback) -> bool:
        """Take in an update on a sample of the rows, which says nothing of convergence on all."""
        self.n_iter[self._here] += 1
        return self._tell(before, trial, callback)

    def _tell(self, before: State, trial: Trial, callback: Callback) -> bool:
        number, read = self.updates, self._rows.rows_read
        self.updates += 1
        w, step, done = trial.state.w, trial.step, self.done
        if self._gone is not None:
            w, step, done = (
                self._all(trial.state).w,
                np.zeros(len(self.n_iter)),
                np.ones_like(self.n_iter, bool),
            )
            before, step[self._here], done[self._here] = self._all(before), trial.step, self.done
        if callback(Iteration(number, before.objective, before.gradient_norm, step, read, w, done)):
            self._conclude(~self.done, "callback")
        return all(self.done)

    def _stop(self, before: State, trial: Trial, trust: np.ndarray, improvable: np.ndarray) -> None:
        vanished = before.objective <= self._vanished
        solved = (trust > 0) & self._is_solved(before, trial.decrement, trust)
        if any(solved & ~self.done):
            solved &= ~_falls_on(trial)
        stuck = (trial.step == 0) & ~improvable
        if any(vanished | solved | stuck):
            self._conclude(vanished, "separation")
            self._conclude(solved, "converged")
            self._conclude(stuck, "precision")

    def _is_solved(self, state: State, decrement: np.ndarray, trust: np.ndarray | float) -> np.ndarray:
        decrease = trust * self._decrease * state.objective
        return (state.gradient_norm <= self.tol) & (decrement / 2 <= decrease)

    def ends(self, state: State, decrement: np.ndarray) -> bool:
        """Whether one more update, of a trusted `decrement`, is the last."""
        return self.tol is not None and bool(
            (self.done | ((decrement >= 0) & self._is_solved(state, decrement, 1.0))).all()
        )

    def _conclude(self, which: np.ndarray, reason: str) -> None:
        for problem in np.flatnonzero(which & ~self.done):
            self.reasons[self._here[problem]] = reason
            self.done[problem] = True

    def freeze(self, direction: Tensor) -> Tensor:
        """No step for the problems that are done."""
        if not any(self.done):
            return direction
        done = torch.as_tensor(self.done, dtype=torch.bool, device=direction.device)
        return torch.where(done[:, None], 0.0, direction)

    # ---- problems that leave ----

    def staying(self, may_leave: np.ndarray) -> np.ndarray | None:
        """The problems to go on with, if it is worth it that those of `may_leave` leave."""
        if len(may_leave) == 1:
            return None
        n_leaving = may_leave.sum()
        if not LEAVE * len(may_leave) <= n_leaving < len(may_leave):
            return None
        if n_leaving * self._numbers < LEAVE_NUMBERS:
            return None
        return np.flatnonzero(~may_leave)

    def leave(self, state: State, staying: np.ndarray) -> State:
        """The state of those who stay; that of the others is kept."""
        self._gone, self._here, self.done = self._all(state), self._here[staying], self.done[staying]
        return state.select(staying)

    def _all(self, state: State) -> State:
        """Of all problems."""
        if self._gone is None:
            return state
        index = torch.as_tensor(self._here, dtype=torch.int64, device=state.w.device)
        pairs = zip(self._gone[:3], state[:3], strict=True)
        w, value, gradient = (old.index_copy(0, index, new) for old, new in pairs)
        objective, gradient_norm = self._gone.objective.copy(), self._gone.gradient_norm.copy()
        objective[self._here], gradient_norm[self._here] = state.objective, state.gradient_norm
        return State(w, value, gradient, objective, gradient_norm)

    def solution(self, state: State) -> Solution:
        state = self._all(state)
        return Solution(state.w, state.objective, state.gradient_norm, self.n_iter, self.reasons)
