"""The gap that a fit with an L1 term reports, against one computed apart in float64, on random problems."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning

from helpers import oracle
from torch_logreg import TorchLogisticClassifier

# Of an objective: what sums over some hundred rows leave of a gap, which is a difference of two of them.
ROUNDING = 1e-9
WEIGHTS = ["none", "of rows", "of rows, large", "balanced", "of rows and balanced"]


class Problem(NamedTuple):
    X: np.ndarray
    y: np.ndarray
    sample_weight: np.ndarray | None
    weight: np.ndarray  # of rows and classes


def made(seed, n_classes, weights, dtype):
    """Columns of many units, some far from 0 for what they vary; weights that no float32 number holds."""
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(60, 500)), int(rng.integers(3, 40))
    X = (rng.normal(size=(n, d)) + rng.choice([0.0, 5.0])) * 10.0 ** rng.integers(-1, 2, size=d)
    score = X[:, 0] / X[:, 0].std() + X[:, 1] / X[:, 1].std() + 0.5 * rng.normal(size=n)
    y = score.argsort().argsort() * n_classes // n
    sample_weight = None
    if "of rows" in weights:
        sample_weight = rng.uniform(0.1, 3, size=n) * (1e3 if "large" in weights else 1.0)
    weight = np.ones(n) if sample_weight is None else sample_weight
    if "balanced" in weights:
        weight = weight * (weight.sum() / n_classes / np.bincount(y, weight))[y]
    return Problem(X.astype(dtype), y, sample_weight, weight)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array], ids=["dense", "CSR"])
@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("l1_ratio", [0.1, 1.0])
@pytest.mark.parametrize("C", [0.01, 1.0, 1e4])
@pytest.mark.parametrize("tol", [1e-4, 1e-8])
@pytest.mark.one_in(12)
def test_the_gap_told_is_that_of_the_coefficients_returned(dtype, kind, n_classes, weights, l1_ratio, C, tol):
    """Weights rounded to float32 are those of another problem, whose gap may be a third of this one's."""
    for seed in range(3):
        X, y, sample_weight, weight = made(seed, n_classes, weights, dtype)
        strength = C / 1e3 if "large" in weights else C  # weaker ones are lost in the rounding of sums
        clf = TorchLogisticClassifier(
            C=strength,
            l1_ratio=l1_ratio,
            tol=tol,
            max_iter=1000,
            class_weight="balanced" if "balanced" in weights else None,
            fit_intercept=seed != 1,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # `stop_reason_` is what is looked at
            clf.fit(kind(X), y, sample_weight)
        found = oracle.duality_gap(
            clf.coef_, clf.intercept_, X.astype(float), y, strength, l1_ratio, weight, seed != 1
        )
        assert clf.objective_ == pytest.approx(found.objective, rel=1e-12)
        assert clf.dual_gap_ == pytest.approx(found.gap, rel=1e-3, abs=ROUNDING * found.objective)
        is_near = clf.dual_gap_ <= 2 * tol * clf.objective_
        assert clf.converged_ == is_near
        if dtype == "float32" and not is_near:  # float64 reaches either
            assert clf.stop_reason_ == "rounding"


@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
@pytest.mark.parametrize("C", [0.1, 100.0])
def test_the_gap_of_a_class_of_few_rows_is_proved(l1_ratio, C):
    """The intercept is far from 0, and the dual point has to sum to 0 for all that."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 12)) + 3
    y = (X[:, 0] + 0.5 * rng.normal(size=400)).argsort().argsort() >= 392
    clf = TorchLogisticClassifier(C=C, l1_ratio=l1_ratio, tol=1e-8).fit(X, y)
    found = oracle.duality_gap(clf.coef_, clf.intercept_, X, y.astype(int), C, l1_ratio)
    assert clf.converged_ and -1e-12 <= found.gap / found.objective <= 2e-8 + ROUNDING
    assert clf.dual_gap_ == pytest.approx(found.gap, rel=1e-3, abs=ROUNDING * found.objective)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_collinear_columns_have_one_objective_whatever_the_split(n_classes):
    X, y, _, _ = made(0, n_classes, "none", "float64")
    found = []
    for others in (X[:, :0], X[:, :2], np.column_stack([X[:, 0] + X[:, 1], X[:, 1]])):
        both = np.column_stack([X, others])
        clf = TorchLogisticClassifier(C=1, l1_ratio=1, tol=1e-8).fit(both, y)
        judged = oracle.duality_gap(clf.coef_, clf.intercept_, both, y, 1, 1)
        assert clf.converged_ and judged.gap <= (2e-8 + ROUNDING) * judged.objective
        found.append(clf.objective_)
    assert found[1] == pytest.approx(found[0], rel=1e-7)  # a copy takes over some of a column
    assert found[2] <= found[0] * (1 + 1e-7)  # a sum of columns may be cheaper than both
