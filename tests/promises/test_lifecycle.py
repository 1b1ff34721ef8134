"""Faults in the middle of a fit lose nothing, and many fits leave nothing behind."""

from __future__ import annotations

import copy
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from helpers.datasets import load, standardised
from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._linear.objective import ColumnsObjective, ColumnsPoint

DATA = load("breast_cancer")
X, y = standardised(DATA.X[:, :6]), DATA.y


def global_state() -> dict:
    return {
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": str(np.random.get_state()),  # noqa: NPY002, it is the global one that matters
        "python generator": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "filters": list(warnings.filters),
    }


# ---- interrupts ----


def _rows(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 20))
    return X, (X[:, 0] + rng.normal(size=n) > 0).astype(int)


@pytest.fixture
def ctrl_c():
    """As in a process of the foreground: one that a shell started in the background ignores it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("solver", ["natural-sgd", "lbfgs", "newton-cholesky", "newton-cg", "sgd"])
def test_ctrl_c_ends_a_fit_within_a_pass_and_keeps_the_earlier_model(solver, ctrl_c):
    many, labels = _rows(100_000)
    model = TorchLogisticClassifier(solver=solver).fit(X[:, :2], y)
    before, kept = global_state(), copy.deepcopy(vars(model))
    original = many[:50].copy()
    model.set_params(tol=None, max_iter=2000)
    sent: list[float] = []

    def interrupt() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.3, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.fit(many, labels)
    reacted = time.perf_counter() - sent[0]
    timer.join()
    start = time.perf_counter()
    TorchLogisticClassifier(tol=None, max_iter=1).fit(many, labels)  # some passes
    assert reacted < 2 * (time.perf_counter() - start) + 0.1
    assert global_state() == before
    model.set_params(tol=1e-4, max_iter=100)
    assert sorted(vars(model)) == sorted(kept)
    assert_array_equal(model.coef_, kept["coef_"])
    assert model.n_features_in_ == 2
    assert_array_equal(many[:50], original)


def test_ctrl_c_ends_a_choice_of_C_too(ctrl_c):
    many, labels = _rows(50_000)
    model = TorchLogisticClassifierCV(Cs=3, cv=3).fit(X[:, :2], y)
    coef, before = model.coef_.copy(), global_state()
    model.set_params(tol=None, max_iter=2000, Cs=10)
    timer = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.fit(many, labels)
    timer.join()
    assert global_state() == before
    assert_array_equal(model.coef_, coef)


# ---- faults of the user's own parts ----


class Fault(Exception):
    pass


class Faulty(nn.Module):
    """A linear model that fails when, where and how it is told to."""

    def __init__(self, n_features: int, where: str, kind: type[BaseException]) -> None:
        super().__init__()
        if where == "construction":
            raise kind(where)
        self.where, self.kind, self.calls, self.linear = where, kind, 0, nn.Linear(n_features, 1)

    def forward(self, X):
        self.calls += 1
        torch.rand(3)
        if self.where == "forward" and self.calls > 3:
            raise self.kind(self.where)
        z = self.linear(X)
        if self.where == "backward" and z.requires_grad:
            z.register_hook(self.fail)
        return z

    def fail(self, gradient):
        raise self.kind(self.where)


class FaultyLoss(nn.BCEWithLogitsLoss):
    def __init__(self, kind: type[BaseException]) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, z, target):
        raise self.kind("criterion")


@pytest.mark.parametrize("kind", [Fault, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("where", ["construction", "forward", "backward", "criterion"])
def test_a_fault_of_a_module_or_a_criterion_leaves_all_as_it_was(where, kind):
    settings = {"learning_rate": 0.1, "max_iter": 5, "tol": None, "random_state": 0}
    module = (lambda d, k: nn.Linear(d, k)) if where == "criterion" else (lambda d, k: Faulty(d, where, kind))
    criterion = FaultyLoss(kind) if where == "criterion" else None
    model = TorchLogisticClassifier(module=nn.Linear(6, 1), **settings).fit(X, y)
    probabilities = model.predict_proba(X)
    model.set_params(module=module, criterion=criterion)
    before, rows, labels = global_state(), X.copy(), y.copy()
    with pytest.raises(kind, match=where):
        model.fit(X, y)
    assert global_state() == before
    assert_array_equal(model.predict_proba(X), probabilities)
    assert_array_equal(X, rows)
    assert_array_equal(y, labels)


# Two steps, and those that failed: "lbfgs" then tries without its pairs, and by Newton's direction.
@pytest.mark.parametrize(
    ("solver", "n_iter"), [("natural-sgd", 3), ("newton-cholesky", 3), ("newton-cg", 3), ("lbfgs", 5)]
)
def test_a_solver_that_cannot_descend_says_at_which_iteration(solver, n_iter, monkeypatch):
    evaluate, calls = ColumnsPoint.value_and_gradient, itertools.count()

    def worse(self):
        value, gradient = evaluate(self)
        return value + max(0, next(calls) - 2), gradient

    monkeypatch.setattr(ColumnsPoint, "value_and_gradient", worse)
    monkeypatch.setattr(ColumnsObjective, "rough", lambda self: self)
    with pytest.warns(
        ConvergenceWarning, match=rf"after {n_iter} iteration\(s\): no step decreases"
    ) as caught:
        model = TorchLogisticClassifier(solver=solver).fit(X, y)
    assert len(caught) == 1
    assert model.stop_reason_ == "precision"
    assert model.n_iter_.tolist() == [n_iter]
    assert np.isfinite(model.coef_).all()


# ---- memory ----


def test_a_device_that_runs_out_of_memory_is_named_and_the_earlier_model_kept(monkeypatch):
    model = TorchLogisticClassifier(device="cpu").fit(X[:, :2], y)
    coef = model.coef_.copy()

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("torch_logreg._fit.linear.make_rows", full)
    monkeypatch.setattr("torch_logreg._fit.predictor.matmul", full)
    said = r"shape \(569, 6\) and device='cpu'.*2.00 GiB.*device='cpu'"
    with pytest.raises(torch.OutOfMemoryError, match=said):
        model.fit(X, y)
    assert_array_equal(model.coef_, coef)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        model.predict(X[:, :2])


def test_a_machine_that_runs_out_of_memory_raises_a_memory_error(monkeypatch):
    model = TorchLogisticClassifier().fit(X[:, :2], y)
    coef = model.coef_.copy()
    too_large = torch.zeros(1).expand(2**50)
    monkeypatch.setattr("torch_logreg._fit.linear.make_rows", lambda *args: too_large.clone())
    with pytest.raises(MemoryError, match=r"\(569, 6\).*float32"):
        model.fit(X, y)
    assert_array_equal(model.coef_, coef)


def test_other_runtime_errors_are_as_they_were(monkeypatch):
    error = RuntimeError("something else")

    def fails(*args):
        raise error

    monkeypatch.setattr("torch_logreg._fit.linear.make_rows", fails)
    with pytest.raises(RuntimeError) as caught:
        TorchLogisticClassifier().fit(X, y)
    assert caught.value is error


GROWTH = """
import gc, resource, warnings
import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from torch_logreg import TorchLogisticClassifier
warnings.simplefilter("ignore")
torch.set_num_threads(1)
X = np.random.default_rng(0).normal(size=(120, 5))
y = (X[:, 0] > np.random.default_rng(1).normal(size=120)).astype(int)
three = y + (X[:, 1] > 1)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def some(n):
    for _ in range(n // 4):
        TorchLogisticClassifier().fit(X, y).predict_proba(X)
        TorchLogisticClassifier(solver="lbfgs", max_iter=20).fit(X, three).predict(X)
        TorchLogisticClassifier(C=np.inf).fit(X, y)
        module = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 1))
        TorchLogisticClassifier(module=module, learning_rate=0.1, max_iter=2, tol=None).fit(X, y).predict(X)
    gc.collect()

