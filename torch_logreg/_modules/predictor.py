"""Outputs of a trained module, without a trace in it, by many threads at once."""

from __future__ import annotations

import weakref
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from torch_logreg._data.inputs import OfModule
from torch_logreg._modules.copies import Traces, copied, sharing_parameters
from torch_logreg._modules.probe import evaluate
from torch_logreg._runtime.compat import version
from torch_logreg._runtime.random import RandomStream
from torch_logreg._runtime.surroundings import with_plain_defaults


class Habits(NamedTuple):
    """Side effects that a forward pass in eval mode was seen to have."""

    keeps: bool  # something in the module
    draws: bool  # random numbers


class Moved(NamedTuple):
    """A copy on another device, and what the tensors of the original were when it was made."""

    module: nn.Module
    device: torch.device
    tensors: list[tuple[int, int]]


Known = TypeVar("Known")


class _OfModules(Generic[Known]):
    """Something about each of some modules, by identity: they may define an equality of their own."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[nn.Module], Known]] = {}

    def get(self, module: nn.Module) -> Known | None:
        found = self._known.get(id(module))
        return found[1] if found is not None and found[0]() is module else None

    def set(self, module: nn.Module, known: Known) -> Known:
        key = id(module)
        self._known[key] = weakref.ref(module, lambda _: self._known.pop(key, None)), known
        return known


_HABITS = _OfModules[Habits]()
_MOVED = _OfModules[Moved]()


class ModulePredictor:
    """The outputs of a fitted module in eval mode on a device.

    The module itself is neither moved, nor switched, nor held by a lock: users look at it, train it on and
    predict with it in many threads. It is called as it is once it was seen to keep nothing and to draw
    nothing; until then, or while it is in train mode, a copy that shares its parameters is.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module, self._device = module, device
        self._here = module if _is_on(module, device) else _moved(module, device)

    def outputs(self, X: OfModule) -> Tensor:
        """The outputs for dense rows on the device."""
        habits = _HABITS.get(self._module)
        if habits is None:
            return self._watched(X)
        module = self._here
        if habits.keeps or any(layer.training for layer in module.modules()):
            module = sharing_parameters(module).eval()
        with with_plain_defaults(self._device):
            if not habits.draws:
                return evaluate(module, X)
            with RandomStream(0, self._device).running():
                return evaluate(module, X)

    def _watched(self, X: OfModule) -> Tensor:
        """`outputs` the first time, from which the habits are known."""
        module = sharing_parameters(self._here).eval()
        before, stream = Traces(module), RandomStream(0, self._device)
        state = stream.state
        with with_plain_defaults(self._device), stream.running():
            outputs = evaluate(module, X)
        draws = not all(map(torch.equal, state, stream.state))
        _HABITS.set(self._module, Habits(before.left_in(module), draws))
        return outputs


def _is_on(module: nn.Module, device: torch.device) -> bool:
    kinds = {tensor.device for tensor in [*module.parameters(), *module.buffers()]}
    return all(kind.type == device.type and device.index in (None, kind.index) for kind in kinds)


def _moved(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy on `device`, the same as long as nobody writes to the module's tensors."""
    state = [*module.parameters(), *module.buffers()]
    tensors = [(tensor.data_ptr(), version(tensor)) for tensor in state]
    known = _MOVED.get(module)
    if known is None or known.device != device or known.tensors != tensors:
        known = _MOVED.set(module, Moved(copied(module).to(device), device, tensors))
    return known.module
