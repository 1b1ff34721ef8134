"""How to build a module: a callable and its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Self

from sklearn.base import BaseEstimator
from torch import nn


class ModuleSpec(BaseEstimator):
    """How to build a module: a callable and its settings, which scikit-learn can search over.

    Passed as `module`, it makes each setting a parameter of the classifier: a setting ``hidden`` is
    ``module__hidden`` in ``set_params`` and in a grid search.

    Parameters
    ----------
    build : callable
        Called as ``build(n_features, n_outputs, **settings)``, a function or a class of modules; returns
        the `torch.nn.Module`. `n_features` is ``X.shape[1]``, of `Inputs` a dict of these by name. For two
        classes `n_outputs` is 1, unless the criterion needs one output a class; for more it is the number of
        classes. It must be importable to be pickled.

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

    def __call__(self, n_features: int | dict[str, int], n_outputs: int) -> nn.Module:
        """Build the module.

        Parameters
        ----------
        n_features : int or dict of str to int
            Number of columns of X, ``X.shape[1]``; of `Inputs` that of each by its name.

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
