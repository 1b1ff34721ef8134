"""A matrix by rows (CSR) and its products, which never read past the end of the arrays they are given.

MKL's kernels for AVX-512 read several column numbers at once, also behind the last one: where an array ends
at the end of a mapped page, that kills the process. Builds of torch without MKL have no such product, or one
that gave NaN (pytorch issue 127491). Which product is made is decided in `_product_of` and nowhere else.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg._runtime.limits import limits_of
from torch_logreg._runtime.threads import ForkSafeLock

SLACK = 2**10  # numbers behind all that MKL is to read: a page of 4096 bytes of the smallest ones

Product: TypeAlias = Callable[[Tensor], Tensor]  # of vectors (Q, n_columns): (Q, n_rows)


class CsrMatrix:
    """A matrix by rows; nobody may write to its arrays.

    Parameters
    ----------
    crow : Tensor of shape (n_rows + 1,)
        Where each row begins among the stored numbers; int32 or int64.
    column : Tensor of shape (n_stored,)
        Of the dtype of `crow`. A row may hold a column in several parts.
    values : Tensor of shape (n_stored,)
    shape : tuple
        ``(n_rows, n_columns)``
    """

    def __init__(self, crow: Tensor, column: Tensor, values: Tensor, shape: tuple[int, int]) -> None:
        self.crow, self.column, self.values, self.shape = crow, column, values, shape

    def times(self, vectors: Tensor) -> Tensor:
        """``vectors @ matrix.T``: (Q, n_columns) -> (Q, n_rows)."""
        return self._product(vectors)

    @functools.cached_property
    def _product(self) -> Product:
        return _product_of(self)

    def with_values(self, values: Tensor) -> CsrMatrix:
        """Other numbers in the same places."""
        return CsrMatrix(self.crow, self.column, values, self.shape)

    def part(self, first: int, last: int) -> CsrMatrix:
        """Rows `first` to `last`, with views of the stored numbers."""
        crow = self.crow[first : last + 1]
        stored = slice(int(crow[0]), int(crow[-1]))
        shape = (last - first, self.shape[1])
        return CsrMatrix(crow - crow[0], self.column[stored], self.values[stored], shape)

    def rows(self, numbers: Tensor) -> CsrMatrix:
        """Some rows, given by their numbers."""
        counts = self.crow.diff()[numbers]
        ends = counts.cumsum(0)
        first = (self.crow[numbers] - (ends - counts)).repeat_interleave(counts)
        stored = first + torch.arange(len(first), dtype=torch.int64, device=first.device)
        crow = torch.nn.functional.pad(ends, (1, 0)).to(self.crow.dtype)
        return CsrMatrix(crow, self.column[stored], self.values[stored], (len(numbers), self.shape[1]))


def _product_of(matrix: CsrMatrix) -> Product:
    """The product with this matrix on its device, with this build of torch."""
    if matrix.values.device.type != "cpu":
        return _by_torch(matrix)
    # torch turns 64-bit indices into 32-bit ones for MKL, in arrays of its own that have no slack.
    if torch.backends.mkl.is_available() and matrix.crow.dtype == torch.int32:
        return _by_mkl(matrix)
    return _by_scipy(matrix)


def _by_torch(matrix: CsrMatrix) -> Product:
    csr = _torch_csr(matrix.crow, matrix.column, matrix.values, matrix.shape)
    return lambda vectors: _multiply(csr, vectors)


def _multiply(csr: Tensor, vectors: Tensor) -> Tensor:
    if len(vectors) == 1:
        return torch.mv(csr, vectors[0])[None]
    return (csr @ vectors.T).T.contiguous()


_first_use = ForkSafeLock()
_is_prepared = False


def prepare() -> None:
    """Draw torch's once-a-process remarks on CSR tensors here, where nobody is shown them.

    Later calls never enter `catch_warnings`, which is not thread-safe.
    """
    global _is_prepared
    if _is_prepared:
        return
    with _first_use:
        if not _is_prepared:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
                one = torch.ones(1, dtype=torch.float32, device="cpu")
                index = torch.tensor([0, 1], dtype=torch.int64, device="cpu")
                torch.sparse_csr_tensor(index, index[:1], one, size=(1, 1), dtype=torch.float32, device="cpu")
            _is_prepared = True


def _torch_csr(crow: Tensor, column: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    prepare()
    return torch.sparse_csr_tensor(
        crow, column, values, size=shape, dtype=values.dtype, device=values.device, check_invariants=False
    )


def _by_mkl(matrix: CsrMatrix) -> Product:
    """Products with arrays that have slack behind them.

    A small matrix is copied for that. Of a large one, which a copy would double, all rows but the last few
    are views, and those are multiplied number by number: a product of MKL with a few rows copies all of the
    vectors.
    """
    crow, column, values = matrix.crow, matrix.column, matrix.values
    n_rows, n_columns = matrix.shape
    bounds = crow.numpy()
    if len(values) <= limits_of(values.device).copied_stored:
        n_whole, column, values = n_rows, with_slack(column), with_slack(values)
    else:
        n_whole = max(0, int(np.searchsorted(bounds, int(bounds[-1]) - SLACK, side="right")) - 1)
    first = int(bounds[n_whole])
    head = None
    if not first:
        n_whole = 0
    else:
        arrays = (with_slack(crow[: n_whole + 1]), column[:first], values[:first])
        head = _torch_csr(*arrays, (n_whole, n_columns))
    last_column, last_values = column[first:], values[first:]
    last_row = torch.arange(n_rows - n_whole, dtype=torch.int64, device=values.device)
    last_row = last_row.repeat_interleave(crow[n_whole:].diff())

    def product(vectors: Tensor) -> Tensor:
        result = torch.empty((len(vectors), n_rows), dtype=values.dtype, device=values.device)
        if head is not None and len(vectors) == 1:  # one vector is read at column numbers alone
            torch.mv(head, vectors[0], out=result[0, :n_whole])
        elif head is not None:
            result[:, :n_whole] = (head @ with_slack(vectors).T).T
        if n_whole < n_rows:
            last = result[:, n_whole:].zero_()
            last.index_add_(1, last_row, vectors[:, last_column] * last_values)
        return result

    return product


def with_slack(array: Tensor) -> Tensor:
    """A copy behind whose end there are `SLACK` numbers more."""
    memory = torch.empty(array.numel() + SLACK, dtype=array.dtype, device=array.device)
    return memory[: array.numel()].view(array.shape).copy_(array)


def _by_scipy(matrix: CsrMatrix) -> Product:
    """Products of runs of rows, one for each thread: scipy does not hold the interpreter's lock."""
    of_thread = limits_of(matrix.values.device).least_thread_stored
    n_threads = min(torch.get_num_threads(), max(1, len(matrix.values) // of_thread))
    crow = matrix.crow.numpy()
    cuts = np.searchsorted(crow, np.linspace(0, int(crow[-1]), n_threads + 1)[1:-1])
    bounds = [0, *np.maximum.accumulate(cuts).tolist(), matrix.shape[0]]
    parts = [to_scipy(matrix.part(*rows)) for rows in zip(bounds, bounds[1:], strict=False)]

    def product(vectors: Tensor) -> Tensor:
        columns = vectors[0].numpy() if len(vectors) == 1 else vectors.numpy().T
        if len(parts) == 1:
            found = [parts[0] @ columns]
        else:
            with ThreadPoolExecutor(len(parts)) as pool:
                found = list(pool.map(lambda part: part @ columns, parts))
        rows = [torch.from_numpy(array) for array in found]
        return torch.cat(rows)[None] if len(vectors) == 1 else torch.cat(rows).T.contiguous()

    return product


def to_scipy(matrix: CsrMatrix, dtype: torch.dtype | None = None) -> scipy.sparse.csr_array:
    """The matrix as scipy has it, in its own dtype or another."""
    values = matrix.values if dtype is None else matrix.values.to(dtype)
    arrays = (values.numpy(), matrix.column.numpy(), matrix.crow.numpy())
    return scipy.sparse.csr_array(arrays, shape=matrix.shape)
