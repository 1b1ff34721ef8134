"""Everything public of LogisticRegression, on every kind of input: the same shapes, dtypes and numbers.

The columns are standardised, because on raw ones LogisticRegression itself is off.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from numpy.testing import assert_allclose
from sklearn import config_context
from sklearn.linear_model import LogisticRegression

from helpers.datasets import load, standardised
from torch_logreg import TorchLogisticClassifier

PROBLEMS = {"binary": "breast_cancer", "softmax": "wine"}
METHODS = ("decision_function", "predict", "predict_proba", "predict_log_proba")


@cache
def problem(name: str) -> tuple[np.ndarray, np.ndarray]:
    data = load(PROBLEMS[name])
    return standardised(data.X[::3, :6]), data.y[::3]


def reference(**params) -> LogisticRegression:
    return LogisticRegression(solver="newton-cholesky", tol=1e-10, **params)


def int64_indices(X: np.ndarray) -> scipy.sparse.csr_array:
    X = scipy.sparse.csr_array(X)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def unsorted_indices(X: np.ndarray) -> scipy.sparse.csr_array:
    """Return the columns of each row backwards, as products of sparse matrices leave them."""
    X = scipy.sparse.csr_array(X)
    backwards = [
        np.arange(start, stop)[::-1] for start, stop in zip(X.indptr[:-1], X.indptr[1:], strict=True)
    ]
    order = np.concatenate(backwards)
    return scipy.sparse.csr_array((X.data[order], X.indices[order], X.indptr), shape=X.shape)


INPUTS: dict[str, Callable] = {
    "float64": lambda X: X,
    "float32": lambda X: X.astype(np.float32),
    "int64": lambda X: (2 * X).astype(np.int64),
    "int32": lambda X: (2 * X).astype(np.int32),
    "uint16": lambda X: np.abs(2 * X).astype(np.uint16),
    "objects": lambda X: X.astype(object),
    "lists": lambda X: X.tolist(),
    "a frame": pd.DataFrame,
    "a CSR matrix": scipy.sparse.csr_matrix,
    "a CSR array": scipy.sparse.csr_array,
    "a float32 CSR array": lambda X: scipy.sparse.csr_array(X, dtype=np.float32),
    "an integer CSR array": lambda X: scipy.sparse.csr_array((2 * X).astype(np.int64)),
    "a CSR array with zeros": lambda X: scipy.sparse.csr_array(np.where(X > 0.5, X, 0)),
    "a CSC matrix": scipy.sparse.csc_matrix,
    "a CSC array": scipy.sparse.csc_array,
    "a COO array": scipy.sparse.coo_array,
    "int64 indices": int64_indices,
    "unsorted indices": unsorted_indices,
}
LABELS: dict[str, Callable] = {
    "int64": lambda y: y,
    "int8": lambda y: y.astype(np.int8),
    "uint8": lambda y: y.astype(np.uint8),
    "negative integers": lambda y: 3 * y - 5,
    "whole floats": lambda y: y.astype(np.float64),
    "float32 labels": lambda y: y.astype(np.float32),
    "strings": lambda y: np.array(["yes", "no", "perhaps"])[y],
    "string objects": lambda y: np.array(["yes", "no", "perhaps"], dtype=object)[y],
    "a list of integers": lambda y: y.tolist(),
    "a list of strings": lambda y: np.array(["yes", "no", "perhaps"])[y].tolist(),
    "a series": pd.Series,
}


def assert_alike(got, expected, rtol: float = 1e-6) -> None:
    assert type(got) is type(expected)
    if isinstance(expected, np.ndarray):
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
    if np.asarray(expected).dtype.kind == "f":
        scale = np.max(np.abs(np.asarray(expected, dtype=np.float64)))
        assert_allclose(got, expected, rtol=rtol, atol=rtol * scale)
    else:
        np.testing.assert_array_equal(got, expected)


def expected_of(estimator: LogisticRegression, method: str, X):
    """Return what the method returns, but accurate logarithms: theirs are of rounded probabilities."""
    with np.errstate(divide="ignore"):
        result = getattr(estimator, method)(X)
    if method != "predict_log_proba":
        return result
    z = estimator.decision_function(X).astype(np.float64)
    z = np.column_stack([np.zeros(len(z)), z]) if z.ndim == 1 else z
    return (z - np.logaddexp.reduce(z, axis=1, keepdims=True)).astype(result.dtype)


@pytest.fixture(scope="module", params=[(name, bias) for name in PROBLEMS for bias in (True, False)], ids=str)
def setting(request) -> tuple[str, bool]:
    return request.param


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.one_in(4)
def test_every_kind_of_input_gives_what_logistic_regression_gives(setting, kind):
    name, fit_intercept = setting
    X, y = problem(name)
    X = INPUTS[kind](X)
    expected = reference(fit_intercept=fit_intercept)
    with warnings.catch_warnings():  # it gets stuck on float32 and resorts to lbfgs
        warnings.simplefilter("ignore" if "float32" in kind else "error")
        expected.fit(X, y)
    got = TorchLogisticClassifier(fit_intercept=fit_intercept)
    assert got.fit(X, y) is got
    rtol = 1e-5 if "float32" in kind else 1e-6
    assert got.n_iter_.shape == expected.n_iter_.shape
    assert got.n_iter_.dtype == expected.n_iter_.dtype
    assert type(got.n_features_in_) is type(expected.n_features_in_)
    assert got.n_features_in_ == expected.n_features_in_
    for attribute in ("coef_", "intercept_", "classes_"):
        assert_alike(getattr(got, attribute), getattr(expected, attribute), rtol)
    for method in METHODS:
        assert_alike(getattr(got, method)(X), expected_of(expected, method, X), rtol)
    assert_alike(got.score(X, y), expected.score(X, y))


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_kind_of_label_gives_what_logistic_regression_gives(name, kind):
    X, y = problem(name)
    y = LABELS[kind](y)
    expected, got = reference().fit(X, y), TorchLogisticClassifier().fit(X, y)
    for attribute in ("classes_", "coef_", "intercept_"):
        assert_alike(getattr(got, attribute), getattr(expected, attribute))
    for method in METHODS:
        assert_alike(getattr(got, method)(X), expected_of(expected, method, X))
    assert_alike(got.score(X, y), expected.score(X, y))


def test_boolean_labels_give_what_logistic_regression_gives():
    X, y = problem("binary")
    expected, got = reference().fit(X, y == 1), TorchLogisticClassifier().fit(X, y == 1)
    assert_alike(got.classes_, expected.classes_)
    assert_alike(got.predict(X), expected.predict(X))


@pytest.mark.parametrize("fitted_on", ["float64", "float32"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_predictions_have_the_dtype_of_logistic_regression_whatever_they_are_made_of(name, fitted_on):
    X, y = problem(name)
    with warnings.catch_warnings():  # it gets stuck on float32 and resorts to lbfgs
        warnings.simplefilter("ignore")
        expected = reference().fit(X.astype(fitted_on), y)
    got = TorchLogisticClassifier().fit(X.astype(fitted_on), y)
    for kind in set(INPUTS) - {"a frame"}:  # that warns of new names
        if fitted_on == "float32" and kind == "uint16":
            continue
        for method in METHODS:
            rows = INPUTS[kind](X)
            rtol = 1e-5 if fitted_on == "float32" or "float32" in kind else 1e-6
            assert_alike(getattr(got, method)(rows), expected_of(expected, method, rows), rtol)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "float16"])
def test_small_numbers_are_predicted_in_float64_where_numpy_would_take_the_dtype_of_the_coefficients(dtype):
    X, y = problem("binary")
    estimator = TorchLogisticClassifier().fit(X.astype(np.float32), y)
    rows = (2 * np.abs(X)).astype(dtype)
    assert estimator.decision_function(rows).dtype == np.float64
    expected = rows.astype(np.float64) @ estimator.coef_[0].astype(np.float64) + estimator.intercept_[0]
    assert_allclose(estimator.decision_function(rows), expected, rtol=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_weights_and_penalties_give_what_logistic_regression_gives(name):
    X, y = problem(name)
    sample_weight = np.random.default_rng(0).uniform(0, 3, len(y))
    for C in (1e-3, 1.0, 100.0):
        for class_weight in (
            None,
            "balanced",
            {0: 3.0},
            {0: 0.5, 1: 2.0, 2: 7.0} if name == "softmax" else {},
        ):
            params = {"C": C, "class_weight": class_weight}
            expected = reference(**params).fit(X, y, sample_weight)
            got = TorchLogisticClassifier(**params).fit(X, y, sample_weight)
            assert_alike(got.coef_, expected.coef_)
            assert_alike(got.intercept_, expected.intercept_)
            assert_alike(got.score(X, y, sample_weight), expected.score(X, y, sample_weight))


# ---- parameters ----


def test_the_parameters_both_have_have_the_same_defaults():
    got, expected = TorchLogisticClassifier().get_params(), LogisticRegression().get_params()
    shared = sorted(set(got) & set(expected) - {"solver"})
    assert {"C", "class_weight", "fit_intercept", "max_iter", "tol", "warm_start"} <= set(shared)
    assert {name: got[name] for name in shared} == {name: expected[name] for name in shared}


def test_set_params_sets_and_returns_the_estimator():
    estimator = TorchLogisticClassifier()
    assert estimator.set_params(C=3.0, solver="lbfgs") is estimator
    assert (estimator.C, estimator.get_params()["solver"]) == (3.0, "lbfgs")
    assert estimator.get_params(deep=False) == estimator.get_params(deep=True)
    for each in (estimator, LogisticRegression()):
        with pytest.raises(ValueError, match="Invalid parameter 'colour'"):
            each.set_params(colour="red")


def test_every_public_method_of_logistic_regression_is_there():
    missing = {
        name
        for name in dir(LogisticRegression)
        if not name.startswith("_") and not hasattr(TorchLogisticClassifier, name)
    }
    assert missing == set()


def test_metadata_requests_are_those_of_logistic_regression():
    estimators = TorchLogisticClassifier(), LogisticRegression()

    def requests():
        """Of all methods; but for values to start from, classes and rows to validate with, of `fit` here."""
        got, expected = (estimator.get_metadata_routing()._serialize() for estimator in estimators)
        own = ("coef_init", "intercept_init", "classes", "X_val", "y_val", "sample_weight_val")
        assert [got["fit"].pop(name) for name in own] == [None] * len(own)
        return got, expected

    got, expected = requests()
    assert got == expected
    for each in estimators:
        with pytest.raises(RuntimeError, match="enable_metadata_routing"):
            each.set_fit_request(sample_weight=True)
    with config_context(enable_metadata_routing=True):
        for each in estimators:
            assert each.set_fit_request(sample_weight=True) is each
            assert each.set_score_request(sample_weight="importance") is each
        got, expected = requests()
        assert got == expected
        assert got["score"] == {"sample_weight": "importance"}
        with pytest.raises(TypeError, match="colour"):
            estimators[0].set_fit_request(colour=True)


class Seen:
    """A callback that keeps what it is told, and stops training after `stop_after` iterations."""

    def __init__(self, stop_after: int = 1000) -> None:
        self.stop_after, self.tasks, self.coefs = stop_after, [], []

    def setup(self, estimator, context) -> None: ...

    def teardown(self, estimator, context) -> None: ...

    def on_fit_task_begin(self, estimator, context) -> None:
        self.tasks.append(context.task_name)

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None) -> bool:
        if context.task_name != self.tasks[0] and fitted_estimator is not None:
            self.coefs.append(fitted_estimator.coef_)
        return len(self.coefs) >= self.stop_after


def test_callbacks_are_told_of_every_iteration_and_may_stop_it():
    X, y = problem("softmax")
    seen, theirs = Seen(), Seen()
    estimator = TorchLogisticClassifier()
    assert estimator.set_callbacks(seen) is estimator
    estimator.fit(X, y)
    LogisticRegression(solver="lbfgs").set_callbacks(theirs).fit(X, y)
    assert seen.tasks[0] == theirs.tasks[0]
    assert len(seen.tasks) == 1 + estimator.n_iter_[0]
    assert len(seen.coefs) == estimator.n_iter_[0]
    assert_allclose(seen.coefs[-1], estimator.coef_, rtol=1e-6)
    stopped = TorchLogisticClassifier().set_callbacks(Seen(stop_after=2)).fit(X, y)
    assert (stopped.n_iter_[0], stopped.stop_reason_) == (2, "callback")
    assert_allclose(stopped.coef_, seen.coefs[1], rtol=1e-6)


# ---- coefficients that a user changes ----


@pytest.mark.parametrize("name", PROBLEMS)
def test_assigned_coefficients_change_predictions_as_there(name):
    X, y = problem(name)
    expected, got = reference().fit(X, y), TorchLogisticClassifier().fit(X, y)
    before = got.predict_proba(X)
    rng = np.random.default_rng(1)
    coef, intercept = rng.normal(size=got.coef_.shape), rng.normal(size=got.intercept_.shape)
    for each in (expected, got):
        each.coef_ = coef
    assert_alike(got.predict_proba(X), expected.predict_proba(X))
    for each in (expected, got):
        each.intercept_ = intercept
    assert_alike(got.predict_proba(X), expected.predict_proba(X))
    assert np.max(np.abs(got.predict_proba(X) - before)) > 0.1
    for each in (expected, got):
        each.coef_, each.intercept_ = coef.astype(np.float32), intercept.astype(np.float32)
    assert_alike(got.decision_function(X), expected.decision_function(X))


@pytest.mark.parametrize("name", PROBLEMS)
def test_coefficients_changed_in_place_change_predictions_as_there(name):
    X, y = problem(name)
    expected, got = reference().fit(X, y), TorchLogisticClassifier().fit(X, y)
    before = got.decision_function(X)
    for each in (expected, got):
        each.coef_[0, 2] += 1.5
        each.intercept_[0] -= 0.5
    assert_alike(got.decision_function(X), expected.decision_function(X))
    assert np.max(np.abs(got.decision_function(X) - before)) > 0.1


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sparsify_and_densify_work_as_there(name, dtype):
    X, y = problem(name)
    X = X.astype(dtype)
    expected, got = LogisticRegression().fit(X, y), TorchLogisticClassifier().fit(X, y)
    for each in (expected, got):
        each.coef_[:, 2:4] = 0
    dense = got.predict_proba(X)
    assert got.sparsify() is got
    assert type(got.coef_) is type(expected.sparsify().coef_)
    assert (got.coef_.shape, got.coef_.dtype) == (expected.coef_.shape, expected.coef_.dtype)
    assert got.coef_.nnz < np.prod(got.coef_.shape)
    for rows in (X, scipy.sparse.csr_array(X)):
        for method in METHODS:
            assert type(getattr(got, method)(rows)) is np.ndarray
    assert_allclose(got.predict_proba(X), dense, rtol=1e-5 if dtype is np.float32 else 1e-12)
    got.coef_.data[:] = 0  # now every row is alike
    assert np.ptp(got.decision_function(X), axis=0).max() == 0
    assert got.densify() is got
    assert type(got.coef_) is type(expected.densify().coef_)
    assert got.densify().coef_.shape == expected.densify().coef_.shape


# ---- predictions at the edges ----


def test_a_decision_function_of_zero_is_class_0():
    X = np.array([[1.0], [-1.0], [0.0]])
    for estimator in (TorchLogisticClassifier(fit_intercept=False), LogisticRegression(fit_intercept=False)):
        estimator.fit(X, [1, 0, 0])
        assert estimator.decision_function(X[2:]) == 0
        assert estimator.predict(X).tolist() == [1, 0, 0]


def test_of_equally_probable_classes_the_first_is_predicted():
    X, y = problem("softmax")
    for estimator in (TorchLogisticClassifier().fit(X, y), LogisticRegression().fit(X, y)):
        estimator.coef_[:], estimator.intercept_[:] = 0, [0, 1, 1]
        assert set(estimator.predict(X)) == {1}


@pytest.mark.parametrize("name", PROBLEMS)
def test_log_probabilities_are_finite_where_logistic_regression_says_minus_infinity(name):
    X, y = problem(name)
    expected, got = reference().fit(X, y), TorchLogisticClassifier().fit(X, y)
    far = 1e4 * X[:20]
    with np.errstate(divide="ignore"):
        theirs = expected.predict_log_proba(far)
    ours = got.predict_log_proba(far)
    assert np.isinf(theirs).any()
    assert np.isfinite(ours).all()
    z = expected.decision_function(far)
    z = np.column_stack([np.zeros(len(z)), z]) if z.ndim == 1 else z
    assert_allclose(ours, z - np.logaddexp.reduce(z, axis=1, keepdims=True), rtol=1e-6, atol=1e-6)


def test_a_fit_of_one_row_a_class_and_of_one_column_works_as_there():
    for X, y in ([[0.0, 1.0], [2.0, 1.0]], [0, 1]), (np.arange(12.0)[:, None] % 5, np.arange(12) % 3):
        expected, got = reference().fit(X, y), TorchLogisticClassifier().fit(X, y)
        assert_alike(got.coef_, expected.coef_)
        assert_alike(got.predict_proba(X), expected.predict_proba(X))
