"""Starts on minibatches, and the metric of a block for each output that follows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from torch_logreg import TorchLogisticClassifier
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear.many_outputs import ManyOutputs, many_outputs
from torch_logreg._linear.model import LinearModel
from torch_logreg._losses.losses import LOSSES
from torch_logreg._solvers import epochs
from torch_logreg._solvers.epochs import on_minibatches
from torch_logreg._solvers.fisher import PerOutput
from torch_logreg._solvers.stopping import Progress


def _data(n: int = 1200, d: int = 20, n_classes: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    return X, (2 * X @ rng.normal(size=(d, n_classes)) + rng.gumbel(size=(n, n_classes))).argmax(axis=1)


def _objective() -> ManyOutputs:
    X, y = _data()
    codes = torch.from_numpy(np.unique(y, return_inverse=True)[1])
    K, loss, given = int(codes.max()) + 1, LOSSES["softmax"], torch.from_numpy(X)
    rows = ArrayRows(given, loss.encode(codes, given.dtype), torch.ones(1, len(X), dtype=given.dtype), K)
    return many_outputs(rows, LinearModel(loss, torch.tensor([1.0], dtype=given.dtype), K, True), 0)


def _progress(objective: ManyOutputs, steps: list[float]) -> Progress:
    return Progress(objective, 1e-4, 100, lambda iteration: bool(steps.append(iteration.step[0])))


def test_a_start_on_minibatches_is_one_update_that_goes_far_down():
    objective, steps = _objective(), list[float]()
    state = on_minibatches(objective, objective.zeros(), _progress(objective, steps))
    assert len(steps) == 1 and 0 < steps[0] < 1
    assert state.objective < 0.5 * float(objective.value(objective.zeros()))
    torch.testing.assert_close(state.value, objective.value(state.w))


def test_a_start_that_leads_up_is_given_up(monkeypatch):
    monkeypatch.setattr(epochs, "OWN_STEP", 1e9)
    monkeypatch.setattr(epochs, "LONGEST", 1e9)
    objective, steps = _objective(), list[float]()
    state = on_minibatches(objective, objective.zeros(), _progress(objective, steps))
    assert not steps and not state.w.any()


def test_a_start_from_other_parameters_is_where_they_are():
    objective, steps = _objective(), list[float]()
    w = torch.ones_like(objective.zeros())
    assert on_minibatches(objective, w, _progress(objective, steps)).w is w
    assert not steps


def test_the_metric_solves_with_the_block_of_each_output():
    objective = _objective()
    K, m = objective.n_outputs, objective.n_parameters // objective.n_outputs
    metric = PerOutput(objective)
    metric.update(objective.at(objective.zeros()))
    v = torch.randn(1, K * m, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.linalg.solve(objective.blocks(objective.zeros()), v.view(K, m, 1))[:, :, 0]
    expected = expected - expected.mean(dim=0)
    torch.testing.assert_close(metric.solve(v).view(K, m), expected, rtol=1e-6, atol=1e-9)
    assert not metric.failed.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("C", [1e-2, 1.0])
def test_many_classes_of_few_rows_reach_the_optimum_in_few_passes(dtype, C):
    X, y = _data()
    fitted = TorchLogisticClassifier(C=C).fit(X.astype(dtype), y)
    with threadpool_limits(1):  # others wait for each other on a busy machine
        best = LogisticRegression(C=C, solver="newton-cg", tol=1e-8, max_iter=1000).fit(X, y)
    assert fitted.converged_
    np.testing.assert_allclose(fitted.predict_proba(X), best.predict_proba(X), atol=2e-3)
    # In the metric of two factors, one for the columns of all classes, it took 125.
    assert fitted.history_.rows_read.iloc[-1] < 50 * len(X)


def test_heavy_rows_and_rare_classes_reach_the_optimum_too():
    X, y = _data()
    weight = np.random.default_rng(1).exponential(size=len(y)) ** 3
    y = np.where(np.arange(len(y)) % 3 > 0, 0, y)
    fitted = TorchLogisticClassifier().fit(X, y, sample_weight=weight)
    with threadpool_limits(1):  # others wait for each other on a busy machine
        best = LogisticRegression(solver="newton-cg", tol=1e-8, max_iter=1000).fit(X, y, sample_weight=weight)
    assert fitted.converged_
    np.testing.assert_allclose(fitted.predict_proba(X), best.predict_proba(X), atol=2e-3)
