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
from torch_logreg._solvers.search import backtrack, start
from torch_logreg._solvers.secants import Pair, quasi_newton_direction
from torch_logreg._solvers.stopping import Progress


@dataclass(frozen=True)
class LBFGS(Solver[Curved]):
    """L-BFGS with backtracking, and a certificate before it stops.

    A small gradient alone says little where curvature is small, so once the gradient rule is met one
    Newton direction from conjugate gradients gives the decrease still to be had. It is also taken as the
    step.

    References
    ----------
    Liu, Nocedal (1989), On the limited memory BFGS method, Mathematical Programming 45.
    """

    max_iter: int = 100
    tol: float | None = 1e-4
    memory: int = 10

    def minimize(self, objective: Curved, w: Tensor, callback: Callback) -> Solution:
        progress, newton = Progress(objective, self.tol), NewtonCG(objective, self.tol)
        pairs: deque[Pair] = deque(maxlen=self.memory)
        state = start(objective, w)
        while progress.updates < self.max_iter:
            direction = quasi_newton_direction(state.gradient, pairs)
            trust = torch.zeros_like(state.value)
            improvable = np.zeros(objective.n_problems, dtype=bool)
            near = (state.gradient_norm <= (self.tol or 0.0)) & ~progress.done
            if near.any():
                mask = torch.as_tensor(near, dtype=torch.bool, device=w.device)
                certificate, accurate = newton.direction(state)
                direction = torch.where(mask[:, None], certificate, direction)
                trust = mask & accurate
            trial = backtrack(objective, state, progress.freeze(direction), trust)
            trusted = trial.verdict
            if near.any():
                improvable = newton.adapt((trusted > 0) | ~near)
            after = trial.state
            pairs.append(Pair.between(state.w, state.gradient, after.w, after.gradient, objective.dtype))
            finished = progress.record(state, trial, trusted, improvable, callback)
            state = trial.state
            if finished:
                break
        return progress.solution(state)
