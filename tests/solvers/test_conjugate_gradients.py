"""Solves that go on where more is asked of them, and proofs that are asked for only where a fit may end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from helpers.datasets import load, standardised
from helpers.objectives import held_objective
from torch_logreg import TorchLogisticClassifier
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._losses.losses import LOSSES
from torch_logreg._solvers.conjugate_gradients import (
    Factored,
    NewtonCG,
    Preconditioner,
    Solve,
    conjugate_gradient,
)
from torch_logreg._solvers.fisher import Kronecker
from torch_logreg._solvers.natural import NaturalSGD


def objective_of(name, C):
    data = load(name)
    X, y = torch.from_numpy(standardised(data.X)), torch.from_numpy(data.y)
    loss = LOSSES["binary" if data.classes == 2 else "softmax"]
    K = loss.n_outputs(data.classes)
    rows = ArrayRows(X, loss.encode(y, X.dtype), torch.ones(1, len(y), dtype=X.dtype), len(C) * K)
    return held_objective(rows, loss, torch.tensor(C, dtype=torch.float64), K, True)


@pytest.mark.parametrize("C", [[1.0], [1e-2, 1.0, 1e2]], ids=["one", "three"])
def test_a_solve_that_goes_on_ends_where_it_would_have_gone_at_once(C):
    objective = objective_of("breast_cancer", C)
    at = objective.at(objective.zeros())
    _, gradient = at.value_and_gradient()
    rough, accurate = (torch.full((len(C),), each, dtype=torch.float64) for each in (0.1, 1e-6))
    at_once, reached, n_steps = conjugate_gradient(at.product, -gradient, torch.clone, 100, accurate)
    solve = Solve(at.product, -gradient, torch.clone)
    solve.go_on(100, rough)
    assert 0 < solve.n_steps < n_steps
    solve.go_on(100, accurate)
    assert bool((solve.reached() <= accurate).all()) and bool((reached <= accurate).all())
    assert_allclose(solve.x, at_once, rtol=0, atol=1e-5 * float(at_once.abs().max()))


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
def test_a_factored_matrix_is_the_fisher_matrix_at_coefficients_0(name):
    objective = objective_of(name, [1.0])
    at = objective.at(objective.zeros())
    _, gradient = at.value_and_gradient()
    assert_allclose(at.product(Factored(at)(gradient)), gradient, rtol=0, atol=1e-8)


def test_a_preconditioner_is_made_once_what_it_saves_was_spent():
    objective = objective_of("breast_cancer", [1.0])
    few, many, several = (
        Preconditioner(of, most)
        for of, most in ((objective, 10), (objective, 100), (objective_of("wine", [1.0, 2.0]), 100))
    )
    w = objective.zeros()
    assert [few.update(w), many.update(w), several.update(w)] == [False, False, False]
    for each in (few, many, several):
        each.spend(100)
    assert [few.update(w), many.update(w), several.update(w)] == [False, True, False]
    assert not many.update(w)


def test_a_preconditioner_is_made_at_once_where_solves_show_that_it_will_pay():
    objective = noise(2000, 400, 0.0)
    few, many = Preconditioner(objective, 1000), Preconditioner(objective, 1000)
    w = objective.zeros()
    few.spend(2)
    many.spend(12)
    assert [few.update(w), many.update(w)] == [False, True]
    few.spend(12, n_ahead=0)
    assert not few.update(w)


def noise(n: int, d: int, power: float, K: int = 2, C: float = 1.0, dtype: torch.dtype = torch.float64):
    """Normal columns of a spectrum that falls by that power, turned, and labels of chance."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -power
    X = torch.from_numpy(X @ np.linalg.qr(rng.normal(size=(d, d)))[0]).to(dtype)
    loss = LOSSES["binary" if K == 2 else "softmax"]
    n_outputs = loss.n_outputs(K)
    rows = ArrayRows(
        X,
        loss.encode(torch.from_numpy(rng.integers(K, size=n)), dtype),
        torch.ones(1, n, dtype=dtype),
        n_outputs,
    )
    return held_objective(rows, loss, torch.tensor([C], dtype=torch.float64), n_outputs, True)


