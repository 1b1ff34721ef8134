"""The oracle is judged by published fits, by scikit-learn's Newton solver and by finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from helpers.datasets import NAMES, frame, load, standardised
from helpers.oracle import GRADIENT_BOUND, gradient, objective, separable, solve


def _problem(n_classes: int, seed: int = 0, n: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlapping classes; columns of scales 1e-3 to 1e4; weights of which some are zero."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)) + rng.normal(size=4)
    codes = (X[:, 0] + X[:, 1] + 2 * rng.normal(size=n)).argsort().argsort() * n_classes // n
    return X * np.array([1e-3, 1.0, 30.0, 1e4]), codes, rng.integers(0, 4, size=n).astype(float)


def _assert_rounds_to(values: np.ndarray, published: list[str]) -> None:
    """Agree to the last digit printed."""
    printed = np.array([float(number) for number in published])
    last_digit = np.array([10.0 ** -len(number.partition(".")[2]) for number in published])
    assert np.all(np.abs(np.asarray(values) - printed) <= 0.501 * last_digit), values


def test_birth_weights_agree_with_the_published_fit():
    # Hosmer and Lemeshow (1989), Applied Logistic Regression; the columns are in the data's order.
    names = [*frame("birthwt")[0].columns.drop("race"), "race2", "race3"]
    assert names == ["age", "lwt", "smoke", "ptl", "ht", "ui", "ftv", "race2", "race3"]
    X, y = load("birthwt").X, load("birthwt").y
    found = solve(X, y, 2, np.inf)
    published = "-0.029549 -0.0154243 0.938846 0.543337 1.8633 0.767648 0.0653018 1.27226 0.880496".split()
    _assert_rounds_to(found.coef[0], published)
    _assert_rounds_to(found.intercept, ["0.480623"])


@pytest.mark.parametrize(
    ("columns", "intercept", "published"),
    [
        (["balance"], "-10.6513", ["0.00549892"]),
        (["student"], "-3.50413", ["0.404887"]),
        (["balance", "income", "student"], "-10.869", ["0.00573651", "0.00303345", "-0.646776"]),
    ],
)
def test_credit_card_defaults_agree_with_the_published_fits(columns, intercept, published):
    # James, Witten, Hastie and Tibshirani (2013), An Introduction to Statistical Learning, tables 4.1-4.3.
    features, target = frame("default")
    table = features.assign(student=features["student"] == "Yes", income=features["income"] / 1000)
    X, codes = table[columns].to_numpy(dtype=float), (target == "Yes").to_numpy(dtype=int)
    found = solve(X, codes, 2, np.inf)
    _assert_rounds_to(found.coef[0], published)
    _assert_rounds_to(found.intercept, [intercept])


def test_mortgage_denials_agree_with_the_published_fit():
    # Stock and Watson (2015), Introduction to Econometrics, equation 11.10.
    features, target = frame("hmda")
    X = np.column_stack([features["pirat"], features["afam"] == "yes"])
    found = solve(X, (target == "yes").to_numpy(dtype=int), 2, np.inf)
    _assert_rounds_to(found.coef[0], ["5.37036", "1.27278"])
    _assert_rounds_to(found.intercept, ["-4.12556"])


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("C", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("name", ["breast_cancer", "wine", "hmda"])
def test_scaled_columns_give_the_optimum_of_logistic_regression(name, C, fit_intercept):
    X, y, n_classes = standardised(load(name).X), load(name).y, load(name).classes
    found = solve(X, y, n_classes, C, fit_intercept=fit_intercept)
    peer = LogisticRegression(
        C=C, solver="newton-cholesky", tol=1e-12, max_iter=200, fit_intercept=fit_intercept
    ).fit(X, y)
    np.testing.assert_allclose(found.coef, peer.coef_, rtol=1e-6, atol=1e-7 * np.abs(peer.coef_).max())
    offset = peer.intercept_ - (peer.intercept_.mean() if n_classes > 2 else 0.0)
    np.testing.assert_allclose(found.intercept, offset, rtol=1e-6, atol=1e-7)
    assert found.objective <= objective(peer.coef_, peer.intercept_, X, y, C) * (1 + 1e-14)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "digits"])
def test_every_raw_data_set_is_solved_with_a_strong_and_a_weak_penalty(name):
    X, y, n_classes = load(name).X, load(name).y, load(name).classes
    for C in (1e-3, 1e4):
        assert solve(X, y, n_classes, C).gradient_ratio <= GRADIENT_BOUND


def test_the_650_parameters_of_the_digits_are_solved():
    X, y = load("digits").X, load("digits").y
    assert solve(X, y, 10, 1e-3).gradient_ratio <= GRADIENT_BOUND


@pytest.mark.parametrize("C", [0.7, np.inf])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_gradient_is_the_finite_difference_of_the_objective(n_classes, C):
    _, codes, weight = _problem(n_classes)
    rng = np.random.default_rng(1)
    X = rng.normal(size=(len(codes), 3))
    outputs = 1 if n_classes == 2 else n_classes
    point, h = rng.normal(size=(outputs, 4)), 1e-5

    def at(shift: np.ndarray) -> float:
        moved = point + shift
        return objective(moved[:, 1:], moved[:, 0], X, codes, C, weight)

    shifts = h * np.eye(point.size).reshape(-1, *point.shape)
    differences = np.reshape([(at(s) - at(-s)) / (2 * h) for s in shifts], point.shape)
    coef_gradient, intercept_gradient = gradient(point[:, 1:], point[:, 0], X, codes, C, weight)
    np.testing.assert_allclose(coef_gradient, differences[:, 1:], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(intercept_gradient, differences[:, 0], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("C", [1e-3, 1.0, 1e4, np.inf])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_gradient_vanishes_at_the_optimum_of_badly_scaled_columns(n_classes, C, fit_intercept):
    X, codes, weight = _problem(n_classes)
    found = solve(X, codes, n_classes, C, weight, fit_intercept)
    coef_gradient, intercept_gradient = gradient(found.coef, found.intercept, X, codes, C, weight)
    scale = (C if np.isfinite(C) else 1.0) * (weight @ np.abs(X))
    assert np.max(np.abs(coef_gradient) / scale) < 1e-12
    if fit_intercept:
        assert np.max(np.abs(intercept_gradient)) < 1e-12 * (C if np.isfinite(C) else 1.0) * weight.sum()
    else:
        assert not found.intercept.any()
    if n_classes > 2:
        assert np.abs(found.coef.sum(axis=0)).max() < 1e-13 * np.abs(found.coef).max()
        assert abs(found.intercept.sum()) < 1e-13 * max(1.0, np.abs(found.intercept).max())


@pytest.mark.parametrize("C", [1e-2, 1e3, np.inf])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_weights_are_repeated_rows(n_classes, C):
    X, codes, weight = _problem(n_classes)
    weighted = solve(X, codes, n_classes, C, weight)
    times = weight.astype(int)
    repeated = solve(np.repeat(X, times, axis=0), np.repeat(codes, times), n_classes, C)
    np.testing.assert_allclose(weighted.coef, repeated.coef, rtol=1e-10)
    np.testing.assert_allclose(weighted.intercept, repeated.intercept, rtol=1e-10)
    np.testing.assert_allclose(weighted.objective, repeated.objective, rtol=1e-13)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_collinear_columns_give_the_minimum_norm_optimum(n_classes, fit_intercept):
    X, codes, _ = _problem(n_classes)
    constant = np.full((len(X), 1), 0.1)
    collinear = np.hstack([X, X[:, :1] + X[:, 1:2], 5 * X[:, 2:3], constant])
    found = solve(collinear, codes, n_classes, np.inf, fit_intercept=fit_intercept)
    independent = np.hstack([X, constant]) if not fit_intercept else X
    plain = solve(independent, codes, n_classes, np.inf, fit_intercept=fit_intercept)
    np.testing.assert_allclose(found.objective, plain.objective, rtol=1e-13)
    # No direction that changes no prediction (beyond the intercept's) has a component in the coefficients.
    neutral = np.zeros((3 if fit_intercept else 2, 7))
    neutral[0, [0, 1, 4]] = 1.0, 1.0, -1.0
    neutral[1, [2, 5]] = 5.0, -1.0
    neutral[2:, 6] = 1.0
    assert np.max(np.abs(found.coef @ neutral.T)) < 1e-10 * np.abs(found.coef).max()


def test_minimum_norm_is_the_limit_of_a_vanishing_penalty():
    X, y = load("wa_churn_collinear").X, load("wa_churn_collinear").y
    limit, near = solve(X, y, 2, np.inf), solve(X, y, 2, 1e8)
    np.testing.assert_allclose(near.coef, limit.coef, rtol=1e-5, atol=1e-8)


def test_constant_columns_get_no_coefficient_beside_an_intercept():
    X, codes, _ = _problem(4)
    found = solve(np.hstack([X, np.full((len(X), 1), 0.1)]), codes, 4, 10.0)
    assert not found.coef[:, 4].any()
    np.testing.assert_allclose(found.coef[:, :4], solve(X, codes, 4, 10.0).coef, rtol=1e-12)


def test_no_informative_column_leaves_the_log_odds():
    found = solve(np.ones((10, 2)), np.array([0] * 8 + [1] * 2), 2, np.inf)
    assert not found.coef.any()
    np.testing.assert_allclose(found.intercept, np.log(0.25), rtol=1e-14)


def test_objective_is_accurate_where_the_loss_is_tiny():
    row, code = np.array([[1.0]]), np.array([1])
    expected = np.log1p(np.exp(-60.0))
    np.testing.assert_allclose(objective([[60.0]], [0.0], row, code, np.inf), expected, rtol=1e-14)
    softmax = objective([[-60.0], [0.0], [-800.0]], np.zeros(3), row, code, np.inf)
    np.testing.assert_allclose(softmax, expected, rtol=1e-14)
    np.testing.assert_allclose(objective([[-900.0]], [0.0], row, code, 2.0), 1800.0 + 405000.0)


@pytest.mark.parametrize("codes", [[0, 0, 0, 1, 1, 1], [0, 0, 1, 2, 1, 2], [0, 0, 2, 1, 1, 2]])
def test_a_separable_problem_without_a_penalty_is_refused(codes):
    X = np.arange(6.0)[:, None]
    with pytest.raises(AssertionError, match="no optimum"):
        solve(X, np.array(codes), max(codes) + 1, np.inf)


@pytest.mark.parametrize(
    ("x", "codes", "fit_intercept", "expected"),
    [
        ([0, 1, 2, 3], [0, 0, 1, 1], True, True),
        ([0, 1, 2, 3], [0, 1, 0, 1], True, False),
        ([0, 1, 1, 2], [0, 0, 1, 1], True, True),  # quasi-complete: both classes at 1
        ([0, 0, 1, 1], [0, 1, 1, 1], True, True),  # quasi-complete: nothing but 1 beyond 0
        ([1, 2, 3, 4], [0, 0, 1, 1], False, False),  # a threshold needs the intercept
        ([-2, -1, 1, 2], [0, 0, 1, 1], False, True),
        ([1, 1, 1, 1], [0, 1, 0, 1], True, False),
        ([0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2], True, True),
        ([0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 2], True, False),
        ([0, 1, 0, 1, 5, 6], [0, 0, 1, 1, 2, 2], True, True),  # only the third class comes apart
        ([0, 1, 2, 3], [0, 2, 0, 2], True, True),  # nobody in class 1
    ],
)
def test_separation_is_recognised(x, codes, fit_intercept, expected):
    X = np.array(x, dtype=float)[:, None] * 1e3
    assert separable(X, np.array(codes), max(codes) + 1, fit_intercept) is expected
    factor_beside_itself = np.hstack([X, 2 * X])
    assert separable(factor_beside_itself, np.array(codes), max(codes) + 1, fit_intercept) is expected


def test_which_data_sets_have_an_unpenalised_optimum():
    for name in ("birthwt", "default", "hmda", "wa_churn", "wa_churn_collinear"):
        assert not separable(load(name).X, load(name).y, load(name).classes)
    for name in ("breast_cancer", "wine", "iris"):
        assert separable(load(name).X, load(name).y, load(name).classes)


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_is_complete(name):
    X, y, n_classes = load(name).X, load(name).y, load(name).classes
    assert X.dtype == np.float64 and X.flags.c_contiguous and np.isfinite(X).all()
    assert len(X) == len(y) == len(frame(name)[0])
    np.testing.assert_array_equal(np.unique(y), np.arange(n_classes))


@pytest.mark.parametrize(
    ("name", "rank"), [("hmda", 13), ("digits", 61), ("wa_churn", 23), ("wa_churn_collinear", 23)]
)
def test_the_ranks_are_as_described(name, rank):
    X = standardised(load(name).X)
    singular_values = np.linalg.svd(X, compute_uv=False)
    assert np.sum(singular_values > 1e-9 * singular_values[0]) == rank


def test_coefficients_that_cancel_are_told_by_their_rounding():
    rng = np.random.default_rng(0)
    X = (1000 + rng.normal(size=(500, 2))) * [0.03, 2e5]
    codes = (X[:, 0] > 30 + 0.03 * rng.normal(size=500)).astype(int)
    together = np.column_stack([X, X.sum(axis=1)])  # what the first column says in the unit of the second
    assert solve(X, codes, 2, 1e4).rounding < 1e-11
    assert solve(together, codes, 2, 1e4).rounding > 1e-7
