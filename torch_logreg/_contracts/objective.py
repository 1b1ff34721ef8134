"""The contracts of objectives: F of several problems, and what else some of them know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from torch_logreg._contracts.rows import Block, Minibatched, Rows


class Factors(NamedTuple):
    """The factors of the approximation ``outputs kron columns + diag(decay)`` to a Fisher matrix.

    It would be exact if the Fisher information of a row's outputs and its columns were independent
    (Martens, Grosse 2015, Optimizing neural networks with Kronecker-factored approximate curvature).
    """

    outputs: Tensor  # (P, K, K)
    columns: Tensor  # (P, m, m), of rows weighted by the information they hold; or (1, m, m) for all problems
    decay: Tensor  # (P, m)
    strength: Tensor  # (P,) of the penalty; above 0 with one `columns`, in the coordinates of the first


class Sketch(NamedTuple):
    """Rows V and a diagonal, with which ``V.T @ V + diag(decay)`` is about the Fisher matrix."""

    rows: Tensor  # (n, n_parameters)
    decay: Tensor  # (1, n_parameters), of the penalty


class Point(ABC):
    """F of P problems at some parameters, and its Fisher matrix there, penalty included, by its products.

    The matrix is the Hessian wherever the objective is a sum of losses at linear predictions. Nothing is
    read of the rows before it is asked for something, and what is found may be kept: who goes on from a
    point hands it on, and never writes into its parameters. The last six methods spare a solver work and
    change no optimum; here are their answers where nothing is known.
    """

    w: Tensor  # (P, n_parameters)

    @abstractmethod
    def value_and_gradient(self) -> tuple[Tensor, Tensor]:
        """F (P,) and its gradient (P, n_parameters), in one pass over the rows."""

    @abstractmethod
    def product(self, v: Tensor) -> Tensor:
        """The matrix times `v`, both (P, n_parameters)."""

    def quick_product(self, v: Tensor) -> Tensor:
        """The same as accurately as the rows are given, which may take less time; `v` is of about 1."""
        return self.product(v)

    def diagonal(self) -> Tensor | None:
        """The diagonal of the matrix, (P, n_parameters); None where `Hints.natural` is worth more."""
        return None

    def sketch(self, n: int) -> Sketch | None:
        """The matrix from `n` rows drawn at random, always the same.

        None where the matrix is no sum of as simple a term a row, or is cheap anyway.
        """
        return None

    def active(self, part: float) -> Point | None:
        """The point over the rows that hold `part` of the Fisher information here, if these are few.

        The sums over rows are not scaled up for the others: its Fisher matrix is at most that of all rows,
        so a Newton decrement by it is at least what it is by that. None if they are not few, or it is not
        known.
        """
        return None

    def distance(self, other: Point) -> Tensor | None:
        """By how much raw predictions differ from those at `other`, (P,); None if that takes a pass."""
        return None

    def stretch(self, direction: Tensor) -> Tensor:
        """A first Newton direction (P, n_parameters), as far as it is best to go, if that is known."""
        return direction


class Matrices(ABC):
    """A Fisher matrix or the Kronecker approximation to it, of which a metric is made."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """The matrix (P, n_parameters, n_parameters), regular where only a gauge is free."""

    @abstractmethod
    def factors(self) -> Factors:
        """The Kronecker approximation to it."""


class Fisher(Point, Matrices):
    """A point where the Fisher matrix can be made, too."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """Its diagonal, (P, n_parameters)."""


class Hints:
    """Answers that spare a solver work and change no optimum: here those where nothing is known."""

    def natural(self, gradient: Tensor) -> Tensor:
        """The direction that stands for a gradient, both (P, n_parameters), in the coordinates' metric."""
        return gradient.clone()

    def reach(self, direction: Tensor) -> Tensor:
        """By how much the step `direction` moves a raw prediction at most, (P,); 0 where it is not known."""
        return torch.zeros_like(direction[:, 0])


NO_HINTS = Hints()


class Objective(ABC):
    """F of P problems over one set of rows, as a function of the parameters ``w`` (P, n_parameters).

    The coordinates are the objective's own choice (scaled and centred columns for the linear
    model): a solver may treat all coordinates alike. What some objectives can do besides is a contract of
    its own: `Curved`, `Factorable`, `Stochastic`. A solver says which of these it needs.
    """

    n_problems: int
    n_parameters: int
    dtype: torch.dtype
    rows: Rows
    # Factors of |w| (1 or P, n_parameters) in an L1 term that no value and no gradient here has in it; None
    # where there is no such term. A step of length a then ends by shrinking w by a times these.
    left_out: Tensor | None = None

    def zeros(self) -> Tensor:
        """The parameters 0, (P, n_parameters)."""
        shape = (self.n_problems, self.n_parameters)
        return torch.zeros(shape, dtype=self.dtype, device=self.rows.device)

    @property
    def hints(self) -> Hints:
        """Knowledge of F that a solver may do without."""
        return NO_HINTS

    @abstractmethod
    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """F (P,) and its gradient (P, n_parameters), in one pass over the rows."""

    @abstractmethod
    def value(self, w: Tensor) -> Tensor:
        """F (P,), in one pass over the rows."""


