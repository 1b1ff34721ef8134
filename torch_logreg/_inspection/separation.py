"""Separated classes: without a penalty some of their coefficients have no optimum but at infinity."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import torch
from scipy.optimize import linprog
from scipy.special import softmax
from torch import Tensor

from torch_logreg._checks.data import TrainingData
from torch_logreg._data.sparse import without_duplicates
from torch_logreg._fit.present import Present
from torch_logreg._runtime.limits import limits_of

PROGRAM_NUMBERS = 2**21  # in the matrix of a linear program: more take many seconds
SMALL_NUMBERS = 2**17  # there, which takes some milliseconds: no trust in the fit is needed
PARAMETERS = 2**11  # of which a null space is made
LIMITS = 2**24  # smallest and largest values, of each class and column
UNDERRATED = 1e4  # by so much at most the decrement of the last step says too little of what is left
NULL = 1e-13  # of the largest eigenvalue
NAMED = 5  # columns in a warning
DIFFICULT = 4  # what `linprog` says of a method that ended in numerical difficulties
ZERO = 1e-6  # of the largest: what a linear program leaves of a margin that is 0


class Separation(NamedTuple):
    """A direction of the coefficients in which the loss of no row rises and that of some falls."""

    columns: list[int]  # those it takes
    perfect: bool  # whether it falls for all rows

    def describe(self, names: Sequence[str] | None) -> str:
        """For a warning; `names` of the features, if they have any."""
        several = len(self.columns) > 1
        named = [repr(str(names[j])) if names is not None else str(j) for j in self.columns[:NAMED]]
        more = f" and {len(self.columns) - NAMED} more" if len(self.columns) > NAMED else ""
        return (
            f"the classes can be separated {'perfectly' if self.perfect else 'in part'} by the "
            f"column{'s' if several else ''} {', '.join(named)}{more}, so without a penalty the coefficients "
            f"of {'these' if several else 'it'} grow for ever; use a finite C, or leave them out"
        )


class Fitted(NamedTuple):
    """A fit to look at: raw predictions are ``X @ coef.T + intercept``."""

    X: Any  # (n, d): ndarray, csr_array, or a tensor
    codes: np.ndarray  # (n,)
    weights: np.ndarray  # (n,), above 0
    coef: np.ndarray  # (K, d), K = 1 for two classes
    intercept: np.ndarray  # (K,)
    fit_intercept: bool

    @property
    def n_classes(self) -> int:
        return max(2, len(self.coef))


def separation_of(
    data: TrainingData, fitted: dict[str, Any], fit_intercept: bool, tol: float
) -> Separation | None:
    """`separation` of what a fit with C=inf made of `data`; its attributes `fitted` then say so too."""
    X, weights = data.X, data.weights
    if scipy.sparse.issparse(X):
        X = without_duplicates(X)
    kept = weights > 0
    present = Present.of(data, fit_intercept)
    if len(present.index) == 1:
        return None
    codes = present.narrow(data).codes
    if not kept.all():
        X, codes, weights = X[kept], codes[kept], weights[kept]
    coef, intercept = present.narrow_coefficients(fitted["coef_"], fitted["intercept_"])
    eps = np.finfo(fitted["coef_"].dtype).eps
    decrease = max(tol**2, 4 * eps) * fitted["objective_"] if fitted["converged_"] else np.inf
    found = Fitted(X, codes, weights, coef, intercept, fit_intercept)
    separated = separation(found, float(decrease))
    if separated is not None:
        fitted |= {"converged_": False, "stop_reason_": "separation"}
    return separated


def separation(fitted: Fitted, decrease: float) -> Separation | None:
    """Find what separates the classes, completely or in part; None if nothing does.

    The objective, the sum over rows, was predicted to fall by `decrease` where the fit ended: rows whose
    loss can fall to 0 are then among those that had no more to lose. Infinity if nothing is known.

    Columns that separate classes by themselves are found in data of any size. A combination is looked for by
    a linear program; where that would be large, only in the direction in which the fit went, and None is
    no proof.

    References
    ----------
    Albert, Anderson (1984), On the existence of maximum likelihood estimates in logistic regression models,
    Biometrika 71(1).
    Konis (2007), Linear programming algorithms for detecting separated data in binary logistic regression
    models, University of Oxford.
    """
    n_parameters = len(fitted.coef) * fitted.coef[0].size
    if len(fitted.codes) * (fitted.n_classes - 1) * n_parameters <= SMALL_NUMBERS:
        decrease = np.inf
    losing, perfect = _losing(fitted, decrease)
    if not losing.any():
        return None
    return _by_one_column(fitted, perfect) or _by_several(fitted, losing, perfect)


def _chunks(X: Any) -> Iterator[tuple[slice, Any]]:
    """Cut X into some rows at a time, of a dense X in float64."""
    step = max(1, limits_of(torch.device("cpu")).dense_numbers // X.shape[1])
    for start in range(0, X.shape[0], step):
        rows = slice(start, min(start + step, X.shape[0]))
        part = X[rows]
        if isinstance(part, Tensor):
            part = part.cpu().double().numpy()
        yield rows, part.astype(np.float64, copy=False)


def _margins(fitted: Fitted, coef: np.ndarray, intercept: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Margins of the raw prediction of a row's class above each other's, (n_classes, rows)."""
    for rows, part in _chunks(fitted.X):
        z = np.asarray(part @ coef.T).T + intercept[:, None]
        z = np.concatenate([-z / 2, z / 2]) if len(z) == 1 else z
        yield rows, z[fitted.codes[rows], np.arange(z.shape[1])] - z


