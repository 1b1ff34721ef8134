"""Sparse rows of many more columns, in the space of the rows."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.special import expit

from helpers import oracle
from helpers.objectives import sparse_rows_objective
from torch_logreg import TorchLogisticClassifier
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.objective import LinearObjective
from torch_logreg._linear.sparse_row_space import SparseRowSpace, sparse_row_space
from torch_logreg._losses.losses import LOSSES
from torch_logreg._solvers.conjugate_gradients import NewtonCG

CLASSES = pytest.mark.parametrize("n_classes", [2, 3])
INTERCEPTS = pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])


@pytest.fixture(autouse=True)
def _all_columns(monkeypatch):
    """Where those that no row has are left out first, the columns are too few for the rows' space."""
    monkeypatch.setattr("torch_logreg._fit.used.MOST_USED", 0.0)


def text(n_classes: int, n: int = 1_100, d: int = 44_100) -> tuple[scipy.sparse.csr_array, np.ndarray]:
    """Rows of about 12 numbers in columns of which few are frequent, many of one row alone, some of none."""
    rng = np.random.default_rng(0)
    indptr = np.concatenate([[0], rng.poisson(12, size=n).clip(1).cumsum()])
    columns = np.minimum(rng.zipf(1.4, size=indptr[-1]) + 3, d - 1)
    rare = rng.random(indptr[-1]) < 0.3
    columns[rare] = rng.integers(d // 2, d - 5, size=rare.sum())
    X = scipy.sparse.csr_array((rng.uniform(0.2, 1.0, size=indptr[-1]), columns, indptr), shape=(n, d))
    X.sum_duplicates()
    z = X @ rng.normal(size=(d, n_classes)) * 2
    y = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    y[:n_classes] = np.arange(n_classes)
    return X, y


def spaces(
    X: scipy.sparse.csr_array, y: np.ndarray, n_classes: int, fit_intercept: bool, C: float, weights=None
) -> tuple[LinearObjective, SparseRowSpace]:
    loss = LOSSES["binary" if n_classes == 2 else "softmax"]
    weights = (
        torch.ones(1, len(y), dtype=torch.float64) if weights is None else torch.from_numpy(weights)[None]
    )
    K = loss.n_outputs(n_classes)
    rows = ArrayRows(X, loss.encode(torch.from_numpy(y), torch.float64), weights, K)
    return sparse_rows_objective(rows, loss, torch.tensor([C], dtype=torch.float64), K, fit_intercept)


def consistent(objective: LinearObjective, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Weights of which the second part is the first times K."""
    design = objective.design
    natural = objective.natural(design.join(torch.zeros_like(a), design._unit * a, 0 * b))
    return design.join(*design.split(natural)[:2], b)


@CLASSES
@INTERCEPTS
def test_value_and_slope_are_those_of_the_coefficients_it_stands_for(n_classes, fit_intercept):
    X, y = text(n_classes)
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.1, 2, size=len(y))
    objective, space = spaces(X, y, n_classes, fit_intercept, 2.0, weights)
    K = objective.n_outputs
    a, da = (torch.from_numpy(rng.normal(size=(K, len(y)))) for _ in range(2))
    b, db = (torch.from_numpy(rng.normal(size=K)) * fit_intercept for _ in range(2))
    w, direction = consistent(objective, a, b), consistent(objective, da, db)
    factor, dense = 2.0 * weights.sum(), X.toarray()

    def value(at: torch.Tensor) -> float:
        coef, intercept = (part[0].numpy() for part in space.to_raw(at))
        return oracle.objective(coef, intercept, dense, y, 2.0, weights) / factor

    F, gradient = objective.value_and_gradient(w)
    np.testing.assert_allclose(float(F), value(w), rtol=1e-12)
    h = 1e-6
    slope = (value(w + h * direction) - value(w - h * direction)) / (2 * h)
    np.testing.assert_allclose(float((gradient * direction).sum()), slope, rtol=1e-6)
    after = (
        objective.value_and_gradient(w + h * direction)[1]
        - objective.value_and_gradient(w - h * direction)[1]
    )
    curved = objective.at(w).product(direction)
    torch.testing.assert_close(curved, after / (2 * h), rtol=1e-5, atol=1e-8)


@CLASSES
@INTERCEPTS
@DTYPES
@pytest.mark.parametrize("C", [1e-2, 1.0, 1e3])
@pytest.mark.one_in(4)
def test_the_optimum_is_reached(n_classes, fit_intercept, dtype, C):
    X, y = text(n_classes, n=1_040, d=20_850)
    X = X.astype(dtype)
    model = TorchLogisticClassifier(C=C, fit_intercept=fit_intercept).fit(X, y)
    assert model.converged_ and model.coef_.dtype == dtype
    exact = X.astype(np.float64).toarray()
    coef, intercept = model.coef_.astype(float), model.intercept_.astype(float)
    slope, of_intercept = oracle.gradient(coef, intercept, exact, y, C)
    value = oracle.objective(coef, intercept, exact, y, C)
    # The penalty is strongly convex with modulus 1: that proves how near it is, without the oracle's minutes.
    assert 0.5 * np.sum(slope**2) <= 1e-8 * value
    assert not fit_intercept or np.abs(of_intercept).max() <= 1e-4 * C * len(y)
    np.testing.assert_allclose(model.objective_, value, rtol=1e-9)


@CLASSES
def test_it_is_the_optimum_of_the_columns(n_classes, monkeypatch):
    X, y = text(n_classes)
    weights = np.random.default_rng(1).integers(0, 3, size=len(y)).astype(float)
    weights[:n_classes] = 1.0
    there = TorchLogisticClassifier(tol=1e-8).fit(X, y, weights)
    monkeypatch.setattr("torch_logreg._fit.plan.MOST_STORED", 0)
    elsewhere = TorchLogisticClassifier(tol=1e-8).fit(X, y, weights)
    assert there.loss_curve_[1] != elsewhere.loss_curve_[1]
    np.testing.assert_allclose(there.coef_, elsewhere.coef_, rtol=0, atol=1e-7)
    np.testing.assert_allclose(there.intercept_, elsewhere.intercept_, rtol=0, atol=1e-7)
    np.testing.assert_allclose(there.objective_, elsewhere.objective_, rtol=1e-12)
    assert not there.coef_[:, -5:-1].any()  # of no row


def test_entries_in_any_order_and_in_parts_change_nothing():
    X, y = text(2)
    model = TorchLogisticClassifier(tol=1e-8).fit(X, y)
    coo = X.tocoo()
    order = np.random.default_rng(0).permutation(2 * X.nnz)
    row, column = (np.concatenate([part, part])[order] for part in coo.coords)
    halves = np.concatenate([coo.data / 4, coo.data * 3 / 4])[order]
    by_row = np.argsort(row, kind="stable")
    indptr = np.concatenate([[0], np.bincount(row, minlength=X.shape[0]).cumsum()])
    parts = scipy.sparse.csr_array((halves[by_row], column[by_row], indptr), shape=X.shape)
    assert parts.nnz == 2 * X.nnz
    again = TorchLogisticClassifier(tol=1e-8).fit(parts, y)
    np.testing.assert_allclose(again.coef_, model.coef_, rtol=0, atol=1e-9)
    assert parts.nnz == 2 * X.nnz  # as it was given
    wide = scipy.sparse.csr_array(
        (X.data, X.indices.astype(np.int64), X.indptr.astype(np.int64)), shape=X.shape
    )
    np.testing.assert_array_equal(TorchLogisticClassifier(tol=1e-8).fit(wide, y).coef_, model.coef_)


def test_steps_and_line_searches_make_no_products(monkeypatch):
    made = []

    def counted(self, state, direction=NewtonCG.direction):
        found = direction(self, state)
        made.append(self._last_steps + 1)  # a product with K for each of its steps, and one to begin with
        return found

    monkeypatch.setattr(NewtonCG, "direction", counted)
    X, y = text(2)
    model = TorchLogisticClassifier().fit(X, y)
    assert len(made) == model.n_iter_[0] > 3
    np.testing.assert_array_equal(model.history_["rows_read"], len(y) * np.cumsum(made))


@pytest.mark.parametrize(
    "unfit",
    [
        lambda X: scipy.sparse.hstack([X, np.full((X.shape[0], 1), 7.0)]).tocsr(),
        lambda X: scipy.sparse.hstack([X, 1e5 * X[:, [9]]]).tocsr(),
    ],
    ids=["a column far from 0", "units far apart"],
)
def test_columns_of_unlike_curvature_are_left_to_the_columns(unfit):
    X, y = text(2)
    X = scipy.sparse.csr_array(unfit(X))
    weights = torch.ones(1, X.shape[0], dtype=torch.float64)
    loss = LOSSES["binary"]
    target = loss.encode(torch.from_numpy(y[: X.shape[0]]), torch.float64)
    model = LinearModel(loss, torch.ones(1, dtype=torch.float64), 1, True)
    assert sparse_row_space(ArrayRows(X, target, weights, 1), model) is None


def test_a_fit_without_a_penalty_or_from_given_coefficients_is_made_in_the_columns():
    X, y = text(2)
    model = TorchLogisticClassifier(warm_start=True, tol=1e-6).fit(X, y)
    first, n_iter = model.objective_, model.n_iter_[0]
    model.fit(X, y)
    assert model.n_iter_[0] < n_iter
    np.testing.assert_allclose(model.objective_, first, rtol=1e-9)
    given = TorchLogisticClassifier(tol=1e-6).fit(
        X, y, coef_init=np.full((1, X.shape[1]), 0.1), intercept_init=0.2
    )
    np.testing.assert_allclose(given.objective_, first, rtol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_numbers_that_are_none_are_found(bad):
    X, y = text(2)
    X.data[100] = bad
    message = "overflow" if bad == 1e200 else "NaN" if np.isnan(bad) else "infinity"
    with pytest.raises(ValueError, match=message):
        TorchLogisticClassifier().fit(X, y)


def test_early_stopping_sees_the_coefficients_of_every_step():
    X, y = text(2)
    model = TorchLogisticClassifier(early_stopping=True, random_state=0, C=100.0).fit(X, y)
    z = X @ model.coef_[0] + model.intercept_[0]
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], expit(z), rtol=1e-10)
    assert len(model.validation_scores_) == model.n_iter_[0]
