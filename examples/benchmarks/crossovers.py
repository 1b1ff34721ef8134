"""Where one way to fit overtakes another: seconds of both sides of each line in the plan.

    python examples/benchmarks/crossovers.py [--repeats N] [--scale S] [--write]

Columns are correlated as in `harness.correlated`. A row of a table is a shape, for which the default has
made its choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import harness
import numpy as np
from sparse import text_like

from torch_logreg import TorchLogisticClassifier

# Rows and columns, two classes: a factorisation against products alone.
FACTORISED = ((20_000, 100), (20_000, 300), (20_000, 600), (20_000, 1000), (20_000, 1500), (5_000, 1000))
# Rows, columns and stored numbers a row of text: the space of the rows against the columns.
TEXTS = (
    (1_100, 7_000, 50),
    (1_100, 11_100, 50),
    (1_100, 22_100, 50),
    (2_000, 12_000, 100),
    (2_000, 20_000, 100),
    (2_000, 40_000, 100),
    (4_000, 130_000, 115),
    (9_000, 54_000, 100),
    (9_000, 90_000, 100),
    (9_000, 180_000, 100),
)
# Rows and columns, two classes: the same.
SPACES = ((100, 2_000), (300, 2_000), (300, 10_000), (600, 10_000), (1_000, 4_000), (1_000, 20_000))


@contextmanager
def columns_only() -> Iterator[None]:
    with (
        patch("torch_logreg._fit.plan.MOST_ROWS", 0),
        patch("torch_logreg._fit.plan.MOST_STORED", 0),
    ):
        yield


def seconds(make: Callable[[], Any], X: np.ndarray, y: np.ndarray) -> float:
    return harness.fitted(make, X, y)[0]


def factorised(scale: float, repeats: int) -> str:
    lines = []
    for n_rows, d in FACTORISED:
        X, y = harness.correlated(int(n_rows * scale), d, 2, np.float32)
        calls = {
            solver: partial(seconds, partial(TorchLogisticClassifier, solver=solver), X, y)
            for solver in ("newton-cholesky", "newton-cg", "natural-sgd")
        }
        times = [median(runs) for runs in harness.in_turn(calls, repeats).values()]
        lines.append([f"{len(X):,} x {d:,}", *(f"{1e3 * each:.1f}" for each in times)])
    return harness.table(["shape", "newton-cholesky, ms", "newton-cg, ms", "natural-sgd, ms"], lines)


def both_spaces(X: Any, y: np.ndarray, repeats: int) -> list[str]:
    def elsewhere() -> float:
        with columns_only():
            return seconds(TorchLogisticClassifier, X, y)

    calls = {"default": partial(seconds, TorchLogisticClassifier, X, y), "columns": elsewhere}
    return [f"{1e3 * median(runs):.1f}" for runs in harness.in_turn(calls, repeats).values()]


def spaces(scale: float, repeats: int) -> str:
    lines = []
    for n_rows, d in SPACES:
        X, y = harness.correlated(int(n_rows * scale), d, 2, np.float32)
        lines.append([f"{len(X):,} x {d:,}", *both_spaces(X, y, repeats)])
    for n_rows, d, stored in TEXTS:
        X, y = text_like(int(n_rows * scale), "float64", d, stored)
        lines.append([f"{X.shape[0]:,} x {d:,}, {stored} numbers a row", *both_spaces(X, y, repeats)])
    return harness.table(["shape", "the default, ms", "in the space of the columns, ms"], lines)


def main() -> None:
    arguments = harness.parser(__doc__, repeats=3).parse_args()
    harness.fit(TorchLogisticClassifier, *harness.correlated(5_000, 20, 2))  # libraries load untimed
    parts = [factorised(arguments.scale, arguments.repeats), spaces(arguments.scale, arguments.repeats)]
    harness.publish("crossovers", "\n".join(parts), arguments.write)


if __name__ == "__main__":
    main()