def _losing(fitted: Fitted, decrease: float) -> tuple[np.ndarray, bool]:
    """Which rows' margins to which classes may grow for ever, (n_classes, n); if all are above 0 already.

    What such a margin has left to gain is the weighted probability of the other class, all but 0 in the end.
    """
    losing, smallest = np.arange(fitted.n_classes)[:, None] != fitted.codes, np.inf
    for rows, margins in _margins(fitted, fitted.coef, fitted.intercept):
        smallest = min(smallest, margins[losing[:, rows]].min())
        losing[:, rows] &= fitted.weights[rows] * softmax(-margins, axis=0) <= UNDERRATED * decrease
    return losing, bool(smallest > 0)


def _by_one_column(fitted: Fitted, perfect: bool) -> Separation | None:
    """Columns in which no value of some classes is above (if `perfect`, is as large as) any of all others."""
    if fitted.n_classes * fitted.X.shape[1] > LIMITS or (perfect and fitted.n_classes > 2):
        return None
    if len(np.unique(fitted.codes)) < fitted.n_classes:  # a class without a row has no limits
        return None
    low, high = _limits(fitted)
    order = np.argsort(low, axis=0)  # each column has its own
    low, high = (np.take_along_axis(limit, order, axis=0) for limit in (low, high))
    below, above = np.maximum.accumulate(high, axis=0)[:-1], low[1:]  # the largest so far, the next smallest
    divided = (below < above) if perfect else (below <= above) & (high.max(axis=0) > low[0])
    if not fitted.fit_intercept:  # at 0
        divided &= (below < 0) & (above > 0) if perfect else (below <= 0) & (above >= 0)
    columns = np.flatnonzero(divided.any(axis=0))
    return Separation(columns.tolist(), perfect) if len(columns) else None


