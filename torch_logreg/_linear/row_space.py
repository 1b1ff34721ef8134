"""The problem in the space that the rows span, where there are far fewer rows than columns.

With an L2 penalty, or as the limit of one, the coefficients of an optimum are combinations of the centred
rows: their gradient is one, and what is orthogonal to the rows is only penalised. So n_rows coordinates
are enough (Wahba 1990, Spline Models for Observational Data, the representer theorem; Hastie, Tibshirani
2004, Efficient quadratic regularization for expression arrays, Biostatistics 5(3)).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.rows import Block
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.products import matmul, rmatmul_deviation
from torch_logreg._linear.coordinates import Coordinates, Space
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.moments import Moments
from torch_logreg._linear.sparse_columns import SparseColumns, even_columns
from torch_logreg._runtime.limits import limits_of
from torch_logreg._runtime.linalg import eigh


class Span(ABC):
    """The space that the rows span, and the way between its columns and those of X.

    With ``A = X - center`` and the eigendecomposition ``A A.T = U S U.T`` the columns of the space are
    ``B = U S^(1/2)``. Coefficients b of B stand for ``A.T @ basis @ b`` with ``basis = U S^(-1/2)``: the same
    predictions and the same norm. That is so for any weights of the rows.

    Parameters
    ----------
    columns : Moments
        Of X.
    basis : Tensor of shape (n_rows, r)
    """

    def __init__(self, columns: Moments, basis: Tensor) -> None:
        self._basis = basis
        self.center, variance = columns
        self.varies, self.spread = variance > 0, variance.sqrt()

    @abstractmethod
    def _combined(self, of_rows: Tensor) -> Tensor:
        """The sums of the centred rows times numbers (Q, n): (Q, d)."""

    @abstractmethod
    def _predicted(self, coef: Tensor) -> Tensor:
        """The products of the rows with coefficients (Q, d): (Q, n)."""

    def to_raw(self, b: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (P, K, d) and intercepts (P, K) for the columns of X, of those for B."""
        of_rows = b @ self._basis.T  # (P, K, n)
        coef = self._combined(of_rows.flatten(0, 1)).to(b.dtype)
        coef = torch.where(self.varies, coef, 0.0).view(*b.shape[:2], -1)
        return coef, intercept - coef @ self.center

    def from_raw(self, coef: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (P, K, r) and intercepts for B, that predict the rows as these do."""
        z = self._predicted(coef.flatten(0, 1)).to(coef.dtype).view(*coef.shape[:2], -1)
        shift = coef @ self.center
        return (z - shift[..., None]) @ self._basis, intercept + shift


class DenseSpan(Span):
    """The space of all rows of a block; products are in the dtype of X, which is enough for deviations."""

    def __init__(self, block: Block, columns: Moments, basis: Tensor) -> None:
        super().__init__(columns, basis)
        self._X, self._dtype = block.X, block.weights.dtype

    def _combined(self, of_rows: Tensor) -> Tensor:
        return rmatmul_deviation(self._X, of_rows, self.center.to(self._dtype), 1)[0]

    def _predicted(self, coef: Tensor) -> Tensor:
        return matmul(self._X, coef.to(self._dtype))


class SparseSpan(Span):
    """The space of sparse rows."""

    def __init__(self, columns: SparseColumns, found: Moments, basis: Tensor) -> None:
        super().__init__(found, basis)
        self._transpose = columns.transpose

    def _combined(self, of_rows: Tensor) -> Tensor:
        products = (self._transpose @ of_rows.T.cpu().numpy()).T
        return torch.from_numpy(products).to(of_rows.device) - of_rows.sum(dim=1)[:, None] * self.center

    def _predicted(self, coef: Tensor) -> Tensor:
        return torch.from_numpy((self._transpose.T @ coef.T.cpu().numpy()).T).to(coef.device)


class RowSpace(Space):
    """Coordinates of problems in the space of the rows.

    Parameters
    ----------
    inner : Coordinates
        Of the columns B of the space.
    span : Span
    """

    def __init__(self, inner: Coordinates, span: Span) -> None:
        self._inner, self._span, self.strength = inner, span, inner.strength
        self.center, self.spread, self.varies = span.center, span.spread, span.varies

    def to_raw(self, w: Tensor) -> tuple[Tensor, Tensor]:
        return self._span.to_raw(*self._inner.to_raw(w))

    def from_raw(self, coef: Tensor, intercept: Tensor) -> Tensor:
        """The parameters that predict the rows as these do."""
        return self._inner.from_raw(*self._span.from_raw(coef, intercept))

    def canonical(self, w: Tensor) -> Tensor:
        return self._inner.canonical(w)


def row_space(rows: ArrayRows, model: LinearModel) -> tuple[Tensor, Span] | None:
    """The columns B (n_rows, r) of the space, and the space; None where columns of X are the better one."""
    if not rows.is_dense:
        return _sparse_row_space(rows, model)
    block = rows.whole()
    columns, products = inner_products(rows, block, model.C.dtype, model.fit_intercept)
    rows.check_finite(columns.variance)
    B, basis = spanned(products)
    return B, DenseSpan(block, columns, basis)


def _sparse_row_space(rows: ArrayRows, model: LinearModel) -> tuple[Tensor, Span] | None:
    columns = even_columns(rows, model)
    if columns is None:
        return None
    transpose, center, squares = columns
    exact = transpose.astype(np.float64)
    products = (exact.T.tocsr() @ exact).toarray()
    rows.rows_read += rows.n_rows
    if model.fit_intercept:  # centred afterwards: no column is so far from 0 that little would be left
        along = exact.T @ center
        products -= np.add.outer(along, along - center @ center)
    else:
        center = np.zeros_like(center)
    moments = (torch.from_numpy(array).to(rows.device) for array in (center, squares - center**2))
    B, basis = spanned(torch.from_numpy(products).to(rows.device, model.C.dtype))
    return B, SparseSpan(columns, Moments(*moments), basis)


def spanned(inner_products: Tensor) -> tuple[Tensor, Tensor]:
    """The columns B and the basis of a `Span`."""
    values, U = eigh(inner_products)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    root, U = values[kept].sqrt(), U[:, kept]
    return U * root, U / root


def inner_products(
    rows: ArrayRows, block: Block, dtype: torch.dtype, fit_intercept: bool
) -> tuple[Moments, Tensor]:
    """Moments of the columns, and the inner products of the centred rows, in one pass over X."""
    shares = block.weights[0].to(dtype)
    shares = shares / shares.sum()
    n, d = block.X.shape
    products = torch.zeros((n, n), dtype=dtype, device=rows.device)
    limits = limits_of(rows.device)
    eps, found, step = float(torch.finfo(rows.dtype).eps), [], max(1, limits.chunk_numbers // n)
    for first in range(0, d, step):
        part = block.X[:, first : first + step].to(dtype, copy=True)
        center = part.new_zeros(part.shape[1])
        for _ in range(2 * fit_intercept):  # once more: a sum rounds by more than a constant column may vary
            shift = shares @ part
            part, center = part.sub_(shift), center + shift
        moments = Moments.of(center, shares @ part.square(), eps)
        part.mul_(moments.variance > 0)
        for top in range(0, n, limits.strip_rows):  # of the symmetric matrix only what is below the diagonal
            bottom = top + limits.strip_rows
            products[top:bottom, :bottom].addmm_(part[top:bottom], part[:bottom].T)
        found.append(moments)
    rows.rows_read += n
    return Moments(*map(torch.cat, zip(*found, strict=True))), products.tril_() + products.tril(-1).T
