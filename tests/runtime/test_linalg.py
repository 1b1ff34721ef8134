"""Eigendecompositions where the first algorithm fails, too."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from torch_logreg import TorchLogisticClassifierCV
from torch_logreg._runtime.linalg import eigh


def _symmetric(*shape: int) -> torch.Tensor:
    A = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return A + A.mT


@pytest.mark.parametrize("shape", [(5, 5), (3, 4, 4)])
def test_the_other_algorithm_finds_the_same(shape, monkeypatch):
    matrix = _symmetric(*shape)
    expected = torch.linalg.eigh(matrix).eigenvalues

    def fails(matrices):
        raise torch.linalg.LinAlgError("The algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    values, vectors = eigh(matrix)
    assert values.dtype == vectors.dtype == torch.float64 and vectors.shape == matrix.shape
    torch.testing.assert_close(values, expected, rtol=1e-13, atol=1e-14)
    made = vectors @ torch.diag_embed(values) @ vectors.mT
    torch.testing.assert_close(made, matrix, rtol=1e-12, atol=1e-13)


def test_columns_that_no_row_has_a_number_in_are_no_failure():
    """The factor of their columns is the identity there: thousands of equal eigenvalues."""
    rng = np.random.default_rng(1)
    n, d = 150, 2000
    columns = (d * rng.random((n, 5)) ** 4).astype(int)
    X = scipy.sparse.csr_array((rng.random(n * 5), columns.ravel(), np.arange(0, 5 * n + 1, 5)), shape=(n, d))
    y = (X @ rng.normal(size=d) > 0).astype(int)
    model = TorchLogisticClassifierCV(Cs=6, cv=4).fit(X, y)
    assert np.isfinite(model.coef_).all() and not model.coef_[:, np.asarray(X.sum(axis=0)).ravel() == 0].any()
