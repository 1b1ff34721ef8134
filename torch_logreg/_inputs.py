"""Arrays in, tensors out: validation, labels, weights, devices. Knows scikit-learn's validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch, assert_all_finite, compute_class_weight
from sklearn.utils.metadata_routing import process_routing
from sklearn.utils.validation import validate_data
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from torch_logreg._labels import factorise
from torch_logreg._rows import HALF
from torch_logreg._sklearn_compat import (
    Interval,
    StrOptions,
    check_feature_names,
    check_n_features,
    check_sample_weight,
    check_y,
    constraints_of,
    num_samples,
    raise_for_params,
    routing_enabled,
    validate_parameter_constraints,
)
from torch_logreg._torch_compat import accelerator

__all__ = [
    "Interval",
    "StrOptions",
    "TrainingData",
    "check_finite",
    "check_fit",
    "check_parameters",
    "check_predict",
    "numpy_dtype",
    "one_a_row",
    "refusing_huge_integers",
    "route",
    "sample_weights",
]

Features: TypeAlias = np.ndarray | scipy.sparse.csr_array | Tensor
FLOATS = [np.float64, np.float32]
NUMBERS = ("C", "learning_rate", "tol")  # parameters that are computed with as floats
FINITE_NUMBERS = (2**26, 2**21)  # looked at at a time: on an accelerator, on the CPU


class TrainingData(NamedTuple):
    """What `fit` was given, checked. X is a tensor only if it has 16 bits or lies on another device."""

    X: Features  # (n_rows, n_features), float32 or float64, or a tensor of 16 bits
    codes: np.ndarray  # (n_rows,) int64, index into `classes`
    classes: np.ndarray  # (n_classes,), of which some may have no row of weight
    weights: np.ndarray  # (n_rows,) float64: sample_weight times class_weight; one broadcast 1 without both


def check_parameters(estimator: Any, defaults: Mapping[str, Any]) -> None:
    """`_validate_params`, which takes as long as all other checks of a small fit, without the defaults."""
    constraints = constraints_of(estimator)
    values = {name: getattr(estimator, name) for name in sorted(constraints)}
    given = {name: value for name, value in values.items() if value is not defaults.get(name, constraints)}
    validate_parameter_constraints(constraints, given, caller_name=type(estimator).__name__)
    for name in NUMBERS:
        if isinstance(given.get(name), Integral):  # in Python they may be of any size
            with refusing_huge_integers(name):
                float(given[name])


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


def check_fit(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    sample_weight: Any,
    class_weight: Any,
    defer_finite: bool = False,
) -> TrainingData:
    """Check all that `fit` takes; sets `n_features_in_` and `feature_names_in_`.

    With `defer_finite` the caller is to see to it that X is finite, by `check_finite` if in doubt.
    """
    X, y = _features(X), on_host(y)
    if isinstance(X, Tensor):
        if y is None:
            raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None.")
        _check_tensor(estimator, X, reset=True, defer_finite=defer_finite)
        y = check_y(y, multi_output=False, y_numeric=False, estimator=estimator)
        if len(y) != len(X):
            raise ValueError(f"X has {len(X)} rows and y has {len(y)}: they must have equally many.")
    else:
        _refuse_missing_words(y)
        with (
            refusing_huge_integers("X"),
            np.errstate(invalid="ignore"),
        ):  # of a sum of infinities of both signs
            X, y = validate_data(
                estimator, X, y, accept_sparse="csr", dtype=FLOATS, ensure_all_finite=not defer_finite
            )
    classes, codes = factorise(y)
    if len(classes) < 2:
        raise ValueError(
            "This solver needs samples of at least 2 classes in the data, but the data contains only one "
            f"class: {classes.tolist()[0]!r}."
        )
    weights = sample_weights(sample_weight, y)
    if class_weight is not None:
        weights = _times_class_weight(weights, class_weight, classes, codes)
    X = _canonical(X)
    _check_range(weights, codes, float_info(X))
    return TrainingData(X, codes, classes, weights)


def weigh_classes(data: TrainingData, of_class: np.ndarray) -> TrainingData:
    """The same with the weights of rows multiplied by those of their classes, (n_classes,)."""
    with np.errstate(over="ignore"):  # which is seen to below
        weights = data.weights * of_class[data.codes]
    _check_range(weights, data.codes, float_info(data.X))
    return data._replace(weights=weights)


def _times_class_weight(
    weights: np.ndarray, class_weight: Any, classes: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """Weights of the rows times those of their classes; "balanced" is among the classes that have weight."""
    _check_class_weight(class_weight, classes)
    of_class = np.zeros(len(classes))
    sums = np.bincount(codes, weights)
    known = np.flatnonzero(sums > 0) if isinstance(class_weight, str) else np.arange(len(classes))
    # One row a class, with its weight, stands for all of its rows.
    with refusing_huge_integers("class_weight"), np.errstate(over="ignore"):
        of_class[known] = compute_class_weight(
            class_weight, classes=classes[known], y=classes[known], sample_weight=sums[known]
        )
    if not (np.isfinite(of_class).all() and (of_class >= 0).all()):
        raise ValueError(
            f"class_weight gives the classes {classes.tolist()} the weights {of_class.tolist()}: "
            "each must be a finite number, at least 0."
        )
    if not of_class[sums > 0].any():
        raise ValueError(
            "sample_weight times class_weight is 0 for every row: at least one class must have a non-zero "
            "weight."
        )
    with np.errstate(over="ignore", under="ignore"):  # which `_check_range` sees to
        product = weights * of_class[codes]
    # What rounds to 0 is not 0: a class that should have weight is not to pass for one without.
    product[(product == 0) & (weights > 0) & (of_class > 0)[codes]] = np.nextafter(0.0, 1.0)
    return product


def _check_class_weight(class_weight: Any, classes: np.ndarray) -> None:
    """Raise where scikit-learn does, and say which of the names is unknown."""
    if not isinstance(class_weight, Mapping):
        return
    missing = [label for label in classes.tolist() if label not in class_weight]
    unknown = [label for label in class_weight if label not in classes.tolist()]
    if missing and unknown:
        raise ValueError(
            f"The classes, {missing}, are not in class_weight, which names {unknown}: y has no such classes."
        )


def route(estimator: Any, params: dict[str, Any], sample_weight: Any = None, caller: str = "fit") -> Bunch:
    """What the splitter (``splitter.split``) and the scorer (``scorer.score``) are to be given of metadata.

    Without metadata routing the sample weights go to the scorer, and there is nothing else.
    """
    raise_for_params(params, estimator, caller)
    given = params if sample_weight is None else {**params, "sample_weight": sample_weight}
    if routing_enabled():
        return process_routing(estimator, caller, **given)
    return Bunch(splitter=Bunch(split={}), scorer=Bunch(score=given))


def check_predict(estimator: BaseEstimator, X: Any, defer_finite: bool = False) -> Features:
    """Check the rows to predict against what `fit` saw; `defer_finite` as in `check_fit`."""
    X = _features(X)
    if isinstance(X, Tensor):
        _check_tensor(estimator, X, reset=False, defer_finite=defer_finite)
        return _canonical(X)
    with refusing_huge_integers("X"), np.errstate(invalid="ignore"):
        X = validate_data(
            estimator, X, accept_sparse="csr", dtype=FLOATS, reset=False, ensure_all_finite=not defer_finite
        )
    return _canonical(X)


def check_finite(estimator: BaseEstimator, X: Features) -> None:
    """Raise if X holds NaN or infinity, what `check_fit` and `check_predict` raise unless deferred."""
    if not isinstance(X, Tensor):
        with np.errstate(invalid="ignore"):
            assert_all_finite(X, estimator_name=type(estimator).__name__, input_name="X")
        return
    # A few rows at a time: what is made on the way is as large as they are.
    step = max(1, FINITE_NUMBERS[X.device.type == "cpu"] // X.shape[1])
    for start in range(0, len(X), step):
        if not bool(torch.isfinite(X[start : start + step]).all()):
            raise ValueError("Input X contains NaN or infinity; impute or drop those values first.")


def _features(X: Any) -> Any:
    """X as `validate_data` takes it: a tensor that numpy has no place or no dtype for stays one."""
    if isinstance(X, Tensor) and (X.device.type != "cpu" or X.dtype in HALF):
        _check_readable(X, "X")
        return X.detach()
    return on_host(X, of="X")


def _check_readable(array: Tensor, of: str) -> None:
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
    _check_readable(array, of)
    array = array.detach()
    if array.dtype in HALF:
        array = array.float()
    return array.cpu().resolve_conj().resolve_neg().numpy()


def _refuse_missing_words(y: Any) -> None:
    """Missing strings of pandas' nullable dtype, which scikit-learn's check stumbles over."""
    if isinstance(getattr(y, "dtype", None), pd.StringDtype) and y.isna().any():
        raise ValueError("Input y contains NA; drop the rows without a label.")


def _check_tensor(estimator: BaseEstimator, X: Tensor, reset: bool, defer_finite: bool) -> None:
    """What `validate_data` checks, for a tensor that stays one."""
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got {X.ndim}D tensor of shape {tuple(X.shape)} instead.")
    if X.is_complex():
        raise ValueError(f"Complex data not supported: X is a tensor of {X.dtype}.")
    if 0 in X.shape:
        raise ValueError(
            f"Found a tensor of shape {tuple(X.shape)} while a minimum of 1 row and 1 feature is required."
        )
    if not defer_finite:
        check_finite(estimator, X)
    check_feature_names(estimator, X, reset=reset)
    check_n_features(estimator, X, reset=reset)


def _canonical(X: Features) -> Features:
    """Floats; CSR as `csr_array` with indices in range, which may hold an entry in several parts."""
    if isinstance(X, Tensor):
        kept = (torch.float32, torch.float64, *HALF)
        return X if X.dtype in kept else X.to(float_dtype(X, X.device))
    if not scipy.sparse.issparse(X):
        return X
    X = scipy.sparse.csr_array(X)
    X.check_format(full_check=True)
    return X


def one_a_row(sample_weight: Any, y: Any) -> Any:
    """Weights as scorers take them, on the host: one number as a vector of it."""
    given = on_host(sample_weight, of="sample_weight")
    if isinstance(given, Real) or (isinstance(given, np.ndarray) and given.ndim == 0):
        return np.full(num_samples(y), given, dtype=np.float64)
    return given


def sample_weights(sample_weight: Any, y: np.ndarray) -> np.ndarray:
    """Checked, (n_rows,) float64: one number stands for a vector of it, None for a broadcast 1."""
    if sample_weight is None:
        return np.ndarray(len(y), np.float64, buffer=np.ones(1), strides=(0,))  # one, broadcast
    with refusing_huge_integers("sample_weight"), np.errstate(invalid="ignore"):
        weights = check_sample_weight(one_a_row(sample_weight, y), y, dtype=np.float64)
    if weights.min() < 0:
        row = int(np.flatnonzero(weights < 0)[0])
        raise ValueError(
            f"sample_weight[{row}] is {weights[row]}: weights must not be negative; use 0 to leave a row out."
        )
    if np.isnan(weights).any():  # of a number for all rows, which is not looked at
        raise ValueError("Input sample_weight contains NaN.")
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not np.isfinite(total):
        raise ValueError("The sum of sample_weight overflows; divide sample_weight by its largest.")
    if not weights.max() > 0:
        raise ValueError("sample_weight is 0 for every row: it must contain at least one non-zero number.")
    return weights


def _check_range(weights: np.ndarray, codes: np.ndarray, info: np.finfo) -> None:
    """Raise if in the dtype of X the sum of the weights is infinite, or a class has none left that it had."""
    if weights.strides == (0,):
        return
    with np.errstate(over="ignore"):
        total = weights.sum()
    if total > info.max:
        raise ValueError(
            f"The sum of sample_weight times class_weight overflows {info.dtype}, the dtype of X: "
            "divide the weights by their largest."
        )
    if weights[weights > 0].min() >= info.tiny:
        return
    largest = np.zeros(codes.max() + 1)
    np.maximum.at(largest, codes, weights)
    lost = largest[(largest > 0) & (largest < info.tiny)]
    if len(lost):
        raise ValueError(
            f"sample_weight times class_weight is at most {lost.min():.1e} in one of the classes, which "
            f"is too small for {info.dtype}, the dtype of X: multiply all weights by the same large number."
        )


# ---- devices ----


def resolve_device(device: str | torch.device | None, X: Features) -> torch.device:
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


# ---- to the device ----


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


def features_to(X: Features, device: torch.device, dtype: torch.dtype) -> Tensor | scipy.sparse.csr_array:
    """X on `device`, in `dtype` but for tensors of 16 bits, which `_rows` upcasts; CSR stays scipy's."""
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
    """The range of the dtype of X."""
    return np.finfo(np.float64 if X.dtype in (torch.float64, np.float64) else np.float32)


def float_dtype(X: Features, device: torch.device) -> torch.dtype:
    """What to compute in: float32 for X of 16 or 32 bits; else float64 where the device has it."""
    if isinstance(X, Tensor):
        single = X.dtype in (torch.float32, *HALF)
    else:
        single = X.dtype == np.float32
    return torch.float32 if single or not supports_float64(device) else torch.float64


def numpy_dtype(X: Features, device: torch.device) -> type[np.floating]:
    """Of the coefficients of a fit: that of `float_dtype`."""
    return np.float32 if float_dtype(X, device) == torch.float32 else np.float64
