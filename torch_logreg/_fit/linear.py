"""The linear model: from checked data to an objective, and back to coefficients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_logreg._checks.data import TrainingData
from torch_logreg._contracts.objective import Objective
from torch_logreg._contracts.rows import Block
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.tensors import Features, float_dtype, n_stored, to_tensor
from torch_logreg._fit.plan import HELD_STORED, Method, Plan, Shape, as_dense, is_best_dense, plan_of
from torch_logreg._fit.predictor import Linear, Raw
from torch_logreg._fit.present import Present
from torch_logreg._fit.problem import Judge, Problem, make_rows
from torch_logreg._fit.used import Used
from torch_logreg._linear.coordinates import Coordinates, Space
from torch_logreg._linear.design import Columns
from torch_logreg._linear.held import hold, hold_all
from torch_logreg._linear.held_sparse import hold_sparse
from torch_logreg._linear.many_outputs import many_outputs
from torch_logreg._linear.minibatches import MinibatchObjective
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.objective import ColumnsObjective, LinearObjective
from torch_logreg._linear.row_space import RowSpace, row_space
from torch_logreg._linear.samples import make_batches, sampled_starts
from torch_logreg._linear.sparse_row_space import sparse_row_space
from torch_logreg._linear.streamed import Streamed
from torch_logreg._linear.trust import find_doubt
from torch_logreg._losses.losses import LOSSES
from torch_logreg._runtime.devices import supports_float64

Coefficients = tuple[np.ndarray, np.ndarray]  # (K, d), (K,)

NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


def work_of(data: TrainingData) -> int:
    """Multiplications in the largest products of a fit: for a matrix of the columns or of the rows."""
    n_rows, n_columns = data.X.shape[0], data.X.shape[1] + 1
    n_outputs = 1 if len(data.classes) == 2 else len(data.classes)
    less = min(n_rows, n_columns)
    stored = n_stored(data.X)
    if 0 <= stored * n_outputs <= HELD_STORED:
        return max(stored, n_columns) * n_outputs  # which one thread multiplies with anyway
    return max(n_rows * n_columns * less + less**3, n_rows * n_columns * n_outputs)


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
    is known. Of classes without weight see `Present`; two or more have weight, or there is no intercept. Of
    columns without a number see `Used`.
    """
    present = Present.of(data, fit_intercept)
    used = Used.of(data, None if earlier is None else earlier[0])
    data = used.narrow(present.narrow(data))
    loss = LOSSES["binary" if len(data.classes) == 2 else "softmax"]
    n_outputs = loss.n_outputs(len(data.classes))
    dtype = float_dtype(data.X, device)
    codes = loss.encode(to_tensor(data.codes, device, torch.int64), dtype)
    rows = make_rows(data, codes, device, dtype, n_outputs, check)
    exact = dtype if method == "sgd" or not supports_float64(device) else torch.float64
    Cs = regular_C(present.inverse_strength(np.array([C])), data, exact)
    inverse_strength = torch.tensor(Cs, dtype=exact, device=device)
    model = LinearModel(loss, inverse_strength, n_outputs, fit_intercept)
    raw: tuple[Tensor, Tensor] | None = None
    if earlier is not None:
        narrow, intercepts = present.narrow_coefficients(*earlier)
        pair = used.narrow_coefficients(narrow), intercepts
        coef, intercept = (to_tensor(array[None], device, exact) for array in pair)
        raw = coef, intercept * fit_intercept
    known = {"starts_at_zero": earlier is None, "has_penalty": bool(np.isfinite(Cs).all())}
    shape = shape_of(rows, n_outputs, fit_intercept, method, **known)
    objective, space, start = _in_a_space(rows, model, shape, raw, seed)
    weight_sum = float(objective.design.weight_sum[0])
    return LinearProblem(objective, start, weight_sum, space, present, used, dtype)


