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


class ElasticNet(NamedTuple):
    """``l1 * sum(|coef|) + l2 / 2 * sum(coef ** 2)`` of one problem, for F: divided by ``C * weight_sum``."""

    l1: float
    l2: float

    @classmethod
    def of(cls, C: float, l1_ratio: float, weight_sum: float) -> ElasticNet:
        """The penalty of scikit-learn's `C` and `l1_ratio` for rows that weigh `weight_sum` together."""
        strength = 1 / (C * weight_sum)
        return cls(strength * l1_ratio, strength * (1 - l1_ratio))

    def value(self, coef: Tensor) -> Tensor:
        """The penalty of coefficients of any shape."""
        return self.l1 * coef.abs().sum() + self.l2 / 2 * coef.square().sum()

    def conjugate(self, slopes: Tensor) -> Tensor:
        """The largest of ``slopes @ coef - penalty(coef)``; 0 for ``l2 = 0``, where it is 0 or infinite."""
        if not self.l2:
            return slopes.new_zeros(())
        return (slopes.abs() - self.l1).clamp(min=0).square().sum() / (2 * self.l2)

    def times(self, factor: float) -> ElasticNet:
        """The same, `factor` times as strong."""
        return ElasticNet(self.l1 * factor, self.l2 * factor)
