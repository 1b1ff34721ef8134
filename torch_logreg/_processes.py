"""Threads of torch: forked processes, in which they wait for ever, and work too small for more than one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_IMPORTED_IN = os.getpid()
SMALL_WORK = 2**22  # multiplications in one product: less than a millisecond of one core


@contextmanager
def safe_after_fork() -> Iterator[None]:
    """In a forked child compute with one thread; in any other process change nothing.

    The pool of threads of OpenMP does not survive a fork: once the parent has used it, the first parallel
    operation of the child never returns (pytorch issues 2245 and 41197).
    """
    if os.getpid() == _IMPORTED_IN:
        yield
        return
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@contextmanager
def one_thread_for(work: float) -> Iterator[None]:
    """Compute with one thread where a product is of few multiplications, `work`.

    MKL gives each product to all threads, however small, and on a busy machine every one then waits for its
    turn on the other cores: milliseconds, for microseconds of arithmetic. A thread that is new to torch takes
    over whatever number was set last, for good: where there are other threads nothing is changed.
    """
    n_threads = torch.get_num_threads()
    if work > SMALL_WORK or n_threads == 1 or threading.active_count() > 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
