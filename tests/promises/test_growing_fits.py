"""Fits that start on samples of the rows end where all rows say, whatever the rows are like."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from helpers import optima
from helpers.objectives import streamed_objective
from torch_logreg import TorchLogisticClassifier
from torch_logreg._contracts.rows import Block
from torch_logreg._contracts.solver import Iteration
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._fit import plan
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.objective import ColumnsObjective
from torch_logreg._linear.samples import make_batches
from torch_logreg._losses.losses import LOSSES
from torch_logreg._solvers.natural import NaturalSGD

SHAPES = {"binary": (16_000, 15, 2), "softmax": (6_000, 8, 4)}
DTYPES = [np.float64, np.float32]

losses = pytest.mark.parametrize("loss", SHAPES)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(autouse=True)
def few_rows_are_many(monkeypatch) -> None:
    """These rows are treated as millions would be, so that a fit takes a moment.

    They are not held as a design, their Fisher matrix counts as expensive, and a softmax sample is smaller.
    """
    monkeypatch.setattr(plan, "HELD_NUMBERS", 0)
    monkeypatch.setattr(plan, "KEPT_WORK", 0)
    monkeypatch.setattr(plan, "SOFTMAX_ROWS", 2_000)


class Data(NamedTuple):
    X: np.ndarray
    y: np.ndarray  # class codes
    weight: np.ndarray | None
    n_classes: int


def _plain(loss: str, seed: int = 0) -> Data:
    n, d, n_classes = SHAPES[loss]
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ (np.eye(d) + 0.3 * rng.normal(size=(d, d)) / np.sqrt(d))
    return Data(X, _labels(X, n_classes, rng), None, n_classes)


def _labels(X: np.ndarray, n_classes: int, rng: np.random.Generator, shift: float = 0.0) -> np.ndarray:
    """Drawn from a model with coefficients of size 1 / sqrt(d), for standardised columns."""
    logits = X @ rng.normal(size=(X.shape[1], n_classes)) / np.sqrt(X.shape[1])
    logits[:, 1:] += shift
    return (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def _sorted(loss: str) -> Data:
    data = _plain(loss)
    order = data.y.argsort(kind="stable")
    return data._replace(X=data.X[order], y=data.y[order])


def _grouped(loss: str) -> Data:
    """Forty groups of rows in a row, each about a centre of its own that most of the variance is between."""
    n, d, n_classes = SHAPES[loss]
    rng = np.random.default_rng(1)
    X = 3 * rng.normal(size=(40, d)).repeat(n // 40, axis=0) + 0.3 * rng.normal(size=(n, d))
    return Data(X, _labels(X / 3, n_classes, rng), None, n_classes)


def _duplicated(loss: str) -> Data:
    """Each row a hundred times."""
    data = _plain(loss)
    few = len(data.y) // 100
    return data._replace(X=data.X[:few].repeat(100, axis=0), y=data.y[:few].repeat(100))


def _rare_class(loss: str) -> Data:
    n, d, n_classes = SHAPES[loss]
    rng = np.random.default_rng(2)
    X = rng.normal(size=(n, d))
    y = _labels(X, n_classes, rng, shift=-8.0)
    y[rng.choice(n, 20 * n_classes)] = np.arange(20 * n_classes) % n_classes
    return Data(X, y, None, n_classes)


def _weighted(loss: str) -> Data:
    data = _plain(loss)
    weight = 10 ** np.random.default_rng(3).uniform(-3, 3, size=len(data.y))
    return data._replace(weight=weight)


def _zero_weights(loss: str) -> Data:
    """Rows of no weight that would say something else."""
    data = _plain(loss)
    weight = (np.arange(len(data.y)) % 3 > 0).astype(float)
    X, y = data.X.copy(), data.y.copy()
    X[weight == 0] *= 1e6
    y[weight == 0] = 0
    return data._replace(X=X, y=y, weight=weight)


def _units(loss: str) -> Data:
    data = _plain(loss)
    d = data.X.shape[1]
    return data._replace(X=(data.X + np.linspace(0, 30, d)) * 10 ** np.linspace(-3, 4, d))


def _rare_columns(loss: str) -> Data:
    """Columns with 5 to 30 ones, which a sample may have none of; without a penalty they need all classes."""
    data = _plain(loss)
    X, y = data.X.copy(), data.y.copy()
    X[:, :4] = 0
    ones = np.split(np.random.default_rng(4).permutation(len(X))[:65], [5, 15, 35])
    for j, rows in enumerate(ones):
        X[rows, j] = 1
        y[rows] = np.arange(len(rows)) % data.n_classes
    return data._replace(X=X, y=y)


def _heavy_tails(loss: str) -> Data:
    n, d, n_classes = SHAPES[loss]
    rng = np.random.default_rng(5)
    X = rng.standard_t(1.5, size=(n, d))
    return Data(X, _labels(np.clip(X, -3, 3), n_classes, rng), None, n_classes)


def _collinear(loss: str) -> Data:
    """With one-hot columns, one of them rare, and a column repeated in another unit; exact in float32."""
    data = _plain(loss)
    level = np.random.default_rng(6).choice(3, size=len(data.y), p=[0.9, 0.099, 0.001])
    X = np.column_stack([data.X.astype(np.float32), np.eye(3)[level], 8 * data.X[:, :1].astype(np.float32)])
    return data._replace(X=X)


def _constant(loss: str) -> Data:
    data = _plain(loss)
    X = data.X.copy()
    X[:, [0, 3]] = [5.0, 0.1]
    return data._replace(X=X)


CASES = {
    "random": _plain,
    "sorted": _sorted,
    "grouped": _grouped,
    "duplicated": _duplicated,
    "a rare class": _rare_class,
    "weights": _weighted,
    "zero weights": _zero_weights,
    "units": _units,
    "rare columns": _rare_columns,
    "heavy tails": _heavy_tails,
    "collinear": _collinear,
    "constant": _constant,
}


@cache
def _case(name: str, loss: str) -> Data:
    """Exact in float32."""
    data = CASES[name](loss)
    return data._replace(X=data.X.astype(np.float32).astype(float))


@cache
def _best(name: str, loss: str, C: float) -> optima.Optimum:
    data = _case(name, loss)
    return optima.solve(data.X, data.y, data.n_classes, C, data.weight)


def _excess(fitted: TorchLogisticClassifier, name: str, loss: str, C: float = 1.0) -> float:
    data, best = _case(name, loss), _best(name, loss, C)
    value = optima.objective(fitted.coef_, fitted.intercept_, data.X, data.y, C, data.weight)
    return value / best.objective - 1


@losses
@dtypes
@pytest.mark.parametrize("name", CASES)
@pytest.mark.one_in(3)
def test_a_fit_reaches_the_optimum_of_all_rows(loss, dtype, name):
    data = _case(name, loss)
    fitted = TorchLogisticClassifier().fit(data.X.astype(dtype), data.y, data.weight)
    assert fitted.converged_
    assert -1e-12 <= _excess(fitted, name, loss) <= 1e-6
    assert fitted.objective_ == pytest.approx(_best(name, loss, 1.0).objective, rel=2e-6)


@losses
@dtypes
@pytest.mark.parametrize("C", [1e-3, 1e3, np.inf])
@pytest.mark.one_in(3)
def test_a_fit_reaches_the_optimum_of_every_penalty(loss, dtype, C):
    data = _case("random", loss)
    fitted = TorchLogisticClassifier(C=C).fit(data.X.astype(dtype), data.y)
    assert fitted.converged_
    assert -1e-12 <= _excess(fitted, "random", loss, C) <= 1e-6


@losses
@dtypes
@pytest.mark.parametrize("name", ["collinear", "constant", "rare columns", "units"])
@pytest.mark.one_in(6)
def test_a_fit_without_a_penalty_reaches_the_optimum_of_all_rows(loss, dtype, name):
    data = _case(name, loss)
    fitted = TorchLogisticClassifier(C=np.inf).fit(data.X.astype(dtype), data.y)
    assert fitted.converged_
    assert -1e-12 <= _excess(fitted, name, loss, np.inf) <= 1e-6


@losses
def test_a_fit_without_an_intercept_reaches_the_optimum(loss):
    data = _case("units", loss)
    fitted = TorchLogisticClassifier(fit_intercept=False).fit(data.X, data.y)
    best = optima.solve(data.X, data.y, data.n_classes, 1.0, fit_intercept=False)
    value = optima.objective(fitted.coef_, fitted.intercept_, data.X, data.y, 1.0)
    assert fitted.converged_
    assert -1e-12 <= value / best.objective - 1 <= 1e-6


@pytest.mark.parametrize(("n", "d", "n_classes"), [(54_000, 20, 2), (21_000, 10, 5)])
@dtypes
def test_a_fit_of_as_many_rows_as_it_takes_reaches_the_optimum(n, d, n_classes, dtype, monkeypatch):
    monkeypatch.undo()  # the constants as they are
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)).astype(dtype)
    y = _labels(X, n_classes, rng)
    fitted = TorchLogisticClassifier().fit(X, y)
    best = optima.solve(X, y, n_classes, 1.0)
    value = optima.objective(fitted.coef_, fitted.intercept_, X, y, 1.0)
    assert fitted.converged_
    assert -1e-12 <= value / best.objective - 1 <= 1e-6
    gradients = fitted.history_.gradient_norm  # which falls on a sample, and is larger again on all rows
    assert (gradients.diff() > 0).any()


def test_separable_classes_are_recognised_without_a_penalty_and_solved_with_one():
    X = np.random.default_rng(0).normal(size=(8000, 6))
    y = (X[:, 0] > 0).astype(int)
    with pytest.warns(ConvergenceWarning, match="separated perfectly"):
        fitted = TorchLogisticClassifier(C=np.inf, max_iter=200).fit(X, y)
    assert fitted.stop_reason_ == "separation"
    assert fitted.score(X, y) == 1.0
    fitted = TorchLogisticClassifier(C=1.0).fit(X, y)
    best = optima.solve(X, y, 2, 1.0)
    assert fitted.converged_
    assert fitted.objective_ <= best.objective * (1 + 1e-6)


@losses
@dtypes
def test_rows_in_column_order_are_fitted_as_rows_in_row_order(loss, dtype):
    data = _case("units", loss)
    by_row, by_column = (
        TorchLogisticClassifier().fit(np.asarray(data.X, dtype=dtype, order=order), data.y) for order in "CF"
    )
    assert by_column.n_iter_ == by_row.n_iter_
    assert -1e-12 <= _excess(by_column, "units", loss) <= 1e-6
    np.testing.assert_allclose(
        by_column.predict_log_proba(data.X), by_row.predict_log_proba(data.X), rtol=1e-3, atol=1e-3
    )


# ---- passes ----


class _PassCountingRows(ArrayRows):
    passes = 0

    def blocks(self) -> Iterator[Block]:
        self.passes += 1
        yield from super().blocks()


def _on_batches(name: str, loss: str) -> ColumnsObjective:
    """The objective of C = 10 with the batches that `fit` makes for it."""
    data, rule, inverse = _case(name, loss), LOSSES[loss], torch.tensor([10.0], dtype=torch.float64)
    shape = rule.n_outputs(data.n_classes), True
    target = rule.encode(torch.from_numpy(data.y), torch.float64)
    weights = torch.ones(1, len(data.y), dtype=torch.float64)
    rows = _PassCountingRows(torch.from_numpy(data.X), target, weights, shape[0])
    known = plan.Shape(rows.n_rows, rows.n_features, *shape)
    n_drawn = plan.sample_rows(known)
    model = LinearModel(rule, inverse, *shape)
    made = make_batches(rows, model, n_drawn, 0, plan.is_informative(known, n_drawn))
    return streamed_objective(rows, rule, inverse, *shape, *made)


def _zero(objective: ColumnsObjective) -> torch.Tensor:
    return torch.zeros(1, objective.n_parameters, dtype=torch.float64)


class _Passes:
    """Counts the passes over all rows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, blocks = 0, ArrayRows.blocks

        def counting(rows: ArrayRows) -> Iterator[Any]:
            self.count += 1
            return blocks(rows)

        monkeypatch.setattr(ArrayRows, "blocks", counting)


