"""Classes whose rows weigh nothing: they stay, are never predicted, and the others are as without them."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import KFold, StratifiedKFold
from torch import nn

from helpers import optima
from helpers.hooks import Hook
from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._solvers.registry import SOLVERS

pytestmark = pytest.mark.filterwarnings("error")

ABSENT = [(2, [0]), (2, [1]), (3, [0]), (3, [2]), (3, [0, 1]), (4, [1]), (4, [0, 3]), (4, [0, 1, 2])]
WAYS = {
    "dense": lambda X: X,
    "CSR": scipy.sparse.csr_array,
    "float32": lambda X: X.astype(np.float32),
    "CSR of float32": lambda X: scipy.sparse.csr_array(X.astype(np.float32)),
    "bfloat16": lambda X: torch.tensor(X, dtype=torch.bfloat16),
}


def problem(n_classes, n=120, d=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * [1.0, 30.0, 0.1][:d]
    return X, np.arange(n) % n_classes


def weighted(y, absent):
    rng = np.random.default_rng(1)
    return np.where(np.isin(y, absent), 0.0, rng.uniform(0.5, 2, len(y)))


def assert_finite(model, X):
    values = [model.predict_proba(X), model.predict_log_proba(X), model.decision_function(X)]
    values += [getattr(model, name) for name in ("coef_", "intercept_") if hasattr(model, name)]
    assert all(np.isfinite(value).all() for value in [*values, model.objective_, model.loss_curve_])


def mlp(n_features, n_outputs):
    return nn.Sequential(nn.Linear(n_features, 8), nn.Tanh(), nn.Linear(8, n_outputs))


# ---- the linear model ----


@pytest.mark.parametrize("C", [1.0, np.inf])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize(("n_classes", "absent"), ABSENT)
@pytest.mark.parametrize("way", ["dense", "CSR of float32"])
@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "sgd"])
@pytest.mark.one_in(6)
def test_the_others_have_the_probabilities_of_a_problem_without_it(
    solver, way, n_classes, absent, fit_intercept, C
):
    X, y = problem(n_classes)
    rows, weights = WAYS[way](X), weighted(y, absent)
    model = TorchLogisticClassifier(solver=solver, C=C, fit_intercept=fit_intercept, tol=1e-5)
    model.fit(rows, y, weights)
    single = "float32" in way
    plain = X.astype(np.float32) if single else X
    expected = optima.probabilities(plain, y, n_classes, C, weights, fit_intercept)
    assert (model.converged_, model.stop_reason_) == (True, "converged")
    assert model.classes_.tolist() == list(range(n_classes))
    assert model.coef_.shape == ((1, 3) if n_classes == 2 else (n_classes, 3))
    assert model.coef_.dtype == model.intercept_.dtype == (np.float32 if single else np.float64)
    assert_allclose(model.predict_proba(rows), expected, atol=1e-4 if single else 1e-5)
    assert_finite(model, rows)
    if fit_intercept:
        assert not np.isin(model.predict(rows), absent).any()
        assert model.predict_proba(rows)[:, absent].max() < 1e-30
    else:
        assert not model.intercept_.any()


@pytest.mark.parametrize("how", ["sample_weight", "class_weight", "balanced"])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize(("n_classes", "absent"), [(2, [0]), (3, [1]), (3, [0, 2])])
def test_shapes_and_probabilities_are_those_of_logistic_regression(n_classes, absent, fit_intercept, how):
    X, y = problem(n_classes)
    X /= X.std(axis=0)
    of_class = {k: float(k not in absent) for k in range(n_classes)}
    zero = np.isin(y, absent)
    given = {
        "sample_weight": (None, (~zero).astype(float)),
        "class_weight": (of_class, None),
        "balanced": ("balanced", (~zero).astype(float)),
    }[how]
    ours = TorchLogisticClassifier(fit_intercept=fit_intercept, class_weight=given[0], tol=1e-6)
    ours.fit(X, y, given[1])
    theirs = LogisticRegression(fit_intercept=fit_intercept, tol=1e-10, max_iter=1000)
    theirs.fit(X, y, (~zero).astype(float))  # which makes NaN of "balanced"; the classes are of equal size
    assert ours.coef_.shape == theirs.coef_.shape
    assert ours.intercept_.shape == theirs.intercept_.shape
    assert_array_equal(ours.classes_, theirs.classes_)
    expected = theirs.predict_proba(X)
    assert_allclose(ours.predict_proba(X), expected, atol=1e-5)
    clear = np.ptp(np.sort(expected, axis=1)[:, -2:], axis=1) > 1e-4  # classes without weight may be equal
    assert_array_equal(ours.predict(X)[clear], theirs.predict(X)[clear])


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize(("n_classes", "absent"), [(2, [1]), (3, [0]), (4, [2])])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.one_in(6)
def test_large_data_take_their_ways_too(way, n_classes, absent, fit_intercept):
    X, y = problem(n_classes, n=60_000)
    rows, weights = WAYS[way](X), weighted(y, absent)
    model = TorchLogisticClassifier(fit_intercept=fit_intercept).fit(rows, y, weights)
    assert model.converged_
    assert_finite(model, rows)
    plain = rows.double().numpy() if isinstance(rows, torch.Tensor) else X
    expected = optima.probabilities(plain, y, n_classes, 1.0, weights, fit_intercept)
    assert_allclose(model.predict_proba(rows), expected, atol=1e-3)
    assert not (fit_intercept and np.isin(model.predict(rows), absent).any())


@pytest.mark.parametrize("learning_rate", ["auto", 0.05])
@pytest.mark.parametrize(("n_classes", "absent"), ABSENT)
@pytest.mark.one_in(4)
def test_stock_sgd_trains_the_others(n_classes, absent, learning_rate):
    X, y = problem(n_classes)
    X /= X.std(axis=0)
    weights = weighted(y, absent)
    settings = {"solver": "sgd", "learning_rate": learning_rate, "batch_size": None, "max_iter": 5000}
    model = TorchLogisticClassifier(**settings).fit(X, y, weights)
    assert model.converged_
    assert_finite(model, X)
    assert_allclose(model.predict_proba(X), optima.probabilities(X, y, n_classes, 1.0, weights), atol=2e-3)


@pytest.mark.parametrize(("n_classes", "absent"), ABSENT)
def test_it_is_predicted_nowhere(n_classes, absent):
    X, y = problem(n_classes)
    model = TorchLogisticClassifier(C=100.0).fit(X, y, weighted(y, absent))
    anywhere = np.random.default_rng(2).normal(size=(2000, 3)) * np.logspace(-3, 6, 2000)[:, None]
    assert not np.isin(model.predict(anywhere), absent).any()
    assert_finite(model, anywhere)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("absent", [[0], [1, 2]])
def test_a_warm_start_goes_on_with_and_without_the_class(absent, solver):
    X, y = problem(3)
    X /= X.std(axis=0)
    weights = weighted(y, absent)
    warm = TorchLogisticClassifier(solver=solver, warm_start=True).fit(X, y, weights)
    first = warm.predict_proba(X)
    warm.fit(X, y, weights)
    assert warm.n_iter_[0] <= 1
    assert_allclose(warm.predict_proba(X), first, atol=1e-3)
    warm.fit(X, y)
    cold = TorchLogisticClassifier(solver=solver).fit(X, y)
    assert warm.converged_
    assert warm.n_iter_[0] <= 2 * cold.n_iter_[0]
    assert_allclose(warm.predict_proba(X), cold.predict_proba(X), atol=2e-3)


def test_coefficients_to_start_from_are_of_all_classes():
    X, y = problem(3)
    weights = weighted(y, [1])
    model = TorchLogisticClassifier(max_iter=0, tol=None)
    model.fit(X, y, weights, coef_init=np.arange(9.0).reshape(3, 3), intercept_init=[1.0, 5.0, 3.0])
    assert_allclose(model.coef_, [[-3, -3, -3], [0, 0, 0], [3, 3, 3]])
    assert_allclose(model.intercept_[[0, 2]], [-1, 1])


@pytest.mark.parametrize(("n_classes", "absent"), [(2, [0]), (3, [1]), (3, [0, 2])])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_early_stopping_and_verbose_lines_have_all_classes(n_classes, absent, fit_intercept, capsys):
    X, y = problem(n_classes)
    model = TorchLogisticClassifier(
        early_stopping=True, verbose=1, fit_intercept=fit_intercept, random_state=0
    )
    model.fit(X, y, weighted(y, absent))
    lines = capsys.readouterr().out.splitlines()[1:]  # without the head
    assert len(model.validation_scores_) == model.n_iter_[0] == len(lines)
    assert model.predict_proba(X).shape == (len(y), n_classes)
    assert_finite(model, X)


def test_a_class_of_weight_0_is_one_whose_rows_have_weight_0():
    X, y = problem(3)
    labels = np.array(["a", "b", "c"])[y]
    by_class = TorchLogisticClassifier(class_weight={"a": 0, "b": 2.0}).fit(X, labels)
    by_row = TorchLogisticClassifier().fit(X, labels, np.array([0.0, 2.0, 1.0])[y])
    assert_array_equal(by_class.coef_, by_row.coef_)
    assert_array_equal(by_class.intercept_, by_row.intercept_)


def test_separated_classes_beside_one_without_weight_are_named_and_no_others():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 3)), np.arange(90) % 3
    X[:, 1] = np.where(y == 2, 3.0, -3.0) + rng.uniform(-1, 1, 90)
    for rows in (X, scipy.sparse.csr_array(X)):
        with pytest.warns(ConvergenceWarning, match="separated perfectly by the column 1, so"):
            TorchLogisticClassifier(C=np.inf).fit(rows, y, weighted(y, [0]))
        assert TorchLogisticClassifier(C=np.inf).fit(rows, y, weighted(y, [0, 1])).converged_
    X[:, 1] = 1 + rng.uniform(size=90)  # without an intercept one class is separated from nothing by a column
    for rows in (X, scipy.sparse.csr_array(X)):
        with pytest.warns(ConvergenceWarning, match="separated"):
            TorchLogisticClassifier(C=np.inf, fit_intercept=False).fit(rows, y == 1, y == 1)


def test_missing_values_are_found_though_nothing_is_solved():
    X, y = problem(2)
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        TorchLogisticClassifier().fit(X, y, y)


def test_weights_that_round_to_0_are_no_weights_of_0():
    X, y = problem(2)
    with pytest.raises(ValueError, match="too small for float64"):
        TorchLogisticClassifier(class_weight={0: 1e-200}).fit(X, y, np.where(y == 0, 1e-200, 1.0))


# ---- modules ----


@pytest.mark.parametrize(("n_classes", "absent"), ABSENT)
@pytest.mark.parametrize(
    "settings",
    [
        {"module": mlp},
        {"module": mlp, "learning_rate": 0.1},
        {"module": mlp, "early_stopping": True},
        {"criterion": nn.CrossEntropyLoss()},
        {"module": lambda d, K: nn.Sequential(mlp(d, max(K, 2)), nn.LogSoftmax(1)), "criterion": nn.NLLLoss},
    ],
)
@pytest.mark.one_in(4)
def test_a_module_has_an_output_for_it_and_never_predicts_it(settings, n_classes, absent):
    X, y = problem(n_classes)
    X /= X.std(axis=0)
    model = TorchLogisticClassifier(max_iter=30, tol=None, random_state=0, **settings)
    model.fit(X, y, weighted(y, absent))
    anywhere = np.concatenate([X, 30 * X])
    assert model.predict_proba(anywhere).shape == (2 * len(y), n_classes)
    assert not np.isin(model.predict(anywhere), absent).any()
    assert_finite(model, anywhere)


def test_a_module_of_any_kind_learns_not_to_predict_it():
    class Own(nn.Module):
        def __init__(self, d, K):
            super().__init__()
            self.inner = nn.Linear(d, K)

        def forward(self, X):
            return self.inner(X)

    X, y = problem(3)
    X /= X.std(axis=0)
    model = TorchLogisticClassifier(module=lambda d, K: Own(d, K), random_state=0, tol=None)
    model.fit(X, y, weighted(y, [1]))
    assert not (model.predict(X) == 1).any()
    assert_finite(model, X)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_linear_module_without_the_class_converges_as_one_with_it(n_classes):
    X, y = problem(n_classes)
    settings = {"solver": "sgd", "criterion": nn.CrossEntropyLoss(), "batch_size": None, "random_state": 0}
    model = TorchLogisticClassifier(**settings).fit(X / X.std(axis=0), y, weighted(y, [0]))
    assert model.converged_


def test_a_module_that_was_given_is_not_changed_and_warm_starts_recover():
    X, y = problem(3)
    X /= X.std(axis=0)
    given = nn.Linear(3, 3)
    before = {name: value.clone() for name, value in given.state_dict().items()}
    settings = {"module": given, "batch_size": None, "random_state": 0, "max_iter": 1000}
    warm = TorchLogisticClassifier(warm_start=True, **settings).fit(X, y, weighted(y, [0]))
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    warm.fit(X, y)
    cold = TorchLogisticClassifier(**settings).fit(X, y)
    assert_allclose(warm.predict_proba(X), cold.predict_proba(X), atol=2e-3)


# ---- the choice of C ----


@pytest.mark.parametrize("scoring", [None, "neg_log_loss", "neg_brier_score"])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize(("n_classes", "absent"), [(2, [0]), (3, [1]), (3, [0, 2]), (4, [1])])
@pytest.mark.parametrize("solver", ["auto", "lbfgs"])
@pytest.mark.one_in(4)
def test_the_choice_of_C_has_classes_without_weight(solver, n_classes, absent, fit_intercept, scoring):
    X, y = problem(n_classes)
    weights = weighted(y, absent)
    settings = {"solver": solver, "fit_intercept": fit_intercept}
    cv = TorchLogisticClassifierCV(Cs=[0.1, 1.0, np.inf], cv=3, scoring=scoring, **settings)
    cv.fit(X, y, weights)
    assert cv.converged_
    assert_finite(cv, X)
    assert np.isfinite(cv.scores_).all()
    C = cv.C_
    alone = TorchLogisticClassifier(C=C, **settings).fit(X, y, weights)
    assert_allclose(cv.predict_proba(X), alone.predict_proba(X), atol=1e-4)
    assert cv.objective_ == pytest.approx(alone.objective_, rel=1e-6)
    assert not (fit_intercept and np.isin(cv.predict(X), absent).any())


def test_rows_of_no_weight_are_none_to_a_score_of_labels():
    X, y = problem(4)
    weights = weighted(y, [1])
    folds = list(StratifiedKFold(3).split(X, y))
    kept = [(train, test[weights[test] > 0]) for train, test in folds]
    for scoring in ("balanced_accuracy", "f1_macro"):  # of two, one is vectorised
        settings = {"Cs": [0.1, 1.0], "scoring": scoring}
        expected = TorchLogisticClassifierCV(cv=kept, **settings).fit(X, y, weights)
        got = TorchLogisticClassifierCV(cv=folds, **settings).fit(X, y, weights)
        assert_array_equal(got.scores_, expected.scores_)
        assert got.scores_.min() > 0


def test_a_score_of_each_class_says_what_the_scorer_says_of_one_without_weight():
    X, y = problem(3)
    weights = weighted(y, [1])
    folds = list(StratifiedKFold(3).split(X, y))
    cv = TorchLogisticClassifierCV(Cs=[0.1, 1.0], cv=folds, scoring="average_precision")
    with pytest.warns(UserWarning, match="No positive class found in y_true"):
        cv.fit(X, y, weights)
    alone = TorchLogisticClassifier(max_iter=0, tol=None).fit(X, y)
    for number, (_, test) in enumerate(folds):
        alone.coef_ = cv.coefs_paths_[number, 0, 0, :, :-1]
        alone.intercept_ = cv.coefs_paths_[number, 0, 0, :, -1]
        with pytest.warns(UserWarning, match="No positive class found in y_true"):
            expected = get_scorer("average_precision")(alone, X[test], y[test], sample_weight=weights[test])
        assert cv.scores_[number, 0, 0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("max_batch_memory", [2**30, 1])
@pytest.mark.parametrize("absent", [[0], [0, 1]])
def test_each_fold_has_classes_of_its_own(absent, max_batch_memory, fit_intercept):
    """In the first fold `absent` have rows and no weight, in the second the last class has not even rows."""
    X, y = problem(3)
    folds = [list(fold) for fold in StratifiedKFold(3).split(X, y)]
    weights = np.random.default_rng(1).uniform(0.5, 2, len(y))
    weights[folds[0][0]] *= ~np.isin(y[folds[0][0]], absent)
    folds[1][0] = folds[1][0][y[folds[1][0]] != 2]
    Cs = [0.1, 1.0, np.inf]
    cv = TorchLogisticClassifierCV(
        Cs=Cs, cv=folds, fit_intercept=fit_intercept, max_batch_memory=max_batch_memory, tol=1e-6
    )
    cv.fit(X, y, weights)
    assert cv.converged_
    for number, (train, _) in enumerate(folds):
        for index, C in enumerate(Cs):
            alone = TorchLogisticClassifier(C=C, fit_intercept=fit_intercept, tol=1e-6)
            alone.fit(X, y, weights * np.isin(np.arange(len(y)), train))
            found = cv.coefs_paths_[number, 0, index]
            assert_allclose(found[:, :3], alone.coef_, atol=1e-6, rtol=1e-4)
            if fit_intercept:
                assert_allclose(found[:, 3], alone.intercept_, atol=1e-5, rtol=1e-4)


def test_a_fold_without_rows_of_a_class_is_as_one_without_weight_of_it():
    X, y = problem(3)
    order = np.argsort(y, kind="stable")
    X, y = X[order], y[order]
    cv = TorchLogisticClassifierCV(Cs=[1.0], cv=KFold(3)).fit(X, y)
    assert cv.converged_
    assert cv.scores_.max() == 0  # each fold is scored on the class that it has not seen
    assert (cv.coefs_paths_[range(3), 0, 0, range(3), :3] == 0).all()


@pytest.mark.parametrize("make", [TorchLogisticClassifier, lambda: TorchLogisticClassifierCV(Cs=[1.0], cv=3)])
def test_callbacks_see_all_classes(make):
    X, y = problem(3)
    hook = Hook()
    model = make().set_callbacks(hook).fit(X, y, weighted(y, [1]))
    assert len(hook.models) == len(model.loss_curve_)
    for seen in hook.models:
        assert seen.coef_.shape == (3, 3)
        assert not (seen.predict(X) == 1).any()


# ---- ensembles ----


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_bagging_classifier_over_a_rare_class_fits(n_classes):
    X, y = problem(n_classes, n=60)
    y[y == 0] = 1
    y[:2] = 0
    bagging = BaggingClassifier(TorchLogisticClassifier(), n_estimators=20, random_state=0).fit(X, y)
    sizes = [len(estimator.classes_) for estimator in bagging.estimators_]
    assert set(sizes) == {n_classes}
    lacking = [not np.isin([0, 1], rows).any() for rows in bagging.estimators_samples_]
    assert any(lacking) and not all(lacking)
    assert_allclose(bagging.predict_proba(X).sum(axis=1), 1)


def test_bagging_of_two_rows_of_two_classes_as_scikit_learn_tests_it():
    """Its `test_bagging_small_max_features`."""
    X, y = np.array([[1, 2], [3, 4]]), np.array([1, 0])
    for seed in range(5):
        bagging = BaggingClassifier(TorchLogisticClassifier(), max_features=0.3, random_state=seed)
        assert bagging.fit(X, y).predict(X).shape == (2,)


def test_a_fit_without_a_class_is_copied_whole():
    X, y = problem(3)
    model = TorchLogisticClassifier().fit(X, y, weighted(y, [0, 1]))
    copied = pickle.loads(pickle.dumps(model))
    assert_array_equal(copied.predict_proba(X), model.predict_proba(X))
    assert len(copied.history_) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert model.fit(X, y).n_iter_[0] > 0
