"""Parameters that contradict each other, or that the solver in use would not read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import torch

from torch_logreg._checks.compat import (
    InvalidParameterError,
    constraints_of,
    validate_parameter_constraints,
)
from torch_logreg._checks.containers import refusing_huge_integers
from torch_logreg._contracts.solver import Each
from torch_logreg._losses.criteria import is_cross_entropy

ELSEWHERE = ("liblinear", "sag", "saga")  # of LogisticRegression, and not here
OF_SGD = {
    "learning_rate": "auto",
    "momentum": 0.0,
    "nesterov": False,
    "batch_size": "auto",
    "lr_schedule": None,
    "optimizer": None,
    "clip_grad_norm": None,
    "precision": "32",
    "module": None,
}
NOT_SEARCHED = {"momentum": 0.0, "lr_schedule": None, "clip_grad_norm": None, "precision": "32"}
OF_STOCK = {"momentum": 0.0, "nesterov": False}  # of `torch.optim.SGD`, if no optimizer is given
EACH: tuple[Each, ...] = ("epoch", "batch")
OPTIMIZERS = {name.lower(): name for name in torch.optim.__all__ if name[0].isupper()}


def check_solver_exists(solver: Any, solvers: Iterable[str]) -> None:
    """Raise for a solver that only LogisticRegression has."""
    if solver in ELSEWHERE:
        raise ValueError(
            f"solver={solver!r} of LogisticRegression does not exist here; use solver='auto', which "
            f"solves the same problem, or one of {sorted(solvers)}."
        )
    is_solver = not isinstance(solver, str) or solver.lower() in solvers  # or nearly one
    if not is_solver and (name := OPTIMIZERS.get(solver.lower())) is not None:
        names = {"auto", *solvers}
        raise InvalidParameterError(
            f"The 'solver' parameter must be a str among {names}. Got {solver!r} instead, which is an "
            f"optimizer: pass optimizer=torch.optim.{name}."
        )


def check_makes_optimizers(optimizer: Any) -> None:
    """Raise for the name of an optimizer, and for one that was made already."""
    if isinstance(optimizer, str):
        name = OPTIMIZERS.get(optimizer.lower(), "AdamW")
        raise InvalidParameterError(
            f"The 'optimizer' parameter must be a callable, such as torch.optim.{name}. Got {optimizer!r} "
            "instead."
        )
    if isinstance(optimizer, torch.optim.Optimizer):
        name = type(optimizer).__name__
        raise InvalidParameterError(
            f"The 'optimizer' parameter must be a callable. Got one that was made already, of class {name}, "
            f"with other parameters than those of the fit: pass torch.optim.{name}, a functools.partial of "
            f"it, or OptimizerSpec(torch.optim.{name}, ...)."
        )


def check_all_are_read(estimator: Any, solver: str) -> None:
    """Raise for a parameter that `solver` would ignore, set to other than its default."""
    if solver != "sgd":
        for name, default in OF_SGD.items():
            value = getattr(estimator, name)
            if value is not default and value != default:
                raise ValueError(
                    f"{name}={value!r} is not read by solver={solver!r}; use solver='sgd', or leave {name} "
                    "at its default."
                )
        _check_is_cross_entropy(estimator.criterion, solver)
        return
    if estimator.optimizer is not None:
        _check_optimizer(estimator)
    elif estimator.learning_rate == "auto":
        for name, default in NOT_SEARCHED.items():
            if (value := getattr(estimator, name)) != default:
                raise ValueError(
                    f"{name}={value!r} is not read with learning_rate='auto', which searches for the length "
                    "of each step; set learning_rate to a number, or an optimizer."
                )
    schedule_of(estimator.lr_schedule)
    if estimator.precision != "32" and estimator.module is None:
        raise ValueError(
            f"precision={estimator.precision!r} is of modules, and module is None: the linear model computes "
            "in the dtype of X, which may be a tensor of 16 bits; leave precision at '32'."
        )
    if not estimator.fit_intercept and (estimator.module is not None or estimator.criterion is not None):
        raise ValueError(
            "fit_intercept=False is not read with a module or a criterion; build the module without "
            "biases, such as nn.Linear(n_features, n_outputs, bias=False)."
        )
    if estimator.nesterov and not estimator.momentum:
        raise ValueError("nesterov=True needs a momentum above 0, such as momentum=0.9, and it is 0.")


NOT_PROXIMAL = {"optimizer": None, "momentum": 0.0, "precision": "32"}  # what proximal steps of "sgd" lack


def check_can_fit_l1(estimator: Any, solver: str, able: Iterable[str]) -> None:
    """Raise if `solver` is none of those `able` to fit an L1 term, or not with its settings."""
    ratio = f"l1_ratio={estimator.l1_ratio!r}"
    if solver not in able:
        raise ValueError(f"solver={solver!r} cannot fit {ratio}; use solver='auto', or l1_ratio=0.")
    for name, default in NOT_PROXIMAL.items():
        if (value := getattr(estimator, name)) != default:
            raise ValueError(
                f"{name}={value!r} cannot fit {ratio}: an L1 penalty takes proximal steps, which stock SGD "
                f"and the line search alone make; leave {name} at its default, or set l1_ratio=0."
            )


def check_can_fit_l1_ratios(l1_ratios: Any, solver: str, able: Iterable[str]) -> None:
    """Raise if `solver` is none of those `able` to fit an L1 term."""
    if solver not in able:
        raise ValueError(
            f"solver={solver!r} cannot fit l1_ratios={l1_ratios!r}; use solver='auto', or l1_ratios=(0.0,)."
        )


def _check_optimizer(estimator: Any) -> None:
    for name, default in OF_STOCK.items():
        if (value := getattr(estimator, name)) != default:
            raise ValueError(
                f"{name}={value!r} is not read with an optimizer, which has settings of its own; pass "
                f"functools.partial(optimizer, {name}={value!r}) or an OptimizerSpec with it."
            )


def schedule_of(lr_schedule: Any) -> tuple[Any, Each]:
    """What makes the scheduler, and after what it is stepped."""
    if not isinstance(lr_schedule, tuple):
        return lr_schedule, "epoch"
    if len(lr_schedule) == 2 and callable(lr_schedule[0]):
        for each in EACH:
            if lr_schedule[1] == each:
                return lr_schedule[0], each
    raise ValueError(
        f"lr_schedule={lr_schedule!r} is a tuple other than (callable, 'batch') or (callable, 'epoch'): pass "
        "what makes the scheduler, and after what it is stepped."
    )


def check_scored(estimator: Any, X_val: Any, given: Mapping[str, Any]) -> None:
    """Raise for rows to score a fit on that are half `given`, and for a score without such rows."""
    if X_val is not None:
        return
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} is given without X_val; pass the rows it belongs to as X_val.")
    if estimator.scoring is not None and not estimator.early_stopping:
        raise ValueError(
            f"scoring={estimator.scoring!r} is not read, for there are no rows to score; set "
            "early_stopping=True, or pass X_val and y_val to fit."
        )


def _check_is_cross_entropy(criterion: Any, solver: str) -> None:
    if not is_cross_entropy(criterion):
        raise ValueError(
            f"criterion={criterion!r} is not read by solver={solver!r}, which minimises the cross-entropy of "
            "each row; use solver='sgd', or criterion=None, nn.BCEWithLogitsLoss() or nn.CrossEntropyLoss(), "
            "which may have weights of classes but no weight of elements, label_smoothing or ignore_index."
        )


NUMBERS = ("C", "l1_ratio", "learning_rate", "tol")  # parameters that are computed with as floats


def check_parameters(estimator: Any, defaults: Mapping[str, Any]) -> None:
    """`_validate_params`, which takes as long as all other checks of a small fit, without the defaults."""
    constraints = constraints_of(estimator)
    values = {name: getattr(estimator, name) for name in sorted(constraints)}
    given = {name: value for name, value in values.items() if value is not defaults.get(name, constraints)}
    validate_parameter_constraints(constraints, given, caller_name=type(estimator).__name__)
    for name in NUMBERS:
        if isinstance(given.get(name), Integral):  # in Python they may be of any size
            with refusing_huge_integers(name):
                float(given[name])
