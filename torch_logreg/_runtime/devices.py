"""Devices: which one is meant, and what it can do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_logreg._runtime.compat import accelerator


def resolve_device(device: str | torch.device | None, X: Any) -> torch.device:
    """The device to compute on: X's own by default."""
    if device is None:
        return X.device if isinstance(X, Tensor) else torch.device("cpu")
    if device == "auto":
        return accelerator() or torch.device("cpu")
    try:
        resolved = torch.device(device)
        # Both the name and the machine are asked: a build without CUDA parses "cuda" happily.
        torch.empty(1, dtype=torch.float32, device=resolved).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={str(device)!r} is not available: {str(error).splitlines()[0].rstrip('.')}. "
            f"This machine has {', '.join(available_devices())}; device=None computes where X is."
        ) from error
    return resolved


def available_devices() -> list[str]:
    """Names of the devices of this machine that torch knows how to list."""
    names = ["'cpu'"]
    if (found := accelerator()) is not None:
        names += [f"'{found.type}:{index}'" for index in range(torch.accelerator.device_count())]
    return names


def supports_float64(device: torch.device) -> bool:
    if device.type in ("cpu", "cuda"):
        return True
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def looks_are_free(device: torch.device) -> bool:
    """Whether the host can read a tensor without waiting for more than that."""
    return device.type == "cpu"


WITHOUT_ADDRESSES = ("lazy", "xla")


def shares_memory(one: Tensor, other: Tensor) -> bool | None:
    """Whether two tensors begin at the same address; None on devices that tell of none."""
    return None if one.device.type in WITHOUT_ADDRESSES else one.data_ptr() == other.data_ptr()
