"""CPU time of a fit, and of choosing C, over a grid of shapes: ours over the fastest solver of scikit-learn.

    python examples/benchmarks/shapes.py [--grid between] [--quick] [--only REGEX] [--threads N] [--report]
                                         [--part K/N] [--repeats N] [--limit L] [--scale S] [--results FILE]
                                         [--write]

The grid is made by `shape_cells.py`; `--grid between` has sizes, spectra and seeds in between. `--quick`
takes some forty of the smallest cells.

The rule. Ours runs at its defaults. A solver of scikit-learn counts at the loosest of `TOLS` whose objective
is within `GAPS` of the smallest that any run reached; where C is chosen, whose mean log losses are those of
ours at a tolerance of 1e-6, for every C. One thread, and CPU time, the least of `--repeats`: fewer where
these would take over `BUDGET` seconds, and one at least. With more threads it is wall time. A run is ended
after `--limit` seconds by the clock (ours: `OURS_TIMES` as many) or, if that is less, after `SLOWER` times
the time of the fastest that counts already: such a peer could not be the fastest. Runs are made in a process
of their own, which is killed where code that is not Python's does not end. Which solvers were left out or
ended stands in the results. The same is done for our own other solvers.

The ratio is ours / theirs. Where theirs takes less than `SHORT`, ours is given `SLACK`: a ratio above 1
becomes (ours - SLACK) / theirs, or 1 if that is less. A cell in which no peer counts has no ratio.

Results are kept, a line a cell, in `build/shapes.jsonl`. A cell that this processor has measured with this
state of torch_logreg and so many threads is not measured again. The smallest cells come first, and `--write`
takes those of the grid that are there. `--part 1/2` measures every other cell, for a process on each core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import harness
import numpy as np
import torch
from shape_cells import CS, FOLDS, GRIDS, ROWS_A_CLASS, Cell, cells, data
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold

import torch_logreg
from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV

RESULTS = Path(__file__).resolve().parents[2] / "build" / "shapes.jsonl"
TOLS, EXACT, GAPS = (1e-4, 3e-6, 1e-7), 1e-6, {"fit": 1e-5, "cv": 1e-3}
SLACK, SHORT = 3e-4, 3e-3  # seconds
BUDGET, OURS_TIMES, SLOWER, LEAST = 3.0, 5.0, 5.0, 1.0  # LEAST: seconds that every run is given
GRACE = 2.0  # seconds more, before its process is killed
GOAL, OWN_GOAL = 1.2, 1.1
TOLD = 20  # cells in each table of the worst

# ---- runs, in a process of their own ----


class Setting(NamedTuple):
    ours: bool
    solver: str
    tol: float | None = None  # None: the default

    @property
    def default(self) -> Setting:
        return self._replace(tol=None)


class Run(NamedTuple):
    seconds: float
    values: list[float]  # the objective, or of each C the mean log loss


# The likely fastest first, for the time of others is limited by theirs.
PEERS = ("liblinear", "newton-cg", "lbfgs", "liblinear, dual", "sag", "newton-cholesky")
OURS, OWN = Setting(True, "auto"), ("newton-cg", "lbfgs", "newton-cholesky")
JUDGE = OURS._replace(tol=EXACT)
STEPS = {"newton-cholesky": 1000, "newton-cg": 1000}  # of others 10 000: only a tolerance shall end them
CHOLESKY_PARAMETERS, SAG_ROWS = 5000, 10_000


def left_out(cell: Cell, solver: str) -> str:
    """Why a solver is not run; empty if it is."""
    if solver == "newton-cholesky" and (cell.d + 1) * (1 if cell.K == 2 else cell.K) > CHOLESKY_PARAMETERS:
        return f"left out: over {CHOLESKY_PARAMETERS} parameters"
    if solver.startswith("liblinear") and cell.K > 2:
        return "left out: no softmax"
    if solver == "liblinear, dual" and cell.d <= cell.n:
        return "left out: more rows than columns"
    if solver == "sag" and cell.n < SAG_ROWS:
        return f"left out: under {SAG_ROWS} rows"
    return ""


def estimator(cell: Cell, setting: Setting, y: np.ndarray) -> Any:
    settings: dict[str, Any] = {} if setting.tol is None else {"tol": setting.tol}
    if setting.solver != "auto":
        settings |= {"solver": setting.solver, "max_iter": STEPS.get(setting.solver, 10_000)}
    if setting.solver.startswith("liblinear"):
        # It penalises the intercept, and with its default would minimise something else.
        settings |= {"solver": "liblinear", "intercept_scaling": 30.0, "dual": setting.solver != "liblinear"}
    if not setting.ours:
        settings["random_state"] = 0
    if cell.task == "fit":
        return (TorchLogisticClassifier if setting.ours else LogisticRegression)(C=cell.C, **settings)
    settings |= {"Cs": CS, "cv": list(StratifiedKFold(FOLDS).split(y, y)), "scoring": "neg_log_loss"}
    if setting.ours:
        return TorchLogisticClassifierCV(**settings)
    return LogisticRegressionCV(l1_ratios=(0,), use_legacy_attributes=False, **settings)


def run(cell: Cell, setting: Setting, clock: Callable[[], float] = time.process_time) -> Run:
    X, y = data(cell)
    made = estimator(cell, setting, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run that stops short is told by its objective
        start = clock()
        made.fit(X, y)
        seconds = clock() - start
    if cell.task == "cv":
        return Run(seconds, made.scores_.mean(axis=(0, 1)).tolist())
    return Run(seconds, [harness.objective(made.coef_, made.intercept_, X, y, cell.C)])


def serve(pipe: Any, threads: int) -> None:
    """Answer a cell with None, once its data is made, and a setting and a limit with a run, or why none."""
    clock = time.process_time if threads == 1 else time.perf_counter
    tiny = Cell("fit", "dense", 50, 10, 2, 1.0, "noisy", "float64", 1.0)
    every = [Setting(ours, solver) for ours, solvers in ((True, OWN), (False, PEERS)) for solver in solvers]
    for kind, K, setting in product(("dense", "CSR"), (2, 3), (OURS, *every)):  # libraries load untimed
        cell = tiny._replace(format=kind, K=K)
        if not left_out(cell, setting.solver):
            run(cell, setting)
    for setting in (OURS, Setting(False, "lbfgs")):
        run(tiny._replace(task="cv"), setting)
    while True:
        asked = pipe.recv()
        if isinstance(asked, Cell):
            cell = asked
            data(cell)
            pipe.send(None)
            continue
        setting, limit = asked
        if threads > 1:
            time.sleep(harness.PAUSE)  # as in `harness.in_turn`
        found: Run | str
        try:
            with harness.at_most(limit):
                found = run(cell, setting, clock)
        except harness.TooLong:
            found = f"ended after {limit:.3g} s"
        except Exception as error:  # of any library: the solver does not count, and the results say why
            found = f"{type(error).__name__}: {str(error)[:80]}"
        pipe.send(found)


class Worker:
    """A process that runs one fit after the other, and is started anew when one had to be killed."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.process: Any = None
        self.cell: Cell | None = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
        self.process, self.cell = None, None

    def __call__(self, cell: Cell, setting: Setting, limit: float) -> Run | str:
        """A run, or why there is none."""
        if self.process is None:
            # Libraries read it when they load.
            os.environ |= {f"{name}_NUM_THREADS": str(self.threads) for name in ("OMP", "OPENBLAS", "MKL")}
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=serve, args=(theirs, self.threads), daemon=True)
            self.process.start()
            theirs.close()
        try:
            if cell != self.cell:
                self.pipe.send(cell)
                self.pipe.recv()
                self.cell = cell
            self.pipe.send((setting, limit))
            if self.pipe.poll(limit + GRACE):
                return self.pipe.recv()
            self.stop()
            return f"ended after {limit:.3g} s"
        except (EOFError, BrokenPipeError):  # as when memory runs out
            self.stop()
            return "its process died"


