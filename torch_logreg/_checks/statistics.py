"""Arguments of statistics of a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from torch_logreg._checks.containers import on_host


def check_one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Raise if a word is none of those that are known."""
    if not (isinstance(value, str) and value in known):
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, known))}.")


def check_groups(groups: Any, n_rows: int) -> np.ndarray:
    """The group of each row as a number from 0, (n_rows,)."""
    labels = np.asarray(on_host(groups, of="groups"))
    if labels.shape != (n_rows,):
        raise ValueError(
            f"groups has the shape {labels.shape} and X has {n_rows} rows: it needs one for each."
        )
    codes, found = pd.factorize(labels)
    if (codes < 0).any():
        raise ValueError("groups has missing values; give each row a group, a new one if it is alone.")
    if len(found) < 2:
        raise ValueError("groups has one group alone; a covariance by groups needs two or more.")
    return codes.astype(np.int64)


def check_columns(columns: Any, names: list[str] | None, n_features: int) -> np.ndarray:
    """Numbers of columns that are given by name or number, one or several."""
    several = [columns] if isinstance(columns, str | int | np.integer) else list(columns)
    if not several:
        raise ValueError("columns is empty; name the features whose coefficients are to be tested.")
    found = []
    for column in several:
        if isinstance(column, str):
            if names is None or column not in names:
                known = "X had no names of features" if names is None else f"the features are {names[:10]}"
                raise ValueError(f"columns has {column!r}, which is no feature of the model: {known}.")
            found.append(names.index(column))
            continue
        if not isinstance(column, int | np.integer) or not -n_features <= column < n_features:
            raise ValueError(
                f"columns has {column!r}; it takes names and numbers from 0 to {n_features - 1}."
            )
        found.append(int(column) % n_features)
    if len(set(found)) < len(found):
        raise ValueError(f"columns={several!r} has a feature twice.")
    return np.array(found)
