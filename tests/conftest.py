"""What must be set before scikit-learn is imported, how long a test may take, and fixtures."""

import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

# Without it scikit-learn skips its array API check.
os.environ["SCIPY_ARRAY_API"] = "1"

import pytest  # noqa: E402
import sklearn  # noqa: E402
import torch  # noqa: E402
from sklearn.utils.fixes import parse_version  # noqa: E402

from helpers import optima  # noqa: E402

OLD = parse_version(sklearn.__version__) < parse_version("1.9")
OLD_TORCH = parse_version(torch.__version__) < parse_version("2.9")
collect_ignore = ["estimators/test_callbacks.py"] if OLD else []

# With scikit-learn 1.8 these are left out, and nothing else is. With the newest all run.
NOT_WITH_OLD = {
    "::test_callbacks_": "scikit-learn has callbacks from 1.9 on",
    "::test_a_callback_that_stops_the_fit_leaves_a_model": "likewise",
    "::test_a_callback_that_fails_keeps_the_earlier_model": "likewise",
    "::test_a_callback_may_stop_a_fit_that_is_still_on_a_sample": "likewise",
    "polars": "scikit-learn 1.8 does not know the polars of today",
    "test_every_kind_of_input_gives_what_logistic_regression_gives": "its float32 fits became float32 in 1.9",
    "test_predictions_have_the_dtype_of_logistic_regression": "so did its predictions",
    "test_sparsify_and_densify_work_as_there": "and its coefficients",
    "[weights all zero]": "its message is of 1.9",
    "two columns of one name": "it refuses them from 1.9 on",
    "test_collinear_columns_without_a_penalty": "it warns of the way to say C=inf that was new in 1.8",
    "test_unpenalised_softmax_gives_the_probabilities": "likewise",
}
# And with torch before 2.9 these.
NOT_WITH_OLD_TORCH = {
    "test_products_are_exact_but_for_the_newer_settings": "torch has `fp32_precision` from 2.9 on",
}


