"""Milliseconds to fit small data: ours and LogisticRegression's solvers that reach the same objective.

    python examples/benchmarks/small.py [--repeats N] [--scale S] [--write]

Breast cancer, iris and digits, standardised. The rule is in `harness.py`. A second table has the part of
each fit that is scikit-learn's own check of X and y, which both estimators make. Digits gets a fifth of
the repeats.
"""

from __future__ import annotations

from functools import partial
from statistics import median

import harness
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import validate_data

from torch_logreg import TorchLogisticClassifier

DATA = {
    "breast cancer": (load_breast_cancer, 1),
    "iris": (load_iris, 1),
    "digits": (load_digits, 2),  # the divisor of the repeats
}
BURST = 6
ESTIMATORS = {harness.OURS: TorchLogisticClassifier(), harness.DEFAULT: LogisticRegression()}


def validation(X: np.ndarray, y: np.ndarray, repeats: int) -> list[str]:
    """Milliseconds of scikit-learn's checks, for each of the two estimators."""
    dtypes = [np.float64, np.float32]
    checks = {
        name: partial(harness.timed, partial(validate_data, estimator, X, y, dtype=dtypes))
        for name, estimator in ESTIMATORS.items()
    }
    return [f"{1e3 * median(seconds):.3f}" for seconds in harness.in_turn(checks, repeats, burst=10).values()]


def main() -> None:
    arguments = harness.parser(__doc__, repeats=10).parse_args()
    parts, checks = [], []
    for name, (load, divisor) in DATA.items():
        X, y = load(return_X_y=True)
        chosen = np.random.default_rng(0).permutation(len(X))[: int(len(X) * arguments.scale)]
        X, y = StandardScaler().fit_transform(X[chosen]), y[chosen]
        repeats = max(1, arguments.repeats // divisor)
        candidates = [
            peer
            for peer in harness.peers(len(X), len(np.unique(y)))
            if peer.name.startswith("LogisticRegression")
        ]
        rows = harness.compare(candidates, X, y, repeats, burst=BURST)
        title = f"{name}: {len(X)} x {X.shape[1]}, repeats: {repeats} x {BURST - 1}"
        parts.append(f"**{title}**\n\n{harness.rows_table(rows)}")
        checks.append([name, *validation(X, y, repeats)])
    shares = harness.table(["data", *ESTIMATORS], checks)
    parts.append(f"**of these, scikit-learn's check of X and y, ms**\n\n{shares}")
    harness.publish("small", "\n".join(parts), arguments.write)


if __name__ == "__main__":
    main()
