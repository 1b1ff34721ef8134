"""The inputs that the estimator is held to: what each is, and what it gives.

A `Row` makes the arguments of `fit` and says what comes of them: the optimum, that is the one of the same
problem in plain float64 arrays, or an error or a warning with words that name the thing.
"""

from __future__ import annotations

import array
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import scipy.sparse as sp
import torch

from torch_logreg._data.csr import prepare

OPTIMUM = "the optimum"
N, D = 60, 4


class Case(NamedTuple):
    """The arguments of `fit`, and the same problem in plain arrays for the oracle."""

    X: Any
    y: Any
    weight: Any
    plain_X: np.ndarray  # (n, d) float64
    classes: np.ndarray  # (n_classes,)
    codes: np.ndarray  # (n,)
    plain_weight: np.ndarray | None  # (n,) float64


@dataclass(frozen=True)
class Row:
    part: str
    name: str
    make: Callable[[], Case]
    outcome: str = OPTIMUM  # or the name of the error or warning
    says: str = ""  # words of its message
    params: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-6  # of a probability


def base(n: int = N, d: int = D, n_classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Multiples of 1/8 below 4, which every float holds, and classes that cannot be separated."""
    rng = np.random.default_rng(seed)
    X = np.clip(np.round(8 * rng.normal(size=(n, d))) / 8, -3.875, 3.875)
    z = X[:, :1] * np.linspace(-1, 1, n_classes) + rng.gumbel(size=(n, n_classes))
    codes = z.argmax(axis=1)
    codes[:n_classes] = np.arange(n_classes)
    return X, codes


X, CODES = base()
WHOLE = np.round(2 * X).astype(np.int64)  # -7 to 7
COUNTS = WHOLE + 8  # 1 to 15
FLAGS = X > 0
ROWS: list[Row] = []


def add(
    part: str,
    name: str,
    *,
    X: Callable[[], Any] = lambda: X,
    y: Callable[[], Any] = lambda: CODES,
    weight: Callable[[], Any] = lambda: None,
    plain: np.ndarray | None = None,
    classes: Any = (0, 1),
    codes: np.ndarray | None = None,
    plain_weight: Any = None,
    **rest: Any,
) -> None:
    """A row; what is not given is that of the base problem."""

    def make() -> Case:
        kept = None if plain_weight is None else np.asarray(plain_weight, dtype=np.float64)
        own = np.asarray(globals()["X"] if plain is None else plain, dtype=np.float64)
        return Case(X(), y(), weight(), own, np.asarray(classes), CODES if codes is None else codes, kept)

    ROWS.append(Row(part, name, make, **rest))


def error(part: str, name: str, kind: str, says: str, **rest: Any) -> None:
    add(part, name, outcome=kind, says=says, **rest)


def changed(array: np.ndarray, where: Any, value: Any) -> np.ndarray:
    array = array.copy()
    array[where] = value
    return array


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def mapped(array: np.ndarray, mode: Any) -> np.ndarray:
    with TemporaryDirectory() as folder:  # what is mapped stays when its file has gone
        np.save(Path(folder) / "X.npy", array)
        return np.load(Path(folder) / "X.npy", mmap_mode=mode)


class Holder:
    """Something that numpy can read, and that is no array."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._values if dtype is None else self._values.astype(dtype)


def frame(dtype: Any, values: np.ndarray = X) -> pd.DataFrame:
    return pd.DataFrame(values, columns=list("abcd")).astype(dtype)


# ---- X: arrays ----

for dtype in ("float64", "float32", "float16", "longdouble"):
    add("X: arrays", f"{dtype}", X=lambda dtype=dtype: X.astype(dtype))
for dtype in ("int8", "int16", "int32", "int64"):
    add("X: arrays", dtype, X=lambda dtype=dtype: WHOLE.astype(dtype), plain=WHOLE)
for dtype in ("uint8", "uint16", "uint32", "uint64"):
    add("X: arrays", dtype, X=lambda dtype=dtype: COUNTS.astype(dtype), plain=COUNTS)
add("X: arrays", "bool", X=lambda: FLAGS, plain=FLAGS)
for code, name in ((">f8", "float64"), (">f4", "float32")):
    add("X: arrays", f"{name}, big-endian", X=lambda code=code: X.astype(code))
add("X: arrays", "int32, big-endian", X=lambda: WHOLE.astype(">i4"), plain=WHOLE)
add("X: arrays", "Fortran order", X=lambda: np.asfortranarray(X))
add("X: arrays", "Fortran order, float32", X=lambda: np.asfortranarray(X.astype(np.float32)))
add("X: arrays", "rows reversed (a negative stride)", X=lambda: X[::-1].copy()[::-1])
add("X: arrays", "columns reversed (a negative stride)", X=lambda: X[:, ::-1].copy()[:, ::-1])
add(
    "X: arrays",
    "every second row and column of a larger array",
    X=lambda: X.repeat(2, 0).repeat(2, 1)[::2, ::2],
)
add(
    "X: arrays",
    "a row broadcast to all (a stride of 0)",
    X=lambda: np.broadcast_to(X[0], X.shape),
    plain=np.broadcast_to(X[0], X.shape),
)
add(
    "X: arrays",
    "a column broadcast to all",
    X=lambda: np.broadcast_to(X[:, :1], X.shape),
    plain=np.broadcast_to(X[:, :1], X.shape),
)
add(
    "X: arrays",
    "not aligned in memory",
    X=lambda: np.frombuffer(b"x" + X.tobytes(), np.uint8)[1:].view(np.float64).reshape(X.shape),
)
add("X: arrays", "read-only", X=lambda: read_only(X))
add("X: arrays", "read-only, float32, Fortran order", X=lambda: read_only(np.asfortranarray(X.astype("f4"))))
add("X: arrays", "a memory-mapped file", X=lambda: mapped(X, "r+"))
add("X: arrays", "a read-only memory-mapped file", X=lambda: mapped(X, "r"))
add("X: arrays", "object, of floats", X=lambda: X.astype(object))
add(
    "X: arrays",
    "object, of ints and floats",
    X=lambda: np.column_stack([WHOLE[:, :2].astype(object), X[:, 2:].astype(object)]),
    plain=np.column_stack([WHOLE[:, :2], X[:, 2:]]),
)
add("X: arrays", "a list of lists", X=lambda: X.tolist())
add("X: arrays", "a tuple of tuples", X=lambda: tuple(map(tuple, X.tolist())))
add("X: arrays", "a list of arrays", X=lambda: list(X))
add("X: arrays", "a list of `array.array`", X=lambda: [array.array("d", row) for row in X])
add("X: arrays", "whatever has `__array__`", X=lambda: Holder(X))
add("X: arrays", "one column", X=lambda: X[:, :1], plain=X[:, :1])
add("X: arrays", "words that are numbers", X=lambda: X.astype(str))
add("X: arrays", "bytes that are numbers", X=lambda: X.astype("S8"))
add("X: arrays", "object, of `Decimal`", X=lambda: [[Decimal(value) for value in row] for row in X.tolist()])
add("X: arrays", "`StringDType`, of numbers", X=lambda: X.astype(str).astype(np.dtypes.StringDType()))
add("X: arrays", "a masked array with nothing masked", X=lambda: np.ma.masked_array(X, mask=False))
error(
    "X: arrays",
    "a masked array",
    "ValueError",
    "X has masked values",
    X=lambda: np.ma.masked_array(X, mask=X > 3),
)
error(
    "X: arrays",
    "float16, with infinity",
    "ValueError",
    "Input X contains infinity",
    X=lambda: changed(X.astype("f2"), (3, 1), np.inf),
)
error("X: arrays", "a dict", "TypeError", "pass Inputs(**X) to a module", X=lambda: {"a": X[:, 0]})
error("X: arrays", "a generator", "TypeError", "X is a generator", X=lambda: (row for row in X))
error(
    "X: arrays",
    "ints too large for a float",
    "ValueError",
    "X holds an integer beyond the range of float64",
    X=lambda: [[10**400]] * N,
)
error("X: arrays", "NaN", "ValueError", "Input X contains NaN", X=lambda: changed(X, (3, 1), np.nan))
error(
    "X: arrays", "infinity", "ValueError", "Input X contains infinity", X=lambda: changed(X, (3, 1), np.inf)
)
error(
    "X: arrays",
    "-infinity, float32",
    "ValueError",
    "Input X contains infinity",
    X=lambda: changed(X.astype("f4"), (3, 1), -np.inf),
)
error(
    "X: arrays",
    "object, with None",
    "ValueError",
    "Input X contains NaN",
    X=lambda: changed(X.astype(object), (3, 1), None),
)
error(
    "X: arrays",
    "object, with words",
    "ValueError",
    "could not convert string to float: 'tall'",
    X=lambda: changed(X.astype(object), (3, 1), "tall"),
)
error(
    "X: arrays",
    "object, with lists",
    "ValueError",
    "setting an array element with a sequence",
    X=lambda: [[1.0, [2.0]]] * N,
)
error("X: arrays", "complex", "ValueError", "Complex data not supported", X=lambda: X + 0j)
add("X: arrays", "dates, as numbers of their unit", X=lambda: WHOLE.astype("M8[D]"), plain=WHOLE)
add("X: arrays", "durations, as numbers of their unit", X=lambda: WHOLE.astype("m8[h]"), plain=WHOLE)
error(
    "X: arrays",
    "a structured array",
    "TypeError",
    "Cannot cast array data",
    X=lambda: np.zeros(N, dtype=[("a", "f8"), ("b", "f8")]),
)
error("X: arrays", "`np.matrix`", "TypeError", "np.matrix is not supported", X=lambda: _matrix())
error("X: arrays", "one dimension", "ValueError", "Expected 2D array, got 1D array", X=lambda: X[:, 0])
error("X: arrays", "three dimensions", "ValueError", "Found array with dim 3", X=lambda: X[:, :, None])
error("X: arrays", "a number", "ValueError", "Expected 2D array, got scalar array", X=lambda: 3.0)
error("X: arrays", "None", "ValueError", "Expected 2D array, got scalar array", X=lambda: None)
error("X: arrays", "a string", "ValueError", "could not convert string to float", X=lambda: "X")
error(
    "X: arrays", "no rows", "ValueError", "Found array with 0 sample(s)", X=lambda: X[:0], y=lambda: CODES[:0]
)
error("X: arrays", "no columns", "ValueError", "Found array with 0 feature(s)", X=lambda: X[:, :0])
error(
    "X: arrays",
    "rows of different lengths",
    "ValueError",
    "inhomogeneous",
    X=lambda: [*X.tolist()[:-1], [1.0]],
)
error(
    "X: arrays",
    "other rows than y",
    "ValueError",
    "inconsistent numbers of samples: [59, 60]",
    X=lambda: X[:-1],
)


def _matrix() -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.matrix(X)


# ---- X: frames ----

for dtype in ("float64", "float32", "float16", "Float64", "Float32", "double[pyarrow]", "float[pyarrow]"):
    add("X: frames", f"pandas, `{dtype}`", X=lambda dtype=dtype: frame(dtype))
for dtype in ("int64", "int8", "Int64", "Int8", "int64[pyarrow]", "int16[pyarrow]", "object", "category"):
    add(
        "X: frames",
        f"pandas, `{dtype}` of whole numbers",
        X=lambda dtype=dtype: frame(dtype, WHOLE),
        plain=WHOLE,
    )
for dtype in ("UInt16", "uint8[pyarrow]"):
    add("X: frames", f"pandas, `{dtype}`", X=lambda dtype=dtype: frame(dtype, COUNTS), plain=COUNTS)
for dtype in ("bool", "boolean", "bool[pyarrow]"):
    add("X: frames", f"pandas, `{dtype}`", X=lambda dtype=dtype: frame(dtype, FLAGS), plain=FLAGS)
add(
    "X: frames",
    "pandas, a dtype a column",
    X=lambda: frame(dict(a="float32", b="Float64", c="double[pyarrow]", d="category")),
)
add("X: frames", "pandas, `Sparse`", X=lambda: frame(pd.SparseDtype("float64", 0.0)))
add(
    "X: frames",
    "pandas, categories that are numbers, some of them unused",
    X=lambda: frame("float64").assign(a=pd.Categorical(X[:, 0], categories=np.arange(-31, 32) / 8)),
)
add(
    "X: frames",
    "pandas, an index of dates",
    X=lambda: frame("float64").set_index(pd.date_range("2026-01-01", periods=N)),
)
add("X: frames", "pandas, a repeated index", X=lambda: frame("float64").set_index(np.zeros(N)))
add(
    "X: frames",
    "pandas, a MultiIndex of columns",
    X=lambda: frame("float64").set_axis(pd.MultiIndex.from_product([["a", "b"], [1, 2]]), axis=1),
)
add("X: frames", "pandas, columns without names", X=lambda: pd.DataFrame(X))
add("X: frames", "polars, Float64", X=lambda: pl.DataFrame(X, schema=list("abcd")))
add("X: frames", "polars, Float32", X=lambda: pl.DataFrame(X, schema=list("abcd")).cast(pl.Float32))
add(
    "X: frames",
    "polars, Int16",
    X=lambda: pl.DataFrame(WHOLE, schema=list("abcd")).cast(pl.Int16),
    plain=WHOLE,
)
add("X: frames", "polars, Boolean", X=lambda: pl.DataFrame(FLAGS, schema=list("abcd")), plain=FLAGS)
add("X: frames", "a pyarrow table", X=lambda: pa.table(dict(zip("abcd", X.T, strict=True))))
error(
    "X: frames",
    "pandas, `Float64` with NA",
    "ValueError",
    "Input X contains NaN",
    X=lambda: frame("Float64").mask(frame("float64") > 3),
)
error(
    "X: frames",
    "pandas, `Int64` with NA",
    "ValueError",
    "Input X contains NaN",
    X=lambda: frame("Int64", WHOLE).mask(WHOLE > 3),
)
error(
    "X: frames",
    "pandas, `double[pyarrow]` with null",
    "ValueError",
    "Input X contains NaN",
    X=lambda: frame("double[pyarrow]").mask(X > 3),
)
add(
    "X: frames",
    "pandas, decimals of pyarrow",
    X=lambda: frame("float64").astype(pd.ArrowDtype(pa.decimal128(10, 3))),
)
add("X: frames", "pandas, words that are numbers", X=lambda: frame("str"))
add("X: frames", "polars, Decimal", X=lambda: pl.DataFrame(X, schema=list("abcd")).cast(pl.Decimal(10, 3)))
error(
    "X: frames",
    "pandas, a column of words",
    "ValueError",
    "could not convert string to float: 'x'",
    X=lambda: frame("float64").assign(a="x"),
)
error(
    "X: frames",
    "polars, a column of words",
    "ValueError",
    "could not convert string to float: 'x'",
    X=lambda: pl.DataFrame(X, schema=list("abcd")).with_columns(a=pl.lit("x")),
)
error(
    "X: frames",
    "polars, Categorical",
    "ValueError",
    "could not convert string to float: 'no'",
    X=lambda: pl.DataFrame({"a": WORDS[CODES].tolist()}).cast(pl.Categorical),
)
error(
    "X: frames",
    "a polars LazyFrame",
    "ValueError",
    "setting an array element with a sequence",
    X=lambda: pl.LazyFrame(X),
)
error(
    "X: frames",
    "polars with null",
    "ValueError",
    "Input X contains NaN",
    X=lambda: pl.DataFrame(X, schema=list("abcd")).with_columns(a=pl.lit(None, pl.Float64)),
)
error(
    "X: frames",
    "pandas, words",
    "ValueError",
    "could not convert string to float: 'short'",
    X=lambda: frame("float64").assign(a="short"),
)
error(
    "X: frames",
    "pandas, categories that are words",
    "ValueError",
    "could not convert string to float: 'short'",
    X=lambda: frame("float64").assign(a=pd.Categorical(["short"] * N)),
)
error(
    "X: frames",
    "pandas, two columns of one name",
    "DuplicateError",
    "Expected unique column names",
    X=lambda: frame("float64").set_axis(list("aabc"), axis=1),
)
error(
    "X: frames",
    "pandas, dates",
    "TypeError",
    "DateTime64DType",
    X=lambda: frame("float64").assign(a=datetime(2026, 1, 1)),
)
error(
    "X: frames",
    "pandas, durations",
    "TypeError",
    "TimeDelta64DType",
    X=lambda: frame("float64").assign(a=timedelta(1)),
)
error(
    "X: frames",
    "pandas, names of several types",
    "TypeError",
    "feature names",
    X=lambda: frame("float64").set_axis(["a", "b", 1, 2], axis=1),
)
error(
    "X: frames",
    "a pandas Series",
    "ValueError",
    "Expected a 2-dimensional container",
    X=lambda: frame("f8")["a"],
)

# ---- X: sparse ----

SPARSE = np.where(np.abs(X) > 1, X, 0.0)
for kind in ("csr", "csc", "coo", "bsr", "dok", "lil", "dia"):
    for form in ("matrix", "array"):
        add(
            "X: sparse",
            f"`{kind}_{form}`",
            plain=SPARSE,
            X=lambda kind=kind, form=form: getattr(sp, f"{kind}_{form}")(SPARSE),
        )
for dtype in ("float32", "int64", "int8", "bool"):
    values = SPARSE.astype(dtype)
    add("X: sparse", f"CSR, {dtype}", X=lambda values=values: sp.csr_array(values), plain=values)
add("X: sparse", "CSR, longdouble", X=lambda: sp.csr_array(SPARSE.astype(np.longdouble)), plain=SPARSE)


def csr(indices: Any = np.int32, double: bool = False, reverse: bool = False) -> sp.csr_array:
    """With int64 indices, each number in two halves, or the entries of each row in falling order."""
    made = sp.csr_array(SPARSE)
    data, columns, starts = made.data, made.indices, made.indptr
    if double:
        data, columns, starts = np.repeat(data / 2, 2), np.repeat(columns, 2), 2 * starts
    if reverse:
        order = np.concatenate([np.arange(a, b)[::-1] for a, b in zip(starts[:-1], starts[1:], strict=True)])
        data, columns = data[order], columns[order]
    return sp.csr_array((data, columns.astype(indices), starts.astype(indices)), shape=made.shape)


add("X: sparse", "CSR, int64 indices", X=lambda: csr(np.int64), plain=SPARSE)
add("X: sparse", "CSR, every entry twice, to be summed", X=lambda: csr(double=True), plain=SPARSE)
add("X: sparse", "CSR, indices not sorted", X=lambda: csr(reverse=True), plain=SPARSE)
add("X: sparse", "CSR, twice and not sorted", X=lambda: csr(double=True, reverse=True), plain=SPARSE)
add(
    "X: sparse",
    "CSR, zeros that are stored",
    plain=SPARSE,
    X=lambda: sp.csr_array((X[FLAGS] * 0, np.nonzero(FLAGS)), shape=X.shape) + sp.csr_array(SPARSE),
)
add(
    "X: sparse",
    "CSR, a column without entries",
    X=lambda: sp.csr_array(changed(SPARSE, (slice(None), 2), 0.0)),
    plain=changed(SPARSE, (slice(None), 2), 0.0),
)
add(
    "X: sparse",
    "CSR, a full column",
    X=lambda: sp.csr_array(changed(SPARSE, (slice(None), 2), 5.0)),
    plain=changed(SPARSE, (slice(None), 2), 5.0),
)
add("X: sparse", "CSR, no entries at all", X=lambda: sp.csr_array(X.shape), plain=np.zeros_like(X))
error(
    "X: sparse",
    "CSR with NaN",
    "ValueError",
    "Input X contains NaN",
    X=lambda: sp.csr_array(changed(SPARSE, (3, 1), np.nan)),
)
error(
    "X: sparse",
    "CSR with infinity",
    "ValueError",
    "Input X contains infinity",
    X=lambda: sp.csr_array(changed(SPARSE, (3, 1), np.inf)),
)
error("X: sparse", "CSR, complex", "ValueError", "Complex data not supported", X=lambda: sp.csr_array(X + 0j))
error("X: sparse", "CSR, an index out of range", "ValueError", "indices must be < 4", X=lambda: _broken_csr())
error(
    "X: sparse",
    "pandas, `Sparse` of ones",
    "ValueError",
    "fill value must be 0",
    X=lambda: frame(pd.SparseDtype("float64", 1.0)),
)


def torch_csr() -> torch.Tensor:
    prepare()  # or torch's remark on the first of a process would be an error here
    return torch.sparse_csr_tensor([0] * N + [1], [0], [1.0], (N, D), check_invariants=False)


error(
    "X: sparse",
    "a torch tensor of CSR layout",
    "TypeError",
    "layout torch.sparse_csr, which is not supported",
    X=torch_csr,
)
error("X: sparse", "one dimension", "ValueError", "Expected 2D input", X=lambda: sp.coo_array(X[:, 0]))
error(
    "X: sparse",
    "a torch tensor of sparse layout",
    "TypeError",
    "pass a scipy.sparse CSR array",
    X=lambda: torch.as_tensor(SPARSE).to_sparse(),
)


def _broken_csr() -> sp.csr_array:
    made = sp.csr_array(SPARSE)
    made.indices[-1] = 99
    return made


# ---- X: tensors ----

for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
    add("X: tensors", str(dtype), X=lambda dtype=dtype: torch.as_tensor(X).to(dtype))
for dtype in (torch.int64, torch.int8):
    add("X: tensors", str(dtype), X=lambda dtype=dtype: torch.as_tensor(WHOLE).to(dtype), plain=WHOLE)
add("X: tensors", "torch.uint8", X=lambda: torch.as_tensor(COUNTS).to(torch.uint8), plain=COUNTS)
add("X: tensors", "torch.bool", X=lambda: torch.as_tensor(FLAGS), plain=FLAGS)
add("X: tensors", "requires_grad", X=lambda: torch.tensor(X, requires_grad=True))
add("X: tensors", "a result of autograd", X=lambda: torch.tensor(X, requires_grad=True) * 1)
add("X: tensors", "`nn.Parameter`", X=lambda: torch.nn.Parameter(torch.tensor(X)))
add("X: tensors", "a transpose", X=lambda: torch.as_tensor(X.T.copy()).T)
add("X: tensors", "every second row", X=lambda: torch.as_tensor(X.repeat(2, axis=0))[::2])
add(
    "X: tensors",
    "expanded",
    X=lambda: torch.as_tensor(X[:, :1].copy()).expand(N, D),
    plain=np.broadcast_to(X[:, :1], X.shape),
)
add("X: tensors", "a lazily negated view", X=lambda: torch.as_tensor(-X)._neg_view())
add("X: tensors", "made under `inference_mode`", X=lambda: _of_inference())
add("X: tensors", "a list of tensors", X=lambda: [torch.as_tensor(row) for row in X])
add(
    "X: tensors",
    "y and weights too",
    X=lambda: torch.as_tensor(X),
    y=lambda: torch.as_tensor(CODES),
    weight=lambda: torch.ones(N),
    plain_weight=np.ones(N),
)
add("X: tensors", "torch.uint16", X=lambda: torch.as_tensor(COUNTS).to(torch.uint16), plain=COUNTS)
add("X: tensors", "a part of complex numbers", X=lambda: torch.as_tensor(X + 0j).conj().real)
add("X: tensors", "`nn.Buffer`", X=lambda: torch.nn.Buffer(torch.as_tensor(X)))
error(
    "X: tensors",
    "torch.float8_e4m3fn",
    "TypeError",
    "Float8_e4m3fn",
    X=lambda: torch.as_tensor(X).to(torch.float8_e4m3fn),
)
error(
    "X: tensors",
    "torch.bfloat16 with infinity",
    "ValueError",
    "infinity",
    X=lambda: torch.full((N, D), np.inf, dtype=torch.bfloat16),
)
error("X: tensors", "NaN", "ValueError", "Input X contains NaN", X=lambda: torch.full((N, D), np.nan))
error("X: tensors", "complex", "ValueError", "Complex data not supported", X=lambda: torch.as_tensor(X + 0j))
error("X: tensors", "on the device meta", "ValueError", "'meta'", X=lambda: torch.empty(N, D, device="meta"))
error("X: tensors", "one dimension", "ValueError", "Expected 2D array", X=lambda: torch.zeros(N))


def _of_inference() -> torch.Tensor:
    with torch.inference_mode():
        return torch.as_tensor(X) * 1


# ---- y ----

WORDS = np.array(["no", "yes"])


def labels(
    name: str, first: Any, second: Any, dtype: Any = None, make: Callable[[Any], Any] = lambda y: y
) -> None:
    """Two labels, as an array of `dtype` that `make` turns into something else."""
    both = np.array([first, second], dtype=dtype)
    add("y", name, y=lambda: make(both[CODES]), classes=both)


labels("words, `<U3`", "no", "yes")
labels("words, object", "no", "yes", object)
labels("words, a list", "no", "yes", make=lambda y: y.tolist())
labels("words, one of them empty", "", "yes")
labels("words, not ASCII", "não", "sim")
error(
    "y",
    "bytes",
    "TypeError",
    "labels represented as bytes is not supported",
    y=lambda: WORDS.astype("S3")[CODES],
)
labels("bool", False, True)
labels("bool, a list", False, True, make=lambda y: y.tolist())
error(
    "y",
    "bool, object",
    "ValueError",
    "objects of type bool. Convert it",
    y=lambda: (CODES > 0).astype(object),
)
for dtype in ("int8", "int32", "uint8", "uint64", "float32", "float64", "float16"):
    labels(f"0 and 1, {dtype}", 0, 1, dtype)
labels("-1 and 1", -1, 1)
labels("1 and 2", 1, 2)
labels("-1.0 and 1.0", -1.0, 1.0)
labels("1e6 and 1e15, as floats", 1e6, 1e15)
labels("the smallest and the largest int64", -(2**63), 2**63 - 1)
labels("2**64 - 2 and 2**64 - 1", 2**64 - 2, 2**64 - 1, "uint64")
labels("int32, big-endian", 3, 5, ">i4")
error("y", "ints, object", "ValueError", "objects of type int. Convert it", y=lambda: CODES.astype(object))
labels("ints, a tuple", 3, 5, make=lambda y: tuple(y.tolist()))
labels("read-only", 3, 5, make=read_only)
labels("a memory-mapped file", 3, 5, make=lambda y: mapped(y, "r"))
labels("a negative stride", 3, 5, make=lambda y: y[::-1].copy()[::-1])
labels("a pandas Series of int64", 3, 5, make=pd.Series)
labels("a pandas Series with another index", 3, 5, make=lambda y: pd.Series(y, index=range(N, 0, -1)))
labels("a pandas Index", 3, 5, make=pd.Index)
for dtype in ("str", "string", "string[pyarrow]", "object", "category"):
    add(
        "y",
        f"words, pandas `{dtype}`",
        classes=WORDS.astype(object),
        y=lambda dtype=dtype: pd.Series(WORDS[CODES]).astype(dtype),
    )
add(
    "y",
    "pandas `category` with levels that no row has",
    classes=WORDS.astype(object),
    y=lambda: pd.Series(pd.Categorical(WORDS[CODES], categories=["maybe", "yes", "no", "never"])),
)
add(
    "y",
    "pandas `category`, ordered the other way",
    classes=WORDS.astype(object),
    y=lambda: pd.Series(pd.Categorical(WORDS[CODES], categories=["yes", "no"], ordered=True)),
)
for dtype in ("Int64", "int64[pyarrow]", "UInt8", "Float64"):
    add(
        "y",
        f"0 and 1, pandas `{dtype}`",
        y=lambda dtype=dtype: pd.Series(CODES).astype(dtype),
        classes=[0.0, 1.0],
    )
for dtype in ("boolean", "bool[pyarrow]"):
    add(
        "y", f"pandas `{dtype}`", y=lambda dtype=dtype: pd.Series(CODES > 0).astype(dtype), classes=[0.0, 1.0]
    )
add("y", "polars, Int64", y=lambda: pl.Series(CODES))
add("y", "polars, String", y=lambda: pl.Series(WORDS[CODES].tolist()), classes=WORDS)
add(
    "y",
    "polars, Categorical",
    y=lambda: pl.Series(WORDS[CODES].tolist()).cast(pl.Categorical),
    classes=WORDS.astype(object),
)
for dtype in (torch.int64, torch.bool, torch.float32):
    add(
        "y",
        f"a tensor, {dtype}",
        y=lambda dtype=dtype: torch.as_tensor(CODES).to(dtype),
        classes=np.array([0, 1], dtype=str(dtype).removeprefix("torch.")),
    )
add(
    "y",
    "a column vector",
    outcome="DataConversionWarning",
    says="A column-vector y was passed",
    y=lambda: CODES[:, None],
)
add(
    "y",
    "a data frame of one column",
    outcome="DataConversionWarning",
    says="A column-vector y was passed",
    y=lambda: pd.DataFrame({"y": CODES}),
)
THREE = base(n_classes=3)
MANY = base(n=3000, d=2, n_classes=1000)
add(
    "y",
    "three classes",
    y=lambda: np.array(list("cab"))[THREE[1]],
    classes=["a", "b", "c"],
    X=lambda: THREE[0],
    plain=THREE[0],
    codes=np.array([2, 0, 1])[THREE[1]],
)
add(
    "y",
    "three classes, two rows of each but one",
    X=lambda: X[:5],
    plain=X[:5],
    y=lambda: np.array([0, 0, 1, 1, 2]),
    classes=[0, 1, 2],
    codes=np.array([0, 0, 1, 1, 2]),
)
add(
    "y",
    "1000 classes",
    X=lambda: MANY[0][:, :1],
    plain=MANY[0][:, :1],
    y=lambda: MANY[1],
    classes=np.arange(1000),
    codes=MANY[1],
    params={"C": 1e-3, "fit_intercept": False},
)
add(
    "y",
    "a class with one row",
    y=lambda: (np.arange(N) == 7).astype(int),
    codes=(np.arange(N) == 7).astype(int),
)
add(
    "y",
    "as many classes as rows",
    outcome="UserWarning",
    says="number of unique classes",
    y=lambda: np.arange(N),
    classes=np.arange(N),
    codes=np.arange(N),
)
labels("longdouble", 0, 1, np.longdouble)
labels("words that are numbers", "1", "2")
labels("dates", "2026-01-01", "2026-01-02", "M8[D]")
labels("-0.0 and 1.0", -0.0, 1.0)
labels("a pandas `category` of ints", 3, 5, make=lambda y: pd.Series(y).astype("category"))
labels("a list of 0-dimensional tensors", 3, 5, make=lambda y: [torch.tensor(label) for label in y])
labels("a pyarrow array", 3, 5, make=pa.array)
add(
    "y",
    "words, pyarrow",
    classes=WORDS.astype(object),
    y=lambda: pa.array(WORDS[CODES].tolist()),
)
add(
    "y",
    "words, pandas `dictionary[pyarrow]`",
    classes=WORDS.astype(object),
    y=lambda: pd.Series(WORDS[CODES]).astype(pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))),
)
add(
    "y",
    "polars, Enum",
    y=lambda: pl.Series(WORDS[CODES].tolist()).cast(pl.Enum(["yes", "no", "maybe"])),
    classes=WORDS.astype(object),
)
add("y", "polars, Boolean", y=lambda: pl.Series((CODES > 0).tolist()), classes=[False, True])
add("y", "a tensor of bfloat16", y=lambda: torch.as_tensor(CODES).bfloat16(), classes=[0.0, 1.0])
add(
    "y",
    "a tensor that requires a gradient",
    y=lambda: torch.tensor(CODES.astype(float), requires_grad=True),
    classes=[0.0, 1.0],
)
error("y", "one class", "ValueError", "only one class: 1", y=lambda: np.ones(N, int))
error("y", "one class, words", "ValueError", "only one class: 'no'", y=lambda: ["no"] * N)
error("y", "None", "ValueError", "requires y to be passed", y=lambda: None)
error(
    "y", "None for some", "TypeError", "y[3] = None", y=lambda: changed(WORDS[CODES].astype(object), 3, None)
)
error("y", "NaN", "ValueError", "Input y contains NaN", y=lambda: changed(CODES.astype(float), 3, np.nan))
error(
    "y",
    "infinity",
    "ValueError",
    "Input y contains infinity",
    y=lambda: changed(CODES.astype(float), 3, np.inf),
)
error(
    "y", "NaN, object", "ValueError", "Input contains NaN", y=lambda: changed(CODES.astype(object), 3, np.nan)
)
error(
    "y",
    "pandas `Int64` with NA",
    "ValueError",
    "Input y contains NaN",
    y=lambda: pd.Series(CODES).astype("Int64").mask(np.arange(N) == 3),
)
error(
    "y",
    "pandas `category` with NaN",
    "ValueError",
    "Input contains NaN",
    y=lambda: pd.Series(WORDS[CODES]).astype("category").mask(np.arange(N) == 3),
)
error(
    "y",
    "pandas `boolean` with NA",
    "ValueError",
    "Input y contains NaN",
    y=lambda: pd.Series(CODES > 0).astype("boolean").mask(np.arange(N) == 3),
)
for dtype in ("string", "string[pyarrow]"):
    error(
        "y",
        f"words, pandas `{dtype}` with NA",
        "ValueError",
        "Input y contains NA",
        y=lambda dtype=dtype: pd.Series(WORDS[CODES]).astype(dtype).mask(np.arange(N) == 3),
    )
