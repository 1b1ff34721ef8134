"""Processes and threads: started in every way, before and after fits, around fits and inside of searches."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GridSearchCV

from helpers.datasets import load, standardised
from helpers.work import coefficients
from torch_logreg import TorchLogisticClassifier
from torch_logreg._fit import predictor
from torch_logreg._runtime import crowding, threads

DATA = load("breast_cancer")
X, y = standardised(DATA.X[:, :6]), DATA.y


CS = [0.01, 0.1, 1.0, 10.0]


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    return [coefficients(X, y, C) for C in CS]


ANEW = pytest.mark.processes


@pytest.mark.parametrize("backend", [pytest.param("loky", marks=ANEW), "threading", "multiprocessing"])
def test_every_backend_of_joblib_gives_the_same_answers(backend, expected):
    with joblib.parallel_config(backend=backend, n_jobs=2):
        found = joblib.Parallel()(joblib.delayed(coefficients)(X, y, C) for C in CS)
    for got, wanted in zip(found, expected, strict=True):
        assert_allclose(got, wanted, rtol=1e-9)


@pytest.mark.parametrize(
    "method", ["fork", pytest.param("spawn", marks=ANEW), pytest.param("forkserver", marks=ANEW)]
)
def test_every_way_to_start_a_process_gives_the_same_answers(method, expected):
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(coefficients, [(X, y, C) for C in CS])
    for got, wanted in zip(found, expected, strict=True):
        assert_allclose(got, wanted, rtol=1e-9)


AFTER_FORK = """
import os, signal, sys
import numpy as np, torch
from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
torch.set_num_threads(2)
rng = np.random.default_rng(0)
X = rng.normal(size=(60_000, 40))
y = (X[:, 0] + rng.normal(size=60_000) > 0).astype(int)
model = TorchLogisticClassifier().fit(X, y)
probabilities = model.predict_proba(X)
child = os.fork()
if not child:
    signal.alarm(60)  # it would wait for ever
    again = TorchLogisticClassifier().fit(X, y)
    np.testing.assert_allclose(again.coef_, model.coef_, rtol=1e-9)
    np.testing.assert_allclose(model.predict_proba(X), probabilities, rtol=1e-9)
    TorchLogisticClassifierCV(Cs=2, cv=2).fit(X, y)
    assert torch.get_num_threads() == 2
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


LOCKED_AT_FORK = """if True:
    import os, threading, warnings
    import numpy as np, torch
    from torch_logreg import TorchLogisticClassifier
    from torch_logreg._data import csr
    from torch_logreg._runtime import random, surroundings
    warnings.simplefilter("ignore")
    locks = random._GLOBAL_GENERATORS, csr._first_use, surroundings._EXACT_PRODUCTS._lock
    held, done = threading.Event(), threading.Event()
    def hold():
        with locks[0], locks[1], locks[2]:
            held.set()
            done.wait()
    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    child = os.fork()
    if not child:
        X, y = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2
        torch.set_float32_matmul_precision("high")
        TorchLogisticClassifier(module=torch.nn.Linear(3, 1), max_iter=2).fit(X, y).predict_proba(X)
        assert torch.get_float32_matmul_precision() == "high"
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done.set()
    raise SystemExit(code)
"""


@pytest.mark.processes
def test_a_child_that_is_forked_after_a_fit_with_threads_can_fit_and_predict():
    subprocess.run([sys.executable, "-c", AFTER_FORK], check=True, timeout=120)


def test_the_threads_of_a_process_that_was_not_forked_stay_as_they_are(monkeypatch):
    calls: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    TorchLogisticClassifier().fit(X, y).predict(X)
    assert calls == []


