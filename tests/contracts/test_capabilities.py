"""What each kind of objectives can do, and that a solver refuses one that lacks what it needs."""

from __future__ import annotations

import ast
import inspect
import re
import typing
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

import torch_logreg
from helpers.objectives import held_objective, streamed_objective
from helpers.subclasses import subclasses
from torch_logreg._contracts.composite import Composite, Working
from torch_logreg._contracts.objective import Curved, Factorable, Fisher, Hints, Objective, Stochastic
from torch_logreg._contracts.rows import Drawable, Gatherable, Minibatched, Rows
from torch_logreg._contracts.solver import Solver
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.folds import FoldRows
from torch_logreg._linear.elastic_net import ElasticNetObjective
from torch_logreg._linear.many_outputs import many_outputs
from torch_logreg._linear.minibatches import MinibatchObjective
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.objective import LinearObjective
from torch_logreg._linear.sparse_columns import by_column
from torch_logreg._linear.sparse_row_space import SparseRows
from torch_logreg._linear.streamed import Streamed
from torch_logreg._losses.criteria import resolve_criterion
from torch_logreg._losses.losses import LOSSES
from torch_logreg._losses.penalties import ElasticNet
from torch_logreg._modules.objective import ModuleObjective
from torch_logreg._solvers.registry import SOLVERS, WITH_L1, make_solver

N, D = 40, 3
LOSS = LOSSES["binary"]
X = np.random.default_rng(0).normal(size=(N, D))
WEIGHTS = np.random.default_rng(1).uniform(0.5, 2.0, size=(2, N))
ONE = torch.tensor([0.7], dtype=torch.float64)


def array_rows(weights=WEIGHTS, sparse=False):
    target = torch.from_numpy((X[:, 0] > 0).astype(float))
    features = scipy.sparse.csr_array(X) if sparse else torch.from_numpy(X)
    return ArrayRows(features, target, torch.from_numpy(weights), 1)


def fold_rows():
    counts = torch.from_numpy(np.random.default_rng(2).integers(0, 3, size=(2, N)))
    return FoldRows(array_rows(WEIGHTS[:1]), counts, torch.tensor([0, 1]))


def linear():
    return streamed_objective(fold_rows(), LOSS, ONE.expand(2), 1, True)


def minibatches():
    rows = array_rows(WEIGHTS[:1])
    return MinibatchObjective(rows, Streamed(rows, LinearModel(LOSS, ONE, 1, True)), LOSS)


def held():
    return held_objective(array_rows(WEIGHTS[:1]), LOSS, ONE, 1, True)


def of_many_outputs():
    return many_outputs(array_rows(WEIGHTS[:1]), LinearModel(LOSS, ONE, 1, True), 0)


def of_sparse_rows():
    rows = array_rows(WEIGHTS[:1], sparse=True)
    shares = WEIGHTS[0] / WEIGHTS[0].sum()
    columns = by_column(rows.sparse, shares, rows.check_finite)
    return LinearObjective(SparseRows(rows, LinearModel(LOSS, ONE, 1, True), columns), LOSS)


def with_l1():
    loss = LOSSES["binary"]
    return ElasticNetObjective(array_rows(WEIGHTS[:1]), loss, ElasticNet(0.1, 0.1), 1, True, torch.float64)


def of_a_module():
    target = torch.from_numpy((X[:, 0] > 0).astype(int))
    rows = ArrayRows(torch.from_numpy(X), target, torch.from_numpy(WEIGHTS[:1]), 1)
    return ModuleObjective(rows, nn.Linear(D, 1, dtype=torch.float64), resolve_criterion(None, 2), 1.0)


OBJECTIVES = {
    "linear": (linear, {Curved, Factorable}),
    "minibatches": (minibatches, {Curved, Factorable, Stochastic}),
    "held": (held, {Curved, Factorable}),
    "of many outputs": (of_many_outputs, {Curved, Factorable}),
    "of sparse rows": (of_sparse_rows, {Curved}),
    "with an L1 term": (with_l1, {Composite}),
    "of a module": (of_a_module, {Stochastic}),
}
# Words for what each contract gives to a solver that needs it.
GIVES = {
    Curved: "the curvature of F",
    Factorable: "the Fisher matrix",
    Stochastic: "gradients of minibatches",
    Composite: "an objective without an L1 term",
}
# What solvers need that share a type with others, which have further ways.
BEYOND_TYPE = {"newton-cholesky": {Factorable}}

