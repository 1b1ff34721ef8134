"""Folds: which rows each trains on, and which are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import PredefinedSplit, check_cv
from torch import Tensor

from torch_logreg._checks.data import TrainingData
from torch_logreg._data.tensors import Features


class Fold(NamedTuple):
    """Indices of rows."""

    train: np.ndarray
    test: np.ndarray


def folds_of(
    cv: Any, data: TrainingData, y: np.ndarray, given: Mapping[str, Any], kept: np.ndarray
) -> list[Fold]:
    """Training and test parts that `cv` makes with the metadata `given`.

    scikit-learn's splitters make them of the rows `kept`, as if there were no others; what has row numbers of
    its own means those of X.
    """
    splitter, n_rows = check_cv(cv, y, classifier=True), len(y)
    if len(kept) == n_rows or not _splits_what_it_is_given(cv):
        return [Fold(*map(_indices, pair)) for pair in splitter.split(data.X, y, **given)]
    given = {name: cut_to(value, kept, n_rows) for name, value in given.items()}
    no_features = np.empty((len(kept), 0))  # which no splitter looks at
    pairs = splitter.split(no_features, y[kept], **given)
    return [Fold(kept[train], kept[test]) for train, test in pairs]


def _splits_what_it_is_given(cv: Any) -> bool:
    """Whether `cv` splits any number of rows. Only of scikit-learn's own splitters is that known."""
    if cv is None or isinstance(cv, Integral):
        return True
    return type(cv).__module__.startswith("sklearn.") and not isinstance(cv, PredefinedSplit)


def _indices(rows: Any) -> np.ndarray:
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == bool else rows


def without_silent(
    folds: Sequence[Fold], data: TrainingData, weights: np.ndarray, needs_labels: bool
) -> list[Fold]:
    """The folds with test parts without rows of no weight, which are no rows.

    One row of each class that has no weight at all stays if the scorer `needs_labels`, and knows the weights:
    a score of probabilities could not tell otherwise which class a column is of.
    """
    labels = np.zeros(0, dtype=np.int64)
    if needs_labels:
        present = np.bincount(data.codes[weights > 0], minlength=len(data.classes)) > 0
        labels = np.unique(data.codes, return_index=True)[1][~present]
    kept = [fold.test[weights[fold.test] > 0] for fold in folds]
    for number, test in enumerate(kept):
        if not len(test):
            raise ValueError(
                f"Fold {number} has no row of non-zero sample_weight to score on; use fewer folds, or leave "
                "it out."
            )
    return [
        fold._replace(test=np.concatenate([test, labels])) for fold, test in zip(folds, kept, strict=True)
    ]


def fold_counts(folds: Sequence[Fold], data: TrainingData) -> np.ndarray:
    """How often each row is in the training part of each fold, (n_folds, n_rows).

    Raises ValueError where such a part has rows of one class only, unless others have no weight.
    """
    n_rows, silent = len(data.codes), np.broadcast_to(data.weights == 0, data.codes.shape)
    counts = np.empty((len(folds), n_rows), dtype=np.int32)
    for number, fold in enumerate(folds):
        counts[number] = np.bincount(fold.train, minlength=n_rows)
        present = np.bincount(data.codes[(counts[number] > 0) | silent], minlength=len(data.classes)) > 0
        found = data.classes[present].tolist()
        if not data.weights[fold.train].any():
            raise ValueError(
                f"The data to train on of fold {number} have no row of non-zero weight; use fewer folds, or "
                "leave it out."
            )
        if len(found) < 2:
            raise ValueError(
                "This solver needs samples of at least 2 classes in the data, but the data to train on of "
                f"fold {number} contains only one class: {found}; use a splitter that stratifies, such as "
                "StratifiedKFold, or fewer folds."
            )
    return counts.astype(np.uint8) if counts.max(initial=0) < 256 else counts


def cut_to(value: Any, rows: np.ndarray, n_rows: int) -> Any:
    if not hasattr(value, "__len__") or isinstance(value, str) or len(value) != n_rows:
        return value
    return value.iloc[rows] if isinstance(value, pd.DataFrame | pd.Series) else np.asarray(value)[rows]


def rows_of(X: Features, rows: np.ndarray) -> Features:
    """Some of the rows of X, in memory of their own."""
    if isinstance(X, Tensor):
        return X.index_select(0, torch.as_tensor(rows, dtype=torch.int64, device=X.device))
    return X[rows]
