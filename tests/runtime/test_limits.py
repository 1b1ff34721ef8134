"""Limits stand in one place, and answers do not depend on them."""

from __future__ import annotations

import ast
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose
from torch import nn

import torch_logreg
from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._runtime.limits import ANY_OTHER, OF_KIND, Limits, limits_of

PACKAGE = Path(torch_logreg.__file__).parent
# Bounds of precision, of shapes and of work, which no device changes.
OTHERS = {"COUNTED_ROWS", "SUB_ROWS", "MIN_PART_ROWS"}
rng = np.random.default_rng(0)
X = rng.normal(size=(90, 4))
Y = (X @ rng.normal(size=(4, 3)) + rng.gumbel(size=(90, 3))).argmax(axis=1)


def test_a_device_has_the_limits_of_its_kind():
    for kind, of_kind in OF_KIND.items():
        device = torch.device("meta" if kind == ANY_OTHER else kind, 1)  # "meta" has none of its own
        assert limits_of(device) is of_kind
        assert all(isinstance(getattr(of_kind, field.name), int) for field in fields(Limits))
    assert "cpu" in OF_KIND


def test_limits_are_replaced_for_every_kind_of_device(limits):
    before = dict(OF_KIND)
    limits(block_numbers=7)
    assert OF_KIND == {kind: replace(of_kind, block_numbers=7) for kind, of_kind in before.items()}


@pytest.mark.parametrize("field", [field.name for field in fields(Limits)])
def test_every_limit_is_read_somewhere(field):
    files = [file for file in PACKAGE.rglob("*.py") if file.name != "limits.py"]
    assert any(f".{field}" in file.read_text(encoding="utf-8") for file in files)


def test_no_other_file_names_a_size_of_blocks_or_chunks():
    named = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            names = {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
            named |= {
                name
                for name in names
                if name.startswith(
                    ("BLOCK_", "CHUNK_", "CACHE_", "SCRATCH_", "CPU_", "ACCELERATOR_", "KEPT_NUMBERS")
                )
                or name in OTHERS
            }
    assert named == OTHERS


MINIBATCHES = {"solver": "sgd", "batch_size": 7, "random_state": 0, "max_iter": 3, "tol": None}
SETTINGS = {
    "auto": {},
    "newton-cg": {"solver": "newton-cg"},
    "sgd": MINIBATCHES,
    "module": MINIBATCHES | {"module": lambda n_features, n_outputs: nn.Linear(n_features, n_outputs)},
}


@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_array], ids=["dense", "CSR"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_fits_and_predictions_do_not_depend_on_limits(make, n_classes, settings, limits):
    rows, y, model = make(X), Y % n_classes, TorchLogisticClassifier(**settings)
    expected = model.fit(rows, y).predict_log_proba(rows)
    limits(**{field.name: 7 for field in fields(Limits)})  # which divides nothing here
    assert_allclose(model.fit(rows, y).predict_log_proba(rows), expected, rtol=1e-5, atol=1e-7)


def test_choosing_a_penalty_does_not_depend_on_limits(limits):
    model = TorchLogisticClassifierCV(Cs=[0.1, 1.0], cv=3, scoring="neg_log_loss", tol=1e-8).fit(X, Y)
    scores, coef = model.scores_, model.coef_
    limits(**{field.name: 7 for field in fields(Limits)})
    model.fit(X, Y)
    assert_allclose(model.coef_, coef, rtol=1e-5, atol=1e-7)
    assert_allclose(model.scores_, scores, rtol=1e-6)
