"""What the speed benchmarks share: problems, peers, the timing loop, the exact objective, tables.

The rule: an estimator's time counts once its objective is within `GAP` of the smallest seen by any run,
relative to it. Peers are first run at each of a ladder of tolerances; the loosest that counts, which is
the fastest, is then timed again in turn with ours, in one process, from the numpy arrays to the fitted
attributes. The objective is evaluated here, in float64, from the fitted coefficients. A run on the ladder
is ended after `SECONDS`, or after `TIMES` what ours takes if that is more, and its peer's ladder with it.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import os
import platform
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import torch
from scipy.special import expit, logsumexp
from sklearn.linear_model import LogisticRegression

from torch_logreg import TorchLogisticClassifier, __version__

# sklearnex runs its own newton-cg only with this; without it that solver is scikit-learn's once more.
os.environ.setdefault("SKLEARNEX_PREVIEW", "1")

PARTS = Path(__file__).resolve().parents[2] / "docs" / "_benchmarks"
PACKAGES = ("torch", "scikit-learn", "scikit-learn-intelex", "glum", "numpy", "scipy")
GAP, SECONDS, TIMES, PAUSE = 1e-6, 60.0, 3.0, 0.3
LBFGS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 1e-7)
NEWTON = (1e-1, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6, 1e-7)
OURS, DEFAULT, SHORT = "TorchLogisticClassifier()", "LogisticRegression()", "does not reach it"


# ---- problems ----


def blocks(n_rows: int, step: int = 8192) -> Iterator[slice]:
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def correlated_blocks(
    n_rows: int, n_features: int, n_classes: int
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Ten latent factors plus noise, each column of mean 0 and variance 1; y from a model with log odds of 2.

    Some rows of X and y at a time, in float64.
    """
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(10, n_features))
    noise = 1 / np.sqrt(1 + (loadings**2).sum(axis=0))
    loadings *= noise
    coef = rng.normal(size=(n_features, 1 if n_classes == 2 else n_classes))
    coef *= 2 / np.sqrt(((loadings @ coef) ** 2).sum(axis=0) + ((noise[:, None] * coef) ** 2).sum(axis=0))
    for rows in blocks(n_rows):
        n = rows.stop - rows.start
        block = rng.normal(size=(n, 10)) @ loadings + rng.normal(size=(n, n_features)) * noise
        z = block @ coef
        if n_classes == 2:
            yield rows, block, rng.random(n) < expit(z[:, 0])
        else:
            yield rows, block, (z + rng.gumbel(size=z.shape)).argmax(axis=1)


def correlated(
    n_rows: int, n_features: int, n_classes: int, dtype: Any = np.float64
) -> tuple[np.ndarray, np.ndarray]:
    """All of `correlated_blocks`. Both dtypes get the same numbers but for rounding.

    X is filled in place: `memory.py` measures around it.
    """
    X, y = np.empty((n_rows, n_features), dtype=dtype), np.empty(n_rows, dtype=np.int64)
    for rows, block, labels in correlated_blocks(n_rows, n_features, n_classes):
        X[rows], y[rows] = block, labels
    y[:n_classes] = np.arange(n_classes)  # so that each class occurs, also in the first few rows
    return X, y


def zipf_rows(rng: np.random.Generator, n_rows: int, n_columns: int, n_stored: int) -> scipy.sparse.csr_array:
    """Rows of length 1 of some `n_stored` entries, in columns drawn by Zipf's law; float64."""
    stored = rng.poisson(n_stored, size=n_rows).clip(1)
    indptr = np.concatenate([[0], stored.cumsum()])
    share = np.cumsum(1 / np.arange(1, n_columns + 1))
    ranks = np.searchsorted(share / share[-1], rng.random(indptr[-1])).clip(max=n_columns - 1)
    values = rng.exponential(size=indptr[-1]) + 0.1
    X = scipy.sparse.csr_array((values, rng.permutation(n_columns)[ranks], indptr), shape=(n_rows, n_columns))
    X.sum_duplicates()
    length = np.sqrt(np.asarray(X.multiply(X).sum(axis=1)).ravel())
    return scipy.sparse.csr_array(scipy.sparse.diags_array(1 / length) @ X)


