"""What must be set before scikit-learn is imported, and fixtures of several files."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

# Without it scikit-learn skips its array API check.
os.environ["SCIPY_ARRAY_API"] = "1"

import pytest  # noqa: E402
import sklearn  # noqa: E402
import torch  # noqa: E402
from sklearn.utils.fixes import parse_version  # noqa: E402

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = (NOT_WITH_OLD if OLD else {}) | (NOT_WITH_OLD_TORCH if OLD_TORCH else {})
    left_out = [item for item in items if any(words in item.nodeid for words in reasons)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Of arrays this small the threads only wait for each other: minutes of it on two busy cores.

    TORCH_LOGREG_TEST_THREADS is another number, with which the tests have to pass as well.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("TORCH_LOGREG_TEST_THREADS", "1")))
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces limits of all devices, as in ``limits(block_numbers=80)``; the others are as they were."""
    from torch_logreg._runtime import limits as of_devices

    before = {name: getattr(of_devices, name) for name in ("CPU", "ACCELERATOR")}

    def set_to(**fields: int) -> None:
        for name, numbers in before.items():
            monkeypatch.setattr(of_devices, name, replace(numbers, **fields))

    return set_to


@pytest.fixture(scope="session")
def lazy_backend() -> None:
    """The device "lazy": a second start of it in one process is an error."""
    import torch._lazy.ts_backend

    torch._lazy.ts_backend.init()


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
