"""A fit leaves the process as it found it, and does not mind what state that is in."""

from __future__ import annotations

import locale
import random
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal

from helpers.datasets import load, standardised
from torch_logreg import TorchLogisticClassifier
from torch_logreg._solvers.registry import SOLVERS


def problem(name: str) -> tuple[np.ndarray, np.ndarray]:
    data = load(name)
    return standardised(data.X[::3, :6]), data.y[::3]


def global_state() -> dict:
    return {
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": str(np.random.get_state()),  # noqa: NPY002, it is the global one that matters
        "python generator": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "device": torch.empty(0).device,
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "anomaly": torch.is_anomaly_enabled(),
        "filters": list(warnings.filters),
        "show": warnings.showwarning,
        "errstate": np.geterr(),
        "locale": locale.setlocale(locale.LC_ALL),
    }


def use(estimator: TorchLogisticClassifier, X, y) -> TorchLogisticClassifier:
    estimator.fit(X, y)
    estimator.predict(X), estimator.predict_proba(X), estimator.predict_log_proba(X)
    estimator.decision_function(X), estimator.module_, estimator.history_
    return estimator


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
def test_nothing_global_changes(solver, name):
    X, y = problem(name)
    # torch imports sympy at the first use of "meta", and that adds a filter of warnings.
    assert TorchLogisticClassifier().fit(X, y).module_.in_features == 6
    for rows in (X, X.astype(np.float32), scipy.sparse.csr_array(X), torch.tensor(X)):
        before = global_state()
        use(TorchLogisticClassifier(solver=solver, random_state=0), rows, y)
        assert global_state() == before


@pytest.mark.processes
def test_nothing_global_changes_in_a_new_process():
    """The first fit of a process is the one that prepares things."""
    code = """if True:
        import random, warnings
        import numpy as np, scipy.sparse, torch
        warnings.simplefilter("error")
        from torch_logreg import TorchLogisticClassifier
        def state():
            generators = torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()
            modes = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
            return generators, modes, list(warnings.filters)
        X, y = np.random.default_rng(0).normal(size=(30, 3)), np.arange(30) % 2
        X.flags.writeable = False
        before = state()
        for rows in (X, scipy.sparse.csr_array(X), torch.zeros(30, 3)):
            TorchLogisticClassifier().fit(rows, y).predict_proba(rows)
        print(state() == before)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("True", "")


@contextmanager
def default_device(name: str):
    before = torch.empty(0).device
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None if before == torch.device("cpu") else before)


@contextmanager
def default_dtype(dtype: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


CONTEXTS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
    "device meta": lambda: default_device("meta"),
    "with meta": lambda: torch.device("meta"),
    "dtype float16": lambda: default_dtype(torch.float16),
    "dtype float64": lambda: default_dtype(torch.float64),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True, check_nan=True),
    "errors of numpy": lambda: np.errstate(all="raise"),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.one_in(6)
def test_the_answer_does_not_depend_on_the_context_of_the_caller(context, solver):
    for name in ("breast_cancer", "wine"):
        X, y = problem(name)
        for rows in (X, scipy.sparse.csr_array(X), torch.tensor(X), X.astype(np.float32)):
            expected = TorchLogisticClassifier(solver=solver).fit(rows, y)
            with CONTEXTS[context]():
                got = use(TorchLogisticClassifier(solver=solver), rows, y)
                probability = got.predict_proba(rows)
                module = got.module_
            assert got.coef_.dtype == expected.coef_.dtype
            assert_array_equal(got.coef_, expected.coef_)
            assert_array_equal(probability, expected.predict_proba(rows))
            assert module.weight.device.type == "cpu"


@pytest.mark.parametrize("solver", SOLVERS)
def test_tensors_made_in_inference_mode_are_fitted(solver):
    X, y = problem("breast_cancer")
    with torch.inference_mode():
        rows, labels = torch.tensor(X) * 1, torch.tensor(y)
        weights = torch.ones(len(y))
    got = TorchLogisticClassifier(solver=solver).fit(rows, labels, weights)
    assert_allclose(got.coef_, TorchLogisticClassifier(solver=solver).fit(X, y).coef_, rtol=1e-9)
    assert_array_equal(got.predict(rows), got.predict(X))


def test_the_module_gives_the_raw_predictions_and_can_be_trained_on():
    for name in ("breast_cancer", "wine"):
        X, y = problem(name)
        estimator = TorchLogisticClassifier().fit(X, y)
        raw = estimator.module_(torch.tensor(X))
        expected = estimator.decision_function(X).reshape(len(X), -1)
        assert_allclose(raw.detach().numpy(), expected, rtol=1e-9, atol=1e-9)
        raw.sum().backward()
        assert estimator.module_.weight.requires_grad
        with torch.no_grad():
            estimator.module_.weight.zero_()  # a module of its own
        assert_allclose(estimator.decision_function(X).reshape(len(X), -1), expected)


@pytest.mark.deep
def test_threads_agree_with_one_another_and_with_none():
    tasks = [
        (name, solver, dtype, kind)
        for name in ("breast_cancer", "wine")
        for solver in SOLVERS
        for dtype in (np.float64, np.float32)
        for kind in (np.asarray, scipy.sparse.csr_array)
    ]
    barrier = threading.Barrier(8)

    def run(task) -> tuple[np.ndarray, np.ndarray]:
        name, solver, dtype, kind = task
        X, y = problem(name)
        rows = kind(X.astype(dtype))
        estimator = TorchLogisticClassifier(solver=solver).fit(rows, y)
        return estimator.coef_, estimator.predict_proba(rows)

    def at_once(task) -> tuple[np.ndarray, np.ndarray]:
        barrier.wait(timeout=60)
        return run(task)

    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(at_once, tasks))
    assert warnings.filters == filters
    for (coef, probability), task in zip(parallel, tasks, strict=True):
        expected_coef, expected_probability = run(task)
        rtol = 1e-4 if task[2] is np.float32 else 1e-7
        assert_allclose(coef, expected_coef, rtol=rtol, atol=rtol)
        assert_allclose(probability, expected_probability, rtol=rtol, atol=rtol)


def test_threads_share_one_fitted_model():
    X, y = problem("wine")
    estimator = TorchLogisticClassifier().fit(X, y)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: estimator.predict_proba(X), range(40)))
    for result in results:
        assert_array_equal(result, results[0])


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_same_data_give_the_same_bits_twice(solver):
    X, y = problem("wine")
    first, second = (TorchLogisticClassifier(solver=solver).fit(X, y) for _ in range(2))
    assert_array_equal(first.coef_, second.coef_)
    assert_array_equal(first.history_.objective, second.history_.objective)