error(
    "y",
    "polars with null",
    "ValueError",
    "Input y contains NaN",
    y=lambda: pl.Series([None, *CODES[1:].tolist()]),
)
error(
    "y",
    "polars, String with null",
    "ValueError",
    "y[0] = None",
    y=lambda: pl.Series([None, *WORDS[CODES][1:].tolist()]),
)
error(
    "y",
    "a masked array",
    "ValueError",
    "y has masked values",
    y=lambda: np.ma.masked_array(CODES, mask=np.arange(N) == 3),
)
error(
    "y",
    "a tensor with NaN",
    "ValueError",
    "Input y contains NaN",
    y=lambda: torch.full((N,), np.nan),
)
error("y", "on the device meta", "ValueError", "y is a tensor", y=lambda: torch.empty(N, device="meta"))
error("y", "a tuple for a label", "ValueError", "y should be a 1d array", y=lambda: [(0, 1)] * N)
error(
    "y",
    "pandas, intervals",
    "ValueError",
    "objects of type Interval",
    y=lambda: pd.cut(pd.Series(X[:, 0]), 2),
)
error(
    "y",
    "`StringDType`",
    "TypeError",
    "StringDType",
    y=lambda: WORDS.astype(np.dtypes.StringDType())[CODES],
)
error("y", "words and numbers", "TypeError", "y[3] = 3", y=lambda: changed(WORDS[CODES].astype(object), 3, 3))
error("y", "continuous", "ValueError", "Unknown label type: continuous", y=lambda: X[:, 0])
error("y", "complex", "ValueError", "Complex data not supported", y=lambda: CODES + 0j)
error("y", "a row vector", "ValueError", "y should be a 1d array", y=lambda: CODES[None])
error("y", "two columns", "ValueError", "y should be a 1d array", y=lambda: np.column_stack([CODES, CODES]))
error("y", "a sparse column", "TypeError", "Sparse data was passed", y=lambda: sp.csr_array(CODES[:, None]))
error("y", "a number", "ValueError", "y should be a 1d array", y=lambda: 1)
error("y", "too short", "ValueError", "inconsistent numbers of samples: [60, 59]", y=lambda: CODES[:-1])
error("y", "lists", "ValueError", "y should be a 1d array", y=lambda: [[0, 1]] * N)

