"""History, verbose lines and callbacks of the fits on all rows, for every C and l1_ratio."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from torch_logreg._contracts.solver import Iteration
from torch_logreg._estimators.callbacks import HISTORY, OF_L1, Forward

Coefficients: TypeAlias = Callable[[], tuple[np.ndarray, np.ndarray]]


class PathHistory:
    """Keeps what the fits on all rows tell, of every C, and passes it on to callbacks.

    Parameters
    ----------
    verbose : int
    classes : ndarray
    forward : Forward
    Cs : ndarray
        In rising order.
    l1_ratios : ndarray
        Those above 0.
    """

    def __init__(
        self, verbose: int, classes: np.ndarray, forward: Forward, Cs: np.ndarray, l1_ratios: np.ndarray
    ) -> None:
        self._verbose, self._classes, self._forward, self._left = verbose, classes, forward, forward.most
        self._Cs, self._l1_ratios, self._is_stopped = Cs, l1_ratios, False
        self._start = time.perf_counter()
        self._kept: list[tuple[int, np.ndarray]] = []  # number of the first problem, (n_problems, 5 or 7)

    def __call__(self, first: int, iteration: Iteration, largest_C: Coefficients) -> bool:
        """Take note of an iteration on some Cs without an L1 term, of which one is `first`."""
        self._keep(first, iteration)
        if self._verbose:
            print(
                f"iteration {iteration.number}: {int(iteration.done.sum())} of {len(iteration.done)} values "
                f"of C done on all rows, largest max |gradient| {iteration.gradient_norm.max():.2e}"
            )
        return self._pass_on(largest_C)

    def of_l1(self, number: int, place: int, iteration: Iteration, coefficients: Coefficients) -> bool:
        """Take note of an iteration with the l1_ratio of that number and the C at that place."""
        self._keep(self.number_of(number, place), iteration)
        if self._verbose and iteration.n_nonzero is not None:
            print(
                f"l1_ratio={self._l1_ratios[number]:.4g}, C={self._Cs[place]:.4g}, iteration "
                f"{iteration.number} on all rows: max |gradient| {iteration.gradient_norm.max():.2e}, "
                f"{int(iteration.n_nonzero[0])} coefficients"
            )
        # One that stops a C stops those after it, too.
        self._is_stopped = self._pass_on(coefficients) or self._is_stopped
        return self._is_stopped

    def number_of(self, l1_number: int | None, place: int) -> int:
        """The number of a problem on all rows: of the C at that place, and with an L1 term of which."""
        return place if l1_number is None else (1 + l1_number) * len(self._Cs) + place

    def _keep(self, number: int, iteration: Iteration) -> None:
        seconds = time.perf_counter() - self._start
        parts = (iteration.objective, iteration.gradient_norm, iteration.rows_read, iteration.step, seconds)
        of_l1 = () if iteration.gap is None else (iteration.gap, iteration.n_nonzero)
        self._kept.append((number, np.stack(np.broadcast_arrays(*parts, *of_l1), axis=1)))

    def _pass_on(self, coefficients: Coefficients) -> bool:
        self._left -= 1
        if self._left < 0:
            return False
        names = ("coef_", "intercept_")

        def attributes() -> dict[str, Any]:
            return {"classes_": self._classes, **dict(zip(names, coefficients(), strict=True))}

        return self._forward(attributes)

    def history(self, number: int, n_iter: int) -> dict[str, np.ndarray]:
        """The history of one problem, with F for the objective."""
        found = [table[number - first] for first, table in self._kept if 0 <= number - first < len(table)]
        names = (*HISTORY, *OF_L1) if number >= len(self._Cs) else HISTORY
        columns = np.array(found[:n_iter]).reshape(-1, len(names)).T
        return dict(zip(names, columns, strict=True))