def test_a_fit_of_many_rows_takes_few_passes_over_them(monkeypatch):
    monkeypatch.undo()  # the constants as they are
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60_000, 20))
    y = _labels(X, 2, rng)
    passes = _Passes(monkeypatch)
    fitted = TorchLogisticClassifier().fit(X, y)
    assert fitted.converged_
    assert 2 <= passes.count <= 6
    assert fitted.history_.rows_read.iloc[-1] <= 7 * len(y)  # with those of samples


@losses
def test_a_warm_start_at_the_optimum_takes_next_to_no_passes(loss, monkeypatch):
    data = _case("random", loss)
    estimator = TorchLogisticClassifier(warm_start=True, tol=1e-7).fit(data.X, data.y)
    estimator.set_params(tol=1e-4)
    passes = _Passes(monkeypatch)
    estimator.fit(data.X, data.y)
    assert estimator.converged_
    assert passes.count <= 3
    assert estimator.n_iter_ <= 2
    assert _excess(estimator, "random", loss) <= 1e-12


@losses
def test_a_warm_start_far_from_the_optimum_is_no_worse_than_none(loss):
    data = _case("random", loss)
    estimator = TorchLogisticClassifier(warm_start=True).fit(data.X, data.y)
    estimator.coef_ = -50 * estimator.coef_
    estimator.fit(data.X, data.y)
    assert estimator.converged_
    assert _excess(estimator, "random", loss) <= 1e-6


