"""Modules trained in 16 bits by autocast."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.nn import functional as F

from torch_logreg import TorchLogisticClassifier

SEED = 0
LOWER = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 6)).astype(np.float32)
    return X, (X[:, 0] + np.abs(X[:, 1]) + rng.normal(size=400) > 0.5).astype(int)


def net():
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 1))


def classifier(**settings):
    given = {
        "module": net(),
        "optimizer": torch.optim.Adam,
        "learning_rate": 0.01,
        "max_iter": 12,
        **settings,
    }
    return TorchLogisticClassifier(**{"batch_size": 50, "random_state": SEED, "C": np.inf, **given})


def loop(precision):
    """Losses before each epoch, in full precision."""
    X, y = data()
    X, y, module = torch.from_numpy(X), torch.from_numpy(y).float(), copy.deepcopy(net())
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "16-mixed")
    generator = torch.Generator().manual_seed(SEED)
    losses = []
    for _ in range(12):
        module.eval()
        with torch.no_grad():
            losses.append(float(F.binary_cross_entropy_with_logits(module(X)[:, 0], y)))
        module.train()
        for rows in torch.randperm(400, generator=generator).split(50):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=LOWER[precision]):
                z = module(X[rows])
            loss = F.binary_cross_entropy_with_logits(z[:, 0].float(), y[rows])
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    return losses, module.eval()


@pytest.mark.parametrize("tol", [None, 1e-4])
@pytest.mark.parametrize("precision", LOWER)
def test_16_bits_train_as_a_loop_by_hand_does(precision, tol):
    X, y = data()
    clf = classifier(precision=precision, tol=tol).fit(X, y)
    losses, module = loop(precision)
    assert_allclose(clf.loss_curve_, losses, rtol=1e-2)
    with torch.no_grad():
        p = torch.sigmoid(module(torch.from_numpy(X)))[:, 0].numpy()
    assert_allclose(clf.predict_proba(X)[:, 1], p, atol=1e-2)
    assert np.isfinite(clf.predict_proba(X)).all()
    assert next(clf.module_.parameters()).dtype == torch.float32


@pytest.mark.parametrize("precision", LOWER)
def test_forward_passes_are_in_16_bits_and_weights_in_32(precision):
    seen = set()

    class Watched(nn.Linear):
        def forward(self, X):
            z = super().forward(X)
            if self.training:
                seen.add((z.dtype, self.weight.dtype))
            return z

    X, y = data()
    classifier(module=Watched(6, 1), precision=precision, max_iter=1).fit(X, y)
    assert seen == {(LOWER[precision], torch.float32)}


def test_stock_sgd_in_16_bits_scales_its_gradients_too():
    X, y = data()
    plain = classifier(optimizer=None, learning_rate=0.1, momentum=0.5).fit(X, y)
    mixed = classifier(optimizer=None, learning_rate=0.1, momentum=0.5, precision="16-mixed").fit(X, y)
    assert_allclose(mixed.loss_curve_, plain.loss_curve_, rtol=1e-2)
    assert mixed.optimizer_ == "SGD"


def test_gradients_below_the_least_number_of_16_bits_are_not_lost():
    """The loss is 1e-8 of what it was, and so are its gradients, which float16 has no numbers for."""
    X, y = data()

    def tiny(logits, target):
        return 1e-8 * F.binary_cross_entropy_with_logits(logits, target, reduction="none")

    settings = {"criterion": tiny, "optimizer": torch.optim.SGD, "learning_rate": 1e6, "tol": None}
    mixed, plain = classifier(**settings, precision="16-mixed").fit(X, y), classifier(**settings).fit(X, y)
    assert_allclose(mixed.loss_curve_, plain.loss_curve_, rtol=2e-2)
    assert plain.loss_curve_[-1] < 0.9 * plain.loss_curve_[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"module": None}, "precision='bf16-mixed' is of modules"),
        ({"optimizer": None, "learning_rate": "auto"}, "is not read with learning_rate='auto'"),
        ({"optimizer": torch.optim.LBFGS}, "goes with precision='32' alone"),
        ({"precision": "bf16"}, "precision"),
    ],
)
def test_what_16_bits_cannot_do_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        classifier(**{"precision": "bf16-mixed", **settings}).fit(*data())


def test_float64_rows_are_refused():
    X, y = data()
    with pytest.raises(ValueError, match=r"pass X.astype\('float32'\)"):
        classifier(precision="bf16-mixed").fit(X.astype(np.float64), y)
