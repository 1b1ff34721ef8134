"""The default estimator against the independent Newton of oracle.py, on real data as it comes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight

from helpers import optima
from helpers.datasets import NAMES, load, standardised
from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV

STRENGTHS = (1e-3, 1.0, 1e4)
LIGHT_NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == "digits" else name for name in NAMES]
WITH_UNPENALISED_OPTIMUM = ("birthwt", "default", "hmda", "wa_churn", "wa_churn_collinear")


def columns(name: str, scaled: bool) -> np.ndarray:
    X = load(name).X
    return standardised(X) if scaled else X


def weights_of(name: str) -> np.ndarray:
    """Unequal weights, with some rows left out."""
    weights = np.random.default_rng(0).gamma(2.0, size=len(load(name).y))
    weights[::17] = 0
    return weights


def assert_at_optimum(
    clf: TorchLogisticClassifier,
    X: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    C: float,
    weight: np.ndarray | None,
    objective_bound: float = 1e-8,
    coef_bound: float = 1e-4,
) -> None:
    """`oracle.solve` itself asserts that its gradient is at most 1e-12 of its scale."""
    best = optima.solve(X, y, n_classes, C, sample_weight=weight, fit_intercept=clf.fit_intercept)
    coef, intercept = clf.coef_.astype(np.float64), clf.intercept_.astype(np.float64)
    reached = optima.objective(coef, intercept, X, y, C, weight)
    assert clf.converged_
    assert abs(reached - best.objective) <= objective_bound * best.objective
    assert np.abs(clf.coef_ - best.coef).max() <= coef_bound * np.abs(best.coef).max()


@pytest.mark.parametrize("C", STRENGTHS)
@pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no_intercept"])
@pytest.mark.parametrize("scaled", [False, True], ids=["raw", "scaled"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.one_in(2)
def test_the_default_reaches_the_optimum_without_a_warning(name, scaled, fit_intercept, C):
    X, y, n_classes = columns(name, scaled), load(name).y, load(name).classes
    clf = TorchLogisticClassifier(C=C, fit_intercept=fit_intercept).fit(X, y)
    assert_at_optimum(clf, X, y, n_classes, C, None)


@pytest.mark.parametrize("C", STRENGTHS)
@pytest.mark.parametrize("name", LIGHT_NAMES)
@pytest.mark.one_in(3)
def test_the_default_reaches_the_optimum_with_sample_weights(name, C):
    X, y, n_classes = load(name).X, load(name).y, load(name).classes
    weights = weights_of(name)
    clf = TorchLogisticClassifier(C=C).fit(X, y, sample_weight=weights)
    assert_at_optimum(clf, X, y, n_classes, C, weights)


@pytest.mark.parametrize("C", STRENGTHS)
@pytest.mark.parametrize("name", LIGHT_NAMES)
@pytest.mark.one_in(3)
def test_the_default_reaches_the_optimum_with_balanced_classes(name, C):
    X, y, n_classes = load(name).X, load(name).y, load(name).classes
    clf = TorchLogisticClassifier(C=C, class_weight="balanced").fit(X, y)
    assert_at_optimum(clf, X, y, n_classes, C, compute_sample_weight("balanced", y))


@pytest.mark.parametrize("C", STRENGTHS)
@pytest.mark.parametrize("name", LIGHT_NAMES)
def test_float32_columns_reach_the_optimum_to_float32_accuracy(name, C):
    X, y, n_classes = load(name).X, load(name).y, load(name).classes
    clf = TorchLogisticClassifier(C=C).fit(X.astype(np.float32), y)
    assert clf.coef_.dtype == np.float32
    # Near-collinear columns leave single coefficients less certain than what they predict together.
    assert_at_optimum(clf, X, y, n_classes, C, None, objective_bound=1e-5, coef_bound=1e-2)


@pytest.mark.parametrize("C", STRENGTHS)
@pytest.mark.parametrize("name", LIGHT_NAMES)
@pytest.mark.one_in(3)
def test_sparse_rows_reach_the_optimum(name, C):
    X, y, n_classes = load(name).X, load(name).y, load(name).classes
    clf = TorchLogisticClassifier(C=C).fit(scipy.sparse.csr_array(X), y)
    assert_at_optimum(clf, X, y, n_classes, C, None)


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no_intercept"])
@pytest.mark.parametrize("name", WITH_UNPENALISED_OPTIMUM)
def test_without_a_penalty_the_smallest_of_the_optimal_coefficients_are_found(name, fit_intercept, dtype):
    X, y, n_classes = load(name).X, load(name).y, load(name).classes
    clf = TorchLogisticClassifier(C=np.inf, fit_intercept=fit_intercept).fit(X.astype(dtype), y)
    accuracy = 1e-8 if dtype == np.float64 else 1e-5
    assert_at_optimum(clf, X, y, n_classes, np.inf, None, accuracy, 1e-4 if dtype == np.float64 else 1e-3)


def test_collinear_columns_without_a_penalty_give_the_probabilities_of_logistic_regression():
    X, y = standardised(load("wa_churn_collinear").X), load("wa_churn_collinear").y
    ours = TorchLogisticClassifier(C=np.inf).fit(X, y)
    peer = LogisticRegression(C=np.inf, tol=1e-8, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), peer.predict_proba(X), rtol=0, atol=1e-5)


def overlapping_classes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(400, 5))
    logits = X @ rng.normal(size=(5, 4))
    return X, (logits + rng.gumbel(scale=2.0, size=logits.shape)).argmax(axis=1)


def test_unpenalised_softmax_gives_the_probabilities_of_logistic_regression():
    X, y = overlapping_classes()
    ours = TorchLogisticClassifier(C=np.inf).fit(X, y)
    peer = LogisticRegression(C=np.inf, tol=1e-8, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), peer.predict_proba(X), rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.coef_.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(ours.intercept_.sum(), 0, atol=1e-12)
    assert_at_optimum(ours, X, y, 4, np.inf, None)


def test_unpenalised_softmax_of_collinear_columns_gives_the_smallest_coefficients():
    X, y = overlapping_classes()
    X = np.column_stack([X, X[:, 0] + X[:, 1], 1e3 * X[:, 2], np.full(len(X), 7.0)])
    clf = TorchLogisticClassifier(C=np.inf).fit(X, y)
    assert_at_optimum(clf, X, y, 4, np.inf, None)


@pytest.mark.parametrize("solver", ["newton-cg", "lbfgs"])
@pytest.mark.parametrize("name", ["breast_cancer", "iris", "hmda"])
def test_the_other_solvers_reach_the_same_optimum_from_raw_columns(name, solver):
    X, y, n_classes = load(name).X, load(name).y, load(name).classes
    clf = TorchLogisticClassifier(solver=solver, max_iter=2000).fit(X, y)
    assert_at_optimum(clf, X, y, n_classes, 1.0, None)


@pytest.mark.parametrize("name", ["breast_cancer", pytest.param("wine", marks=pytest.mark.deep)])
def test_the_number_of_threads_changes_nothing_but_the_last_digits(name):
    X, y = np.tile(load(name).X, (50, 1)), np.tile(load(name).y, 50)
    alone = TorchLogisticClassifier().fit(X, y)
    torch.set_num_threads(2)
    together = TorchLogisticClassifier().fit(X, y)
    torch.set_num_threads(1)
    np.testing.assert_allclose(together.coef_, alone.coef_, rtol=1e-9, atol=1e-12 * np.abs(alone.coef_).max())


def _with_a_sum(seed: int, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Columns of units from 1e-3 to 1e6 and the sum of the smallest and the largest."""
    rng = np.random.default_rng(seed)
    X = offset + rng.normal(size=(300, 4))
    y = (X[:, 0] - offset + rng.normal(size=300) > 0).astype(int)
    X *= [1e-3, 1e6, 1.0, 10.0]
    return np.column_stack([X, X[:, 0] + X[:, 1], X[:, 0]]), y


