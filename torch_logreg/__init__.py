"""Logistic regression for scikit-learn, on torch."""

from torch_logreg._classifier import TorchLogisticClassifier

__version__ = "0.1.0"

__all__ = ["TorchLogisticClassifier"]
