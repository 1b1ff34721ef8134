"""Matrices that a device has no room for are refused before they are made."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._fit import plan, used
from torch_logreg._runtime import out_of_memory
from torch_logreg._selection.path import SCRATCH, PathSolver

rng = np.random.default_rng(0)
X = rng.normal(size=(300, 6))
Y = {2: (X[:, 0] + rng.normal(size=300) > 0).astype(int), 3: np.arange(300) % 3}


@pytest.fixture
def little_memory(monkeypatch):
    """A device of a thousand bytes."""
    monkeypatch.setattr(out_of_memory, "ALWAYS", 0)
    monkeypatch.setattr(out_of_memory, "device_memory", lambda device: 1000.0)


def never(*args):
    raise AssertionError("work was done")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_hundred_classes_of_784_columns_are_refused_before_any_work(dtype, monkeypatch):
    monkeypatch.setattr(out_of_memory, "device_memory", lambda device: 24e9)
    monkeypatch.setattr("torch_logreg._linear.objective.ColumnsObjective.at", never)
    images, digits = np.ones((1100, 784), dtype=dtype), np.arange(1100) % 100
    images[:, 1:] = rng.normal(size=(1100, 783))
    said = "newton-cholesky.*78500 x 78500.*163 GB.*'cpu' has 24 GB.*use solver='newton-cg' or 'auto'"
    with pytest.raises(MemoryError, match=said):
        TorchLogisticClassifier(solver="newton-cholesky").fit(images, digits)
    said = "78500 coefficients.*max_batch_memory=1073741824.*197 GB.*use solver='newton-cg' or 'auto'"
    with pytest.raises(MemoryError, match=said):
        TorchLogisticClassifierCV(solver="newton-cholesky", cv=2).fit(images, digits)


@pytest.mark.parametrize(
    ("solver", "n_classes", "said"),
    [
        ("newton-cholesky", 2, r"7 x 7 numbers.*use solver='newton-cg' or 'auto'"),
        ("newton-cholesky", 3, r"21 x 21 numbers"),
        ("natural-sgd", 2, r"7 x 7 numbers.*use solver='newton-cg' or 'lbfgs'"),
        ("natural-sgd", 3, r"21 x 21 numbers"),
        ("auto", 2, r"solver='natural-sgd' makes.*7 x 7 numbers"),
    ],
)
def test_every_solver_that_makes_matrices_is_refused(solver, n_classes, said, little_memory):
    with pytest.raises(MemoryError, match=said):
        TorchLogisticClassifier(solver=solver).fit(X, Y[n_classes])


@pytest.mark.parametrize("solver", ["newton-cg", "lbfgs", "sgd"])
def test_solvers_that_make_none_fit(solver, little_memory):
    assert TorchLogisticClassifier(solver=solver, tol=1e-2, max_iter=1000).fit(X, Y[2]).converged_


def test_factors_of_very_many_classes_are_counted_too(monkeypatch):
    monkeypatch.setattr(out_of_memory, "device_memory", lambda device: 1e6)
    monkeypatch.setattr(out_of_memory, "ALWAYS", 0)
    rows, y = rng.normal(size=(600, 4)), np.arange(600) % 300
    rows = np.repeat(rows, 4, axis=0)
    with pytest.raises(MemoryError, match="300 x 300 and 5 x 5"):
        TorchLogisticClassifier().fit(rows, np.repeat(y, 4))


def test_problems_solved_at_once_are_refused_where_too_many_are_asked_for(monkeypatch):
    monkeypatch.setattr(out_of_memory, "device_memory", lambda device: 1e6)
    monkeypatch.setattr(out_of_memory, "ALWAYS", 0)
    monkeypatch.setattr("torch_logreg._selection.path.PathSolver._on_all_rows", never)
    said = r"500 problem\(s\) of 7 coefficients.*use a smaller max_batch_memory"
    with pytest.raises(MemoryError, match=said):
        TorchLogisticClassifierCV(Cs=100).fit(X, Y[2])


def test_a_factorising_cv_solves_as_few_problems_at_once_as_its_matrices_allow(monkeypatch):
    """Other solvers make no matrix of 1025 coefficients and more."""
    monkeypatch.setattr(plan, "MOST_ROWS", 0)  # not in the space of the rows
    solved = []
    on_folds = PathSolver._on_folds
    monkeypatch.setattr(
        PathSolver, "_on_folds", lambda self, *args: solved.append(args[3]) or on_folds(self, *args)
    )
    wide = rng.normal(size=(200, 1100))
    matrices = 3 * 4 * 8 * 1101**2
    chooser = TorchLogisticClassifierCV(
        solver="newton-cholesky", Cs=[0.01], cv=4, max_batch_memory=SCRATCH + matrices
    )
    chooser.fit(wide, (wide[:, 0] > 0).astype(int))
    assert [len(folds) for folds in solved] == [2, 2]  # and vectors


def test_predictions_that_are_kept_of_sparse_rows_count_for_a_batch(monkeypatch):
    solved, on_folds = [], PathSolver._on_folds
    monkeypatch.setattr(
        PathSolver, "_on_folds", lambda self, *args: solved.append(len(args[3])) or on_folds(self, *args)
    )
    n = 40_000
    texts = scipy.sparse.random_array((n, 3_000), density=1e-3, format="csr", rng=rng)
    kept = 3 * 10 * 8 * n  # of three problems, where the coefficients of one are a quarter of that
    chooser = TorchLogisticClassifierCV(Cs=[0.01], cv=4, tol=1e-1, max_batch_memory=SCRATCH + kept)
    chooser.fit(texts, np.arange(n) % 2)
    assert solved == [2, 2]


@pytest.mark.parametrize("solver", ["auto", "newton-cg", "lbfgs"])
def test_columns_of_which_no_matrix_is_made_are_not_counted_for_one(solver, monkeypatch):
    monkeypatch.setattr(out_of_memory, "device_memory", lambda device: 2e9)
    monkeypatch.setattr(plan, "MOST_ROWS", 0)  # not in the space of the rows
    monkeypatch.setattr(used, "MOST_USED", 0.0)  # nor of the columns in use
    n_columns = 20_000  # a matrix of them would take 13 GB
    words = scipy.sparse.random_array((60, n_columns), density=1e-3, format="csr", rng=rng)
    chooser = TorchLogisticClassifierCV(solver=solver, Cs=[0.1, 1.0], cv=2, tol=1e-2)
    assert chooser.fit(words, np.arange(60) % 2).coef_.shape == (1, n_columns)
    with pytest.raises(MemoryError, match="20001 coefficients.*use solver='newton-cg' or 'auto'"):
        chooser.set_params(solver="newton-cholesky").fit(words, np.arange(60) % 2)


def test_the_memory_of_the_machine_is_a_number_of_bytes():
    assert out_of_memory.device_memory(torch.device("cpu")) > 2**28
    assert out_of_memory.device_memory(torch.device("meta")) == np.inf
