"""Names of torch that are private, or not in every version. Each has a test that fails loudly."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.optim.sgd import sgd  # what `SGD.step` calls; it is documented nowhere

__all__ = [
    "BATCH_NORM",
    "COMPILED",
    "HOOKS",
    "NORM_LAYERS",
    "ProductPrecision",
    "UninitializedBuffer",
    "accelerator",
    "default_device",
    "global_generators",
    "is_lazy",
    "loading_hooks",
    "original",
    "products_are_exact",
    "sgd",
    "version",
]

BATCH_NORM = nn.modules.batchnorm._BatchNorm
NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
COMPILED = "_orig_mod"  # the attribute of a module of `torch.compile` that is the module itself
# The attributes of a module that hold what is called around its forward and backward passes.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def accelerator() -> torch.device | None:
    """The accelerator of this machine, if there is one: torch 2.6 names that of the build all the same."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def default_device() -> torch.device:
    """Where tensors are made if nobody says where.

    `torch.get_default_device` of 2.6 does not see ``with torch.device(...)``, and raises once somebody has
    called `torch.set_default_device(None)`.
    """
    return torch.empty(0, device=None, dtype=torch.float32).device


def global_generators(device: torch.device) -> list[torch.Generator]:
    """The generators that modules on `device` draw from: the CPU's and the device's own."""
    generators = [torch.default_generator]
    if device.type in ("cuda", "xpu"):
        backend: Any = torch.get_device_module(device)
        backend.init()  # there are no generators before
        index = backend.current_device() if device.index is None else device.index
        generators.append(backend.default_generators[index])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    return generators


def original(module: nn.Module) -> nn.Module:
    """The module that `torch.compile` was given, if this is what it made; else the module."""
    return getattr(module, COMPILED, module)


def version(tensor: Tensor) -> int:
    """How often a tensor was written to, as far as torch counts that."""
    return 0 if tensor.is_inference() else tensor._version


def loading_hooks(layer: nn.Module) -> MutableMapping[int, Any]:
    """The hooks that run before a layer's state is loaded; each may be wrapped, and is then its `hook`."""
    hooks: Any = layer._load_state_dict_pre_hooks
    return hooks


# Those of matrices on CPU and CUDA, and of convolutions and recurrent layers on the CPU. Convolutions of CUDA
# stay as torch has them: there TF32 is its default, not somebody's setting.
_OPERATIONS = (("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn"), ("cuda", "matmul"))
_EXACT = ("none", "ieee")


def products_are_exact() -> bool:
    """Whether products of float32 numbers are made of these, and not of ones rounded to TF32 or bfloat16."""
    if _has_newer():
        return all(_operation(*names).fp32_precision in _EXACT for names in _OPERATIONS)
    return torch.get_float32_matmul_precision() == "highest"


class ProductPrecision:
    """The settings of float32 products as they are when this is made, by either interface of torch.

    torch 2.9 came with an `fp32_precision` of each operation. Once that says other than the older
    `set_float32_matmul_precision`, reading the older one raises.
    """

    def __init__(self) -> None:
        try:
            self._older: str | None = torch.get_float32_matmul_precision()
        except RuntimeError:  # the newer interface was used
            self._older = None
        self._newer = {}
        if _has_newer():
            self._newer = {names: _operation(*names).fp32_precision for names in _OPERATIONS}

    @staticmethod
    def make_exact() -> None:
        """Make all products exact."""
        if not _has_newer():
            torch.set_float32_matmul_precision("highest")
            return
        for names in _OPERATIONS:
            _operation(*names).fp32_precision = "ieee"

    def restore(self) -> None:
        """Make the settings what they were."""
        if self._older is not None:
            torch.set_float32_matmul_precision(self._older)
        for names, precision in self._newer.items():
            operation = _operation(*names)
            operation.fp32_precision = "none"  # it then follows its backend's or the general setting
            if operation.fp32_precision != precision:
                operation.fp32_precision = precision


def _has_newer() -> bool:
    return hasattr(torch.backends.mkldnn, "matmul")


def _operation(backend: str, operation: str) -> Any:
    return getattr(getattr(torch.backends, backend), operation)
