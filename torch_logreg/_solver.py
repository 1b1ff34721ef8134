"""The contracts `Rows`, `Objective` and `Solver`, and what solvers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ARMIJO = 1e-4
MAX_HALVINGS = 30
CG_STEPS, CG_MAX_STEPS = 16, 4096
CG_ACCURACY = 1e-3  # of a direction that is to prove convergence
CG_ACCURACY_FAR = 0.1  # of any other


class Sparse(NamedTuple):
    """A CSR matrix and its transpose, also as CSR: products with either read it in order."""

    csr: Tensor  # (n_rows, n_features)
    transpose: Tensor  # (n_features, n_rows)

    @property
    def shape(self) -> torch.Size:
        return self.csr.shape


Matrix = Tensor | Sparse


class Block(NamedTuple):
    """Some rows, whole."""

    X: Matrix  # (n_rows, n_features)
    target: Tensor  # (n_rows,), as the loss encodes it
    weights: Tensor  # (1, n_rows), or (P, n_rows) where the problems weigh rows differently


class Rows(ABC):
    """Where the rows are.

    A sum over all rows is ``rows.total`` of the sum over ``rows.blocks()``; that is the only way
    in which an objective looks at data, so rows may be in memory, streamed or on other processes.
    """

    n_rows: int
    n_features: int
    dtype: torch.dtype
    device: torch.device
    rows_read: int = 0  # by all calls of `blocks` so far

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """All rows once, in the same order at every call; counts them in `rows_read`."""

    @abstractmethod
    def minibatches(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Block]:
        """All rows once, `batch_size` at a time, in an order drawn from `generator`, a CPU one.

        None is all rows in one block, in their own order: nothing is drawn. Counted in `rows_read`.
        """

    @abstractmethod
    def total(self, partial: Tensor) -> Tensor:
        """The sum of `partial` over all holders of rows."""


class Curvature(NamedTuple):
    """The Fisher matrix of P problems at fixed weights, penalty included.

    It is the Hessian wherever the objective is a sum of losses at linear predictions. Nothing is
    read of the rows before one of the three is called.
    """

    product: Callable[[Tensor], Tensor]  # of v (P, n_parameters): the matrix times v, (P, n_parameters)
    diagonal: Callable[[], Tensor]  # (P, n_parameters)
    matrix: Callable[[], Tensor]  # (P, n_parameters, n_parameters), regular where only a gauge is free


class Objective(ABC):
    """F of P problems over one set of rows, as a function of the weights ``w`` (P, n_parameters).

    The coordinates are the objective's own choice (scaled and centred columns for the linear
    model): a solver may treat all coordinates alike.
    """

    n_problems: int
    n_parameters: int
    dtype: torch.dtype
    rows: Rows

    @abstractmethod
    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """F (P,) and its gradient (P, n_parameters), in one pass over the rows."""

    @abstractmethod
    def value(self, w: Tensor) -> Tensor:
        """F (P,), in one pass over the rows."""

    @abstractmethod
    def batch_value_and_gradient(self, w: Tensor, block: Block, n_nominal: int) -> tuple[Tensor, Tensor]:
        """Estimates of F and its gradient from a minibatch.

        The sums over its rows are scaled by ``n_rows / n_nominal``, also where a last batch has fewer rows
        than the nominal: averaging that one by its own size would give its rows more weight than the others.
        """

    def batch_gradient(self, w: Tensor, block: Block, n_nominal: int) -> Tensor:
        """The second of `batch_value_and_gradient`."""
        return self.batch_value_and_gradient(w, block, n_nominal)[1]

    @abstractmethod
    def batch_value(self, w: Tensor, block: Block, n_nominal: int) -> Tensor:
        """The first of `batch_value_and_gradient`, with the same randomness as its last call."""

    @abstractmethod
    def curvature(self, w: Tensor) -> Curvature:
        """The Fisher matrix at `w`."""


class Iteration(NamedTuple):
    """What one update of the weights looked like; every array is (P,)."""

    number: int  # from 0
    objective: np.ndarray  # F before the update
    gradient_norm: np.ndarray  # max |gradient| before the update
    step: np.ndarray  # 1 is the whole step
    rows_read: int  # so far, by every pass for whatever purpose
    w: Tensor  # (P, n_parameters) after the update


class Solution(NamedTuple):
    """Where a solver stopped, and why; every array is (P,)."""

    w: Tensor  # (P, n_parameters)
    objective: np.ndarray
    gradient_norm: np.ndarray
    n_iter: np.ndarray
    reasons: list[str]  # a key of REASONS, or "converged"


Callback = Callable[[Iteration], bool]

REASONS = {
    "max_iter": "it reached max_iter={max_iter}; increase max_iter",
    "precision": (
        "no step decreases the objective any more at {dtype} precision; "
        "use float64 data, or a larger tol if this accuracy is enough"
    ),
    "separation": (
        "the classes can be separated perfectly, so with no penalty, or next to none, the coefficients "
        "grow for ever; use a smaller, finite C"
    ),
}


class Solver(ABC):
    """A frozen dataclass: hyper-parameters in, `minimize` out."""

    max_iter: int
    tol: float | None  # None: exactly max_iter updates

    @abstractmethod
    def minimize(self, objective: Objective, w: Tensor, callback: Callback) -> Solution:
        """Minimise `objective` from `w`, calling `callback` after every update.

        A callback that returns True stops the solver.
        """


class State(NamedTuple):
    """A point, what F is there, and the same on the host."""

    w: Tensor  # (P, n_parameters)
    value: Tensor  # (P,)
    gradient: Tensor  # (P, n_parameters)
    objective: np.ndarray  # (P,)
    gradient_norm: np.ndarray  # (P,) max |gradient|


def start(objective: Objective, w: Tensor) -> State:
    value, gradient = objective.value_and_gradient(w)
    return State(w, value, gradient, *_to_host([value, gradient.abs().amax(dim=1)]))


def _to_host(numbers: list[Tensor]) -> np.ndarray:
    """Several (P,) tensors in one transfer."""
    return torch.stack([number.to(numbers[-1].dtype) for number in numbers]).cpu().numpy()


class Trial(NamedTuple):
    """Where a line search ended."""

    state: State
    step: np.ndarray  # (P,), 0 for a problem that did not move
    decrement: np.ndarray  # (P,) -gradient @ direction: twice the decrease a Newton step predicts
    trust: np.ndarray  # (P,) bool


def backtrack(objective: Objective, state: State, direction: Tensor, trust: Tensor) -> Trial:
    """Armijo backtracking from the whole step, each problem with its own step length.

    All that the host learns of an iteration, `trust` (P,) bool included, comes with the verdict on a
    trial: a step accepted at once costs one pass and one transfer. A value that rises by rounding
    alone is accepted; a problem whose direction does not descend stays where it is.
    """
    slope = (state.gradient * direction).sum(dim=1)
    descends = slope <= 0  # False for NaN too
    noise = 4 * torch.finfo(objective.rows.dtype).eps * state.value.abs()
    step = torch.ones_like(slope)
    for _ in range(MAX_HALVINGS):
        w = state.w + step[:, None] * direction
        value, gradient = objective.value_and_gradient(w)
        enough = (value <= state.value + ARMIJO * step * slope + noise) & descends
        report = _to_host([enough, descends, trust, step, -slope, value, gradient.abs().amax(dim=1)])
        if (report[0] == report[1]).all():
            break
        step = torch.where(enough, step, step / 2)
    moved = report[0].astype(bool)
    reached = State(w, value, gradient, report[5], report[6])
    if not moved.all():
        reached = State(
            torch.where(enough[:, None], w, state.w),
            torch.where(enough, value, state.value),
            torch.where(enough[:, None], gradient, state.gradient),
            np.where(moved, report[5], state.objective),
            np.where(moved, report[6], state.gradient_norm),
        )
    return Trial(reached, report[3] * moved, report[4], report[2].astype(bool))


class Progress:
    """Which of P problems are done and why, how often each was updated, and how much was read."""

    def __init__(self, objective: Objective, tol: float | None) -> None:
        eps = float(torch.finfo(objective.rows.dtype).eps)
        self.tol, self._rows = tol, objective.rows
        # A decrease below rounding cannot be seen, whatever tol asks for.
        self._decrease, self._vanished = max((tol or 0.0) ** 2, 4 * eps), eps**2
        self.reasons = ["max_iter"] * objective.n_problems
        self.n_iter = np.zeros(objective.n_problems, dtype=np.int32)
        self.done = np.zeros(objective.n_problems, dtype=bool)

    def record(
        self, before: State, trial: Trial, improvable: np.ndarray, number: int, callback: Callback
    ) -> bool:
        """Take in one update; True once there is nothing left to do.

        A problem is solved if at the weights before the update max |gradient| <= tol and the predicted
        relative decrease <= tol²; that update is taken all the same.
        """
        self.n_iter[~self.done] += 1
        if self.tol is not None:
            self._stop(before, trial, improvable)
        read = self._rows.rows_read
        update = Iteration(number, before.objective, before.gradient_norm, trial.step, read, trial.state.w)
        if callback(update):
            self._conclude(~self.done, "callback")
        return bool(self.done.all())

    def _stop(self, before: State, trial: Trial, improvable: np.ndarray) -> None:
        small = (before.gradient_norm <= self.tol) & (
            trial.decrement / 2 <= self._decrease * before.objective
        )
        self._conclude(before.objective <= self._vanished, "separation")
        self._conclude(trial.trust & small, "converged")
        self._conclude((trial.step == 0) & ~improvable, "precision")

    def _conclude(self, which: np.ndarray, reason: str) -> None:
        for problem in np.flatnonzero(which & ~self.done):
            self.reasons[problem] = reason
            self.done[problem] = True

    def freeze(self, direction: Tensor) -> Tensor:
        """No step for the problems that are done."""
        if not self.done.any():
            return direction
        done = torch.as_tensor(self.done, device=direction.device)
        return torch.where(done[:, None], 0.0, direction)

    def solution(self, state: State) -> Solution:
        return Solution(state.w, state.objective, state.gradient_norm, self.n_iter, self.reasons)


def conjugate_gradient(
    curvature: Curvature, b: Tensor, diagonal: Tensor, n_steps: int, accuracy: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve ``curvature x = b`` for P problems by conjugate gradients with a diagonal preconditioner.

    Always `n_steps` steps: a problem whose preconditioned residual has fallen by the factor `accuracy`
    (P,) stands still, so nothing need be known on the host. Returns x and the factor reached, (P,).

    References
    ----------
    Hestenes, Stiefel (1952), Journal of Research of the National Bureau of Standards 49(6).
    """
    x = torch.zeros_like(b)
    residual = b
    z = residual / diagonal
    p = z
    rz = first = (residual * z).sum(dim=1)
    for _ in range(n_steps):
        active = rz > accuracy.square() * first
        product = curvature.product(p)
        curve = (p * product).sum(dim=1)
        active = active & (curve > 0)
        alpha = torch.where(active, rz / curve, 0.0)
        x = x + alpha[:, None] * p
        residual = residual - alpha[:, None] * product
        z = residual / diagonal
        rz_new = (residual * z).sum(dim=1)
        p = torch.where(active[:, None], z + (rz_new / rz)[:, None] * p, p)
        rz = torch.where(active, rz_new, rz)
    reached = torch.where(first > 0, (rz / first).sqrt(), 0.0)
    return x, reached


class NewtonCG:
    """Newton directions by conjugate gradients, with as many steps as the last one turned out to need.

    The steps of one solve are decided before it starts, so nothing comes to the host during it.
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
        direction, reached = conjugate_gradient(curvature, -state.gradient, diagonal, self._n_steps, accuracy)
        return direction, reached <= accuracy

    def adapt(self, trust: np.ndarray) -> np.ndarray:
        """More steps next time where these were too few; returns where that may still help."""
        improvable = ~trust & (self._n_steps < self._max_steps)
        if improvable.any():
            self._n_steps = min(2 * self._n_steps, self._max_steps)
        return improvable
