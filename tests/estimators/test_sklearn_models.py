"""From scikit-learn's estimators to ours, and back."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeClassifier, SGDClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn

from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV, from_sklearn

DATA = {"binary": load_breast_cancer, "softmax": load_iris}


def data(name):
    X, y = DATA[name](return_X_y=True)
    return StandardScaler().fit_transform(X), y


# ---- to scikit-learn ----


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(
    "model",
    [
        TorchLogisticClassifier(C=0.3, class_weight="balanced", random_state=3, max_iter=77),
        TorchLogisticClassifier(C=np.inf, fit_intercept=False, tol=None, max_iter=5),
        TorchLogisticClassifier(l1_ratio=0.5),
        TorchLogisticClassifierCV(Cs=3, cv=3),
    ],
    ids=["L2", "no penalty", "elastic net", "CV"],
)
def test_a_fitted_model_becomes_a_logistic_regression_of_equal_probabilities(name, model):
    X, y = data(name)
    model = clone(model).fit(X, np.array(["a", "b", "c"])[y])
    theirs = model.to_sklearn()
    assert type(theirs) is LogisticRegression
    assert_allclose(theirs.predict_proba(X), model.predict_proba(X), rtol=1e-13, atol=1e-15)
    assert_array_equal(theirs.predict(X), model.predict(X))
    assert theirs.score(X, np.array(["a", "b", "c"])[y]) == model.score(X, np.array(["a", "b", "c"])[y])
    assert theirs.C == getattr(model, "C_", model.C)
    assert theirs.fit_intercept == model.fit_intercept
    theirs.coef_[:] = 0
    assert model.coef_.any()


def test_the_logistic_regression_can_be_fitted_again():
    X, y = data("binary")
    model = TorchLogisticClassifier(C=0.1, tol=1e-8, class_weight="balanced").fit(X, y)
    again = model.to_sklearn().set_params(tol=1e-10, max_iter=10_000).fit(X, y)
    assert_allclose(again.coef_, model.coef_, rtol=1e-4, atol=1e-6)


def test_names_of_columns_and_sparse_coefficients_go_with_it():
    X, y = data("binary")
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])
    model = TorchLogisticClassifier().fit(frame, y).sparsify()
    theirs = model.to_sklearn()
    assert_array_equal(theirs.feature_names_in_, model.feature_names_in_)
    assert_allclose(theirs.predict_proba(frame), model.predict_proba(frame), rtol=1e-13, atol=1e-15)


def test_a_module_has_no_coefficients():
    X, y = data("binary")
    model = TorchLogisticClassifier(module=nn.Linear(30, 1), max_iter=1, tol=None).fit(X, y)
    with pytest.raises(TypeError, match="take module_ itself"):
        model.to_sklearn()
    with pytest.raises(ValueError, match="not fitted"):
        TorchLogisticClassifier().to_sklearn()


# ---- from scikit-learn ----


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg", "newton-cholesky"])
def test_a_fitted_logistic_regression_predicts_the_same_here(name, solver):
    X, y = data(name)
    theirs = LogisticRegression(C=0.2, solver=solver, class_weight="balanced", max_iter=500).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = from_sklearn(theirs)
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-13, atol=1e-15)
    assert (ours.C, ours.class_weight, ours.max_iter) == (0.2, "balanced", 500)
    refitted = clone(ours).set_params(tol=1e-8).fit(X, y)
    best = LogisticRegression(C=0.2, class_weight="balanced", solver="newton-cg", tol=1e-10, max_iter=1000)
    assert_allclose(refitted.coef_, best.fit(X, y).coef_, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "C", "l1_ratio"),
    [
        ({}, 1.0, 0.0),
        ({"C": 3.0, "l1_ratio": 0.25, "solver": "saga"}, 3.0, 0.25),
        ({"penalty": "l1", "C": 2.0, "solver": "liblinear"}, 2.0, 1.0),
        ({"penalty": "l2", "C": 2.0, "l1_ratio": None}, 2.0, 0.0),
        ({"penalty": "elasticnet", "l1_ratio": 0.5, "solver": "saga"}, 1.0, 0.5),
        ({"penalty": None, "C": 2.0}, np.inf, 0.0),
        ({"C": np.inf}, np.inf, 0.0),
    ],
)
def test_penalties_are_understood_as_they_were_ever_said(given, C, l1_ratio):
    ours = from_sklearn(LogisticRegression(**given))
    assert (ours.C, ours.l1_ratio) == (C, l1_ratio)
    assert "coef_" not in vars(ours)


def test_what_has_no_counterpart_is_named():
    theirs = LogisticRegression(
        n_jobs=2, dual=True, solver="liblinear", intercept_scaling=7.0, warm_start=True
    )
    with pytest.warns(UserWarning, match=r"dual=True, intercept_scaling=7\.0, n_jobs=2"):
        ours = from_sklearn(theirs)
    assert ours.warm_start is True


def test_sgd_has_its_penalty_on_a_mean():
    X, y = data("binary")
    theirs = SGDClassifier(loss="log_loss", alpha=0.01, random_state=0, max_iter=50, tol=None).fit(X, y)
    with pytest.warns(UserWarning, match="max_iter=50"):
        ours = from_sklearn(theirs)
    assert pytest.approx(1 / (0.01 * len(X))) == ours.C
    assert_allclose(ours.decision_function(X), theirs.decision_function(X), rtol=1e-12, atol=1e-12)
    unfitted = SGDClassifier(loss="log_loss", penalty="elasticnet", alpha=0.1, l1_ratio=0.4)
    assert from_sklearn(unfitted, n_samples=200).get_params()["l1_ratio"] == 0.4
    assert from_sklearn(unfitted, n_samples=200).C == pytest.approx(0.05)
    assert from_sklearn(SGDClassifier(loss="log_loss", penalty=None), n_samples=9).C == np.inf
    with pytest.raises(ValueError, match="n_samples is needed"):
        from_sklearn(unfitted)
    with pytest.raises(ValueError, match="must be 'log_loss'"):
        from_sklearn(SGDClassifier())


def test_one_model_a_class_is_no_softmax():
    X, y = data("softmax")
    with pytest.warns(UserWarning, match="one model a class"):
        ours = from_sklearn(SGDClassifier(loss="log_loss", random_state=0).fit(X, y))
    assert "coef_" not in vars(ours)


def test_the_estimator_that_chooses_C():
    X, y = data("binary")
    settings = {"use_legacy_attributes": False, "l1_ratios": (0.0,), "scoring": "neg_log_loss"}
    theirs = LogisticRegressionCV(Cs=[0.1, 1.0], cv=3, **settings).fit(X, y)
    ours = from_sklearn(theirs)
    assert type(ours) is TorchLogisticClassifierCV
    assert (ours.Cs, ours.cv, ours.scoring, ours.C_) == ([0.1, 1.0], 3, "neg_log_loss", theirs.C_)
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-13, atol=1e-15)
    assert ours.fit(X, y).C_ == theirs.C_


def test_the_parts_of_the_l1_penalty_to_choose_from_are_carried_over():
    X, y = data("binary")
    settings = {"use_legacy_attributes": False, "scoring": "neg_log_loss", "solver": "saga", "tol": 1e-4}
    theirs = LogisticRegressionCV(Cs=[0.1, 1.0], l1_ratios=(0.5, 1.0), cv=3, max_iter=10_000, **settings).fit(
        X, y
    )
    ours = from_sklearn(theirs)
    assert (ours.l1_ratios, ours.C_, ours.l1_ratio_) == ((0.5, 1.0), theirs.C_, theirs.l1_ratio_)
    assert_array_equal(ours.scores_, theirs.scores_)
    assert ours.cv_results_["mean_test_score"].max() == theirs.scores_.mean(axis=0).max()
    assert ours.to_sklearn().l1_ratio == theirs.l1_ratio_
    again = ours.fit(X, y)
    assert (again.C_, again.l1_ratio_) == (theirs.C_, theirs.l1_ratio_)
    with pytest.warns(UserWarning, match="penalty=None"):
        from_sklearn(LogisticRegressionCV(penalty=None))
    lasso = from_sklearn(LogisticRegressionCV(penalty="l1", solver="saga"))
    assert lasso.l1_ratios == (1.0,)
    assert from_sklearn(LogisticRegressionCV(penalty="l2", l1_ratios=None)).l1_ratios == (0.0,)
    legacy = LogisticRegressionCV(Cs=[0.1, 1.0], l1_ratios=(0.5, 1.0), cv=3, use_legacy_attributes=True)
    legacy.set_params(scoring="neg_log_loss", solver="saga", tol=1e-4, max_iter=10_000).fit(X, y)
    ours = from_sklearn(legacy)
    assert (ours.C_, ours.l1_ratio_) == (theirs.C_, theirs.l1_ratio_) and not hasattr(ours, "scores_")


def test_there_and_back():
    X, y = data("softmax")
    model = TorchLogisticClassifier(C=0.5, l1_ratio=0.5, tol=1e-6).fit(X, y)
    again = from_sklearn(model.to_sklearn())
    assert again.get_params() == model.get_params()
    assert_array_equal(again.coef_, model.coef_)


def test_any_other_estimator_is_refused():
    with pytest.raises(TypeError, match="RidgeClassifier has no counterpart"):
        from_sklearn(RidgeClassifier())
