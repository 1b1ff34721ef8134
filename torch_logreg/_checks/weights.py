"""Weights of rows and of classes."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils import compute_class_weight

from torch_logreg._checks.compat import (
    check_sample_weight,
    num_samples,
)
from torch_logreg._checks.containers import on_host, refusing_huge_integers


def times_class_weight(
    weights: np.ndarray, class_weight: Any, classes: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """Weights of the rows times those of their classes; "balanced" is among the classes that have weight."""
    of_class = weights_of_classes(class_weight, classes, np.bincount(codes, weights))
    with np.errstate(over="ignore", under="ignore"):  # which `check_range` sees to
        product = weights * of_class[codes]
    # What rounds to 0 is not 0: a class that should have weight is not to pass for one without.
    product[(product == 0) & (weights > 0) & (of_class > 0)[codes]] = np.nextafter(0.0, 1.0)
    return product


def weights_of_classes(class_weight: Any, classes: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """The weight of each class, (n_classes,), where the weights of its rows have the sum in `sums`."""
    _check_class_weight(class_weight, classes)
    of_class = np.zeros(len(classes))
    known = np.flatnonzero(sums > 0) if isinstance(class_weight, str) else np.arange(len(classes))
    # One row a class, with its weight, stands for all of its rows.
    with refusing_huge_integers("class_weight"), np.errstate(over="ignore"):
        of_class[known] = compute_class_weight(
            class_weight, classes=classes[known], y=classes[known], sample_weight=sums[known]
        )
    if not (np.isfinite(of_class).all() and (of_class >= 0).all()):
        raise ValueError(
            f"class_weight gives the classes {classes.tolist()} the weights {of_class.tolist()}: "
            "each must be a finite number, at least 0."
        )
    if not of_class[sums > 0].any():
        raise ValueError(
            "sample_weight times class_weight is 0 for every row: at least one class must have a non-zero "
            "weight."
        )
    return of_class


def _check_class_weight(class_weight: Any, classes: np.ndarray) -> None:
    """Raise where scikit-learn does, and say which of the names is unknown."""
    if not isinstance(class_weight, Mapping):
        return
    missing = [label for label in classes.tolist() if label not in class_weight]
    unknown = [label for label in class_weight if label not in classes.tolist()]
    if missing and unknown:
        raise ValueError(
            f"The classes, {missing}, are not in class_weight, which names {unknown}: y has no such classes."
        )


def one_a_row(sample_weight: Any, y: Any) -> Any:
    """Weights as scorers take them, on the host: one number as a vector of it."""
    given = on_host(sample_weight, of="sample_weight")
    if isinstance(given, Real) or (isinstance(given, np.ndarray) and given.ndim == 0):
        return np.full(num_samples(y), given, dtype=np.float64)
    return given


def sample_weights(sample_weight: Any, y: np.ndarray) -> np.ndarray:
    """Checked, (n_rows,) float64: one number stands for a vector of it, None for a broadcast 1."""
    if sample_weight is None:
        return np.ndarray(len(y), np.float64, buffer=np.ones(1), strides=(0,))  # one, broadcast
    with refusing_huge_integers("sample_weight"), np.errstate(invalid="ignore"):
        weights = check_sample_weight(one_a_row(sample_weight, y), y, dtype=np.float64)
    if weights.min() < 0:
        row = int(np.flatnonzero(weights < 0)[0])
        raise ValueError(
            f"sample_weight[{row}] is {weights[row]}: weights must not be negative; use 0 to leave a row out."
        )
    if np.isnan(weights).any():  # of a number for all rows, which is not looked at
        raise ValueError("Input sample_weight contains NaN.")
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not np.isfinite(total):
        raise ValueError("The sum of sample_weight overflows; divide sample_weight by its largest.")
    if not weights.max() > 0:
        raise ValueError("sample_weight is 0 for every row: it must contain at least one non-zero number.")
    return weights


def check_range(weights: np.ndarray, codes: np.ndarray, info: np.finfo) -> None:
    """Raise if in the dtype of X the sum of the weights is infinite, or a class has none left that it had."""
    if weights.strides == (0,):
        return
    with np.errstate(over="ignore"):
        total = weights.sum()
    if total > info.max:
        raise ValueError(
            f"The sum of sample_weight times class_weight overflows {info.dtype}, the dtype of X: "
            "divide the weights by their largest."
        )
    if weights[weights > 0].min() >= info.tiny:
        return
    largest = np.zeros(codes.max() + 1)
    np.maximum.at(largest, codes, weights)
    lost = largest[(largest > 0) & (largest < info.tiny)]
    if len(lost):
        raise ValueError(
            f"sample_weight times class_weight is at most {lost.min():.1e} in one of the classes, which "
            f"is too small for {info.dtype}, the dtype of X: multiply all weights by the same large number."
        )
