"""Checks of what a module is trained on and predicts: arrays of any dimension, several inputs, loaders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from torch_logreg._checks.compat import check_feature_names, check_n_features, check_y
from torch_logreg._checks.containers import on_host, refuse_pairs
from torch_logreg._checks.data import (
    INTEGERS,
    TrainingData,
    check_fit,
    check_labels,
    check_predict,
    check_validation,
    coded,
)
from torch_logreg._checks.labels import factorise
from torch_logreg._checks.weights import check_range, sample_weights, weights_of_classes
from torch_logreg._data.inputs import Inputs, Shapes, is_integral, parts_of, shapes_of
from torch_logreg._data.loaders import Batches, Item, Loaded, batches_of, codes_among, is_loaded
from torch_logreg._data.tensors import float_info

NO_CODES = np.empty(0, dtype=np.int64)  # of rows that were not looked at


def check_module_fit(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    classes: Any,
    holds_out: bool,
) -> TrainingData:
    """Check all that `fit` takes with a module; sets `n_features_in_`, `feature_names_in_`, `input_shape_`.

    `holds_out` says that rows of it are to be kept aside. `input_dtype_` is not known before the module is
    built.
    """
    vars(estimator).pop("input_dtype_", None)
    if is_loaded(X):
        data = _check_loaded(estimator, X, y, sample_weight, classes, holds_out)
        check_n_features(estimator, data.X, reset=True)
        check_feature_names(estimator, data.X, reset=True)
        estimator.input_shape_ = shapes_of(data.X.first.X)
        return data
    refuse_classes(classes, "y has the labels of all rows")
    if isinstance(X, Inputs):
        X = _check_inputs(X)
        check_n_features(estimator, X, reset=True)
        check_feature_names(estimator, X, reset=True)
        y = check_labels(estimator, X, on_host(y))
        data = coded(X, y, sample_weight, estimator.class_weight, _info(X))
    else:
        integers = _native_integers(X)
        data = check_fit(estimator, integers, y, sample_weight, estimator.class_weight, of_module=True)
    estimator.input_shape_ = shapes_of(data.X)
    return data


def _native_integers(X: Any) -> Any:
    """Integers that scikit-learn's check would make floats of, because of how they are held, as int64."""
    if isinstance(X, list | tuple):
        refuse_pairs(X, "X")
        try:
            array = np.asarray(X)
        except (TypeError, ValueError):  # which that check is to say
            return X
        return array if array.dtype.kind in "iu" else X
    if isinstance(X, pd.DataFrame):
        plain = all(pd.api.types.is_integer_dtype(dtype) for dtype in X.dtypes) and not X.isna().any(
            axis=None
        )
        return X.astype(np.int64) if plain and X.shape[1] else X
    if isinstance(X, np.ndarray) and X.dtype.kind in "iu" and X.dtype not in INTEGERS and X.size:
        return X.astype(np.int64) if X.max() <= np.iinfo(np.int64).max else X
    return X


def check_module_predict(estimator: Any, X: Any) -> Any:
    """Check the rows to predict against what `fit` saw; of a Dataset or DataLoader its batches."""
    if is_loaded(X):
        _check_kind(X)
        return batches_of(X)
    expected = _shape_seen(estimator)
    if isinstance(X, Inputs):
        found = shapes_of(_check_inputs(X))
        _check_shapes("X", expected, found)
        return _as_seen(estimator, X)
    if isinstance(expected, dict):
        raise TypeError(
            f"X is a {type(X).__name__}, and the module was fitted on Inputs of {list(expected)}; pass "
            f"Inputs({', '.join(f'{name}=...' for name in expected)})."
        )
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) > 1 and (len(shape) > 2 or len(expected) > 1):
        _check_shapes("X", expected, tuple(shape[1:]))
    return _as_seen(estimator, check_predict(estimator, X, of_module=True))


def check_batch(estimator: Any, item: Item, name: str) -> Any:
    """Check the rows of a batch to predict, of which those of another batch may be longer or shorter."""
    of, expected, found = f"The x of {name}", _shape_seen(estimator), shapes_of(item.X)
    if isinstance(expected, dict) and isinstance(found, dict):
        _check_names(of, expected, found)
    elif isinstance(expected, dict) or isinstance(found, dict) or len(expected) != len(found):
        _check_shapes(of, expected, found)
    _check_values(item.X, of)
    return _as_seen(estimator, item.X)


