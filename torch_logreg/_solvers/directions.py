"""The contract `Directions`: what a solver knows of F besides its value and gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from torch import Tensor

from torch_logreg._contracts.objective import Curved
from torch_logreg._solvers.per_problem import Numbers
from torch_logreg._solvers.search import State, Trial


class Lesson(NamedTuple):
    """What a step says of the direction that it was made in."""

    trust: Numbers  # up to 1: divides the decrement where it may be too small, 0 where that says nothing
    improvable: Numbers  # bool, whether a better direction may yet be found from the same point


class Directions(ABC):
    """Where to go from a point, for each problem of an objective."""

    objective: Curved
    are_newton = False  # so that the first may be stretched
    tries_lengths = False  # a few, where a whole step is too long or too short
    looks_back = True  # False: a step that is to be the last one is not evaluated

    @abstractmethod
    def direction(self, state: State) -> Tensor:
        """The direction (P, n_parameters)."""

    @abstractmethod
    def judge(self, reached: Tensor) -> Tensor:
        """A number for each problem, (P,), of the last direction and the gradient `reached` along it.

        `learn` finds it in ``trial.verdict``, with no transfer of its own.
        """

    @abstractmethod
    def learn(self, before: State, trial: Trial, done: Numbers) -> Lesson:
        """Take in what became of the last direction."""

    def may_leave(self, done: Numbers) -> Numbers:
        """Which of the problems that are done need not stay in the batch."""
        return done

    @abstractmethod
    def select(self, problems: np.ndarray) -> Directions | None:
        """The same for some of the problems; None where all must stay together."""

    def escalate(self, done: Numbers) -> Directions:
        """What to go on with: better directions than these, where these have shown to be no good."""
        return self
