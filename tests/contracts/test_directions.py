"""What all directions promise that `iterate` may be given, and metrics and stopping rules with them."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from helpers.datasets import load, standardised
from helpers.objectives import held_objective
from helpers.subclasses import subclasses
from torch_logreg._contracts.objective import Batch
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear.many_outputs import many_outputs
from torch_logreg._linear.model import LinearModel
from torch_logreg._losses.losses import LOSSES
from torch_logreg._solvers.conjugate_gradients import NewtonCG
from torch_logreg._solvers.directions import Directions
from torch_logreg._solvers.fisher import Cholesky, Kronecker, Metric, PerOutput, SampledFisher, Shared
from torch_logreg._solvers.in_metric import Factorising, Kept, Renewed, Thrift, exact_metric
from torch_logreg._solvers.iterate import iterate
from torch_logreg._solvers.lbfgs import SecantDirections
from torch_logreg._solvers.per_problem import array
from torch_logreg._solvers.search import backtrack, start
from torch_logreg._solvers.stopping import OnSample, Progress, Rule

TOL, THRIFT = 1e-6, Thrift(1e-6, memory=10)


def _shared(objective):
    metric = Cholesky(objective)
    metric.update(objective.at(objective.zeros()))
    return Shared(metric, 1)


def _many_outputs(objective):
    C = torch.ones(1, dtype=torch.float64)
    return many_outputs(objective.rows, LinearModel(objective.loss, C, objective.n_outputs, True), 0)


def _kept(metric):
    return lambda objective: Kept(objective, metric(objective), THRIFT, is_good=False)


METRICS = {
    "cholesky": Cholesky,
    "exact": lambda objective: exact_metric(objective, TOL),
    "sampled": lambda objective: SampledFisher(objective, objective, objective.rows.n_rows, exact=False),
    "kronecker": lambda objective: Kronecker(objective, objective, objective.rows.n_rows),
    "outputs": lambda objective: PerOutput(_many_outputs(objective)),
    "shared": _shared,
}
DIRECTIONS = {
    "renewed cholesky": lambda objective: Renewed(objective, Cholesky(objective), THRIFT),
    "factorising": lambda objective: Factorising(objective, THRIFT),
    "renewed exact": lambda objective: Renewed(objective, exact_metric(objective, TOL), THRIFT),
    "kept cholesky": _kept(Cholesky),
    "kept sampled": _kept(METRICS["sampled"]),
    "kept kronecker": _kept(METRICS["kronecker"]),
    "kept shared": _kept(_shared),
    "conjugate gradients": lambda objective: NewtonCG(objective, TOL),
    "secants": lambda objective: SecantDirections(objective, TOL, 10),
}

of_each_kind = pytest.mark.parametrize("kind", DIRECTIONS)
on_each_data = pytest.mark.parametrize("name", ["breast_cancer", "wine"])
of_each_number = pytest.mark.parametrize("C", [[0.1], [1e-2, 1.0, 1e2]], ids=["one", "three"])


def objective_of(name, C, every=1):
    data = load(name)
    X, y = torch.from_numpy(standardised(data.X))[::every], torch.from_numpy(data.y)[::every]
    loss = LOSSES["binary" if data.classes == 2 else "softmax"]
    K = loss.n_outputs(data.classes)
    rows = ArrayRows(X, loss.encode(y, X.dtype), torch.ones(1, len(y), dtype=X.dtype), len(C) * K)
    return held_objective(rows, loss, torch.tensor(C, dtype=torch.float64), K, True)


def solve(directions, objective, max_iter=200):
    progress = Progress(objective, TOL, max_iter, lambda iteration: False)
    return progress.solution(iterate(directions, start(objective, objective.zeros()), progress))


@pytest.mark.parametrize("contract", [Directions, Metric, Rule])
def test_a_contract_is_abstract(contract):
    assert inspect.isabstract(contract)


def test_all_directions_and_metrics_are_here():
    objective = objective_of("wine", [1.0])
    assert {type(make(objective)) for make in DIRECTIONS.values()} == subclasses(Directions)
    assert {type(make(objective)) for make in METRICS.values()} == subclasses(Metric)


@of_each_kind
@on_each_data
@of_each_number
def test_a_first_direction_descends_and_teaches_of_each_problem(kind, name, C):
    objective = objective_of(name, C)
    state, done = start(objective, objective.zeros()), np.zeros(len(C), dtype=bool)
    done = done if len(C) > 1 else False
    directions = DIRECTIONS[kind](objective).escalate(done)
    direction = directions.direction(state)
    assert direction.shape == state.w.shape
    assert (torch.linalg.vecdot(state.gradient, direction) < 0).all()
    assert directions.judge(state.gradient).shape == (len(C),)
    trial = backtrack(objective, state, direction, directions.judge)
    lesson = directions.learn(state, trial, done)
    trust, improvable = array(lesson.trust), array(lesson.improvable)
    assert trust.shape == improvable.shape == (len(C),) and improvable.dtype == bool
    assert ((0 <= trust) & (trust <= 1)).all()
    assert directions.escalate(done) is directions  # a good step is no reason to give up


@of_each_kind
@on_each_data
@of_each_number
def test_all_directions_lead_to_the_optimum(kind, name, C):
    objective = objective_of(name, C)
    solution = solve(DIRECTIONS[kind](objective), objective)
    assert solution.reasons == ["converged"] * len(C)
    expected = solve(Renewed(objective, Cholesky(objective), THRIFT), objective)
    assert_allclose(solution.objective, expected.objective, rtol=1e-11)
    for each in (solution.objective, solution.gradient_norm, solution.n_iter):
        assert isinstance(each, np.ndarray) and each.shape == (len(C),)


@pytest.mark.parametrize("kind", [kind for kind in DIRECTIONS if kind != "factorising"])
@on_each_data
def test_one_problem_of_plain_numbers_is_solved_as_two_of_arrays_are(kind, name):
    (one, two), solutions = ([0.1], [0.1, 0.1]), []
    for C in (one, two):
        objective = objective_of(name, C)
        solutions.append(solve(DIRECTIONS[kind](objective), objective))
    alone, both = solutions
    assert_array_equal(both.n_iter, np.repeat(alone.n_iter, 2))
    assert_allclose(both.w, alone.w.repeat(2, 1), rtol=1e-6, atol=1e-8)


@of_each_kind
@on_each_data
def test_some_problems_go_on_as_they_would_among_all(kind, name):
    objective = objective_of(name, [1e-2, 1.0, 1e2])
    directions, state = DIRECTIONS[kind](objective), start(objective, objective.zeros())
    nobody, done = np.zeros(3, dtype=bool), np.array([True, False, False])
    for _ in range(2):
        directions = directions.escalate(nobody)
        trial = backtrack(objective, state, directions.direction(state), directions.judge)
        directions.learn(state, trial, nobody)
        state = trial.state
    assert not directions.may_leave(nobody).any()
    leaving = directions.may_leave(done)
    assert (leaving <= done).all()
    staying = np.array([1, 2])
    fewer = directions.select(staying)
    if fewer is None:
        assert not leaving.any()
        return
    assert fewer.objective.n_problems == 2
    expected = directions.escalate(nobody).direction(state)[1:]
    found = fewer.escalate(nobody[1:]).direction(state.select(staying, fewer.objective))
    assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("kind", METRICS)
@of_each_number
def test_a_metric_is_solved_with_and_measures_gradients(kind, C):
    C = C[:1] if kind == "outputs" else C  # which is of one problem
    objective = objective_of("wine", C)
    metric, (_, gradient) = METRICS[kind](objective), objective.value_and_gradient(objective.zeros())
    metric.due(0, contracting=False, full_step=True)
    metric.update(objective.at(objective.zeros()))
    for solved in (metric.solve(gradient), metric.size(gradient)):
        assert solved.shape == gradient.shape and solved.dtype == gradient.dtype
        assert (torch.linalg.vecdot(gradient, solved) > 0).all()
    assert metric.failed.shape == (len(C),) and not metric.failed.any()


def test_a_sample_is_solved_as_far_as_its_sampling_error_goes():
    objective = objective_of("breast_cancer", [1.0])
    sample = objective_of("breast_cancer", [1.0], every=4)
    for error, least, most in ((np.inf, 1, 1), (1e-2, 2, 6), (0.0, 8, 25)):
        told = []
        progress = Progress(objective, TOL, 100, lambda iteration, told=told: told.append(iteration.number))
        rule, at = OnSample(progress, Batch(sample, error, sample.rows.n_rows)), start(sample, sample.zeros())
        iterate(Renewed(sample, Cholesky(sample), THRIFT), at, rule)
        assert least <= len(told) <= most and told == list(range(len(told)))
        assert not progress.finished and not progress.at_start and not progress.done


def test_a_sample_ends_with_max_iter_and_the_callback_of_the_fit():
    objective = objective_of("breast_cancer", [1.0])
    for max_iter, last, reason in ((3, 100, "max_iter"), (100, 1, "callback")):
        progress = Progress(objective, TOL, max_iter, lambda iteration, last=last: iteration.number == last)
        rule, at = OnSample(progress, Batch(objective, 0.0, 569)), start(objective, objective.zeros())
        state = iterate(Renewed(objective, Cholesky(objective), THRIFT), at, rule)
        solution = progress.solution(state)
        assert progress.finished and solution.reasons == [reason]
        assert solution.n_iter.tolist() == [min(max_iter, last + 1)]
