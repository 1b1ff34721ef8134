"""Class labels as codes, without sorting all rows. Knows scikit-learn's check of targets."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.utils.multiclass import check_classification_targets

TABLE_NUMBERS = 2**16  # from the smallest to the largest label, however few rows there are
EXACT = 2.0**53  # up to here a float holds every whole number


def factorise(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``np.unique(y, return_inverse=True)`` of class labels; the codes may be y itself.

    What is no label goes through scikit-learn's check and numpy, for their messages.
    """
    found = None
    if y.dtype.kind in "biuf":
        found = _numbers(y)
    elif y.dtype.kind in "OU":
        found = _words(y)
    if found is None:
        try:
            check_classification_targets(y)
            classes, codes = np.unique(y, return_inverse=True)
        except (TypeError, ValueError) as error:
            if y.dtype.kind == "O" and ("type: unknown" in str(error) or "'<' not supported" in str(error)):
                raise type(error)(_of_objects(y)) from error
            raise
        return classes, codes
    if len(y) > 20 and 2 * len(found[0]) >= len(y):  # so many classes may be worth a warning
        check_classification_targets(y)
    return found


def _of_objects(y: np.ndarray) -> str:
    """Say what is wrong with labels that are objects and not all strings."""
    kinds = sorted({type(label).__name__ for label in y})
    text = f"Unknown label type: y is an array of objects of type {', '.join(kinds)}"
    words = isinstance(y[0], str)
    other = next((i for i, label in enumerate(y) if isinstance(label, str) != words), None)
    if other is None:
        return f"{text}. Convert it, for example by y.astype(int) or y.astype(str)."
    return (
        f"{text}, such as y[0] = {y[0]!r} and y[{other}] = {y[other]!r}. Drop the rows without a label, or "
        "turn all into strings."
    )


def _numbers(y: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Factorise whole numbers by a table or by hashing; None if any is not whole."""
    low, high = y.min(), y.max()
    if y.dtype.kind == "f" and not (-EXACT <= float(low) and float(high) <= EXACT):  # NaN neither
        return None
    # A uint64 wraps around, and differences and the way back wrap with it.
    whole, first = y.astype(np.int64, copy=False), low.astype(np.int64)
    if y.dtype.kind == "f" and not (whole == y).all():
        return None
    n_numbers = int(high) - int(low) + 1
    if n_numbers > max(TABLE_NUMBERS, len(y)):
        codes, labels = pd.factorize(whole)
        classes, order = np.unique(labels.astype(y.dtype), return_inverse=True)
        return classes, order[codes]
    codes = whole - first if first else whole
    present = np.bincount(codes) > 0
    offsets = np.flatnonzero(present)
    if len(offsets) < n_numbers:
        codes = (np.cumsum(present) - 1)[codes]
    return (offsets + first).astype(y.dtype), codes


def _words(y: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Factorise strings by hashing; None if any is none."""
    try:
        codes, words = pd.factorize(y)
    except TypeError:  # lists and the like have no hash
        return None
    if (codes < 0).any() or not all(isinstance(word, str) for word in words):
        return None
    classes, order = np.unique(words.astype(y.dtype), return_inverse=True)
    return classes, order[codes]