@losses
@pytest.mark.parametrize("name", ["random", "rare columns", "heavy tails", "duplicated"])
def test_the_objective_of_all_rows_never_rises(loss, name):
    objective = _on_batches(name, loss)
    rows, full = objective.rows, []

    def note(iteration: Iteration) -> bool:
        if rows.passes > passes[-1]:
            full.append(float(iteration.objective[0]))
        passes.append(rows.passes)
        return False

    passes = [rows.passes]
    solution = NaturalSGD(**plan.natural_settings(objective)).minimize(objective, _zero(objective), note)
    assert solution.reasons == ["converged"]
    assert 2 <= len(full) < len(passes) - 1  # some were on samples
    values = np.append(full, solution.objective[0])
    assert np.all(values[1:] <= values[:-1] * (1 + 4 * np.finfo(float).eps))


@losses
def test_a_callback_may_stop_a_fit_that_is_still_on_a_sample(loss):
    objective = _on_batches("random", loss)
    seen: list[Iteration] = []

    def stop(iteration: Iteration) -> bool:
        seen.append(iteration)
        return len(seen) == 2

    before = objective.rows.passes
    solution = NaturalSGD(**plan.natural_settings(objective)).minimize(objective, _zero(objective), stop)
    assert solution.reasons == ["callback"]
    assert solution.n_iter.tolist() == [2] == [len(seen)]
    assert torch.equal(solution.w, seen[-1].w)
    assert objective.rows.passes == before + 1  # for the objective of all rows
    assert float(objective.value(solution.w)) == pytest.approx(float(solution.objective[0]), rel=1e-14)


