"""Rows that a torch Dataset or DataLoader gives, in passes that train and in passes that only look."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from torch_logreg._data.inputs import Inputs, widths_of
from torch_logreg._runtime.random import RandomStream

CPU = torch.device("cpu")
LOOKED_ROWS = 256  # of a Dataset, at a time, in passes that only look
LOOK_SEED = 0  # of what they draw where a loader has no generator: the same in each
FORMS = (
    "it must give pairs (x, y), or (x, y, weight), with x a tensor, or a dict of tensors by the names of "
    "`forward`'s arguments"
)
SINGLE = "single rows, and batches are needed; set its batch_size."
_END = object()


class Item(NamedTuple):
    """A batch as a loader gives it."""

    X: Any  # a tensor, an array or Inputs; None where it is not needed any more
    y: Any | None
    weights: Any | None


class Coded(NamedTuple):
    """A batch to train on or to score."""

    X: Any
    codes: np.ndarray  # (n,) int64
    weights: np.ndarray  # (n,) float64


class Batches(ABC):
    """Batches of rows that somebody else loads.

    Whatever would be drawn from global generators on the way, orders and augmentations, is drawn from a
    stream of random numbers: these are left as they are.
    """

    name: str  # of what was given, for messages
    size: int | None = None  # the nominal number of rows, if the batches have one of their own

    @abstractmethod
    def look(self) -> Iterator[Any]:
        """All batches, in the same order at every call, which changes no later pass."""

    @abstractmethod
    def train(
        self, batch_size: int | None, generator: torch.Generator, stream: RandomStream
    ) -> Iterator[Any]:
        """All batches of an epoch: of their own, or `batch_size` rows in an order drawn from `generator`."""

    @abstractmethod
    def n_rows(self) -> int | None:
        """How many rows there are; None if only a pass can tell."""

    def items(self) -> Iterator[Item]:
        """The batches of `look`."""
        return (unpacked(batch, self.name) for batch in self.look())


class LoaderBatches(Batches):
    """The batches of a DataLoader, which decides on their size and order.

    Passes that look begin where the generators of the loader stood when this was made, and leave them where
    they stand.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.name, self._loader = type(loader).__name__, loader
        self._generators = _generators_of(loader)
        self._origin = [generator.get_state() for generator in self._generators]
        batch_sampler = getattr(loader, "batch_sampler", None)
        self.size = loader.batch_size or getattr(batch_sampler, "batch_size", None)

    def look(self) -> Iterator[Any]:
        now = [generator.get_state() for generator in self._generators]
        _set(self._generators, self._origin)
        try:
            yield from _drawn(_starting_anew(self._loader), RandomStream(LOOK_SEED, CPU))
        finally:
            _set(self._generators, now)

    def train(
        self, batch_size: int | None, generator: torch.Generator, stream: RandomStream
    ) -> Iterator[Any]:
        return _drawn(self._loader, stream)

    def n_rows(self) -> int | None:
        loader = self._loader
        size, streams = loader.batch_size, isinstance(loader.dataset, IterableDataset)
        if size is None or streams or not isinstance(loader.sampler, Sized):
            return None
        n = len(loader.sampler)
        return n - n % size if loader.drop_last else n


class DatasetBatches(Batches):
    """The rows of a Dataset, in batches of any size."""

    def __init__(self, dataset: Dataset) -> None:
        self.name, self._dataset = type(dataset).__name__, dataset

    def look(self) -> Iterator[Any]:
        return _drawn(DataLoader(self._dataset, batch_size=LOOKED_ROWS), RandomStream(LOOK_SEED, CPU))

    def train(
        self, batch_size: int | None, generator: torch.Generator, stream: RandomStream
    ) -> Iterator[Any]:
        n = self.n_rows()
        if batch_size is None:
            return _drawn(DataLoader(self._dataset, batch_size=n), stream)
        order = torch.randperm(n, generator=generator, dtype=torch.int64, device=CPU).tolist()
        return _drawn(DataLoader(self._dataset, batch_size=batch_size, sampler=order), stream)

    def n_rows(self) -> int:
        dataset: Any = self._dataset
        return len(dataset)

    def subset(self, rows: np.ndarray) -> DatasetBatches:
        """Some of the rows."""
        part = DatasetBatches(Subset(self._dataset, rows.tolist()))
        part.name = self.name
        return part


def batches_of(given: Any) -> Batches:
    """The batches of a DataLoader, or of the rows of a Dataset."""
    return LoaderBatches(given) if isinstance(given, DataLoader) else DatasetBatches(given)


def is_loaded(given: Any) -> bool:
    """Whether rows come from a Dataset or a DataLoader, as it was given or as it was checked."""
    return isinstance(given, Dataset | DataLoader | Batches | Loaded)


