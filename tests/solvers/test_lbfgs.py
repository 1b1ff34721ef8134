"""The inverse matrix of L-BFGS, and how far a fit by it goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from helpers.datasets import load, standardised
from torch_logreg import TorchLogisticClassifier
from torch_logreg._solvers.secants import Compact, Pair, quasi_newton_direction


@pytest.mark.parametrize("n_problems", [1, 3])
def test_all_pairs_at_once_give_the_direction_of_the_two_loops(n_problems):
    generator = torch.Generator().manual_seed(0)

    def drawn():
        return torch.randn(n_problems, 6, dtype=torch.float64, generator=generator)

    root = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    H0 = root @ root.T + torch.eye(6, dtype=torch.float64)
    curved = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
    pairs, compact = [], Compact(4)
    for number in range(7):  # more than are kept
        s = drawn()
        y = s @ curved if number != 5 else -s  # one that is no use
        sy = torch.linalg.vecdot(s, y)[:, None]
        if number != 5:
            pairs.append(Pair(s, y, 1 / sy))
        compact.add(s, y, y @ H0)
        gradient = drawn()
        if n_problems > 1 and number >= 5:  # there a pair of zeros takes the place of the oldest
            continue
        expected = quasi_newton_direction(gradient, pairs[-4:], lambda v: v @ H0, scaled=True)
        assert_allclose(compact.direction(gradient, gradient @ H0), expected, rtol=1e-8, atol=1e-10)


def test_pairs_go_over_to_another_matrix():
    generator = torch.Generator().manual_seed(1)
    moved, compact, other = Compact(4), Compact(4), torch.diag(torch.arange(2.0, 8.0, dtype=torch.float64))
    for _ in range(3):
        s = torch.randn(1, 6, dtype=torch.float64, generator=generator)
        y = 2 * s + 0.1 * s.flip(1)
        moved.add(s, y, y)
        compact.add(s, y, y @ other)
    moved.correct(lambda v: v @ other)
    gradient = torch.ones(1, 6, dtype=torch.float64)
    directions = (each.direction(gradient, gradient @ other) for each in (moved, compact))
    assert_allclose(*directions, rtol=1e-10)


@pytest.mark.parametrize("C", [1.0, 1e4])
def test_lbfgs_reads_few_rows_where_columns_are_few(C):
    data = load("breast_cancer")
    model = TorchLogisticClassifier(solver="lbfgs", C=C).fit(standardised(data.X), data.y)
    exact = TorchLogisticClassifier(C=C, tol=1e-8).fit(standardised(data.X), data.y)
    assert model.objective_ <= exact.objective_ * (1 + 1e-7)
    # Of an identity to start from it took 68 and 490 passes.
    assert model.history_["rows_read"].iloc[-1] <= 100 * len(data.y)
    assert np.isfinite(model.coef_).all()


@pytest.mark.parametrize("C", [1e-2, 1.0, 1e2, 1e4])
def test_a_looser_tolerance_reads_no_more_rows(C):
    data, read = load("breast_cancer"), []
    for tol in (1.0, 1e-1, 1e-2, 1e-4):
        model = TorchLogisticClassifier(solver="lbfgs", C=C, tol=tol).fit(standardised(data.X), data.y)
        read.append(model.history_["rows_read"].iloc[-1])
    assert (np.diff(read) >= 0).all(), read