# ---- what fit promises ----


@losses
@pytest.mark.parametrize("random_state", [None, 7])
def test_fits_of_the_same_rows_are_the_same_to_the_last_bit(loss, random_state):
    data = _case("random", loss)
    before = torch.get_rng_state()
    one, two = (TorchLogisticClassifier(random_state=random_state).fit(data.X, data.y) for _ in range(2))
    np.testing.assert_array_equal(one.coef_, two.coef_)
    np.testing.assert_array_equal(one.intercept_, two.intercept_)
    assert torch.equal(torch.get_rng_state(), before)


@losses
@pytest.mark.parametrize("max_iter", [0, 1, 2, 3, 4])
def test_max_iter_ends_a_fit_with_the_objective_of_all_rows(loss, max_iter):
    data = _case("random", loss)
    with pytest.warns(ConvergenceWarning, match=f"max_iter={max_iter}"):
        fitted = TorchLogisticClassifier(max_iter=max_iter, tol=1e-12).fit(data.X, data.y)
    assert fitted.n_iter_.tolist() == [max_iter]
    assert len(fitted.history_) == max_iter
    value = optima.objective(fitted.coef_, fitted.intercept_, data.X, data.y, 1.0)
    assert fitted.objective_ == pytest.approx(value, rel=1e-11)


