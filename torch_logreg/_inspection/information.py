"""The Fisher information of a linear model at its coefficients, and what a sandwich of it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg._data.sparse import without_duplicates
from torch_logreg._data.tensors import to_tensor
from torch_logreg._runtime.devices import supports_float64
from torch_logreg._runtime.limits import limits_of
from torch_logreg._runtime.out_of_memory import check_room

SCALE_ROWS = 2**12  # from which means and deviations are taken


class Evaluated(NamedTuple):
    """A linear model and rows to look at it with."""

    X: Any  # (n, d): ndarray, csr_array, or a tensor
    codes: np.ndarray  # (n,)
    counts: np.ndarray  # (n,), how often each row is there
    factors: np.ndarray  # (n,), of its loss
    coef: np.ndarray  # (K, d), K = 1 for two classes
    intercept: np.ndarray  # (K,)
    fit_intercept: bool


def contrasts(coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (q, d) and intercepts (q,) of all classes but the first, less those of the first.

    Of two classes there is one of each already.
    """
    coef, intercept = np.asarray(coef, dtype=np.float64), np.asarray(intercept, dtype=np.float64)
    return (coef, intercept) if len(coef) == 1 else (coef[1:] - coef[:1], intercept[1:] - intercept[:1])


class Scale(NamedTuple):
    """Coordinates of centred and scaled columns, in which nothing is lost by rounding."""

    center: np.ndarray  # (d,)
    inverse: np.ndarray  # (d,)

    def to_raw(self, fit_intercept: bool) -> np.ndarray:
        """The matrix that makes parameters (m,) of one output, the intercept first, of scaled ones."""
        matrix = np.diag(self.inverse)
        if not fit_intercept:
            return matrix
        return np.block(
            [[np.ones((1, 1)), -(self.center * self.inverse)[None]], [0 * self.center[:, None], matrix]]
        )


class Information(NamedTuple):
    """Sums over the rows, in scaled columns; parameters are ordered by output, the intercept first."""

    matrix: np.ndarray  # (p, p), the Fisher information of the log likelihood
    scale: Scale
    fit_intercept: bool
    n_rows: float  # the sum of the counts
    slope: np.ndarray  # (p,), of the log likelihood, with its sign turned
    meat: np.ndarray | None = None  # (p, p), the sum of the outer products of the scores
    n_groups: int = 0  # of rows whose scores were added up first; 0 where none were

    @property
    def n_outputs(self) -> int:
        return len(self.matrix) // (len(self.scale.center) + self.fit_intercept)


