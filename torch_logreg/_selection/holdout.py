"""Rows that a fit is scored on while it runs, and stopping once they are predicted no better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from sklearn.metrics import get_scorer
from sklearn.model_selection import train_test_split
from torch import Tensor

from torch_logreg._checks.data import TrainingData
from torch_logreg._data.loaders import cut, is_loaded
from torch_logreg._fit.problem import Judged, Problem
from torch_logreg._runtime.blame import naming

IMPROVEMENT = 1e-4  # of an accuracy, or relative to any other score, below which it has not improved

SCORING = (
    "scoring is called as scoring(estimator, X, y), and with sample_weight=... besides where the rows to "
    "score have weights, those of class_weight included; it returns a number, larger for better."
)

Score: TypeAlias = Callable[
    [Tensor, Judged], float
]  # of parameters and what the rows say of them; more is better


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


def negative_loss(w: Tensor, judged: Judged) -> float:
    """The mean loss without the penalty, as a score."""
    return -judged.loss


class Scored:
    """The score of parameters by a scorer of scikit-learn, or a callable like one: of an estimator.

    Parameters
    ----------
    estimator : TorchLogisticClassifier
    scoring : str or callable
        Called as ``scoring(estimator, X, y)``, with `sample_weight` where a row has another weight than 1.
    kept : TrainingData
    attributes : callable
        Makes the fitted attributes of parameters.
    """

    def __init__(
        self,
        estimator: Any,
        scoring: str | Callable[..., float],
        kept: TrainingData,
        attributes: Callable[[Tensor], dict[str, Any]],
    ) -> None:
        self._estimator, self._kept, self._attributes = estimator, kept, attributes
        self._what, self._scorer = f"scoring={scoring!r}", get_scorer(scoring)
        self._labels = kept.classes[kept.codes]
        self._given = {} if (kept.weights == 1).all() else {"sample_weight": kept.weights}

    def __call__(self, w: Tensor, judged: Judged) -> float:
        kind: Any = type(self._estimator)
        twin = kind.__new__(kind)
        twin.__dict__.update(vars(self._estimator), **self._attributes(w))
        twin.__dict__.pop("feature_names_in_", None)  # the rows kept are checked, and have no names any more
        with naming(self._what, SCORING):
            return float(self._scorer(twin, self._kept.X, self._labels, **self._given))


class Validation:
    """Scores the rows `kept` after each update, and with `patience` keeps the best parameters.

    Stops after `patience` updates in a row in which the score did not improve by 1e-4, relative to the best
    one unless it is the accuracy. Without patience (0) it never stops.

    Parameters
    ----------
    problem : Problem
    kept : TrainingData
    score : callable, default=None
        None is the accuracy.
    patience : int, default=0
    """

    def __init__(
        self, problem: Problem, kept: TrainingData, score: Score | None = None, patience: int = 0
    ) -> None:
        self._problem, self._kept, self._score, self._patience = problem, kept, score, patience
        self.scores: list[float] = []
        self.losses: list[float] = []
        self.best: Any = problem.snapshot(problem.start) if patience else None
        self.stopped = False
        self._best_score, self._waited = -np.inf, 0

    def __call__(self, w: Tensor) -> bool:
        judged = self._problem.judged_by(self._kept, w)
        score = judged.accuracy if self._score is None else self._score(w, judged)
        if np.isnan(score):
            raise ValueError(
                f"The score of the rows to score is NaN after update {len(self.scores)} (counted from 0), "
                "which says nothing of the weights; use a scoring that is defined on these rows (some need "
                "all classes), scale X_val as X is, or use a smaller learning_rate."
            )
        self.scores.append(score)
        self.losses.append(judged.loss)
        if not self._patience:
            return False
        self._waited = 0 if self._is_better(score) else self._waited + 1
        if score > self._best_score:
            self._best_score, self.best = score, self._problem.snapshot(w)
        self.stopped = self._waited >= self._patience
        return self.stopped

    def _is_better(self, score: float) -> bool:
        if self._best_score == -np.inf:
            return score > -np.inf
        size = 1.0 if self._score is None else abs(self._best_score)
        return score > self._best_score + IMPROVEMENT * size


def validation_of(
    estimator: Any,
    problem: Problem,
    kept: TrainingData,
    attributes: Callable[[Tensor], dict[str, Any]],
) -> Validation:
    """The validation that the parameters of an estimator ask for."""
    scoring = estimator.scoring
    score: Score | None = None
    if scoring == "loss":
        score = negative_loss
    elif scoring not in (None, "accuracy"):
        if is_loaded(kept.X):
            raise ValueError(
                f"scoring={scoring!r} predicts all rows at once, and those to score come from a Dataset or "
                "DataLoader; use scoring='loss' or None, or pass arrays as X_val and y_val."
            )
        score = Scored(estimator, scoring, kept, attributes)
    return Validation(problem, kept, score, estimator.n_iter_no_change if estimator.early_stopping else 0)
