"""What goes into modules on a second device, torch's ``lazy`` one, is what goes in on the CPU."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torch_logreg import Inputs, TorchLogisticClassifier

N = 16
RNG = np.random.default_rng(0)
IMAGES, WORDS = RNG.normal(size=(N, 1, 3, 3)), RNG.integers(0, 6, size=(N, 4))
Y = np.arange(N) % 2


@pytest.fixture(scope="module", autouse=True)
def lazy(lazy_backend):
    with torch.jit.optimized_execution(False):  # compiling takes longer than it saves
        yield


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.filters, self.last = nn.Conv2d(1, 2, 2), nn.Linear(8, 1)

    def forward(self, image):
        return self.last(self.filters(image).flatten(1))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.last = nn.Embedding(6, 2), nn.Linear(2, 1)

    def forward(self, words):
        return self.last(self.words(words).sum(dim=1))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.words = Image(), Words()

    def forward(self, image, words):
        return self.image(image) + self.words(words)


KINDS = {
    "images": (Image, IMAGES),
    "integers": (Words, WORDS),
    "inputs": (Two, Inputs(image=IMAGES, words=WORDS)),
}


def there(X):
    if isinstance(X, Inputs):
        return Inputs(**{name: torch.as_tensor(X[name]).to("lazy") for name in X.keys()})
    return torch.as_tensor(X).to("lazy")


def model(module, **params):
    settings = {"learning_rate": 0.2, "max_iter": 2, "tol": None, "random_state": 0, "batch_size": 8}
    return TorchLogisticClassifier(module=copy.deepcopy(module), **{**settings, **params})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_input_is_fitted_there_as_it_is_here(kind):
    build, X = KINDS[kind]
    module = build()
    expected = model(module).fit(X, Y)
    for given, device in ((X, "lazy"), (there(X), None)):
        fitted = model(module, device=device).fit(given, Y)
        assert {p.device.type for p in fitted.module_.parameters()} == {"lazy"}
        assert_allclose(fitted.loss_curve_, expected.loss_curve_, rtol=1e-5)
        assert (fitted.input_dtype_, fitted.input_shape_) == (expected.input_dtype_, expected.input_shape_)
        for rows in (X, there(X)):
            assert_allclose(fitted.predict_proba(rows), expected.predict_proba(X), rtol=1e-4)
    assert_allclose(model(module, device="cpu").fit(there(X), Y).loss_curve_, expected.loss_curve_, rtol=1e-5)


def test_an_input_there_takes_one_here_with_it():
    X = KINDS["inputs"][1]
    expected = model(Two()).fit(X, Y)
    mixed = Inputs(image=X["image"], words=there(WORDS))
    fitted = model(expected.module).fit(mixed, Y)
    assert {p.device.type for p in fitted.module_.parameters()} == {"lazy"}
    assert_allclose(fitted.predict_proba(mixed), expected.predict_proba(X), rtol=1e-4)


def test_a_loader_of_rows_there_or_here_is_trained_on_there():
    module, y = Image(), torch.as_tensor(Y)
    expected = model(module).fit(TensorDataset(torch.as_tensor(IMAGES), y))
    for X, labels, device in ((there(IMAGES), y.to("lazy"), None), (torch.as_tensor(IMAGES), y, "lazy")):
        dataset = TensorDataset(X, labels)
        fitted = model(module, device=device).fit(dataset)
        assert {p.device.type for p in fitted.module_.parameters()} == {"lazy"}
        assert_allclose(fitted.loss_curve_, expected.loss_curve_, rtol=1e-5)
        loader = DataLoader(dataset, batch_size=8)
        assert_allclose(fitted.predict_proba(loader), expected.predict_proba(IMAGES), rtol=1e-4)
        assert fitted.score(loader) == expected.score(IMAGES, Y)


def test_early_stopping_cuts_what_lies_there():
    X = KINDS["inputs"][1]
    module = Two()
    expected = model(module, early_stopping=True, validation_fraction=0.25).fit(X, Y)
    fitted = model(module, early_stopping=True, validation_fraction=0.25).fit(there(X), Y)
    assert_allclose(fitted.validation_scores_, expected.validation_scores_)


def test_a_row_there_that_is_not_a_number_is_refused():
    spoilt = IMAGES.copy()
    spoilt[2, 0, 1, 1] = np.nan
    for X, module in ((there(spoilt), Image()), (there(Inputs(image=spoilt, words=WORDS)), Two())):
        with pytest.raises(ValueError, match="contains NaN or infinity"):
            model(module).fit(X, Y)
