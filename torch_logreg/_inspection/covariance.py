"""Covariances of maximum likelihood estimates: of the model as it is, or robust to its being wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg

from torch_logreg._inspection.information import Information

COV_TYPES = ("nonrobust", "HC0", "HC1", "cluster")
SINGULAR = 1e-12  # of a matrix of unit diagonal: an eigenvalue of so little is none
NAMED = 5  # columns in an error
ADVICE = (
    ", so the rows do not tell their coefficients apart, and there are no standard errors. Leave out "
    "constant columns, and one of those that add up to others (of the indicators of a factor, one)."
)


class Singular(ValueError):
    """The information says nothing of some direction of the coefficients."""


def covariance_of(information: Information, cov_type: str, names: Sequence[str]) -> np.ndarray:
    """Covariance (p, p) of the coefficients of raw columns, by output, the intercept first.

    References
    ----------
    White (1980), A heteroskedasticity-consistent covariance matrix estimator, Econometrica 48(4). MacKinnon,
    White (1985), Some heteroskedasticity-consistent covariance matrix estimators, Journal of Econometrics
    29(3), for HC1. Cameron, Miller (2015), A practitioner's guide to cluster-robust inference, Journal of
    Human Resources 50(2).
    """
    inverse = _inverted(information, names)
    found, p, n = inverse, len(inverse), information.n_rows
    if cov_type != "nonrobust":
        found = inverse @ information.meat @ inverse
    if cov_type == "HC1":
        found = found * (n / (n - p))
    elif cov_type == "cluster":
        G = information.n_groups
        found = found * (G / (G - 1)) * ((n - 1) / (n - p))
    to_raw = np.kron(np.eye(information.n_outputs), information.scale.to_raw(information.fit_intercept))
    return to_raw @ found @ to_raw.T


def errors_away(information: Information, names: Sequence[str]) -> float:
    """How many standard errors the coefficients are away from the best for these rows, by a Newton step."""
    return float(np.sqrt(max(information.slope @ _inverted(information, names) @ information.slope, 0.0)))


def _inverted(information: Information, names: Sequence[str]) -> np.ndarray:
    """The inverse; raises `Singular`, which names columns, where there is none."""
    matrix = information.matrix
    size = np.sqrt(np.diagonal(matrix))
    if not size.all():
        empty = np.flatnonzero(size == 0)
        raise Singular(
            f"{_named(empty, information, names)} constant, and the intercept says the same{ADVICE}"
        )
    unit = matrix / size / size[:, None]
    values, vectors = scipy.linalg.eigh(unit)
    if values[0] <= SINGULAR * len(unit):
        null = np.abs(vectors[:, values <= SINGULAR * len(unit)]).max(axis=1)
        found = np.flatnonzero(null > 1e-3 * null.max())
        raise Singular(f"{_named(found, information, names)} combinations of each other{ADVICE}")
    return (vectors / values) @ vectors.T / size / size[:, None]


def _named(parameters: np.ndarray, information: Information, names: Sequence[str]) -> str:
    """The subject of a sentence of the columns that these parameters are of."""
    m = len(information.matrix) // information.n_outputs
    numbers = sorted({int(j) % m - information.fit_intercept for j in parameters} - {-1})
    shown = ", ".join(repr(names[j]) for j in numbers[:NAMED])
    more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"The columns {shown}{more} are" if len(numbers) > 1 else f"The column {shown} is"
