"""F of the linear model, estimated from minibatches."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_logreg._contracts.objective import Stochastic
from torch_logreg._contracts.rows import Block, Drawable
from torch_logreg._data.products import matmul, rmatmul
from torch_logreg._linear.coordinates import Coordinates
from torch_logreg._linear.objective import LinearObjective
from torch_logreg._losses.losses import Loss


class MinibatchObjective(Stochastic, LinearObjective):
    """A `LinearObjective` over rows that can be drawn, with estimates from some of them."""

    rows: Drawable

    def __init__(
        self,
        rows: Drawable,
        loss: Loss,
        C: Tensor,
        n_outputs: int,
        fit_intercept: bool,
        coordinates: Coordinates | None = None,
    ) -> None:
        LinearObjective.__init__(self, rows, loss, C, n_outputs, fit_intercept, coordinates)
        self._plain = self.coordinates.plain and self.dtype == rows.dtype
        self._rows_per_weight = (rows.n_rows / self.weight_sum).to(rows.dtype)[:, None, None]  # (P, 1, 1)

    def batch_value_and_gradient(self, w: Tensor, block: Block, n_nominal: int) -> tuple[Tensor, Tensor]:
        coef, intercept = self.coordinates.to_raw(w)
        factor = self._batch_factor(n_nominal)  # (P, 1)
        loss, slope = self.loss.value_and_gradient_(self.linear(block, coef, intercept), block.target)
        penalty, decay = self._penalty(w, coef)
        value = (block.weights * loss).sum(dim=1, dtype=self.dtype) * factor[:, 0] + penalty
        slope = slope.mul_((block.weights * factor)[:, None])
        columns = rmatmul(block.X, slope.flatten(0, 1)).view(coef.shape).to(self.dtype)
        return value, self.coordinates.pull_back(columns, slope.sum(dim=2, dtype=self.dtype)) + decay

    def batch_gradient(self, w: Tensor, block: Block, n_nominal: int) -> Tensor:
        if not self._plain:
            return self.batch_value_and_gradient(w, block, n_nominal)[1]
        # In as few operations as possible: each costs more than its arithmetic on a few hundred rows.
        P, K, d = self.n_problems, self.n_outputs, self.rows.n_features
        flat = w.view(P * K, -1)
        z = matmul(block.X, flat[:, :d])
        if self.fit_intercept:
            z = z.add_(flat[:, d:])
        slope = self.loss.gradient(z.view(P, K, -1), block.target)
        slope = slope.mul_(block.weights[:, None]).view(P * K, -1)
        gradient = rmatmul(block.X, slope)
        if self.fit_intercept:
            gradient = torch.cat([gradient, slope.sum(dim=1, keepdim=True)], dim=1)
        gradient = gradient.view(P, K, -1)
        if self.loss.shift_invariant:
            gradient = gradient - gradient.mean(dim=1, keepdim=True)
        penalty = self._decay * w.view(P, K, -1)
        return penalty.addcmul_(gradient, self._rows_per_weight, value=1 / n_nominal).view(P, -1)

    def batch_value(self, w: Tensor, block: Block, n_nominal: int) -> Tensor:
        coef, intercept = self.coordinates.to_raw(w)
        loss, _ = self.loss.value_and_gradient_(self.linear(block, coef, intercept), block.target)
        value = (block.weights * loss).sum(dim=1, dtype=self.dtype) * self._batch_factor(n_nominal)[:, 0]
        return value + self._penalty(w, coef)[0]

    def _batch_factor(self, n_nominal: int) -> Tensor:
        return self._rows_per_weight[:, 0] / n_nominal  # (P, 1)
