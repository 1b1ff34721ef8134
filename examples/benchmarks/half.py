"""Features of 16 bits next to the same in float32: seconds, memory, accuracy and log loss.

    python examples/benchmarks/half.py [--repeats N] [--scale S] [--write]

200 000 x 768 with 50 classes, the size of a linear probe, as torch tensors. The memory is that of X and the
fit together: the peak resident memory of a fresh process during the fit, less what it held before it made X,
the median over the repeats. Times are medians of fits in turn in one process. Accuracy and log loss are of
20 000 other rows, of the dtype fitted.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from statistics import median

import harness
import memory
import numpy as np
import torch

from torch_logreg import TorchLogisticClassifier

N_ROWS, N_FEATURES, N_CLASSES, N_TEST = 200_000, 768, 50, 20_000
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MOST_MEMORY = 0.55  # of that in float32
CLOSE = 1e-3  # of accuracy and of log loss


def data(dtype: torch.dtype, n_rows: int) -> tuple[torch.Tensor, np.ndarray]:
    """X filled in place: no array of it in another dtype was ever there."""
    X, y = torch.empty((n_rows, N_FEATURES), dtype=dtype), np.empty(n_rows, dtype=np.int64)
    for rows, block, labels in harness.correlated_blocks(n_rows, N_FEATURES, N_CLASSES):
        X[rows] = torch.from_numpy(block)
        y[rows] = labels
    return X, y


def child(dtype: str, n_rows: int) -> None:
    few, labels = data(DTYPES[dtype], 40_000)  # with all buffers of the library that makes the numbers
    TorchLogisticClassifier().fit(few[:200], labels[:200])  # loads libraries
    del few, labels
    before = memory.held()
    X, y = data(DTYPES[dtype], n_rows)
    memory.held()
    TorchLogisticClassifier().fit(X, y)
    print(json.dumps(memory.peak() - before))


def fitted(X: torch.Tensor, y: np.ndarray) -> tuple[float, TorchLogisticClassifier]:
    return harness.fitted(TorchLogisticClassifier, X, y)


def report(n_rows: int, repeats: int) -> str:
    scale = str(n_rows / N_ROWS)
    taken = {
        dtype: median(memory.of_child(__file__, dtype, "--scale", scale) for _ in range(repeats))
        for dtype in DTYPES
    }
    rows = {dtype: data(of, n_rows + N_TEST) for dtype, of in DTYPES.items()}
    calls = {dtype: partial(fitted, X[:n_rows], y[:n_rows]) for dtype, (X, y) in rows.items()}
    for X, y in rows.values():
        fitted(X[:5000], y[:5000])
    fits = harness.in_turn(calls, repeats)
    seconds = {dtype: median(run[0] for run in runs) for dtype, runs in fits.items()}
    lines, scores = [], {}
    for dtype, (X, y) in rows.items():
        model = fits[dtype][0][1]
        logs = model.predict_log_proba(X[n_rows:])
        loss = -logs[np.arange(N_TEST), y[n_rows:]].mean(dtype=np.float64)  # classes are 0, 1, ...
        scores[dtype] = np.array([model.score(X[n_rows:], y[n_rows:]), loss])
        peak, of_X = taken[dtype], X[:n_rows].nbytes
        ratios = [peak / taken["float32"], seconds[dtype] / seconds["float32"]]
        lines.append(
            [
                dtype,
                f"{of_X / 2**20:.0f}",
                f"{peak / 2**20:.0f}",
                f"{ratios[0]:.1%}",
                f"{seconds[dtype]:.2f}",
                f"{ratios[1]:.2f}",
                int(model.n_iter_[0]),
                f"{scores[dtype][0]:.4f}",
                f"{scores[dtype][1]:.4f}",
            ]
        )
    head = ["dtype", "X, MiB", "X and fit, MiB", "of float32", "s", "of float32", "iterations"]
    table = harness.table([*head, "test accuracy", "test log loss"], lines)
    apart = max(np.abs(scores[dtype] - scores["float32"]).max() for dtype in DTYPES)
    title = f"{n_rows:,} x {N_FEATURES}, {N_CLASSES} classes, repeats: {repeats}"
    return (
        f"**{title}**\n\n{table}\nTargets: at most {MOST_MEMORY:.0%} of the memory in float32, no more time, "
        f"and accuracy and log loss within {CLOSE:g} of its (here {apart:.1e}).\n"
    )


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--child", choices=DTYPES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    n_rows = int(N_ROWS * arguments.scale)
    if arguments.child:
        child(arguments.child, n_rows)
        return
    harness.publish("half", report(n_rows, arguments.repeats), arguments.write)


if __name__ == "__main__":
    main()