# ---- weights ----

RNG = np.random.default_rng(1)
UNIFORM = RNG.uniform(0.1, 2, size=N)
TIMES = RNG.integers(0, 4, size=N)


def weights(name: str, values: Any, make: Callable[[Any], Any] = lambda w: w, **rest: Any) -> None:
    add("sample_weight", name, weight=lambda: make(np.asarray(values)), plain_weight=values, **rest)


weights("all 1", np.ones(N))
weights("uniform", UNIFORM)
weights("whole numbers, some 0", TIMES)
weights("a list", UNIFORM, lambda w: w.tolist())
weights("float32", UNIFORM.astype(np.float32))
weights("bool", TIMES > 0)
weights("int8", TIMES.astype(np.int8))
weights("read-only", UNIFORM, read_only)
weights("a negative stride", UNIFORM, lambda w: w[::-1].copy()[::-1])
weights("a pandas Series", UNIFORM, pd.Series)
weights("a pandas Series of `Float64`", UNIFORM, lambda w: pd.Series(w).astype("Float64"))
weights("a polars Series", UNIFORM, pl.Series)
weights("a tensor", UNIFORM, torch.as_tensor)
weights("a tensor that requires a gradient", UNIFORM, lambda w: torch.tensor(w, requires_grad=True))
weights("a number for all rows", np.full(N, 2.5), lambda w: 2.5)
weights("longdouble", UNIFORM, lambda w: w.astype(np.longdouble))
weights("float16", UNIFORM.astype(np.float16))
weights("float64, big-endian", UNIFORM, lambda w: w.astype(">f8"))
weights("object, of floats", UNIFORM, lambda w: w.astype(object))
weights("a pyarrow array", UNIFORM, pa.array)
weights("-0.0 for some", np.where(TIMES > 0, 1.0, -0.0))
weights("1e12 each", UNIFORM * 1e12, params={"C": 1e-12})
weights("1e12 each, C=1", UNIFORM * 1e12)
weights("1e-12 each", UNIFORM * 1e-12, params={"C": 1e12})
weights("1e-12 each, C=1", UNIFORM * 1e-12)
weights("1e-300 each, C=inf", UNIFORM * 1e-300, params={"C": np.inf})
weights("from 1e-12 to 1e12", 10.0 ** np.linspace(-12, 12, N), params={"C": 1e-6})
weights("one row 1e12 times the others", changed(np.ones(N), 5, 1e12))
weights("0 but for two rows", np.isin(np.arange(N), [0, 1]))
add(
    "sample_weight",
    "a class with only weight 0, of three",
    X=lambda: THREE[0],
    plain=THREE[0],
    y=lambda: THREE[1],
    weight=lambda: (THREE[1] > 0).astype(float),
    plain_weight=THREE[1] > 0,
    classes=[0, 1, 2],
    codes=THREE[1],
)
weights("a class with only weight 0, of two", CODES)
weights("a class with only weight 0, of two, no intercept", CODES, params={"fit_intercept": False})
error("sample_weight", "all 0", "ValueError", "at least one non-zero number", weight=lambda: np.zeros(N))
error(
    "sample_weight",
    "negative",
    "ValueError",
    "sample_weight[3] is -1.0",
    weight=lambda: changed(np.ones(N), 3, -1.0),
)
error(
    "sample_weight",
    "NaN",
    "ValueError",
    "Input sample_weight contains NaN",
    weight=lambda: changed(np.ones(N), 3, np.nan),
)
error(
    "sample_weight",
    "infinity",
    "ValueError",
    "Input sample_weight contains infinity",
    weight=lambda: changed(np.ones(N), 3, np.inf),
)
error(
    "sample_weight",
    "too short",
    "ValueError",
    "sample_weight.shape == (59,), expected (60,)",
    weight=lambda: np.ones(N - 1),
)
error(
    "sample_weight",
    "two columns",
    "ValueError",
    "Sample weights must be 1D array or scalar",
    weight=lambda: np.ones((N, 2)),
)
error(
    "sample_weight",
    "a column vector",
    "ValueError",
    "Sample weights must be 1D array or scalar",
    weight=lambda: np.ones((N, 1)),
)
error("sample_weight", "words", "ValueError", "could not convert string to float", weight=lambda: ["one"] * N)
error(
    "sample_weight",
    "weights whose sum overflows",
    "ValueError",
    "The sum of sample_weight overflows",
    weight=lambda: np.full(N, 1e308),
)

