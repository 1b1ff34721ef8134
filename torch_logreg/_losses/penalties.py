"""The penalty of each problem. The intercept is never given to it, so never penalised."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class L2Penalty(NamedTuple):
    """``strength / 2 * sum(coef ** 2)`` for P problems.

    `strength` is ``1 / (C * weight_sum)`` of each problem, shape (P,): the penalty of the objective
    divided by ``C * weight_sum``. Zero is no penalty (``C=inf``).
    """

    strength: Tensor

    def value(self, coef: Tensor) -> Tensor:
        return 0.5 * self.strength * coef.square().sum(dim=(1, 2))  # (P, K, d) -> (P,)

    def gradient(self, coef: Tensor) -> Tensor:
        return self.strength[:, None, None] * coef  # (P, K, d)

    def curvature(self, coef: Tensor) -> Tensor:
        """Diagonal of the Hessian, which has nothing else."""
        return self.strength[:, None, None].expand_as(coef)  # (P, K, d)


def alike(strength: Tensor) -> bool:
    """Whether there are several problems, all with a penalty: one factor of the columns can serve all."""
    return len(strength) > 1 and bool((strength > 0).all())