def objective(coef: np.ndarray, intercept: np.ndarray, X: Any, y: np.ndarray, C: float = 1.0) -> float:
    """The objective of LogisticRegression divided by C, in float64, for classes 0, 1, ...; X may be CSR."""
    coef = np.asarray(coef, dtype=np.float64).reshape(-1, X.shape[1])  # glum's has one axis
    intercept = np.asarray(intercept, dtype=np.float64).reshape(-1)
    value = (coef**2).sum() / (2 * C)
    for rows in blocks(X.shape[0]):
        z = X[rows].astype(np.float64) @ coef.T + intercept
        if len(coef) == 1:
            value += np.logaddexp(0, (1 - 2 * y[rows]) * z[:, 0]).sum()
        else:
            value += (logsumexp(z, axis=1) - z[np.arange(len(z)), y[rows]]).sum()
    return float(value)


# ---- peers ----


class Peer(NamedTuple):
    name: str
    make: Callable[[float], Any] | None  # of the tolerance; None: not installed
    ladder: tuple[float, ...]


def peers(n_rows: int, n_classes: int = 2, cholesky: bool = True, C: float = 1.0) -> list[Peer]:
    def sklearn(kind: Any, solver: str) -> Callable[[float], Any]:
        # Only a tolerance shall end L-BFGS; 100 Newton steps are more than any tolerance here needs.
        return lambda tol: kind(C=C, solver=solver, tol=tol, max_iter=1000 if solver == "lbfgs" else 100)

    ladders = {"lbfgs": LBFGS, "newton-cg": NEWTON, "newton-cholesky": NEWTON}
    found = [
        Peer(f'LogisticRegression(solver="{solver}")', sklearn(LogisticRegression, solver), ladder)
        for solver, ladder in ladders.items()
        if cholesky or solver != "newton-cholesky"
    ]
    try:
        from sklearnex.linear_model import LogisticRegression as Accelerated
    except ImportError:
        Accelerated = None
    for solver in ("lbfgs", "newton-cg"):
        make = sklearn(Accelerated, solver) if Accelerated else None
        # Its tolerance is for the gradient of the sum over the rows, not of the mean.
        ladder = tuple(tol * n_rows for tol in ladders[solver])
        found.append(Peer(f'sklearnex LogisticRegression(solver="{solver}")', make, ladder))
    if n_classes > 2:
        return found  # glum has no softmax
    name = "glum GeneralizedLinearRegressor()"
    try:
        from glum import GeneralizedLinearRegressor
    except ImportError:
        return [*found, Peer(name, None, NEWTON)]

    def glum(tol: float) -> Any:  # minimises the mean loss + alpha / 2 |coef|²
        return GeneralizedLinearRegressor(
            family="binomial", alpha=1 / (C * n_rows), l1_ratio=0, fit_intercept=True, gradient_tol=tol
        )

    return [*found, Peer(name, glum, NEWTON)]


# ---- timing ----


class Run(NamedTuple):
    seconds: float
    value: float  # the objective
    n_iter: int


class Row(NamedTuple):
    name: str
    tol: float | None
    seconds: float
    gap: float
    n_iter: int | None
    note: str = ""

    @property
    def counts(self) -> bool:
        return not self.note and self.gap <= GAP


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turn(calls: dict[str, Callable[[], Any]], repeats: int, burst: int = 1) -> dict[str, list[Any]]:
    """What the calls return, every other round backwards, so that none always follows the same other.

    Before each turn there is a pause: threads of the call before wait for work for a tenth of a second, and
    would take a core from the next. With a `burst` each turn is so many calls, and the first is left out.
    """
    results: dict[str, list[Any]] = {name: [] for name in calls}
    gc.collect()
    gc.freeze()  # what is loaded by now need not be searched again in every round
    for repeat in range(repeats):
        gc.collect()
        for name in list(calls)[:: -1 if repeat % 2 else 1]:
            time.sleep(PAUSE)
            made = [calls[name]() for _ in range(burst)]
            results[name] += made[1:] or made
    return results


