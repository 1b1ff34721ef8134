"""Columns without a number in sparse rows: the fit is that of the others, and tells of all."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import StratifiedKFold

from helpers.hooks import Hook
from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._checks.data import TrainingData
from torch_logreg._fit import used as module
from torch_logreg._fit.used import Used

D, USED = 3000, 40


def _data(n_classes: int = 2, seed: int = 0) -> tuple[scipy.sparse.csr_array, np.ndarray, np.ndarray]:
    """120 rows, of which 40 of 3000 columns have numbers; labels; these columns."""
    rng = np.random.default_rng(seed)
    columns = np.sort(rng.choice(D, USED, replace=False))
    X = scipy.sparse.lil_array((120, D))
    X[:, columns] = rng.normal(size=(120, USED)) * (rng.random((120, USED)) < 0.3)
    y = (np.asarray(X[:, columns[:n_classes]].toarray()) + rng.gumbel(size=(120, n_classes))).argmax(axis=1)
    return scipy.sparse.csr_array(X), y, columns


def _training(X, n_classes: int = 2) -> TrainingData:
    n = X.shape[0]
    return TrainingData(X, np.arange(n) % n_classes, np.arange(n_classes), np.ones(n))


def test_columns_in_use_are_those_with_a_stored_number():
    X, _, columns = _data()
    used = Used.of(_training(X))
    assert_array_equal(used.index, columns)
    narrow = used.narrow(_training(X)).X
    assert_array_equal(narrow.toarray(), X.toarray()[:, columns])
    assert np.shares_memory(narrow.data, X.data)
    coef = np.arange(2.0 * USED).reshape(2, USED)
    assert_array_equal(used.narrow_coefficients(used.widen_array(coef)), coef)
    assert used.widen_array(coef).shape == (2, D)


@pytest.mark.parametrize("X", [
    np.zeros((4, 1000)),
    scipy.sparse.csr_array((4, 1000)),  # no number at all
    scipy.sparse.csr_array(np.eye(1000)),
    scipy.sparse.csr_array(np.eye(20, 200)),  # few columns
    scipy.sparse.csr_array(np.pad(np.ones((9000, 300)), ((0, 0), (0, 300)))),  # more to copy than is saved
], ids=["dense", "empty", "all", "few", "full"])  # fmt: skip
def test_all_columns_are_taken_where_that_is_no_more(X):
    data = _training(X)
    used = Used.of(data)
    assert used.index is None and used.narrow(data) is data
    coef = np.ones((1, X.shape[1]))
    assert used.widen_array(coef) is coef and used.narrow_coefficients(coef) is coef


def test_numbers_behind_the_last_row_do_not_count():
    X, _, columns = _data()
    longer = scipy.sparse.csr_array(X)
    longer.indices = np.append(X.indices, np.int32(0 if columns[0] else 1))
    longer.data = np.append(X.data, 5.0)
    used = Used.of(_training(longer))
    assert_array_equal(used.index, columns)
    assert_array_equal(used.narrow(_training(longer)).X.toarray(), X.toarray()[:, columns])


def test_a_start_elsewhere_than_at_0_keeps_all_columns():
    X, _, columns = _data()
    start = np.zeros((1, D))
    start[0, columns] = 1.0
    assert Used.of(_training(X), start).index is not None
    start[0, np.setdiff1d(np.arange(D), columns)[0]] = 1.0
    assert Used.of(_training(X), start).index is None


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("settings", [
    {}, {"solver": "lbfgs"}, {"solver": "newton-cg"}, {"fit_intercept": False}, {"C": np.inf},
    {"class_weight": "balanced"},
    {"solver": "sgd", "max_iter": 3, "tol": None, "random_state": 0},
], ids=str)  # fmt: skip
def test_a_fit_is_that_of_all_columns(n_classes, settings, monkeypatch):
    X, y, columns = _data(n_classes)
    few = TorchLogisticClassifier(**{"tol": 1e-8} | settings).fit(X, y)
    monkeypatch.setattr(module, "MOST_USED", 0.0)
    every = TorchLogisticClassifier(**{"tol": 1e-8} | settings).fit(X, y)
    assert few.coef_.shape == every.coef_.shape and few.coef_.dtype == every.coef_.dtype
    assert few.n_features_in_ == D
    assert not few.coef_[:, np.setdiff1d(np.arange(D), columns)].any()
    scale = np.abs(every.coef_).max()
    assert_allclose(few.coef_, every.coef_, rtol=0, atol=1e-5 * scale)
    assert_allclose(few.predict_proba(X), every.predict_proba(X), rtol=0, atol=1e-5)
    assert few.objective_ == pytest.approx(every.objective_, rel=1e-9)
    assert few.stop_reason_ == every.stop_reason_


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_choice_of_C_is_that_of_all_columns(n_classes, monkeypatch):
    X, y, columns = _data(n_classes)
    settings = {"Cs": [0.1, 1.0], "cv": StratifiedKFold(3), "scoring": "neg_log_loss", "tol": 1e-8}
    few = TorchLogisticClassifierCV(**settings).fit(X, y)
    monkeypatch.setattr(module, "MOST_USED", 0.0)
    every = TorchLogisticClassifierCV(**settings).fit(X, y)
    assert few.C_ == every.C_
    assert_allclose(few.scores_, every.scores_, rtol=1e-6)
    assert few.coefs_paths_.shape == every.coefs_paths_.shape
    assert not few.coef_[:, np.setdiff1d(np.arange(D), columns)].any()
    assert_allclose(few.coef_, every.coef_, rtol=0, atol=1e-5 * np.abs(every.coef_).max())


@pytest.mark.parametrize("make", [TorchLogisticClassifier, lambda: TorchLogisticClassifierCV(Cs=[1.0], cv=3)])
def test_callbacks_are_shown_all_columns(make):
    X, y, _ = _data()
    hook = Hook()
    make().set_callbacks(hook).fit(X, y)
    assert {model.coef_.shape for model in hook.models} == {(1, D)}


def test_a_warm_start_goes_on_from_all_columns():
    X, y, columns = _data()
    clf = TorchLogisticClassifier(warm_start=True, tol=1e-8).fit(X, y)
    again = clf.n_iter_[0], clf.fit(X, y).n_iter_[0]
    assert again[1] < again[0]
    other, y_other, other_columns = _data(seed=1)
    clf.fit(other, y_other)
    fresh = TorchLogisticClassifier(tol=1e-8).fit(other, y_other)
    assert_allclose(clf.coef_, fresh.coef_, rtol=0, atol=1e-4 * np.abs(fresh.coef_).max())
    assert len(np.setdiff1d(columns, other_columns))
