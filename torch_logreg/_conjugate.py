"""Conjugate gradients, and Newton directions by them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from torch_logreg._progress import State
from torch_logreg._solver import Objective

CG_STEPS, CG_MAX_STEPS = 16, 4096
CG_ROUND = 4  # steps between looks at whether more are needed
CG_ACCURACY = 1e-3  # of a direction that is to prove convergence
CG_ACCURACY_FAR = 0.1  # of any other


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
    on the CPU fewer, if a look once a round of `CG_ROUND` steps finds that all stand still. On other devices
    a look would cost more: the host would wait for every step so far. Returns x, the factor reached, (P,),
    and the number of steps.

    References
    ----------
    Hestenes, Stiefel (1952), Journal of Research of the National Bureau of Standards 49(6).
    """
    x, residual = torch.zeros_like(b), b.clone()
    p = z = precondition(residual)
    rz = first = (residual * z).sum(dim=1, keepdim=True)
    enough, nothing = accuracy.square()[:, None] * first, torch.zeros_like(first)
    active = rz > enough
    looks = b.device.type == "cpu"
    steps = 0
    while steps < n_steps:
        if looks and steps and steps % CG_ROUND == 0 and not bool(active.any()):
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


class NewtonCG:
    """Newton directions by conjugate gradients, with as many steps as the last one turned out to need.

    The most steps of one solve are decided before it starts.
    """

    def __init__(self, objective: Objective, tol: float | None) -> None:
        self._objective, self._tol, self._n_steps = objective, tol, CG_STEPS
        # In exact arithmetic n_parameters steps solve it; many more than that is rounding, not progress.
        self._max_steps = min(CG_MAX_STEPS, 4 * objective.n_parameters + CG_STEPS)

    def direction(self, state: State) -> tuple[Tensor, Tensor]:
        """The direction (P, n_parameters), and whether its accuracy is what was asked for, (P,)."""
        curvature = self._objective.curvature(state.w)
        diagonal = curvature.diagonal()
        diagonal = torch.where(diagonal > 0, diagonal, 1.0)
        near = state.gradient.abs().amax(dim=1) <= (self._tol or 0.0)
        accuracy = torch.where(near, CG_ACCURACY, CG_ACCURACY_FAR).to(diagonal.dtype)
        direction, reached, _ = conjugate_gradient(
            curvature.product, -state.gradient, lambda r: r / diagonal, self._n_steps, accuracy
        )
        return direction, reached <= accuracy

    def may_leave(self, done: np.ndarray) -> np.ndarray:
        """Which of the problems that are done need not stay in the batch."""
        return done

    def select(self, problems: np.ndarray, objective: Objective) -> NewtonCG:
        """For some of the problems, whose objective is `objective`."""
        some = copy.copy(self)
        some._objective = objective
        return some

    def adapt(self, trust: np.ndarray) -> np.ndarray:
        """More steps next time where these were too few; returns where that may still help."""
        improvable = ~trust & (self._n_steps < self._max_steps)
        if improvable.any():
            self._n_steps = min(2 * self._n_steps, self._max_steps)
        return improvable
