"""Any module: from checked data to an objective, and back."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torch_logreg._checks.data import TrainingData
from torch_logreg._contracts.rows import Minibatched
from torch_logreg._data.inputs import (
    Shapes,
    float_dtype_of,
    numbers_of_row,
    parts_of,
    shapes_of,
    to_memory,
    to_module,
    widths_of,
)
from torch_logreg._data.loaders import first_of, is_loaded
from torch_logreg._data.tensors import to_tensor
from torch_logreg._fit.predictor import Raw, outputs_of
from torch_logreg._fit.present import Present, start_low
from torch_logreg._fit.problem import Judge, Problem, make_rows
from torch_logreg._losses.criteria import resolve_criterion
from torch_logreg._losses.links import Link, class_major
from torch_logreg._modules.build import own_module
from torch_logreg._modules.integers import Formats, choose_formats
from torch_logreg._modules.objective import ModuleObjective
from torch_logreg._modules.rows import LoadedRows, TensorRows
from torch_logreg._runtime.compat import original
from torch_logreg._runtime.limits import limits_of
from torch_logreg._runtime.random import RandomStream


def module_problem(
    data: TrainingData,
    device: torch.device,
    C: float,
    module: Any,
    criterion: Any,
    seed: int,
    earlier: nn.Module | None,
    precision: str = "32",
    l1_ratio: float = 0.0,
) -> ModuleProblem:
    """Any module under any criterion; without a module the linear model, which keeps coefficients."""
    loss = resolve_criterion(criterion, len(data.classes))
    stream, X = RandomStream(seed, device), first_of(data.X)
    with stream.running():
        dtype = float_dtype_of(parts_of(X).values(), device)
        built = own_module(module, widths_of(X), loss.n_outputs, dtype, device)
    with stream.running(replay=stream.state):
        formats = choose_formats(built, X, device)
    if precision != "32" and formats.module == torch.float64:
        raise ValueError(
            f"precision={precision!r} needs parameters of float32, and X makes them float64; pass "
            "X.astype('float32')."
        )
    built = built.to(device=device, dtype=formats.module)
    rows = _rows(data, device, formats, loss.n_outputs, RandomStream(seed, device))
    if earlier is None:
        start_low(built, Present.of(data, fit_intercept=True))
    else:
        _go_on_from(built, earlier)
    objective = ModuleObjective(rows, built, loss, C, stream, precision, l1_ratio)
    return ModuleProblem(objective, loss.link, module is None, formats, shapes_of(X))


def _rows(
    data: TrainingData, device: torch.device, formats: Formats, n_outputs: int, stream: RandomStream
) -> Minibatched:
    """Rows as the module takes them; those that the linear model could take are kept as it keeps them."""
    dtype = formats.module
    if is_loaded(data.X):
        return LoadedRows(data.X, float(data.weights.sum()), device, dtype, formats.inputs, stream)
    codes = to_tensor(data.codes, device, torch.int64)
    if formats.inputs == dtype and len(data.X.shape) == 2:
        return make_rows(data, codes, device, dtype, n_outputs)
    X = to_memory(data.X, device, formats.inputs)
    return TensorRows(X, codes, to_tensor(data.weights[None], device, dtype))


class ModuleProblem(Problem):
    """A problem of any module, or of the linear model under any criterion, which keeps coefficients."""

    objective: ModuleObjective

    def __init__(
        self, objective: ModuleObjective, link: Link, is_linear: bool, formats: Formats, shapes: Shapes
    ) -> None:
        super().__init__(objective, objective.start(), float(objective.weight_sum))
        self._link, self._is_linear, self._formats, self._shapes = link, is_linear, formats, shapes

    def attributes(self, w: Tensor) -> dict[str, Any]:
        trained = self.objective.module_at(w)
        if self._is_linear:
            return _coefficients(trained)
        seen = {"input_dtype_": self._formats.names(), "input_shape_": self._shapes}
        return {"_module": trained, "_link": self._link.name, **seen}

    def decision(self, w: Tensor) -> Raw:
        device, dtypes = self.objective.rows.device, self._formats.inputs
        raw = outputs_of(partial(self.objective.outputs, w), device, dtypes)
        return lambda some: self._link.decision(raw(some))

    def rows_at_once(self, X: Any) -> int:
        # So few that their activations fit in memory, as in a pass over all rows.
        limits = limits_of(self.objective.rows.device)
        return min(limits.forward_rows, max(1, limits.dense_numbers // numbers_of_row(X)))

    def judge(self, w: Tensor) -> Judge:
        objective = self.objective
        device, dtypes = objective.rows.device, self._formats.inputs

        def of_rows(X: Any, codes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
            output = objective.outputs(w, to_module(X, device, dtypes))
            loss = objective.criterion.weighted_sum(output, codes, weights, weights.dtype)
            return self._link.decision(class_major(output, len(codes))), loss

        return of_rows

    def snapshot(self, w: Tensor) -> Any:
        return self.objective.snapshot(w)

    def restore(self, kept: Any) -> Tensor:
        return self.objective.restore(kept)


def _go_on_from(built: nn.Module, earlier: nn.Module) -> None:
    built, earlier = original(built), original(earlier)  # one of both may be compiled
    state = earlier.state_dict()
    if isinstance(built, nn.Linear) and built.out_features == 2 * len(state.get("weight", ())) == 2:
        state = {name: torch.cat([-value / 2, value / 2]) for name, value in state.items()}
    try:
        built.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"warm_start=True, but the module fitted before does not fit into the one for this data: {error} "
            "Fit a clone, or set warm_start=False."
        ) from error


def _coefficients(linear: Any) -> dict[str, Any]:
    coef, intercept = linear.weight.detach().cpu().numpy(), linear.bias.detach().cpu().numpy()
    if len(coef) == 2:  # of two classes only the difference matters
        coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
    return {"coef_": coef, "intercept_": intercept}
