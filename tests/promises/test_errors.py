"""Errors at the door: what was got, what is needed, what to do, and the earlier model still there."""

from __future__ import annotations

import copy
import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_array_equal

from torch_logreg import TorchLogisticClassifier
from torch_logreg._solvers.registry import SOLVERS

N = 40
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 3))
y = (X @ [1.0, -2.0, 0.5] + rng.normal(size=N) > 0).astype(int)
w = np.ones(N)
FRAME = pd.DataFrame(X, columns=["age", "height", "income"])


def put(array: np.ndarray, index, value) -> np.ndarray:
    array = array.astype(np.float64)
    array[index] = value
    return array


class Refused(NamedTuple):
    error: type[Exception]
    words: tuple[str, ...]  # all of which the message has
    params: dict[str, Any] = {}
    data: dict[str, Any] = {}


def parameter(name: str, *values, words: tuple[str, ...] = ()) -> dict[str, Refused]:
    """Say what was got and which parameter it was, for each value."""
    return {
        f"{name}={value!r}": Refused(ValueError, (f"'{name}'", "must be", repr(value), *words), {name: value})
        for value in values
    }


FIT = {
    # X
    "NaN in X": Refused(ValueError, ("X contains NaN",), data={"X": put(X, (3, 1), np.nan)}),
    "inf in X": Refused(ValueError, ("X contains infinity",), data={"X": put(X, (3, 1), -np.inf)}),
    "NaN in a frame": Refused(ValueError, ("X contains NaN",), data={"X": FRAME.where(FRAME < 1)}),
    "NaN in sparse X": Refused(
        ValueError, ("X contains NaN",), data={"X": scipy.sparse.csr_array(put(X, (3, 1), np.nan))}
    ),
    "NaN in a tensor": Refused(ValueError, ("contains NaN",), data={"X": torch.tensor(put(X, 3, np.nan))}),
    "X of 1 dimension": Refused(ValueError, ("Expected 2D array", "1D"), data={"X": X[:, 0]}),
    "X of 3 dimensions": Refused(ValueError, ("dim 3", "dim <= 2"), data={"X": X[None]}),
    "X without rows": Refused(ValueError, ("0 sample(s)", "minimum of 1"), data={"X": X[:0], "y": y[:0]}),
    "X without columns": Refused(ValueError, ("0 feature(s)", "minimum of 1"), data={"X": X[:, :0]}),
    "complex X": Refused(ValueError, ("Complex data not supported",), data={"X": X + 1j}),
    "a complex tensor": Refused(
        ValueError, ("Complex data not supported",), data={"X": torch.tensor(X + 1j)}
    ),
    "complex sparse X": Refused(
        ValueError, ("Complex data not supported",), data={"X": scipy.sparse.csr_array(X + 1j)}
    ),
    "strings in X": Refused(
        ValueError, ("convert string to float", "tall"), data={"X": np.full((N, 3), "tall")}
    ),
    "strings in a frame": Refused(
        ValueError, ("convert string to float", "tall"), data={"X": FRAME.assign(height="tall")}
    ),
    "a sparse COO tensor": Refused(
        TypeError,
        ("X is a torch tensor", "torch.sparse_coo", "scipy.sparse"),
        data={"X": torch.eye(N).to_sparse()},
    ),
    # "meta" stands for any device but the CPU: layouts are refused wherever the tensor lies.
    "a sparse COO tensor elsewhere": Refused(
        TypeError,
        ("X is a torch tensor", "torch.sparse_coo", "scipy.sparse"),
        data={"X": torch.eye(N).to_sparse().to("meta")},
    ),
    "a tensor without values": Refused(ValueError, ("meta",), data={"X": torch.ones((N, 3), device="meta")}),
    "labels without values": Refused(ValueError, ("meta",), data={"y": torch.ones(N, device="meta")}),
    "a column index out of range": Refused(
        ValueError,
        ("indices must be <",),
        data={
            "X": scipy.sparse.csr_array((np.ones(2), np.array([0, 9]), np.array([0, 1, 2])), shape=(2, 3)),
            "y": [0, 1],
        },
    ),
    # y
    "one class": Refused(
        ValueError, ("at least 2 classes", "one class", "1"), data={"y": np.ones(N, dtype=int)}
    ),
    "one class by name": Refused(ValueError, ("at least 2 classes", "'yes'"), data={"y": np.full(N, "yes")}),
    "no y": Refused(ValueError, ("requires y", "None"), data={"y": None}),
    "NaN in y": Refused(ValueError, ("y contains NaN",), data={"y": put(y, 3, np.nan)}),
    "continuous y": Refused(ValueError, ("continuous", "discrete classes"), data={"y": X[:, 0]}),
    "complex y": Refused(ValueError, ("Complex data not supported",), data={"y": y + 1j}),
    "y of two columns": Refused(ValueError, ("1d array", f"({N}, 2)"), data={"y": np.eye(2)[y]}),
    "y too short": Refused(ValueError, ("inconsistent numbers of samples", "40", "39"), data={"y": y[1:]}),
    # weights
    "a negative weight": Refused(
        ValueError,
        ("sample_weight[7]", "-1.5", "negative", "0 to leave"),
        data={"sample_weight": put(w, 7, -1.5)},
    ),
    "weights all zero": Refused(ValueError, ("weights", "non-zero"), data={"sample_weight": 0 * w}),
    "NaN in weights": Refused(
        ValueError, ("sample_weight contains NaN",), data={"sample_weight": put(w, 3, np.nan)}
    ),
    "inf in weights": Refused(
        ValueError, ("sample_weight contains infinity",), data={"sample_weight": put(w, 3, np.inf)}
    ),
    "weights of 2 dimensions": Refused(
        ValueError, ("weights", "1D", "2D"), data={"sample_weight": np.ones((N, 2))}
    ),
    "weights too short": Refused(
        ValueError, ("sample_weight.shape", "39", "40"), data={"sample_weight": w[1:]}
    ),
    "complex weights": Refused(ValueError, ("Complex data not supported",), data={"sample_weight": w + 1j}),
    "weights in words": Refused(ValueError, ("'heavy'",), data={"sample_weight": np.full(N, "heavy")}),
    # class_weight
    "class_weight of 0 for all": Refused(
        ValueError, ("class_weight", "0 for every row"), {"class_weight": {0: 0, 1: 0}}
    ),
    "no class with weight by both": Refused(
        ValueError,
        ("class_weight", "0 for every row"),
        {"class_weight": {0: 0, 1: 1}},
        data={"sample_weight": 1.0 - y},
    ),
    "class_weight of -1": Refused(
        ValueError, ("class_weight", "-1.0", "at least 0"), {"class_weight": {1: -1}}
    ),
    "class_weight of NaN": Refused(
        ValueError, ("class_weight", "nan", "finite"), {"class_weight": {1: np.nan}}
    ),
    "class_weight of inf": Refused(
        ValueError, ("class_weight", "inf", "finite"), {"class_weight": {1: np.inf}}
    ),
    "class_weight of None": Refused(
        ValueError, ("class_weight", "nan", "finite"), {"class_weight": {1: None}}
    ),
    "class_weight of no class": Refused(ValueError, ("[1]", "class_weight"), {"class_weight": {0: 1, 7: 1}}),
    "class_weight in words": Refused(ValueError, ("'heavy'",), {"class_weight": {0: "heavy", 1: 1}}),
    # parameters
    **parameter("C", 0, 0.0, -1.0, np.nan, -np.inf, "1", None, [1.0], words=("(0.0, inf]",)),
    **parameter("tol", -1e-9, np.nan, "small", words=("[0.0, inf)",)),
    **parameter("max_iter", -1, 10.0, "many", None, words=("[0, inf)",)),
    **parameter("fit_intercept", 1, "yes", None, words=("bool",)),
    **parameter("warm_start", 0, "no", None, words=("bool",)),
    **parameter("verbose", -1, "much", None, words=("int",)),
    **parameter("random_state", -1, "lucky", 1.5, words=("RandomState",)),
    **parameter("class_weight", "unbalanced", [1, 2], 2.0, words=("'balanced'",)),
    **parameter("solver", "adam", "Lbfgs", 3, None, words=("'auto'", *(f"'{name}'" for name in SOLVERS))),
    **parameter("device", 0, ["cpu"], 1.5, words=("str", "torch.device")),
    **{
        f"solver={name!r} of LogisticRegression": Refused(
            ValueError, (f"solver='{name}'", "solver='auto'", *SOLVERS), {"solver": name}
        )
        for name in ("liblinear", "sag", "saga")
    },
    # devices
    **{
        f"device={name!r}": Refused(
            ValueError, (f"device='{name}'", "'cpu'", "device=None"), {"device": name}
        )
        for name in ("tpu9", "gpu", "", "cuda:99", "xpu:99", "mps:5", "cpu:x", "cuda:-1")
    },
    "a device object that is not there": Refused(
        ValueError, ("device='cuda:99'", "'cpu'", "device=None"), {"device": torch.device("cuda:99")}
    ),
    # Needs no such device: it is seen before one value is written.
    "a device without values": Refused(ValueError, ("device='meta'", "'cpu'"), {"device": "meta"}),
}

