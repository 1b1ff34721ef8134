"""Modules: how they are built, what of them is penalised, and their random numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from torch_logreg._module_copies import copied
from torch_logreg._processes import ForkSafeLock
from torch_logreg._torch_compat import NORM_LAYERS, global_generators


class ModuleSpec(BaseEstimator):
    """How to build a module: a callable and its settings, which scikit-learn can search over.

    Passed as `module`, it makes each setting a parameter of the classifier: a setting ``hidden`` is
    ``module__hidden`` in ``set_params`` and in a grid search.

    Parameters
    ----------
    build : callable
        Called as ``build(n_features, n_outputs, **settings)``, a function or a class of modules; returns
        the `torch.nn.Module`. For two classes `n_outputs` is 1, unless the criterion needs one output a
        class; for more it is the number of classes. It must be importable to be pickled.

    **settings : object
        Settings of `build`. Parameters of `build` with a default need not be given to be searched over.

    Examples
    --------
    >>> from torch import nn
    >>> from torch_logreg import ModuleSpec
    >>> def mlp(n_features, n_outputs, hidden=16):
    ...     layers = nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, n_outputs)
    ...     return nn.Sequential(*layers)
    >>> spec = ModuleSpec(mlp, hidden=4)
    >>> spec(3, 1)
    Sequential(
      (0): Linear(in_features=3, out_features=4, bias=True)
      (1): ReLU()
      (2): Linear(in_features=4, out_features=1, bias=True)
    )
    >>> spec.set_params(hidden=8).get_params()["hidden"]
    8
    """

    def __init__(self, build: Callable[..., nn.Module], **settings: Any) -> None:
        self.build = _checked(build)
        self._settings = settings  # not as attributes: one may have the name of a method

    def __call__(self, n_features: int, n_outputs: int) -> nn.Module:
        """Build the module.

        Parameters
        ----------
        n_features : int
            Number of columns of X.

        n_outputs : int
            Number of outputs a row.

        Returns
        -------
        module : torch.nn.Module
            What `build` returns.
        """
        return self.build(n_features, n_outputs, **self._settings)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return `build` and its settings.

        Parameters
        ----------
        deep : bool, default=True
            Without effect: settings have no parameters of their own.

        Returns
        -------
        params : dict
            ``"build"``, the settings given, and the defaults of those parameters of `build` that were not.
        """
        return {"build": self.build, **_defaults(self.build), **self._settings}

    def set_params(self, **params: Any) -> Self:
        """Set `build` or settings.

        Parameters
        ----------
        **params : object
            New values by name.

        Returns
        -------
        self : ModuleSpec
            The spec itself.

        Raises
        ------
        ValueError
            For a name that was neither given before nor is a parameter of `build`.
        """
        build = _checked(params.pop("build", self.build))
        valid = ["build", *{**dict.fromkeys(_names(build)), **self._settings}]
        for name in params:
            if name not in valid:
                raise ValueError(
                    f"Invalid parameter {name!r} for estimator {self}. Valid parameters are: {valid!r}."
                )
        self.build, self._settings = build, {**self._settings, **params}
        return self


def _checked(build: Any) -> Callable[..., nn.Module]:
    if isinstance(build, nn.Module) or not callable(build):
        raise TypeError(
            f"build={build!r} must be a callable (n_features, n_outputs, ...) -> torch.nn.Module, or a class "
            "of modules; an instance is passed as module= itself."
        )
    return build


def _parameters(build: Callable) -> list[inspect.Parameter]:
    """The parameters of `build` that can be given by name, without the two numbers that it is called with."""
    parameters = list(inspect.signature(build).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    numbers = [p for p in parameters if p.kind in positional][:2]
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p for p in parameters if p.kind in by_name and p not in numbers]


def _names(build: Callable) -> list[str]:
    return [p.name for p in _parameters(build)]


def _defaults(build: Callable) -> dict[str, Any]:
    return {p.name: p.default for p in _parameters(build) if p.default is not p.empty}


# ---- modules ----


def build_module(
    module: Any, n_features: int, n_outputs: int, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """A module of our own from what the user gave as `module`, on `device`.

    Inside `RandomStream.running`, as builders draw the weights they start from. Lazy layers are still to
    be materialised, by `_module_checks.check_module`.
    """
    if module is None:
        # skip_init: a plain constructor draws from the global generator.
        linear = nn.utils.skip_init(nn.Linear, n_features, n_outputs, device=device, dtype=dtype)
        with torch.no_grad():
            linear.weight.zero_()
            linear.bias.zero_()
        return linear
    if isinstance(module, type):
        raise TypeError(
            f"module={module.__name__} is a class; pass an instance, module={module.__name__}(...), or "
            f"ModuleSpec({module.__name__}, ...) to have it built with (n_features, n_outputs, ...)."
        )
    if isinstance(module, nn.Module):
        built = module
    elif callable(module):
        built = module(n_features, n_outputs)
        if not isinstance(built, nn.Module):
            raise TypeError(
                f"module={module!r} gave a {type(built).__name__} for (n_features={n_features}, "
                f"n_outputs={n_outputs}); it must return a torch.nn.Module."
            )
    else:
        raise TypeError(
            f"module={module!r} is not a module; use None, a torch.nn.Module, a callable (n_features, "
            "n_outputs) -> torch.nn.Module, or a ModuleSpec."
        )
    # A callable may hand out one and the same module each time: that one stays as it is too.
    built = copied(built).to(device=device, dtype=dtype)
    if not any(p.requires_grad for p in built.parameters()):
        raise ValueError(
            f"module={type(built).__name__} has no trainable parameter; set requires_grad=True on those that "
            "are to be fitted."
        )
    return built


def penalised(module: nn.Module) -> set[str]:
    """Names of the parameters that the penalty is on: trainable, no bias, not of a norm layer.

    A bias is a parameter with "bias" in its own name, as all of torch are called.
    """
    of_norm_layers = {
        id(p)
        for layer in module.modules()
        if isinstance(layer, NORM_LAYERS)
        for p in layer.parameters(recurse=False)
    }
    return {
        name
        for name, p in module.named_parameters()
        if p.requires_grad and id(p) not in of_norm_layers and "bias" not in _own_name(name)
    }


def _own_name(name: str) -> str:
    """The last part of a parameter's name; under a parametrisation, of the parameter it stands for."""
    parts = name.split(".")
    return parts[-2] if "parametrizations" in parts else parts[-1]


# ---- randomness ----

_GLOBAL_GENERATORS = ForkSafeLock()  # re-entrant: a module may fit another one inside


class RandomStream:
    """Random numbers for construction and random layers, which can only draw from global generators.

    While it is `running`, the global generators of the CPU and of `device` continue this stream; after
    that they are as they were, whatever happened. Nothing is drawn from, or seeded on, other devices.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._generators = global_generators(device)
        self.state = [
            torch.Generator(device=generator.device).manual_seed(seed).get_state()
            for generator in self._generators
        ]

    @contextmanager
    def running(self, replay: list[Tensor] | None = None) -> Iterator[None]:
        """Go on where the stream stands, or once more from an earlier `state`, which does not move it."""
        with _GLOBAL_GENERATORS:
            outer = self._states()
            try:
                self._set(self.state if replay is None else replay)
                yield
            finally:
                if replay is None:
                    self.state = self._states()
                self._set(outer)

    def _states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators]

    def _set(self, states: list[Tensor]) -> None:
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)
