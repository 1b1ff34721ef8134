"""Rows of the user's own that a fit is scored on, and by what."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torch_logreg import TorchLogisticClassifier

SOLVERS = ["natural-sgd", "lbfgs", "newton-cg", "sgd"]


def data(n=300, n_classes=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    z = 1.5 * X @ np.random.default_rng(9).normal(size=(6, n_classes))
    return X, (z + rng.gumbel(size=z.shape)).argmax(axis=1)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2))


def classifier(**settings):
    given = {
        "module": net(),
        "optimizer": torch.optim.Adam,
        "learning_rate": 0.02,
        "C": np.inf,
        "max_iter": 40,
    }
    return TorchLogisticClassifier(**{**given, "random_state": 0, **settings})


X, y = data()
X_VAL, Y_VAL = data(100, seed=1)
WEIGHTS = np.random.default_rng(2).uniform(0.5, 2, len(Y_VAL))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_update_is_scored_and_nothing_stops(solver, n_classes):
    X, y = data(n_classes=n_classes)
    X_val, y_val = data(100, n_classes, seed=1)
    settings = {"solver": solver, "max_iter": 5, "tol": None}
    clf = TorchLogisticClassifier(**settings).fit(X, y, X_val=X_val, y_val=y_val, sample_weight_val=WEIGHTS)
    plain = TorchLogisticClassifier(**settings).fit(X, y)
    assert_array_equal(clf.coef_, plain.coef_)
    assert plain.validation_scores_ is None
    assert len(clf.validation_scores_) == clf.n_iter_[0] == 5
    assert clf.validation_scores_[-1] == pytest.approx(clf.score(X_val, y_val, WEIGHTS), abs=1e-12)
    loss = log_loss(y_val, clf.predict_proba(X_val), sample_weight=WEIGHTS)
    assert clf.history_["validation_loss"].iloc[-1] == pytest.approx(loss, rel=1e-9)
    assert_array_equal(clf.history_["validation_score"], clf.validation_scores_)
    assert list(plain.history_) == ["objective", "gradient_norm", "rows_read", "step", "seconds"]


@pytest.mark.parametrize("criterion", [None, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))])
def test_the_loss_is_the_criterions_own(criterion):
    clf = classifier(criterion=criterion, max_iter=3).fit(X, y, X_val=X_VAL, y_val=Y_VAL)
    z = torch.log(torch.from_numpy(clf.predict_proba(X_VAL)))
    factor = np.ones(2) if criterion is None else np.array([1.0, 3.0])
    losses = -z[np.arange(len(Y_VAL)), Y_VAL].numpy() * factor[Y_VAL]
    assert clf.history_["validation_loss"].iloc[-1] == pytest.approx(losses.mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("scoring", "score"),
    [
        (None, lambda p: np.mean((p > 0.5) == Y_VAL)),
        ("accuracy", lambda p: np.mean((p > 0.5) == Y_VAL)),
        ("loss", lambda p: -log_loss(Y_VAL, p)),
        ("neg_log_loss", lambda p: -log_loss(Y_VAL, p)),
        ("roc_auc", lambda p: roc_auc_score(Y_VAL, p)),
        (lambda estimator, X, y: float(estimator.predict_proba(X)[0, 1]), lambda p: p[0]),
    ],
)
def test_early_stopping_keeps_the_best_by_a_score_of_ones_own(scoring, score):
    clf = classifier(early_stopping=True, scoring=scoring, n_iter_no_change=5)
    clf.fit(X, y, X_val=X_VAL, y_val=Y_VAL)
    scores = clf.validation_scores_
    assert score(clf.predict_proba(X_VAL)[:, 1]) == pytest.approx(scores.max(), abs=1e-9)
    assert len(scores) == clf.n_iter_[0]
    assert not clf.converged_
    shorter = classifier(max_iter=int(scores.argmax()) + 1).fit(X, y)
    assert_array_equal(clf.predict_proba(X_VAL), shorter.predict_proba(X_VAL))


def plain_accuracy(estimator, X, y):
    return np.mean(estimator.predict(X) == y)


@pytest.mark.parametrize("weights", [None, np.ones(len(y))])
def test_a_callable_of_three_arguments_scores_rows_kept_aside(weights):
    clf = classifier(early_stopping=True, scoring=plain_accuracy, max_iter=3).fit(X, y, weights)
    accuracy = classifier(early_stopping=True, max_iter=3).fit(X, y, weights)
    assert_allclose(clf.validation_scores_, accuracy.validation_scores_)


@pytest.mark.parametrize(
    "given", [{"class_weight": "balanced", "early_stopping": True}, {"sample_weight_val": WEIGHTS}]
)
def test_a_callable_that_takes_no_weights_is_told_of_them(given):
    val = {"X_val": X_VAL, "y_val": Y_VAL} if "sample_weight_val" in given else {}
    fit = {**val, **{name: given.pop(name) for name in list(given) if name.endswith("_val")}}
    with pytest.raises(TypeError, match="sample_weight") as caught:
        classifier(scoring=plain_accuracy, **given).fit(X, y, **fit)
    assert "with sample_weight=... besides" in caught.value.__notes__[0]


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize(
    ("scoring", "error", "words"),
    [
        (lambda estimator, X, y: None, TypeError, "NoneType"),
        (lambda y, p: 1.0, TypeError, "positional"),
    ],
)
def test_what_is_no_score_is_refused(scoring, error, words, early_stopping):
    clf = classifier(scoring=scoring, early_stopping=early_stopping)
    with pytest.raises(error, match=words) as caught:
        clf.fit(X, y, X_val=X_VAL, y_val=Y_VAL)
    assert "scoring is called as scoring(estimator, X, y)" in caught.value.__notes__[0]


def test_a_score_that_is_not_defined_on_the_rows_returns_no_untrained_model():
    one_class = {"X_val": X_VAL[Y_VAL == 1], "y_val": Y_VAL[Y_VAL == 1]}
    with (
        pytest.warns(UndefinedMetricWarning),
        pytest.raises(ValueError, match="is NaN after update 0"),
    ):
        classifier(scoring="roc_auc", early_stopping=True).fit(X, y, **one_class)


def test_a_loss_that_is_no_number_on_the_rows_to_score_returns_no_untrained_model():
    far = {"X_val": np.full_like(X_VAL, 1.7e308), "y_val": Y_VAL}
    with pytest.raises(ValueError, match="is NaN after update 0"):
        classifier(scoring="loss", early_stopping=True).fit(X, y, **far)


def test_rows_of_one_class_alone_have_no_update_to_score():
    clf = TorchLogisticClassifier().fit(X, y, (y == 1).astype(float), X_val=X_VAL, y_val=Y_VAL)
    assert clf.validation_scores_.shape == (0,)


def test_the_loss_stops_an_overfitting_network_long_before_the_end():
    clf = classifier(early_stopping=True, scoring="loss", max_iter=400, learning_rate=0.05)
    clf.fit(X, y, X_val=X_VAL, y_val=Y_VAL)
    assert clf.stop_reason_ == "early_stopping"
    losses = clf.history_["validation_loss"].to_numpy()
    assert_array_equal(clf.validation_scores_, -losses)
    assert len(losses) == int(losses.argmin()) + 6
    assert losses[-1] > losses.min()


def test_rows_to_score_take_the_place_of_rows_kept_aside():
    kept = classifier(early_stopping=True, max_iter=2).fit(X, y)
    own = classifier(early_stopping=True, max_iter=2).fit(X, y, X_val=X_VAL, y_val=Y_VAL)
    whole = classifier(max_iter=2).fit(X, y)
    assert own.loss_curve_[0] == whole.loss_curve_[0] != kept.loss_curve_[0]


def test_class_weight_is_of_the_rows_learnt_from():
    given = {"X_val": X_VAL, "y_val": Y_VAL}
    clf = TorchLogisticClassifier(class_weight={0: 1, 1: 5}).fit(X, y, **given)
    assert clf.history_["validation_loss"].iloc[-1] == pytest.approx(
        log_loss(Y_VAL, clf.predict_proba(X_VAL))
    )


FORMS = {
    "frame": lambda X, y: (pd.DataFrame(X), pd.Series(y)),
    "tensor": lambda X, y: (torch.from_numpy(X), torch.from_numpy(y)),
    "csr": lambda X, y: (scipy.sparse.csr_array(X), y),
    "strings": lambda X, y: (X, np.array(["no", "yes"])[y]),
    "lists": lambda X, y: (X.tolist(), y.tolist()),
}


@pytest.mark.parametrize("module", [None, net()])
@pytest.mark.parametrize("form", FORMS)
def test_the_rows_may_have_any_form(form, module):
    of = FORMS[form]
    given = dict(zip(("X_val", "y_val"), of(X_VAL, Y_VAL), strict=True))
    clf = TorchLogisticClassifier(module=module, max_iter=3, tol=None, random_state=0)
    scored = clf.fit(*of(X, y), **given).validation_scores_
    assert len(scored) == 3
    assert scored[-1] == pytest.approx(clf.score(given["X_val"], given["y_val"]))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"y_val": Y_VAL}, "y_val is given without X_val"),
        ({"sample_weight_val": WEIGHTS}, "sample_weight_val is given without X_val"),
        ({"X_val": X_VAL}, "X_val is given without y_val"),
        ({"X_val": X_VAL[:, :5], "y_val": Y_VAL}, "5 features"),
        ({"X_val": X_VAL, "y_val": Y_VAL[:-1]}, "X_val has 100 rows and y_val has 99"),
        (
            {"X_val": X_VAL, "y_val": Y_VAL + 5},
            r"y_val has the label [56], which is none of the classes \[0, 1\]",
        ),
        ({"X_val": np.full_like(X_VAL, np.nan), "y_val": Y_VAL}, "NaN"),
        ({"X_val": X_VAL, "y_val": Y_VAL, "sample_weight_val": -WEIGHTS}, "must not be negative"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused_and_an_earlier_fit_stays(given, words):
    clf = classifier(max_iter=1).fit(X, y)
    before = clf.predict_proba(X)
    with pytest.raises(ValueError, match=words):
        clf.fit(X, y, **given)
    assert_array_equal(clf.predict_proba(X), before)


def test_a_score_without_rows_to_score_is_refused():
    with pytest.raises(ValueError, match="scoring='loss' is not read"):
        TorchLogisticClassifier(scoring="loss").fit(X, y)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def test_a_pipeline_transforms_the_rows_to_score_as_it_does_the_others(routing):
    request = {"X_val": True, "y_val": True}
    last = TorchLogisticClassifier(max_iter=4, tol=None).set_fit_request(**request)
    pipe = Pipeline([("scale", StandardScaler()), ("fit", last)], transform_input=["X_val"])
    pipe.fit(100 * X + 7, y, X_val=100 * X_VAL + 7, y_val=Y_VAL)
    assert pipe[-1].validation_scores_[-1] == pipe.score(100 * X_VAL + 7, Y_VAL)
    by_hand = TorchLogisticClassifier(max_iter=4, tol=None)
    scaler = StandardScaler().fit(X)
    by_hand.fit(scaler.transform(X), y, X_val=scaler.transform(X_VAL), y_val=Y_VAL)
    assert_allclose(pipe[-1].history_["validation_loss"], by_hand.history_["validation_loss"], rtol=1e-6)


def test_every_fold_of_a_search_is_scored_on_the_same_rows(routing):
    seen = []

    class Watched(TorchLogisticClassifier):
        def fit(self, X, y, sample_weight=None, *, X_val=None, y_val=None):
            seen.append((X_val.tobytes(), y_val.tobytes()))
            return super().fit(X, y, sample_weight, X_val=X_val, y_val=y_val)

    estimator = Watched(early_stopping=True, scoring="loss").set_fit_request(X_val=True, y_val=True)
    search = GridSearchCV(estimator, {"C": [0.1, 1.0]}, cv=3).fit(X, y, X_val=X_VAL, y_val=Y_VAL)
    assert len(seen) == 7
    assert set(seen) == {(X_VAL.tobytes(), Y_VAL.tobytes())}
    assert len(search.best_estimator_.validation_scores_) >= 1


def test_a_scorer_sees_the_estimator_as_it_is_at_each_update():
    seen = []

    def scorer(estimator, X, y):
        seen.append(estimator.coef_.copy())
        return estimator.score(X, y)

    clf = TorchLogisticClassifier(solver="lbfgs", scoring=scorer, max_iter=4, tol=None)
    clf.fit(X, y, X_val=X_VAL, y_val=Y_VAL)
    assert len(seen) == 4
    assert_array_equal(seen[-1], clf.coef_)
    assert not np.allclose(seen[0], seen[-1])


def test_the_optimum_is_that_of_logistic_regression_whatever_is_scored():
    clf = TorchLogisticClassifier(tol=1e-8).fit(X, y, X_val=X_VAL, y_val=Y_VAL)
    theirs = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(X, y)
    assert_allclose(clf.coef_, theirs.coef_, rtol=1e-5)


def batches(X, y, **settings):
    dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    return DataLoader(dataset, **settings) if settings else dataset


@pytest.mark.parametrize("of_val", [{}, {"batch_size": 32}])
def test_batches_are_trained_on_and_scored_on(of_val):
    settings = {"module": net().double(), "early_stopping": True, "scoring": "loss", "max_iter": 6}
    clf = classifier(**settings).fit(batches(X, y, batch_size=50), X_val=batches(X_VAL, Y_VAL, **of_val))
    arrays = clone(clf).fit(batches(X, y, batch_size=50), X_val=X_VAL, y_val=Y_VAL)
    assert_allclose(clf.validation_scores_, arrays.validation_scores_, rtol=1e-10)
    assert clf.history_["validation_loss"].min() == pytest.approx(log_loss(Y_VAL, clf.predict_proba(X_VAL)))


def test_a_scorer_cannot_look_at_batches():
    with pytest.raises(ValueError, match="pass arrays as X_val and y_val"):
        classifier(scoring="roc_auc").fit(X, y, X_val=batches(X_VAL, Y_VAL))


def test_batches_to_keep_rows_aside_of_are_refused():
    with pytest.raises(ValueError, match="pass rows to score as X_val"):
        classifier(early_stopping=True).fit(batches(X, y, batch_size=50))
