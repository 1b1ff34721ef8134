"""History, printed lines and scikit-learn's callbacks of a running fit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from torch_logreg._checks.compat import begin_callbacks
from torch_logreg._contracts.solver import Iteration

HISTORY = ("objective", "gradient_norm", "rows_read", "step", "seconds")


class Recorder:
    """The callback of a solver that fits one problem: keeps the history, prints, passes on.

    `attributes` makes the fitted attributes of the weights it is given.
    """

    def __init__(
        self,
        verbose: int,
        attributes: Callable[[Any], dict],
        forward: Forward,
        accuracy: Callable[[Any], float] | None = None,
    ) -> None:
        self._verbose, self._attributes, self._forward = verbose, attributes, forward
        self._accuracy = accuracy
        self._start = time.perf_counter()
        self.rows: list[tuple[float, ...]] = []

    def __call__(self, iteration: Iteration) -> bool:
        F, gradient_norm = float(iteration.objective[0]), float(iteration.gradient_norm[0])
        step, seconds = float(iteration.step[0]), time.perf_counter() - self._start
        self.rows.append((F, gradient_norm, iteration.rows_read, step, seconds))
        if self._verbose and self._accuracy is None:  # of rows that are loaded, each look is a pass
            print(f"iteration {iteration.number}: loss {F:.6f}, step {step:.3g}")
        elif self._verbose and self._accuracy is not None:
            print(
                f"iteration {iteration.number}: loss {F:.6f}, max |gradient| {gradient_norm:.2e}, "
                f"step {step:.3g}; accuracy after it {self._accuracy(iteration.w):.4f}"
            )
        return self._forward(lambda: self._attributes(iteration.w))

    def history(self) -> dict[str, np.ndarray]:
        """The history, with F for the objective."""
        columns = np.array(self.rows, dtype=np.float64).reshape(-1, len(HISTORY)).T
        return dict(zip(HISTORY, columns, strict=True))


def scaled(history: dict[str, np.ndarray], factor: float) -> dict[str, np.ndarray]:
    """Multiply the objective by `factor`, which makes it scikit-learn's; infinite where that overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        return history | {"objective": history["objective"] * factor}


class Forward:
    """Passes each iteration on to the callbacks set on the estimator, if scikit-learn has them."""

    def __init__(self, estimator: Any, X: Any, y: Any, metadata: dict | None) -> None:
        self._estimator, self._hooks = estimator, dict(estimator=estimator, X=X, y=y, metadata=metadata)
        self._context = begin_callbacks(estimator, max(estimator.max_iter, 1))
        if self._context is not None:
            self._context.call_on_fit_task_begin(**self._hooks)

    def __call__(self, attributes: Callable[[], dict]) -> bool:
        if self._context is None:
            return False
        iteration = self._context.subcontext(task_name="iteration")
        with torch.inference_mode(False), torch.no_grad():  # whatever the fit may run in
            iteration.call_on_fit_task_begin(**self._hooks)
            return bool(iteration.call_on_fit_task_end(**self._hooks, reconstruction_attributes=attributes()))

    def close(self) -> None:
        if self._context is not None:
            self._context.call_on_fit_task_end(**self._hooks, reconstruction_attributes={})