error(
    "sample_weight",
    "pandas `Float64` with NA",
    "ValueError",
    "Input sample_weight contains NaN",
    weight=lambda: pd.Series(UNIFORM).astype("Float64").mask(np.arange(N) == 3),
)
error("sample_weight", "NaN for all rows", "ValueError", "sample_weight contains NaN", weight=lambda: np.nan)
error("sample_weight", "0 for all rows", "ValueError", "at least one non-zero number", weight=lambda: 0.0)
error("sample_weight", "-1 for all rows", "ValueError", "sample_weight[0] is -1.0", weight=lambda: -1.0)
error(
    "sample_weight",
    "a masked array",
    "ValueError",
    "sample_weight has masked values",
    weight=lambda: np.ma.masked_array(UNIFORM, mask=TIMES == 0),
)
error("sample_weight", "complex", "ValueError", "Complex data not supported", weight=lambda: UNIFORM + 0j)
error("sample_weight", "a dict", "TypeError", "not 'dict'", weight=lambda: {0: 1.0, 1: 2.0})
error("sample_weight", "none", "ValueError", "Found array with 0 sample(s)", weight=lambda: [])
error(
    "sample_weight",
    "1e-320 each",
    "ValueError",
    "too small for float64, the dtype of X",
    weight=lambda: np.full(N, 1e-320),
)
SINGLE = X.astype(np.float32)
for values in (UNIFORM * 1e36, UNIFORM * 1e-37):
    params = {"C": 1 / values.max()}
    weights(
        f"{values.max():.0e} at most, X of float32", values, X=lambda: SINGLE, plain=SINGLE, params=params
    )
