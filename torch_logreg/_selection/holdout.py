"""Stopping once held-out rows are predicted no better."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split
from torch import Tensor

from torch_logreg._checks.data import TrainingData
from torch_logreg._data.loaders import cut
from torch_logreg._fit.predictor import by_chunks
from torch_logreg._fit.problem import Problem
from torch_logreg._losses.links import codes_of
from torch_logreg._runtime.limits import limits_of

IMPROVEMENT = 1e-4  # of the accuracy, below which it has not improved


def hold_out(data: TrainingData, fraction: float, seed: int) -> tuple[TrainingData, TrainingData]:
    """Rows to train on and rows to keep, with the classes in equal parts; rows of no weight are left out."""
    rows = np.flatnonzero(data.weights > 0)
    try:
        train, kept = train_test_split(
            rows, test_size=fraction, stratify=data.codes[rows], random_state=seed % 2**32
        )
    except ValueError as error:
        raise ValueError(
            f"early_stopping=True keeps validation_fraction={fraction} of {len(rows)} rows, and both parts "
            f"need rows of each class: {error}; use a larger fraction, more rows, or early_stopping=False."
        ) from error
    return _part(data, np.sort(train)), _part(data, np.sort(kept))


def _part(data: TrainingData, rows: np.ndarray) -> TrainingData:
    return TrainingData(cut(data.X, rows), data.codes[rows], data.classes, data.weights[rows])


class EarlyStopping:
    """Scores `kept` after each epoch, and keeps the best parameters.

    Stops after `n_iter_no_change` epochs in a row in which the accuracy did not improve by 1e-4.
    """

    def __init__(self, problem: Problem, kept: TrainingData, n_iter_no_change: int) -> None:
        self._problem, self._kept, self._patience = problem, kept, n_iter_no_change
        self.scores: list[float] = []
        self.best: Any = problem.snapshot(problem.start)
        self.stopped = False
        self._best_score, self._waited = -np.inf, 0

    def __call__(self, w: Tensor) -> bool:
        score = self.score(w)
        self.scores.append(score)
        self._waited = 0 if score > self._best_score + IMPROVEMENT else self._waited + 1
        if score > self._best_score:
            self._best_score, self.best = score, self._problem.snapshot(w)
        self.stopped = self._waited >= self._patience
        return self.stopped

    def score(self, w: Tensor) -> float:
        """The accuracy by weight."""
        kept, decision = self._kept, self._problem.decision(w)
        step = limits_of(self._problem.objective.rows.device).forward_rows
        codes = by_chunks(kept.X, step, lambda rows: codes_of(decision(rows))[None])
        return float(np.average(codes[:, 0] == kept.codes, weights=kept.weights))
