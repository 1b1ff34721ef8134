"""Natural-gradient descent: steps in the metric of the Fisher matrix."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Batch, Curved, Factorable
from torch_logreg._contracts.solver import Callback, Solution, Solver
from torch_logreg._runtime.out_of_memory import check_room
from torch_logreg._solvers.conjugate_gradients import NewtonCG
from torch_logreg._solvers.fisher import (
    CONTRACTION,
    Cholesky,
    Kronecker,
    Metric,
    NewtonCholesky,
    SampledFisher,
)
from torch_logreg._solvers.newton import SmallNewton
from torch_logreg._solvers.search import State, Trial, backtrack, start
from torch_logreg._solvers.secants import Pair, quasi_newton_direction
from torch_logreg._solvers.stopping import Progress

MEMORY = 10  # secant pairs
LONG = 15  # updates, see `Descent`
BATCH_ACCURACY = 1.0  # of what sampling alone leaves of the decrement
BATCH_UPDATES = 25  # at most, on one sample of the rows
PEAK = 3.3  # matrices held while one is made and factorised, as measured


def _exact(objective: Factorable, tol: float | None) -> Metric:
    return SampledFisher(objective, objective.rough(), objective.rows.n_rows, True, tol)


def _sampled(objective: Factorable, tol: float | None) -> Metric:
    sample, _, n_rows = objective.batches[-1]
    return SampledFisher(objective, sample.rough(), n_rows, exact=False)


def _kronecker(objective: Factorable, tol: float | None) -> Metric:
    sample, _, n_rows = objective.batches[-1]
    return Kronecker(objective, sample, n_rows)


METRICS: dict[str, Callable[[Factorable, float | None], Metric | None]] = {
    "cholesky": lambda objective, tol: Cholesky(objective),
    "products": lambda objective, tol: None,
    "exact": _exact,
    "sampled": _sampled,
    "kronecker": _kronecker,
}


@dataclass(frozen=True)
class NaturalSGD(Solver[Curved]):
    """Natural-gradient steps on growing batches of rows, with backtracking.

    The step is ``-F⁻¹ gradient`` with F the Fisher matrix, for the losses here the Hessian. Where the
    objective has batches, each is solved as far as its sampling error goes, starting from the solution of the
    one before. All rows then take over with the metric of the last batch, corrected by secant pairs; while
    steps in it contract the gradient it is kept, else it is computed anew from all rows. Without batches this
    is the damped Newton method, or with `lazy` its modification that factorises as rarely.

    Parameters
    ----------
    max_iter : int
    tol : float or None
    metric : {"cholesky", "products", "exact", "sampled", "kronecker"}
        F factorised; only multiplied with; multiplied with, and preconditioned by its Kronecker factors, over
        all rows or over those of the last batch; or these factors alone.
    lazy : bool
        Whether a metric may be kept for several steps.
    kept_work : int
        Multiplications for a Fisher matrix up to which a new one is made for every step all the same.
    late_work : int
        The same up to which exact steps are made once there have been many.

    References
    ----------
    Amari (1998), Natural gradient works efficiently in learning, Neural Computation 10(2).
    Byrd, Chin, Nocedal, Wu (2012), Sample size selection in optimization methods for machine learning,
    Mathematical Programming 134.
    Roosta-Khorasani, Mahoney (2019), Sub-sampled Newton methods, Mathematical Programming 174.
    Nocedal, Wright (2006), Numerical Optimization, 2nd ed., chapters 3, 6 and 7.
    """

    max_iter: int = 100
    tol: float | None = 1e-4
    metric: Literal["cholesky", "products", "exact", "sampled", "kronecker"] = "cholesky"
    lazy: bool = True
    kept_work: int = 0
    late_work: int = 0

    def minimize(self, objective: Curved, w: Tensor, callback: Callback) -> Solution:
        whole = objective.factorable()
        metric = None if whole is None else self._metric(whole)
        progress = Progress(objective, self.tol)
        if whole is None or metric is None:
            return self._newton(NewtonCG(objective, self.tol), w, progress, callback)
        own = metric.exact and not isinstance(metric, Cholesky)
        lazy = self.lazy and not own and _work(whole) > self.kept_work
        if isinstance(metric, Cholesky) and not lazy and not whole.batches:
            if whole.n_problems == 1:
                return SmallNewton(whole, self.max_iter, self.tol, callback).run(w)
            return self._newton(NewtonCholesky(whole), w, progress, callback)
        works = (self.kept_work, self.late_work)
        return Descent(whole, metric, lazy, self.max_iter, progress, callback, works).run(w)

    def _metric(self, objective: Factorable) -> Metric | None:
        """None for the Fisher matrix by its products with all rows alone."""
        self._check_room(objective)
        return METRICS[self.metric](objective, self.tol)

    def _check_room(self, objective: Factorable) -> None:
        """Raise MemoryError if the matrices of the metric are too large for the device."""
        P, p, K = objective.n_problems, objective.n_parameters, objective.n_outputs
        whole = self.metric == "cholesky"
        numbers = {"cholesky": p**2, "products": 0}.get(self.metric, K**2 + (p // K) ** 2)
        what, instead = ("natural-sgd", "lbfgs") if self.lazy else ("newton-cholesky", "auto")
        size = f"{p} x {p}" if whole else f"{K} x {K} and {p // K} x {p // K}"
        check_room(
            P * PEAK * objective.dtype.itemsize * numbers,
            objective.rows.device,
            f"solver={what!r} makes matrices of {size} numbers for each of {P} problem(s), which",
            f"use solver='newton-cg' or {instead!r}, which make none",
        )

    def _started(self, objective: Curved, w: Tensor, progress: Progress, callback: Callback) -> State:
        """Where to start on all rows: from what samples tell, if that is better than no coefficients."""
        if bool(w.any()) or not objective.batches:
            return start(objective, w)
        reached, before = w, np.inf
        for batch in objective.batches:
            newton, state = NewtonCG(batch.objective, None), start(batch.objective, reached)
            before = min(before, float(state.objective.max()))
            for _ in range(BATCH_UPDATES):
                direction, accurate = newton.direction(state)
                trial = backtrack(batch.objective, state, direction, accurate)
                newton.adapt(trial.verdict > 0)
                progress.record_batch(state, trial, callback)
                state = trial.state
                enough = trial.decrement <= BATCH_ACCURACY * batch.error
                if (
                    enough.all()
                    or not trial.step.any()
                    or progress.updates >= self.max_iter
                    or progress.done.all()
                ):
                    break
            reached = state.w
        state = start(objective, reached)
        # Without coefficients every row has the same loss, so that of a sample is that of all.
        return state if float(state.objective.max()) <= before else start(objective, w)

    def _newton(
        self,
        newton: NewtonCG | NewtonCholesky,
        w: Tensor,
        progress: Progress,
        callback: Callback,
    ) -> Solution:
        objective = newton.objective
        state = self._started(objective, w, progress, callback)
        while progress.updates < self.max_iter and not progress.done.all():
            direction, accurate = newton.direction(state)
            if not progress.updates:
                direction = objective.hints.stretch(state.w, direction)
            trial = backtrack(objective, state, progress.freeze(direction), accurate)
            trust = trial.verdict
            finished = progress.record(state, trial, trust, newton.adapt(trust > 0), callback)
            state = trial.state
            if finished:
                break
            staying = progress.staying(newton.may_leave(progress.done))
            if staying is not None and (fewer := newton.select(staying)) is not None:
                objective, newton = fewer.objective, fewer
                state = progress.leave(state, staying)
        return progress.solution(state)


def _work(objective: Factorable) -> int:
    """Multiplications for a Fisher matrix of each problem."""
    return objective.n_problems * objective.rows.n_rows * objective.n_parameters**2


class Descent:
    """One run of `NaturalSGD` with a metric that can be solved with.

    Without `look_back` the last step, which a metric shown to be good predicts, is not evaluated: the
    solution's objective is that of the point before.
    """

    def __init__(
        self,
        objective: Factorable,
        metric: Metric,
        lazy: bool,
        max_iter: int,
        progress: Progress,
        callback: Callback,
        works: tuple[int, int] = (0, 0),  # `kept_work` and `late_work` of `NaturalSGD`
        look_back: bool = True,
    ) -> None:
        self._objective, self._metric, self._lazy = objective, metric, lazy
        self._max_iter, self._progress, self._callback = max_iter, progress, callback
        self._kept_work, self._late_work = works
        self._look_back = look_back

    def run(self, w: Tensor, state: State | None = None) -> Solution:
        """From the weights `w`, or from a state there if that is known."""
        progress, metric, contracting = self._progress, self._metric, False
        if state is None:
            state, contracting = self._on_batches(w) if self._objective.batches else (self._start(w), False)
        pairs: deque[Pair] = deque(maxlen=MEMORY)
        first, full_step, n_failures = progress.updates, True, 0.0
        while progress.updates < self._max_iter and not progress.done.all():
            if n_failures > metric.patience:
                # The Fisher matrix of all rows: a sample has shown to say too little of them.
                metric = self._metric = _exact(self._objective, progress.tol)
                self._lazy = False
                pairs.clear()
            if isinstance(metric, SampledFisher) and self._should_factorise(progress.updates - first):
                if len(progress.n_iter) == 1:  # it has a line search for such problems
                    newton = SmallNewton(
                        self._objective, self._max_iter, progress.tol, self._callback, progress.updates
                    )
                    return newton.run(state.w)
                metric = self._metric = Cholesky(self._objective)
            fresh = metric.due(progress.updates - first, contracting, full_step)
            if fresh:
                metric.update(self._objective, state.w)
                if metric.exact:
                    pairs.clear()
            direction = quasi_newton_direction(state.gradient, pairs, metric.solve, metric.scaled)
            if contracting and not self._look_back and (last := self._last(state, direction)) is not None:
                progress.record(state, last, np.ones_like(last.step), last.step > 0, self._callback)
                return progress.solution(last.state)
            verdict = self._contraction(state.gradient) if self._lazy else self._failure()
            trial = backtrack(self._objective, state, progress.freeze(direction), verdict)
            contracted = trial.verdict <= CONTRACTION
            exact = fresh and metric.exact
            belief = metric.belief if metric.proves or not exact else 0.0
            trust = np.where(contracted | (exact & metric.proves & (trial.verdict < np.inf)), 1.0, belief)
            improvable = metric.learn(state, trial) if fresh else np.full(trust.shape, True)
            if not metric.exact and bool(((trial.step == 0) & ~progress.done).any()):
                # That is no proof that nothing can be gained: all rows have the last word.
                improvable, n_failures = np.full(trust.shape, True), metric.patience + 1
            progress.record(state, trial, trust, improvable, self._callback)
            n_failures += self._lazy and not bool((contracted | progress.done).all())
            contracting = self._lazy and bool((contracted | progress.done).all())
            full_step = bool(((trial.step == 1) | progress.done).all())
            if self._lazy:
                after = trial.state
                pairs.append(
                    Pair.between(state.w, state.gradient, after.w, after.gradient, self._objective.rows.dtype)
                )
            state = trial.state
            staying = progress.staying(metric.may_leave(progress.done))
            if (
                staying is not None
                and (fewer := self._objective.select(staying)) is not None
                and (narrower := metric.select(staying)) is not None
            ):
                self._objective, self._metric = fewer, narrower
                if isinstance(metric, Cholesky):
                    self._lazy = self._lazy and _work(fewer) > self._kept_work
                metric, state = narrower, progress.leave(state, staying)
                index = torch.as_tensor(staying, dtype=torch.int64, device=w.device)
                pairs = deque((pair.select(index) for pair in pairs), maxlen=MEMORY)
        return progress.solution(state)

    def _last(self, state: State, direction: Tensor) -> Trial | None:
        """The step to the solution of all problems, if that is what it is."""
        decrement = -torch.linalg.vecdot(state.gradient, direction).cpu().numpy()
        if not self._progress.ends(state, decrement):
            return None
        after = state._replace(w=state.w + self._progress.freeze(direction))
        nothing, step = np.zeros(len(decrement)), np.ones(len(decrement))
        return Trial(after, step, decrement, nothing, lambda: self._objective.hints.reach(direction), nothing)

    def _should_factorise(self, n_updates: int) -> bool:
        """Whether many steps, as where classes are nearly separable, are best made exact ones.

        Until then directions as accurate as the quadratic model has shown to be are cheaper.
        """
        is_small = _work(self._objective) <= self._late_work
        return self._metric.exact and n_updates >= LONG and is_small

    def _start(self, w: Tensor) -> State:
        return start(self._objective, w)

    def _failure(self) -> Tensor:
        return torch.where(self._metric.succeeded, 0.0, torch.inf)

    def _contraction(self, before: Tensor) -> Callable[[Tensor], Tensor]:
        """By how much a step shrinks the gradient in the metric, (P,); infinite without a metric."""
        metric = self._metric
        norm = torch.linalg.vecdot(before, metric.size(before))

        def of(after: Tensor) -> Tensor:
            ratio = (torch.linalg.vecdot(after, metric.size(after)) / norm).sqrt()
            return torch.where(norm > 0, torch.where(metric.succeeded, ratio, torch.inf), 0.0)

        return of

    def _on_batches(self, w: Tensor) -> tuple[State, bool]:
        """Solve on samples of the rows; the state on all rows, and whether the metric is good there."""
        batches = [batch for batch in self._objective.batches if batch.error < np.inf]
        if not batches:
            return self._start(w), True
        if bool(w.any()):
            first = self._start(w)
            self._metric.update(batches[-1].objective, w)
            decrement = torch.linalg.vecdot(first.gradient, self._metric.size(first.gradient))
            if bool((decrement <= batches[-1].error).all()):  # nothing that a sample could improve
                return first, True
            before = first.objective
        else:  # without coefficients every row has the same loss
            before = start(batches[0].objective, w).objective
        reached = w
        for batch in batches:
            reached = self._on_batch(batch, reached)
        state = self._start(reached)
        worse = ~(state.objective <= before)
        if not worse.any():
            return state, True
        back = torch.as_tensor(worse, dtype=torch.bool, device=w.device)[:, None]
        return self._start(torch.where(back, w, reached)), False

    def _on_batch(self, batch: Batch, w: Tensor) -> Tensor:
        progress, metric, state = self._progress, self._metric, start(batch.objective, w)
        for _ in range(BATCH_UPDATES):
            if progress.updates >= self._max_iter or progress.done.all():
                break
            metric.update(batch.objective, state.w)
            direction = metric.solve(-state.gradient)
            trial = backtrack(batch.objective, state, direction, self._failure())
            progress.record_batch(state, trial, self._callback)
            metric.learn(state, trial)
            state = trial.state
            if (trial.decrement <= BATCH_ACCURACY * batch.error).all():
                break
        return state.w