# ---- one cell ----


class Row(NamedTuple):
    """What is kept of a solver: the run that counts, or its last, or none."""

    ours: bool
    solver: str
    tol: float | None
    seconds: float | None
    gap: float | None
    note: str

    @property
    def counts(self) -> bool:
        return self.seconds is not None and not self.note


def fastest(rows: Sequence[Row]) -> Row | None:
    counting = [row for row in rows if row.counts]
    return min(counting, key=lambda row: row.seconds or 0.0, default=None)


class Trials:
    """The runs of one cell, of each solver at one tolerance after the other."""

    def __init__(self, ask: Callable[[Cell, Setting, float], Run | str], cell: Cell, limit: float) -> None:
        self.ask = ask
        self.cell = cell
        self.limit = limit
        self.runs: dict[Setting, Run] = {}
        self.notes: dict[Setting, str] = {}  # why the last run of a solver was none, by the solver's default
        for setting in (OURS, JUDGE):
            self.attempt(setting, OURS_TIMES * limit)

    def attempt(self, setting: Setting, limit: float) -> None:
        found = self.ask(self.cell, setting, limit)
        if isinstance(found, Run):
            self.runs[setting] = found
        if setting != JUDGE:
            self.notes[setting.default] = found if isinstance(found, str) else ""

    def gap(self, run: Run) -> float:
        if self.cell.task == "fit":
            return run.values[0] / min(other.values[0] for other in self.runs.values()) - 1
        judge = self.runs.get(JUDGE)  # scores are no bounds as objectives are
        return math.nan if judge is None else float(np.abs(np.divide(run.values, judge.values) - 1).max())

    def counts(self, setting: Setting) -> bool:
        return setting in self.runs and self.gap(self.runs[setting]) <= GAPS[self.cell.task]

    def climb(self, solver: Setting) -> None:
        """Run a solver until it is well within the gap, or slower than one that counts by far."""
        rivals = [s for s in self.runs if s.ours == solver.ours and s != JUDGE and self.counts(s)]
        fastest = min((self.runs[s].seconds for s in rivals), default=math.inf)
        longest = min(self.limit, SLOWER * fastest)
        for setting in (solver._replace(tol=tol) for tol in TOLS):
            self.attempt(setting, max(longest, LEAST))
            run = self.runs.get(setting)
            if run is None or run.seconds > longest or self.gap(run) <= GAPS[self.cell.task] / 2:
                return

    def shown(self, solver: Setting) -> Setting | None:
        """The loosest setting that counts, which is the fastest, or the last one run."""
        made = [setting for setting in self.runs if setting.default == solver and setting != JUDGE]
        return next(filter(self.counts, made), made[-1] if made else None)

    def repeat(self, settings: Sequence[Setting], repeats: int) -> None:
        """Keep the least time of each, in turn with the others."""
        for number in range(2, repeats + 1):
            for setting in settings[:: 1 if number % 2 else -1]:
                seconds = self.runs[setting].seconds
                again = self.ask(self.cell, setting, self.limit) if number * seconds <= BUDGET else ""
                if isinstance(again, Run):
                    self.runs[setting] = self.runs[setting]._replace(seconds=min(seconds, again.seconds))

    def row(self, solver: Setting) -> Row:
        setting, note = self.shown(solver), self.notes[solver]
        if setting is None:
            return Row(solver.ours, solver.solver, None, None, None, note)
        run = self.runs[setting]
        note = "" if self.counts(setting) else note or harness.SHORT
        return Row(solver.ours, solver.solver, setting.tol, run.seconds, self.gap(run), note)


