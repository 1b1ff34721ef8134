"""Weights in `TorchLogisticClassifierCV` mean what they mean in `fit`: in folds, in scores and in `score`."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import skops.io
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import get_scorer, make_scorer
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    PredefinedSplit,
    ShuffleSplit,
    StratifiedKFold,
    StratifiedShuffleSplit,
)

from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV

pytestmark = pytest.mark.filterwarnings("error")

CS = [0.1, 1.0]
LABELS = {
    "numbers": np.array([0, 1]),
    "1 and 2": np.array([1, 2]),
    "bools": np.array([False, True]),
    "words": np.array(["no", "yes"]),
    "three numbers": np.array([1, 2, 5]),
    "three words": np.array(["a", "b", "c"]),
}
SCORINGS = [
    None,
    "accuracy",
    "average_precision",
    "balanced_accuracy",
    "f1",
    "f1_macro",
    "neg_brier_score",
    "neg_log_loss",
    "roc_auc",
]
# Any splitter but for rows of no weight, and folds that name the rows.
SPLITTERS = {
    "None": None,
    "an integer": 3,
    "KFold": KFold(3, shuffle=True, random_state=0),
    "StratifiedKFold": StratifiedKFold(4),
    "ShuffleSplit": ShuffleSplit(3, random_state=0),
    "StratifiedShuffleSplit": StratifiedShuffleSplit(3, random_state=0),
}


def data(n_classes=2, n=150, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    z = X @ rng.normal(size=(3, n_classes)) + rng.gumbel(size=(n, n_classes))
    weights = rng.uniform(0.2, 3, n)
    weights[rng.random(n) < 0.3] = 0
    return X, z.argmax(axis=1), weights


# ---- score ----


@pytest.mark.parametrize("scoring", [None, "accuracy", "neg_log_loss", "roc_auc", get_scorer("f1")])
@pytest.mark.parametrize(
    "make",
    [np.asarray, lambda w: w.tolist(), pd.Series, torch.tensor, lambda w: torch.tensor(w).float().double()],
)
@pytest.mark.one_in(4)
def test_score_is_weighted_as_that_of_logistic_regression_cv(make, scoring):
    X, y, weights = data()
    weights = weights.astype(np.float32).astype(np.float64)
    ours = TorchLogisticClassifierCV(Cs=[1.0], scoring=scoring, tol=1e-8).fit(X, y)
    theirs = LogisticRegressionCV(
        Cs=[1.0],
        scoring=scoring or "accuracy",
        tol=1e-10,
        l1_ratios=(0,),
        use_legacy_attributes=False,
    ).fit(X, y)
    expected = theirs.score(X, y, sample_weight=weights)
    assert ours.score(X, y, sample_weight=make(weights)) == pytest.approx(expected, abs=1e-6)
    assert ours.score(X, y, sample_weight=make(weights)) != pytest.approx(ours.score(X, y), abs=1e-4)


@pytest.mark.parametrize("number", [2.0, 2, np.float32(2), np.array(2.0), torch.tensor(2.0)])
@pytest.mark.parametrize("scoring", [None, "neg_log_loss", "f1"])
def test_one_number_is_a_vector_of_it(scoring, number):
    X, y, _ = data()
    vector = np.full(len(y), 2.0)
    one = TorchLogisticClassifierCV(Cs=CS, scoring=scoring).fit(X, y, sample_weight=number)
    all_of_them = TorchLogisticClassifierCV(Cs=CS, scoring=scoring).fit(X, y, sample_weight=vector)
    assert_array_equal(one.coefs_paths_, all_of_them.coefs_paths_)
    assert_array_equal(one.scores_, all_of_them.scores_)
    assert one.score(X, y, sample_weight=number) == all_of_them.score(X, y, sample_weight=vector)
    plain = TorchLogisticClassifier().fit(X, y, sample_weight=number)
    assert_array_equal(plain.coef_, TorchLogisticClassifier().fit(X, y, sample_weight=vector).coef_)
    assert plain.score(X, y, sample_weight=number) == plain.score(X, y)


def test_with_metadata_routing_weights_go_to_a_scorer_that_asks():
    X, y, weights = data()
    with config_context(enable_metadata_routing=True):
        scorer = get_scorer("accuracy").set_score_request(sample_weight=True)
        asks = TorchLogisticClassifierCV(Cs=CS, scoring=scorer).fit(X, y)
        expected = np.average(asks.predict(X) == y, weights=weights)
        assert asks.score(X, y, sample_weight=weights) == pytest.approx(expected, abs=1e-12)
        scorer = get_scorer("accuracy").set_score_request(sample_weight=False)
        does_not = TorchLogisticClassifierCV(Cs=CS, scoring=scorer).fit(X, y)
        assert does_not.score(X, y, sample_weight=weights) == np.mean(does_not.predict(X) == y)


# ---- scores_ ----


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.one_in(6)
def test_scores_are_those_of_the_scorer_or_it_raises(scoring, kind, weighted):
    X, y, weights = data(len(LABELS[kind]))
    y, weights = LABELS[kind][y], weights if weighted else None
    folds = list(StratifiedKFold(3).split(X, y))
    cv = TorchLogisticClassifierCV(Cs=CS, cv=folds, scoring=scoring)
    scorer = get_scorer(scoring or "accuracy")

    def score_of(number, index):
        test = folds[number][1]
        alone = TorchLogisticClassifier(max_iter=0, tol=None).fit(X, y)
        alone.coef_ = found.coefs_paths_[number, 0, index, :, :-1]
        alone.intercept_ = found.coefs_paths_[number, 0, index, :, -1]
        return scorer(
            alone, X[test], y[test], **({} if weights is None else {"sample_weight": weights[test]})
        )

    found = clone(cv).set_params(scoring=None).fit(X, y, weights)
    try:
        expected = [[score_of(number, index) for index in range(len(CS))] for number in range(3)]
    except ValueError as error:
        with pytest.raises(ValueError) as raised:
            cv.fit(X, y, weights)
        assert str(raised.value) == str(error)
        return
    found = cv.fit(X, y, weights)
    assert_allclose(cv.scores_[:, 0], expected, rtol=1e-9)
    assert cv.score(X, y, weights) == pytest.approx(
        scorer(cv, X, y, **({} if weights is None else {"sample_weight": weights})), rel=1e-12
    )


@pytest.mark.parametrize(
    "scoring", ["neg_log_loss", "accuracy", make_scorer(lambda y, p, sample_weight=None: -1.0)]
)
def test_a_row_of_weight_2_is_the_row_twice_in_training_and_test_parts(scoring):
    X, y, _ = data(3)
    times = np.random.default_rng(1).integers(0, 4, len(y))
    index = np.repeat(np.arange(len(y)), times)
    folds = list(KFold(3).split(X))
    repeated = [[np.flatnonzero(np.isin(index, part)) for part in fold] for fold in folds]
    settings = {"Cs": CS, "scoring": scoring, "tol": 1e-8}
    by_weight = TorchLogisticClassifierCV(cv=folds, **settings).fit(X, y, times)
    by_row = TorchLogisticClassifierCV(cv=repeated, **settings).fit(X[index], y[index])
    assert_allclose(by_weight.scores_, by_row.scores_, rtol=1e-7)
    assert_allclose(by_weight.coefs_paths_, by_row.coefs_paths_, rtol=1e-5, atol=1e-8)
    assert by_weight.C_ == by_row.C_


@pytest.mark.parametrize("scoring", [None, "neg_log_loss", "f1_macro"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", SPLITTERS)
@pytest.mark.one_in(3)
def test_a_row_of_weight_0_is_no_row_of_any_fold(name, n_classes, scoring):
    X, y, weights = data(n_classes)
    kept = weights > 0
    settings = {"Cs": CS, "cv": SPLITTERS[name], "scoring": scoring, "tol": 1e-8}
    got = TorchLogisticClassifierCV(**settings).fit(np.where(kept[:, None], X, 1e3), y, weights)
    expected = TorchLogisticClassifierCV(**settings).fit(X[kept], y[kept], weights[kept])
    assert_allclose(got.scores_, expected.scores_, rtol=1e-6)
    assert_allclose(got.coefs_paths_, expected.coefs_paths_, rtol=1e-4, atol=1e-7)
    assert got.C_ == expected.C_


def test_groups_and_rows_that_are_named_are_those_of_all_rows():
    X, y, weights = data()
    kept, groups = weights > 0, np.arange(len(y)) // 10
    with config_context(enable_metadata_routing=True):
        scorer = get_scorer("accuracy").set_score_request(sample_weight=False)
        splitter = GroupKFold(3).set_split_request(groups=True)
        cv = TorchLogisticClassifierCV(Cs=CS, cv=splitter, scoring=scorer)
        cv.set_fit_request(sample_weight=True)
        got = clone(cv).fit(X, y, weights, groups=groups)
        expected = clone(cv).fit(X[kept], y[kept], weights[kept], groups=groups[kept])
    assert_array_equal(got.scores_, expected.scores_)  # of rows that have weight, though it is not told
    test_fold = np.arange(len(y)) % 3
    for cv, same in [(PredefinedSplit(test_fold), PredefinedSplit(test_fold[kept]))]:
        got = TorchLogisticClassifierCV(Cs=CS, cv=cv).fit(X, y, weights)
        expected = TorchLogisticClassifierCV(Cs=CS, cv=same).fit(X[kept], y[kept], weights[kept])
        assert_allclose(got.scores_, expected.scores_, rtol=1e-12)


class Named:
    """A splitter of one's own, which keeps row numbers."""

    def __init__(self, folds):
        self.folds = folds

    def split(self, X, y=None, groups=None):
        return iter(self.folds)

    def get_n_splits(self, X=None, y=None, groups=None):
        return len(self.folds)


