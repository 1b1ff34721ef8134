"""What must hold of any problem, on problems that hypothesis makes up and shrinks."""

from __future__ import annotations

import os
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

from helpers import oracle
from torch_logreg import TorchLogisticClassifier

EXAMPLES = int(os.environ.get("TORCH_LOGREG_TEST_EXAMPLES", "20"))  # problems for each test: 200 in CI
settings.register_profile(
    "here",
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("here")

CLOSE = 1e-6  # of a probability


class Problem(NamedTuple):
    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray  # whole numbers, which may be 0
    params: dict
    rng: np.random.Generator

    def fit(self, X=None, y=None, weight=None, **params):
        given = (self.X if X is None else X, self.y if y is None else y)
        weight = self.weight if weight is None else weight
        return TorchLogisticClassifier(**{**self.params, **params}).fit(*given, weight)


@st.composite
def problems(draw, C=(1e-3, 1.0, 1e3), n_classes=(2, 3, 4)) -> Problem:
    """Columns of any unit and offset, some of them whole numbers, some the same; labels with noise."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    K = draw(st.sampled_from(n_classes), label="n_classes")
    n, d = draw(st.integers(8 * K, 60), label="n"), draw(st.integers(1, 5), label="d")
    X = rng.normal(size=(n, d))
    whole = np.array(draw(st.lists(st.booleans(), min_size=d, max_size=d), label="whole"))
    X[:, whole] = np.round(X[:, whole])
    y = (X[:, :1] * np.linspace(-1, 1, K) + rng.gumbel(size=(n, K))).argmax(axis=1)
    y[: 2 * K] = np.arange(2 * K) % K
    exponents = st.lists(st.integers(-4, 4), min_size=d, max_size=d)
    X = (X + draw(st.integers(-3, 3), label="offset")) * 10.0 ** np.array(draw(exponents, label="units"))
    if draw(st.booleans(), label="a column twice"):
        X = np.column_stack([X, X[:, 0]])
    weight = np.ones(n, dtype=np.int64)
    if draw(st.booleans(), label="weights"):
        weight = rng.integers(0, 4, size=n)
        weight[: 2 * K] = 1
    params = {
        "C": draw(st.sampled_from(C), label="C"),
        "fit_intercept": draw(st.booleans(), label="intercept"),
    }
    return Problem(X, y, weight, params, rng)


def assert_close(got: np.ndarray, expected: np.ndarray, tolerance: float = CLOSE) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


@given(problems())
def test_the_optimum_is_that_of_the_independent_newton_method(problem):
    X, y, weight, params, _ = problem
    K = y.max() + 1
    best = oracle.solve(X, y, K, params["C"], weight, params["fit_intercept"])
    model = problem.fit()
    value = oracle.objective(model.coef_, model.intercept_, X, y, params["C"], weight)
    assert -1e-9 <= value / best.objective - 1 <= 1e-8
    assert_close(model.coef_ @ X.T, best.coef @ X.T, 1e-4 * (1 + np.abs(best.coef @ X.T).max()))


@given(problems())
def test_the_order_of_the_rows_makes_no_difference(problem):
    order = problem.rng.permutation(len(problem.y))
    shuffled = problem.fit(problem.X[order], problem.y[order], problem.weight[order])
    assert_close(shuffled.predict_proba(problem.X), problem.fit().predict_proba(problem.X))


@given(problems())
def test_the_order_of_the_columns_makes_no_difference(problem):
    order = problem.rng.permutation(problem.X.shape[1])
    shuffled, model = problem.fit(problem.X[:, order]), problem.fit()
    assert_close(shuffled.predict_proba(problem.X[:, order]), model.predict_proba(problem.X))


@given(problems(C=[np.inf]), st.data())
def test_the_unit_of_a_column_makes_no_difference_without_a_penalty(problem, data):
    X, y, weight, params, _ = problem
    assume(not oracle.separable(X[weight > 0], y[weight > 0], y.max() + 1, params["fit_intercept"]))
    exponents = st.lists(st.integers(-6, 6), min_size=X.shape[1], max_size=X.shape[1])
    units = 10.0 ** np.array(data.draw(exponents))
    one, other = problem.fit(X * units, tol=1e-6), problem.fit(tol=1e-6)
    assert_close(one.predict_proba(X * units), other.predict_proba(X))


@given(problems())
def test_the_names_of_the_classes_make_no_difference(problem):
    names = np.array(["d", "b", "c", "a"])
    model, renamed = problem.fit(), problem.fit(y=names[problem.y])
    assert renamed.classes_.tolist() == sorted(names[: problem.y.max() + 1])
    order = np.argsort(names[: problem.y.max() + 1])
    assert_close(renamed.predict_proba(problem.X), model.predict_proba(problem.X)[:, order])


@given(problems())
def test_a_weight_is_a_row_that_is_repeated(problem):
    X, y, weight, _, _ = problem
    repeated = problem.fit(X.repeat(weight, axis=0), y.repeat(weight), np.ones(weight.sum()))
    assert_close(repeated.predict_proba(X), problem.fit().predict_proba(X))


@given(problems(), st.floats(1e-3, 1e3))
def test_weights_and_C_have_only_a_product(problem, factor):
    scaled = problem.fit(weight=problem.weight * factor, C=problem.params["C"] / factor)
    assert_close(scaled.predict_proba(problem.X), problem.fit().predict_proba(problem.X))


@given(problems())
def test_class_weights_are_weights_of_the_rows(problem):
    of_class = problem.rng.uniform(0.1, 5, size=problem.y.max() + 1)
    one = problem.fit(class_weight=dict(enumerate(of_class)))
    other = problem.fit(weight=problem.weight * of_class[problem.y])
    assert_close(one.predict_proba(problem.X), other.predict_proba(problem.X))


@given(problems())
def test_with_an_intercept_classes_are_predicted_as_often_as_they_are(problem):
    model = problem.fit(fit_intercept=True)
    shares = problem.weight / problem.weight.sum()
    expected = np.bincount(problem.y, shares)
    assert_close(shares @ model.predict_proba(problem.X), expected)


@given(problems())
def test_one_row_at_a_time_is_predicted_as_all_are(problem):
    model = problem.fit()
    for method in ("decision_function", "predict_proba", "predict_log_proba"):
        predict = getattr(model, method)
        alone = np.concatenate([predict(problem.X[i : i + 1]) for i in range(len(problem.X))])
        np.testing.assert_allclose(alone, predict(problem.X), rtol=1e-9, atol=1e-9)


@given(problems(), problems())
def test_a_second_fit_knows_nothing_of_the_first(first, second):
    model = first.fit().set_params(**second.params).fit(second.X, second.y, second.weight)
    fresh = second.fit()
    assert model.coef_.tobytes() == fresh.coef_.tobytes()
    assert model.intercept_.tobytes() == fresh.intercept_.tobytes()
    assert sorted(vars(model)) == sorted(vars(fresh))


@given(problems())
def test_sparse_rows_have_the_answer_of_dense_ones(problem):
    sparse = problem.fit(scipy.sparse.csr_array(problem.X))
    assert_close(sparse.predict_proba(problem.X), problem.fit().predict_proba(problem.X))


@pytest.mark.parametrize("solver", ["newton-cholesky", "newton-cg", "lbfgs"])
@given(problem=problems(C=(1e-2, 1.0)))
def test_solvers_agree(solver, problem):
    other, X = problem.fit(solver=solver, tol=1e-6, max_iter=1000), problem.X[problem.weight > 0]
    assert_close(other.predict_proba(X), problem.fit().predict_proba(X), 1e-5)


@given(problems(C=(1e-3, 1.0, 1e10)), st.sampled_from([1.0, 1e6, 1e100, 1e300]))
def test_probabilities_are_probabilities_and_their_logarithms_finite(problem, factor):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # at C=1e10 two copies of a column are too alike
        model = problem.fit()
    X = problem.X * factor
    z = model.decision_function(X)
    assume(np.isfinite(z).all())
    proba, log_proba = model.predict_proba(X), model.predict_log_proba(X)
    assert proba.min() >= 0
    assert proba.max() <= 1
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=0, atol=1e-12)
    assert np.isfinite(log_proba).all()
    assert log_proba.max() <= 0
    np.testing.assert_allclose(np.exp(log_proba), proba, rtol=1e-9, atol=1e-300)


@given(problems(C=(1e-3, 1.0, 1e3)), st.sampled_from([0.0, 1e2, 1e4, 1e6]))
def test_float32_is_as_good_as_float64_or_says_so(problem, offset):
    X = (problem.X + offset).astype(np.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        single = problem.fit(X)
    assert len(caught) <= 1
    if caught:
        assert "float64" in str(caught[0].message)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        double = problem.fit(X.astype(np.float64))
    assert_close(single.predict_proba(X), double.predict_proba(X.astype(np.float64)), 1e-3)
