"""Natural-gradient descent: steps in the metric of the Fisher matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    State,
    backtrack,
    start,
)

CHOLESKY_PARAMETERS = 1024  # above it a factorisation costs more than the products of a CG solve
MAX_DAMPING = 1.0


@dataclass(frozen=True)
class NaturalSGD(Solver):
    """Full-batch natural-gradient steps with backtracking.

    The step is ``-F⁻¹ gradient`` with F the Fisher matrix; for the losses here F is the Hessian, and
    the method the damped Newton method. With ``linear_solver="cholesky"`` F is factorised, with
    ``"cg"`` it is only multiplied with; ``"auto"`` chooses by the number of parameters.

    References
    ----------
    Amari (1998), Natural gradient works efficiently in learning, Neural Computation 10(2).
    Nocedal, Wright (2006), Numerical Optimization, 2nd ed., chapters 3 and 7.
    """

    max_iter: int = 100
    tol: float | None = 1e-4
    linear_solver: Literal["auto", "cholesky", "cg"] = "auto"

    def minimize(self, objective: Objective, w: Tensor, callback: Callback) -> Solution:
        metric = self._metric(objective)
        progress = Progress(objective, self.tol)
        state = start(objective, w)
        for number in range(self.max_iter):
            direction, trust = metric.direction(state)
            trial = backtrack(objective, state, progress.freeze(direction), trust)
            finished = progress.record(state, trial, metric.adapt(trial.trust), number, callback)
            state = trial.state
            if finished:
                break
        return progress.solution(state)

    def _metric(self, objective: Objective) -> Cholesky | NewtonCG:
        small = objective.n_parameters <= CHOLESKY_PARAMETERS
        if self.linear_solver == "cholesky" or (self.linear_solver == "auto" and small):
            return Cholesky(objective)
        return NewtonCG(objective, self.tol)


class Cholesky:
    """Natural-gradient directions from a factorised Fisher matrix.

    A little of its own diagonal is added to the matrix: as much as rounding may have taken from it,
    more where the factorisation still fails, and less again later (Levenberg 1944, Marquardt 1963).
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._least = 4 * torch.finfo(objective.dtype).eps
        self._damping = np.full(objective.n_problems, self._least)

    def direction(self, state: State) -> tuple[Tensor, Tensor]:
        """The direction (P, n_parameters), and whether the factorisation succeeded, (P,)."""
        matrix = self._objective.curvature(state.w).matrix()
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        damping = torch.as_tensor(self._damping, dtype=matrix.dtype, device=matrix.device)
        diagonal.mul_(1 + damping[:, None])
        diagonal.copy_(torch.where(diagonal > 0, diagonal, 1.0))  # a parameter with no effect
        factor, info = torch.linalg.cholesky_ex(matrix)
        direction = torch.cholesky_solve(-state.gradient[..., None], factor)[..., 0]
        return direction, info == 0

    def adapt(self, trust: np.ndarray) -> np.ndarray:
        """More damping where the factorisation failed; returns where that may still help."""
        damping = np.where(trust, self._damping / 100, self._damping * 100)
        self._damping = np.clip(damping, self._least, MAX_DAMPING)
        return ~trust & (damping <= MAX_DAMPING)
