"""Random problems against the independent Newton method, for as long as one likes.

    python examples/benchmarks/soak.py [--minutes 10] [--seed 0] [--threads 1]

Each problem is drawn from its seed: rows, columns, classes, units and offsets, collinear columns, dtype,
format, weights, C, with or without an intercept. The fit must agree with `tests/helpers/oracle.py` in its
objective and its probabilities, or warn of what it is: classes that can be separated (if and only if they
can), or columns that the dtype cannot resolve. Where the oracle fails, or its coefficients cancel to fewer
digits of its own predictions than are asked for, or its objective is above that of the fit, there is no
judge. A disagreement is printed with the seed that makes it again (`--seed S --minutes 0`), and the exit
status is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning

from torch_logreg import TorchLogisticClassifier

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from helpers import oracle  # noqa: E402

# By dtype and tol: of the objective above the optimum, relative, and of a probability. Where classes are
# nearly separated the objective is next to 0, and rounding of the coefficients is seen in it.
OBJECTIVE = {("float64", 1e-4): 1e-5, ("float64", 1e-7): 1e-6, ("float32", 1e-4): 1e-3}
TOLERANCE = {("float64", 1e-4): 1e-3, ("float64", 1e-7): 1e-6, ("float32", 1e-4): 1e-3}
FORMATS = {
    "C order": np.ascontiguousarray,
    "Fortran order": np.asfortranarray,
    "CSR": scipy.sparse.csr_array,
    "pandas": pd.DataFrame,
    "torch": torch.as_tensor,
}


class Case(NamedTuple):
    X: np.ndarray
    codes: np.ndarray
    weight: np.ndarray | None
    dtype: str
    format: str
    params: dict

    def __str__(self) -> str:
        weights = "no" if self.weight is None else f"{self.weight.min():.2g} to {self.weight.max():.2g}"
        return (
            f"{self.X.shape[0]} x {self.X.shape[1]}, {self.codes.max() + 1} classes, {self.dtype}, "
            f"{self.format}, weights: {weights}, {self.params}"
        )


def draw(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    K = int(rng.choice([2, 2, 2, 3, 5]))
    n, d = int(np.exp(rng.uniform(np.log(3 * K), np.log(3000)))), int(np.exp(rng.uniform(0, np.log(30))))
    X = rng.normal(size=(n, d))
    kind = rng.integers(5, size=d)
    X[:, kind == 1] = X[:, kind == 1] > 1  # a level of a factor
    X[:, kind == 2] = np.exp(2 * X[:, kind == 2])  # money
    X[:, kind == 3] = np.round(2 * X[:, kind == 3])
    signal = X @ rng.normal(size=(d, K)) / np.sqrt(d) * rng.choice([0.0, 1.0, 4.0])
    codes = (signal + rng.gumbel(size=(n, K)) * rng.choice([0.0, 1.0, 1.0, 1.0])).argmax(axis=1)
    codes[:K] = np.arange(K)
    if rng.random() < 0.5:
        X = X * 10.0 ** rng.integers(-5, 6, size=d)
    if rng.random() < 0.3:
        X = X + 10.0 ** rng.integers(-1, 5) * X.std(axis=0)
    dtype = str(rng.choice(["float64", "float64", "float32"]))
    if (
        rng.random() < 0.3
    ):  # collinear: a copy, a constant, a sum, which in float32 would be one but for rounding
        X = np.column_stack([X, X[:, 0], np.ones(n)])
        X = np.column_stack([X, X[:, :2].sum(axis=1)]) if dtype == "float64" else X
    weight = None
    if rng.random() < 0.4:
        weight = rng.choice([0, 1, 2, 0.5, 10], size=n) if rng.random() < 0.5 else rng.uniform(0.1, 2, size=n)
        weight[:K] = 1.0
    params = {
        "C": float(rng.choice([1e-4, 1e-2, 1.0, 1.0, 1e2, 1e4, np.inf])),
        "fit_intercept": bool(rng.random() < 0.8),
    }
    params["tol"] = float(rng.choice([1e-4, 1e-7])) if dtype == "float64" else 1e-4
    return Case(X.astype(dtype), codes, weight, dtype, str(rng.choice(list(FORMATS))), params)


def allowed_error(case: Case, value: float) -> np.ndarray:
    """Of each row's probabilities, (n,), by the rule that ends a fit.

    A fit may end where the objective is predicted to fall by no more than `decrease` of itself: of the sum of
    s times loss, by ``gap``. To second order a raw prediction z with curvature s p (1 - p) is then off by at
    most ``sqrt(2 gap / (s p (1 - p)))``, for no row has more than all of the curvature along a direction, and
    its probability p by ``p (1 - p)`` times that: at most ``sqrt(gap / (2 s))``.
    """
    decrease = max(case.params["tol"] ** 2, 4 * float(np.finfo(case.dtype).eps))
    gap = decrease * value / (1.0 if np.isinf(case.params["C"]) else case.params["C"])
    weight = np.ones(len(case.X)) if case.weight is None else np.maximum(case.weight, np.finfo(float).tiny)
    return np.maximum(np.sqrt(gap / (2 * weight)), TOLERANCE[case.dtype, case.params["tol"]])


def judge(case: Case) -> str:
    """What came of it; begins with "wrong" if that is not right."""
    plain, K = case.X.astype(np.float64), int(case.codes.max()) + 1
    settings = (case.params["C"], case.weight, case.params["fit_intercept"])
    separable = False
    if np.isinf(case.params["C"]):
        kept = np.full(len(plain), True) if case.weight is None else case.weight > 0
        separable = oracle.separable(plain[kept], case.codes[kept], K, case.params["fit_intercept"])
    rows = FORMATS[case.format](case.X)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = TorchLogisticClassifier(**case.params).fit(rows, case.codes, case.weight)
        got = model.predict_proba(rows)
    if any(warning.category is not ConvergenceWarning for warning in caught) or len(caught) > 1:
        return f"wrong: warned {[str(warning.message) for warning in caught]}"
    if np.isinf(case.params["C"]) and (model.stop_reason_ == "separation") != separable:
        return f"wrong: separable is {separable}, and it stopped with {model.stop_reason_}"
    if not model.converged_:
        told = ["rounding", "precision", "collinear", "separation"]
        if case.params["tol"] < 1e-4 or case.dtype == "float32":  # rounding may keep a fit from ending
            told.append("max_iter")
        if model.stop_reason_ not in told:
            oracle.solve(plain, case.codes, K, *settings)  # raises if that cannot solve it either
            return f"wrong: {model.stop_reason_}"
        return model.stop_reason_
    key = (case.dtype, case.params["tol"])
    best = oracle.solve(plain, case.codes, K, *settings)
    if best.rounding > TOLERANCE[key] / 4:
        return "no judge: the oracle's coefficients cancel"
    value = oracle.objective(model.coef_, model.intercept_, plain, case.codes, *settings[:2])
    # Each value is as far from that of its coefficients as their raw predictions are rounded.
    rounding = sum(
        oracle.objective_rounding(*coefficients, plain, case.codes, *settings[:2])
        for coefficients in ((model.coef_, model.intercept_), best[:2])
    )
    if value < best.objective - rounding:
        return "no judge: the oracle is above the fit"
    z = plain @ best.coef.T + best.intercept
    probabilities = softmax(z, axis=1) if K > 2 else expit(np.column_stack([-z, z]))
    used = slice(None) if case.weight is None else case.weight > 0  # others may lie anywhere
    error, above = np.abs(got - probabilities).max(axis=1)[used], value / best.objective - 1
    if (error > allowed_error(case, value)[used]).any() or above > OBJECTIVE[key]:
        return f"wrong: probabilities off by {error.max():.1e}, objective by {above:.1e}"
    return "the optimum"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    end, seed, outcomes, wrong = time.monotonic() + 60 * arguments.minutes, arguments.seed, Counter(), 0
    while True:
        case = draw(seed)
        try:
            outcome = judge(case)
        except AssertionError as error:  # of the oracle, which then is no judge
            outcome = f"no judge: {str(error)[:60]}"
        outcomes[outcome.split(":")[0]] += 1
        if outcome.startswith("wrong"):
            wrong += 1
            print(f"seed {seed}: {outcome}\n    {case}", flush=True)
        seed += 1
        if time.monotonic() > end:
            break
    print(f"seeds {arguments.seed} to {seed - 1}, {arguments.threads} threads:")
    for outcome, count in outcomes.most_common():
        print(f"{count:8d}  {outcome}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
