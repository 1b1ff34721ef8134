"""Whether integers go into a module as they are: where its first forward pass refuses them as floats."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import nn

from torch_logreg._data.inputs import (
    Dtypes,
    by_name,
    float_dtype_of,
    is_integral,
    kept_dtype,
    parts_of,
    to_module,
)
from torch_logreg._modules.copies import copied
from torch_logreg._modules.probe import MATERIALISING_ROWS, REFUSALS, evaluate
from torch_logreg._runtime.devices import supports_float64

MOST_TRIED = 6  # inputs of integers of which every choice is tried; of more only all and none


class Formats(NamedTuple):
    """The dtypes of a module and of what it is called with."""

    module: torch.dtype
    inputs: Dtypes

    def names(self) -> Any:
        """The dtypes of the inputs as strings, which pickles may hold."""
        if isinstance(self.inputs, dict):
            return {name: _word(dtype) for name, dtype in self.inputs.items()}
        return _word(self.inputs)


def dtypes_named(names: Any) -> Dtypes:
    """The dtypes of `Formats.names`."""
    if isinstance(names, dict):
        return {name: getattr(torch, word) for name, word in names.items()}
    dtype: torch.dtype = getattr(torch, names)
    return dtype


def choose_formats(module: nn.Module, X: Any, device: torch.device) -> Formats:
    """Try the first rows of X in `module`, where integers are among them; it is left as it is.

    Floats decide on the dtype of the module. With integers alone that are kept, it keeps its own. Inside
    `RandomStream.running`, as modules may draw.
    """
    integral = [name for name, part in parts_of(X).items() if is_integral(part)]
    if not integral:
        return _formats(module, X, device, ())
    few, refused = X[:MATERIALISING_ROWS], []
    for kept in _choices(integral):
        formats = _formats(module, X, device, kept)
        tried = copied(module).to(device=device, dtype=formats.module).eval()
        try:
            evaluate(tried, to_module(few, device, formats.inputs)).cpu()  # some devices raise no sooner
        except (*REFUSALS, TypeError, AttributeError) as error:
            refused.append(error)
            continue
        return formats
    as_floats, as_integers = refused[:2]
    as_floats.add_note(
        f"As integers, {', '.join(integral)} went in too, and it raised {type(as_integers).__name__}: "
        f"{as_integers}. An nn.Embedding needs num_embeddings above the largest integer."
    )
    raise as_floats


def _choices(integral: list[str]) -> Iterator[tuple[str, ...]]:
    """Which of the integers are kept: none, all, then some."""
    yield ()
    yield tuple(integral)
    if len(integral) <= MOST_TRIED:
        for n_kept in range(1, len(integral)):
            yield from combinations(integral, n_kept)


def _formats(module: nn.Module, X: Any, device: torch.device, kept: tuple[str, ...]) -> Formats:
    parts = parts_of(X)
    dtype = float_dtype_of(parts.values(), device)
    if kept and all(map(is_integral, parts.values())):
        own = next(p.dtype for p in module.parameters() if p.is_floating_point())
        dtype = own if own != torch.float64 or supports_float64(device) else torch.float32
    inputs = {name: kept_dtype(part) if name in kept else dtype for name, part in parts.items()}
    return Formats(dtype, by_name(X, inputs))


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
