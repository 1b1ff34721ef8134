"""Several inputs of a module as one X, and what is done to X alike whether it is one array or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, KeysView, Mapping
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg._data.products import HALF, dense_rows
from torch_logreg._data.tensors import Features, all_dense, on_device, to_tensor
from torch_logreg._runtime.devices import supports_float64

NUMBERS = "biufc"  # kinds of numpy dtypes; what is complex is refused with X
ONE = "X"  # the name of an input that is the only one


class Inputs:
    """Several inputs of a module, as one X: arrays with a row for each sample.

    A module is called with them by their names, ``forward(image=..., words=...)``. They are cut into rows
    like one array, so that ``train_test_split``, ``GridSearchCV`` and ``cross_val_predict`` take them for X.

    Parameters
    ----------
    **inputs : array-like or torch.Tensor of shape (n_samples, ...)
        Each input under the name of an argument of the module's ``forward``. All have equally many rows.
        Arrays and tensors are kept as they are; data frames and lists become arrays.

    Attributes
    ----------
    shape : tuple of int
        The number of rows, and the sum of ``shape[1]`` over the inputs, where one of one dimension counts 1.

    See Also
    --------
    ModuleSpec : A builder of modules, which is called with a dict of the numbers of features.

    Examples
    --------
    >>> import numpy as np
    >>> from torch_logreg import Inputs
    >>> words = np.array([[1, 2], [3, 4], [5, 6], [7, 8]])
    >>> X = Inputs(image=np.zeros((4, 1, 8, 8), dtype=np.float32), words=words)
    >>> X
    Inputs(image=float32 (4, 1, 8, 8), words=int64 (4, 2))
    >>> len(X), X.shape
    (4, (4, 3))
    >>> X[[0, 3]]["words"].tolist()
    [[1, 2], [7, 8]]
    """

    def __init__(self, **inputs: Any) -> None:
        if not inputs:
            raise ValueError("Inputs() has no input; name each as `forward` does, as in Inputs(x=X).")
        self._inputs = {name: _readable(name, value) for name, value in inputs.items()}
        rows = {name: len(value) for name, value in self._inputs.items()}
        if len(set(rows.values())) > 1:
            found = ", ".join(f"{name!r} has {n}" for name, n in rows.items())
            raise ValueError(f"All inputs must have equally many rows, and {found}; cut them alike.")

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows, and of features of all inputs."""
        return len(self), sum(_n_features(value) for value in self._inputs.values())

    def keys(self) -> KeysView[str]:
        """The names of the inputs.

        Returns
        -------
        names : dict_keys of str
            In the order in which they were given.
        """
        return self._inputs.keys()

    def __len__(self) -> int:
        return len(next(iter(self._inputs.values())))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in self._inputs:
                raise KeyError(f"There is no input {key!r}; there are {list(self._inputs)}.")
            return self._inputs[key]
        rows = _rows_of_key(key, len(self))
        return Inputs(**{name: _cut(value, rows) for name, value in self._inputs.items()})

    def __repr__(self) -> str:
        shown = (f"{name}={_name(value)} {tuple(value.shape)}" for name, value in self._inputs.items())
        return f"Inputs({', '.join(shown)})"


# What one X and several have in common is done by the functions below.
ModuleFeatures: TypeAlias = Features | Inputs
OfModule: TypeAlias = Tensor | Inputs  # what a module is called with: tensors on its device
# The dtype that X goes into the module as, or that of each input by its name; and the numbers of features.
Dtypes: TypeAlias = torch.dtype | dict[str, torch.dtype]
Widths: TypeAlias = int | dict[str, int]
Shapes: TypeAlias = tuple[int, ...] | dict[str, tuple[int, ...]]  # of a row


def _readable(name: str, value: Any) -> np.ndarray | Tensor:
    if isinstance(value, Tensor):
        array: Any = value
    elif scipy.sparse.issparse(value):
        raise TypeError(f"The input {name!r} is sparse, and Inputs are dense; pass {name}.toarray().")
    elif isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"The input {name!r} is a masked array; impute what is masked, or drop its rows.")
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ValueError(
                f"The input {name!r} is a {type(value).__name__} that is no array: {error}; its rows must "
                "have one shape."
            ) from error
        if array.dtype.kind not in NUMBERS:
            raise TypeError(
                f"The input {name!r} is a {type(value).__name__} of dtype {array.dtype}, which torch has no "
                "tensors of; encode it as numbers."
            )
    if array.ndim == 0:
        raise ValueError(f"The input {name!r} is one number; an input must have a row for each sample.")
    return array


def _rows_of_key(key: Any, n_rows: int) -> slice | np.ndarray:
    """Rows, as a slice with a positive step or as numbers, of any key that arrays take for their rows."""
    if isinstance(key, tuple):  # scikit-learn cuts by ``X[key, ...]``
        if len(key) != 2 or key[1] is not Ellipsis:
            raise TypeError(
                f"Inputs are cut by rows alone, and the key is {key!r}; use X[rows], or X['name']."
            )
        key = key[0]
    if isinstance(key, slice):
        return key if (key.step or 1) > 0 else np.arange(n_rows)[key]
    rows = key.detach().cpu().numpy() if isinstance(key, Tensor) else np.asarray(key)
    if rows.ndim != 1 or (rows.dtype.kind not in "biu" and rows.size):
        raise TypeError(
            f"Inputs are cut by a slice, an array of row numbers or a mask, and the key is {key!r}; of one "
            "row use X[i : i + 1], of one input X['name']."
        )
    if rows.dtype.kind != "b":
        return rows.astype(np.int64, copy=False)
    if len(rows) != n_rows:
        raise IndexError(f"The mask has {len(rows)} values and there are {n_rows} rows.")
    return np.flatnonzero(rows)


