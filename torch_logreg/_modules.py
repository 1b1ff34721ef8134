"""Modules: how they are built, what is checked of them before training, and their random numbers."""

from __future__ import annotations

import copy
import inspect
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from torch_logreg._criteria import Criterion, LogitLink, ProbabilityLink, by_row

NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
MATERIALISING_ROWS = 2  # for lazy layers, which want a shape and no values
LOG_PROBABILITY_ERROR = 1e-3  # of log-probabilities, in the log of their sum


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
    be materialised, by `check_module`.
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
    built = _copied(built).to(device=device, dtype=dtype)
    if not any(p.requires_grad for p in built.parameters()):
        raise ValueError(
            f"module={type(built).__name__} has no trainable parameter; set requires_grad=True on those that "
            "are to be fitted."
        )
    return built


def _copied(module: nn.Module) -> nn.Module:
    # torch cannot copy a buffer without a shape, as LazyBatchNorm has; there is nothing in it either.
    shapeless = [b for b in module.buffers() if is_lazy(b)]
    return copy.deepcopy(module, {id(b): UninitializedBuffer() for b in shapeless})


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


def check_module(module: nn.Module, criterion: Criterion, X: Tensor) -> int:
    """Check what `module` gives for some rows X before it is trained, and return its number of outputs.

    Materialises lazy layers. Runs in eval mode, which leaves buffers as they are. Inside
    `RandomStream.running`, as lazy layers draw.
    """
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        if any(is_lazy(tensor) for tensor in [*module.parameters(), *module.buffers()]):
            with torch.no_grad():
                module(X[:MATERIALISING_ROWS])
        with torch.enable_grad():
            output = module(X)
    except RuntimeError as error:
        error.add_note(
            f"This was raised by module={type(module).__name__} called with X of shape {tuple(X.shape)}."
        )
        raise
    finally:
        for layer, training in modes:
            layer.training = training
    output = _check_output(output, module, len(X))
    n_outputs = 1 if output.ndim == 1 else output.shape[1]
    if n_outputs not in criterion.outputs:
        needed = " or ".join(str(n) for n in criterion.outputs)
        raise ValueError(
            f"module={type(module).__name__} gives {n_outputs} outputs a row, and criterion={criterion.name} "
            f"needs {needed} for these classes; change its last layer."
        )
    _check_link(output, module, criterion)
    return n_outputs


def _check_output(output: Any, module: nn.Module, n_rows: int) -> Tensor:
    name, needed = f"module={type(module).__name__}", "(n_rows,) or (n_rows, n_outputs)"
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(
            f"{name} gives a {kind}; forward must return one floating-point tensor of shape {needed}."
        )
    rows = by_row(output, n_rows)
    if rows.ndim not in (1, 2) or len(rows) != n_rows:
        raise ValueError(
            f"{name} gives an output of shape {tuple(output.shape)} for {n_rows} rows; it must be {needed}."
        )
    if not output.requires_grad:
        raise ValueError(
            f"{name} gives an output that does not depend on any trainable parameter; forward must not run "
            "under no_grad, nor detach its result."
        )
    if bool(output.isnan().any()):
        raise ValueError(f"{name} gives NaN with the weights it starts from; initialise it anew.")
    return rows


# What torch calls the gradients of operations that move, pick or bound numbers, and of those that end in
# probabilities or their logarithms.
MOVING = re.compile(
    r"(UnsafeView|View|ReshapeAlias|Squeeze|Unsqueeze|Select|Slice|T|Transpose|Permute|ToCopy|Clone|Alias|"
    r"Expand|Clamp|ClampMin|ClampMax|Stack|Cat)Backward\d*"
)
SQUASHING = re.compile(r"(Sigmoid|Hardsigmoid|LogSigmoid|Softmax|LogSoftmax)Backward\d*")
LINEAR = re.compile(r"(Addmm|Mm|Addmv|Mv)Backward\d*")


def _last_operations(output: Tensor) -> set[str]:
    """Names of the operations that computed the numbers in `output`, whichever way they are written.

    The graph shows ``nn.Sigmoid``, a submodule's call and ``torch.sigmoid`` alike. Values would not: a logit
    may well lie between 0 and 1.
    """
    found, nodes = set(), [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None:
            continue
        if MOVING.fullmatch(node.name()):
            nodes += [parent for parent, _ in node.next_functions]
        else:
            found.add(node.name())
    return found


def _check_link(output: Tensor, module: nn.Module, criterion: Criterion) -> None:
    """Raise if the outputs cannot be what the criterion takes them for."""
    name, operations = type(module).__name__, _last_operations(output)
    output = output.detach()
    if isinstance(criterion.link, LogitLink):
        for match in filter(None, map(SQUASHING.fullmatch, sorted(operations))):
            last = match[1]
            instead = {
                "Sigmoid": "set criterion=nn.BCELoss() (one output)",
                "Softmax": "make it LogSoftmax and set criterion=nn.NLLLoss()",
                "LogSoftmax": "set criterion=nn.NLLLoss()",
            }.get(last, "set a criterion that takes it")
            raise ValueError(
                f"module={name} ends in {last}, but criterion={criterion.name} takes its outputs for logits, "
                f"before any {last}; drop it from the module, or {instead}."
            )
    elif isinstance(criterion.link, ProbabilityLink):
        inside = bool(((output >= 0) & (output <= 1)).all())
        if not inside or any(map(LINEAR.fullmatch, operations)):
            raise ValueError(
                f"module={name} gives outputs that are no probabilities (from {float(output.min()):.3g} to "
                f"{float(output.max()):.3g}), which criterion={criterion.name} needs; end it with "
                "nn.Sigmoid(), or set criterion=nn.BCEWithLogitsLoss()."
            )
        if any(operation.startswith("Softmax") for operation in operations):
            raise ValueError(
                f"module={name} ends in Softmax over its one output, which is always 1; end it with "
                "nn.Sigmoid()."
            )
    elif bool((output.logsumexp(dim=1).abs() > LOG_PROBABILITY_ERROR).any()):
        raise ValueError(
            f"module={name} gives outputs that are no log-probabilities (their exponentials do not sum to "
            f"1), which criterion={criterion.name} needs; end it with nn.LogSoftmax(dim=1), or set "
            "criterion=nn.CrossEntropyLoss()."
        )


# ---- randomness ----

_GLOBAL_GENERATORS = threading.RLock()  # re-entrant: a module may fit another one inside


class RandomStream:
    """Random numbers for construction and random layers, which can only draw from global generators.

    While it is `running`, the global generators of the CPU and of `device` continue this stream; after
    that they are as they were, whatever happened. Nothing is drawn from, or seeded on, other devices.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._generators = _global_generators(device)
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


def _global_generators(device: torch.device) -> list[torch.Generator]:
    generators = [torch.default_generator]
    if device.type in ("cuda", "xpu"):
        backend = torch.get_device_module(device)
        backend.init()  # there are no generators before
        index = backend.current_device() if device.index is None else device.index
        generators.append(backend.default_generators[index])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    return generators
