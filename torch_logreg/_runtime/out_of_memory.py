"""Running out of memory, said so that one knows what to do."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Of the memory of a device, that matrices may take beside X and all else. Linux gives more than there is, and
# then kills the process.
PART = 0.8
ALWAYS = 2**28  # bytes that are not asked about
_ON_CPU = "can't allocate memory"  # what torch's RuntimeError says


@contextmanager
def saying_what_to_do(X: Any, device: Any) -> Iterator[None]:
    """Raise what torch raises when memory runs out, for the CPU a MemoryError, with advice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise torch.OutOfMemoryError(
            f"The device ran out of memory with X of shape {_shape(X)} and device={_name(device)}: {error} "
            "Fit in float32 (X.astype('float32')), on fewer columns, or with device='cpu'."
        ) from error
    except RuntimeError as error:
        if _ON_CPU not in str(error):
            raise
        raise MemoryError(
            f"There is too little memory for X of shape {_shape(X)}: {error} "
            "Fit in float32 (X.astype('float32')), or on fewer columns."
        ) from error


def _shape(X: Any) -> tuple[int, ...] | str:
    return tuple(X.shape) if hasattr(X, "shape") else "unknown size"


def _name(device: Any) -> str:
    return repr(str(device)) if device is not None else "None (where X is)"


def device_memory(device: torch.device) -> float:
    """Bytes of the machine, or those of an accelerator that are not taken; infinite where torch cannot tell.

    What of the machine is free changes from one moment to the next, and with it would what can be fitted.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    # Windows has no `sysconf`, and gives no memory that it does not have.
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return math.inf


def check_room(needed: float, device: torch.device, what: str, what_to_do: str) -> None:
    """Raise MemoryError before work on matrices that a device has no room for."""
    if needed > ALWAYS and needed > PART * (there := device_memory(device)):
        raise MemoryError(
            f"{what} need about {needed / 1e9:.3g} GB, and the device {str(device)!r} has {there / 1e9:.3g} "
            f"GB, of which {PART:.0%} may be taken; {what_to_do}."
        )
