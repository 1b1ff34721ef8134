"""Proximal steps against a search over a grid, and what the L1 term adds."""

from __future__ import annotations

import numpy as np
import torch

from torch_logreg._solvers.shrinking import nearest, shrink_, with_l1

W = torch.tensor([[-3.0, -0.5, 0.0, 0.2, 0.5, 4.0]], dtype=torch.float64)
BY = torch.tensor([[1.0, 0.5, 1.0, 0.0, 0.7, 4.5]], dtype=torch.float64)


def test_shrinking_goes_to_the_minimum_and_leaves_exact_zeros():
    found = shrink_(W.clone(), BY)
    grid = np.linspace(-5, 5, 100_001)
    for w, by, v in zip(W[0].tolist(), BY[0].tolist(), found[0].tolist(), strict=True):
        values = (grid - w) ** 2 / 2 + by * np.abs(grid)
        assert abs(grid[values.argmin()] - v) <= 1e-4
    assert found[0].tolist()[1:3] == [0.0, 0.0] and found[0, 5] == 0.0 and found[0, 3] == 0.2


def test_shrinking_is_in_place():
    w = W.clone()
    assert shrink_(w, BY) is w


def test_without_an_l1_term_nothing_changes():
    value = torch.tensor([2.0])
    assert with_l1(value, W, None) is value and nearest(W, W, None) is W


def test_the_nearest_subgradient_is_0_where_a_proximal_step_stays():
    gradient = torch.tensor([[1.0, -0.4, 0.9, 0.0, -0.7, -4.5]], dtype=torch.float64)
    stays = shrink_(W - gradient, BY) == W
    assert torch.equal(nearest(gradient, W, BY) == 0, stays)
    assert with_l1(torch.zeros(1), W, BY)[0] == float((W.abs() * BY).sum())
