"""Directions in a metric: one that is made anew for every step, or kept while steps in it do well."""

from __future__ import annotations

import copy
from collections import deque
from typing import NamedTuple, Self, cast

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Factorable, Fisher
from torch_logreg._solvers.directions import Directions, Lesson
from torch_logreg._solvers.fisher import Cholesky, Metric, SampledFisher
from torch_logreg._solvers.per_problem import Numbers, each, every, index, no, pick, some, where
from torch_logreg._solvers.search import State, Trial
from torch_logreg._solvers.secants import Pair, quasi_newton_direction

CONTRACTION = 0.5  # of the gradient in a step, by which a metric shows that it is good


class Thrift(NamedTuple):
    """When a metric is kept, or made of all rows, or factorised. See `NaturalSGD`."""

    tol: float | None = None
    memory: int = 0  # secant pairs
    kept_work: int = 0
    late_work: int = 0


def work_of(objective: Factorable) -> int:
    """Multiplications for a Fisher matrix of each problem."""
    return objective.n_problems * objective.rows.n_rows * objective.n_parameters**2


class InMetric(Directions):
    """Directions in a metric, after `n_updates` others; all points are `Fisher`, as of a `Factorable`."""

    def __init__(self, objective: Factorable, metric: Metric, thrift: Thrift, n_updates: int = 0) -> None:
        self.objective: Factorable = objective
        self._metric, self._thrift, self._n_updates = metric, thrift, n_updates

    def may_leave(self, done: Numbers) -> Numbers:
        return self._metric.may_leave(done)

    def select(self, problems: np.ndarray) -> Self | None:
        objective, metric = self.objective.select(problems), self._metric.select(problems)
        if objective is None or metric is None:
            return None
        fewer = copy.copy(self)
        fewer.objective, fewer._metric = objective, metric
        return fewer


class Renewed(InMetric):
    """Newton directions, or those in another metric that is made anew at each point."""

    are_newton = True

    def direction(self, state: State) -> Tensor:
        self._metric.update(cast(Fisher, state.at))
        return self._metric.solve(state.gradient).neg_()

    def judge(self, reached: Tensor) -> Tensor:
        return self._metric.failed

    def learn(self, before: State, trial: Trial, done: Numbers) -> Lesson:
        self._n_updates += 1
        failed = trial.verdict != 0
        trust = where(failed, self._metric.belief, 1.0)
        return Lesson(trust, self._metric.learn(before, trial, failed))

    def escalate(self, done: Numbers) -> Directions:
        """Many steps, as where classes are nearly separable, are best made exact ones.

        Until then directions as accurate as the quadratic model has shown to be are cheaper.
        """
        if self._n_updates < self._metric.enough or work_of(self.objective) > self._thrift.late_work:
            return self
        return Factorising(self.objective, self._thrift)


class Factorising(Renewed):
    """Newton directions by a factorisation each; of one problem a few lengths of a step are tried."""

    def __init__(self, objective: Factorable, thrift: Thrift) -> None:
        super().__init__(objective, Cholesky(objective), thrift)
        self.tries_lengths = objective.n_problems == 1


class Kept(InMetric):
    """Directions in a metric that is kept while steps contract the gradient in it, with secant pairs.

    Once it has failed to do so too often, or shows no way down, that of all rows is made at each point. With
    `look_back` False a last step is not evaluated where the metric has been shown to be good.
    """

    _gradient: Tensor  # (P, n_parameters), where the last direction is from

    def __init__(
        self, objective: Factorable, metric: Metric, thrift: Thrift, is_good: bool, look_back: bool = True
    ) -> None:
        super().__init__(objective, metric, thrift)
        self._look_back, self._n_failures, self._fresh = look_back, 0.0, False
        self._pairs: deque[Pair] = deque(maxlen=thrift.memory)
        self._contracted, self._moved = (each(known, objective.n_problems) for known in (is_good, True))

    def direction(self, state: State) -> Tensor:
        metric, self._gradient = self._metric, state.gradient
        self._fresh = metric.due(self._n_updates, self._contracting, self._full_step)
        if self._fresh:
            self._metric.update(cast(Fisher, state.at))
            if metric.exact:
                self._pairs.clear()
        return quasi_newton_direction(state.gradient, self._pairs, metric.solve, metric.scaled)

    def judge(self, reached: Tensor) -> Tensor:
        """By how much a step shrinks the gradient in the metric; infinite without a metric."""
        before, after = (torch.linalg.vecdot(v, self._metric.size(v)) for v in (self._gradient, reached))
        ratio = torch.where(self._metric.failed == 0, (after / before).sqrt(), torch.inf)
        return torch.where(before > 0, ratio, 0.0)

    def learn(self, before: State, trial: Trial, done: Numbers) -> Lesson:
        metric = self._metric
        self._n_updates += 1
        self._contracted, self._moved = trial.verdict <= CONTRACTION, trial.step == 1
        is_newton = (trial.verdict < np.inf) & (self._fresh and metric.exact)
        trust = where(self._contracted | is_newton, 1.0, metric.belief)
        improvable = each(True, len(before.w))
        if self._fresh:
            improvable = metric.learn(before, trial, trial.verdict == np.inf)
        if not metric.exact and some((trial.step == 0) & no(done)):
            # That is no proof that nothing can be gained: all rows have the last word.
            improvable, self._n_failures = each(True, len(before.w)), metric.patience + 1
        self._pairs.append(Pair.between(before, trial.state, self.objective.rows.dtype))
        return Lesson(trust, improvable)

    def select(self, problems: np.ndarray) -> Self | None:
        fewer = super().select(problems)
        if fewer is None:
            return None
        here = index(problems, self.objective.rows.device)
        fewer._pairs = deque((pair.select(here) for pair in self._pairs), maxlen=self._thrift.memory)
        fewer._contracted, fewer._moved = pick(self._contracted, problems), pick(self._moved, problems)
        return fewer

    def escalate(self, done: Numbers) -> Directions:
        if self._metric.exact and work_of(self.objective) <= self._thrift.kept_work:
            return Renewed(self.objective, self._metric, self._thrift)
        self._contracting, self._full_step = every(self._contracted | done), every(self._moved | done)
        self.looks_back = self._look_back or not self._contracting
        self._n_failures += self._n_updates > 0 and not self._contracting
        if self._n_failures <= self._metric.patience:
            return self
        exact = exact_metric(self.objective, self._thrift.tol)
        return Renewed(self.objective, exact, self._thrift, self._n_updates).escalate(done)


def exact_metric(objective: Factorable, tol: float | None) -> Metric:
    """The Fisher matrix of all rows, multiplied with."""
    return SampledFisher(objective, objective.rough(), objective.rows.n_rows, True, tol)
