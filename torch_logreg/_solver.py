"""The contracts `Rows`, `Objective` and `Solver`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg._csr import CsrMatrix


class Sparse(NamedTuple):
    """A CSR matrix and its transpose, also as CSR: products with either read it in order."""

    csr: CsrMatrix  # (n_rows, n_features)
    transpose: CsrMatrix  # (n_features, n_rows)
    few: scipy.sparse.csr_array | None = None  # the matrix, where products are too small for several threads

    @property
    def shape(self) -> tuple[int, int]:
        return self.csr.shape


Matrix = Tensor | Sparse


class Block(NamedTuple):
    """Some rows, whole."""

    X: Matrix  # (n_rows, n_features)
    target: Tensor  # (n_rows,), as the loss encodes it
    weights: Tensor  # (1, n_rows), or (P, n_rows) where the problems weigh rows differently


class Sample(NamedTuple):
    """Some rows drawn at random. The first few of them are a sample too, a smaller one.

    Row i is in a sample of n with probability ``min(1, n * measure[i])``.
    """

    gather: Callable[[slice], Block]  # some of them, as they are
    own: Tensor  # (1 or P, n_rows), their weights as they are
    measure: Tensor  # (n_rows,)
    key: Tensor  # (n_rows,) rising: the first k rows are a sample of size key[k]

    def weights(self, rows: slice, size: Tensor | int) -> Tensor:
        """Weights over the chance to be in a sample of `size`, (1 or P, n)."""
        return self.own[:, rows] / (self.measure[rows] * size).clamp(max=1.0)


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
    gathers: bool = False  # whether `subset` works, and makes rows that are faster to read than all

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """All rows once, in the same order at every call; counts them in `rows_read`.

        The next may take the memory of the one before.
        """

    @abstractmethod
    def minibatches(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Block]:
        """All rows once, `batch_size` at a time, in an order drawn from `generator`, a CPU one.

        None is all rows in one block, in their own order: nothing is drawn. Counted in `rows_read`.
        """

    @abstractmethod
    def total(self, partial: Tensor) -> Tensor:
        """The sum of `partial` over all holders of rows."""

    @abstractmethod
    def weight_sum(self, dtype: torch.dtype) -> Tensor:
        """Of all rows, (1,) or (P,) as in `Block`."""

    @abstractmethod
    def sample(self, n_rows: int, groups: Callable[[Tensor], Tensor], generator: torch.Generator) -> Sample:
        """About `n_rows` rows at random, in random order; `groups` makes group numbers of targets.

        A row is drawn with a probability that grows with its weight and with the rarity of its group.
        """

    def select(self, problems: np.ndarray) -> Rows | None:
        """The rows as some of the problems weigh them; None where that is not known."""
        return None

    def subset(self, drawn: Tensor) -> Rows:
        """The rows of the numbers `drawn`, in memory of their own."""
        raise NotImplementedError

    @abstractmethod
    def check_finite(self, found: Tensor) -> None:
        """Raise ValueError if `found`, sums over the rows, is not finite: X is not, or is too large."""


class Factors(NamedTuple):
    """Of the approximation ``outputs kron columns + diag(decay)`` to a Fisher matrix.

    It would be exact if the Fisher information of a row's outputs and its columns were independent
    (Martens, Grosse 2015, Optimizing neural networks with Kronecker-factored approximate curvature).
    """

    outputs: Tensor  # (P, K, K)
    columns: Tensor  # (P, m, m), of rows weighted by the information they hold; or (1, m, m) for all problems
    decay: Tensor  # (P, m)
    strength: Tensor  # (P,) of the penalty; above 0 with one `columns`, in the coordinates of the first


class Curvature(NamedTuple):
    """The Fisher matrix of P problems at fixed weights, penalty included.

    It is the Hessian wherever the objective is a sum of losses at linear predictions. Nothing is
    read of the rows before one of the three is called.
    """

    product: Callable[[Tensor], Tensor]  # of v (P, n_parameters): the matrix times v, (P, n_parameters)
    diagonal: Callable[[], Tensor]  # (P, n_parameters)
    matrix: Callable[[], Tensor]  # (P, n_parameters, n_parameters), regular where only a gauge is free
    factors: Callable[[], Factors]


class Objective(ABC):
    """F of P problems over one set of rows, as a function of the weights ``w`` (P, n_parameters).

    The coordinates are the objective's own choice (scaled and centred columns for the linear
    model): a solver may treat all coordinates alike.

    `batches` are the same problems on random samples of the rows, each several times larger than the one
    before, in the same coordinates: for a solver that starts on few rows. Empty where all rows are few.
    """

    n_problems: int
    n_outputs: int
    n_parameters: int
    dtype: torch.dtype
    rows: Rows
    batches: Sequence[Batch] = ()
    has_metric: bool = False  # whether `natural` is worth more than any preconditioner

    @property
    def eps(self) -> float:
        """What a sum over the rows is rounded by, relative to it."""
        return float(torch.finfo(self.rows.dtype).eps)

    @abstractmethod
    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """F (P,) and its gradient (P, n_parameters), in one pass over the rows."""

    @abstractmethod
    def value(self, w: Tensor) -> Tensor:
        """F (P,), in one pass over the rows."""

    def batch_value_and_gradient(self, w: Tensor, block: Block, n_nominal: int) -> tuple[Tensor, Tensor]:
        """Estimates of F and its gradient from a minibatch. With the next two, what SGD needs besides.

        The sums over its rows are scaled by ``n_rows / n_nominal``, also where a last batch has fewer rows
        than the nominal: averaging that one by its own size would give its rows more weight than the others.
        """
        raise NotImplementedError

    def batch_gradient(self, w: Tensor, block: Block, n_nominal: int) -> Tensor:
        """The second of `batch_value_and_gradient`."""
        return self.batch_value_and_gradient(w, block, n_nominal)[1]

    def batch_value(self, w: Tensor, block: Block, n_nominal: int) -> Tensor:
        """The first of `batch_value_and_gradient`, with the same randomness as its last call."""
        raise NotImplementedError

    @abstractmethod
    def curvature(self, w: Tensor) -> Curvature:
        """The Fisher matrix at `w`."""

    def natural(self, gradient: Tensor) -> Tensor:
        """The direction that stands for a gradient, both (P, n_parameters), in the coordinates' metric."""
        return gradient.clone()

    def stretch(self, w: Tensor, direction: Tensor) -> Tensor:
        """A first Newton direction (P, n_parameters), as far as it is best to go, if that is known."""
        return direction

    def reach(self, direction: Tensor) -> Tensor:
        """By how much the step `direction` moves a raw prediction at most, (P,); 0 where it is not known."""
        return torch.zeros_like(direction[:, 0])

    def active(self, w: Tensor, part: float) -> Objective | None:
        """The objective over the rows that hold `part` of the Fisher information at `w`, if these are few.

        The sums over rows are not scaled up for the others: its Fisher matrix is at most that of all rows,
        so a Newton decrement by it is at least what it is by that. None if they are not few, or it is not
        known.
        """
        return None

    def sketch(self, w: Tensor, n: int) -> Tensor | None:
        """V (n, n_parameters) of rows drawn at random: V^T V is about the Fisher matrix without the penalty.

        Always the same draw. None where the matrix is no sum of as simple a term a row, or is cheap anyway.
        """
        return None

    def decay(self) -> Tensor:
        """The diagonal of the penalty's Hessian (P, n_parameters), for who asked for a `sketch`."""
        raise NotImplementedError

    def select(self, problems: np.ndarray) -> Objective | None:
        """Some of the problems, without batches; None where all must stay together."""
        return None

    def rough(self) -> Objective:
        """The same in float32, where that is cheaper, for a metric that need not be exact."""
        return self