def measure(
    ask: Callable[[Cell, Setting, float], Run | str], cell: Cell, repeats: int, limit: float
) -> list[Row]:
    """Ours first, then each of our own solvers and of scikit-learn's, by the rule at the top."""
    trials = Trials(ask, cell, limit)
    timed = [OURS] if OURS in trials.runs else []
    for ours, solvers in ((True, OWN), (False, PEERS)):
        for solver in (Setting(ours, name) for name in solvers):
            trials.notes[solver] = left_out(cell, solver.solver)
            if not trials.notes[solver]:
                trials.climb(solver)
    for ours, solvers in ((True, OWN), (False, PEERS)):
        reached = [s for name in solvers if (s := trials.shown(Setting(ours, name))) and trials.counts(s)]
        fastest = min((trials.runs[setting].seconds for setting in reached), default=math.inf)
        timed += [setting for setting in reached if trials.runs[setting].seconds <= 2 * fastest]
    trials.repeat(timed, repeats)
    return [trials.row(solver) for solver in trials.notes]


# ---- results ----


class Result(NamedTuple):
    cell: Cell
    rows: list[Row]

    @property
    def ours(self) -> Row:
        return self.rows[0]

    @property
    def fastest(self) -> Row | None:
        return fastest([row for row in self.rows if not row.ours])

    @property
    def fastest_own(self) -> Row | None:
        return fastest([row for row in self.rows[1:] if row.ours])

    def ratio(self, other: Row | None) -> float:
        """Of our time over another, with slack; nan where there is no other, inf where ours fails."""
        if not self.ours.counts or self.ours.seconds is None:
            return math.inf
        if other is None or other.seconds is None:
            return math.nan
        ours, theirs = self.ours.seconds, other.seconds
        if theirs < SHORT and ours > theirs:
            ours = max(ours - SLACK, theirs)
        return ours / theirs

    @property
    def of_peers(self) -> float:
        return self.ratio(self.fastest)

    @property
    def of_own(self) -> float:
        return self.ratio(self.fastest_own)


