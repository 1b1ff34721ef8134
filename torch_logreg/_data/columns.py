"""Some columns of the rows, gathered, centred and scaled: what a working set of coefficients is computed with."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg._contracts.rows import Matrix, Rows
from torch_logreg._data import products
from torch_logreg._data.csr import to_scipy
from torch_logreg._data.sparse import Sparse, sparse_pair

HELD_NUMBERS = 2**27  # of columns that are held in float64; more are gathered anew at each use
# Sparse columns are made dense where they are few numbers, or not much fewer than they would be then: else
# only multiplied with, where they are more than `SQUARED` or have several outputs.
DENSE_NUMBERS, DENSE_PART, SQUARED = 2**23, 8, 300
CHUNK_NUMBERS = 2**18  # of columns times weights, in the products of columns with one another
LEAST = 1e-300  # of a scale


class ColumnSet(ABC):
    """Columns ``(x - center) * inverse_scale``, m of them, and behind them one of ones for an intercept.

    Without an intercept there is no column of ones, and the centres are 0.
    """

    center: Tensor  # (m,)
    inverse_scale: Tensor  # (m,)
    has_ones: bool

    @abstractmethod
    def predict(self, v: Tensor) -> Tensor:
        """``v @ columns.T``: (Q, m + ones) -> (Q, n_rows)."""

    @abstractmethod
    def pull_back(self, r: Tensor) -> Tensor:
        """``r @ columns``: (Q, n_rows) -> (Q, m + ones)."""

    @abstractmethod
    def squares(self, r: Tensor) -> Tensor:
        """``r @ columns**2``: (Q, n_rows) -> (Q, m + ones)."""

    @abstractmethod
    def matrix(self, diagonal: Tensor, factors: Tensor | None, column: Tensor, output: Tensor) -> Tensor | None:
        """Inner products of pairs of a column and an output; None where products are the better way.

        Rows weigh them by matrices of their outputs, with `diagonal` (K, n) and off it ``-b_k b_l`` with b
        the `factors`. Pairs are given by the numbers of their columns and outputs.
        """

    def _scaled_by(self, mean: Tensor, square: Tensor, l2: float) -> None:
        """Set centres and scales by weighted means of the columns and of the squares of their deviations.

        With ``scale² = variance / 4 + l2`` no diagonal entry of a Hessian exceeds 1, see `Coordinates`.
        """
        self.center = mean
        rounding = square.sqrt() < 16 * torch.finfo(mean.dtype).eps * mean.abs()
        self.varies = ~rounding & (square > 0)
        scale = torch.where(self.varies, square / 4, mean.square()).add_(l2).sqrt_()
        self.inverse_scale = torch.where(scale > LEAST, 1 / scale, 1.0)


class DenseColumns(ColumnSet):
    """Columns as arrays, held where they are few numbers."""

    def __init__(self, parts: Iterable[Tensor], shares: Tensor, l2: float, has_ones: bool) -> None:
        self.has_ones, self._parts = has_ones, list(parts)
        dtype = shares.dtype
        mean = torch.zeros(self._parts[0].shape[1], dtype=dtype, device=shares.device)
        if has_ones:
            mean = functools.reduce(Tensor.add_, (shares[rows] @ X.to(dtype) for rows, X in self._raw()))
        square = torch.zeros_like(mean)
        for rows, X in self._raw():
            square += shares[rows] @ (X.to(dtype) - mean).square_()
        self._scaled_by(mean, square, l2)
        numbers = sum(part.numel() for part in self._parts)
        self._held = list(self._made()) if numbers <= HELD_NUMBERS else None

    def _raw(self) -> Iterator[tuple[slice, Tensor]]:
        start = 0
        for X in self._parts:
            yield slice(start, start + len(X)), X
            start += len(X)

    def _made(self) -> Iterator[tuple[slice, Tensor]]:
        dtype, m = self.center.dtype, len(self.center)
        inverse = torch.where(self.varies, self.inverse_scale, 0.0)  # exactly 0 for a constant column
        for rows, X in self._raw():
            A = torch.ones((len(X), m + self.has_ones), dtype=dtype, device=X.device)
            A[:, :m].copy_(X).sub_(self.center).mul_(inverse)
            yield rows, A

    def _chunks(self) -> Iterable[tuple[slice, Tensor]]:
        return self._made() if self._held is None else self._held

    def predict(self, v: Tensor) -> Tensor:
        found = [v @ A.T for _, A in self._chunks()]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def pull_back(self, r: Tensor) -> Tensor:
        return functools.reduce(Tensor.add_, (r[:, rows] @ A for rows, A in self._chunks()))

    def squares(self, r: Tensor) -> Tensor:
        return functools.reduce(Tensor.add_, (r[:, rows] @ A.square() for rows, A in self._chunks()))

    def matrix(self, diagonal: Tensor, factors: Tensor | None, column: Tensor, output: Tensor) -> Tensor:
        size, K = len(column), len(diagonal)
        result = diagonal.new_zeros((size, size))
        members = [(output == k).nonzero()[:, 0] for k in range(K)] if K > 1 else []
        blocks = [diagonal.new_zeros((len(some), len(some))) for some in members]
        step = max(1, CHUNK_NUMBERS // size)
        for rows, A in self._chunks():
            for first in range(0, len(A), step):
                part = slice(rows.start + first, min(rows.start + first + step, rows.stop))
                some = A[first : first + step]
                if K == 1:
                    result.addmm_((some * diagonal[0, part, None]).T, some)
                    continue
                for k, block in enumerate(blocks):
                    of_output = some.index_select(1, column[members[k]])
                    block.addmm_((of_output * diagonal[k, part, None]).T, of_output)
                if factors is not None:
                    of_pair = some.index_select(1, column) * factors[:, part].T.index_select(1, output)
                    result.addmm_(of_pair.T, of_pair, alpha=-1)
        for some, block in zip(members, blocks, strict=True):
            result[some[:, None], some] = block
        return result


class SparseColumns(ColumnSet):
    """Columns of sparse rows as they are stored, centred in products with them."""

    def __init__(self, columns: scipy.sparse.csr_array, shares: Tensor, l2: float, has_ones: bool) -> None:
        self.has_ones, self._scipy = has_ones, columns
        self._X = sparse_pair(columns, shares.device)
        mean = products.rmatmul(self._X, shares[None])[0]
        if not has_ones:
            mean = torch.zeros_like(mean)
        square = self._squares_of(shares[None])[0]
        self._scaled_by(mean, (square - mean.square()).clamp_(min=0), l2)

    @functools.cached_property
    def _squared(self) -> Sparse:
        X = self._scipy
        return sparse_pair(scipy.sparse.csr_array((X.data**2, X.indices, X.indptr), shape=X.shape), self._X.csr.values.device)

    def _squares_of(self, r: Tensor) -> Tensor:
        return products.rmatmul(self._squared, r)

    def _with_ones(self, columns: Tensor, ones: Tensor) -> Tensor:
        return torch.cat([columns, ones[:, None]], dim=1) if self.has_ones else columns

    def predict(self, v: Tensor) -> Tensor:
        scaled = v[:, : len(self.center)] * self.inverse_scale
        shift = -(scaled @ self.center)
        if self.has_ones:
            shift = shift + v[:, -1]
        return products.matmul(self._X, scaled).add_(shift[:, None])

    def pull_back(self, r: Tensor) -> Tensor:
        sums = r.sum(dim=1)
        columns = (products.rmatmul(self._X, r) - sums[:, None] * self.center) * self.inverse_scale
        return self._with_ones(columns, sums)

    def squares(self, r: Tensor) -> Tensor:
        sums = r.sum(dim=1)
        columns = self._squares_of(r) - 2 * self.center * products.rmatmul(self._X, r)
        columns = (columns + sums[:, None] * self.center.square()) * self.inverse_scale.square()
        return self._with_ones(columns.clamp_(min=0), sums)

    def matrix(self, diagonal: Tensor, factors: Tensor | None, column: Tensor, output: Tensor) -> Tensor | None:
        if len(diagonal) > 1 or len(column) > SQUARED or diagonal.device.type != "cpu":
            return None
        X, weights, c = self._scipy, diagonal[0].numpy(), self.center.numpy()
        weighted = scipy.sparse.csr_array((X.data * weights[X.indices], X.indices, X.indptr), shape=X.shape)
        sums, total, inverse = X @ weights, weights.sum(), self.inverse_scale.numpy()
        of_ones = sums - total * c
        found = (weighted @ X.T).toarray() - np.outer(sums, c) - np.outer(c, of_ones)
        found *= inverse * inverse[:, None]
        if self.has_ones:
            found = np.pad(found, (0, 1))
            found[-1, :-1] = found[:-1, -1] = of_ones * inverse
            found[-1, -1] = total
        return torch.from_numpy(found)[column][:, column]


def gather(rows: Rows, columns: Tensor, shares: Tensor, l2: float, has_ones: bool) -> ColumnSet:
    """Columns of these numbers, scaled by moments of the rows, with `shares` (n,) of the weight, and for `l2`."""
    dense, sparse = [], []
    for block in rows.blocks():
        X: Matrix = block.X
        if isinstance(X, Sparse):
            sparse.append(to_scipy(X.transpose.rows(columns), shares.dtype))
        else:
            dense.append(X.index_select(1, columns))
    if dense:
        return DenseColumns(dense, shares, l2, has_ones)
    X = sparse[0] if len(sparse) == 1 else scipy.sparse.csr_array(scipy.sparse.hstack(sparse, format="csr"))
    n_numbers = X.shape[0] * X.shape[1]
    if n_numbers <= DENSE_NUMBERS and DENSE_PART * X.nnz >= n_numbers:
        whole = torch.from_numpy(X.toarray().T.copy()).to(shares.device)
        return DenseColumns([whole], shares, l2, has_ones)
    return SparseColumns(X, shares, l2, has_ones)


def slopes(rows: Rows, r: Tensor) -> Tensor:
    """``r @ X`` in the dtype of r, also for rows of another: (Q, n_rows) -> (Q, n_features)."""
    start, origin, total = 0, torch.zeros(rows.n_features, dtype=r.dtype, device=r.device), None
    for block in rows.blocks():
        part = r[:, start : start + len(block.target)]
        start += len(block.target)
        if rows.dtype == r.dtype:
            found = products.rmatmul(block.X, part.contiguous())
        else:
            (found,) = products.rmatmul_deviation(block.X, part, origin, 1)
        total = found if total is None else total.add_(found)
    if total is None:
        raise RuntimeError("There are no rows.")
    return rows.total(total)
