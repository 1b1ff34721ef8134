"""The contract of objectives with an L1 term: what a proximal Newton method asks of them.

F is a smooth function plus ``sum(threshold * |w|)``. Of one problem; parameters and slopes are
(1, n_parameters) as everywhere, so that an axis of P problems has its place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from torch_logreg._contracts.objective import Objective


class Look(NamedTuple):
    """F over all rows and columns, with the best of the parameters that are free."""

    w: Tensor  # (1, n_parameters), what was looked at with these put in
    value: float  # F
    slopes: Tensor  # (1, n_parameters), of the smooth part
    bound: float  # F is nowhere below it, by a point of the dual problem
    z: Tensor  # raw predictions, (K, n_rows)

    @property
    def gap(self) -> float:
        """By how much F is above its minimum at most."""
        return self.value - self.bound


class Working(ABC):
    """F as a function of some penalised parameters, n of them, and all free ones, the others as they are.

    In scaled coordinates, in which a unit is the right size of a step for each. The penalised ones come
    first. All numbers of parameters are on the host, where few are worked on; those of rows are not. A state
    is kept: the parameters `u`, and F there.
    """

    n: int
    u: np.ndarray  # (n + free,)
    threshold: np.ndarray  # (n,), factors of |u|
    value: float  # F at u, but for parameters that are left out

    @abstractmethod
    def at(self, look: Look) -> None:
        """Go to where a look was; parameters that are not 0 there are among these."""

    @abstractmethod
    def slopes(self) -> np.ndarray:
        """Those of the smooth part at u, (n + free,)."""

    @abstractmethod
    def matrix(self) -> np.ndarray | None:
        """The Hessian of the smooth part at u; None where it is better only multiplied with."""

    @abstractmethod
    def product(self, v: np.ndarray) -> np.ndarray:
        """The Hessian times v."""

    @abstractmethod
    def diagonal(self) -> np.ndarray:
        """The diagonal of the Hessian, (n + free,)."""

    @abstractmethod
    def aim(self, u: np.ndarray) -> None:
        """Prepare to go to `u`, or some of the way."""

    @abstractmethod
    def value_along(self, length: float) -> float:
        """F at so much of the way."""

    @abstractmethod
    def go(self, length: float) -> None:
        """Go so much of the way; all of it leads to `u` to the last digit."""

    @abstractmethod
    def parameters(self) -> Tensor:
        """All parameters of the objective, (1, n_parameters)."""

    @abstractmethod
    def look(self) -> Look:
        """F over all columns at u."""


class Composite(Objective):
    """An objective with an L1 term."""

    eps: float  # the rounding of a sum over the rows, relative to it

    @property
    @abstractmethod
    def threshold(self) -> Tensor:
        """The factors of ``|w|`` in F, (1, n_parameters); 0 for parameters that are free."""

    @abstractmethod
    def look(self, w: Tensor) -> Look:
        """F at w, in one pass over the rows; the free parameters are the best there are for the others."""

    @abstractmethod
    def on(self, index: Tensor, look: Look) -> Working:
        """F as a function of the penalised parameters of these numbers, in rising order, from a look.

        All that are not 0 there are among them.
        """

    @abstractmethod
    def times(self, factor: float) -> Composite:
        """The same with a penalty that is `factor` times as strong."""

    @abstractmethod
    def samples(self) -> Sequence[Composite]:
        """The same on samples of the rows, the smallest first; none where all rows are few."""
