"""Objectives of the linear model, by their settings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torch_logreg._contracts.objective import Batch
from torch_logreg._contracts.rows import Rows
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.folds import FoldRows
from torch_logreg._linear.coordinates import Coordinates
from torch_logreg._linear.held import hold_all
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.objective import ColumnsObjective, LinearObjective
from torch_logreg._linear.sparse_row_space import SparseRowSpace, sparse_row_space
from torch_logreg._linear.streamed import Streamed
from torch_logreg._losses.losses import Loss


def streamed_objective(
    rows: Rows,
    loss: Loss,
    C: Tensor,
    n_outputs: int,
    fit_intercept: bool,
    coordinates: Coordinates | None = None,
    batches: Sequence[Batch] = (),
) -> ColumnsObjective:
    """F in passes over X."""
    model = LinearModel(loss, C, n_outputs, fit_intercept)
    return ColumnsObjective(Streamed(rows, model, coordinates), loss, batches)


def held_objective(
    rows: ArrayRows | FoldRows, loss: Loss, C: Tensor, n_outputs: int, fit_intercept: bool
) -> ColumnsObjective:
    """F over columns that are held."""
    return ColumnsObjective(hold_all(rows, LinearModel(loss, C, n_outputs, fit_intercept)), loss)


def sparse_rows_objective(
    rows: ArrayRows, loss: Loss, C: Tensor, n_outputs: int, fit_intercept: bool
) -> tuple[LinearObjective, SparseRowSpace]:
    """F in the space of sparse rows, and the way back."""
    found = sparse_row_space(rows, LinearModel(loss, C, n_outputs, fit_intercept))
    assert found is not None
    return LinearObjective(found[0], loss), found[1]


def predictions(objective: LinearObjective, w: Tensor) -> Tensor:
    """Raw predictions of all rows, (P, K, n)."""
    design, expanded = objective.design, objective.design.expand(w)
    return torch.cat([design.predict(part, expanded) for part in design.parts()], dim=2)
