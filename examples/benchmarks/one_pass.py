"""One pass over the rows: what value and gradient cost next to a sum over X, and how many a fit makes.

    python examples/benchmarks/one_pass.py [--repeats N] [--scale S] [--write]

500 000 x 100, two classes, float32 and float64. The sum is torch's `X.sum()`, which reads X once; the two
run in turn, and a time is the median over the repeats. The passes of a fit with default settings are
the rows that it counts as read, by itself, over the rows there are.
"""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any
from unittest import mock

import harness
import numpy as np
import torch

from torch_logreg import TorchLogisticClassifier
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.objective import ColumnsObjective
from torch_logreg._linear.streamed import Streamed
from torch_logreg._losses.losses import LOSSES

MOST_SUMS, MOST_PASSES = 4, 6  # what is meant to be kept


def seconds(X: np.ndarray, y: np.ndarray, repeats: int) -> tuple[float, float]:
    """Of one value and gradient, and of one sum."""
    features, loss = torch.from_numpy(X), LOSSES["binary"]
    target = loss.encode(torch.from_numpy(y), features.dtype)
    rows = ArrayRows(features, target, torch.ones((1, len(X)), dtype=features.dtype), 1)
    model = LinearModel(loss, torch.ones(1, dtype=torch.float64), n_outputs=1, fit_intercept=True)
    objective = ColumnsObjective(Streamed(rows, model), loss)
    w = torch.linspace(-0.1, 0.1, objective.n_parameters, dtype=torch.float64)[None]
    calls = {
        "pass": partial(harness.timed, partial(objective.value_and_gradient, w)),
        "sum": partial(harness.timed, features.sum),
    }
    harness.in_turn(calls, 1)  # the first of each is not timed
    one_pass, one_sum = (median(times) for times in harness.in_turn(calls, repeats, burst=4).values())
    return one_pass, one_sum


def passes(X: np.ndarray, y: np.ndarray) -> float:
    """Rows read by a default fit for whatever purpose, a copy or a sample included, over the rows of X."""
    made: list[ArrayRows] = []
    initialise = ArrayRows.__init__

    def remember(self: ArrayRows, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        initialise(self, *args, **kwargs)

    with mock.patch.object(ArrayRows, "__init__", remember):
        TorchLogisticClassifier().fit(X, y)
    counted = sum(rows.rows_read for rows in made)
    assert counted, "the fit counted no rows"
    return counted / len(X)


def main() -> None:
    arguments = harness.parser(__doc__, repeats=20).parse_args()
    lines = []
    for dtype in (np.float32, np.float64):
        X, y = harness.correlated(int(500_000 * arguments.scale), 100, 2, dtype)
        one_pass, one_sum = seconds(X, y, arguments.repeats)
        data = f"{len(X):,} x {X.shape[1]}, {X.dtype}"
        times = [f"{1e3 * one_pass:.4g}", f"{1e3 * one_sum:.4g}", f"{one_pass / one_sum:.2f}"]
        lines.append([data, *times, f"{passes(X, y):.2f}"])
    head = ["data", "value and gradient, ms", "`X.sum()`, ms", "ratio", "passes of a fit"]
    target = f"Target: a ratio of at most {MOST_SUMS}, and at most {MOST_PASSES} passes."
    harness.publish("one_pass", harness.table(head, lines) + "\n" + target, arguments.write)


if __name__ == "__main__":
    main()
