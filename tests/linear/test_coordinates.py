"""Moments, the change of variables, and directions in which X does not vary, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear.coordinates import NULL_SPACE_FEATURES, Coordinates, find_null_space, gram
from torch_logreg._linear.moments import Gram, Moments, moments

EPS = float(torch.finfo(torch.float64).eps)

intercepts = pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])
outputs = pytest.mark.parametrize("n_outputs", [1, 3])
kinds = pytest.mark.parametrize("kind", ["dense", "CSR"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def _X(n: int = 60) -> np.ndarray:
    """Exact in float32, of scales 1e-3 to 1e4."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(n, 4)) + 1) * (rng.random((n, 4)) < 0.7) * np.array([1e-3, 1.0, 30.0, 1e4])
    return X.astype(np.float32).astype(float)


def _rows(X: np.ndarray, weight: np.ndarray, kind: str = "dense", dtype=torch.float64) -> ArrayRows:
    features = torch.from_numpy(X).to(dtype)
    return ArrayRows(
        features if kind == "dense" else scipy.sparse.csr_array(features.numpy()),
        torch.zeros(len(X), dtype=dtype),
        torch.from_numpy(np.atleast_2d(weight)).to(dtype),
        1,
    )


def _coordinates(
    X: np.ndarray, C: list[float], fit_intercept: bool = True, n_outputs: int = 1
) -> tuple[ArrayRows, Coordinates]:
    rows = _rows(X, np.ones(len(X)))
    weight_sum = rows.weight_sum(torch.float64)
    found = moments(rows, weight_sum, fit_intercept)
    strength = 1 / (torch.tensor(C, dtype=torch.float64) * weight_sum)
    return rows, Coordinates(found, strength, X.shape[1], n_outputs, fit_intercept, n_outputs > 1)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- moments ----


@kinds
@dtypes
@intercepts
def test_moments_are_the_mean_and_the_variance_by_weight(kind, dtype, fit_intercept):
    X, weight = _X(), np.random.default_rng(1).integers(0, 4, size=60).astype(float)
    rows = _rows(X, weight, kind, dtype)
    found = moments(rows, rows.weight_sum(torch.float64), fit_intercept)
    share = weight / weight.sum()
    center = share @ X if fit_intercept else np.zeros(4)
    # The sums over float32 rows are float32 sums.
    rtol = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(found.center.numpy(), center, rtol=rtol)
    np.testing.assert_allclose(found.variance.numpy(), share @ (X - center) ** 2, rtol=rtol)
    assert found.center.dtype == found.variance.dtype == torch.float64