def state(threads: int) -> dict[str, Any]:
    """What else a result depends on: the package as it is on disk, the processor and the threads."""
    folder = Path(torch_logreg.__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
        ).stdout

    commit, changes = git("rev-parse", "--short", "HEAD:./").strip(), git("diff", "HEAD", "--", ".")
    if changes:
        commit += "+" + hashlib.sha256(changes.encode()).hexdigest()[:7]
    return {"package": commit, "processor": harness.processor(), "threads": threads}


def keep(path: Path, of: dict[str, Any], result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"state": of, "cell": result.cell, "rows": result.rows}) + "\n")


def stored(path: Path, of: dict[str, Any]) -> dict[Cell, Result]:
    lines = path.read_text().splitlines() if path.exists() else []
    found = {}
    for line in map(json.loads, lines):
        if line["state"] == of:
            cell = Cell(*line["cell"])
            found[cell] = Result(cell, [Row(*row) for row in line["rows"]])
    return found


def told(result: Result) -> list[str]:
    """Cells of a table."""

    def milliseconds(row: Row | None) -> str:
        return f"{1e3 * row.seconds:.4g}, {row.solver}" if row and row.seconds is not None else "none"

    ours = result.ours
    ratio = f"{result.of_peers:.2f}" if ours.counts else f"fails: {ours.note}"
    mine = milliseconds(ours).removesuffix(f", {OURS.solver}")
    return [str(result.cell), mine, milliseconds(result.fastest), ratio, milliseconds(result.fastest_own)]


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def peers_table(results: Sequence[Result]) -> str:
    lines = []
    for solver in PEERS:
        rows = [row for result in results for row in result.rows if not row.ours and row.solver == solver]
        fastest = sum(result.fastest is not None and result.fastest.solver == solver for result in results)
        starts = [sum(row.note.startswith(start) for row in rows) for start in ("ended", "left out")]
        counting = sum(row.counts for row in rows)
        lines.append([solver, fastest, counting, *starts, len(rows) - counting - sum(starts)])
    head = ["solver, in how many cells", "fastest", "counts", "ended", "left out", "off, or raised"]
    return harness.table(head, lines)


def groups_table(results: Sequence[Result]) -> str:
    groups: dict[str, list[Result]] = {"all": list(results)}
    for result in sorted(results, key=lambda result: result.cell.group):
        groups.setdefault(result.cell.group, []).append(result)
    lines = []
    for name, some in groups.items():
        ratios = [result.of_peers for result in some if math.isfinite(result.of_peers)]
        over = sum(ratio > GOAL for ratio in ratios)
        over_own = sum(OWN_GOAL < result.of_own < math.inf for result in some)
        fails = sum(not result.ours.counts for result in some)
        none = sum(math.isnan(result.of_peers) for result in some)
        lines.append([name, len(some), f"{geometric_mean(ratios):.3f}", over, over_own, fails, none])
    head = ["group", "cells", "geometric mean of ours / theirs", f"over {GOAL}"]
    head += [f"over {OWN_GOAL} x our own fastest solver", "ours fails", "no peer counts"]
    return harness.table(head, lines)


def report(results: Sequence[Result], n_cells: int) -> str:
    slow = sorted((r for r in results if r.of_peers > GOAL), key=lambda r: r.of_peers, reverse=True)
    beaten = sorted(
        (r for r in results if OWN_GOAL < r.of_own < math.inf), key=lambda r: r.of_own, reverse=True
    )
    most = max((result.cell.work for result in results), default=0)
    told_of = f"{len(results)} of {n_cells} cells, the smallest first: a pass over X takes up to {most:.0e}"
    parts = [f"{told_of} multiplications.\n", groups_table(results), peers_table(results)]
    for title, some in (
        (f"Over {GOAL}, or ours fails", slow),
        (f"Over {OWN_GOAL} times our own fastest solver", beaten),
    ):
        head = ["cell", "ours, ms", "theirs, ms", "ours / theirs", "our fastest other, ms"]
        table = harness.table(head, [told(result) for result in some[:TOLD]]) if some else "none\n"
        number = f"{TOLD} of {len(some)}, " if len(some) > TOLD else ""
        parts.append(f"**{title}: {number}the worst first**\n\n{table}")
    return "\n".join(parts)


