"""Memory that a fit takes besides X and y: the peak of a fresh process over what it held before the fit.

    python examples/benchmarks/memory.py [--repeats N] [--scale S] [--write]

A child process makes X in place, fits a few rows so that all libraries are loaded, and then fits X. What
is printed is the peak resident memory during that fit less the resident memory before it, over the bytes
of X: the median over the repeats.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import harness
from sklearn.linear_model import LogisticRegression

from torch_logreg import TorchLogisticClassifier

# Rows, columns, classes, and the most that ours is meant to take, as a fraction of X.
CASES = {"tall": (1_000_000, 100, 2, 0.1), "probe": (50_000, 512, 100, 0.3)}
ESTIMATORS = {harness.OURS: TorchLogisticClassifier, harness.DEFAULT: LogisticRegression}


def kibibytes(field: str) -> int | None:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(field + ":")), None)


def peak() -> int:
    """The largest resident memory since the last `reset_peak`, or of the process where that has no effect."""
    now = kibibytes("VmHWM")
    if now is not None:
        return 1024 * now
    import resource  # not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def reset_peak() -> None:
    try:
        # The allocator keeps what was freed: a fit that found room there would seem to take none.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError, TypeError):
        pass


def held() -> int:
    """The resident memory, from which the peak is counted anew."""
    gc.collect()
    reset_peak()
    return 1024 * (kibibytes("VmRSS") or 0) or peak()


def child(case: str, dtype: str, estimator: str, scale: float) -> None:
    n_rows, n_features, n_classes, _ = CASES[case]
    X, y = harness.correlated(int(n_rows * scale), n_features, n_classes, dtype)
    warnings.simplefilter("ignore")
    ESTIMATORS[estimator]().fit(X[:200, :20], y[:200] % 3)  # loads libraries
    before = held()
    ESTIMATORS[estimator]().fit(X, y)
    print(json.dumps([peak() - before, X.nbytes]))


def of_child(script: str, *arguments: str) -> Any:
    """What a fresh process of `script` prints in its last line, as JSON."""
    done = subprocess.run(
        [sys.executable, script, "--child", *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(case: str, dtype: str, estimator: str, scale: float) -> tuple[int, int]:
    """Bytes that a fit took, and those of X."""
    taken, of_X = of_child(__file__, case, dtype, estimator, "--scale", str(scale))
    return taken, of_X


def report(cases: list[tuple[str, str]], scale: float, repeats: int = 1) -> str:
    lines = []
    for case, dtype in cases:
        n_rows, n_features, n_classes, limit = CASES[case]
        for estimator in ESTIMATORS:
            runs = [measure(case, dtype, estimator, scale) for _ in range(repeats)]
            of_X = runs[0][1]
            taken = median(run[0] for run in runs)
            target = f"at most {limit:.0%}" if estimator == harness.OURS else ""
            data = f"{int(n_rows * scale):,} x {n_features}, {n_classes} classes, {dtype}"
            mebibytes = [f"{number / 2**20:.0f}" for number in (of_X, taken)]
            lines.append([data, f"`{estimator}`", *mebibytes, f"{taken / of_X:.1%}", target])
    return harness.table(["data", "estimator", "X, MiB", "fit, MiB", "fit / X", "target"], lines)


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child, arguments.scale)
        return
    cases = [("tall", "float32"), ("tall", "float64"), ("probe", "float32")]
    harness.publish("memory", report(cases, arguments.scale, arguments.repeats), arguments.write)


if __name__ == "__main__":
    main()
