"""Secant pairs: what steps so far have shown of the curvature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_logreg._runtime.devices import looks_are_free
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


class Compact:
    """The inverse matrix of L-BFGS, by a few products with all secant pairs at once.

    With S and Y the pairs as rows, H0 the inverse that they correct, scaled by c, ``Z = Y H0``, R the upper
    triangle of ``S Y.T`` and D its diagonal::

        H = c H0 + S.T R^-T (D + c Z Y.T) R^-1 S  -  c (S.T R^-T Z + Z.T R^-1 S)

    A pair that is no use to a problem is one of zeros.

    References
    ----------
    Byrd, Nocedal, Schnabel (1994), Representations of quasi-Newton matrices and their use in limited memory
    methods, Mathematical Programming 63, theorem 2.2.
    """

    def __init__(self, memory: int) -> None:
        self._memory, self._n = memory, 0

    def forget(self) -> None:
        self._n = 0

    def correct(self, inverse: Callable[[Tensor], Tensor]) -> None:
        """Go over to another H0, that of one problem."""
        n = self._n
        if not n:
            return
        Y = self._Y[0, :n]
        Z = torch.cat([inverse(y[None]) for y in Y])
        self._pairs[0, 1, :n], self._ZY[0, :n, :n] = Z, Z @ Y.T
        self._scale = self._D[:, n - 1] / (Z[-1] @ Y[-1])

    def add(self, s: Tensor, y: Tensor, z: Tensor) -> None:
        """Take in a step, the change of the gradient over it, and H0 times that, each (P, n_parameters)."""
        sy = torch.linalg.vecdot(s, y)
        useful = sy > torch.finfo(sy.dtype).eps * torch.linalg.vecdot(y, y)
        if len(s) == 1 and looks_are_free(s.device):
            if not useful.item():
                return
        else:
            s, y, z = (v * useful[:, None] for v in (s, y, z))
        self._grow(s)
        n, last = self._n, self._n - 1
        self._pairs[:, 0, last], self._pairs[:, 1, last] = s, z
        self._Y[:, last] = y
        with_last = torch.bmm(self._Y[:, :n], self._pairs[:, :, last].mT)  # (P, n, 2): Y s, Y z
        of_step = torch.bmm(self._pairs[:, 0, :n], y[:, :, None])  # S y
        self._ZY[:, last, :n] = self._ZY[:, :n, last] = with_last[:, :, 1]
        diagonal = torch.where(useful, sy, 1.0)
        self._D[:, last] = diagonal
        inverse = self._inverse
        inverse[:, last, :last] = 0.0
        if last:
            inverse[:, :last, last] = -torch.bmm(inverse[:, :last, :last], of_step[:, :last])[:, :, 0]
            inverse[:, :last, last] /= diagonal[:, None]
        inverse[:, last, last] = 1 / diagonal
        size = torch.linalg.vecdot(y, z)
        self._scale = torch.where(useful & (size > 0), sy / size, self._scale)

    def _grow(self, like: Tensor) -> None:
        """Room for one pair more, in the place of the oldest if there is none."""
        P, p = like.shape
        if not self._n:
            k = self._memory
            self._pairs, self._Y = like.new_zeros((P, 2, k, p)), like.new_zeros((P, k, p))
            self._ZY, self._inverse = like.new_zeros((P, k, k)), like.new_zeros((P, k, k))
            self._D, self._scale = like.new_zeros((P, k)), like.new_ones(P)
        if self._n < self._memory:
            self._n += 1
            return
        self._pairs, self._Y = self._pairs.roll(-1, 2), self._Y.roll(-1, 1)
        self._ZY, self._inverse = self._ZY.roll((-1, -1), (1, 2)), self._inverse.roll((-1, -1), (1, 2))
        self._D = self._D.roll(-1, 1)

    def direction(self, gradient: Tensor, of_gradient: Tensor) -> Tensor:
        """The direction ``-H gradient``, with H0 times the gradient known."""
        n = self._n
        if not n:
            return -of_gradient
        P, p = gradient.shape
        scale, pairs = self._scale[:, None], self._pairs[:, :, :n].reshape(P, 2 * n, p)
        along = torch.bmm(pairs, gradient[:, :, None]).view(P, 2, n)
        inverse = self._inverse[:, :n, :n]
        u = torch.bmm(inverse, along[:, 0, :, None])  # (P, n, 1)
        inner = torch.bmm(self._ZY[:, :n, :n], u)[:, :, 0].sub_(along[:, 1]).mul_(scale)
        inner.addcmul_(self._D[:, :n], u[:, :, 0])
        v = torch.bmm(inner[:, None], inverse)  # (P, 1, n)
        parts = torch.cat([v, u.mT * -scale[:, None]], dim=2)
        return torch.baddbmm((of_gradient * scale)[:, None], parts, pairs)[:, 0].neg_()