error(
    "sample_weight",
    "1e39 each, X of float32",
    "ValueError",
    "overflows float32, the dtype of X",
    X=lambda: SINGLE,
    weight=lambda: np.full(N, 1e39),
)
error(
    "sample_weight",
    "1e-46 each, X of float32",
    "ValueError",
    "too small for float32, the dtype of X",
    X=lambda: SINGLE,
    weight=lambda: np.full(N, 1e-46),
)
error(
    "sample_weight",
    "1e-46 each in one class, X of float32",
    "ValueError",
    "at most 1.0e-46 in one of the classes",
    X=lambda: SINGLE,
    weight=lambda: np.where(CODES, 1e-46, 1.0),
)

BALANCED = N / (2 * np.bincount(CODES))[CODES]
WEIGHTED = UNIFORM * (UNIFORM.sum() / (2 * np.bincount(CODES, UNIFORM)))[CODES]


def class_weights(name: str, given: Any, values: Any, **rest: Any) -> None:
    add("class_weight", name, params={"class_weight": given}, plain_weight=values, **rest)


class_weights("balanced", "balanced", BALANCED)
class_weights("balanced, with sample weights", "balanced", WEIGHTED, weight=lambda: UNIFORM)
class_weights("of each class", {0: 0.5, 1: 3}, np.array([0.5, 3])[CODES])
class_weights("of one class", {1: 3.0}, np.array([1, 3])[CODES])
class_weights(
    "of classes that are words",
    {"no": 0.5, "yes": 3},
    np.array([0.5, 3])[CODES],
    y=lambda: WORDS[CODES],
    classes=WORDS,
)
class_weights("of numbers that equal the labels", {1.0: 3.0}, np.array([1, 3])[CODES])
class_weights("none", {}, np.ones(N))
class_weights("1e6 and 1e-6", {0: 1e6, 1: 1e-6}, np.array([1e6, 1e-6])[CODES])


