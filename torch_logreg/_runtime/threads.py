"""Threads of torch: forked processes, in which they wait for ever, and work too small for more than one."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from threadpoolctl import ThreadpoolController

from torch_logreg._runtime.crowding import as_many_as_are_free

_IMPORTED_IN = os.getpid()
_NOTHING = nullcontext()
SMALL_WORK = 2**22  # multiplications in one product: less than a millisecond of one core


def safe_after_fork() -> AbstractContextManager[None]:
    """Compute with one thread in a forked child; in any other process change nothing.

    The pool of threads of OpenMP does not survive a fork: once the parent has used it, the first parallel
    operation of the child never returns (pytorch issues 2245 and 41197).
    """
    return _NOTHING if os.getpid() == _IMPORTED_IN else _one_thread(torch.get_num_threads())


def threads_for(work: float) -> AbstractContextManager[None]:
    """Compute with one thread where products are of few multiplications, `work`, else with all that are free.

    MKL gives each product of matrices to all threads, however small, and on a busy machine every one then
    waits for its turn on the other cores: milliseconds, for microseconds of arithmetic.
    """
    if work > SMALL_WORK:
        return as_many_as_are_free(_limits())
    n_threads = torch.get_num_threads()  # which also makes a thread new to torch take over the number
    if n_threads == 1:
        return _NOTHING
    if _limits():
        return _one_thread_here()
    # A thread that is new to torch takes over whatever number was set last, for good.
    return _one_thread(n_threads) if threading.active_count() == 1 else _NOTHING


@contextmanager
def _one_thread(afterwards: int) -> Iterator[None]:
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(afterwards)


@contextmanager
def _one_thread_here() -> Iterator[None]:
    """One thread for what the calling thread computes, and nothing else: a notebook always has others."""
    limits = _limits()
    before = [limit(1) for limit in limits]
    try:
        yield
    finally:
        for limit, number in zip(limits, before, strict=True):
            limit(number)


@functools.cache
def _limits() -> list[Callable[[int], int]]:
    """Set, for the calling thread alone, how many threads a library uses, and return how many it was.

    Those of OpenMP, and MKL's own, which `torch.set_num_threads` sets besides. Empty where torch has no
    OpenMP: `torch.set_num_threads` is then the only way.
    """

    def of(library: object) -> Callable[[int], int]:
        def limit(number: int) -> int:
            before = library.get_num_threads()  # type: ignore[attr-defined]
            library.set_num_threads(number)  # type: ignore[attr-defined]
            return before

        return limit

    libraries = ThreadpoolController().select(user_api="openmp").lib_controllers
    limits = [of(library) for library in libraries]
    if limits and torch.backends.mkl.is_available():
        mkl = _thread_number_of_mkl()
        return [] if mkl is None else [*limits, mkl]
    return limits


def _thread_number_of_mkl() -> Callable[[int], int] | None:
    """The function of the MKL inside torch that sets its number of threads for the calling thread.

    None where torch does not export it, or not under this name (Intel, oneMKL Developer Reference,
    mkl_set_num_threads_local).
    """
    for file in sorted((Path(torch.__file__).parent / "lib").glob("*torch_cpu.*")):
        try:
            return ctypes.CDLL(str(file)).MKL_Set_Num_Threads_Local
        except (OSError, AttributeError):
            continue
    return None


class ForkSafeLock:
    """A re-entrant lock that a forked child finds free, whoever of its parent's threads held it."""

    def __init__(self) -> None:
        self._of_process: dict[int, threading.RLock] = {}

    def __enter__(self) -> None:
        self._own().acquire()

    def __exit__(self, *exception: object) -> None:
        self._own().release()

    def _own(self) -> threading.RLock:
        process = os.getpid()
        known = self._of_process.get(process)
        # `setdefault` is one step for the interpreter: all threads get the same lock.
        return self._of_process.setdefault(process, threading.RLock()) if known is None else known
