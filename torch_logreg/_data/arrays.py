"""Rows in memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg._contracts.rows import Block, Drawable, Gatherable, Matrix, Reads, Sample
from torch_logreg._data.products import HALF, upcast, upcast_rows
from torch_logreg._data.sparse import row_slices, sparse_matrices, sparse_matrix, without_duplicates
from torch_logreg._runtime.crowding import look
from torch_logreg._runtime.devices import looks_are_free
from torch_logreg._runtime.limits import limits_of

# Rows counted at a time: their number is exact in any dtype, and a sum of so many off by 2^-8 at most.
COUNTED_ROWS = 2**16


def _upcast_in_turn(X: Tensor, blocks: Sequence[Block]) -> Iterator[Block]:
    """Blocks of rows of 16 bits in float32, all in one memory: to get new one takes longer than to upcast."""
    memory = torch.empty(blocks[0].X.shape, dtype=torch.float32, device=X.device)
    start = 0
    for block in blocks:
        n_rows = len(block.target)
        yield block._replace(X=memory[:n_rows].copy_(X[start : start + n_rows]))
        start += n_rows


def _select(X: Tensor, rows: Tensor) -> Tensor:
    """``X[rows]``, column by column where that is how X lies in memory."""
    return X.T.index_select(1, rows).T if X.stride(0) == 1 else X.index_select(0, rows)


def _pieces(X: Tensor, target: Tensor, weights: Tensor, n_rows: int) -> Iterator[Block]:
    """Rows cut into blocks. By slices: `split` returns views that not every backend can compute with."""
    for start in range(0, len(target), n_rows):
        rows = slice(start, start + n_rows)
        yield Block(X[rows], target[rows], weights[:, rows])


def group_sums(group: Tensor, weights: Tensor) -> Tensor:
    """The sum of the weights (n,) of each group (n,) of rows, (n_groups,).

    A few rows at a time: float32 numbers that are added one after another stop growing at 2^24.
    """
    n_groups = int(group.max()) + 1
    parts = [slice(first, first + COUNTED_ROWS) for first in range(0, len(group), COUNTED_ROWS)]
    sums = [torch.bincount(group[part], weights[part], minlength=n_groups) for part in parts]
    return torch.stack(sums).sum(dim=0)


class ArrayRows(Drawable, Gatherable):
    """Rows in the memory of one device.

    Rows of 16 bits stay so there: each block is upcast when it is read, for all of its products.
    `n_outputs` raw predictions a row (all problems together) set how many rows make a block.
    `check` raises ValueError if X holds NaN or infinity; None where that is known.
    """

    def __init__(
        self,
        X: Tensor | scipy.sparse.csr_array,
        target: Tensor,
        weights: Tensor,
        n_outputs: int,
        check: Callable[[], None] | None = None,
    ) -> None:
        self.n_rows, self.n_features = X.shape
        self.dtype, self.device = weights.dtype, weights.device
        self._X, self.target, self.weights, self._check = X, target, weights, check
        self.is_dense, self.reads, self._n_outputs = isinstance(X, Tensor), Reads(), n_outputs
        limits = limits_of(self.device)
        step = max(1, limits.block_numbers // n_outputs)
        if isinstance(X, Tensor):
            cached = min(limits.dense_block_rows, limits.dense_block_numbers // n_outputs)
            step = min(step, max(limits.least_block_rows, cached))
        if isinstance(X, Tensor) and X.dtype in HALF:
            step = min(step, upcast_rows(X))
        self._step = step
        if not isinstance(X, Tensor):
            self.n_stored = X.nnz

    @property
    def sparse(self) -> scipy.sparse.csr_array | None:
        """X if it is sparse; it may hold an entry in several parts."""
        return None if isinstance(self._X, Tensor) else self._X

    def as_dense(self) -> ArrayRows:
        """The same rows, dense."""
        X = torch.from_numpy(self._csr.toarray()).to(self.device)
        return ArrayRows(X, self.target, self.weights, self._n_outputs, self._check)

    @functools.cached_property
    def _csr(self) -> scipy.sparse.csr_array:
        return without_duplicates(self._X)

    @functools.cached_property
    def _blocks(self) -> list[Block]:
        return list(self._cut(self._step))

    def _cut(self, step: int) -> Iterator[Block]:
        if isinstance(self._X, Tensor):
            yield from _pieces(self._X, self.target, self.weights, step)
            return
        slices = row_slices(self._csr, step, self.device)
        for rows, X in zip(slices, sparse_matrices(self._csr, slices, self.device), strict=True):
            yield Block(X, self.target[rows], self.weights[:, rows])

    def blocks(self) -> Iterator[Block]:
        blocks: Iterable[Block] = self._blocks
        if isinstance(self._X, Tensor) and self._X.dtype in HALF:
            blocks = _upcast_in_turn(self._X, self._blocks)
        for block in blocks:
            self.rows_read += len(block.target)
            look()
            yield block

    def minibatches(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Block]:
        if batch_size is None:
            self.rows_read += self.n_rows
            yield self._block(slice(None))
            return
        order = torch.randperm(self.n_rows, generator=generator, dtype=torch.int64, device="cpu")
        # Many batches are gathered at once and cut: a gather a batch would cost more than its products.
        numbers = limits_of(self.device).chunk_numbers
        n_gathered = batch_size * max(1, numbers // (batch_size * self.n_features))
        for rows in order.split(n_gathered):
            if isinstance(self._X, Tensor):
                here = rows.to(self.device)
                # index_select: indexing by a tensor takes four times as long on the CPU.
                X, target = upcast(_select(self._X, here)), self.target.index_select(0, here)
                blocks = _pieces(X, target, self.weights.index_select(1, here), batch_size)
            else:
                blocks = (self._block(part) for part in rows.split(batch_size))
            for block in blocks:
                self.rows_read += len(block.target)
                look()
                yield block

    def whole(self) -> Block:
        """All rows in one block."""
        return self._block(slice(None))

    def weight_sum(self, dtype: torch.dtype) -> Tensor:
        return self.total(self.weights.sum(dim=1, dtype=dtype))

    def sample(self, n_rows: int, groups: Callable[[Tensor], Tensor], generator: torch.Generator) -> Sample:
        # Half of the measure goes to the rows by weight, half to the groups in equal parts: each group is
        # there, however rare, and a row of great weight is drawn for certain (Poisson sampling).
        weights = self.weights.mean(dim=0)
        group = groups(self.target)
        totals = group_sums(group, weights)
        n_groups = (totals > 0).sum()
        share = 1 / totals.sum() + 1 / (n_groups * totals)
        measure = (weights * share.to(weights.dtype)[group]).mul_(0.5)
        key = (
            torch.rand(self.n_rows, generator=generator, dtype=torch.float32, device="cpu")
            .to(self.device)
            .div_(measure)
        )
        drawn = (key < n_rows).nonzero()[:, 0]
        key, order = key[drawn].sort()
        drawn = drawn[order]
        own = self.weights[:, drawn]
        return Sample(lambda part: self._block(drawn[part]), own, measure[drawn], key)

    def select(self, problems: np.ndarray) -> ArrayRows:
        if len(self.weights) == 1:
            return self
        weights = self.weights[torch.as_tensor(problems, dtype=torch.int64, device=self.device)]
        some = ArrayRows(self._X, self.target, weights, self._n_outputs, self._check)
        some.reads = self.reads
        return some

    def gatherable(self) -> ArrayRows | None:
        # To find out how many rows to gather, the host would wait for a device; CSR would be transposed anew.
        return self if self.is_dense and looks_are_free(self.device) else None

    def subset(self, drawn: Tensor) -> ArrayRows:
        weights = self.weights[:, drawn]
        return ArrayRows(_select(self._X, drawn), self.target[drawn], weights, len(weights))

    def check_finite(self, found: Tensor) -> None:
        if bool(torch.isfinite(found).all()):
            return
        if self._check is not None:
            self._check()
        most = (
            torch.finfo(self.dtype).max ** 0.5
        )  # what overflows is computed in this dtype, whatever sums are
        if bool(self.weights.max() > most):
            raise ValueError(
                f"Sums of sample_weight times class_weight times the squares of X overflow {self.dtype}: the "
                f"largest weight is {float(self.weights.max()):.1e}. Divide the weights by their largest."
            )
        raise ValueError(
            f"Sums of the squares of X overflow {self.dtype}: its largest values are above about "
            f"{most:.0e}. Divide those columns by a power of ten."
        )

    def _block(self, rows: slice | Tensor) -> Block:
        here = rows.to(self.device) if isinstance(rows, Tensor) else rows
        if isinstance(self._X, Tensor):
            X: Matrix = self._X[here] if isinstance(here, slice) else upcast(_select(self._X, here))
        else:  # scipy takes no tensor for an index
            X = sparse_matrix(
                self._csr[rows.cpu().numpy() if isinstance(rows, Tensor) else rows], self.device
            )
        return Block(X, self.target[here], self.weights[:, here])

    def total(self, partial: Tensor) -> Tensor:
        return partial
