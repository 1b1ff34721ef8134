"""Rows in memory, and the products with X.

Dense or CSR is decided in the functions below and nowhere else; what CSR takes is in `_sparse.py`.
Whatever multiplies X from the left is class-major, ``(Q, n_rows)`` or ``(Q, n_features)``: one row a
problem and output.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg import _sparse
from torch_logreg._solver import Block, Matrix, Rows, Sample, Sparse
from torch_logreg._sparse import sparse_matrices, sparse_matrix

BLOCK_NUMBERS = 2**20  # numbers in the (Q, n_rows) arrays of one block
# Of dense rows on the CPU: a block's rows are still in the cache when the second product reads them.
CACHE_NUMBERS, MIN_BLOCK_ROWS, MAX_BLOCK_ROWS = 2**17, 2**10, 2**14
SUB_ROWS, FEW_OUTPUTS, MIN_PART_ROWS = 2**10, 4, 2**8  # see `_whole_parts` and `_thread_parts`
CHUNK_NUMBERS = 2**21  # of rows gathered or centred at a time
COUNTED_ROWS = (
    2**16
)  # at a time: their number is exact in any dtype, and a sum of so many off by 2^-8 at most
HALF = (torch.float16, torch.bfloat16)
# Of rows of 16 bits upcast at a time: a cache holds them for both products, or an accelerator is kept busy.
CPU_UPCAST_NUMBERS, ACCELERATOR_UPCAST_NUMBERS = 2**20, 2**26
SANDWICH_NUMBERS = 2**19  # in the scratch array of `sandwich`: some megabytes, which a cache holds


def matmul(X: Matrix, coef: Tensor) -> Tensor:
    """``coef @ X.T``: (Q, n_features) -> (Q, n_rows)."""
    if isinstance(X, Sparse):
        return _sparse.matmul(X, coef)
    if X.dtype in HALF:
        return torch.cat([matmul(X[part].to(coef.dtype), coef) for part in _upcast_parts(X)], dim=1)
    if n_parts := _thread_parts(X, len(coef)):
        whole = len(X) - len(X) % n_parts
        product = torch.empty((len(coef), len(X)), dtype=coef.dtype, device=coef.device)
        of_parts = torch.bmm(coef.expand(n_parts, -1, -1), X[:whole].unflatten(0, (n_parts, -1)).mT)
        product[:, :whole].unflatten(1, (n_parts, -1)).copy_(of_parts.transpose(0, 1))
        if whole < len(X):
            product[:, whole:] = coef @ X[whole:].T
        return product
    whole = _whole_parts(X, len(coef))
    if not whole:
        return coef @ X.T
    parts = X[:whole].unflatten(0, (-1, SUB_ROWS))
    # The one row of an array from elsewhere may have any stride, for which products are slow.
    columns = coef.contiguous().as_strided((X.shape[1], len(coef)), (1, X.shape[1]))
    product = torch.bmm(parts, columns.expand(len(parts), -1, -1)).view(whole, -1).T.contiguous()
    return product if whole == len(X) else torch.cat([product, coef @ X[whole:].T], dim=1)


def holds_below(X: Matrix, columns: Tensor, bound: float) -> bool:
    """Whether one of some columns, given by a mask, holds a number other than 0 and smaller than `bound`."""
    numbers = _sparse.stored_in(X, columns) if isinstance(X, Sparse) else X[:, columns]
    return bool(((numbers != 0) & (numbers.abs() < bound)).any())


def rmatmul(X: Matrix, residual: Tensor) -> Tensor:
    """``residual @ X``: (Q, n_rows) -> (Q, n_features)."""
    if isinstance(X, Sparse):
        return _sparse.rmatmul(X, residual)
    if X.dtype in HALF:
        products = (
            rmatmul(X[part].to(residual.dtype), residual[:, part].contiguous()) for part in _upcast_parts(X)
        )
        return functools.reduce(Tensor.add_, products)
    if n_parts := _thread_parts(X, len(residual)):
        whole, n_rows = len(X) - len(X) % n_parts, len(X) // n_parts
    else:
        whole, n_rows = _whole_parts(X, len(residual)), SUB_ROWS
    if not whole:
        return residual @ X
    parts = X[:whole].unflatten(0, (-1, n_rows))
    product = torch.bmm(residual[:, :whole].unflatten(1, (-1, n_rows)).transpose(0, 1), parts).sum(dim=0)
    return product if whole == len(X) else product + residual[:, whole:] @ X[whole:]


def _upcast(X: Tensor) -> Tensor:
    """Rows to compute with: those of 16 bits in float32."""
    return X.to(torch.float32) if X.dtype in HALF else X


def upcast_rows(X: Tensor) -> int:
    """How many rows of 16 bits are upcast at a time."""
    numbers = CPU_UPCAST_NUMBERS if X.device.type == "cpu" else ACCELERATOR_UPCAST_NUMBERS
    return max(MIN_BLOCK_ROWS, numbers // X.shape[1])


def _upcast_parts(X: Tensor) -> Iterator[slice]:
    step = upcast_rows(X)
    return (slice(start, start + step) for start in range(0, len(X), step))


def _upcast_in_turn(X: Tensor, blocks: Sequence[Block]) -> Iterator[Block]:
    """Blocks of rows of 16 bits in float32, all in one memory: to get new one takes longer than to upcast."""
    memory = torch.empty(blocks[0].X.shape, dtype=torch.float32, device=X.device)
    start = 0
    for block in blocks:
        n_rows = len(block.target)
        yield block._replace(X=memory[:n_rows].copy_(X[start : start + n_rows]))
        start += n_rows


def _whole_parts(X: Tensor, n_outputs: int) -> int:
    """How many rows are better multiplied in parts of `SUB_ROWS`: a multiple of these, or 0.

    A matrix times a few vectors runs on one thread in some BLAS libraries, and half as fast as memory
    allows; a batch of such products runs on all.
    """
    if n_outputs > FEW_OUTPUTS or X.shape[0] < 4 * SUB_ROWS or X.device.type != "cpu":
        return 0
    return X.shape[0] - X.shape[0] % SUB_ROWS


def _thread_parts(X: Tensor, n_outputs: int) -> int:
    """In how many parts rows are better multiplied, one for each thread; 0 for none.

    A thread then reads and writes its own rows in both products, which stay in the cache of its core:
    else cores hand rows to one another, the more so where they were just made of 16 bits.
    """
    n_threads = torch.get_num_threads()
    many = n_outputs > FEW_OUTPUTS and X.shape[0] >= n_threads * MIN_PART_ROWS
    return n_threads if n_threads > 1 and many and X.device.type == "cpu" else 0


def rmatmul_deviation(X: Matrix, residual: Tensor, center: Tensor, *powers: int) -> list[Tensor]:
    """``residual @ (X - center)**power`` for each power, 1 or 2: (Q, n_rows) -> (Q, n_features).

    In the dtype of `center`: the squares of float32 numbers overflow from 2e19 on.
    """
    if isinstance(X, Sparse):
        return _sparse.weighted_sums(X, residual, center, powers)
    residual = residual.to(center.dtype)
    step = max(1, CHUNK_NUMBERS // X.shape[1])
    shape = (len(residual), X.shape[1])
    results = [torch.zeros(shape, dtype=center.dtype, device=center.device) for _ in powers]
    for start in range(0, len(X), step):
        deviation = X[start : start + step].to(center.dtype) - center
        for power, result in zip(powers, results, strict=True):
            result += residual[:, start : start + step] @ (deviation if power == 1 else deviation.square())
    return results


def sandwich(X: Matrix, weights: Tensor, center: Tensor, spread: Tensor, intercept: bool) -> Tensor:
    """``A.T @ diag(weights[q]) @ A`` for each q, with A the columns ``(X - center) / spread``.

    `intercept` appends a column of ones to A, the last of m. The columns are centred before they are
    multiplied: subtracting the means afterwards would lose (mean / sd)² of the accuracy. For the same
    reason the products are in the dtype of `center`, also for float32 rows: a float32 Fisher matrix loses
    every direction with less than 1e-7 of the curvature of the steepest.
    (Q, n_rows) -> (Q, m, m).
    """
    Q, m = len(weights), X.shape[1] + intercept
    result = torch.zeros((Q * m, m), dtype=center.dtype, device=center.device)
    for rows, A in _standardised_chunks(X, center, spread, intercept, SANDWICH_NUMBERS // (Q * m)):
        weighted = weights[:, rows].T.to(center.dtype).contiguous()[:, :, None] * A[:, None]  # (rows, Q, m)
        result.addmm_(weighted.view(-1, Q * m).T, A)
    return result.view(Q, m, m)


def sandwich_outer(X: Matrix, factors: Tensor, center: Tensor, spread: Tensor, intercept: bool) -> Tensor:
    """``sum_i (b_i kron a_i) (b_i kron a_i)^T`` with b_i the column i of `factors`, a_i the row of A.

    A is that of `sandwich`. (P, K, n_rows) -> (P, K * m, K * m), class-major.
    """
    P, K, m = *factors.shape[:2], X.shape[1] + intercept
    result = torch.zeros((P, K * m, K * m), dtype=center.dtype, device=center.device)
    for rows, A in _standardised_chunks(X, center, spread, intercept, SANDWICH_NUMBERS // (P * K * m)):
        product = (
            factors[:, :, rows].mT.to(center.dtype).contiguous()[..., None] * A[:, None]
        )  # (P, rows, K, m)
        product = product.view(P, -1, K * m)
        result.baddbmm_(product.mT, product)
    return result


def _standardised_chunks(
    X: Matrix, center: Tensor, spread: Tensor, intercept: bool, n_rows: int
) -> Iterator[tuple[slice, Tensor]]:
    """Dense ``(X - center) / spread``, with ones for the intercept, `n_rows` rows at a time."""
    n_rows, d = max(1, n_rows), X.shape[1]
    for start in range(0, X.shape[0], n_rows):
        part = dense_rows(X, start, start + n_rows)
        A = torch.ones((len(part), d + intercept), dtype=center.dtype, device=center.device)
        A[:, :d].copy_(part).sub_(center).div_(spread)
        yield slice(start, start + n_rows), A


def dense_rows(X: Matrix, start: int, stop: int) -> Tensor:
    """Rows `start` to `stop` as a dense array, a view where X is dense and not of 16 bits."""
    if isinstance(X, Sparse):
        return _sparse.dense_rows(X, start, stop)
    return _upcast(X[start:stop])


def dense_columns(X: Matrix, columns: slice, dtype: torch.dtype) -> Tensor:
    """A copy of some columns as a dense array."""
    if isinstance(X, Sparse):
        return _sparse.dense_rows(X, 0, X.shape[0])[:, columns].to(dtype)
    return X[:, columns].to(dtype, copy=True)


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


class ArrayRows(Rows):
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
        self.is_dense = isinstance(X, Tensor)
        # To find out how many rows to gather, the host would wait for a device; CSR would be transposed anew.
        self.gathers = self.is_dense and self.device.type == "cpu"
        step = max(1, BLOCK_NUMBERS // n_outputs)
        if isinstance(X, Tensor) and X.device.type == "cpu":
            step = min(step, max(MIN_BLOCK_ROWS, min(MAX_BLOCK_ROWS, CACHE_NUMBERS // n_outputs)))
        if isinstance(X, Tensor) and X.dtype in HALF:
            step = min(step, upcast_rows(X))
        self._step = step

    @property
    def sparse(self) -> scipy.sparse.csr_array | None:
        """X if it is sparse; it may hold an entry in several parts."""
        return None if isinstance(self._X, Tensor) else self._X

    @functools.cached_property
    def _csr(self) -> scipy.sparse.csr_array:
        return _sparse.without_duplicates(self._X)

    @functools.cached_property
    def _blocks(self) -> list[Block]:
        return list(self._cut(self._step))

    def _cut(self, step: int) -> Iterator[Block]:
        if isinstance(self._X, Tensor):
            yield from _pieces(self._X, self.target, self.weights, step)
            return
        slices = _sparse.row_slices(self._csr, step)
        for rows, X in zip(slices, sparse_matrices(self._csr, slices, self.device), strict=True):
            yield Block(X, self.target[rows], self.weights[:, rows])

    def blocks(self) -> Iterator[Block]:
        blocks: Iterable[Block] = self._blocks
        if isinstance(self._X, Tensor) and self._X.dtype in HALF:
            blocks = _upcast_in_turn(self._X, self._blocks)
        for block in blocks:
            self.rows_read += len(block.target)
            yield block

    def minibatches(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Block]:
        if batch_size is None:
            self.rows_read += self.n_rows
            yield self._block(slice(None))
            return
        order = torch.randperm(self.n_rows, generator=generator, dtype=torch.int64, device="cpu")
        # Many batches are gathered at once and cut: a gather a batch would cost more than its products.
        n_gathered = batch_size * max(1, CHUNK_NUMBERS // (batch_size * self.n_features))
        for rows in order.split(n_gathered):
            if isinstance(self._X, Tensor):
                here = rows.to(self.device)
                # index_select: indexing by a tensor takes four times as long on the CPU.
                X, target = _upcast(_select(self._X, here)), self.target.index_select(0, here)
                blocks = _pieces(X, target, self.weights.index_select(1, here), batch_size)
            else:
                blocks = (self._block(part) for part in rows.split(batch_size))
            for block in blocks:
                self.rows_read += len(block.target)
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

    def select(self, problems: np.ndarray) -> ArrayRows | None:
        return self if len(self.weights) == 1 else None

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
            X: Matrix = self._X[here] if isinstance(here, slice) else _upcast(_select(self._X, here))
        else:  # scipy takes no tensor for an index
            X = sparse_matrix(
                self._csr[rows.cpu().numpy() if isinstance(rows, Tensor) else rows], self.device
            )
        return Block(X, self.target[here], self.weights[:, here])

    def total(self, partial: Tensor) -> Tensor:
        return partial


class SampledRows(Rows):
    """A sample of other rows, gathered anew for each pass, a few at a time: it takes no memory."""

    STEP = 2**8

    def __init__(self, rows: Rows, sample: Sample, size: int) -> None:
        self._rows, self._sample, self._size = rows, sample, size
        self.n_rows, self.n_features = len(sample.key), rows.n_features
        self.dtype, self.device = rows.dtype, rows.device

    def blocks(self) -> Iterator[Block]:
        for first in range(0, self.n_rows, self.STEP):
            part = slice(first, first + self.STEP)
            block = self._sample.gather(part)
            self._rows.rows_read += len(block.target)
            yield block._replace(weights=self._sample.weights(part, self._size))

    def minibatches(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Block]:
        raise NotImplementedError

    def total(self, partial: Tensor) -> Tensor:
        return self._rows.total(partial)

    def weight_sum(self, dtype: torch.dtype) -> Tensor:
        return self.total(self._sample.weights(slice(None), self._size).sum(dim=1, dtype=dtype))

    def sample(self, n_rows: int, groups: Callable[[Tensor], Tensor], generator: torch.Generator) -> Sample:
        raise NotImplementedError

    def check_finite(self, found: Tensor) -> None:
        self._rows.check_finite(found)


class HeldRows(Rows):
    """A block that was gathered from other rows, with weights of its own."""

    def __init__(self, rows: Rows, block: Block) -> None:
        self._rows, self._block = rows, block
        self.n_rows, self.n_features = len(block.target), rows.n_features
        self.dtype, self.device = rows.dtype, rows.device

    def blocks(self) -> Iterator[Block]:
        self._rows.rows_read += self.n_rows
        yield self._block

    def minibatches(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Block]:
        raise NotImplementedError

    def total(self, partial: Tensor) -> Tensor:
        return self._rows.total(partial)

    def weight_sum(self, dtype: torch.dtype) -> Tensor:
        return self.total(self._block.weights.sum(dim=1, dtype=dtype))

    def sample(self, n_rows: int, groups: Callable[[Tensor], Tensor], generator: torch.Generator) -> Sample:
        raise NotImplementedError

    def check_finite(self, found: Tensor) -> None:
        self._rows.check_finite(found)
