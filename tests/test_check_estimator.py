"""scikit-learn's own checks. `SCIPY_ARRAY_API=1` must be set before scipy is imported: see conftest.py."""

from __future__ import annotations

import os

import pytest
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_estimator,
    check_inplace_ensure_writeable,
    check_param_validation,
)

from torch_logreg import TorchLogisticClassifier
from torch_logreg._classifier import SOLVERS

ESTIMATORS = [TorchLogisticClassifier(), *(TorchLogisticClassifier(solver=solver) for solver in SOLVERS)]


def name_of(estimator: TorchLogisticClassifier) -> str:
    return estimator.solver


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
def test_every_check_of_scikit_learn_passes_without_a_skip_or_an_expected_failure(estimator):
    assert os.environ["SCIPY_ARRAY_API"] == "1"
    results = check_estimator(estimator, on_skip=None, on_fail=None)
    assert len(results) >= 60
    assert [(r["check_name"], r["status"], r["exception"]) for r in results if r["status"] != "passed"] == []


@pytest.mark.parametrize(
    "check",
    [check_param_validation, check_dataframe_column_names_consistency, check_inplace_ensure_writeable],
    ids=lambda check: check.__name__,
)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
def test_checks_that_scikit_learn_keeps_for_its_own_estimators_pass(check, estimator):
    check("TorchLogisticClassifier", estimator)
