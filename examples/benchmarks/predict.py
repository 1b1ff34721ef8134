"""Time of predict_proba: ours and LogisticRegression's, with the same coefficients.

    python examples/benchmarks/predict.py [--repeats N] [--scale S] [--write]

One row of breast cancer, 1 000 000 x 100 rows of two classes, and 200 000 x 100 of ten. The two
estimators run in turn in one process; a time is the median over the repeats, of which one row gets a
hundred times as many. The last column is the largest difference between their probabilities.
"""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

import harness
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from torch_logreg import TorchLogisticClassifier

PROBLEMS = ((1_000_000, 100, 2, "float32"), (1_000_000, 100, 2, "float64"), (200_000, 100, 10, "float32"))


def row(
    title: str, X: np.ndarray, y: np.ndarray, to_predict: np.ndarray, repeats: int, burst: int = 4
) -> list[Any]:
    theirs = LogisticRegression(max_iter=1000).fit(X, y)
    ours = TorchLogisticClassifier().fit(X, y)
    ours.coef_, ours.intercept_, ours.classes_ = theirs.coef_, theirs.intercept_, theirs.classes_
    apart = np.abs(ours.predict_proba(to_predict) - theirs.predict_proba(to_predict)).max()
    predicts = {"ours": ours.predict_proba, "theirs": theirs.predict_proba}
    calls = {name: partial(harness.timed, partial(call, to_predict)) for name, call in predicts.items()}
    mine, other = (1e3 * median(seconds) for seconds in harness.in_turn(calls, repeats, burst).values())
    return [title, f"{mine:.4g}", f"{other:.4g}", f"{other / mine:.2f}", f"{apart:.0e}"]


def main() -> None:
    arguments = harness.parser(__doc__, repeats=10).parse_args()
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    lines = [row("1 row of breast cancer, float64", X, y, X[:1], 3 * arguments.repeats, burst=50)]
    for n_rows, n_features, n_classes, dtype in PROBLEMS:
        X, y = harness.correlated(int(n_rows * arguments.scale), n_features, n_classes, dtype)
        title = f"{len(X):,} x {n_features}, {n_classes} classes, {dtype}"
        lines.append(row(title, X[:5000], y[:5000], X, arguments.repeats))
    head = ["rows", "ours, ms", "LogisticRegression, ms", "theirs / ours", "difference"]
    harness.publish("predict", harness.table(head, lines), arguments.write)


if __name__ == "__main__":
    main()
