"""The stopping rule: which problems are done and why."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Curved
from torch_logreg._contracts.solver import Callback, Iteration, Solution
from torch_logreg._solvers.search import State, Trial

# Of the slope along a whole step, which Newton's leaves 0: what is left where a fit may end. More is no harm
# if all raw predictions move by so little that the curvature is the same where the step ends.
FLATTENED, STILL = 0.1, 0.1
LEAVE = 0.25  # of the problems in a batch: once so many are done it goes on without them
LEAVE_NUMBERS = 2**12  # raw predictions of all problems, below which it does not pay


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

    def __init__(self, objective: Curved, tol: float | None) -> None:
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