def seen_by_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("others", [False, True])
def test_small_work_is_done_by_one_thread_and_other_threads_keep_theirs(others, two_threads, monkeypatch):
    """In a notebook other threads live always."""
    monkeypatch.setattr(crowding, "busy_elsewhere", lambda: 0)
    monkeypatch.setattr(crowding, "CREW", crowding.Crew(2, lambda: 0))
    seen = []
    solve, predict = TorchLogisticClassifier._solve, predictor.by_chunks

    def watched(function):
        def call(*arguments):
            seen.append((torch.get_num_threads(), seen_by_a_new_thread()))
            return function(*arguments)

        return call

    monkeypatch.setattr(TorchLogisticClassifier, "_solve", watched(solve))
    monkeypatch.setattr(predictor, "by_chunks", watched(predict))
    rows, labels = np.tile(X, (2**22 // X.size, 1)), np.tile(y, 2**22 // X.size)
    stop = threading.Event()
    if others:
        threading.Thread(target=stop.wait, daemon=True).start()
    try:
        TorchLogisticClassifier().fit(X, y + (X[:, 0] > 0)).predict(X)
        assert seen == [(1, 2)] * 2
        with pytest.raises(ValueError, match="NaN"):
            TorchLogisticClassifier().fit(np.full_like(X, np.nan), y)
        assert torch.get_num_threads() == 2
        TorchLogisticClassifier(max_iter=1, tol=None).fit(rows, labels)
        assert seen[3:] == [(2, 2)]
    finally:
        stop.set()
    assert (torch.get_num_threads(), seen_by_a_new_thread()) == (2, 2)


@pytest.mark.parametrize("others", [False, True])
def test_without_openmp_small_work_is_done_by_one_thread_unless_another_could_take_that_over(
    others, two_threads, monkeypatch
):
    monkeypatch.setattr(threads, "_limits", list)
    monkeypatch.setattr(threading, "active_count", lambda: 1 + others)
    with threads.threads_for(1):
        assert torch.get_num_threads() == (2 if others else 1)
    assert torch.get_num_threads() == 2


def test_torch_lets_the_number_of_threads_of_one_thread_be_set():
    """Fails where a torch with OpenMP has lost the names that this needs."""
    assert torch.__config__.parallel_info().count("OpenMP") > 0
    assert len(threads._limits()) >= 1 + torch.backends.mkl.is_available()


@pytest.mark.processes
def test_a_lock_that_a_thread_of_the_parent_holds_is_free_in_a_forked_child():
    subprocess.run([sys.executable, "-c", LOCKED_AT_FORK], check=True, timeout=120)


@pytest.mark.deep
def test_grid_searches_in_a_pool_of_threads_choose_what_one_alone_chooses():
    def search(_: object = None) -> GridSearchCV:
        return GridSearchCV(TorchLogisticClassifier(), {"C": CS}, cv=3).fit(X, y)

    alone = search()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(search, range(8)):
            assert found.best_params_ == alone.best_params_
            assert_allclose(
                found.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], rtol=1e-12
            )


@pytest.mark.parametrize("module", [None, pytest.param(torch.nn.Linear(6, 1), marks=pytest.mark.deep)])
def test_sixteen_threads_predict_with_one_model(module):
    settings = {} if module is None else {"module": module, "max_iter": 3, "tol": None, "learning_rate": 0.1}
    model = TorchLogisticClassifier(**settings).fit(X, y)
    alone = model.predict_proba(X)
    with ThreadPoolExecutor(16) as pool:
        for found in pool.map(lambda _: model.predict_proba(X), range(64)):
            assert_array_equal(found, alone)


def test_a_thread_that_is_interrupted_harms_no_other():
    def fit(number: int) -> np.ndarray | None:
        try:
            rows = X if number % 3 else np.full_like(X, np.nan)
            return TorchLogisticClassifier().fit(rows, y).coef_
        except ValueError:
            return None

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(fit, range(60)))
    assert [coef is None for coef in found] == [number % 3 == 0 for number in range(60)]
    for coef in found:
        if coef is not None:
            assert_array_equal(coef, found[1])


JOBS = """
import sys, time
import numpy as np
from sklearn.model_selection import GridSearchCV
from torch_logreg import TorchLogisticClassifier
rng = np.random.default_rng(0)
X = rng.normal(size=(1000, 20))
y = (X[:, 0] + rng.normal(size=1000) > 0).astype(int)
def seconds(n_jobs):
    search = GridSearchCV(TorchLogisticClassifier(), {"C": np.logspace(-3, 3, 40)}, cv=5, n_jobs=n_jobs)
    start = time.perf_counter()
    search.fit(X, y)
    return time.perf_counter() - start
seconds(2)  # starts the workers
one, two = min(seconds(1) for _ in range(3)), min(seconds(2) for _ in range(3))
print(one, two)
"""


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_two_jobs_are_not_slower_than_one_on_two_hundred_small_fits():
    run = subprocess.run([sys.executable, "-c", JOBS], capture_output=True, text=True, check=True)
    one, two = map(float, run.stdout.split())
    assert two <= one, run.stdout
