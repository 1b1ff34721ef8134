"""The table that `verbose` prints of a running fit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from torch_logreg._contracts.solver import Iteration

BOLD, PLAIN = "\033[1m", "\033[0m"  # on a terminal (ECMA-48, Select Graphic Rendition)
WIDTH = 12


class Shown(NamedTuple):
    """What a row of the table says besides the update itself."""

    accuracy: float | None  # on the rows trained on
    validation_loss: float | None
    validation_score: float | None
    seconds: float


class Table:
    """One line an update, under a head; the best score so far is bold on a terminal.

    Parameters
    ----------
    unit : {"epoch", "iteration"}
    """

    def __init__(self, unit: str) -> None:
        self._unit, self._bold = unit, sys.stdout.isatty()
        self._columns: list[str] = []
        self._best = {"valid loss": np.inf, "valid score": np.inf}

    def print(self, iteration: Iteration, shown: Shown) -> None:
        """Print the line of an update, the first time with the head above it."""
        loss, norm = float(iteration.objective[0]), float(iteration.gradient_norm[0])
        cells = {self._unit: str(iteration.number), "train loss": f"{loss:.6f}"}
        if np.isfinite(norm):
            cells["max |grad|"] = f"{norm:.2e}"
        if shown.accuracy is not None:
            cells["train acc."] = f"{shown.accuracy:.4f}"
        if shown.validation_loss is not None and shown.validation_score is not None:
            cells["valid loss"] = self._marked(
                "valid loss", f"{shown.validation_loss:.6f}", shown.validation_loss
            )
            score = shown.validation_score
            cells["valid score"] = self._marked("valid score", f"{score:.4f}", -score)
        cells["seconds"] = f"{shown.seconds:.2f}"
        if not self._columns:
            self._columns = list(cells)
            print(_line(self._columns))
        line = _line([cells.get(name, "") for name in self._columns])
        sample = iteration.sample_rows
        print(line + (f"  sample of {sample:,} rows".replace(",", " ") if sample else ""))

    def _marked(self, column: str, text: str, cost: float) -> str:
        """The text, in bold if it is the best of the column so far."""
        text = text.rjust(WIDTH)
        if not cost < self._best[column]:
            return text
        self._best[column] = cost
        return f"{BOLD}{text}{PLAIN}" if self._bold else text


def _line(cells: Sequence[str]) -> str:
    return " ".join(cell.rjust(WIDTH) if not cell.startswith(BOLD) else cell for cell in cells)
