"""Class codes without a sort are those of numpy, and what scikit-learn says of targets stays said."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.utils.multiclass import check_classification_targets

from torch_logreg import TorchLogisticClassifier
from torch_logreg._checks.labels import factorise

rng = np.random.default_rng(0)
CODES = rng.integers(0, 5, 200)
WORDS = np.array(["no", "yes", "", "nan", "Zoë"])

LABELS: dict[str, np.ndarray] = {
    "0 and 1": CODES % 2,
    "0 to 4": CODES,
    "from 7": CODES + 7,
    "with gaps": np.array([-3, 4, 90, 91, 1000])[CODES],
    "far apart": np.array([-(10**15), 0, 5, 10**12, 2**62])[CODES],
    "the ends of int64": np.array([-(2**63), 2**63 - 1])[CODES % 2],
    "the ends of int8": np.array([-128, 127, 0, 1, -1], dtype=np.int8)[CODES],
    "the end of uint64": np.array([2**64 - 1, 2**64 - 5], dtype=np.uint64)[CODES % 2],
    "both halves of uint64": np.array([2**64 - 1, 0, 2**63], dtype=np.uint64)[CODES % 3],
    "across the middle of uint64": np.array([2**63 - 1, 2**63, 2**63 + 1], dtype=np.uint64)[CODES % 3],
    "uint8": (CODES + 251).astype(np.uint8),
    "big-endian": CODES.astype(">i4") + 3,
    "big-endian, far apart": np.array([-(10**15), 10**15], dtype=">i8")[CODES % 2],
    "bool": CODES > 2,
    "all True": CODES > -1,
    "floats": CODES - 2.0,
    "float16": CODES.astype(np.float16),
    "float32, far apart": np.array([-(2.0**40), 2.0**50], dtype=np.float32)[CODES % 2],
    "zeros of both signs": np.array([0.0, -0.0, 1.0])[CODES % 3],
    "big-endian floats": CODES.astype(">f8"),
    "longdouble": CODES.astype(np.longdouble),
    "too large for int64": np.array([1e18, 2e18])[CODES % 2],
    "words": WORDS[CODES],
    "words as objects": WORDS.astype(object)[CODES],
    "words of two types": np.array([np.str_("a"), "b"], dtype=object)[CODES % 2],
    "one word": np.full(5, "yes"),
    "one number": np.full(5, 3),
    "one row": np.array([3]),
    "reversed": (CODES + 1)[::-1],
    "every second": np.repeat(CODES, 2)[::2],
    "dates": np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[D]")[CODES % 2],
    "many classes": np.arange(30),
}


def outcome(function: Callable, y: np.ndarray) -> tuple[str, list[str], object]:
    """Return the error or "", the warnings, and what came back."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            error, result = "", function(y)
        except Exception as exception:
            error, result = f"{type(exception).__name__}: {exception}", None
    return error, [f"{w.category.__name__}: {w.message}" for w in caught], result


def by_sorting(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    check_classification_targets(y)
    return np.unique(y, return_inverse=True)


@pytest.mark.parametrize("kind", LABELS)
def test_classes_and_codes_are_those_of_numpy(kind):
    y = LABELS[kind]
    before = y.copy()
    error, warned, expected = outcome(by_sorting, y)
    got_error, got_warned, got = outcome(factorise, y)
    assert (got_error, got_warned) == (error, warned)
    if error == "":
        assert got[0].dtype == expected[0].dtype
        assert got[1].dtype == np.int64
        assert_array_equal(got[0], expected[0])
        assert_array_equal(got[1], expected[1])
    assert_array_equal(y, before)


TARGETS: dict[str, np.ndarray] = {
    "continuous": rng.normal(size=50),
    "one that is not whole": np.append(CODES.astype(float), 0.5),
    "infinite": np.array([0.0, np.inf, 1.0]),
    "too large for int64": np.array([1e300, 1.0, 2.0]),
    "too large for a float": np.array([2.0**53, 2.0**53 + 2, 1.0]),
    "words and numbers": np.array(["a", 1, "b"] * 9, dtype=object),
    "numbers and words": np.array([1, "a", "b"] * 9, dtype=object),
    "words and None": np.array(["a", None, "b"] * 9, dtype=object),
    "words and NaN": np.array(["a", np.nan, "b"] * 9, dtype=object),
    "numbers as objects": np.array([1, 2, 1], dtype=object),
    "bytes": np.array([b"a", b"b", b"a"]),
    "bytes as objects": np.array([b"a", b"b", b"a"], dtype=object),
    "lists": np.array([[1], [2, 3], None], dtype=object),
    "complex": np.array([1j, 2.0, 1j]),
    **{f"{k} classes of {n}": np.arange(n) % k for k, n in [(2, 3), (20, 20), (21, 21), (10, 21), (11, 21)]},
    **{
        f"{k} classes of {n}": np.arange(n) % k
        for k, n in [(12, 22), (11, 22), (13, 24), (12, 24), (99, 100)]
    },
    "13 words of 24": np.array([f"w{i % 13}" for i in range(24)], dtype=object),
    "12 floats of 23": (np.arange(23) % 12).astype(float),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_errors_and_warnings_are_those_of_a_check_of_all_rows(kind):
    y = TARGETS[kind]
    (got, *rest), (expected, *same) = outcome(factorise, y)[:2], outcome(by_sorting, y)[:2]
    assert rest == same
    if "type: unknown" in str(expected) or "'<' not supported" in str(expected):  # says less than there is
        assert got.split(":")[0] == expected.split(":")[0]
        assert "Unknown label type: y is an array of objects of type" in got
    else:
        assert got == expected


@pytest.mark.parametrize("kind", ["0 to 4", "with gaps", "far apart", "floats", "words", "words as objects"])
def test_classes_without_weight_stay_and_the_others_are_as_without_them(kind):
    y = LABELS[kind]
    X = rng.normal(size=(len(y), 3))
    absent = np.isin(np.unique(y), np.unique(y)[[0, 3]])
    weight = np.where(np.isin(y, np.unique(y)[absent]), 0.0, 1.0)
    got = TorchLogisticClassifier().fit(X, y, weight)
    expected = TorchLogisticClassifier().fit(X[weight > 0], y[weight > 0])
    assert_array_equal(got.classes_, np.unique(y))
    assert_array_equal(got.classes_[~absent], expected.classes_)
    assert got.classes_.dtype == y.dtype
    np.testing.assert_allclose(got.coef_[~absent], expected.coef_, rtol=1e-6, atol=1e-9)
    assert not got.coef_[absent].any()


def test_the_labels_of_the_caller_are_left_as_they_are():
    X, y = rng.normal(size=(200, 3)), CODES.copy()
    for solver in ("auto", "sgd"):
        for labels in (y, y % 2):
            before = labels.copy()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                TorchLogisticClassifier(solver=solver, max_iter=3).fit(X, labels)
            assert_array_equal(labels, before)
