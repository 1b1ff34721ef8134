"""Samples of the rows: the coordinates and the batches made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import oracle
from helpers.counted import CountedRows, Data
from helpers.losses import classes_for
from helpers.objectives import streamed_objective
from torch_logreg._contracts.objective import Batch
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._fit import plan
from torch_logreg._linear import samples
from torch_logreg._linear.coordinates import Coordinates
from torch_logreg._linear.held import Held
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.samples import make_batches
from torch_logreg._linear.streamed import Streamed
from torch_logreg._losses.losses import LOSSES

losses = pytest.mark.parametrize("loss", LOSSES)
intercepts = pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def _data(loss: str, n: int = 4000, d: int = 5) -> Data:
    rng = np.random.default_rng(0)
    n_classes = classes_for(LOSSES[loss])
    X = rng.normal(size=(n, d)) + 1
    codes = (X[:, 0] + 2 * rng.normal(size=n)).argsort().argsort() * n_classes // n
    return Data(X, codes, rng.integers(1, 4, size=n).astype(float), n_classes)


def _make(
    loss: str,
    data: Data,
    C: float = 1.0,
    n_drawn: int = 1000,
    fit_intercept: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> tuple[CountedRows, Coordinates, list[Batch]]:
    rule = LOSSES[loss]
    K = rule.n_outputs(data.n_classes)
    rows = CountedRows(
        torch.from_numpy(data.X).to(dtype),
        rule.encode(torch.from_numpy(data.codes), dtype),
        torch.from_numpy(data.weight)[None].to(dtype),
        K,
    )
    inverse = torch.tensor([C], dtype=torch.float64)
    shape = plan.Shape(rows.n_rows, rows.n_features, K, fit_intercept)
    is_solved = plan.is_informative(shape, n_drawn)
    return rows, *make_batches(rows, LinearModel(rule, inverse, K, fit_intercept), n_drawn, seed, is_solved)


def _random(objective: Any, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, objective.n_parameters, generator=generator, dtype=torch.float64)


# ---- how many rows ----


def _shape(n: int, d: int, dtype: torch.dtype = torch.float64) -> ArrayRows:
    X = torch.zeros((), dtype=dtype).expand(n, d)  # of no memory
    return ArrayRows(X, torch.zeros(n), torch.ones(1, n, dtype=dtype), 1)


# ---- coordinates ----


@losses
@intercepts
def test_coordinates_of_a_sample_are_those_of_all_rows_but_for_chance(loss, fit_intercept):
    data = _data(loss)
    rows, coordinates, _ = _make(loss, data, 10.0, 2000, fit_intercept)
    assert rows.passes == 0
    full = streamed_objective(
        rows, LOSSES[loss], torch.tensor([10.0], dtype=torch.float64), coordinates.n_outputs, fit_intercept
    ).coordinates
    torch.testing.assert_close(coordinates.strength, full.strength, rtol=1e-14, atol=0)
    # 1500 rows know a mean to 0.03 of a deviation, which is 1 here, and a variance to 0.05.
    torch.testing.assert_close(coordinates.center, full.center, rtol=0, atol=0.12)
    torch.testing.assert_close(coordinates.inverse_scale, full.inverse_scale, rtol=0.12, atol=0)
    assert coordinates.gauge is None


@losses
@dtypes
@pytest.mark.parametrize("informative", [True, False])
def test_a_column_that_is_constant_in_the_sample_alone_has_the_moments_of_all_rows(
    loss, dtype, informative, monkeypatch
):
    if not informative:
        monkeypatch.setattr(plan, "INFORMATIVE", 0.0)
    data = _data(loss)
    X = data.X.copy()
    X[:, 1] = 0.0
    X[[1003, 2007], 1] = 1.0
    X[:, 3] = 0.0  # and one that is constant
    data = data._replace(X=X)
    for seed in range(100):
        rows, coordinates, batches = _make(loss, data, n_drawn=300, seed=seed, dtype=dtype)
        if rows.passes:  # most samples hold neither row
            break
    assert rows.passes == 2  # the mean; what it was off by, and the variance
    share = data.weight / data.weight.sum()
    spread = np.sqrt(share @ (X[:, 1] - share @ X[:, 1]) ** 2)
    assert coordinates.varies.tolist() == [True, True, True, False, True]
    assert float(coordinates.spread[1]) == pytest.approx(spread, rel=1e-5)
    for batch in batches:
        assert batch.objective.coordinates is coordinates
        value, gradient = batch.objective.value_and_gradient(_random(batch.objective))
        assert torch.isfinite(value).all() and torch.isfinite(gradient).all()


@losses
@pytest.mark.parametrize("informative", [True, False])
def test_collinear_columns_are_found_on_all_rows(loss, informative, monkeypatch):
    if not informative:
        monkeypatch.setattr(plan, "INFORMATIVE", 0.0)
    data = _data(loss)
    rows, coordinates, _ = _make(loss, data, np.inf)
    assert rows.passes == 0 and coordinates.gauge is None
    collinear = data._replace(X=np.column_stack([data.X, data.X[:, 0] - data.X[:, 1]]))
    rows, coordinates, _ = _make(loss, collinear, np.inf)
    assert rows.passes == 2
    assert coordinates.null is not None and coordinates.null.shape == (6, 1)
    direction = np.abs(coordinates.null[:, 0].numpy())
    np.testing.assert_allclose(direction, np.array([1, 1, 0, 0, 0, 1]) / np.sqrt(3), atol=1e-12)


@losses
@pytest.mark.parametrize("informative", [True, False])
def test_columns_that_are_collinear_in_the_sample_alone_are_not_collinear(loss, informative, monkeypatch):
    if not informative:
        monkeypatch.setattr(plan, "INFORMATIVE", 0.0)
    data = _data(loss)
    twin = data.X[:, 0].copy()
    twin[[1003, 2007]] += 10.0
    data = data._replace(X=np.column_stack([data.X, twin]))
    for seed in range(100):
        rows, coordinates, batches = _make(loss, data, np.inf, n_drawn=300, seed=seed)
        if rows.passes:
            break
    assert rows.passes == 1
    assert coordinates.gauge is None and coordinates.null is None
    for batch in batches:
        assert torch.isfinite(batch.objective.at(_random(batch.objective)).matrix()).all()


# ---- batches ----


def test_batches_are_nested_and_grow(monkeypatch):
    monkeypatch.setattr(samples, "GROWTH", 3)
    rows, coordinates, batches = _make("binary", _data("binary"), n_drawn=2000)
    sizes = [batch.n_rows for batch in batches]
    assert len(sizes) == 4
    assert sizes[-1] == batches[-1].objective.design.n_rows
    assert sizes[:-1] == [sizes[-1] // 27, sizes[-1] // 9, sizes[-1] // 3]
    assert sizes[0] >= samples.MIN_ROWS_PER_PARAMETER * 6 > sizes[0] / 3
    for batch in batches:
        assert isinstance(batch.objective.design, Held)
        assert batch.objective.coordinates is coordinates
        assert batch.objective.design.n_rows == batch.n_rows
    # Parameters for each row, of which those with small weights count less.
    for batch in batches:
        weights = batch.objective.design.part.weights
        assert float(weights.sum()) == pytest.approx(1)
        assert batch.error == pytest.approx(6 * float(weights.square().sum()))
        assert 6 / batch.n_rows <= batch.error <= 1.5 * 6 / batch.n_rows
    assert rows.passes == 0


@losses
@intercepts
@dtypes
def test_the_largest_batch_estimates_the_objective_of_all_rows(loss, fit_intercept, dtype):
    data = _data(loss)
    rows, coordinates, batches = _make(loss, data, 5.0, 2000, fit_intercept, dtype=dtype)
    rule, inverse = LOSSES[loss], torch.tensor([5.0], dtype=torch.float64)
    full = streamed_objective(rows, rule, inverse, coordinates.n_outputs, fit_intercept, coordinates)
    w = 0.3 * _random(full)
    (value, gradient), batch = full.value_and_gradient(w), batches[-1].objective
    estimated, slope = batch.value_and_gradient(w)
    # A mean of 1500 losses that differ by 0.5.
    assert float(estimated) == pytest.approx(float(value), abs=0.06)
    torch.testing.assert_close(slope, gradient, rtol=0, atol=0.08)
    assert batch.rows is rows  # which counts what is read


@losses
def test_a_batch_of_all_rows_is_the_objective_itself(loss, monkeypatch):
    """Of columns that every row supports: those of few rows have a penalty of their own."""
    monkeypatch.setattr(samples, "RARE", 0.0)
    data = _data(loss, n=500)
    rows, coordinates, batches = _make(loss, data, 5.0, n_drawn=10**6)
    rule, inverse = LOSSES[loss], torch.tensor([5.0], dtype=torch.float64)
    full = streamed_objective(rows, rule, inverse, coordinates.n_outputs, True, coordinates)
    batch, w = batches[-1], _random(full)
    assert batch.n_rows == 500
    for got, expected in zip(batch.objective.value_and_gradient(w), full.value_and_gradient(w), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@losses
@pytest.mark.parametrize("informative", [True, False])
def test_a_seed_makes_the_same_batches_again_and_another_one_others(loss, informative, monkeypatch):
    if not informative:
        monkeypatch.setattr(plan, "INFORMATIVE", 0.0)
    values, gradients = [], []
    for seed in (0, 0, 1):
        batch = _make(loss, _data(loss), seed=seed)[2][-1].objective
        value, gradient = batch.value_and_gradient(_random(batch))
        values.append(float(value))
        gradients.append(gradient)
    assert values[0] == values[1] != values[2]
    assert torch.equal(gradients[0], gradients[1])


def test_torchs_default_generator_is_left_alone():
    before = torch.get_rng_state()
    _make("binary", _data("binary"))
    assert torch.equal(torch.get_rng_state(), before)


# ---- batches that are only a metric ----


def test_softmax_is_solved_on_a_sample_that_has_the_information_for_it():
    """2 * 6 parameters, at most a fifth of 1000 * log(3), or of 50 * log(3)."""
    data = _data("softmax")
    _, _, (batch,) = _make("softmax", data, n_drawn=1000)
    assert isinstance(batch.objective.design, Held) and batch.error < np.inf
    _, coordinates, (batch,) = _make("softmax", data, n_drawn=50)
    assert isinstance(batch.objective.design, Streamed) and batch.error == np.inf
    assert batch.objective.coordinates is coordinates
    assert batch.n_rows == batch.objective.rows.n_rows


def test_two_classes_are_always_solved_on_a_sample():
    data = _data("binary")
    for n_drawn in (10, 1000):
        for batch in _make("binary", data, n_drawn=n_drawn)[2]:
            assert batch.error < np.inf and isinstance(batch.objective.design, Held)


@intercepts
@pytest.mark.parametrize("C", [5.0, np.inf])
def test_a_metric_alone_is_that_of_the_same_sample_held(fit_intercept, C, monkeypatch):
    data, arguments = _data("softmax"), {"C": C, "n_drawn": 1000, "fit_intercept": fit_intercept}
    monkeypatch.setattr(samples, "RARE", 0.0)
    _, held, (batch,) = _make("softmax", data, **arguments)
    monkeypatch.setattr(plan, "INFORMATIVE", 0.0)
    rows, coordinates, (only_metric,) = _make("softmax", data, **arguments)
    assert rows.passes == 0
    torch.testing.assert_close(coordinates.center, held.center, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(coordinates.inverse_scale, held.inverse_scale, rtol=1e-12, atol=0)
    w, read = 0.3 * _random(batch.objective), rows.rows_read
    for got, expected in zip(
        only_metric.objective.at(w).factors(), batch.objective.at(w).factors(), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    assert rows.rows_read == read + only_metric.n_rows  # read from X at each use


# ---- rows like no others ----


def test_a_batch_of_a_rare_class_has_rows_of_it_and_weighs_them_rightly():
    data = _data("binary", 20_000)
    codes = np.zeros(20_000, dtype=int)
    codes[::500] = 1  # 40 rows
    _, _, batches = _make("binary", data._replace(codes=codes), n_drawn=1000)
    part = batches[-1].objective.design.part
    of_class = LOSSES["binary"].codes(part.target) == 1
    assert int(of_class.sum()) == 40
    share = float(part.weights[0, of_class].sum())
    assert share == pytest.approx(data.weight[codes == 1].sum() / data.weight.sum(), rel=0.2)


def test_a_column_of_three_rows_has_a_penalty_on_a_batch_that_it_lacks_on_all_rows(monkeypatch):
    """They are all of one class: without it the coefficient on the sample would be infinite."""
    data = _data("binary")
    X = data.X.copy()
    X[:, 1] = 0.0
    X[np.flatnonzero(data.codes == 1)[:3], 1] = 1.0
    data = data._replace(X=X, weight=np.ones(4000))
    rises = []
    for rare in (0.0, 5.0):
        monkeypatch.setattr(samples, "RARE", rare)
        _, _, batches = _make("binary", data, np.inf, n_drawn=10**6)  # all of them
        objective = batches[-1].objective
        towards = torch.zeros(1, 6, dtype=torch.float64)
        towards[0, 1] = 100.0
        rises.append(float(objective.value(towards) - objective.value(0 * towards)))
    assert rises[1] - rises[0] == pytest.approx(100**2 / 2 * (5 / 8) ** 2, rel=0.1)  # see RARE


def test_the_oracle_agrees_with_a_batch_of_all_rows(monkeypatch):
    monkeypatch.setattr(samples, "RARE", 0.0)
    data = _data("binary", n=500)
    _, coordinates, batches = _make("binary", data, 2.0, n_drawn=10**6)
    objective = batches[-1].objective
    w = _random(objective)
    coef, intercept = coordinates.to_raw(w)
    expected = oracle.objective(coef[0], intercept[0], data.X, data.codes, 2.0, data.weight)
    assert float(objective.value(w)) == pytest.approx(expected / (2.0 * data.weight.sum()), rel=1e-12)
