"""Sparse columns that are held, scaled."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from torch_logreg import TorchLogisticClassifier
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear.held_sparse import HeldSparse, hold_sparse
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.objective import ColumnsObjective
from torch_logreg._linear.streamed import Streamed
from torch_logreg._losses.losses import LOSSES

LOSS = LOSSES["binary"]
MODEL = LinearModel(LOSS, torch.tensor([0.7], dtype=torch.float64), 1, True)


def _rows(X: scipy.sparse.csr_array) -> ArrayRows:
    rng = np.random.default_rng(1)
    target = LOSS.encode(torch.from_numpy(np.arange(X.shape[0]) % 2), torch.float64)
    weights = torch.from_numpy(rng.integers(1, 4, size=(1, X.shape[0])).astype(X.dtype))
    return ArrayRows(X, target, weights, 1)


def _columns(far: float, dtype: str = "float64") -> scipy.sparse.csr_array:
    X = scipy.sparse.random_array((60, 9), density=0.3, rng=np.random.default_rng(0)).toarray()
    X[:, 0] = np.random.default_rng(2).normal(size=60) + far
    return scipy.sparse.csr_array(X.astype(dtype))


@pytest.mark.parametrize("far", [0.0, 1e3, 1e6])
def test_diagonals_are_as_accurate_where_columns_are_far_from_0(far):
    X = _columns(far)
    held, streamed = hold_sparse(_rows(X), MODEL), Streamed(_rows(X), MODEL)
    assert isinstance(held, HeldSparse)
    w = torch.linspace(-1, 1, 10, dtype=torch.float64)[None]
    found, expected = (ColumnsObjective(design, LOSS).at(w).diagonal() for design in (held, streamed))
    # What sums of squares lose when they are centred afterwards.
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(held.coordinates.spread, streamed.coordinates.spread, rtol=1e-9, atol=0)


def test_an_accelerator_reads_the_rows_in_passes(limits):
    limits(few_stored=-1)  # as where scipy cannot read memory
    assert type(hold_sparse(_rows(_columns(0.0)), MODEL)) is Streamed


def test_float32_rows_lose_nothing_to_rounding_of_products():
    X = _columns(2e4, "float32")
    y = np.arange(60) % 2
    few = TorchLogisticClassifier(C=0.1).fit(X, y)
    exact = TorchLogisticClassifier(C=0.1, solver="newton-cholesky").fit(X.toarray().astype(float), y)
    assert few.converged_
    # Coefficients are rounded to float32, and so is the sum of terms that are large next to what is left.
    np.testing.assert_allclose(few.coef_, exact.coef_, rtol=1e-5, atol=1e-7)
