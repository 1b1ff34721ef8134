"""Several inputs as one X: what may be in it, how it is cut, and that scikit-learn cuts it."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.model_selection import KFold, train_test_split
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.validation import _num_features, _num_samples

from torch_logreg import Inputs
from torch_logreg._data.inputs import (
    float_dtype_of,
    holder,
    is_integral,
    numbers_of_row,
    shapes_of,
    to_memory,
    to_module,
    widths_of,
)

CPU = torch.device("cpu")
N = 10


def some() -> Inputs:
    return Inputs(
        image=np.arange(N * 8, dtype=np.float32).reshape(N, 2, 2, 2),
        words=torch.arange(N * 3).reshape(N, 3),
        age=np.arange(N, dtype=np.float64),
    )


def first_numbers(X: Inputs) -> tuple[list, list, list]:
    image, words = np.asarray(X["image"]).reshape(-1, 8), np.asarray(X["words"])
    return (image[:, 0] // 8).tolist(), (words[:, 0] // 3).tolist(), np.asarray(X["age"]).tolist()


MASK = np.arange(N) % 3 == 1
KEYS = {
    "a slice": slice(2, 7),
    "a slice with steps": slice(1, None, 3),
    "a slice backwards": slice(None, None, -2),
    "numbers": np.array([7, 0, 7]),
    "a list": [3, 1],
    "negative numbers": [-1, 0],
    "none": [],
    "32 bits": np.array([1, 2], dtype=np.int32),
    "a mask": MASK,
    "a list of truth values": MASK.tolist(),
    "a tensor": torch.tensor([5, 2]),
    "a mask that is a tensor": torch.from_numpy(MASK),
    "scikit-learn's pair": (np.array([4, 2]), ...),
    "a pair of a slice": (slice(3), ...),
}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_cuts_all_inputs_alike(key):
    rows = KEYS[key]
    plain = rows[0] if isinstance(rows, tuple) else rows
    expected = np.arange(N)[np.asarray(plain, dtype=int) if key == "none" else plain].tolist()
    part = some()[rows]
    assert type(part) is Inputs and len(part) == len(expected)
    assert first_numbers(part) == (expected, expected, expected)
    assert type(part["words"]) is torch.Tensor and type(part["image"]) is np.ndarray


def test_its_shape_is_that_of_one_array_with_the_columns_of_all():
    X = some()
    assert len(X) == N and X.shape == (N, 2 + 3 + 1) and list(X.keys()) == ["image", "words", "age"]
    assert repr(X) == "Inputs(image=float32 (10, 2, 2, 2), words=int64 (10, 3), age=float64 (10,))"
    assert dict(**X).keys() == X.keys()


def test_scikit_learn_takes_it_for_rows():
    X, y = some(), np.arange(N) % 2
    assert indexable(X, y)[0] is X and _num_samples(X) == N and _num_features(X) == 6
    for key in (np.array([4, 2]), [4, 2], MASK, slice(2, 4)):
        assert first_numbers(_safe_indexing(X, key)) == first_numbers(X[key])
    train, test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=0, stratify=y)
    assert (len(train), len(test)) == (7, 3)
    for part, labels in ((train, y_train), (test, y_test)):
        assert [int(age) % 2 for age in part["age"]] == labels.tolist()
    assert len(list(KFold(5).split(X))) == 5


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda X: pickle.loads(pickle.dumps(X))])
def test_copies_and_pickles_hold_the_same(copied):
    X = some()
    again = copied(X)
    assert repr(again) == repr(X) and first_numbers(again) == first_numbers(X)


def test_frames_and_lists_become_arrays_and_arrays_stay_what_they_are():
    array, tensor = np.zeros((2, 1)), torch.zeros(2, dtype=torch.bfloat16)
    X = Inputs(a=array, b=tensor, c=pd.DataFrame({"u": [1, 2], "v": [3, 4]}), d=[0.5, 1], e=pd.Series([1, 2]))
    assert X["a"] is array and X["b"] is tensor and X["c"].tolist() == [[1, 3], [2, 4]]
    assert Inputs(a=np.ones(2, dtype=np.longdouble))["a"].dtype == np.float64
    assert repr(X["d"]) == "array([0.5, 1. ])" and X["e"].dtype == np.int64


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({}, ValueError, r"Inputs\(\) has no input; name each as `forward` does"),
        ({"a": [1, 2], "b": [1]}, ValueError, "equally many rows, and 'a' has 2, 'b' has 1; cut them alike"),
        ({"a": 3.0}, ValueError, "'a' is one number; an input must have a row for each sample"),
        ({"a": ["u", "v"]}, TypeError, "'a' is a list of dtype <U1.*encode it as numbers"),
        ({"a": pd.DataFrame({"u": ["v"]})}, TypeError, "'a' is a DataFrame of dtype .*encode it as numbers"),
        ({"a": [[1, 2], [3]]}, ValueError, "'a' is a list that is no array.*rows must have one shape"),
        ({"a": scipy.sparse.eye_array(3)}, TypeError, r"'a' is sparse.*pass a\.toarray\(\)"),
        ({"a": np.ma.masked_array([1.0], [True])}, TypeError, "'a' is a masked array; impute"),
    ],
)
def test_what_is_no_input_is_refused(given, error, words):
    with pytest.raises(error, match=words):
        Inputs(**given)


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        (3, TypeError, r"the key is 3; of one row use X\[i : i \+ 1\], of one input X\['name'\]"),
        ((slice(2), 0), TypeError, "cut by rows alone"),
        ([0.5], TypeError, "an array of row numbers or a mask"),
        (MASK[:4], IndexError, "mask has 4 values and there are 10 rows"),
        ([N], IndexError, "out of bounds|out of range"),
        ("picture", KeyError, "no input 'picture'; there are .*image"),
    ],
)
def test_what_is_no_key_is_refused(key, error, words):
    with pytest.raises(error, match=words):
        some()[key]


# ---- what one array and several have in common ----


def test_shapes_widths_and_numbers_are_of_each_input():
    X = some()
    assert shapes_of(X) == {"image": (2, 2, 2), "words": (3,), "age": ()}
    assert widths_of(X) == {"image": 2, "words": 3, "age": 1} and widths_of(X["image"]) == 2
    assert numbers_of_row(X) == 8 + 3 + 1 and numbers_of_row(X["image"]) == 8


@pytest.mark.parametrize(
    ("parts", "dtype"),
    [
        ([np.zeros(1, np.float32)], torch.float32),
        ([np.zeros(1, np.float32), np.zeros(1)], torch.float64),
        ([torch.zeros(1, dtype=torch.bfloat16), np.zeros(1, np.int64)], torch.float32),
        ([np.zeros(1, np.int64)], torch.float64),
        ([scipy.sparse.csr_array((1, 1), dtype=np.float32)], torch.float32),
        ([torch.zeros(1), torch.zeros(1, dtype=torch.float64)], torch.float64),
    ],
)
def test_floats_decide_on_the_dtype_and_integers_follow(parts, dtype):
    assert float_dtype_of(parts, CPU) == dtype


def test_rows_go_to_a_module_in_the_dtypes_asked_for_and_16_bits_stay_in_memory():
    half = torch.zeros(2, 3, dtype=torch.float16)
    X = Inputs(a=half, b=np.array([1, 2], dtype=np.uint16), c=half)
    dtypes = {"a": torch.float32, "b": torch.int64, "c": torch.float64}
    assert [part.dtype for part in dict(**to_module(X, CPU, dtypes)).values()] == list(dtypes.values())
    in_memory = [part.dtype for part in dict(**to_memory(X, CPU, dtypes)).values()]
    assert in_memory == [torch.float16, torch.int64, torch.float64]
    sparse = scipy.sparse.csr_array(np.eye(2))
    assert torch.equal(to_module(sparse, CPU, torch.float32), torch.eye(2))


def test_integers_and_truth_values_are_integral_and_floats_are_not():
    assert is_integral(np.zeros(1, bool)) and is_integral(torch.zeros(1, dtype=torch.uint8))
    assert not is_integral(np.zeros(1)) and not is_integral(torch.zeros(1, dtype=torch.bfloat16))
    assert not is_integral(scipy.sparse.csr_array((1, 1), dtype=np.int64))


def test_X_is_where_its_first_input_off_the_cpu_is():
    array, tensor = np.zeros((2, 3)), torch.zeros(2)
    assert holder(array) is array
    assert holder(Inputs(a=array, b=tensor)) is array
    elsewhere = torch.zeros(2, device="meta")
    assert holder(Inputs(a=array, b=elsewhere)) is elsewhere