def check_module_validation(
    estimator: Any, data: TrainingData, X: Any, y: Any, sample_weight: Any
) -> TrainingData:
    """Check rows to score while a module is fitted to `data`: X as `fit` takes it, y among its classes.

    Weights are those given, without those of the classes. `n_features_in_` and `input_shape_` are set before.
    """
    if is_loaded(X):
        refuse_beside(X, y, sample_weight, ("y_val", "sample_weight_val"))
        batches = check_module_predict(estimator, X)
        first, labels, weights = _read(estimator, batches)
        check_batch(estimator, first, batches.name)
        codes = codes_among(labels, data.classes, batches.name)
        loaded = Loaded(batches, len(codes), data.classes, np.ones(len(data.classes)), first)
        return TrainingData(loaded, codes, data.classes, sample_weights(weights, labels))
    return check_validation(estimator, X, y, sample_weight, data.classes, check_module_predict)


def refuse_classes(classes: Any, why: str) -> None:
    """Raise where `classes` would not be read."""
    if classes is not None:
        raise ValueError(
            f"classes={classes!r} is for a module that is fitted to a Dataset or DataLoader; leave it out: "
            f"{why}."
        )


# ---- several inputs ----


def _check_inputs(X: Inputs) -> Inputs:
    if not len(X):
        raise ValueError(f"X is {X!r}, without a row, and a minimum of 1 is required.")
    _check_values(X, "X")
    return X


def _check_values(X: Any, of: str) -> None:
    """Check that numbers are real and finite."""
    for name, part in parts_of(X).items():
        what = f"{of}[{name!r}]" if isinstance(X, Inputs) else of
        if part.is_complex() if isinstance(part, Tensor) else part.dtype.kind == "c":
            raise ValueError(f"Complex data not supported: {what} is of dtype {part.dtype}.")
        if 0 in part.shape:
            raise ValueError(f"{what} has the shape {tuple(part.shape)}, and each row must hold a number.")
        finite = torch.isfinite(part).all() if isinstance(part, Tensor) else np.isfinite(part).all()
        if not bool(finite):
            raise ValueError(f"{what} contains NaN or infinity; impute or drop those values first.")


def _info(X: Any) -> np.finfo:
    """The smallest range of the dtypes of the inputs."""
    return min(map(float_info, parts_of(X).values()), key=lambda info: float(info.max))


def _shape_seen(estimator: Any) -> Shapes:
    """The shape of a row in `fit`; models of earlier versions know the number of columns alone."""
    shape: Shapes = vars(estimator).get("input_shape_", (estimator.n_features_in_,))
    return shape


def _check_shapes(of: str, expected: Shapes, found: Shapes) -> None:
    if isinstance(expected, dict) and isinstance(found, dict):
        _check_names(of, expected, found)
        for name, shape in expected.items():
            _check_shapes(f"{of}[{name!r}]", shape, found[name])
    elif expected != found:
        raise ValueError(
            f"{of} has {_rows_of(found)}, and the module was fitted on {_rows_of(expected)}; pass the same."
        )


def _check_names(of: str, expected: dict[str, Any], found: dict[str, Any]) -> None:
    if set(expected) != set(found):
        raise ValueError(
            f"{of} has the inputs {list(found)}, and the module was fitted on {list(expected)}; pass the "
            "same."
        )


def _rows_of(shape: Shapes) -> str:
    return f"the inputs {list(shape)}" if isinstance(shape, dict) else f"rows of shape {shape}"


def _as_seen(estimator: Any, X: Any) -> Any:
    """Refuse fractions where `fit` saw integers and the module took them as they are."""
    dtypes = vars(estimator).get("input_dtype_", "")
    for name, part in parts_of(X).items():
        dtype = dtypes[name] if isinstance(dtypes, dict) else dtypes
        if dtype in ("int64", "bool") and not is_integral(part) and not bool((part == part.round()).all()):
            what = f"X[{name!r}]" if isinstance(dtypes, dict) else "X"
            raise ValueError(
                f"{what} holds fractions, and the module was fitted on integers, which it takes as "
                f"torch.{dtype}; pass integers."
            )
    return X


# ---- Datasets and DataLoaders ----


