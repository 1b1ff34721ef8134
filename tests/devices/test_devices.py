"""A second device on every machine: torch's ``lazy`` backend, which computes once it is asked for values.

It refuses what is not meant for it (tensors of two devices in one operation, generators, CSR), as a GPU does.
The problems are small because it compiles every graph it has not seen before.
"""

from __future__ import annotations

import pickle
import pickletools

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal

from helpers.datasets import load, standardised
from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV, smallest_C
from torch_logreg._solvers.conjugate_gradients import Preconditioner
from torch_logreg._solvers.registry import SOLVERS

PROBLEMS = {"binary": "birthwt", "softmax": "iris"}
CHEAP = {"solver": "newton-cholesky"}  # conjugate gradients make long graphs


@pytest.fixture(scope="module", autouse=True)
def lazy(lazy_backend):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine threads wait for one another longer than they compute
    with torch.jit.optimized_execution(False):  # compiling takes longer than it saves
        yield
    torch.set_num_threads(threads)


@pytest.fixture(params=PROBLEMS)
def problem(request) -> tuple[np.ndarray, np.ndarray]:
    data = load(PROBLEMS[request.param])
    return standardised(data.X[:, :2]), data.y


def on_lazy(array) -> torch.Tensor:
    return torch.as_tensor(array).to("lazy")


def assert_agree(
    got: TorchLogisticClassifier, expected: TorchLogisticClassifier, X, tol: float = 1e-6
) -> None:
    scale = np.abs(expected.coef_).max()
    assert (type(got.coef_), type(got.intercept_), type(got.classes_)) == (np.ndarray,) * 3
    assert (got.coef_.dtype, got.coef_.shape) == (expected.coef_.dtype, expected.coef_.shape)
    assert got.classes_.tolist() == expected.classes_.tolist()
    assert_allclose(got.coef_, expected.coef_, rtol=tol, atol=tol * scale)
    assert_allclose(got.intercept_, expected.intercept_, rtol=tol, atol=tol * scale)
    assert got.stop_reason_ == expected.stop_reason_
    on_cpu = torch.as_tensor(X, device="cpu")
    for method in ("predict", "predict_proba", "decision_function", "predict_log_proba"):
        result, reference = getattr(got, method)(X), getattr(expected, method)(on_cpu)
        assert type(result) is np.ndarray
        assert result.dtype == reference.dtype
        assert_allclose(result, reference, rtol=10 * tol, atol=10 * tol)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.one_in(100)
def test_every_solver_gives_there_what_it_gives_here(problem, solver, monkeypatch):
    X, y = problem
    params = {"solver": solver, "tol": 1e-2, "C": 0.1}  # few iterations, so that few graphs are compiled
    monkeypatch.setattr("torch_logreg._solvers.conjugate_gradients.CG_STEPS", 4)  # and short ones
    monkeypatch.setattr(Preconditioner, "update", lambda self, w: False)  # which is made on the CPU alone
    expected = TorchLogisticClassifier(**params).fit(X, y)
    got = TorchLogisticClassifier(**params, device="lazy").fit(X, y)
    assert_agree(got, expected, X)
    assert got.n_iter_.tolist() == expected.n_iter_.tolist()
    assert got.module_.weight.device.type == "lazy"


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.Adafactor])
def test_an_optimizer_steps_the_parameters_of_a_module_there(optimizer):
    """One vector of all parameters, or each of its own: weights and biases."""
    data = load("birthwt")
    X, y = standardised(data.X[:, :2]).astype(np.float32), data.y
    settings = {"module": torch.nn.Linear(2, 1), "optimizer": optimizer, "max_iter": 2, "tol": None}
    expected = TorchLogisticClassifier(**settings, batch_size=None).fit(X, y)
    got = TorchLogisticClassifier(**settings, batch_size=None, device="lazy").fit(X, y)
    assert_allclose(got.loss_curve_, expected.loss_curve_, rtol=1e-5)
    assert_allclose(got.predict_proba(X), expected.predict_proba(X), rtol=1e-4)


@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
@pytest.mark.one_in(100)
def test_an_l1_fit_has_there_the_zeros_that_it_has_here(problem, l1_ratio):
    X, y = problem
    params = {"l1_ratio": l1_ratio, "C": 0.05, "tol": 1e-6}
    expected = TorchLogisticClassifier(**params).fit(X, y)
    got = TorchLogisticClassifier(**params).fit(on_lazy(X), on_lazy(y))
    assert_agree(got, expected, on_lazy(X))
    assert_array_equal(got.coef_ == 0, expected.coef_ == 0)
    assert got.dual_gap_ <= 2e-6 * got.objective_
    assert smallest_C(on_lazy(X), y, l1_ratio) == pytest.approx(smallest_C(X, y, l1_ratio), rel=1e-12)


