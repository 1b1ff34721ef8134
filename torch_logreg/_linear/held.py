"""The scaled columns of rows that are few enough to hold them."""

from __future__ import annotations

import copy
import functools

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.rows import Block, Rows
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.folds import FoldRows
from torch_logreg._data.products import dense_rows
from torch_logreg._linear.coordinates import Coordinates, find_null_space
from torch_logreg._linear.design import Columns, OfOutputs, OfRows, Part
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.moments import Gram, Moments
from torch_logreg._losses.penalties import L2Penalty
from torch_logreg._runtime.crowding import look
from torch_logreg._runtime.limits import limits_of

# From so many matrices on, products of columns are held, where they are few numbers: half the work.
MANY = 8
# Numbers from which on a product with a vector waits for memory: in float32 half as long (shapes.py).
ROUGH_NUMBERS = 2**17


class Held(Columns):
    """Columns ``(x - center) * inverse_scale`` in an array A, those of the first problem.

    A pass is two products and a few operations: on small data operations cost more than arithmetic. A has
    the dtype of the weights, float64 where there is one, so little is lost on float32 rows. It serves small
    data whole, and samples of large data.

    Parameters
    ----------
    rows : Rows
        Where the rows come from; `rows_read` is counted there.
    part : Part
        All rows: A of shape (n, m) for X, with a last column of ones where there is an intercept, and weights
        divided by their sum. Products are fastest if A lies by columns.
    coordinates : Coordinates
    penalty : L2Penalty
    weight_sum : Tensor of shape (1,) or (P,)
        Of all rows that A stands for, as they are weighted there.
    """

    def __init__(
        self, rows: Rows, part: Part, coordinates: Coordinates, penalty: L2Penalty, weight_sum: Tensor
    ) -> None:
        self.rows, self.part, self.coordinates, self.penalty = rows, part, coordinates, penalty
        self.dtype, self._columns, self._reads = part.X.dtype, part.X.T, rows.reads
        self.eps = float(torch.finfo(self.dtype).eps)
        self.n_problems, self.n_outputs = coordinates.n_problems, coordinates.n_outputs
        self.n_parameters, self.n_rows = self.n_outputs * self._columns.shape[0], len(part.target)
        self.weight_sum = weight_sum
        inverse = coordinates.inverse_scale  # (P, 1, d)
        self._factor: Tensor | None = None  # (P, 1, m)
        if self.n_problems > 1:
            ratio = torch.where(inverse[:1] > 0, inverse / inverse[:1], 0.0)
            self._factor = coordinates.of_columns(ratio, 1.0).to(self.dtype)
        self.decay = coordinates.decay(penalty)
        self._alone = self.n_problems == self.n_outputs == 1  # and nothing to do but products
        self._rough: Held | None = None
        self._scratch: Tensor | None = None
        self._limits = limits_of(rows.device)
        self._outer: tuple[Tensor, Tensor] | None = None  # products of two columns, and where they belong

    def parts(self) -> tuple[Part]:
        self._reads.n_rows += self.n_rows
        look()
        return (self.part,)

    def expand(self, w: Tensor, every: int = 1) -> Tensor:
        """The parameters for the columns of A, (P * K, m)."""
        if self._factor is not None:
            w = (w.view(self.n_problems, self.n_outputs, -1) * self._factor)[::every]
        return w.view(-1, self._columns.shape[0])

    def predict(self, part: Part, expanded: Tensor) -> Tensor:
        return torch.mm(expanded, self._columns).view(-1, self.n_outputs, self.n_rows)

    def mean(self, sums: list[Tensor]) -> Tensor:
        return sums[0]

    def pull_back(self, residuals: OfRows, plus: Tensor) -> Tensor:
        ((part, r),) = residuals
        P, K, n = r.shape
        r, gauge = r.view(P * K, n), self.coordinates.gauge
        if self._alone and gauge is None:
            return torch.addmm(plus, r, part.X)
        gradient = torch.mm(r, part.X).view(P, K, -1)
        if self._factor is not None:
            gradient.mul_(self._factor)
        if gauge is not None:
            columns = gradient[..., : self.coordinates.n_features]
            columns.copy_(self.coordinates.without_gauge(columns))
        if K > 1:
            # A shift of all outputs changes nothing but the penalty: of the rest it is rounding.
            shift = gradient.sum(dim=1, keepdim=True)  # `mean` takes twice as long
            gradient.sub_(shift, alpha=1 / K)
        return gradient.view(P, -1).add_(plus)

    def squares(self, of_rows: OfRows) -> Tensor:
        ((part, r),) = of_rows
        P, K, n = r.shape
        squares = (r.view(P * K, n) @ part.X.square()).view(P, K, -1)
        if self._factor is not None:
            squares = squares * self._factor.square()
        return squares.view(P, -1)

    def sandwich(self, matrices: OfOutputs) -> Tensor:
        ((part, diagonal, factors),) = matrices
        (P, K, n), m = diagonal.shape, self._columns.shape[0]
        blocks = self._weighted(diagonal.view(P * K, 1, n))
        if factors is None:
            matrix = blocks.view(P, K, m, K, m)
        else:
            root = factors.mul_(self._root)
            outer = (root.view(P, K, 1, n) * self._columns).view(P, K * m, n)
            matrix = torch.bmm(outer, outer.mT).neg_().view(P, K, m, K, m)
            # `permute` would do, but takes as long as a product of small matrices.
            matrix.diagonal(dim1=1, dim2=3).copy_(blocks.view(P, K, m * m).mT.view(P, m, m, K))
        if self._factor is not None:
            matrix = matrix * (self._factor[:, :, :, None, None] * self._factor[:, :, None, None, :])
        return matrix

    @functools.cached_property
    def _root(self) -> Tensor:
        return self.part.of_row.sqrt()

    def columns(self, information: OfRows) -> Tensor:
        ((part, of_row),) = information
        columns = (self._columns * of_row[:, None]) @ part.X  # (1 or P, m, m)
        if self._factor is not None:
            factor = self._factor[: len(columns)]
            columns = columns * (factor.mT * factor)
        return columns / of_row.sum(dim=1)[:, None, None]

    def _weighted(self, information: Tensor) -> Tensor:
        """``A.T @ diag(information[q]) @ A`` for each q: (Q, 1, n) -> (Q * m, m)."""
        (Q, _, n), m, A = information.shape, self._columns.shape[0], self.part.X
        if Q < MANY or n * m * m > self._limits.outer_numbers:
            # One product for all problems and outputs, of rows that lie in memory as it reads them.
            step = min(n, max(1, self._limits.weighted_numbers // (Q * m)))
            # A scratch array that is there already, and nothing to cut.
            if Q * m * n <= self._limits.kept_numbers:
                if self._scratch is None:
                    self._scratch = information.new_empty((Q, m, n))
                weighted = torch.mul(self._columns, information, out=self._scratch)
                return weighted.view(Q * m, n).mm(A)
            result = information.new_zeros((Q * m, m))
            scratch = information.new_empty(Q * m * step)
            for first in range(0, n, step):
                part = slice(first, min(first + step, n))
                weighted = scratch[: Q * m * (part.stop - first)].view(Q, m, -1)
                torch.mul(self._columns[:, part], information[..., part], out=weighted)
                result.addmm_(weighted.view(Q * m, -1), A[part])
            return result
        if self._outer is None:
            i, j = torch.triu_indices(m, m, dtype=torch.int64, device=information.device)
            index = torch.empty((m, m), dtype=torch.int64, device=information.device)
            index[i, j] = index[j, i] = torch.arange(len(i), dtype=torch.int64, device=information.device)
            self._outer = self._columns[i] * self._columns[j], index.flatten()
        products, index = self._outer
        return torch.mm(information.view(Q, n), products.T).index_select(1, index).view(-1, m)

    def support_rare_columns(self, enough: float) -> None:
        """Penalise columns of which a sample has too few rows to know their curvature, as if it were 1.

        Their effective number of rows is the participation ratio of their weighted squares.
        """
        coordinates, K, shares = self.coordinates, self.n_outputs, _shares(self.part.weights)
        squares = self.part.X[:, : coordinates.n_features].square()
        second, fourth = shares @ squares, shares.square() @ squares.square_()
        n_effective = second.square() / torch.where(fourth > 0, fourth, 1.0)
        ridge = (enough / (enough + n_effective)).square()
        if K > 1:
            ridge = ridge * (4 * (1 - 1 / K) / K)
        self.decay = self.decay + coordinates.of_columns(ridge, 0.0).repeat(K)

    def rough(self) -> Held:
        if self._rough is None:
            if self.dtype == torch.float32:
                return self
            A, target, weights, _ = self.part
            if target.dtype == self.dtype:  # no class numbers
                target = target.to(torch.float32)
            part = Part.of(A.to(torch.float32), target, weights.to(torch.float32))
            self._rough = Held(self.rows, part, self.coordinates, self.penalty, self.weight_sum)
            self._rough.decay = self.decay.to(torch.float32)
        return self._rough

    @property
    def is_quicker_rough(self) -> bool:
        accurate = self.rows.dtype == torch.float64 or self.dtype == torch.float32
        return not accurate and self.part.X.numel() >= ROUGH_NUMBERS

    def select(self, problems: np.ndarray) -> Held | None:
        if self._factor is None:
            return None
        some, index = copy.copy(self), torch.as_tensor(problems, dtype=torch.int64, device=self.rows.device)
        some.coordinates, some.n_problems = self.coordinates.select(index), len(index)
        some._factor, some.decay = self._factor[index], self.decay[index]
        some.penalty = self.penalty.select(index)
        some._rough = some._scratch = None
        if len(self.part.weights) > 1:
            weights, some.weight_sum = self.part.weights[index], self.weight_sum[index]
            some.part = Part.of(self.part.X, self.part.target, weights)
            some.__dict__.pop("_root", None)
        return some

    def first(self, n: int, weights: Tensor) -> Held:
        """The design of the first `n` rows, weighted by `weights` (1 or P, n)."""
        weights = weights.to(self.dtype)
        weights = weights / weights.sum(dim=1, keepdim=True)
        part = Part.of(self.part.X[:n], self.part.target[:n], weights)
        few = Held(self.rows, part, self.coordinates, self.penalty, self.weight_sum)
        few.decay = self.decay
        return few

    def gram(self, n: int | None = None) -> Gram:
        """The inner products of the columns over the first `n` rows, all by default."""
        coordinates = self.coordinates

        def columns() -> tuple[Tensor, Tensor]:
            shares = _shares(self.part.weights)[:n]
            scale = coordinates.inverse_scale[0] * coordinates.spread
            scaled = self.part.X[:n, : coordinates.n_features] / torch.where(scale > 0, scale, 1.0)
            if coordinates.fit_intercept:  # what is left once the mean is exactly taken out
                scaled = scaled - shares @ scaled / shares.sum()
            return scaled, shares[:, None]

        def matrix() -> Tensor:
            scaled, shares = columns()
            return (scaled * shares).T @ scaled

        def times(directions: Tensor) -> Tensor:
            scaled, shares = columns()
            return scaled.T @ ((scaled @ directions) * shares)

        return Gram(matrix, times if self.rows.dtype == torch.float64 else None)


def hold(
    rows: Rows,
    block: Block,
    model: LinearModel,
    weight_sum: Tensor,
    eps: float,
    coordinates: Coordinates | None = None,
) -> Held:
    """The design of the rows of `block`, with its own moments for the coordinates if none are given.

    `weight_sum` is that of all `rows`, for the penalty. Deviations below `eps` times the mean are rounding
    errors.
    """
    (n, d), dtype, penalty = block.X.shape, model.C.dtype, model.penalty(weight_sum)
    # By columns: products then read along rows, which saves more than the copy costs.
    columns = torch.empty((d + model.fit_intercept, n), dtype=dtype, device=rows.device)
    features = columns[:d].copy_(dense_rows(block.X, 0, n).T)
    if model.fit_intercept:
        columns[d].fill_(1.0)
    weights = block.weights.to(dtype)
    weights = weights / weights.sum(dim=1, keepdim=True)
    if coordinates is None:
        shares = _shares(weights)
        if model.fit_intercept:
            # Sums by pairs: those of `@` are off by more than `Moments.of` takes for rounding.
            center = torch.linalg.vecdot(features, shares)
            features.sub_(center.unsqueeze(1))
        else:
            center = torch.zeros(d, dtype=dtype, device=rows.device)
        moments = Moments.of(center, features.square() @ shares, eps)
        rows.check_finite(moments.variance)
        coordinates = model.coordinates(moments, d, penalty)
    else:
        features.sub_(coordinates.center[:, None])
    features.mul_(coordinates.inverse_scale[0].mT)
    return Held(rows, Part.of(columns.T, block.target, weights), coordinates, penalty, weight_sum)


def hold_all(rows: ArrayRows | FoldRows, model: LinearModel) -> Held:
    """The design of all rows."""
    eps = float(torch.finfo(model.C.dtype).eps)
    held = hold(rows, rows.whole(), model, rows.weight_sum(model.C.dtype), eps)
    find_null_space(held.coordinates, eps, held.gram())
    return held


def _shares(weights: Tensor) -> Tensor:
    """Weights of all problems together: (P, n) -> (n,)."""
    return weights[0] if len(weights) == 1 else weights.mean(dim=0)
