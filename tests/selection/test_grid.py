"""Pairs of C and l1_ratio: which have an L1 term, and how they are numbered and named."""

import numpy as np

from torch_logreg._selection.grid import Grid

GRID = Grid(np.array([1.0, np.inf, 0.1]), np.array([0.0, 0.5, 1.0]))


def test_pairs_with_an_l1_term_are_numbered_by_their_ratios_and_by_rising_C():
    assert GRID.n_with_l1 == 4
    assert [GRID.number_of(0, C) for C in range(3)] == [(None, 1), (None, 2), (None, 0)]
    assert [GRID.number_of(2, C) for C in range(3)] == [(1, 1), (None, 2), (1, 0)]


def test_pairs_without_an_l1_term_alone_are_solved_together():
    assert GRID.n_at_once == 3
    assert Grid(np.array([1.0, 2.0]), np.array([0.5, 1.0])).n_at_once == 1
    assert Grid(np.array([1.0, np.inf]), np.array([1.0])).n_at_once == 2


def test_a_pair_is_named_by_its_C_alone_where_the_penalty_is_L2():
    assert GRID.name_of(1, 2) == "C=0.1, l1_ratio=0.5"
    assert Grid(GRID.Cs, np.zeros(1)).name_of(0, 2) == "C=0.1"


def test_only_coefficients_with_an_l1_term_are_counted():
    coef = np.zeros((3, 3, 1, 4))
    coef[1, 0, 0, 2] = coef[2] = 1.0
    assert GRID.n_nonzero(coef).tolist() == [[4, 4, 4], [1, 0, 0], [4, 4, 4]]