PREDICT = {
    "too few columns": (X[:, :2], ("2 features", "3 features")),
    "too many sparse columns": (scipy.sparse.csr_array(np.ones((2, 4))), ("4 features", "3 features")),
    "too few columns of a tensor": (torch.tensor(X[:, :2]), ("2 features", "3 features")),
    "NaN": (put(X, (3, 1), np.nan), ("X contains NaN",)),
    "inf": (put(X, (3, 1), np.inf), ("X contains infinity",)),
    "one row as 1-D": (X[0], ("Expected 2D array", "reshape(1, -1)")),
    "no rows": (X[:0], ("0 sample(s)", "minimum of 1")),
    "complex": (X + 1j, ("Complex data not supported",)),
    "strings": (np.full((2, 3), "tall"), ("'tall'",)),
    "renamed columns": (
        FRAME.rename(columns={"age": "years"}),
        ("feature names should match", "unseen at fit time", "- years", "now missing", "- age"),
    ),
    "reordered columns": (FRAME[["height", "age", "income"]], ("same order as they were in fit",)),
    "a missing column": (FRAME[["age", "height"]], ("now missing", "- income")),
}


def state(estimator: TorchLogisticClassifier) -> dict[str, Any]:
    return copy.deepcopy(vars(estimator))


def assert_as_before(estimator: TorchLogisticClassifier, before: dict[str, Any]) -> None:
    after = vars(estimator)
    assert sorted(after) == sorted(before)
    for name, value in before.items():
        assert type(after[name]) is type(value)
        if isinstance(value, dict):
            assert list(after[name]) == list(value)
            for key in value:
                assert_array_equal(after[name][key], value[key])
        else:
            assert_array_equal(after[name], value)


