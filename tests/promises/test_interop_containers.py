"""Rows, labels and weights may lie in whatever container people keep them in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal

from helpers.datasets import load, standardised
from torch_logreg import TorchLogisticClassifier

NAMES = list("abcdef")


@pytest.fixture(scope="module")
def problem() -> tuple[np.ndarray, np.ndarray]:
    data = load("breast_cancer")
    # Numbers that float16 and bfloat16 hold exactly: every container is then the same problem.
    return np.round(standardised(data.X[::3, :6]) * 8).clip(-100, 100) / 8, data.y[::3]


def read_only(X: np.ndarray) -> np.ndarray:
    X = X.copy()
    X.flags.writeable = False
    return X


def misaligned(X: np.ndarray) -> np.ndarray:
    """Return an array that starts at an odd byte, as a field of a packed record does."""
    raw = np.zeros(X.nbytes + 1, dtype=np.uint8)
    result = raw[1:].view(np.float64).reshape(X.shape)
    result[...] = X
    assert not result.flags.aligned
    return result


def read_only_csr(X: np.ndarray) -> scipy.sparse.csr_array:
    X = scipy.sparse.csr_array(X)
    for part in (X.data, X.indices, X.indptr):
        part.flags.writeable = False
    return X


def with_duplicates(X: np.ndarray) -> scipy.sparse.coo_array:
    rows, columns = np.indices(X.shape).reshape(2, -1)
    return scipy.sparse.coo_array(
        (np.tile(X.ravel() / 2, 2), (np.tile(rows, 2), np.tile(columns, 2))), shape=X.shape
    )


def csr_with_duplicates(X: np.ndarray) -> scipy.sparse.csr_array:
    once = scipy.sparse.csr_array(np.ones_like(X))
    data, indices = np.repeat(X.ravel() / 2, 2), np.repeat(once.indices, 2)
    return scipy.sparse.csr_array((data, indices, 2 * once.indptr), shape=X.shape)


ROWS: dict[str, Callable] = {
    "Fortran order": np.asfortranarray,
    "read-only": read_only,
    "negative strides": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "every second row and column": lambda X: np.repeat(np.repeat(X, 2, 0), 2, 1)[::2, ::2],
    "big-endian": lambda X: X.astype(">f8"),
    "big-endian, read-only, reversed": lambda X: read_only(X.astype(">f8")[::-1])[::-1],
    "big-endian float32": lambda X: X.astype(">f4"),
    "misaligned": misaligned,
    "float16": lambda X: X.astype(np.float16),
    "float32": lambda X: X.astype(np.float32),
    "float32, read-only, Fortran order": lambda X: read_only(np.asfortranarray(X, dtype=np.float32)),
    "long doubles": lambda X: X.astype(np.longdouble),
    "a broadcast column": lambda X: np.concatenate([X[:, :5], X[:, 5:]], axis=1),
    "a subclass of ndarray": lambda X: np.ma.masked_array(X),
    "a pandas frame": lambda X: pd.DataFrame(X, columns=NAMES),
    "a nullable frame": lambda X: pd.DataFrame(X, columns=NAMES).convert_dtypes(),
    "an arrow frame": lambda X: pd.DataFrame(X, columns=NAMES).astype("double[pyarrow]"),
    "a frame of float32 and float64": lambda X: pd.DataFrame(X, columns=NAMES).astype({"a": np.float32}),
    "a frame of sparse columns": lambda X: pd.DataFrame.sparse.from_spmatrix(
        scipy.sparse.csr_matrix(X), columns=NAMES
    ),
    "a polars frame": lambda X: pl.DataFrame(X, schema=NAMES),
    "a list of tuples": lambda X: [tuple(row) for row in X.tolist()],
    "read-only CSR": read_only_csr,
    "COO with duplicates": with_duplicates,
    "CSR with duplicates": csr_with_duplicates,
    "LIL": scipy.sparse.lil_array,
    "BSR": scipy.sparse.bsr_array,
    "a float64 tensor": torch.tensor,
    "a float32 tensor": lambda X: torch.tensor(X, dtype=torch.float32),
    "a bfloat16 tensor": lambda X: torch.tensor(X, dtype=torch.bfloat16),
    "a float16 tensor": lambda X: torch.tensor(X, dtype=torch.float16),
    "an integer tensor": lambda X: torch.tensor(X, dtype=torch.int64),
    "a tensor with gradients": lambda X: torch.tensor(X, requires_grad=True),
    "a computed tensor with gradients": lambda X: 2 * torch.tensor(X / 2, requires_grad=True),
    "a transposed tensor": lambda X: torch.tensor(X.T.copy()).T,
    "a strided tensor": lambda X: torch.tensor(np.repeat(X, 2, 1))[:, ::2],
    "a parameter": lambda X: torch.nn.Parameter(torch.tensor(X)),
    "a negative view": lambda X: torch.tensor(-1j * X).conj().imag,
}
SINGLE = {  # big-endian float32 becomes float64, as in LogisticRegression
    "float32",
    "float32, read-only, Fortran order",
    "a float32 tensor",
    "a bfloat16 tensor",
    "a float16 tensor",
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_in_any_container_give_the_same_model_and_predictions(problem, kind):
    X, y = problem
    X = 8 * X if "integer" in kind else X
    rows = ROWS[kind](X)
    got, expected = TorchLogisticClassifier().fit(rows, y), TorchLogisticClassifier().fit(X, y)
    dtype = np.float32 if kind in SINGLE else np.float64
    assert (got.coef_.dtype, got.intercept_.dtype) == (dtype, dtype)
    rtol = 1e-5 if kind in SINGLE else 1e-9
    assert_allclose(got.coef_, expected.coef_, rtol=rtol, atol=rtol)
    probability = got.predict_proba(rows)
    assert type(probability) is np.ndarray
    assert probability.dtype == dtype
    assert_allclose(probability, expected.predict_proba(X), rtol=100 * rtol, atol=rtol)
    for method in ("predict", "decision_function", "predict_log_proba"):
        assert type(getattr(got, method)(rows)) is np.ndarray
    named = "frame" in kind
    assert hasattr(got, "feature_names_in_") == named
    if named:
        assert got.feature_names_in_.tolist() == NAMES


def test_rows_in_a_memory_map_are_read_and_left_alone(problem, tmp_path):
    X, y = problem
    np.save(tmp_path / "X.npy", X)
    rows = np.load(tmp_path / "X.npy", mmap_mode="r")
    for each in (rows, rows[10:][::-1], rows[:, ::2]):
        labels = y[: len(each)]
        got = TorchLogisticClassifier().fit(each, labels)
        assert_allclose(got.coef_, TorchLogisticClassifier().fit(np.array(each), labels).coef_, rtol=1e-9)
        assert_allclose(got.predict_proba(each), got.predict_proba(np.array(each)), rtol=1e-9)
    assert_array_equal(rows, X)


WORDS = np.array(["no", "yes"])
LABELS: dict[str, tuple[Callable, list]] = {
    "str": (lambda y: WORDS[y], ["no", "yes"]),
    "objects": (lambda y: WORDS.astype(object)[y], ["no", "yes"]),
    "a series of str": (lambda y: pd.Series(WORDS[y]), ["no", "yes"]),
    "a series of string": (lambda y: pd.Series(WORDS[y], dtype="string"), ["no", "yes"]),
    "a series of arrow strings": (lambda y: pd.Series(WORDS[y], dtype="string[pyarrow]"), ["no", "yes"]),
    "a series of objects": (lambda y: pd.Series(WORDS[y], dtype=object), ["no", "yes"]),
    "categories": (lambda y: pd.Series(WORDS[y], dtype="category"), ["no", "yes"]),
    "ordered categories": (
        lambda y: pd.Series(pd.Categorical(WORDS[y], ["yes", "no", "never"], ordered=True)),
        ["no", "yes"],
    ),
    "a bare categorical": (lambda y: pd.Categorical(WORDS[y]), ["no", "yes"]),
    "number categories": (lambda y: pd.Series(y + 5, dtype="category"), [5, 6]),
    "bool": (lambda y: y == 1, [False, True]),
    "a list of bool": (lambda y: (y == 1).tolist(), [False, True]),
    "nullable bool": (lambda y: pd.Series(y == 1, dtype="boolean"), [False, True]),
    "nullable integers": (lambda y: pd.Series(y, dtype="Int64"), [0, 1]),
    "nullable small integers": (lambda y: pd.Series(y, dtype="UInt8"), [0, 1]),
    "nullable floats": (lambda y: pd.Series(y, dtype="Float64"), [0.0, 1.0]),
    "arrow integers": (lambda y: pd.Series(y, dtype="int64[pyarrow]"), [0, 1]),
    "arrow bool": (lambda y: pd.Series(y == 1, dtype="bool[pyarrow]"), [False, True]),
    "a series with another index": (lambda y: pd.Series(y, index=np.arange(len(y))[::-1]), [0, 1]),
    "polars integers": (lambda y: pl.Series(y), [0, 1]),
    "polars strings": (lambda y: pl.Series(WORDS[y]), ["no", "yes"]),
    "polars bool": (lambda y: pl.Series(y == 1), [False, True]),
    "polars categories": (lambda y: pl.Series(WORDS[y], dtype=pl.Categorical), ["no", "yes"]),
    "a tensor": (lambda y: torch.tensor(y), [0, 1]),
    "a bool tensor": (lambda y: torch.tensor(y == 1), [False, True]),
    "a float tensor": (lambda y: torch.tensor(y, dtype=torch.float32), [0.0, 1.0]),
    "a bfloat16 tensor": (lambda y: torch.tensor(y, dtype=torch.bfloat16), [0.0, 1.0]),
    "read-only": (read_only, [0, 1]),
    "big-endian": (lambda y: y.astype(">i4"), [0, 1]),
    "reversed": (lambda y: y[::-1].copy()[::-1], [0, 1]),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("rows", ["an array", "a tensor", "CSR"])
@pytest.mark.one_in(4)
def test_labels_in_any_container_are_learned_and_predicted(problem, kind, rows):
    X, y = problem
    data = {"an array": X, "a tensor": torch.tensor(X), "CSR": scipy.sparse.csr_array(X)}[rows]
    make, classes = LABELS[kind]
    got = TorchLogisticClassifier().fit(data, make(y))
    expected = TorchLogisticClassifier().fit(X, y)
    assert isinstance(got.classes_, np.ndarray)
    assert got.classes_.tolist() == classes
    assert_allclose(got.coef_, expected.coef_, rtol=1e-9, atol=1e-9)
    predicted = got.predict(data)
    assert isinstance(predicted, np.ndarray)
    assert_array_equal(predicted == classes[1], expected.predict(X) == 1)
    assert got.score(data, make(y)) == expected.score(X, y)


WEIGHTS: dict[str, Callable] = {
    "a list": list,
    "float32": lambda w: w.astype(np.float32),
    "integers": lambda w: w.astype(np.int64),
    "read-only": read_only,
    "big-endian": lambda w: w.astype(">f8"),
    "reversed": lambda w: w[::-1].copy()[::-1],
    "a series": lambda w: pd.Series(w, index=np.arange(len(w))[::-1]),
    "a nullable series": lambda w: pd.Series(w, dtype="Float64"),
    "polars": pl.Series,
    "a tensor": torch.tensor,
    "a bfloat16 tensor": lambda w: torch.tensor(w, dtype=torch.bfloat16),
    "a tensor with gradients": lambda w: torch.tensor(w, requires_grad=True),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_in_any_container_weigh_the_same(problem, kind):
    X, y = problem
    weight = np.random.default_rng(0).integers(0, 5, len(y)).astype(np.float64)
    expected = TorchLogisticClassifier().fit(X, y, weight)
    for rows in (X, torch.tensor(X)):
        got = TorchLogisticClassifier().fit(rows, y, WEIGHTS[kind](weight))
        assert_allclose(got.coef_, expected.coef_, rtol=1e-9)
