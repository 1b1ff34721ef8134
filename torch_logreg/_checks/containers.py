"""Arrays of the user, as numpy holds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from torch_logreg._data.products import HALF


@contextmanager
def refusing_huge_integers(name: str) -> Iterator[None]:
    """Say which of the arguments holds an integer that is too large for a float."""
    try:
        yield
    except OverflowError as error:
        raise ValueError(
            f"{name} holds an integer beyond the range of float64, whose largest number is 1.8e308; pass "
            f"smaller numbers ({error})."
        ) from error


def check_readable(array: Tensor, of: str) -> None:
    if array.layout != torch.strided:
        raise TypeError(
            f"{of} is a torch tensor of layout {array.layout}, which is not supported; "
            "pass a scipy.sparse CSR array or a dense tensor."
        )
    if array.is_meta:
        raise ValueError(f"{of} is a tensor on the device 'meta', which holds no values; pass one that does.")


def on_host(array: Any, of: str = "y") -> Any:
    """Tensors as numpy arrays, without a copy where they are on the CPU; all else as it is."""
    if not isinstance(array, Tensor):
        if isinstance(array, Dataset | DataLoader | Iterator):
            raise TypeError(
                f"{of} is a {type(array).__name__}, which gives rows one after another; pass all of them, as "
                "an array or a tensor: of a Dataset, torch.stack([row for row, *_ in dataset]); of a "
                "DataLoader or another iterator of batches, torch.cat([rows for rows, *_ in batches])."
            )
        if np.ma.is_masked(array):  # numpy and scikit-learn take what is under the mask
            raise ValueError(f"{of} has masked values: impute them, or drop their rows.")
        return array
    check_readable(array, of)
    array = array.detach()
    if array.dtype in HALF:
        array = array.float()
    return array.cpu().resolve_conj().resolve_neg().numpy()
