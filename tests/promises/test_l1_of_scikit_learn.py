"""scikit-learn's own tests of L1 and elastic net, as it installs them, on our class in the place of saga."""

from __future__ import annotations

import inspect
import itertools
import warnings

import numpy as np
import pytest
import scipy.sparse
import sklearn
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.utils.fixes import parse_version

from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV, from_sklearn

pytestmark = pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.9"), reason="these tests name other parameters"
)

# Of a test: values of its parameters that are not its own fixtures, as scikit-learn's decorators list them.
SEEDS = [0, 7]
CASES = {
    "test_logreg_l1": {"global_random_seed": SEEDS, "csr_container": [scipy.sparse.csr_array]},
    "test_saga_vs_liblinear": {
        "global_random_seed": SEEDS,
        "csr_container": [scipy.sparse.csr_array],
        "l1_ratio": [0, 1],
    },
    "test_sample_and_class_weight_equivalence_liblinear": {"global_random_seed": SEEDS},
    "test_elastic_net_coeffs": {"global_random_seed": SEEDS},
    "test_elastic_net_l1_l2_equivalence": {
        "global_random_seed": SEEDS[:1],
        "C": [0.001, 0.1, 1, 10, 100, 1000, 1e6],
        "penalty, l1_ratio": [("l1", 1), ("l2", 0)],
    },
    "test_elastic_net_vs_l1_l2": {"C": [0.001, 1, 100, 1e6]},
    "test_LogisticRegression_elastic_net_objective": {
        "C": np.logspace(-3, 2, 4).tolist(),
        "l1_ratio": [0.1, 0.5, 0.9],
    },
    "test_elastic_net_versus_sgd": {
        "global_random_seed": SEEDS[:1],
        "C": np.logspace(-3, 2, 4).tolist(),
        "l1_ratio": [0.1, 0.5, 0.9],
    },
    "test_logisticregression_liblinear_sample_weight": {
        "global_random_seed": SEEDS,
        "params": [{"l1_ratio": 1, "tol": 1e-6, "max_iter": 1000}],
    },
    # Those of LogisticRegressionCV that ask for attributes as they are here, without the axis of classes.
    "test_logistic_regression_cv_refit": {"global_random_seed": SEEDS, "l1_ratio": [1, 0]},
    "test_LogisticRegressionCV_GridSearchCV_elastic_net": {"n_classes": [2, 3]},
}


def theirs():
    """The module of scikit-learn's tests, which it installs with itself."""
    from sklearn.linear_model.tests import test_logistic

    return test_logistic


def calls():
    """Every test with every combination of its parameters."""
    for name, values in CASES.items():
        for combination in itertools.product(*values.values()):
            settings = {}
            for key, value in zip(values, combination, strict=True):
                names = key.split(", ")
                settings |= dict(zip(names, value if len(names) > 1 else (value,), strict=True))
            yield pytest.param(name, settings, id=f"{name}-{list(settings.values())}")


class Made:
    """Stands for an estimator of theirs, and makes ours wherever it is to be solved by one of `solvers`."""

    def __init__(self, theirs, solvers):
        self.theirs, self.solvers, self.made = theirs, solvers, []

    def __call__(self, *args, **settings):
        estimator = self.theirs(*args, **settings)
        if estimator.solver not in self.solvers:
            return estimator
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of `penalty`, which their tests still name
            warnings.filterwarnings("ignore", ".*left out: dual=True", UserWarning)  # of liblinear alone
            ours = from_sklearn(estimator)
        self.made.append(ours)
        return ours


@pytest.mark.parametrize("name, settings", list(calls()))
def test_their_test_passes(monkeypatch, name, settings):
    module = theirs()
    test = getattr(module, name)
    # Where saga is not asked for, or is compared with liblinear, which penalises the intercept, theirs stays.
    solvers = ("liblinear",) if "saga" not in inspect.getsource(test) else ("saga",)
    made = []
    for kind in (LogisticRegression, LogisticRegressionCV):
        stand_in = Made(kind, solvers)
        monkeypatch.setattr(module, kind.__name__, stand_in)
        made.append(stand_in.made)
    test(**settings)
    assert all(isinstance(each, TorchLogisticClassifier) for each in made[0])
    assert all(isinstance(each, TorchLogisticClassifierCV) for each in made[1])
    assert made[1] if "CV" in name or "_cv_" in name else made[0]
