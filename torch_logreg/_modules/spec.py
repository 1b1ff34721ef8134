"""How to build a module or an optimizer: a callable and its settings."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self

import torch
from sklearn.base import BaseEstimator, clone
from torch import Tensor, nn


class Spec(BaseEstimator, ABC):
    """A callable and its settings, each of which is a parameter as scikit-learn has them.

    Parameters
    ----------
    build : callable
    **settings : object
    """

    n_given: ClassVar[int]  # arguments of `build` that are no settings, the first ones

    def __init__(self, build: Callable[..., Any], **settings: Any) -> None:
        self._check(build)
        self.build = build
        self._settings = settings  # not as attributes: one may have the name of a method

    @staticmethod
    @abstractmethod
    def _check(build: Any) -> None:
        """Raise TypeError for what cannot be called as `build`."""

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
        return {"build": self.build, **_defaults(self.build, self.n_given), **self._settings}

    def set_params(self, **params: Any) -> Self:
        """Set `build` or settings.

        Parameters
        ----------
        **params : object
            New values by name.

        Returns
        -------
        self : object
            The spec itself.

        Raises
        ------
        ValueError
            For a name that was neither given before nor is a parameter of `build`.
        """
        build = params.pop("build", self.build)
        self._check(build)
        valid = ["build", *{**dict.fromkeys(_names(build, self.n_given)), **self._settings}]
        for name in params:
            if name not in valid:
                raise ValueError(
                    f"Invalid parameter {name!r} for estimator {self}. Valid parameters are: {valid!r}."
                )
        self.build, self._settings = build, {**self._settings, **params}
        return self

    def __sklearn_clone__(self) -> Self:
        # With the settings that were given alone: defaults of one `build` may be no settings of the next.
        return type(self)(
            self.build, **{name: clone(each, safe=False) for name, each in self._settings.items()}
        )


class ModuleSpec(Spec):
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

    n_given = 2

    @staticmethod
    def _check(build: Any) -> None:
        if isinstance(build, nn.Module) or not callable(build):
            raise TypeError(
                f"build={build!r} must be a callable (n_features, n_outputs, ...) -> torch.nn.Module, or a "
                "class of modules; an instance is passed as module= itself."
            )

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


class OptimizerSpec(Spec):
    """How to make an optimizer: its class and its settings, which scikit-learn can search over.

    Passed as `optimizer`, it makes each setting a parameter of the classifier: a setting ``weight_decay`` is
    ``optimizer__weight_decay`` in ``set_params`` and in a grid search.

    Parameters
    ----------
    build : callable
        Called as ``build(parameters, **settings)``, with `lr` among the settings if the `learning_rate` of
        the classifier is a number: a class of `torch.optim`, or a function that returns an optimizer. It must
        be importable to be pickled.

    **settings : object
        Settings of `build`. Parameters of `build` with a default need not be given to be searched over.

    Examples
    --------
    >>> import torch
    >>> from torch_logreg import OptimizerSpec, TorchLogisticClassifier
    >>> spec = OptimizerSpec(torch.optim.AdamW, weight_decay=0.1)
    >>> clf = TorchLogisticClassifier(optimizer=spec).set_params(optimizer__weight_decay=0.01)
    >>> clf.optimizer.get_params()["weight_decay"]
    0.01
    """

    n_given = 1

    @staticmethod
    def _check(build: Any) -> None:
        if isinstance(build, torch.optim.Optimizer) or not callable(build):
            raise TypeError(
                f"build={build!r} must be a class of torch.optim, or a callable (parameters, ...) -> "
                "torch.optim.Optimizer; one that was made already has other parameters than those of the fit."
            )

    def __call__(self, parameters: Iterable[Tensor], **given: Any) -> torch.optim.Optimizer:
        """Make the optimizer.

        Parameters
        ----------
        parameters : iterable of torch.nn.Parameter
            What it is to step.

        **given : object
            ``lr``, if the `learning_rate` of the classifier is a number.

        Returns
        -------
        optimizer : torch.optim.Optimizer
            What `build` returns.

        Raises
        ------
        ValueError
            If `lr` is both among the settings and given.
        """
        for name in given.keys() & self._settings.keys():
            raise ValueError(
                f"{name}={self._settings[name]!r} is a setting of {self}, and learning_rate={given[name]!r} "
                "is given besides; leave learning_rate='auto', or the setting out."
            )
        return self.build(parameters, **self._settings, **given)


def _parameters(build: Callable, n_given: int) -> list[inspect.Parameter]:
    """The parameters of `build` that can be given by name, without the first, which it is called with."""
    parameters = list(inspect.signature(build).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    first = [p for p in parameters if p.kind in positional][:n_given]
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p for p in parameters if p.kind in by_name and p not in first]


def _names(build: Callable, n_given: int) -> list[str]:
    return [p.name for p in _parameters(build, n_given)]


def _defaults(build: Callable, n_given: int) -> dict[str, Any]:
    return {p.name: p.default for p in _parameters(build, n_given) if p.default is not p.empty}
