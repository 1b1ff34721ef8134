"""F and its derivatives against the oracle and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

from helpers import oracle
from helpers.losses import classes_for
from helpers.objectives import held_objective, streamed_objective
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear.objective import ColumnsObjective
from torch_logreg._losses.losses import LOSSES

SETTINGS = {"one": [1.0], "one unpenalised": [np.inf], "three": [0.05, 20.0, np.inf]}

losses = pytest.mark.parametrize("loss", LOSSES)
kinds = pytest.mark.parametrize("kind", ["dense", "CSR"])
intercepts = pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])
settings = pytest.mark.parametrize("C", SETTINGS.values(), ids=SETTINGS)


def _data(loss: str, n: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns of scales 1e-4 to 1e5 with many zeros, overlapping classes, weights of which some are 0."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(n, 4)) + 1) * (rng.random((n, 4)) < 0.7)
    codes = (X[:, 0] + X[:, 1] + 2 * rng.normal(size=n)).argsort().argsort() * classes_for(LOSSES[loss]) // n
    return X * np.array([1e-4, 1.0, 30.0, 1e5]), codes, rng.integers(0, 4, size=n).astype(float)


def _objective(
    loss: str,
    X: np.ndarray,
    codes: np.ndarray,
    C: list[float],
    weights: np.ndarray,
    fit_intercept: bool = True,
    kind: str = "dense",
    dtype: torch.dtype = torch.float64,
) -> ColumnsObjective:
    rule = LOSSES[loss]
    K = rule.n_outputs(classes_for(LOSSES[loss]))
    features = torch.from_numpy(X).to(dtype)
    rows = ArrayRows(
        features if kind == "dense" else scipy.sparse.csr_array(features.numpy()),
        rule.encode(torch.from_numpy(codes), dtype),
        torch.from_numpy(np.atleast_2d(weights)).to(dtype),
        len(C) * K,
    )
    return streamed_objective(rows, rule, torch.tensor(C, dtype=torch.float64), K, fit_intercept)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _weights_at(objective: ColumnsObjective, seed: int = 0) -> Tensor:
    return _random(objective.n_problems, objective.n_parameters, seed=seed)


def _centred(objective: ColumnsObjective, v: Tensor) -> Tensor:
    """`v` without what shifts all outputs alike."""
    if not objective.loss.shift_invariant:
        return v
    by_output = v.view(len(v), objective.n_outputs, -1)
    return (by_output - by_output.mean(dim=1, keepdim=True)).view_as(v)


def _predictions(objective: ColumnsObjective, w: Tensor, X: np.ndarray) -> np.ndarray:
    coef, intercept = objective.coordinates.to_raw(w)
    return np.einsum("pkd,nd->pkn", coef.numpy(), X) + intercept.numpy()[..., None]


# ---- F ----


@losses
@kinds
@intercepts
@settings
def test_value_is_the_oracles_objective_divided_by_C_and_the_weight_sum(loss, kind, fit_intercept, C):
    X, codes, weight = _data(loss)
    objective = _objective(loss, X, codes, C, weight, fit_intercept, kind)
    w = _weights_at(objective)
    value, _ = objective.value_and_gradient(w)
    coef, intercept = objective.coordinates.to_raw(w)
    for p, C_p in enumerate(C):
        expected = oracle.objective(coef[p], intercept[p], X, codes, C_p, weight)
        expected /= weight.sum() * (C_p if np.isfinite(C_p) else 1.0)
        assert float(value[p]) == pytest.approx(expected, rel=1e-12)


@losses
@kinds
@intercepts
@settings
def test_gradient_is_the_finite_difference_of_the_value(loss, kind, fit_intercept, C):
    objective = _objective(loss, *_data(loss)[:2], C, _data(loss)[2], fit_intercept, kind)
    w, h = _weights_at(objective), 1e-5
    _, gradient = objective.value_and_gradient(w)
    for j in range(objective.n_parameters):
        shift = torch.zeros_like(w)
        shift[:, j] = h
        difference = objective.value_and_gradient(w + shift)[0] - objective.value_and_gradient(w - shift)[0]
        torch.testing.assert_close(gradient[:, j], difference / (2 * h), rtol=1e-7, atol=1e-9)


@losses
@kinds
@intercepts
@settings
def test_fisher_products_are_finite_differences_of_the_gradient(loss, kind, fit_intercept, C):
    objective = _objective(loss, *_data(loss)[:2], C, _data(loss)[2], fit_intercept, kind)
    w, v, h = _weights_at(objective), _weights_at(objective, seed=1), 1e-5
    difference = objective.value_and_gradient(w + h * v)[1] - objective.value_and_gradient(w - h * v)[1]
    product = objective.at(w).product(v)
    torch.testing.assert_close(product, difference / (2 * h), rtol=1e-7, atol=1e-9)


@losses
@kinds
@intercepts
@settings
def test_fisher_matrix_and_diagonal_are_those_of_the_products(loss, kind, fit_intercept, C):
    objective = _objective(loss, *_data(loss)[:2], C, _data(loss)[2], fit_intercept, kind)
    curvature = objective.at(_weights_at(objective))
    n_parameters = objective.n_parameters
    unit = torch.eye(n_parameters, dtype=torch.float64)
    matrix, diagonal = curvature.matrix(), curvature.diagonal()
    for j in range(n_parameters):
        each = unit[j].expand(objective.n_problems, -1)
        product = curvature.product(each)
        torch.testing.assert_close(diagonal[:, j], product[:, j], rtol=1e-11, atol=1e-14)
        # Where a shift of all outputs is free the matrix has a curvature of its own.
        each = _centred(objective, each)
        in_matrix, in_product = (matrix @ each[..., None])[..., 0], curvature.product(each)
        torch.testing.assert_close(in_matrix, in_product, rtol=1e-11, atol=1e-13)


@losses
@intercepts
@settings
def test_fisher_matrix_is_symmetric_and_well_conditioned_whatever_the_units(loss, fit_intercept, C):
    objective = _objective(loss, *_data(loss)[:2], C, _data(loss)[2], fit_intercept)
    matrix = objective.at(torch.zeros(len(C), objective.n_parameters, dtype=torch.float64)).matrix()
    torch.testing.assert_close(matrix, matrix.mT, rtol=1e-13, atol=1e-15)
    # The columns differ by 1e9, the curvature at zero by no more than the columns are correlated.
    assert float(torch.linalg.cond(matrix).max()) < 100


@losses
@intercepts
def test_no_column_curves_more_than_one_anywhere(loss, fit_intercept):
    objective = _objective(loss, *_data(loss)[:2], [1e-3, 1.0, np.inf], _data(loss)[2], fit_intercept)
    for size in (0.0, 0.1, 1.0, 10.0):
        assert float(objective.at(size * _weights_at(objective)).diagonal().max()) <= 1 + 1e-12


@losses
@kinds
@intercepts
def test_float32_rows_give_the_float64_derivatives(loss, kind, fit_intercept):
    X, codes, weight = _data(loss)
    X = X.astype(np.float32).astype(np.float64)
    C = SETTINGS["three"]
    exact = _objective(loss, X, codes, C, weight, fit_intercept, kind)
    rounded = _objective(loss, X, codes, C, weight, fit_intercept, kind, torch.float32)
    coef, intercept = exact.coordinates.to_raw(_weights_at(exact))
    at = [objective.coordinates.from_raw(coef, intercept) for objective in (exact, rounded)]
    v = _weights_at(exact, seed=1)
    results = []
    for objective, w in zip((exact, rounded), at, strict=True):
        curvature = objective.at(w)
        parts = [curvature.product(v), curvature.diagonal(), curvature.matrix()]
        results.append([*objective.value_and_gradient(w), *parts])
    for of_exact, of_rounded in zip(*results, strict=True):
        assert of_rounded.dtype == torch.float64
        torch.testing.assert_close(of_rounded, of_exact, rtol=1e-5, atol=1e-5)


# ---- coordinates ----


@losses
@kinds
@intercepts
def test_from_raw_and_to_raw_are_inverses(loss, kind, fit_intercept):
    objective = _objective(loss, *_data(loss)[:2], [0.1, np.inf], _data(loss)[2], fit_intercept, kind)
    w = _weights_at(objective)
    coef, intercept = objective.coordinates.to_raw(w)
    assert coef.shape == (2, objective.n_outputs, 4) and intercept.shape == (2, objective.n_outputs)
    assert fit_intercept or not intercept.any()
    torch.testing.assert_close(objective.coordinates.from_raw(coef, intercept), w, rtol=1e-11, atol=1e-11)


@losses
@kinds
@intercepts
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_the_change_of_variables_leaves_the_problem_as_it_is(loss, kind, fit_intercept, offset):
    _, codes, weight = _data(loss)
    # In deviations of each column, so that raw coefficients differ by 1e12.
    X = (_random(len(codes), 4).numpy() + offset) * np.array([1e-6, 1.0, 1e3, 1e6])
    C, K = [1e-3, 1e6], LOSSES[loss].n_outputs(classes_for(LOSSES[loss]))
    objective = _objective(loss, X, codes, C, weight, fit_intercept, kind)
    coef = _random(2, K, 4) / torch.tensor([1e-6, 1.0, 1e3, 1e6], dtype=torch.float64)
    intercept = -coef @ torch.from_numpy(X.mean(axis=0))
    if not fit_intercept:
        coef, intercept = coef / (1 + offset), 0 * intercept
    value, _ = objective.value_and_gradient(objective.coordinates.from_raw(coef, intercept))
    for p in range(2):
        expected = oracle.objective(coef[p], intercept[p], X, codes, C[p], weight) / (C[p] * weight.sum())
        # A raw prediction is a sum of terms of size `offset`: it rounds by that much more.
        assert float(value[p]) == pytest.approx(expected, rel=1e-13 * (1 + offset))


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_a_column_far_from_zero_is_scaled_by_its_own_deviation(kind, dtype, offset):
    _, codes, weight = _data("binary")
    X = np.hstack([_random(len(codes), 1).numpy() + offset, _random(len(codes), 1, seed=1).numpy()])
    X = X.astype(np.float32 if dtype == torch.float32 else np.float64).astype(float)
    objective = _objective("binary", X, codes, [np.inf], weight, kind=kind, dtype=dtype)
    mean = weight @ X / weight.sum()
    deviation = np.sqrt(weight @ (X - mean) ** 2 / weight.sum())
    np.testing.assert_allclose(objective.coordinates.spread.numpy(), deviation, rtol=1e-2)
    np.testing.assert_allclose(objective.coordinates.inverse_scale[0, 0].numpy(), 2 / deviation, rtol=1e-2)


@losses
@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("C", [1.0, np.inf])
def test_a_constant_column_gets_no_coefficient(loss, kind, dtype, C):
    X, codes, weight = _data(loss)
    X = np.hstack([X, np.tile([0.1, 12345.678, 0.0], (len(X), 1))])
    objective = _objective(loss, X, codes, [C], weight, kind=kind, dtype=dtype)
    w = _weights_at(objective)
    coef, _ = objective.coordinates.to_raw(w)
    assert not coef[..., 4:].any()
    assert bool((coef[..., :4] != 0).all())
    _, gradient = objective.value_and_gradient(w)
    per_column = gradient.view(objective.n_outputs, -1)
    assert not per_column[:, 4:7].any()
    without = _objective(loss, X[:, :4], codes, [C], weight, kind=kind, dtype=dtype)
    same = without.coordinates.from_raw(coef[..., :4], objective.coordinates.to_raw(w)[1])
    value, alone = objective.value_and_gradient(w)[0], without.value_and_gradient(same)[0]
    torch.testing.assert_close(value, alone, rtol=32 * torch.finfo(dtype).eps, atol=0)


@losses
def test_a_constant_column_is_a_column_where_there_is_no_intercept(loss):
    _, codes, weight = _data(loss)
    objective = _objective(loss, np.full((len(codes), 1), 0.1), codes, [1.0], weight, fit_intercept=False)
    assert bool((objective.coordinates.to_raw(_weights_at(objective))[0] != 0).all())


# ---- one of many optima ----


def _collinear(X: np.ndarray) -> np.ndarray:
    return np.hstack([X, X[:, :1] / 1e-4 + X[:, 1:2], 5 * X[:, 2:3]])


@losses
@kinds
@intercepts
def test_canonical_weights_predict_the_same_from_the_smallest_coefficients(loss, kind, fit_intercept):
    X, codes, weight = _data(loss)
    X, weight = _collinear(X), weight + 1
    objective = _objective(loss, X, codes, [np.inf], weight, fit_intercept, kind)
    w = _weights_at(objective)
    found = objective.coordinates.canonical(w)
    before, after = _predictions(objective, w, X)[0], _predictions(objective, found, X)[0]
    if objective.loss.shift_invariant:
        before = before - before.mean(axis=0)
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-9)
    # The smallest coefficients with these predictions: the pseudo-inverse gives them.
    columns = X - X.mean(axis=0) if fit_intercept else X
    centred = before - before.mean(axis=1, keepdims=True) if fit_intercept else before
    smallest = centred @ np.linalg.pinv(columns, rcond=1e-13).T
    coef = objective.coordinates.to_raw(found)[0][0].numpy()
    assert np.all(np.abs(coef - smallest).max(axis=0) <= 1e-6 * np.abs(smallest).max(axis=0))
    torch.testing.assert_close(objective.coordinates.canonical(found), found, rtol=1e-9, atol=1e-12)


@kinds
@settings
def test_canonical_softmax_weights_are_centred_over_the_classes(kind, C):
    X, codes, weight = _data("softmax")
    objective = _objective("softmax", X, codes, C, weight, kind=kind)
    for of_classes in objective.coordinates.to_raw(objective.coordinates.canonical(_weights_at(objective))):
        assert float((of_classes.sum(dim=1).abs() / of_classes.abs().amax(dim=1)).max()) < 1e-12


@intercepts
def test_a_penalty_decides_for_itself_between_collinear_columns(fit_intercept):
    X, codes, weight = _data("binary")
    objective = _objective("binary", _collinear(X), codes, [1.0], weight, fit_intercept)
    w = _weights_at(objective)
    torch.testing.assert_close(objective.coordinates.canonical(w), w, rtol=0, atol=0)


@losses
@kinds
@intercepts
def test_collinear_columns_leave_the_newton_step_as_it_is(loss, kind, fit_intercept):
    X, codes, weight = _data(loss)
    steps = []
    for columns in (X, _collinear(X)):
        objective = _objective(loss, columns, codes, [np.inf], weight, fit_intercept, kind)
        w = torch.zeros(1, objective.n_parameters, dtype=torch.float64)
        _, gradient = objective.value_and_gradient(w)
        matrix = objective.at(w).matrix()
        assert float(torch.linalg.eigvalsh(matrix).min()) > 1e-6
        step = torch.linalg.solve(matrix, -gradient[..., None])[..., 0]
        steps.append(_predictions(objective, step, columns))
    np.testing.assert_allclose(steps[1], steps[0], rtol=1e-9, atol=1e-10)


# ---- problems ----


@losses
@kinds
@intercepts
def test_problems_of_different_C_together_are_the_problems_alone(loss, kind, fit_intercept):
    X, codes, weight = _data(loss)
    C = SETTINGS["three"]
    together = _objective(loss, X, codes, C, weight, fit_intercept, kind)
    w, v = _weights_at(together), _weights_at(together, seed=1)
    value, gradient = together.value_and_gradient(w)
    curvature = together.at(w)
    for p, C_p in enumerate(C):
        each = slice(p, p + 1)
        alone = _objective(loss, X, codes, [C_p], weight, fit_intercept, kind)
        of_alone = alone.at(w[each])
        close = {"rtol": 1e-11, "atol": 1e-13}
        for all_problems, one in [
            (value, alone.value_and_gradient(w[each])[0]),
            (gradient, alone.value_and_gradient(w[each])[1]),
            (curvature.product(v), of_alone.product(v[each])),
            (curvature.diagonal(), of_alone.diagonal()),
            (curvature.matrix(), of_alone.matrix()),
            (together.coordinates.to_raw(w)[0], alone.coordinates.to_raw(w[each])[0]),
            (together.coordinates.canonical(w), alone.coordinates.canonical(w[each])),
        ]:
            torch.testing.assert_close(all_problems[each], one, **close)


@losses
@kinds
@intercepts
def test_problems_may_weigh_rows_differently(loss, kind, fit_intercept):
    X, codes, weight = _data(loss)
    folds = np.stack([weight * (np.arange(len(X)) % 3 != fold) for fold in range(3)])
    C = SETTINGS["three"]
    together = _objective(loss, X, codes, C, folds, fit_intercept, kind)
    w, h = _weights_at(together), 1e-5
    v = _weights_at(together, seed=1)
    value, gradient = together.value_and_gradient(w)
    coef, intercept = together.coordinates.to_raw(w)
    for p, C_p in enumerate(C):
        expected = oracle.objective(coef[p], intercept[p], X, codes, C_p, folds[p])
        expected /= folds[p].sum() * (C_p if np.isfinite(C_p) else 1.0)
        assert float(value[p]) == pytest.approx(expected, rel=1e-12)
    above, below = (together.value_and_gradient(w + sign * h * v) for sign in (1, -1))
    slope, change = ((a - b) / (2 * h) for a, b in zip(above, below, strict=True))
    curvature = together.at(w)
    torch.testing.assert_close((gradient * v).sum(dim=1), slope, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(curvature.product(v), change, rtol=1e-7, atol=1e-9)
    v = _centred(together, v)
    in_matrix = (curvature.matrix() @ v[..., None])[..., 0]
    torch.testing.assert_close(in_matrix, curvature.product(v), rtol=1e-10, atol=1e-13)


@losses
def test_fisher_products_are_the_same_whether_or_not_they_are_kept(loss, limits):
    objective = _objective(loss, *_data(loss)[:2], [1.0], _data(loss)[2])
    w, v = _weights_at(objective), _weights_at(objective, seed=1)
    kept = objective.at(w)
    kept.product(v)
    limits(information_numbers=0)
    assert torch.equal(kept.product(v), objective.at(w.clone()).product(v))


@losses
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_reach_of_a_step_is_the_most_that_it_moves_a_raw_prediction(loss, fit_intercept):
    rng = np.random.default_rng(0)
    X, target = torch.from_numpy(3 + rng.normal(size=(40, 3))), torch.from_numpy(rng.integers(2, size=40))
    X[7], weights = 1e6, torch.ones(1, 40, dtype=torch.float64)
    weights[0, 7] = 0.0  # a row without weight may move as far as it likes
    C, n_outputs = torch.tensor([1.0, 10.0], dtype=torch.float64), LOSSES[loss].n_outputs(2)
    rows = ArrayRows(X, LOSSES[loss].encode(target, X.dtype), weights, 2 * n_outputs)
    settings = (LOSSES[loss], C, n_outputs, fit_intercept)
    whole = streamed_objective(rows, *settings)
    small = held_objective(rows, LOSSES[loss], C, n_outputs, fit_intercept)
    for objective in (whole, small):
        direction = torch.from_numpy(rng.normal(size=(2, objective.n_parameters)))
        coef, intercept = objective.coordinates.to_raw(direction)
        z = torch.einsum("nd,pkd->pkn", X, coef) + intercept[..., None]
        moved = torch.cat([z[..., :7], z[..., 8:]], dim=2).abs().amax(dim=(1, 2))
        torch.testing.assert_close(objective.reach(direction), moved, rtol=1e-10, atol=0)