def fitted(make: Callable[[], Any], X: np.ndarray, y: np.ndarray) -> tuple[float, Any]:
    """Seconds of a fit, and the estimator."""
    estimator = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run that stops short is told by its objective
        start = time.perf_counter()
        estimator.fit(X, y)
        return time.perf_counter() - start, estimator


def judge(seconds: float, estimator: Any, X: Any, y: np.ndarray) -> Run:
    coef, intercept = np.atleast_2d(estimator.coef_), np.atleast_1d(estimator.intercept_)
    value = objective(coef, intercept, X, y, getattr(estimator, "C", 1.0))  # glum has alpha, here of C=1
    return Run(seconds, value, int(np.max(estimator.n_iter_)))


def fit(make: Callable[[], Any], X: np.ndarray, y: np.ndarray) -> Run:
    return judge(*fitted(make, X, y), X, y)


class TooLong(BaseException):
    """Not an Exception, which libraries catch to go on by other means."""


@contextmanager
def at_most(limit: float) -> Iterator[None]:
    """Raise `TooLong` after so many seconds, where there are alarms (not on Windows)."""

    def stop(*_: Any) -> None:
        raise TooLong

    if not hasattr(signal, "setitimer"):
        yield
        return
    earlier = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


class Ladder(NamedTuple):
    runs: list[tuple[float, Run]]  # by tolerance, the loosest first
    whole: bool  # False: ended by a run that took too long


def climb(peer: Peer, X: np.ndarray, y: np.ndarray, limit: float, optimum: float) -> Ladder:
    """Run `peer` at one tolerance after the other until it is well within the gap."""
    runs: list[tuple[float, Run]] = []
    for tol in peer.ladder:
        try:
            with at_most(limit):
                runs.append((tol, fit(partial(peer.make, tol), X, y)))
        except TooLong:
            print(f"  {peer.name}, tol={tol:g}: more than {limit:.0f} s", file=sys.stderr, flush=True)
            return Ladder(runs, False)
        print(f"  {peer.name}, tol={tol:g}: {runs[-1][1].seconds:.4g} s", file=sys.stderr, flush=True)
        if runs[-1][1].value / optimum - 1 <= GAP / 2:
            break
        if runs[-1][1].seconds > limit:
            return Ladder(runs, False)
    return Ladder(runs, True)


def compare(
    candidates: Sequence[Peer],
    X: np.ndarray,
    y: np.ndarray,
    repeats: int,
    seconds: float = SECONDS,
    burst: int = 1,
    C: float = 1.0,
) -> list[Row]:
    """A row for each peer, for LogisticRegression() and for ours, by the rule at the top."""
    present = [peer for peer in candidates if peer.make]
    makes: dict[str, Callable[[], Any]] = {
        DEFAULT: partial(LogisticRegression, C=C),
        OURS: partial(TorchLogisticClassifier, C=C),
    }
    for make in [*makes.values(), *(partial(peer.make, 1.0) for peer in present)]:
        fit(make, X[:5000], y[:5000])  # libraries load and thread pools start untimed
    first = {name: fit(make, X, y) for name, make in makes.items()}
    limit = max(seconds, TIMES * first[OURS].seconds)
    optimum = min(fit(partial(TorchLogisticClassifier, C=C, tol=1e-6), X, y).value, first[OURS].value)
    ladders = {peer.name: climb(peer, X, y, limit, optimum) for peer in present}
    values = [run.value for ladder in ladders.values() for _, run in ladder.runs]
    best = min([optimum, *values, *(run.value for run in first.values())])
    settings: dict[str, float] = {}
    for peer in present:
        # A solver takes the same steps whatever its tolerance: the loosest that will do is the fastest.
        tol = next((tol for tol, run in ladders[peer.name].runs if run.value / best - 1 <= GAP), None)
        if tol is not None:
            settings[peer.name] = tol
            makes[peer.name] = partial(peer.make, tol)
    # Judged after all are fitted: that too leaves threads behind that wait for work.
    fits = in_turn({name: partial(fitted, make, X, y) for name, make in makes.items()}, repeats, burst)
    results = {name: [judge(*run, X, y) for run in runs] for name, runs in fits.items()}
    best = min([best, *(run.value for runs in results.values() for run in runs)])
    rows = []
    for name in [*(peer.name for peer in candidates), DEFAULT, OURS]:
        if name in results:
            runs = results[name]
            gap = max(run.value for run in runs) / best - 1
            rows.append(Row(name, settings.get(name), median(r.seconds for r in runs), gap, runs[0].n_iter))
        elif name not in ladders:
            rows.append(Row(name, None, np.nan, np.nan, None, "not installed"))
        else:
            runs, whole = ladders[name]
            note = SHORT if whole else f"not within {limit:.0f} s"
            nearest = min(runs, key=lambda pair: pair[1].value, default=None)
            if nearest is None:
                rows.append(Row(name, None, np.nan, np.nan, None, note))
            else:
                tol, run = nearest
                rows.append(Row(name, tol, run.seconds, run.value / best - 1, run.n_iter, note))
    return rows


