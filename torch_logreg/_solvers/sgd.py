"""Stochastic gradient descent: by an optimizer of torch, or with a line search."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Stochastic
from torch_logreg._contracts.rows import Block
from torch_logreg._contracts.solver import Callback, Iteration, Solution, Solver
from torch_logreg._solvers.optimizers import Recipe, Stepped, Stock
from torch_logreg._solvers.shrinking import nearest, shrink_, with_l1

# Of the decrease that the gradient promises. What suits full batches, 0.1 and less, takes steps that fit
# one minibatch and undo what others have found; a half is the most that a parabola's own minimum passes.
SUFFICIENT = 0.5
FIRST_STEP, MAX_STEP = 1.0, 1e4
GROWTH, FULL_GROWTH = 1.3, 2.0  # of the step, at most: over an epoch of minibatches; of a full batch
FULL_TRIALS = 40  # step lengths tried in a full-batch update


@dataclass(frozen=True)
class SGD(Recipe, Solver[Stochastic]):
    """`torch.optim.SGD` on minibatches, or another optimizer, as a hand-written loop would use it.

    Each epoch begins with F over all rows, which is what is recorded. It ends the fit once the gradient
    there is at most `tol`, and claims no more than that. Of rows that stream, the mean of F over the epoch's
    own minibatches is recorded, and no gradient is known. Without an optimizer and with
    ``learning_rate="auto"`` the step length comes from an Armijo line search on the minibatch at hand. Where
    there is an L1 term, each step ends by shrinking the parameters: what it leaves are exact zeros.

    References
    ----------
    Robbins, Monro (1951), A stochastic approximation method, Annals of Mathematical Statistics 22(3).
    Vaswani, Mishkin, Laradji, Schmidt, Gidel, Lacoste-Julien (2019), Painless stochastic gradient:
    interpolation, line-search, and convergence rates, NeurIPS 32.
    """

    max_iter: int = 100
    tol: float | None = 1e-4
    batch_size: int | None = None
    seed: int = 0

    def minimize(self, objective: Stochastic, w: Tensor, callback: Callback) -> Solution:
        rows, generator = objective.rows, torch.Generator(device="cpu").manual_seed(self.seed)
        batch_size = None if self.batch_size is None or self.batch_size >= rows.n_rows else self.batch_size
        w, n_nominal = w.clone(), rows.nominal(batch_size)
        steps = self._steps(w, objective)
        reason, n_iter, in_one = "max_iter", 0, batch_size is None and not rows.streams
        for number in range(self.max_iter):
            whole = next(rows.minibatches(None, generator)) if in_one else None
            if not rows.streams:
                value, gradient = self._look(objective, w, whole)
                F, norm = self._on_host(objective, w, value, gradient, number)
            if whole is not None and gradient is not None:
                steps.whole(whole, value, gradient)
            else:
                for block in rows.minibatches(batch_size, generator):
                    steps.minibatch(block, n_nominal)
            if rows.streams:  # nothing is known of F at the beginning of the epoch, nor of its gradient
                F, norm = self._on_host(objective, w, objective.epoch_value(w), None, number + 1)
            length, n_iter = steps.end_epoch(float(F[0])), number + 1
            if self.tol is not None and (norm <= self.tol).all():
                reason = "converged"
            step = np.full(objective.n_problems, length)
            if callback(Iteration(number, F, norm, step, rows.rows_read, w, np.zeros(len(F), dtype=bool))):
                reason = "callback"
            if reason != "max_iter":
                break
        if rows.streams:
            F, norm = self._on_host(objective, w, objective.value(w), None, n_iter)
        else:
            F, norm = self._on_host(objective, w, *objective.value_and_gradient(w), n_iter)
        P = objective.n_problems
        return Solution(w, F, norm, np.full(P, n_iter, dtype=np.int32), [reason] * P)

    def _steps(self, w: Tensor, objective: Stochastic) -> Steps:
        if self.optimizer is not None:
            return Stepped(w, objective, self, self.optimizer)
        if self.learning_rate == "auto":
            return LineSearch(w, objective)
        if objective.scaler is not None:
            stock = partial(torch.optim.SGD, momentum=self.momentum, nesterov=self.nesterov)
            return Stepped(w, objective, self, stock)
        return Stock(w, objective, self)

    def _look(self, objective: Stochastic, w: Tensor, whole: Block | None) -> tuple[Tensor, Tensor | None]:
        """F at the beginning of an epoch, and its gradient where the stopping rule or the step needs it."""
        if whole is not None:
            return objective.batch_value_and_gradient(w, whole, objective.rows.n_rows)
        if self.tol is None:
            return objective.value(w), None
        return objective.value_and_gradient(w)

    def _on_host(
        self, objective: Stochastic, w: Tensor, value: Tensor, gradient: Tensor | None, epoch: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """F and the largest number of its gradient, with what an L1 term adds."""
        value = with_l1(value, w, objective.left_out)
        gradient = None if gradient is None else nearest(gradient, w, objective.left_out)
        norm = value if gradient is None else gradient.abs().amax(dim=1).to(value.dtype)
        F, largest = torch.stack([value, norm]).cpu().numpy()
        if not (np.isfinite(F).all() and np.isfinite(largest).all()):
            if not epoch:
                raise ValueError(
                    "The loss or its gradient is not finite at the weights to start from: use columns that a "
                    "StandardScaler has scaled, a larger C, or smaller weights to start from (coef_init, "
                    "intercept_init, or those of the module)."
                )
            auto = "learning_rate='auto'" if self.optimizer is None else "clip_grad_norm=1.0"
            raise ValueError(
                f"The loss or its gradient is not finite at the beginning of epoch {epoch} (counted from 0), "
                f"with optimizer={self.named} and learning_rate={self.learning_rate!r}: use a smaller "
                f"learning_rate, {auto}, a larger C, or columns that a StandardScaler has scaled."
            )
        return F, (largest if gradient is not None else np.full_like(F, np.nan))


class Steps(Protocol):
    """How w, in place, follows the gradient of a minibatch."""

    def minibatch(self, block: Block, n_nominal: int) -> None:
        """One update from a batch of nominally `n_nominal` rows."""

    def whole(self, block: Block, value: Tensor, gradient: Tensor) -> None:
        """One update from all rows, with F and its gradient there."""

    def end_epoch(self, F: float) -> float:
        """The step length of the epoch that ends here, and that began at F."""


class LineSearch:
    """The longest step that decreases the minibatch's own estimate of F enough.

    A minibatch tries one step length, on the device: a step that does not decrease F enough is not taken,
    and halved for the next minibatch. A full batch looks until it finds one.
    """

    def __init__(self, w: Tensor, objective: Stochastic) -> None:
        self._w, self._objective = w, objective
        self._step = torch.full_like(w[:, :1], FIRST_STEP)  # (P, 1)

    def minibatch(self, block: Block, n_nominal: int) -> None:
        value, gradient = self._objective.batch_value_and_gradient(self._w, block, n_nominal)
        share = min(1.0, n_nominal / self._objective.rows.n_rows)
        self._try(block, n_nominal, self._w.clone(), value, gradient, GROWTH**share)

    def whole(self, block: Block, value: Tensor, gradient: Tensor) -> None:
        start = self._w.clone()
        for _ in range(FULL_TRIALS):
            if bool(self._try(block, self._objective.rows.n_rows, start, value, gradient, FULL_GROWTH).all()):
                break

    def _try(
        self, block: Block, n_nominal: int, start: Tensor, value: Tensor, gradient: Tensor, growth: float
    ) -> Tensor:
        """Step, where that decreases F enough, and grow or halve the step length; where it did, (P, 1)."""
        trial, threshold = start - self._step * gradient, self._objective.left_out
        if threshold is None:
            promised = self._step[:, 0] * gradient.square().sum(dim=1)
        else:
            trial = shrink_(trial, self._step * threshold)
            promised = (trial - start).square().sum(dim=1) / self._step[:, 0]
            value = with_l1(value, start, threshold)
        reached = with_l1(self._objective.batch_value(trial, block, n_nominal), trial, threshold)
        enough = (reached <= value - SUFFICIENT * promised)[:, None]
        self._w.copy_(torch.where(enough, trial, start))
        longer = (self._step * growth).clamp(max=MAX_STEP)
        self._step = torch.where(enough, longer, self._step / 2)
        return enough

    def end_epoch(self, F: float) -> float:
        return float(self._step.amin())