class Curved(Objective):
    """An objective that can multiply with its Fisher matrix.

    `batches` are the same problems on random samples of the rows, each several times larger than the one
    before, in the same coordinates: for a solver that starts on few rows. Empty where all rows are few.
    """

    eps: float  # the rounding of a sum over the rows, relative to it
    n_outputs: int
    batches: Sequence[Batch] = ()
    is_orthogonal = False  # whether the Fisher matrix at parameters 0 is nearly a multiple of the identity

    @abstractmethod
    def at(self, w: Tensor) -> Point:
        """F at `w`."""

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        return self.at(w).value_and_gradient()

    @abstractmethod
    def select(self, problems: np.ndarray) -> Curved | None:
        """Some of the problems, without batches; None where all must stay together."""

    def factorable(self) -> Factorable | None:
        """The objective itself, if its Fisher matrix can be made; else None."""
        return None

    def by_output(self) -> ByOutput | None:
        """The objective itself, if it also knows each output by itself; else None."""
        return None


class Factorable(Curved):
    """An objective whose Fisher matrix can be made, or parts of it."""

    @abstractmethod
    def at(self, w: Tensor) -> Fisher:
        """See `Curved`."""

    @abstractmethod
    def select(self, problems: np.ndarray) -> Factorable | None:
        """See `Curved`."""

    @abstractmethod
    def rough(self) -> Factorable:
        """The same in float32, where that is cheaper, for a metric that need not be exact."""

    def factorable(self) -> Factorable:
        return self


class ByOutput(Factorable):
    """A factorable objective of one problem and many outputs, over rows that are drawn and gathered.

    Its parameters are a vector of m columns for each output. The one batch is of so few rows that it only
    tells of F at parameters 0.
    """

    seed: int  # of what is drawn

    @abstractmethod
    def minibatches(self, n_rows: int, generator: torch.Generator) -> Iterator[Callable[[Tensor], Tensor]]:
        """Estimates of the gradient, penalty included, from `n_rows` rows each: of w (n_outputs, m)."""

    @property
    @abstractmethod
    def columns(self) -> Tensor:
        """The mean over rows of the inner products of the columns, (m, m)."""

    @abstractmethod
    def decay(self) -> Tensor:
        """The diagonal of the penalty's Hessian, (m,)."""

    @abstractmethod
    def blocks(self, w: Tensor) -> Tensor:
        """The block of the Fisher matrix at `w` of each output with itself, about: (n_outputs, m, m).

        Exact for rows with much information on the output. Of the others there are many, with little each:
        they count for as many rows that vary as all together do, see `columns`.
        """

    def by_output(self) -> ByOutput:
        return self


class Stochastic(Objective):
    """An objective that estimates itself from minibatches of its rows."""

    rows: Minibatched
    is_mixed = False  # whether minibatches are computed in 16 bits, parameters in 32
    scaler: torch.amp.GradScaler | None = None  # of gradients that would underflow in 16 bits

    def parameters(self, w: Tensor) -> list[nn.Parameter]:
        """What an optimizer of torch steps in place: parameters in the memory of `w`, in its order."""
        with torch.enable_grad():
            parameter = nn.Parameter(w)
        parameter.data = w
        return [parameter]

    @abstractmethod
    def batch_value_and_gradient(self, w: Tensor, block: Block, n_nominal: int) -> tuple[Tensor, Tensor]:
        """Estimates of F and its gradient from a minibatch.

        The sums over its rows are scaled by ``n_rows / n_nominal``, also where a last batch has fewer rows
        than the nominal: averaging that one by its own size would give its rows more weight than the others.
        """

    @abstractmethod
    def batch_gradient(self, w: Tensor, block: Block, n_nominal: int) -> Tensor:
        """The second of `batch_value_and_gradient`."""

    @abstractmethod
    def batch_value(self, w: Tensor, block: Block, n_nominal: int) -> Tensor:
        """The first of `batch_value_and_gradient`, with the same randomness as its last call."""

    def epoch_value(self, w: Tensor) -> Tensor:
        """F (P,) of an epoch that ends at `w`.

        Where the rows stream, this is the mean over the minibatches since the last call, each at the weights
        that it found; there is then no pass over the rows.
        """
        return self.value(w)


class Batch(NamedTuple):
    """The problems on a random sample of the rows."""

    objective: Factorable
    error: float  # gradientᵀ F⁻¹ gradient expected of sampling alone at the optimum; inf: only a metric
    n_rows: int
