"""Newton directions by conjugate gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.objectives import held_objective
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._losses.losses import LOSSES
from torch_logreg._solvers import conjugate_gradients
from torch_logreg._solvers.natural import NaturalSGD


@pytest.mark.parametrize("C", [1.0, 1e4])
def test_several_outputs_take_no_more_steps_for_the_shift_that_changes_nothing(C, monkeypatch):
    # A diagonal preconditioner led into that direction, where next to nothing curves: hundreds of steps.
    rng = np.random.default_rng(0)
    n, d, K = 100, 80, 3
    X = torch.from_numpy(rng.normal(size=(n, d)) @ np.linalg.qr(rng.normal(size=(d, d)))[0])
    X = X / torch.arange(1, d + 1, dtype=torch.float64)
    loss = LOSSES["softmax"]
    target = loss.encode(torch.from_numpy(rng.integers(K, size=n)), torch.float64)
    rows = ArrayRows(X, target, torch.ones(1, n, dtype=torch.float64), K)
    objective = held_objective(rows, loss, torch.tensor([C], dtype=torch.float64), K, True)
    steps, solve = [], conjugate_gradients.conjugate_gradient

    def counted(*arguments):
        found = solve(*arguments)
        steps.append(found[2])
        return found

    monkeypatch.setattr(conjugate_gradients, "conjugate_gradient", counted)
    solution = NaturalSGD(metric="products").minimize(objective, objective.zeros(), lambda iteration: False)
    assert solution.reasons == ["converged"]
    # In exact arithmetic a solve takes a step for each of the different eigenvalues at most.
    assert max(steps) <= (K - 1) * (d + 1)
