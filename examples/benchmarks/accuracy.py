"""How far above the optimum the defaults stop, on real data: ours and LogisticRegression's.

    python examples/benchmarks/accuracy.py [--write]

The optimum is that of the independent float64 Newton in `tests/helpers/oracle.py`. A cell is the worst of
C = 0.001, 1 and 10 000: the objective above the optimum, relative to it; the largest error of a
training probability; and how many of the three fits warned. `--write` puts the table into
`docs/_accuracy_table.md`, and some of its rows into the README.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from pathlib import Path

import numpy as np
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from torch_logreg import TorchLogisticClassifier

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from helpers.datasets import NAMES, load, standardised  # noqa: E402
from helpers.oracle import objective, solve  # noqa: E402

STRENGTHS = (1e-3, 1.0, 1e4)
PEERS = {
    "TorchLogisticClassifier()": TorchLogisticClassifier,
    "LogisticRegression()": LogisticRegression,
    'LogisticRegression(solver="newton-cholesky")': lambda C: LogisticRegression(
        C=C, solver="newton-cholesky"
    ),
}
README_ROWS = ("breast cancer", "wine", "credit default", "customer churn")
SHORT = {
    "breast_cancer": "breast cancer",
    "default": "credit default",
    "wa_churn": "customer churn",
    "wa_churn_collinear": "customer churn, collinear",
    "hmda": "mortgages",
}


def probabilities(coef: np.ndarray, intercept: np.ndarray, X: np.ndarray) -> np.ndarray:
    z = X @ coef.T + intercept
    return expit(z) if z.shape[1] == 1 else softmax(z, axis=1)


def errors(X: np.ndarray, y: np.ndarray, n_classes: int) -> list[tuple[float, float, int]]:
    """For each peer the worst relative excess objective, probability error, and number of warnings."""
    worst = [[0.0, 0.0, 0] for _ in PEERS]
    for C in STRENGTHS:
        best = solve(X, y, n_classes, C)
        p = probabilities(best.coef, best.intercept, X)
        for row, make in zip(worst, PEERS.values(), strict=True):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                clf = make(C=C).fit(X, y)
            excess = objective(clf.coef_, clf.intercept_, X, y, C) / best.objective - 1
            row[0] = max(row[0], excess)
            row[1] = max(row[1], float(np.abs(probabilities(clf.coef_, clf.intercept_, X) - p).max()))
            row[2] += sum(issubclass(w.category, ConvergenceWarning) for w in caught)
    return [tuple(row) for row in worst]


def cell(excess: float, probability: float, n_warnings: int) -> str:
    bound = 1e-12  # below it the difference is rounding of the objective itself
    shown = f"< {bound:.0e}" if excess < bound else f"{excess:.0e}"
    note = f" ({n_warnings} warning{'s' * (n_warnings > 1)})" if n_warnings else ""
    return f"{shown} / {probability:.0e}{note}"


def table(names: tuple[str, ...], kinds: tuple[str, ...]) -> str:
    lines = [
        "| data | columns | " + " | ".join(f"`{peer}`" for peer in PEERS) + " |",
        "|---" * (2 + len(PEERS)) + "|",
    ]
    for name in names:
        data = load(name)
        for kind in kinds:
            X = standardised(data.X) if kind == "standardised" else data.X
            cells = [cell(*row) for row in errors(X, data.y, data.classes)]
            lines.append(f"| {SHORT.get(name, name)} | {kind} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the tables into the docs and the README")
    arguments = parser.parse_args()
    whole = table(NAMES, ("raw", "standardised"))
    if not arguments.write:
        return
    (ROOT / "docs" / "_accuracy_table.md").write_text(whole)
    head, rows = whole.splitlines()[:2], whole.splitlines()[2:]
    chosen = [row for row in rows if "| raw |" in row and row.split(" | ")[0].strip("| ") in README_ROWS]
    readme = ROOT / "README.md"
    between = r"(<!-- accuracy table: begin -->\n).*?(<!-- accuracy table: end -->)"
    text = re.sub(
        between, lambda m: m[1] + "\n".join([*head, *chosen]) + "\n" + m[2], readme.read_text(), flags=re.S
    )
    readme.write_text(text)


if __name__ == "__main__":
    main()