def _check_loaded(
    estimator: Any, X: Any, y: Any, sample_weight: Any, classes: Any, holds_out: bool
) -> TrainingData:
    refuse_beside(X, y, sample_weight, ("y", "sample_weight"))
    _check_kind(X)
    name = type(X).__name__
    if isinstance(X, DataLoader):
        if estimator.batch_size != "auto":
            raise ValueError(
                f"batch_size={estimator.batch_size!r} is not read with a {name}, whose batches are trained "
                "on; set batch_size='auto', and that of the DataLoader."
            )
        if holds_out:
            raise ValueError(
                f"early_stopping=True keeps rows aside, which a {name} does not give by number; pass rows "
                "to score as X_val, its Dataset, or early_stopping=False."
            )
    batches = batches_of(X)
    known = None if classes is None else _sorted(classes)
    n_rows = batches.n_rows()
    if known is not None and n_rows and estimator.class_weight is None and not holds_out:
        first = next(_checked(batches))
        if first.weights is None:
            codes_among(_labels(first, name), known, name)
            loaded = Loaded(batches, n_rows, known, np.ones(len(known)), first)
            return TrainingData(loaded, NO_CODES, known, sample_weights(None, np.empty(n_rows, dtype=bool)))
    first, labels, given = _read(estimator, batches)
    if known is None:
        known, codes = factorise(labels)
        if len(known) < 2:
            raise ValueError(
                f"{name} gives labels of only one class, {known.tolist()[0]!r}, and a minimum of 2 is needed."
            )
    else:
        codes = codes_among(labels, known, name)
    weights = sample_weights(given, labels)
    of_class = np.ones(len(known))
    if estimator.class_weight is not None:
        sums = np.bincount(codes, weights, minlength=len(known))
        of_class = weights_of_classes(estimator.class_weight, known, sums)
        weights = weights * of_class[codes]
    check_range(weights, codes, _info(first.X))
    return TrainingData(Loaded(batches, len(codes), known, of_class, first), codes, known, weights)


def refuse_beside(X: Any, y: Any, sample_weight: Any, names: tuple[str, str]) -> None:
    for value, name, place in ((y, names[0], "second"), (sample_weight, names[1], "third")):
        if value is not None:
            raise ValueError(
                f"{name} is given beside a {type(X).__name__}, whose items hold it; leave it out, and have "
                f"the Dataset give it in the {place} place, as (x, y) or (x, y, weight)."
            )


def _check_kind(X: Any) -> None:
    if isinstance(X, IterableDataset):
        raise TypeError(
            f"X is a {type(X).__name__}, an IterableDataset, which has no batches; pass a DataLoader of it, "
            "DataLoader(X, batch_size=...)."
        )
    if not isinstance(X, DataLoader) and not hasattr(X, "__len__"):
        raise TypeError(
            f"X is a {type(X).__name__}, a Dataset without __len__; define it, or pass a DataLoader of it."
        )


def _labels(item: Item, name: str) -> np.ndarray:
    if item.y is None:
        raise ValueError(f"{name} gives x without y; training needs pairs (x, y), or (x, y, weight).")
    return item.y


def _read(estimator: Any, batches: Batches) -> tuple[Item, np.ndarray, np.ndarray | None]:
    """The first batch, and the labels and weights of all rows, in one pass."""
    first: Item | None = None
    rest: list[Item] = []
    for item in _checked(batches):
        first = item if first is None else first
        rest.append(item._replace(X=None))  # of which there may be more than memory holds
    if first is None:
        raise ValueError(f"{batches.name} gives no batch, and a minimum of 1 row is required.")
    labels, weights = read_labels(rest, batches.name)
    return first, check_y(labels, multi_output=False, y_numeric=False, estimator=estimator), weights


def read_labels(items: list[Item], name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The labels of all rows, and the weights if there are any."""
    labels = [_labels(item, name) for item in items]
    weights = [item.weights for item in items if item.weights is not None]
    if 0 < len(weights) < len(items):
        raise ValueError(f"{name} gives weights with some batches and not with all; give them always.")
    return np.concatenate(labels), np.concatenate(weights) if weights else None


def _checked(batches: Batches) -> Iterator[Item]:
    for item in batches.items():
        _check_values(item.X, f"The x of {batches.name}")
        yield item


def _sorted(classes: Any) -> np.ndarray:
    known, counts = np.unique(np.asarray(on_host(classes, of="classes")), return_counts=True)
    if len(known) < 2 or (counts > 1).any():
        raise ValueError(f"classes={classes!r} must be two labels or more, each once.")
    return known
