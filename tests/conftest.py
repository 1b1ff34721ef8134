"""What must be set before scikit-learn is imported, and fixtures of several files."""

import os
from collections.abc import Iterator

# Without it scikit-learn skips its array API check.
os.environ["SCIPY_ARRAY_API"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Of arrays this small the threads only wait for each other: minutes of it on two busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def lazy_backend() -> None:
    """The device "lazy": a second start of it in one process is an error."""
    import torch._lazy.ts_backend

    torch._lazy.ts_backend.init()
