"""The scaled columns of sparse rows that store few numbers."""

from __future__ import annotations

import copy
import functools

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.rows import Block
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.folds import FoldRows
from torch_logreg._data.sparse import Few
from torch_logreg._linear.coordinates import Coordinates, find_null_space, gram
from torch_logreg._linear.design import OfRows, Part
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.moments import Moments, moments
from torch_logreg._linear.streamed import Streamed
from torch_logreg._runtime.crowding import look

# A mean, in standard deviations, up to which sums over a column are centred once they are made.
NEAR = 2.0**10


class HeldSparse(Streamed):
    """Sparse columns times ``inverse_scale``, those of the first problem; they are centred in products alone.

    A pass is two products and a few operations: of few numbers operations cost more than arithmetic. Numbers
    have the dtype of the weights, float64 where there is one, so little is lost on float32 rows.

    Parameters
    ----------
    rows : ArrayRows or FoldRows
        Where the rows come from; `rows_read` is counted there.
    model : LinearModel
    coordinates : Coordinates
    block : Block
        All rows, with weights divided by their sum.
    few : Few
        X in the dtype of the weights.
    """

    keeps = keeps_information = True

    def __init__(
        self,
        rows: ArrayRows | FoldRows,
        model: LinearModel,
        coordinates: Coordinates,
        block: Block,
        few: Few,
    ) -> None:
        super().__init__(rows, model, coordinates)
        self.eps = float(torch.finfo(self.dtype).eps)
        self._part = Part.of(*block)
        inverse = coordinates.inverse_scale  # (P, 1, d)
        X = few.rows
        self._X = few.with_values(X.data * inverse[0, 0].numpy()[X.indices])
        self._factor: Tensor | None = None  # (P, 1, d)
        if self.n_problems > 1:
            self._factor = torch.where(inverse[:1] > 0, inverse / inverse[:1], 0.0)
        # (d,), where there is an intercept: without one there is no centre either.
        self._center = coordinates.center * inverse[0, 0] if model.fit_intercept else None
        self._shape = (self.n_outputs, rows.n_features + model.fit_intercept)

    @property
    def _weight_of_parts(self) -> Tensor:
        return torch.ones_like(self.weight_sum[:1])

    def parts(self) -> tuple[Part]:
        self.rows.reads.n_rows += self.rows.n_rows
        look()
        return (self._part,)

    def expand(self, w: Tensor, every: int = 1) -> tuple[Tensor, Tensor | None]:
        """Coefficients of the scaled columns (P * K, d), and intercepts (P * K, 1)."""
        w = w.view(-1, *self._shape)[::every]
        coef = w if self._center is None else w[..., :-1]
        if self._factor is not None:
            coef = coef * self._factor[::every]
        coef = coef.flatten(0, 1)
        if self._center is None:
            return coef, None
        return coef, (w[..., -1].flatten() - coef @ self._center)[:, None]

    def predict(self, part: Part, expanded: tuple[Tensor, Tensor | None]) -> Tensor:
        coef, intercept = expanded
        z = self._X.matmul(coef)
        if intercept is not None:
            z.add_(intercept)
        return z.view(-1, self.n_outputs, z.shape[1])

    def mean(self, sums: list[Tensor]) -> Tensor:
        return sums[0]

    def pull_back(self, residuals: OfRows, plus: Tensor) -> Tensor:
        ((_, r),) = residuals
        P, K, n = r.shape
        gradient = self._X.rmatmul(r.view(P * K, n))
        if self._center is not None:
            sums = r.sum(dim=2).view(-1)
            gradient = torch.cat([gradient.addr_(sums, self._center, alpha=-1), sums[:, None]], dim=1)
        gradient, d = gradient.view(P, K, -1), self.rows.n_features
        if self._factor is not None:
            gradient[..., :d].mul_(self._factor)
        if self.coordinates.gauge is not None:
            gradient[..., :d] = self.coordinates.without_gauge(gradient[..., :d])
        if K > 1:
            # A shift of all outputs changes nothing but the penalty: of the rest it is rounding.
            gradient.sub_(gradient.sum(dim=1, keepdim=True), alpha=1 / K)
        return gradient.view(P, -1).add_(plus)

    @functools.cached_property
    def _squares(self) -> Few | None:
        """The squares of what is stored; None where sums of these could not be centred afterwards."""
        if self._center is not None and bool((self._center.abs() > NEAR).any()):
            return None
        return self._X.with_values(self._X.rows.data**2)

    def squares(self, of_rows: OfRows) -> Tensor:
        if self._squares is None:
            return super().squares(of_rows)
        ((_, r),) = of_rows
        P, K, n = r.shape
        r, d = r.view(P * K, n), self.rows.n_features
        squares = self._squares.rmatmul(r)
        if self._center is not None:
            sums = r.sum(dim=1)
            shift = torch.outer(sums, self._center) - 2 * self._X.rmatmul(r)
            squares = torch.cat([squares.addcmul_(shift, self._center).clamp_(min=0), sums[:, None]], dim=1)
        squares = squares.view(P, K, -1)
        if self._factor is not None:
            squares[..., :d].mul_(self._factor.square())
        return squares.view(P, -1)

    def loses_gradients(self) -> bool:
        return False

    def select(self, problems: np.ndarray) -> HeldSparse | None:
        if self._factor is None:
            return None
        some, here = copy.copy(self), torch.as_tensor(problems, dtype=torch.int64, device=self.rows.device)
        some._model = self._model._replace(C=self._model.C[here])
        some.coordinates, some.n_problems = self.coordinates.select(here), len(here)
        some.penalty, some.decay, some._factor = (
            self.penalty.select(here),
            self.decay[here],
            self._factor[here],
        )
        if len(self._part.weights) > 1:
            X, target, weights, _ = self._part
            some._part, some.weight_sum = Part.of(X, target, weights[here]), self.weight_sum[here]
        return some


def hold_sparse(rows: ArrayRows | FoldRows, model: LinearModel) -> Streamed:
    """The design of all rows; that of passes over them on a device whose memory scipy cannot read."""
    block, dtype = rows.whole(), model.C.dtype
    if block.X.few is None:
        return Streamed(rows, model)
    weights = block.weights.to(dtype)
    weights = weights / weights.sum(dim=1, keepdim=True)
    target = block.target.to(dtype) if block.target.is_floating_point() else block.target
    few = block.X.few.with_values(torch.from_numpy(block.X.few.rows.data).to(dtype).numpy())
    found = _moments(rows, few, weights.mean(dim=0, keepdim=True), model)
    weight_sum = rows.weight_sum(dtype)
    coordinates = model.coordinates(found, rows.n_features, model.penalty(weight_sum))
    find_null_space(coordinates, float(torch.finfo(dtype).eps), gram(rows, coordinates))
    return HeldSparse(rows, model, coordinates, block._replace(target=target, weights=weights), few)


def _moments(rows: ArrayRows | FoldRows, few: Few, shares: Tensor, model: LinearModel) -> Moments:
    with np.errstate(over="ignore", invalid="ignore"):  # which is seen to here
        center, squares = few.rmatmul(shares)[0], few.with_values(few.rows.data**2).rmatmul(shares)[0]
    rows.rows_read += rows.n_rows
    rows.check_finite(squares)
    if not model.fit_intercept:
        return Moments(torch.zeros_like(center), squares)
    variance = squares - center.square()
    if bool((variance * NEAR**2 < center.square()).any()):
        return moments(rows, rows.weight_sum(shares.dtype), fit_intercept=True)
    return Moments(center, variance)
