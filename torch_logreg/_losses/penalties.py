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

    def curvature(self, scale: Tensor) -> Tensor:
        """The diagonal of the Hessian, which has nothing else, in ``coef / scale``: as large as `scale`."""
        strength = self.strength.view(-1, *[1] * (scale.dim() - 1))
        return scale * (scale * strength)  # the square of a scale alone may overflow

    def select(self, problems: Tensor) -> L2Penalty:
        """The penalty of some of the problems."""
        return L2Penalty(self.strength[problems])

    def alike(self) -> bool:
        """Whether there are several problems, all with a penalty: one factor of the columns can serve all."""
        return len(self.strength) > 1 and bool((self.strength > 0).all())