@pytest.mark.parametrize("solver", ["natural-sgd", "newton-cholesky", "newton-cg", "lbfgs"])
@pytest.mark.parametrize(("offset", "fit_intercept"), [(0.0, True), (0.5, True), (10.0, False)])
@pytest.mark.parametrize("C", [1.0, 1e4])
def test_collinear_columns_share_their_penalty_whatever_their_units(solver, offset, fit_intercept, C):
    X, y = _with_a_sum(0, offset)
    clf = TorchLogisticClassifier(C=C, fit_intercept=fit_intercept, solver=solver, tol=1e-6, max_iter=5000)
    clf.fit(X, y)
    best = optima.solve(X, y, 2, C, fit_intercept=fit_intercept)
    value = optima.objective(clf.coef_, clf.intercept_, X, y, C)
    assert value / best.objective - 1 < 1e-8
    z = X @ best.coef[0] + best.intercept[0]
    np.testing.assert_allclose(clf.predict_proba(X)[:, 1], 1 / (1 + np.exp(-z)), rtol=0, atol=1e-5)


def test_a_copy_of_a_column_takes_nothing_from_a_column_of_a_small_unit():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3)) * [1e5, 1.0, 1e-7]
    y = (X[:, 2] * 1e7 + rng.normal(size=60) > 0).astype(int)
    X = np.column_stack([X, 100 * X[:, 0]])
    alone = TorchLogisticClassifier(C=np.inf, fit_intercept=False, tol=1e-8).fit(X[:, :3], y)
    both = TorchLogisticClassifier(C=np.inf, fit_intercept=False, tol=1e-8).fit(X, y)
    np.testing.assert_allclose(both.predict_proba(X), alone.predict_proba(X[:, :3]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(both.coef_[0, 1:3], alone.coef_[0, 1:], rtol=1e-12)
    np.testing.assert_allclose(both.coef_[0, 3], 100 * both.coef_[0, 0], rtol=1e-9)


@pytest.mark.parametrize("container", [np.asarray, scipy.sparse.csr_array])
@pytest.mark.parametrize("seed", range(4))
def test_collinear_columns_far_from_0_without_an_intercept_keep_their_predictions(seed, container):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(800, 8))
    y = (X[:, 0] + rng.normal(size=800) > 0).astype(int)
    X = (X + 1e4) * [1e5, 1e-5, 0.03, 2.0, 4e3, 1e2, 2.0, 2e-5]
    X = np.column_stack([X, X[:, 0], np.ones(len(X)), X[:, 0] + X[:, 1]])
    clf = TorchLogisticClassifier(C=1e4, fit_intercept=False, tol=1e-7).fit(container(X), y)
    best = optima.solve(X, y, 2, 1e4, fit_intercept=False)
    z = X @ best.coef[0]
    np.testing.assert_allclose(clf.predict_proba(X)[:, 1], 1 / (1 + np.exp(-z)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("units", [(8, -8), (-8, 8), (6, -6), (8, 0, -8), (0, 8, -8), (-8, 0, 8), (8, -8, 8)])
def test_copies_of_a_column_in_other_units_change_no_prediction(units, fit_intercept):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = (X[:, 0] + rng.normal(size=60) > 0).astype(int)
    copies = np.column_stack([X[:, :1] * 10.0 ** np.array(units), X[:, 1]])
    alone = TorchLogisticClassifier(C=np.inf, fit_intercept=fit_intercept, tol=1e-8).fit(X, y)
    together = TorchLogisticClassifier(C=np.inf, fit_intercept=fit_intercept, tol=1e-8).fit(copies, y)
    np.testing.assert_allclose(together.predict_proba(copies), alone.predict_proba(X), rtol=0, atol=1e-10)


@pytest.mark.parametrize("container", [np.asarray, scipy.sparse.csr_array])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("C", "weight"), [(1e308, 1.0), (1e150, 1e160), (5e-324, 1.0), (1e-320, 1e-3)])
def test_a_C_whose_product_with_the_weights_is_no_number_is_as_good_as_its_limit(C, weight, dtype, container):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3)).astype(dtype)
    y = (X[:, 0] + rng.normal(size=100) > 0).astype(int)
    weight = min(weight, 1e30) if dtype == "float32" else weight
    clf = TorchLogisticClassifier(C=C).fit(container(X), y, np.full(100, weight))
    limit = TorchLogisticClassifier(C=np.inf if C > 1 else 1e-200).fit(container(X), y)
    np.testing.assert_allclose(clf.coef_, limit.coef_, rtol=1e-6, atol=1e-100)
    np.testing.assert_allclose(clf.loss_curve_[-1], limit.loss_curve_[-1], rtol=1e-6)
    assert clf.converged_ and clf.objective_ >= 0  # infinite where it overflows, as its sum does


def test_so_is_one_of_several():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3))
    y = (X[:, 0] + rng.normal(size=100) > 0).astype(int)
    clf = TorchLogisticClassifierCV(Cs=[5e-324, 1e308], cv=3).fit(X, y)
    assert np.isfinite(clf.loss_curve_).all() and np.isfinite(clf.coefs_paths_).all()
    np.testing.assert_allclose(clf.coefs_paths_[:, 0, 0, :, :3], 0, atol=1e-100)
    np.testing.assert_allclose(clf.coef_, TorchLogisticClassifier(C=np.inf).fit(X, y).coef_, rtol=1e-6)
