"""Tensors of 16 bits: the optimum of the numbers they hold, and never a copy of all of them in 32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import optima
from helpers.datasets import load, standardised
from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.products import matmul, rmatmul
from torch_logreg._solvers.registry import SOLVERS

DTYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
EXACT = [name for name in SOLVERS if name != "sgd"]


def linear(n_features: int, n_outputs: int) -> nn.Module:
    return nn.Linear(n_features, n_outputs)


def halved(name: str, dtype: torch.dtype) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Rows of 16 bits, the same numbers in float64, and labels."""
    data = load(name)
    X = torch.tensor(standardised(data.X)).to(dtype)
    return X, X.double().numpy(), data.y


@pytest.fixture(scope="module")
def many() -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 300)).astype(np.float32)
    y = (X[:, :3] + rng.gumbel(size=(20_000, 3))).argmax(axis=1)
    return torch.from_numpy(X).bfloat16(), y


class Largest(TorchDispatchMode):
    """Notes the largest array of 32 or 64 bits that any operation makes, in numbers."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, torch.Tensor) and made.dtype in (torch.float32, torch.float64):
                # Of what is expanded the memory counts, not the shape.
                self.numbers = max(self.numbers, made.untyped_storage().nbytes() // made.itemsize)
        return result


# ---- the answers ----


@DTYPES
@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("name", ["birthwt", "iris"])
def test_the_optimum_is_that_of_the_rounded_numbers(name, solver, dtype):
    X, exact, y = halved(name, dtype)
    expected = optima.solve(exact, y, n_classes=len(np.unique(y)), C=1.0)
    got = TorchLogisticClassifier(solver=solver, tol=1e-8).fit(X, y)
    assert got.converged_ and got.coef_.dtype == got.intercept_.dtype == np.float32
    assert_allclose(got.coef_, expected.coef, rtol=1e-5, atol=1e-5)
    assert_allclose(got.intercept_, expected.intercept, rtol=1e-5, atol=1e-5)
    assert_allclose(got.objective_, expected.objective, rtol=1e-6)


@DTYPES
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.one_in(100)
def test_many_rows_have_the_answer_of_a_float64_fit(many, n_classes, dtype):
    X, y = many[0].to(dtype), many[1] % n_classes
    expected = TorchLogisticClassifier(tol=1e-8).fit(X.double().numpy(), y)
    got = TorchLogisticClassifier(tol=1e-6).fit(X, y)
    assert got.coef_.dtype == np.float32
    assert_allclose(got.objective_, expected.objective_, rtol=1e-6)
    assert_allclose(got.predict_proba(X), expected.predict_proba(X), atol=1e-4)


@DTYPES
@pytest.mark.parametrize(
    "params",
    [
        {"solver": "sgd", "batch_size": 64},
        {"solver": "sgd", "batch_size": None},
        {"learning_rate": 0.1, "batch_size": 64},
        {"learning_rate": 0.1, "batch_size": None},
        {"module": linear, "batch_size": 64},
        {"module": linear, "batch_size": None},
        {"early_stopping": True},
    ],
    ids=lambda params: ", ".join(params),
)
def test_what_draws_does_with_them_what_it_does_with_the_same_numbers_in_float32(params, dtype):
    X, _, y = halved("birthwt", dtype)
    estimator = TorchLogisticClassifier(**params, max_iter=5, tol=None, random_state=0)
    expected = estimator.fit(X.float(), y).predict_proba(X.float())
    got = estimator.fit(X, y).predict_proba(X)
    assert got.dtype == np.float32
    assert_allclose(got, expected, rtol=1e-5)


@DTYPES
@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss", "f1"])
def test_every_C_is_scored_as_for_the_same_numbers_in_float32(scoring, dtype):
    X, _, y = halved("birthwt", dtype)
    got, expected = (
        TorchLogisticClassifierCV(Cs=3, cv=3, scoring=scoring).fit(rows, y) for rows in (X, X.float())
    )
    assert got.coef_.dtype == np.float32
    assert got.C_ == expected.C_
    assert_allclose(got.scores_, expected.scores_, rtol=1e-5)
    assert_allclose(got.coef_, expected.coef_, rtol=1e-4, atol=1e-5)


@DTYPES
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_model_of_other_rows_predicts_them_as_their_numbers(kind, dtype):
    X, exact, y = halved("iris", dtype)
    linear_model = TorchLogisticClassifier().fit(exact.astype(kind), y)
    with_module = TorchLogisticClassifier(module=linear, max_iter=2, tol=None, random_state=0)
    for model in (linear_model, with_module.fit(exact.astype(kind), y)):
        got, expected = model.predict_proba(X), model.predict_proba(exact.astype(kind))
        assert_allclose(got, expected, rtol=1e-5 if kind == np.float32 else 1e-12)
        assert got.dtype == kind


def test_large_numbers_of_float16_do_not_overflow_in_the_sums():
    rng = np.random.default_rng(0)
    X = torch.tensor(rng.uniform(-60_000, 60_000, (4_000, 3))).to(torch.float16)
    y = rng.uniform(-60_000, 60_000, 4_000) < X[:, 0].double().numpy()
    expected = optima.solve(X.double().numpy(), y.astype(int), n_classes=2, C=1.0)
    got = TorchLogisticClassifier(tol=1e-8).fit(X, y)
    assert_allclose(got.coef_, expected.coef, rtol=1e-4, atol=1e-4 * np.abs(expected.coef).max())


@DTYPES
def test_separated_classes_are_found_without_a_penalty(dtype):
    X = torch.tensor([[-2.0, 1], [-1, 0], [1, 1], [2, 0]], dtype=dtype)
    with pytest.warns(ConvergenceWarning, match="separated perfectly by the column 0"):
        model = TorchLogisticClassifier(C=np.inf).fit(X, [0, 0, 1, 1])
    assert model.stop_reason_ == "separation"


def test_numbers_of_other_orders_in_memory_are_read_in_theirs():
    X, _, y = halved("iris", torch.bfloat16)
    expected = TorchLogisticClassifier().fit(X, y)
    before = X.clone()
    for rows in (X.T.contiguous().T, X.repeat_interleave(2, dim=1)[:, ::2], nn.Parameter(X)):
        got = TorchLogisticClassifier().fit(rows, y)
        assert_allclose(got.coef_, expected.coef_, rtol=1e-5, atol=1e-6)
        assert_allclose(got.predict_proba(rows), expected.predict_proba(X), rtol=1e-4, atol=1e-6)
    assert_array_equal(X.float(), before.float())


# ---- memory ----

FITS: dict[str, Callable] = {
    "natural-sgd": lambda: TorchLogisticClassifier(),
    "newton-cg": lambda: TorchLogisticClassifier(solver="newton-cg"),
    "lbfgs": lambda: TorchLogisticClassifier(solver="lbfgs"),
    "minibatches": lambda: TorchLogisticClassifier(solver="sgd", max_iter=1, tol=None),
    "all rows": lambda: TorchLogisticClassifier(solver="sgd", batch_size=None, max_iter=1, tol=None),
    "a module": lambda: TorchLogisticClassifier(module=linear, max_iter=1, tol=None),
    "early stopping": lambda: TorchLogisticClassifier(early_stopping=True, random_state=0),
    "every C": lambda: TorchLogisticClassifierCV(Cs=2, cv=2),
}


DEEP = ("newton-cg", "every C")  # which read the rows most often


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.deep) if kind in DEEP else kind for kind in FITS]
)
def test_no_fit_or_prediction_holds_all_numbers_in_32_bits(many, kind):
    X, y = many
    with Largest() as largest:
        model = FITS[kind]().fit(X, y)
        model.predict_proba(X)
    assert 0 < largest.numbers < X.numel() / 2


def test_the_mode_that_looks_for_copies_sees_one(many):
    with Largest() as largest:
        many[0].float()
    assert largest.numbers == many[0].numel()


# ---- rows ----


@DTYPES
@pytest.mark.parametrize("Q", [1, 6])
def test_products_with_them_are_those_of_the_same_numbers(dtype, Q):
    rng = np.random.default_rng(0)
    X = torch.tensor(rng.normal(size=(5_000, 600))).to(dtype)
    coef, r = (torch.tensor(rng.normal(size=(Q, n)), dtype=torch.float32) for n in (600, 5_000))
    for got, exact in (
        (matmul(X, coef), coef.double() @ X.double().T),
        (rmatmul(X, r), r.double() @ X.double()),
    ):
        assert got.dtype == torch.float32
        assert_allclose(got, exact, atol=1e-5 * float(exact.abs().max()))


@DTYPES
def test_every_way_to_read_rows_gives_the_same_numbers_in_float32(dtype):
    X = torch.tensor(np.random.default_rng(0).normal(size=(5_000, 900))).to(dtype)
    rows = ArrayRows(X, torch.arange(5_000), torch.ones(1, 5_000), 1)
    seen = []
    for block in rows.blocks():
        assert block.X.dtype == torch.float32
        assert_array_equal(block.X, X[block.target].float())
        seen.append(block.target)
    assert len(seen) > 1 and torch.cat(seen).tolist() == list(range(5_000))
    generator = torch.Generator().manual_seed(0)
    sample = rows.sample(300, torch.zeros_like, generator).gather(slice(None))
    for block in [sample, *rows.minibatches(700, generator)]:
        assert block.X.dtype == torch.float32
        assert_array_equal(block.X, X[block.target].float())
    assert rows.whole().X.dtype == dtype  # the products upcast it
