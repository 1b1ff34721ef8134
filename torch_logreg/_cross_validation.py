"""Folds, their scores for each C, and the choice of C."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import PredefinedSplit, check_cv
from torch import Tensor

from torch_logreg._inputs import Features, TrainingData, float_dtype, to_tensor
from torch_logreg._problems import on_device
from torch_logreg._rows import matmul
from torch_logreg._scores import is_vectorised, score_all

CHUNK_ROWS = 2**14  # predicted at a time
SCORED_NUMBERS = 2**19  # raw predictions held at a time, unless those of one C are more


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
    given = {name: _cut(value, kept, n_rows) for name, value in given.items()}
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


class Scorer:
    """Scores all Cs on the rows kept aside of one fold after the other.

    Parameters
    ----------
    name : str or None
        Of the scorer, where it is one of scikit-learn's.
    scorer : callable
        That scorer, or another: of an estimator, X and y.
    parameters : mapping
        Keyword arguments of the scorer: arrays as long as the rows are cut to those kept aside.
    estimator : callable
        Makes a fitted estimator of a ``coef_`` and an ``intercept_``.
    """

    def __init__(
        self,
        name: str | None,
        scorer: Callable[..., float],
        parameters: Mapping[str, Any],
        estimator: Callable[[np.ndarray, np.ndarray], Any],
    ) -> None:
        self._name, self._scorer, self._parameters, self._estimator = name, scorer, parameters, estimator

    def __call__(
        self,
        data: TrainingData,
        y: np.ndarray,
        test: np.ndarray,
        coef: np.ndarray,
        intercept: np.ndarray,
        device: torch.device,
    ) -> np.ndarray:
        """Of coefficients (n_Cs, K, d) and intercepts (n_Cs, K): a score each, (n_Cs,)."""
        given = {name: _cut(value, test, len(y)) for name, value in self._parameters.items()}
        if self._name is not None and set(given) <= {"sample_weight"}:
            weights = given.get("sample_weight")
            on = None if weights is None else torch.as_tensor(weights, dtype=torch.float64, device="cpu")
            codes = torch.as_tensor(data.codes[test], dtype=torch.int64, device="cpu")
            if is_vectorised(self._name, data.classes, codes, on):
                weights, codes = None if on is None else on.to(device), codes.to(device)
                step = max(1, SCORED_NUMBERS // (coef.shape[1] * len(test)))
                scores = []
                for part in (slice(first, first + step) for first in range(0, len(coef), step)):
                    z = _raw_predictions(data.X, test, coef[part], intercept[part], device)
                    scores.append(score_all(self._name, z, codes, weights, data.classes))
                return np.concatenate(scores)
        X, labels = _rows_of(data.X, test), y[test]
        return np.array(
            [
                self._scorer(self._estimator(*one), X, labels, **given)
                for one in zip(coef, intercept, strict=True)
            ]
        )


def _cut(value: Any, rows: np.ndarray, n_rows: int) -> Any:
    if not hasattr(value, "__len__") or isinstance(value, str) or len(value) != n_rows:
        return value
    return value.iloc[rows] if isinstance(value, pd.DataFrame | pd.Series) else np.asarray(value)[rows]


def _rows_of(X: Features, rows: np.ndarray) -> Features:
    if isinstance(X, Tensor):
        return X.index_select(0, torch.as_tensor(rows, dtype=torch.int64, device=X.device))
    return X[rows]


def _raw_predictions(
    X: Features, rows: np.ndarray, coef: np.ndarray, intercept: np.ndarray, device: torch.device
) -> Tensor:
    """(n_Cs, K, n), in the dtype of X."""
    n_Cs, K, d = coef.shape
    dtype = float_dtype(X, device)
    weight = to_tensor(coef.reshape(-1, d), device, dtype)
    bias = to_tensor(intercept.reshape(-1, 1), device, dtype)
    z = torch.empty((n_Cs * K, len(rows)), dtype=dtype, device=device)
    for start in range(0, len(rows), CHUNK_ROWS):
        part = rows[start : start + CHUNK_ROWS]
        z[:, start : start + len(part)] = matmul(on_device(_rows_of(X, part), device, dtype), weight) + bias
    return z.view(n_Cs, K, -1)


def results(Cs: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """A row a C, from `scores` (n_folds, n_Cs)."""
    mean = scores.mean(axis=0)
    columns = {
        "C": Cs,
        "mean_test_score": mean,
        "std_test_score": scores.std(axis=0),
        "rank_test_score": pd.Series(-mean).rank(method="min").fillna(len(Cs)).astype(np.int32).to_numpy(),
    }
    return pd.DataFrame(columns | {f"split{i}_test_score": row for i, row in enumerate(scores)})


def choose(Cs: np.ndarray, scores: np.ndarray, one_standard_error: bool) -> int:
    """The index of the best C, or of the smallest within a standard error of it.

    References
    ----------
    Breiman, Friedman, Olshen, Stone (1984), Classification and Regression Trees, section 3.4.3.
    """
    mean = scores.mean(axis=0)
    best = int(np.argmax(mean))
    if not one_standard_error or len(scores) < 2:
        return best
    error = scores[:, best].std(ddof=1) / np.sqrt(len(scores))
    within = np.flatnonzero(mean >= mean[best] - error)
    return int(within[np.argmin(Cs[within])]) if len(within) else best
