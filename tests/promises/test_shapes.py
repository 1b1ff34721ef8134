"""The default estimator on shapes that it treats in ways of their own, against the Newton of oracle.py."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.exceptions import ConvergenceWarning

from helpers import optima
from helpers.objectives import predictions, streamed_objective
from torch_logreg import TorchLogisticClassifier
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._fit import plan
from torch_logreg._linear import samples
from torch_logreg._linear.objective import ColumnsObjective
from torch_logreg._losses.losses import LOSSES
from torch_logreg._solvers.conjugate_gradients import Spikes, conjugate_gradient

STRENGTHS = pytest.mark.parametrize("C", [1e-2, 1.0, 1e4])
INTERCEPTS = pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])
CLASSES = pytest.mark.parametrize("n_classes", [2, 4])


def assert_at_optimum(model, X, y, n_classes, weight=None, bound=1e-8, coef_bound=1e-4) -> None:
    best = optima.solve(X, y, n_classes, model.C, sample_weight=weight, fit_intercept=model.fit_intercept)
    value = optima.objective(model.coef_.astype(float), model.intercept_.astype(float), X, y, model.C, weight)
    assert model.converged_
    assert abs(value - best.objective) <= bound * best.objective
    assert abs(model.objective_ - best.objective) <= max(bound, 1e-7) * best.objective
    assert np.abs(model.coef_ - best.coef).max() <= coef_bound * np.abs(best.coef).max()


# ---- few rows, many columns ----


def few_rows(n_classes: int, n: int = 60, d: int = 1200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlated columns of scales 0.01 to 100, far from 0, one of them constant; noisy classes; weights."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 5)) @ rng.normal(size=(5, d)) + rng.normal(size=(n, d)) + 3
    X *= 10 ** rng.uniform(-2, 2, size=d)
    X[:, 7] = 0.1
    z = (X - X.mean(axis=0)) @ (rng.normal(size=(d, n_classes)) / X.std(axis=0).clip(1e-9)[:, None]) / d**0.5
    y = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    y[:n_classes] = np.arange(n_classes)
    weight = rng.integers(0, 3, size=n).astype(float)
    weight[:n_classes] = 1.0
    return X, y, weight


@STRENGTHS
@INTERCEPTS
@CLASSES
def test_few_rows_of_many_columns_reach_the_optimum(n_classes, fit_intercept, C):
    X, y, _ = few_rows(n_classes)
    model = TorchLogisticClassifier(C=C, fit_intercept=fit_intercept).fit(X, y)
    assert_at_optimum(model, X, y, n_classes)
    assert model.coef_[:, 7].any() != fit_intercept  # the constant column


@CLASSES
def test_few_weighted_rows_of_many_columns_reach_the_optimum(n_classes):
    X, y, weight = few_rows(n_classes)
    model = TorchLogisticClassifier().fit(X, y, sample_weight=weight)
    assert_at_optimum(model, X, y, n_classes, weight)


@CLASSES
def test_few_float32_rows_of_many_columns_reach_the_optimum_to_float32_accuracy(n_classes):
    X, y, _ = few_rows(n_classes)
    X = X.astype(np.float32)
    model = TorchLogisticClassifier().fit(X, y)
    assert model.coef_.dtype == np.float32
    assert_at_optimum(model, X.astype(float), y, n_classes, bound=1e-6, coef_bound=1e-3)


def test_few_rows_of_16_bits_reach_the_optimum_of_their_numbers():
    X, y, _ = few_rows(2)
    X = torch.from_numpy(X).to(torch.bfloat16)
    model = TorchLogisticClassifier().fit(X, y)
    assert_at_optimum(model, X.double().numpy(), y, 2, bound=1e-6, coef_bound=1e-3)


def test_the_space_of_the_rows_gives_the_coefficients_of_the_columns(monkeypatch):
    X, y, _ = few_rows(2)
    there = TorchLogisticClassifier(tol=1e-8).fit(X, y)
    monkeypatch.setattr(plan, "MOST_ROWS", 0)
    elsewhere = TorchLogisticClassifier(tol=1e-8).fit(X, y)
    np.testing.assert_allclose(there.coef_, elsewhere.coef_, rtol=0, atol=1e-6 * np.abs(there.coef_).max())
    np.testing.assert_allclose(there.objective_, elsewhere.objective_, rtol=1e-9)
    assert there.n_iter_[0] != elsewhere.n_iter_[0] or there.loss_curve_[1] != elsewhere.loss_curve_[1]


def test_few_rows_without_a_penalty_are_separated_by_the_smallest_coefficients():
    X, y, _ = few_rows(2)
    with pytest.warns(ConvergenceWarning, match="separated"):
        model = TorchLogisticClassifier(C=np.inf).fit(X, y)
    assert model.score(X, y) == 1.0
    centred = X - X.mean(axis=0)
    projected = np.linalg.lstsq(centred.T, model.coef_[0], rcond=None)[0]
    np.testing.assert_allclose(
        centred.T @ projected, model.coef_[0], rtol=0, atol=1e-8 * np.abs(model.coef_).max()
    )


def test_a_warm_start_in_the_space_of_the_rows_goes_on_where_it_was():
    X, y, _ = few_rows(2)
    model = TorchLogisticClassifier(warm_start=True).fit(X, y)
    first, n_iter = model.objective_, model.n_iter_[0]
    model.fit(X, y)
    np.testing.assert_allclose(model.objective_, first, rtol=1e-10)
    assert model.n_iter_[0] < n_iter


def test_nan_and_infinity_in_few_rows_are_found():
    X, y, _ = few_rows(2)
    X[3, 500] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        TorchLogisticClassifier().fit(X, y)


# ---- many columns: conjugate gradients ----


@pytest.fixture
def many(monkeypatch):
    """Small data treated as data of many columns is."""
    monkeypatch.setattr(plan, "HELD_NUMBERS", 0)
    monkeypatch.setattr(plan, "CHOLESKY_PARAMETERS", 0)
    monkeypatch.setattr(plan, "FACTOR_PARAMETERS", 0)
    monkeypatch.setattr("torch_logreg._solvers.conjugate_gradients.MANY_PARAMETERS", 0)
    monkeypatch.setattr("torch_logreg._solvers.conjugate_gradients.SKETCH_ROWS", 64)
    monkeypatch.setattr("torch_logreg._linear.objective.SKETCHED", 0)


def nearly_separable(n_classes: int, n: int = 600, d: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(n, 4)) @ rng.normal(size=(4, d)) * 3 + rng.normal(size=(n, d))
    z = X @ rng.normal(size=(d, n_classes)) * 2
    return X * 10 ** rng.uniform(-2, 2, size=d), (z + rng.gumbel(size=z.shape)).argmax(axis=1)


@STRENGTHS
@INTERCEPTS
@CLASSES
@pytest.mark.parametrize("kind", ["dense", "CSR"])
@pytest.mark.one_in(6)
def test_many_columns_reach_the_optimum(many, kind, n_classes, fit_intercept, C):
    X, y = nearly_separable(n_classes)
    if kind == "CSR":
        X[np.random.default_rng(0).random(X.shape) < 0.7] = 0
    model = TorchLogisticClassifier(C=C, fit_intercept=fit_intercept)
    model.fit(scipy.sparse.csr_array(X) if kind == "CSR" else X, y)
    assert_at_optimum(model, X, y, n_classes)


def test_any_csr_of_many_columns_reaches_the_optimum(many):
    """Indices of 64 bits, in no order, entries in two parts, empty rows and columns."""
    X, y = nearly_separable(2)
    X[np.random.default_rng(0).random(X.shape) < 0.7] = 0
    X[:, 5] = X[10] = X[-1] = 0
    rows, columns = X.nonzero()
    halves = np.concatenate([X[rows, columns] * 0.25, X[rows, columns] * 0.75])
    order = np.random.default_rng(2).permutation(len(halves))
    order = order[np.argsort(np.tile(rows, 2)[order], kind="stable")]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(np.tile(rows, 2), minlength=len(X)))])
    indices = np.tile(columns, 2)[order].astype(np.int64)
    parts = scipy.sparse.csr_array((halves[order], indices, indptr.astype(np.int64)), shape=X.shape)
    model = TorchLogisticClassifier().fit(parts, y)
    assert_at_optimum(model, X, y, 2)
    assert model.coef_[0, 5] == 0


@pytest.mark.slow
def test_raw_one_hot_and_money_columns_reach_the_optimum():
    rng = np.random.default_rng(0)
    n, levels = 6000, 200
    codes = [(rng.pareto(1.0, size=n) * 5).astype(int).clip(max=levels - 1) for _ in range(5)]
    money = 1e4 * rng.lognormal(size=(n, 5))
    hot = [scipy.sparse.csr_array((np.ones(n), (np.arange(n), code)), shape=(n, levels)) for code in codes]
    X = scipy.sparse.csr_array(scipy.sparse.hstack([*hot, money]))
    effect = sum(rng.normal(size=levels)[code] for code in codes) + (money[:, 0] - 1.6e4) / 2e4
    y = (rng.random(n) < 1 / (1 + np.exp(-effect))).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = TorchLogisticClassifier().fit(X, y)
    assert_at_optimum(model, X.toarray(), y, 2)


SPARSE = """
import ctypes, numpy as np, scipy.sparse
from torch_logreg import TorchLogisticClassifier

