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
from torch_logreg._linear.coordinates import FACTORISED_FEATURES, Coordinates
from torch_logreg._linear.moments import Moments
from torch_logreg._runtime.limits import limits_of

# Rows up to which an eigendecomposition of their inner products is cheap, and how many fewer than columns.
MOST_ROWS, COLUMNS_FOR_A_ROW = 1024, 6  # as examples/benchmarks/crossovers.py found


def has_short_rows(rows: ArrayRows) -> bool:
    """Whether the rows are so few, and the columns so many, that the rows' space is the better one."""
    n, d = rows.n_rows, rows.n_features
    return rows.is_dense and n <= MOST_ROWS and d > FACTORISED_FEATURES and d >= COLUMNS_FOR_A_ROW * n


class RowSpace:
    """What `Coordinates` are to a solver's caller, for weights of columns in the space of the rows.

    With ``A = X - center`` and the eigendecomposition ``A A.T = U S U.T`` these columns are
    ``B = U S^(1/2)``. Coefficients b of B stand for ``A.T @ basis @ b`` with ``basis = U S^(-1/2)``: the same
    predictions and the same norm.

    Parameters
    ----------
    inner : Coordinates
        Of the columns B.
    block : Block
        All rows.
    columns : Moments
        Of X.
    basis : Tensor of shape (n_rows, r)
    """

    plain = False

    def __init__(self, inner: Coordinates, block: Block, columns: Moments, basis: Tensor) -> None:
        self._inner, self._X, self._basis, self._dtype = inner, block.X, basis, block.weights.dtype
        self.center, variance = columns
        self.strength, self.varies = inner.strength, variance > 0
        self._squares = self.center.square() + variance

    def to_raw(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (P, K, d) and intercepts (P, K) for the columns of X."""
        b, intercept = self._inner.to_raw(w)
        of_rows = b @ self._basis.T  # (P, K, n)
        # In the dtype of X, which is enough for deviations, and that of the coefficients to be kept.
        (coef,) = rmatmul_deviation(self._X, of_rows.flatten(0, 1), self.center.to(self._dtype), 1)
        coef = torch.where(self.varies, coef.to(w.dtype), 0.0).view(*b.shape[:2], -1)
        return coef, intercept - coef @ self.center

    def from_raw(self, coef: Tensor, intercept: Tensor) -> Tensor:
        """The weights that predict the rows as these do."""
        z = matmul(self._X, coef.flatten(0, 1).to(self._dtype)).to(coef.dtype).view(*coef.shape[:2], -1)
        shift = coef @ self.center
        return self._inner.from_raw((z - shift[..., None]) @ self._basis, intercept + shift)

    def canonical(self, w: Tensor) -> Tensor:
        return self._inner.canonical(w)

    def rounding(self, w: Tensor, eps: float) -> Tensor:
        """See `Coordinates.rounding`."""
        coef, intercept = self.to_raw(w)
        return eps * (coef.square() @ self._squares + intercept.square()).amax(dim=1).sqrt()


def spanned(inner_products: Tensor) -> tuple[Tensor, Tensor]:
    """The columns B and the basis of `RowSpace`."""
    values, U = torch.linalg.eigh(inner_products)
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
