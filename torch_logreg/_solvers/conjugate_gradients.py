"""Conjugate gradients, and Newton directions by them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Curved, Point
from torch_logreg._runtime.devices import looks_are_free
from torch_logreg._runtime.linalg import eigh
from torch_logreg._solvers.directions import Directions, Lesson
from torch_logreg._solvers.per_problem import Numbers, index, no, some
from torch_logreg._solvers.search import State, Trial, largest

CG_STEPS, CG_MAX_STEPS = 16, 4096
CG_ACCURACY = 1e-5  # of a direction that is to prove convergence
CG_ACCURACY_FAR = 0.1  # of any other
# The same with many parameters: of a decrement the square of it, and as good on the whole as more of fewer.
ROUGH, ROUGH_FAR, MANY_PARAMETERS = 3e-2, 0.25, 2**10
FEW_STEPS = 3  # of a solve, after which the next is expected to pay for rows to be gathered
MOST, NEARLY_ALL = 0.95, 0.999  # of the Fisher information, far from the solution and near it
SKETCH_ROWS = 2**9
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


class Spikes:
    """The inverse of a Fisher matrix that is a few directions of large curvature on top of an even rest.

    Made of a random sample of rows, V with V^T V near the matrix: the eigenvalues above those that so few
    rows of evenly distributed numbers would show too, and the mean of the others.

    References
    ----------
    Johnstone (2001), On the distribution of the largest eigenvalue in principal components analysis,
    Annals of Statistics 29(2). Marchenko, Pastur (1967), for where noise ends.
    Frangella, Tropp, Udell (2023), Randomized Nyström preconditioning, SIAM Journal on Matrix Analysis and
    Applications 44(2).
    """

    MARGIN = 1.1  # over the end of the noise

    def __init__(self, sample: Tensor, penalty: Tensor) -> None:
        n, p = sample.shape
        exact = penalty.dtype
        curves, vectors = eigh((sample @ sample.T).to(exact))
        curves, vectors = curves.flip(0).clamp(min=0), vectors.flip(1)
        # The mean of what those before leave, and how far above it noise reaches (n samples of p numbers).
        rest = (curves.sum() - curves.cumsum(0) + curves) / (
            p - torch.arange(n, dtype=exact, device=curves.device)
        )
        above = curves > self.MARGIN * (1 + (p / n) ** 0.5) ** 2 * rest
        spikes = above.to(torch.int64).cumprod(0).to(exact)  # the first of them, up to one that is noise
        level = (curves * (1 - spikes)).sum() / (p - spikes.sum()) + penalty.mean()
        curve = torch.maximum(
            curves + penalty.mean() - (p / n) * level, level
        )  # a sample shows them too large
        self._U = (vectors * (spikes / curves.clamp(min=torch.finfo(exact).tiny).sqrt())).T.to(
            sample.dtype
        ) @ sample
        self._U, self._level = self._U.to(exact), level
        self._inverse = torch.where(spikes > 0, 1 / curve - 1 / level, 0.0)

    def __call__(self, residual: Tensor) -> Tensor:
        return residual / self._level + ((residual @ self._U.T) * self._inverse) @ self._U


class NewtonCG(Directions):
    """Newton directions by conjugate gradients, with as many steps as the last one turned out to need.

    The most steps of one solve are decided before it starts. Where few rows hold nearly all of the Fisher
    information, as late in problems that are nearly separable, only these are multiplied with. Coordinates
    are such that the Fisher matrix at parameters 0 has a diagonal near 1, so there is no preconditioner until
    solves take many steps or fail, or where parameters are few; it is then made of a sample of the rows, or
    else the diagonal, anew each time.
    """

    are_newton = True
    _accurate: Tensor  # (P,) bool

    def __init__(self, objective: Curved, tol: float | None) -> None:
        self.objective, self._tol, self._n_steps = objective, tol, CG_STEPS
        # In exact arithmetic n_parameters steps solve it; many more than that is rounding, not progress.
        self._max_steps = min(CG_MAX_STEPS, 4 * objective.n_parameters + CG_STEPS)
        self._many = objective.n_parameters > MANY_PARAMETERS
        self._accuracies = (ROUGH, ROUGH_FAR) if self._many else (CG_ACCURACY, CG_ACCURACY_FAR)
        self._last_steps, self._gathering, self._hard = 0, False, not self._many
        self._inverse_diagonal = torch.empty(0, dtype=objective.dtype, device=objective.rows.device)
        self._spikes: Spikes | None = None

    def direction(self, state: State) -> Tensor:
        near = largest(state.gradient) <= (self._tol or 0.0)
        active: Point | None = None
        self._gathering |= self._many and self._last_steps > FEW_STEPS  # rows that are gathered have to pay
        if self._gathering and looks_are_free(near.device):
            active = state.at.active(NEARLY_ALL if bool(near.any()) else MOST)
        there = active or state.at
        if self._last_steps > MANY_STEPS or self._hard:
            self._learn(state.at, there)
        accuracy = torch.where(near, *self._accuracies).to(state.w.dtype)
        direction, reached, self._last_steps = conjugate_gradient(
            there.product, -state.gradient, self._precondition, self._n_steps, accuracy
        )
        self._accurate = reached <= accuracy
        return direction

    def judge(self, reached: Tensor) -> Tensor:
        """Whether the accuracy of the direction is what was asked for."""
        return self._accurate

    def _learn(self, at: Point, there: Point) -> None:
        """Make a preconditioner, the diagonal that of the rows `there`."""
        sketch = at.sketch(SKETCH_ROWS)
        if sketch is not None:
            self._spikes = Spikes(sketch.rows, sketch.decay)
            return
        diagonal = there.diagonal()
        if diagonal is not None:
            self._inverse_diagonal = torch.where(diagonal > 0, 1 / diagonal, 1.0)

    def _precondition(self, residual: Tensor) -> Tensor:
        if self._spikes is not None:
            return self._spikes(residual)
        if not len(self._inverse_diagonal):
            return self.objective.hints.natural(residual)
        if self.objective.n_outputs == 1:
            return residual * self._inverse_diagonal
        # A shift of all outputs has next to no curvature, and gradients have no part in it: nor may these.
        return self._without_shift(self._without_shift(residual) * self._inverse_diagonal)

    def _without_shift(self, v: Tensor) -> Tensor:
        of_outputs = v.view(len(v), self.objective.n_outputs, -1)
        return (of_outputs - of_outputs.mean(dim=1, keepdim=True)).view(v.shape)

    def select(self, problems: np.ndarray) -> NewtonCG | None:
        objective = self.objective.select(problems)
        if objective is None:
            return None
        fewer = copy.copy(self)
        fewer.objective = objective
        if len(self._inverse_diagonal):
            fewer._inverse_diagonal = self._inverse_diagonal[index(problems, objective.rows.device)]
        return fewer

    def learn(self, before: State, trial: Trial, done: Numbers) -> Lesson:
        return Lesson(trial.verdict, self.adapt(trial.verdict > 0))

    def adapt(self, trust: Numbers) -> Numbers:
        """More steps next time where these were too few; returns where that may still help."""
        failed = no(trust)
        improvable = failed & (self._n_steps < self._max_steps or not self._hard)
        if some(failed):
            self._hard = True
            self._n_steps = min(2 * self._n_steps, self._max_steps)
        return improvable
