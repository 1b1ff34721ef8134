"""Running out of memory, said so that one knows what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

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
