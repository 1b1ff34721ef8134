"""Metrics for natural-gradient steps: what stands in for the Fisher matrix, and how it is solved with."""

from __future__ import annotations

import copy
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Factorable, Matrices
from torch_logreg._solvers.conjugate_gradients import CG_ACCURACY, conjugate_gradient
from torch_logreg._solvers.search import MAX_DAMPING, State, Trial

CONTRACTION = 0.5  # of the gradient in a step, by which a metric shows that it is good
NEARLY = 100.0  # times the decrease at which a fit ends: there its prediction must be accurate
ROUNDING = 1e-12  # of its diagonal, added to a factor that nothing else makes regular


class Cholesky:
    """The Fisher matrix at some weights, factorised.

    A little of its own diagonal is added to the matrix: as much as rounding may have taken from it,
    more where the factorisation still fails, and less again later (Levenberg 1944, Marquardt 1963).
    """

    exact = True  # once updated on all rows: the decrement is the Newton decrement
    proves = True  # accurate enough to end a fit
    patience = np.inf  # steps that may fail to contract the gradient before it is given up
    scaled = False
    belief = 0.0  # in the decrement where steps do not contract the gradient

    factor: Tensor  # (P, n_parameters, n_parameters)
    succeeded: Tensor  # (P,) bool

    def __init__(self, objective: Factorable) -> None:
        self._least = 4 * float(torch.finfo(objective.dtype).eps)
        self._damping = np.full(objective.n_problems, self._least)
        self._damped = False  # more than that
        self._tiny = float(torch.finfo(objective.dtype).tiny)

    def due(self, n_updates: int, contracting: bool, full_step: bool) -> bool:
        return not (contracting and full_step)

    def update(self, objective: Factorable, w: Tensor) -> None:
        self.set(objective.curvature(w))

    def set(self, curvature: Matrices) -> None:
        matrix = curvature.matrix()
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        if self._damped:
            damping = torch.as_tensor(self._damping, dtype=matrix.dtype, device=matrix.device)
            diagonal.mul_(1 + damping[:, None])
        else:
            diagonal.mul_(1 + self._least)
        diagonal.clamp_(min=self._tiny)  # 0 for a parameter with no effect
        self.factor, info = torch.linalg.cholesky_ex(matrix)
        self.succeeded = info == 0

    def solve(self, v: Tensor) -> Tensor:
        if v.shape[0] == self.factor.shape[0]:
            return torch.cholesky_solve(v.unsqueeze(2), self.factor).squeeze(2)
        return torch.cholesky_solve(v.view(len(self.factor), -1, v.shape[1]).mT, self.factor).mT.reshape_as(v)

    size = solve  # see `Kronecker.size`

    def select(self, problems: np.ndarray) -> Cholesky:
        """The matrices of some problems."""
        some, index = copy.copy(self), torch.as_tensor(problems, dtype=torch.int64, device=self.factor.device)
        some.factor, some.succeeded = self.factor[index], self.succeeded[index]
        some._damping = self._damping[problems]
        return some

    def may_leave(self, done: np.ndarray) -> np.ndarray:
        """Which of the problems that are done need not stay in the batch."""
        return done

    def learn(self, before: State, trial: Trial) -> np.ndarray:
        return self.damp(trial.verdict == np.inf)

    def damp(self, failed: np.ndarray) -> np.ndarray:
        """Damp more where the factorisation failed; returns where that may still help."""
        if not self._damped and not any(failed):
            return failed
        improvable = failed & (self._damping < MAX_DAMPING)
        damping = np.where(failed, self._damping * 100, self._damping / 100)
        self._damping = np.clip(damping, self._least, MAX_DAMPING)
        self._damped = bool((self._damping > self._least).any())
        return improvable


class NewtonCholesky:
    """Newton directions by a factorisation each, as `NewtonCG` makes them without any."""

    def __init__(self, objective: Factorable) -> None:
        self._objective, self._metric = objective, Cholesky(objective)

    @property
    def objective(self) -> Factorable:
        return self._objective

    def direction(self, state: State) -> tuple[Tensor, Tensor]:
        """The direction (P, n_parameters), and whether the factorisation succeeded, (P,)."""
        self._metric.update(self._objective, state.w)
        return self._metric.solve(state.gradient).neg_(), self._metric.succeeded

    def adapt(self, trust: np.ndarray) -> np.ndarray:
        """Damp more next time where it failed; returns where that may still help."""
        return self._metric.damp(~trust)

    def may_leave(self, done: np.ndarray) -> np.ndarray:
        return done

    def select(self, problems: np.ndarray) -> NewtonCholesky | None:
        """For some of the problems; None where all must stay together."""
        objective = self._objective.select(problems)
        if objective is None:
            return None
        some = copy.copy(self)
        some._objective, some._metric = objective, self._metric.select(problems)
        return some


