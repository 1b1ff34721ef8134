"""Products with CSR matrices, whoever makes them, and what they never read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose

from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._data import csr
from torch_logreg._data.csr import SLACK, CsrMatrix

TESTS = Path(__file__).parents[1]


def random_csr(n, d, stored, dtype=np.float64, index=np.int32, seed=0):
    """`stored` gives the numbers in each row, (n,)."""
    rng = np.random.default_rng(seed)
    stored = np.broadcast_to(stored, n)
    arrays = (rng.normal(size=stored.sum()), rng.integers(0, d, stored.sum()), np.r_[0, stored.cumsum()])
    values, column, crow = (torch.as_tensor(array) for array in arrays)
    index, values = torch.int32 if index == np.int32 else torch.int64, values.numpy().astype(dtype)
    return CsrMatrix(crow.to(index), column.to(index), torch.from_numpy(values), (n, d))


def dense(matrix):
    arrays = (matrix.values.numpy(), matrix.column.numpy(), matrix.crow.numpy())
    return scipy.sparse.csr_array(arrays, shape=matrix.shape).toarray()


SHAPES = {
    "few rows": (5, 9, 3),
    "rows without numbers": (400, 30, np.arange(400) % 3),
    "nothing stored": (7, 4, 0),
    "a last row longer than the slack": (30, 3000, np.r_[np.full(29, 50), 2 * SLACK]),
    "last rows without numbers": (3000, 40, np.r_[np.full(2000, 5), np.zeros(1000, int)]),
    "first rows without numbers": (3000, 40, np.r_[np.zeros(2500, int), np.full(500, 1)]),
    "many rows": (20_000, 50, 20),
}


@pytest.mark.parametrize("way", ["by torch", "by torch, in parts", "by scipy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_the_dense_matrix(shape, dtype, way, request, limits):
    if way == "by scipy":
        request.getfixturevalue("without_csr_products")
    if way == "by torch, in parts":
        limits(copied_stored=0)
    matrix = random_csr(*SHAPES[shape], dtype)
    right = dense(matrix).astype(np.float64)
    for Q in (1, 4):
        vectors = torch.as_tensor(np.random.default_rng(1).normal(size=(Q, matrix.shape[1])).astype(dtype))
        expected = vectors.numpy().astype(np.float64) @ right.T
        # A sum of m products is off by at most m eps times the sum of their sizes (Higham 2002, section 3.1).
        bound = 3000 * np.finfo(dtype).eps * (np.abs(vectors.numpy()).astype(np.float64) @ np.abs(right).T)
        found = matrix.times(vectors)
        assert found.shape == expected.shape and found.is_contiguous()
        assert (np.abs(found.numpy() - expected) <= bound).all()


def test_threads_share_the_rows_of_a_product_by_scipy(without_csr_products):
    matrix = random_csr(20_000, 50, 20)
    threads = torch.get_num_threads()
    vectors = torch.ones((2, 50), dtype=torch.float64)
    try:
        torch.set_num_threads(1)
        alone = CsrMatrix(matrix.crow, matrix.column, matrix.values, matrix.shape).times(vectors)
        torch.set_num_threads(3)
        assert torch.equal(matrix.times(vectors), alone)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this torch has no MKL to be kept from it")
@pytest.mark.parametrize(("copied", "n_given"), [(0, 3), (2**20, len(SHAPES) - 1)])
def test_all_that_mkl_is_given_has_slack_behind_it(copied, n_given, limits, monkeypatch):
    limits(copied_stored=copied)
    given = []
    make = csr._torch_csr

    def watched(crow, column, values, shape):
        given.append((crow, column, values))
        return make(crow, column, values, shape)

    monkeypatch.setattr(csr, "_torch_csr", watched)
    for shape in SHAPES.values():
        random_csr(*shape).times(torch.ones((1, shape[1]), dtype=torch.float64))
    assert len(given) == n_given  # not of those without numbers, or whose numbers are all in the last rows
    for array in (array for arrays in given for array in arrays):
        end = array.storage_offset() + array.numel()
        assert array.untyped_storage().nbytes() // array.itemsize - end >= SLACK


def test_products_of_64_bit_indices_are_none_of_mkl(monkeypatch):
    monkeypatch.setattr(csr, "_by_mkl", None)  # torch would hand it 32-bit copies without slack
    matrix = random_csr(300, 20, 5, index=np.int64)
    found = matrix.times(torch.ones((2, 20), dtype=torch.float64))
    assert_allclose(found, np.ones((2, 20)) @ dense(matrix).T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("few", [0, 2**20])
@pytest.mark.one_in(100)
def test_a_torch_without_products_of_csr_gives_the_same_models(few, dtype, limits, request):
    rng = np.random.default_rng(0)
    X = scipy.sparse.random_array((600, 20), density=0.3, rng=rng, dtype=dtype, format="csr")
    y = (X @ rng.normal(size=(20, 3)) + rng.gumbel(size=(600, 3))).argmax(axis=1)
    limits(few_stored=few)

    def models():
        for target in (y, y > 0):
            for solver in ("natural-sgd", "newton-cholesky", "newton-cg", "lbfgs"):
                yield TorchLogisticClassifier(solver=solver).fit(X, target).predict_proba(X)
            sgd = TorchLogisticClassifier(solver="sgd", batch_size=200, max_iter=2, tol=None, random_state=0)
            yield sgd.fit(X, target).predict_proba(X)
            yield TorchLogisticClassifierCV(Cs=[0.1, 1.0], cv=2).fit(X, target).predict_proba(X)
            net = TorchLogisticClassifier(
                module=torch.nn.LazyLinear(1 if target is not y else 3), max_iter=2, tol=None, random_state=0
            )
            yield net.fit(X, target).predict_proba(X)

    expected = list(models())
    request.getfixturevalue("without_csr_products")
    for got, right in zip(models(), expected, strict=True):
        # Both end within tol of the optimum; steps of either differ by rounding.
        assert_allclose(got, right, atol=1e-4 if dtype == np.float32 else 1e-6)


@pytest.mark.processes
def test_nothing_is_read_past_the_end_of_an_array():
    done = subprocess.run(
        [sys.executable, str(TESTS / "helpers" / "page_ends.py")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "nothing was read past an end"), done.stderr


@pytest.mark.slow
def test_the_tests_of_sparse_rows_pass_on_a_torch_without_products_of_csr():
    words = "(sparse or CSR or csr) and not without_products and not past_the_end and not mkl and not layout"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(TESTS), "-k", words]
    environment = {**os.environ, "TORCH_LOGREG_WITHOUT_CSR_PRODUCTS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout
