"""What `oracle` finds, kept in ``optima.npz``: most tests of accuracy would wait for its Newton method.

An answer is kept under a hash of its problem, of all bits of it. A problem that is not in the file is solved,
as are those whose numbers another processor or another numpy rounds otherwise: nothing depends on the file.

    PYTHONPATH=tests python -m helpers.optima            solve all problems of the tests, and write the file
    PYTHONPATH=tests python -m helpers.optima --compare  solve them, and compare with what is in the file
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from helpers import oracle
from helpers.oracle import Optimum, objective, objective_rounding

__all__ = ["Optimum", "objective", "objective_rounding", "probabilities", "separable", "solve"]

TESTS = Path(__file__).parents[1]
FILE = Path(__file__).with_suffix(".npz")
ANEW = "TORCH_LOGREG_OPTIMA"  # in the environment: "solve" all anew, or "compare" what comes of it as well
MOST_NUMBERS = 20_000  # of one answer: the file stays small

Array = np.ndarray

met: dict[bytes, tuple[Array, ...]] = {}  # the answers to all problems of this process
compared: list[bytes] = []
spent = [0.0]  # seconds of the processor on answers that were not in the file


def solve(
    X: Array,
    codes: Array,
    n_classes: int,
    C: float,
    sample_weight: Array | None = None,
    fit_intercept: bool = True,
) -> Optimum:
    """`oracle.solve`."""

    def solved() -> tuple[Array, ...]:
        best = oracle.solve(X, codes, n_classes, C, sample_weight, fit_intercept)
        return best.coef, best.intercept, np.array(best[2:])

    def predicted(answer: tuple[Array, ...]) -> Array:
        logits = oracle._class_logits(*answer[:2], X)
        return special.softmax(logits, axis=1)

    def compare(found: tuple[Array, ...], kept: tuple[Array, ...]) -> None:
        rounding = max(found[2][2], kept[2][2])  # of the probabilities
        np.testing.assert_allclose(predicted(found), predicted(kept), rtol=0, atol=1e-9 + 10 * rounding)
        largest = np.abs(kept[0]).max(initial=0)
        np.testing.assert_allclose(
            found[0], kept[0], rtol=0, atol=1e-6 * largest
        )  # some columns are collinear
        np.testing.assert_allclose(found[2][0], kept[2][0], rtol=1e-11 + 10 * rounding, atol=1e-13)

    problem = "solve", X, codes, n_classes, C, sample_weight, fit_intercept
    coef, intercept, numbers = _answer(problem, solved, compare)
    return Optimum(coef, intercept, *numbers.tolist())


def separable(X: Array, codes: Array, n_classes: int, fit_intercept: bool = True) -> bool:
    """`oracle.separable`."""

    def decided() -> tuple[Array, ...]:
        return (np.array([float(oracle.separable(X, codes, n_classes, fit_intercept))]),)

    return bool(
        _answer(("separable", X, codes, n_classes, fit_intercept), decided, np.testing.assert_equal)[0]
    )


def probabilities(
    X: Array,
    codes: Array,
    n_classes: int,
    C: float,
    sample_weight: Array | None = None,
    fit_intercept: bool = True,
) -> Array:
    """`oracle.probabilities`."""
    return oracle.probabilities(X, codes, n_classes, C, sample_weight, fit_intercept, solved=solve)


def _answer(
    problem: tuple[Any, ...],
    solved: Callable[[], tuple[Array, ...]],
    compare: Callable[[tuple[Array, ...], tuple[Array, ...]], None],
) -> tuple[Array, ...]:
    """Return what is known of a problem, or solve it."""
    key = _key(problem)
    if key not in met:
        kept, anew = _stored().get(key), os.environ.get(ANEW)
        start = time.process_time()
        answer = solved() if kept is None or anew else kept
        spent[0] += time.process_time() - start
        if kept is not None and anew == "compare":
            compare(answer, kept)
            compared.append(key)
        met[key] = answer
    return tuple(array.copy() for array in met[key])


def _key(problem: tuple[Any, ...]) -> bytes:
    """Return a hash of the name of a function and its arguments."""
    digest = hashlib.blake2b(digest_size=16)
    for part in problem:
        array = np.array([]) if part is None else np.asarray(part)
        array = array if array.dtype.kind == "U" else array.astype(np.float64)
        digest.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.digest()


@cache
def _stored() -> dict[bytes, tuple[Array, ...]]:
    if not FILE.exists():
        return {}
    with np.load(FILE) as file:
        keys, rows, columns, numbers = (file[name] for name in ("keys", "rows", "columns", "numbers"))
    found: dict[bytes, tuple[Array, ...]] = {}
    ends = np.cumsum(np.where(rows < 0, 1, rows * (columns + 1) + 3))
    for key, k, d, part in zip(keys, rows, columns, np.split(numbers, ends[:-1]), strict=True):
        if k < 0:
            found[bytes(key)] = (part,)
        else:
            found[bytes(key)] = part[: k * d].reshape(k, d), part[k * d : -3], part[-3:]
    return found


def _write() -> None:
    """Write what was met, but for answers that are too long.

    An answer is some consecutive `numbers`: of an optimum its coefficients, (rows, columns), intercepts and
    three more; of a separation one, with -1 for rows and for columns.
    """
    kept = {key: met[key] for key in sorted(met) if sum(array.size for array in met[key]) <= MOST_NUMBERS}
    shapes = [answer[0].shape if len(answer) == 3 else (-1, -1) for answer in kept.values()]
    np.savez(
        FILE,
        keys=np.array([list(key) for key in kept], dtype=np.uint8),
        rows=np.array([shape[0] for shape in shapes], dtype=np.int32),
        columns=np.array([shape[1] for shape in shapes], dtype=np.int32),
        numbers=np.concatenate([array.ravel() for answer in kept.values() for array in answer]),
    )
    print(f"{len(kept)} answers of {len(met)}, {FILE.stat().st_size / 1e6:.2f} MB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("-m", default="not timing", help="which tests, as of pytest")
    arguments = parser.parse_args()
    from helpers import optima  # the module that tests import, which is not this one

    os.environ["TORCH_LOGREG_TEST_SECONDS"] = "0"
    os.environ[ANEW] = "compare" if arguments.compare else "solve"
    files = [
        file
        for file in sorted(TESTS.rglob("test_*.py"))
        if "optima" in file.read_text() and file.name != "test_optima.py"
    ]
    failed = pytest.main(["-q", "-n", "0", "-m", arguments.m, *map(str, files)])
    if arguments.compare:
        print(f"{len(optima.compared)} of {len(optima.met)} problems are in the file, and solved alike")
    elif failed in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):  # all were asked for
        optima._write()
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