@pytest.mark.parametrize("l1_ratios", [(0.0, 0.5), (1.0,)])
@pytest.mark.one_in(100)
def test_c_and_l1_ratio_are_chosen_there_as_here(problem, l1_ratios):
    X, y = problem
    params = {"l1_ratios": l1_ratios, "Cs": [0.02, 0.05], "cv": 2, "tol": 1e-6}
    expected = TorchLogisticClassifierCV(**params).fit(X, y)
    got = TorchLogisticClassifierCV(**params).fit(on_lazy(X), on_lazy(y))
    assert (got.C_, got.l1_ratio_) == (expected.C_, expected.l1_ratio_)
    assert_allclose(got.coefs_paths_, expected.coefs_paths_, rtol=1e-3, atol=1e-4)
    assert_array_equal(got.coef_ == 0, expected.coef_ == 0)


@pytest.mark.parametrize("cov_type", ["nonrobust", "HC1", "cluster"])
def test_standard_errors_are_there_what_they_are_here(problem, cov_type):
    X, y = problem
    rows, groups = on_lazy(X), np.arange(len(y)) % 7 if cov_type == "cluster" else None
    settings = {"cov_type": cov_type, "groups": groups, "penalized": "ignore"}
    clf = TorchLogisticClassifier(**CHEAP).fit(X, y)
    expected = clf.summary(X, y, **settings)
    assert_allclose(clf.summary(rows, on_lazy(y), **settings), expected, rtol=1e-4)
    statistics = clf.fit_statistics(rows, y, penalized="ignore")
    assert_allclose(statistics, clf.fit_statistics(X, y, penalized="ignore"), rtol=1e-5)


def test_tensors_that_lie_there_are_computed_with_there(problem):
    X, y = problem
    rows, labels = on_lazy(X), on_lazy(y)
    expected = TorchLogisticClassifier(**CHEAP).fit(X, y)
    for device in (None, "lazy", torch.device("lazy")):
        got = TorchLogisticClassifier(**CHEAP, device=device).fit(rows, labels)
        assert_agree(got, expected, rows)
        assert_agree(got, expected, X)
    for each in (rows, X):
        assert_agree(TorchLogisticClassifier(**CHEAP, device="lazy").fit(each, y), expected, each)
    assert_agree(TorchLogisticClassifier(**CHEAP, device="cpu").fit(rows, labels), expected, rows)
    assert rows.device.type == labels.device.type == "lazy"
    assert_array_equal(rows.cpu(), X)


def test_labels_and_weights_may_lie_on_another_device_than_the_rows(problem):
    X, y = problem
    weight = np.random.default_rng(0).uniform(0, 2, len(y))
    expected = TorchLogisticClassifier(**CHEAP).fit(X, y, weight)
    assert_agree(TorchLogisticClassifier(**CHEAP).fit(X, on_lazy(y), on_lazy(weight)), expected, X)
    assert_agree(TorchLogisticClassifier(**CHEAP).fit(on_lazy(X), y.tolist(), on_lazy(weight)), expected, X)
    assert_agree(TorchLogisticClassifier(**CHEAP).fit(on_lazy(X), on_lazy(y), weight), expected, X)


def test_the_score_reads_labels_that_lie_there(problem):
    X, y = problem
    estimator = TorchLogisticClassifier(**CHEAP).fit(X, y)
    weight = np.random.default_rng(0).uniform(0, 2, len(y))
    assert estimator.score(on_lazy(X), on_lazy(y)) == estimator.score(X, y)
    assert estimator.score(on_lazy(X), on_lazy(y), on_lazy(weight)) == estimator.score(X, y, weight)


