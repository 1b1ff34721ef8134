"""Checks of X and y, as `fit` and `predict` were given them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch, assert_all_finite
from sklearn.utils.metadata_routing import process_routing
from sklearn.utils.validation import validate_data
from torch import Tensor

from torch_logreg._checks.compat import (
    check_feature_names,
    check_n_features,
    check_y,
    raise_for_params,
    routing_enabled,
)
from torch_logreg._checks.containers import check_readable, on_host, refusing_huge_integers
from torch_logreg._checks.labels import factorise
from torch_logreg._checks.weights import check_range, sample_weights, times_class_weight
from torch_logreg._data.loaders import codes_among
from torch_logreg._data.products import HALF
from torch_logreg._data.tensors import Features, float_dtype, float_info
from torch_logreg._runtime.blame import naming
from torch_logreg._runtime.limits import limits_of

FLOATS = [np.float64, np.float32]
# Those that a module may look up as they are; larger ones go in as float64 in any case.
INTEGERS = [np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32]


class TrainingData(NamedTuple):
    """The checked data of a fit. X is a tensor only if it has 16 bits or lies on another device."""

    # (n_rows, n_features), float32 or float64, or a tensor of 16 bits: `Features`. For a module it may have
    # more dimensions or hold integers, and be `Inputs` or `Loaded`.
    X: Any
    codes: np.ndarray  # (n_rows,) int64, index into `classes`; (0,) of loaded rows that were not looked at
    classes: np.ndarray  # (n_classes,), of which some may have no row of weight
    weights: np.ndarray  # (n_rows,) float64: sample_weight times class_weight; one broadcast 1 without both


def check_fit(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    sample_weight: Any,
    class_weight: Any,
    defer_finite: bool = False,
    of_module: bool = False,
) -> TrainingData:
    """Check all that `fit` takes; sets `n_features_in_` and `feature_names_in_`.

    With `defer_finite` the caller is to see to it that X is finite, by `check_finite` if in doubt. For a
    module X may have more than two dimensions, and integers stay integers.
    """
    X, y = _features(X), on_host(y)
    if isinstance(X, Tensor):
        _check_tensor(estimator, X, reset=True, defer_finite=defer_finite, of_module=of_module)
        y = check_labels(estimator, X, y)
    else:
        _refuse_missing_words(y)
        with (
            refusing_huge_integers("X"),
            np.errstate(invalid="ignore"),
        ):  # of a sum of infinities of both signs
            X, y = validate_data(
                estimator, X, y, **_options(X, of_module), ensure_all_finite=not defer_finite
            )
    X = _canonical(X, of_module)
    return coded(X, y, sample_weight, class_weight, float_info(X))


def coded(X: Any, y: np.ndarray, sample_weight: Any, class_weight: Any, info: np.finfo) -> TrainingData:
    """Check labels and weights of checked rows X, whose dtype has the range `info`."""
    classes, codes = factorise(y)
    if len(classes) < 2:
        raise ValueError(
            "This solver needs samples of at least 2 classes in the data, but the data contains only one "
            f"class: {classes.tolist()[0]!r}."
        )
    weights = sample_weights(sample_weight, y)
    if class_weight is not None:
        weights = times_class_weight(weights, class_weight, classes, codes)
    check_range(weights, codes, info)
    return TrainingData(X, codes, classes, weights)


def check_validation(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    sample_weight: Any,
    classes: np.ndarray,
    check: Callable[[BaseEstimator, Any], Any],
    names: tuple[str, str, str] = ("X_val", "y_val", "sample_weight_val"),
) -> TrainingData:
    """Check rows to look at a model with, which has seen those that it learnt from; they have its classes.

    `check` is that of rows to predict, `names` are what the caller calls the three.
    """
    of_X, of_y, of_weight = names
    if y is None:
        raise ValueError(f"{of_X} is given without {of_y}; pass the labels of these rows as {of_y}.")
    with naming(of_X, "Its rows need the shape of those of X, and its columns their order."):
        X = check(estimator, X)
    with naming(of_y, f"It needs a label, as in y, for each row of {of_X}."):
        y = check_y(on_host(y, of=of_y), multi_output=False, y_numeric=False, estimator=estimator)
    if len(y) != X.shape[0]:
        raise ValueError(
            f"{of_X} has {X.shape[0]} rows and {of_y} has {len(y)}: they must have equally many."
        )
    codes = codes_among(y, classes, of_y)
    with naming(of_weight, f"It needs a weight for each row of {of_X}."):
        weights = sample_weights(sample_weight, y)
    return TrainingData(X, codes, classes, weights)


def check_labels(estimator: BaseEstimator, X: Any, y: Any) -> np.ndarray:
    """Check y as an array, for rows that `validate_data` does not take."""
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None.")
    y = check_y(y, multi_output=False, y_numeric=False, estimator=estimator)
    if len(y) != len(X):
        raise ValueError(f"X has {len(X)} rows and y has {len(y)}: they must have equally many.")
    return y


def _options(X: Any, of_module: bool) -> dict[str, Any]:
    """How `validate_data` is to read X."""
    as_it_is = of_module and not scipy.sparse.issparse(X)
    dtypes = [*FLOATS, *INTEGERS] if as_it_is else FLOATS
    return {"accept_sparse": "csr", "dtype": dtypes, "allow_nd": of_module}


def weigh_classes(data: TrainingData, of_class: np.ndarray) -> TrainingData:
    """Multiply the weights of rows by those of their classes, (n_classes,)."""
    with np.errstate(over="ignore"):  # which is seen to below
        weights = data.weights * of_class[data.codes]
    check_range(weights, data.codes, float_info(data.X))
    return data._replace(weights=weights)


def route(estimator: Any, params: dict[str, Any], sample_weight: Any = None, caller: str = "fit") -> Bunch:
    """Return the metadata for the splitter (``splitter.split``) and the scorer (``scorer.score``).

    Without metadata routing the sample weights go to the scorer, and there is nothing else.
    """
    raise_for_params(params, estimator, caller)
    given = params if sample_weight is None else {**params, "sample_weight": sample_weight}
    if routing_enabled():
        return process_routing(estimator, caller, **given)
    return Bunch(splitter=Bunch(split={}), scorer=Bunch(score=given))


def check_predict(
    estimator: BaseEstimator, X: Any, defer_finite: bool = False, of_module: bool = False
) -> Features:
    """Check the rows to predict against what `fit` saw; the rest as in `check_fit`."""
    X = _features(X)
    if isinstance(X, Tensor):
        _check_tensor(estimator, X, reset=False, defer_finite=defer_finite, of_module=of_module)
        return _canonical(X, of_module)
    with refusing_huge_integers("X"), np.errstate(invalid="ignore"):
        X = validate_data(
            estimator, X, **_options(X, of_module), reset=False, ensure_all_finite=not defer_finite
        )
    return _canonical(X, of_module)


def check_finite(estimator: BaseEstimator, X: Features) -> None:
    """Raise if X holds NaN or infinity, what `check_fit` and `check_predict` raise unless deferred."""
    if not isinstance(X, Tensor):
        with np.errstate(invalid="ignore"):
            assert_all_finite(X, estimator_name=type(estimator).__name__, input_name="X")
        return
    # A few rows at a time: what is made on the way is as large as they are.
    step = max(1, limits_of(X.device).finite_numbers // X.shape[1])
    for start in range(0, len(X), step):
        if not bool(torch.isfinite(X[start : start + step]).all()):
            raise ValueError("Input X contains NaN or infinity; impute or drop those values first.")


def _features(X: Any) -> Any:
    """X as `validate_data` takes it: a tensor that numpy has no place or no dtype for stays one."""
    if isinstance(X, Tensor) and (X.device.type != "cpu" or X.dtype in HALF):
        check_readable(X, "X")
        return X.detach()
    return on_host(X, of="X")


def _refuse_missing_words(y: Any) -> None:
    """Missing strings of pandas' nullable dtype, which scikit-learn's check stumbles over."""
    if isinstance(getattr(y, "dtype", None), pd.StringDtype) and y.isna().any():
        raise ValueError("Input y contains NA; drop the rows without a label.")


def _check_tensor(
    estimator: BaseEstimator, X: Tensor, reset: bool, defer_finite: bool, of_module: bool
) -> None:
    """Check what `validate_data` checks, of a tensor that stays one."""
    if X.ndim < 2 or (X.ndim > 2 and not of_module):
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


def _canonical(X: Features, of_module: bool) -> Features:
    """Floats; CSR as `csr_array` with indices in range, which may hold an entry in several parts."""
    if isinstance(X, Tensor):
        kept = (torch.float32, torch.float64, *HALF)
        return X if X.dtype in kept or of_module else X.to(float_dtype(X, X.device))
    if not scipy.sparse.issparse(X):
        return X
    X = scipy.sparse.csr_array(X)
    X.check_format(full_check=True)
    return X
