"""Columns in which sparse rows hold no number: the problem of the others, and its solution as one of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg._checks.data import TrainingData

# Used columns at most, in parts of all, and unused ones at least: else shorter vectors save too little.
MOST_USED, LEAST_UNUSED = 0.6, 2**8
SAVED = 8  # stored numbers, whose column numbers are copied, for each coefficient less


@dataclass(frozen=True)
class Used:
    """Which columns have numbers in them, where these are few: as of hashed words, or of some of many rows.

    The others say nothing, and their coefficients are 0. In small fits vectors of so many coefficients would
    take longer than products with the rows.
    """

    index: np.ndarray | None  # into all columns, rising; None for all of them
    n_features: int

    @classmethod
    def of(cls, data: TrainingData, earlier: np.ndarray | None = None) -> Used:
        """The columns used; all if few are not, or if `earlier` coefficients of the others are not 0."""
        X: Any = data.X
        d = X.shape[1]
        every = cls(None, d)
        if not scipy.sparse.issparse(X):
            return every
        n_outputs = 1 if len(data.classes) == 2 else len(data.classes)
        if X.nnz > SAVED * n_outputs * d:
            return every
        is_used = np.zeros(d, dtype=bool)
        is_used[X.indices[: X.nnz]] = True
        index = np.flatnonzero(is_used)
        n_unused = d - len(index)
        saves = n_unused >= LEAST_UNUSED and SAVED * n_outputs * n_unused >= X.nnz
        if not saves or not 0 < len(index) <= MOST_USED * d:
            return every
        if earlier is not None and earlier[:, ~is_used].any():
            return every
        return cls(index, d)

    def narrow(self, data: TrainingData) -> TrainingData:
        """The data with the used columns alone; stored numbers are shared."""
        if self.index is None:
            return data
        X: Any = data.X
        number = np.zeros(self.n_features, dtype=X.indices.dtype)
        number[self.index] = np.arange(len(self.index), dtype=number.dtype)
        stored = slice(0, X.nnz)
        shape = (X.shape[0], len(self.index))
        narrow = scipy.sparse.csr_array((X.data[stored], number[X.indices[stored]], X.indptr), shape=shape)
        return data._replace(X=narrow)

    def narrow_coefficients(self, coef: np.ndarray) -> np.ndarray:
        """(K, d) as (K, d')."""
        return coef if self.index is None else coef[:, self.index]

    def widen(self, coef: Tensor) -> Tensor:
        """(..., d') as (..., d)."""
        if self.index is None:
            return coef
        index = torch.as_tensor(self.index, dtype=torch.int64, device=coef.device)
        return coef.new_zeros((*coef.shape[:-1], self.n_features)).index_copy_(-1, index, coef)

    def widen_array(self, coef: np.ndarray) -> np.ndarray:
        """`widen` of an array."""
        if self.index is None:
            return coef
        wide = np.zeros((*coef.shape[:-1], self.n_features), dtype=coef.dtype)
        wide[..., self.index] = coef
        return wide
