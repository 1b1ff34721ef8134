"""Building modules, and which of their parameters are penalised."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from torch_logreg._data.inputs import Widths
from torch_logreg._modules.copies import copied
from torch_logreg._runtime.compat import NORM_LAYERS


def build_module(
    module: Any, n_features: Widths, n_outputs: int, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """A module of our own from what the user gave as `module`, on `device`.

    Inside `RandomStream.running`, as builders draw the weights they start from. Lazy layers are still to
    be materialised, by `probe.check_module`.
    """
    return own_module(module, n_features, n_outputs, dtype, device).to(device=device, dtype=dtype)


def own_module(
    module: Any, n_features: Widths, n_outputs: int, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """The same as the user made it; `dtype` and `device` are those of the linear model."""
    if module is None:
        n_columns = cast(int, n_features)  # of several inputs `fit` has refused to make one model
        # skip_init: a plain constructor draws from the global generator.
        linear = nn.utils.skip_init(nn.Linear, n_columns, n_outputs, device=device, dtype=dtype)
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
    built = copied(built)
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
