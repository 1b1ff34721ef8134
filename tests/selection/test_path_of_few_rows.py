"""Choosing C on few rows of many columns, which is done in the space of the rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.model_selection import StratifiedKFold

from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._fit import plan

CS = (1e-3, 0.1, 10.0)
N, D = 90, 1100


def data(n_classes: int, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """Correlated columns of different units, far from 0, of which one is constant."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, D)) + rng.normal(size=(N, 5)) @ rng.normal(size=(5, D))
    y = (X[:, :n_classes] + rng.gumbel(size=(N, n_classes))).argmax(axis=1)
    X = X * rng.exponential(size=D) + 3
    X[:, 7] = 2.0
    return X.astype(dtype), y


def chooser(**settings) -> TorchLogisticClassifierCV:
    return TorchLogisticClassifierCV(Cs=CS, cv=StratifiedKFold(3), scoring="neg_log_loss", **settings)


@pytest.mark.parametrize("solver", ["auto", "newton-cholesky", "newton-cg", "lbfgs"])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.one_in(4)
def test_every_fold_is_a_fit_of_its_own(n_classes, fit_intercept, solver):
    X, y = data(n_classes)
    weights = np.random.default_rng(1).integers(0, 3, size=N).astype(float)
    weights[: 3 * n_classes] = 1.0
    settings = dict(fit_intercept=fit_intercept, tol=1e-7, max_iter=300)
    folds = list(StratifiedKFold(3).split(X, y))
    cv = TorchLogisticClassifierCV(Cs=CS, cv=folds, solver=solver, **settings).fit(X, y, weights)
    assert cv.converged_
    for number, (train, _) in enumerate(folds):
        for at, C in enumerate(CS):
            one = TorchLogisticClassifier(C=C, **settings).fit(X[train], y[train], weights[train])
            coef = cv.coefs_paths_[number, 0, at][:, :D]
            assert_allclose(coef, one.coef_, rtol=0, atol=1e-4 * np.abs(one.coef_).max())
    whole = TorchLogisticClassifier(C=cv.C_, **settings).fit(X, y, weights)
    assert_allclose(cv.objective_, whole.objective_, rtol=1e-9)
    assert_allclose(cv.coef_, whole.coef_, rtol=0, atol=1e-4 * np.abs(whole.coef_).max())
    assert_allclose(cv.predict_proba(X), whole.predict_proba(X), atol=1e-5)


@pytest.mark.deep
def test_it_is_the_answer_of_the_columns(monkeypatch):
    X, y = data(3)
    there = chooser(tol=1e-7).fit(X, y)
    monkeypatch.setattr(plan, "MOST_ROWS", 0)
    elsewhere = chooser(tol=1e-7).fit(X, y)
    assert there.loss_curve_.tolist() != elsewhere.loss_curve_.tolist()
    assert_allclose(there.scores_, elsewhere.scores_, atol=1e-6)
    assert_allclose(there.coef_, elsewhere.coef_, rtol=0, atol=1e-4 * np.abs(elsewhere.coef_).max())
    assert_allclose(there.objective_, elsewhere.objective_, rtol=1e-9)


def test_a_constant_column_and_the_dtype_are_as_for_one_fit():
    X, y = data(2, "float32")
    cv = chooser().fit(X, y)
    assert cv.coef_.dtype == cv.coefs_paths_.dtype == np.float32 and cv.coef_.shape == (1, D)
    assert cv.coef_[0, 7] == 0
    one = TorchLogisticClassifier(C=cv.C_).fit(X, y)
    assert_allclose(cv.predict_proba(X), one.predict_proba(X), atol=1e-4)


def test_tensors_of_16_bits_are_taken_too():
    X, y = data(2)
    X = torch.from_numpy(X).to(torch.bfloat16)
    cv = chooser().fit(X, y)
    exact = chooser().fit(X.double().numpy(), y)
    assert_allclose(cv.scores_, exact.scores_, atol=1e-3)


def test_a_class_without_weight_is_no_obstacle():
    X, y = data(3)
    weights = (y != 2).astype(float)
    cv = chooser().fit(X, y, weights)
    two = chooser().fit(X[y != 2], y[y != 2])
    assert cv.coef_.shape == (3, D) and cv.C_ == two.C_
    assert (cv.predict(X) != 2).all()


def test_infinity_in_x_is_said():
    X, y = data(2)
    X[5, 5] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        chooser().fit(X, y)
