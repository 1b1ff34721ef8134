"""Rows of modules: arrays of any dimension and several inputs in memory, and batches that are loaded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.rows import Block, Minibatched, Reads
from torch_logreg._data.inputs import Dtypes, OfModule, each, numbers_of_row, to_module
from torch_logreg._data.loaders import Coded, Loaded
from torch_logreg._data.products import upcast
from torch_logreg._data.tensors import to_tensor
from torch_logreg._runtime.crowding import look
from torch_logreg._runtime.limits import limits_of
from torch_logreg._runtime.random import RandomStream


class TensorRows(Minibatched):
    """Rows of any dimension, or of several inputs, in the memory of one device.

    Those of 16 bits stay so there, and are upcast with each block. `n_features` counts the numbers of a row.
    """

    def __init__(self, X: OfModule, target: Tensor, weights: Tensor) -> None:
        self.n_rows, self.n_features = len(target), numbers_of_row(X)
        self.dtype, self.device = weights.dtype, weights.device
        self._X, self.target, self.weights, self.reads = X, target, weights, Reads()

    def blocks(self) -> Iterator[Block]:
        limits = limits_of(self.device)
        step = min(limits.forward_rows, max(1, limits.dense_numbers // self.n_features))
        yield from self._cut(self._X, self.target, self.weights, step)

    def minibatches(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Block]:
        if batch_size is None:
            yield from self._cut(self._X, self.target, self.weights, self.n_rows)
            return
        order = torch.randperm(self.n_rows, generator=generator, dtype=torch.int64, device="cpu")
        # Many batches are gathered at once and cut, as of `ArrayRows`.
        numbers = limits_of(self.device).chunk_numbers
        for rows in order.split(batch_size * max(1, numbers // (batch_size * self.n_features))):
            here = rows.to(self.device)
            X = each(lambda part, here=here: part.index_select(0, here), self._X)
            yield from self._cut(X, self.target[here], self.weights.index_select(1, here), batch_size)

    def _cut(self, X: OfModule, target: Tensor, weights: Tensor, step: int) -> Iterator[Block]:
        for start in range(0, len(target), step):
            rows = slice(start, start + step)
            block = Block(each(upcast, X[rows]), target[rows], weights[:, rows])
            self.rows_read += len(block.target)
            look()
            yield block

    def weight_sum(self, dtype: torch.dtype) -> Tensor:
        return self.weights.sum(dim=1, dtype=dtype)

    def select(self, problems: np.ndarray) -> TensorRows:
        if len(self.weights) == 1:
            return self
        index = torch.as_tensor(problems, dtype=torch.int64, device=self.device)
        some = TensorRows(self._X, self.target, self.weights[index])
        some.reads = self.reads
        return some

    def check_finite(self, found: Tensor) -> None:
        _refuse_infinity(found, self.dtype)

    def total(self, partial: Tensor) -> Tensor:
        return partial


class LoadedRows(Minibatched):
    """Rows that a Dataset or a DataLoader gives, of one problem.

    Only the batches of an epoch are trained on: F over all rows is looked at once, at the end. `stream` is
    what is drawn from in place of the global generators.
    """

    streams = True

    def __init__(
        self,
        loaded: Loaded,
        weight_sum: float,
        device: torch.device,
        dtype: torch.dtype,
        dtypes: Dtypes,
        stream: RandomStream,
    ) -> None:
        self.n_rows, self.n_features = loaded.n_rows, numbers_of_row(loaded.first.X)
        self.dtype, self.device, self.reads = dtype, device, Reads()
        self._loaded, self._sum, self._dtypes, self._stream = loaded, weight_sum, dtypes, stream

    def blocks(self) -> Iterator[Block]:
        return map(self._counted, self._loaded.look())

    def minibatches(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Block]:
        return map(self._counted, self._loaded.train(batch_size, generator, self._stream))

    def nominal(self, batch_size: int | None) -> int:
        own = self._loaded.size
        return super().nominal(batch_size) if own is None else own

    def first(self) -> Block:
        return self._block(self._loaded.first)

    def _counted(self, batch: Coded) -> Block:
        self.rows_read += len(batch.codes)
        look()
        return self._block(batch)

    def _block(self, batch: Coded) -> Block:
        X = to_module(batch.X, self.device, self._dtypes)
        weights = to_tensor(batch.weights[None], self.device, self.dtype)
        return Block(X, to_tensor(batch.codes, self.device, torch.int64), weights)

    def weight_sum(self, dtype: torch.dtype) -> Tensor:
        return torch.tensor([self._sum], dtype=dtype, device=self.device)

    def select(self, problems: np.ndarray) -> LoadedRows:
        return self

    def check_finite(self, found: Tensor) -> None:
        _refuse_infinity(found, self.dtype)

    def total(self, partial: Tensor) -> Tensor:
        return partial


def _refuse_infinity(found: Tensor, dtype: torch.dtype) -> None:
    if not bool(torch.isfinite(found).all()):
        raise ValueError(
            f"Sums over the rows of X overflow {dtype}: divide what is large in X by a power of ten."
        )
