"""Problems: an objective that `fit` hands to a solver, and how the solution is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torch_logreg._checks.data import TrainingData
from torch_logreg._contracts.objective import Objective
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.tensors import features_to, to_tensor
from torch_logreg._fit.predictor import Raw


class Problem(ABC):
    """An objective with a point to start from, and how a solution is read.

    Parameters
    ----------
    objective : Objective
    start : Tensor of shape (1, n_parameters)
    weight_sum : float
    """

    def __init__(self, objective: Objective, start: Tensor, weight_sum: float) -> None:
        self.objective, self.start, self.weight_sum = objective, start, weight_sum

    @abstractmethod
    def decision(self, w: Tensor) -> Raw:
        """The way from rows to decision values, class-major, with the parameters `w`."""

    @abstractmethod
    def attributes(self, w: Tensor) -> dict[str, Any]:
        """The fitted attributes, in memory of their own."""

    def snapshot(self, w: Tensor) -> Any:
        """The state at `w`, to come back to."""
        return w.clone()

    def restore(self, kept: Any) -> Tensor:
        """The parameters of a `snapshot`."""
        return kept

    def final(self, w: Tensor) -> Tensor:
        """The solution to keep among equals."""
        return w

    def doubt(self, w: Tensor) -> str | None:
        """Why a `final` solution cannot be trusted, a key of `REASONS`, or None."""
        return None


def make_rows(
    data: TrainingData,
    target: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    n_outputs: int,
    check: Callable[[], None] | None = None,
) -> ArrayRows:
    X = features_to(data.X, device, dtype)
    return ArrayRows(X, target, to_tensor(data.weights[None], device, dtype), n_outputs, check)
