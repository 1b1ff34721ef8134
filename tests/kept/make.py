"""Fitted estimators as files for every later version: ``python tests/kept/make.py`` adds what is missing.

A file that is there is never written again: it stands for what users have on their disks.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
import torch
from sklearn.datasets import load_iris
from torch import nn

from torch_logreg import ModuleSpec, TorchLogisticClassifier, TorchLogisticClassifierCV

HERE = Path(__file__).parent
SKOPS = ("two-classes", "three-classes", "sgd", "sparsified", "cv")  # those without an object of torch


def network(n_outputs: int, *last: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, n_outputs), *last)


def rows(name: str) -> tuple[np.ndarray, np.ndarray]:
    X, y = load_iris(return_X_y=True)
    return (X[50:], y[50:]) if name in ("two-classes", "bce-of-probabilities") else (X, y)


def fits() -> dict[str, Any]:
    few: dict[str, Any] = dict(max_iter=3, tol=None, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        scripted = torch.jit.script(network(3))
    normalised = nn.utils.parametrizations.weight_norm(network(3)[0])
    return {
        "two-classes": TorchLogisticClassifier(),
        "three-classes": TorchLogisticClassifier(C=10.0, class_weight="balanced"),
        "sparsified": TorchLogisticClassifier(),
        "sgd": TorchLogisticClassifier(learning_rate=0.1, **few),
        "cv": TorchLogisticClassifierCV(Cs=3, cv=3),
        "module": TorchLogisticClassifier(module=network(3), **few),
        "module-spec": TorchLogisticClassifier(module=ModuleSpec(nn.Linear, bias=False), **few),
        "bce-of-probabilities": TorchLogisticClassifier(
            module=network(1, nn.Sigmoid()), criterion=nn.BCELoss(), **few
        ),
        "log-probabilities": TorchLogisticClassifier(
            module=network(3, nn.LogSoftmax(dim=1)), criterion=nn.NLLLoss, early_stopping=True, **few
        ),
        "parametrised": TorchLogisticClassifier(
            module=nn.Sequential(normalised, nn.ReLU(), nn.Linear(3, 3)), **few
        ),
        "scripted": TorchLogisticClassifier(module=scripted, **few),
    }


def main() -> None:
    for name, estimator in fits().items():
        if (HERE / f"{name}.pkl").exists():
            continue
        X, y = rows(name)
        estimator.fit(X, y)
        if name == "sparsified":
            estimator.sparsify()
        np.save(HERE / f"{name}.npy", estimator.predict_proba(X))
        (HERE / f"{name}.pkl").write_bytes(pickle.dumps(estimator))
        if name in SKOPS:
            skops.io.dump(estimator, HERE / f"{name}.skops")


if __name__ == "__main__":
    main()