def bad_class_weight(name: str, given: Any, kind: str, says: str) -> None:
    error("class_weight", name, kind, says, params={"class_weight": given})


bad_class_weight("an unknown class", {0: 1.0, 7: 2.0}, "ValueError", "which names [7]")
class_weights("0", {0: 0.0}, CODES)
bad_class_weight("0 for all", {0: 0.0, 1: 0.0}, "ValueError", "is 0 for every row")
bad_class_weight("negative", {0: -1.0}, "ValueError", "must be a finite number, at least 0")
bad_class_weight("NaN", {0: np.nan}, "ValueError", "must be a finite number, at least 0")
bad_class_weight("infinity", {0: np.inf}, "ValueError", "must be a finite number, at least 0")
bad_class_weight("names of another type", {"1": 2.0}, "ValueError", "which names ['1']")
error(
    "class_weight",
    "1e200 times sample weights of 1e200",
    "ValueError",
    "The sum of sample_weight times class_weight overflows float64",
    params={"class_weight": {0: 1e200}},
    weight=lambda: np.full(N, 1e200),
)
bad_class_weight(
    "a word for a weight", {0: "much"}, "ValueError", "could not convert string to float: 'much'"
)
bad_class_weight("another word", "balance", "ValueError", "The 'class_weight' parameter")
bad_class_weight("a list", [1.0, 2.0], "ValueError", "The 'class_weight' parameter")

