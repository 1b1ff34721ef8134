"""Any module: from checked data to an objective, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torch_logreg._checks.data import TrainingData
from torch_logreg._contracts.rows import Matrix
from torch_logreg._data.tensors import all_dense, float_dtype, to_tensor
from torch_logreg._fit.present import Present, start_low
from torch_logreg._fit.problem import Problem, make_rows
from torch_logreg._losses.criteria import resolve_criterion
from torch_logreg._losses.links import class_major
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
) -> Problem:
    """Any module under any criterion; without a module the linear model, which keeps coefficients."""
    dtype = float_dtype(data.X, device)
    loss = resolve_criterion(criterion, len(data.classes))
    rows = make_rows(data, to_tensor(data.codes, device, torch.int64), device, dtype, loss.n_outputs)
    stream = RandomStream(seed, device)
    with stream.running():
        built = build_module(module, rows.n_features, loss.n_outputs, dtype, device)
    if earlier is None:
        start_low(built, Present.of(data, fit_intercept=True))
    else:
        _go_on_from(built, earlier)
    objective = ModuleObjective(rows, built, loss, C, stream)

    def attributes(w: Tensor) -> dict[str, Any]:
        trained = objective.module_at(w)
        return _coefficients(trained) if module is None else {"_module": trained, "_link": loss.link.name}

    def predict(w: Tensor, X: Matrix) -> Tensor:
        outputs = objective.outputs(w, all_dense(X, dtype))
        return loss.link.decision(class_major(outputs, X.shape[0]))

    return Problem(
        objective,
        objective.start(),
        float(objective.weight_sum),
        predict,
        objective.snapshot,
        objective.restore,
        attributes,
        lambda w: w,
        lambda w: None,
    )


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
