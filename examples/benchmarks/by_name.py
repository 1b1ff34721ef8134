"""CPU time of solvers by name: ours over that of scikit-learn of the same name, over small dense cells.

    python examples/benchmarks/by_name.py [--only REGEX] [--work W] [--repeats N] [--limit L] [--write]

The cells are those dense single fits of both grids of `shape_cells.py` whose pass over X takes up to W
multiplications. The rule is that of `shapes.py`, for one solver at a time: ours at its default tolerance, its
namesake at the loosest of `TOLS` whose objective is within 1e-5 of the smallest; one thread, the least of the
repeats, and its slack. "above" counts the cells with a ratio above 1.2.
"""

from __future__ import annotations

import argparse
import re
import sys

import harness
import numpy as np
import torch
from shape_cells import Cell, cells
from shapes import GOAL, Result, Setting, Trials, Worker, left_out

SOLVERS = ("lbfgs", "newton-cg", "newton-cholesky")
WORK = 3e5


def measure(worker: Worker, cell: Cell, solver: str, repeats: int, limit: float) -> Result:
    """Ours and its namesake on a cell."""
    trials = Trials(worker, cell, limit)
    pair = [Setting(True, solver), Setting(False, solver)]
    trials.attempt(pair[0], limit)
    trials.climb(pair[1])
    shown = [setting for each in pair if (setting := trials.shown(each)) and trials.counts(setting)]
    trials.repeat(shown, repeats)
    return Result(cell, [trials.row(each) for each in pair])


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument(
        "--only", default="", help="a regular expression, of solver and cell as they are printed"
    )
    made.add_argument("--work", type=float, default=WORK, help="of a pass, at most (default: %(default)g)")
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--limit", type=float, default=20.0, help="seconds after which a run is ended")
    made.add_argument("--write", action="store_true", help="put the result into docs/_benchmarks/")
    arguments = made.parse_args()
    torch.set_num_threads(1)
    small = [
        c for grid in ("main", "between") for c in cells(grid) if c.task == "fit" and c.format == "dense"
    ]
    small = [cell for cell in small if cell.work <= arguments.work]
    worker, lines = Worker(1), []
    for solver in SOLVERS:
        found: list[tuple[float, str]] = []
        for cell in small:
            name = f"{solver} {cell}"
            if not re.search(arguments.only, name) or left_out(cell, solver):
                continue
            result = measure(worker, cell, solver, arguments.repeats, arguments.limit)
            ratio = result.ratio(result.fastest)
            print(f"{name}: {ratio:.2f}", file=sys.stderr, flush=True)
            found.append((ratio, str(cell)))
        ratios = np.array([ratio for ratio, _ in found if np.isfinite(ratio)])
        if len(ratios):
            worst = max(pair for pair in found if np.isfinite(pair[0]))
            mean = np.exp(np.log(ratios).mean())
            above = int((ratios > GOAL).sum())
            lines.append(
                [f"`{solver}`", len(found), len(ratios), f"{mean:.2f}", above, f"{worst[0]:.2f}", worst[1]]
            )
    worker.stop()
    head = ["solver", "cells", "compared", "geometric mean", f"above {GOAL}", "largest", "there"]
    harness.publish("by_name", harness.table(head, lines), arguments.write)


if __name__ == "__main__":
    main()
