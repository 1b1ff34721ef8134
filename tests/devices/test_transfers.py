"""How often, and for how much, a fit on another device makes the host wait: on torch's ``lazy`` backend."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from helpers.datasets import load, standardised
from torch_logreg import TorchLogisticClassifier
from torch_logreg._estimators.callbacks import Recorder

WAITS = ("cpu", "item", "tolist", "numpy", "to", "__bool__", "__float__", "__int__", "__index__")


@pytest.fixture(scope="module", autouse=True)
def lazy(lazy_backend):
    with torch.jit.optimized_execution(False):
        yield


@pytest.fixture
def transfers(monkeypatch) -> list[tuple[int, str]]:
    """Of each transfer to the host the numbers in it, and the innermost functions of the package."""
    counted: list[tuple[int, str]] = []

    def counting(name: str):
        method = getattr(torch.Tensor, name)

        def wrapper(self, *args, **kwargs):
            result = method(self, *args, **kwargs)
            if self.device.type == "lazy" and (name != "to" or result.device.type == "cpu"):
                counted.append((self.numel(), _callers()))
            return result

        return wrapper

    for name in WAITS:
        monkeypatch.setattr(torch.Tensor, name, counting(name))
    return counted


def _callers() -> str:
    frame, names = sys._getframe(2), []
    while frame is not None:
        if "/torch_logreg/" in frame.f_code.co_filename:
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    return " ".join(names)


def _samples(monkeypatch) -> None:
    """What large data are solved by, on 500 rows."""
    monkeypatch.setattr("torch_logreg._fit.plan.HELD_NUMBERS", 0)
    monkeypatch.setattr("torch_logreg._linear.samples.MIN_ROWS_PER_PARAMETER", 5)
    monkeypatch.setattr("torch_logreg._fit.plan.MIN_ROWS_PER_PARAMETER", 5)
    monkeypatch.setattr("torch_logreg._fit.plan.SOFTMAX_ROWS", 100)
    monkeypatch.setattr("torch_logreg._fit.plan.KEPT_WORK", 0)
    for steps in ("STEPS", "STEPS_ON_SAMPLE"):  # conjugate gradients make long graphs
        monkeypatch.setattr(f"torch_logreg._solvers.fisher.SampledFisher.{steps}", 4)


DEEP = ("natural-sgd on samples", "newton-cg")  # long graphs
SOLVERS = [
    "natural-sgd",
    "newton-cholesky",
    "lbfgs",
    "sgd",
    *(pytest.param(s, marks=pytest.mark.deep) for s in DEEP),
]


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.one_in(100)
def test_the_host_waits_once_an_iteration(solver, n_classes, transfers, monkeypatch):
    monkeypatch.setattr("torch_logreg._solvers.conjugate_gradients.CG_STEPS", 6)
    sampled = solver.endswith("samples")
    if sampled:
        _samples(monkeypatch)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500 if sampled else 150, 3))
    y = (X[:, 0] + rng.normal(size=len(X))).argsort().argsort() * n_classes // len(X)
    marks: list[int] = []
    record = Recorder.__call__

    def mark(self, iteration):
        marks.append(len(transfers))
        return record(self, iteration)

    monkeypatch.setattr(Recorder, "__call__", mark)
    params = {"learning_rate": 0.1, "batch_size": 32} if solver == "sgd" else {}
    model = TorchLogisticClassifier(
        solver=solver.split()[0], C=0.1, max_iter=4, tol=None, device="lazy", **params
    )
    model.fit(X, y)
    waits, history = np.diff(marks), model.history_
    # A step that is halved asks once more each time; so does the change from a sample to a larger one.
    plain = (history["step"] == 1).to_numpy()[1:] | (solver == "sgd")
    plain &= ~((history["gradient_norm"].diff() > 0).to_numpy()[1:] & sampled)
    assert plain.any()
    assert (waits[plain] == 1).all(), transfers
    inner = {"conjugate_gradient", "minibatch", "_follow"}
    assert [callers for _, callers in transfers if inner & set(callers.split())] == []
    assert max(numbers for numbers, _ in transfers) <= (model.coef_.size + model.intercept_.size) ** 2


def test_nothing_larger_than_a_matrix_of_the_parameters_comes_back(transfers):
    data = load("birthwt")
    X = torch.as_tensor(standardised(data.X[:, :2])).to("lazy")
    model = TorchLogisticClassifier(solver="newton-cholesky").fit(X, data.y)
    assert max(numbers for numbers, _ in transfers) <= (model.coef_.size + 1) ** 2
