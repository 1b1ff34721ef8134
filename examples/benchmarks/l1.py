"""Seconds of the processor to fit with an L1 penalty: ours and the peers that are installed.

    python examples/benchmarks/l1.py [--repeats N] [--limit S] [--only WORDS] [--write]

The shapes differ in how many columns matter and how weak the penalty is. Every contestant is run at each of a
ladder of tolerances, the loosest first, until it reaches both goals: an objective within 1e-6 of the smallest
seen by any run (*distance*), and a duality gap of 1e-6 of the objective (*gap*). The gap is computed here, in
float64 and with numpy, from the coefficients: it is what one can know without knowing the optimum. A time is
the smallest of the repeats at the first tolerance that reaches the goal. A run is ended after `--limit`
seconds, and what does not get there by then counts as that. Peers that want columns in one piece are given
them so, and compile before.

Peers differ in what they solve: liblinear takes two classes and l1_ratio=1, skglm no weights, celer has no
intercept, saga alone takes softmax.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import harness
import numpy as np
import scipy.sparse
from scipy.special import entr, softmax, xlog1py
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from torch_logreg import TorchLogisticClassifier, smallest_C

GOAL, COMPILING = 1e-6, 60.0
OURS = "ours"
TIGHTER = tuple(10.0**-k for k in range(1, 13))


class Case(NamedTuple):
    """A problem; a negative C is in units of the smallest one with a coefficient."""

    data: str
    C: float
    l1_ratio: float = 1.0
    fit_intercept: bool = True


CASES = [
    Case("cancer", -2),
    Case("cancer", 1),
    Case("cancer", 100),
    Case("cancer", 1, 0.5),
    Case("cancer", 100, 0.5),
    Case("cancer", 1, 1.0, False),
    Case("tall", -2),
    Case("tall", -30),
    Case("tall", 1),
    Case("wide", -2),
    Case("wide", -10),
    Case("wide", 100),
    Case("text", -2),
    Case("text", 1),
    Case("text", 10),
    Case("text", 100),
    Case("sparse", 0.2),
    Case("sparse", 2),
    Case("digits", 0.03),
    Case("digits", 1),
    Case("digits", 1, 0.5),
    Case("digits", 100),
]


@cache
def data(name: str) -> tuple[Any, np.ndarray]:
    """X and y of that name."""
    rng = np.random.default_rng(0)
    if name in ("cancer", "digits"):
        X, y = (load_breast_cancer if name == "cancer" else load_digits)(return_X_y=True)
        return StandardScaler().fit_transform(X), y
    if name == "tall":  # 10 of 200 columns matter, and neighbours are alike
        X = rng.normal(size=(100_000, 200))
        X[:, 1:] = (X[:, 1:] + X[:, :-1]) / 2
        score = X[:, :10] @ rng.normal(size=10)
    elif name == "wide":
        X = rng.normal(size=(500, 20_000))
        score = X[:, :20] @ rng.normal(size=20)
    elif name == "text":
        X = harness.zipf_rows(rng, 4000, 131_072, 100)
        matter = np.argsort(-X.sum(axis=0))[:3000]
        score = X[:, matter] @ rng.normal(size=3000) * 10
    else:
        column = rng.integers(0, 20_000, size=(20_000, 50))
        first = np.repeat(np.arange(20_000), 50)
        X = scipy.sparse.csr_array((rng.normal(size=column.size), (first, column.ravel())), (20_000, 20_000))
        score = X @ (rng.normal(size=20_000) * (rng.random(20_000) < 0.05))
    if scipy.sparse.issparse(X):  # peers take no other indices
        X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    return X, (score + rng.logistic(size=len(score)) > 0).astype(int)


# ---- the judge ----


def value_and_gap(
    coef: np.ndarray, intercept: np.ndarray, X: Any, y: np.ndarray, case: Case, C: float
) -> tuple[float, float]:
    """The objective in float64, and by how much it is above the minimum at most."""
    coef = np.asarray(coef, dtype=np.float64).reshape(-1, X.shape[1])
    intercept = np.asarray(intercept, dtype=np.float64).reshape(-1)
    n, K = X.shape[0], max(2, len(coef))
    scores, ratio, Y = np.asarray(X @ coef.T), case.l1_ratio, np.eye(K)[y]

    def logits(b: np.ndarray) -> np.ndarray:
        z = scores + b
        return z if len(coef) > 1 else np.column_stack([np.zeros(n), z])

    def losses(z: np.ndarray) -> np.ndarray:
        others = z - z[np.arange(n), y][:, None]
        others[np.arange(n), y] = -np.inf
        return np.logaddexp(0, np.logaddexp.reduce(others, axis=1))

    penalty = ratio * np.abs(coef).sum() + (1 - ratio) / 2 * (coef**2).sum()
    value = C * losses(logits(intercept)).sum() + penalty
    best = np.zeros(len(coef)) if not case.fit_intercept else intercept.copy()
    for _ in range(100 if case.fit_intercept else 0):
        p = softmax(logits(best), axis=1)
        sums = (p - Y).sum(axis=0)[-len(coef) :]
        if np.abs(sums).max() <= 1e-13 * n:
            break
        p = p[:, -len(coef) :]
        hessian = np.diag(p.sum(axis=0)) - p.T @ p
        best = best - np.linalg.solve(hessian + (len(coef) > 1) * hessian.trace() / K**2, sums)
    residual = softmax(logits(best), axis=1) - Y
    slopes = C * np.asarray(residual[:, -len(coef) :].T @ X)
    bounds = []
    for part in (min(1.0, ratio / np.abs(slopes).max()), 1.0):
        if part == 1.0 and ratio == 1.0 and np.abs(slopes).max() > 1:
            continue
        q = part * residual
        wrong = -q[np.arange(n), y]
        q[np.arange(n), y] = 0
        excess = np.maximum(part * np.abs(slopes) - ratio, 0)
        conjugate = (excess**2).sum() / (2 * (1 - ratio)) if ratio < 1 else 0.0
        bounds.append(C * (entr(q).sum() - xlog1py(1 - wrong, -wrong).sum()) - conjugate)
    return float(value), float(value - max(bounds))


# ---- contestants: of the data, a case and a tolerance, coefficients and an intercept ----

Fit = Callable[[float], tuple[np.ndarray, np.ndarray]]


def _fitted(estimator: Any, X: Any, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    estimator.fit(X, y)
    return estimator.coef_, np.atleast_1d(estimator.intercept_)


def ours(X: Any, y: np.ndarray, case: Case, C: float) -> Fit:
    settings: Any = dict(C=C, l1_ratio=case.l1_ratio, fit_intercept=case.fit_intercept, max_iter=1000)
    return lambda tol: _fitted(TorchLogisticClassifier(tol=tol / 2, **settings), X, y)


def _epochs(X: Any) -> int:
    """So many as take about a minute: compiled code does not listen to an alarm."""
    return int(6e9 / (X.nnz if scipy.sparse.issparse(X) else X.size) / 10) + 10


def saga(X: Any, y: np.ndarray, case: Case, C: float) -> Fit:
    settings: Any = dict(
        C=C,
        l1_ratio=case.l1_ratio,
        fit_intercept=case.fit_intercept,
        max_iter=_epochs(X),
        random_state=0,
    )
    return lambda tol: _fitted(LogisticRegression(solver="saga", tol=tol, **settings), X, y)


def liblinear(X: Any, y: np.ndarray, case: Case, C: float) -> Fit | None:
    if case.l1_ratio != 1 or y.max() > 1:
        return None
    settings: Any = dict(
        C=C,
        l1_ratio=1.0,
        fit_intercept=case.fit_intercept,
        max_iter=_epochs(X),
        intercept_scaling=1000,
    )
    return lambda tol: _fitted(LogisticRegression(solver="liblinear", tol=tol, **settings), X, y)


def _by_columns(X: Any) -> Any:
    return scipy.sparse.csc_matrix(X) if scipy.sparse.issparse(X) else np.asfortranarray(X)


def skglm(X: Any, y: np.ndarray, case: Case, C: float) -> Fit | None:
    from skglm import SparseLogisticRegression

    if y.max() > 1:
        return None
    columns = _by_columns(X)
    settings: Any = dict(
        alpha=1 / (C * len(y)), l1_ratio=case.l1_ratio, fit_intercept=case.fit_intercept, max_iter=1000
    )
    return lambda tol: _fitted(SparseLogisticRegression(tol=tol, **settings), columns, y)


def celer(X: Any, y: np.ndarray, case: Case, C: float) -> Fit | None:
    import celer

    if y.max() > 1 or case.l1_ratio != 1 or case.fit_intercept:
        return None
    columns = _by_columns(X)
    return lambda tol: _fitted(celer.LogisticRegression(C=C, tol=tol, max_iter=1000), columns, y)


def glum(X: Any, y: np.ndarray, case: Case, C: float) -> Fit | None:
    from glum import GeneralizedLinearRegressor

    if y.max() > 1 or X.shape[1] > 5000:  # it makes a matrix of all columns
        return None
    settings: Any = dict(
        family="binomial", alpha=1 / (C * len(y)), l1_ratio=case.l1_ratio, fit_intercept=case.fit_intercept
    )
    return lambda tol: _fitted(GeneralizedLinearRegressor(gradient_tol=tol, max_iter=1000, **settings), X, y)


def adelie(X: Any, y: np.ndarray, case: Case, C: float) -> Fit | None:
    import adelie

    if y.max() > 1 or scipy.sparse.issparse(X):
        return None
    columns, least = np.asfortranarray(X), 1 / (C * len(y))
    steepest = 1 / (len(y) * smallest_C(X, y, case.l1_ratio, fit_intercept=case.fit_intercept))
    path = np.geomspace(max(steepest, least), least, 5)

    def fit(tol: float) -> tuple[np.ndarray, np.ndarray]:
        found = adelie.grpnet(
            X=columns,
            glm=adelie.glm.binomial(y.astype(float)),
            alpha=case.l1_ratio,
            lmda_path=path,
            intercept=case.fit_intercept,
            tol=tol,
            irls_tol=tol,
            early_exit=False,
            progress_bar=False,
        )
        return found.betas.toarray()[-1], np.atleast_1d(found.intercepts[-1])

    return fit


CONTESTANTS: dict[str, Callable[[Any, np.ndarray, Case, float], Fit | None]] = {
    OURS: ours,
    "skglm": skglm,
    "celer": celer,
    "adelie": adelie,
    "glum": glum,
    "liblinear": liblinear,
    "saga": saga,
}


class Reached(NamedTuple):
    """A run at one tolerance."""

    seconds: float
    value: float
    gap: float


def climb(fit: Fit, judge: Callable[..., tuple[float, float]], limit: float, repeats: int) -> list[Reached]:
    """Runs at tighter and tighter tolerances, until the gap is reached or one takes too long."""
    runs: list[Reached] = []
    with harness.at_most(COMPILING + limit):
        fit(1.0), fit(1e-2)  # libraries load, and compile
    for tol in TIGHTER:
        taken = []
        try:
            while len(taken) < repeats and sum(taken) < limit:
                with harness.at_most(limit):
                    start = time.process_time()
                    found = fit(tol)
                    taken.append(time.process_time() - start)
        except harness.TooLong:
            break
        runs.append(Reached(min(taken), *judge(*found)))
        if runs[-1].gap <= GOAL * runs[-1].value or min(taken) > limit / 3:
            break
    return runs


def compare(case: Case, limit: float, repeats: int) -> list[list[str]]:
    """A row for each contestant: milliseconds to both goals, what is not reached by what is left."""
    X, y = data(case.data)
    C = case.C
    if C < 0:
        C = -C * smallest_C(X, y, case.l1_ratio, fit_intercept=case.fit_intercept)
    runs: dict[str, list[Reached] | str] = {}
    for name, make in CONTESTANTS.items():
        try:
            fit = make(X, y, case, C)
        except ImportError as error:
            runs[name] = f"not installed ({error})"
            continue
        if fit is None:
            continue
        try:
            judge = partial(value_and_gap, X=X, y=y, case=case, C=C)
            runs[name] = climb(fit, judge, limit, repeats)
        except harness.TooLong:
            runs[name] = f"not in {limit:.0f} s"
        except Exception as error:  # of a peer: to be told, not to end all
            runs[name] = f"failed: {str(error).splitlines()[0][:60]}"
        print(f"  {case}, {name}: {runs[name]}", file=sys.stderr, flush=True)
    values = [run.value for found in runs.values() if not isinstance(found, str) for run in found]
    best = min(values, default=np.inf)
    rows = []
    for name, found in runs.items():
        shape = f"{case.data}, C={case.C:g}" if case.C > 0 else f"{case.data}, C={-case.C:g} C0"
        shape += f", l1_ratio={case.l1_ratio:g}" if case.l1_ratio < 1 else ""
        shape += "" if case.fit_intercept else ", no intercept"
        if isinstance(found, str):
            rows.append([shape, name, found, ""])
            continue
        near = next((r for r in found if r.value / best - 1 <= GOAL), None)
        sure = next((r for r in found if r.gap <= GOAL * r.value), None)
        left = min((r.value / best - 1 for r in found), default=np.inf)
        left_gap = min((r.gap / r.value for r in found), default=np.inf)
        rows.append(
            [
                shape,
                name,
                f"{1e3 * near.seconds:.1f}" if near else f"not in {limit:.0f} s ({left:.0e})",
                f"{1e3 * sure.seconds:.1f}" if sure else f"not in {limit:.0f} s ({left_gap:.0e})",
            ]
        )
    return rows


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--only", nargs="*", default=[], help="names of data (default: all)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[list[str]] = []
    for case in CASES:
        if not arguments.only or case.data in arguments.only:
            rows += compare(case, arguments.limit, arguments.repeats)
    head = ["data", "who", "ms of CPU to a distance of 1e-6", "ms of CPU to a gap of 1e-6"]
    harness.publish("l1", harness.table(head, rows), arguments.write)


if __name__ == "__main__":
    main()
