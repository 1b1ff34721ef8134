"""Coefficients to start from decide how long a fit takes, and not where it ends."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from helpers import optima
from helpers.datasets import load, standardised
from torch_logreg import TorchLogisticClassifier
from torch_logreg._solvers.registry import SOLVERS

EXACT = [name for name in SOLVERS if name != "sgd"]


@pytest.fixture(params=["birthwt", "iris"])
def problem(request) -> tuple[np.ndarray, np.ndarray]:
    data = load(request.param)
    return standardised(data.X), data.y


def drawn(X: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Coefficients at random."""
    rng, n_outputs = np.random.default_rng(0), len(np.unique(y)) if len(np.unique(y)) > 2 else 1
    return {
        "coef_init": rng.normal(size=(n_outputs, X.shape[1])),
        "intercept_init": rng.normal(size=n_outputs),
    }


def of(model: TorchLogisticClassifier) -> dict[str, np.ndarray]:
    return {"coef_init": model.coef_, "intercept_init": model.intercept_}


@pytest.mark.parametrize("solver", EXACT)
def test_the_optimum_is_the_same_from_anywhere(problem, solver):
    X, y = problem
    start = drawn(X, y)
    before = {name: array.copy() for name, array in start.items()}
    expected = optima.solve(X, y, n_classes=len(np.unique(y)), C=1.0)
    got = TorchLogisticClassifier(solver=solver, tol=1e-8).fit(X, y, **start)
    assert got.converged_
    assert_allclose(got.coef_, expected.coef, rtol=1e-6, atol=1e-7)
    assert_allclose(got.intercept_, expected.intercept, rtol=1e-6, atol=1e-7)
    for name, array in start.items():
        assert_array_equal(array, before[name])


@pytest.mark.parametrize("solver", EXACT)
def test_at_the_optimum_one_step_is_enough(problem, solver):
    X, y = problem
    cold = TorchLogisticClassifier(solver=solver, tol=1e-7).fit(X, y)
    warm = TorchLogisticClassifier(solver=solver).fit(X, y, **of(cold))
    assert warm.converged_ and warm.n_iter_[0] == 1 < cold.n_iter_[0]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_near_the_optimum_of_many_rows_fewer_are_read(n_classes):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60_000, 30))
    y = (X[:, :n_classes] + rng.gumbel(size=(60_000, n_classes))).argmax(axis=1)
    cold = TorchLogisticClassifier().fit(X, y)
    assert cold.history_.rows_read.diff().min() < len(y)  # it starts on a sample
    warm = TorchLogisticClassifier().fit(X, y, **of(cold))
    assert warm.converged_
    assert warm.n_iter_[0] <= 2 < cold.n_iter_[0]
    assert warm.history_.rows_read.iloc[-1] < 0.8 * cold.history_.rows_read.iloc[-1]
    assert_allclose(warm.objective_, cold.objective_, rtol=1e-7)


@pytest.mark.parametrize("params", [{}, {"learning_rate": 0.1}, {"solver": "sgd"}], ids=str)
def test_without_an_update_the_model_is_what_it_started_from(problem, params):
    X, y = problem
    start = drawn(X, y)
    model = TorchLogisticClassifier(**params, max_iter=0, tol=None).fit(X, y, **start)
    z = X @ start["coef_init"].T + start["intercept_init"]
    got = model.decision_function(X).reshape(z.shape)
    if z.shape[1] > 1:  # a shift of all classes says nothing
        z, got = z - z.mean(axis=1, keepdims=True), got - got.mean(axis=1, keepdims=True)
    assert_allclose(got, z, rtol=1e-9, atol=1e-9)


def test_one_of_the_two_leaves_the_other_at_0():
    data = load("birthwt")
    X, y = standardised(data.X), data.y
    frozen = TorchLogisticClassifier(max_iter=0, tol=None)
    start = drawn(X, y)
    coef_only = frozen.fit(X, y, coef_init=start["coef_init"])
    assert_allclose(coef_only.coef_, start["coef_init"], rtol=1e-12)
    assert_allclose(coef_only.intercept_, 0, atol=1e-12)
    intercept_only = frozen.fit(X, y, intercept_init=start["intercept_init"])
    assert not intercept_only.coef_.any()
    assert_allclose(intercept_only.intercept_, start["intercept_init"], rtol=1e-12)


def test_they_come_before_those_of_the_fit_before_as_in_scikit_learn():
    data = load("birthwt")
    X, y = standardised(data.X), data.y
    start = drawn(X, y)
    model = TorchLogisticClassifier(warm_start=True).fit(X, y)
    earlier = model.intercept_
    model.set_params(max_iter=0, tol=None).fit(X, y, coef_init=start["coef_init"])
    assert_allclose(model.coef_, start["coef_init"], rtol=1e-12)
    assert_allclose(model.intercept_, earlier, rtol=1e-9)
    few = X[:, :3]  # what the fit before had is not read, so it need not fit
    model.fit(few, y, coef_init=start["coef_init"][:, :3], intercept_init=[0.5])
    assert_allclose(model.intercept_, [0.5])


