"""Sparse algebra: CSR matrices, their products, and sums over their columns.

Dense or CSR is decided in `products.py` and nowhere else; what CSR then takes is here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg._data.csr import CsrMatrix, to_scipy
from torch_logreg._runtime.limits import limits_of


class Few(NamedTuple):
    """A matrix that scipy multiplies with on one thread, and a view of it by columns.

    Several threads would take longer to start than such a product does.
    """

    rows: scipy.sparse.csr_array  # (n_rows, n_features)
    columns: scipy.sparse.csc_array  # (n_features, n_rows)

    @classmethod
    def of(cls, X: scipy.sparse.csr_array) -> Few:
        return cls(X, X.T)

    def with_values(self, values: np.ndarray) -> Few:
        """Other numbers in the same places, which need not be checked again."""
        rows, columns = copy.copy(self.rows), copy.copy(self.columns)
        rows.data = columns.data = values
        return Few(rows, columns)

    def matmul(self, coef: Tensor) -> Tensor:
        """``coef @ X.T``: (Q, n_features) -> (Q, n_rows)."""
        return _times(self.rows, coef)

    def rmatmul(self, residual: Tensor) -> Tensor:
        """``residual @ X``: (Q, n_rows) -> (Q, n_features)."""
        return _times(self.columns, residual)


class Sparse:
    """A CSR matrix and its transpose, also as CSR: products with either read it in order.

    Parameters
    ----------
    csr : CsrMatrix of shape (n_rows, n_features)
    transpose : CsrMatrix of shape (n_features, n_rows), default=None
        None where it is made of `few` once it is asked for.
    few : Few, default=None
        The matrix, where it is so small that scipy is to multiply with it.
    """

    def __init__(self, csr: CsrMatrix, transpose: CsrMatrix | None = None, few: Few | None = None) -> None:
        self.csr, self._transpose, self.few = csr, transpose, few

    @property
    def shape(self) -> tuple[int, int]:
        return self.csr.shape

    @property
    def transpose(self) -> CsrMatrix:
        if self._transpose is None:
            if self.few is None:
                raise RuntimeError("These rows are only multiplied from the left; nothing was to need more.")
            self._transpose = _matrix(self.few.columns.tocsr(), self.csr.values.device)
        return self._transpose


# Vectors that are multiplied with one by one, and numbers for a row and a column up to which more of them
# are, where these are long (shapes.py).
FEW_VECTORS, THIN, LONG = 4, 4, 2**12
# A mean in standard deviations up to which sums of squares may be centred afterwards, and how many numbers
# there are for each that is stored where products of these alone are quick (shapes.py).
NEAR, SQUARED_PART = 2.0**5, 8
NEARLY_FULL = 0.999  # of the weight of all rows, stored in a column: see `weighted_sums`


def _matrix(X: scipy.sparse.csr_array, device: torch.device) -> CsrMatrix:
    # 32-bit indices halve the bytes of a product and are what MKL computes with.
    index = np.int32 if max(X.nnz, *X.shape) < 2**31 else np.int64
    crow, column, values = (
        torch.from_numpy(array).to(device)
        for array in (
            X.indptr.astype(index, copy=False),
            X.indices.astype(index, copy=False),
            X.data,
        )
    )
    return CsrMatrix(crow, column, values, X.shape)


def sparse_matrix(X: scipy.sparse.csr_array, device: torch.device, transpose: bool = True) -> Sparse:
    """A scipy CSR matrix on `device`; without `transpose` only `matmul` works on it.

    Nobody may write to it: it shares the memory of X where it can.
    """
    X = _writeable(X)
    if not X.dtype.isnative:
        X = X.astype(X.dtype.newbyteorder("="))
    csr = _matrix(X, device)
    if X.nnz <= limits_of(device).few_stored:
        return Sparse(csr, few=Few.of(X))
    return Sparse(csr, _matrix(X.T.tocsr(), device) if transpose else None)


def sparse_pair(transpose: scipy.sparse.csr_array, device: torch.device) -> Sparse:
    """The matrix of which this is the transpose."""
    return Sparse(_matrix(transpose.T.tocsr(), device), _matrix(transpose, device))


def without_duplicates(X: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """X, or a copy of it, with each entry in one part and those of a row in order."""
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X


def _writeable(X: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """X, of which a read-only array (a memory map of joblib's) is copied: torch warns of these."""
    arrays = (X.data, X.indices, X.indptr)
    if all(array.flags.writeable for array in arrays):
        return X
    copied = tuple(array if array.flags.writeable else array.copy() for array in arrays)
    return scipy.sparse.csr_array(copied, shape=X.shape)


def row_slices(X: scipy.sparse.csr_array, most: int, device: torch.device) -> list[slice]:
    """Runs of at most `most` rows, cut so that none holds many more numbers than a block may."""
    slices, first, stored = [], 0, limits_of(device).block_stored
    while first < X.shape[0]:
        enough = int(np.searchsorted(X.indptr, X.indptr[first] + stored, side="right")) - 1
        last = min(first + most, max(enough, first + 1), X.shape[0])
        slices.append(slice(first, last))
        first = last
    return slices


def sparse_matrices(X: scipy.sparse.csr_array, slices: Sequence[slice], device: torch.device) -> list[Sparse]:
    """Runs of rows of X, each with its transpose."""

    def of(rows: slice) -> Sparse:
        first, last = X.indptr[rows.start], X.indptr[rows.stop]
        indptr = X.indptr[rows.start : rows.stop + 1] - first
        arrays = (X.data[first:last], X.indices[first:last], indptr)  # scipy's own slicing copies
        shape = (rows.stop - rows.start, X.shape[1])
        return sparse_matrix(scipy.sparse.csr_array(arrays, shape=shape), device)

    n_threads = min(len(slices), torch.get_num_threads())
    if n_threads < 2:
        return [of(rows) for rows in slices]
    with ThreadPoolExecutor(n_threads) as pool:  # scipy transposes without holding the interpreter's lock
        return list(pool.map(of, slices))


def matmul(X: Sparse, coef: Tensor) -> Tensor:
    """``coef @ X.T``: (Q, n_features) -> (Q, n_rows)."""
    return X.csr.times(coef) if X.few is None else X.few.matmul(coef)


def rmatmul(X: Sparse, residual: Tensor) -> Tensor:
    """``residual @ X``: (Q, n_rows) -> (Q, n_features)."""
    return X.transpose.times(residual) if X.few is None else X.few.rmatmul(residual)


def _times(matrix: scipy.sparse.csr_array | scipy.sparse.csc_array, vectors: Tensor) -> Tensor:
    Q, length = len(vectors), sum(matrix.shape)
    if Q == 1:
        return torch.from_numpy(matrix @ vectors[0].numpy())[None]
    # Together they are transposed, and so is what they make: longer work than to read few numbers again.
    if Q <= FEW_VECTORS or (matrix.nnz <= THIN * length and length >= LONG):
        result = torch.empty((Q, matrix.shape[0]), dtype=vectors.dtype, device=vectors.device)
        for one, product in zip(vectors.numpy(), result.numpy(), strict=True):
            product[:] = matrix @ one
        return result
    return torch.from_numpy(np.ascontiguousarray((matrix @ np.ascontiguousarray(vectors.numpy().T)).T))


def weighted_sums(X: Sparse, residual: Tensor, center: Tensor, powers: Sequence[int]) -> list[Tensor]:
    """``residual @ (X - center)**power`` for each power, 1 or 2, in the dtype of `center`: (Q, n_features).

    An entry that is not stored is (0 - c)². Where some of the weight is on those, a sum over the stored
    numbers as they are loses little to rounding when c is taken off afterwards. Of a column that is all but
    full, deviations are summed: c² can be larger than its variance by as much as the difference is wrong.
    """
    residual = residual.to(center.dtype)  # (Q, n)
    n_rows, total = residual.shape[1], residual.sum(dim=1)[:, None]
    least, most = residual.aminmax()
    counts = X.transpose.crow.diff()
    sums: dict[int, list[Tensor]] = {power: [] for power in {1, *powers}}
    stored: list[Tensor] = []
    for part in _column_parts(X.transpose):
        values = part.values.to(center.dtype)
        for power, found in sums.items():
            found.append(part.with_values(values**power).times(residual))
        if least < most:
            stored.append(part.with_values(torch.ones_like(values)).times(residual))
    of_power = {power: torch.cat(found, dim=1) for power, found in sums.items()}
    weight = torch.cat(stored, dim=1) if stored else counts * most
    full = (weight.abs() > NEARLY_FULL * total.abs()).any(dim=0) | (counts > NEARLY_FULL * n_rows)
    columns, results = full.nonzero()[:, 0], []
    exact = _deviations(X.transpose, columns, residual, center[columns], powers) if len(columns) else []
    for power in powers:
        result = of_power[1] - center * total
        if power == 2:  # (x - c)² = x² - c² - 2 c (x - c)
            result = of_power[2] - center.square() * total - 2 * center * result
        results.append(result)
    for result, of_full in zip(results, exact, strict=False):
        result[:, columns] = of_full
    return results


def _deviations(
    transpose: CsrMatrix, columns: Tensor, residual: Tensor, center: Tensor, powers: Sequence[int]
) -> list[Tensor]:
    """`weighted_sums` of some columns, by deviations from their centres: (Q, len(columns)) each."""
    picked = transpose.rows(columns)
    counts = picked.crow.diff()
    deviation = picked.values.to(center.dtype) - center.repeat_interleave(counts)
    weight = picked.with_values(torch.ones_like(deviation)).times(residual)  # (Q, columns)
    rest = residual.sum(dim=1)[:, None] - weight
    absent = torch.where(counts == residual.shape[1], 0.0, rest)
    return [
        picked.with_values(deviation**power).times(residual) + absent * (-center) ** power for power in powers
    ]


def _column_parts(transpose: CsrMatrix) -> Iterator[CsrMatrix]:
    """Runs of rows of a matrix, so few that copies of their numbers stay small."""
    n_rows, most = transpose.shape[0], limits_of(transpose.values.device).exact_stored
    if len(transpose.values) <= most:
        yield transpose
        return
    bounds, first = transpose.crow.numpy(), 0
    while first < n_rows:
        enough = int(np.searchsorted(bounds, bounds[first] + most, side="right")) - 1
        last = max(enough, first + 1)
        yield transpose.part(first, last)
        first = last


def dense_rows(X: Sparse, start: int, stop: int) -> Tensor:
    """Rows `start` to `stop` as a dense array."""
    crow = X.csr.crow[start : stop + 1]
    first = crow[0].to(torch.int64)
    n_stored = (crow[-1] - crow[0]).to(torch.int64)
    part = slice(int(first), int(first + n_stored))
    counts = crow.diff()
    row = torch.arange(len(counts), dtype=torch.int64, device=crow.device).repeat_interleave(counts)
    dense = X.csr.values.new_zeros((len(counts), X.shape[1]))
    # Accumulate: CSR may hold an entry in several parts.
    column = X.csr.column[part].to(torch.int64)
    return dense.index_put_((row, column), X.csr.values[part], accumulate=True)


def is_near(center: Tensor, spread: Tensor) -> bool:
    """Whether sums of squares of columns may be centred once they are made."""
    return bool((center.abs() <= NEAR * spread).all())


def is_quick_to_square(X: Sparse) -> bool:
    """Whether inner products of all columns take less where only what is stored is multiplied."""
    n, d = X.shape
    return X.csr.values.device.type == "cpu" and SQUARED_PART * len(X.csr.values) <= n * d


def sandwich(X: Sparse, weights: Tensor, center: Tensor, spread: Tensor, intercept: bool) -> Tensor:
    """See `products.sandwich`: sums over the numbers as they are, which are centred afterwards."""
    d, dtype, Q = X.shape[1], center.dtype, len(weights)
    rows, columns = (to_scipy(matrix, dtype) for matrix in (X.csr, X.transpose))
    counts, m = np.diff(rows.indptr), d + intercept
    result = torch.empty((Q, m, m), dtype=dtype, device=center.device)
    weights, step = weights.to(dtype), max(1, limits_of(center.device).sandwich_numbers // d)
    for of_row, matrix in zip(weights, result, strict=True):
        weighted = rows.data * np.repeat(of_row.numpy(), counts)
        weighted = scipy.sparse.csr_array((weighted, rows.indices, rows.indptr), shape=rows.shape)
        for first in range(0, d, step):  # scipy's product holds two numbers for each of these
            some = slice(first, first + step)
            matrix[:d, :d][some] = torch.from_numpy((columns[some] @ weighted).toarray())
        sums, total = torch.from_numpy(columns @ of_row.numpy()), of_row.sum()
        matrix[:d, :d].addr_(sums, center, alpha=-1).addr_(center, sums - total * center, alpha=-1)
        matrix[:d, :d].div_(spread).div_(spread[:, None])
        if intercept:
            matrix[:d, d] = matrix[d, :d] = (sums - total * center) / spread
            matrix[d, d] = total
    return result


def stored_in(X: Sparse, columns: Tensor) -> Tensor:
    """The numbers stored in some columns, given by a mask."""
    return X.transpose.values[columns.repeat_interleave(X.transpose.crow.diff())]
