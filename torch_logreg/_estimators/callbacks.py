"""History and scikit-learn's callbacks of a running fit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_logreg._checks.compat import begin_callbacks
from torch_logreg._contracts.solver import Iteration
from torch_logreg._estimators.progress import Shown, Table
from torch_logreg._selection.holdout import Validation

HISTORY = ("objective", "gradient_norm", "rows_read", "step", "seconds")
OF_L1 = ("dual_gap", "n_nonzero")  # columns more where there is an L1 term


class Recorder:
    """The callback of a solver that fits one problem: keeps the history, scores, prints, passes on.

    Parameters
    ----------
    attributes : callable
        Makes the fitted attributes of the weights it is given.
    forward : Forward
    validation : Validation or None
    table : Table or None
        Where progress is printed.
    accuracy : callable or None
        Of weights, on the rows trained on; for the table, where there is no validation. None where to look at
        these rows once more would cost as much as an epoch.
    """

    def __init__(
        self,
        attributes: Callable[[Tensor], dict],
        forward: Forward,
        validation: Validation | None,
        table: Table | None,
        accuracy: Callable[[Tensor], float] | None,
    ) -> None:
        self._attributes, self._forward, self._validation = attributes, forward, validation
        self._table, self._accuracy = table, accuracy
        self._start = time.perf_counter()
        self.rows: list[tuple[float, ...]] = []
        self._of_l1: list[tuple[float, float]] = []

    def __call__(self, iteration: Iteration) -> bool:
        F, gradient_norm = float(iteration.objective[0]), float(iteration.gradient_norm[0])
        step, seconds = float(iteration.step[0]), time.perf_counter() - self._start
        self.rows.append((F, gradient_norm, iteration.rows_read, step, seconds))
        if iteration.gap is not None and iteration.n_nonzero is not None:
            self._of_l1.append((float(iteration.gap[0]), float(iteration.n_nonzero[0])))
        stop = self._validation is not None and self._validation(iteration.w)
        if self._table is not None:
            self._table.print(iteration, self._shown(iteration.w, seconds))
        return self._forward(lambda: {**self._attributes(iteration.w), **self._so_far()}) or stop

    def _so_far(self) -> dict[str, Any]:
        """The curves up to here, as attributes."""
        scores = None if self._validation is None else np.array(self._validation.scores)
        return {"loss_curve_": np.array([row[0] for row in self.rows]), "validation_scores_": scores}

    def _shown(self, w: Tensor, seconds: float) -> Shown:
        if self._validation is None:
            return Shown(self._accuracy(w) if self._accuracy else None, None, None, seconds)
        return Shown(None, self._validation.losses[-1], self._validation.scores[-1], seconds)

    def history(self) -> dict[str, np.ndarray]:
        """The history, with F for the objective."""
        columns = np.array(self.rows, dtype=np.float64).reshape(-1, len(HISTORY)).T
        history = dict(zip(HISTORY, columns, strict=True))
        if self._of_l1:
            history |= dict(zip(OF_L1, np.array(self._of_l1).T, strict=True))
        if self._validation is not None:
            history["validation_loss"] = np.array(self._validation.losses)
            history["validation_score"] = np.array(self._validation.scores)
        return history


def scaled(history: dict[str, np.ndarray], factor: float) -> dict[str, np.ndarray]:
    """Multiply the objective by `factor`, which makes it scikit-learn's; infinite where that overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        return history | {
            name: history[name] * factor for name in ("objective", "dual_gap") if name in history
        }


class Forward:
    """Passes each iteration on to the callbacks set on the estimator, if scikit-learn has them.

    They are told of so many fits, of `max_iter` iterations each at most.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, metadata: dict | None, n_fits: int = 1) -> None:
        self._estimator, self._hooks = estimator, dict(estimator=estimator, X=X, y=y, metadata=metadata)
        self.most = max(estimator.max_iter, 1) * n_fits
        self._context = begin_callbacks(estimator, self.most)
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
