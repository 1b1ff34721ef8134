"""What a program has switched on for all of torch changes no answer, and is as it was afterwards.

One table: surroundings by ways to fit and predict. Each way is large or odd enough to go through code of its
own, and its answer in plain surroundings is computed once.
"""

from __future__ import annotations

import functools
import threading
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_array_equal
from torch import nn

from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._runtime import surroundings

# ---- ways to fit and predict ----


@functools.cache
def rows(n: int, d: int, n_classes: int = 2, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)).astype(dtype)
    y = (X[:, :n_classes] + rng.gumbel(size=(n, n_classes))).argmax(axis=1)
    return X, y


def answer(model: TorchLogisticClassifier, X: Any, y: Any, **fit: Any) -> list[np.ndarray]:
    """All numbers that a fit and its predictions give, for a few of the rows."""
    model.fit(X, y, **fit)
    some = X[:50]
    found = [model.predict(some), model.predict_proba(some), model.predict_log_proba(some)]
    found += [model.decision_function(some), model.loss_curve_, np.array(model.score(some, y[:50]))]
    for name in ("coef_", "intercept_", "scores_"):
        if name in vars(model):
            found.append(getattr(model, name))
    return found


def net(n_features: int, n_outputs: int) -> nn.Module:
    """Makes tensors of nothing in `forward`, as modules do."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.drop = nn.BatchNorm1d(n_features), nn.Dropout(0.2)
            self.hidden, self.out = nn.Linear(n_features, 8), nn.Linear(8, n_outputs)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shift = torch.ones(8) + torch.rand(1)
            return self.out(torch.relu(self.drop(self.hidden(self.norm(x)) + shift)))

    return Net()


def sgd(**params: Any) -> TorchLogisticClassifier:
    return TorchLogisticClassifier(
        **{"solver": "sgd", "batch_size": 64, "max_iter": 2, "tol": None, "random_state": 0, **params}
    )


def half(X: np.ndarray, y: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(X).to(torch.bfloat16)


def sparse(n: int, d: int, n_classes: int = 2) -> tuple[scipy.sparse.csr_array, np.ndarray]:
    X = scipy.sparse.random_array(
        (n, d), density=0.02, format="csr", rng=np.random.default_rng(0), dtype=np.float32
    )
    return X, rows(n, 12, n_classes)[1]


Classifier, CV = TorchLogisticClassifier, TorchLogisticClassifierCV
WAYS = {
    "small": lambda: answer(Classifier(), *rows(300, 6)),
    "small, float64": lambda: answer(Classifier(), *rows(300, 6, dtype="float64")),
    "large": lambda: answer(Classifier(), *rows(60_000, 20)),
    "softmax": lambda: answer(Classifier(), *rows(400, 6, 3)),
    "large softmax": lambda: answer(Classifier(), *rows(30_000, 12, 4)),
    "newton-cholesky": lambda: answer(Classifier(solver="newton-cholesky"), *rows(2_000, 8, 3)),
    "newton-cg": lambda: answer(Classifier(solver="newton-cg"), *rows(2_000, 8)),
    "lbfgs": lambda: answer(Classifier(solver="lbfgs"), *rows(2_000, 8, 3)),
    "CSR": lambda: answer(Classifier(max_iter=5, tol=None), *sparse(6_000, 3_000)),
    "large CSR": lambda: answer(Classifier(max_iter=4, tol=None), *sparse(45_000, 2_000)),
    "wide": lambda: answer(Classifier(), *rows(200, 900)),
    "wide CSR": lambda: answer(Classifier(max_iter=5, tol=None), *sparse(1_200, 9_000)),
    "no penalty": lambda: answer(Classifier(C=np.inf), *rows(500, 5)),
    "16 bits": lambda: answer(
        Classifier(), torch.from_numpy(rows(3_000, 6)[0]).bfloat16(), rows(3_000, 6)[1]
    ),
    "minibatches": lambda: answer(sgd(learning_rate=0.1, momentum=0.5), *rows(500, 5, 3)),
    "line search": lambda: answer(sgd(), *rows(500, 5)),
    "all rows": lambda: answer(sgd(batch_size=None), *rows(500, 5)),
    "schedule": lambda: answer(
        sgd(learning_rate=0.1, lr_schedule=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5)),
        *rows(500, 5),
    ),
    "module": lambda: answer(sgd(module=net, learning_rate=0.1), *rows(500, 5, 3)),
    "module, float64": lambda: answer(sgd(module=net, learning_rate=0.1), *rows(500, 5, dtype="float64")),
    "module, line search": lambda: answer(sgd(module=net), *rows(500, 5)),
    "module, all rows": lambda: answer(sgd(module=net, batch_size=None), *rows(500, 5)),
    "module, CSR": lambda: answer(sgd(module=net, learning_rate=0.1), *sparse(500, 100)),
    "criterion": lambda: answer(sgd(criterion=nn.NLLLoss, module=logs, learning_rate=0.1), *rows(500, 5)),
    "early stopping": lambda: answer(sgd(module=net, early_stopping=True, learning_rate=0.1), *rows(500, 5)),
    "early stopping, linear": lambda: answer(Classifier(early_stopping=True, random_state=0), *rows(500, 5)),
    "CV": lambda: answer(CV(Cs=[0.1, 1.0], cv=3), *rows(300, 5)),
    "CV, weights": lambda: answer(
        CV(Cs=[0.1, 1.0], cv=3, scoring="neg_log_loss"), *rows(300, 5), sample_weight=np.arange(300.0)
    ),
    "CV, softmax": lambda: answer(CV(Cs=[0.1, 1.0], cv=2, scoring="roc_auc_ovr"), *rows(2_000, 12, 3)),
    "large CV": lambda: answer(CV(Cs=[0.1, 1.0], cv=2), *rows(30_000, 20)),
    "CV, CSR": lambda: answer(CV(Cs=[0.1, 1.0], cv=2, max_iter=4, tol=None), *sparse(6_000, 300)),
}


def logs(n_features: int, n_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(n_features, n_outputs), nn.LogSoftmax(dim=1))


@functools.cache
def plain(way: str) -> list[np.ndarray]:
    return WAYS[way]()


# ---- surroundings ----


class Settings(NamedTuple):
    """Whatever of torch is one for the whole process or thread."""

    dtype: torch.dtype
    device: torch.device
    autocast: bool
    autocast_dtype: torch.dtype
    precision: str
    precisions: tuple[str, ...]
    deterministic: bool
    fill: bool
    grad: bool
    inference: bool
    anomaly: tuple[bool, bool]
    threads: int
    generator: bytes


def settings() -> Settings:
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError as error:  # the newer settings say what the older cannot
        precision = type(error).__name__
    return Settings(
        torch.get_default_dtype(),
        torch.empty(0).device,
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        precision,
        newer_precisions(),
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        torch.get_num_threads(),
        bytes(torch.get_rng_state().tolist()),
    )


HAS_NEWER = hasattr(torch.backends.mkldnn, "matmul")  # torch 2.9


def newer_precisions() -> tuple[str, ...]:
    if not HAS_NEWER:
        return ()
    mkldnn, cuda = torch.backends.mkldnn, torch.backends.cuda
    operations = (mkldnn.matmul, mkldnn.conv, mkldnn.rnn, cuda.matmul)
    return tuple(operation.fp32_precision for operation in operations)


@contextmanager
def changed(read, write, value):
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


@contextmanager
def default_device(name: str):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def newer_precision(*operations: str, value: str = "bf16"):
    """By settings of operations or of all of the CPU's, from torch 2.9 on; before, by the older one."""
    if not HAS_NEWER:
        with changed(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"):
            yield
        return
    try:
        for operation in operations:
            owner = functools.reduce(getattr, operation.split("."), torch.backends)
            owner.fp32_precision = value
        yield
    finally:
        for operation in (*operations, "mkldnn.matmul", "cuda.matmul"):
            functools.reduce(getattr, operation.split("."), torch.backends).fp32_precision = "none"


def deterministic(warn_only: bool):
    def write(on: bool) -> None:
        torch.use_deterministic_algorithms(on, warn_only=warn_only and on)

    return changed(torch.are_deterministic_algorithms_enabled, write, True)


def precision(value: str):
    return changed(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, value)


SURROUNDINGS = {
    "autocast": lambda: torch.autocast("cpu"),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "precision medium": lambda: precision("medium"),
    "precision high": lambda: precision("high"),
    "newer precision": lambda: newer_precision("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn"),
    "newer precision of all": lambda: newer_precision("mkldnn", value="tf32"),
    "default device meta": lambda: default_device("meta"),
    "in a device": lambda: torch.device("meta"),
    "default dtype float64": lambda: changed(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "default dtype float16": lambda: changed(torch.get_default_dtype, torch.set_default_dtype, torch.float16),
    "deterministic": lambda: deterministic(False),
    "deterministic, warn only": lambda: deterministic(True),
    "anomaly": lambda: torch.autograd.detect_anomaly(check_nan=True),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "numpy raises": lambda: np.errstate(all="raise"),
    "sparse invariants": torch.sparse.check_sparse_tensor_invariants,
    "one autograd thread": lambda: torch.autograd.set_multithreading_enabled(False),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.filterwarnings("ignore:This overload of `set_fp32_precision`")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("surrounding", SURROUNDINGS)
@pytest.mark.one_in(20)
def test_the_answer_and_the_settings_are_the_same(surrounding, way):
    expected = plain(way)
    with SURROUNDINGS[surrounding]():
        before = settings()
        got = WAYS[way]()
        assert settings() == before
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert_array_equal(a, b)


@pytest.mark.deep
def test_every_fit_of_large_rows_is_with_exact_products(monkeypatch):
    """On a processor without bfloat16 the answer would not tell."""
    seen = []
    make = surroundings.ProductPrecision.make_exact
    monkeypatch.setattr(
        surroundings.ProductPrecision, "make_exact", staticmethod(lambda: (make(), seen.append(1)))
    )
    with precision("medium"):
        for way in WAYS:
            before = len(seen)
            WAYS[way]()
            assert len(seen) > before, way


def test_threads_that_fit_at_once_restore_the_settings_of_the_caller():
    X, y = rows(2_000, 8)
    with precision("high"):
        threads = [
            threading.Thread(target=lambda: TorchLogisticClassifier().fit(X, y).predict(X)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.get_float32_matmul_precision() == "high"


def test_a_fit_that_fails_restores_the_settings():
    X = np.full((30, 2), np.nan, dtype=np.float32)
    with precision("medium"), torch.autocast("cpu"):
        before = settings()
        with pytest.raises(ValueError, match="NaN"):
            TorchLogisticClassifier().fit(X, np.arange(30) % 2)
        assert settings() == before
