"""The problem in the space of sparse rows, where there are fewer of these than columns.

As in `row_space.py`, coefficients of an optimum are combinations ``Xc.T @ a`` of the centred rows, and raw
predictions ``K a + b`` with ``K = Xc Xc.T``. K would take longer to make than a fit does, so it is only
multiplied with, by X and its transpose. Vectors of a number a row are then all that a solver handles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Curvature, Curved, Hints
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.sparse import matmul, rmatmul, sparse_pair
from torch_logreg._losses.losses import Loss

LEAST_ROWS, COLUMNS_FOR_A_ROW = 1025, 6  # as examples/benchmarks/crossovers.py found
MOST_STORED = 2**20  # numbers, up to which scipy makes the products on one thread
MOST_SPREAD = 2.0**20  # of the curvatures of columns, above which scaled ones are the better coordinates
FAR = 0.999  # of a mean square, of a column that is nearly the same in all rows


class Columns(NamedTuple):
    """What a look at X by its columns shows; `transpose` is X by column, without duplicate entries."""

    transpose: scipy.sparse.csr_array  # (d, n)
    center: np.ndarray  # (d,) means by weight; 0 without an intercept
    squares: np.ndarray  # (d,) mean squares by weight


class InnerProducts:
    """K, by its products.

    A column of which one row alone has a number adds its square to that row's place on the diagonal: among
    pairs of words these are most, and X is multiplied with without them. In float64, also for float32 rows:
    there are few numbers, and with K a carried along rounding errors would add up over all steps.
    """

    def __init__(self, columns: Columns, shares: np.ndarray, fit_intercept: bool, rows: ArrayRows) -> None:
        transpose, n = columns.transpose, rows.n_rows
        counts = np.diff(transpose.indptr)
        alone = np.repeat(counts == 1, counts)
        exact = transpose.data.astype(shares.dtype, copy=False)
        diagonal = np.bincount(transpose.indices[alone], weights=exact[alone] ** 2, minlength=n)
        shared = counts > 1
        indptr = np.concatenate([[0], counts[shared].cumsum()]).astype(transpose.indptr.dtype)
        arrays = (exact[~alone], transpose.indices[~alone], indptr)
        among = scipy.sparse.csr_array(arrays, shape=(int(shared.sum()), n))
        self._X, self._rows = sparse_pair(among, rows.device), rows
        self._diagonal = torch.from_numpy(diagonal).to(rows.device)
        self._shares = torch.from_numpy(shares).to(rows.device) if fit_intercept else None

    def centred(self, v: Tensor) -> Tensor:
        """What combines the rows as `v` (K, n) does the centred ones."""
        return v if self._shares is None else v - v.sum(dim=1, keepdim=True) * self._shares

    def times(self, v: Tensor) -> Tensor:
        """``v @ K``: (K, n) -> (K, n)."""
        v = self.centred(v)
        self._rows.rows_read += self._rows.n_rows
        product = matmul(self._X, rmatmul(self._X, v)).addcmul_(v, self._diagonal)
        return product if self._shares is None else product - (product @ self._shares)[:, None]


class SparseRowSpace:
    """What `Coordinates` are to a solver's caller, for a `SparseRowObjective`."""

    plain = False

    def __init__(self, columns: Columns, products: InnerProducts, objective: SparseRowObjective) -> None:
        self._columns, self._products, self._objective = columns, products, objective
        device = objective.rows.device
        self.center = torch.from_numpy(columns.center).to(device)
        self._squares = torch.from_numpy(columns.squares).to(device)
        self.strength, self.varies = objective.strength, self._squares > 0

    def to_raw(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (1, K, d) and intercepts (1, K) for the columns of X."""
        a, _, intercept = self._objective.split(w)
        combined = self._products.centred(a).cpu().numpy()
        coef = torch.from_numpy((self._columns.transpose @ combined.T).T).to(w.device)[None]
        return coef, intercept[None] - coef @ self.center

    def canonical(self, w: Tensor) -> Tensor:
        """See `Coordinates.canonical`."""
        if self._objective.n_outputs == 1:
            return w
        return self._objective.join(*(part - part.mean(dim=0) for part in self._objective.split(w)))

    def rounding(self, w: Tensor, eps: float) -> Tensor:
        """See `Coordinates.rounding`."""
        coef, intercept = self.to_raw(w)
        return eps * (coef.square() @ self._squares + intercept.square()).amax(dim=1).sqrt()


class SparseRowObjective(Curved, Hints):
    """F as a function of ``[a, K a, b]``: who moves in a straight line takes the raw predictions along.

    Steps and line searches then read no rows. As a function of these, F with ``a.T K a`` for its penalty
    has the gradient ``[0, q, sum(r)]`` with r the derivatives by raw predictions and
    ``q = r + strength * a``. The direction in which the columns would go is ``[q, K q, sum(r)]``: one
    product with K makes it, in `natural`.

    References
    ----------
    Zhu, Hastie (2005), Kernel logistic regression and the import vector machine, Journal of Computational and
    Graphical Statistics 14(1).
    """

    def __init__(
        self, rows: ArrayRows, loss: Loss, C: Tensor, n_outputs: int, fit_intercept: bool, columns: Columns
    ) -> None:
        self.rows, self.loss, self.fit_intercept, self._target = rows, loss, fit_intercept, rows.target
        self.dtype, self.n_problems, self.n_outputs = C.dtype, 1, n_outputs
        self.n_parameters = n_outputs * (2 * rows.n_rows + 1)
        self.weight_sum = rows.weight_sum(C.dtype)
        self.strength = 1 / (C * self.weight_sum)  # (1,)
        self._shares = rows.weights.to(C.dtype) / self.weight_sum  # (1, n)
        self.products = InnerProducts(columns, self._shares[0].cpu().numpy(), fit_intercept, rows)
        # A gradient by raw predictions is as large as one by scaled columns that one row has.
        self._unit = 2 * rows.n_rows**0.5
        # The intercept's curvature, next to that of the columns.
        self._of_intercept = float(columns.squares.max())

    @property
    def eps(self) -> float:
        return float(torch.finfo(self.dtype).eps)

    @property
    def hints(self) -> SparseRowObjective:
        return self

    def split(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The weights ``a`` (K, n), ``K a`` in units of `_unit`, and ``b`` (K,)."""
        n, w = self.rows.n_rows, w.view(self.n_outputs, -1)
        return w[:, :n], w[:, n:-1], w[:, -1]

    def join(self, a: Tensor, predictions: Tensor, intercept: Tensor) -> Tensor:
        return torch.cat([a, predictions, intercept[:, None]], dim=1).view(1, -1)

    def _linear(self, w: Tensor) -> Tensor:
        """Raw predictions (1, K, n)."""
        _, predictions, intercept = self.split(w)
        return torch.add(intercept[:, None], predictions, alpha=self._unit)[None]

    def _gradient(self, r: Tensor, a: Tensor) -> Tensor:
        """``[0, q, sum(r)]``."""
        q = torch.addcmul(r, a, self.strength).mul_(self._unit)
        return self.join(torch.zeros_like(a), q, r.sum(dim=1) * self.fit_intercept)

    def value(self, w: Tensor) -> Tensor:
        return self.value_and_gradient(w)[0]

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        a, predictions, _ = self.split(w)
        loss, slope = self.loss.value_and_gradient_(self._linear(w), self._target)
        penalty = 0.5 * self._unit * self.strength * torch.sum(a * predictions)
        value = torch.linalg.vecdot(self._shares, loss) + penalty
        return value, self._gradient(slope[0] * self._shares, a)

    def reach(self, direction: Tensor) -> Tensor:
        return (self._linear(direction).abs_().amax(dim=1) * (self._shares > 0)).amax(dim=1)

    def natural(self, gradient: Tensor) -> Tensor:
        _, q, of_intercept = self.split(gradient)
        q = q / self._unit
        return self.join(q, self.products.times(q).div_(self._unit), of_intercept * self._of_intercept)

    def curvature(self, w: Tensor) -> SparseRowCurvature:
        return SparseRowCurvature(self, w)

    def fisher_operator(self, w: Tensor) -> Callable[[Tensor], Tensor]:
        """Products with the weighted Fisher matrices of rows."""
        return self.loss.fisher_operator(self.loss.fisher(self._linear(w)), self._shares)

    def curved(self, of_rows: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        """What a step `v` changes the gradient by, with the `fisher_operator` of the rows."""
        return self._gradient(of_rows(self._linear(v))[0], self.split(v)[0])

    def select(self, problems: np.ndarray) -> None:
        """There is but one problem."""


class SparseRowCurvature(Curvature):
    """The Fisher matrix of a `SparseRowObjective`: steps along it are all that has a meaning here."""

    def __init__(self, objective: SparseRowObjective, w: Tensor) -> None:
        self._objective, self._of_rows = objective, objective.fisher_operator(w)

    def product(self, v: Tensor) -> Tensor:
        return self._objective.curved(self._of_rows, v)


def sparse_row_space(
    rows: ArrayRows, loss: Loss, C: Tensor, n_outputs: int, fit_intercept: bool
) -> tuple[SparseRowObjective, SparseRowSpace] | None:
    """F in the space of the rows and the way back, or None where columns are the better space."""
    X = rows.sparse
    if X is None or not is_wide(X.shape[0], X.shape[1], X.nnz) or not bool(torch.isfinite(C).all()):
        return None
    shares = (rows.weights[0] / rows.weights.sum()).cpu().numpy()
    columns = by_column(X, shares, rows.check_finite)
    used = columns.squares > 0
    curve = columns.squares[used] / 4 + float(1 / (C * rows.weight_sum(C.dtype)))
    if not used.any() or curve.max() > MOST_SPREAD * curve.min():
        return None
    if (columns.center**2 > FAR * columns.squares).any(where=used):
        return None
    objective = SparseRowObjective(rows, loss, C, n_outputs, fit_intercept, columns)
    kept = columns if fit_intercept else columns._replace(center=np.zeros_like(columns.center))
    return objective, SparseRowSpace(kept, objective.products, objective)


def is_wide(n_rows: int, n_columns: int, n_stored: int) -> bool:
    """Whether the space of the rows may be the better one."""
    return n_rows >= LEAST_ROWS and n_columns >= COLUMNS_FOR_A_ROW * n_rows and n_stored <= MOST_STORED


def by_column(
    X: scipy.sparse.csr_array, shares: np.ndarray, check_finite: Callable[[Tensor], None]
) -> Columns:
    transpose = X.T.tocsr()  # with the rows of a column in order
    transpose.sum_duplicates()
    exact = shares.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # which is seen to here
        squared = scipy.sparse.csr_array(
            (transpose.data.astype(np.float64) ** 2, transpose.indices, transpose.indptr),
            shape=transpose.shape,
        )
        squares = squared @ exact
        check_finite(torch.from_numpy(squares))
    return Columns(transpose, transpose @ exact, squares)
