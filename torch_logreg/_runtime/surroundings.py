"""Settings of torch that a caller has made, and that a fit or prediction is to be left alone by."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch

from torch_logreg._runtime.compat import ProductPrecision, default_device, products_are_exact
from torch_logreg._runtime.threads import ForkSafeLock

_NOTHING = nullcontext()


def undisturbed(device: torch.device) -> AbstractContextManager[None]:
    """Compute on `device` without autocast and with exact float32 products.

    Rounded to bfloat16 or TF32, gradients have so few digits that a fit ends far from its optimum.
    """
    autocast = _autocast_on(device)
    if not autocast and products_are_exact():  # a prediction of one row has no time for more
        return _NOTHING
    return _undisturbed(autocast)


def with_plain_defaults(device: torch.device) -> AbstractContextManager[None]:
    """Let what a module makes of nothing be float32 and on `device`, whatever defaults the caller has set.

    A default of the CPU is torch's own: modules that need another say so themselves.
    """
    given = default_device()
    follows = given.type == "cpu" or given == device or given == torch.device(device.type, 0)
    if follows and torch.get_default_dtype() == torch.float32:
        return _NOTHING
    return _with_plain_defaults(device)


def _autocast_on(device: torch.device) -> list[str]:
    """The kinds of devices, of the CPU's and that of `device`, for which autocast is on."""
    on = ["cpu"] if torch.is_autocast_enabled("cpu") else []
    if device.type == "cpu" or not torch.amp.is_autocast_available(device.type):
        return on
    return [*on, device.type] if torch.is_autocast_enabled(device.type) else on


@contextmanager
def _undisturbed(autocast: list[str]) -> Iterator[None]:
    with ExitStack() as stack:
        for kind in autocast:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(_EXACT_PRODUCTS)
        yield


@contextmanager
def _with_plain_defaults(device: torch.device) -> Iterator[None]:
    with torch.device(device), _FLOAT32_BY_DEFAULT:
        yield


class _OfTheProcess:
    """A setting of the whole process: the first thread to enter makes it, the last to leave undoes it.

    `make` returns what undoes it. A forked child counts anew: the threads of its parent never leave there.
    """

    def __init__(self, make: Callable[[], Callable[[], None]]) -> None:
        self._make, self._lock = make, ForkSafeLock()
        self._process, self._inside = os.getpid(), 0
        self._undo: Callable[[], None] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._process != os.getpid():
                self._process, self._inside = os.getpid(), 0
            if not self._inside:
                self._undo = self._make()
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._undo is not None:
                self._undo()


def _exact_products() -> Callable[[], None]:
    before = ProductPrecision()
    before.make_exact()
    return before.restore


def _float32_by_default() -> Callable[[], None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    return lambda: torch.set_default_dtype(before)


_EXACT_PRODUCTS = _OfTheProcess(_exact_products)
_FLOAT32_BY_DEFAULT = _OfTheProcess(_float32_by_default)
