"""The linear model between checked data and its objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torch_logreg._checks.data import TrainingData
from torch_logreg._fit.linear import regular_C


@pytest.mark.parametrize("weight", [1e-10, 1.0, 1e10])
@pytest.mark.parametrize("without", [0, 3], ids=["all with weight", "some without"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_smallest_C_gives_a_penalty_of_finite_strength(weight, without, dtype):
    weights = np.full(10, weight)
    weights[:without] = 0.0
    data = TrainingData(np.zeros((10, 2)), np.arange(10) % 2, np.arange(2), weights)
    C = torch.tensor(regular_C(np.array([5e-324, 1.0]), data, dtype), dtype=dtype)
    strength = 1 / (C * torch.tensor(weights, dtype=dtype).sum())
    assert bool(strength.isfinite().all()) and float(C[1]) == 1.0