def attempt(estimator: TorchLogisticClassifier, refused: Refused) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(refused.error) as caught:
            estimator.fit(**{"X": X, "y": y, **refused.data})
    assert issubclass(refused.error, (ValueError, TypeError))
    return str(caught.value)


@pytest.mark.parametrize("name", FIT)
def test_fit_says_what_it_got_and_what_it_needs_and_keeps_the_earlier_model(name):
    refused = FIT[name]
    earlier = TorchLogisticClassifier().fit(FRAME, y)
    probabilities = earlier.predict_proba(FRAME)
    earlier.set_params(**refused.params)
    before = state(earlier)
    message = attempt(earlier, refused)
    assert [word for word in refused.words if word not in message] == []
    assert_as_before(earlier, before)
    earlier.set_params(**{key: TorchLogisticClassifier().get_params()[key] for key in refused.params})
    assert_array_equal(earlier.predict_proba(FRAME), probabilities)


@pytest.mark.parametrize("name", FIT)
def test_a_first_fit_that_fails_leaves_the_estimator_unfitted(name):
    refused = FIT[name]
    estimator = TorchLogisticClassifier(**refused.params)
    parameters = state(estimator)
    attempt(estimator, refused)
    assert_as_before(estimator, parameters)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "decision_function"])
@pytest.mark.parametrize("name", PREDICT)
def test_predictions_say_what_they_got_and_what_they_need(name, method):
    rows, words = PREDICT[name]
    estimator = TorchLogisticClassifier().fit(FRAME, y)
    before = state(estimator)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        with pytest.raises(ValueError) as caught:
            getattr(estimator, method)(rows)
    assert [word for word in words if word not in str(caught.value)] == []
    assert_as_before(estimator, before)