@intercepts
def test_moments_of_problems_that_weigh_rows_differently_are_those_of_all_together(fit_intercept):
    X, weight = _X(), np.random.default_rng(1).random((3, 60))
    apart, together = _rows(X, weight), _rows(X, weight.mean(axis=0))
    of_each, of_all = (moments(r, r.weight_sum(torch.float64), fit_intercept) for r in (apart, together))
    torch.testing.assert_close(of_each.center, of_all.center, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(of_each.variance, of_all.variance, rtol=1e-12, atol=0)


@kinds
@dtypes
@pytest.mark.parametrize("n", [60, 10_000])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_variance_of_a_constant_column_is_zero(kind, dtype, n, weighted):
    values = np.float32([0.1, 12345.678, -5.0, 1e-6, 0.0]).astype(float)
    weight = np.random.default_rng(0).random(n) if weighted else np.ones(n)
    rows = _rows(np.tile(values, (n, 1)), weight, kind, dtype)
    found = moments(rows, rows.weight_sum(torch.float64), True)
    assert found.variance.tolist() == [0.0] * 5
    without = moments(rows, rows.weight_sum(torch.float64), False)
    np.testing.assert_allclose(without.variance.numpy(), values**2, rtol=1e-4)


def test_a_spread_of_many_roundings_of_the_mean_is_one():
    center = torch.tensor([1.0, 1.0, 1e6, 0.0], dtype=torch.float64)
    variance = torch.tensor([1e-30, 1e-24, 1e-24, 1e-300], dtype=torch.float64)
    assert Moments.of(center, variance, EPS).variance.tolist() == [0.0, 1e-24, 0.0, 1e-300]


# ---- the change of variables ----


@intercepts
@outputs
def test_from_raw_and_to_raw_are_inverses(fit_intercept, n_outputs):
    _, coordinates = _coordinates(_X(), [0.1, np.inf], fit_intercept, n_outputs)
    w = _random(2, n_outputs * (4 + fit_intercept))
    coef, intercept = coordinates.to_raw(w)
    assert coef.shape == (2, n_outputs, 4) and intercept.shape == (2, n_outputs)
    torch.testing.assert_close(coordinates.from_raw(coef, intercept), w, rtol=1e-12, atol=1e-12)


@intercepts
@outputs
def test_weights_are_coefficients_of_the_centred_and_scaled_columns(fit_intercept, n_outputs):
    X = _X()
    _, coordinates = _coordinates(X, [0.1, np.inf], fit_intercept, n_outputs)
    w = _random(2, n_outputs * (4 + fit_intercept))
    center = X.mean(axis=0) if fit_intercept else np.zeros(4)
    for p, strength in enumerate((1 / (0.1 * 60), 0.0)):
        scale = np.sqrt(((X - center) ** 2).mean(axis=0) / 4 + strength)
        by_output = w[p].view(n_outputs, -1).numpy()
        expected = by_output[:, :4] @ ((X - center) / scale).T
        if fit_intercept:
            expected = expected + by_output[:, 4:]
        coef, intercept = (of_all[p].numpy() for of_all in coordinates.to_raw(w))
        np.testing.assert_allclose(coef @ X.T + intercept[:, None], expected, rtol=1e-11, atol=1e-11)


def test_without_moments_the_columns_are_as_they_are():
    coordinates = Coordinates(None, torch.ones(2), 4, 1, True, False)
    w = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    coef, intercept = coordinates.to_raw(w)
    assert torch.equal(coordinates.join(coef, intercept), w)
    assert torch.equal(coordinates.from_raw(coef, intercept), w)


@intercepts
@outputs
@pytest.mark.parametrize("collinear", [False, True])
def test_pull_back_is_the_transpose_of_to_raw(fit_intercept, n_outputs, collinear):
    X = np.hstack([_X(), 2 * _X()[:, :1]]) if collinear else _X()
    d = X.shape[1]
    rows, coordinates = _coordinates(X, [np.inf], fit_intercept, n_outputs)
    assert find_null_space(coordinates, EPS, gram(rows, coordinates)) == collinear
    # Sums over rows, so that they have no part in directions in which X does not vary.
    r, v = _random(n_outputs, 60), _random(1, n_outputs * (d + fit_intercept), seed=1)
    if n_outputs > 1:  # nor in a shift of all outputs
        r = r - r.mean(dim=0)
    columns, sums = r @ torch.from_numpy(X), r.sum(dim=1)
    coef, intercept = coordinates.to_raw(v)
    expected = (columns * coef).sum() + (sums * intercept * fit_intercept).sum()
    pulled = (coordinates.pull_back(columns[None], sums[None]) * v).sum()
    assert float(pulled) == pytest.approx(float(expected), rel=1e-9)


# ---- directions in which X does not vary ----


def _dependent(offset: float = 0.0) -> np.ndarray:
    """Rank 4 of 8: a multiple, a sum, a constant column, and with an intercept one-hot columns."""
    X = _X()
    return np.column_stack([X, 2 * X[:, 2], X[:, 1] + X[:, 2], X[:, 1] > 0.5, X[:, 1] <= 0.5]) + offset


@intercepts
def test_the_null_space_is_all_directions_without_a_component(fit_intercept):
    X = _dependent()
    rows, coordinates = _coordinates(X, [np.inf], fit_intercept)
    assert find_null_space(coordinates, EPS, gram(rows, coordinates))
    null = coordinates.null
    assert null is not None
    centred = X - X.mean(axis=0) * fit_intercept
    rank = np.linalg.matrix_rank(centred / np.abs(centred).max(axis=0))
    assert rank == (5 if fit_intercept else 6)
    assert null.shape == (8, 8 - rank)
    torch.testing.assert_close(null.T @ null, torch.eye(8 - rank, dtype=torch.float64), rtol=0, atol=1e-13)
    # A component is a sum over columns: rounding is of the largest of them.
    assert np.abs(centred @ null.numpy()).max() <= 1e-13 * np.abs(centred).max()


def test_a_constant_column_is_in_no_null_direction():
    X = np.column_stack([_X(), np.full(60, 5.0), 2 * _X()[:, 1]])
    rows, coordinates = _coordinates(X, [np.inf])
    assert find_null_space(coordinates, EPS, gram(rows, coordinates))
    assert coordinates.null is not None and coordinates.null.shape == (6, 1)
    assert float(coordinates.null[4].abs().max()) <= 1e-14
    assert coordinates.gauge is not None and float(coordinates.gauge[0, 4].abs().max()) <= 1e-14


@pytest.mark.parametrize(("C", "eps", "undecided", "weak"), [
    (1.0, EPS, False, False),
    (1.0, 1e-2, False, True),  # rows that round by a hundredth
    (1e18, EPS, True, True),
    (np.inf, EPS, True, True),
])  # fmt: skip
def test_only_a_penalty_below_rounding_leaves_anything_undecided(C, eps, undecided, weak):
    _, coordinates = _coordinates(_X()[:, 1:2], [C])
    assert [bool(each) for each in coordinates.is_weak(eps)] == [undecided, weak]


def test_many_columns_are_not_searched_for_dependencies():
    X = np.zeros((2, NULL_SPACE_FEATURES + 1))
    X[1] = 1.0
    _, coordinates = _coordinates(X, [np.inf])
    assert not any(bool(each) for each in coordinates.is_weak(EPS))


def test_no_gram_matrix_is_computed_where_the_penalty_decides():
    _, coordinates = _coordinates(_dependent(), [1.0, 10.0])

    def refuse() -> Tensor:
        raise AssertionError("it was asked for")

    assert not find_null_space(coordinates, EPS, Gram(refuse, None))
    assert coordinates.null is None and coordinates.gauge is None


def test_a_second_look_replaces_what_a_first_one_found():
    X = _dependent()
    rows, coordinates = _coordinates(X, [np.inf])
    assert find_null_space(coordinates, EPS, gram(rows, coordinates))
    independent = torch.eye(8, dtype=torch.float64)
    assert not find_null_space(coordinates, EPS, Gram(lambda: independent, None))
    assert coordinates.null is None and coordinates.gauge is None
    gradient = _random(1, 1, 8)
    assert torch.equal(coordinates.without_gauge(gradient), gradient)


def _refuse() -> Tensor:
    raise AssertionError("it was asked for")


def test_some_of_the_rows_show_that_all_directions_vary():
    rng = np.random.default_rng(0)
    rows, coordinates = _coordinates(rng.normal(size=(60, 8)) * 10.0 ** np.arange(-4, 4), [np.inf])
    found = gram(rows, coordinates)
    assert found.part is not None
    assert not find_null_space(coordinates, EPS, found._replace(matrix=_refuse))


def test_few_rows_are_looked_at_all_together():
    rows, coordinates = _coordinates(np.random.default_rng(0).normal(size=(12, 8)), [np.inf])
    assert gram(rows, coordinates).part is None


@pytest.mark.parametrize("rare", [True, False], ids=["a column of other rows", "weights of other rows"])
def test_where_some_rows_do_not_show_it_all_of_them_are_looked_at(rare):
    rng = np.random.default_rng(0)
    X, weights, looked = rng.normal(size=(60, 8)), np.ones(60), []
    if rare:
        X[:, 3] = 0.0
        X[1, 3] = 1.0  # a row between those looked at first
    else:
        weights[::3] = weights[::2] = 0.0
    rows = _rows(X, weights)
    weight_sum = rows.weight_sum(torch.float64)
    strength = 1 / (torch.tensor([np.inf], dtype=torch.float64) * weight_sum)
    coordinates = Coordinates(moments(rows, weight_sum, True), strength, 8, 1, True, False)
    found = gram(rows, coordinates)

    def matrix() -> Tensor:
        looked.append(1)
        return found.matrix()

    assert not find_null_space(coordinates, EPS, found._replace(matrix=matrix))
    assert looked == [1]


@intercepts
def test_the_columns_factor_of_a_fisher_matrix_is_regular_along_directions_in_which_x_does_not_vary(
    fit_intercept,
):
    rows, coordinates = _coordinates(_dependent(), [np.inf], fit_intercept)
    find_null_space(coordinates, EPS, gram(rows, coordinates))
    columns = torch.zeros((1, 8 + fit_intercept, 8 + fit_intercept), dtype=torch.float64)
    coordinates.regularise_columns(columns)
    gauge = coordinates.gauge[0]
    torch.testing.assert_close(columns[0, :8, :8], gauge @ gauge.T, rtol=0, atol=1e-14)


@intercepts
@outputs
def test_canonical_weights_are_their_own(fit_intercept, n_outputs):
    X = _dependent()
    rows, coordinates = _coordinates(X, [1.0, np.inf], fit_intercept, n_outputs)
    find_null_space(coordinates, EPS, gram(rows, coordinates))
    w = _random(2, n_outputs * (8 + fit_intercept))
    found = coordinates.canonical(w)
    torch.testing.assert_close(coordinates.canonical(found), found, rtol=1e-11, atol=1e-11)
    (coef, intercept), (before, at_start) = coordinates.to_raw(found), coordinates.to_raw(w)
    z, z_before = (
        c[1] @ torch.from_numpy(X).T + b[1][:, None] for c, b in ((coef, intercept), (before, at_start))
    )
    if n_outputs > 1:
        assert float(coef.sum(dim=1).abs().max()) <= 1e-12 * float(coef.abs().max())
        z_before = z_before - z_before.mean(dim=0)
    # To the rounding of the largest column, of size 1e4 in a sum that cancels.
    torch.testing.assert_close(z, z_before, rtol=1e-9, atol=1e-9)
    assert float((coef[1] @ coordinates.null).abs().max()) <= 1e-10 * float(coef[1].abs().max())
    # Where there is a penalty it chooses by itself.
    centred = before[0] - before[0].mean(dim=0) if n_outputs > 1 else before[0]
    torch.testing.assert_close(coef[0], centred, rtol=1e-12, atol=1e-12)


@kinds
@intercepts
def test_gram_is_that_of_numpy(kind, fit_intercept):
    X, weight = _X(), np.random.default_rng(1).integers(0, 4, size=60).astype(float)
    rows = _rows(X, weight, kind)
    weight_sum = rows.weight_sum(torch.float64)
    found = moments(rows, weight_sum, fit_intercept)
    coordinates = Coordinates(found, 1 / weight_sum, 4, 1, fit_intercept, False)
    center = weight @ X / weight.sum() if fit_intercept else np.zeros(4)
    centred = X - center
    covariance = (centred.T * weight) @ centred
    deviation = np.sqrt(np.diag(covariance) / weight.sum())
    expected = covariance / np.outer(deviation, deviation)
    result = gram(rows, coordinates)
    np.testing.assert_allclose(result.matrix().numpy(), expected, rtol=1e-11, atol=1e-11)
    assert result.times is not None
    directions = np.random.default_rng(2).normal(size=(4, 3))
    product = result.times(torch.from_numpy(directions))
    np.testing.assert_allclose(product.numpy(), expected @ directions, rtol=1e-10, atol=1e-10)


def test_gram_of_columns_far_from_zero_is_that_of_their_deviations():
    X = np.random.default_rng(0).normal(size=(60, 3))
    (near, coordinates), (far, shifted) = _coordinates(X, [np.inf]), _coordinates(X + 1e6, [np.inf])
    # x + 1e6 rounds by 1e-10.
    torch.testing.assert_close(
        gram(far, shifted).matrix(), gram(near, coordinates).matrix(), rtol=1e-8, atol=1e-8
    )


@kinds
@intercepts
def test_directions_in_which_nothing_varies_are_known_as_well_as_the_columns(kind, fit_intercept):
    # The sum of columns of units 1e-3 and 1e6, beside others that all vary by a thousandth of their mean.
    rng = np.random.default_rng(0)
    X = 1000 + rng.normal(size=(300, 6))
    X[:, 0] *= 1e-3
    X[:, 1] *= 1e6
    X = np.column_stack([X, X[:, 0] + X[:, 1]])
    rows = _rows(X, np.ones(300), kind)
    weight_sum = rows.weight_sum(torch.float64)
    found = moments(rows, weight_sum, fit_intercept)
    coordinates = Coordinates(found, 1e-9 / weight_sum, 7, 1, fit_intercept, False)
    assert find_null_space(coordinates, EPS, gram(rows, coordinates))
    assert coordinates.null is not None and coordinates.null.shape == (7, 1)
    direction = coordinates.null[:, 0].numpy() / coordinates.null[1, 0].item()
    np.testing.assert_allclose(direction, [1, 1, 0, 0, 0, 0, -1], rtol=0, atol=1e-3)