def _cut(value: np.ndarray | Tensor, rows: slice | np.ndarray) -> np.ndarray | Tensor:
    if isinstance(value, Tensor) and not isinstance(rows, slice):
        return value[torch.as_tensor(rows, dtype=torch.int64, device=value.device)]
    return value[rows]


def _name(value: np.ndarray | Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _n_features(value: Any) -> int:
    return value.shape[1] if len(value.shape) > 1 else 1


# ---- one X or several inputs ----


def parts_of(X: Any) -> dict[str, Any]:
    """The inputs by their names; one array is the input "X"."""
    return {name: X[name] for name in X.keys()} if isinstance(X, Inputs) else {ONE: X}


def each(function: Callable[..., Any], X: Any, *others: Any) -> Any:
    """`function` of X, or of every input and what others have under its name, as `Inputs`."""
    if not isinstance(X, Inputs):
        return function(X, *others)
    return Inputs(**{name: function(X[name], *(other[name] for other in others)) for name in X.keys()})


def of_each(function: Callable[[Any], Any], X: Any) -> Any:
    """`function` of X, or a dict of that of every input."""
    return {name: function(X[name]) for name in X.keys()} if isinstance(X, Inputs) else function(X)


def by_name(X: Any, values: dict[str, Any]) -> Any:
    """Values of the `parts_of` X as X has these: a dict, or the one."""
    return values if isinstance(X, Inputs) else values[ONE]


def widths_of(X: Any) -> Widths:
    """The number of features of X, or of each input."""
    return of_each(_n_features, X)


def shapes_of(X: Any) -> Shapes:
    """The shape of a row, or of one of each input."""
    return of_each(lambda part: tuple(part.shape[1:]), X)


def numbers_of_row(X: Any) -> int:
    """How many numbers a row has."""
    return sum(math.prod(part.shape[1:]) for part in parts_of(X).values())


def is_integral(part: Any) -> bool:
    """Whether an input holds integers, or truth values, which a module may look up or select by."""
    if isinstance(part, Tensor):
        return not (part.is_floating_point() or part.is_complex())
    return not scipy.sparse.issparse(part) and part.dtype.kind in "biu"


def kept_dtype(part: Any) -> torch.dtype:
    """The dtype that such an input has as it is."""
    return torch.bool if part.dtype in (torch.bool, np.bool_) else torch.int64


def float_dtype_of(parts: Iterable[Any], device: torch.device) -> torch.dtype:
    """The dtype to compute with several inputs in: float32 if all that hold floats have 16 or 32 bits."""
    single = (torch.float32, *HALF, np.dtype(np.float32))
    floats = [part for part in parts if not is_integral(part)]
    all_single = bool(floats) and all(part.dtype in single for part in floats)
    return torch.float32 if all_single or not supports_float64(device) else torch.float64


def to_module(X: ModuleFeatures, device: torch.device, dtypes: Dtypes) -> OfModule:
    """Rows as a module is called with them; sparse ones made dense."""
    if isinstance(dtypes, Mapping):
        return each(lambda part, dtype: _to(part, device, dtype), X, dtypes)
    return each(lambda part: _to(part, device, dtypes), X)


def _to(part: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    if isinstance(part, Tensor):
        return part.to(device=device, dtype=dtype)
    if scipy.sparse.issparse(part):
        return all_dense(on_device(part, device, dtype), dtype)
    return to_tensor(part, device, dtype)


def to_memory(X: ModuleFeatures, device: torch.device, dtypes: Dtypes) -> OfModule:
    """All rows on the device; tensors of 16 bits stay so where they are to become float32."""
    if isinstance(dtypes, Mapping):
        return each(lambda part, dtype: _to(part, device, _in_memory(part, dtype)), X, dtypes)
    return each(lambda part: _to(part, device, _in_memory(part, dtypes)), X)


def _in_memory(part: Any, dtype: torch.dtype) -> torch.dtype:
    stays = isinstance(part, Tensor) and part.dtype in HALF and dtype == torch.float32
    return part.dtype if stays else dtype


def dense(X: Any, start: int, stop: int) -> OfModule:
    """Rows `start` to `stop` of a block, as a module takes them."""
    return X[start:stop] if isinstance(X, Inputs) else dense_rows(X, start, stop)


def holder(X: Any) -> Any:
    """The array that says where X is: the first on another device than the CPU, if there is one."""
    parts = list(parts_of(X).values())
    off = [part for part in parts if isinstance(part, Tensor) and part.device.type != "cpu"]
    return (off or parts)[0]


def call(module: Callable[..., Any], X: OfModule) -> Any:
    """Call a module with rows, which it may write to: layers that work in place do."""
    if isinstance(X, Inputs):
        return module(**{name: X[name].clone() for name in X.keys()})
    return module(X.clone())


def described(X: OfModule) -> str:
    """Shapes, dtypes and devices for a message, as "X of shape ..."."""
    return "; ".join(
        f"{name} of shape {tuple(part.shape)} and dtype {part.dtype} on {str(part.device)!r}"
        for name, part in parts_of(X).items()
    )


def expected_of(X: OfModule) -> str:
    """What a module has to take, for a message."""
    if isinstance(X, Inputs):
        named = ", ".join(f"{name} of shape {tuple(X[name].shape[1:])}" for name in X.keys())
        return f"Its forward has to take, for each row, {named}"
    shape = tuple(X.shape[1:])
    taken = f"{shape[0]} columns" if len(shape) == 1 else f"rows of shape {shape}"
    return f"Its first layer has to take {taken}"
