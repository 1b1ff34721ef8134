"""Arrays to tensors: dtypes, strides, and memory that nobody may write to."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg._contracts.rows import Matrix
from torch_logreg._data.products import HALF, dense_rows
from torch_logreg._data.sparse import sparse_matrix
from torch_logreg._runtime.devices import supports_float64

Features: TypeAlias = np.ndarray | scipy.sparse.csr_array | Tensor


def to_tensor(array: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """An array on `device`, sharing its memory where that is possible. Nobody may write to it."""
    strides = array.strides
    if 0 in strides and array.size > 1:
        # Of what is broadcast there is one to convert, however often it appears.
        once = array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)]
        if once.shape != array.shape:
            return to_tensor(np.ascontiguousarray(once), device, dtype).expand(array.shape)
    if min(strides, default=0) < 0 or not array.dtype.isnative:
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if not array.flags.writeable:
        array = _as_writeable(array)
    tensor = torch.from_numpy(array)
    return tensor if tensor.dtype == dtype and device.type == "cpu" else tensor.to(device, dtype)


class _Memory:
    """The memory of an array, and the array, to keep it alive."""

    def __init__(self, array: np.ndarray) -> None:
        interface = array.__array_interface__
        self.array = array
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def _as_writeable(array: np.ndarray) -> np.ndarray:
    """A view that numpy calls writeable: `torch.from_numpy` warns of a read-only array (a joblib memmap)."""
    return np.asarray(_Memory(array))


def n_stored(X: Features) -> int:
    """Numbers that sparse X holds; -1 for dense X, as of `Rows`."""
    return -1 if isinstance(X, np.ndarray | Tensor) else int(X.nnz)


def features_to(X: Features, device: torch.device, dtype: torch.dtype) -> Tensor | scipy.sparse.csr_array:
    """X on `device`, in `dtype` but for tensors of 16 bits, which `products` upcasts; CSR stays scipy's."""
    if isinstance(X, Tensor):
        return X.to(device=device, dtype=X.dtype if X.dtype in HALF else dtype)
    if scipy.sparse.issparse(X):
        _check_csr_device(device)
        return X.astype(np.float64 if dtype == torch.float64 else np.float32, copy=False)
    return to_tensor(X, device, dtype)


def _check_csr_device(device: torch.device) -> None:
    if device.type in ("cpu", "cuda"):
        return
    raise ValueError(
        f"X is sparse, and torch has no sparse CSR products on device {str(device)!r}; "
        "use device='cpu', or pass X.toarray() if it fits."
    )


def float_info(X: Features) -> np.finfo:
    """The range of the dtype of X, which of integers is the default's."""
    single = X.dtype in (torch.float32, *HALF) if isinstance(X, Tensor) else X.dtype == np.float32
    return np.finfo(np.float32 if single else np.float64)


def float_dtype(X: Features, device: torch.device) -> torch.dtype:
    """The dtype to compute in: float32 for X of 16 or 32 bits; else float64 where the device has it."""
    if isinstance(X, Tensor):
        single = X.dtype in (torch.float32, *HALF)
    else:
        single = X.dtype == np.float32
    return torch.float32 if single or not supports_float64(device) else torch.float64


def numpy_dtype(X: Features, device: torch.device) -> type[np.floating]:
    """The dtype of the coefficients of a fit: that of `float_dtype`."""
    return np.float32 if float_dtype(X, device) == torch.float32 else np.float64


def on_device(X: Any, device: torch.device, dtype: torch.dtype) -> Matrix:
    """Rows to predict, without what only a gradient needs."""
    part = features_to(X, device, dtype)
    return part if isinstance(part, Tensor) else sparse_matrix(part, device, transpose=False)


def all_dense(X: Matrix, dtype: torch.dtype) -> Tensor:
    """All rows of X as a dense array, for a module."""
    return dense_rows(X, 0, X.shape[0]).to(dtype)