# ---- extremes ----


def extreme(name: str, values: np.ndarray, codes: np.ndarray = CODES, **rest: Any) -> None:
    rest.setdefault("plain", values)
    add("extremes", name, X=lambda: values, y=lambda: codes, codes=codes, **rest)


RANDOM = np.random.default_rng(2)
# Columns of 1e-300 have no effect under a penalty, and without one their unit makes no difference.
extreme(
    "values of 1e-300, no penalty",
    X * 1e-300,
    params={"C": np.inf},
    outcome="ConvergenceWarning",
    says="values below 1e-150 were left out",
)
extreme("values of 1e-300", X * 1e-300, plain=X * 0)
extreme("a column of 1e-300 among others", X * [1e-300, 1, 1, 1], plain=X * [0, 1, 1, 1])
for scale in (1e-30, 1e30, 1e39, 1e150):
    extreme(f"values of {scale:g}, no penalty", X * scale, params={"C": np.inf})
    extreme(f"values of {scale:g}", X * scale)
    extreme(f"a column of {scale:g} among others", X * [scale, 1, 1, 1])
extreme("columns from 1e-8 to 1e8", X * [1e-8, 1e-3, 1e3, 1e8])
extreme("columns from 1e-8 to 1e8, no penalty", X * [1e-8, 1e-3, 1e3, 1e8], params={"C": np.inf})