VARIANTS = {
    "weights": ({}, True),
    "balanced": ({"class_weight": "balanced"}, True),
    "class weights": ({"class_weight": {0: 2.0, 1: 0.5}}, False),
    "no intercept": ({"fit_intercept": False}, False),
    "a weak penalty": ({"C": 1e4}, False),
    "a strong penalty": ({"C": 1e-4}, False),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.one_in(3)
def test_every_kind_of_problem_has_the_same_answer_there(problem, variant):
    X, y = problem
    params, weighted = VARIANTS[variant]
    weight = np.random.default_rng(0).integers(0, 3, len(y)) if weighted else None
    expected = TorchLogisticClassifier(**CHEAP, **params).fit(X, y, weight)
    assert_agree(TorchLogisticClassifier(**CHEAP, **params, device="lazy").fit(X, y, weight), expected, X)


def test_collinear_columns_without_a_penalty_have_the_same_answer_there(problem):
    X, y = problem
    y = np.where(np.random.default_rng(0).random(len(y)) < 0.2, y.max() - y, y)  # no class can be separated
    collinear = np.column_stack([X, X @ [1.0, -1.0], X[:, 0] > 0, X[:, 0] <= 0, np.ones(len(X))])
    expected = TorchLogisticClassifier(**CHEAP, C=np.inf).fit(collinear, y)
    got = TorchLogisticClassifier(**CHEAP, C=np.inf, device="lazy").fit(collinear, y)
    assert_agree(got, expected, collinear)


def test_raw_columns_have_the_same_answer_there():
    data = load("breast_cancer")
    X, y = data.X[:, [0, 3, 4, 23]], data.y  # of sizes from 0.1 to 1000
    expected = TorchLogisticClassifier(**CHEAP).fit(X, y)
    assert_agree(TorchLogisticClassifier(**CHEAP, device="lazy").fit(X, y), expected, X)


def test_float32_and_half_precision_have_the_same_answer_there(problem):
    X, y = problem
    X = np.round(8 * X) / 8  # exact in 16 bits
    single = X.astype(np.float32)
    expected = TorchLogisticClassifier(**CHEAP).fit(single, y)
    got = TorchLogisticClassifier(**CHEAP, device="lazy").fit(single, y)
    assert got.coef_.dtype == np.float32
    assert_agree(got, expected, single)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rows = on_lazy(torch.tensor(X, dtype=dtype))
        assert_agree(TorchLogisticClassifier(**CHEAP).fit(rows, y), expected, single)
    integers = on_lazy((8 * X).astype(np.int64))
    assert_agree(
        TorchLogisticClassifier(**CHEAP).fit(integers, y),
        TorchLogisticClassifier(**CHEAP).fit(8 * X, y),
        8 * X,
    )


def test_a_warm_start_there_takes_one_step(problem):
    X, y = problem
    estimator = TorchLogisticClassifier(**CHEAP, device="lazy", warm_start=True).fit(X, y).fit(X, y)
    assert estimator.n_iter_.tolist() == [1]


def test_a_model_trained_there_predicts_here(problem):
    X, y = problem
    for trained in (
        TorchLogisticClassifier(**CHEAP, device=torch.device("lazy")).fit(X, y),
        TorchLogisticClassifier(**CHEAP).fit(on_lazy(X), on_lazy(y)),
    ):
        data = pickle.dumps(trained)
        strings = {argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}
        assert "torch_logreg" in strings
        assert {s for s in strings if s.split(" ")[0].split(".")[0] == "torch"} == set()
        assert len(data) < 4000
        back = pickle.loads(data)
        assert_array_equal(back.predict(X), trained.predict(X))
        back.set_params(device=None)
        assert_allclose(back.predict_proba(X), trained.predict_proba(X), rtol=1e-9)
        assert back.module_.weight.device.type == "cpu"


def test_changed_coefficients_change_predictions_there(problem):
    X, y = problem
    estimator = TorchLogisticClassifier(**CHEAP, device="lazy").fit(X, y)
    estimator.predict(X)
    estimator.coef_[0, 0] += 1
    expected = X @ estimator.coef_.T + estimator.intercept_
    assert_allclose(estimator.decision_function(X).reshape(expected.shape), expected, rtol=1e-9, atol=1e-9)
    sparse = estimator.sparsify().decision_function(X)
    assert_allclose(sparse.reshape(expected.shape), expected, rtol=1e-9, atol=1e-9)


def test_the_answer_is_the_same_where_lazy_is_the_default_device(problem):
    X, y = problem
    expected = TorchLogisticClassifier(**CHEAP).fit(X, y)
    torch.set_default_device("lazy")
    try:
        for rows in (X, scipy.sparse.csr_array(X), torch.as_tensor(X, device="cpu")):
            got = TorchLogisticClassifier(**CHEAP).fit(rows, y)
            assert_allclose(got.coef_, expected.coef_, rtol=1e-9)
            assert_allclose(got.predict_proba(rows), expected.predict_proba(X), rtol=1e-9)
            assert got.module_.weight.device.type == "cpu"
    finally:
        torch.set_default_device(None)


# ---- samples of the rows ----


def _many_rows(n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 3))
    return X, (X[:, 0] + rng.normal(size=500)).argsort().argsort() * n_classes // 500


