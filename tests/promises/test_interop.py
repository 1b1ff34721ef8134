"""Persistence, and the rest of scikit-learn around the estimator."""

from __future__ import annotations

import io
import pickle
import pickletools
import subprocess
import sys

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import skops.io
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_selection import RFE, SelectFromModel
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from helpers.datasets import frame, load, standardised
from helpers.work import probabilities, refitted
from torch_logreg import TorchLogisticClassifier

CLASS = "torch_logreg.TorchLogisticClassifier"
PARAMS = {"C": 0.5, "device": torch.device("cpu"), "class_weight": "balanced"}


def problem(name: str = "breast_cancer") -> tuple[np.ndarray, np.ndarray]:
    data = load(name)
    return standardised(data.X[::3, :6]), data.y[::3]


def fitted(name: str = "breast_cancer") -> TorchLogisticClassifier:
    X, y = problem(name)
    return TorchLogisticClassifier(**PARAMS).fit(pd.DataFrame(X, columns=list("abcdef")), y)


# ---- persistence ----


def through_joblib(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    return joblib.load(file)


ROUND_TRIPS = {
    **{
        f"pickle {n}": lambda e, n=n: pickle.loads(pickle.dumps(e, n))
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "joblib": through_joblib,
    "cloudpickle": lambda e: pickle.loads(cloudpickle.dumps(e)),
    "skops": lambda e: skops.io.loads(skops.io.dumps(e), trusted=[CLASS]),
}


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_a_stored_model_predicts_what_it_predicted(way, name):
    estimator = fitted(name)
    X = pd.DataFrame(problem(name)[0], columns=list("abcdef"))
    estimator.predict(X)
    back = ROUND_TRIPS[way](estimator)
    assert_array_equal(back.predict_proba(X), estimator.predict_proba(X))
    assert_array_equal(back.predict(X), estimator.predict(X))
    assert back.get_params() == {**estimator.get_params(), "device": "cpu"}
    assert back.feature_names_in_.tolist() == list("abcdef")
    assert back.history_.equals(estimator.history_)
    assert set(vars(back)) == set(vars(estimator))
    assert back.fit(X, problem(name)[1]).converged_


def test_a_stored_sparse_model_predicts_what_it_predicted():
    estimator, (X, _) = fitted().sparsify(), problem()
    X = pd.DataFrame(X, columns=list("abcdef"))
    for way in ("pickle 5", "joblib", "cloudpickle"):
        back = ROUND_TRIPS[way](estimator)
        assert_array_equal(back.predict_proba(X), estimator.predict_proba(X))
        assert type(back.coef_) is type(estimator.coef_)


def test_to_skops_only_our_class_is_new():
    assert skops.io.get_untrusted_types(data=skops.io.dumps(fitted())) == [CLASS]
    # Sparse coefficients are to be trusted too, as LogisticRegression's are.
    sparse = skops.io.get_untrusted_types(
        data=skops.io.dumps(LogisticRegression().fit(*problem()).sparsify())
    )
    assert skops.io.get_untrusted_types(data=skops.io.dumps(fitted().sparsify())) == [*sparse, CLASS]
    unfitted = TorchLogisticClassifier(device=torch.device("cpu"))
    assert skops.io.get_untrusted_types(data=skops.io.dumps(unfitted)) == [CLASS]


def test_a_pickle_names_no_object_of_torch_and_is_small():
    data = pickle.dumps(fitted())
    strings = {argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}
    assert "torch_logreg" in strings
    assert {s for s in strings if s.split(" ")[0].split(".")[0] == "torch"} == set()
    assert len(data) < 4000
    X = np.random.default_rng(0).normal(size=(5000, 20))
    assert len(pickle.dumps(TorchLogisticClassifier().fit(X, X[:, 0] > 0, np.ones(5000)))) < 4000


def test_a_tensor_that_was_fitted_on_is_not_pickled():
    X, y = problem()
    estimator = TorchLogisticClassifier().fit(torch.tensor(X), torch.tensor(y))
    estimator.predict(torch.tensor(X))
    assert len(pickle.dumps(estimator)) < 4000
    assert skops.io.get_untrusted_types(data=skops.io.dumps(estimator)) == [CLASS]


@pytest.mark.processes
def test_a_pickle_is_read_by_another_process(tmp_path):
    X, y = problem()
    estimator = TorchLogisticClassifier().fit(X, y)
    joblib.dump((estimator, X), tmp_path / "model.joblib")
    code = (
        "import joblib, sys; model, X = joblib.load(sys.argv[1]); "
        "print(model.predict_proba(X)[:, 1].sum().hex())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.joblib")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert_allclose(float.fromhex(printed.strip()), estimator.predict_proba(X)[:, 1].sum(), rtol=1e-12)


BACKENDS = [pytest.param("loky", marks=pytest.mark.processes), "threading"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_mapped_models_and_rows_work_in_workers(tmp_path, backend):
    X, y = problem()
    estimator = TorchLogisticClassifier().fit(X, y)
    joblib.dump((estimator, X, y), tmp_path / "all.joblib")
    mapped, rows, labels = joblib.load(tmp_path / "all.joblib", mmap_mode="r")
    assert isinstance(rows, np.memmap)
    assert isinstance(mapped.coef_, np.memmap)
    assert not mapped.coef_.flags.writeable
    parallel = joblib.Parallel(n_jobs=2, backend=backend, max_nbytes=100, mmap_mode="r")
    for result in parallel(joblib.delayed(probabilities)(mapped, rows) for _ in range(3)):
        assert_array_equal(result, estimator.predict_proba(X))
    for result in parallel(joblib.delayed(refitted)(mapped, rows, labels) for _ in range(3)):
        assert_allclose(result, estimator.coef_, rtol=1e-9)


# ---- the rest of scikit-learn ----


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_grid_search_says_the_same_in_parallel(backend):
    X, y = problem()
    grid = {
        "torchlogisticclassifier__C": [0.01, 1.0, 100.0],
        "torchlogisticclassifier__solver": ["auto", "lbfgs"],
    }
    pipeline = make_pipeline(StandardScaler(), TorchLogisticClassifier())
    serial = GridSearchCV(pipeline, grid, scoring="neg_log_loss", cv=3, n_jobs=1).fit(X, y)
    with joblib.parallel_backend(backend):
        parallel = GridSearchCV(pipeline, grid, scoring="neg_log_loss", cv=3, n_jobs=2).fit(X, y)
    for key in ("mean_test_score", "split0_test_score", "split2_test_score"):
        assert_allclose(parallel.cv_results_[key], serial.cv_results_[key], rtol=1e-9)
    assert parallel.best_params_ == serial.best_params_
    assert_allclose(parallel.predict_proba(X), serial.predict_proba(X), rtol=1e-9)


WRAPPERS = {
    "sigmoid": lambda model: CalibratedClassifierCV(model, method="sigmoid", cv=3),
    "isotonic": lambda model: CalibratedClassifierCV(model, method="isotonic", cv=3),
    "temperature": lambda model: CalibratedClassifierCV(model, method="temperature", cv=3),
    "not an ensemble": lambda model: CalibratedClassifierCV(model, cv=3, ensemble=False),
    "stacking": lambda model: StackingClassifier(
        [("a", model), ("b", clone(model).set_params(C=0.01))], model, cv=3
    ),
    "soft voting": lambda model: VotingClassifier([("a", model), ("b", clone(model))], voting="soft"),
    "one against the rest": OneVsRestClassifier,
    "bagging": lambda model: BaggingClassifier(model, 3, random_state=0),
    "a pipeline": lambda model: make_pipeline(StandardScaler(), model),
}


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_inside_other_estimators_it_is_worth_a_logistic_regression(wrapper, name):
    X, y = problem(name)
    reference = LogisticRegression(solver="newton-cholesky", tol=1e-10)
    expected = WRAPPERS[wrapper](reference).fit(X, y).predict_proba(X)
    got = WRAPPERS[wrapper](TorchLogisticClassifier()).fit(X, y).predict_proba(X)
    assert_allclose(got, expected, atol=1e-5)


SELECTORS = {
    "hard voting": (lambda model: VotingClassifier([("a", model), ("b", clone(model))]), "predict"),
    "one against one": (OneVsOneClassifier, "predict"),
    "recursive elimination": (lambda model: RFE(model, n_features_to_select=3), "transform"),
    "selection": (SelectFromModel, "transform"),
}


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
@pytest.mark.parametrize("wrapper", SELECTORS)
def test_other_estimators_choose_as_with_logistic_regression(wrapper, name):
    X, y = problem(name)
    make, method = SELECTORS[wrapper]
    reference = LogisticRegression(solver="newton-cholesky", tol=1e-10)
    results = [getattr(make(model).fit(X, y), method)(X) for model in (TorchLogisticClassifier(), reference)]
    assert_array_equal(*results)


def test_several_targets_are_fitted_one_by_one():
    X, y = problem("wine")
    targets = np.column_stack([y, y == 1])
    got = MultiOutputClassifier(TorchLogisticClassifier()).fit(X, targets)
    assert_array_equal(got.predict(X)[:, 0], TorchLogisticClassifier().fit(X, y).predict(X))
    assert got.predict_proba(X)[1].shape == (len(y), 2)


def test_cross_validated_predictions_are_those_of_logistic_regression():
    X, y = problem("wine")
    reference = LogisticRegression(solver="newton-cholesky", tol=1e-10)
    for method in ("predict", "predict_proba", "decision_function", "predict_log_proba"):
        got = cross_val_predict(TorchLogisticClassifier(), X, y, cv=3, method=method)
        assert_allclose(got, cross_val_predict(reference, X, y, cv=3, method=method), rtol=1e-5, atol=1e-6)
    got = cross_val_score(TorchLogisticClassifier(), X, y, cv=3, scoring="neg_log_loss")
    assert_allclose(got, cross_val_score(reference, X, y, cv=3, scoring="neg_log_loss"), rtol=1e-5)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
@pytest.mark.parametrize("sparse", [True, False])
def test_a_pipeline_on_a_frame_of_words_and_numbers_works(kind, sparse):
    features, target = frame("wa_churn")
    features, target = features.iloc[:1500], target.iloc[:1500]
    words = list(features.select_dtypes(exclude="number").columns)
    numbers = [column for column in features.columns if column not in words]
    if kind == "polars":
        features = pl.DataFrame({column: features[column].to_list() for column in features.columns})
        target = pl.Series(target.to_list())
    encoder = make_column_transformer(
        (OneHotEncoder(sparse_output=sparse, handle_unknown="ignore"), words),
        ("passthrough", numbers),
        sparse_threshold=1.0 if sparse else 0.0,
    )
    pipeline = make_pipeline(encoder, TorchLogisticClassifier()).fit(features, target)
    reference = LogisticRegression(solver="newton-cholesky", tol=1e-10)
    expected = make_pipeline(clone(encoder), reference).fit(features, target)
    assert set(pipeline.predict(features)) == {"Yes", "No"}
    assert pipeline.feature_names_in_.tolist() == [*features.columns]
    assert_allclose(pipeline.predict_proba(features), expected.predict_proba(features), atol=1e-6)
    assert_allclose(pipeline[-1].coef_, expected[-1].coef_, atol=1e-5)
    assert pipeline.score(features, target) == expected.score(features, target)


@pytest.mark.parametrize("container", ["default", "pandas", "polars"])
def test_set_output_names_the_columns_and_changes_no_prediction(container):
    X, y = problem()
    X = pd.DataFrame(X, columns=list("abcdef"))
    pipeline = make_pipeline(StandardScaler(), TorchLogisticClassifier()).set_output(transform=container)
    pipeline.fit(X, y)
    got = pipeline.predict_proba(X)
    assert type(got) is np.ndarray
    expected = make_pipeline(StandardScaler(), TorchLogisticClassifier()).fit(X, y).predict_proba(X)
    assert_allclose(got, expected, rtol=1e-9)
    assert hasattr(pipeline[-1], "feature_names_in_") == (container != "default")
    with config_context(transform_output="pandas"):
        assert type(TorchLogisticClassifier().fit(X, y).predict_proba(X)) is np.ndarray


def test_sample_weight_is_routed_through_a_pipeline():
    X, y = problem()
    weight = np.random.default_rng(0).uniform(0, 3, len(y))
    expected = TorchLogisticClassifier().fit(X, y, weight)
    with config_context(enable_metadata_routing=True):
        last = TorchLogisticClassifier().set_fit_request(sample_weight=True)
        last.set_score_request(sample_weight=True)
        scaler = StandardScaler(with_mean=False, with_std=False).set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, last).fit(X, y, sample_weight=weight)
        score = pipeline.score(X, y, sample_weight=weight)
        grid = GridSearchCV(pipeline, {"torchlogisticclassifier__C": [1.0]}, cv=3)
        grid.fit(X, y, sample_weight=weight)
        with pytest.raises(ValueError, match="sample_weight"):
            make_pipeline(scaler, TorchLogisticClassifier()).fit(X, y, sample_weight=weight)
    assert_allclose(pipeline[-1].coef_, expected.coef_, rtol=1e-9)
    assert_allclose(grid.best_estimator_[-1].coef_, expected.coef_, rtol=1e-9)
    assert score == accuracy_score(y, expected.predict(X), sample_weight=weight)


def test_a_clone_is_unfitted_and_has_the_same_parameters():
    estimator = fitted()
    copy = clone(estimator)
    assert copy.get_params() == estimator.get_params()
    assert set(vars(copy)) == set(estimator.get_params())
