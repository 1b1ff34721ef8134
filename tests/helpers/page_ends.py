"""Fits and predicts with every array at the end of a mapped page, and dies where one is read past its end.

Run by `data/test_csr.py` in a process of its own. `at_end_of_page` takes a copy of an array to where the page
behind its last byte cannot be read; arrays that the package makes are taken there too, where torch hands
them to a product of its own.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import warnings
from dataclasses import replace

import numpy as np
import scipy.sparse
import torch

from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._data import csr
from torch_logreg._runtime.limits import OF_KIND

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def at_end_of_page(array: np.ndarray) -> np.ndarray:
    """A copy of `array`, behind whose last byte begins a page that cannot be read."""
    size = max(1, -(-array.nbytes // mmap.PAGESIZE)) * mmap.PAGESIZE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start = LIBC.mmap(None, size + mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    assert LIBC.mprotect(start + size, mmap.PAGESIZE, 0) == 0
    memory = (ctypes.c_char * array.nbytes).from_address(start + size - array.nbytes)
    copy = np.frombuffer(memory, dtype=array.dtype).reshape(array.shape, order="A")
    copy[...] = array
    return copy


def csr_at_end_of_page(X: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    moved = scipy.sparse.csr_array(X.shape, dtype=X.dtype)
    moved.indptr, moved.indices, moved.data = map(at_end_of_page, (X.indptr, X.indices, X.data))
    moved.has_canonical_format = True
    return moved


def rows_of_csr(
    n: int, d: int, most: int, dtype: type, seed: int = 0
) -> tuple[scipy.sparse.csr_array, np.ndarray]:
    rng = np.random.default_rng(seed)
    stored = rng.integers(0, most, n)
    column = (d * rng.random(stored.sum()) ** 3).astype(np.int32)
    arrays = (rng.random(len(column)).astype(dtype), column, np.r_[0, stored.cumsum()].astype(np.int32))
    X = scipy.sparse.csr_array(arrays, shape=(n, d))
    X.sum_duplicates()
    return X, (X @ rng.standard_normal(d) + rng.logistic(size=n) > 0).astype(np.int64)


def products() -> None:
    """With the matrix's own arrays there, whatever its last rows are like."""
    OF_KIND["cpu"] = replace(OF_KIND["cpu"], few_stored=0)  # by torch, however few
    for dtype, most, n in (
        (np.float32, 90, 3000),
        (np.float64, 3, 500),
        (np.float32, 2, 7),
        (np.float64, 900, 40),
    ):
        X, _ = rows_of_csr(n, 1500, most, dtype)
        arrays = [torch.from_numpy(at_end_of_page(a)) for a in (X.indptr, X.indices, X.data)]
        matrix = csr.CsrMatrix(*arrays, X.shape)
        for Q in (1, 2, 7):
            vectors = torch.from_numpy(
                at_end_of_page(np.random.default_rng(1).random((Q, 1500)).astype(dtype))
            )
            found = matrix.times(vectors).numpy()
            np.testing.assert_allclose(
                found, (X @ vectors.numpy().T).T, rtol=1e-4 if dtype == np.float32 else 1e-10
            )


def sparse(dtype: type) -> None:
    X, y = rows_of_csr(30_000, 10_000, 90, dtype)
    settings = dict(max_iter=3, tol=None)
    expected = TorchLogisticClassifier(**settings).fit(X, y)
    moved, y = csr_at_end_of_page(X), at_end_of_page(y)
    got = TorchLogisticClassifier(**settings).fit(moved, y, at_end_of_page(np.ones(len(y))))
    np.testing.assert_allclose(got.coef_, expected.coef_, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(got.predict_proba(moved), expected.predict_proba(X), rtol=1e-3, atol=1e-6)
    TorchLogisticClassifierCV(Cs=[0.1, 1.0], cv=2, **settings).fit(moved[:5_000], y[:5_000])


def dense(dtype: type) -> None:
    rng = np.random.default_rng(0)
    for n, d, K in ((61, 3, 2), (20_001, 31, 2), (9_001, 17, 5), (37, 203, 3)):
        X = rng.normal(size=(n, d)).astype(dtype)
        y = (X[:, :1] * rng.normal(size=K) + rng.gumbel(size=(n, K))).argmax(axis=1)
        settings = dict(max_iter=3, tol=None)
        expected = TorchLogisticClassifier(**settings).fit(X, y).predict_proba(X)
        for moved in (at_end_of_page(X), torch.from_numpy(at_end_of_page(X)), at_end_of_page(X.T.copy()).T):
            got = TorchLogisticClassifier(**settings).fit(
                moved, at_end_of_page(y), at_end_of_page(np.ones(n))
            )
            np.testing.assert_allclose(got.predict_proba(moved), expected, rtol=1e-3, atol=1e-6)
        TorchLogisticClassifierCV(Cs=[0.1, 1.0], cv=2, **settings).fit(at_end_of_page(X), at_end_of_page(y))


def half() -> None:
    X = torch.randn((5_001, 33), generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    y = (X[:, 0] > 0).numpy()
    words = torch.from_numpy(at_end_of_page(X.view(torch.int16).numpy())).view(torch.bfloat16)
    got = TorchLogisticClassifier(max_iter=3, tol=None).fit(words, y)
    expected = TorchLogisticClassifier(max_iter=3, tol=None).fit(X, y)
    np.testing.assert_allclose(got.predict_proba(words), expected.predict_proba(X), rtol=1e-4)


def main() -> None:
    warnings.simplefilter("error")
    for copied in (OF_KIND["cpu"].copied_stored, 0):
        OF_KIND["cpu"] = replace(OF_KIND["cpu"], copied_stored=copied)
        products()
    for dtype in (np.float32, np.float64):
        sparse(dtype)
        dense(dtype)
    half()
    print("nothing was read past an end")


if __name__ == "__main__":
    sys.exit(main())