def _generators_of(loader: DataLoader) -> list[torch.Generator]:
    """The generators that an order is drawn from: the loader's own, and those of its samplers."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = (loader, loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _set(generators: list[torch.Generator], states: list[Tensor]) -> None:
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)


def _starting_anew(loader: DataLoader) -> DataLoader:
    """A loader of the same batches, whose passes do not know of one another.

    Workers that persist draw their seed from the generator in the first pass alone: where that only looked,
    the passes that train would have another order than those of a loop.
    """
    if not (loader.num_workers and loader.persistent_workers):
        return loader
    order: dict[str, Any] = {"batch_sampler": loader.batch_sampler}
    if isinstance(loader.dataset, IterableDataset):
        order = {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    elif loader.batch_sampler is None:
        order = {"batch_size": None, "sampler": loader.sampler}
    return DataLoader(
        loader.dataset,
        **order,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        prefetch_factor=loader.prefetch_factor,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
    )


def _drawn(loader: DataLoader, stream: RandomStream) -> Iterator[Any]:
    """One pass over a loader, which draws from `stream` where it has no generator."""
    with stream.running():
        batches = iter(loader)
    while True:
        with stream.running():
            batch = next(batches, _END)
        if batch is _END:
            return
        yield batch


# ---- what a batch holds ----


def unpacked(batch: Any, name: str) -> Item:
    """A batch as it was collated: x, (x, y) or (x, y, weight)."""
    several = isinstance(batch, tuple | list)
    parts = list(batch) if several else [batch]
    if not 1 <= len(parts) <= 3:
        raise TypeError(f"{name} gives batches of {len(parts)} parts; {FORMS}.")
    X, y, weights = parts + [None] * (3 - len(parts))
    if isinstance(X, Mapping):
        X = Inputs(**X)
    if isinstance(X, np.ndarray) and X.dtype.kind not in "biuf":
        raise TypeError(f"{name} gives x of dtype {X.dtype}; encode it as numbers.")
    if not isinstance(X, Tensor | np.ndarray | Inputs):
        raise TypeError(f"{name} gives batches whose x is a {type(X).__name__}; {FORMS}.")
    if not isinstance(X, Inputs) and X.ndim == 0:
        raise ValueError(f"{name} gives {SINGLE}")
    if y is not None:
        y = labels_of(y, name)
        if len(y) != len(X):
            raise ValueError(f"{name} gives a batch of {len(X)} rows with {len(y)} labels; {FORMS}.")
    if weights is not None:
        weights = np.asarray(_host(weights), dtype=np.float64).reshape(-1)
        if len(weights) != len(X):
            raise ValueError(f"{name} gives a batch of {len(X)} rows with {len(weights)} weights; {FORMS}.")
    return Item(X.detach() if isinstance(X, Tensor) else X, y, weights)


def labels_of(y: Any, name: str) -> np.ndarray:
    """Labels (n,) of a batch; a column of them is as good."""
    labels = np.asarray(_host(y))
    if labels.ndim == 0:
        raise ValueError(f"{name} gives {SINGLE}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(
            f"{name} gives labels of shape {labels.shape} in a batch, and one a row is needed, of shape (n,)."
        )
    return labels


def _host(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


class Loaded:
    """Rows of a Dataset or DataLoader with classes, in the place of X.

    Parameters
    ----------
    batches : Batches
    n_rows : int
        Of each pass.
    classes : ndarray of shape (n_classes,)
        Sorted.
    of_class : ndarray of shape (n_classes,)
        Weights of the classes.
    first : Coded
        The first batch of passes that look.
    """

    def __init__(
        self, batches: Batches, n_rows: int, classes: np.ndarray, of_class: np.ndarray, first: Item
    ) -> None:
        self._batches, self.n_rows, self._classes, self._of_class = batches, n_rows, classes, of_class
        self._first = first

    @property
    def first(self) -> Coded:
        """The first batch of passes that look."""
        return self._coded(self._first)

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows, and of features of all inputs."""
        widths = widths_of(self._first.X)
        return self.n_rows, sum(widths.values()) if isinstance(widths, dict) else widths

    @property
    def size(self) -> int | None:
        """The nominal number of rows in a batch, if the batches have one of their own."""
        own = self._batches.size
        if isinstance(self._batches, LoaderBatches):
            return min(own or len(self._first.X), self.n_rows)
        return own

    def look(self) -> Iterator[Coded]:
        """All batches, in the same order at every call."""
        return (self._coded(item) for item in self._batches.items())

    def train(
        self, batch_size: int | None, generator: torch.Generator, stream: RandomStream
    ) -> Iterator[Coded]:
        """The batches of an epoch."""
        batches, name = self._batches.train(batch_size, generator, stream), self._batches.name
        return (self._coded(unpacked(batch, name)) for batch in batches)

    def subset(self, rows: np.ndarray) -> Loaded:
        """Some rows of a Dataset."""
        batches = self._batches
        if not isinstance(batches, DatasetBatches):
            raise TypeError(f"A {batches.name} gives no rows by number; pass its Dataset.")
        part = batches.subset(rows)
        return Loaded(part, len(rows), self._classes, self._of_class, next(part.items()))

    def _coded(self, item: Item) -> Coded:
        name = self._batches.name
        if item.y is None:
            raise ValueError(f"{name} gives x without y; to train and to score, {FORMS}.")
        codes = codes_among(item.y, self._classes, name)
        of_class = self._of_class[codes]
        return Coded(item.X, codes, of_class if item.weights is None else item.weights * of_class)


def first_of(X: Any) -> Any:
    """Rows of X that say what all are like: of loaded ones the first batch, else X itself."""
    return X.first.X if isinstance(X, Loaded) else X


def cut(X: Any, rows: np.ndarray) -> Any:
    """Some rows of whatever holds them."""
    if isinstance(X, Loaded):
        return X.subset(rows)
    if isinstance(X, Tensor):
        return X[torch.as_tensor(rows, dtype=torch.int64, device=X.device)]
    return X[rows]


def codes_among(labels: np.ndarray, classes: np.ndarray, name: str) -> np.ndarray:
    """The index of each label in sorted `classes`."""
    alike = (labels.dtype.kind in "biuf") == (classes.dtype.kind in "biuf")
    if alike:
        codes = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
        wrong = np.flatnonzero(classes[codes] != labels)
    if not alike or len(wrong):
        label = labels[wrong[:1] if alike else slice(1)].tolist()[0]
        raise ValueError(
            f"{name} has the label {label!r}, which is none of the classes {classes.tolist()}; drop its "
            "rows, or fit with all classes."
        )
    return codes
