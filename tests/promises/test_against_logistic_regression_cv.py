"""`TorchLogisticClassifierCV` chooses what `LogisticRegressionCV` chooses, by the same scores.

The columns are standardised, because on raw ones LogisticRegressionCV itself is off. It goes as far as
rounding allows, and ours to its default tolerance, but where 650 coefficients nearly separate the classes.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold

from helpers.datasets import load, standardised
from torch_logreg import TorchLogisticClassifierCV

NAMES = [
    "breast_cancer",
    "wine",
    pytest.param("wa_churn", marks=pytest.mark.deep),
    "birthwt",
    pytest.param("digits", marks=pytest.mark.slow),  # scikit-learn takes half a minute
]
SCORES = {"accuracy": 1e-3, "neg_log_loss": 1e-5}


TOLERANCES = {"digits": 1e-6}


def both(name, scoring, Cs):
    data = load(name)
    X, y = standardised(data.X), data.y
    shared = {"Cs": Cs, "cv": StratifiedKFold(5), "scoring": scoring}
    theirs = LogisticRegressionCV(
        solver="newton-cholesky", tol=1e-10, l1_ratios=(0,), use_legacy_attributes=False, **shared
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # that rounding ends before 1e-10
        return (
            X,
            y,
            TorchLogisticClassifierCV(tol=TOLERANCES.get(name, 1e-4), **shared).fit(X, y),
            theirs.fit(X, y),
        )


@pytest.mark.parametrize("name", NAMES)
def test_the_same_C_is_chosen_from_the_same_scores_and_coefficients(name):
    Cs = np.logspace(-3, 2, 6)
    for scoring, atol in SCORES.items():
        X, y, ours, theirs = both(name, scoring, Cs)
        assert ours.C_ == theirs.C_
        assert_allclose(ours.scores_, theirs.scores_, atol=atol)
        assert ours.scores_.shape == theirs.scores_.shape
        assert ours.coefs_paths_.shape == theirs.coefs_paths_.shape
        assert_allclose(ours.coefs_paths_, theirs.coefs_paths_, atol=1e-4)
        assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
        assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-4)
        assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-4)
        assert ours.score(X, y) == pytest.approx(theirs.score(X, y), abs=atol)


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
def test_they_agree_on_the_default_values_of_C_too(name):
    """Up to 1e4, where a log loss of scikit-learn is off by what ``1 - p`` rounds off a small probability."""
    _, _, ours, theirs = both(name, "neg_log_loss", 10)
    assert ours.C_ == pytest.approx(theirs.C_)
    assert_allclose(ours.scores_[..., :-1], theirs.scores_[..., :-1], atol=1e-5)
    assert_allclose(ours.coefs_paths_, theirs.coefs_paths_, atol=1e-4, rtol=1e-4)
