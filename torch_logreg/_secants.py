"""Secant pairs: what steps so far have shown of the curvature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """A step, the change of the gradient over it, and 1 / their product: 0 where that is no use."""

    s: Tensor  # (P, n_parameters)
    y: Tensor  # (P, n_parameters)
    rho: Tensor  # (P, 1)

    @classmethod
    def between(cls, w: Tensor, gradient: Tensor, w_new: Tensor, gradient_new: Tensor) -> Pair:
        s, y = w_new - w, gradient_new - gradient
        sy = (s * y).sum(dim=1, keepdim=True)
        enough = sy > torch.finfo(sy.dtype).eps * y.square().sum(dim=1, keepdim=True)
        return cls(s, y, torch.where(enough, 1 / sy, 0.0))


def quasi_newton_direction(
    gradient: Tensor,
    pairs: Sequence[Pair],
    solve: Callable[[Tensor], Tensor] | None = None,
    scaled: bool = False,
) -> Tensor:
    """The two-loop recursion (Nocedal, Wright 2006, algorithm 7.4).

    `solve` applies the inverse of the matrix that the pairs correct, `scaled` to the curvature of the last
    one; None is the identity, scaled.
    """
    q, alphas = -gradient, []
    for pair in reversed(pairs):
        alpha = pair.rho * torch.linalg.vecdot(pair.s, q)[:, None]
        q = q - alpha * pair.y
        alphas.append(alpha)
    if pairs and (scaled or solve is None):
        last = pairs[-1]
        curved = last.y if solve is None else solve(last.y)
        curvature = last.rho * torch.linalg.vecdot(last.y, curved)[:, None]
        q = torch.where(curvature > 0, q / curvature, q)
    if solve is not None:
        q = solve(q)
    for pair, alpha in zip(pairs, reversed(alphas), strict=True):
        beta = pair.rho * torch.linalg.vecdot(pair.y, q)[:, None]
        q = q + (alpha - beta) * pair.s
    return q
