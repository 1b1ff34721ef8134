"""Seconds to choose C against the number of values to choose from, and the memory that it takes.

    python examples/benchmarks/cv_growth.py [--repeats N] [--scale S] [--limit SECONDS] [--write]

float32, two classes, five folds; for the times 50,000 rows of 100 columns. LogisticRegressionCV is run with
its fastest solver here, until one number of values takes longer than the limit. The second table has the
peak resident memory of a fresh process during a fit, over what it held before, with several bounds on what
the problems may take. `--write` also draws `docs/_benchmarks/cv_growth.svg`, and needs matplotlib for it.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from functools import partial
from statistics import median
from typing import Any

import harness
import memory
import numpy as np
from sklearn.linear_model import LogisticRegressionCV

from torch_logreg import TorchLogisticClassifierCV

N_ROWS, N_FEATURES, SIZES = 50_000, 100, (1, 3, 10, 30, 100)
OURS, PEER = "TorchLogisticClassifierCV()", 'LogisticRegressionCV(solver="newton-cholesky")'
BOUNDS = (2**30, 2**27, 3 * 2**25)  # bytes
WIDE = (6000, 500)  # rows and columns of the table of memory: a metric of each C is 2 MB
N_WIDE = 16  # values of C for them
SHARED: dict[str, Any] = dict(cv=5, scoring="neg_log_loss")


def peer(Cs: np.ndarray) -> LogisticRegressionCV:
    return LogisticRegressionCV(
        Cs=Cs, solver="newton-cholesky", l1_ratios=(0,), use_legacy_attributes=False, **SHARED
    )


def measure(X: np.ndarray, y: np.ndarray, repeats: int, limit: float) -> dict[str, dict[int, float]]:
    makes = {OURS: partial(TorchLogisticClassifierCV, **SHARED), PEER: peer}
    seconds: dict[str, dict[int, float]] = {name: {} for name in makes}
    for make in makes.values():
        harness.fitted(partial(make, Cs=np.ones(2)), X[:2000], y[:2000])  # libraries load untimed
    for size in SIZES:
        Cs = np.logspace(-4, 4, size)
        calls = {
            name: partial(harness.fitted, partial(make, Cs=Cs), X, y)
            for name, make in makes.items()
            if max(seconds[name].values(), default=0.0) <= limit
        }
        for name, runs in harness.in_turn(calls, repeats).items():
            seconds[name][size] = median(run[0] for run in runs)
            print(f"  {size} values, {name}: {seconds[name][size]:.4g} s", file=sys.stderr, flush=True)
    return seconds


def power(times: dict[int, float]) -> float:
    """The slope of log seconds over log size, by least squares."""
    return float(np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0])


def child(bound: float, scale: float) -> None:
    X, y = harness.correlated(int(WIDE[0] * scale), WIDE[1], 2, "float32")
    Cs = np.logspace(-4, 1, N_WIDE)
    fit = partial(TorchLogisticClassifierCV, Cs=Cs, max_batch_memory=bound, **SHARED)
    fit().fit(X[:500, :20], y[:500])  # loads libraries
    gc.collect()
    memory.reset_peak()
    before = 1024 * (memory.kibibytes("VmRSS") or 0) or memory.peak()
    fit().fit(X, y)
    print(json.dumps([memory.peak() - before, X.nbytes]))


def memory_table(scale: float) -> str:
    lines = []
    for bound in BOUNDS:
        command = [sys.executable, __file__, "--child", str(bound), "--scale", str(scale)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        taken, of_X = json.loads(done.stdout.splitlines()[-1])
        lines.append([f"{bound / 2**20:.0f}", f"{taken / 2**20:.0f}", f"{of_X / 2**20:.0f}"])
    title = f"**{int(WIDE[0] * scale):,} x {WIDE[1]}, {N_WIDE} values of C**\n\n"
    return title + harness.table(["max_batch_memory, MiB", "fit, MiB", "X, MiB"], lines)


def draw(seconds: dict[str, dict[int, float]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    # Text stays text, and no date nor random id makes two runs differ.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "cv", "font.size": 9})
    figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for colour, (name, times) in zip(("#c0392b", "#2f855a"), seconds.items(), strict=True):
        axis.loglog(list(times), list(times.values()), "o-", color=colour, label=name, markersize=3.5)
    axis.set_xlabel("values of C")
    axis.set_ylabel("seconds")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axis.legend(frameon=False)
    figure.savefig(harness.PARTS / "cv_growth.svg", metadata={"Date": None})


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.set_defaults(limit=10.0)
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.scale)
        return
    X, y = harness.correlated(int(N_ROWS * arguments.scale), N_FEATURES, 2, "float32")
    seconds = measure(X, y, arguments.repeats, arguments.limit)
    lines = [
        [f"{size}", *(f"{times[size]:.4g}" if size in times else "" for times in seconds.values())]
        for size in SIZES
    ]
    lines.append(["power", *(f"{power(times):.2f}" if len(times) > 1 else "" for times in seconds.values())])
    text = harness.table(["values of C, s", *(f"`{name}`" for name in seconds)], lines)
    text += f"\nA power below 1 is less than proportional.\n\n{memory_table(arguments.scale)}"
    if arguments.write:
        text = f"![Seconds to choose C against the number of values](cv_growth.svg)\n\n{text}"
        draw(seconds)
    harness.publish("cv_growth", text, arguments.write)


if __name__ == "__main__":
    main()
