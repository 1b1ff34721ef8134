"""What reaches torch: no copy of X, one number for equal weights, and when the check for NaN is made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.utils import compute_class_weight

from torch_logreg import TorchLogisticClassifier
from torch_logreg._checks.data import check_finite, check_fit, check_predict
from torch_logreg._data.tensors import features_to, to_tensor

CPU = torch.device("cpu")
rng = np.random.default_rng(0)
X = rng.normal(size=(60, 4))
y = (X[:, 0] + rng.normal(size=60) > 0).astype(int)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy(order="K")
    array.flags.writeable = False
    return array


# ---- copies ----

LAYOUTS: dict[str, Callable] = {
    "C order": np.ascontiguousarray,
    "Fortran order": np.asfortranarray,
    "read-only": read_only,
    "read-only, Fortran order": lambda X: read_only(np.asfortranarray(X)),
    "every second row": lambda X: np.repeat(X, 2, 0)[::2],
    "some columns": lambda X: np.repeat(X, 2, 1)[:, 1:-1],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("container", "layout"),
    [
        *(("an array", layout) for layout in LAYOUTS),
        *(("a tensor", layout) for layout in LAYOUTS if "read-only" not in layout),
    ],
)
def test_rows_reach_torch_without_a_copy(container, layout, dtype):
    array = LAYOUTS[layout](X.astype(dtype))
    rows = torch.from_numpy(array) if container == "a tensor" else array
    estimator = TorchLogisticClassifier()
    for defer_finite in (False, True):
        data = check_fit(estimator, rows, y, None, None, defer_finite)
        predicted = check_predict(estimator, rows, defer_finite)
        for features in (data.X, predicted):
            tensor = features_to(features, CPU, torch.float32 if dtype == np.float32 else torch.float64)
            assert tensor.data_ptr() == array.__array_interface__["data"][0]
            assert tensor.stride() == tuple(stride // array.itemsize for stride in array.strides)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_weights_take_the_memory_of_one(dtype):
    data = check_fit(TorchLogisticClassifier(), X, y, None, None)
    assert data.weights.shape == (60,)
    assert data.weights.strides == (0,)
    tensor = to_tensor(data.weights[None], CPU, dtype)
    assert (tensor.dtype, tensor.shape, tensor.stride()[1]) == (dtype, (1, 60), 0)
    assert bool((tensor == 1).all())
    assert check_fit(TorchLogisticClassifier(), X, y, None, "balanced").weights.strides == (8,)


@pytest.mark.parametrize("shape", [(5, 3), (1, 3), (5, 1), (1, 1), (0, 3)])
def test_a_broadcast_array_is_the_same_tensor(shape):
    for array in (np.broadcast_to(np.arange(3.0)[:, None][: shape[1]].T, (shape[0], min(3, shape[1]))),):
        assert_array_equal(to_tensor(array, CPU, torch.float32).numpy(), array)
    assert_array_equal(
        to_tensor(np.broadcast_to(2.0, shape), CPU, torch.float32).numpy(), np.full(shape, 2.0)
    )


# ---- weights ----


@pytest.mark.parametrize("class_weight", ["balanced", {0: 2.0}, {0: 0.5, 1: 3}])
@pytest.mark.parametrize("weighted", [False, True])
def test_class_weights_multiply_as_in_scikit_learn(class_weight, weighted):
    weight = rng.uniform(0, 3, 60) * (rng.uniform(size=60) > 0.3) if weighted else None
    data = check_fit(TorchLogisticClassifier(), X, y, weight, class_weight)
    ones = np.ones(60) if weight is None else weight
    of_class = compute_class_weight(class_weight, classes=np.array([0, 1]), y=y, sample_weight=ones)
    assert_allclose(data.weights, ones * of_class[y], rtol=1e-14)


# ---- NaN and infinity ----

ROWS: dict[str, Callable] = {
    "float64": lambda X: X,
    "float32": lambda X: X.astype(np.float32),
    "float16": lambda X: X.astype(np.float16),
    "Fortran order": np.asfortranarray,
    "CSR": scipy.sparse.csr_array,
    "CSR of float32": lambda X: scipy.sparse.csr_array(X.astype(np.float32)),
    "CSC": scipy.sparse.csc_array,
    "a tensor": torch.tensor,
    "a float32 tensor": lambda X: torch.tensor(X, dtype=torch.float32),
    "a float16 tensor": lambda X: torch.tensor(X, dtype=torch.float16),
    "a bfloat16 tensor": lambda X: torch.tensor(X, dtype=torch.bfloat16),
    "a list": lambda X: X.tolist(),
}


def broken(value: float) -> np.ndarray:
    rows = X.copy()
    rows[41, 2] = value
    return rows


def message(function: Callable, *args) -> str:
    with pytest.raises(ValueError) as caught:
        function(*args)
    return str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ROWS)
def test_a_deferred_check_says_what_the_one_at_the_door_says(kind, value):
    rows, estimator = ROWS[kind](broken(value)), TorchLogisticClassifier()
    expected = message(check_fit, estimator, rows, y, None, None)
    assert ("NaN" if np.isnan(value) else "infinity") in expected
    data = check_fit(estimator, rows, y, None, None, True)
    assert message(check_finite, estimator, data.X) == expected
    assert message(check_finite, estimator, check_predict(estimator, rows, True)) == expected
    assert message(check_predict, estimator, rows) == expected
    for solver in ("auto", "lbfgs", "sgd"):
        assert message(TorchLogisticClassifier(solver=solver).fit, rows, y) == expected


@pytest.mark.parametrize("row", range(0, 60, 4))
def test_rows_that_early_stopping_keeps_are_checked_too(row):
    rows = X.copy()
    rows[row, 2] = np.nan
    for solver in ("auto", "sgd"):
        estimator = TorchLogisticClassifier(solver=solver, early_stopping=True, random_state=0)
        assert "Input X contains NaN" in message(estimator.fit, rows, y)


def test_a_tensor_elsewhere_is_checked_there():
    # The branch for other devices, on the CPU.
    estimator = TorchLogisticClassifier()
    assert "NaN or infinity" in message(check_finite, estimator, torch.tensor(broken(np.nan)))
    check_finite(estimator, torch.tensor(X))


def test_finite_rows_pass_and_assumed_ones_are_not_read():
    estimator = TorchLogisticClassifier()
    for kind in ROWS:
        check_finite(estimator, check_fit(estimator, ROWS[kind](X), y, None, None, True).X)
    with config_context(assume_finite=True):
        check_finite(estimator, broken(np.nan))


# ---- parameters ----


def test_a_subclass_with_defaults_of_its_own_is_checked():
    class Misset(TorchLogisticClassifier):
        def __init__(self, C=-1.0):
            super().__init__(C=C)

    assert "The 'C' parameter of Misset must be" in message(Misset().fit, X, y)


def test_of_several_parameters_the_first_by_name_is_refused():
    assert "'C'" in message(TorchLogisticClassifier(tol=-1, max_iter=-1, C=-1).fit, X, y)
    assert "'max_iter'" in message(TorchLogisticClassifier(tol=-1, max_iter=-1).fit, X, y)
