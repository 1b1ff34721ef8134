"""Forked processes, in which threads of torch wait for ever for those of the parent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_IMPORTED_IN = os.getpid()


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
