"""Limited-memory BFGS for P problems at once."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torch_logreg._solver import (
    Callback,
    NewtonCG,
    Objective,
    Progress,
    Solution,
    Solver,
    backtrack,
    start,
)


@dataclass(frozen=True)
class LBFGS(Solver):
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

    def minimize(self, objective: Objective, w: Tensor, callback: Callback) -> Solution:
        progress, newton = Progress(objective, self.tol), NewtonCG(objective, self.tol)
        pairs: deque[Pair] = deque(maxlen=self.memory)
        state = start(objective, w)
        for number in range(self.max_iter):
            direction, trust = quasi_newton_direction(state.gradient, pairs), torch.zeros_like(state.value)
            improvable = np.zeros(objective.n_problems, dtype=bool)
            near = (state.gradient_norm <= (self.tol or 0.0)) & ~progress.done
            if near.any():
                mask = torch.as_tensor(near, device=w.device)
                certificate, trusted = newton.direction(state)
                direction = torch.where(mask[:, None], certificate, direction)
                trust = mask & trusted
            trial = backtrack(objective, state, progress.freeze(direction), trust)
            if near.any():
                improvable = newton.adapt(trial.trust | ~near)
            pairs.append(Pair.between(state.w, state.gradient, trial.state.w, trial.state.gradient))
            finished = progress.record(state, trial, improvable, number, callback)
            state = trial.state
            if finished:
                break
        return progress.solution(state)


@dataclass(frozen=True)
class Pair:
    """A step, the change of the gradient over it, and 1 / their product: 0 where that is no use."""

    s: Tensor  # (P, n_parameters)
    y: Tensor  # (P, n_parameters)
    rho: Tensor  # (P, 1)

    @classmethod
    def between(cls, w: Tensor, gradient: Tensor, w_new: Tensor, gradient_new: Tensor) -> Pair:
        s, y = w_new - w, gradient_new - gradient
        sy = (s * y).sum(dim=1, keepdim=True)
        enough = sy > torch.finfo(sy.dtype).eps * y.square().sum(dim=1, keepdim=True)
        return cls(s, y, torch.where(enough, 1 / sy, 0.0))


def quasi_newton_direction(gradient: Tensor, pairs: deque[Pair]) -> Tensor:
    """The two-loop recursion (Nocedal, Wright 2006, algorithm 7.4)."""
    q, alphas = -gradient, []
    for pair in reversed(pairs):
        alpha = pair.rho * (pair.s * q).sum(dim=1, keepdim=True)
        q = q - alpha * pair.y
        alphas.append(alpha)
    if pairs:
        last = pairs[-1]
        curvature = last.rho * last.y.square().sum(dim=1, keepdim=True)
        q = torch.where(curvature > 0, q / curvature, q)
    for pair, alpha in zip(pairs, reversed(alphas), strict=True):
        beta = pair.rho * (pair.y * q).sum(dim=1, keepdim=True)
        q = q + (alpha - beta) * pair.s
    return q
