"""F of many outputs: its minibatches, and the block of the Fisher matrix of each output."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear import many_outputs as module
from torch_logreg._linear.many_outputs import ManyOutputs, many_outputs
from torch_logreg._linear.model import LinearModel
from torch_logreg._losses.losses import LOSSES

N, D, K = 600, 5, 12


def _objective(fit_intercept: bool = True, dtype: torch.dtype = torch.float64) -> ManyOutputs:
    rng, loss = np.random.default_rng(0), LOSSES["softmax"]
    X = torch.from_numpy(rng.normal(size=(N, D)) + 1).to(dtype)
    codes = torch.from_numpy(rng.integers(0, K, size=N))
    weights = torch.from_numpy(rng.integers(1, 4, size=(1, N))).to(dtype)
    rows = ArrayRows(X, loss.encode(codes, dtype), weights, K)
    C = torch.tensor([2.0], dtype=torch.float64)
    return many_outputs(rows, LinearModel(loss, C, K, fit_intercept), 0)


def _weights(objective: ManyOutputs, size: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    w = size * torch.randn(K, objective.n_parameters // K, generator=generator, dtype=torch.float64)
    return (w - w.mean(dim=0)).view(1, -1)


intercepts = pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])


@intercepts
@pytest.mark.parametrize("n_rows", [100, 250, N])
def test_estimates_from_minibatches_have_the_gradient_for_their_mean(fit_intercept, n_rows):
    objective = _objective(fit_intercept)
    w = _weights(objective, 1.0)
    generator = torch.Generator().manual_seed(0)
    made = [gradient(w.view(K, -1)) for gradient in objective.minibatches(n_rows, generator)]
    decay = objective.decay() * w.view(K, -1)
    data = sum(estimate - decay for estimate in made) * (n_rows / N)  # by the nominal number of rows
    expected = objective.value_and_gradient(w)[1].view(K, -1)
    torch.testing.assert_close(data + decay, expected, rtol=1e-9, atol=1e-12)


def _columns(objective: ManyOutputs) -> Tensor:
    return objective._columns_of(objective._rows.whole().X)


def _expected_block(objective: ManyOutputs, w: Tensor, output: int) -> Tensor:
    A, weights = _columns(objective), objective._rows.weights[0]
    p = torch.softmax(A @ w.view(K, -1).T, dim=1)[:, output]
    curve = weights * p * (1 - p) / weights.sum()
    return (A * curve[:, None]).T @ A + torch.diag(objective.decay())


@intercepts
def test_the_columns_are_those_of_the_coordinates(fit_intercept):
    objective = _objective(fit_intercept)
    w = _weights(objective, 1.0)
    (part,) = objective.design.parts()
    z = objective.design.predict(part, objective.design.expand(w))[0]
    torch.testing.assert_close((_columns(objective) @ w.view(K, -1).T).T, z, rtol=1e-9, atol=1e-12)


@intercepts
def test_blocks_are_those_of_the_fisher_matrix_where_all_rows_are_counted(fit_intercept, monkeypatch):
    monkeypatch.setattr(module, "MUCH", 0.0)
    monkeypatch.setattr(module, "PASSES", 1e9)
    objective = _objective(fit_intercept)
    w = _weights(objective, 1.0)
    for output, block in enumerate(objective.blocks(w)):
        expected = _expected_block(objective, w, output)
        torch.testing.assert_close(block, expected, rtol=1e-9, atol=1e-12)


def test_the_rows_that_say_little_of_an_output_keep_their_information_on_it():
    objective = _objective()
    w = _weights(objective, 2.0)
    pairs = objective._pairs(w)
    assert 0 < len(pairs.row) < N * K / 4
    for output, block in enumerate(objective.blocks(w)):
        expected = _expected_block(objective, w, output)
        assert block[-1, -1] == pytest.approx(float(expected[-1, -1]), rel=1e-9)  # of the intercept
        assert (block - expected).norm() < 0.5 * expected.norm()


def test_blocks_are_the_same_however_many_rows_are_gathered_at_once(monkeypatch):
    objective = _objective()
    w = _weights(objective, 2.0)
    expected = objective.blocks(w)
    limits = replace(module.limits_of(objective.rows.device), chunk_numbers=50)
    monkeypatch.setattr(module, "limits_of", lambda device: limits)
    torch.testing.assert_close(objective.blocks(w), expected, rtol=1e-9, atol=1e-12)


def test_the_products_of_rows_counted_by_themselves_take_no_more_than_a_pass():
    objective = _objective()
    pairs = objective._pairs(_weights(objective, 0.0))
    m = objective.n_parameters // K
    assert len(pairs.row) * 2 * m**2 <= module.PASSES * 4 * N * m * K * (1 + 1e-9)


def test_the_batch_tells_of_all_rows_at_parameters_0():
    objective = _objective()
    (batch,) = objective.batches
    w = objective.zeros()
    assert torch.allclose(batch.objective.value(w), objective.value(w), rtol=1e-12)