class Batch(NamedTuple):
    """The problems on a random sample of the rows."""

    objective: Objective
    error: float  # gradientᵀ F⁻¹ gradient expected of sampling alone at the optimum; inf: only a metric
    n_rows: int


class Iteration(NamedTuple):
    """What one update of the weights looked like; every array is (P,)."""

    number: int  # from 0
    objective: np.ndarray  # F before the update
    gradient_norm: np.ndarray  # max |gradient| before the update
    step: np.ndarray  # 1 is the whole step
    rows_read: int  # so far, by every pass for whatever purpose
    w: Tensor  # (P, n_parameters) after the update
    done: np.ndarray  # bool, whether this was the last update


class Solution(NamedTuple):
    """Where a solver stopped, and why; every array is (P,)."""

    w: Tensor  # (P, n_parameters)
    objective: np.ndarray
    gradient_norm: np.ndarray
    n_iter: np.ndarray
    reasons: list[str]  # a key of REASONS, or "converged"


Callback = Callable[[Iteration], bool]

# Programs tell warnings of an unfinished fit by these words, which are scikit-learn's.
FAILED = "{solver} failed to converge"
MORE_ITERATIONS = "Increase the number of iterations to improve the convergence (max_iter={max_iter})"

REASONS = {
    "max_iter": "it reached max_iter={max_iter}",
    "precision": (
        "no step decreases the objective any more at {dtype} precision; "
        "use float64 data, or a larger tol if this accuracy is enough"
    ),
    "rounding": (
        "columns far from 0 for what they vary leave too few digits of {dtype} to the predictions; "
        "use float64 data, or subtract the means of the columns"
    ),
    "collinear": (
        "some columns are so nearly combinations of others that {dtype} cannot tell them apart, and yet it "
        "matters; subtract the means of columns far from 0, or leave some out"
    ),
    "underflow": (
        "columns of values below 1e-150 were left out, for their squares are 0; multiply them by a power of "
        "ten"
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