@pytest.mark.parametrize(("power", "is_made"), [(0.0, False), (1.0, True)])
@pytest.mark.parametrize(("K", "made_by"), [(2, Factored), (4, Kronecker)])
def test_a_matrix_is_made_where_the_spectrum_falls_and_not_where_it_is_flat(
    power, is_made, K, made_by, monkeypatch
):
    name, made = "__init__" if made_by is Factored else "set", []
    make = getattr(made_by, name)

    def counted(self, *args):
        made.append(1)
        return make(self, *args)

    monkeypatch.setattr(made_by, name, counted)
    objective = noise(1500, 400, power, K, C=1.0 if power else 1e-2)
    settings = {"metric": "products", "factored_columns": 1024} if K == 2 else {"metric": "exact"}
    solution = NaturalSGD(**settings).minimize(objective, objective.zeros(), lambda iteration: False)
    assert solution.reasons == ["converged"]
    assert bool(made) == is_made


def test_products_of_held_float32_rows_are_as_accurate_as_these():
    exact = noise(600, 300, 0.0)
    single = noise(600, 300, 0.0, dtype=torch.float32)
    assert single.dtype == torch.float64  # of the weights, and so of the columns
    w = torch.randn(1, 301, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for objective, rtol in ((exact, 0.0), (single, 1e-5)):
        at = objective.at(w)
        product, quick = at.product(w), at.quick_product(w)
        assert quick.dtype == torch.float64
        assert_allclose(quick, product, rtol=0, atol=rtol * float(product.abs().max()))
    assert not torch.equal(quick, product)  # made in float32


@pytest.mark.parametrize("C", [1e-2, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("name", ["breast_cancer", "wine", "iris"])
@pytest.mark.parametrize("solver", ["natural-sgd", "newton-cg", "newton-cholesky"])
def test_a_looser_tolerance_reads_no_more_rows(solver, name, C):
    data = load(name)
    X, read = standardised(data.X), []
    for tol in (1.0, 1e-1, 1e-2, 1e-4):
        model = TorchLogisticClassifier(solver=solver, C=C, tol=tol).fit(X, data.y)
        assert model.converged_
        read.append(model.history_["rows_read"].iloc[-1])
    assert (np.diff(read) >= 0).all(), read


def test_outputs_that_moved_alike_before_a_matrix_was_made_do_not_keep_a_fit_from_its_end():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 60))
    y = (X @ rng.normal(size=(60, 10)) + rng.gumbel(size=(150, 10))).argmax(axis=1)
    assert TorchLogisticClassifier(solver="newton-cg", C=0.3, max_iter=30).fit(X, y).converged_


@pytest.mark.parametrize("C", [1.0, 1e4])
def test_several_outputs_take_no_more_steps_for_the_shift_that_changes_nothing(C, monkeypatch):
    # A diagonal preconditioner led into that direction, where next to nothing curves: hundreds of steps.
    rng = np.random.default_rng(0)
    n, d, K = 100, 80, 3
    X = torch.from_numpy(rng.normal(size=(n, d)) @ np.linalg.qr(rng.normal(size=(d, d)))[0])
    X = X / torch.arange(1, d + 1, dtype=torch.float64)
    loss = LOSSES["softmax"]
    target = loss.encode(torch.from_numpy(rng.integers(K, size=n)), torch.float64)
    rows = ArrayRows(X, target, torch.ones(1, n, dtype=torch.float64), K)
    objective = held_objective(rows, loss, torch.tensor([C], dtype=torch.float64), K, True)
    steps, find = [], NewtonCG.direction

    def counted(self, state):
        direction = find(self, state)
        steps.append(self._last_steps)
        return direction

    monkeypatch.setattr(NewtonCG, "direction", counted)
    solution = NaturalSGD(metric="products").minimize(objective, objective.zeros(), lambda iteration: False)
    assert solution.reasons == ["converged"]
    # In exact arithmetic a solve takes a step for each of the different eigenvalues at most.
    assert 0 < max(steps) <= (K - 1) * (d + 1)