def test_a_splitter_of_ones_own_means_the_rows_of_X():
    X, y, weights = data()
    folds = list(StratifiedKFold(3).split(X, y))
    named = TorchLogisticClassifierCV(Cs=CS, cv=Named(folds)).fit(X, y, weights)
    listed = TorchLogisticClassifierCV(Cs=CS, cv=folds).fit(X, y, weights)
    assert_array_equal(named.scores_, listed.scores_)
    for number, (_, test) in enumerate(folds):
        alone = TorchLogisticClassifier(max_iter=0, tol=None).fit(X, y)
        alone.coef_ = listed.coefs_paths_[number, 0, 0, :, :-1]
        alone.intercept_ = listed.coefs_paths_[number, 0, 0, :, -1]
        expected = np.average(alone.predict(X[test]) == y[test], weights=weights[test])
        assert listed.scores_[number, 0, 0] == pytest.approx(expected, abs=1e-12)


def test_a_fold_with_nothing_to_train_or_to_score_on_is_named():
    X, y, _ = data()
    folds = list(StratifiedKFold(3).split(X, y))
    for part, says in (
        (0, "train on of fold 1 have no row of non-zero"),
        (1, "Fold 1 has no row of non-zero"),
    ):
        weights = np.ones(len(y))
        weights[folds[1][part]] = 0
        with pytest.raises(ValueError, match=says):
            TorchLogisticClassifierCV(Cs=CS, cv=folds).fit(X, y, weights)


