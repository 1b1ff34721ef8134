"""Natural-gradient descent: steps in the metric of the Fisher matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Batch, Curved, Factorable, Matrices
from torch_logreg._contracts.solver import Callback, Evaluated, Solution, Solver
from torch_logreg._runtime.out_of_memory import check_room
from torch_logreg._solvers.conjugate_gradients import NewtonCG
from torch_logreg._solvers.directions import Directions
from torch_logreg._solvers.epochs import on_minibatches
from torch_logreg._solvers.fisher import (
    Cholesky,
    Factorised,
    Kronecker,
    Metric,
    PerOutput,
    SampledFisher,
    Shared,
)
from torch_logreg._solvers.in_metric import Factorising, Kept, Renewed, Thrift, exact_metric, work_of
from torch_logreg._solvers.iterate import iterate
from torch_logreg._solvers.per_problem import array, no, some
from torch_logreg._solvers.search import State, start, state_at
from torch_logreg._solvers.stopping import OnSample, Progress

PEAK = 3.3  # matrices held while one is made and factorised, as measured


def _sampled(objective: Factorable, tol: float | None) -> Metric:
    sample, _, n_rows = objective.batches[-1]
    return SampledFisher(objective, sample.rough(), n_rows, exact=False)


def _kronecker(objective: Factorable, tol: float | None) -> Metric:
    sample, _, n_rows = objective.batches[-1]
    return Kronecker(objective, sample, n_rows)


def _outputs(objective: Factorable, tol: float | None) -> Metric:
    many = objective.by_output()
    return exact_metric(objective, tol) if many is None else PerOutput(many)


METRICS: dict[str, Callable[[Factorable, float | None], Metric]] = {
    "cholesky": lambda objective, tol: Cholesky(objective),
    "exact": exact_metric,
    "sampled": _sampled,
    "kronecker": _kronecker,
    "outputs": _outputs,
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
    metric : {"cholesky", "products", "exact", "sampled", "kronecker", "outputs"}
        F factorised; only multiplied with; multiplied with, and preconditioned by its Kronecker factors, over
        all rows or over those of the last batch; these factors alone; or the blocks of each output with
        itself, after a few epochs of minibatches.
    lazy : bool
        Whether a Fisher matrix that was factorised may be kept for several steps, as approximations are.
    kept_work : int
        Multiplications for a Fisher matrix up to which a new one is made for every step all the same.
    late_work : int
        The same up to which exact steps are made once there have been many.
    memory : int
        Secant pairs that correct a metric that is kept.
    factored_columns : int
        Columns up to which the metric "products" is preconditioned by a factorised matrix of them.

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
    metric: Literal["cholesky", "products", "exact", "sampled", "kronecker", "outputs"] = "cholesky"
    lazy: bool = True
    kept_work: int = 0
    late_work: int = 0
    memory: int = 10
    factored_columns: int = 0

    def minimize(self, objective: Curved, w: Tensor, callback: Callback) -> Solution:
        progress, whole = Progress(objective, self.tol, self.max_iter, callback), objective.factorable()
        if whole is not None:
            self._check_room(whole)
        if whole is None or self.metric == "products":
            state = _with_products(objective, w, progress)
            directions: Directions = NewtonCG(objective, self.tol, self.factored_columns)
            return progress.solution(iterate(directions, state, progress))
        directions, state = self._in_metric(whole, w, progress)
        return progress.solution(iterate(directions, state, progress))

    def metric_at(
        self, objective: Factorable, w: Tensor, moved: Callable[[Matrices], Matrices]
    ) -> Factorised:
        """The metric "cholesky" or "kronecker" at `w`, of matrices that are `moved` elsewhere."""
        whole = Batch(objective, 0.0, objective.rows.n_rows)
        sample, _, n_rows = objective.batches[-1] if objective.batches else whole
        metric: Factorised = Cholesky(objective)
        if self.metric == "kronecker":
            metric, sample = Kronecker(objective, sample, n_rows), sample.rough()
        metric.set(moved(sample.at(w.to(sample.dtype))))
        return metric

    def resume(self, objective: Factorable, known: Evaluated, metric: Metric, callback: Callback) -> Solution:
        """Minimise from a known point in a metric that serves as many problems in a row as there are.

        The last step, which a metric shown to be good predicts, is not evaluated: the solution's objective is
        that of the point before.
        """
        progress = Progress(objective, self.tol, self.max_iter, callback)
        shared = Shared(metric, objective.n_problems // len(metric.failed))
        directions = Kept(objective, shared, self._thrift, is_good=False, look_back=False)
        return progress.solution(iterate(directions, state_at(objective, known), progress))

    @property
    def _thrift(self) -> Thrift:
        return Thrift(self.tol, self.memory, self.kept_work, self.late_work)

    def _check_room(self, objective: Factorable) -> None:
        """Raise MemoryError if the matrices of the metric are too large for the device."""
        P, p, K = objective.n_problems, objective.n_parameters, objective.n_outputs
        whole = self.metric == "cholesky"
        m = p // K
        numbers = {"cholesky": p**2, "products": 0, "outputs": K * m**2}.get(self.metric, K**2 + m**2)
        what, instead = ("natural-sgd", "lbfgs") if self.lazy else ("newton-cholesky", "auto")
        size = f"{p} x {p}" if whole else f"{K} x {K} and {m} x {m}"
        check_room(
            P * PEAK * objective.dtype.itemsize * numbers,
            objective.rows.device,
            f"solver={what!r} makes matrices of {size} numbers for each of {P} problem(s), which",
            f"use solver='newton-cg' or {instead!r}, which make none",
        )

    def _in_metric(self, objective: Factorable, w: Tensor, progress: Progress) -> tuple[Directions, State]:
        """The directions on all rows, and where they start."""
        metric = METRICS[self.metric](objective, self.tol)
        lazy = self.lazy and self.metric == "cholesky" and work_of(objective) > self.kept_work
        many = objective.by_output()
        if many is not None:
            state, is_good = on_minibatches(many, w, progress), False
        else:
            state, is_good = _with_metric(objective, w, metric, progress)
        if lazy or not metric.exact:
            return Kept(objective, metric, self._thrift, is_good), state
        if self.metric == "exact":
            return Renewed(objective, metric, self._thrift), state
        return Factorising(objective, self._thrift), state


def _with_products(objective: Curved, w: Tensor, progress: Progress) -> State:
    """Where to start on all rows: from what samples tell, if that is better than no coefficients."""
    if bool(w.any()) or not objective.batches:
        return start(objective, w)
    known = start(objective.batches[0].objective, w)
    on = [NewtonCG(batch.objective, None) for batch in objective.batches]
    return _on_samples(objective, objective.batches, known, on, progress)[0]


def _with_metric(objective: Factorable, w: Tensor, metric: Metric, progress: Progress) -> tuple[State, bool]:
    """Where to start on all rows, and whether the metric is good there."""
    batches = [batch for batch in objective.batches if batch.error < np.inf]
    if not batches:
        return start(objective, w), bool(objective.batches)
    if not bool(w.any()):
        known = start(batches[0].objective, w)
    else:
        known, last = start(objective, w), batches[-1]
        metric.update(last.objective.at(w))
        decrement = torch.linalg.vecdot(known.gradient, metric.size(known.gradient))
        if bool((decrement <= last.error).all()):  # nothing that a sample could improve
            return known, True
    return _on_samples(
        objective, batches, known, [Renewed(batch.objective, metric, Thrift()) for batch in batches], progress
    )


def _on_samples(
    objective: Curved,
    batches: Sequence[Batch],
    known: State,
    on: Sequence[Directions],
    progress: Progress,
) -> tuple[State, bool]:
    """Solve on samples of the rows; the state on all rows, and whether it is where these lead everywhere."""
    w, state = known.w, known
    # Without coefficients every row has the same loss, so that of a sample is that of all.
    if bool(w.any()):
        state = start(batches[0].objective, w)
    larger = [*(batch.objective for batch in batches[1:]), objective]
    for batch, directions, following in zip(batches, on, larger, strict=True):
        reached = iterate(directions, state, OnSample(progress, batch)).w
        state = start(following, reached)
    worse = no(state.objective <= known.objective)
    if not some(worse):
        return state, True
    back = torch.as_tensor(array(worse), dtype=torch.bool, device=w.device)[:, None]
    return start(objective, torch.where(back, w, reached)), False
