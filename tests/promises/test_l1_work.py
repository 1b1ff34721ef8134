"""What fits with an L1 term cost, by counts: passes over all columns, Hessians, and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from torch_logreg import TorchLogisticClassifier, smallest_C
from torch_logreg._data.columns import DenseColumns
from torch_logreg._linear import elastic_net

PASSES = 8  # over all columns of all rows


@pytest.fixture
def passes(monkeypatch):
    """Of each pass over all columns the number of rows, and the penalty that it was made for."""
    found, plain = [], elastic_net.ElasticNetObjective.look_at

    def counted(self, *args):
        found.append((self.rows.n_rows, self.penalty.l1))
        return plain(self, *args)

    monkeypatch.setattr(elastic_net.ElasticNetObjective, "look_at", counted)
    return found


@pytest.fixture
def hessians(monkeypatch):
    """The number of rows of each Hessian."""
    found, plain = [], DenseColumns.matrix

    def counted(self, diagonal, *rest):
        found.append(diagonal.shape[1])
        return plain(self, diagonal, *rest)

    monkeypatch.setattr(DenseColumns, "matrix", counted)
    return found


def of_shape(n, d):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    X[:, 1:] = (X[:, 1:] + X[:, :-1]) / 2  # neighbours are alike
    return X, (X[:, :10] @ rng.normal(size=10) + rng.logistic(size=n) > 0).astype(int)


@pytest.mark.parametrize(
    ("n", "d"),
    [
        (20_000, 60),
        (300, 6_000),
        pytest.param(100_000, 200, marks=pytest.mark.slow),
        pytest.param(500, 20_000, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("factor", [2.0, 10.0, "C=1"])
def test_all_columns_of_all_rows_are_read_a_few_times(n, d, factor, passes):
    X, y = of_shape(n, d)
    C = 1.0 if factor == "C=1" else factor * smallest_C(X, y)
    passes.clear()
    clf = TorchLogisticClassifier(C=C, l1_ratio=1, tol=5e-7, max_iter=300).fit(X, y)
    assert clf.converged_
    of_all = Counter(l1 for n_rows, l1 in passes if n_rows == n)
    assert max(of_all.values()) <= PASSES
    # A penalty more than 64 times weaker than the first with a coefficient is reached through stronger ones.
    assert len(of_all) == 1 or C > 64 * smallest_C(X, y)


def test_tall_rows_have_two_hessians_of_all_of_them(hessians):
    X, y = of_shape(50_000, 40)
    clf = TorchLogisticClassifier(C=1, l1_ratio=1, tol=5e-7).fit(X, y)
    assert clf.converged_ and np.count_nonzero(clf.coef_) > 35
    assert hessians.count(len(y)) <= 2


MEMORY_OF_A_FIT = """
import ctypes, gc, json
from pathlib import Path
import numpy as np
import scipy.sparse
from torch_logreg import TorchLogisticClassifier

rng, n, d, words = np.random.default_rng(0), 4000, 20_000, 100
column = (d * rng.random((n, words)) ** 3).astype(np.int32)
ends = np.arange(0, n * words + 1, words)
X = scipy.sparse.csr_array((rng.random(n * words), column.ravel(), ends), (n, d))
X.sum_duplicates()
y = (X[:, :3000] @ rng.normal(size=3000) * 3 + rng.logistic(size=n) > 0).astype(int)
make = lambda: TorchLogisticClassifier(C=10, l1_ratio=1, max_iter=300)
make().fit(X[:300, :50], y[:300])  # loads libraries
gc.collect()
status = lambda field: next(
    1024 * int(line.split()[1])
    for line in Path("/proc/self/status").read_text().splitlines()
    if line.startswith(field)
)
ctypes.CDLL(None).malloc_trim(0)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
clf = make().fit(X, y)
n_nonzero = int(np.count_nonzero(clf.coef_))
print(json.dumps({"peak": status("VmHWM") - before, "nnz": X.nnz, "n_nonzero": n_nonzero, "n": n,
                  "converged": clf.converged_}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of a process")
def test_sparse_rows_with_many_coefficients_are_never_made_dense():
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**17)}
    command = [sys.executable, "-c", MEMORY_OF_A_FIT]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found = json.loads(done.stdout)
    assert found["converged"]
    most = 10 * found["nnz"]  # numbers
    assert found["n"] * found["n_nonzero"] > most  # which the columns of the coefficients would exceed
    assert found["peak"] <= 8 * most
