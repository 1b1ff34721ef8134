"""C and l1_ratio chosen by cross-validation: each problem is a fit alone, and the choice the oracle's."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from helpers import oracle
from helpers.datasets import load, standardised
from helpers.hooks import Hook
from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV, smallest_C
from torch_logreg._fit import used
from torch_logreg._selection.choice import choose

pytestmark = pytest.mark.filterwarnings("error")

DATA = load("wine")
X, Y = standardised(DATA.X), DATA.y
TWO = (Y > 0).astype(int)
CS, RATIOS = [0.03, 0.3, 3.0], (0.0, 0.5, 1.0)
FOLDS = StratifiedKFold(3)


def fitted(X=X, y=Y, sample_weight=None, **settings):
    given = {"Cs": CS, "l1_ratios": RATIOS, "cv": FOLDS, "scoring": "neg_log_loss", **settings}
    return TorchLogisticClassifierCV(**given).fit(X, y, sample_weight)


def assert_each_is_its_fit_alone(cv, X, y, folds, sample_weight=None, atol=1e-6, **settings):
    """Objectives of the folds, which are what is unique, and coefficients where they are."""
    K = 1 if len(cv.classes_) == 2 else len(cv.classes_)
    shape = (len(folds), len(cv.l1_ratios_), len(cv.Cs_))
    assert cv.scores_.shape == cv.n_iter_.shape == shape
    assert cv.coefs_paths_.shape == (*shape, K, X.shape[1] + cv.fit_intercept)
    for fold, (train, _) in enumerate(folds):
        weight = None if sample_weight is None else sample_weight[train]
        for place, ratio in enumerate(cv.l1_ratios_):
            for number, C in enumerate(cv.Cs_):
                alone = TorchLogisticClassifier(
                    C=C, l1_ratio=ratio, tol=1e-10, fit_intercept=cv.fit_intercept, **settings
                ).fit(X[train], y[train], weight)
                found = cv.coefs_paths_[fold, place, number]
                coef = found[:, : X.shape[1]]
                assert_allclose(coef, alone.coef_, atol=atol)
                if cv.fit_intercept:
                    assert_allclose(found[:, -1], alone.intercept_, atol=10 * atol)
                if ratio:
                    assert_array_equal(coef == 0, alone.coef_ == 0)


# ---- the oracle ----


def oracle_scores(X, y, folds, Cs, l1_ratios, start):
    """Scores of coefficients that an independent gap proves to be worth 1e-9 of the objective."""
    scores = np.empty((len(folds), len(l1_ratios), len(Cs)))
    for fold, (train, test) in enumerate(folds):
        for place, ratio in enumerate(l1_ratios):
            for number, C in enumerate(Cs):
                alone = start(C, ratio).fit(X[train], y[train])
                found = oracle.duality_gap(
                    alone.coef_, alone.intercept_, X[train], y[train], C, ratio, np.ones(len(train))
                )
                assert found.gap <= 1e-9 * found.objective
                scores[fold, place, number] = -log_loss(
                    y[test], alone.predict_proba(X[test]), labels=np.unique(y)
                )
    return scores


@pytest.mark.parametrize(
    ("name", "n", "Cs"),
    [
        pytest.param("breast_cancer", None, np.geomspace(1e-2, 10, 6), marks=pytest.mark.deep),
        pytest.param("digits", 300, np.geomspace(1e-2, 1, 3), marks=pytest.mark.slow),
    ],
)
def test_scores_and_the_pair_chosen_are_those_of_the_oracle(name, n, Cs):
    data = load(name)
    X, y = standardised(data.X[:n]), data.y[:n]
    folds, ratios = list(StratifiedKFold(5).split(X, y)), (0.2, 0.6, 1.0)
    cv = fitted(X, y, Cs=Cs, l1_ratios=ratios, cv=folds)
    assert cv.converged_
    expected = oracle_scores(
        X,
        y,
        folds,
        Cs,
        ratios,
        lambda C, r: TorchLogisticClassifier(C=C, l1_ratio=r, tol=3e-10, max_iter=500),
    )
    assert_allclose(cv.scores_, expected, atol=1e-4)
    mean = expected.mean(axis=0)
    leads = mean.max() - np.sort(mean.ravel())[-2] > 1e-4
    place, number = np.unravel_index(mean.argmax(), mean.shape)
    assert leads and (cv.C_, cv.l1_ratio_) == (Cs[number], ratios[place])


# ---- scikit-learn's axes ----


@pytest.mark.parametrize("y", [TWO, Y], ids=["binary", "softmax"])
@pytest.mark.parametrize("refit", [True, False])
def test_attributes_have_the_axes_of_scikit_learn(y, refit):
    ratios = np.array([0.5, 1.0])  # theirs fails for a tuple without a refit
    shared = {"Cs": [0.03, 0.1], "l1_ratios": ratios, "cv": FOLDS, "scoring": "neg_log_loss"}
    theirs = LogisticRegressionCV(
        solver="saga", use_legacy_attributes=False, tol=1e-8, max_iter=50_000, refit=refit, **shared
    ).fit(X, y)
    ours = TorchLogisticClassifierCV(refit=refit, tol=1e-8, **shared).fit(X, y)
    for name in ("scores_", "coefs_paths_", "coef_", "intercept_"):
        assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-3, err_msg=name)
    for name in ("C_", "l1_ratio_", "Cs_", "l1_ratios_"):
        assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert type(getattr(ours, name)) is type(getattr(theirs, name))
    assert ours.n_iter_.shape == theirs.n_iter_.shape == (3, 2, 2)
    assert ours.n_iter_.dtype == theirs.n_iter_.dtype
    assert hasattr(ours, "dual_gap_") is refit


# ---- each problem is its fit alone ----


@pytest.mark.parametrize("y", [TWO, Y], ids=["binary", "softmax"])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_every_pair_on_every_fold_is_the_fit_of_that_fold_alone(y, fit_intercept):
    cv = fitted(y=y, tol=1e-10, fit_intercept=fit_intercept)
    assert cv.converged_
    assert_each_is_its_fit_alone(cv, X, y, list(FOLDS.split(X, y)))
    alone = TorchLogisticClassifier(
        C=cv.C_, l1_ratio=cv.l1_ratio_, tol=1e-10, fit_intercept=fit_intercept
    ).fit(X, y)
    assert_allclose(cv.coef_, alone.coef_, atol=1e-6)
    assert cv.objective_ == pytest.approx(alone.objective_, rel=1e-10)


@pytest.mark.parametrize("way", ["weights", "repeated rows", "balanced", "no memory"])
def test_weights_and_repeated_rows_of_folds_count(way):
    rng, weight, settings = np.random.default_rng(0), None, {}
    folds = list(FOLDS.split(X, TWO))
    if way == "weights":
        weight = rng.integers(0, 4, len(X)).astype(float)
    elif way == "repeated rows":
        folds = [(rng.integers(len(X), size=len(X)), np.arange(60)) for _ in range(2)]
    elif way == "balanced":
        settings["class_weight"] = "balanced"
    else:
        settings["max_batch_memory"] = 1
    cv = fitted(y=TWO, sample_weight=weight, cv=folds, tol=1e-10, **settings)
    if way == "balanced":  # of all rows
        weight = (len(TWO) / 2 / np.bincount(TWO))[TWO]
    assert_each_is_its_fit_alone(cv, X, TWO, folds, weight)


@pytest.mark.parametrize(
    "kind",
    [
        scipy.sparse.csr_array,
        torch.from_numpy,
        lambda X: X.astype(np.float32),
        lambda X: torch.tensor(X, dtype=torch.bfloat16),
    ],
    ids=["CSR", "tensor", "float32", "bfloat16"],
)
@pytest.mark.parametrize("y", [TWO, Y], ids=["binary", "softmax"])
def test_every_kind_of_rows_gives_the_same(kind, y):
    rows = torch.tensor(X, dtype=torch.bfloat16).double().numpy() * (np.abs(X) > 0.3)
    one, other = fitted(rows, y, Cs=[0.03, 0.5]), fitted(kind(rows), y, Cs=[0.03, 0.5])
    assert (one.C_, one.l1_ratio_) == (other.C_, other.l1_ratio_)
    assert_allclose(one.scores_, other.scores_, atol=1e-5)
    assert_allclose(one.coef_, other.coef_, atol=1e-4)
    assert other.converged_ and other.coef_.dtype == (np.float32 if "32" in str(other.coef_.dtype) else float)


def test_columns_without_numbers_have_coefficients_of_0(monkeypatch):
    monkeypatch.setattr(used, "LEAST_UNUSED", 1)
    wide = scipy.sparse.csr_array(np.column_stack([np.zeros((len(X), 2000)), X]))
    cv, plain = fitted(wide), fitted()
    assert cv.coefs_paths_.shape == (3, 3, 3, 3, 2014) and not cv.coefs_paths_[..., :2000].any()
    assert_allclose(cv.coefs_paths_[..., 2000:], plain.coefs_paths_, atol=1e-4)


def test_many_more_columns_than_rows():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 400))
    y = (rows[:, :3].sum(axis=1) > 0).astype(int)
    Cs = np.geomspace(1.1, 100, 6) * smallest_C(rows, y)
    cv = fitted(rows, y, Cs=Cs, l1_ratios=(1.0,), tol=1e-10)
    assert_each_is_its_fit_alone(cv, rows, y, list(FOLDS.split(rows, y)), atol=1e-5)


def test_a_fold_may_lack_a_class_and_a_class_all_weight():
    y = Y.copy()
    y[Y == 2] = 1
    y[:4] = 2
    folds = [(np.arange(4, 178), np.arange(0, 60)), (np.arange(0, 178, 2), np.arange(1, 178, 2))]
    cv = fitted(y=y, cv=folds, Cs=[0.1, 1.0], l1_ratios=(0.5, 1.0), tol=1e-10, scoring=None)
    assert_array_equal(cv.coefs_paths_[0, ..., 2, :-1], 0.0)
    two = TorchLogisticClassifier(C=1.0, l1_ratio=0.5, tol=1e-10).fit(X[4:], y[4:])
    proper = oracle.duality_gap(
        cv.coefs_paths_[0, 0, 1, :2, :-1], cv.coefs_paths_[0, 0, 1, :2, -1], X[4:], y[4:], 1.0, 0.5
    )
    assert proper.gap <= 2e-9 * proper.objective and two.converged_
    weight = np.where(y == 2, 0.0, 1.0)
    silent = fitted(y=y, sample_weight=weight, Cs=[0.1, 1.0], l1_ratios=(0.5, 1.0), tol=1e-10, scoring=None)
    assert not np.isin(silent.predict(X), 2).any() and silent.converged_


# ---- paths ----


@pytest.mark.parametrize("y", [TWO, Y], ids=["binary", "softmax"])
@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_a_path_is_that_of_cold_fits_in_whatever_order_it_is_asked_for(y, l1_ratio):
    Cs = np.geomspace(1.05, 300, 8) * smallest_C(X, y, l1_ratio)
    folds = [(np.arange(len(y)), np.arange(len(y)))]
    there, back = (fitted(y=y, Cs=C, l1_ratios=[l1_ratio], cv=folds, tol=1e-10) for C in (Cs, Cs[::-1]))
    assert_array_equal(there.coefs_paths_, back.coefs_paths_[:, :, ::-1])
    for number, C in enumerate(Cs):
        cold = TorchLogisticClassifier(C=C, l1_ratio=l1_ratio, tol=1e-10).fit(X, y)
        found = there.coefs_paths_[0, 0, number]
        value = oracle.duality_gap(found[:, :-1], found[:, -1], X, y, C, l1_ratio)
        assert value.objective == pytest.approx(cold.objective_, rel=1e-8)


def test_a_C_of_a_path_of_a_hundred_takes_three_steps(capsys):
    data = load("breast_cancer")
    X, y = standardised(data.X), data.y
    for l1_ratio in (0.5, 1.0):
        Cs = np.geomspace(1.05, 1000, 100) * smallest_C(X, y, l1_ratio)
        clf = TorchLogisticClassifierCV(Cs=Cs, l1_ratios=(l1_ratio,), cv=2, verbose=1).fit(X, y)
        lines = capsys.readouterr().out.splitlines()  # a step on all rows each
        assert clf.converged_ and 100 < len(lines) <= 300
        assert clf.n_iter_.mean() <= 3


# ---- the choice ----


def test_one_standard_error_takes_the_fewest_coefficients_that_are_not_clearly_worse():
    data = load("breast_cancer")
    X, y = standardised(data.X), data.y
    settings = {"Cs": np.geomspace(1e-2, 10, 13), "l1_ratios": (0.3, 1.0), "cv": StratifiedKFold(5)}
    best = fitted(X, y, **settings)
    simple = fitted(X, y, one_standard_error=True, **settings)
    mean = best.scores_.mean(axis=0)
    at = np.unravel_index(mean.argmax(), mean.shape)
    within = mean >= mean[at] - best.scores_[:, *at].std(ddof=1) / np.sqrt(5)
    counts = {
        (C, ratio): np.count_nonzero(TorchLogisticClassifier(C=C, l1_ratio=ratio).fit(X, y).coef_)
        for place, ratio in enumerate(settings["l1_ratios"])
        for number, C in enumerate(settings["Cs"])
        if within[place, number]
    }
    assert (simple.C_, simple.l1_ratio_) in counts and len(counts) > 2
    assert np.count_nonzero(simple.coef_) == min(counts.values()) < np.count_nonzero(best.coef_)


def test_of_equals_the_first_is_best_and_the_smallest_C_of_the_largest_ratio_simplest():
    Cs, ratios, scores = np.array([2.0, 1.0]), np.array([0.2, 0.9]), np.zeros((3, 2, 2))
    n_nonzero = np.full((2, 2), 4)
    assert choose(Cs, ratios, scores, n_nonzero, False) == (0, 0)
    scores[:, 0, 1] = scores[:, 1, 0] = 1.0
    assert choose(Cs, ratios, scores, n_nonzero, False) == (1, 0)  # the first C, as in scikit-learn
    scores[:] = np.arange(3)[:, None, None]
    assert choose(Cs, ratios, scores, n_nonzero, True) == (1, 1)
    n_nonzero[0, 0] = 3
    assert choose(Cs, ratios, scores, n_nonzero, True) == (0, 0)


def test_results_have_a_row_a_pair():
    cv = fitted()
    table = cv.cv_results_
    assert table[["C", "l1_ratio"]].to_numpy().tolist() == [[C, ratio] for ratio in RATIOS for C in CS]
    splits = table[[f"split{i}_test_score" for i in range(3)]].to_numpy()
    assert_array_equal(splits, cv.scores_.reshape(3, -1).T)
    row = table[table["rank_test_score"] == 1].iloc[0]
    assert (row["C"], row["l1_ratio"]) == (cv.C_, cv.l1_ratio_)


# ---- with and without an L1 term ----


def test_a_ratio_of_0_is_the_fit_of_the_L2_penalty_to_the_last_bit():
    mixed, alone = fitted(), fitted(l1_ratios=(0.0,))
    assert_array_equal(mixed.coefs_paths_[:, :1], alone.coefs_paths_)
    assert_array_equal(mixed.scores_[:, :1], alone.scores_)
    assert not hasattr(alone, "dual_gap_")


def test_without_a_penalty_the_ratio_is_irrelevant():
    data = load("birthwt")
    settings = {"Cs": [np.inf, 0.1, 0.01], "cv": StratifiedKFold(3)}
    both = fitted(data.X, data.y, l1_ratios=(0.5, 0.0, 1.0), **settings)
    alone = fitted(data.X, data.y, l1_ratios=(0.5, 1.0), **settings)
    plain = fitted(data.X, data.y, l1_ratios=(0.0,), **settings)
    assert_array_equal(both.coefs_paths_[:, 0, 0], both.coefs_paths_[:, 1, 0])
    assert_array_equal(both.coefs_paths_[:, 2, 0], plain.coefs_paths_[:, 0, 0])
    assert_allclose(alone.coefs_paths_[:, 0, 0], plain.coefs_paths_[:, 0, 0], rtol=1e-3, atol=1e-4)
    only = fitted(data.X, data.y, l1_ratios=(1.0,), Cs=[np.inf], solver="lbfgs", cv=settings["cv"])
    assert only.C_ == np.inf and only.l1_ratio_ == 1.0 and not hasattr(only, "dual_gap_")
    assert len(only.history_) == len(only.loss_curve_) and "dual_gap" not in only.history_


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cholesky", "newton-cg"])
def test_solvers_of_smooth_objectives_refuse(solver):
    with pytest.raises(
        ValueError, match=rf"solver='{solver}' cannot fit l1_ratios=\(0.0, 0.5\); use solver="
    ):
        fitted(l1_ratios=(0.0, 0.5), solver=solver)


@pytest.mark.parametrize(
    "l1_ratios", [(-0.1,), (1.1,), (), None, 0.5, "0.5", ["0.5"], [None], [[0.5]], [np.nan]]
)
def test_ratios_out_of_their_range_raise(l1_ratios):
    with pytest.raises(ValueError, match="l1_ratios"):
        fitted(l1_ratios=l1_ratios)


# ---- what is told ----


def test_the_certificate_and_the_history_are_those_of_the_fit_on_all_rows():
    cv = fitted(y=TWO, l1_ratios=(0.4, 0.9), tol=1e-6)
    found = oracle.duality_gap(cv.coef_, cv.intercept_, X, TWO, cv.C_, cv.l1_ratio_)
    assert cv.objective_ == pytest.approx(found.objective, rel=1e-10)
    assert cv.dual_gap_ == pytest.approx(found.gap, rel=1e-3, abs=1e-10 * found.objective)
    history = cv.history_
    assert len(history) == len(cv.loss_curve_) > 0
    assert (history.objective - history.dual_gap <= cv.objective_ * (1 + 1e-12)).all()
    assert history.n_nonzero.iloc[-1] == np.count_nonzero(cv.coef_)
    again = cv.set_params(l1_ratios=(0.0,)).fit(X, TWO)
    assert not hasattr(again, "dual_gap_") and "dual_gap" not in again.history_


def test_float32_rows_whose_gap_is_lost_by_rounding_are_named():
    data = load("breast_cancer")
    X, y = standardised(data.X).astype(np.float32), data.y
    with pytest.warns(ConvergenceWarning, match=r"C=100, l1_ratio=1 on fold 0 .*coefficients rounded"):
        cv = fitted(X, y, Cs=[100.0], l1_ratios=(1.0,), tol=1e-8)
    assert not cv.converged_ and cv.stop_reason_ == "rounding" and cv.coef_.dtype == np.float32


def test_a_warning_names_each_pair_and_fold_that_did_not_converge():
    with pytest.warns(ConvergenceWarning, match=r"C=3, l1_ratio=0\.5 on all rows.*max_iter=1") as caught:
        cv = fitted(Cs=[3.0], l1_ratios=(0.5,), max_iter=1)
    assert "4 of 4 problems" in str(caught[0].message) and not cv.converged_
    assert cv.stop_reason_ == "max_iter"


def test_no_iterations_leave_no_coefficients():
    with pytest.warns(ConvergenceWarning, match="max_iter=0"):
        cv = fitted(max_iter=0)
    assert not cv.coef_.any() and not cv.n_iter_.any() and len(cv.history_) == 0


def test_it_prints_a_line_an_iteration(capsys):
    cv = fitted(l1_ratios=(0.5,), Cs=[0.3], verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(cv.history_)
    assert lines[-1].startswith("l1_ratio=0.5, C=0.3, iteration") and "coefficients" in lines[-1]


@pytest.mark.skipif(not hasattr(TorchLogisticClassifier, "set_callbacks"), reason="scikit-learn has none")
def test_callbacks_see_each_iteration_and_stop_the_path():
    hook = Hook()
    settings = {"Cs": CS, "l1_ratios": (0.5, 1.0), "cv": 3}
    cv = TorchLogisticClassifierCV(**settings).set_callbacks(hook).fit(X, Y)
    assert len(hook.models) > 6 and cv.converged_
    # Last comes a step more for the pair chosen, and before it the largest C of the last l1_ratio.
    assert_allclose(hook.models[-1].predict_proba(X), cv.predict_proba(X), rtol=1e-12)
    last = TorchLogisticClassifier(C=max(CS), l1_ratio=1.0).fit(X, Y)
    assert_allclose(hook.models[-2].predict_proba(X), last.predict_proba(X), atol=1e-4)
    stopped = TorchLogisticClassifierCV(**settings).set_callbacks(Hook(stop_after=2)).fit(X, Y)
    assert not stopped.converged_ and stopped.predict(X).shape == Y.shape


def test_an_interrupted_fit_keeps_the_model_before_it(monkeypatch):
    cv = fitted()
    before = dict(vars(cv))

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("torch_logreg._fit.elastic_net.ElasticNetProblem.certificate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cv.fit(X, TWO)
    assert vars(cv).keys() == before.keys()
    assert all(vars(cv)[name] is value for name, value in before.items())


def test_it_is_cloned_and_pickled():
    cv = fitted()
    again = pickle.loads(pickle.dumps(cv))
    assert_array_equal(again.predict_proba(X), cv.predict_proba(X))
    assert again.l1_ratio_ == cv.l1_ratio_
    twin = clone(cv)
    assert twin.l1_ratios == RATIOS and not hasattr(twin, "coef_")
    assert_array_equal(twin.fit(X, Y).coef_, cv.coef_)
