"""Vectorised scores against scikit-learn's scorers."""

import warnings

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import get_scorer

from torch_logreg._selection.scores import SCORES, is_vectorised, score_all


class Given(ClassifierMixin, BaseEstimator):
    """Predicts what it is given."""

    def __init__(self, z=None, classes=None):
        self.z = z
        self.classes = classes
        self.classes_ = np.arange(max(len(z), 2)) if classes is None else classes

    def decision_function(self, X):
        return self.z[0] if len(self.z) == 1 else self.z.T

    def predict_proba(self, X):
        z = self.z.astype(np.float64)
        return np.stack([expit(-z[0]), expit(z[0])], axis=1) if len(z) == 1 else softmax(z.T, axis=1)

    def predict(self, X):
        codes = (self.z[0] > 0).astype(int) if len(self.z) == 1 else self.z.argmax(axis=0)
        return self.classes_[codes]


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


def scored(name, z, y, weights, classes=None):
    on = None if weights is None else torch.as_tensor(weights)
    classes = np.arange(max(z.shape[1], 2)) if classes is None else classes
    return score_all(name, torch.as_tensor(z), torch.as_tensor(y), on, classes)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("name", SCORES)
@pytest.mark.one_in(4)
def test_a_score_of_many_models_is_that_of_the_scorer_for_each(name, n_classes, dtype, ties, weighted):
    z, y, weights = problem(n_classes, dtype, ties, weighted)
    on = None if weights is None else torch.as_tensor(weights)
    if not is_vectorised(name, np.arange(n_classes), torch.as_tensor(y), on):
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
    assert not is_vectorised(name, np.arange(2), codes, on)


LABELS = {
    "0 and 1": np.array([0, 1]),
    "-1 and 1": np.array([-1, 1]),
    "1 and 2": np.array([1, 2]),
    "2 and 3": np.array([2, 3]),
    "floats 1 and 2": np.array([1.0, 2.0]),
    "uint8": np.array([1, 255], dtype=np.uint8),
    "bools": np.array([False, True]),
    "words": np.array(["no", "yes"]),
    "words as objects": np.array(["no", "yes"], dtype=object),
    "three numbers": np.array([1, 2, 5]),
    "three with 0": np.array([-1, 0, 1]),
    "three words": np.array(["a", "b", "c"]),
    "three words as objects": np.array(["a", "b", "c"], dtype=object),
}
TEST_PARTS = {
    "each class": lambda K: np.tile(np.arange(K), 20),
    "the first absent": lambda K: np.tile(np.arange(1, K), 20),
    "the last absent": lambda K: np.tile(np.arange(K - 1), 20),
}


def outcome(function):
    """The value, or the type of the error or of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = function()
        except (ValueError, TypeError, ZeroDivisionError, IndexError) as error:  # by version
            return type(error).__name__
    return value, [warning.category.__name__ for warning in caught]


@pytest.mark.parametrize("part", TEST_PARTS)
@pytest.mark.parametrize("weighted", ["no", "all", "some", "but for a class"])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", SCORES)
@pytest.mark.one_in(8)
def test_a_vectorised_score_is_the_scorers_for_every_kind_of_labels(name, kind, weighted, part):
    """Where the scorer raises or warns, `is_vectorised` must say no: then the scorer itself is called."""
    classes = LABELS[kind]
    K = len(classes)
    codes = TEST_PARTS[part](K)
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(3, 1 if K == 2 else K, len(codes)))
    weights = None if weighted == "no" else rng.uniform(0.1, 2, len(codes))
    if weighted == "some":
        weights[: 2 * K] = 0
    elif weighted == "but for a class":
        weights[codes == codes[-1]] = 0
    y = classes[codes]
    scorer = get_scorer(name)
    expected = [
        outcome(
            lambda of_model=of_model: scorer(Given(of_model, classes), y[:, None], y, sample_weight=weights)
        )
        for of_model in z
    ]
    on = None if weights is None else torch.as_tensor(weights)
    if is_vectorised(name, classes, torch.as_tensor(codes), on):
        got = scored(name, z, codes, weights, classes)
        assert [rest for _, rest in expected] == [[]] * len(z)
        np.testing.assert_allclose(got, [value for value, _ in expected], rtol=1e-12)
    elif part == "each class" and weighted in ("no", "all", "some"):  # no score is slow without a reason
        by_version = name == "average_precision" and K > 2 and 1 not in classes.tolist()
        assert by_version or all(isinstance(each, str) for each in expected)


def test_a_log_loss_cuts_probabilities_off_where_the_scorer_does():
    z, y = np.array([[[-1e4, 1.0, 1e4]]]), np.array([1, 1, 0])
    expected = get_scorer("neg_log_loss")(Given(z[0]), y[:, None], y)
    np.testing.assert_allclose(scored("neg_log_loss", z, y, None), expected, rtol=1e-12)