objectives_of_each_kind = pytest.mark.parametrize("kind", OBJECTIVES)


def test_all_kinds_of_objectives_are_here():
    assert {type(make()) for make, _ in OBJECTIVES.values()} == subclasses(Objective)


@objectives_of_each_kind
def test_an_objective_can_do_what_its_kind_says(kind):
    make, abilities = OBJECTIVES[kind]
    objective = make()
    able = {kind for kind in GIVES if isinstance(objective, kind)}
    assert able == abilities
    if Curved in abilities:
        assert (objective.factorable() is objective) == (Factorable in abilities)
        assert isinstance(objective.at(objective.zeros()), Fisher) == (Factorable in abilities)
    if Stochastic in abilities:
        assert isinstance(objective.rows, Minibatched) and not objective.rows.streams
        w = objective.zeros()
        assert torch.equal(objective.epoch_value(w), objective.value(w))


@objectives_of_each_kind
def test_hints_are_harmless(kind):
    objective = OBJECTIVES[kind][0]()
    w = objective.zeros()
    _, gradient = objective.value_and_gradient(w)
    hints = objective.hints
    assert isinstance(hints, Hints)
    _leads_up(hints.natural(gradient), gradient)
    assert hints.reach(gradient).shape == (objective.n_problems,)
    if not isinstance(objective, Curved):
        return
    at = objective.at(w)
    _leads_up(at.stretch(gradient), gradient)
    diagonal, sketch, active = at.diagonal(), at.sketch(2), at.active(0.5)
    assert diagonal is None or diagonal.shape == w.shape
    assert sketch is None or sketch.rows.shape == (2, w.shape[1])
    assert active is None or torch.equal(active.w, w)


def _leads_up(direction, gradient) -> None:
    assert direction.shape == gradient.shape
    assert bool((torch.linalg.vecdot(direction, gradient) > 0).all())


@objectives_of_each_kind
def test_points_are_of_their_own_weights_whatever_was_asked_before(kind):
    """A cache keyed by which tensor the last weights were would lie once somebody writes into them."""
    objective = OBJECTIVES[kind][0]()
    if not isinstance(objective, Curved):
        return
    w = objective.zeros()
    before = objective.value_and_gradient(w)[0]
    w += 0.1
    there, expected = objective.value_and_gradient(w), objective.value_and_gradient(w.clone())
    assert bool((there[0] != before).all())
    assert torch.equal(there[0], expected[0]) and torch.equal(there[1], expected[1])
    v = torch.ones_like(w)
    assert torch.equal(objective.at(w).product(v), objective.at(w.clone()).product(v))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_needs_what_its_type_says(solver):
    made = SOLVERS[solver].make(max_iter=2, tol=None)
    bases = [base for base in type(made).__orig_bases__ if typing.get_origin(base) is Solver]
    in_type = {needed for base in bases for needed in typing.get_args(base)}
    assert {need.kind for need in SOLVERS[solver].needs} == in_type | BEYOND_TYPE.get(solver, set())


def _is_fitted(solver, objective) -> None:
    solution = solver.minimize(objective, objective.zeros(), lambda iteration: False)
    assert solution.w.shape == (objective.n_problems, objective.n_parameters)


@pytest.mark.parametrize("solver", SOLVERS)
@objectives_of_each_kind
def test_a_solver_refuses_an_objective_that_lacks_what_it_needs_and_names_another(solver, kind):
    make, abilities = OBJECTIVES[kind]
    objective, settings = make(), {"max_iter": 2, "tol": 1e-2}
    missing = [need.kind for need in SOLVERS[solver].needs if need.kind not in abilities]
    if Composite in abilities:
        missing = [] if solver in WITH_L1 else [Composite]
    if not missing:
        _is_fitted(make_solver(solver, objective, settings), objective)
        return
    with pytest.raises(ValueError, match=f"solver='{solver}' needs {GIVES[missing[0]]}.*; use ") as refusal:
        make_solver(solver, objective, settings)
    (instead,) = re.findall("use solver='([^']+)'", str(refusal.value))
    _is_fitted(make_solver(instead, objective, settings), objective)


@pytest.mark.parametrize(
    "contract",
    [Objective, Composite, Working, Curved, Factorable, Stochastic, Rows, Minibatched, Drawable, Gatherable],
)
def test_a_contract_is_abstract(contract):
    assert inspect.isabstract(contract)


def test_no_method_is_there_only_to_say_that_it_does_not_work():
    for file in Path(torch_logreg.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node)), file
