"""Seconds to choose C: ours, LogisticRegressionCV and a grid search over our own estimator.

    python examples/benchmarks/cv.py [--softmax | --shapes] [--repeats N] [--scale S] [--limit L] [--write]

Every estimator gets the same folds and scores them by log loss; ours has its default tolerance. The time of
one that stops short of the optimum is printed all the same: the last column says by how much its mean log
loss is off, at most over the values of C, from that of ours with a tolerance of 1e-8.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import harness
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sparse import text_like

from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV

OURS, SCORING = "TorchLogisticClassifierCV()", "neg_log_loss"
SOLVERS = ("lbfgs", "newton-cg", "newton-cholesky")
GRID = "GridSearchCV(TorchLogisticClassifier())"


def estimators(Cs: np.ndarray, folds: list, solvers: tuple[str, ...]) -> dict[str, Callable[[], Any]]:
    shared: dict[str, Any] = dict(cv=folds, scoring=SCORING)
    makes: dict[str, Callable[[], Any]] = {}
    for solver in solvers:
        settings: dict[str, Any] = dict(solver=solver, l1_ratios=(0,), use_legacy_attributes=False, **shared)
        for tol in (1e-4, 1e-6):
            name = f'LogisticRegressionCV(solver="{solver}", tol={tol:g})'
            makes[name] = partial(LogisticRegressionCV, Cs=Cs, tol=tol, max_iter=1000, **settings)
    makes[GRID] = partial(GridSearchCV, TorchLogisticClassifier(), {"C": Cs}, **shared)
    makes[OURS] = partial(TorchLogisticClassifierCV, Cs=Cs, **shared)
    return makes


def mean_scores(fitted: Any) -> np.ndarray:
    table = fitted.cv_results_ if hasattr(fitted, "cv_results_") else None
    return fitted.scores_.mean(axis=(0, 1)) if table is None else np.asarray(table["mean_test_score"])


def chosen(fitted: Any) -> float:
    return fitted.C_ if hasattr(fitted, "C_") else fitted.best_params_["C"]


def compare(X: Any, y: np.ndarray, n_Cs: int, solvers: tuple[str, ...], repeats: int, limit: float) -> str:
    Cs, folds = np.logspace(-4, 4, n_Cs), list(StratifiedKFold(5).split(X, y))
    makes = estimators(Cs, folds, solvers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = mean_scores(TorchLogisticClassifierCV(Cs=Cs, cv=folds, scoring=SCORING, tol=1e-8).fit(X, y))
    calls, slow = {}, {}
    for name, make in makes.items():  # once untimed, or for what takes too long only this once
        try:
            with harness.at_most(limit):
                seconds, fitted = harness.fitted(make, X, y)
        except harness.TooLong:
            print(f"  {name}: more than {limit:.0f} s", file=sys.stderr, flush=True)
            slow[name] = [f"`{name}`", f"> {limit:.0f}", "", "", ""]
            continue
        print(f"  {name}: {seconds:.4g} s", file=sys.stderr, flush=True)
        calls[name] = partial(harness.fitted, make, X, y)
    runs = harness.in_turn(calls, repeats)
    seconds_of = {name: median(seconds for seconds, _ in done) for name, done in runs.items()}
    rows = []
    for name in makes:
        if name in slow:
            slow[name][2] = f"> {limit / seconds_of[OURS]:.1f}"
            rows.append(slow[name])
            continue
        fitted = runs[name][-1][1]
        off = float(np.abs(mean_scores(fitted) - exact).max())
        ratio = f"{seconds_of[name] / seconds_of[OURS]:.2f}"
        rows.append([f"`{name}`", f"{seconds_of[name]:.4g}", ratio, f"{chosen(fitted):.4g}", f"{off:.1e}"])
    return harness.table(["estimator", "s", "time / ours", "C chosen", "log loss off by"], rows)


def shapes(scale: float) -> dict[str, tuple[Any, np.ndarray, int, tuple[str, ...]]]:
    """By title: X, y, the number of Cs, and the solvers of LogisticRegressionCV to be compared with."""
    many, few, texts = (int(n * scale) for n in (8_000, 200, 1_500))
    matrix_free = ("lbfgs", "newton-cg")  # a Hessian of 8000 columns takes half a gigabyte
    return {
        f"wide, {many:,} x 1500, float32": (*harness.correlated(many, 1500, 2, "float32"), 8, SOLVERS),
        f"few rows, {few:,} x 8000, float32": (*harness.correlated(few, 8000, 2, "float32"), 8, matrix_free),
        f"sparse, {texts:,} x 12,000 of some 50 numbers, float32": (
            *text_like(texts, "float32", n_columns=12_000),
            8,
            matrix_free,
        ),
    }


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--softmax", action="store_true", help="many classes, for some minutes")
    parser.add_argument("--shapes", action="store_true", help="many columns, few rows, and sparse rows")
    arguments = parser.parse_args()
    name, parts = "cv", []
    if arguments.shapes:
        name = "cv_shapes"
        for title, (X, y, n_Cs, solvers) in shapes(arguments.scale).items():
            table = compare(X, y, n_Cs, solvers, arguments.repeats, arguments.limit)
            parts.append(f"**{title}, {n_Cs} Cs x 5 folds**\n\n{table}")
    elif arguments.softmax:
        name, n_rows = "cv_softmax", int(20_000 * arguments.scale)
        X, y = harness.correlated(n_rows, 512, 20, "float32")
        table = compare(X, y, 8, ("lbfgs", "newton-cg"), arguments.repeats, arguments.limit)
        parts.append(f"**{n_rows:,} x 512, 20 classes, float32, 8 Cs x 5 folds**\n\n{table}")
    else:
        n_rows = int(50_000 * arguments.scale)
        X, y = harness.correlated(n_rows, 100, 2, "float32")
        table = compare(X, y, 10, SOLVERS, arguments.repeats, arguments.limit)
        parts.append(f"**{n_rows:,} x 100, 2 classes, float32, 10 Cs x 5 folds**\n\n{table}")
        X, y = load_breast_cancer(return_X_y=True)
        X = StandardScaler().fit_transform(X)
        table = compare(X, y, 20, SOLVERS, 3 * arguments.repeats, arguments.limit)
        parts.append(f"**breast cancer, 20 Cs x 5 folds**\n\n{table}")
    harness.publish(name, "\n".join(parts), arguments.write)


if __name__ == "__main__":
    main()
