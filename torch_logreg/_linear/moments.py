"""Means and variances of the columns, and inner products of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from torch_logreg._contracts.rows import Matrix, Rows
from torch_logreg._data.products import rmatmul, rmatmul_deviation


class Moments(NamedTuple):
    """Moments of the columns, by weight; without an intercept centres are 0 and variances mean squares."""

    center: Tensor  # (d,)
    variance: Tensor  # (d,), exactly 0 for a column that says nothing

    @classmethod
    def of(cls, center: Tensor, variance: Tensor, eps: float) -> Moments:
        """Set the variance of constant columns to 0: what they have is rounding errors of the mean."""
        rounding = variance.sqrt() < 16 * eps * center.abs()  # no squares, which overflow; false for NaN
        return cls(center, variance.masked_fill(rounding, 0.0))


class Gram(NamedTuple):
    """``A.T @ A`` of the columns ``(x - center) / spread``, up to a factor."""

    matrix: Callable[[], Tensor]  # (d, d)
    times: Callable[[Tensor], Tensor] | None  # of (d, r): its product without it; None if that were no better
    part: Callable[[], Tensor] | None = None  # (d, d): of some of the rows, over the weight of all


def moments(rows: Rows, weight_sum: Tensor, fit_intercept: bool) -> Moments:
    """Means and variances of the columns over all rows, in two passes, or in one without an intercept."""
    dtype, weight = weight_sum.dtype, weight_sum.mean()

    def mean(of: Callable[[Matrix, Tensor], Tensor]) -> Tensor:
        partials = (of(block.X, block.weights.mean(dim=0, keepdim=True)) for block in rows.blocks())
        return rows.total(functools.reduce(Tensor.add_, partials)) / weight

    center = torch.zeros(rows.n_features, dtype=dtype, device=rows.device)
    if fit_intercept:
        center = mean(lambda X, weights: rmatmul(X, weights)[0].to(dtype))
    # That sum over many rows rounds by more than a constant column may vary: so deviations have a mean too.
    sums = mean(lambda X, weights: torch.cat(rmatmul_deviation(X, weights, center, 1, 2)))
    shift = sums[0] * fit_intercept
    variance = torch.addcmul(sums[1], shift, shift, value=-1).clamp_(min=0)
    return Moments.of(center + shift, variance, torch.finfo(rows.dtype).eps)
