"""CPU seconds to fit a thousand classes of few rows each: ours next to LogisticRegression().

    python examples/benchmarks/thousand.py [--rows N ...] [--classes K] [--features D] [--falling F]
        [--threads T] [--write]

Classes have 60, 20 and 500 rows in 256 columns, and 60 in columns whose deviations fall like ``j ** -0.7``:
as in probes of few examples a class, rows tell little of so many parameters. Standard normal columns, true
coefficients of deviation 0.5, labels by Gumbel noise.

`LogisticRegression()` stops early here by its own rule, so two times of ours are compared with its one: to
the objective that it reaches, by as many iterations as that takes, and to our own end. Objectives are
evaluated in float64.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any, NamedTuple

import harness
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from torch_logreg import TorchLogisticClassifier

SLACK = 1e-7  # of an objective, for sums in another order


class Fit(NamedTuple):
    seconds: float  # of all threads
    objective: float
    estimator: Any


def problem(n_rows: int, n_features: int, n_classes: int, falling: float) -> tuple[np.ndarray, np.ndarray]:
    """X in float32, and the codes of those classes that have rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, n_features)).astype(np.float32)
    X *= np.arange(1, n_features + 1, dtype=np.float32) ** -falling
    coef, y = 0.5 * rng.normal(size=(n_features, n_classes)), np.empty(n_rows, dtype=np.int64)
    for rows in harness.blocks(n_rows):
        z = X[rows] @ coef
        y[rows] = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    return X, np.unique(y, return_inverse=True)[1]


def fitted(estimator: Any, X: np.ndarray, y: np.ndarray) -> Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run that stops short is told by its objective
        start = time.process_time()
        estimator.fit(X, y)
        seconds = time.process_time() - start
    return Fit(seconds, harness.objective(estimator.coef_, estimator.intercept_, X, y), estimator)


def iterations_to(ours: TorchLogisticClassifier, objective: float) -> int:
    """After how many iterations the objective was reached; all of them if it was after the last."""
    objectives = np.append(ours.history_.objective.to_numpy()[1:], ours.objective_)
    there = np.flatnonzero(objectives <= objective * (1 + SLACK))
    return int(there[0]) + 1 if len(there) else len(objectives)


def row(X: np.ndarray, y: np.ndarray, spectrum: str) -> str:
    theirs, ours = fitted(LogisticRegression(), X, y), fitted(TorchLogisticClassifier(), X, y)
    n_iter = iterations_to(ours.estimator, theirs.objective)
    to_theirs = fitted(TorchLogisticClassifier(max_iter=n_iter), X, y)
    reached = to_theirs.objective <= theirs.objective * (1 + SLACK)
    end = "" if ours.estimator.converged_ else ", not converged"
    return (
        f"| {len(X):,} | {spectrum} | {theirs.seconds:.3g} | {theirs.objective / ours.objective - 1:.1e} | "
        f"{to_theirs.seconds:.3g}{'' if reached else ', not reached'} | "
        f"{to_theirs.seconds / theirs.seconds:.2f} | {ours.seconds:.3g}{end} | "
        f"{ours.seconds / theirs.seconds:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[60, 20, 500], help="a class")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--falling", type=float, default=0.7, help="deviations of a last shape; 0 for none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the result into docs/_benchmarks/")
    arguments = parser.parse_args()
    K, d = arguments.classes, arguments.features
    shapes = [(n, 0.0) for n in arguments.rows]
    if arguments.falling:
        shapes.append((arguments.rows[0], arguments.falling))
    lines = [
        "| rows | spectrum | `LogisticRegression()`, s | its objective above ours | ours to its objective, s "
        "| ratio | ours to the end, s | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    torch.set_num_threads(arguments.threads)
    with threadpool_limits(arguments.threads):
        for estimator in (LogisticRegression(), TorchLogisticClassifier()):  # libraries load untimed
            fitted(estimator, *problem(2000, 20, 30, 0.0))
        for n, falling in shapes:
            X, y = problem(n * K, d, K, falling)
            lines.append(row(X, y, f"like j^-{falling:g}" if falling else "flat"))
            print(lines[-1], flush=True)
    title = f"**{K:,} classes, {d} columns, float32, CPU time with {arguments.threads} thread(s)**"
    harness.publish("thousand", "\n".join([title, "", *lines]), arguments.write)


if __name__ == "__main__":
    main()
