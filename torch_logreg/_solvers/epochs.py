"""Epochs of natural-gradient steps on minibatches, to start on rows that say little of any parameter."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_logreg._contracts.objective import ByOutput
from torch_logreg._solvers.fisher import at_zero
from torch_logreg._solvers.search import State, Trial, start
from torch_logreg._solvers.stopping import Progress

EPOCHS = 6  # thousand.py
BATCH_ROWS, BATCHES = 2**11, 8  # at most, and at least
# Of the raw prediction of a row's own class, what its step adds to it at first, all columns together: so
# much that the row is predicted well. And of a Newton step for probabilities that are all the same, at most:
# outputs are more curved where a few rows have much of their probability.
OWN_STEP, LONGEST = 8.0, 0.25


def on_minibatches(objective: ByOutput, w: Tensor, progress: Progress) -> State:
    """Where to start on all rows: after a few epochs from parameters 0, if that is better than these.

    The metric is the Fisher matrix at parameters 0, where it is the same block for each output. A Newton step
    of all rows from there, and a sample solved, are far from the solution where a few dozen rows a class have
    to decide on hundreds of columns: each row counts, and once it is predicted well it says little more.
    Steps become shorter, so that what rows drawn last want is no more than what others do.

    References
    ----------
    Bottou, Curtis, Nocedal (2018), Optimization methods for large-scale machine learning, SIAM Review 60(2).
    """
    if bool(w.any()) or progress.finished:
        return start(objective, w)
    known = start(objective.batches[0].objective, w)
    reached, length = _epochs(objective, w)
    if not bool(torch.isfinite(reached).all()):
        return start(objective, w)
    state = start(objective, reached)
    if not state.objective < known.objective:
        return start(objective, w)
    trial = Trial(state, length, 0.0, 0.0, 0.0, reached, objective.hints)
    progress.record_on_sample(known, trial, objective.batches[0].n_rows)
    return state


def _epochs(objective: ByOutput, w: Tensor) -> tuple[Tensor, float]:
    """The parameters reached, and the first step length."""
    K, n = objective.n_outputs, objective.rows.n_rows
    inverse, parameters = at_zero(objective)
    n_rows = max(1, min(BATCH_ROWS, n // BATCHES))
    n_steps, step = EPOCHS * -(-n // n_rows), 0
    # The metric is that of a mean over rows: in a mean of so few each of them counts for more.
    length = min(LONGEST, OWN_STEP * n_rows / (K * parameters))
    generator = torch.Generator(device="cpu").manual_seed(objective.seed)
    inverse = inverse.to(objective.rows.dtype)
    W = w.view(K, -1).to(objective.rows.dtype)
    for _ in range(EPOCHS):
        for gradient in objective.minibatches(n_rows, generator):
            W = torch.addmm(W, gradient(W), inverse, alpha=-length * (1 - step / n_steps) ** 0.5)
            step += 1
    W = W - W.mean(dim=0)  # a shift of all outputs changes nothing
    return W.reshape(w.shape).to(w.dtype), length
