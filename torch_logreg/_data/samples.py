"""Samples of other rows: read anew at each use, or held."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.rows import Block, Rows, Sample
from torch_logreg._runtime.limits import limits_of


class SampledRows(Rows):
    """A sample of other rows, gathered anew for each pass, a few at a time: it takes no memory."""

    def __init__(self, rows: Rows, sample: Sample, size: int) -> None:
        self._rows, self._sample, self._size = rows, sample, size
        self.n_rows, self.n_features = len(sample.key), rows.n_features
        self.dtype, self.device, self.reads = rows.dtype, rows.device, rows.reads

    def blocks(self) -> Iterator[Block]:
        step = limits_of(self.device).sample_rows
        for first in range(0, self.n_rows, step):
            part = slice(first, first + step)
            block = self._sample.gather(part)
            self.rows_read += len(block.target)
            yield block._replace(weights=self._sample.weights(part, self._size))

    def total(self, partial: Tensor) -> Tensor:
        return self._rows.total(partial)

    def weight_sum(self, dtype: torch.dtype) -> Tensor:
        return self.total(self._sample.weights(slice(None), self._size).sum(dim=1, dtype=dtype))

    def select(self, problems: np.ndarray) -> SampledRows:
        if len(self._sample.own) == 1:
            return self
        index = torch.as_tensor(problems, dtype=torch.int64, device=self.device)
        sample = self._sample._replace(own=self._sample.own[index])
        return SampledRows(self._rows, sample, self._size)

    def check_finite(self, found: Tensor) -> None:
        self._rows.check_finite(found)


class HeldRows(Rows):
    """A block that was gathered from other rows, with weights of its own."""

    def __init__(self, rows: Rows, block: Block) -> None:
        self._rows, self._block = rows, block
        self.n_rows, self.n_features = len(block.target), rows.n_features
        self.dtype, self.device, self.reads = rows.dtype, rows.device, rows.reads

    def blocks(self) -> Iterator[Block]:
        self.rows_read += self.n_rows
        yield self._block

    def total(self, partial: Tensor) -> Tensor:
        return self._rows.total(partial)

    def weight_sum(self, dtype: torch.dtype) -> Tensor:
        return self.total(self._block.weights.sum(dim=1, dtype=dtype))

    def select(self, problems: np.ndarray) -> HeldRows:
        if len(self._block.weights) == 1:
            return self
        index = torch.as_tensor(problems, dtype=torch.int64, device=self.device)
        return HeldRows(self._rows, self._block._replace(weights=self._block.weights[index]))

    def check_finite(self, found: Tensor) -> None:
        self._rows.check_finite(found)
