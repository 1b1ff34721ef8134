"""What natural-gradient descent does where a metric from a sample is no good."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.objectives import streamed_objective
from torch_logreg import TorchLogisticClassifier
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._losses.losses import LOSSES
from torch_logreg._solvers import in_metric
from torch_logreg._solvers.fisher import Kronecker
from torch_logreg._solvers.in_metric import Kept, Thrift
from torch_logreg._solvers.iterate import iterate
from torch_logreg._solvers.search import start
from torch_logreg._solvers.stopping import Progress


class Uphill(Kronecker):
    """A metric in which no direction descends."""

    def solve(self, v: Tensor) -> Tensor:
        return -super().solve(v)


def test_a_sampled_metric_without_a_way_down_gives_way_to_all_rows(monkeypatch):
    made, exact = [], in_metric.exact_metric
    monkeypatch.setattr(in_metric, "exact_metric", lambda *args: made.append(args) or exact(*args))
    rng, loss = np.random.default_rng(0), LOSSES["softmax"]
    X = torch.from_numpy(rng.normal(size=(300, 4)))
    codes = torch.from_numpy(rng.integers(0, 3, size=300))
    rows = ArrayRows(X, loss.encode(codes, X.dtype), torch.ones(1, 300, dtype=X.dtype), 3)
    objective = streamed_objective(rows, loss, torch.tensor([1.0], dtype=X.dtype), 3, True)
    steps = []
    progress = Progress(objective, 1e-6, 100, lambda iteration: steps.append(iteration.step[0]))
    directions = Kept(objective, Uphill(objective, objective, 300), Thrift(1e-6, memory=10), is_good=False)
    solution = progress.solution(iterate(directions, start(objective, objective.zeros()), progress))
    assert steps[0] == 0  # which alone would be said of rounding, "precision"
    assert len(made) == 1  # which learns from step to step how accurately it is to be solved
    assert solution.reasons == ["converged"]
    assert solution.gradient_norm[0] < 1e-6


@pytest.mark.deep
def test_outliers_that_no_sample_knows_are_solved_with_all_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(25_000, 20))
    y = (0.5 * X @ rng.normal(size=(20, 5)) + rng.gumbel(size=(25_000, 5))).argmax(axis=1)
    X[[5, 77, 999]] *= 1e4
    fitted = TorchLogisticClassifier().fit(X, y)
    exact = TorchLogisticClassifier(solver="newton-cholesky").fit(X, y)
    assert fitted.converged_ and exact.converged_
    assert fitted.objective_ <= exact.objective_ * (1 + 1e-6)
