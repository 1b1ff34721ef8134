"""Threads of torch: forked processes, in which they wait for ever, and work too small for more than one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

_IMPORTED_IN = os.getpid()
_NOTHING = nullcontext()
SMALL_WORK = 2**22  # multiplications in one product: less than a millisecond of one core


def safe_after_fork() -> AbstractContextManager[None]:
    """In a forked child compute with one thread; in any other process change nothing.

    The pool of threads of OpenMP does not survive a fork: once the parent has used it, the first parallel
    operation of the child never returns (pytorch issues 2245 and 41197).
    """
    return _NOTHING if os.getpid() == _IMPORTED_IN else _one_thread(torch.get_num_threads())


def one_thread_for(work: float) -> AbstractContextManager[None]:
    """Compute with one thread where a product is of few multiplications, `work`.

    MKL gives each product of matrices to all threads, however small, and on a busy machine every one then
    waits for its turn on the other cores: milliseconds, for microseconds of arithmetic. A thread that is new
    to torch takes over whatever number was set last, for good: where there are other threads nothing is
    changed.
    """
    n_threads = torch.get_num_threads()
    if work > SMALL_WORK or n_threads == 1 or threading.active_count() > 1:
        return _NOTHING
    return _one_thread(n_threads)


@contextmanager
def _one_thread(afterwards: int) -> Iterator[None]:
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(afterwards)