class Kronecker:
    """``outputs kron columns + diag(decay)``, see `Factors`, by an eigendecomposition of each factor.

    Where there are about as many columns as rows, their factor is shrunk towards its diagonal.
    """

    exact = proves = False
    patience = 40
    scaled = True
    belief = 0.1  # it was seen to underrate the decrease still to come by up to ten

    def __init__(self, objective: Factorable, sample: Factorable, n_sampled: float) -> None:
        self._sample, self._n_sampled = sample, n_sampled
        self._exact = objective.dtype
        self._dtype = objective.rows.dtype if sample.dtype == objective.dtype else sample.dtype
        self._vectors = self._curve = torch.empty(0, dtype=self._exact, device=objective.rows.device)
        self._shift_invariant = objective.n_outputs > 1
        self.succeeded = torch.ones(objective.n_problems, dtype=torch.bool, device=objective.rows.device)

    def due(self, n_updates: int, contracting: bool, full_step: bool) -> bool:
        return n_updates in (0, 3, 8) or not full_step

    def update(self, objective: Factorable, w: Tensor) -> None:
        self.set(self._sample.curvature(w))

    def set(self, curvature: Matrices) -> None:
        self._vectors = self._curve = self._curve.new_empty(0)  # makes room
        # Small differences of the penalty to the rest are all that regularises them: in float64.
        outputs, columns, decay, strength = (factor.to(self._exact) for factor in curvature.factors())
        d, shared = columns.shape[1], len(columns) < len(decay)
        own = decay[:1] if shared else decay
        diagonal = columns.diagonal(dim1=1, dim2=2).clone()
        shrinkage = 0.5 * d / (d + self._n_sampled)
        columns = columns.mul_(1 - shrinkage)
        columns.diagonal(dim1=1, dim2=2).add_(shrinkage * diagonal)
        # An intercept has no penalty, nor has any column at C = inf.
        full = torch.where(own > 0, own, 1e-3 * own.mean(dim=1, keepdim=True))
        full = torch.where(diagonal > 0, full + ROUNDING * diagonal, 1.0)
        root = full.rsqrt()
        curves, vectors = torch.linalg.eigh(columns.mul_(root[:, :, None]).mul_(root[:, None]))
        if shared:  # the penalty of another strength on the same columns: the same eigenvectors
            weaker = (strength[:1] / strength)[:, None]
            root = root * weaker.sqrt() * torch.where(decay > 0, own / (decay * weaker), 1.0).sqrt()
            curves = curves * weaker
        of_outputs, U = torch.linalg.eigh(outputs)
        curve = of_outputs.clamp(min=0)[:, :, None] * curves.clamp(min=0)[:, None] + 1  # (P, K, m)
        centred = U - U.mean(dim=1, keepdim=True) if self._shift_invariant else U  # what it makes too
        matrices = (U.mT, centred, vectors, curve, root[:, None])
        self._U_in, self._U_out, self._vectors, self._curve, self._root = (
            matrix.to(self._dtype) for matrix in matrices
        )

    def solve(self, v: Tensor) -> Tensor:
        P, K, m = self._curve.shape
        x = v.view(-1, K, m).to(self._dtype)  # (P, K, m), or of several problems to each matrix
        curve, U_in, U_out, root = self._curve, self._U_in, self._U_out, self._root
        n = len(x) // P
        if n > 1:
            curve, U_in, U_out, root = (
                each.repeat_interleave(n, dim=0) for each in (curve, U_in, U_out, root)
            )
        x = torch.bmm(U_in, self._times(x * root, self._vectors)).div_(curve)
        return self._times(torch.bmm(U_out, x), self._vectors.mT).mul_(root).view(v.shape).to(v.dtype)

    @staticmethod
    def _times(x: Tensor, vectors: Tensor) -> Tensor:
        """``x @ vectors``, of which there may be fewer: (_, K, m)."""
        return torch.bmm(x.view(len(vectors), -1, x.shape[2]), vectors).view(x.shape)

    def size(self, v: Tensor) -> Tensor:
        """What ``v @ size(v)`` measures a gradient by: cheap, and the inverse of the metric or nearly so."""
        return self.solve(v)

    def select(self, problems: np.ndarray) -> Kronecker:
        """The matrices of some problems."""
        some, index = copy.copy(self), torch.as_tensor(problems, dtype=torch.int64, device=self._curve.device)
        matrices = (self._U_in, self._U_out, self._curve, self._root, self.succeeded)
        some._U_in, some._U_out, some._curve, some._root, some.succeeded = (each[index] for each in matrices)
        if len(self._vectors) > 1:
            some._vectors = self._vectors[index]
        return some

    def may_leave(self, done: np.ndarray) -> np.ndarray:
        return np.zeros_like(done)  # what it is made of is of all problems

    def learn(self, before: State, trial: Trial) -> np.ndarray:
        return np.full(trial.step.shape, False)