def test_a_device_that_is_not_there_is_refused_at_prediction_too():
    estimator = TorchLogisticClassifier().fit(X, y).set_params(device="cuda:99")
    with pytest.raises(ValueError, match="device='cuda:99'.*This machine has 'cpu'"):
        estimator.predict(X)


def test_a_warm_start_that_does_not_fit_the_data_keeps_the_earlier_model():
    estimator = TorchLogisticClassifier(warm_start=True).fit(FRAME, y)
    before = state(estimator)
    with pytest.raises(ValueError, match=r"warm_start=True.*\(1, 3\).*\(1, 2\).*warm_start=False"):
        estimator.fit(FRAME[["age", "height"]], y)
    assert_as_before(estimator, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError, SystemExit])
@pytest.mark.parametrize("solver", SOLVERS)
def test_an_interrupted_fit_keeps_the_earlier_model_and_lets_the_interrupt_through(
    monkeypatch, solver, error
):
    estimator = TorchLogisticClassifier(solver=solver).fit(FRAME, y)
    before, probabilities = state(estimator), estimator.predict_proba(FRAME)
    unfitted = TorchLogisticClassifier(solver=solver)
    interrupt = error("stop")

    def raises(self, iteration):
        raise interrupt

    monkeypatch.setattr("torch_logreg._estimators.callbacks.Recorder.__call__", raises)
    other = X[:, :2], np.arange(N) % 4
    for each in (estimator, unfitted):
        with pytest.raises(error) as caught:
            each.fit(*other)
        assert caught.value is interrupt
    assert_as_before(estimator, before)
    assert_array_equal(estimator.predict_proba(FRAME), probabilities)
    assert_as_before(unfitted, vars(TorchLogisticClassifier(solver=solver)))
    monkeypatch.undo()
    assert estimator.fit(*other).coef_.shape == (4, 2)
    assert not hasattr(estimator, "feature_names_in_")


class Fails:
    """A callback that fails at the end of one task."""

    def __init__(self, task_name: str) -> None:
        self.task_name = task_name

    def setup(self, estimator, context) -> None: ...

    def teardown(self, estimator, context) -> None: ...

    def on_fit_task_begin(self, estimator, context) -> None: ...

    def on_fit_task_end(self, estimator, context) -> None:
        if context.task_name == self.task_name:
            raise OSError("disk full")


@pytest.mark.parametrize("task_name", ["iteration", "fit"])
def test_a_callback_that_fails_keeps_the_earlier_model(task_name):
    estimator = TorchLogisticClassifier().fit(FRAME, y).set_callbacks(Fails(task_name))
    before = {name: value for name, value in state(estimator).items() if name != "_skl_callbacks"}
    with pytest.raises(OSError, match="disk full"):
        estimator.fit(X[:, :2], np.arange(N) % 4)
    del vars(estimator)["_skl_callbacks"]
    assert_as_before(estimator, before)


def test_a_failed_fit_gives_the_generators_and_the_grad_mode_back():
    before = torch.get_rng_state(), torch.is_grad_enabled(), torch.get_default_dtype()
    with pytest.raises(ValueError):
        TorchLogisticClassifier().fit(put(X, 0, np.nan), y)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.is_grad_enabled(), torch.get_default_dtype()) == before[1:]
