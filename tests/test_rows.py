"""The products with X against numpy, for every kind of rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch
from oracle import solve
from torch.utils._python_dispatch import TorchDispatchMode

from torch_logreg import TorchLogisticClassifier, _rows
from torch_logreg._rows import (
    ArrayRows,
    matmul,
    rmatmul,
    rmatmul_square,
    sandwich,
    sandwich_outer,
    sparse_matrix,
)
from torch_logreg._solver import Matrix, Sparse

CPU = torch.device("cpu")


def _csr_int64(X: np.ndarray) -> Sparse:
    """As a matrix with more than 2**31 entries would be."""

    def widened(csr: torch.Tensor) -> torch.Tensor:
        crow, column = csr.crow_indices().long(), csr.col_indices().long()
        return torch.sparse_csr_tensor(crow, column, csr.values(), size=csr.shape, check_invariants=True)

    narrow = sparse_matrix(scipy.sparse.csr_array(X), CPU)
    return Sparse(widened(narrow.csr), widened(narrow.transpose))


KINDS: dict[str, Callable[[np.ndarray], Matrix]] = {
    "dense C": lambda X: torch.from_numpy(np.ascontiguousarray(X)),
    "dense F": lambda X: torch.from_numpy(np.asfortranarray(X)),
    "CSR": lambda X: sparse_matrix(scipy.sparse.csr_array(X), CPU),
    "CSR int64": _csr_int64,
}
kinds = pytest.mark.parametrize("kind", KINDS)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def _data(dtype: type = np.float64, n: int = 57, d: int = 6, Q: int = 3) -> tuple[np.ndarray, ...]:
    """X with an empty column and empty rows, the first and the last among them; (Q, n) and (Q, d)."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)) * (rng.random((n, d)) < 0.5)
    X[:, 2] = 0
    X[[0, 1, 20, -1]] = 0
    return X.astype(dtype), rng.normal(size=(Q, n)).astype(dtype), rng.normal(size=(Q, d)).astype(dtype)


def _sandwich(X, weights, center, spread, ones: bool) -> np.ndarray:
    """In extended precision."""
    A = (X.astype(np.longdouble) - center) / spread
    if ones:
        A = np.hstack([A, np.ones((len(A), 1), dtype=A.dtype)])
    return np.einsum("qn,na,nb->qab", weights.astype(np.longdouble), A, A).astype(float)


def _rows_of(X: np.ndarray | scipy.sparse.csr_array, n_outputs: int = 1) -> ArrayRows:
    weights = torch.arange(1.0, X.shape[0] + 1, dtype=torch.float64)[None]
    features = X if scipy.sparse.issparse(X) else torch.from_numpy(X)
    return ArrayRows(features, torch.arange(X.shape[0]), weights, n_outputs)


# ---- the products ----


@kinds
@dtypes
def test_matmul_and_rmatmul_are_those_of_numpy(kind, dtype):
    X, residual, coef = _data(dtype)
    matrix = KINDS[kind](X)
    forward, backward = matmul(matrix, torch.from_numpy(coef)), rmatmul(matrix, torch.from_numpy(residual))
    assert forward.dtype == backward.dtype == torch.from_numpy(X).dtype
    rounding = 16 * np.finfo(dtype).eps
    for result, expected in ((forward, coef @ X.astype(float).T), (backward, residual @ X.astype(float))):
        np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=rounding * np.abs(expected).max())
    assert not backward[:, 2].any()  # the empty column
    assert not forward[:, [0, 1, 20, -1]].any()  # the empty rows


@kinds
def test_products_of_one_problem_are_contiguous_rows(kind):
    X, residual, coef = _data(Q=1)
    matrix = KINDS[kind](X)
    assert matmul(matrix, torch.from_numpy(coef)).shape == (1, len(X))
    assert rmatmul(matrix, torch.from_numpy(residual)).is_contiguous()


@kinds
@dtypes
@pytest.mark.parametrize("chunk", [1, 40, 2**21])
def test_rmatmul_square_is_that_of_numpy(kind, dtype, chunk, monkeypatch):
    monkeypatch.setattr(_rows, "CHUNK_NUMBERS", chunk)
    X, residual, other = _data(dtype)
    residual, center = np.abs(residual), other[0].astype(float)
    result = rmatmul_square(KINDS[kind](X), torch.from_numpy(residual), torch.from_numpy(center))
    assert result.dtype == torch.float64  # the dtype of the centre, not of X
    expected = residual.astype(float) @ (X.astype(float) - center) ** 2
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-13)


@kinds
@dtypes
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("chunk", [1, 100, 2**21])
def test_sandwich_is_that_of_numpy(kind, dtype, intercept, chunk, monkeypatch):
    monkeypatch.setattr(_rows, "CHUNK_NUMBERS", chunk)
    X, weights, other = _data(dtype)
    center, spread = other[0].astype(float), 0.5 + np.abs(other[1]).astype(float)
    arguments = torch.from_numpy(weights), torch.from_numpy(center), torch.from_numpy(spread), intercept
    result = sandwich(KINDS[kind](X), *arguments)
    expected = _sandwich(X, weights, center, spread, intercept)
    assert result.shape == (3, 6 + intercept, 6 + intercept)
    assert result.dtype == torch.float64  # the dtype of the centre, not of X
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-13, atol=1e-13 * np.abs(expected).max())