for offset in (1e6, 1e7, 1e8):
    extreme(f"an offset of {offset:g}", X + offset)
    extreme(f"an offset of {offset:g}, no penalty", X + offset, params={"C": np.inf})
extreme("an offset of 1e6, no intercept", X + 1e6, params={"fit_intercept": False})
for offset in (1e7, 1e8):  # to float64 the columns are the same but for their mean
    extreme(
        f"an offset of {offset:g}, no intercept",
        X + offset,
        params={"fit_intercept": False},
        outcome="ConvergenceWarning",
        says="subtract the means of columns far from 0",
    )
extreme(
    "an offset of 1e6, float32",
    (X + 1e6).astype(np.float32),
    outcome="ConvergenceWarning",
    says="use float64 data, or subtract the means",
)
extreme(
    "an offset of 1e4, float32, no penalty",
    (X + 1e4).astype(np.float32),
    params={"C": np.inf},
    outcome="ConvergenceWarning",
    says="use float64 data",
)
extreme(
    "an offset of 1e3, float32, no penalty, to 1e-3",
    (X + 1e3).astype(np.float32),
    params={"C": np.inf},
    tolerance=1e-3,
)
for scale in (1e154, 1e200, 1e300):
    error("extremes", f"values of {scale:g}", "ValueError", "overflow torch.float64", X=lambda s=scale: X * s)
for scale in (1e37, 1e-37):
    extreme(f"values of {scale:g}, float32, no penalty", (X * scale).astype(np.float32), params={"C": np.inf})
extreme("whole numbers up to 2**53", np.where(X > 3, 2.0**53, WHOLE))
CONSTANT = changed(X, (slice(None), 1), 3.0)
for name, params in (("", {}), (", no penalty", {"C": np.inf}), (", no intercept", {"fit_intercept": False})):
    extreme(f"a constant column{name}", CONSTANT, params=params)
    extreme(f"a column of zeros{name}", changed(X, (slice(None), 1), 0.0), params=params)
    extreme(f"a column twice{name}", X[:, [0, 1, 1, 2, 3]], params=params)
    extreme(f"a column that is the sum of two{name}", np.column_stack([X, X[:, 0] + X[:, 1]]), params=params)
    extreme(
        f"every level of two factors{name}", np.column_stack([FLAGS, ~FLAGS]).astype(float), params=params
    )
extreme("constant columns only", np.full((N, 2), 3.0))
extreme("constant columns only, no penalty", np.full((N, 2), 1e6), params={"C": np.inf})
extreme("two rows", X[:2], CODES[:2])
extreme("two equal rows of different classes", X[[0, 0]], CODES[:2], params={"C": np.inf})
extreme("more columns than rows", np.tile(X[:10], (1, 12)) + RANDOM.normal(size=(10, 48)), CODES[:10])
extreme("rows that repeat", np.repeat(X[:20], 3, axis=0), CODES)
extreme("C of 1e-10", X, params={"C": 1e-10})
extreme("C of 1e10", X, params={"C": 1e10})
extreme("C of 1e-300", X, params={"C": 1e-300})
extreme("C of 1e300", X, params={"C": 1e300})
SEPARATED = (X[:, 0] + X[:, 1] > 0).astype(int)
extreme("separated, C=1", X, SEPARATED)
extreme("separated, C=1e6", X, SEPARATED, params={"C": 1e6})


def separated(name: str, values: np.ndarray, codes: np.ndarray, says: str) -> None:
    extreme(name, values, codes, outcome="ConvergenceWarning", says=says, params={"C": np.inf})


separated("separated by a combination, no penalty", X, SEPARATED, "separated perfectly by the columns 0, 1")
separated(
    "separated by one column, no penalty",
    X,
    (X[:, 2] > 0).astype(int),
    "separated perfectly by the column 2,",
)
separated(
    "a level that one class has, no penalty",
    np.column_stack([X, CODES * FLAGS[:, 0]]),
    CODES,
    "separated in part by the column 4,",
)
separated(
    "each of three classes apart, no penalty", THREE[1][:, None] * 1.0, THREE[1], "perfectly by the column 0,"
)
separated(
    "more columns than rows, no penalty", X[:4, :].repeat(3, axis=1) + np.eye(4, 12), CODES[:4], "perfectly"
)
separated(
    "one of three classes apart, no penalty",
    np.column_stack([X, np.minimum(THREE[1], 1)]),
    THREE[1],
    "separated in part by the column 4,",
)
RARE = RANDOM.normal(size=(100_001, 2))
extreme("one row against 100,000", RARE, (np.arange(len(RARE)) == 7).astype(int))
extreme(
    "one row against 100,000, balanced",
    RARE,
    (np.arange(len(RARE)) == 7).astype(int),
    params={"class_weight": "balanced"},
    plain_weight=np.where(np.arange(len(RARE)) == 7, len(RARE) / 2, len(RARE) / (2 * (len(RARE) - 1))),
)
extreme("a row 1e6 times the others", X * np.where(np.arange(N) == 7, 1e6, 1)[:, None])
extreme(
    "a row 1e6 times the others, no penalty",
    X * np.where(np.arange(N) == 7, 1e6, 1)[:, None],
    params={"C": np.inf},
)


def table() -> str:
    """The catalogue as a Markdown table for each of its parts."""
    lines = []
    for part in dict.fromkeys(row.part for row in ROWS):
        lines += [f"## {part[0].upper()}{part[1:]}", "", "| Input | Outcome |", "| --- | --- |"]
        for row in ROWS:
            if row.part == part:
                said = f"`{row.outcome}`: “… {row.says} …”" if row.says else row.outcome
                lines.append(f"| {row.name} | {said.replace('|', chr(92) + '|')} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    page = Path(__file__).parents[2] / "docs" / "_inputs_table.md"
    page.write_text(table(), encoding="utf-8")
