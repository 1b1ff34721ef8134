"""Numbers at the ends of their ranges: a fit is finite, or refused by an error that names the parameter."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._contracts.solver import REASONS

N, D = 60, 3
rng = np.random.default_rng(0)
X = rng.normal(size=(N, D)) * [1, 10, 0.1] + [0, 5, 0]
SCORES = (X - X.mean(axis=0)) / X.std(axis=0) @ rng.normal(size=(D, 3)) + rng.normal(size=(N, 3))
Y = {2: (SCORES[:, 0] > 0).astype(int), 3: SCORES.argmax(axis=1)}

TINY, HUGE = 5e-324, np.finfo(np.float64).max
BELOW_1 = float(np.nextafter(1, 0))
LONG = (2**31, 2**63, 10**30, 10**400)  # beyond 32 bits, 64 bits, float32's exact integers, and any float
DTYPES = (np.float32, np.float64)
CLOSED = ("natural-sgd", "newton-cholesky", "newton-cg", "lbfgs")
SOLVERS = (*CLOSED, "sgd")
STOPPED = {*REASONS, "converged", "early_stopping"}


class End(NamedTuple):
    """A value, and for each dtype that refuses it the words of the error."""

    params: dict[str, Any]
    fit: dict[str, Any] = {}  # of `fit`; "X" is a factor of the rows, and scalars fill arrays
    refused: dict[type, tuple[str, ...]] = {}
    solvers: tuple[str, ...] = SOLVERS


def everywhere(*words: str) -> dict[type, tuple[str, ...]]:
    return dict.fromkeys(DTYPES, words)


def in_float32(*words: str) -> dict[type, tuple[str, ...]]:
    return {np.float32: words}


BEYOND = "beyond the range of float64"
SGD = {"solver": "sgd", "max_iter": 3, "random_state": 0}


def mlp(n_features, n_outputs):
    return nn.Sequential(nn.Linear(n_features, 4), nn.Tanh(), nn.Linear(4, n_outputs))


# ---- what both classes take ----

TOO_SMALL, OVERFLOWS = ("weight", "too small"), ("sum of sample_weight", "overflows")
BOTH = [
    *(End({"tol": tol, "max_iter": 15}) for tol in (0, TINY, 1e-200, 1e100, 1e200, HUGE, 10**30)),
    End({"tol": 10**400}, refused=everywhere("tol", BEYOND)),
    End({"tol": np.inf}, refused=everywhere("'tol'", "[0.0, inf)")),
    *(End({"max_iter": max_iter, "tol": 1e-2}) for max_iter in (0, 1, *LONG)),
    *(End({"random_state": seed, "max_iter": 3}) for seed in (0, 2**31 - 1, 2**31, 2**32 - 1)),
    *(
        End({"random_state": seed}, refused=everywhere("'random_state'", "[0, 4294967295]"))
        for seed in (2**32, 2**63, 10**30, -1, -(2**63))
    ),
    *(End({"verbose": verbose, "max_iter": 2}) for verbose in (0, 1, *LONG)),
    # weights
    *(End({}, {"sample_weight": s}, everywhere(*TOO_SMALL)) for s in (TINY, 1e-310)),
    *(End({}, {"sample_weight": s}, in_float32(*TOO_SMALL)) for s in (1e-300, 1e-39)),
    End({}, {"sample_weight": 1e300}, in_float32(*OVERFLOWS)),
    End({}, {"sample_weight": 1e302}, in_float32(*OVERFLOWS)),
    End({}, {"sample_weight": HUGE}, everywhere(*OVERFLOWS)),
    End({}, {"sample_weight": np.resize([1e-300, 1.0], N)}),
    End({}, {"sample_weight": np.resize([1e300, 1.0, 1e-300], N)}, in_float32(*OVERFLOWS)),
    End({}, {"sample_weight": np.array([10**400] * N)}, everywhere("sample_weight", BEYOND)),
    End({"class_weight": {0: TINY, 1: 1, 2: 1}}, {}, everywhere(*TOO_SMALL)),
    End({"class_weight": {0: 1e-300, 1: 1, 2: 1}}, {}, in_float32(*TOO_SMALL)),
    End({"class_weight": {0: 1e300, 1: 1, 2: 1}}, {}, in_float32(*OVERFLOWS)),
    End({"class_weight": {0: 1, 1: HUGE, 2: 1}}, {}, everywhere(*OVERFLOWS)),
    End({"class_weight": {0: 10**400, 1: 1, 2: 1}}, {}, everywhere("class_weight", BEYOND)),
    # rows
    *(End({}, {"X": scale}) for scale in (TINY, 1e-310, 1e-160, 1e-150, 1e-45, 1e-39, 1e-30)),
    *(End({}, {"X": scale}, solvers=CLOSED) for scale in (1e17, 1e30, 1e36)),
    *(End({}, {"X": scale}, in_float32("X", "infinity"), CLOSED) for scale in (1e39, 1e150)),
    End({}, {"X": 1e300}, {np.float32: ("X", "infinity"), np.float64: ("squares of X overflow",)}),
    End({}, {"X": 1e308}, everywhere("X", "infinity")),
]

# ---- C fixed ----

SQUARES = ("squares overflow float32",)
STARTS = ("coef_init", "intercept_init")
SINGLE = [
    *(End({"C": C}) for C in (TINY, 1e-310, 1e-200, 1e-45, 1e30, 1e200, 1e306, np.inf, 2**63, 10**30)),
    *(End({"C": C}) for C in (np.float32(1e-45), np.float32(3.4e38), np.float64(1e300))),
    End({"C": 10**400}, refused=everywhere("C", BEYOND)),
    *(End({"learning_rate": rate, "max_iter": 3}, solvers=("sgd",)) for rate in (TINY, 1e-300, 1e-45)),
    *(
        End({"learning_rate": rate, "max_iter": 3}, {}, everywhere("learning_rate", "smaller"), ("sgd",))
        for rate in (1e200, HUGE)
    ),
    End({"learning_rate": 1e30, "batch_size": 8}, {}, everywhere("learning_rate", "smaller"), ("sgd",)),
    End({"learning_rate": np.inf}, {}, everywhere("'learning_rate'", "(0.0, inf)"), ("sgd",)),
    End({"learning_rate": 10**400}, {}, everywhere("learning_rate", BEYOND), ("sgd",)),
    *(End({**SGD, "learning_rate": 1e-3, "momentum": m}) for m in (0, TINY, BELOW_1)),
    *(End({**SGD, "learning_rate": 1e-3, "momentum": m, "nesterov": True}) for m in (TINY, BELOW_1)),
    End({**SGD, "learning_rate": 1e-3, "momentum": 1}, {}, everywhere("'momentum'", "[0.0, 1.0)")),
    End({**SGD, "learning_rate": 0.1, "C": TINY}, {}, everywhere("larger C"), ("sgd",)),
    *(End({**SGD, "batch_size": size}) for size in (1, N - 1, N, N + 1, *LONG)),
    *(End({**SGD, "batch_size": size, "learning_rate": 1e-3}) for size in (1, N, *LONG)),
    *(
        End(
            {"early_stopping": True, "validation_fraction": part},
            {},
            everywhere("validation_fraction", "rows of each class"),
        )
        for part in (TINY, 1e-3, BELOW_1)
    ),
    *(End({"early_stopping": True, "validation_fraction": part}) for part in (0.1, 0.9)),
    *(End({"early_stopping": True, "n_iter_no_change": k, "max_iter": 9}) for k in (1, *LONG)),
    *(End({"early_stopping": True, "random_state": seed}) for seed in (0, 2**31, 2**32 - 1)),
    End({}, {"sample_weight": 1e306}, {np.float32: OVERFLOWS, np.float64: ("sample_weight",)}, ("sgd",)),
    End({}, {"X": 1e36}, in_float32("squares of X overflow torch.float32"), ("sgd",)),
    # where to start
    *(End({}, {name: value}) for name in STARTS for value in (TINY, 1e-300, 1e18)),
    *(End({}, {name: value}, in_float32(name, *SQUARES)) for name in STARTS for value in (1e20, 1e39, 1e150)),
    *(
        End({}, {name: value}, everywhere(name, "squares overflow float"))
        for name in STARTS
        for value in (1e155, HUGE, -HUGE)
    ),
    *(End({}, {name: 10**400}, everywhere(name, BEYOND)) for name in STARTS),
    # modules
    *(End({"module": mlp, **SGD, "C": C}) for C in (1e-20, 1e200, 1e306, np.inf)),
    End({"module": mlp, **SGD, "C": TINY}, {}, everywhere("larger C")),
    *(End({"module": mlp, **SGD, "learning_rate": rate}) for rate in (TINY, 1e-45)),
    End({"module": mlp, **SGD, "learning_rate": HUGE}, {}, everywhere("learning_rate", "smaller")),
    *(End({"module": mlp, **SGD, "batch_size": size}) for size in (1, *LONG)),
]

# ---- C chosen ----

FEW = {"cv": 2, "Cs": 3}
CHOSEN = [
    *(End({**FEW, "Cs": Cs}) for Cs in (1, [TINY], [1e-310, 1.0], [1e200, 1e306, np.inf], [10**30, 2**63])),
    *(End({**FEW, "Cs": Cs}, {}, everywhere("Cs", "GB", "pass fewer")) for Cs in (2**40, 2**63, 10**30)),
    *(End({**FEW, "Cs": Cs}, {}, everywhere("Cs", BEYOND)) for Cs in (10**400, [10**400])),
    End({**FEW, "Cs": 0}, {}, everywhere("'Cs'", "[1, inf)")),
    *(End({**FEW, "Cs": Cs}, {}, everywhere("Cs=", "above 0")) for Cs in ([0.0], [-TINY], [np.nan], [])),
    *(End({"Cs": 3, "cv": cv}, {}, everywhere(f"cv={cv}", "greater than")) for cv in (N, N + 1, *LONG)),
    *(End({"Cs": 3, "cv": cv}, {}, everywhere("'cv'", "[2, inf)")) for cv in (-1, 0, 1)),
    *(
        End({**FEW, "max_batch_memory": n_bytes})
        for n_bytes in (TINY, 1e-300, 0.5, 1, 1e300, HUGE, 2**63, 10**30, 10**400)
    ),
    End({**FEW, "max_batch_memory": np.inf}, {}, everywhere("'max_batch_memory'", "(0.0, inf)")),
]

TABLE = {
    TorchLogisticClassifier: [*BOTH, *SINGLE],
    TorchLogisticClassifierCV: [*(end._replace(params={**FEW, **end.params}) for end in BOTH), *CHOSEN],
}


def named(end: End) -> str:
    """Without addresses in memory, which are others in each process."""
    return re.sub(r" at 0x\w+", "", str(end[:2]))[:90]


ROWS = [
    pytest.param(kind, end, dtype, number, id=f"{kind.__name__}-{named(end)}-{dtype.__name__}-{number}")
    for kind, ends in TABLE.items()
    for number, end in enumerate(ends)
    for dtype in DTYPES
]
every_row = pytest.mark.parametrize(("kind", "end", "dtype", "number"), ROWS)


def filled(name: str, value: Any, n_classes: int) -> Any:
    """The argument of `fit` of that name that holds a value everywhere."""
    if isinstance(value, np.ndarray):
        return value
    K = 1 if n_classes == 2 else n_classes
    shape = {"sample_weight": (N,), "coef_init": (K, D), "intercept_init": (K,)}[name]
    return np.full(shape, value, dtype=object if isinstance(value, int) else np.float64)


def estimators(kind: type, end: End) -> list[Any]:
    if "solver" in end.params or "module" in end.params:
        return [kind(**end.params)]
    names = [name for name in end.solvers if kind is TorchLogisticClassifier or name != "sgd"]
    return [kind(solver=name, **end.params) for name in names]


def assert_finite(estimator: Any, rows: np.ndarray) -> None:
    assert estimator.stop_reason_ in STOPPED
    names = ["loss_curve_", "objective_"]
    if estimator.module is None:
        names += ["coef_", "intercept_"]
    assert [name for name in names if not np.isfinite(getattr(estimator, name)).all()] == []
    for method in ("decision_function", "predict_proba", "predict_log_proba"):
        assert np.isfinite(getattr(estimator, method)(rows)).all(), method


def check(estimator: Any, n_classes: int, end: End, dtype: type) -> None:
    y = Y[n_classes]
    with np.errstate(all="ignore"):
        rows = (X * end.fit.get("X", 1.0)).astype(dtype)
    given = {name: filled(name, value, n_classes) for name, value in end.fit.items() if name != "X"}
    if isinstance(estimator.class_weight, dict) and n_classes == 2:
        estimator.class_weight = {0: end.params["class_weight"][0], 1: end.params["class_weight"][1]}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", ConvergenceWarning)  # any other is an error
        if dtype in end.refused:
            with pytest.raises((ValueError, MemoryError)) as caught:
                estimator.fit(rows, y, **given)
            assert [word for word in end.refused[dtype] if word not in str(caught.value)] == []
        else:
            assert_finite(estimator.fit(rows, y, **given), rows)


@every_row
@pytest.mark.one_in(6)
def test_it_fits_to_finite_numbers_or_an_error_names_the_parameter(kind, end, dtype, number):
    """By one solver and one number of classes, in turn from row to row; errors by all."""
    ways = list(itertools.product(estimators(kind, end), Y))
    turn = (3 * number + DTYPES.index(dtype)) % len(
        ways
    )  # 3 divides none of 2, 8 and 10, the numbers of ways
    for estimator, n_classes in ways if dtype in end.refused else [ways[turn]]:
        check(estimator, n_classes, end, dtype)


@pytest.mark.slow
@every_row
def test_so_it_is_by_every_solver_and_with_every_number_of_classes(kind, end, dtype, number):
    for estimator, n_classes in itertools.product(estimators(kind, end), Y):
        check(estimator, n_classes, end, dtype)


@pytest.mark.parametrize("C", [HUGE, 1e308])
def test_an_objective_that_overflows_with_a_large_C_is_infinite_and_its_fit_is_not(C):
    """As the documentation of `objective_` says."""
    model = TorchLogisticClassifier(C=C).fit(X, Y[2])
    free = TorchLogisticClassifier(C=np.inf).fit(X, Y[2])
    assert model.objective_ == np.inf and np.isfinite(model.loss_curve_).all()
    np.testing.assert_allclose(model.coef_, free.coef_, rtol=1e-8)


@pytest.mark.parametrize("kind", [TorchLogisticClassifier, TorchLogisticClassifierCV])
def test_numbers_that_change_nothing_change_nothing(kind):
    few = FEW if kind is TorchLogisticClassifierCV else {}
    expected = kind(**few).fit(X, Y[2])
    for max_iter in (2**31, 10**30, 10**400):
        assert np.array_equal(kind(**few, max_iter=max_iter).fit(X, Y[2]).coef_, expected.coef_)
    if few:
        for n_bytes in (2**63, 10**400):
            model = kind(**few, max_batch_memory=n_bytes).fit(X, Y[2])
            assert np.array_equal(model.coef_, expected.coef_)
    else:
        assert kind(tol=HUGE).fit(X, Y[2]).n_iter_[0] == 1


@pytest.mark.parametrize("solver", ["natural-sgd", "newton-cholesky", "newton-cg", "lbfgs"])
def test_a_loss_that_overflows_where_a_fit_starts_is_not_blamed_on_the_rows(solver, monkeypatch):
    for most in ("HELD_NUMBERS", "HELD_STORED", "MOST_ROWS"):  # what is held is so in float64
        monkeypatch.setattr(f"torch_logreg._fit.plan.{most}", -1)
    rows, model = (
        scipy.sparse.csr_array((X * 1e20).astype(np.float32)),
        TorchLogisticClassifier(solver=solver),
    )
    with pytest.raises(
        ValueError, match="coefficients to start from.*coef_init.*warm start: pass smaller ones"
    ):
        model.fit(rows, Y[2], coef_init=np.full(D, 1e19))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert np.isfinite(model.fit(rows, Y[2]).coef_).all()


@pytest.mark.parametrize("scale", [1e39, 1e308])
def test_rows_to_predict_that_are_infinite_are_named(scale):
    model = TorchLogisticClassifier().fit(X.astype(np.float32), Y[2])
    with np.errstate(all="ignore"):
        rows = (X * scale).astype(np.float32)
    with pytest.raises(ValueError, match="Input X contains infinity"):
        model.predict(rows)
    with pytest.raises(ValueError, match="X holds an integer beyond the range of float64"):
        model.predict([[10**400] * D])
