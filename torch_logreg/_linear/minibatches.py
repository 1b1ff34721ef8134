"""F of the linear model, estimated from minibatches."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_logreg._contracts.objective import Stochastic
from torch_logreg._contracts.rows import Block, Drawable
from torch_logreg._data.products import matmul, rmatmul
from torch_logreg._linear.design import Columns, Part
from torch_logreg._linear.objective import ColumnsObjective
from torch_logreg._losses.losses import Loss


class MinibatchObjective(Stochastic, ColumnsObjective):
    """F over rows that can be drawn, with estimates from some of them."""

    rows: Drawable

    def __init__(self, rows: Drawable, design: Columns, loss: Loss) -> None:
        ColumnsObjective.__init__(self, design, loss)
        self.rows, self._plain = rows, design.coordinates.plain and self.dtype == rows.dtype
        self._rows_per_weight = (rows.n_rows / design.weight_sum).to(rows.dtype)[:, None, None]  # (P, 1, 1)

    def batch_value_and_gradient(self, w: Tensor, block: Block, n_nominal: int) -> tuple[Tensor, Tensor]:
        design, part = self.design, Part.of(*block)
        z = design.predict(part, design.expand(w))
        loss, slope = self.loss.value_and_gradient_(z, block.target)
        factor, penalty = self._rows_per_weight / n_nominal, design.penalty_slope(w)
        value = (block.weights * loss).sum(dim=1, dtype=self.dtype) * factor[:, 0, 0]
        slope = slope.mul_(part.of_row * factor)
        columns = rmatmul(block.X, slope.flatten(0, 1)).view(*slope.shape[:2], -1).to(self.dtype)
        sums = slope.sum(dim=2, dtype=self.dtype)
        value = value.add_(torch.linalg.vecdot(penalty, w), alpha=0.5)
        return value, design.coordinates.pull_back(columns, sums) + penalty

    def batch_gradient(self, w: Tensor, block: Block, n_nominal: int) -> Tensor:
        if not self._plain:
            return self.batch_value_and_gradient(w, block, n_nominal)[1]
        # In as few operations as possible: each costs more than its arithmetic on a few hundred rows.
        P, K, d = self.n_problems, self.n_outputs, self.rows.n_features
        flat = w.view(P * K, -1)
        z = matmul(block.X, flat[:, :d])
        fit_intercept = self.design.coordinates.fit_intercept
        if fit_intercept:
            z = z.add_(flat[:, d:])
        slope = self.loss.gradient(z.view(P, K, -1), block.target)
        slope = slope.mul_(block.weights[:, None]).view(P * K, -1)
        gradient = rmatmul(block.X, slope)
        if fit_intercept:
            gradient = torch.cat([gradient, slope.sum(dim=1, keepdim=True)], dim=1)
        gradient = gradient.view(P, K, -1)
        if self.loss.shift_invariant:
            gradient = gradient - gradient.mean(dim=1, keepdim=True)
        penalty = (self.design.decay * w).view(P, K, -1)
        return penalty.addcmul_(gradient, self._rows_per_weight, value=1 / n_nominal).view(P, -1)

    def batch_value(self, w: Tensor, block: Block, n_nominal: int) -> Tensor:
        design, part = self.design, Part.of(*block)
        loss = self.loss.value(design.predict(part, design.expand(w)), block.target)
        value = (block.weights * loss).sum(dim=1, dtype=self.dtype)
        value = value * (self._rows_per_weight[:, 0, 0] / n_nominal)
        return value.add_(torch.linalg.vecdot(design.penalty_slope(w), w), alpha=0.5)
