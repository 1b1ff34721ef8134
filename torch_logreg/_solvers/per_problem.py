"""Numbers of each problem: arrays (P,), or for one problem plain numbers, which cost less (small.py)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from torch_logreg._runtime.devices import looks_are_free

Numbers: TypeAlias = Any  # np.ndarray (P,), or float or bool where P is 1


def to_host(tensors: list[Tensor]) -> list[Numbers]:
    """Several (P,) tensors in one transfer, in the dtype that holds them all."""
    if len(tensors[0]) > 1:
        return list(torch.cat(tensors).cpu().numpy().reshape(len(tensors), -1))
    if looks_are_free(tensors[0].device):  # nor is there anything to be put together
        return [tensor.item() for tensor in tensors]
    return torch.cat(tensors).tolist()


def array(numbers: Numbers) -> np.ndarray:
    return numbers if isinstance(numbers, np.ndarray) else np.array([numbers])


def column(numbers: Numbers, like: Tensor) -> Any:
    """What multiplies a (P, n) tensor."""
    if not isinstance(numbers, np.ndarray):
        return numbers
    return torch.as_tensor(numbers, dtype=like.dtype, device=like.device)[:, None]


def every(conditions: Numbers) -> bool:
    # For a few problems several times as fast as `.all()`.
    return all(conditions) if isinstance(conditions, np.ndarray) else bool(conditions)


def some(conditions: Numbers) -> bool:
    return any(conditions) if isinstance(conditions, np.ndarray) else bool(conditions)


def no(conditions: Numbers) -> Numbers:
    return ~conditions if isinstance(conditions, np.ndarray) else not conditions


def where(conditions: Numbers, yes: Numbers, otherwise: Numbers) -> Numbers:
    if isinstance(conditions, np.ndarray):
        return np.where(conditions, yes, otherwise)
    return yes if conditions else otherwise


def each(value: Numbers, n_problems: int) -> Numbers:
    """The same number for each problem."""
    return value if n_problems == 1 else np.full(n_problems, value)


def pick(numbers: Numbers, problems: np.ndarray) -> Numbers:
    """Those of some problems."""
    return numbers[problems] if len(problems) > 1 else array(numbers)[problems].item()


def index(problems: np.ndarray, device: torch.device) -> Tensor:
    return torch.as_tensor(problems, dtype=torch.int64, device=device)