# ---- output ----


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def rows_table(rows: Sequence[Row]) -> str:
    ours = rows[-1]
    cells = []
    for row in rows:
        tol = "default" if row.name in (DEFAULT, OURS) else "" if row.tol is None else f"{row.tol:g}"
        note = row.note or ("" if row.counts else SHORT)
        ratio = f"{row.seconds / ours.seconds:.2f}" if row.counts and ours.counts else ""
        known = row.n_iter is not None
        numbers = [f"{1e3 * row.seconds:.4g}", f"{max(row.gap, 0):.1e}", row.n_iter] if known else [""] * 3
        cells.append([f"`{row.name}`", tol, *numbers, " ".join(filter(None, [ratio, note]))])
    head = ["solver", "tol", "ms", "(F - F\\*) / F\\*", "iterations", "time / ours"]
    return table(head, cells) + "\n" + verdict(rows) + "\n"


def verdict(rows: Sequence[Row]) -> str:
    ours, default = rows[-1], rows[-2]
    if not ours.counts:
        return f"Ours does not come within {GAP:g} of the smallest objective, so its time does not count."
    reached = "" if default.counts else f", and stops {default.gap:.1e} above the smallest objective"
    against = f"`{DEFAULT}` takes {default.seconds / ours.seconds:.2f} times as long as ours{reached}."
    counting = [row for row in rows[:-2] if row.counts]
    if not counting:
        return f"No peer comes within {GAP:g}. {against}"
    fastest = min(counting, key=lambda row: row.seconds)
    return (
        f"The fastest peer, `{fastest.name}` at tol={fastest.tol:g}, takes "
        f"{fastest.seconds / ours.seconds:.2f} times as long as ours; {against}"
    )


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def machine() -> str:
    versions = [f"Python {platform.python_version()}", f"torch_logreg {__version__}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    return (
        f"machine: {processor()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} torch threads; versions: {', '.join(versions)}; "
        f"{datetime.date.today().isoformat()}"
    )


def parser(doc: str, repeats: int) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--repeats", type=int, default=repeats, help=f"timed rounds (default: {repeats})")
    made.add_argument("--scale", type=float, default=1.0, help="times the number of rows, for a quick try")
    made.add_argument(
        "--limit", type=float, default=SECONDS, help="seconds after which a run on a ladder is ended"
    )
    made.add_argument("--write", action="store_true", help="put the result into docs/_benchmarks/")
    return made


def publish(name: str, text: str, write: bool) -> None:
    text = f"{text.rstrip()}\n\n{machine()}\n"
    print(text)
    if write:
        PARTS.mkdir(exist_ok=True)
        (PARTS / f"{name}.md").write_text(text, encoding="utf-8")
