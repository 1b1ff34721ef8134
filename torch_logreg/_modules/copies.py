"""Copies of modules as people have them: with what they computed, hooks, parametrisations, compiled ones."""

from __future__ import annotations

import copy
import functools
import gc
import io
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from torch_logreg._runtime.compat import HOOKS, UninitializedBuffer, is_lazy, loading_hooks, original, version

# What holds no tensors of a module's own, and much else.
OPAQUE = type | types.ModuleType | types.FrameType | types.CodeType | str | bytes


def copied(module: nn.Module) -> nn.Module:
    """A copy in memory of its own, without the graphs of tensors that the module has computed and kept.

    `copy.deepcopy` raises for these, and leaves the hooks that are functions with the module that they were
    made for.
    """
    return _deep_copy(module, _replaced(module))


def sharing_parameters(module: nn.Module) -> nn.Module:
    """A copy with the same parameters, so that modes and what a forward pass keeps or counts are its own."""
    module = original(module)
    memo = {id(p): p for p in module.parameters()} | _replaced(module)
    for layer in module.modules():
        if original(layer) is not layer:  # a copy of a compiled one would be compiled anew
            memo[id(layer)] = copy.deepcopy(original(layer), memo)
    return _deep_copy(module, memo)


def _replaced(module: nn.Module) -> dict[int, Any]:
    """Stand-ins, by identity, for what of the module no deep copy can be made of."""
    found: dict[int, Any] = {}
    for tensor in _tensors_in(module):
        if not tensor.is_leaf:
            found[id(tensor)] = tensor.detach().clone()
        elif is_lazy(tensor) and not isinstance(tensor, nn.Parameter):
            # torch cannot copy a buffer without a shape, as LazyBatchNorm has; there is nothing in it either.
            found[id(tensor)] = UninitializedBuffer()
    for layer in module.modules():
        if isinstance(layer, torch.jit.ScriptModule):  # a deep copy's parameters are computed, and no leaves
            found[id(layer)] = _scripted(_archive(layer))
    return found


def _deep_copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    copy_ = copy.deepcopy(module, memo)
    for layer in copy_.modules():
        for name in HOOKS:
            hooks = getattr(layer, name)
            for key, hook in hooks.items():
                hooks[key] = _rebound(hook, memo)
    return copy_


def _rebound(function: Any, memo: dict[int, Any]) -> Any:
    """A function that refers to the copies of what it refers to, where it closes over any of it."""
    if isinstance(function, functools.partial):
        return functools.partial(_rebound(function.func, memo), *function.args, **function.keywords)
    if not isinstance(function, types.FunctionType) or not function.__closure__:
        return function
    contents = [cell.cell_contents for cell in function.__closure__]
    if not any(isinstance(content, nn.Module) and id(content) in memo for content in contents):
        return function
    cells = tuple(types.CellType(memo.get(id(content), content)) for content in contents)
    rebound = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, cells
    )
    rebound.__kwdefaults__ = function.__kwdefaults__
    rebound.__dict__.update(function.__dict__)
    return rebound


def _tensors_in(module: nn.Module) -> Iterator[Tensor]:
    """All tensors that a deep copy of the module would come across."""
    seen: set[int] = set()
    found: list[Any] = [module]
    while found:
        item = found.pop()
        if id(item) in seen or isinstance(item, OPAQUE):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item
            found.append(item.grad if item.is_leaf else None)
            found += vars(item).values()
        elif isinstance(item, types.FunctionType):  # which is not copied
            continue
        elif isinstance(item, nn.Module) and not isinstance(item, torch.jit.ScriptModule):
            found += vars(item).values()
        else:
            found += gc.get_referents(item)


class Traces:
    """A module's own attributes as they are now, to be compared with what they are after a forward pass."""

    def __init__(self, module: nn.Module) -> None:
        # With the objects themselves: a new one could get the identity of an old one that is gone.
        self._items = list(_state_of(module))

    def left_in(self, module: nn.Module) -> bool:
        """Whether an attribute, or a tensor of one, is another now."""
        now = list(_state_of(module))
        return len(now) != len(self._items) or any(
            a is not b or m != n for (a, m), (b, n) in zip(now, self._items, strict=True)
        )


