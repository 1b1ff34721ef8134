"""What LogisticRegression refuses is refused here too, with an exception of the same kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.linear_model import LogisticRegression

from torch_logreg import TorchLogisticClassifier

N = 40
X = np.random.default_rng(0).normal(size=(N, 4))
y = np.arange(N) % 2
w = np.ones(N)
FRAME = pd.DataFrame(X, columns=list("abcd"))


def put(array: np.ndarray, index, value) -> np.ndarray:
    array = array.astype(np.float64)
    array[index] = value
    return array


def fit(X=X, y=y, w=None, **params) -> Callable:
    return lambda Estimator: Estimator(**params).fit(X, y, sample_weight=w)


def fitted(use: Callable, X=X) -> Callable:
    return lambda Estimator: use(Estimator().fit(X, y))


REFUSED = {
    "predict before fit": lambda Estimator: Estimator().predict(X),
    "decision_function before fit": lambda Estimator: Estimator().decision_function(X),
    "predict_proba before fit": lambda Estimator: Estimator().predict_proba(X),
    "predict_log_proba before fit": lambda Estimator: Estimator().predict_log_proba(X),
    "score before fit": lambda Estimator: Estimator().score(X, y),
    "sparsify before fit": lambda Estimator: Estimator().sparsify(),
    "densify before fit": lambda Estimator: Estimator().densify(),
    "predict wrong width": fitted(lambda model: model.predict(X[:, :3])),
    "predict sparse of wrong width": fitted(lambda model: model.predict(scipy.sparse.csr_array(X[:, :3]))),
    "predict NaN": fitted(lambda model: model.predict(put(X, (3, 1), np.nan))),
    "predict inf": fitted(lambda model: model.predict(put(X, (3, 1), np.inf))),
    "predict one row as 1-D": fitted(lambda model: model.predict(X[0])),
    "predict 3-D": fitted(lambda model: model.predict(X[None])),
    "predict no rows": fitted(lambda model: model.predict(X[:0])),
    "predict None": fitted(lambda model: model.predict(None)),
    "predict strings": fitted(lambda model: model.predict(np.full((3, 4), "a"))),
    "predict complex": fitted(lambda model: model.predict(X + 1j)),
    "predict renamed columns": fitted(lambda model: model.predict(FRAME.rename(columns={"d": "e"})), FRAME),
    "predict reordered columns": fitted(lambda model: model.predict(FRAME[list("bacd")]), FRAME),
    "score of mismatched lengths": fitted(lambda model: model.score(X, y[:10])),
    "X with NaN": fit(X=put(X, (3, 1), np.nan)),
    "X with inf": fit(X=put(X, (3, 1), np.inf)),
    "sparse X with NaN": fit(X=scipy.sparse.csr_array(put(X, (3, 1), np.nan))),
    "X with pandas NA": fit(X=pd.DataFrame({"a": pd.array([1.5, None] * (N // 2), dtype="Float64")})),
    "X complex": fit(X=X + 1j),
    "X a complex tensor": fit(X=torch.tensor(X + 1j)),
    "X a sparse tensor": fit(X=torch.tensor(X).to_sparse()),
    "X 1-D": fit(X=X[:, 0]),
    "X 3-D": fit(X=X[None]),
    "X a scalar": fit(X=3.0),
    "X None": fit(X=None),
    "X without rows": fit(X=X[:0], y=y[:0]),
    "X without columns": fit(X=X[:, :0]),
    "X ragged": fit(X=[[1, 2], [3]], y=[0, 1]),
    "X of strings": fit(X=np.full((N, 4), "a")),
    "X of string objects": fit(X=np.full((N, 4), "a", dtype=object)),
    "X a matrix": fit(X=np.asmatrix(X)),
    "X with mixed column names": fit(X=pd.DataFrame(X, columns=["a", 1, "b", 2])),
    "y None": fit(y=None),
    "y of one class": fit(y=np.zeros(N)),
    "y of one string": fit(y=np.full(N, "a")),
    "y continuous": fit(y=X[:, 0]),
    "y of halves": fit(y=y + 0.5),
    "y with NaN": fit(y=put(y, 2, np.nan)),
    "y with inf": fit(y=put(y, 2, np.inf)),
    "y with pandas NA": fit(y=pd.Series([0, None] * (N // 2), dtype="Int64")),
    "y with a missing category": fit(y=pd.Series(["a", None] * (N // 2), dtype="category")),
    "y with None": fit(y=np.array(["a", None] * (N // 2), dtype=object)),
    "y of mixed types": fit(y=np.array([0, "a"] * (N // 2), dtype=object)),
    "y of bytes": fit(y=np.array([b"a", b"b"] * (N // 2))),
    "y complex": fit(y=y + 1j),
    "y sparse": fit(y=scipy.sparse.csr_array(y[:, None])),
    "y too short": fit(y=y[:10]),
    "y of two columns": fit(y=np.column_stack([y, 1 - y])),
    "y 3-D": fit(y=y[:, None, None]),
    "y a scalar": fit(y=1),
    "weights all zero": fit(w=0 * w),
    "weights with NaN": fit(w=put(w, 2, np.nan)),
    "weights with inf": fit(w=put(w, 2, np.inf)),
    "weights complex": fit(w=w + 1j),
    "weights of strings": fit(w=np.full(N, "a")),
    "weights too short": fit(w=w[:10]),
    "weights 2-D": fit(w=w[:, None]),
    "C negative": fit(C=-1.0),
    "C zero": fit(C=0),
    "C NaN": fit(C=np.nan),
    "C a string": fit(C="1"),
    "C None": fit(C=None),
    "C an array": fit(C=np.array([1.0])),
    "tol negative": fit(tol=-1e-4),
    "tol NaN": fit(tol=np.nan),
    "tol a string": fit(tol="small"),
    "max_iter negative": fit(max_iter=-1),
    "max_iter a fraction": fit(max_iter=10.5),
    "max_iter a whole float": fit(max_iter=10.0),
    "max_iter None": fit(max_iter=None),
    "fit_intercept a string": fit(fit_intercept="yes"),
    "fit_intercept 1": fit(fit_intercept=1),
    "warm_start a string": fit(warm_start="yes"),
    "random_state a string": fit(random_state="x"),
    "random_state negative": fit(random_state=-1),
    "random_state a Generator": fit(random_state=np.random.default_rng(0)),
    "verbose negative": fit(verbose=-1),
    "verbose a string": fit(verbose="much"),
    "solver unknown": fit(solver="adam"),
    "solver a number": fit(solver=1),
    "solver None": fit(solver=None),
    "class_weight a string": fit(class_weight="unbalanced"),
    "class_weight a list": fit(class_weight=[1, 2]),
    "class_weight of an unknown class": fit(class_weight={0: 1, 5: 1}),
    "class_weight of strings": fit(class_weight={"0": 1, "1": 2}),
    "class_weight not a number": fit(class_weight={0: "a", 1: 1}),
    "another width for a warm start": lambda Estimator: Estimator(warm_start=True).fit(X, y).fit(X[:, :3], y),
    "more classes for a warm start": lambda Estimator: (
        Estimator(warm_start=True).fit(X, y).fit(X, np.arange(N) % 3)
    ),
    "coefficients of wrong width": fitted(
        lambda model: (setattr(model, "coef_", np.ones((1, 3))), model.predict(X))
    ),
    "an unknown parameter": lambda Estimator: Estimator(colour="red"),
    "an unknown parameter to set": lambda Estimator: Estimator().set_params(colour="red"),
    "positional parameters": lambda Estimator: Estimator(1.0, 0.5),
    "an unknown keyword of fit": lambda Estimator: Estimator().fit(X, y, weights=w),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_logistic_regression_refuses_is_refused_with_the_same_kind_of_error(name):
    attempt = REFUSED[name]
    with pytest.raises(Exception) as expected:  # noqa: PT011, whatever it is
        attempt(LogisticRegression)
    with pytest.raises(Exception) as got:  # noqa: PT011
        attempt(TorchLogisticClassifier)
    kinds = [kind for kind in (NotFittedError, TypeError, ValueError) if issubclass(expected.type, kind)]
    assert kinds
    assert issubclass(got.type, kinds[0])
    assert str(got.value)


REFUSED_HERE_ONLY = {
    # LogisticRegression minimises something unbounded.
    "a negative weight": fit(w=put(w, 7, -1.0)),
    # LogisticRegression: a model of NaN, ZeroDivisionError, or a warning that it failed to converge.
    "class_weight NaN": fit(class_weight={0: np.nan, 1: 1}),
    "class_weight None": fit(class_weight={0: None, 1: 1}),
    "class_weight inf": fit(class_weight={0: np.inf, 1: 1}),
    "class_weight negative": fit(class_weight={0: -1, 1: 1}),
    # LogisticRegression reads beyond the arrays.
    "a column index out of range": fit(
        X=scipy.sparse.csr_array((np.ones(2), np.array([0, 9]), np.array([0, 1, 2])), shape=(2, 3)), y=[0, 1]
    ),
}


@pytest.mark.parametrize("name", REFUSED_HERE_ONLY)
def test_what_has_no_answer_is_refused_though_logistic_regression_gives_one(name):
    with pytest.raises(ValueError):
        REFUSED_HERE_ONLY[name](TorchLogisticClassifier)


ACCEPTED = {
    "numbers as strings": fit(X=X.round(3).astype(str)),
    "numbers as objects": fit(X=X.astype(object)),
    "booleans": fit(X=X > 0),
    "long doubles": fit(X=X.astype(np.longdouble)),
    "dates": fit(X=np.full((N, 2), np.datetime64("2020-01-01")) + np.arange(2 * N).reshape(N, 2)),
    "one weight for all": fit(w=2.0),
    "class_weight zero, no intercept": fit(class_weight={0: 0, 1: 1}, fit_intercept=False),
    "only one class has weight, no intercept": fit(w=y.astype(float), fit_intercept=False),
    "C=True": fit(C=True),
    "C a numpy number": fit(C=np.float32(0.5)),
    "max_iter a numpy number": fit(max_iter=np.int64(50)),
    "an empty class_weight": fit(class_weight={}),
    "class_weight of one class": fit(class_weight={1: 2.0}),
    "a RandomState": fit(random_state=np.random.RandomState(0)),
    "random_state": fit(random_state=3),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_logistic_regression_accepts_is_accepted_with_the_same_answer(name):
    expected, got = ACCEPTED[name](LogisticRegression), ACCEPTED[name](TorchLogisticClassifier)
    np.testing.assert_allclose(got.coef_, expected.coef_, rtol=5e-3, atol=5e-3)
    assert got.coef_.dtype == expected.coef_.dtype


def test_a_column_of_labels_is_read_with_the_same_warning():
    for Estimator in (LogisticRegression, TorchLogisticClassifier):
        with pytest.warns(DataConversionWarning, match="column-vector"):
            model = Estimator().fit(X, y[:, None])
        assert model.predict(X).shape == (N,)


def test_names_that_only_one_of_fit_and_predict_has_are_warned_of_as_there():
    for Estimator in (LogisticRegression, TorchLogisticClassifier):
        named, unnamed = Estimator().fit(FRAME, y), Estimator().fit(X, y)
        assert named.feature_names_in_.tolist() == list("abcd")
        assert named.feature_names_in_.dtype == object
        assert not hasattr(unnamed, "feature_names_in_")
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            named.predict(X)
        with pytest.warns(UserWarning, match="was fitted without feature names"):
            unnamed.predict(FRAME)
