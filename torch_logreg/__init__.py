"""Logistic regression for scikit-learn, on torch."""

from torch_logreg._data.inputs import Inputs
from torch_logreg._estimators.classifier import TorchLogisticClassifier
from torch_logreg._estimators.classifier_cv import TorchLogisticClassifierCV
from torch_logreg._estimators.from_sklearn import from_sklearn
from torch_logreg._estimators.smallest import smallest_C
from torch_logreg._modules.spec import ModuleSpec, OptimizerSpec

__version__ = "0.1.0"

__all__ = [
    "Inputs",
    "ModuleSpec",
    "OptimizerSpec",
    "TorchLogisticClassifier",
    "TorchLogisticClassifierCV",
    "from_sklearn",
    "smallest_C",
]

for _public in (
    Inputs,
    ModuleSpec,
    OptimizerSpec,
    TorchLogisticClassifier,
    TorchLogisticClassifierCV,
    from_sklearn,
    smallest_C,
):
    _public.__module__ = __name__  # pickles name it, and outlive every move of a file
