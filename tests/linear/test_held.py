"""The objective on held columns against the one in passes over X, and against the oracle."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import optima
from helpers.losses import classes_for
from helpers.objectives import held_objective
from torch_logreg._contracts.solver import Iteration, Solution
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear.coordinates import gram
from torch_logreg._linear.held import hold
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.objective import ColumnsObjective
from torch_logreg._linear.streamed import Streamed
from torch_logreg._losses.losses import LOSSES
from torch_logreg._solvers.registry import SOLVERS

EXACT = [name for name in SOLVERS if name != "sgd"]
# The problems, and whether each weighs the rows in its own way.
SETTINGS = {
    "one": ([1.0], False),
    "one unpenalised": ([np.inf], False),
    "three": ([0.05, 20.0, np.inf], False),
    "three folds": ([0.05, 20.0, np.inf], True),
}

losses = pytest.mark.parametrize("loss", LOSSES)
intercepts = pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])
settings = pytest.mark.parametrize("setting", SETTINGS)
solvers = pytest.mark.parametrize("solver", EXACT)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


class Data(NamedTuple):
    X: np.ndarray
    codes: np.ndarray
    weight: np.ndarray  # (n,) or (P, n)
    n_classes: int


def _data(loss: str, n: int = 80, folds: bool = False) -> Data:
    """Columns of scales 1e-4 to 1e5, exact in float32, with many zeros; overlapping classes; weights of 0."""
    rng = np.random.default_rng(0)
    n_classes = classes_for(LOSSES[loss])
    X = (rng.normal(size=(n, 4)) + 1) * (rng.random((n, 4)) < 0.7)
    codes = (X[:, 0] + X[:, 1] + 2 * rng.normal(size=n)).argsort().argsort() * n_classes // n
    X = (X * np.array([1e-4, 1.0, 30.0, 1e5])).astype(np.float32).astype(float)
    weight = rng.integers(0, 4, size=n).astype(float)
    if folds:
        weight = np.stack([weight * (np.arange(n) % 3 != fold) for fold in range(3)])
    return Data(X, codes, weight, n_classes)


def _collinear(X: np.ndarray) -> np.ndarray:
    """With two columns more, exact combinations of the others."""
    return np.hstack([X, 2 * X[:, 1:2], -4 * X[:, 3:4]])


def _rows(loss: str, data: Data, n_problems: int, dtype: torch.dtype = torch.float64) -> ArrayRows:
    rule = LOSSES[loss]
    return ArrayRows(
        torch.from_numpy(data.X).to(dtype),
        rule.encode(torch.from_numpy(data.codes), dtype),
        torch.from_numpy(np.atleast_2d(data.weight)).to(dtype),
        n_problems * rule.n_outputs(data.n_classes),
    )


def _small(
    loss: str,
    data: Data,
    C: list[float],
    fit_intercept: bool = True,
    dtype: torch.dtype = torch.float64,
) -> ColumnsObjective:
    rule, strength = LOSSES[loss], torch.tensor(C, dtype=torch.float64)
    rows = _rows(loss, data, len(C), dtype)
    return held_objective(rows, rule, strength, rule.n_outputs(data.n_classes), fit_intercept)


def _pair(
    loss: str, data: Data, C: list[float], fit_intercept: bool = True
) -> tuple[ColumnsObjective, ColumnsObjective]:
    """In the same coordinates."""
    rule, inverse = LOSSES[loss], torch.tensor(C, dtype=torch.float64)
    rows, model = (
        _rows(loss, data, len(C)),
        LinearModel(rule, inverse, rule.n_outputs(data.n_classes), fit_intercept),
    )
    streamed = Streamed(rows, model)
    held = hold(rows, rows.whole(), model, streamed.weight_sum, 1e-16, streamed.coordinates)
    return ColumnsObjective(streamed, rule), ColumnsObjective(held, rule)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _weights_at(objective: ColumnsObjective, seed: int = 0) -> Tensor:
    return _random(objective.n_problems, objective.n_parameters, seed=seed)


# ---- F and its derivatives ----


@losses
@intercepts
@settings
@pytest.mark.parametrize("collinear", [False, True], ids=["", "collinear"])
def test_a_design_is_the_objective_in_passes_over_the_rows(loss, fit_intercept, setting, collinear):
    C, folds = SETTINGS[setting]
    data = _data(loss, folds=folds)
    if collinear:
        data = data._replace(X=_collinear(data.X))
    linear, held = _pair(loss, data, C, fit_intercept)
    assert (held.n_problems, held.n_outputs) == (linear.n_problems, linear.n_outputs)
    assert (held.n_parameters, held.dtype, held.design.n_rows) == (linear.n_parameters, linear.dtype, 80)
    w, v = _weights_at(linear), _weights_at(linear, seed=1)
    of_linear, of_held = linear.at(w), held.at(w)
    # Sums of 80 numbers in another order, of columns that differ by 1e9.
    close = {"rtol": 1e-11, "atol": 1e-13}
    torch.testing.assert_close(held.value(w), linear.value(w), **close)
    for got, expected in zip(held.value_and_gradient(w), linear.value_and_gradient(w), strict=True):
        torch.testing.assert_close(got, expected, **close)
    torch.testing.assert_close(of_held.product(v), of_linear.product(v), **close)
    torch.testing.assert_close(of_held.diagonal(), of_linear.diagonal(), **close)
    torch.testing.assert_close(of_held.matrix(), of_linear.matrix(), **close)
    for got, expected in zip(of_held.factors(), of_linear.factors(), strict=True):
        torch.testing.assert_close(got, expected, **close)


@losses
@intercepts
@settings
@dtypes
def test_the_value_is_the_oracles_objective_divided_by_C_and_the_weight_sum(
    loss, fit_intercept, setting, dtype
):
    C, folds = SETTINGS[setting]
    data = _data(loss, folds=folds)
    objective = _small(loss, data, C, fit_intercept, dtype)
    w = _weights_at(objective)
    values = [objective.value(w), objective.value_and_gradient(w.clone())[0]]
    coef, intercept = objective.coordinates.to_raw(w)
    weights = np.broadcast_to(data.weight, (len(C), 80))
    for p, C_p in enumerate(C):
        expected = optima.objective(coef[p], intercept[p], data.X, data.codes, C_p, weights[p])
        assert float(objective.design.weight_sum.expand(len(C))[p]) == weights[p].sum()
        expected /= weights[p].sum() * (C_p if np.isfinite(C_p) else 1.0)
        for value in values:  # in float64 also for float32 rows, which are exact here
            assert float(value[p]) == pytest.approx(expected, rel=1e-12)


@losses
@settings
def test_derivatives_are_finite_differences(loss, setting):
    C, folds = SETTINGS[setting]
    objective = _small(loss, _data(loss, folds=folds), C)
    w, v, h = _weights_at(objective), _weights_at(objective, seed=1), 1e-5
    (above, gradient_above), (below, gradient_below) = (
        objective.value_and_gradient(w + sign * h * v) for sign in (1, -1)
    )
    _, gradient = objective.value_and_gradient(w)
    product = objective.at(w).product(v)
    torch.testing.assert_close((gradient * v).sum(dim=1), (above - below) / (2 * h), rtol=1e-7, atol=1e-9)
    change = (gradient_above - gradient_below) / (2 * h)
    torch.testing.assert_close(product, change, rtol=1e-7, atol=1e-9)


@losses
def test_the_gradient_may_be_changed_by_its_reader(loss):
    objective = _small(loss, _data(loss), [1.0])
    w = _weights_at(objective)
    value, gradient = objective.value_and_gradient(w)
    expected = gradient.clone()
    gradient.zero_()
    objective.at(w).product(w).zero_()
    again = objective.value_and_gradient(w)
    assert torch.equal(again[0], value) and torch.equal(again[1], expected)


# ---- columns that say nothing, or nothing of their own ----


@losses
@dtypes
@pytest.mark.parametrize("C", [1.0, np.inf])
@pytest.mark.parametrize("n", [80, 10_000])
def test_a_constant_column_gets_no_coefficient(loss, dtype, C, n):
    data = _data(loss, n)
    constant = np.tile(np.float32([0.1, 12345.678, 5.0, 0.0]).astype(float), (n, 1))
    objective = _small(loss, data._replace(X=np.hstack([data.X, constant])), [C], dtype=dtype)
    w = _weights_at(objective)
    # The mean of a column over 10 000 rows is off by rounding: a deviation of all rows, not a spread.
    assert objective.coordinates.varies.tolist() == [True] * 4 + [False] * 4
    coef, intercept = objective.coordinates.to_raw(w)
    assert not coef[..., 4:].any()
    per_column = objective.value_and_gradient(w)[1].view(objective.n_outputs, -1)
    assert not per_column[:, 4:8].any()
    expected = optima.objective(coef[0, :, :4], intercept[0], data.X, data.codes, C, data.weight)
    expected /= data.weight.sum() * (C if np.isfinite(C) else 1.0)
    assert float(objective.value(w)) == pytest.approx(expected, rel=1e-11)


@losses
@intercepts
def test_collinear_columns_leave_the_newton_step_as_it_is(loss, fit_intercept):
    data = _data(loss)
    steps = []
    for X in (data.X, _collinear(data.X)):
        objective = _small(loss, data._replace(X=X), [np.inf], fit_intercept)
        w = torch.zeros(1, objective.n_parameters, dtype=torch.float64)
        _, gradient = objective.value_and_gradient(w)
        matrix = objective.at(w).matrix()
        assert float(torch.linalg.eigvalsh(matrix).min()) > 1e-6
        step = torch.linalg.solve(matrix, -gradient[..., None])[..., 0]
        coef, intercept = objective.coordinates.to_raw(step)
        steps.append(coef[0].numpy() @ X.T + intercept[0].numpy()[:, None])
    np.testing.assert_allclose(steps[1], steps[0], rtol=1e-9, atol=1e-10)


@losses
@intercepts
def test_gram_is_that_of_the_columns_in_deviations(loss, fit_intercept):
    data = _data(loss)
    linear, held = _pair(loss, data, [1.0], fit_intercept)
    expected = gram(linear.rows, linear.coordinates).matrix() / data.weight.sum()
    torch.testing.assert_close(held.design.gram().matrix(), expected, rtol=1e-12, atol=1e-13)
    few = data.weight[:30] / data.weight.sum()
    columns = (data.X[:30] - linear.coordinates.center.numpy()) / linear.coordinates.spread.numpy()
    covered = (columns.T * few) @ columns
    if fit_intercept:
        covered -= np.outer(few @ columns, few @ columns) / few.sum()
    np.testing.assert_allclose(held.design.gram(30).matrix().numpy(), covered, rtol=1e-12, atol=1e-13)


# ---- other objectives made of it ----


@losses
@settings
@pytest.mark.parametrize("collinear", [False, True], ids=["", "collinear"])
def test_rough_is_the_same_in_float32(loss, setting, collinear):
    C, folds = SETTINGS[setting]
    data = _data(loss, folds=folds)
    if collinear:
        data = data._replace(X=_collinear(data.X))
    objective = _small(loss, data, C)
    rough = objective.rough()
    assert rough.dtype == torch.float32
    assert objective.rough() is rough and rough.rough() is rough
    w, v = _weights_at(objective), _weights_at(objective, seed=1)
    curvature, of_rough = objective.at(w), rough.at(w.float())
    value, gradient = rough.value_and_gradient(w.float())
    for got, expected in (
        (value, objective.value(w)),
        (gradient, objective.value_and_gradient(w)[1]),
        (of_rough.product(v.float()), curvature.product(v)),
        (of_rough.diagonal(), curvature.diagonal()),
        (of_rough.factors().columns, curvature.factors().columns),
        (of_rough.factors().outputs, curvature.factors().outputs),
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@losses
@intercepts
def test_the_first_rows_are_an_objective_of_their_own(loss, fit_intercept):
    data = _data(loss)
    linear, held = _pair(loss, data, [1.0, np.inf], fit_intercept)
    weights = torch.from_numpy(np.random.default_rng(1).random((1, 30)))
    rows = _rows(loss, data, 2)
    block = rows.whole()
    block = block._replace(X=block.X[:30], target=block.target[:30], weights=weights)
    model = LinearModel(LOSSES[loss], torch.tensor([1.0, np.inf]).double(), linear.n_outputs, fit_intercept)
    given = hold(rows, block, model, linear.design.weight_sum, 1e-16, linear.coordinates)
    expected = ColumnsObjective(given, model.loss)
    few, w = ColumnsObjective(held.design.first(30, weights), model.loss), _weights_at(held)
    assert few.design.n_rows == 30
    for got, wanted in zip(few.value_and_gradient(w), expected.value_and_gradient(w), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(few.at(w).matrix(), expected.at(w).matrix(), rtol=1e-13, atol=1e-15)


@losses
def test_columns_of_few_rows_are_penalised_as_those_of_many_are_not(loss):
    """k rows of n that are not 0 support a column by k: all but none of it at 1 row, a hundredth at 45."""
    n, counts = 200, np.array([1, 5, 45, 200])
    X = (np.arange(n)[:, None] < counts) * np.array([1e-3, 1.0, 1.0, 50.0])
    n_classes = classes_for(LOSSES[loss])
    data = Data(X, np.arange(n) % n_classes, np.ones(n), n_classes)
    objective = _small(loss, data, [1.0], fit_intercept=False)
    w = _weights_at(objective)
    before = objective.at(w).diagonal()
    value = objective.value(w)
    objective.design.support_rare_columns(5.0)
    K = objective.n_outputs
    curve = 1.0 if K == 1 else 4 * (1 - 1 / K) / K
    added = (objective.at(w).diagonal() - before).view(K, 4)
    expected = torch.from_numpy((5 / (5 + counts)) ** 2 * curve)
    torch.testing.assert_close(added, expected.expand_as(added), rtol=1e-9, atol=1e-13)
    by_output = w.view(objective.n_outputs, 4)
    torch.testing.assert_close(
        objective.value(w), value + (expected * by_output.square()).sum() / 2, rtol=1e-12, atol=0
    )


# ---- what is read ----


@losses
def test_rows_read_counts_products_with_the_columns(loss):
    objective = _small(loss, _data(loss), [1.0])
    rows, w = objective.rows, _weights_at(objective)
    read = [rows.rows_read]

    def then(_: object) -> int:
        read.append(rows.rows_read)
        return (read[-1] - read[-2]) // 80

    assert then(objective.value_and_gradient(w)) == 1
    assert then(objective.value(w)) == 1
    objective.value_and_gradient(w)
    read.append(rows.rows_read)
    curvature = objective.at(w)
    assert then(curvature) == 0
    assert then(curvature.product(w)) == then(curvature.diagonal()) == 1
    assert then(curvature.matrix()) == then(curvature.factors()) == 1
    assert then(objective.at(w.clone()).matrix()) == 1  # with raw predictions of its own


# ---- what every solver promises, here too ----


def _minimize(
    solver: str, objective: ColumnsObjective, max_iter: int = 300, tol: float = 1e-5
) -> tuple[Solution, list[Iteration]]:
    iterations: list[Iteration] = []
    w = torch.zeros(objective.n_problems, objective.n_parameters, dtype=objective.dtype)
    minimizer = SOLVERS[solver].make(max_iter=max_iter, tol=tol)
    return minimizer.minimize(objective, w, lambda iteration: iterations.append(iteration)), iterations


def _excess(objective: ColumnsObjective, solution: Solution, data: Data, C: float) -> float:
    coordinates = objective.coordinates
    coef, intercept = coordinates.to_raw(coordinates.canonical(solution.w))
    best = optima.solve(data.X, data.codes, data.n_classes, C, data.weight).objective
    return optima.objective(coef[0], intercept[0], data.X, data.codes, C, data.weight) / best - 1


@solvers
@losses
@dtypes
@pytest.mark.parametrize("C", [0.01, np.inf])
def test_every_solver_reaches_the_optimum(solver, loss, dtype, C):
    data = _data(loss, 150)
    objective = _small(loss, data, [C], dtype=dtype)
    solution, iterations = _minimize(solver, objective)
    assert solution.reasons == ["converged"]
    # The stopping rule knows the rounding of float32 rows, though nothing is computed in it.
    assert -1e-14 <= _excess(objective, solution, data, C) <= (1e-10 if dtype == torch.float64 else 5e-7)
    values = np.array([iteration.objective for iteration in iterations] + [solution.objective])
    assert values[0] == pytest.approx(np.log(data.n_classes), rel=1e-12)
    assert np.all(values[1:] <= values[:-1] * (1 + 4 * torch.finfo(dtype).eps))


@solvers
@losses
@pytest.mark.parametrize("C", [1.0, np.inf])
def test_every_solver_reaches_the_optimum_of_collinear_columns(solver, loss, C):
    data = _data(loss, 150)
    data = data._replace(X=_collinear(data.X))
    objective = _small(loss, data, [C])
    solution, _ = _minimize(solver, objective)
    assert solution.reasons == ["converged"]
    assert -1e-14 <= _excess(objective, solution, data, C) <= 1e-10


@solvers
@losses
@pytest.mark.parametrize("max_iter", [0, 1, 2])
def test_max_iter_is_respected(solver, loss, max_iter):
    objective = _small(loss, _data(loss), [1.0, 100.0])
    solution, iterations = _minimize(solver, objective, max_iter, tol=1e-8)
    assert solution.reasons == ["max_iter"] * 2
    assert solution.n_iter.tolist() == [max_iter] * 2
    assert len(iterations) == max_iter


@solvers
@losses
def test_separable_classes_without_a_penalty_are_recognised(solver, loss):
    data = _data(loss, 150)
    X = data.X.copy()
    X[:, 1] = data.codes + np.random.default_rng(0).uniform(0.1, 0.9, size=150)
    data = data._replace(X=X)
    objective = _small(loss, data, [1.0, np.inf])
    solution, _ = _minimize(solver, objective)
    assert solution.reasons == ["converged", "separation"]
    assert solution.objective[1] <= torch.finfo(torch.float64).eps ** 2
    assert torch.isfinite(solution.w).all()
    assert _excess(objective, solution, data, 1.0) <= 1e-10  # the problem beside it
