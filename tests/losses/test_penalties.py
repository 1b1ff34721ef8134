"""The penalty against numpy."""

from __future__ import annotations

import numpy as np
import torch

from torch_logreg._losses.penalties import ElasticNet, L2Penalty

STRENGTH = torch.tensor([2.0, 0.25, 0.0], dtype=torch.float64)


def test_curvature_is_that_of_half_the_strength_times_the_sum_of_squares_of_each_problem():
    scale, w = np.random.default_rng(0).uniform(0.1, 9, size=(2, 3, 2, 5))
    curvature = L2Penalty(STRENGTH).curvature(torch.from_numpy(scale)).numpy()
    for problem, strength in enumerate(STRENGTH.numpy()):
        value = strength / 2 * np.sum((scale[problem] * w[problem]) ** 2)
        np.testing.assert_allclose(0.5 * np.sum(curvature[problem] * w[problem] ** 2), value, rtol=1e-14)
    # A central difference of a quadratic is exact for any step.
    np.testing.assert_allclose(curvature[0, 0], 2.0 / 2 * 2 * scale[0, 0] ** 2, rtol=1e-14)


def test_no_strength_is_no_penalty_of_columns_whose_scale_has_no_square():
    scale = torch.full((3, 1, 2), 1e200, dtype=torch.float64)
    curvature = L2Penalty(STRENGTH * 1e-320).curvature(scale)
    assert not curvature[2].any() and bool(curvature[:2].isfinite().all())


def test_an_infinite_C_gives_no_strength():
    C, weight_sum = torch.tensor([torch.inf, 2.0]), torch.tensor([3.0])
    penalty = L2Penalty(1 / (C * weight_sum))
    torch.testing.assert_close(penalty.strength, torch.tensor([0.0, 1 / 6]))


def test_problems_are_alike_where_there_are_several_and_all_have_a_penalty():
    assert L2Penalty(STRENGTH[:2]).alike()
    assert not L2Penalty(STRENGTH).alike()
    assert not L2Penalty(STRENGTH[:1]).alike()


def test_an_elastic_net_is_that_of_scikit_learn_over_C_times_the_weight():
    coef = np.random.default_rng(0).normal(size=(3, 5))
    penalty = ElasticNet.of(0.7, 0.3, 20.0)
    expected = (0.3 * np.abs(coef).sum() + 0.35 * (coef**2).sum()) / 14
    np.testing.assert_allclose(penalty.value(torch.from_numpy(coef)), expected, rtol=1e-14)
    assert penalty.times(2.0) == ElasticNet(2 * penalty.l1, 2 * penalty.l2)


def test_the_conjugate_is_the_largest_excess_of_slopes_over_the_penalty():
    penalty, grid = ElasticNet(0.4, 0.25), np.linspace(-20, 20, 400_001)
    for slope in (-2.0, -0.4, 0.1, 3.0):
        values = slope * grid - 0.4 * np.abs(grid) - 0.125 * grid**2
        found = penalty.conjugate(torch.tensor([slope], dtype=torch.float64))
        np.testing.assert_allclose(found, values.max(), atol=1e-8)
    assert ElasticNet(0.4, 0.0).conjugate(torch.tensor([0.3])) == 0
