"""Gathered columns against numpy: dense ones, held or not, and sparse ones."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from torch_logreg._data import columns
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.columns import DenseColumns, SparseColumns, gather, predictions, slopes

N, D, K = 60, 9, 3
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(N, D)) + 2) * (RNG.random((N, D)) < 0.6) * 10.0 ** RNG.integers(-3, 4, size=D)
X[:, 4] = 7.0  # a constant column
WEIGHTS = RNG.uniform(0.5, 2, size=N)
SHARES = torch.from_numpy(WEIGHTS / WEIGHTS.sum())
CHOSEN = torch.tensor([0, 2, 4, 7])
KINDS = ["dense", "by columns", "float32", "bfloat16", "not held", "sparse", "sparse in blocks", "few sparse"]


def exact(kind):
    """X as the kind holds it."""
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(kind, torch.float64)
    return torch.from_numpy(X).to(dtype).double().numpy()


def rows_of(kind, monkeypatch):
    dtype = torch.float32 if kind in ("float32", "bfloat16") else torch.float64
    features = torch.from_numpy(np.asfortranarray(X) if kind == "by columns" else X)
    if kind == "bfloat16":
        features = features.to(torch.bfloat16)
    elif kind == "float32":
        features = features.to(dtype)
    elif "sparse" in kind:
        features = scipy.sparse.csr_array(X)
    monkeypatch.setattr(columns, "HELD_NUMBERS", 1 if kind == "not held" else 10**6)
    monkeypatch.setattr(columns, "DENSE_NUMBERS", 10**6 if kind == "few sparse" else 1)
    made = ArrayRows(features, torch.zeros(N, dtype=dtype), torch.from_numpy(WEIGHTS)[None].to(dtype), 1)
    if kind == "sparse in blocks":
        made._step = 17
    return made


def scaled_by_hand(kind, l2, has_ones):
    some, s = exact(kind)[:, CHOSEN.numpy()], SHARES.numpy()
    center = s @ some if has_ones else np.zeros(len(CHOSEN))
    variance = s @ (some - center) ** 2
    constant = np.ptp(some, axis=0) == 0 if has_ones else np.zeros(len(CHOSEN), dtype=bool)
    scale = np.sqrt(np.where(constant, center**2, variance / 4) + l2)
    return np.column_stack([(some - center) / scale, np.ones(N)])[:, : len(CHOSEN) + has_ones], scale, center


kinds = pytest.mark.parametrize("kind", KINDS)
ones = pytest.mark.parametrize("has_ones", [True, False])


@kinds
@ones
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_products_are_those_of_centred_and_scaled_columns(kind, has_ones, l2, monkeypatch):
    found = gather(rows_of(kind, monkeypatch), CHOSEN, SHARES, l2, has_ones)
    assert type(found) is (SparseColumns if kind in ("sparse", "sparse in blocks") else DenseColumns)
    A, scale, center = scaled_by_hand(kind, l2, has_ones)
    np.testing.assert_allclose(1 / found.inverse_scale.numpy(), scale, rtol=1e-9)
    np.testing.assert_allclose(found.center.numpy(), center, rtol=1e-12)
    v, r = RNG.normal(size=(K, A.shape[1])), RNG.normal(size=(K, N)) / N
    close = dict(rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found.predict(torch.from_numpy(v)), v @ A.T, **close)
    np.testing.assert_allclose(found.pull_back(torch.from_numpy(r)), r @ A, **close)
    np.testing.assert_allclose(found.squares(torch.from_numpy(np.abs(r))), np.abs(r) @ A**2, **close)


@kinds
@ones
def test_inner_products_of_the_columns_of_one_output(kind, has_ones, monkeypatch, limits):
    limits(sandwich_numbers=40)
    found = gather(rows_of(kind, monkeypatch), CHOSEN, SHARES, 0.1, has_ones)
    A, _, _ = scaled_by_hand(kind, 0.1, has_ones)
    weights = RNG.uniform(size=N) / N
    column = torch.arange(A.shape[1])
    matrix = found.matrix(torch.from_numpy(weights)[None], None, column, torch.zeros_like(column))
    np.testing.assert_allclose(matrix, A.T @ (weights[:, None] * A), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", ["dense", "not held", "few sparse"])
@ones
def test_inner_products_of_pairs_of_a_column_and_an_output(kind, has_ones, monkeypatch, limits):
    limits(sandwich_numbers=40)
    found = gather(rows_of(kind, monkeypatch), CHOSEN, SHARES, 0.1, has_ones)
    A, _, _ = scaled_by_hand(kind, 0.1, has_ones)
    diagonal, factors = RNG.uniform(size=(K, N)), RNG.uniform(size=(K, N))
    column, output = torch.tensor([3, 0, 1, 3, A.shape[1] - 1]), torch.tensor([0, 2, 2, 1, 0])
    matrix = found.matrix(torch.from_numpy(diagonal), torch.from_numpy(factors), column, output)
    for i, (j, k) in enumerate(zip(column.tolist(), output.tolist(), strict=True)):
        for m, (g, h) in enumerate(zip(column.tolist(), output.tolist(), strict=True)):
            weights = diagonal[k] if k == h else -factors[k] * factors[h]
            assert matrix[i, m] == pytest.approx((A[:, j] * A[:, g]) @ weights, rel=1e-9, abs=1e-9)


def test_sparse_columns_of_several_outputs_are_only_multiplied_with(monkeypatch):
    found = gather(rows_of("sparse", monkeypatch), CHOSEN, SHARES, 0.1, True)
    column = torch.arange(4)
    assert found.matrix(torch.ones(K, N), torch.ones(K, N), column, column % K) is None


@kinds
def test_predictions_and_slopes_of_all_columns_are_in_the_dtype_asked_for(kind, monkeypatch):
    rows = rows_of(kind, monkeypatch)
    coef, r = RNG.normal(size=(K, D)), RNG.normal(size=(K, N))
    few = coef * (np.arange(D) < 2)
    for some in (coef, few):
        z = predictions(rows, torch.from_numpy(some), torch.float64)
        np.testing.assert_allclose(z, some @ exact(kind).T, rtol=1e-10, atol=1e-8)
    np.testing.assert_allclose(slopes(rows, torch.from_numpy(r)), r @ exact(kind), rtol=1e-9, atol=1e-8)


def test_of_many_pairs_no_matrix_is_made(monkeypatch):
    monkeypatch.setattr(columns, "FACTORISED", 4)
    found = gather(rows_of("dense", monkeypatch), CHOSEN, SHARES, 0.1, True)
    column = torch.arange(5)
    assert found.matrix(torch.ones(1, N), None, column, torch.zeros_like(column)) is None