@pytest.mark.parametrize(
    ("n_classes", "only_metric"),
    [(2, False), *(pytest.param(3, each, marks=pytest.mark.deep) for each in (False, True))],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.one_in(100)
def test_a_fit_that_starts_on_a_sample_has_the_same_answer_there(n_classes, only_metric, dtype, monkeypatch):
    monkeypatch.setattr("torch_logreg._fit.plan.HELD_NUMBERS", 0)  # samples are drawn of 500 rows
    monkeypatch.setattr("torch_logreg._linear.samples.MIN_ROWS_PER_PARAMETER", 5)
    monkeypatch.setattr("torch_logreg._fit.plan.MIN_ROWS_PER_PARAMETER", 5)
    monkeypatch.setattr("torch_logreg._fit.plan.SOFTMAX_ROWS", 100)
    monkeypatch.setattr("torch_logreg._fit.plan.KEPT_WORK", 0)  # three classes take the metrics of many
    for steps in ("STEPS", "STEPS_ON_SAMPLE"):  # conjugate gradients make long graphs
        monkeypatch.setattr(f"torch_logreg._solvers.fisher.SampledFisher.{steps}", 4)
    if only_metric:
        monkeypatch.setattr("torch_logreg._fit.plan.INFORMATIVE", 0.0)
    X, y = _many_rows(n_classes)
    X = X.astype(dtype)
    params = {"tol": 1e-2, "C": 0.1}
    expected = TorchLogisticClassifier(**params).fit(X, y)
    got = TorchLogisticClassifier(**params, device="lazy").fit(X, y)
    # A float32 metric rounds elsewhere there, and the answer is accurate to the tolerance squared.
    assert_agree(got, expected, X, 1e-6 if n_classes == 2 and dtype == np.float64 else 1e-3)
    assert got.n_iter_.tolist() == expected.n_iter_.tolist()


# ---- errors ----


def test_sparse_rows_are_refused_there_and_the_earlier_model_kept(problem):
    X, y = problem
    estimator = TorchLogisticClassifier(**CHEAP).fit(X, y)
    before = estimator.coef_.copy()
    estimator.set_params(device="lazy")
    message = "X is sparse.*'lazy.*use device='cpu', or pass X.toarray()"
    with pytest.raises(ValueError, match=message):
        estimator.fit(scipy.sparse.csr_array(X[:, :1]), y)
    assert estimator.n_features_in_ == X.shape[1]
    assert_array_equal(estimator.coef_, before)
    with pytest.raises(ValueError, match=message):
        estimator.predict(scipy.sparse.csr_array(X))


def test_tensors_there_are_checked_like_arrays_here(problem):
    X, y = problem
    estimator = TorchLogisticClassifier(**CHEAP).fit(X, y)
    spoilt = X.copy()
    spoilt[3, 1] = np.nan
    for rows, message in (
        (on_lazy(spoilt), "contains NaN or infinity"),
        (on_lazy(np.where(np.isnan(spoilt), np.inf, spoilt)), "contains NaN or infinity"),
        (on_lazy(X[:, 0]), "Expected 2D array"),
        (on_lazy(X[:, :1]), "1 features.*2 features"),
        (on_lazy(X)[:0], "minimum of 1 row"),
        (on_lazy(X + 1j), "Complex data not supported"),
    ):
        with pytest.raises(ValueError, match=message):
            estimator.predict(rows)
    for rows, labels, message in (
        (on_lazy(spoilt), y, "contains NaN or infinity"),
        (on_lazy(X), y[:-1], f"{len(y)}.*{len(y) - 1}"),
        (on_lazy(X), np.zeros(len(y)), "2 classes"),
        (on_lazy(X), None, "requires y"),
        (on_lazy(X), on_lazy(X[:, 0]), "continuous"),
    ):
        with pytest.raises(ValueError, match=message):
            TorchLogisticClassifier(**CHEAP).fit(rows, labels)
    with pytest.raises(ValueError, match=r"sample_weight\[2\]"):
        TorchLogisticClassifier(**CHEAP).fit(
            on_lazy(X), y, on_lazy(np.where(np.arange(len(y)) == 2, -1.0, 1.0))
        )


@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss"])
@pytest.mark.one_in(3)
def test_C_is_chosen_there_as_it_is_here(problem, scoring):
    X, y = problem
    params = {"Cs": [0.01, 0.1], "cv": 3, "tol": 1e-2, "scoring": scoring}
    expected = TorchLogisticClassifierCV(**params).fit(X, y)
    got = TorchLogisticClassifierCV(**params, device="lazy").fit(X, y)
    assert got.C_ == expected.C_
    assert_allclose(got.scores_, expected.scores_, atol=1e-2)
    assert_allclose(got.coefs_paths_, expected.coefs_paths_, atol=1e-2)
    assert_agree(got, expected, X)