class SampledFisher:
    """The Fisher matrix over a sample of the rows, solved with by conjugate gradients.

    The preconditioner is the Kronecker approximation to it. Where the sample is all rows the
    directions are Newton's.

    References
    ----------
    Byrd, Chin, Neveitt, Nocedal (2011), On the use of stochastic Hessian information in optimization
    methods for machine learning, SIAM Journal on Optimization 21(3).
    Eisenstat, Walker (1996), Choosing the forcing terms in an inexact Newton method, SIAM Journal on
    Scientific Computing 17(1).
    """

    patience = 5
    scaled = False
    belief = 0.1
    ACCURACY, FAR_ACCURACY = 0.1, 0.5
    STEPS, STEPS_ON_SAMPLE = 16, 64
    MANY_STEPS = 12  # for which the preconditioner must be old

    def __init__(
        self, objective: Factorable, sample: Factorable, n_sampled: int, exact: bool, tol: float | None = None
    ) -> None:
        self.exact, self._sample = exact, sample
        self.proves, self._decrease = False, NEARLY * (tol or 0.0) ** 2
        # All rows are no sample: directions in which they do not vary have no curvature but the penalty's.
        self._preconditioner = Kronecker(objective, sample, np.inf if exact else n_sampled)
        self._n_updates, self._last_steps = 0, 0
        # In exact arithmetic n_parameters steps solve it; many more than that is rounding, not progress.
        self._most, self._ceiling = self.STEPS_ON_SAMPLE, 4 * objective.n_parameters + self.STEPS_ON_SAMPLE
        self._accuracy, self._on_sample = self.FAR_ACCURACY, not exact
        self.succeeded = self._preconditioner.succeeded

    def due(self, n_updates: int, contracting: bool, full_step: bool) -> bool:
        if self._on_sample:
            self._on_sample, self._accuracy, self._most = False, self.ACCURACY, self.STEPS
        return self.exact or n_updates in (0, 1, 2, 3, 5, 8) or not full_step

    def update(self, objective: Factorable, w: Tensor) -> None:
        self._curvature = self._sample.curvature(w.to(self._sample.dtype))
        # The first one is of weights 0 mostly: far from what it is later.
        if self._n_updates < 1 or self._last_steps > self.MANY_STEPS:
            self._preconditioner.set(self._curvature)
        self._n_updates += 1

    def solve(self, v: Tensor) -> Tensor:
        largest = v.abs().amax(dim=1, keepdim=True)
        largest = torch.where(largest > 0, largest, 1.0)
        b = (v / largest).to(self._sample.dtype)
        # Once little is left to gain the direction is to prove that it is.
        accuracy = torch.full_like(b[:, 0], CG_ACCURACY if self.proves else self._accuracy)
        x, reached, self._last_steps = conjugate_gradient(
            self._curvature.product, b, self._preconditioner.solve, self._most, accuracy
        )
        self.succeeded = reached <= accuracy if self.exact else self._preconditioner.succeeded
        return x.to(v.dtype) * largest

    def size(self, v: Tensor) -> Tensor:
        return self._preconditioner.solve(v)

    def select(self, problems: np.ndarray) -> None:
        """What it is made of is of all problems, so they stay together."""

    def may_leave(self, done: np.ndarray) -> np.ndarray:
        return np.zeros_like(done)  # what it is made of is of all problems

    def learn(self, before: State, trial: Trial) -> np.ndarray:
        """Solve as accurately as the quadratic model is; returns where more steps may help."""
        step, predicted = trial.step, trial.step * (1 - trial.step / 2) * trial.decrement
        moved = (step > 0) & (predicted > 0)
        if moved.any():
            actual = (before.objective - trial.state.objective)[moved] / predicted[moved]
            self._accuracy = float(np.clip(np.abs(actual - 1).max(), self.ACCURACY, self.FAR_ACCURACY))
        self.proves = self.exact and bool((trial.decrement / 2 <= self._decrease * before.objective).all())
        failed = trial.verdict == np.inf
        if failed.any():
            self._accuracy, self._most = self.ACCURACY, 2 * self._most
        return failed & (self._most <= self._ceiling)


class Shared:
    """A metric at fixed weights that serves several problems each: those of a fold have all rows' metric.

    Problem p has the matrix ``p // n_each`` of `metric`.
    """

    exact = proves = False
    belief = 0.1

    def __init__(self, metric: Cholesky | Kronecker, n_each: int) -> None:
        self._metric, self._n_each, self.scaled = metric, n_each, metric.scaled
        # What is the whole Fisher matrix of all rows, or of many, is soon seen not to be a fold's.
        self.patience = 5.0 if metric.exact else metric.patience
        self.succeeded = metric.succeeded.repeat_interleave(n_each)

    def due(self, n_updates: int, contracting: bool, full_step: bool) -> bool:
        return False

    def update(self, objective: Factorable, w: Tensor) -> None:
        """It stays as it is."""

    def solve(self, v: Tensor) -> Tensor:
        return self._metric.solve(v)

    def size(self, v: Tensor) -> Tensor:
        return self._metric.size(v)

    def may_leave(self, done: np.ndarray) -> np.ndarray:
        """Those of a matrix leave together."""
        return done.reshape(-1, self._n_each).all(axis=1).repeat(self._n_each)

    def select(self, problems: np.ndarray) -> Shared:
        return Shared(self._metric.select(problems[:: self._n_each] // self._n_each), self._n_each)

    def learn(self, before: State, trial: Trial) -> np.ndarray:
        return np.full(trial.step.shape, False)


Metric: TypeAlias = Cholesky | Kronecker | SampledFisher | Shared