def information_of(
    given: Evaluated, device: torch.device, groups: np.ndarray | None = None, meat: bool = False
) -> Information:
    """Sum over the rows, some at a time, in float64 where the device has it.

    With `meat` also the outer products of the scores, those of rows of a group (n,) added up first.
    """
    K, d = given.coef.shape
    q, m = max(1, K - 1), d + given.fit_intercept
    n_groups = 0 if groups is None else int(groups.max()) + 1
    n_bytes = 8.0 * (4 * (q * m) ** 2 + n_groups * q * m)
    check_room(n_bytes, torch.device("cpu"), f"A covariance of {q * m} coefficients", "keep fewer columns")
    exact = torch.float64 if supports_float64(device) else torch.float32
    X = without_duplicates(given.X) if scipy.sparse.issparse(given.X) else given.X
    scale = _scale_of(X, given.fit_intercept, device, exact)
    center, inverse = (to_tensor(array, device, exact) for array in scale)
    theta = to_tensor(_scaled(given, scale), device, exact)
    counts, factors = (
        to_tensor(np.ascontiguousarray(array), device, exact) for array in (given.counts, given.factors)
    )
    codes = to_tensor(given.codes, device, torch.int64)
    matrix = torch.zeros((q, m, q, m), dtype=exact, device=device)
    outer = torch.zeros((q * m, q * m), dtype=exact, device=device)
    slope = torch.zeros((q, m), dtype=exact, device=device)
    sums = torch.zeros((n_groups, q * m), dtype=exact, device=device)
    group = None if groups is None else to_tensor(groups, device, torch.int64)
    for rows, part in dense_blocks(X, q, device, exact):
        D = torch.ones((len(part), m), dtype=exact, device=device)
        torch.sub(part, center, out=D[:, m - d :])
        D[:, m - d :] *= inverse
        probability = _probabilities(D @ theta.T)  # (rows, q)
        weights = counts[rows] * factors[rows]
        for a in range(q):
            for b in range(a + 1):
                same = probability[:, a] if a == b else torch.zeros_like(weights)
                information = weights * (same - probability[:, a] * probability[:, b])
                matrix[a, :, b] += D.T @ (information[:, None] * D)
        is_class = codes[rows, None] == torch.arange(1, q + 1, dtype=torch.int64, device=device)
        slopes = (probability - is_class.to(exact)) * factors[rows, None]
        slope += (counts[rows, None] * slopes).T @ D
        if not meat:
            continue
        scores = (slopes[:, :, None] * D[:, None]).flatten(1)
        if group is None:
            outer += scores.T @ (counts[rows, None] * scores)
        else:
            sums.index_add_(0, group[rows], counts[rows, None] * scores)
    if group is not None:
        outer = sums.T @ sums
    for a in range(q):
        for b in range(a):
            matrix[b, :, a] = matrix[a, :, b].T
    return Information(
        matrix.reshape(q * m, q * m).cpu().numpy().astype(np.float64, copy=False),
        scale,
        given.fit_intercept,
        float(np.broadcast_to(given.counts, given.codes.shape).sum()),
        slope.flatten().cpu().numpy().astype(np.float64, copy=False),
        outer.cpu().numpy().astype(np.float64, copy=False) if meat else None,
        n_groups,
    )


def dense_blocks(
    X: Any, n_outputs: int, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """Cut X into some rows at a time, dense and on the device."""
    numbers = X.shape[1] * max(1, n_outputs)
    step = max(1, limits_of(device).sandwich_numbers // numbers)
    for start in range(0, X.shape[0], step):
        rows = slice(start, min(start + step, X.shape[0]))
        part = X[rows]
        if scipy.sparse.issparse(part):
            part = part.toarray()
        if isinstance(part, Tensor):
            yield rows, part.to(device=device, dtype=dtype)
        else:
            yield rows, to_tensor(part, device, dtype)


def _scale_of(X: Any, fit_intercept: bool, device: torch.device, dtype: torch.dtype) -> Scale:
    """Means and deviations of the columns over some rows: near enough for sums to lose nothing by rounding.

    Without an intercept nothing may be moved.
    """
    some = X[:: max(1, X.shape[0] // SCALE_ROWS)]
    dense = torch.cat([part for _, part in dense_blocks(some, 1, device, dtype)])
    first = dense[0] if fit_intercept else torch.zeros_like(dense[0])
    moved = dense - first  # of columns far from 0, what differs
    mean = moved.mean(dim=0) if fit_intercept else torch.zeros_like(first)
    spread = (moved - mean).square().mean(dim=0).sqrt()
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    host = (array.cpu().numpy().astype(np.float64, copy=False) for array in (first + mean, 1 / spread))
    return Scale(*host)


def _scaled(given: Evaluated, scale: Scale) -> np.ndarray:
    """The parameters of scaled columns, (q, m)."""
    coef, intercept = contrasts(given.coef, given.intercept)
    scaled = coef / scale.inverse
    if not given.fit_intercept:
        return np.ascontiguousarray(scaled)
    return np.column_stack([intercept + coef @ scale.center, scaled])


def _probabilities(z: Tensor) -> Tensor:
    """Of raw predictions (n, q) less those of the first class: probabilities of all others."""
    if z.shape[1] == 1:
        return torch.sigmoid(z)
    first = torch.zeros((len(z), 1), dtype=z.dtype, device=z.device)
    return torch.softmax(torch.cat([first, z], dim=1), dim=1)[:, 1:]
