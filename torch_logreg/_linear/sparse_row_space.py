"""The problem in the space of sparse rows, where there are fewer of these than columns.

As in `row_space.py`, coefficients of an optimum are combinations ``Xc.T @ a`` of the centred rows, and raw
predictions ``K a + b`` with ``K = Xc Xc.T``. K would take longer to make than a fit does, so it is only
multiplied with, by X and its transpose. Vectors of a number a row are then all that a solver handles.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.sparse import matmul, rmatmul, sparse_pair
from torch_logreg._linear.coordinates import Space
from torch_logreg._linear.design import Design, OfRows, Part
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.sparse_columns import SparseColumns, even_columns


class InnerProducts:
    """K, by its products.

    A column of which one row alone has a number adds its square to that row's place on the diagonal: among
    pairs of words these are most, and X is multiplied with without them. In float64, also for float32 rows:
    there are few numbers, and with K a carried along rounding errors would add up over all steps.
    """

    def __init__(
        self, columns: SparseColumns, shares: np.ndarray, fit_intercept: bool, rows: ArrayRows
    ) -> None:
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
        """Numbers that combine the rows as `v` (K, n) does the centred ones."""
        return v if self._shares is None else v - v.sum(dim=1, keepdim=True) * self._shares

    def times(self, v: Tensor) -> Tensor:
        """``v @ K``: (K, n) -> (K, n)."""
        v = self.centred(v)
        self._rows.rows_read += self._rows.n_rows
        product = matmul(self._X, rmatmul(self._X, v)).addcmul_(v, self._diagonal)
        return product if self._shares is None else product - (product @ self._shares)[:, None]


class SparseRowSpace(Space):
    """Coefficients of the columns, of the parameters over `SparseRows`."""

    def __init__(self, design: SparseRows, columns: SparseColumns) -> None:
        self._design, self._transpose = design, columns.transpose
        device = design.rows.device
        self.center = torch.from_numpy(columns.center).to(device)
        squares = torch.from_numpy(columns.squares).to(device)
        self.strength, self.varies = design.strength, squares > 0
        self.spread = (squares - self.center.square()).clamp_(min=0).sqrt_()

    def to_raw(self, w: Tensor) -> tuple[Tensor, Tensor]:
        a, _, intercept = self._design.split(w)
        combined = self._design.products.centred(a).cpu().numpy()
        coef = torch.from_numpy((self._transpose @ combined.T).T).to(w.device)[None]
        return coef, intercept[None] - coef @ self.center

    def canonical(self, w: Tensor) -> Tensor:
        if self._design.n_outputs == 1:
            return w
        return self._design.join(*(part - part.mean(dim=0) for part in self._design.split(w)))


class SparseRows(Design):
    """Parameters ``[a, K a, b]``: who moves in a straight line takes the raw predictions along.

    Steps and line searches then read no rows. As a function of these, F with ``a.T K a`` for its penalty
    has the gradient ``[0, q, sum(r)]`` with r the derivatives by raw predictions and
    ``q = r + strength * a``. The direction in which the columns would go is ``[q, K q, sum(r)]``: one
    product with K makes it, in `natural`.

    References
    ----------
    Zhu, Hastie (2005), Kernel logistic regression and the import vector machine, Journal of Computational and
    Graphical Statistics 14(1).
    """

    n_problems = 1

    def __init__(self, rows: ArrayRows, model: LinearModel, columns: SparseColumns) -> None:
        self.rows, self.dtype, self._fit_intercept = rows, model.C.dtype, model.fit_intercept
        self.eps = float(torch.finfo(self.dtype).eps)
        self.n_outputs = model.n_outputs
        self.n_parameters = model.n_outputs * (2 * rows.n_rows + 1)
        self.weight_sum = rows.weight_sum(self.dtype)
        self.strength = model.penalty(self.weight_sum).strength  # (1,)
        shares = rows.weights.to(self.dtype) / self.weight_sum  # (1, n)
        self._part = Part.of(None, rows.target, shares)
        self.products = InnerProducts(columns, shares[0].cpu().numpy(), model.fit_intercept, rows)
        # A gradient by raw predictions is as large as one by scaled columns that one row has.
        self._unit = 2 * rows.n_rows**0.5
        # The intercept's curvature, next to that of the columns.
        self._of_intercept = float(columns.squares.max())

    def split(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The parameters ``a`` (K, n), ``K a`` in units of `_unit`, and ``b`` (K,)."""
        n, w = self.rows.n_rows, w.view(self.n_outputs, -1)
        return w[:, :n], w[:, n:-1], w[:, -1]

    def join(self, a: Tensor, predictions: Tensor, intercept: Tensor) -> Tensor:
        return torch.cat([a, predictions, intercept[:, None]], dim=1).view(1, -1)

    def parts(self) -> tuple[Part]:
        return (self._part,)  # without a look at the rows

    def expand(self, w: Tensor, every: int = 1) -> Tensor:
        return w

    def predict(self, part: Part, expanded: Tensor) -> Tensor:
        _, predictions, intercept = self.split(expanded)
        return torch.add(intercept[:, None], predictions, alpha=self._unit)[None]

    def mean(self, sums: list[Tensor]) -> Tensor:
        return sums[0]

    def pull_back(self, residuals: OfRows, plus: Tensor) -> Tensor:
        ((_, r),) = residuals
        r = r[0]
        of_intercept = r.sum(dim=1) * self._fit_intercept
        return self.join(torch.zeros_like(r), r * self._unit, of_intercept).add_(plus)

    def penalty_slope(self, w: Tensor) -> Tensor:
        a, _, intercept = self.split(w)
        slope = a * (self.strength * self._unit)
        return self.join(torch.zeros_like(a), slope, torch.zeros_like(intercept))

    def natural(self, gradient: Tensor) -> Tensor:
        _, q, of_intercept = self.split(gradient)
        q = q / self._unit
        return self.join(q, self.products.times(q).div_(self._unit), of_intercept * self._of_intercept)


def sparse_row_space(rows: ArrayRows, model: LinearModel) -> tuple[SparseRows, SparseRowSpace] | None:
    """The design of the rows' space and the way back, or None where columns are the better space."""
    columns = even_columns(rows, model)
    if columns is None:
        return None
    design = SparseRows(rows, model, columns)
    kept = columns if model.fit_intercept else columns._replace(center=np.zeros_like(columns.center))
    return design, SparseRowSpace(design, kept)
