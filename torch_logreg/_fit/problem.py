"""Problems: an objective that `fit` hands to a solver, and how the solution is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from torch_logreg._checks.data import TrainingData
from torch_logreg._contracts.objective import Objective
from torch_logreg._contracts.solver import Solution
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.loaders import is_loaded
from torch_logreg._data.tensors import features_to, to_tensor
from torch_logreg._fit.predictor import Raw
from torch_logreg._losses.links import codes_of
from torch_logreg._runtime.devices import supports_float64
from torch_logreg._runtime.limits import limits_of

# Of some rows, codes and weights: decision values, class-major, and the weighted sum of the losses.
Judge: TypeAlias = Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor]]


class Judged(NamedTuple):
    """What is said of parameters by some rows, by weight."""

    accuracy: float
    loss: float  # the mean, without the penalty


class Certificate(NamedTuple):
    """What coefficients are worth, once they have the dtype in which they are returned."""

    objective: float  # F
    gap: float  # by how much that is above the minimum at most


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

    @abstractmethod
    def judge(self, w: Tensor) -> Judge:
        """The way from rows to what they say of the parameters `w`."""

    def judged_by(self, data: TrainingData, w: Tensor) -> Judged:
        """The accuracy and the mean loss of these rows with the parameters `w`."""
        device, judge = self.objective.rows.device, self.judge(w)
        dtype = torch.float64 if supports_float64(device) else torch.float32
        sums = torch.zeros(3, dtype=dtype, device=device)
        for X, codes_here, weights_here in self._parts(data):
            codes = to_tensor(codes_here, device, torch.int64)
            weights = to_tensor(weights_here, device, dtype)
            decision, loss = judge(X, codes, weights)
            right = (codes_of(decision) == codes).to(dtype)
            sums += torch.stack([right @ weights, loss.to(dtype), weights.sum()])
        correct, loss_sum, total = sums.tolist()
        return Judged(correct / total, loss_sum / total)

    def rows_at_once(self, X: Any) -> int:
        """How many rows of X in memory are judged at a time."""
        return limits_of(self.objective.rows.device).forward_rows

    def _parts(self, data: TrainingData) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
        """Some rows at a time, with their codes and weights; of loaded ones a batch."""
        if is_loaded(data.X):
            yield from data.X.look()
            return
        step = self.rows_at_once(data.X)
        for part in (slice(start, start + step) for start in range(0, len(data.codes), step)):
            yield data.X[part], data.codes[part], data.weights[part]

    def snapshot(self, w: Tensor) -> Any:
        """The state at `w`, to come back to."""
        return w.clone()

    def restore(self, kept: Any) -> Tensor:
        """The parameters of a `snapshot`."""
        return kept

    def final(self, w: Tensor) -> Tensor:
        """The solution to keep among equals."""
        return w

    def value(self, w: Tensor) -> float:
        """F at the parameters `w`."""
        value, left_out = float(self.objective.value(w)[0]), self.objective.left_out
        return value if left_out is None else value + float((w.abs() * left_out).sum())

    def certificate(self, solution: Solution, w: Tensor) -> Certificate | None:
        """What a `final` solution is worth; None where nobody can tell."""
        return None

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