def draw(results: Sequence[Result], name: str) -> None:
    """Panels of rows x columns, one for each K and kind; a colour is the worst ratio there."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 8})
    kinds = list(dict.fromkeys((r.cell.task, r.cell.format) for r in results))
    classes = sorted({r.cell.K for r in results})
    figure, axes = plt.subplots(
        len(kinds),
        len(classes),
        figsize=(3 * len(classes), 2.6 * len(kinds)),
        layout="constrained",
        squeeze=False,
    )
    for (task, kind), row in zip(kinds, axes, strict=True):
        of_kind = [r for r in results if (r.cell.task, r.cell.format) == (task, kind)]
        ns, ds = (sorted({getattr(r.cell, size) for r in of_kind}) for size in "nd")
        for K, axis in zip(classes, row, strict=True):
            worst = np.full((len(ns), len(ds)), np.nan)
            for result in of_kind:
                if result.cell.K == K and not math.isnan(result.of_peers):
                    place = ns.index(result.cell.n), ds.index(result.cell.d)
                    worst[place] = np.fmax(worst[place], result.of_peers)
            image = axis.imshow(np.log2(worst), cmap="RdBu_r", vmin=-3, vmax=3, origin="lower", aspect="auto")
            for (i, j), ratio in np.ndenumerate(worst):
                if not np.isnan(ratio):
                    colour = "white" if abs(np.log2(ratio)) > 2 else "black"
                    axis.text(j, i, f"{ratio:.2g}", ha="center", va="center", color=colour, fontsize=6)
            axis.set_xticks(range(len(ds)), [f"{d:,}" for d in ds], rotation=45)
            axis.set_yticks(range(len(ns)), [f"{n:,}" for n in ns])
            axis.set_title(f"{'one fit' if task == 'fit' else 'choosing C'}, {kind}, K = {K}")
        row[0].set_ylabel("rows")
    for axis in axes[-1]:
        axis.set_xlabel("columns")
    bar = figure.colorbar(image, ax=axes, shrink=0.4, label="ours / theirs")
    bar.set_ticks(range(-3, 4), labels=["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    figure.savefig(harness.PARTS / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def part(text: str) -> tuple[int, int]:
    """ "2/3" as a pair of numbers."""
    number, of = (int(part) for part in text.split("/"))
    if not 1 <= number <= of:
        raise argparse.ArgumentTypeError(f"got {text!r}; give K/N with K from 1 to N")
    return number, of


def parsed() -> argparse.Namespace:
    parser = harness.parser(__doc__, repeats=5)
    parser.add_argument("--grid", choices=GRIDS, default="main")
    parser.add_argument("--quick", action="store_true", help="some forty small cells, in about three minutes")
    parser.add_argument("--only", default="", help="a regular expression, of cells as they are printed")
    parser.add_argument("--threads", type=int, default=1, help="more than one: wall time")
    parser.add_argument("--report", action="store_true", help="of what was measured so far; measure nothing")
    parser.add_argument("--part", type=part, default=(1, 1), help="K/N: of N parts of the cells measure one")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    whole = cells(arguments.grid, arguments.quick)
    if arguments.scale != 1:
        whole = [c._replace(n=max(int(arguments.scale * c.n), ROWS_A_CLASS * c.K)) for c in whole]
    wanted = [cell for cell in whole if re.search(arguments.only, str(cell))]
    of = state(arguments.threads)
    results = stored(arguments.results, of)
    worker = Worker(arguments.threads)
    part, of_parts = arguments.part
    for number, cell in enumerate(wanted, 1):
        if cell in results or arguments.report or number % of_parts != part % of_parts:
            continue
        results[cell] = Result(cell, measure(worker, cell, arguments.repeats, arguments.limit))
        keep(arguments.results, of, results[cell])
        name, ours, theirs, ratio, own = told(results[cell])
        line = f"[{number}/{len(wanted)}] {name}: {ours} ms; {theirs}; {ratio}; own {own}"
        print(line, file=sys.stderr, flush=True)
    worker.stop()
    done = [results[cell] for cell in wanted if cell in results]
    text = report(done, len(wanted))
    if not arguments.write:
        harness.publish("shapes", text, write=False)
        return
    if arguments.only:
        print(text)
        sys.exit("Cells that were picked are no table of the grid: leave out --only to write one.")
    name = "shapes" + ("" if arguments.grid == "main" else f"_{arguments.grid}")
    name += "_quick" if arguments.quick else ""
    name += "" if arguments.threads == 1 else f"_{arguments.threads}_threads"
    picture = f"![Ours over the fastest of scikit-learn's, by rows and columns]({name}.svg)"
    harness.publish(name, f"{picture}\n\n{text}", write=True)
    draw(done, name)


if __name__ == "__main__":
    main()
