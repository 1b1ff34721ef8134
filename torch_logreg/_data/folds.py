"""Rows of which each problem leaves some out: those that its fold is to be scored on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.rows import Block, Rows
from torch_logreg._data.arrays import ArrayRows


class FoldRows(Rows):
    """Other rows, weighted for P problems by how often the fold of each has a row to train on.

    The weights of all problems are never held at once: those of a block are made when it is read.

    Parameters
    ----------
    rows : ArrayRows
        With weights (1, n_rows).
    counts : Tensor of shape (n_folds, n_rows)
        How often each row is in a fold; of any integer dtype.
    fold : Tensor of shape (P,)
        The fold of each problem, an index into `counts`.
    """

    def __init__(self, rows: ArrayRows, counts: Tensor, fold: Tensor) -> None:
        self._rows, self._counts, self._fold = rows, counts, fold
        self.n_rows, self.n_features = rows.n_rows, rows.n_features
        self.dtype, self.device, self.reads = rows.dtype, rows.device, rows.reads
        self.is_dense, self.n_stored = rows.is_dense, rows.n_stored

    def _weighted(self, block: Block, first: int) -> Block:
        counts = self._counts[:, first : first + len(block.target)].to(self.dtype)
        return block._replace(weights=(counts * block.weights).index_select(0, self._fold))

    def blocks(self) -> Iterator[Block]:
        first = 0
        for block in self._rows.blocks():
            yield self._weighted(block, first)
            first += len(block.target)

    def whole(self) -> Block:
        """All rows in one block."""
        return self._weighted(self._rows.whole(), 0)

    def total(self, partial: Tensor) -> Tensor:
        return self._rows.total(partial)

    def weight_sum(self, dtype: torch.dtype) -> Tensor:
        weights = self._rows.weights[0]
        # Fold by fold: the products are as many numbers as X has rows.
        sums = [(self._counts[fold] * weights).sum(dtype=dtype) for fold in range(len(self._counts))]
        return self.total(torch.stack(sums))[self._fold]

    def select(self, problems: np.ndarray) -> FoldRows:
        return FoldRows(
            self._rows,
            self._counts,
            self._fold[torch.as_tensor(problems, dtype=torch.int64, device=self.device)],
        )

    def check_finite(self, found: Tensor) -> None:
        self._rows.check_finite(found)
