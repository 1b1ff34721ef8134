"""Scores of every C on the rows of a fold that are kept aside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_logreg._checks.data import TrainingData
from torch_logreg._data.tensors import Features, float_dtype, to_tensor
from torch_logreg._fit.predictor import Linear
from torch_logreg._runtime.limits import limits_of
from torch_logreg._selection.folds import cut_to, rows_of
from torch_logreg._selection.scores import is_vectorised, score_all


class Scorer:
    """Scores all Cs on the rows kept aside of one fold after the other.

    Parameters
    ----------
    name : str or None
        Of the scorer, where it is one of scikit-learn's.
    scorer : callable
        That scorer, or another: of an estimator, X and y.
    parameters : mapping
        Keyword arguments of the scorer: arrays as long as the rows are cut to those kept aside.
    estimator : callable
        Makes a fitted estimator of a ``coef_`` and an ``intercept_``.
    """

    def __init__(
        self,
        name: str | None,
        scorer: Callable[..., float],
        parameters: Mapping[str, Any],
        estimator: Callable[[np.ndarray, np.ndarray], Any],
    ) -> None:
        self._name, self._scorer, self._parameters, self._estimator = name, scorer, parameters, estimator

    def __call__(
        self,
        data: TrainingData,
        y: np.ndarray,
        test: np.ndarray,
        coef: np.ndarray,
        intercept: np.ndarray,
        device: torch.device,
    ) -> np.ndarray:
        """Score coefficients (n_Cs, K, d) and intercepts (n_Cs, K): (n_Cs,)."""
        given = {name: cut_to(value, test, len(y)) for name, value in self._parameters.items()}
        if self._name is not None and set(given) <= {"sample_weight"}:
            weights = given.get("sample_weight")
            on = None if weights is None else torch.as_tensor(weights, dtype=torch.float64, device="cpu")
            codes = torch.as_tensor(data.codes[test], dtype=torch.int64, device="cpu")
            if is_vectorised(self._name, data.classes, codes, on):
                weights, codes = None if on is None else on.to(device), codes.to(device)
                step = max(1, limits_of(device).scored_numbers // (coef.shape[1] * len(test)))
                scores = []
                for part in (slice(first, first + step) for first in range(0, len(coef), step)):
                    z = _raw_predictions(data.X, test, coef[part], intercept[part], device)
                    scores.append(score_all(self._name, z, codes, weights, data.classes))
                return np.concatenate(scores)
        X, labels = rows_of(data.X, test), y[test]
        return np.array(
            [
                self._scorer(self._estimator(*one), X, labels, **given)
                for one in zip(coef, intercept, strict=True)
            ]
        )


def _raw_predictions(
    X: Features, rows: np.ndarray, coef: np.ndarray, intercept: np.ndarray, device: torch.device
) -> Tensor:
    """(n_Cs, K, n), in the dtype of X."""
    n_Cs, K, d = coef.shape
    dtype = float_dtype(X, device)
    bias = to_tensor(intercept.reshape(-1, 1), device, dtype)
    raw = Linear(to_tensor(coef.reshape(-1, d), device, dtype), bias)
    z = torch.empty((n_Cs * K, len(rows)), dtype=dtype, device=device)
    step = limits_of(device).forward_rows
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        z[:, start : start + len(part)] = raw(rows_of(X, part))
    return z.view(n_Cs, K, -1)
