"""Every row of the catalogue of inputs is as it says, for `fit` and for predictions of the same rows."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from helpers import optima
from helpers.catalogue import OPTIMUM, ROWS, Case, Row, table
from helpers.oracle import gradient
from torch_logreg import TorchLogisticClassifier


def _id(row: Row) -> str:
    return f"{row.part}: {row.name}"


def _probabilities(case: Case, row: Row) -> np.ndarray:
    """Of the oracle's optimum at the rows of the case, (n, n_classes)."""
    settings = {"fit_intercept": row.params.get("fit_intercept", True)}
    C = row.params.get("C", 1.0)
    return optima.probabilities(case.plain_X, case.codes, len(case.classes), C, case.plain_weight, **settings)


def _check_optimum(model: TorchLogisticClassifier, case: Case, row: Row) -> None:
    assert model.converged_
    assert model.classes_.tolist() == case.classes.tolist()
    assert model.classes_.dtype.kind == case.classes.dtype.kind
    if len(case.classes) > 100:  # too many for the oracle
        return _check_gradient(model, case, row)
    expected = _probabilities(case, row)
    np.testing.assert_allclose(
        model.predict_proba(case.X)[: len(expected)], expected, rtol=0, atol=row.tolerance
    )


def _check_gradient(model: TorchLogisticClassifier, case: Case, row: Row) -> None:
    """The penalty is 1-strongly convex, so the optimum is no further than the gradient is long."""
    assert row.params["fit_intercept"] is False
    assert row.params["C"] < np.inf
    coef = model.coef_ - model.coef_.mean(axis=0)
    slope, _ = gradient(coef, model.intercept_, case.plain_X, case.codes, row.params["C"])
    assert np.abs(model.coef_ - coef).max() < 1e-12
    assert np.linalg.norm(slope) * np.linalg.norm(case.plain_X, axis=1).max() <= row.tolerance


@pytest.mark.parametrize("row", ROWS, ids=_id)
def test_what_comes_of_it_is_what_the_catalogue_says(row):
    case = row.make()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = TorchLogisticClassifier(**row.params)
        if row.outcome.endswith("Error"):
            with pytest.raises(Exception) as raised:
                model.fit(case.X, case.y, case.weight)
            assert row.outcome in [kind.__name__ for kind in type(raised.value).__mro__]
            assert row.says in str(raised.value)
            assert not hasattr(model, "coef_")
            return
        model.fit(case.X, case.y, case.weight)
        if row.outcome == "ConvergenceWarning":
            assert not model.converged_
        else:
            _check_optimum(model, case, row)
    expected = [] if row.outcome == OPTIMUM else [row.outcome]
    assert [warning.category.__name__ for warning in caught] == expected
    assert all(row.says in str(warning.message) for warning in caught)


def test_the_documented_table_is_this_one():
    assert len(ROWS) >= 150
    assert len({_id(row) for row in ROWS}) == len(ROWS)
    page = Path(__file__).parents[2] / "docs" / "_inputs_table.md"
    assert page.read_text(encoding="utf-8") == table(), "run: python tests/helpers/catalogue.py"


WIDE = """
import numpy as np, scipy.sparse
from torch_logreg import TorchLogisticClassifier
X = scipy.sparse.random_array((3000, 1_000_000), density=1e-4, format="csr", rng=np.random.default_rng(0))
model = TorchLogisticClassifier().fit(X, np.arange(3000) % 2)
assert model.converged_
assert model.predict_proba(X).shape == (3000, 2)
# Not `ru_maxrss`, which a process inherits from the one that started it.
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20)
"""


@pytest.mark.processes
def test_sparse_rows_of_a_million_columns_take_less_than_two_gigabytes():
    run = subprocess.run([sys.executable, "-c", WIDE], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 2
