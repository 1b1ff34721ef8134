"""Arrays of the user, as numpy holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from torch_logreg._data.inputs import Inputs
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


def refuse_pairs(X: Any, of: str) -> None:
    """Refuse rows with their labels, as a search cuts a Dataset to."""
    row = X[0] if isinstance(X, list) and X else None
    if isinstance(row, tuple) and len(row) > 1 and isinstance(row[0], Tensor | np.ndarray | Mapping):
        raise TypeError(
            f"{of} is a list of tuples such as ({type(row[0]).__name__}, {type(row[1]).__name__}), which is "
            "what searches and cross-validation make of a Dataset; they need arrays: pass X and y of all "
            "rows, and Inputs(...) for several inputs."
        )


def refuse_filled(X: Any, of: str) -> None:
    """Refuse sparse columns of pandas that leave out another number than 0.

    Some versions of pandas make zeros of it without a word, others raise.
    """
    if not isinstance(X, pd.DataFrame) or not X.shape[1]:
        return
    first = X.dtypes.iloc[0]  # where one column is dense, all become so
    if not isinstance(first, pd.SparseDtype) or not all(isinstance(t, pd.SparseDtype) for t in X.dtypes):
        return
    for name, dtype in X.dtypes.items():
        if not dtype.fill_value == 0:
            raise ValueError(
                f"{of} is sparse, and its column {name!r} leaves out the number {dtype.fill_value}: the fill "
                "value must be 0. Pass X.sparse.to_dense(), or columns of SparseDtype(float, 0)."
            )


def on_host(array: Any, of: str = "y") -> Any:
    """Tensors as numpy arrays, without a copy where they are on the CPU; all else as it is."""
    if not isinstance(array, Tensor):
        if isinstance(array, Dataset | DataLoader | Iterator):
            raise TypeError(
                f"{of} is a {type(array).__name__}, which gives rows one after another; pass all of them, as "
                "an array or a tensor: of a Dataset, torch.stack([row for row, *_ in dataset]); of a "
                "DataLoader or another iterator of batches, torch.cat([rows for rows, *_ in batches]). A "
                "module takes a Dataset or a DataLoader of pairs (x, y) for X, without y."
            )
        refuse_pairs(array, of)
        refuse_filled(array, of)
        if isinstance(array, Inputs):
            raise TypeError(
                f"{of} is {array!r}, which the forward of a module takes by name, and this is the linear "
                "model; pass one array, such as np.hstack of the inputs, or a module."
            )
        if of == "X" and isinstance(array, Mapping) and not scipy.sparse.issparse(array):
            raise TypeError(
                f"X is a {type(array).__name__} of {list(array)}; pass Inputs(**X) to a module whose forward "
                "takes these by name, or pandas.DataFrame(X) where each is a column."
            )
        if np.ma.is_masked(array):  # numpy and scikit-learn take what is under the mask
            raise ValueError(f"{of} has masked values: impute them, or drop their rows.")
        return array
    check_readable(array, of)
    array = array.detach()
    if array.dtype in HALF:
        array = array.float()
    return array.cpu().resolve_conj().resolve_neg().numpy()