class CoefficientProblem(Problem):
    """A problem of the linear model, by its coefficients, with whatever penalty.

    Parameters
    ----------
    objective, start, weight_sum
        See `Problem`.
    space : Space
        That of the parameters.
    present : Present
        The classes that the problem is about.
    used : Used
        The columns that it is about.
    dtype : torch.dtype
        The one of the rows, in which coefficients are kept.
    """

    def __init__(
        self,
        objective: Objective,
        start: Tensor,
        weight_sum: float,
        space: Space,
        present: Present,
        used: Used,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(objective, start, weight_sum)
        self._space, self._present, self._used, self._dtype = space, present, used, dtype

    def _raw(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (K, d) and intercepts (K,) of all classes."""
        coef, intercept = self._present.widen(*self._space.to_raw(w))
        return self._used.widen(coef[0]), intercept[0]

    def narrow(self, coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (K, d) and intercepts (K,) as those of the problem's own classes and columns."""
        coef, intercept = self._present.narrow_coefficients(coef, intercept)
        return self._used.narrow_coefficients(coef), intercept

    def attributes(self, w: Tensor) -> dict[str, Any]:
        coef, intercept = (part.cpu().numpy().astype(NUMPY[self._dtype]) for part in self._raw(w))
        return {"coef_": coef, "intercept_": intercept}

    def decision(self, w: Tensor) -> Raw:
        coef, intercept = (part.to(self._dtype) for part in self._raw(w))
        return Linear(coef, intercept[:, None])

    def judge(self, w: Tensor) -> Judge:
        raw = self.decision(w)

        def of_rows(X: Features, codes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
            z = raw(X)
            loss = LOSSES["binary" if len(z) == 1 else "softmax"]
            losses = loss.value(z[None], loss.encode(codes, z.dtype))[0]
            return z, losses.to(weights.dtype) @ weights

        return of_rows

    def final(self, w: Tensor) -> Tensor:
        return self._space.canonical(w)


class LinearProblem(CoefficientProblem):
    """A problem with an L2 penalty, or none."""

    objective: LinearObjective

    def doubt(self, w: Tensor) -> str | None:
        objective = self.objective

        def value() -> float:
            return float(objective.value(w)[0])

        return find_doubt(objective.design, self._space, objective.loss, w, value, self._dtype)


def _in_a_space(
    rows: ArrayRows,
    model: LinearModel,
    shape: Shape,
    earlier: tuple[Tensor, Tensor] | None,
    seed: Callable[[], int],
) -> tuple[LinearObjective, Space, Tensor]:
    """F of one problem, of the columns or in the space of the rows, the way back to raw coefficients.

    Last the parameters to start from: those of `earlier` raw coefficients, or 0.
    """
    plan = plan_of(shape)
    if plan.design == "sparse rows" and (sparse := sparse_row_space(rows, model)) is not None:
        objective = LinearObjective(sparse[0], model.loss)
        return objective, sparse[1], objective.zeros()
    of_columns: ColumnsObjective
    space: Coordinates | RowSpace
    if plan.design == "rows" and (found := in_row_space(rows, model)) is not None:
        of_columns, space = found
    else:
        shape = replace(shape, by_columns=True)
        if is_best_dense(shape):
            rows, shape = rows.as_dense(), as_dense(shape)
        of_columns = linear_objective(rows, model, plan_of(shape), seed)
        space = of_columns.coordinates
    start = of_columns.zeros() if earlier is None else space.canonical(space.from_raw(*earlier))
    return of_columns, space, start


def shape_of(rows: ArrayRows, n_outputs: int, fit_intercept: bool, method: Method, **known: Any) -> Shape:
    """The sizes that the plan asks for."""
    return Shape(
        rows.n_rows,
        rows.n_features,
        n_outputs,
        fit_intercept,
        method,
        n_stored=rows.n_stored,
        itemsize=rows.dtype.itemsize,
        **known,
    )


def regular_C(C: np.ndarray, data: TrainingData, dtype: torch.dtype) -> np.ndarray:
    """Values of C whose strength of the penalty is finite: with any below, all coefficients are 0 too."""
    least = min(data.weights.min(), 1.0)
    if least == 0:
        least = np.min(data.weights, where=data.weights > 0, initial=1.0)
    return np.maximum(C, 4 * torch.finfo(dtype).tiny / least)


def _plain(rows: ArrayRows, model: LinearModel) -> Streamed:
    penalty = model.penalty(rows.weight_sum(model.C.dtype))
    return Streamed(rows, model, model.coordinates(None, rows.n_features, penalty))


# By the names in `DESIGNS` of the plan.
MAKERS: dict[str, Callable[[ArrayRows, LinearModel], Columns]] = {
    "plain columns": _plain,
    "drawn columns": Streamed,
    "held columns": hold_all,
    "held sparse columns": hold_sparse,
    "columns": Streamed,
}


def linear_objective(
    rows: ArrayRows, model: LinearModel, plan: Plan, seed: Callable[[], int]
) -> ColumnsObjective:
    """F of the linear model for each of the P problems of `model`."""
    if plan.n_drawn:
        coordinates, batches = make_batches(rows, model, plan.n_drawn, seed(), plan.samples == "solved")
        return ColumnsObjective(Streamed(rows, model, coordinates), model.loss, batches)
    if plan.samples == "minibatches":
        return many_outputs(rows, model, seed())
    design = MAKERS[plan.design](rows, model)
    if plan.design in ("plain columns", "drawn columns"):
        return MinibatchObjective(rows, design, model.loss)
    starts = sampled_starts(rows, design, model, seed()) if plan.samples == "starts" else []
    return ColumnsObjective(design, model.loss, starts)


def in_row_space(rows: ArrayRows, model: LinearModel) -> tuple[ColumnsObjective, RowSpace] | None:
    """F in the space of the rows, and the way back from there; None where columns are the better space."""
    found, dtype = row_space(rows, model), model.C.dtype
    if found is None:
        return None
    B, span = found
    eps = float(torch.finfo(dtype).eps)
    block = Block(B, rows.target, rows.weights)
    held = hold(rows, block, model, rows.weight_sum(dtype), eps)
    held.is_orthogonal = True
    return ColumnsObjective(held, model.loss), RowSpace(held.coordinates, span)