@kinds
@dtypes
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("chunk", [1, 200, 2**21])
def test_sandwich_outer_is_that_of_numpy(kind, dtype, intercept, chunk, monkeypatch):
    monkeypatch.setattr(_rows, "CHUNK_NUMBERS", chunk)
    X, _, other = _data(dtype)
    factors = np.random.default_rng(1).normal(size=(2, 3, len(X))).astype(dtype)
    center, spread = other[0].astype(float), 0.5 + np.abs(other[1]).astype(float)
    arguments = torch.from_numpy(factors), torch.from_numpy(center), torch.from_numpy(spread), intercept
    result = sandwich_outer(KINDS[kind](X), *arguments)
    pairs = np.einsum("pkn,pln->pkln", factors.astype(float), factors.astype(float)).reshape(18, -1)
    m = 6 + intercept
    expected = _sandwich(X, pairs, center, spread, intercept).reshape(2, 3, 3, m, m)
    expected = expected.transpose(0, 1, 3, 2, 4).reshape(2, 3 * m, 3 * m)
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-13, atol=1e-13 * np.abs(expected).max())


@kinds
@dtypes
def test_sandwich_keeps_its_accuracy_a_million_deviations_from_zero(kind, dtype):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(200, 3)) + 1e6).astype(dtype)
    weights = np.abs(rng.normal(size=(2, 200))).astype(dtype)
    center = X.astype(np.longdouble).mean(axis=0).astype(float)
    arguments = torch.from_numpy(weights), torch.from_numpy(center), torch.ones(3, dtype=torch.float64), True
    result = sandwich(KINDS[kind](X), *arguments)
    # x - center is exact but for the last digit of the centre: 1e6 * eps of a deviation.
    expected = _sandwich(X, weights, center, np.ones(3), True)
    size = np.sqrt(np.einsum("qaa,qbb->qab", expected, expected))
    assert np.max(np.abs(result.numpy() - expected) / size) < 1e-14


@kinds
@dtypes
def test_rmatmul_square_of_columns_far_from_zero_is_a_usable_variance(kind, dtype):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(500, 3)) + 1e6).astype(dtype)
    ones, center = torch.ones(1, 500, dtype=torch.from_numpy(X).dtype), X.astype(float).mean(axis=0)
    result = rmatmul_square(KINDS[kind](X), ones, torch.from_numpy(center))
    expected = np.sum((X.astype(float) - center) ** 2, axis=0)
    # The 1e12 of a squared offset rounds to 1e-4: it must be neither added nor subtracted.
    np.testing.assert_allclose(result.numpy()[0], expected, rtol=1e-9)


@kinds
@dtypes
def test_a_constant_column_is_at_no_distance_from_its_value(kind, dtype):
    X = np.full((500, 2), [12345.678, 0.1], dtype=dtype)
    residual = torch.from_numpy(np.random.default_rng(0).random((1, 500)).astype(dtype))
    center = torch.from_numpy(X[0].astype(float))
    assert not rmatmul_square(KINDS[kind](X), residual, center).any()


@dtypes
def test_repeated_entries_of_a_csr_matrix_are_summed(dtype):
    indptr, indices = np.array([0, 3, 3, 4]), np.array([1, 1, 0, 2])
    X = scipy.sparse.csr_array((np.array([1, 2, 5, 7], dtype=dtype), indices, indptr), shape=(3, 4))
    ones = torch.ones(1, 3, dtype=torch.from_numpy(X.data).dtype)
    center, spread = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    result = sandwich(sparse_matrix(X, CPU), ones, center, spread, False)
    np.testing.assert_array_equal(result[0].numpy(), X.toarray().T @ X.toarray())


def test_big_endian_values_of_a_csr_matrix_are_read_rightly():
    X, _, coef = _data()
    swapped = scipy.sparse.csr_array(X)
    swapped.data = swapped.data.astype(">f8")
    forward = matmul(sparse_matrix(swapped, CPU), torch.from_numpy(coef))
    np.testing.assert_allclose(forward.numpy(), coef @ X.T, atol=1e-14)


def test_indices_of_a_csr_matrix_are_stored_in_32_bits():
    X = scipy.sparse.csr_array(_data()[0])
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    matrix = sparse_matrix(X, CPU)
    assert matrix.csr.crow_indices().dtype == matrix.transpose.col_indices().dtype == torch.int32


# ---- blocks ----


