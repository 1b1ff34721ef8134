"""What other processes are given to do: they import it by name, as they could no test."""

from __future__ import annotations

import numpy as np
from sklearn.base import clone

from torch_logreg import TorchLogisticClassifier


def coefficients(X: np.ndarray, y: np.ndarray, C: float) -> np.ndarray:
    return TorchLogisticClassifier(C=C).fit(X, y).coef_


def probabilities(estimator: TorchLogisticClassifier, X: np.ndarray) -> np.ndarray:
    return estimator.predict_proba(X)


def refitted(estimator: TorchLogisticClassifier, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    return clone(estimator).fit(X, y).coef_
