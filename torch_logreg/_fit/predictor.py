"""Raw predictions of rows, so few at a time that no more than the result is ever as long as X.

Fits, early stopping, scores of every C, printed accuracies and `predict` all come here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from torch_logreg._checks.data import check_finite
from torch_logreg._data.inputs import Dtypes, ModuleFeatures, OfModule, numbers_of_row, to_module
from torch_logreg._data.products import HALF, matmul, upcast_rows
from torch_logreg._data.tensors import Features, float_dtype, on_device, to_tensor
from torch_logreg._losses.links import Link, LogitLink, class_major
from torch_logreg._modules.predictor import ModulePredictor
from torch_logreg._runtime.devices import supports_float64
from torch_logreg._runtime.limits import limits_of
from torch_logreg._runtime.threads import threads_for

LINEAR_LINK = LogitLink()

Raw: TypeAlias = Callable[[Any], Tensor]  # of some rows: raw predictions (K, n), on the device
Output: TypeAlias = Callable[[Link, Tensor], Tensor]  # of raw predictions (K, n): what is asked for, (_, n)


class Linear:
    """Raw predictions ``coef @ X.T + intercept``.

    Parameters
    ----------
    coef : Tensor of shape (K, d)
        On the device, and of the dtype, to compute with.
    intercept : Tensor of shape (K, 1)
    """

    def __init__(self, coef: Tensor, intercept: Tensor) -> None:
        self._coef, self._intercept = coef, intercept

    def __call__(self, rows: Features) -> Tensor:
        X = on_device(rows, self._coef.device, self._coef.dtype)
        return matmul(X, self._coef).add_(self._intercept)


def outputs_of(module: Callable[[OfModule], Tensor], device: torch.device, dtypes: Dtypes) -> Raw:
    """Outputs of a module for rows of any kind, which are made dense for it."""
    return lambda rows: class_major(module(to_module(rows, device, dtypes)), rows.shape[0])


def linear_predictions(
    estimator: BaseEstimator,
    X: Features,
    coef: np.ndarray,
    intercept: Any,
    device: torch.device,
    output: Output,
) -> np.ndarray:
    """`output` of ``coef @ X.T + intercept``. X need not be known to be finite.

    NaN and infinity in a row are there in its raw predictions too, whatever the coefficients: that saves a
    pass over X.
    """
    if coef.shape[1] != X.shape[1]:
        raise ValueError(
            f"coef_ has {coef.shape[1]} columns and X has {X.shape[1]}: they must have equally many."
        )
    dtype = float_dtype(X, device)
    if dtype != torch.float64 and coef.dtype == np.float64 and supports_float64(device):
        dtype = torch.float64
    bias = to_tensor(np.reshape(intercept, (-1, 1)), device, dtype)
    raw, finite = Linear(to_tensor(coef, device, dtype), bias), False

    def of_chunk(rows: Features) -> Tensor:
        nonlocal finite
        z = raw(rows)
        if not finite and not math.isfinite(z.sum().item()):
            check_finite(estimator, X)
            finite = True  # it was but an overflow, in the product or in the sum over rows
        return output(LINEAR_LINK, z)

    step = chunk_rows(X, len(coef), device)
    if min(X.shape[0], len(coef)) == 1:  # MKL makes small products with a vector on one thread by itself
        return by_chunks(X, step, of_chunk)
    with threads_for(X.shape[0] * coef.size):
        return by_chunks(X, step, of_chunk)


def module_predictions(
    X: ModuleFeatures,
    module: nn.Module,
    link: Link,
    n_outputs: int,
    device: torch.device,
    dtypes: Dtypes,
    output: Output,
) -> np.ndarray:
    """`output` of what a module gives in eval mode, whatever mode a user of it has put it in."""
    raw = outputs_of(ModulePredictor(module, device).outputs, device, dtypes)
    # Rows are dense there, and may have many numbers.
    step = min(
        chunk_rows(X, n_outputs, device), max(1, limits_of(device).module_numbers // numbers_of_row(X))
    )
    if isinstance(X, Tensor) and X.dtype in HALF:
        step = min(step, upcast_rows(X))
    return by_chunks(X, step, lambda rows: output(link, raw(rows)))


def chunk_rows(X: ModuleFeatures, n_outputs: int, device: torch.device) -> int:
    """Rows of X to predict at a time."""
    limits = limits_of(device)
    of_outputs = min(limits.predicted_rows, limits.predicted_numbers // n_outputs)
    return max(1, min(of_outputs, limits.moved_numbers // (X.shape[1] + n_outputs)))


def by_chunks(X: ModuleFeatures, step: int, of_chunk: Callable[[Any], Tensor]) -> np.ndarray:
    """Join what `of_chunk` gives for `step` rows at a time, (_, n), to one (n_rows, _)."""
    n_rows = X.shape[0]
    if n_rows <= step:
        return of_chunk(X).cpu().numpy().T
    first = of_chunk(X[:step]).cpu().numpy()
    result = np.empty((len(first), n_rows), dtype=first.dtype)
    result[:, :step] = first
    for start in range(step, n_rows, step):
        result[:, start : start + step] = of_chunk(X[start : start + step]).cpu().numpy()
    return result.T
