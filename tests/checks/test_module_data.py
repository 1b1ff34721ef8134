"""What `fit`, `predict` and `score` say of X that a module, or the linear model, cannot take."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from torch_logreg import Inputs, TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._checks.module_data import check_module_fit, check_module_validation
from torch_logreg._data.loaders import Loaded

N = 20
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(N, 1, 4, 4)).astype(np.float32)
FLAT, Y = IMAGES.reshape(N, 16), np.arange(N) % 2
WORDS = RNG.integers(0, 9, size=(N, 3))
SPOILT = np.where(np.arange(16) == 3, np.nan, FLAT)
SETTINGS = {"learning_rate": 0.1, "max_iter": 1, "tol": None, "random_state": 0}


class Bag(nn.Module):
    def __init__(self, n_words=9):
        super().__init__()
        self.words, self.last = nn.EmbeddingBag(n_words, 2), nn.Linear(2, 1)

    def forward(self, X):
        return self.last(self.words(X))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat, self.bag = nn.Linear(16, 1), Bag()

    def forward(self, rows, words):
        return self.flat(rows) + self.bag(words)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(FLAT, Y, strict=True))


class WithoutLength(Dataset):
    def __getitem__(self, i):
        return FLAT[i], Y[i]


def linear(n_features, n_outputs):
    return nn.Linear(n_features, n_outputs)


def convolution(n_features, n_outputs):
    return nn.Sequential(nn.Conv2d(n_features, 2, 3), nn.Flatten(), nn.Linear(8, n_outputs))


def model(module=linear, **params):
    return TorchLogisticClassifier(module=module, **SETTINGS, **params)


def pairs(X=FLAT, y=Y, *more) -> TensorDataset:
    return TensorDataset(*map(torch.as_tensor, (X, y, *more)))


def loader(**settings) -> DataLoader:
    return DataLoader(pairs(), **{"batch_size": 8, **settings})


def both() -> Inputs:
    return Inputs(rows=FLAT, words=WORDS)


# ---- fit ----

REFUSED = {
    "a dict": (lambda: model().fit({"a": FLAT}, Y), TypeError,
    r"X is a dict of \['a'\]; pass Inputs\(\*\*X\)"), "a dict, linear": (
        lambda: TorchLogisticClassifier().fit({"a": FLAT}, Y),
        TypeError,
        r"pass Inputs\(\*\*X\) to a module .*or pandas\.DataFrame\(X\)",
    ),
    "images, linear": (lambda: TorchLogisticClassifier().fit(IMAGES, Y), ValueError, "array with dim 4"),
    "inputs, linear": (
        lambda: TorchLogisticClassifier().fit(both(), Y),
        TypeError,
        r"X is Inputs\(rows=.*this is the linear model; pass one array, such as np\.hstack",
    ),
    "inputs, CV": (lambda: TorchLogisticClassifierCV().fit(both(), Y), TypeError, "this is the linear model"),
    "one dimension": (lambda: model().fit(FLAT[:, 0], Y), ValueError, "Expected 2D array, got 1D"),
    "one dimension of 16 bits": (
        lambda: model().fit(torch.zeros(N, dtype=torch.bfloat16), Y),
        ValueError,
        "Expected 2D array, got 1D",
    ),
    "NaN in an image": (
        lambda: model(convolution).fit(np.where(IMAGES > 2, np.nan, IMAGES), Y),
        ValueError,
        "Input X contains NaN",
    ),
    "NaN in an input": (
        lambda: model(Two()).fit(Inputs(rows=SPOILT, words=WORDS), Y),
        ValueError,
        r"X\['rows'\] contains NaN or infinity",
    ),
    "complex": (
        lambda: model(Two()).fit(Inputs(rows=FLAT * 1j, words=WORDS), Y),
        ValueError,
        r"Complex data not supported: X\['rows'\]",
    ),
    "no row": (lambda: model(Two()).fit(both()[:0], Y[:0]), ValueError, "without a row"),
    "no columns": (
        lambda: model(Two()).fit(Inputs(rows=FLAT[:, :0]), Y),
        ValueError,
        r"X\['rows'\] has the shape \(20, 0\), and each row must hold a number",
    ),
    "labels of other rows": (lambda: model(Two()).fit(both(), Y[1:]), ValueError,
    "X has 20 rows and y has 19"), "no labels": (lambda: model(Two()).fit(both()), ValueError,
    "requires y to be passed"), "no labels of an array": (lambda: model().fit(FLAT), ValueError,
    "requires y to be passed"), "classes of an array": (lambda: model().fit(FLAT, Y, classes=[0, 1]),
    ValueError, "leave it out: y has"), "classes, linear": (
        lambda: TorchLogisticClassifier().fit(FLAT, Y, classes=[0, 1]),
        ValueError,
        "leave it out: this is the linear model",
    ),
    "y of a dataset": (
        lambda: model().fit(pairs(), Y),
        ValueError,
        "y is given beside a TensorDataset.*in the second place",
    ),
    "weights of a loader": (
        lambda: model().fit(loader(), sample_weight=Y),
        ValueError,
        "sample_weight is given beside a DataLoader.*in the third place",
    ),
    "an iterator": (lambda: model().fit(iter(loader())), TypeError, "X is a _SingleProcessDataLoaderIter"),
    "a generator": (lambda: model().fit(x for x in FLAT), TypeError, "X is a generator"),
    "an iterable dataset": (
        lambda: model().fit(Stream()),
        TypeError,
        r"X is a Stream, an IterableDataset.*pass a DataLoader of it, DataLoader\(X, batch_size=...\)",
    ),
    "no length": (lambda: model().fit(WithoutLength()), TypeError, "X is a WithoutLength.*without __len__"),
    "a batch size twice": (
        lambda: model(batch_size=8).fit(loader()),
        ValueError,
        "batch_size=8 is not read with a DataLoader.*set batch_size='auto'",
    ),
    "all rows of a loader": (lambda: model(batch_size=None).fit(loader()), ValueError,
    "batch_size=None is not"), "early stopping of a loader": (
        lambda: model(early_stopping=True).fit(loader()),
        ValueError,
        "early_stopping=True keeps rows aside.*pass rows to score as X_val, its Dataset",
    ),
    "single rows": (lambda: model().fit(loader(batch_size=None)), ValueError, "set its batch_size"),
    "a dataset without y": (
        lambda: model().fit(TensorDataset(torch.as_tensor(FLAT))),
        ValueError,
        r"TensorDataset gives x without y; training needs pairs \(x, y\)",
    ),
    "four parts": (lambda: model().fit(pairs(FLAT, Y, Y, Y)), TypeError, "batches of 4 parts"),
    "several labels": (lambda: model().fit(pairs(FLAT, FLAT)), ValueError, r"labels of shape \(20, 16\)"),
    "one class": (lambda: model().fit(pairs(FLAT, 0 * Y)), ValueError, "labels of only one class, 0"),
    "NaN in a batch": (lambda: model().fit(pairs(SPOILT)), ValueError, "x of TensorDataset contains NaN"),
    "NaN labels": (
        lambda: model().fit(pairs(FLAT, np.where(Y, np.nan, 0.0))), ValueError, "Input y contains NaN"
    ),
    "continuous labels": (lambda: model().fit(pairs(FLAT, FLAT[:, 0])), ValueError, "continuous"),
    "negative weights": (
        lambda: model().fit(pairs(FLAT, Y, -1.0 * Y)), ValueError, r"sample_weight\[1\] is -1\.0"
    ),
    "no rows": (lambda: model().fit(pairs(FLAT[:0], Y[:0])), ValueError, "gives no batch"),
    "a class that is not named": (
        lambda: model().fit(pairs(), classes=[0, 2]),
        ValueError,
        r"TensorDataset has the label 1, which is none of the classes \[0, 2\]",
    ),
    "a class that is not named, weighed": (
        lambda: model(class_weight="balanced").fit(loader(), classes=[0, 2]), ValueError, "has the label 1"
    ),
    "classes twice": (lambda: model().fit(loader(), classes=[1, 1]), ValueError,
    "two labels or more, each once"), "a dataset, linear": (lambda: TorchLogisticClassifier().fit(pairs()),
    TypeError, "X is a TensorDataset"), "a loader, CV": (lambda: TorchLogisticClassifierCV().fit(loader(), Y),
    TypeError, "X is a DataLoader"), "a list of pairs": (
        lambda: model().fit([pairs()[i] for i in range(4)]),
        TypeError,
        r"X is a list of tuples such as \(Tensor, Tensor\).*they need arrays: pass X and y",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_fitted_gets_a_sentence_that_says_what_would_work(case):
    call, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        call()


def test_a_search_over_a_dataset_says_that_it_needs_arrays():
    with pytest.raises(TypeError, match="searches and cross-validation make of a Dataset; they need arrays"):
        GridSearchCV(model(), {"learning_rate": [0.1]}, cv=2, error_score="raise").fit(pairs())


@pytest.mark.filterwarnings("ignore")
def test_a_failed_fit_leaves_the_earlier_model():
    fitted = model(convolution).fit(IMAGES, Y)
    before = fitted.predict_proba(IMAGES)
    for X, y in ((both(), Y), (FLAT, Y), (loader(), Y)):
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            fitted.fit(X, y)
        assert (fitted.n_features_in_, fitted.input_shape_) == (1, (1, 4, 4))
        np.testing.assert_array_equal(fitted.predict_proba(IMAGES), before)


# ---- predict and score ----

UNPREDICTED = {
    "flat images": (
        convolution,
        IMAGES,
        lambda m: m.predict(FLAT),
        r"X has rows of shape \(16,\), and the module was fitted on rows of shape \(1, 4, 4\); pass the same",
    ),
    "smaller images": (convolution, IMAGES, lambda m: m.predict(IMAGES[:, :, :3]),
    r"rows of shape \(1, 3, 4\)"), "tensors of 16 bits": (
        convolution,
        IMAGES,
        lambda m: m.predict(torch.zeros(2, 1, 4, 5, dtype=torch.bfloat16)),
        r"rows of shape \(1, 4, 5\)",
    ),
    "images for columns": (linear, FLAT, lambda m: m.predict(IMAGES), r"fitted on rows of shape \(16,\)"),
    "fewer columns": (linear, FLAT, lambda m: m.predict(FLAT[:, :3]), "X has 3 features.*expecting 16"),
    "inputs for columns": (
        linear,
        FLAT,
        lambda m: m.predict(both()),
        r"X has the inputs \['rows', 'words'\], and the module was fitted on rows of shape \(16,\)",
    ),
    "other names": (
        Two(),
        both(),
        lambda m: m.predict(Inputs(rows=FLAT, text=WORDS)),
        r"X has the inputs \['rows', 'text'\], and the module was fitted on \['rows', 'words'\]",
    ),
    "another shape": (
        Two(),
        both(),
        lambda m: m.predict(Inputs(rows=FLAT[:, :2], words=WORDS)),
        r"X\['rows'\] has rows of shape \(2,\)",
    ),
    "an array for inputs": (
        Two(),
        both(),
        lambda m: m.predict(FLAT),
        r"X is a ndarray, and the module was fitted on Inputs of \['rows', 'words'\]; pass Inputs\(rows=...",
    ),
    "a dataset of an array for inputs": (Two(), both(), lambda m: m.predict(pairs()),
    "The x of TensorDataset"), "NaN": (Two(), both(), lambda m: m.predict(Inputs(rows=SPOILT, words=WORDS)),
    "contains NaN"), "NaN in a batch": (linear, FLAT, lambda m: m.predict(pairs(SPOILT)),
    "The x of TensorDataset contains NaN"), "fractions": (Bag(), WORDS, lambda m: m.predict(WORDS + 0.5),
    r"X holds fractions.*torch\.int64; pass integers"), "fractions of an input": (
        Two(),
        both(),
        lambda m: m.predict(Inputs(rows=FLAT, words=WORDS + 0.5)),
        r"X\['words'\] holds fractions",
    ),
    "labels beside": (linear, FLAT, lambda m: m.score(pairs(), Y), "y is given beside a TensorDataset"),
    "weights beside": (linear, FLAT, lambda m: m.score(loader(), None, Y), "sample_weight is given beside"),
    "a score without labels": (
        linear, FLAT, lambda m: m.score(TensorDataset(torch.as_tensor(FLAT))), "gives x without y"
    ),
    "an iterable dataset": (linear, FLAT, lambda m: m.predict(Stream()), "pass a DataLoader of it"),
    "a dict": (linear, FLAT, lambda m: m.predict({"a": FLAT}), r"pass Inputs\(\*\*X\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNPREDICTED)
def test_what_cannot_be_predicted_gets_a_sentence_that_says_what_would_work(case):
    module, X, call, words = UNPREDICTED[case]
    fitted = model(module).fit(X, Y)
    with pytest.raises((TypeError, ValueError), match=words):
        call(fitted)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score"])
def test_a_model_that_is_not_fitted_says_so_of_a_dataset_too(method):
    with pytest.raises(NotFittedError):
        getattr(model(), method)(pairs())


def test_numbers_that_are_whole_are_as_good_as_integers_for_prediction():
    fitted = model(Bag()).fit(WORDS, Y)
    np.testing.assert_array_equal(fitted.predict_proba(WORDS.astype(float)), fitted.predict_proba(WORDS))


# ---- layers that do not fit ----

UNFITTING = {
    "columns": (nn.Linear(3, 1), FLAT, r"called with X of shape \(.*Its first layer has to take 16 columns"),
    "images": (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(9, 1)),
        IMAGES,
        r"called with X of shape \(20, 1, 4, 4\) .*has to take rows of shape \(1, 4, 4\)",
    ),
    "integers": (
        Bag(3),
        WORDS,
        r"As integers, X went in too, and it raised .*num_embeddings above the largest integer",
    ),
    "inputs": (
        nn.Linear(16, 1),
        Inputs(rows=FLAT),
        r"called with rows of shape \(20, 16\) .*Its forward has to take, for each row, rows of shape \(16,",
    ),
}


@pytest.mark.parametrize("case", UNFITTING)
def test_the_note_of_a_layer_that_does_not_fit_says_what_went_in(case):
    module, X, words = UNFITTING[case]
    with pytest.raises((RuntimeError, TypeError, IndexError)) as raised:
        model(module).fit(X, Y)
    assert re.search(words, " ".join(raised.value.__notes__), re.DOTALL)


def test_an_integer_that_only_a_later_row_holds_is_told_what_to_do():
    words = np.where(np.arange(N)[:, None] < 5, 1, WORDS)
    with pytest.raises((RuntimeError, IndexError)) as raised:
        model(Bag(3)).fit(words, Y)
    assert "have to be below its num_embeddings" in raised.value.__notes__[0]


# ---- rows to validate with ----


def _checked(estimator, X, y=None):
    return check_module_fit(estimator, X, y, None, None, holds_out=False)


@pytest.mark.parametrize(
    ("X", "module"), [(FLAT, linear), (IMAGES, convolution), (both(), Two()), (pairs(), linear)]
)
def test_rows_to_validate_with_are_checked_like_those_to_predict_and_coded_among_the_classes(X, module):
    estimator, loaded = model(module), isinstance(X, Dataset)
    labels = np.array(["a", "b", "c"])[np.arange(N) % 3]
    data = _checked(estimator, pairs(FLAT, np.arange(N) % 3) if loaded else X, None if loaded else labels)
    if loaded:
        kept = check_module_validation(
            estimator, data, pairs(FLAT[:4], [2, 1, 1, 0], [1.0, 2, 3, 4]), None, None
        )
        assert isinstance(kept.X, Loaded) and kept.X.shape == (4, 16)
    else:
        kept = check_module_validation(estimator, data, X[:4], labels[[2, 1, 1, 0]], [1, 2, 3, 4])
        assert kept.X.shape[0] == 4
    assert kept.codes.tolist() == [2, 1, 1, 0] and kept.weights.tolist() == [1, 2, 3, 4]
    assert kept.classes is data.classes


def test_rows_to_validate_with_are_not_held_to_the_fit_before():
    estimator = model(Bag()).fit(WORDS, Y)
    estimator.set_params(module=linear)
    data = _checked(estimator, FLAT, Y)
    assert check_module_validation(estimator, data, FLAT + 0.5, Y, None).X.shape == (N, 16)
    for X, words in (
        (pairs(IMAGES), r"The x of TensorDataset has rows of shape \(1, 4, 4\)"),
        (both(), "inputs"),
    ):
        with pytest.raises(ValueError, match=words):
            check_module_validation(estimator, data, X, None if isinstance(X, Dataset) else Y, None)
