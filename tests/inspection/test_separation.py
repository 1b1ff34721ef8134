"""Fits without a penalty of classes that can be separated, against a linear program over all margins."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.exceptions import ConvergenceWarning

from helpers import optima
from helpers.datasets import load
from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._inspection import separation


def _fit(X, y, **params):
    """The fitted classifier and the text of its only warning, if there was one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = TorchLogisticClassifier(C=np.inf, **params).fit(X, y)
    assert len(caught) <= 1
    assert all(warning.category is ConvergenceWarning for warning in caught)
    return model, str(caught[0].message) if caught else ""


def _random_problem(seed):
    rng = np.random.default_rng(seed)
    n, d, K = int(rng.integers(6, 60)), int(rng.integers(1, 6)), int(rng.integers(2, 5))
    X = rng.normal(size=(n, d))
    X = {0: X, 1: (X > 0).astype(float), 2: np.round(X)}[seed % 3]
    y = rng.integers(K, size=n)
    if seed % 4 == 0:
        y = (X @ rng.normal(size=d) > 0).astype(int)
    elif seed % 4 == 1:
        y[X[:, 0] >= np.quantile(X[:, 0], 0.8)] = 0
    X = X * 10.0 ** rng.integers(-3, 4, size=d) + rng.integers(2) * 100
    y[:2] = 0, 1
    return X, np.unique(y, return_inverse=True)[1]


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("seed", range(40))
@pytest.mark.one_in(3)
def test_a_fit_is_said_to_be_separated_if_and_only_if_it_is(seed, fit_intercept):
    X, y = _random_problem(seed)
    K = y.max() + 1
    separable = optima.separable(X, y, K, fit_intercept)
    model, warning = _fit(X, y, fit_intercept=fit_intercept)
    assert (model.stop_reason_ == "separation") == separable
    assert model.converged_ == (not separable)
    assert ("can be separated" in warning) == separable
    if separable:
        perfect = model.score(X, y) == 1.0 and (np.unique(X, axis=0).shape == X.shape)
        assert ("perfectly" in warning) <= perfect
    else:
        best = optima.solve(X, y, K, np.inf, fit_intercept=fit_intercept)
        value = optima.objective(model.coef_, model.intercept_, X, y, np.inf)
        assert value <= best.objective * (1 + 1e-6)


@pytest.mark.slow
def test_a_combination_of_columns_is_found_on_data_too_large_for_the_program(monkeypatch):
    monkeypatch.setattr(separation, "PROGRAM_NUMBERS", 0)
    monkeypatch.setattr(separation, "SMALL_NUMBERS", 0)
    for name in ("breast_cancer", "digits"):
        data = load(name)
        model, warning = _fit(data.X, data.y)
        assert model.stop_reason_ == "separation"
        assert "perfectly" in warning
    monkeypatch.setattr(separation, "PARAMETERS", 0)
    model, warning = _fit(data.X, data.y)
    assert "perfectly" in warning
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    y = np.where(np.abs(X[:, 0] + X[:, 1]) < 1, rng.integers(2, size=300), X[:, 0] + X[:, 1] > 0)
    assert not optima.separable(X, y, 2)
    assert _fit(X, y)[1] == ""


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("container", [np.asarray, scipy.sparse.csr_array, torch.as_tensor, pd.DataFrame])
def test_a_level_that_only_one_class_has_is_named(container, dtype):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 3, size=(200, 4)).astype(dtype)
    y = rng.integers(2, size=200)
    X[:, 2] = (X[:, 2] == 0) * y  # 1 only for the second class
    model, warning = _fit(container(X), y)
    assert "separated in part by the column 2, so" in warning
    assert model.stop_reason_ == "separation"
    X[:, 2] *= 1 - y  # constant
    assert _fit(container(X), y)[1] == ""


def test_columns_are_named_as_the_user_does():
    numbers = np.random.default_rng(0).integers(0, 3, size=(100, 3))
    X = pd.DataFrame(numbers, columns=["age", "income", "height"])
    y = np.where(X["age"] + X["income"] > 2, "yes", "no")
    warning = _fit(X, y)[1]
    assert "'age'" in warning
    assert "'income'" in warning
    assert "'height'" not in warning
    assert "perfectly" in warning
    assert "finite C" in warning


def test_weights_and_absent_rows_do_not_hide_it():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 2))
    y = (X[:, 1] > 0).astype(int)
    y[:10] = 1 - y[:10]
    weight = rng.uniform(1e-6, 1e6, size=100)
    weight[:10] = 0
    with pytest.warns(ConvergenceWarning, match="separated perfectly by the column 1,"):
        TorchLogisticClassifier(C=np.inf).fit(X, y, weight)


@pytest.mark.parametrize("solver", ["newton-cholesky", "newton-cg", "lbfgs", "sgd"])
def test_every_solver_says_so_however_it_ended(solver):
    X = np.random.default_rng(0).normal(size=(60, 2))
    y = (X[:, 0] > 0.1).astype(int)
    model, warning = _fit(X, y, solver=solver, max_iter=5)
    assert model.stop_reason_ == "separation"
    assert "column 0," in warning


def test_one_of_three_classes_that_is_apart_is_found():
    data = load("iris")
    assert "columns 2, 3" in _fit(data.X, data.y)[1]
    others = data.y > 0
    assert _fit(data.X[others][:, :2], data.y[others])[1] == ""


def test_a_penalty_or_early_stopping_needs_no_such_warning():
    X = np.random.default_rng(0).normal(size=(100, 2))
    y = (X[:, 0] > 0).astype(int)
    assert TorchLogisticClassifier(C=1e3).fit(X, y).converged_
    assert _fit(X, y, early_stopping=True)[1] == ""
    assert _fit(X, y, tol=None, max_iter=3)[1] == ""


def test_the_choice_of_C_names_the_columns_too():
    X = np.random.default_rng(0).normal(size=(100, 2))
    y = (X[:, 0] > 0).astype(int)
    with pytest.warns(ConvergenceWarning, match="C=inf on all rows .* by the column 0,"):
        model = TorchLogisticClassifierCV(Cs=[1.0, np.inf], cv=3).fit(X, y)
    assert not model.converged_


@pytest.mark.parametrize("seed", range(20))
def test_a_rare_level_of_one_of_five_classes_is_found_among_weights_and_units(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(170, 8)) * 10.0 ** rng.integers(-5, 6, size=8)
    y = (X[:, :1] / X[:, 0].std() * rng.normal(size=5) + rng.gumbel(size=(170, 5))).argmax(axis=1)
    y[:5] = np.arange(5)
    X[:, 3] = rng.random(170) < 0.05
    if seed % 2:
        y[X[:, 3] > 0] = 2
    weight = rng.uniform(0.1, 2, size=170)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = TorchLogisticClassifier(C=np.inf).fit(X, y, weight)
    assert (model.stop_reason_ == "separation") == optima.separable(X, y, 5)


def test_a_fit_that_took_a_separated_column_for_solved_is_not_trusted():
    rng = np.random.default_rng(0)
    X = np.exp(2 * rng.normal(size=(768, 3))).astype(np.float32)
    y = rng.integers(5, size=768)
    X[:, 1] = np.where(y == 2, X[:, 1] * (rng.random(768) < 0.02), 0)
    assert optima.separable(X, y, 5)
    model, warning = _fit(X, y)
    assert model.stop_reason_ == "separation"
    assert "column 1," in warning
