"""Plain numbers of one problem, against arrays of one number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from torch_logreg._solvers.per_problem import (
    array,
    column,
    each,
    every,
    index,
    no,
    pick,
    some,
    to_host,
    where,
)

NUMBERS, CONDITIONS = [-1.5, 0.0, np.inf], [True, False]


def one(number):
    return np.array([number])


def test_what_comes_to_the_host_is_a_number_for_one_problem_and_an_array_for_several():
    value, flag = torch.tensor([0.5], dtype=torch.float64), torch.tensor([True])
    assert to_host([value, flag]) == [0.5, 1.0] and type(to_host([value])[0]) is float
    values = torch.tensor([0.5, 0.1], dtype=torch.float64)
    for found, expected in zip(to_host([values, 2 * values, 3 * values]), (1, 2, 3), strict=True):
        assert_array_equal(found, expected * values.numpy())


@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions_of_one_problem_are_those_of_an_array(condition):
    assert every(condition) is some(condition) is condition
    assert every(one(condition)) == some(one(condition)) == condition
    assert no(condition) is (not condition)
    assert_array_equal(no(one(condition)), one(not condition))
    assert where(condition, 2.0, 3.0) == where(one(condition), 2.0, 3.0)[0]


def test_conditions_of_several_problems():
    mixed = np.array([True, False])
    assert some(mixed) and not every(mixed)
    assert_array_equal(where(mixed, mixed * 2.0, 5.0), [2.0, 5.0])
    assert_array_equal(each(0.5, 2), [0.5, 0.5])
    assert each(0.5, 1) == 0.5


@pytest.mark.parametrize("number", [*NUMBERS, *CONDITIONS])
def test_an_array_is_made_of_a_number_and_left_alone(number):
    assert_array_equal(array(number), one(number))
    several = np.array([number, number])
    assert array(several) is several


def test_numbers_of_some_problems_are_plain_where_one_is_left():
    several = np.array([1.0, 2.0, 3.0])
    assert_array_equal(pick(several, np.array([0, 2])), [1.0, 3.0])
    assert pick(several, np.array([1])) == 2.0 and type(pick(several, np.array([1]))) is float
    assert pick(several > 1, np.array([1])) is True
    assert pick(7.0, np.array([0])) == 7.0
    assert index(np.array([0, 2]), torch.device("cpu")).tolist() == [0, 2]


def test_a_column_multiplies_each_problem_by_its_number():
    v = torch.ones(2, 3, dtype=torch.float64)
    assert torch.equal(column(np.array([2.0, 3.0]), v) * v, torch.tensor([[2.0], [3.0]]).double() * v)
    assert torch.equal(column(2.0, v[:1]) * v[:1], 2 * v[:1])
