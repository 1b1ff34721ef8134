"""scikit-learn's own checks. `SCIPY_ARRAY_API=1` must be set before scipy is imported: see conftest.py."""

from __future__ import annotations

import os

import pytest
import torch
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_estimator,
    check_inplace_ensure_writeable,
    check_param_validation,
)
from torch import nn

from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._solvers.registry import SOLVERS


def mlp(n_features: int, n_outputs: int) -> nn.Module:
    """At the top of a module, so that it can be pickled."""
    return nn.Sequential(nn.Linear(n_features, 8), nn.ReLU(), nn.Linear(8, n_outputs))


# Data that do not take an epoch's gradient below tol are no fault of plain SGD: it warns, and that is right.
NOT_CONVERGED = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def name_of(estimator: TorchLogisticClassifier) -> str:
    module = "mlp" if estimator.module else "linear"
    name = f"{estimator.solver}, {module}, learning_rate={estimator.learning_rate}, {estimator.batch_size}"
    if estimator.l1_ratio:
        name += f", l1_ratio={estimator.l1_ratio}"
    return name if estimator.optimizer is None else f"{name}, {estimator.optimizer.__name__}"


def of_sgd(**settings: object):
    estimator = TorchLogisticClassifier(**settings)
    marks = [NOT_CONVERGED, pytest.mark.slow if "module" in settings else pytest.mark.deep]
    return pytest.param(estimator, id=name_of(estimator), marks=marks)


def deep(estimator: TorchLogisticClassifier):
    """The checks are of what all solvers have in common, but for weights, subsets and the order of rows."""
    return pytest.param(estimator, id=name_of(estimator), marks=pytest.mark.deep)


ESTIMATORS = [
    TorchLogisticClassifier(),
    *(deep(TorchLogisticClassifier(solver=solver)) for solver in SOLVERS if solver != "sgd"),
    deep(TorchLogisticClassifier(l1_ratio=0.5)),
    deep(TorchLogisticClassifier(l1_ratio=1)),
    of_sgd(solver="sgd"),
    of_sgd(solver="sgd", batch_size=None),
    of_sgd(solver="sgd", l1_ratio=0.5, batch_size=None),
    of_sgd(learning_rate=0.1, batch_size=None),
    of_sgd(module=mlp, batch_size=None),
    of_sgd(module=mlp, learning_rate=0.1, batch_size=None),
    of_sgd(module=mlp, optimizer=torch.optim.Adam, batch_size=None),
    of_sgd(optimizer=torch.optim.Adam, learning_rate=0.1, batch_size=None),
]

# A row of weight 2 falls into one minibatch of 8, and the same row twice into two.
OF_MINIBATCHES = [
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
def test_every_check_of_scikit_learn_passes_without_a_skip_or_an_expected_failure(estimator):
    assert os.environ["SCIPY_ARRAY_API"] == "1"
    results = check_estimator(estimator, on_skip=None, on_fail=None)
    assert len(results) >= 60
    assert [(r["check_name"], r["status"], r["exception"]) for r in results if r["status"] != "passed"] == []


@pytest.mark.deep
@pytest.mark.parametrize("l1_ratios", [(0.0,), (0.5,), (1.0,)])
def test_the_estimator_that_chooses_C_passes_them_too(l1_ratios):
    estimator = TorchLogisticClassifierCV(Cs=3, cv=3, l1_ratios=l1_ratios)
    results = check_estimator(estimator, on_skip=None, on_fail=None)
    assert len(results) >= 60
    assert [(r["check_name"], r["status"], r["exception"]) for r in results if r["status"] != "passed"] == []


@pytest.mark.slow
@NOT_CONVERGED
@pytest.mark.parametrize("learning_rate", ["auto", 0.1])
def test_minibatches_fail_exactly_the_checks_that_repeat_rows_for_weights(learning_rate):
    estimator = TorchLogisticClassifier(solver="sgd", learning_rate=learning_rate, batch_size=8)
    results = check_estimator(estimator, on_skip=None, on_fail=None)
    others = [(r["check_name"], r["status"], r["exception"]) for r in results if r["status"] != "passed"]
    assert sorted({name for name, _, _ in others}) == OF_MINIBATCHES, others
    assert all(isinstance(exception, AssertionError) for _, _, exception in others), others


@pytest.mark.parametrize(
    "check",
    [check_param_validation, check_dataframe_column_names_consistency, check_inplace_ensure_writeable],
    ids=lambda check: check.__name__,
)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
def test_checks_that_scikit_learn_keeps_for_its_own_estimators_pass(check, estimator):
    check("TorchLogisticClassifier", estimator)
