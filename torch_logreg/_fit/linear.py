"""The linear model: from checked data to an objective, and back to coefficients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from torch_logreg._checks.data import TrainingData
from torch_logreg._contracts.objective import Objective
from torch_logreg._contracts.rows import Matrix
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.products import matmul
from torch_logreg._data.tensors import float_dtype, numpy_dtype, to_tensor
from torch_logreg._fit.present import Present
from torch_logreg._fit.problem import Problem, make_rows
from torch_logreg._linear.coordinates import Coordinates
from torch_logreg._linear.held import DesignObjective, design, small_design
from torch_logreg._linear.minibatches import MinibatchObjective
from torch_logreg._linear.objective import LinearObjective
from torch_logreg._linear.row_space import RowSpace, has_short_rows, inner_products, spanned
from torch_logreg._linear.samples import batch_rows, make_batches, sampled_starts
from torch_logreg._linear.sparse_row_space import SparseRowObjective, SparseRowSpace, sparse_row_space
from torch_logreg._linear.trust import find_doubt
from torch_logreg._losses.losses import LOSSES, Loss
from torch_logreg._runtime.devices import supports_float64
from torch_logreg._solvers.natural import multiplies_only

Coefficients = tuple[np.ndarray, np.ndarray]  # (K, d), (K,)

# Up to so many numbers in X, and rows where there are several outputs, its scaled columns are held.
DESIGN_NUMBERS, SOFTMAX_DESIGN_ROWS = 2**20, 5_000

Settings: TypeAlias = tuple[ArrayRows, Loss, Tensor, int, bool]  # as `linear_objective` takes them
Space: TypeAlias = Coordinates | RowSpace | SparseRowSpace

# What a solver will do with a linear objective: minibatches of the columns as they are, or of scaled ones,
# or passes over all rows, with or without batches that grow towards these.
Method: TypeAlias = Literal["sgd", "line search", "full", "growing"]


def work_of(data: TrainingData) -> int:
    """Multiplications for a Fisher matrix of the linear model."""
    n_rows, n_features = data.X.shape
    n_outputs = 1 if len(data.classes) == 2 else len(data.classes)
    return n_rows * (n_outputs * (n_features + 1)) ** 2


def linear_problem(
    data: TrainingData,
    device: torch.device,
    C: float,
    fit_intercept: bool,
    earlier: Coefficients | None,
    method: Method,
    seed: Callable[[], int],
    check: Callable[[], None] | None,
) -> Problem:
    """The linear model, in the coordinates of scaled columns, or of the plain ones and in their dtype.

    Scaled, coefficients are kept in float64 where the device has it: what they cost is nothing, and a
    Newton step in float32 loses half of its digits to the condition of the Fisher matrix. `seed` is
    asked for where rows are sampled. `check` raises ValueError if X holds NaN or infinity; None where that
    is known. Of classes without weight see `Present`; two or more have weight, or there is no intercept.
    """
    present = Present.of(data, fit_intercept)
    data = present.narrow(data)
    loss = LOSSES["binary" if len(data.classes) == 2 else "softmax"]
    n_outputs = loss.n_outputs(len(data.classes))
    dtype = float_dtype(data.X, device)
    codes = loss.encode(to_tensor(data.codes, device, torch.int64), dtype)
    rows = make_rows(data, codes, device, dtype, n_outputs, check)
    exact = dtype if method == "sgd" or not supports_float64(device) else torch.float64
    Cs = regular_C(present.inverse_strength(np.array([C])), data, exact)
    inverse_strength = torch.tensor(Cs, dtype=exact, device=device)
    settings = (rows, loss, inverse_strength, n_outputs, fit_intercept)
    raw: tuple[Tensor, Tensor] | None = None
    if earlier is not None:
        narrow = present.narrow_coefficients(*earlier)
        coef, intercept = (to_tensor(array[None], device, exact) for array in narrow)
        raw = coef, intercept * fit_intercept
    objective, coordinates, start = _in_a_space(settings, method, raw, seed)
    kept_as = numpy_dtype(data.X, device)

    def attributes(w: Tensor) -> dict[str, Any]:
        coef, intercept = present.widen(*coordinates.to_raw(w))
        return {
            "coef_": coef[0].cpu().numpy().astype(kept_as),
            "intercept_": intercept[0].cpu().numpy().astype(kept_as),
        }

    def predict(w: Tensor, X: Matrix) -> Tensor:
        coef, intercept = present.widen(*coordinates.to_raw(w))
        return matmul(X, coef[0].to(dtype)) + intercept[0].to(dtype)[:, None]

    def doubt(w: Tensor) -> str | None:
        kept = coordinates.canonical(w)
        centred = not isinstance(objective, LinearObjective)

        def value() -> float:
            return float(objective.value(kept)[0])

        return find_doubt(rows, coordinates, loss, kept, value, dtype, centred)

    return Problem(
        objective,
        start,
        float(objective.weight_sum[0]),
        predict,
        lambda w: w.clone(),
        lambda w: w,
        attributes,
        coordinates.canonical,
        doubt,
    )


def _in_a_space(
    settings: Settings, method: Method, earlier: tuple[Tensor, Tensor] | None, seed: Callable[[], int]
) -> tuple[LinearObjective | DesignObjective | SparseRowObjective, Space, Tensor]:
    """F of one problem, of the columns or in the space of the rows, the way back to raw coefficients.

    Last the weights to start from: those of `earlier` raw coefficients, or 0.
    """
    rows = settings[0]
    if method in ("full", "growing") and has_short_rows(rows):
        objective, space = in_row_space(*settings)
        return objective, space, _start(objective, space, earlier)
    # Given coefficients need not be combinations of the rows.
    if method == "growing" and earlier is None and (found := sparse_row_space(*settings)) is not None:
        return *found, found[0].zeros()
    of_columns = linear_objective(*settings, method, seed)
    return of_columns, of_columns.coordinates, _start(of_columns, of_columns.coordinates, earlier)


def _start(
    objective: Objective, space: Coordinates | RowSpace, earlier: tuple[Tensor, Tensor] | None
) -> Tensor:
    return objective.zeros() if earlier is None else space.canonical(space.from_raw(*earlier))


def regular_C(C: np.ndarray, data: TrainingData, dtype: torch.dtype) -> np.ndarray:
    """Values of C whose strength of the penalty is finite: with any below, all coefficients are 0 too."""
    least = np.min(data.weights, where=data.weights > 0, initial=1.0)
    return np.maximum(C, 4 * torch.finfo(dtype).tiny / least)


def linear_objective(
    rows: ArrayRows,
    loss: Loss,
    C: Tensor,
    n_outputs: int,
    fit_intercept: bool,
    method: Method,
    seed: Callable[[], int],
) -> LinearObjective | DesignObjective:
    """F of the linear model for each of the P problems in `C`."""
    shape = (n_outputs, fit_intercept)
    if method == "sgd":
        strength = 1 / (C * rows.weight_sum(C.dtype))
        plain = Coordinates(None, strength, rows.n_features, *shape, loss.shift_invariant)
        return MinibatchObjective(rows, loss, C, *shape, plain)
    m = rows.n_features + fit_intercept
    if method == "line search":
        return MinibatchObjective(rows, loss, C, *shape)
    if is_small(rows, n_outputs, fit_intercept):
        return small_design(rows, C, loss, *shape)
    growing = method == "growing"
    n_drawn = batch_rows(rows, n_outputs, m) if growing and rows.is_dense else 0
    if n_drawn:
        return LinearObjective(rows, loss, C, *shape, *make_batches(rows, C, loss, *shape, n_drawn, seed()))
    objective = LinearObjective(rows, loss, C, *shape)
    if growing and len(C) == 1 and multiplies_only(objective):
        objective.batches = sampled_starts(rows, objective, seed())
    return objective


def in_row_space(
    rows: ArrayRows, loss: Loss, C: Tensor, n_outputs: int, fit_intercept: bool
) -> tuple[DesignObjective, RowSpace]:
    """F in the space of the rows, and the way back from there."""
    block, weight_sum = rows.whole(), rows.weight_sum(C.dtype)
    columns, products = inner_products(rows, block, C.dtype, fit_intercept)
    rows.check_finite(columns.variance)
    B, basis = spanned(products)
    eps, strength = float(torch.finfo(C.dtype).eps), 1 / (C * weight_sum)
    objective = design(rows, block._replace(X=B), strength, loss, n_outputs, fit_intercept, eps)
    objective.weight_sum = weight_sum
    return objective, RowSpace(objective.coordinates, block, columns, basis)


def is_small(rows: ArrayRows, n_outputs: int, fit_intercept: bool) -> bool:
    """Whether the scaled columns of all rows are to be held."""
    few = n_outputs == 1 or rows.n_rows <= SOFTMAX_DESIGN_ROWS
    return rows.is_dense and few and rows.n_rows * (rows.n_features + fit_intercept) <= DESIGN_NUMBERS
