"""What every kind of objective promises: its values, slopes and curvature are of one function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

from helpers.losses import classes_for
from helpers.objectives import held_objective, sparse_rows_objective, streamed_objective
from helpers.subclasses import subclasses
from torch_logreg._contracts.objective import Curved, Factorable, Objective
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear.elastic_net import ElasticNetObjective
from torch_logreg._linear.many_outputs import many_outputs
from torch_logreg._linear.minibatches import MinibatchObjective
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.streamed import Streamed
from torch_logreg._losses.criteria import resolve_criterion
from torch_logreg._losses.losses import LOSSES
from torch_logreg._losses.penalties import ElasticNet
from torch_logreg._modules.build import build_module
from torch_logreg._modules.objective import ModuleObjective


def _rows(loss: str, X, n_problems: int = 2, encoded: bool = True) -> ArrayRows:
    rng = np.random.default_rng(1)
    n, rule = X.shape[0], LOSSES[loss]
    codes = torch.from_numpy(rng.integers(classes_for(LOSSES[loss]), size=n))
    weights = torch.from_numpy(rng.integers(0, 4, size=(1, n)).astype(float))
    X = X if scipy.sparse.issparse(X) else torch.from_numpy(X)
    target = rule.encode(codes, torch.float64) if encoded else codes
    return ArrayRows(X, target, weights, n_problems * rule.n_outputs(classes_for(LOSSES[loss])))


def _dense(n: int = 60, d: int = 4) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(n, d)) + 0.5) * (rng.random((n, d)) < 0.7) * 10.0 ** np.arange(d)


def _settings(loss: str, n_problems: int = 2) -> tuple:
    C = torch.tensor([0.5, 20.0][:n_problems], dtype=torch.float64)
    return LOSSES[loss], C, LOSSES[loss].n_outputs(classes_for(LOSSES[loss]))


def in_passes(loss: str, X) -> Objective:
    return streamed_objective(_rows(loss, X), *_settings(loss), True)


def of_minibatches(loss: str) -> Objective:
    rows, (rule, C, n_outputs) = _rows(loss, _dense()), _settings(loss)
    return MinibatchObjective(rows, Streamed(rows, LinearModel(rule, C, n_outputs, True)), rule)


def held(loss: str) -> Objective:
    rule, C, n_outputs = _settings(loss)
    return held_objective(_rows(loss, _dense()), rule, C, n_outputs, True)


def of_many_outputs(loss: str) -> Objective:
    rule, C, n_outputs = _settings(loss, 1)
    return many_outputs(_rows(loss, _dense(), 1), LinearModel(rule, C, n_outputs, True), 0)


def in_the_space_of_the_rows(loss: str) -> Objective:
    X = scipy.sparse.random_array((1_100, 11_050), density=2e-3, format="csr", rng=np.random.default_rng(0))
    rule, C, n_outputs = _settings(loss, 1)
    return sparse_rows_objective(_rows(loss, X, 1), rule, C, n_outputs, True)[0]


def with_l1(loss: str) -> Objective:
    rule, _, n_outputs = _settings(loss, 1)
    rows = _rows(loss, _dense(), 1)
    return ElasticNetObjective(rows, rule, ElasticNet(0.01, 0.1), n_outputs, True, torch.float64)


def of_a_module(loss: str) -> Objective:
    rule = resolve_criterion(None, classes_for(LOSSES[loss]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, rule.n_outputs))
    rows = _rows(loss, _dense() / 10.0 ** np.arange(4), 1, encoded=False)
    built = build_module(module, 4, rule.n_outputs, torch.float64, torch.device("cpu"))
    return ModuleObjective(rows, built, rule, 0.7)


OBJECTIVES: dict[str, Callable[[str], Objective]] = {
    "in passes": lambda loss: in_passes(loss, _dense()),
    "in passes over CSR": lambda loss: in_passes(loss, scipy.sparse.csr_array(_dense())),
    "minibatches": of_minibatches,
    "held columns": held,
    "many outputs": of_many_outputs,
    "the space of sparse rows": in_the_space_of_the_rows,
    "an L1 term": with_l1,
    "a module": of_a_module,
}
kinds = pytest.mark.parametrize("kind", OBJECTIVES)
losses = pytest.mark.parametrize("loss", LOSSES)


def _start(objective: Objective) -> torch.Tensor:
    if isinstance(objective, ModuleObjective):
        return objective.start()
    w = torch.zeros(objective.n_problems, objective.n_parameters, dtype=objective.dtype)
    return w - 0.3 * objective.hints.natural(objective.value_and_gradient(w)[1])


def _line(kind: str, loss: str) -> tuple[Objective, torch.Tensor, torch.Tensor, torch.Tensor]:
    """An objective, a point, a descent direction there and the slope along it, (P,)."""
    objective = OBJECTIVES[kind](loss)
    w = _start(objective)
    gradient = objective.value_and_gradient(w)[1]
    direction = -objective.hints.natural(gradient)
    return objective, w, direction, (gradient * direction).sum(dim=1)


def test_all_kinds_of_objectives_are_here():
    assert {type(make("binary")) for make in OBJECTIVES.values()} == subclasses(Objective)


@kinds
@losses
def test_both_ways_to_the_value_agree(kind, loss):
    objective, w, _, _ = _line(kind, loss)
    value, gradient = objective.value_and_gradient(w)
    assert value.shape == (objective.n_problems,) and gradient.shape == w.shape
    torch.testing.assert_close(objective.value(w), value, rtol=1e-12, atol=0)


@kinds
@losses
def test_the_gradient_is_the_slope_of_the_value(kind, loss):
    objective, w, direction, slope = _line(kind, loss)
    h = 1e-5
    difference = (objective.value(w + h * direction) - objective.value(w - h * direction)) / (2 * h)
    torch.testing.assert_close(difference, slope, rtol=1e-5, atol=1e-9)


@kinds
@losses
def test_the_value_falls_along_the_natural_direction(kind, loss):
    objective, w, direction, slope = _line(kind, loss)
    assert (slope < 0).all()
    assert (objective.value(w + 1e-3 * direction) < objective.value(w)).all()


@kinds
@losses
def test_the_curvature_is_that_of_the_value(kind, loss):
    objective, w, direction, slope = _line(kind, loss)
    if not isinstance(objective, Curved):
        return
    h = 1e-3
    up, down = (objective.value_and_gradient(w + step * direction)[1] for step in (h, -h))
    expected = ((up - down) * direction).sum(dim=1) / (2 * h)
    found = (objective.at(w).product(direction) * direction).sum(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-12)


@kinds
@losses
def test_the_matrix_and_its_diagonal_are_those_of_the_products(kind, loss):
    objective, w, _, _ = _line(kind, loss)
    if not isinstance(objective, Factorable):
        return
    curvature = objective.at(w)
    unit = torch.eye(objective.n_parameters, dtype=w.dtype)
    products = torch.stack([curvature.product(row.expand_as(w).contiguous()) for row in unit], dim=2)
    torch.testing.assert_close(curvature.diagonal(), products.diagonal(dim1=1, dim2=2), rtol=1e-9, atol=1e-12)
    v = torch.randn(objective.n_outputs, 5, dtype=w.dtype, generator=torch.Generator().manual_seed(0))
    if objective.n_outputs > 1:  # the matrix is made regular along what all classes have in common
        v -= v.mean(dim=0)
    torch.testing.assert_close(curvature.matrix() @ v.flatten(), products @ v.flatten(), rtol=1e-7, atol=1e-9)


@kinds
@losses
def test_a_problem_that_is_selected_is_as_it_was(kind, loss):
    objective, w, _, _ = _line(kind, loss)
    if not isinstance(objective, Curved):
        return
    last = np.array([objective.n_problems - 1])
    alone = objective.select(last)
    if alone is None:
        assert objective.n_problems == 1
        return
    for found, expected in zip(
        alone.value_and_gradient(w[last]), objective.value_and_gradient(w), strict=True
    ):
        torch.testing.assert_close(found, expected[last], rtol=1e-10, atol=1e-13)
