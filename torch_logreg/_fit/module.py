"""Any module: from checked data to an objective, and back."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torch_logreg._checks.data import TrainingData
from torch_logreg._data.tensors import Features, all_dense, float_dtype, on_device, to_tensor
from torch_logreg._fit.predictor import Raw, outputs_of
from torch_logreg._fit.present import Present, start_low
from torch_logreg._fit.problem import Judge, Problem, make_rows
from torch_logreg._losses.criteria import resolve_criterion
from torch_logreg._losses.links import Link, class_major
from torch_logreg._modules.build import build_module
from torch_logreg._modules.objective import ModuleObjective
from torch_logreg._runtime.compat import original
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
) -> ModuleProblem:
    """Any module under any criterion; without a module the linear model, which keeps coefficients."""
    dtype = float_dtype(data.X, device)
    if precision != "32" and dtype == torch.float64:
        raise ValueError(
            f"precision={precision!r} needs parameters of float32, and X makes them float64; pass "
            "X.astype('float32')."
        )
    loss = resolve_criterion(criterion, len(data.classes))
    rows = make_rows(data, to_tensor(data.codes, device, torch.int64), device, dtype, loss.n_outputs)
    stream = RandomStream(seed, device)
    with stream.running():
        built = build_module(module, rows.n_features, loss.n_outputs, dtype, device)
    if earlier is None:
        start_low(built, Present.of(data, fit_intercept=True))
    else:
        _go_on_from(built, earlier)
    objective = ModuleObjective(rows, built, loss, C, stream, precision)
    return ModuleProblem(objective, loss.link, module is None)


class ModuleProblem(Problem):
    """A problem of any module, or of the linear model under any criterion, which keeps coefficients."""

    objective: ModuleObjective

    def __init__(self, objective: ModuleObjective, link: Link, is_linear: bool) -> None:
        super().__init__(objective, objective.start(), float(objective.weight_sum))
        self._link, self._is_linear = link, is_linear

    def attributes(self, w: Tensor) -> dict[str, Any]:
        trained = self.objective.module_at(w)
        if self._is_linear:
            return _coefficients(trained)
        return {"_module": trained, "_link": self._link.name}

    def decision(self, w: Tensor) -> Raw:
        rows = self.objective.rows
        raw = outputs_of(partial(self.objective.outputs, w), rows.device, rows.dtype)
        return lambda some: self._link.decision(raw(some))

    def judge(self, w: Tensor) -> Judge:
        objective = self.objective
        device, dtype = objective.rows.device, objective.rows.dtype

        def of_rows(X: Features, codes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
            output = objective.outputs(w, all_dense(on_device(X, device, dtype), dtype))
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
