"""The line search: where it says that it ended is where it ended."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.objectives import held_objective
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear.objective import ColumnsObjective
from torch_logreg._losses.losses import LOSSES
from torch_logreg._solvers.search import backtrack, start


def _objective() -> ColumnsObjective:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    y = (X[:, 0] + 0.5 * rng.normal(size=80) > 0).astype(int)
    loss = LOSSES["binary"]
    target = loss.encode(torch.from_numpy(y), torch.float64)
    rows = ArrayRows(torch.from_numpy(X), target, torch.ones(1, 80, dtype=torch.float64), 1)
    return held_objective(rows, loss, torch.tensor([10.0], dtype=torch.float64), 1, True)


@pytest.mark.parametrize("times", [0.05, 0.3, 1.0, 4.0, 30.0], ids="{} times Newton's step".format)
@pytest.mark.parametrize("tries_lengths", [True, False])
def test_the_step_is_the_way_from_the_point_before(times, tries_lengths):
    objective = _objective()
    state = start(objective, objective.zeros())
    matrix = objective.at(state.w).matrix()
    direction = -times * torch.linalg.solve(matrix, state.gradient[..., None])[..., 0]
    trial = backtrack(
        objective, state, direction, lambda gradient: torch.zeros(1, dtype=torch.float64), tries_lengths
    )
    torch.testing.assert_close(trial.state.w, state.w + trial.step * direction, rtol=1e-12, atol=1e-14)
    assert trial.state.objective == pytest.approx(float(objective.value(trial.state.w)), rel=1e-12)
    assert trial.state.objective < state.objective
    if tries_lengths and times < 1:
        assert trial.step > 1  # a short step is lengthened
    if times > 10:
        assert 0 < trial.step < 1