some(200)
before = resident()
some(1000)
print((resident() - before) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_fits_leave_less_than_two_megabytes():
    run = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 2


# ---- repeats ----


def metric_rounding(model: TorchLogisticClassifier, X: np.ndarray) -> float:
    """By how much coefficients of fits that differ by rounding alone may differ.

    The metric of a sample may be of float32 numbers: each step s is then off by ``eps32 |s|``. What a step
    leaves is contracted by those after it, as the steps themselves are, so each adds as much as the last.
    That is at most ``tol sqrt(2 F / l)`` with l the least curvature, for its decrement is at most
    ``2 tol**2 F`` where a fit ends.
    """
    p = model.predict_proba(X)
    p = p[:, 1:] if p.shape[1] == 2 else p
    of_outputs = np.einsum("nk,kl->nkl", p, np.eye(p.shape[1])) - p[:, :, None] * p[:, None]  # (n, K, K)
    columns = np.column_stack([(X - X.mean(axis=0)) / X.std(axis=0), np.ones(len(X))])
    size = p.shape[1] * columns.shape[1]
    fisher = np.einsum("nkl,ni,nj->kilj", of_outputs, columns, columns, optimize=True).reshape(size, size)
    curves = np.linalg.eigvalsh(fisher / len(X))
    least = curves[curves > 1e-9 * curves[-1]][0]  # softmax does not tell a shift of all classes
    value = model.objective_ / (model.C * len(X))
    steps = int(model.n_iter_[0]) * model.tol * np.sqrt(2 * value / least)
    return float(np.finfo(np.float32).eps * steps / X.std(axis=0).min())


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("n", [2_000, 60_000])
@pytest.mark.one_in(100)
def test_the_answer_hardly_depends_on_the_number_of_threads(n, dtype, rtol, n_classes):
    rng = np.random.default_rng(0)
    many = rng.normal(size=(n, 12)).astype(dtype)
    labels = (many[:, :n_classes] + rng.gumbel(size=(n, n_classes))).argmax(axis=1)

    def fit(threads: int) -> TorchLogisticClassifier:
        torch.set_num_threads(threads)
        return TorchLogisticClassifier().fit(many, labels)

    threads = torch.get_num_threads()
    try:
        one, two, again = fit(1), fit(2), fit(2)
    finally:
        torch.set_num_threads(threads)
    assert_array_equal(two.coef_, again.coef_)
    bound = rtol * np.abs(one.coef_).max()
    if n == 60_000 and dtype == np.float64:  # which starts on samples
        bound = metric_rounding(one, many)
        assert bound < 1e-8
    assert_allclose(two.coef_, one.coef_, rtol=0, atol=bound)