def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":"))

rng = np.random.default_rng(0)
X = scipy.sparse.random_array((60_000, 20_000), density=40 / 20_000, format="csr", rng=rng, dtype=np.float32)
X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
y = (X @ rng.normal(scale=3, size=20_000) + rng.normal(size=60_000) > 0).astype(int)
TorchLogisticClassifier().fit(X[:200], y[:200])
ctypes.CDLL(None).malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
assert TorchLogisticClassifier().fit(X, y).converged_
arrays = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
print((status("VmHWM") - before + arrays) / arrays)
"""


@pytest.mark.processes
def test_sparse_rows_take_less_than_three_times_their_memory():
    run = subprocess.run([sys.executable, "-c", SPARSE], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 3


def objective_of(X: np.ndarray, y: np.ndarray) -> ColumnsObjective:
    loss = LOSSES["binary"]
    target, weights = (
        loss.encode(torch.from_numpy(y), torch.float64),
        torch.ones(1, len(y), dtype=torch.float64),
    )
    C = torch.tensor([1.0], dtype=torch.float64)
    return streamed_objective(ArrayRows(torch.from_numpy(X), target, weights, 1), loss, C, 1, True)


def test_active_rows_hold_what_is_asked_for_and_never_more_curvature_than_all():
    X, y = nearly_separable(2)
    objective = objective_of(X, y)
    w = objective.coordinates.from_raw(
        *(
            torch.from_numpy(a)[None]
            for a in (optima.solve(X, y, 2, 1.0).coef, optima.solve(X, y, 2, 1.0).intercept)
        )
    )
    active = objective.at(w).active(0.95)
    z = predictions(objective, w)[0, 0]
    information = (torch.sigmoid(z) * torch.sigmoid(-z)).sort(descending=True).values
    n = len(active.design.rows.weights[0])
    assert n < 0.6 * len(y)
    assert information[:n].sum() >= 0.95 * information.sum() > information[: n - 1].sum()
    less = objective.at(w).matrix()[0] - active.matrix()[0]
    assert torch.linalg.eigvalsh(less).min() > -1e-12
    assert objective.at(torch.zeros_like(w)).active(0.95) is None  # all rows are active


def test_the_spikes_of_a_sample_precondition(many):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 20)) @ rng.normal(size=(20, 300)) * 0.5 + rng.normal(size=(4000, 300))
    z = X @ rng.normal(size=300)
    y = (rng.random(4000) < 1 / (1 + np.exp(-8 * z / z.std()))).astype(int)
    objective, model = objective_of(X, y), TorchLogisticClassifier(max_iter=5, tol=None).fit(X, y)
    w = objective.coordinates.from_raw(
        torch.from_numpy(model.coef_[None]), torch.from_numpy(model.intercept_[None])
    )
    curvature, (_, gradient) = objective.at(w), objective.value_and_gradient(w)
    sample, decay = objective.at(w).sketch(256)
    assert sample.shape == (256, 301)
    accuracy = torch.tensor([1e-2], dtype=torch.float64)
    plain = conjugate_gradient(curvature.product, -gradient, torch.clone, 500, accuracy)
    spikes = Spikes(sample, decay)
    spiked = conjugate_gradient(curvature.product, -gradient, spikes, 500, accuracy)
    matrix = curvature.matrix()[0]
    error = spiked[0][0] - torch.linalg.solve(matrix, -gradient[0])
    assert error @ matrix @ error < 1e-3 * spiked[0][0] @ matrix @ spiked[0][0]
    assert spiked[2] < 0.7 * plain[2]


def test_a_sketch_is_the_fisher_matrix_on_average():
    X, y = nearly_separable(2, n=5000, d=6)
    objective = objective_of(X, y)
    w = torch.zeros(1, 7, dtype=torch.float64)
    sample, decay = objective.at(w).sketch(20)
    expected = objective.at(w).matrix()[0] - torch.diag(decay[0])
    assert torch.trace(sample.T @ sample) == pytest.approx(float(torch.trace(expected)), rel=0.5)
    torch.testing.assert_close(
        torch.linalg.eigvalsh(sample.T @ sample)[-1:], torch.linalg.eigvalsh(expected)[-1:], rtol=0.5, atol=0
    )


# ---- growing batches of gathered rows ----


@pytest.mark.parametrize("kind", ["dense", "CSR"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_start_on_samples_reads_less_and_ends_at_the_same_optimum(many, n_classes, kind, monkeypatch):
    monkeypatch.setattr(plan, "sample_rows", lambda shape: 0)
    monkeypatch.setattr(plan, "HELD_STORED", 0)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(24_000, 12)) * (rng.random((24_000, 12)) < 0.5) * 10 ** rng.uniform(-2, 2, size=12)
    z = (X / X.std(axis=0)) @ rng.normal(size=(12, n_classes))
    y = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    X = scipy.sparse.csr_array(X) if kind == "CSR" else X
    model = TorchLogisticClassifier().fit(X, y)
    assert (model.history_["rows_read"].diff().iloc[1:3] < 24_000).all()
    monkeypatch.setattr(samples, "START_PARTS", ())
    without = TorchLogisticClassifier().fit(X, y)
    assert model.history_["rows_read"].iloc[-1] < without.history_["rows_read"].iloc[-1]
    assert_at_optimum(model, X.toarray() if kind == "CSR" else X, y, n_classes)


@pytest.mark.deep
def test_a_start_on_samples_is_not_taken_where_it_is_worse_than_none(many, monkeypatch):
    monkeypatch.setattr(plan, "sample_rows", lambda shape: 0)
    monkeypatch.setattr(samples, "START_ROWS_PER_PARAMETER", 0)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20_800, 400)), rng.integers(0, 2, size=20_800)  # 325 rows of 400 columns
    monkeypatch.setattr(samples, "START_PARTS", (64,))
    model = TorchLogisticClassifier(C=1e4).fit(X, y)
    full = model.history_["objective"][model.history_["rows_read"] > 4 * 20_800]
    assert full.iloc[0] <= 20_800 * 1e4 * np.log(2) * (1 + 1e-9)
    assert_at_optimum(model, X, y, 2)
