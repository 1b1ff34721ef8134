"""The linear model: what is fitted, but for the rows."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from torch_logreg._linear.coordinates import Coordinates
from torch_logreg._linear.moments import Moments
from torch_logreg._losses.losses import Loss
from torch_logreg._losses.penalties import L2Penalty


class LinearModel(NamedTuple):
    """P problems of logistic regression with an L2 penalty, one for each C."""

    loss: Loss
    C: Tensor  # (P,), on the device and in the dtype that the parameters w shall have
    n_outputs: int  # K, raw predictions a row and problem
    fit_intercept: bool

    def penalty(self, weight_sum: Tensor) -> L2Penalty:
        """The penalty of rows that weigh `weight_sum` (1 or P,) together."""
        return L2Penalty(1 / (self.C * weight_sum))

    def coordinates(self, moments: Moments | None, n_features: int, penalty: L2Penalty) -> Coordinates:
        """Coordinates of scaled columns, or of `n_features` as they are."""
        shape = (n_features, self.n_outputs, self.fit_intercept)
        return Coordinates(moments, penalty.strength, *shape, self.loss.shift_invariant)
