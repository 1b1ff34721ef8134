"""Vectorised scores against scikit-learn's scorers."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import get_scorer

from torch_logreg._scores import SCORES, is_vectorised, score_all


class Given(ClassifierMixin, BaseEstimator):
    """Predicts what it is given."""

    def __init__(self, z=None):
        self.z = z
        self.classes_ = np.arange(max(len(z), 2))

    def decision_function(self, X):
        return self.z[0] if len(self.z) == 1 else self.z.T

    def predict_proba(self, X):
        z = self.z.astype(np.float64)
        return np.stack([expit(-z[0]), expit(z[0])], axis=1) if len(z) == 1 else softmax(z.T, axis=1)

    def predict(self, X):
        return (self.z[0] > 0).astype(int) if len(self.z) == 1 else self.z.argmax(axis=0)


def problem(n_classes, dtype, ties, weighted, n=200):
    rng = np.random.default_rng(n_classes)
    z = 2 * rng.normal(size=(4, 1 if n_classes == 2 else n_classes, n)).astype(dtype)
    if ties:
        z = np.round(z)
    y = np.concatenate([np.arange(n_classes), rng.integers(n_classes, size=n - n_classes)])
    weights = rng.integers(0, 4, size=n).astype(float) if weighted else None
    if weighted:
        weights[:n_classes] = 1.0
    return z, y, weights


def scored(name, z, y, weights):
    on = None if weights is None else torch.as_tensor(weights)
    return score_all(name, torch.as_tensor(z), torch.as_tensor(y), on)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("name", SCORES)
def test_a_score_of_many_models_is_that_of_the_scorer_for_each(name, n_classes, dtype, ties, weighted):
    z, y, weights = problem(n_classes, dtype, ties, weighted)
    on = None if weights is None else torch.as_tensor(weights)
    if not is_vectorised(name, n_classes, torch.as_tensor(y), on):
        assert name == "roc_auc" and n_classes > 2
        return
    scorer = get_scorer(name)
    expected = [scorer(Given(of_model), y[:, None], y, sample_weight=weights) for of_model in z]
    np.testing.assert_allclose(scored(name, z, y, weights), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["average_precision", "balanced_accuracy", "roc_auc"])
@pytest.mark.parametrize("weights", [None, [0.0, 1.0, 1.0]])
def test_where_a_class_has_no_row_the_scorer_decides(name, weights):
    codes = torch.tensor([0, 1, 1]) if weights else torch.tensor([1, 1, 1])
    on = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    assert not is_vectorised(name, 2, codes, on)


def test_a_log_loss_cuts_probabilities_off_where_the_scorer_does():
    z, y = np.array([[[-1e4, 1.0, 1e4]]]), np.array([1, 1, 0])
    expected = get_scorer("neg_log_loss")(Given(z[0]), y[:, None], y)
    np.testing.assert_allclose(scored("neg_log_loss", z, y, None), expected, rtol=1e-12)
