"""Metrics for natural-gradient steps: what stands in for the Fisher matrix, and how it is solved with."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import ByOutput, Factorable, Fisher, Matrices
from torch_logreg._runtime.devices import looks_are_free
from torch_logreg._runtime.linalg import eigh
from torch_logreg._solvers.conjugate_gradients import AHEAD, CG_ACCURACY, conjugate_gradient
from torch_logreg._solvers.per_problem import Numbers, array, column, each, every, index, pick, some, where
from torch_logreg._solvers.search import State, Trial, provable

NEARLY = 100.0  # times the decrease at which a fit ends: there its prediction must be accurate
ROUNDING = 1e-12  # of its diagonal, added to a factor that nothing else makes regular
MAX_DAMPING = 1.0  # of a Fisher matrix, in parts of its diagonal
LONG = 15  # updates
PROVEN = 1e-3  # in place of `CG_ACCURACY` with Kronecker factors, which leave eigenvalues less far apart


class Metric(ABC):
    """What stands in for the Fisher matrix at a point, of each of several problems."""

    exact = False  # once updated on all rows: the decrement is the Newton decrement
    patience = np.inf  # steps that may fail to contract the gradient before it is given up
    scaled = False  # whether secant pairs scale it to the curvature of the last one
    belief = 0.1  # in the decrement where steps do not contract the gradient, or it was not solved with
    enough = np.inf  # steps after which they are best made with a factorisation, if that is cheap

    failed: Tensor  # (P,) of any dtype, not 0 where directions are no use

    @abstractmethod
    def due(self, n_updates: int, contracting: bool, full_step: bool) -> bool:
        """Whether it is to be updated before the next step."""

    @abstractmethod
    def update(self, at: Fisher) -> None:
        """Make it anew at a point."""

    @abstractmethod
    def solve(self, v: Tensor) -> Tensor:
        """The inverse of the matrix times `v`, both (P, n_parameters)."""

    def size(self, v: Tensor) -> Tensor:
        """What ``v @ size(v)`` measures a gradient by: cheap, and the inverse of the metric or nearly so."""
        return self.solve(v)

    def may_leave(self, done: Numbers) -> Numbers:
        """Which of the problems that are done need not stay: none, where it is made of them all."""
        return np.zeros_like(done)

    @abstractmethod
    def select(self, problems: np.ndarray) -> Metric | None:
        """The matrices of some problems; None where all must stay together."""

    def learn(self, before: State, trial: Trial, failed: Numbers) -> Numbers:
        """Take in a step made just after an update; returns where the next may be better."""
        return each(False, len(self.failed))


class Factorised(Metric):
    """A metric that is factorised once it is made."""

    @abstractmethod
    def set(self, curvature: Matrices) -> None:
        """Make it of these matrices."""


class Cholesky(Factorised):
    """The Fisher matrix at a point, factorised.

    A little of its own diagonal is added to the matrix: as much as rounding may have taken from it,
    more where the factorisation still fails, and less again later (Levenberg 1944, Marquardt 1963).
    """

    exact = True
    belief = 0.0

    factor: Tensor  # (P, n_parameters, n_parameters)

    def __init__(self, objective: Factorable) -> None:
        self._least = 4 * float(torch.finfo(objective.dtype).eps)
        self._damping = each(self._least, objective.n_problems)
        self._damped = False  # more than that
        self._tiny = float(torch.finfo(objective.dtype).tiny)

    def due(self, n_updates: int, contracting: bool, full_step: bool) -> bool:
        return not (contracting and full_step)

    def update(self, at: Fisher) -> None:
        self.set(at)

    def set(self, curvature: Matrices) -> None:
        matrix = curvature.matrix()
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        diagonal.mul_(1 + (column(self._damping, matrix) if self._damped else self._least))
        diagonal.clamp_(min=self._tiny)  # 0 for a parameter with no effect
        self.factor, info = torch.linalg.cholesky_ex(matrix)
        self.failed = info

    def solve(self, v: Tensor) -> Tensor:
        if v.size(0) == self.factor.size(0):
            return torch.cholesky_solve(v.unsqueeze(2), self.factor).squeeze(2)
        return torch.cholesky_solve(v.view(len(self.factor), -1, v.shape[1]).mT, self.factor).mT.reshape_as(v)

    def select(self, problems: np.ndarray) -> Cholesky:
        fewer, here = copy.copy(self), index(problems, self.factor.device)
        fewer.factor, fewer.failed = self.factor[here], self.failed[here]
        fewer._damping = pick(self._damping, problems)
        return fewer

    def may_leave(self, done: Numbers) -> Numbers:
        return done

    def learn(self, before: State, trial: Trial, failed: Numbers) -> Numbers:
        """Damp more where the factorisation failed."""
        if not self._damped and not some(failed):
            return failed
        improvable = failed & (self._damping < MAX_DAMPING)
        damping = where(failed, self._damping * 100, self._damping / 100)
        self._damping = np.clip(damping, self._least, MAX_DAMPING)
        self._damped = some(self._damping > self._least)
        return improvable


class Kronecker(Factorised):
    """``outputs kron columns + diag(decay)``, see `Factors`, by an eigendecomposition of each factor.

    Where there are about as many columns as rows, their factor is shrunk towards its diagonal.
    """

    patience = 40.0
    scaled = True
    belief = 0.1  # it was seen to underrate the decrease still to come by up to ten

    def __init__(self, objective: Factorable, sample: Factorable, n_sampled: float) -> None:
        self._sample, self._n_sampled = sample, n_sampled
        self._exact = objective.dtype
        self._dtype = objective.rows.dtype if sample.dtype == objective.dtype else sample.dtype
        self._vectors = self._curve = torch.empty(0, dtype=self._exact, device=objective.rows.device)
        self._shift_invariant = objective.n_outputs > 1
        self.failed = torch.zeros(objective.n_problems, dtype=self._exact, device=objective.rows.device)

    def due(self, n_updates: int, contracting: bool, full_step: bool) -> bool:
        return n_updates in (0, 3, 8) or not full_step

    def update(self, at: Fisher) -> None:
        self.set(self._sample.at(at.w))

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
        curves, vectors = eigh(columns.mul_(root[:, :, None]).mul_(root[:, None]))
        if shared:  # the penalty of another strength on the same columns: the same eigenvectors
            weaker = (strength[:1] / strength)[:, None]
            root = root * weaker.sqrt() * torch.where(decay > 0, own / (decay * weaker), 1.0).sqrt()
            curves = curves * weaker
        of_outputs, U = eigh(outputs)
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
                of_one.repeat_interleave(n, dim=0) for of_one in (curve, U_in, U_out, root)
            )
        x = torch.bmm(U_in, self._times(x * root, self._vectors)).div_(curve)
        return self._times(torch.bmm(U_out, x), self._vectors.mT).mul_(root).view(v.shape).to(v.dtype)

    @staticmethod
    def _times(x: Tensor, vectors: Tensor) -> Tensor:
        """``x @ vectors``, of which there may be fewer: (_, K, m)."""
        return torch.bmm(x.view(len(vectors), -1, x.shape[2]), vectors).view(x.shape)

    def select(self, problems: np.ndarray) -> Kronecker:
        fewer, here = copy.copy(self), index(problems, self._curve.device)
        matrices = (self._U_in, self._U_out, self._curve, self._root, self.failed)
        fewer._U_in, fewer._U_out, fewer._curve, fewer._root, fewer.failed = (
            of_all[here] for of_all in matrices
        )
        if len(self._vectors) > 1:
            fewer._vectors = self._vectors[here]
        return fewer


class PerOutput(Metric):
    """The blocks of the Fisher matrix of each output with itself, each factorised.

    With a thousand classes next to no row has information on two of them at once, but each class has its
    own rows near it: what the outputs have in common says little of any, and one factor for the columns of
    all of them, as in `Kronecker`, is far from each. Until that has been used for as many steps as take the
    time of the blocks it serves all the same.
    """

    patience = 40.0
    scaled = True
    UPDATES = (0, 10, 25)  # after the first
    SOON = 6  # updates, before which a step that had to be cut does not mean that the metric is old

    def __init__(self, objective: ByOutput) -> None:
        K, m = objective.n_outputs, objective.n_parameters // objective.n_outputs
        # A pass has 2 n m multiplications for each output, and its block, m³ of smaller matrices, takes as
        # long as three times as many (thousand.py).
        self._objective, self._first = objective, int(1.5 * m**2 / objective.rows.n_rows)
        self._last = self._first
        common = at_zero(objective)[0].to(objective.rows.dtype)
        self._inverse = common.expand(K, m, m)
        self._inverse_diagonal = common.diagonal().repeat(K)[None].to(objective.dtype)
        self.failed = torch.zeros(1, dtype=objective.dtype, device=objective.rows.device)

    def due(self, n_updates: int, contracting: bool, full_step: bool) -> bool:
        due = n_updates - self._first in self.UPDATES
        if due or (not full_step and n_updates >= self._last + self.SOON):
            self._last = n_updates
            return True
        return False

    def update(self, at: Fisher) -> None:
        self._inverse = self.failed  # makes room
        blocks = self._objective.blocks(at.w)
        diagonal = blocks.diagonal(dim1=1, dim2=2)
        least, tiny = 16 * torch.finfo(blocks.dtype).eps, torch.finfo(blocks.dtype).tiny
        diagonal.copy_(torch.where(diagonal > tiny, diagonal * (1 + least), 1.0))  # 0 without an effect
        self._inverse_diagonal = (1 / diagonal).view(1, -1).to(at.w.dtype)
        factor, info = torch.linalg.cholesky_ex(blocks)
        del blocks, diagonal
        self.failed = info.amax().view(1).to(at.w.dtype)
        # A solve by the factor for one vector takes several times as long as a product.
        self._inverse = torch.cholesky_inverse(factor)

    def solve(self, v: Tensor) -> Tensor:
        inverse = self._inverse
        x = times_vectors(inverse, v.view(inverse.shape[:2]).to(inverse.dtype))
        return (x - x.mean(dim=0)).view(v.shape).to(v.dtype)  # a shift of all outputs changes nothing

    def size(self, v: Tensor) -> Tensor:
        return v * self._inverse_diagonal

    def select(self, problems: np.ndarray) -> None:
        """There is one."""


def at_zero(objective: ByOutput) -> tuple[Tensor, float]:
    """The inverse (m, m) of a block of the Fisher matrix at parameters 0, and how many of m rows decide."""
    columns, decay, K = objective.columns, objective.decay(), objective.n_outputs
    diagonal = columns.diagonal()
    # An intercept has no penalty.
    full = torch.where(decay > 0, decay, 1e-3 * decay.mean())
    full = torch.where(diagonal > 0, full + ROUNDING * diagonal, 1.0)
    root = full.rsqrt()
    curves, vectors = eigh(columns * root[:, None] * root / K)
    curves, vectors = curves.clamp(min=0), vectors * root[:, None]
    return (vectors / (curves + 1)) @ vectors.T, float((curves / (curves + 1)).sum())


def times_vectors(matrices: Tensor, vectors: Tensor) -> Tensor:
    """``matrices[k] @ vectors[k]`` for each k: (K, m, m), (K, m) -> (K, m)."""
    if matrices.stride(0) == 0:  # of one matrix
        return vectors @ matrices[0].T
    if not looks_are_free(matrices.device):
        return torch.bmm(matrices, vectors[:, :, None])[:, :, 0]
    products = torch.empty_like(vectors)
    for matrix, vector, product in zip(matrices, vectors, products, strict=True):
        torch.mv(matrix, vector, out=product)  # in a batch each takes several times as long
    return products


class SampledFisher(Metric):
    """The Fisher matrix over a sample of the rows, solved with by conjugate gradients.

    The preconditioner is the Kronecker approximation to it. Where the sample is all rows the directions are
    Newton's, and of one problem it is made once the products that it saves pay for it, as `Preconditioner`
    does: with a flat spectrum they never do.

    References
    ----------
    Byrd, Chin, Neveitt, Nocedal (2011), On the use of stochastic Hessian information in optimization
    methods for machine learning, SIAM Journal on Optimization 21(3).
    Eisenstat, Walker (1996), Choosing the forcing terms in an inexact Newton method, SIAM Journal on
    Scientific Computing 17(1).
    """

    patience = 5.0
    ACCURACY, FAR_ACCURACY = 0.1, 0.5
    STEPS, STEPS_ON_SAMPLE = 16, 64
    MANY_STEPS = 12  # for which the preconditioner must be old
    # The time of an eigendecomposition in that of a Gram matrix of as many rows, and of how many outputs more
    # products with the rows take the time; and products from which on it may be better not made (shapes.py).
    EIGEN, MORE_OUTPUTS, LONG_TO_MAKE = 10, 8, 30

    def __init__(
        self, objective: Factorable, sample: Factorable, n_sampled: int, exact: bool, tol: float | None = None
    ) -> None:
        self.exact, self._sample = exact, sample
        self.enough = LONG if exact else np.inf
        self._proves, self._tol, self._decrease = False, tol or 0.0, provable(NEARLY * (tol or 0.0) ** 2)
        # All rows are no sample: directions in which they do not vary have no curvature but the penalty's.
        self._preconditioner = Kronecker(objective, sample, np.inf if exact else n_sampled)
        self._n_updates, self._last_steps, self._natural = 0, 0, objective.hints.natural
        self._cost, self._spent, self._is_made = self._in_products(objective), 0, False
        self._ahead = 0  # products that are expected
        alone = exact and objective.n_problems == 1 and looks_are_free(objective.rows.device)
        self._waits = alone and self._cost >= self.LONG_TO_MAKE
        # In exact arithmetic n_parameters steps solve it; many more than that is rounding, not progress.
        self._most, self._ceiling = self.STEPS_ON_SAMPLE, 4 * objective.n_parameters + self.STEPS_ON_SAMPLE
        self._accuracy, self._on_sample = self.FAR_ACCURACY, not exact
        self.failed = self._preconditioner.failed
        self.belief = 0.0 if exact else 0.1

    def due(self, n_updates: int, contracting: bool, full_step: bool) -> bool:
        if self._on_sample:
            self._on_sample, self._accuracy, self._most = False, self.ACCURACY, self.STEPS
        return self.exact or n_updates in (0, 1, 2, 3, 5, 8) or not full_step

    def update(self, at: Fisher) -> None:
        self._curvature = self._sample.at(at.w.to(self._sample.dtype))
        if self._is_worth_making():
            self._preconditioner.set(self._curvature)
            self._spent, self._is_made = 0, True
        self._n_updates += 1

    def _in_products(self, objective: Factorable) -> float:
        """In the time of how many products with the Fisher matrix the preconditioner is made."""
        n, K = objective.rows.n_rows, objective.n_outputs
        m = objective.n_parameters // K
        return (n * m**2 + self.EIGEN * m**3) / (2 * n * m * (K + self.MORE_OUTPUTS))

    def _is_worth_making(self) -> bool:
        if self._is_made:
            return self._last_steps > self.MANY_STEPS and (not self._waits or self._spent >= self._cost)
        return not self._waits or self._spent + self._ahead >= self._cost

    def solve(self, v: Tensor) -> Tensor:
        largest = v.abs().amax(dim=1, keepdim=True)
        largest = torch.where(largest > 0, largest, 1.0)
        b = (v / largest).to(self._sample.dtype)
        # Once little is left to gain the direction is to prove that it is.
        proof = PROVEN if self._is_made else CG_ACCURACY
        accuracy = torch.full_like(b[:, 0], proof if self._proves else self._accuracy)
        x, reached, self._last_steps = conjugate_gradient(
            self._curvature.product, b, self._precondition, self._most, accuracy
        )
        self._spent += self._last_steps
        self._ahead = 0 if self._proves else AHEAD * self._last_steps
        if self.exact:
            self.failed = (~(reached <= accuracy)).to(v.dtype)
        return x.to(v.dtype) * largest

    def _precondition(self, v: Tensor) -> Tensor:
        return self._preconditioner.solve(v) if self._is_made else self._natural(v)

    def size(self, v: Tensor) -> Tensor:
        return self._precondition(v)

    def select(self, problems: np.ndarray) -> None:
        """What it is made of is of all problems, so they stay together."""

    def learn(self, before: State, trial: Trial, failed: Numbers) -> Numbers:
        """Solve as accurately as the quadratic model is; more steps may help where a solve failed."""
        step, decrement = array(trial.step), array(trial.decrement)
        predicted = step * (1 - step / 2) * decrement
        moved = (step > 0) & (predicted > 0)
        if moved.any():
            actual = array(before.objective - trial.state.objective)[moved] / predicted[moved]
            self._accuracy = float(np.clip(np.abs(actual - 1).max(), self.ACCURACY, self.FAR_ACCURACY))
        small = (decrement / 2 <= self._decrease * before.objective) & (
            trial.state.gradient_norm <= self._tol
        )
        self._proves = self.exact and every(small) and not some(trial.falls_on(before))
        self.belief = 0.1 if self._proves or not self.exact else 0.0
        if some(failed):
            self._accuracy, self._most = self.ACCURACY, 2 * self._most
        return failed & (self._most <= self._ceiling)


class Shared(Metric):
    """A metric at fixed parameters that serves several problems each: those of a fold have all rows' metric.

    Problem p has the matrix ``p // n_each`` of `metric`.
    """

    def __init__(self, metric: Metric, n_each: int) -> None:
        self._metric, self._n_each, self.scaled = metric, n_each, metric.scaled
        # What is the whole Fisher matrix of all rows, or of many, is soon seen not to be a fold's.
        self.patience = 5.0 if metric.exact else metric.patience
        self.failed = metric.failed.repeat_interleave(n_each)

    def due(self, n_updates: int, contracting: bool, full_step: bool) -> bool:
        return False

    def update(self, at: Fisher) -> None:
        """It stays as it is."""

    def solve(self, v: Tensor) -> Tensor:
        return self._metric.solve(v)

    def size(self, v: Tensor) -> Tensor:
        return self._metric.size(v)

    def may_leave(self, done: Numbers) -> Numbers:
        """Those of a matrix leave together."""
        return done.reshape(-1, self._n_each).all(axis=1).repeat(self._n_each)

    def select(self, problems: np.ndarray) -> Shared | None:
        fewer = self._metric.select(problems[:: self._n_each] // self._n_each)
        return None if fewer is None else Shared(fewer, self._n_each)
