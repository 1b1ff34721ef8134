"""Designs: the rows as the coordinates of a solver see them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.rows import Matrix, Rows
from torch_logreg._linear.coordinates import Coordinates
from torch_logreg._linear.moments import Gram
from torch_logreg._losses.penalties import L2Penalty


class Part(NamedTuple):
    """Some rows of a design."""

    X: Matrix  # (n, ...), as the design takes it
    target: Tensor  # (n,), as the loss encodes it
    weights: Tensor  # (1 or P, n)
    of_row: Tensor  # (1 or P, 1, n), the same for each output

    @classmethod
    def of(cls, X: Matrix, target: Tensor, weights: Tensor) -> Part:
        """The part of some rows and their weights."""
        return cls(X, target, weights, weights[:, None])


OfRows: TypeAlias = Iterable[tuple[Part, Tensor]]  # something of the rows of each part
# Matrices of the outputs of each row: their weighted diagonals (P, K, n), and the b (P, K, n) that make them
# ``-b_k b_l`` off these, but for the weights; None for 0. A design that `keeps` may overwrite them.
OfOutputs: TypeAlias = Iterable[tuple[Part, Tensor, Tensor | None]]


class Design(ABC):
    """The matrix A of raw predictions ``z = A w``, by its products with parameters and with numbers of rows.

    A pass goes over `parts`. A is never asked for: it may be X as it is with a transformation of w, an array
    that is held, or products with other rows.
    """

    rows: Rows
    dtype: torch.dtype  # of w
    eps: float  # what a sum over the rows is rounded by, relative to it
    n_problems: int
    n_outputs: int
    n_parameters: int
    weight_sum: Tensor  # (1 or P,) of the rows
    is_orthogonal = False  # whether the columns of A are
    # Whether rows are few enough to keep, at a point, their raw predictions and what the loss makes of
    # them; and their Fisher information, between the products of one solve.
    keeps = True

    @property
    def keeps_information(self) -> bool:
        return self.keeps

    @abstractmethod
    def parts(self) -> Iterable[Part]:
        """All rows once, counted in `rows.rows_read`."""

    @abstractmethod
    def expand(self, w: Tensor, every: int = 1) -> Any:
        """The parameters as `predict` takes them, made once for a pass; of one in `every` problems."""

    @abstractmethod
    def predict(self, part: Part, expanded: Any) -> Tensor:
        """Raw predictions of some rows, (P, K, n)."""

    @abstractmethod
    def mean(self, sums: list[Tensor]) -> Tensor:
        """The mean over all rows, of a weighted sum over each part: (P, ...)."""

    @abstractmethod
    def pull_back(self, residuals: OfRows, plus: Tensor) -> Tensor:
        """``A.T r + plus`` of weighted residuals r (P, K, n), as means over rows: (P, n_parameters)."""

    @abstractmethod
    def penalty_slope(self, w: Tensor) -> Tensor:
        """The gradient of the penalty, which is half its product with `w`: (P, n_parameters)."""

    @abstractmethod
    def natural(self, gradient: Tensor) -> Tensor:
        """See `Hints`."""

    def loses_gradients(self) -> bool:
        """Whether rounding outweighs gradients, for columns are summed before they are centred."""
        return False


class Columns(Design):
    """A design whose A has a column for each feature, scaled, and one of ones for the intercept: m in all."""

    coordinates: Coordinates
    penalty: L2Penalty
    decay: Tensor  # (P, n_parameters) the diagonal of the penalty's Hessian

    def penalty_slope(self, w: Tensor) -> Tensor:
        return self.coordinates.spare(self.decay * w, w)

    def natural(self, gradient: Tensor) -> Tensor:
        return gradient.clone()

    @abstractmethod
    def squares(self, of_rows: OfRows) -> Tensor:
        """``A².T r`` of weighted r (P, K, n), as means over rows: (P, n_parameters)."""

    @abstractmethod
    def sandwich(self, matrices: OfOutputs) -> Tensor:
        """``A.T @ D @ A`` as a mean over rows, with D the `matrices`: (P, K, m, K, m)."""

    @abstractmethod
    def columns(self, information: OfRows) -> Tensor:
        """The mean of ``A.T A`` over rows, by their `information` (Q, n): (Q, m, m).

        Q is the number of problems, or 1 for A in the coordinates of the first.
        """

    @abstractmethod
    def gram(self) -> Gram:
        """The inner products of the columns over all rows, with the mean weight of the problems."""

    @abstractmethod
    def select(self, problems: np.ndarray) -> Columns | None:
        """For some of the problems; None where all must stay together."""

    def rough(self) -> Columns:
        """The same in float32, where that is cheaper."""
        return self

    @property
    def is_quicker_rough(self) -> bool:
        """Whether `rough` is no less accurate than the rows, and products with vectors take less time."""
        return False

    def gatherable(self) -> Gatherable | None:
        """The way to gather some rows, if these are faster to read alone than all are; else None."""
        return None


class Gatherable(ABC):
    """The rows of a design of one problem, of which some can be had in memory of their own."""

    @abstractmethod
    def subset(self, drawn: Tensor) -> Columns:
        """The design of the rows of the numbers `drawn`, with the weight sum of all."""

    @abstractmethod
    def dense(self, drawn: Tensor) -> Tensor:
        """Rows of A, (n, m)."""