def _state_of(module: nn.Module) -> Iterator[tuple[Any, int]]:
    seen: set[int] = set()
    # What `torch.compile` keeps in its own modules is no matter of theirs.
    found: list[Any] = [vars(layer) for layer in module.modules() if original(layer) is layer]
    while found:
        item = found.pop()
        yield item, version(item) if isinstance(item, Tensor) else 0
        if id(item) in seen or isinstance(item, OPAQUE | Tensor | nn.Module | types.FunctionType):
            continue
        seen.add(id(item))
        if isinstance(item, list | tuple | set):
            found += item
        else:
            found += (item if isinstance(item, dict) else getattr(item, "__dict__", {})).values()


# A pickle outlives every move of a class of ours, so what stands in it for a module is made of plain objects:
# a dict with "form" naming one of `FORMS`, and what that takes.


def _parametrised(plain: nn.Module, recipes: list[dict[str, Any]], training: list[bool]) -> nn.Module:
    """Build a module from its plain layers and recipes of its parametrised tensors."""
    module = copied(plain)
    for recipe in recipes:
        layer = module.get_submodule(recipe["layer"])
        for each in recipe["parametrizations"]:
            # unsafe: the checks would run it, and draw random numbers for some.
            parametrize.register_parametrization(layer, recipe["tensor"], each, unsafe=True)
        of_tensor: Any = layer.parametrizations[recipe["tensor"]]  # type: ignore[index]
        of_tensor.load_state_dict(recipe["state"])
        for parameter, trainable in zip(of_tensor.parameters(), recipe["trainable"], strict=True):
            parameter.requires_grad_(trainable)
    for layer, is_training in zip(module.modules(), training, strict=True):
        layer.training = is_training
    return module


def _archive(module: torch.jit.ScriptModule) -> bytes:
    file = io.BytesIO()
    torch.jit.save(module, file)
    return file.getvalue()


def _scripted(archive: bytes) -> nn.Module:
    """Load a module of `torch.jit` from its archive."""
    return torch.jit.load(io.BytesIO(archive))


FORMS: dict[str, Callable[..., nn.Module]] = {"parametrised": _parametrised, "scripted": _scripted}


def picklable(module: nn.Module) -> nn.Module | dict[str, Any]:
    """A copy of the module that pickle takes, if what is in it can be pickled at all."""
    if isinstance(module, torch.jit.ScriptModule):
        return {"form": "scripted", "archive": _archive(module)}
    module = copied(module)
    modes = [layer.training for layer in module.modules()]
    layers = [(n, layer) for n, layer in module.named_modules() if parametrize.is_parametrized(layer)]
    if not layers:
        return module
    recipes = []
    for name, layer in layers:
        of_layer: Any = layer.parametrizations
        plain = {tensor: getattr(layer, tensor).detach().clone() for tensor in of_layer}
        for tensor, parametrizations in of_layer.items():
            state = {key: value.detach().clone() for key, value in parametrizations.state_dict().items()}
            trainable = [parameter.requires_grad for parameter in parametrizations.parameters()]
            recipes.append(
                {
                    "layer": name,
                    "tensor": tensor,
                    "parametrizations": list(parametrizations),
                    "state": state,
                    "trainable": trainable,
                }
            )
        # Not by torch's own `remove_parametrizations`: it changes the class, which copies have in common.
        layer.__class__ = type(layer).__bases__[0]
        del layer.parametrizations
        for tensor, value in plain.items():
            layer.register_parameter(tensor, nn.Parameter(value))
        _drop_local_hooks_of_torch(layer)
    return {"form": "parametrised", "plain": module, "recipes": recipes, "training": modes}


def _drop_local_hooks_of_torch(layer: nn.Module) -> None:
    """Drop what torch's `weight_norm` adds for reading older checkpoints: a function that pickle refuses."""
    hooks = loading_hooks(layer)
    for key, wrapped in list(hooks.items()):
        hook = getattr(wrapped, "hook", wrapped)
        if hook.__module__.startswith("torch.") and "<locals>" in hook.__qualname__:
            del hooks[key]


def unpickled(module: Any) -> Any:
    """Return the module that `picklable` was given."""
    if not isinstance(module, dict):
        return module
    return FORMS[module["form"]](**{name: value for name, value in module.items() if name != "form"})