# ---- state ----


@pytest.mark.parametrize("scoring", [None, "neg_log_loss"])
@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_what_is_stored_comes_back_whole(n_classes, refit, scoring):
    X, y, _ = data(n_classes)
    names = pd.DataFrame(X, columns=list("abc"))
    cv = TorchLogisticClassifierCV(Cs=CS, cv=3, scoring=scoring, refit=refit).fit(names, y)
    stored = skops.io.dumps(cv)
    trusted = skops.io.get_untrusted_types(data=stored)
    assert trusted == ["torch_logreg.TorchLogisticClassifierCV"]
    for copied in (skops.io.loads(stored, trusted=trusted), pickle.loads(pickle.dumps(cv))):
        assert_array_equal(copied.predict_proba(names), cv.predict_proba(names))
        pd.testing.assert_frame_equal(copied.cv_results_, cv.cv_results_)
        pd.testing.assert_frame_equal(copied.history_, cv.history_)
        assert repr(copied) == repr(cv)
        again = clone(copied).fit(names, y)
        assert_array_equal(again.scores_, cv.scores_)


def test_there_are_no_results_before_a_fit():
    with pytest.raises(NotFittedError):
        TorchLogisticClassifierCV().cv_results_  # noqa: B018
    assert not hasattr(TorchLogisticClassifierCV(), "cv_results_")
    X, y, _ = data()
    cv = TorchLogisticClassifierCV(Cs=CS).fit(X, y)
    table = cv.cv_results_
    table.loc[:, "mean_test_score"] = 0.0  # which is nobody else's
    assert cv.cv_results_["mean_test_score"].min() > 0


@pytest.mark.parametrize("n_classes", [2, 3])
def test_coefficients_have_the_dtype_of_the_rows(n_classes):
    X, y, _ = data(n_classes)
    for make in (np.asarray, scipy.sparse.csr_array, scipy.sparse.csr_matrix, torch.tensor):
        for dtype in (np.float32, np.float64):
            rows = make(X.astype(dtype))
            cv = TorchLogisticClassifierCV(Cs=CS, cv=3).fit(rows, y)
            assert cv.coef_.dtype == cv.intercept_.dtype == cv.coefs_paths_.dtype == dtype
            assert cv.predict_proba(rows).dtype == dtype
    half = TorchLogisticClassifierCV(Cs=CS, cv=3).fit(torch.tensor(X, dtype=torch.bfloat16), y)
    assert half.coef_.dtype == np.float32
