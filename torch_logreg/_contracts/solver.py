"""The contract `Solver`: what it tells while it runs, and what it leaves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
from torch import Tensor

from torch_logreg._contracts.objective import Objective, Point


class Evaluated(NamedTuple):
    """A point, and what F is there."""

    at: Point
    value: Tensor  # (P,)
    gradient: Tensor  # (P, n_parameters)


class Iteration(NamedTuple):
    """One update of the parameters; every array is (P,)."""

    number: int  # from 0
    objective: np.ndarray  # F before the update
    gradient_norm: np.ndarray  # max |gradient| before the update
    step: np.ndarray  # 1 is the whole step
    rows_read: int  # so far, by every pass for whatever purpose
    w: Tensor  # (P, n_parameters) after the update
    done: np.ndarray  # bool, whether this was the last update
    sample_rows: int = 0  # of the sample that F is of; 0 where it is of all rows
    # With an L1 term: by how much F is above its minimum at most before the update, NaN where F is of a
    # sample or has a stronger penalty than the wanted one; and parameters other than 0 after it.
    gap: np.ndarray | None = None
    n_nonzero: np.ndarray | None = None


class Solution(NamedTuple):
    """Where a solver stopped, and why; every array is (P,)."""

    w: Tensor  # (P, n_parameters)
    objective: np.ndarray
    gradient_norm: np.ndarray
    n_iter: np.ndarray
    reasons: list[str]  # a key of REASONS, or "converged"
    gap: np.ndarray | None = None  # with an L1 term: by how much F is above its minimum at most


Callback = Callable[[Iteration], bool]
Each: TypeAlias = Literal["epoch", "batch"]  # after what a schedule of learning rates is stepped

# Programs tell warnings of an unfinished fit by these words, which are scikit-learn's.
FAILED = "{solver} failed to converge"
MORE_ITERATIONS = "Increase the number of iterations to improve the convergence (max_iter={max_iter})"

# What is said of "rounding" where there is an L1 term, and coefficients lost too much of what was reached.
ROUNDED = (
    "coefficients rounded to {dtype} are worth an objective that is {gap:.0e} of itself above the minimum, "
    "or may be; use float64 data, or a larger tol if this accuracy is enough"
)

REASONS = {
    "max_iter": "it reached max_iter={max_iter}",
    "precision": (
        "no step decreases the objective any more at {dtype} precision; "
        "use float64 data, or a larger tol if this accuracy is enough"
    ),
    "rounding": (
        "columns far from 0 for what they vary leave too few digits of {dtype} to the predictions; "
        "use float64 data, or subtract the means of the columns"
    ),
    "collinear": (
        "some columns are so nearly combinations of others that {dtype} cannot tell them apart, and yet it "
        "matters; subtract the means of columns far from 0, or leave some out"
    ),
    "underflow": (
        "columns of values below 1e-150 were left out, for their squares are 0; multiply them by a power of "
        "ten"
    ),
    "separation": (
        "the classes can be separated perfectly, so with no penalty, or next to none, the coefficients "
        "grow for ever; use a smaller, finite C"
    ),
}


Needed = TypeVar("Needed", bound=Objective, contravariant=True)


class Solver(ABC, Generic[Needed]):
    """A frozen dataclass: hyper-parameters in, `minimize` out.

    Its argument is the kind of objective that it needs, which the registry sees to.
    """

    max_iter: int
    tol: float | None  # None: exactly max_iter updates

    @abstractmethod
    def minimize(self, objective: Needed, w: Tensor, callback: Callback) -> Solution:
        """Minimise `objective` from `w`, calling `callback` after every update.

        A callback that returns True stops the solver.
        """
