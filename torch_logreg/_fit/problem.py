"""Problems: an objective that `fit` hands to a solver, and how the solution is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_logreg._checks.data import TrainingData
from torch_logreg._contracts.objective import Objective
from torch_logreg._contracts.rows import Matrix
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.tensors import features_to, to_tensor


class Problem(NamedTuple):
    """Problems: an objective that `fit` hands to a solver, and how the solution is read."""

    objective: Objective
    start: Tensor  # (1, n_parameters)
    weight_sum: float
    predict: Callable[[Tensor, Matrix], Tensor]  # of w and rows: decision values, class-major
    snapshot: Callable[[Tensor], Any]  # of w, to come back to
    restore: Callable[[Any], Tensor]
    attributes: Callable[[Tensor], dict[str, Any]]  # of w: the fitted attributes, in memory of their own
    final: Callable[[Tensor], Tensor]  # of the solution: the one to keep among equals
    doubt: Callable[[Tensor], str | None]  # of the solution: why it cannot be trusted, as in `REASONS`


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