@losses
@pytest.mark.parametrize("max_iter", [3, 25])
def test_without_a_tolerance_there_are_exactly_max_iter_updates(loss, max_iter):
    data = _case("random", loss)
    fitted = TorchLogisticClassifier(max_iter=max_iter, tol=None).fit(data.X, data.y)  # without a warning
    assert fitted.n_iter_.tolist() == [max_iter]
    value = optima.objective(fitted.coef_, fitted.intercept_, data.X, data.y, 1.0)
    assert fitted.objective_ == pytest.approx(value, rel=1e-11)
    if max_iter == 25:
        assert -1e-12 <= _excess(fitted, "random", loss) <= 1e-12


@losses
def test_early_stopping_scores_every_update_and_keeps_the_best(loss):
    data = _case("random", loss)
    fitted = TorchLogisticClassifier(early_stopping=True, random_state=0).fit(data.X, data.y)
    again = TorchLogisticClassifier(early_stopping=True, random_state=0).fit(data.X, data.y)
    assert len(fitted.validation_scores_) == fitted.n_iter_[0]
    np.testing.assert_array_equal(fitted.coef_, again.coef_)
    whole = TorchLogisticClassifier().fit(data.X, data.y)
    # Of a tenth of the rows, kept aside: 1600 or 600, whose accuracy is off by 0.02.
    assert fitted.validation_scores_.max() >= whole.score(data.X, data.y) - 0.05
    assert fitted.score(data.X, data.y) >= whole.score(data.X, data.y) - 0.02


@losses
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("max_iter", [0, 100])
def test_one_value_that_is_not_finite_is_refused_wherever_it_is(loss, bad, max_iter):
    data = _case("random", loss)
    n = len(data.y)
    message = "Input X contains NaN" if np.isnan(bad) else "Input X contains infinity"
    weight = np.ones(n)
    for row, its_weight in (
        (0, 1.0),
        (n // 2, 0.0),
        (n // 2, 1.0),
        (n - 1, 1e9),
    ):  # the last is in any sample
        X = data.X.copy()
        X[row, 3] = bad
        weight[row] = its_weight
        with pytest.raises(ValueError, match=message):
            TorchLogisticClassifier(max_iter=max_iter).fit(X, data.y, weight)


# ---- a sample that is only a metric ----


def _many_classes(n: int, d: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)) @ (np.eye(d) + rng.normal(size=(d, d)) / np.sqrt(d))
    return X, _labels(2 * X, n_classes, rng)


@dtypes
@pytest.mark.parametrize("C", [1e-2, 1.0, 1e4])
def test_many_classes_reach_the_optimum_by_a_metric_of_few_rows(dtype, C, monkeypatch):
    monkeypatch.setattr(plan, "SOFTMAX_ROWS", 300)
    X, y = _many_classes(5000, 15, 12)  # 11 * 16 parameters, more than a fifth of 300 * log(12)
    X = X.astype(dtype)
    fitted = TorchLogisticClassifier(C=C).fit(X, y)
    assert fitted.converged_
    assert fitted.history_.rows_read[0] < 4 * len(y)  # no Fisher matrix of all rows
    best = optima.solve(X, y, 12, C)
    value = optima.objective(fitted.coef_, fitted.intercept_, X, y, C)
    assert -1e-12 <= value / best.objective - 1 <= 1e-6
    read = fitted.history_.rows_read.to_numpy()
    assert np.all(np.diff(read) >= len(y))
    values = np.append(fitted.loss_curve_, fitted.objective_ / (len(y) * C))
    assert np.all(values[1:] <= values[:-1] * (1 + 4 * np.finfo(dtype).eps))


@pytest.mark.slow
def test_fifty_classes_reach_the_optimum_by_a_metric_of_few_rows(monkeypatch):
    monkeypatch.undo()  # the constants as they are
    X, y = _many_classes(25_000, 60, 50)
    fitted = TorchLogisticClassifier().fit(X, y)
    assert fitted.converged_
    best = LogisticRegression(solver="newton-cg", tol=1e-7, max_iter=1000).fit(X, y)
    value, expected = (optima.objective(m.coef_, m.intercept_, X, y, 1.0) for m in (fitted, best))
    assert value <= expected * (1 + 1e-6)
