"""The cells of `shapes.py`: shapes of fits, varied together, and the data of each.

Rows, columns, classes, spectrum or numbers a row, labels, dtype and C are the factors. A cell is added as
long as it has two values that no cell before it had together, or for a single fit a new triple of rows,
columns and classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, product
from typing import Any, NamedTuple

import harness
import numpy as np
import scipy.fft

CS, FOLDS = np.logspace(-2, 2, 6), 4
# Standard deviations of a raw prediction, where the noise of the labels has that of a Gumbel variable.
LABELS = {"easy": 3.0, "noisy": 0.5, "nearly separable": 30.0}
MOST = {"fit": (4e7, 4e8, 1e7), "cv": (4e6, 4e7, 1e6)}  # n d, n d K, stored; a choice of C makes 25 fits
ROWS_A_CLASS, FEWEST = 5, 4
QUICK_CELLS, QUICK_WORK = 11, {"fit": 1e6, "cv": 1e5}  # of each task and format


class Cell(NamedTuple):
    task: str  # "fit" or "cv"
    format: str  # "dense" or "CSR"
    n: int
    d: int
    K: int
    spread: float  # dense: the power of the spectrum; CSR: numbers drawn for a row
    labels: str
    dtype: str
    C: float  # 0: the six of CS
    seed: int = 0

    @property
    def numbers(self) -> int:
        return self.n * self.d if self.format == "dense" else self.n * int(self.spread)

    @property
    def work(self) -> int:
        """Multiplications of a pass over X, and of one over the coefficients."""
        return (self.numbers + self.d) * self.K

    @property
    def is_feasible(self) -> bool:
        dense, work, stored = MOST[self.task]
        fits = self.numbers <= (dense if self.format == "dense" else stored) and self.numbers * self.K <= work
        filled = self.format == "dense" or self.spread <= self.d / 3
        return fits and filled and self.n >= ROWS_A_CLASS * self.K

    @property
    def group(self) -> str:
        if self.task == "cv":
            return f"choosing C, {self.format}"
        if self.format == "CSR":
            return "CSR"
        return "dense, wide" if self.d > self.n else "dense, small" if self.numbers <= 1e5 else "dense, tall"

    def __str__(self) -> str:
        spread = f"d^-{self.spread:g}" if self.format == "dense" else f"{self.spread:g} a row"
        C = f"C={self.C:g}" if self.C else f"{len(CS)} Cs"
        seed = f" seed={self.seed}" if self.seed else ""
        return (
            f"{self.task} {self.format} {self.n} x {self.d} K={self.K} {spread} "
            f"{self.labels} {self.dtype} {C}{seed}"
        )


class Axes(NamedTuple):
    n: tuple[int, ...]
    d: dict[str, tuple[int, ...]]
    K: tuple[int, ...]
    spread: dict[str, tuple[float, ...]]
    C: tuple[float, ...]
    seed: int


GRIDS = {
    "main": Axes(
        n=(100, 300, 1000, 3000, 10_000, 30_000, 100_000),
        d={"dense": (5, 30, 100, 300, 768, 2000, 6000, 20_000), "CSR": (100, 1000, 5000, 20_000)},
        K=(2, 3, 20, 100),
        spread={"dense": (0.0, 1.0), "CSR": (3, 10, 30, 100)},
        C=(0.01, 0.1, 1.0, 10.0, 100.0),
        seed=0,
    ),
    "between": Axes(
        n=(150, 500, 2000, 6000, 20_000, 60_000),
        d={"dense": (8, 60, 200, 500, 1200, 4000, 12_000), "CSR": (300, 2000, 12_000)},
        K=(2, 4, 10, 50),
        spread={"dense": (0.5, 1.5), "CSR": (5, 20, 60)},
        C=(0.03, 0.3, 3.0, 30.0),
        seed=1,
    ),
}


def design(candidates: Sequence[Cell], triples: bool) -> list[Cell]:
    """Of the candidates, one after the other the one with the most pairs of values that none before it has.

    With `triples` also until every triple of rows, columns and classes is there.
    """
    codes = np.column_stack(
        [np.unique(values, return_inverse=True)[1] for values in zip(*candidates, strict=True)]
    )
    n, d, K = (Cell._fields.index(name) for name in "ndK")
    weights: dict[tuple[int, ...], float] = {pair: 1.0 for pair in combinations(range(codes.shape[1]), 2)}
    weights |= {(n, d, K): 0.01} if triples else {}  # last, so that the first cells have most pairs
    ids = np.column_stack([np.unique(codes[:, list(c)], axis=0, return_inverse=True)[1] for c in weights])
    new = [np.full(column.max() + 1, weight) for column, weight in zip(ids.T, weights.values(), strict=True)]
    chosen: list[Cell] = []
    while True:
        gains = sum(of_one[column] for of_one, column in zip(new, ids.T, strict=True))
        best = int(gains.argmax())
        if gains[best] == 0:
            return chosen
        chosen.append(candidates[best])
        for of_one, column in zip(new, ids.T, strict=True):
            of_one[column[best]] = 0


def cells(grid: str, quick: bool = False) -> list[Cell]:
    """Those of a grid, the smallest first."""
    axes, found = GRIDS[grid], []
    for task, kind in product(MOST, ("dense", "CSR")):
        C, dtypes = axes.C if task == "fit" else (0.0,), ("float32", "float64")
        values = product(axes.n, axes.d[kind], axes.K, axes.spread[kind], LABELS, dtypes, C)
        candidates = [cell for v in values if (cell := Cell(task, kind, *v, seed=axes.seed)).is_feasible]
        # In an order of chance, so that ties do not go to the smallest values.
        order = np.random.default_rng(0).permutation(len(candidates))
        some = design([candidates[i] for i in order], triples=task == "fit")
        if quick:
            some = [cell for cell in some if cell.work <= QUICK_WORK[task]][:QUICK_CELLS]
        found += some
    return sorted(found, key=lambda cell: cell.work * (1 if cell.task == "fit" else len(CS) * FOLDS))


@lru_cache(maxsize=1)
def data(cell: Cell) -> tuple[Any, np.ndarray]:
    """X, of normal numbers with a spectrum or in columns that Zipf's law draws, and labels of softmax."""
    rng = np.random.default_rng([cell.seed, cell.n, cell.d, cell.K])
    if cell.format == "CSR":
        X = harness.zipf_rows(rng, cell.n, cell.d, int(cell.spread))
    else:
        X = rng.normal(size=(cell.n, cell.d))
        if cell.spread:
            # Turned by an orthogonal transform: a spectrum of the columns alone is undone by scaling them.
            sizes = np.arange(1, cell.d + 1) ** -cell.spread
            sizes *= np.sqrt(cell.d / (sizes**2).sum())
            X = scipy.fft.dct(X * rng.permutation(sizes), axis=1, norm="ortho")
    z = X @ rng.normal(scale=0.5, size=(cell.d, cell.K))
    z = LABELS[cell.labels] * (z - z.mean(axis=0)) / z.std(axis=0) + rng.gumbel(size=z.shape)
    y = z.argmax(axis=1)
    while (counts := np.bincount(y, minlength=cell.K)).min() < FEWEST:  # a row of each class in each fold
        rows = np.flatnonzero(y == counts.argmax())
        y[rows[z[rows, counts.argmin()].argmax()]] = counts.argmin()
    X = X.astype(cell.dtype)
    if cell.format == "CSR":  # as scikit-learn's vectorisers make them; liblinear and sag take no others
        X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    return X, y
