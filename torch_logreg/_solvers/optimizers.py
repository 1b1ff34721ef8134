"""Steps by an optimizer of torch, with its schedule, as a hand-written loop makes them."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from torch_logreg._contracts.objective import Stochastic
from torch_logreg._contracts.rows import Block
from torch_logreg._contracts.solver import Each
from torch_logreg._runtime.blame import naming
from torch_logreg._runtime.compat import sgd
from torch_logreg._runtime.devices import shares_memory
from torch_logreg._solvers.shrinking import shrink_

Factory: TypeAlias = Callable[..., torch.optim.Optimizer]  # of parameters, and `lr` if that is a number

OPTIMIZER = (
    "optimizer is called as optimizer(parameters, lr=learning_rate), or optimizer(parameters) with "
    "learning_rate='auto', and returns a torch.optim.Optimizer: pass its class, a functools.partial of it or "
    "an OptimizerSpec."
)
SCHEDULE = (
    "lr_schedule takes an optimizer and returns a scheduler of torch.optim.lr_scheduler, which is stepped "
    "once an epoch; one that is to be stepped after each minibatch is passed as (lr_schedule, 'batch')."
)


# Optimizers that treat all numbers alike, whichever parameter they are of: one vector takes them fewer calls.
ELEMENTWISE = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Adadelta,
    torch.optim.Adamax,
    torch.optim.ASGD,
    torch.optim.Rprop,
)


@dataclass(frozen=True)
class Recipe:
    """How steps are made: by which optimizer, how long, and with what schedule."""

    learning_rate: float | Literal["auto"] = "auto"
    momentum: float = 0.0
    nesterov: bool = False
    optimizer: Factory | None = None
    lr_schedule: Callable[[torch.optim.Optimizer], Any] | None = None
    schedule_each: Each = "epoch"
    clip_grad_norm: float | None = None

    @property
    def named(self) -> str:
        """What messages call the optimizer."""
        return "SGD" if self.optimizer is None else repr(self.optimizer)


class NamingOptimizer:
    """Makes an optimizer as what it was given does, and knows its class from then on."""

    def __init__(self, make: Factory) -> None:
        self._make, self.name = make, ""

    def __call__(self, parameters: list[nn.Parameter], **rate: float) -> torch.optim.Optimizer:
        made = self._make(parameters, **rate)
        self.name = type(made).__name__
        return made

    def __repr__(self) -> str:
        return repr(self._make)


class Schedule:
    """A scheduler of learning rates, stepped each epoch or after each minibatch."""

    def __init__(self, recipe: Recipe, optimizer: torch.optim.Optimizer) -> None:
        self._each, self._scheduler = recipe.schedule_each, None
        if recipe.lr_schedule is None:
            return
        with naming(f"lr_schedule={recipe.lr_schedule!r} called with the optimizer", SCHEDULE):
            self._scheduler = recipe.lr_schedule(optimizer)
            if self._each == "batch" and isinstance(self._scheduler, ReduceLROnPlateau):
                raise ValueError("ReduceLROnPlateau looks at the loss of an epoch; pass it without 'batch'.")

    @property
    def is_some(self) -> bool:
        return self._scheduler is not None

    def after(self, what: Each, F: float = np.nan) -> None:
        """Step after an epoch that began at F, or after a minibatch."""
        if self._scheduler is None or what != self._each:
            return
        with naming(
            f"the step after each {what} of lr_schedule, a {type(self._scheduler).__name__}", SCHEDULE
        ):
            if isinstance(self._scheduler, ReduceLROnPlateau):
                self._scheduler.step(F)
            else:
                self._scheduler.step()


class Stock:
    """`torch.optim.SGD` of the parameters as one vector."""

    def __init__(self, w: Tensor, objective: Stochastic, recipe: Recipe) -> None:
        self._w, self._objective = w, objective
        self._momentum, self._nesterov = recipe.momentum, recipe.nesterov
        self._clip = recipe.clip_grad_norm
        length = float(recipe.learning_rate)
        if length > torch.finfo(w.dtype).max:
            raise ValueError(
                f"learning_rate={recipe.learning_rate!r} is infinite in {w.dtype}, which the weights have; "
                "use a smaller learning_rate, or learning_rate='auto'."
            )
        self._parameter = as_parameter(w)
        self._velocity: list[Tensor | None] = [None]
        self._optimizer = torch.optim.SGD(
            [self._parameter], lr=length, momentum=recipe.momentum, nesterov=recipe.nesterov
        )
        self._schedule = Schedule(recipe, self._optimizer)

    def minibatch(self, block: Block, n_nominal: int) -> None:
        self._follow(self._objective.batch_gradient(self._w, block, n_nominal))

    def whole(self, block: Block, value: Tensor, gradient: Tensor) -> None:
        self._follow(gradient)

    def _follow(self, gradient: Tensor) -> None:
        self._parameter.grad = gradient
        if self._clip is not None:
            nn.utils.clip_grad_norm_([self._parameter], self._clip)
        if self._schedule.is_some:  # and may change all of the optimizer, or hook into its steps
            with naming("a step of the optimizer that lr_schedule was given", SCHEDULE):
                self._optimizer.step()
            self._shrink()
            self._schedule.after("batch")
            return
        # All that the method `step` does to the weights: the rest of it takes as long as the gradient.
        sgd(
            [self._parameter],
            [gradient],
            self._velocity,
            foreach=False,
            fused=False,
            weight_decay=0.0,
            momentum=self._momentum,
            lr=self._optimizer.param_groups[0]["lr"],
            dampening=0.0,
            nesterov=self._nesterov,
            maximize=False,
        )
        self._shrink()

    def _shrink(self) -> None:
        """End a proximal step, if there is an L1 term."""
        if self._objective.left_out is not None:
            shrink_(self._w, self._objective.left_out * self._optimizer.param_groups[0]["lr"])

    def end_epoch(self, F: float) -> float:
        length = float(self._optimizer.param_groups[0]["lr"])
        self._schedule.after("epoch", F)
        return length


class Stepped:
    """Any optimizer of torch, of the objective's own parameters."""

    def __init__(self, w: Tensor, objective: Stochastic, recipe: Recipe, optimizer: Factory) -> None:
        self._w, self._objective, self._clip = w, objective, recipe.clip_grad_norm
        self._parameters = objective.parameters(w)
        self._what = f"optimizer={recipe.named}"
        self._optimizer = self._made(optimizer, recipe.learning_rate)
        if self._treats_all_alike():
            self._parameters = [as_parameter(w)]
            self._optimizer.param_groups[0]["params"] = self._parameters
        self._memory = [parameter.data for parameter in self._parameters]  # parts of `w`
        self._takes_closure = _needs_closure(self._optimizer)
        self._scaler = objective.scaler
        if self._takes_closure and objective.is_mixed:
            raise ValueError(
                f"{self._what} evaluates the loss several times a step, which goes with precision='32' alone."
            )
        self._schedule = Schedule(recipe, self._optimizer)

    def _made(self, optimizer: Factory, learning_rate: float | Literal["auto"]) -> torch.optim.Optimizer:
        rate = {} if learning_rate == "auto" else {"lr": float(learning_rate)}
        with naming(f"{self._what} called with the parameters of the fit", OPTIMIZER):
            made = optimizer(self._parameters, **rate)
        if not isinstance(made, torch.optim.Optimizer):
            raise TypeError(f"{self._what} gave a {type(made).__name__}. {OPTIMIZER}")
        return made

    def _treats_all_alike(self) -> bool:
        """Whether the steps are the same if the parameters are one vector."""
        groups, parameters = self._optimizer.param_groups, self._parameters
        if type(self._optimizer) not in ELEMENTWISE or len(groups) > 1 or self._optimizer.state:
            return False
        given = groups[0]["params"]
        return len(given) == len(parameters) and all(map(operator.is_, given, parameters))

    def minibatch(self, block: Block, n_nominal: int) -> None:
        if self._takes_closure:
            self._step(lambda: self._evaluated(block, n_nominal))
        else:
            self._set(self._objective.batch_gradient(self._w, block, n_nominal))
            self._step()
        self._schedule.after("batch")

    def whole(self, block: Block, value: Tensor, gradient: Tensor) -> None:
        self._set(gradient)
        if self._takes_closure:
            known = [value[0]]  # where the first evaluation is
            n_rows = self._objective.rows.n_rows
            self._step(lambda: known.pop() if known else self._evaluated(block, n_rows))
        else:
            self._step()
        self._schedule.after("batch")

    def _evaluated(self, block: Block, n_nominal: int) -> Tensor:
        value, gradient = self._objective.batch_value_and_gradient(self._w, block, n_nominal)
        self._set(gradient)
        return value[0]

    def _set(self, gradient: Tensor) -> None:
        """Give each parameter its part of the gradient."""
        if self._scaler is not None:  # which looks for what is not finite, and counts, as it scales back
            gradient = self._scaler.scale(gradient)
        if len(self._parameters) == 1:
            self._parameters[0].grad = gradient.view_as(self._parameters[0])
        else:
            flat, start = gradient[0], 0
            for (
                parameter
            ) in self._parameters:  # not by `split`, whose parts the lazy device cannot compute with
                parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
                start += parameter.numel()
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        if self._clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._clip)

    def _step(self, closure: Callable[[], Any] | None = None) -> None:
        with naming(f"a step of {self._what}", OPTIMIZER):
            if self._scaler is not None:
                self._scaler.step(self._optimizer)
                self._scaler.update()
            elif closure is not None:
                self._optimizer.step(closure)
            else:
                self._optimizer.step()
        for parameter, memory in zip(self._parameters, self._memory, strict=True):
            if shares_memory(parameter, memory) is False:  # an optimizer may give parameters other memory
                parameter.data = memory.copy_(parameter.data)

    def end_epoch(self, F: float) -> float:
        length = float(self._optimizer.param_groups[0].get("lr", np.nan))
        self._schedule.after("epoch", F)
        return length


def as_parameter(w: Tensor) -> nn.Parameter:
    """A parameter in the memory of `w`."""
    with torch.enable_grad():
        parameter = nn.Parameter(w)
    parameter.data = w
    return parameter


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the method `step` must be given what evaluates the loss, as that of LBFGS."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty
