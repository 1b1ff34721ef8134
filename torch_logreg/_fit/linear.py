"""The linear model: from checked data to an objective, and back to coefficients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from torch_logreg._checks.data import TrainingData
from torch_logreg._contracts.objective import Objective
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.tensors import float_dtype, to_tensor
from torch_logreg._fit.plan import Method, Plan, Shape, plan_of
from torch_logreg._fit.predictor import Linear, Raw
from torch_logreg._fit.present import Present
from torch_logreg._fit.problem import Problem, make_rows
from torch_logreg._linear.coordinates import Coordinates
from torch_logreg._linear.held import DesignObjective, design, small_design
from torch_logreg._linear.minibatches import MinibatchObjective
from torch_logreg._linear.objective import LinearObjective
from torch_logreg._linear.row_space import RowSpace, Span
from torch_logreg._linear.samples import make_batches, sampled_starts
from torch_logreg._linear.sparse_row_space import SparseRowObjective, SparseRowSpace, sparse_row_space
from torch_logreg._linear.trust import find_doubt
from torch_logreg._losses.losses import LOSSES, Loss
from torch_logreg._runtime.devices import supports_float64

Coefficients = tuple[np.ndarray, np.ndarray]  # (K, d), (K,)

NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
Settings: TypeAlias = tuple[ArrayRows, Loss, Tensor, int, bool]  # as `linear_objective` takes them
Space: TypeAlias = Coordinates | RowSpace | SparseRowSpace


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
) -> LinearProblem:
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
    known = {"starts_at_zero": earlier is None, "has_penalty": bool(np.isfinite(Cs).all())}
    shape = shape_of(rows, *settings[3:], method, **known)
    objective, coordinates, start = _in_a_space(settings, shape, raw, seed)
    return LinearProblem(objective, start, coordinates, present, loss, dtype)


class LinearProblem(Problem):
    """A problem of the linear model.

    Parameters
    ----------
    objective, start
        See `Problem`.
    coordinates : Coordinates or alike
        Those of the weights.
    present : Present
        The classes that the problem is about.
    loss : Loss
    dtype : torch.dtype
        The one of the rows, in which coefficients are kept.
    """

    objective: LinearObjective | DesignObjective | SparseRowObjective

    def __init__(
        self,
        objective: LinearObjective | DesignObjective | SparseRowObjective,
        start: Tensor,
        coordinates: Space,
        present: Present,
        loss: Loss,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(objective, start, float(objective.weight_sum[0]))
        self._coordinates, self._present, self._loss, self._dtype = coordinates, present, loss, dtype

    def _raw(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (K, d) and intercepts (K,) of all classes."""
        coef, intercept = self._present.widen(*self._coordinates.to_raw(w))
        return coef[0], intercept[0]

    def attributes(self, w: Tensor) -> dict[str, Any]:
        coef, intercept = (part.cpu().numpy().astype(NUMPY[self._dtype]) for part in self._raw(w))
        return {"coef_": coef, "intercept_": intercept}

    def decision(self, w: Tensor) -> Raw:
        coef, intercept = (part.to(self._dtype) for part in self._raw(w))
        return Linear(coef, intercept[:, None])

    def final(self, w: Tensor) -> Tensor:
        return self._coordinates.canonical(w)

    def doubt(self, w: Tensor) -> str | None:
        kept, objective = self.final(w), self.objective
        centred = not isinstance(objective, LinearObjective)

        def value() -> float:
            return float(objective.value(kept)[0])

        return find_doubt(objective.rows, self._coordinates, self._loss, kept, value, self._dtype, centred)


def _in_a_space(
    settings: Settings, shape: Shape, earlier: tuple[Tensor, Tensor] | None, seed: Callable[[], int]
) -> tuple[LinearObjective | DesignObjective | SparseRowObjective, Space, Tensor]:
    """F of one problem, of the columns or in the space of the rows, the way back to raw coefficients.

    Last the weights to start from: those of `earlier` raw coefficients, or 0.
    """
    plan = plan_of(shape)
    if plan.design == "rows":
        objective, space = in_row_space(*settings)
        return objective, space, _start(objective, space, earlier)
    if plan.design == "sparse rows":
        if (found := sparse_row_space(*settings)) is not None:
            return *found, found[0].zeros()
        plan = plan_of(replace(shape, starts_at_zero=False))
    of_columns = linear_objective(*settings, plan, seed)
    return of_columns, of_columns.coordinates, _start(of_columns, of_columns.coordinates, earlier)


def _start(
    objective: Objective, space: Coordinates | RowSpace, earlier: tuple[Tensor, Tensor] | None
) -> Tensor:
    return objective.zeros() if earlier is None else space.canonical(space.from_raw(*earlier))


def shape_of(rows: ArrayRows, n_outputs: int, fit_intercept: bool, method: Method, **known: Any) -> Shape:
    """The sizes that the plan asks for."""
    sparse = rows.sparse
    return Shape(
        rows.n_rows,
        rows.n_features,
        n_outputs,
        fit_intercept,
        method,
        n_stored=-1 if sparse is None else sparse.nnz,
        itemsize=rows.dtype.itemsize,
        **known,
    )


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
    plan: Plan,
    seed: Callable[[], int],
) -> LinearObjective | DesignObjective:
    """F of the linear model for each of the P problems in `C`."""
    shape = (n_outputs, fit_intercept)
    if plan.design == "plain columns":
        strength = 1 / (C * rows.weight_sum(C.dtype))
        plain = Coordinates(None, strength, rows.n_features, *shape, loss.shift_invariant)
        return MinibatchObjective(rows, loss, C, *shape, plain)
    if plan.design == "drawn columns":
        return MinibatchObjective(rows, loss, C, *shape)
    if plan.design == "held columns":
        return small_design(rows, C, loss, *shape)
    if plan.n_drawn:
        made = make_batches(rows, C, loss, *shape, plan.n_drawn, seed(), plan.samples == "solved")
        return LinearObjective(rows, loss, C, *shape, *made)
    objective = LinearObjective(rows, loss, C, *shape)
    if plan.samples == "starts":
        objective.batches = sampled_starts(rows, objective, seed())
    return objective


def in_row_space(
    rows: ArrayRows, loss: Loss, C: Tensor, n_outputs: int, fit_intercept: bool
) -> tuple[DesignObjective, RowSpace]:
    """F in the space of the rows, and the way back from there."""
    B, span = Span.of(rows, C.dtype, fit_intercept)
    weight_sum = rows.weight_sum(C.dtype)
    eps, strength = float(torch.finfo(C.dtype).eps), 1 / (C * weight_sum)
    objective = design(rows, rows.whole()._replace(X=B), strength, loss, n_outputs, fit_intercept, eps)
    objective.weight_sum = weight_sum
    return objective, RowSpace(objective.coordinates, span)
