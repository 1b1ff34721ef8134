"""The stopping rules: which problems are done and why, on all rows and on a sample of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Batch, Curved
from torch_logreg._contracts.solver import Callback, Iteration, Solution
from torch_logreg._solvers.directions import Directions, Lesson
from torch_logreg._solvers.per_problem import Numbers, array, each, every, index, no, pick, some, to_host
from torch_logreg._solvers.search import State, Trial, least_decrease

LEAVE = 0.25  # of the problems in a batch: once so many are done it goes on without them
LEAVE_NUMBERS = 2**12  # raw predictions of all problems, below which it does not pay
BATCH_ACCURACY = 1.0  # of what sampling alone leaves of the decrement
BATCH_UPDATES = 25  # at most, on one sample of the rows


class Rule(ABC):
    """When an iteration ends, of one problem or of several."""

    done: Numbers  # bool, of the problems that are still in the batch
    finished: bool  # whether there is nothing left to do
    at_start = False  # whether nothing was done yet, and all rows are there

    @abstractmethod
    def record(self, before: State, trial: Trial, lesson: Lesson) -> None:
        """Take in one update."""

    def ends(self, state: State, direction: Tensor) -> bool:
        """Whether the step `direction`, predicted well, is the last."""
        return False

    def freeze(self, direction: Tensor) -> Tensor:
        """No step for the problems that are done."""
        if not some(self.done):
            return direction
        done = torch.as_tensor(self.done, dtype=torch.bool, device=direction.device)
        return torch.where(done[:, None], 0.0, direction)

    def leave(self, directions: Directions, state: State) -> tuple[Directions, State]:
        """What to go on with and where, without those problems that are done, if that is worth it."""
        return directions, state


class Known(NamedTuple):
    """What is told of problems at a point."""

    w: Tensor  # (P, n_parameters)
    objective: np.ndarray  # (P,)
    gradient_norm: np.ndarray  # (P,)


class Progress(Rule):
    """Which of P problems are done and why, how often each was updated, and how much was read.

    Problems that are done may leave the batch: `done` and all that is told of an update are of those that
    are still in it.
    """

    def __init__(self, objective: Curved, tol: float | None, max_iter: int, callback: Callback) -> None:
        eps, n_problems = objective.eps, objective.n_problems
        self._tol, self._max_iter, self._callback = tol, max_iter, callback
        self._reads = objective.rows.reads
        self._decrease, self._vanished = least_decrease(tol, eps), eps**2
        self._reasons, self._n_iter = [""] * n_problems, np.zeros(n_problems, dtype=np.int32)
        self._updates = 0
        self.done, self.finished, self.at_start = each(False, n_problems), not max_iter, True
        self._here = np.arange(n_problems)
        self._numbers = objective.rows.n_rows * objective.n_outputs  # raw predictions of a problem
        self._gone: Known | None = None  # of all problems, as they were when they left

    def record(self, before: State, trial: Trial, lesson: Lesson) -> None:
        """Take in one update.

        A problem is solved if at the parameters before the update max |gradient| <= tol and the predicted
        relative decrease <= tol², and if a whole step then leaves little of the slope along it, as predicted;
        that update is taken all the same.
        """
        self._updates += 1
        if self._tol is not None:
            vanished = before.objective <= self._vanished
            solved = (lesson.trust > 0) & self._is_solved(before, trial.decrement, lesson.trust)
            if some(solved) and some(solved & no(self.done)):
                solved &= no(trial.falls_on(before))
            stuck = (trial.step == 0) & no(lesson.improvable)
            if some(vanished | solved | stuck):
                self._conclude(vanished, "separation")
                self._conclude(solved, "converged")
                self._conclude(stuck, "precision")
        self._tell(before, trial)

    def record_on_sample(self, before: State, trial: Trial, n_rows: int) -> None:
        """Take in an update on a sample of so many rows, which says nothing of convergence on all."""
        self._updates += 1
        self._tell(before, trial, n_rows)

    def _tell(self, before: State, trial: Trial, sample_rows: int = 0) -> None:
        number, read = self._updates - 1, self._reads.n_rows
        if self._gone is None:
            w, numbers = trial.state.w, (before.objective, before.gradient_norm, trial.step, self.done)
            objective, norm, step, done = map(array, numbers)
        else:
            _, objective, norm = self._all(before)
            n_problems, here, w = len(self._n_iter), self._here, self._all(trial.state).w
            step, done = np.zeros(n_problems), np.ones(n_problems, dtype=bool)
            step[here], done[here] = trial.step, self.done
        if self._callback(Iteration(number, objective, norm, step, read, w, done, sample_rows)):
            self._conclude(each(True, len(self._here)), "callback")
        self.finished, self.at_start = self._updates >= self._max_iter or every(self.done), False

    def _is_solved(self, state: State, decrement: Numbers, trust: Numbers) -> Numbers:
        decrease = trust * self._decrease * state.objective
        return (state.gradient_norm <= self._tol) & (decrement / 2 <= decrease)

    def ends(self, state: State, direction: Tensor) -> bool:
        if self._tol is None:
            return False
        decrement = to_host([-torch.linalg.vecdot(state.gradient, direction)])[0]
        return every(self.done | ((decrement >= 0) & self._is_solved(state, decrement, 1.0)))

    def _conclude(self, which: Numbers, reason: str) -> None:
        if some(new := which & no(self.done)):
            for problem in self._here[array(new)]:
                self._reasons[problem], self._n_iter[problem] = reason, self._updates
            self.done = self.done | new

    # ---- problems that leave ----

    def leave(self, directions: Directions, state: State) -> tuple[Directions, State]:
        if len(self._here) == 1 or not self._is_worth_leaving(leaving := directions.may_leave(self.done)):
            return directions, state
        staying = np.flatnonzero(~leaving)
        fewer = directions.select(staying)
        if fewer is None:
            return directions, state
        self._gone, self._here, self.done = self._all(state), self._here[staying], pick(self.done, staying)
        return fewer, state.select(staying, fewer.objective)

    def _is_worth_leaving(self, leaving: np.ndarray) -> bool:
        n_leaving = leaving.sum()
        many = LEAVE * len(leaving) <= n_leaving < len(leaving)
        return bool(many and n_leaving * self._numbers >= LEAVE_NUMBERS)

    def _all(self, state: State) -> Known:
        """What is told of all problems."""
        known = Known(state.w, array(state.objective), array(state.gradient_norm))
        if self._gone is None:
            return known
        w = self._gone.w.index_copy(0, index(self._here, state.w.device), known.w)
        objective, norm = self._gone.objective.copy(), self._gone.gradient_norm.copy()
        objective[self._here], norm[self._here] = known.objective, known.gradient_norm
        return Known(w, objective, norm)

    def solution(self, state: State) -> Solution:
        if not every(self.done):
            self._conclude(each(True, len(self._here)), "max_iter")
        return Solution(*self._all(state), self._n_iter, self._reasons)


class OnSample(Rule):
    """The rule on a sample of the rows, which is solved as far as its sampling error goes."""

    def __init__(self, whole: Progress, batch: Batch) -> None:
        self._whole, self._error, self._left = whole, batch.error, BATCH_UPDATES
        self._n_rows = batch.n_rows
        self.done, self.finished = whole.done, whole.finished

    def record(self, before: State, trial: Trial, lesson: Lesson) -> None:
        self._whole.record_on_sample(before, trial, self._n_rows)
        enough = every(trial.decrement <= BATCH_ACCURACY * self._error)
        stuck = not some(trial.step) and not some(lesson.improvable)
        self._left -= 1
        self.finished = self._whole.finished or enough or stuck or not self._left
