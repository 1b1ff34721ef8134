"""What every solver of the registry promises, on every kind of rows and with every loss."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

from helpers import optima
from helpers.counted import CountedRows, Data
from helpers.losses import classes_for
from helpers.objectives import streamed_objective
from torch_logreg._contracts.objective import Fisher
from torch_logreg._contracts.solver import Iteration, Solution
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear.objective import ColumnsObjective
from torch_logreg._losses.losses import LOSSES
from torch_logreg._solvers.conjugate_gradients import conjugate_gradient
from torch_logreg._solvers.registry import SOLVERS

KINDS = {"dense": torch.float64, "float32": torch.float32, "CSR": torch.float64}

EXACT = [name for name in SOLVERS if name != "sgd"]  # stock SGD claims no optimum: see test_sgd.py

solvers = pytest.mark.parametrize("solver", EXACT)
losses = pytest.mark.parametrize("loss", LOSSES)
kinds = pytest.mark.parametrize("kind", KINDS)


@cache
def _data(loss: str, kind: str = "dense", separable: bool = False) -> Data:
    """Columns of scales 1e-3 to 1e4 with zeros, and classes; X is exact in the dtype of the rows."""
    n, n_classes = 150, classes_for(LOSSES[loss])
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(n, 5)) + 0.5) * (rng.random((n, 5)) < 0.7)
    X[:, 1] = rng.normal(size=n)  # one column without ties, for classes that it separates
    score = X[:, 1] if separable else X[:, 0] + X[:, 1] + 2 * rng.normal(size=n)
    codes = score.argsort().argsort() * n_classes // n
    X = X * np.array([1e-3, 1.0, 30.0, 1.0, 1e4])
    if KINDS[kind] == torch.float32:
        X = X.astype(np.float32).astype(float)
    return Data(X, codes, rng.integers(1, 4, size=n).astype(float), n_classes)


@cache
def _best(loss: str, kind: str, separable: bool, C: float) -> optima.Optimum:
    data = _data(loss, kind, separable)
    return optima.solve(data.X, data.codes, data.n_classes, C, data.weight)


def _objective(
    loss: str, data: Data, C: list[float], kind: str = "dense", rows=ArrayRows
) -> ColumnsObjective:
    rule, dtype = LOSSES[loss], KINDS[kind]
    K = rule.n_outputs(classes_for(LOSSES[loss]))
    made = rows(
        scipy.sparse.csr_array(data.X) if kind == "CSR" else torch.from_numpy(data.X).to(dtype),
        rule.encode(torch.from_numpy(data.codes), dtype),
        torch.from_numpy(data.weight)[None].to(dtype),
        len(C) * K,
    )
    return streamed_objective(made, rule, torch.tensor(C, dtype=torch.float64), K, True)


def _zero(objective: ColumnsObjective) -> Tensor:
    return torch.zeros(objective.n_problems, objective.n_parameters, dtype=objective.dtype)


def _minimize(
    solver: str, objective: ColumnsObjective, w: Tensor | None = None, tol: float = 1e-5, max_iter: int = 300
) -> tuple[Solution, list[Iteration]]:
    iterations: list[Iteration] = []
    minimizer = SOLVERS[solver].make(max_iter=max_iter, tol=tol)
    w = _zero(objective) if w is None else w
    return minimizer.minimize(objective, w, lambda iteration: iterations.append(iteration)), iterations


def _excess(
    objective: ColumnsObjective, solution: Solution, loss: str, kind: str, C: float, separable: bool = False
) -> float:
    """Relative distance of the first problem from the optimum of its C, judged by the oracle."""
    data, best = _data(loss, kind, separable), _best(loss, kind, separable, C)
    coef, intercept = (
        of_all[0] for of_all in objective.coordinates.to_raw(objective.coordinates.canonical(solution.w))
    )
    return optima.objective(coef, intercept, data.X, data.codes, C, data.weight) / best.objective - 1


# ---- the optimum ----


@solvers
@losses
@kinds
@pytest.mark.parametrize("C", [0.01, np.inf])
def test_every_solver_reaches_the_optimum(solver, loss, kind, C):
    objective = _objective(loss, _data(loss, kind), [C], kind)
    solution, _ = _minimize(solver, objective)
    assert solution.reasons == ["converged"]
    excess = _excess(objective, solution, loss, kind, C)
    # To tol**2, which float32 cannot see; below zero by the rounding of the oracle only.
    assert -1e-14 <= excess <= (1e-10 if KINDS[kind] == torch.float64 else 5e-7)


@solvers
@losses
@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-4])
def test_converged_means_an_objective_within_tol_squared(solver, loss, tol):
    objective = _objective(loss, _data(loss), [1e3])
    solution, iterations = _minimize(solver, objective, tol=tol)
    assert solution.reasons == ["converged"]
    assert iterations[-1].gradient_norm[0] <= tol
    assert _excess(objective, solution, loss, "dense", 1e3) <= tol**2


@solvers
@losses
@kinds
def test_a_start_at_the_optimum_converges_in_one_update(solver, loss, kind):
    objective = _objective(loss, _data(loss, kind), [2.0], kind)
    best = _best(loss, kind, False, 2.0)
    w = objective.coordinates.from_raw(
        torch.from_numpy(best.coef)[None], torch.from_numpy(best.intercept)[None]
    )
    solution, iterations = _minimize(solver, objective, w)
    assert solution.reasons == ["converged"]
    assert solution.n_iter.tolist() == [1] == [len(iterations)]
    assert _excess(objective, solution, loss, kind, 2.0) <= (1e-12 if KINDS[kind] == torch.float64 else 5e-7)


@solvers
@losses
@kinds
@pytest.mark.one_in(4)
def test_problems_of_different_C_together_are_the_problems_alone(solver, loss, kind):
    data, C = _data(loss, kind), [0.01, 3.0, np.inf]
    together = _objective(loss, data, C, kind)
    solution, iterations = _minimize(solver, together)
    assert solution.reasons == ["converged"] * 3
    assert solution.w.shape == (3, together.n_parameters)
    assert len(iterations) == solution.n_iter.max()
    exact = KINDS[kind] == torch.float64
    for p, C_p in enumerate(C):
        alone, _ = _minimize(solver, _objective(loss, data, [C_p], kind))
        assert solution.objective[p] == pytest.approx(alone.objective[0], rel=1e-10 if exact else 1e-6)
        # Where both were found to 1e-10 of the objective the coefficients agree to its root.
        in_outputs = solution.w[p].view(together.n_outputs, -1), alone.w[0].view(together.n_outputs, -1)
        differences = [w - w.mean(dim=0) if len(w) > 1 else w for w in in_outputs]
        atol = (1e-5 if exact else 1e-2) * float(alone.w.abs().max())
        torch.testing.assert_close(*differences, rtol=0, atol=atol)


# ---- what the callback sees ----


@solvers
@losses
@kinds
def test_the_callback_sees_every_update_and_the_objective_fall(solver, loss, kind):
    objective = _objective(loss, _data(loss, kind), [1.0, 100.0], kind)
    solution, iterations = _minimize(solver, objective)
    assert [iteration.number for iteration in iterations] == list(range(len(iterations)))
    assert len(iterations) == solution.n_iter.max() >= 3
    read = np.array([iteration.rows_read for iteration in iterations])
    assert np.all(np.diff(read) >= objective.rows.n_rows)
    for field in ("objective", "gradient_norm", "step"):
        assert all(getattr(iteration, field).shape == (2,) for iteration in iterations)
    values = np.array([iteration.objective for iteration in iterations] + [solution.objective])
    rounding = 4 * torch.finfo(KINDS[kind]).eps
    assert np.all(values[1:] <= values[:-1] * (1 + rounding))
    assert np.all(values[0] == pytest.approx(np.log(classes_for(LOSSES[loss])), rel=rounding))


@solvers
@losses
def test_what_an_iteration_says_is_true_of_its_weights(solver, loss):
    objective = _objective(loss, _data(loss), [1.0, 100.0])
    start = _zero(objective)
    solution, iterations = _minimize(solver, objective, start)
    points = [start, *(iteration.w for iteration in iterations)]
    assert not start.any()  # the solver left it alone
    values = [iteration.objective for iteration in iterations] + [solution.objective]
    norms = [iteration.gradient_norm for iteration in iterations] + [solution.gradient_norm]
    for w, value, norm in zip(points, values, norms, strict=True):
        true_value, true_gradient = objective.value_and_gradient(w)
        np.testing.assert_array_equal(value, true_value.numpy())
        np.testing.assert_array_equal(norm, true_gradient.abs().amax(dim=1).numpy())
    assert torch.equal(points[-1], solution.w)


@solvers
@losses
@kinds
def test_rows_read_is_what_the_rows_were_asked_for(solver, loss, kind):
    objective = _objective(loss, _data(loss, kind), [1.0, 100.0], kind, CountedRows)
    told, counted = [], []

    def compare(iteration: Iteration) -> bool:
        told.append(iteration.rows_read)
        counted.append(objective.rows.passes * objective.rows.n_rows)
        return False

    SOLVERS[solver].make(max_iter=100, tol=1e-5).minimize(objective, _zero(objective), compare)
    assert told == counted


@losses
def test_a_newton_step_by_cholesky_reads_the_rows_twice(loss):
    objective = _objective(loss, _data(loss), [1.0], rows=CountedRows)
    before = objective.rows.passes
    solution, iterations = _minimize("newton-cholesky", objective)
    assert all(iteration.step[0] == 1 for iteration in iterations)
    # One pass at the start; then one for the Fisher matrix and one for the value and gradient at its step.
    assert objective.rows.passes - before == 1 + 2 * solution.n_iter[0]


@losses
def test_a_step_of_lbfgs_far_from_the_optimum_reads_the_rows_once(loss):
    objective = _objective(loss, _data(loss), [1.0], rows=CountedRows)
    passes = []
    SOLVERS["lbfgs"].make(max_iter=3, tol=1e-9, factored_columns=0).minimize(
        objective, _zero(objective), lambda _: passes.append(objective.rows.passes)
    )
    assert np.diff(passes).tolist() == [1, 1]


# ---- stopping ----


@solvers
@losses
def test_a_callback_that_returns_true_stops_the_solver(solver, loss):
    objective = _objective(loss, _data(loss), [1.0, 100.0])
    seen = []

    def stop_at_the_second(iteration: Iteration) -> bool:
        seen.append(iteration)
        return len(seen) == 2

    minimizer = SOLVERS[solver].make(max_iter=100, tol=1e-8)
    solution = minimizer.minimize(objective, _zero(objective), stop_at_the_second)
    assert len(seen) == 2
    assert solution.reasons == ["callback"] * 2
    assert solution.n_iter.tolist() == [2, 2]
    assert torch.equal(solution.w, seen[-1].w)


@solvers
@losses
@pytest.mark.parametrize("max_iter", [0, 1, 2])
def test_max_iter_is_respected(solver, loss, max_iter):
    objective = _objective(loss, _data(loss), [1.0, 100.0])
    solution, iterations = _minimize(solver, objective, tol=1e-8, max_iter=max_iter)
    assert solution.reasons == ["max_iter"] * 2
    assert solution.n_iter.tolist() == [max_iter] * 2
    assert len(iterations) == max_iter


@solvers
@losses
@pytest.mark.parametrize("kind", ["dense", "float32"])
@pytest.mark.one_in(4)
def test_separable_classes_without_a_penalty_are_recognised(solver, loss, kind):
    objective = _objective(loss, _data(loss, kind, separable=True), [1.0, np.inf], kind)
    solution, _ = _minimize(solver, objective)
    assert solution.reasons == ["converged", "separation"]
    assert solution.objective[1] <= torch.finfo(KINDS[kind]).eps ** 2
    assert torch.isfinite(solution.w).all()
    # The problem beside it has a penalty and its optimum.
    excess = _excess(objective, solution, loss, kind, 1.0, separable=True)
    assert excess <= (1e-10 if KINDS[kind] == torch.float64 else 5e-7)


@solvers
@losses
@pytest.mark.parametrize("kind", ["dense", "float32"])
@pytest.mark.parametrize("C", [1e4, 1e8])
@pytest.mark.one_in(4)
def test_a_weak_penalty_on_separable_classes_has_an_optimum(solver, loss, kind, C):
    objective = _objective(loss, _data(loss, kind, separable=True), [C], kind)
    solution, _ = _minimize(solver, objective, tol=1e-4, max_iter=1000)
    assert solution.reasons == ["converged"]
    assert _excess(objective, solution, loss, kind, C, separable=True) <= (1e-8 if kind == "dense" else 1e-5)


@solvers
def test_a_solver_is_a_frozen_dataclass(solver):
    made = SOLVERS[solver].make(max_iter=7, tol=1e-3)
    assert dataclasses.is_dataclass(made)
    assert (made.max_iter, made.tol) == (7, 1e-3)
    assert made == SOLVERS[solver].make(max_iter=7, tol=1e-3)
    for field in dataclasses.fields(made):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, 1)


@solvers
def test_a_solver_can_be_used_again(solver):
    minimizer = SOLVERS[solver].make(max_iter=100, tol=1e-6)
    objective = _objective("softmax", _data("softmax"), [1.0])
    first, second = (minimizer.minimize(objective, _zero(objective), lambda _: False) for _ in range(2))
    assert torch.equal(first.w, second.w)
    assert first.n_iter == second.n_iter


# ---- conjugate gradients ----


def _solve(curvature: Fisher, b: Tensor, n_steps: int, accuracy: Tensor) -> tuple[Tensor, Tensor]:
    diagonal = curvature.diagonal()
    return conjugate_gradient(curvature.product, b, lambda r: r / diagonal, n_steps, accuracy)[:2]


def test_conjugate_gradients_solve_every_problem():
    objective = _objective("binary", _data("binary"), [1e-3, 1.0, 1e3])
    curvature = objective.at(_zero(objective))
    _, gradient = objective.value_and_gradient(_zero(objective))
    accuracy = torch.full((3,), 1e-12, dtype=torch.float64)
    x, reached = _solve(curvature, -gradient, 30, accuracy)
    expected = torch.linalg.solve(curvature.matrix(), -gradient[..., None])[..., 0]
    torch.testing.assert_close(x, expected, rtol=1e-10, atol=1e-12)
    assert bool((reached <= accuracy).all())


def test_conjugate_gradients_say_when_the_steps_were_too_few():
    objective = _objective("binary", _data("binary"), [1e3])
    curvature = objective.at(_zero(objective))
    _, gradient = objective.value_and_gradient(_zero(objective))
    accuracy = torch.full((1,), 1e-10, dtype=torch.float64)
    x, reached = _solve(curvature, -gradient, 2, accuracy)
    residual = -gradient - curvature.product(x)
    # The factor of the residual in the norm of the preconditioner.
    norms = [(r.square() / curvature.diagonal()).sum(dim=1).sqrt() for r in (residual, gradient)]
    torch.testing.assert_close(reached, norms[0] / norms[1], rtol=1e-6, atol=0)
    assert float(reached) > 1e-3


def test_conjugate_gradients_of_nothing_are_nothing():
    objective = _objective("binary", _data("binary"), [1.0])
    curvature = objective.at(_zero(objective))
    accuracy = torch.full((1,), 0.1, dtype=torch.float64)
    x, reached = _solve(curvature, _zero(objective), 5, accuracy)
    assert not x.any() and not reached.any()


@losses
@kinds
def test_nothing_comes_to_the_host_during_conjugate_gradients(loss, kind, limits, monkeypatch):
    limits(few_stored=0)
    objective = _objective(loss, _data(loss, kind), [1.0, 100.0], kind)
    _, gradient = objective.value_and_gradient(_zero(objective))
    curvature = objective.at(_zero(objective))
    diagonal = curvature.diagonal()
    accuracy = torch.full((2,), 0.1, dtype=torch.float64)

    def refuse(*args, **kwargs):
        raise AssertionError("a tensor was brought to the host")

    monkeypatch.setattr(
        "torch_logreg._solvers.conjugate_gradients.looks_are_free", lambda device: False
    )  # as on any other
    names = set("cpu item numpy tolist __bool__ __float__ __int__ __index__ __array__".split())
    if kind == "CSR" and not torch.backends.mkl.is_available():
        names.remove("numpy")  # products by scipy read what is on the host already
    for name in names:
        monkeypatch.setattr(torch.Tensor, name, refuse)
    x, _, _ = conjugate_gradient(curvature.product, -gradient, lambda r: r / diagonal, 3, accuracy)
    monkeypatch.undo()
    assert torch.isfinite(x).all()


@solvers
def test_an_update_accepted_at_once_is_one_transfer_to_the_host(solver, monkeypatch):
    objective = _objective("binary", _data("binary"), [1.0])
    transfers, at = [0], []

    def counting(method):
        def counted(tensor, *args, **kwargs):
            transfers[0] += 1
            return method(tensor, *args, **kwargs)

        return counted

    def note(iteration: Iteration) -> bool:
        assert iteration.step[0] == 1
        at.append(transfers[0])
        return False

    for name in ("cpu", "item", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, counting(getattr(torch.Tensor, name)))
    # As on a device other than the CPU, where numbers are read one by one.
    for file in ("per_problem", "conjugate_gradients", "secants"):
        monkeypatch.setattr(f"torch_logreg._solvers.{file}.looks_are_free", lambda device: False)
    SOLVERS[solver].make(max_iter=3, tol=0.0).minimize(objective, _zero(objective), note)
    assert np.diff(at).tolist() == [1, 1]
