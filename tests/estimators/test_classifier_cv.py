"""`TorchLogisticClassifierCV`: each of its problems against a fit of its own, and what folds share."""

import json
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from helpers.hooks import Hook
from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._data import folds as data_folds
from torch_logreg._fit import plan
from torch_logreg._selection import path as cv_path

CS = [1e-3, 1.0, 1e3]


def data(n_classes=2, n=300, d=6, seed=0, dtype=np.float64):
    X, y = make_classification(
        n, d, n_informative=d - 1, n_redundant=0, n_classes=n_classes, flip_y=0.2, random_state=seed
    )
    return (X * np.logspace(-2, 2, d) + 3).astype(dtype), y


def large(monkeypatch):
    """Takes the ways of large data on small ones."""
    monkeypatch.setattr(plan, "HELD_NUMBERS", 0)
    monkeypatch.setattr(plan, "OWN_WORK", 0)


def assert_each_is_a_fit_of_its_own(cv, X, y, folds, sample_weight=None, atol=1e-4, **settings):
    K = 1 if len(cv.classes_) == 2 else len(cv.classes_)
    scale = X.std(axis=0)
    assert cv.coefs_paths_.shape == (len(folds), 1, len(cv.Cs_), K, X.shape[1] + 1)
    for number, (train, _) in enumerate(folds):
        for index, C in enumerate(cv.Cs_):
            weight = None if sample_weight is None else sample_weight[train]
            alone = TorchLogisticClassifier(C=C, tol=1e-8, **settings)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # that tol is below what rounding allows
                alone.fit(X[train], y[train], weight)
            found = cv.coefs_paths_[number, 0, index]
            np.testing.assert_allclose(found[:, :-1] * scale, alone.coef_ * scale, atol=atol, rtol=1e-4)
            z = X[train] @ found[:, :-1].T + found[:, -1]
            np.testing.assert_allclose(
                z, X[train] @ alone.coef_.T + alone.intercept_, atol=10 * atol, rtol=1e-3
            )


