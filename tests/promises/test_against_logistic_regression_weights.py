"""Weights, warm starts and warnings mean here what they mean in LogisticRegression."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils import compute_class_weight

from helpers.datasets import load, standardised
from torch_logreg import TorchLogisticClassifier
from torch_logreg._solvers.registry import SOLVERS

PROBLEMS = {"binary": "breast_cancer", "softmax": "wine"}


@pytest.fixture(params=PROBLEMS)
def problem(request) -> tuple[np.ndarray, np.ndarray]:
    data = load(PROBLEMS[request.param])
    return standardised(data.X[::3, :6]), data.y[::3]


EXACT = [name for name in SOLVERS if name != "sgd"]  # stock SGD claims no optimum: see test_sgd.py


@pytest.fixture(params=["auto", *EXACT])
def solver(request) -> str:
    return request.param


def assert_same_model(got, expected, rtol: float = 1e-6) -> None:
    scale = np.abs(expected.coef_).max()
    assert got.classes_.tolist() == expected.classes_.tolist()
    assert_allclose(got.coef_, expected.coef_, rtol=rtol, atol=rtol * scale)
    assert_allclose(got.intercept_, expected.intercept_, rtol=rtol, atol=rtol * scale)


# ---- weights ----


def test_a_weight_is_a_number_of_repetitions(problem, solver):
    X, y = problem
    times = np.random.default_rng(0).integers(0, 4, len(y))
    weighted = TorchLogisticClassifier(solver=solver, tol=1e-6).fit(X, y, times)
    repeated = TorchLogisticClassifier(solver=solver, tol=1e-6).fit(
        np.repeat(X, times, 0), np.repeat(y, times)
    )
    assert_same_model(weighted, repeated)


def test_rows_of_zero_weight_are_no_rows(problem):
    X, y = problem
    kept = np.arange(len(y)) % 4 != 1
    spoilt = np.where(kept[:, None], X, 1e6 * X)
    expected = TorchLogisticClassifier().fit(X[kept], y[kept])
    assert_same_model(TorchLogisticClassifier().fit(spoilt, y, kept.astype(float)), expected, 1e-9)
    sparse = TorchLogisticClassifier().fit(scipy.sparse.csr_array(spoilt), y, kept.astype(float))
    assert_same_model(sparse, expected, 1e-6)


def test_of_three_classes_two_with_weight_are_a_problem_of_two_with_half_the_penalty():
    data = load("wine")
    X, y = standardised(data.X[:, :6]), np.array(["a", "b", "c"])[data.y]
    for absent in "abc":
        kept = y != absent
        for class_weight in (None, "balanced"):
            settings = {"class_weight": class_weight, "tol": 1e-6}
            got = TorchLogisticClassifier(**settings).fit(X, y, kept.astype(float))
            alone = TorchLogisticClassifier(C=2.0, **settings).fit(X[kept], y[kept])
            assert got.classes_.tolist() == ["a", "b", "c"]
            assert got.coef_.shape == (3, 6)
            expected = alone.predict_proba(X)
            assert_allclose(got.predict_proba(X)[:, got.classes_ != absent], expected, atol=1e-8)


def test_a_constant_factor_of_the_weights_is_a_factor_of_c(problem):
    X, y = problem
    weights = np.random.default_rng(0).uniform(0.1, 2, len(y))
    got = TorchLogisticClassifier(C=0.5).fit(X, y, 1000 * weights)
    assert_same_model(got, TorchLogisticClassifier(C=500.0).fit(X, y, weights))


def test_class_weights_multiply_sample_weights(problem):
    X, y = problem
    weights = np.random.default_rng(0).uniform(0.1, 2, len(y))
    classes = np.unique(y)
    balanced = compute_class_weight("balanced", classes=classes, y=y)
    weighted_balance = compute_class_weight("balanced", classes=classes, y=y, sample_weight=weights)
    uneven = {0: 3.0, 1: 0.25, 2: 1.5}
    as_dict = {k: uneven[k] for k in classes}
    for class_weight, sample_weight, product in (
        ("balanced", None, balanced[y]),
        ("balanced", weights, weighted_balance[y] * weights),
        (as_dict, None, np.array([uneven[k] for k in y])),
        (as_dict, weights, np.array([uneven[k] for k in y]) * weights),
        ({1: 5.0}, weights, np.where(y == 1, 5.0, 1.0) * weights),
    ):
        got = TorchLogisticClassifier(class_weight=class_weight).fit(X, y, sample_weight)
        assert_same_model(got, TorchLogisticClassifier().fit(X, y, product), 1e-9)


def test_class_weights_may_name_strings_and_booleans():
    data = load("breast_cancer")
    X, y = standardised(data.X[:, :6]), data.y
    expected = TorchLogisticClassifier(class_weight={0: 2.0, 1: 0.5}).fit(X, y).coef_
    for labels, class_weight in (
        (np.array(["no", "yes"])[y], {"no": 2.0, "yes": 0.5}),
        (np.array(["no", "yes"], dtype=object)[y], {"no": 2.0, "yes": 0.5}),
        (y == 1, {False: 2.0, True: 0.5}),
        (y.astype(float), {0.0: 2.0, 1.0: 0.5}),
    ):
        got = TorchLogisticClassifier(class_weight=class_weight).fit(X, labels)
        assert_allclose(got.coef_, expected, rtol=1e-12)
        theirs = LogisticRegression(class_weight=class_weight, tol=1e-8).fit(X, labels)
        assert_allclose(got.coef_, theirs.coef_, rtol=1e-4)


def test_neither_x_nor_y_nor_the_weights_are_written_to(problem, solver):
    X, y = problem
    arrays = X.copy(), y.copy(), np.ones(len(y))
    kept = [array.copy() for array in arrays]
    TorchLogisticClassifier(solver=solver, class_weight="balanced").fit(*arrays).predict_proba(arrays[0])
    for array, before in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(array, before)
    sparse = scipy.sparse.csr_array(X)
    parts = sparse.data.copy(), sparse.indices.copy(), sparse.indptr.copy()
    TorchLogisticClassifier(solver=solver).fit(sparse, y).predict_proba(sparse)
    for array, before in zip((sparse.data, sparse.indices, sparse.indptr), parts, strict=True):
        np.testing.assert_array_equal(array, before)


# ---- warm starts ----


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_a_warm_start_on_the_same_data_is_done_after_one_step(problem, solver, fit_intercept):
    X, y = problem
    warm = TorchLogisticClassifier(solver=solver, warm_start=True, fit_intercept=fit_intercept).fit(X, y)
    first, cold_steps = clone(warm).fit(X, y), warm.n_iter_[0]
    warm.fit(X, y)
    assert warm.n_iter_[0] == 1 < cold_steps
    assert warm.converged_
    assert_same_model(warm, first, 1e-4)


def test_a_warm_start_leads_to_the_same_answer_as_a_cold_one(problem):
    X, y = problem
    warm = TorchLogisticClassifier(warm_start=True)
    for C in (0.01, 0.1, 1.0, 10.0):
        warm.set_params(C=C).fit(X, y)
        assert_same_model(warm, TorchLogisticClassifier(C=C).fit(X, y))
    warm.sparsify().fit(X, y)
    assert_same_model(warm, TorchLogisticClassifier(C=10.0).fit(X, y))
    warm.set_params(fit_intercept=False).fit(X, y)
    assert_same_model(warm, TorchLogisticClassifier(C=10.0, fit_intercept=False).fit(X, y))
    assert not warm.intercept_.any()
    warm.fit(X.astype(np.float32), y)
    assert warm.coef_.dtype == np.float32


def test_a_fit_without_warm_start_forgets_the_one_before(problem):
    X, y = problem
    estimator = TorchLogisticClassifier().fit(X, y)
    estimator.coef_[:] = 100
    assert_same_model(estimator.fit(X, y), TorchLogisticClassifier().fit(X, y), 1e-12)
    assert estimator.fit(X[:, :2], y).n_features_in_ == 2


def test_a_warm_start_from_another_shape_is_refused_and_says_what_to_do():
    data = load("wine")
    warm = TorchLogisticClassifier(warm_start=True).fit(data.X, data.y)
    with pytest.raises(ValueError, match=r"\(3, 13\).*\(3, 5\).*warm_start=False"):
        warm.fit(data.X[:, :5], data.y)
    with pytest.raises(ValueError, match=r"\(3, 13\).*\(1, 13\).*warm_start=False"):
        warm.fit(data.X, data.y > 0)


# ---- warnings ----


def test_too_few_iterations_are_warned_of_by_name(problem, solver):
    X, y = problem
    for max_iter in (0, 1):
        with pytest.warns(ConvergenceWarning, match="max_iter") as caught:
            estimator = TorchLogisticClassifier(solver=solver, max_iter=max_iter).fit(X, y)
        assert len(caught) == 1
        assert f"max_iter={max_iter}" in str(caught[0].message)
        assert (estimator.n_iter_.tolist(), estimator.converged_) == ([max_iter], False)
        assert estimator.predict_proba(X).shape == (len(y), len(estimator.classes_))


def test_a_warning_points_at_the_line_that_called_fit():
    with pytest.warns(ConvergenceWarning) as caught:
        TorchLogisticClassifier(max_iter=1).fit([[0.0], [1.0], [3.0]], [0, 1, 1])
    assert caught[0].filename == __file__


def test_raw_columns_need_no_warning_by_default():
    X, y = load_breast_cancer(return_X_y=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator = TorchLogisticClassifier().fit(X, y)
    assert caught == []
    assert (estimator.converged_, estimator.stop_reason_) == (True, "converged")


def test_perfectly_separable_classes_without_a_penalty_are_warned_of():
    X = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    with pytest.warns(ConvergenceWarning, match="finite C"):
        estimator = TorchLogisticClassifier(C=np.inf).fit(X, [0, 0, 1, 1])
    assert estimator.stop_reason_ == "separation"
    assert estimator.score(X, [0, 0, 1, 1]) == 1


def test_every_kind_of_random_state_is_accepted_and_changes_nothing(problem):
    X, y = problem
    expected = TorchLogisticClassifier().fit(X, y)
    for random_state in (0, 12345, np.random.RandomState(1), np.int64(3)):
        got = TorchLogisticClassifier(random_state=random_state).fit(X, y)
        np.testing.assert_array_equal(got.coef_, expected.coef_)


def test_the_estimator_clones_and_shows_what_is_not_default():
    estimator = TorchLogisticClassifier(C=2.5, solver="lbfgs", class_weight={0: 1.0, 1: 2.0}, device="cpu")
    copy = clone(estimator)
    assert copy is not estimator
    assert copy.get_params() == estimator.get_params()
    text = repr(estimator).replace("\n", "")
    assert text.startswith("TorchLogisticClassifier(C=2.5, ")
    assert "solver='lbfgs'" in text
    assert "max_iter" not in text
    assert repr(TorchLogisticClassifier()) == "TorchLogisticClassifier()"
    assert "TorchLogisticClassifier" in estimator._repr_html_()


def test_verbose_prints_a_line_an_iteration(problem, capsys):
    X, y = problem
    estimator = TorchLogisticClassifier().fit(X, y)
    assert capsys.readouterr().out == ""
    estimator.set_params(verbose=1).fit(X, y)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "iteration"
    assert [int(line.split()[0]) for line in lines] == list(range(estimator.n_iter_[0]))


def test_a_solver_that_draws_nothing_leaves_the_random_state_it_was_given_alone(problem):
    source = np.random.RandomState(0)
    before = source.get_state()
    TorchLogisticClassifier(random_state=source).fit(*problem)
    after = source.get_state()
    np.testing.assert_array_equal(after[1], before[1])
    assert after[2:] == before[2:]