FORMS = {
    "float32": lambda coef, intercept: (coef.astype(np.float32), intercept.astype(np.float32)),
    "lists": lambda coef, intercept: (coef.tolist(), intercept.tolist()),
    "one axis less": lambda coef, intercept: (coef[0], intercept[0]),
    "tensors": lambda coef, intercept: (torch.tensor(coef), torch.tensor(intercept)),
    "parameters": lambda coef, intercept: (nn.Parameter(torch.tensor(coef)), torch.tensor(intercept)),
    "bfloat16": lambda coef, intercept: (torch.tensor(coef).bfloat16(), torch.tensor(intercept).bfloat16()),
    "sparse": lambda coef, intercept: (scipy.sparse.csr_array(coef), intercept),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_container_of_numbers_will_do(form):
    data = load("birthwt")
    X, y = standardised(data.X), data.y
    start = {name: np.round(8 * array) / 8 for name, array in drawn(X, y).items()}  # exact in 16 bits
    coef, intercept = FORMS[form](*start.values())
    model = TorchLogisticClassifier(max_iter=0, tol=None).fit(X, y, coef_init=coef, intercept_init=intercept)
    assert_allclose(model.coef_, start["coef_init"], rtol=1e-12)
    assert_allclose(model.intercept_, start["intercept_init"], rtol=1e-12)


X = np.random.default_rng(0).normal(size=(30, 4))
WRONG = {
    "too few columns": (2, {"coef_init": np.ones((1, 3))}, r"\(1, 3\).*needs \(1, 4\).*second less"),
    "two rows for two classes": (2, {"coef_init": np.ones((2, 4))}, r"\(2, 4\).*needs \(1, 4\).*second less"),
    "one row for three classes": (
        3,
        {"coef_init": np.ones((1, 4))},
        r"needs \(3, 4\).*each class.*\[0, 1, 2\]",
    ),
    "no axis for three classes": (3, {"coef_init": np.ones(4)}, r"needs \(3, 4\)"),
    "too few intercepts": (
        3,
        {"intercept_init": [0.0]},
        r"intercept_init has the shape \(1,\).*needs \(3,\)",
    ),
    "a column of intercepts": (2, {"intercept_init": [[0.0]]}, r"intercept_init has the shape \(1, 1\)"),
    "NaN": (2, {"coef_init": [np.nan, 0, 0, 0]}, "coef_init contains NaN or infinity"),
    "infinity": (2, {"intercept_init": [np.inf]}, "intercept_init contains NaN or infinity"),
    "words": (2, {"coef_init": ["a", "b", "c", "d"]}, "coef_init must be an array of numbers"),
    "ragged": (2, {"coef_init": [[1, 2], [3]]}, "coef_init must be an array of numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_started_from_raises_and_says_what_can(case):
    n_classes, start, message = WRONG[case]
    model = TorchLogisticClassifier().fit(X, np.arange(30) % n_classes)
    before = model.coef_
    with pytest.raises(ValueError, match=message):
        model.fit(X, np.arange(30) % n_classes, **start)
    assert model.coef_ is before


def test_an_intercept_without_one_to_fit_raises():
    y = np.arange(30) % 2
    with pytest.raises(ValueError, match="fit_intercept=False, which has no intercept"):
        TorchLogisticClassifier(fit_intercept=False).fit(X, y, intercept_init=[1.0])
    before = TorchLogisticClassifier(fit_intercept=False).fit(X, y)
    assert not TorchLogisticClassifier(fit_intercept=False).fit(X, y, **of(before)).intercept_.any()


@pytest.mark.parametrize(
    "params", [{"module": nn.Linear(4, 1)}, {"criterion": nn.CrossEntropyLoss(label_smoothing=0.1)}], ids=str
)
@pytest.mark.parametrize("start", [{"coef_init": np.ones(4)}, {"intercept_init": [0.0]}], ids=str)
def test_modules_bring_their_own_weights(params, start):
    with pytest.raises(ValueError, match="are for the linear model.*pass as module"):
        TorchLogisticClassifier(**params).fit(X, np.arange(30) % 2, **start)


def test_rows_of_16_bits_start_there_too():
    rows, y = torch.tensor(X).bfloat16(), np.arange(30) % 2
    cold = TorchLogisticClassifier(tol=1e-7).fit(rows, y)
    warm = TorchLogisticClassifier().fit(rows, y, **of(cold))
    assert warm.n_iter_[0] == 1 and warm.coef_.dtype == np.float32


def test_they_are_routed_as_those_of_scikit_learn():
    y = np.arange(30) % 2
    start = {"coef_init": np.ones((1, 4)), "intercept_init": np.ones(1)}
    frozen = TorchLogisticClassifier(max_iter=0, tol=None, fit_intercept=True)
    plain = make_pipeline(StandardScaler(), frozen)
    plain.fit(X, y, **{f"torchlogisticclassifier__{name}": value for name, value in start.items()})
    assert_allclose(plain[-1].coef_, 1)
    with sklearn.config_context(enable_metadata_routing=True):
        requests = [
            kind().get_metadata_routing().fit.requests for kind in (TorchLogisticClassifier, SGDClassifier)
        ]
        of_modules = ("classes", "X_val", "y_val", "sample_weight_val")
        assert requests[0] == requests[1] | dict.fromkeys(of_modules)
        asking = frozen.set_fit_request(coef_init=True, intercept_init=True)
        routed = make_pipeline(StandardScaler(), asking).fit(X, y, **start)
    assert_allclose(routed[-1].coef_, 1)