@pytest.mark.parametrize("path", ["small", "large"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_every_C_on_every_fold_is_the_fit_of_that_fold_alone(n_classes, path, monkeypatch):
    if path == "large":
        large(monkeypatch)
    X, y = data(n_classes)
    folds = list(StratifiedKFold(4).split(X, y))
    cv = TorchLogisticClassifierCV(Cs=CS, cv=folds).fit(X, y)
    assert cv.converged_
    assert_each_is_a_fit_of_its_own(cv, X, y, folds)
    refit = TorchLogisticClassifier(C=cv.C_).fit(X, y)
    np.testing.assert_allclose(cv.coef_, refit.coef_, rtol=1e-4, atol=1e-4)
    assert cv.objective_ == pytest.approx(refit.objective_, rel=1e-6)


@pytest.mark.parametrize("solver", ["newton-cholesky", "newton-cg", "lbfgs"])
def test_other_solvers_solve_every_problem_too(solver):
    X, y = data()
    X = StandardScaler().fit_transform(X)
    folds = list(StratifiedKFold(3).split(X, y))
    cv = TorchLogisticClassifierCV(Cs=CS, cv=folds, solver=solver, tol=1e-6).fit(X, y)
    assert cv.solver_ == solver and cv.converged_
    assert_each_is_a_fit_of_its_own(cv, X, y, folds, atol=1e-3)


@pytest.mark.parametrize("path", ["small", "large"])
def test_sample_weights_weigh_rows_of_folds(path, monkeypatch):
    if path == "large":
        large(monkeypatch)
    X, y = data()
    weight = np.random.default_rng(0).integers(0, 4, size=len(y)).astype(float)
    folds = list(StratifiedKFold(3).split(X, y))
    cv = TorchLogisticClassifierCV(Cs=CS, cv=folds).fit(X, y, weight)
    assert_each_is_a_fit_of_its_own(cv, X, y, folds, weight)


@pytest.mark.parametrize("path", ["small", "large"])
def test_rows_that_a_splitter_repeats_count_as_often(path, monkeypatch):
    if path == "large":
        large(monkeypatch)
    X, y = data()
    rng = np.random.default_rng(0)
    folds = [(rng.integers(len(y), size=len(y)), np.arange(50)) for _ in range(3)]
    cv = TorchLogisticClassifierCV(Cs=CS, cv=folds).fit(X, y)
    assert_each_is_a_fit_of_its_own(cv, X, y, folds)


def test_sparse_rows_give_the_same_as_dense_ones():
    X, y = data()
    X[np.random.default_rng(0).random(X.shape) < 0.5] = 0
    settings = dict(Cs=CS, cv=3, scoring="neg_log_loss")
    dense = TorchLogisticClassifierCV(**settings).fit(X, y)
    sparse = TorchLogisticClassifierCV(**settings).fit(scipy.sparse.csr_array(X), y)
    assert sparse.C_ == dense.C_
    np.testing.assert_allclose(sparse.scores_, dense.scores_, rtol=1e-5)
    np.testing.assert_allclose(sparse.coef_, dense.coef_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_bound_on_memory_solves_few_at_once_and_gives_the_same(n_classes, monkeypatch):
    large(monkeypatch)
    X, y = data(n_classes)
    batches = []
    plain = data_folds.FoldRows.__init__

    def counted(self, rows, counts, fold):
        plain(self, rows, counts, fold)
        batches.append(len(fold))

    monkeypatch.setattr(data_folds.FoldRows, "__init__", counted)
    free = TorchLogisticClassifierCV(Cs=6, cv=4).fit(X, y)
    assert max(batches) == 24
    batches.clear()
    bound = TorchLogisticClassifierCV(Cs=6, cv=4, max_batch_memory=1).fit(X, y)
    assert max(batches) <= 4  # the weights of folds are summed for all of them
    np.testing.assert_allclose(bound.scores_, free.scores_, atol=1e-12)
    np.testing.assert_allclose(bound.coefs_paths_, free.coefs_paths_, rtol=1e-3, atol=1e-4)
    assert bound.C_ == free.C_


@pytest.mark.slow
def test_a_fit_takes_no_more_memory_than_its_bound():
    """The peak of resident memory in a process of its own, which gives freed arrays back to the system.

    glibc by default keeps them, 30 to 170 MB here, and what it keeps differs from run to run.
    """
    bounds = 2**30, 2**26
    free, bound = (_memory_of_a_fit(bound) for bound in bounds)
    assert bound["peak"] <= bounds[1] < free["peak"]
    assert bound["C"] == free["C"]
    np.testing.assert_allclose(bound["scores"], free["scores"], atol=1e-6)


MEMORY_OF_A_FIT = """
import ctypes, gc, json, sys
from pathlib import Path
import numpy as np
from sklearn.datasets import make_classification
from torch_logreg import TorchLogisticClassifierCV

X, y = make_classification(6000, 500, n_informative=50, flip_y=0.2, random_state=0)
X = X.astype(np.float32)
make = lambda: TorchLogisticClassifierCV(
    Cs=np.logspace(-4, 1, 16), scoring="neg_log_loss", max_batch_memory=float(sys.argv[1]), random_state=0
)
make().fit(X[:200, :5], y[:200])  # loads libraries
gc.collect()
status = lambda field: next(
    1024 * int(line.split()[1])
    for line in Path("/proc/self/status").read_text().splitlines()
    if line.startswith(field)
)
ctypes.CDLL(None).malloc_trim(0)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
cv = make().fit(X, y)
print(json.dumps({"peak": status("VmHWM") - before, "C": cv.C_, "scores": cv.scores_.tolist()}))
"""


def _memory_of_a_fit(bound):
    command = [sys.executable, "-c", MEMORY_OF_A_FIT, str(bound)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**17)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout)


def test_rows_are_read_once_a_pass_for_all_problems(monkeypatch):
    """A loop over single fits would read them some hundreds of times."""
    large(monkeypatch)
    X, y = data(n=3000)
    read = []
    plain = cv_path.ArrayRows.blocks

    def counted(self):
        read.append(self.n_rows)
        return plain(self)

    monkeypatch.setattr(cv_path.ArrayRows, "blocks", counted)
    cv = TorchLogisticClassifierCV(Cs=20, cv=5).fit(X, y)
    assert cv.converged_
    assert len(read) <= 40 < cv.n_iter_.sum()


def test_all_rows_are_one_of_the_problems():
    X, y = data()
    cv = TorchLogisticClassifierCV(Cs=CS, cv=3).fit(X, y)
    assert len(cv.loss_curve_) == len(cv.history_) > 1
    assert cv.loss_curve_[-1] == pytest.approx(cv.objective_ / (cv.C_ * len(y)), rel=1e-3)


# ---- the choice ----


def test_results_have_a_row_a_C_with_mean_spread_and_each_fold():
    X, y = data()
    cv = TorchLogisticClassifierCV(Cs=CS, cv=3, scoring="neg_log_loss").fit(X, y)
    table = cv.cv_results_
    assert isinstance(table, pd.DataFrame) and list(table["C"]) == CS
    splits = table[[f"split{i}_test_score" for i in range(3)]].to_numpy()
    np.testing.assert_array_equal(splits, cv.scores_[:, 0].T)
    np.testing.assert_allclose(table["mean_test_score"], splits.mean(axis=1))
    np.testing.assert_allclose(table["std_test_score"], splits.std(axis=1))
    assert table["rank_test_score"][table["C"] == cv.C_].item() == 1


def test_one_standard_error_takes_the_smallest_C_that_is_not_clearly_worse():
    X, y = load_breast_cancer(return_X_y=True)
    best = TorchLogisticClassifierCV(Cs=30, scoring="neg_log_loss", max_iter=200).fit(X, y)
    simple = clone(best).set_params(one_standard_error=True).fit(X, y)
    mean, at = best.scores_[:, 0].mean(axis=0), best.Cs_.tolist().index(best.C_)
    error = best.scores_[:, 0, at].std(ddof=1) / np.sqrt(5)
    assert simple.C_ < best.C_
    assert simple.C_ == best.Cs_[mean >= mean[at] - error].min()


def test_unsorted_Cs_are_reported_in_their_own_order():
    X, y = data()
    rising = TorchLogisticClassifierCV(Cs=CS, cv=3).fit(X, y)
    mixed = TorchLogisticClassifierCV(Cs=[CS[1], CS[2], CS[0]], cv=3).fit(X, y)
    np.testing.assert_array_equal(mixed.Cs_, [CS[1], CS[2], CS[0]])
    np.testing.assert_allclose(mixed.coefs_paths_[:, :, [2, 0, 1]], rising.coefs_paths_, rtol=1e-12)


def test_no_penalty_is_one_of_the_Cs():
    X, y = data()
    folds = list(StratifiedKFold(3).split(X, y))
    cv = TorchLogisticClassifierCV(Cs=[1.0, np.inf], cv=folds).fit(X, y)
    assert_each_is_a_fit_of_its_own(cv, X, y, folds)


def test_without_a_refit_the_means_over_folds_are_kept():
    X, y = data()
    cv = TorchLogisticClassifierCV(Cs=CS, cv=3, refit=False, scoring="neg_log_loss").fit(X, y)
    best = cv.scores_[:, 0].argmax(axis=1)
    assert pytest.approx(np.mean(np.array(CS)[best])) == cv.C_
    expected = np.mean([cv.coefs_paths_[i, 0, c] for i, c in enumerate(best)], axis=0)
    np.testing.assert_allclose(np.c_[cv.coef_, cv.intercept_], expected)


@pytest.mark.parametrize(
    "scoring",
    [None, "accuracy", "neg_log_loss", "roc_auc", "f1_macro", make_scorer(lambda y, p: -sum(y != p))],
)
def test_scores_are_those_of_the_scorer_on_the_rows_kept_aside(scoring):
    X, y = data()
    y = np.array(["no", "yes"])[y]
    folds = list(ShuffleSplit(3, random_state=0).split(X, y))
    cv = TorchLogisticClassifierCV(Cs=CS, cv=folds, scoring=scoring).fit(X, y)
    scorer = scoring if callable(scoring) else get_scorer(scoring or "accuracy")
    for number, (_, test) in enumerate(folds):
        for index in range(len(CS)):
            alone = TorchLogisticClassifier(max_iter=0, tol=None).fit(X, y)
            alone.coef_ = cv.coefs_paths_[number, 0, index, :, :-1]
            alone.intercept_ = cv.coefs_paths_[number, 0, index, :, -1]
            assert cv.scores_[number, 0, index] == pytest.approx(scorer(alone, X[test], y[test]), abs=1e-12)
    assert cv.score(X, y) == pytest.approx(scorer(cv, X, y))


# ---- as an estimator ----


def test_it_is_a_step_of_a_pipeline_and_of_a_nested_cross_validation():
    X, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), TorchLogisticClassifierCV(Cs=5, cv=3))
    assert cross_val_score(pipeline, X, y, cv=3).min() > 0.9
    search = GridSearchCV(TorchLogisticClassifierCV(Cs=3, cv=3), {"fit_intercept": [True, False]}, cv=3)
    assert search.fit(X, y).best_params_ == {"fit_intercept": True}