@pytest.hookimpl(tryfirst=True)  # before the tests are chosen by their markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mark_deep_cases(items)
    mark_smoke(items)
    reasons = (NOT_WITH_OLD if OLD else {}) | (NOT_WITH_OLD_TORCH if OLD_TORCH else {})
    left_out = [item for item in items if any(words in item.nodeid for words in reasons)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


# Seconds of the processor that a test may take without a marker of LONG; 0 is no bound. A test may be the
# first of a process to import what torch and scikit-learn load late, two seconds, and threads that wait
# for a core spin meanwhile: a test of two seconds must pass in such company too.
# With several threads there is no bound: those of a small product do little else.
THREADS = int(os.environ.get("TORCH_LOGREG_TEST_THREADS", "1"))
SECONDS = float(os.environ.get("TORCH_LOGREG_TEST_SECONDS", "2" if THREADS == 1 else "0"))
COMPANY = 3.0
LONG = ("slow", "timing", "processes", "deep", "recipes")
LOOP_SECONDS = 0.08  # of `loop_seconds` on the machine of that bound, an AMD EPYC (Milan)


def processor_seconds() -> float:
    """Those of this process and the ended ones it started, which other programs hardly change."""
    return sum(os.times()[:4]) - optima.spent[0]


def loop_seconds() -> float:
    """What the same work takes at present: more on a slower processor, or where others use its caches."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        sum(i * i for i in range(1_000_000))
        taken.append(time.process_time() - start)
    return min(taken)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that takes too long for the default run. Not under a tracer, as of coverage."""
    start = processor_seconds()
    result = yield
    taken = processor_seconds() - start
    if SECONDS and taken > SECONDS and not any(map(item.get_closest_marker, LONG)) and not sys.gettrace():
        allowed = COMPANY * SECONDS * max(1.0, loop_seconds() / LOOP_SECONDS)
        assert taken <= allowed, (
            f"{taken:.1f} s of the processor, and {allowed:.1f} are allowed: mark the test as one of {LONG}"
        )
    return result


def mark_deep_cases(items: list[pytest.Item]) -> None:
    """Mark cases of tests with ``one_in(n)`` as deep, but for one in n and for each value's first.

    So every value of every parameter is in the default run, and products of many parameters are not.
    """
    seen: dict[str, set[tuple[str, int]]] = {}
    for item in items:
        mark = item.get_closest_marker("one_in")
        if mark is None:
            continue
        values = {(name, id(value)) for name, value in item.callspec.params.items()}
        of_test = seen.setdefault(item.nodeid.partition("[")[0], set())
        if values <= of_test and zlib.crc32(item.nodeid.encode()) % mark.args[0]:
            item.add_marker("deep")
        else:
            of_test |= values


def mark_smoke(items: list[pytest.Item]) -> None:
    """Mark the first case of the first two tests of each file, which are what the file is about."""
    first: dict[Path, set[str]] = {}
    for item in items:
        of_file, name = first.setdefault(item.path, set()), item.nodeid.partition("[")[0]
        if len(of_file) < 2 and name not in of_file and not any(map(item.get_closest_marker, LONG)):
            of_file.add(name)
            item.add_marker("smoke")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Of arrays this small the threads only wait for each other: minutes of it on two busy cores.

    TORCH_LOGREG_TEST_THREADS is another number, with which the tests have to pass as well. Whatever it is, it
    stays: else fits would use fewer where other programs take a core, and round differently from run to run.
    """
    from torch_logreg._runtime import crowding

    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crowding, "CREW", None)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces limits of all devices, as in ``limits(block_numbers=80)``; the others are as they were."""
    from torch_logreg._runtime.limits import OF_KIND

    before = dict(OF_KIND)

    def set_to(**fields: int) -> None:
        for kind, numbers in before.items():
            monkeypatch.setitem(OF_KIND, kind, replace(numbers, **fields))

    return set_to


@pytest.fixture(autouse=True)
def one_seed() -> None:
    """Modules start from torch's own generator: not from where the tests before have left it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def lazy_backend() -> None:
    """The device "lazy": a second start of it in one process is an error. Its first fit takes seconds."""
    import torch._lazy.ts_backend

    from torch_logreg import TorchLogisticClassifier

    torch._lazy.ts_backend.init()
    with torch.jit.optimized_execution(False):
        TorchLogisticClassifier(device="lazy", C=0.1, max_iter=4, tol=None).fit(
            [[0.0], [1], [2], [3]], [0, 1, 0, 1]
        )


WITHOUT_CSR = "TORCH_LOGREG_WITHOUT_CSR_PRODUCTS"  # set it to run any tests on such a torch


@pytest.fixture
def without_csr_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch as it is built without MKL: it has no products with CSR tensors, and here no such tensors."""
    imitate_torch_without_csr(monkeypatch)


@pytest.fixture(autouse=WITHOUT_CSR in os.environ, scope="session")
def all_without_csr_products() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        imitate_torch_without_csr(patch)
        yield


def imitate_torch_without_csr(patch: pytest.MonkeyPatch) -> None:
    def refusing(made, is_csr):
        def call(*args, **kwargs):
            if is_csr is None or any(is_csr(a) for a in args):
                raise RuntimeError(
                    "Calling a product of CSR tensors on a CPU requires torch to be built with MKL"
                )
            return made(*args, **kwargs)

        return call

    def is_csr(a) -> bool:
        return isinstance(a, torch.Tensor) and a.layout in (torch.sparse_csr, torch.sparse_csc)

    patch.setattr(torch.backends.mkl, "is_available", lambda: False)
    for name in ("sparse_csr_tensor", "sparse_csc_tensor", "sparse_compressed_tensor"):
        patch.setattr(torch, name, refusing(getattr(torch, name), None))
    for name in ("mv", "mm", "matmul", "addmv", "addmm"):
        patch.setattr(torch, name, refusing(getattr(torch, name), is_csr))
    for name in ("mv", "mm", "matmul", "__matmul__", "addmv", "addmm", "to_sparse_csr"):
        only = None if name == "to_sparse_csr" else is_csr
        patch.setattr(torch.Tensor, name, refusing(getattr(torch.Tensor, name), only))
