"""Sparse algebra: CSR matrices, their products, and sums over their columns.

Dense or CSR is decided in `products.py` and nowhere else; what CSR then takes is here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg._data.csr import CsrMatrix
from torch_logreg._runtime.limits import limits_of


class Sparse(NamedTuple):
    """A CSR matrix and its transpose, also as CSR: products with either read it in order."""

    csr: CsrMatrix  # (n_rows, n_features)
    transpose: CsrMatrix  # (n_features, n_rows)
    few: scipy.sparse.csr_array | None = None  # the matrix, where products are too small for several threads

    @property
    def shape(self) -> tuple[int, int]:
        return self.csr.shape


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
    few = X if X.nnz <= limits_of(device).few_stored else None
    return Sparse(csr, _matrix(X.T.tocsr(), device) if transpose else csr, few)


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
    return X.csr.times(coef) if X.few is None else _times_few(X.few, coef)


def rmatmul(X: Sparse, residual: Tensor) -> Tensor:
    """``residual @ X``: (Q, n_rows) -> (Q, n_features)."""
    return X.transpose.times(residual) if X.few is None else _times_few(X.few.T, residual)


def _times_few(matrix: scipy.sparse.csr_array | scipy.sparse.csc_array, vectors: Tensor) -> Tensor:
    """By scipy, on one thread: others would take longer to start than the product does."""
    if len(vectors) == 1:
        return torch.from_numpy(matrix @ vectors[0].numpy())[None]
    return torch.from_numpy(np.ascontiguousarray((matrix @ vectors.numpy().T).T))


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


def stored_in(X: Sparse, columns: Tensor) -> Tensor:
    """The numbers stored in some columns, given by a mask."""
    return X.transpose.values[columns.repeat_interleave(X.transpose.crow.diff())]
