"""One row far from all others, and columns far from 0: steps tell too little of what is left to gain."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning

from helpers import optima
from torch_logreg import TorchLogisticClassifier

SOLVERS = ["natural-sgd", "newton-cholesky", "newton-cg", "lbfgs"]


def with_an_outlier(
    seed: int, n: int, n_classes: int, value: float, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """Two columns that say nothing of the classes, and in one of them a row that is far away."""
    rng = np.random.default_rng(seed)
    X, codes = rng.normal(size=(n, 2)), rng.integers(n_classes, size=n)
    codes[:n_classes] = np.arange(n_classes)
    X[0] = [0, value]
    return X.astype(dtype), codes


def above(clf: TorchLogisticClassifier, X: np.ndarray, codes: np.ndarray, C: float = 1.0) -> float:
    """The objective over the least, relative, less 1."""
    X = np.asarray(X, dtype=np.float64)
    best = optima.solve(X, codes, int(codes.max()) + 1, C)
    return optima.objective(clf.coef_, clf.intercept_, X, codes, C) / best.objective - 1


def fit_of(clf: TorchLogisticClassifier, X: np.ndarray, codes: np.ndarray) -> TorchLogisticClassifier:
    """Fitted; all that may be warned of is that float32 holds too little of the prediction for that row."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*use float64 data", ConvergenceWarning)
        clf.fit(X, codes)
    told = clf.coef_.dtype == np.float32 and clf.stop_reason_ in ("rounding", "precision")
    assert clf.converged_ or told
    return clf


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("container", [np.asarray, scipy.sparse.csr_array])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("n_classes", "value"), [(2, 1e5), (2, 1e6), (3, 1e6), (3, 1e7)])
@pytest.mark.one_in(4)
def test_a_row_far_from_all_others_does_not_end_a_fit_early(solver, container, dtype, n_classes, value):
    # Its loss vanishes before the other rows are seen: objectives were up to 14 % above the least.
    for seed in range(3):
        X, codes = with_an_outlier(seed, 30, n_classes, value, dtype)
        clf = fit_of(TorchLogisticClassifier(solver=solver), container(X), codes)
        # Sums over sparse rows are made in their own dtype: these two may end in a warning, and far away.
        if clf.converged_ or not (solver in ("newton-cg", "lbfgs") and scipy.sparse.issparse(container(X))):
            assert above(clf, X, codes) < 1e-6


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_row_far_from_many_others_does_not_end_a_fit_early(n_classes, dtype):
    for seed in range(3):
        X, codes = with_an_outlier(seed, 20_000, n_classes, 1e8, dtype)
        clf = fit_of(TorchLogisticClassifier(), X, codes)
        assert above(clf, X, codes) < 1e-7


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_column_that_matters_is_used_in_spite_of_a_row_far_away(solver):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5_000, 240)).astype(np.float32)  # too many numbers to hold their scaled columns
    codes = (X[:, 1] + X[:, 0] + rng.normal(size=len(X)) > 0).astype(int)
    X[0, 1], codes[0] = 1e7, 0
    clf = TorchLogisticClassifier(solver=solver).fit(X, codes)
    assert clf.converged_
    assert above(clf, X, codes) < 1e-6


def test_a_start_behind_the_plateau_is_not_taken_for_the_optimum():
    X, codes = with_an_outlier(1, 30, 2, 1e6, "float32")
    clf = TorchLogisticClassifier(max_iter=4)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        clf.fit(X, codes)
    fit_of(clf.set_params(max_iter=100, warm_start=True), X, codes)
    assert above(clf, X, codes) < 1e-6


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize(
    ("container", "n", "far"),
    [
        pytest.param(np.asarray, 100_000, 1e5, marks=pytest.mark.deep),
        (scipy.sparse.csr_array, 2_000, 2e4),
    ],
)
def test_columns_far_from_0_for_what_they_vary_warn_where_gradients_round(
    container, n, far, fit_intercept, monkeypatch
):
    for most in ("HELD_NUMBERS", "HELD_STORED"):  # what is held is so in float64
        monkeypatch.setattr(f"torch_logreg._fit.plan.{most}", 0)
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(n, 12)) + far).astype(np.float32)
    codes = rng.integers(2, size=n)  # small coefficients, whose own rounding is none
    clf = TorchLogisticClassifier(C=1e-4, fit_intercept=fit_intercept)
    with pytest.warns(ConvergenceWarning, match="use float64") as caught:
        clf.fit(container(X), codes)
    assert len(caught) == 1


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_columns_not_that_far_from_0_do_not(fit_intercept):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(2_000, 12)) + 1e3).astype(np.float32)
    X[:, 0] = 7.0  # a constant is no column that does not vary enough
    codes = rng.integers(2, size=len(X))
    clf = TorchLogisticClassifier(C=1e-2, fit_intercept=fit_intercept).fit(scipy.sparse.csr_array(X), codes)
    best = optima.solve(X.astype(float), codes, 2, 1e-2, fit_intercept=fit_intercept)
    p = expit(X.astype(float) @ best.coef[0] + best.intercept[0])
    np.testing.assert_allclose(clf.predict_proba(X)[:, 1], p, rtol=0, atol=1e-3)


@pytest.mark.parametrize("settings", [{"max_iter": 2}, {"max_iter": 2, "tol": None}])
def test_an_unfinished_fit_says_so_whatever_rounding_would_do_to_it(settings):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(2_000, 3)) + 3e4).astype(np.float32)
    codes = (X[:, 0] - 3e4 + rng.normal(size=2_000) > 0).astype(int)
    clf = TorchLogisticClassifier(**settings)
    if "tol" in settings:
        clf.fit(X, codes)
    else:
        said = r"Increase the number of iterations .*\(max_iter=2\), or use float64 data"
        with pytest.warns(ConvergenceWarning, match=said):
            clf.fit(X, codes)
    assert clf.stop_reason_ == "max_iter"
