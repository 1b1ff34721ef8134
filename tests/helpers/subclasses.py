"""The classes of the package that keep a contract, which its tests have to know."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import torch_logreg


def subclasses(contract: type) -> set[type]:
    """Those that are not abstract, in whatever file."""
    for module in pkgutil.walk_packages(torch_logreg.__path__, "torch_logreg."):
        importlib.import_module(module.name)
    return set(_below(contract))


def _below(contract: type) -> list[type]:
    found = [some for some in contract.__subclasses__() if some.__module__.startswith("torch_logreg")]
    further = [below for some in found for below in _below(some)]
    return [some for some in found if not inspect.isabstract(some)] + further
