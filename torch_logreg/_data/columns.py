"""Some columns of the rows, gathered, centred and scaled: what a working set is computed with."""

from __future__ import annotations

import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg._contracts.rows import Matrix, Rows
from torch_logreg._data import products
from torch_logreg._data.csr import CsrMatrix, to_scipy
from torch_logreg._data.sparse import Sparse, sparse_pair
from torch_logreg._runtime.limits import limits_of

HELD_NUMBERS = 2**27  # of columns that are held in float64; more are gathered anew at each use
# Sparse columns are made dense where they are few numbers, or not much fewer than they would be then: else
# only multiplied with, where they are more than `SQUARED` or have several outputs.
DENSE_NUMBERS, DENSE_PART, SQUARED = 2**23, 8, 300
FACTORISED = 1500  # pairs of dense columns, above which a factorisation takes longer than many products
PARTS, PARTED = 4, 128  # of the columns of a symmetric product, from so many columns on
WHOLE_NUMBERS = 2**17  # of columns that are held with the ones behind them: one product does for both
LEAST = 1e-300  # of a scale
CANCELLED = 64.0  # times eps, of a mean square, what rounding leaves of it less the square of the mean
FEW_PART = 0.25  # of the columns, up to which some are gathered rather than all read


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
    def matrix(
        self, diagonal: Tensor, factors: Tensor | None, column: Tensor, output: Tensor
    ) -> Tensor | None:
        """Inner products of pairs of a column and an output; None where products are the better way.

        Rows weigh them by matrices of their outputs, with `diagonal` (K, n) and off it ``-b_k b_l`` with b
        the `factors`. Pairs are given by the numbers of their columns and outputs.
        """

    def _with_ones(self, columns: Tensor, r: Tensor) -> Tensor:
        return torch.cat([columns, r.sum(dim=1, keepdim=True)], dim=1) if self.has_ones else columns

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
    """Columns as arrays, in memory of their own.

    Parameters
    ----------
    parts : list of Tensor
        The columns (n, m) of runs of rows, as they are. Where all are few numbers they are overwritten with
        what they become; else that is made anew at each use.
    shares : Tensor of shape (n,)
        Parts of the weight of all rows.
    l2 : float
        Of the penalty.
    has_ones : bool
    """

    def __init__(self, parts: list[Tensor], shares: Tensor, l2: float, has_ones: bool) -> None:
        self.has_ones, dtype = has_ones, shares.dtype
        is_held = sum(part.numel() for part in parts) <= HELD_NUMBERS
        self._raw = [part.to(dtype) for part in parts] if is_held else parts
        mean = torch.zeros(parts[0].shape[1], dtype=dtype, device=shares.device)
        if has_ones:
            for rows, X in self._runs(self._raw):
                mean += shares[rows] @ X.to(dtype)
        square = torch.zeros_like(mean)
        for rows, X in self._runs(self._raw):
            step = max(1, limits_of(mean.device).centred_numbers // max(X.shape[1], 1))
            for first in range(0, len(X), step):
                some = X[first : first + step]
                deviation = some.sub_(mean) if is_held else some.to(dtype) - mean
                square += shares[rows][first : first + step] @ deviation.square()
        self._scaled_by(mean, square, l2)
        self._inverse = torch.where(self.varies, self.inverse_scale, 0.0)  # exactly 0 for a constant column
        self._held = [part.mul_(self._inverse) for part in self._raw] if is_held else None
        self._whole: Tensor | None = None
        if self._held is not None and len(self._held) == 1 and self._held[0].numel() <= WHOLE_NUMBERS:
            self._whole = self._padded(self._held[0])

    @staticmethod
    def _runs(parts: Iterable[Tensor]) -> Iterator[tuple[slice, Tensor]]:
        start = 0
        for X in parts:
            yield slice(start, start + len(X)), X
            start += len(X)

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Runs of rows, and the columns there."""
        if self._held is not None:
            return self._runs(self._held)
        dtype, center = self.center.dtype, self.center
        return self._runs(torch.sub(X.to(dtype), center).mul_(self._inverse) for X in self._raw)

    def _padded(self, columns: Tensor) -> Tensor:
        """Columns with the ones behind them."""
        return torch.nn.functional.pad(columns, (0, int(self.has_ones)), value=1.0)

    def predict(self, v: Tensor) -> Tensor:
        if self._whole is not None:
            return v @ self._whole.T
        m = len(self.center)
        of_columns = v[:, :m].contiguous()
        found = [of_columns @ A.T for _, A in self._chunks()]
        z = found[0] if len(found) == 1 else torch.cat(found, dim=1)
        return z.add_(v[:, m:]) if self.has_ones else z

    def pull_back(self, r: Tensor) -> Tensor:
        if self._whole is not None:
            return r @ self._whole
        columns = functools.reduce(Tensor.add_, (r[:, rows] @ A for rows, A in self._chunks()))
        return self._with_ones(columns, r)

    def squares(self, r: Tensor) -> Tensor:
        columns = functools.reduce(Tensor.add_, (r[:, rows] @ A.square() for rows, A in self._chunks()))
        return self._with_ones(columns, r)

    def matrix(
        self, diagonal: Tensor, factors: Tensor | None, column: Tensor, output: Tensor
    ) -> Tensor | None:
        size, K = len(column), len(diagonal)
        if size > FACTORISED:
            return None
        if K == 1:
            return self._of_one(diagonal[0])
        # By output, and of every two outputs one block: the other is its transpose.
        order = output.argsort(stable=True)
        column, output = column[order], output[order]
        stops = [0, *torch.bincount(output, minlength=K).cumsum(0).tolist()]
        members = [slice(start, stop) for start, stop in itertools.pairwise(stops)]
        result = diagonal.new_zeros((size, size))
        step = max(1, limits_of(diagonal.device).sandwich_numbers // size)
        for rows, A in self._chunks():
            for first in range(0, len(A), step):
                part = slice(rows.start + first, min(rows.start + first + step, rows.stop))
                some = self._padded(A[first : first + step])
                pairs = some.index_select(1, column)
                for k, own in enumerate(members):
                    of_output = pairs[:, own]
                    _add_upper(result[own, own], of_output * diagonal[k, part, None], of_output)
                if factors is not None:
                    pairs.mul_(factors[:, part].T.index_select(1, output))
                    for own in members[:-1]:
                        result[own, own.stop :].addmm_(pairs[:, own].T, pairs[:, own.stop :], alpha=-1)
        result, back = _mirrored(result), order.argsort()
        return result.index_select(0, back).index_select(1, back)

    def _of_one(self, weights: Tensor) -> Tensor:
        """The inner products where there is one output: pairs are the columns, in their order."""
        m = len(self.center)
        if self._whole is not None and m < PARTED:
            return (self._whole * weights[:, None]).T @ self._whole
        result = weights.new_zeros((m + self.has_ones, m + self.has_ones))
        among = weights.new_zeros((m, m))
        # What is made of some rows is read by several products.
        step = max(1, limits_of(weights.device).sandwich_numbers // (PARTS * max(m, 1)))
        for rows, A in self._chunks():
            for first in range(0, len(A), step):
                some = A[first : first + step]
                part = weights[rows.start + first : rows.start + first + len(some), None]
                _add_upper(among, some * part, some)
        result[:m, :m] = _mirrored(among)
        if self.has_ones:
            result[m] = self.pull_back(weights[None])[0]
            result[:, m] = result[m]
        return result


def _add_upper(result: Tensor, weighted: Tensor, columns: Tensor) -> None:
    """Add ``weighted.T @ columns``, a symmetric matrix, but for most of what is below its diagonal."""
    m = columns.shape[1]
    width = m if m < PARTED else -(-m // PARTS)
    for start in range(0, m, width):
        stop = min(start + width, m)
        result[start:stop, start:].addmm_(weighted[:, start:stop].T, columns[:, start:])


def _mirrored(upper: Tensor) -> Tensor:
    """The symmetric matrix that is known above its diagonal."""
    return upper.triu() + upper.triu(1).T


class SparseColumns(ColumnSet):
    """Columns of sparse rows as they are stored, centred in products with them."""

    def __init__(self, columns: scipy.sparse.csr_array, shares: Tensor, l2: float, has_ones: bool) -> None:
        self.has_ones, self._scipy = has_ones, columns
        self._X = sparse_pair(columns, shares.device)
        mean = products.rmatmul(self._X, shares[None])[0]
        if not has_ones:
            mean = torch.zeros_like(mean)
        square = self._squares_of(shares[None])[0]
        variance = square - mean.square()
        rounding = CANCELLED * torch.finfo(mean.dtype).eps * square
        self._scaled_by(mean, variance.masked_fill_(variance <= rounding, 0.0), l2)

    @functools.cached_property
    def _squared(self) -> CsrMatrix:
        transpose = self._X.transpose
        return transpose.with_values(transpose.values.square())

    def _squares_of(self, r: Tensor) -> Tensor:
        return self._squared.times(r)

    def predict(self, v: Tensor) -> Tensor:
        scaled = v[:, : len(self.center)] * self.inverse_scale
        shift = -(scaled @ self.center)
        if self.has_ones:
            shift = shift + v[:, -1]
        return products.matmul(self._X, scaled).add_(shift[:, None])

    def pull_back(self, r: Tensor) -> Tensor:
        sums = r.sum(dim=1)
        columns = (products.rmatmul(self._X, r) - sums[:, None] * self.center) * self.inverse_scale
        return self._with_ones(columns, r)

    def squares(self, r: Tensor) -> Tensor:
        sums = r.sum(dim=1)
        columns = self._squares_of(r) - 2 * self.center * products.rmatmul(self._X, r)
        columns = (columns + sums[:, None] * self.center.square()) * self.inverse_scale.square()
        return self._with_ones(columns.clamp_(min=0), r)

    def matrix(
        self, diagonal: Tensor, factors: Tensor | None, column: Tensor, output: Tensor
    ) -> Tensor | None:
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
        return torch.from_numpy(found)


def gather(rows: Rows, columns: Tensor, shares: Tensor, l2: float, has_ones: bool) -> ColumnSet:
    """Columns of these numbers, scaled for `l2` by moments of rows with `shares` (n,) of the weight."""
    dense, sparse = [], []
    for block in rows.blocks():
        X: Matrix = block.X
        if isinstance(X, Sparse):
            sparse.append(to_scipy(X.transpose.rows(columns), shares.dtype))
        else:
            dense.append(
                X.clone(memory_format=torch.contiguous_format)
                if len(columns) == X.shape[1]
                else X.index_select(1, columns)
            )
    if dense:
        return DenseColumns(dense, shares, l2, has_ones)
    X = sparse[0] if len(sparse) == 1 else scipy.sparse.csr_array(scipy.sparse.hstack(sparse, format="csr"))
    n_numbers = X.shape[0] * X.shape[1]
    if n_numbers <= DENSE_NUMBERS and DENSE_PART * X.nnz >= n_numbers:
        whole = torch.from_numpy(X.toarray().T.copy()).to(shares.device)
        return DenseColumns([whole], shares, l2, has_ones)
    return SparseColumns(X, shares, l2, has_ones)


def predictions(rows: Rows, coef: Tensor, dtype: torch.dtype) -> Tensor:
    """``coef @ X.T`` in `dtype`, by the columns that have coefficients alone where these are few: (K, n)."""
    support = coef.any(dim=0).nonzero()[:, 0]
    found, few = [], len(support) < FEW_PART * rows.n_features
    of_few = coef[:, support].contiguous()
    for block in rows.blocks():
        X: Matrix = block.X
        if isinstance(X, Sparse):
            found.append(products.matmul(X, coef.to(rows.dtype)) if rows.dtype == dtype else _upcast(X, coef))
        elif few:
            found.append(of_few @ X.index_select(1, support).to(dtype).T)
        elif X.dtype == dtype:
            found.append(products.matmul(X, coef))
        else:
            step = max(1, limits_of(X.device).centred_numbers // X.shape[1])
            parts = (X[first : first + step] for first in range(0, len(X), step))
            found.append(torch.cat([coef @ part.to(dtype).T for part in parts], dim=1))
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _upcast(X: Sparse, coef: Tensor) -> Tensor:
    """``coef @ X.T`` in the dtype of `coef`."""
    values = X.csr.values.to(coef.dtype)
    return X.csr.with_values(values).times(coef)


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