@pytest.mark.parametrize("kind", ["dense", "CSR"])
@pytest.mark.parametrize("numbers", [1, 14, 2**20])
def test_blocks_hold_every_row_once_and_in_order(kind, numbers, monkeypatch):
    monkeypatch.setattr(_rows, "BLOCK_NUMBERS", numbers)
    X, _, _ = _data()
    rows = _rows_of(X if kind == "dense" else scipy.sparse.csr_array(X), n_outputs=2)
    blocks = list(rows.blocks())
    expected_rows = max(1, numbers // 2)
    assert all(len(block.target) <= expected_rows for block in blocks)
    assert len(blocks) == -(-len(X) // expected_rows)
    parts = [block.X if kind == "dense" else block.X.csr.to_dense() for block in blocks]
    assert [tuple(block.X.shape) for block in blocks] == [tuple(part.shape) for part in parts]
    np.testing.assert_array_equal(torch.cat(parts).numpy(), X)
    np.testing.assert_array_equal(torch.cat([block.target for block in blocks]).numpy(), np.arange(57))
    np.testing.assert_array_equal(torch.cat([block.weights for block in blocks], dim=1)[0], np.arange(1, 58))
    for block, again in zip(blocks, rows.blocks(), strict=True):
        assert again.X is block.X and torch.equal(again.target, block.target)
    assert (rows.n_rows, rows.n_features) == X.shape


def test_rows_of_one_machine_are_their_own_total():
    partial = torch.arange(3.0)
    assert _rows_of(_data()[0]).total(partial) is partial


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("solver", ["newton-cholesky", "newton-cg", "lbfgs"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_many_blocks_give_the_fit_of_one(sparse, solver, n_classes, monkeypatch):
    X, residual, _ = _data(n=90)
    y = (X[:, 0] + residual[0]).argsort().argsort() * n_classes // len(X)
    features = scipy.sparse.csr_array(X) if sparse else X
    settings = {"solver": solver, "tol": 1e-8, "max_iter": 500}
    one = TorchLogisticClassifier(**settings).fit(features, y)
    monkeypatch.setattr(_rows, "BLOCK_NUMBERS", 80)
    monkeypatch.setattr(_rows, "CHUNK_NUMBERS", 200)
    many = TorchLogisticClassifier(**settings).fit(features, y)
    np.testing.assert_allclose(many.coef_, one.coef_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(many.intercept_, one.intercept_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(many.coef_, solve(X, y, n_classes, 1.0).coef, rtol=1e-6, atol=1e-8)


# ---- memory ----


class _Largest(TorchDispatchMode):
    """The most numbers in any dense tensor that torch makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(made, torch.Tensor) and made.layout == torch.strided:
                # A view of few numbers may be expanded to many.
                self.numbers = max(self.numbers, made.untyped_storage().nbytes() // made.element_size())
        return result


def test_a_sparse_matrix_is_never_made_dense_as_a_whole():
    n, d = 3000, 200_000  # 4.8 GB if dense
    X = scipy.sparse.random_array((n, d), density=2e-5, format="csr", rng=np.random.default_rng(0))
    y = np.arange(n) % 2
    with _Largest() as largest:
        TorchLogisticClassifier(solver="newton-cg", C=0.1).fit(X, y).predict_proba(X)
    assert largest.numbers <= 2 * max(X.nnz, d + 1)


def test_the_fisher_matrix_of_sparse_rows_makes_few_of_them_dense_at_a_time(monkeypatch):
    n, d = 20_000, 30
    X = scipy.sparse.random_array((n, d), density=0.05, format="csr", rng=np.random.default_rng(0))
    monkeypatch.setattr(_rows, "CHUNK_NUMBERS", 2**14)
    y = np.arange(n) % 2
    with _Largest() as largest:
        TorchLogisticClassifier(solver="newton-cholesky").fit(X, y)
    assert largest.numbers <= 2 * max(X.nnz, 2**14)
    assert largest.numbers < n * d // 8


@dtypes
@pytest.mark.parametrize("order", ["C", "F"])
def test_dense_arrays_are_not_copied(dtype, order, monkeypatch):
    X = np.asarray(np.random.default_rng(0).normal(size=(40, 3)), dtype=dtype, order=order)
    made, make = [], ArrayRows.__init__

    def recording(self, *args):
        make(self, *args)
        made.append(self)

    monkeypatch.setattr(ArrayRows, "__init__", recording)
    monkeypatch.setattr(_rows, "BLOCK_NUMBERS", 10)
    TorchLogisticClassifier().fit(X, np.arange(40) % 2)
    blocks = list(made[0].blocks())
    assert len(made) == 1 and len(blocks) == 4
    for index, block in enumerate(blocks):
        assert block.X.data_ptr() == X[10 * index :].ctypes.data
        assert block.X.stride() == tuple(stride // X.itemsize for stride in X.strides)


@kinds
@dtypes
def test_the_products_leave_X_as_it_is(kind, dtype):
    X, residual, coef = _data(dtype)
    before, matrix = X.copy(), KINDS[kind](X)
    center = torch.from_numpy(coef[0])
    matmul(matrix, torch.from_numpy(coef))
    rmatmul(matrix, torch.from_numpy(residual))
    rmatmul_square(matrix, torch.from_numpy(residual), center)
    sandwich(matrix, torch.from_numpy(residual), center, torch.ones_like(center), True)
    after = matrix.csr.to_dense() if isinstance(matrix, Sparse) else matrix
    np.testing.assert_array_equal(after.numpy(), before)
