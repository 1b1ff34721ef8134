"""The contracts of rows: where they are, and what some kinds of them can do besides being read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

Matrix: TypeAlias = Any  # a dense tensor, or sparse rows as `_data` keeps them; only that wing looks inside


class Block(NamedTuple):
    """Some rows, whole."""

    X: Matrix  # (n_rows, n_features)
    target: Tensor  # (n_rows,), as the loss encodes it
    weights: Tensor  # (1, n_rows), or (P, n_rows) where the problems weigh rows differently


class Sample(NamedTuple):
    """Some rows drawn at random. The first few of them are a sample too, a smaller one.

    Row i is in a sample of n with probability ``min(1, n * measure[i])``.
    """

    gather: Callable[[slice], Block]  # some of them, as they are
    own: Tensor  # (1 or P, n_rows), their weights as they are
    measure: Tensor  # (n_rows,)
    key: Tensor  # (n_rows,) rising: the first k rows are a sample of size key[k]

    def weights(self, rows: slice, size: Tensor | int) -> Tensor:
        """Weights over the chance to be in a sample of `size`, (1 or P, n)."""
        return self.own[:, rows] / (self.measure[rows] * size).clamp(max=1.0)


class Reads:
    """The number of rows read so far, by all who look at the same rows together."""

    n_rows = 0


class Rows(ABC):
    """Where the rows are.

    A sum over all rows is ``rows.total`` of the sum over ``rows.blocks()``; that is the only way
    in which an objective looks at data, so rows may be in memory, streamed or on other processes.
    What some kinds of rows can do besides is a contract of its own: `Minibatched`, `Drawable`,
    `Gatherable`.
    """

    n_rows: int
    n_features: int
    dtype: torch.dtype
    device: torch.device
    reads: Reads
    n_stored = -1  # numbers that sparse rows hold; -1 for dense ones

    @property
    def rows_read(self) -> int:
        """Rows read by all calls of `blocks` so far."""
        return self.reads.n_rows

    @rows_read.setter
    def rows_read(self, number: int) -> None:
        self.reads.n_rows = number

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """All rows once, in the same order at every call; counts them in `rows_read`.

        The next may take the memory of the one before.
        """

    @abstractmethod
    def total(self, partial: Tensor) -> Tensor:
        """The sum of `partial` over all holders of rows."""

    @abstractmethod
    def weight_sum(self, dtype: torch.dtype) -> Tensor:
        """The sum of the weights of all rows, (1,) or (P,) as in `Block`."""

    @abstractmethod
    def select(self, problems: np.ndarray) -> Rows:
        """The rows as some of the problems weigh them, counted with these in `rows_read`."""

    @abstractmethod
    def check_finite(self, found: Tensor) -> None:
        """Raise ValueError if `found`, sums over the rows, is not finite: X is not, or is too large."""

    def gatherable(self) -> Gatherable | None:
        """The rows themselves, if some of them are faster to read alone than all are; else None."""
        return None


class Minibatched(Rows):
    """Rows that come a few at a time, in an order of their own or one that is drawn."""

    # Whether an epoch is judged by its own minibatches, as a pass over all rows beside it would cost as much.
    streams = False

    @abstractmethod
    def minibatches(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Block]:
        """All rows once, `batch_size` at a time, in an order drawn from `generator`, a CPU one.

        None is all rows in one block, in their own order: nothing is drawn. Counted in `rows_read`. Rows that
        come in batches of their own come in these.
        """

    def nominal(self, batch_size: int | None) -> int:
        """The number of rows in all such minibatches but the last."""
        return self.n_rows if batch_size is None else min(batch_size, self.n_rows)

    def first(self) -> Block:
        """The first of `blocks`."""
        return next(iter(self.blocks()))


class Drawable(Minibatched):
    """Rows that can be drawn at random."""

    @abstractmethod
    def sample(self, n_rows: int, groups: Callable[[Tensor], Tensor], generator: torch.Generator) -> Sample:
        """About `n_rows` rows at random, in random order; `groups` makes group numbers of targets.

        A row is drawn with a probability that grows with its weight and with the rarity of its group.
        """


class Gatherable(Rows):
    """Rows of which some can be had in memory of their own."""

    @abstractmethod
    def subset(self, drawn: Tensor) -> Rows:
        """The rows of the numbers `drawn`, which count what is read of them by themselves."""
