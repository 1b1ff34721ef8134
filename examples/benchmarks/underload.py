"""Seconds of a fit beside other busy processes, over those with none: ours and LogisticRegression's.

    python examples/benchmarks/underload.py [--busy N ...] [--only REGEX] [--repeats N] [--scale S] [--write]

Each of `--busy` processes (0, 1 and 2) counts without end. Fits are made in turn, in a process of their own,
and the medians are kept. The solver of LogisticRegression is, for each shape, the one that is fastest to an
objective like ours where nothing else runs. The last column is what both slow down by, ours over theirs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import harness
import numpy as np
from sklearn.linear_model import LogisticRegression

from torch_logreg import TorchLogisticClassifier

START = 1.0  # seconds that the busy processes are given to start


class Case(NamedTuple):
    name: str
    data: Callable[[float], tuple[Any, np.ndarray]]  # of the scale
    solver: str
    tol: float


def dense(n: int, d: int, K: int, dtype: str, scale: float) -> tuple[np.ndarray, np.ndarray]:
    return harness.correlated(int(n * scale), d, K, np.dtype(dtype))


def text(n: int, d: int, stored: int, scale: float) -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(0)
    X = harness.zipf_rows(rng, int(n * scale), d, stored)
    z = 3 * (X @ rng.normal(size=d))
    return X, (rng.random(len(z)) < 1 / (1 + np.exp(-z))).astype(int)


CASES = (
    Case("small: 569 x 30", partial(dense, 569, 30, 2, "float64"), "newton-cholesky", 1e-4),
    Case("medium: 5000 x 100, 3 classes", partial(dense, 5000, 100, 3, "float64"), "newton-cg", 1e-4),
    Case("tall: 500 000 x 50", partial(dense, 500_000, 50, 2, "float32"), "newton-cholesky", 1e-3),
    Case("softmax: 100 000 x 50, 10 classes", partial(dense, 100_000, 50, 10, "float32"), "newton-cg", 1e-3),
    Case("short text: 20 000 x 5000, CSR", partial(text, 20_000, 5000, 12), "newton-cg", 1e-4),
    Case("sparse: 200 000 x 50 000, CSR", partial(text, 200_000, 50_000, 50), "newton-cg", 1e-4),
)


@contextmanager
def busy(number: int) -> Iterator[None]:
    """So many processes that count without end."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        time.sleep(START)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds(case: Case, scale: float, repeats: int) -> list[float]:
    """Medians of ours and of the peer."""
    X, y = case.data(scale)
    makes = {
        harness.OURS: TorchLogisticClassifier,
        harness.DEFAULT: partial(LogisticRegression, solver=case.solver, tol=case.tol, max_iter=1000),
    }
    for make in makes.values():
        harness.fitted(make, X, y)  # libraries load untimed
    calls = {name: partial(harness.fitted, make, X, y) for name, make in makes.items()}
    runs = harness.in_turn(calls, repeats)
    return [median(time for time, _ in fits) for fits in runs.values()]


def main() -> None:
    parser = harness.parser(__doc__, repeats=7)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    lines = []
    for case in CASES:
        if not re.search(arguments.only, case.name):
            continue
        quiet: list[float] = []
        for number in arguments.busy:
            with busy(number):
                found = seconds(case, arguments.scale, arguments.repeats)
            quiet = quiet or found
            ours, theirs = (now / before for now, before in zip(found, quiet, strict=True))
            times = [f"{time:.4g}" for time in found]
            lines.append(
                [case.name, case.solver, number, *times, *(f"{x:.2f}" for x in (ours, theirs, ours / theirs))]
            )
            print(*lines[-1], sep=", ", file=sys.stderr, flush=True)
    head = [
        "fit",
        "peer's solver",
        "busy processes",
        "ours, s",
        "theirs, s",
        "ours slows",
        "theirs slows",
        "ratio",
    ]
    harness.publish("underload", harness.table(head, lines), arguments.write)


if __name__ == "__main__":
    main()
