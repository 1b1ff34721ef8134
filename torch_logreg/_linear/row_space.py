"""The problem in the space that the rows span, where there are far fewer rows than columns.

With an L2 penalty, or as the limit of one, the coefficients of an optimum are combinations of the centred
rows: their gradient is one, and what is orthogonal to the rows is only penalised. So n_rows coordinates
are enough (Wahba 1990, Spline Models for Observational Data, the representer theorem; Hastie, Tibshirani
2004, Efficient quadratic regularization for expression arrays, Biostatistics 5(3)).
"""

from __future__ import annotations

import torch
from torch import Tensor

from torch_logreg._contracts.rows import Block
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.products import dense_columns, matmul, rmatmul_deviation
from torch_logreg._linear.coordinates import Coordinates, Space
from torch_logreg._linear.moments import Moments
from torch_logreg._runtime.limits import limits_of
from torch_logreg._runtime.linalg import eigh


class Span:
    """The space that the rows span, and the way between its columns and those of X.

    With ``A = X - center`` and the eigendecomposition ``A A.T = U S U.T`` the columns of the space are
    ``B = U S^(1/2)``. Coefficients b of B stand for ``A.T @ basis @ b`` with ``basis = U S^(-1/2)``: the same
    predictions and the same norm. That is so for any weights of the rows.

    Parameters
    ----------
    block : Block
        All rows.
    columns : Moments
        Of X.
    basis : Tensor of shape (n_rows, r)
    """

    def __init__(self, block: Block, columns: Moments, basis: Tensor) -> None:
        self._X, self._basis, self._dtype = block.X, basis, block.weights.dtype
        self.center, variance = columns
        self.varies, self.spread = variance > 0, variance.sqrt()

    @classmethod
    def of(cls, rows: ArrayRows, dtype: torch.dtype, fit_intercept: bool) -> tuple[Tensor, Span]:
        """The columns B (n_rows, r), and the space."""
        block = rows.whole()
        columns, products = inner_products(rows, block, dtype, fit_intercept)
        rows.check_finite(columns.variance)
        B, basis = spanned(products)
        return B, cls(block, columns, basis)

    def to_raw(self, b: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (P, K, d) and intercepts (P, K) for the columns of X, of those for B."""
        of_rows = b @ self._basis.T  # (P, K, n)
        # In the dtype of X, which is enough for deviations, and that of the coefficients to be kept.
        (coef,) = rmatmul_deviation(self._X, of_rows.flatten(0, 1), self.center.to(self._dtype), 1)
        coef = torch.where(self.varies, coef.to(b.dtype), 0.0).view(*b.shape[:2], -1)
        return coef, intercept - coef @ self.center

    def from_raw(self, coef: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (P, K, r) and intercepts for B, that predict the rows as these do."""
        z = matmul(self._X, coef.flatten(0, 1).to(self._dtype)).to(coef.dtype).view(*coef.shape[:2], -1)
        shift = coef @ self.center
        return (z - shift[..., None]) @ self._basis, intercept + shift


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
        part = dense_columns(block.X, slice(first, first + step), dtype)
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