def _limits(fitted: Fitted) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest value of each class in each column, (n_classes, d)."""
    shape = (fitted.n_classes, fitted.X.shape[1])
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    if scipy.sparse.issparse(fitted.X):
        for k in range(fitted.n_classes):
            of_class = fitted.X[fitted.codes == k]
            low[k], high[k] = of_class.min(axis=0).toarray(), of_class.max(axis=0).toarray()
        return low, high
    for rows, part in _chunks(fitted.X):
        order = np.argsort(fitted.codes[rows], kind="stable")
        present, starts = np.unique(fitted.codes[rows][order], return_index=True)
        by_class = part[order]
        low[present] = np.minimum(low[present], np.minimum.reduceat(by_class, starts))
        high[present] = np.maximum(high[present], np.maximum.reduceat(by_class, starts))
    return low, high


def _by_several(fitted: Fitted, losing: np.ndarray, perfect: bool) -> Separation | None:
    """A direction in which the margins that may not grow stay as they are and no other falls."""
    K, d = fitted.coef.shape
    if K * (d + 1) > PARAMETERS:
        return _judge(fitted, losing, perfect, fitted.coef, fitted.intercept)
    columns = _Columns(fitted)
    space = columns.null_space(losing)
    if not space.shape[1]:
        return None
    if losing.sum() * space.shape[1] <= PROGRAM_NUMBERS:
        direction = _program(columns.margins_of(space, losing), space, columns.penalised, perfect)
    else:
        direction = space @ (space.T @ columns.coordinates(fitted.coef, fitted.intercept))
    return None if direction is None else _judge(fitted, losing, perfect, *columns.coefficients(direction))


def _judge(
    fitted: Fitted, losing: np.ndarray, perfect: bool, coef: np.ndarray, intercept: np.ndarray
) -> Separation | None:
    """The direction, if it is what it is said to be."""
    smallest, largest, changed = np.inf, 0.0, 0.0
    for rows, margins in _margins(fitted, coef, intercept):
        own = np.arange(len(margins))[:, None] == fitted.codes[rows]
        free = margins[losing[:, rows]]
        smallest, largest = min(smallest, free.min(initial=np.inf)), max(largest, free.max(initial=0.0))
        changed = max(changed, np.abs(margins[~losing[:, rows] & ~own]).max(initial=0.0))
    if not largest > 0 or max(-smallest, changed) > ZERO * largest:
        return None
    influence = np.abs(coef).max(axis=0) * _spread(fitted.X)
    by_influence = np.argsort(-influence, kind="stable")
    used = by_influence[influence[by_influence] > ZERO * influence.max()]
    return Separation(used.tolist(), perfect)


def _spread(X: Any) -> np.ndarray:
    """Largest minus smallest value of each column."""
    if scipy.sparse.issparse(X):
        return X.max(axis=0).toarray() - X.min(axis=0).toarray()
    limits = [(part.min(axis=0), part.max(axis=0)) for _, part in _chunks(X)]
    low, high = np.min([low for low, _ in limits], axis=0), np.max([high for _, high in limits], axis=0)
    return high - low


class _Columns:
    """Centred and scaled columns, with one of ones for the intercept; coefficients of them are (K' * m,).

    Of two classes the second has them; of more, all but the last, for only differences matter.
    """

    def __init__(self, fitted: Fitted) -> None:
        self._fitted = fitted
        self._scale = _spread(fitted.X)
        self._scale[self._scale == 0] = 1.0
        total = sum(np.asarray(part.sum(axis=0)).ravel() for _, part in _chunks(fitted.X))
        self._center = total / len(fitted.codes) if fitted.fit_intercept else np.zeros(len(self._scale))
        self._free = 1 if len(fitted.coef) == 1 else fitted.n_classes - 1  # K'
        self._with = slice(1, 2) if self._free == 1 else slice(0, self._free)  # classes that have any
        self._m = len(self._scale) + fitted.fit_intercept

    @property
    def penalised(self) -> np.ndarray:
        """All but intercepts, bool (K' * m,)."""
        return np.tile(np.arange(self._m) < len(self._scale), self._free)

    def _parts(self) -> Iterator[tuple[slice, np.ndarray]]:
        for rows, part in _chunks(self._fitted.X):
            dense = part.toarray() if scipy.sparse.issparse(part) else part
            A = (dense - self._center) / self._scale
            yield rows, np.column_stack([A, np.ones(len(A))]) if self._fitted.fit_intercept else A

    def _pairs(self, which: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """A class, another, and rows of the former where `which` (n_classes, n) has the latter."""
        codes = self._fitted.codes
        for rows, A in self._parts():
            for own, other in itertools.product(np.unique(codes[rows]), range(self._fitted.n_classes)):
                some = A[(codes[rows] == own) & which[other, rows]]
                if other != own and len(some):
                    yield own, other, some

    def null_space(self, losing: np.ndarray) -> np.ndarray:
        """An orthonormal basis of the directions in which the margins not in `losing` stay, (K' * m, q)."""
        n_classes, m, free = self._fitted.n_classes, self._m, self._free
        matrix = np.zeros((n_classes, m, n_classes, m))
        for own, other, fixed in self._pairs(~losing):
            square = fixed.T @ fixed
            for i, j in itertools.product((own, other), repeat=2):
                matrix[i, :, j] += square if i == j else -square
        of_free = matrix[self._with, :, self._with].reshape(free * m, free * m)
        values, vectors = np.linalg.eigh(of_free)
        return vectors[:, values <= NULL * max(values[-1], np.finfo(float).tiny)]

    def margins_of(self, space: np.ndarray, losing: np.ndarray) -> np.ndarray:
        """Margins in `losing` as functions of coefficients of `space`, (n_losing, q)."""
        basis = np.zeros((self._fitted.n_classes, self._m, space.shape[1]))
        basis[self._with] = space.reshape(self._free, self._m, -1)
        margins = [some @ (basis[own] - basis[other]) for own, other, some in self._pairs(losing)]
        return np.concatenate(margins)

    def coordinates(self, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        """Coordinates of raw coefficients, (K' * m,)."""
        if len(coef) > 1:
            coef, intercept = coef[:-1] - coef[-1], intercept[:-1] - intercept[-1]
        scaled = coef * self._scale
        if self._fitted.fit_intercept:
            scaled = np.column_stack([scaled, intercept + coef @ self._center])
        return scaled.ravel()

    def coefficients(self, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raw coefficients (K, d) and intercepts (K,)."""
        parts = direction.reshape(self._free, self._m)
        coef = parts[:, : len(self._scale)] / self._scale
        intercept = parts[:, -1] - coef @ self._center if self._fitted.fit_intercept else np.zeros(self._free)
        if len(self._fitted.coef) > 1:
            coef, intercept = np.pad(coef, ((0, 1), (0, 0))), np.pad(intercept, (0, 1))
        return coef, intercept


def _program(
    margins: np.ndarray, space: np.ndarray, penalised: np.ndarray, perfect: bool
) -> np.ndarray | None:
    """The direction of few coefficients whose margins are 1 on average and none negative; None if none is.

    Minimises the sum of the coefficients' absolute values, which are bounded by variables of their own. If
    `perfect` is possible all margins are at least 1.
    """
    few = space[penalised]
    n, q = len(few), space.shape[1]
    bound = scipy.sparse.eye_array(n)
    constraints = scipy.sparse.block_array([[few, -bound], [-few, -bound], [-margins, None]], format="csr")
    mean = np.concatenate([margins.mean(axis=0), np.zeros(n)])[None]
    for method in ("highs", "highs-ipm", "highs-ds"):
        result = linprog(
            np.concatenate([np.zeros(q), np.ones(n)]),
            A_ub=constraints,
            b_ub=np.concatenate([np.zeros(2 * n), np.full(len(margins), -float(perfect))]),
            A_eq=None if perfect else mean,
            b_eq=None if perfect else [1.0],
            bounds=[(None, None)] * q + [(0, None)] * n,
            method=method,
        )
        if result.status != DIFFICULT:
            break
    return space @ result.x[:q] if result.status == 0 else None
