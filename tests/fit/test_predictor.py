"""Predictions by chunks: the same as at once, with the same errors, in little memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from torch_logreg import TorchLogisticClassifier
from torch_logreg._checks.data import check_predict
from torch_logreg._fit import predictor
from torch_logreg._runtime.limits import CPU

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function")
rng = np.random.default_rng(0)
X = rng.normal(size=(90, 4))
y = (X[:, 0] + rng.normal(size=90) > 0).astype(int)
LABELS = {"two classes": y, "three classes": y + (X[:, 1] > 0.5)}

ROWS: dict[str, Callable] = {
    "float64": lambda X: X,
    "float32": lambda X: X.astype(np.float32),
    "Fortran order": np.asfortranarray,
    "CSR": scipy.sparse.csr_array,
    "CSR of float32": lambda X: scipy.sparse.csr_array(X.astype(np.float32)),
    "a tensor": torch.tensor,
    "a float32 tensor": lambda X: torch.tensor(X, dtype=torch.float32),
}


def fitted(labels: str, rows: str = "float64", **params) -> TorchLogisticClassifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TorchLogisticClassifier(**params).fit(ROWS[rows](X), LABELS[labels])


def message(function: Callable, *args) -> str:
    with pytest.raises(ValueError) as caught:
        function(*args)
    return str(caught.value)


@pytest.fixture
def small_chunks(limits):
    limits(predicted_rows=7)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.one_in(4)
def test_chunks_give_what_all_rows_at_once_give(limits, method, kind, labels):
    estimator, rows = fitted(labels, kind), ROWS[kind](X)
    expected = getattr(estimator, method)(rows)
    for name, number in (
        ("predicted_rows", 7),
        ("predicted_rows", 89),
        ("predicted_numbers", 10),
        ("predicted_rows", 1),
        ("moved_numbers", 40),
    ):
        limits(**{name: number})
        got = getattr(estimator, method)(rows)
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert_allclose(got, expected, rtol=1e-4 if "float32" in kind else 1e-12, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_chunks_of_a_module_give_what_all_rows_at_once_give(limits, method):
    estimator = fitted("three classes", module=nn.Linear(4, 3), solver="sgd", max_iter=3)
    expected = getattr(estimator, method)(X)
    limits(predicted_rows=7)
    assert_allclose(getattr(estimator, method)(X), expected, rtol=1e-12)


# ---- NaN and infinity ----


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 44, 89])
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.one_in(4)
def test_what_is_not_finite_is_refused_as_at_the_door(small_chunks, kind, row, value, method):
    broken = X.copy()
    broken[row, 2] = value
    estimator, rows = fitted("two classes"), ROWS[kind](broken)
    expected = message(check_predict, estimator, rows)
    assert "Input X contains" in expected
    assert message(getattr(estimator, method), rows) == expected


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("n_rows", [1, 90, 5000])
def test_coefficients_of_zero_hide_nothing(n_rows, kind, value, labels):
    estimator = fitted(labels)
    estimator.coef_ = np.zeros_like(estimator.coef_)
    broken = np.resize(X, (n_rows, 4)).copy()
    broken[-1, 1] = value
    assert "Input X contains" in message(estimator.predict, ROWS[kind](broken))


@pytest.mark.parametrize("rows", ["float64", "CSR"])
def test_a_module_that_hides_infinity_is_not_asked(rows):
    class Bounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(4, 1)

        def forward(self, x):
            return self.last(torch.tanh(x))

    estimator = fitted("two classes", module=Bounded(), solver="sgd", max_iter=2)
    broken = X.copy()
    broken[3, 1] = np.inf
    assert "Input X contains infinity" in message(estimator.predict_proba, ROWS[rows](broken))


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finite_rows_are_predicted_however_their_products_overflow(small_chunks, dtype, method, labels):
    estimator = TorchLogisticClassifier().fit(X.astype(dtype), LABELS[labels])
    estimator.coef_ = 10 * np.abs(estimator.coef_)
    rows = X.astype(dtype)
    rows[50:52] = np.finfo(dtype).max
    got = getattr(estimator, method)(rows)
    others = np.delete(np.arange(90), [50, 51])
    assert_allclose(got[others], getattr(estimator, method)(rows[others]), rtol=1e-5)


def test_x_is_searched_once_for_what_overflows(small_chunks, monkeypatch):
    estimator, calls = fitted("two classes"), []
    check = predictor.check_finite
    monkeypatch.setattr(predictor, "check_finite", lambda *args: calls.append(1) or check(*args))
    estimator.predict(X)
    assert calls == []
    estimator.coef_ = np.full_like(estimator.coef_, np.finfo(np.float64).max)
    estimator.predict(10 + np.abs(X))
    assert calls == [1]


# ---- modes of torch ----


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("labels", LABELS)
def test_any_mode_of_torch_may_be_on(labels, kind, mode):
    estimator, rows = fitted(labels), ROWS[kind](X)
    expected = estimator.predict_proba(rows)
    with mode():
        assert_array_equal(estimator.predict_proba(rows), expected)
        assert_array_equal(estimator.predict_proba(ROWS[kind](X)), expected)


def test_gradients_of_rows_are_not_followed():
    estimator = fitted("two classes")
    rows = torch.tensor(X, requires_grad=True)
    assert_array_equal(estimator.predict_proba(rows), estimator.predict_proba(X))


# ---- memory ----


def test_predicted_labels_take_no_array_of_all_raw_predictions(monkeypatch):
    estimator = fitted("three classes")
    sizes = []
    matmul = predictor.matmul

    def noted(*args):
        z = matmul(*args)
        sizes.append(z.numel())
        return z

    monkeypatch.setattr(predictor, "matmul", noted)
    many = np.resize(X, (100_000, 4))
    estimator.predict(many)
    assert max(sizes) <= 3 * CPU.predicted_rows
    assert sum(sizes) == 300_000
