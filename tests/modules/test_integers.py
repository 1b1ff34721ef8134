"""Which integers go into a module as they are, and in which dtype it then computes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from torch_logreg import Inputs, TorchLogisticClassifier
from torch_logreg._modules.integers import choose_formats, dtypes_named

CPU = torch.device("cpu")
N = 30
RNG = np.random.default_rng(0)
WORDS, COUNTS = RNG.integers(0, 9, size=(N, 3)), RNG.integers(0, 4, size=(N, 2))
FLOATS, Y = RNG.normal(size=(N, 2)), np.arange(N) % 2


class Bag(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.words, self.last = nn.EmbeddingBag(9, 2, dtype=dtype), nn.Linear(2, 1, dtype=dtype)

    def forward(self, X):
        return self.last(self.words(X))


class Casts(Bag):
    """As modules were written before: it takes floats and makes integers of them."""

    def forward(self, X):
        return super().forward(X.long())


class Words(nn.Module):
    """Looks `words` up, and multiplies with `counts`."""

    def __init__(self):
        super().__init__()
        self.bag, self.rest = Bag(), nn.Linear(2, 1)

    def forward(self, words, counts):
        return self.bag(words) + self.rest(counts)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, X, mask):
        return self.layer(X.masked_fill(mask, 0.0))


def chosen(module, X):
    formats = choose_formats(module, X, CPU)
    assert dtypes_named(formats.names(), formats.module) == formats.inputs
    return formats.module, formats.names()


F32, F64 = torch.float32, torch.float64
CASES = {
    "floats": (nn.Linear(2, 1), FLOATS, (F64, "float64")),
    "single floats": (nn.Linear(2, 1), FLOATS.astype(np.float32), (F32, "float32")),
    "16 bits": (nn.Linear(2, 1), torch.zeros(3, 2, dtype=torch.bfloat16), (F32, "float32")),
    "integers of a linear layer": (nn.Linear(3, 1), WORDS, (F64, "float64")),
    "integers that a module casts": (Casts(), WORDS, (F64, "float64")),
    "integers of an embedding": (Bag(), WORDS, (F32, "int64")),
    "small integers": (Bag(), WORDS.astype(np.uint8), (F32, "int64")),
    "a tensor of integers": (Bag(), torch.from_numpy(WORDS), (F32, "int64")),
    "an embedding in float64": (Bag(F64), WORDS, (F64, "int64")),
    "words and counts": (Words(), Inputs(words=WORDS, counts=COUNTS), (F32, ["int64", "float32"])),
    "words and floats": (Words(), Inputs(words=WORDS, counts=FLOATS), (F64, ["int64", "float64"])),
    "a mask": (Masked(), Inputs(X=FLOATS, mask=FLOATS > 0), (F64, ["float64", "bool"])),
}


@pytest.mark.parametrize("case", CASES)
def test_integers_are_kept_where_floats_are_refused_and_floats_decide_on_the_dtype(case):
    module, X, (dtype, names) = CASES[case]
    before = {name: (value.dtype, value.clone()) for name, value in module.state_dict().items()}
    if isinstance(names, list):
        names = dict(zip(X.keys(), names, strict=True))
    assert chosen(module, X) == (dtype, names)
    for name, value in module.state_dict().items():
        assert value.dtype == before[name][0] and torch.equal(value, before[name][1])
    assert module.training


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_lazy_module_is_not_materialised_by_the_trial():
    module = nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 1))
    assert chosen(module, WORDS) == (F64, "float64")
    assert module[0].has_uninitialized_params()


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("kind", ["numpy", "frame", "torch"])
def test_integers_of_every_kind_are_fitted_and_predicted_alike(kind, dtype):
    settings = {"learning_rate": 0.5, "max_iter": 3, "tol": None, "random_state": 0}
    expected = TorchLogisticClassifier(module=Bag(), **settings).fit(WORDS, Y)
    rows = WORDS.astype(dtype)
    given = {"numpy": rows, "frame": pd.DataFrame(rows, columns=list("abc")), "torch": torch.from_numpy(rows)}
    model = TorchLogisticClassifier(module=expected.module, **settings).fit(given[kind], Y)
    assert (model.input_dtype_, model.n_features_in_, model.input_shape_) == ("int64", 3, (3,))
    np.testing.assert_array_equal(model.predict_proba(given[kind]), expected.predict_proba(WORDS))
    assert model.module_.last.weight.dtype == torch.float32
    if kind == "frame":
        assert model.feature_names_in_.tolist() == list("abc")


FRAME = pd.DataFrame(WORDS, columns=list("abc"))
HELD = {
    "a list": WORDS.tolist(),
    "a nullable frame": pd.DataFrame(WORDS, columns=list("abc")).astype("Int64"),
    "a frame of several dtypes": pd.DataFrame(WORDS, columns=list("abc")).astype(
        {"a": "int8", "b": "UInt16"}
    ),
    "big-endian": WORDS.astype(">i4"),
    "64 bits without a sign": WORDS.astype(np.uint64),
    "backwards in memory": WORDS[::-1].copy()[::-1],
    "columns in memory": np.asfortranarray(WORDS),
}


@pytest.mark.parametrize("held", HELD)
def test_integers_are_kept_however_they_are_held(held):
    settings = {"learning_rate": 0.5, "max_iter": 2, "tol": None, "random_state": 0}
    expected = TorchLogisticClassifier(module=Bag(), **settings).fit(WORDS, Y)
    fitted = TorchLogisticClassifier(module=expected.module, **settings).fit(HELD[held], Y)
    assert fitted.input_dtype_ == "int64"
    np.testing.assert_array_equal(fitted.predict_proba(HELD[held]), expected.predict_proba(WORDS))
    assert hasattr(fitted, "feature_names_in_") == ("frame" in held)


def test_integers_beyond_int64_and_missing_ones_go_in_or_are_refused_as_floats():
    settings = {"learning_rate": 1e-30, "max_iter": 1, "tol": None, "random_state": 0}
    huge = WORDS.astype(np.uint64) + np.uint64(2**63 + 2**20)
    assert TorchLogisticClassifier(module=nn.Linear(3, 1), **settings).fit(huge, Y).input_dtype_ == "float64"
    missing = pd.DataFrame(WORDS).astype("Int64").mask(WORDS == 3)
    with pytest.raises(ValueError, match="contains NaN"):
        TorchLogisticClassifier(module=Bag(), **settings).fit(missing, Y)


def test_integers_of_a_module_that_takes_floats_go_in_as_they_did():
    settings = {
        "learning_rate": 0.05,
        "max_iter": 3,
        "tol": None,
        "random_state": 0,
        "module": nn.Linear(3, 1),
    }
    as_integers = TorchLogisticClassifier(**settings).fit(WORDS, Y)
    as_floats = TorchLogisticClassifier(**settings).fit(WORDS.astype(float), Y)
    assert as_integers.input_dtype_ == as_floats.input_dtype_ == "float64"
    np.testing.assert_array_equal(as_integers.predict_proba(WORDS), as_floats.predict_proba(WORDS))
    np.testing.assert_array_equal(
        as_floats.predict_proba(WORDS), as_floats.predict_proba(WORDS.astype(float))
    )


def test_the_trial_draws_nothing_that_training_would_draw():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, X):
            return self.layer(X + torch.rand_like(X))

    settings = {"learning_rate": 0.05, "max_iter": 2, "tol": None, "random_state": 0, "module": Noisy()}
    as_integers = TorchLogisticClassifier(**settings).fit(WORDS, Y)
    as_floats = TorchLogisticClassifier(**settings).fit(WORDS.astype(float), Y)
    np.testing.assert_array_equal(as_integers.loss_curve_, as_floats.loss_curve_)
