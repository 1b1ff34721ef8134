"""A module with default settings predicts as well as scikit-learn's multilayer perceptron."""

from __future__ import annotations

import warnings

import pytest
from sklearn.datasets import make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from helpers.datasets import load
from torch_logreg import ModuleSpec, TorchLogisticClassifier

MARGIN = 0.005  # of accuracy


def mlp(n_features, n_outputs, hidden=100):
    """Like that of `MLPClassifier()`."""
    return nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, n_outputs))


def accuracy(model, X, y):
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    with warnings.catch_warnings():  # neither arrives at an optimum, and both say so
        warnings.simplefilter("ignore", ConvergenceWarning)
        return cross_val_score(
            make_pipeline(StandardScaler(), model), X, y, cv=folds, error_score="raise"
        ).mean()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moons", "digits", "wa_churn"])
def test_an_mlp_with_default_settings_is_as_accurate_as_that_of_scikit_learn(name):
    if name == "moons":
        X, y = make_moons(1000, noise=0.25, random_state=0)
    else:
        _, X, y, _ = load(name)
    ours = accuracy(TorchLogisticClassifier(module=ModuleSpec(mlp), random_state=0), X, y)
    theirs = accuracy(MLPClassifier(random_state=0), X, y)
    assert ours >= theirs - MARGIN, f"{ours:.4f} against {theirs:.4f}"
