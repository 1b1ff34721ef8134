"""Limited-memory BFGS for P problems at once."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Curved
from torch_logreg._contracts.solver import Callback, Solution, Solver
from torch_logreg._solvers.conjugate_gradients import NewtonCG
from torch_logreg._solvers.directions import Directions, Lesson
from torch_logreg._solvers.iterate import iterate
from torch_logreg._solvers.per_problem import Numbers, array, each, no, some
from torch_logreg._solvers.search import State, Trial, start
from torch_logreg._solvers.secants import Pair, quasi_newton_direction
from torch_logreg._solvers.stopping import Progress


@dataclass(frozen=True)
class LBFGS(Solver[Curved]):
    """L-BFGS with backtracking, and a certificate before it stops.

    References
    ----------
    Liu, Nocedal (1989), On the limited memory BFGS method, Mathematical Programming 45.
    """

    max_iter: int = 100
    tol: float | None = 1e-4
    memory: int = 10

    def minimize(self, objective: Curved, w: Tensor, callback: Callback) -> Solution:
        progress = Progress(objective, self.tol, self.max_iter, callback)
        directions = SecantDirections(objective, self.tol, self.memory)
        return progress.solution(iterate(directions, start(objective, w), progress))


class SecantDirections(Directions):
    """Directions of secant pairs, and Newton's where the gradient is as small as it is to be.

    A small gradient alone says little where curvature is small, so once the gradient rule is met one
    Newton direction from conjugate gradients gives the decrease still to be had. It is also taken as the
    step.
    """

    _trust: Tensor  # (P,) in the last direction: 1 where it is Newton's, else 0

    def __init__(self, objective: Curved, tol: float | None, memory: int) -> None:
        self.objective, self._tol, self._newton = objective, tol or 0.0, NewtonCG(objective, tol)
        self._pairs: deque[Pair] = deque(maxlen=memory)
        self._done = self._near = each(False, objective.n_problems)

    def direction(self, state: State) -> Tensor:
        direction = quasi_newton_direction(state.gradient, self._pairs, lambda v: v, scaled=True)
        self._near = (state.gradient_norm <= self._tol) & no(self._done)
        self._trust = torch.zeros_like(state.value)
        if some(self._near):
            near = torch.as_tensor(array(self._near), dtype=torch.bool, device=state.w.device)
            direction = torch.where(near[:, None], self._newton.direction(state), direction)
            self._trust = near & self._newton.judge(state.gradient)
        return direction

    def judge(self, reached: Tensor) -> Tensor:
        return self._trust

    def learn(self, before: State, trial: Trial, done: Numbers) -> Lesson:
        improvable = each(False, len(before.w))
        if some(self._near):
            improvable = self._newton.adapt((trial.verdict > 0) | no(self._near))
        self._pairs.append(Pair.between(before, trial.state, self.objective.dtype))
        return Lesson(trial.verdict, improvable)

    def may_leave(self, done: Numbers) -> Numbers:
        return np.zeros_like(done)

    def select(self, problems: np.ndarray) -> None:
        """All stay together."""

    def escalate(self, done: Numbers) -> Directions:
        self._done = done
        return self
