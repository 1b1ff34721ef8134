"""Conjugate gradients, and Newton directions by them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from torch_logreg._progress import State, largest
from torch_logreg._solver import Objective

CG_STEPS, CG_MAX_STEPS = 16, 4096
CG_ACCURACY = 1e-2  # of a direction that is to prove convergence: its decrement is off by the square of it
CG_ACCURACY_FAR = 0.25  # of any other
MANY_STEPS = 8  # of a solve: more than the diagonal of the Fisher matrix costs to compute


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    precondition: Callable[[Tensor], Tensor],
    n_steps: int,
    accuracy: Tensor,
) -> tuple[Tensor, Tensor, int]:
    """Solve ``matrix x = b`` for P problems by preconditioned conjugate gradients.

    A problem whose preconditioned residual has fallen by the factor `accuracy` (P,) stands still from then
    on, and so does one along whose direction the matrix does not curve upwards. At most `n_steps` are made;
    on the CPU fewer, where all stand still. On other devices a look at that would cost more: the host would
    wait for every step so far. Returns x, the factor reached, (P,), and the number of steps.

    References
    ----------
    Hestenes, Stiefel (1952), Journal of Research of the National Bureau of Standards 49(6).
    """
    x, residual = torch.zeros_like(b), b.clone()
    p = z = precondition(residual)
    rz = first = (residual * z).sum(dim=1, keepdim=True)
    enough, nothing = accuracy.square()[:, None] * first, torch.zeros_like(first)
    active = rz > enough
    looks = looks_are_free(b.device)
    steps = 0
    while steps < n_steps:
        if looks and not bool(active.any()):
            break
        steps += 1
        curved = product(p)
        curve = (p * curved).sum(dim=1, keepdim=True)
        active &= curve > 0
        alpha = torch.where(active, rz / curve, nothing)
        x.addcmul_(alpha, p)
        residual.addcmul_(alpha, curved, value=-1)
        z = precondition(residual)
        rz, before = (residual * z).sum(dim=1, keepdim=True), rz
        active &= rz > enough
        p = torch.where(active, torch.addcmul(z, rz / before, p), p)
    reached = torch.where(first > 0, (rz / first).sqrt(), nothing)
    return x, reached[:, 0], steps


def looks_are_free(device: torch.device) -> bool:
    """Whether the host can read a tensor without waiting for more than that."""
    return device.type == "cpu"


class NewtonCG:
    """Newton directions by conjugate gradients, with as many steps as the last one turned out to need.

    The most steps of one solve are decided before it starts. Coordinates are such that the Fisher matrix at
    weights 0 has a diagonal near 1, so there is no preconditioner until solves take many steps; then it
    is the diagonal, computed anew as long as they do.
    """

    def __init__(self, objective: Objective, tol: float | None) -> None:
        self._objective, self._tol, self._n_steps = objective, tol, CG_STEPS
        # In exact arithmetic n_parameters steps solve it; many more than that is rounding, not progress.
        self._max_steps = min(CG_MAX_STEPS, 4 * objective.n_parameters + CG_STEPS)
        self._last_steps, self._inverse_diagonal = 0, torch.empty(0)

    def direction(self, state: State) -> tuple[Tensor, Tensor]:
        """The direction (P, n_parameters), and whether its accuracy is what was asked for, (P,)."""
        curvature = self._objective.curvature(state.w)
        if self._last_steps > MANY_STEPS:
            diagonal = curvature.diagonal()
            self._inverse_diagonal = torch.where(diagonal > 0, 1 / diagonal, 1.0)
        near = largest(state.gradient) <= (self._tol or 0.0)
        accuracy = torch.where(near, CG_ACCURACY, CG_ACCURACY_FAR).to(state.w.dtype)
        direction, reached, self._last_steps = conjugate_gradient(
            curvature.product, -state.gradient, self._precondition, self._n_steps, accuracy
        )
        return direction, reached <= accuracy

    def _precondition(self, residual: Tensor) -> Tensor:
        known = len(self._inverse_diagonal) > 0
        return residual * self._inverse_diagonal if known else residual.clone()

    def may_leave(self, done: np.ndarray) -> np.ndarray:
        """Which of the problems that are done need not stay in the batch."""
        return done

    def select(self, problems: np.ndarray, objective: Objective) -> NewtonCG:
        """For some of the problems, whose objective is `objective`."""
        some = copy.copy(self)
        some._objective = objective
        if len(self._inverse_diagonal):
            some._inverse_diagonal = self._inverse_diagonal[
                torch.as_tensor(problems, device=objective.rows.device)
            ]
        return some

    def adapt(self, trust: np.ndarray) -> np.ndarray:
        """More steps next time where these were too few; returns where that may still help."""
        improvable = ~trust & (self._n_steps < self._max_steps)
        if improvable.any():
            self._n_steps = min(2 * self._n_steps, self._max_steps)
        return improvable
