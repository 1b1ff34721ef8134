"""Rows that count the passes over them, and what made-up problems are made of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from torch_logreg._data.arrays import ArrayRows


class CountedRows(ArrayRows):
    """Counts the passes over all rows, which samples are not."""

    passes = 0

    def blocks(self):
        self.passes += 1
        yield from super().blocks()


class Data(NamedTuple):
    X: np.ndarray
    codes: np.ndarray
    weight: np.ndarray
    n_classes: int
