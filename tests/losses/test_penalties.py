"""The penalty against numpy and finite differences."""

from __future__ import annotations

import numpy as np
import torch

from torch_logreg._losses.penalties import L2Penalty


def _penalty_and_coef() -> tuple[L2Penalty, torch.Tensor]:
    strength = torch.tensor([2.0, 0.25, 0.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    return L2Penalty(strength), torch.randn(3, 2, 5, generator=generator, dtype=torch.float64)


def test_value_is_half_the_strength_times_the_sum_of_squares_of_each_problem():
    penalty, coef = _penalty_and_coef()
    expected = 0.5 * penalty.strength.numpy() * np.array([np.sum(problem**2) for problem in coef.numpy()])
    np.testing.assert_allclose(penalty.value(coef).numpy(), expected, rtol=1e-14)


def test_gradient_is_the_finite_difference_of_the_value():
    penalty, coef = _penalty_and_coef()
    gradient, h = penalty.gradient(coef), 0.5
    assert gradient.shape == coef.shape
    for k in range(2):
        for j in range(5):
            shift = torch.zeros_like(coef)
            shift[:, k, j] = h
            # A central difference of a quadratic is exact for any h.
            difference = (penalty.value(coef + shift) - penalty.value(coef - shift)) / (2 * h)
            torch.testing.assert_close(gradient[:, k, j], difference, rtol=1e-12, atol=1e-13)


def test_curvature_is_the_change_of_the_gradient():
    penalty, coef = _penalty_and_coef()
    change = penalty.gradient(coef + 1) - penalty.gradient(coef)
    torch.testing.assert_close(penalty.curvature(coef), change, rtol=1e-12, atol=1e-15)


def test_no_strength_is_no_penalty():
    penalty, coef = _penalty_and_coef()
    assert float(penalty.value(coef)[2]) == 0
    assert not penalty.gradient(coef)[2].any()
    assert not penalty.curvature(coef)[2].any()


def test_an_infinite_C_gives_no_strength():
    C, weight_sum = torch.tensor([torch.inf, 2.0]), torch.tensor([3.0])
    penalty = L2Penalty(1 / (C * weight_sum))
    torch.testing.assert_close(penalty.strength, torch.tensor([0.0, 1 / 6]))
