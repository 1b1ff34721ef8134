"""The products with X.

Dense or CSR is decided in the functions below and nowhere else; what CSR takes is in `sparse.py`.
Whatever multiplies X from the left is class-major, ``(Q, n_rows)`` or ``(Q, n_features)``: one row a
problem and output.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from torch_logreg._contracts.rows import Matrix
from torch_logreg._data import sparse
from torch_logreg._data.sparse import Sparse
from torch_logreg._runtime.limits import limits_of

SUB_ROWS, FEW_OUTPUTS, MIN_PART_ROWS = 2**10, 4, 2**8  # see `_whole_parts` and `_thread_parts`
HALF = (torch.float16, torch.bfloat16)


def matmul(X: Matrix, coef: Tensor) -> Tensor:
    """``coef @ X.T``: (Q, n_features) -> (Q, n_rows)."""
    if isinstance(X, Sparse):
        return sparse.matmul(X, coef)
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
    # The one row of an array from elsewhere may have any stride, for which products are slow. It stands on
    # the left: as the one column of a matrix on the right it takes BLAS twice as long (one_pass.py).
    coef = coef.contiguous().as_strided(coef.shape, (X.shape[1], 1))
    whole = _whole_parts(X, len(coef))
    if not whole:
        return coef @ X.T
    parts = X[:whole].unflatten(0, (-1, SUB_ROWS)).mT
    products = torch.bmm(coef.expand(len(parts), -1, -1), parts)
    product = products.transpose(0, 1).reshape(len(coef), whole)
    return product if whole == len(X) else torch.cat([product, coef @ X[whole:].T], dim=1)


def holds_below(X: Matrix, columns: Tensor, bound: float) -> bool:
    """Whether one of some columns, given by a mask, holds a number other than 0 and smaller than `bound`."""
    numbers = sparse.stored_in(X, columns) if isinstance(X, Sparse) else X[:, columns]
    return bool(((numbers != 0) & (numbers.abs() < bound)).any())


def rmatmul(X: Matrix, residual: Tensor) -> Tensor:
    """``residual @ X``: (Q, n_rows) -> (Q, n_features)."""
    if isinstance(X, Sparse):
        return sparse.rmatmul(X, residual)
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


def upcast(X: Tensor) -> Tensor:
    """Rows to compute with: those of 16 bits in float32."""
    return X.to(torch.float32) if X.dtype in HALF else X


def upcast_rows(X: Tensor) -> int:
    """How many rows of 16 bits are upcast at a time."""
    limits = limits_of(X.device)
    return max(limits.least_block_rows, limits.upcast_numbers // X.shape[1])


def _upcast_parts(X: Tensor) -> Iterator[slice]:
    step = upcast_rows(X)
    return (slice(start, start + step) for start in range(0, len(X), step))


def _whole_parts(X: Tensor, n_outputs: int) -> int:
    """How many rows are better multiplied in parts of `SUB_ROWS`: a multiple of these, or 0.

    A matrix times a few vectors runs on one thread in some BLAS libraries, and half as fast as memory
    allows; a batch of such products runs on all. On one thread it would take a little longer.
    """
    few = n_outputs > FEW_OUTPUTS or X.shape[0] < 4 * SUB_ROWS
    if few or X.device.type != "cpu" or torch.get_num_threads() == 1:
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
        return sparse.weighted_sums(X, residual, center, powers)
    residual = residual.to(center.dtype)
    step = max(1, limits_of(X.device).centred_numbers // X.shape[1])
    shape = (len(residual), X.shape[1])
    results = [torch.zeros(shape, dtype=center.dtype, device=center.device) for _ in powers]
    for start in range(0, len(X), step):
        deviation = X[start : start + step].to(center.dtype) - center
        for power, result in zip(powers, results, strict=True):
            result += residual[:, start : start + step] @ (deviation if power == 1 else deviation.square())
    return results


def rmatmul_squares(X: Matrix, residual: Tensor, center: Tensor, spread: Tensor) -> Tensor:
    """``residual @ ((X - center) / spread)**2``, as accurate as the rows: (Q, n_rows) -> (Q, n_features)."""
    if isinstance(X, Sparse):
        return sparse.weighted_sums(X, residual, center, (2,))[0] / spread.square()
    dtype, step = residual.dtype, max(1, limits_of(X.device).centred_numbers // X.shape[1])
    result = torch.zeros((len(residual), X.shape[1]), dtype=dtype, device=residual.device)
    center, spread = center.to(dtype), spread.to(dtype).clamp_(min=torch.finfo(dtype).tiny)
    for start in range(0, len(X), step):
        deviation = X[start : start + step].to(dtype) - center
        result.addmm_(residual[:, start : start + step], deviation.div_(spread).square_())
    return result


def sandwich(X: Matrix, weights: Tensor, center: Tensor, spread: Tensor, intercept: bool) -> Tensor:
    """``A.T @ diag(weights[q]) @ A`` for each q, with A the columns ``(X - center) / spread``.

    `intercept` appends a column of ones to A, the last of m. The columns are centred before they are
    multiplied: subtracting the means afterwards would lose (mean / sd)² of the accuracy. For the same
    reason the products are in the dtype of `center`, also for float32 rows: a float32 Fisher matrix loses
    every direction with less than 1e-7 of the curvature of the steepest.
    Sparse rows that store little are multiplied as they are, where that loses next to nothing.
    (Q, n_rows) -> (Q, m, m).
    """
    if isinstance(X, Sparse) and sparse.is_quick_to_square(X) and sparse.is_near(center, spread):
        return sparse.sandwich(X, weights, center, spread, intercept)
    Q, m = len(weights), X.shape[1] + intercept
    result = torch.zeros((Q * m, m), dtype=center.dtype, device=center.device)
    n_rows = limits_of(center.device).sandwich_numbers // (Q * m)
    for rows, A in _standardised_chunks(X, center, spread, intercept, n_rows):
        weighted = weights[:, rows].T.to(center.dtype).contiguous()[:, :, None] * A[:, None]  # (rows, Q, m)
        result.addmm_(weighted.view(-1, Q * m).T, A)
    return result.view(Q, m, m)


def sandwich_outer(X: Matrix, factors: Tensor, center: Tensor, spread: Tensor, intercept: bool) -> Tensor:
    """``sum_i (b_i kron a_i) (b_i kron a_i)^T`` with b_i the column i of `factors`, a_i the row of A.

    A is that of `sandwich`. (P, K, n_rows) -> (P, K * m, K * m), class-major.
    """
    P, K, m = *factors.shape[:2], X.shape[1] + intercept
    result = torch.zeros((P, K * m, K * m), dtype=center.dtype, device=center.device)
    n_rows = limits_of(center.device).sandwich_numbers // (P * K * m)
    for rows, A in _standardised_chunks(X, center, spread, intercept, n_rows):
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
        return sparse.dense_rows(X, start, stop)
    return upcast(X[start:stop])
