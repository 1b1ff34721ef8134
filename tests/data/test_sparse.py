"""Algebra of sparse rows that store little."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from torch_logreg._data import products, sparse
from torch_logreg._data.sparse import Few, sparse_matrix

CPU = torch.device("cpu")


def _random(n: int, d: int, density: float, dtype: str = "float64") -> scipy.sparse.csr_array:
    return scipy.sparse.random_array(
        (n, d), density=density, format="csr", rng=np.random.default_rng(0), dtype=dtype
    )


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("numbers", [2**19, 200])  # in one strip of columns, and in several
def test_inner_products_of_what_is_stored_are_those_of_all_numbers(dtype, intercept, numbers, limits):
    X = _random(300, 40, 0.1, dtype)
    matrix, rng = sparse_matrix(X, CPU), np.random.default_rng(1)
    weights, center, spread = (
        torch.from_numpy(rng.uniform(0.5, 1, size=size)) for size in ((3, 300), 40, 40)
    )
    assert sparse.is_quick_to_square(matrix) and sparse.is_near(center, spread)
    limits(sandwich_numbers=numbers)
    found = products.sandwich(matrix, weights, center, spread, intercept)
    A = (X.toarray().astype(float) - center.numpy()) / spread.numpy()
    A = np.column_stack([A, np.ones(300)]) if intercept else A
    expected = np.einsum("qi,ij,ik->qjk", weights.numpy(), A, A)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_columns_far_from_0_or_full_are_centred_before_they_are_multiplied():
    center, spread = torch.tensor([0.0, 31.0, -31.0]), torch.ones(3)
    assert sparse.is_near(center, spread) and not sparse.is_near(center * 1.1, spread)
    assert not sparse.is_quick_to_square(sparse_matrix(_random(30, 20, 0.2), CPU))


@pytest.mark.parametrize(("n", "d"), [(30, 50), (3000, 5000)])
@pytest.mark.parametrize("n_vectors", [1, 3, 20])
@pytest.mark.parametrize("stored", [1e-3, 0.02])
def test_products_of_few_numbers_are_those_of_the_array(n, d, n_vectors, stored):
    X = _random(n, d, stored)
    few, rng = Few.of(X), np.random.default_rng(2)
    coef, residual = rng.normal(size=(n_vectors, d)), rng.normal(size=(n_vectors, n))
    for found, expected in (
        (few.matmul(torch.from_numpy(coef)), coef @ X.T),
        (few.rmatmul(torch.from_numpy(residual)), residual @ X),
    ):
        assert found.is_contiguous()
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_a_matrix_for_products_from_the_left_alone_has_no_transpose(limits):
    limits(few_stored=0)
    matrix = sparse_matrix(_random(30, 20, 0.2), CPU, transpose=False)
    with pytest.raises(RuntimeError, match="only multiplied from the left"):
        _ = matrix.transpose
