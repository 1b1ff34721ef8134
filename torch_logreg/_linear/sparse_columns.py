"""Sparse rows by their columns, as the spaces of rows take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear.model import LinearModel

MOST_SPREAD = 2.0**20  # of the curvatures of columns, above which scaled ones are the better coordinates
FAR = 0.999  # of a mean square, of a column that is nearly the same in all rows


class SparseColumns(NamedTuple):
    """X by its columns, and their moments; `transpose` has no duplicate entries."""

    transpose: scipy.sparse.csr_array  # (d, n)
    center: np.ndarray  # (d,) means by weight; 0 without an intercept
    squares: np.ndarray  # (d,) mean squares by weight


def even_columns(rows: ArrayRows, model: LinearModel) -> SparseColumns | None:
    """The columns, or None where they are so uneven that they are the better space, or rows are dense."""
    X = rows.sparse
    if X is None:
        return None
    shares = (rows.weights[0] / rows.weights.sum()).cpu().numpy()
    columns = by_column(X, shares, rows.check_finite)
    used = columns.squares > 0
    strength = float(model.penalty(rows.weight_sum(model.C.dtype)).strength.min())
    curve = columns.squares[used] / 4 + strength
    if not used.any() or curve.max() > MOST_SPREAD * curve.min():
        return None
    if (columns.center**2 > FAR * columns.squares).any(where=used):
        return None
    return columns


def by_column(
    X: scipy.sparse.csr_array, shares: np.ndarray, check_finite: Callable[[Tensor], None]
) -> SparseColumns:
    transpose = X.T.tocsr()  # with the rows of a column in order
    transpose.sum_duplicates()
    exact = shares.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # which is seen to here
        squared = scipy.sparse.csr_array(
            (transpose.data.astype(np.float64) ** 2, transpose.indices, transpose.indptr),
            shape=transpose.shape,
        )
        squares = squared @ exact
        check_finite(torch.from_numpy(squares))
    return SparseColumns(transpose, transpose @ exact, squares)
