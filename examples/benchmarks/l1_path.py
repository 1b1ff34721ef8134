"""Seconds of the processor for many values of C on five folds with an L1 penalty: ours and adelie.

    python examples/benchmarks/l1_path.py [--repeats N] [--write]

The breast cancer data, standardised, from just above the smallest C with a coefficient on. Either solves
every C on every fold and on all rows. The distance is the largest over the folds of the objective less that
of a fit with a gap of 2e-9, in parts of it; adelie gets the loosest tolerance of a ladder that reaches 1e-6.
"""

from __future__ import annotations

import time
import warnings

import harness
import numpy as np
from l1 import GOAL, TIGHTER, Case, data, value_and_gap
from sklearn.model_selection import StratifiedKFold

from torch_logreg import TorchLogisticClassifierCV, smallest_C

PATHS = [
    (100, 1000.0, 1.0),
    (100, 1000.0, 0.5),
    (10, 3000.0, 1.0),
]  # Cs, the last in units of the first, ratio
Found = list[tuple[np.ndarray, np.ndarray]]  # coefficients and intercepts of each part of the rows


def ours(X: np.ndarray, y: np.ndarray, Cs: np.ndarray, ratio: float, folds: list, tol: float) -> Found:
    clf = TorchLogisticClassifierCV(Cs=Cs, l1_ratios=(ratio,), cv=folds, tol=tol).fit(X, y)
    return [(path[0, :, 0, :-1], path[0, :, 0, -1]) for path in clf.coefs_paths_]


def adelie(X: np.ndarray, y: np.ndarray, Cs: np.ndarray, ratio: float, folds: list, tol: float) -> Found:
    import adelie as peer

    found = []
    for rows in [*(train for train, _ in folds), np.arange(len(y))]:
        fit = peer.grpnet(
            X=np.asfortranarray(X[rows]),
            glm=peer.glm.binomial(y[rows].astype(float)),
            alpha=ratio,
            lmda_path=1 / (Cs * len(rows)),
            tol=tol,
            irls_tol=tol,
            early_exit=False,
            progress_bar=False,
        )
        found.append((fit.betas.toarray(), np.ravel(fit.intercepts)))
    return found[: len(folds)]


def distance(X: np.ndarray, y: np.ndarray, Cs: np.ndarray, ratio: float, folds: list, found: Found) -> float:
    """The largest over all folds and Cs."""
    best = ours(X, y, Cs, ratio, folds, 1e-9)
    worst = 0.0
    for (train, _), here, there in zip(folds, found, best, strict=True):
        for number, C in enumerate(Cs):
            case = Case("cancer", C, ratio)
            values = [
                value_and_gap(coef[number], intercept[number], X[train], y[train], case, C)[0]
                for coef, intercept in (here, there)
            ]
            worst = max(worst, values[0] / values[1] - 1)
    return worst


def main() -> None:
    arguments = harness.parser(__doc__, repeats=3).parse_args()
    warnings.simplefilter("ignore")
    X, y = data("cancer")
    folds, rows = list(StratifiedKFold(5).split(X, y)), []
    for n_Cs, last, ratio in PATHS:
        Cs = np.geomspace(1.05, last, n_Cs) * smallest_C(X, y, ratio)
        for solve, ladder in ((ours, (1e-4,)), (adelie, TIGHTER[3:])):
            for tol in ladder:
                seconds = []
                for _ in range(arguments.repeats):
                    start = time.process_time()
                    found = solve(X, y, Cs, ratio, folds, tol)
                    seconds.append(time.process_time() - start)
                far = distance(X, y, Cs, ratio, folds, found)
                if far <= GOAL:
                    break
            shape = f"{n_Cs} values of C to {last:g} C0, l1_ratio={ratio:g}"
            rows.append([shape, solve.__name__, f"{1e3 * min(seconds):.0f}", f"{tol:.0e}", f"{far:.0e}"])
    head = ["problems, each on 5 folds and all rows", "who", "ms of CPU", "tol", "largest distance"]
    harness.publish("l1_path", harness.table(head, rows), arguments.write)


if __name__ == "__main__":
    main()
