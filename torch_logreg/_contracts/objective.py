"""The contract `Objective`: F of several problems, and its curvature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.rows import Block, Rows


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