def test_groups_reach_the_splitter_by_metadata_routing():
    X, y = data()
    groups = np.arange(len(y)) % 7
    with config_context(enable_metadata_routing=True):
        splitter = GroupKFold(3).set_split_request(groups=True)
        cv = TorchLogisticClassifierCV(Cs=CS, cv=splitter).fit(X, y, groups=groups)
        folds = list(GroupKFold(3).split(X, y, groups))
        assert_each_is_a_fit_of_its_own(cv, X, y, folds)
        scorer = get_scorer("accuracy").set_score_request(sample_weight=True)
        weight = np.random.default_rng(0).random(len(y))
        weighed = TorchLogisticClassifierCV(Cs=CS, cv=3, scoring=scorer).set_fit_request(sample_weight=True)
        weighed.fit(X, y, sample_weight=weight)
        scorer = get_scorer("accuracy").set_score_request(sample_weight=False)
        plain = TorchLogisticClassifierCV(Cs=CS, cv=3, scoring=scorer).set_fit_request(sample_weight=True)
        plain.fit(X, y, sample_weight=weight)
    assert (weighed.scores_ != plain.scores_).any()
    splits = list(LeaveOneGroupOut().split(X, y, groups))
    assert len(TorchLogisticClassifierCV(Cs=CS, cv=splits).fit(X, y).scores_) == 7


