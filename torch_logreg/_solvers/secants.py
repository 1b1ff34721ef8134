"""Secant pairs: what steps so far have shown of the curvature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_logreg._solvers.search import State


@dataclass(frozen=True)
class Pair:
    """A step, the change of the gradient over it, and 1 / their product: 0 where that is no use."""

    s: Tensor  # (P, n_parameters)
    y: Tensor  # (P, n_parameters)
    rho: Tensor  # (P, 1)

    @classmethod
    def between(cls, before: State, after: State, dtype: torch.dtype) -> Pair:
        """The pair in `dtype`: that of the rows is all the accuracy that gradients have."""
        s, y = (after.w - before.w).to(dtype), (after.gradient - before.gradient).to(dtype)
        sy = torch.linalg.vecdot(s, y)[:, None].to(before.w.dtype)
        enough = sy > torch.finfo(sy.dtype).eps * torch.linalg.vecdot(y, y)[:, None]
        return cls(s, y, torch.where(enough, 1 / sy, 0.0))

    def select(self, problems: Tensor) -> Pair:
        return Pair(self.s[problems], self.y[problems], self.rho[problems])


def quasi_newton_direction(
    gradient: Tensor, pairs: Sequence[Pair], solve: Callable[[Tensor], Tensor], scaled: bool
) -> Tensor:
    """The two-loop recursion (Nocedal, Wright 2006, algorithm 7.4).

    `solve` applies the inverse of the matrix that the pairs correct, `scaled` to the curvature of the last.
    """
    q, alphas = -gradient, []
    for pair in reversed(pairs):
        alpha = pair.rho * torch.linalg.vecdot(pair.s.to(q.dtype), q)[:, None]
        q = q - alpha * pair.y
        alphas.append(alpha)
    if pairs and scaled:
        y = pairs[-1].y.to(q.dtype)
        curvature = pairs[-1].rho * torch.linalg.vecdot(y, solve(y))[:, None]
        q = torch.where(curvature > 0, q / curvature, q)
    q = solve(q)
    for pair, alpha in zip(pairs, reversed(alphas), strict=True):
        beta = pair.rho * torch.linalg.vecdot(pair.y.to(q.dtype), q)[:, None]
        q = q + (alpha - beta) * pair.s
    return q
