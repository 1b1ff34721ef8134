"""Random numbers of modules, which can only draw from the global generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from torch_logreg._runtime.compat import global_generators
from torch_logreg._runtime.threads import ForkSafeLock

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