def test_without_metadata_routing_other_arguments_are_refused():
    X, y = data()
    with pytest.raises(ValueError, match="groups"):
        TorchLogisticClassifierCV(Cs=CS, cv=3).fit(X, y, groups=y)


def test_it_is_pickled_and_predicts_the_same():
    X, y = data()
    cv = TorchLogisticClassifierCV(Cs=CS, cv=3).fit(X, y)
    again = pickle.loads(pickle.dumps(cv))
    np.testing.assert_array_equal(again.predict_proba(X), cv.predict_proba(X))
    assert isinstance(again.module_, torch.nn.Linear)


def test_float32_rows_give_float32_coefficients():
    X, y = data(dtype=np.float32)
    cv = TorchLogisticClassifierCV(Cs=CS, cv=3).fit(X, y)
    assert cv.coef_.dtype == cv.coefs_paths_.dtype == np.float32
    assert cv.predict_proba(X).dtype == np.float32


def test_it_prints_a_line_an_iteration(capsys):
    X, y = data()
    TorchLogisticClassifierCV(Cs=CS, cv=3, verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 2 and all("values of C done on all rows" in line for line in lines)


# ---- what goes wrong ----


def test_a_warning_names_each_C_and_fold_that_did_not_converge():
    X, y = data()
    with pytest.warns(ConvergenceWarning, match=r"C=1000 on fold 0 \(after 2 iteration.*max_iter=2"):
        TorchLogisticClassifierCV(Cs=[1e-6, 1e3], cv=3, max_iter=2).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cv = TorchLogisticClassifierCV(Cs=CS, cv=3, max_iter=2, tol=None).fit(X, y)
    assert (cv.n_iter_ == 2).all() and not cv.converged_


def test_separable_folds_without_a_penalty_are_named():
    X, y = np.arange(40.0)[:, None], (np.arange(40) >= 20).astype(int)
    with pytest.warns(ConvergenceWarning, match="separated perfectly"):
        TorchLogisticClassifierCV(Cs=[1.0, np.inf], cv=4).fit(X, y)


def test_a_fold_that_trains_on_one_class_is_named():
    X, y = np.arange(20.0)[:, None], np.repeat([0, 1], 10)
    with pytest.raises(ValueError, match=r"fold 0 contains only one class: \[1\]; use a splitter that strat"):
        TorchLogisticClassifierCV(Cs=CS, cv=KFold(2)).fit(X, y)


def test_a_fold_may_lack_one_of_several_classes():
    X, y = load_iris(return_X_y=True)
    cv = TorchLogisticClassifierCV(Cs=[1e-2, 1.0], cv=KFold(3), scoring="accuracy").fit(X, y)
    assert cv.coefs_paths_.shape == (3, 1, 2, 3, 5)


@pytest.mark.parametrize("Cs", [[0.0, 1.0], [], [[1.0]], [np.nan]])
def test_Cs_must_be_positive_numbers(Cs):
    X, y = data()
    with pytest.raises(ValueError, match="each must be a number above 0"):
        TorchLogisticClassifierCV(Cs=Cs).fit(X, y)


def test_a_solver_that_is_not_there_is_named():
    X, y = data()
    for solver in ("sgd", "saga"):
        with pytest.raises(ValueError, match=solver):
            TorchLogisticClassifierCV(solver=solver).fit(X, y)


def test_a_failed_fit_keeps_the_model_before_it():
    X, y = data()
    cv = TorchLogisticClassifierCV(Cs=CS, cv=3).fit(X, y)
    before = cv.coef_

    def broken(estimator, X, y):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        cv.set_params(scoring=broken).fit(X, y)
    assert cv.coef_ is before


def test_callbacks_see_the_model_of_the_largest_C_after_each_iteration():
    X, y = data()
    hook = Hook()
    cv = TorchLogisticClassifierCV(Cs=CS, cv=3).set_callbacks(hook).fit(X, y)
    plain = TorchLogisticClassifierCV(Cs=CS, cv=3).fit(X, y)
    assert 1 < len(hook.models) <= 100
    last = TorchLogisticClassifier(C=max(CS)).fit(X, y)
    np.testing.assert_allclose(hook.models[-1].predict_proba(X), last.predict_proba(X), atol=1e-4)
    np.testing.assert_array_equal(cv.coef_, plain.coef_)


def test_a_callback_that_stops_the_fit_leaves_a_model():
    X, y = data()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cv = TorchLogisticClassifierCV(Cs=CS, cv=3).set_callbacks(Hook(stop_after=2)).fit(X, y)
    assert cv.predict(X).shape == y.shape
    assert not cv.converged_
