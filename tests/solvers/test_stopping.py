"""Problems that leave a batch once they are done, and steps that nobody looks back on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from helpers.datasets import load, standardised
from helpers.objectives import held_objective, streamed_objective
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.folds import FoldRows
from torch_logreg._fit.plan import natural_settings
from torch_logreg._losses.losses import LOSSES
from torch_logreg._solvers import stopping
from torch_logreg._solvers.fisher import Cholesky, Shared
from torch_logreg._solvers.in_metric import Kept, Thrift
from torch_logreg._solvers.iterate import iterate
from torch_logreg._solvers.registry import SOLVERS
from torch_logreg._solvers.search import start
from torch_logreg._solvers.stopping import Progress

CS = torch.tensor([1e-3, 1e-2, 0.1, 1.0, 10.0, 1e3], dtype=torch.float64)


def rows_of(name, n_problems, every=1):
    data = load(name)
    X, y = torch.from_numpy(standardised(data.X))[::every], torch.from_numpy(data.y)[::every]
    loss = LOSSES["binary" if data.classes == 2 else "softmax"]
    K = loss.n_outputs(data.classes)
    weights = torch.ones(1, len(y), dtype=X.dtype)
    return ArrayRows(X, loss.encode(y, X.dtype), weights, n_problems * K), loss, K


def objective_of(name, kind):
    if kind == "small":
        rows, loss, K = rows_of(name, len(CS))
        return held_objective(rows, loss, CS, K, True)
    if kind == "linear":
        rows, loss, K = rows_of(name, len(CS))
        return streamed_objective(rows, loss, CS, K, True)
    rows, loss, K = rows_of(name, 2 * len(CS))
    counts = torch.ones(2, rows.n_rows, dtype=torch.uint8)
    counts[0, ::3], counts[1, 1::3] = 0, 2
    of_folds = FoldRows(rows, counts, torch.tensor([0, 1] * len(CS)))
    return streamed_objective(of_folds, loss, CS.repeat_interleave(2), K, True)


def go_on(iteration):
    return False


def made(name, objective, **settings):
    """The solver as an estimator makes it for this objective."""
    planned = natural_settings(objective) if name == "natural-sgd" else {}
    return SOLVERS[name].make(**settings, **planned)


@pytest.mark.parametrize("kind", ["small", "linear", "folds"])
@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
@pytest.mark.parametrize("solver", ["natural-sgd", "newton-cholesky", "newton-cg"])
@pytest.mark.one_in(4)
def test_problems_that_leave_end_where_they_would_have_ended(solver, name, kind, monkeypatch):
    objective = objective_of(name, kind)
    w = torch.zeros(objective.n_problems, objective.n_parameters, dtype=torch.float64)
    solver = made(solver, objective, max_iter=200, tol=1e-6)
    monkeypatch.setattr(stopping, "LEAVE_NUMBERS", np.inf)
    together = solver.minimize(objective, w, go_on)
    monkeypatch.setattr(stopping, "LEAVE_NUMBERS", 0)
    told, left = [], []
    plain = Progress.leave

    def leave(self, directions, state):
        staying = plain(self, directions, state)
        if len(staying[1].w) < len(state.w):
            left.append(len(staying[1].w))
        return staying

    monkeypatch.setattr(Progress, "leave", leave)
    leaving = solver.minimize(objective, w, lambda i: bool(told.append(i._replace(done=i.done.copy()))))
    assert left
    assert leaving.reasons == together.reasons == ["converged"] * objective.n_problems
    assert_allclose(leaving.w, together.w, atol=1e-6)
    assert_allclose(leaving.objective, together.objective, rtol=1e-12)
    for iteration in told:  # of all problems, also of those that are gone
        assert len(iteration.objective) == len(iteration.done) == len(iteration.w) == objective.n_problems
    last = told[-1]
    assert_array_equal(last.w, leaving.w)
    assert last.done.all()
    for before, after in zip(told, told[1:], strict=False):
        gone = before.done
        assert_array_equal(after.w[gone], before.w[gone])
        assert (after.done >= gone).all()


def test_problems_without_an_end_stop_with_the_others_gone(monkeypatch):
    monkeypatch.setattr(stopping, "LEAVE_NUMBERS", 0)
    objective = objective_of("breast_cancer", "small")
    w = torch.zeros(objective.n_problems, objective.n_parameters, dtype=torch.float64)
    solution = made("natural-sgd", objective, max_iter=6, tol=1e-6).minimize(objective, w, go_on)
    assert "converged" in solution.reasons and "max_iter" in solution.reasons
    assert solution.n_iter.max() == 6 > solution.n_iter.min()
    solver = made("natural-sgd", objective, max_iter=100, tol=1e-6)
    stopped = solver.minimize(objective, w, lambda i: i.number == 5)
    assert [reason.replace("callback", "max_iter") for reason in stopped.reasons] == solution.reasons


def test_equal_starts_are_evaluated_once_for_all_folds():
    for name in ("breast_cancer", "wine"):
        objective = objective_of(name, "folds")
        few = torch.randn(len(CS), objective.n_outputs, objective.rows.n_features, dtype=torch.float64)
        raw = few.repeat_interleave(2, dim=0), few[..., 0].repeat_interleave(2, dim=0)
        w = objective.coordinates.from_raw(*raw)
        expected, at = objective.value_and_gradient(w), objective.at(w)
        found = at.value_and_gradient(n_alike=2)
        for a, b in zip(expected, found, strict=True):
            assert_allclose(b, a, rtol=1e-10, atol=1e-12)


def test_a_last_step_nobody_looks_back_on_saves_a_pass_and_ends_at_the_same_point():
    objective = objective_of("breast_cancer", "linear")
    solver = made("natural-sgd", objective, tol=1e-2)
    w = solver.minimize(objective, torch.zeros(len(CS), 31).double(), go_on).w

    def run(look_back):
        metric = Cholesky(objective)
        metric.update(objective.at(w))
        progress = Progress(objective, 1e-6, 100, go_on)
        read = objective.rows.rows_read
        directions = Kept(objective, Shared(metric, 1), Thrift(1e-6, 10), is_good=False, look_back=look_back)
        solution = progress.solution(iterate(directions, start(objective, w), progress))
        return solution, (objective.rows.rows_read - read) // objective.rows.n_rows

    (looked, n_looked), (blind, n_blind) = run(True), run(False)
    assert looked.reasons == blind.reasons == ["converged"] * len(CS)
    assert n_blind == n_looked - 1
    assert_allclose(blind.w, looked.w, atol=1e-9)
    assert_array_equal(blind.n_iter, looked.n_iter)
