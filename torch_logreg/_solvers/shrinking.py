"""The L1 term of a stochastic objective: proximal steps, and what it adds to F and its gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def shrink_(w: Tensor, by: Tensor) -> Tensor:
    """Move w, in place, to the minimum of ``|v - w|² / 2 + sum(by * |v|)``: what is below `by` becomes 0."""
    return w.sub_(torch.clamp(w, -by, by))


def with_l1(value: Tensor, w: Tensor, threshold: Tensor | None) -> Tensor:
    """F, from all of it but ``sum(threshold * |w|)``."""
    if threshold is None:
        return value
    return value + (w.abs() * threshold).sum(dim=1).to(value.dtype)


def nearest(gradient: Tensor, w: Tensor, threshold: Tensor | None) -> Tensor:
    """Of the subgradients of F the one nearest to 0, from the gradient of all but the L1 term."""
    if threshold is None:
        return gradient
    shrunk = gradient - torch.clamp(gradient, -threshold, threshold)
    return torch.where(w != 0, gradient + threshold * w.sign(), shrunk)
