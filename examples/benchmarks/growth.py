"""Seconds of a fit against the number of rows, columns and classes, and the power of the rows it grows by.

    python examples/benchmarks/growth.py [--repeats N] [--scale S] [--write]

float32. Every point follows the rule in `harness.py`, with a coarser ladder. An estimator that took
more than `--limit` seconds at one size is not run at the next. `--write` also draws
`docs/_benchmarks/growth.svg`, and needs matplotlib for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import harness
import numpy as np

# What grows: the label of the axis, its sizes, and (rows, columns, classes) at one.
PANELS = {
    "n": ("rows", (10_000, 30_000, 100_000, 300_000, 1_000_000), lambda size: (size, 50, 2)),
    "d": ("columns", (10, 30, 100, 300, 1000), lambda size: (20_000, size, 2)),
    "K": ("classes", (2, 5, 10, 30, 100), lambda size: (20_000, 50, size)),
}
LADDER = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
PEERS = {
    'LogisticRegression(solver="lbfgs")': "LogisticRegression, lbfgs",
    'LogisticRegression(solver="newton-cholesky")': "LogisticRegression, newton-cholesky",
    'sklearnex LogisticRegression(solver="lbfgs")': "sklearnex, lbfgs",
}
NAMES = {harness.OURS: "torch_logreg", **PEERS}
COLOURS = ("#c0392b", "#2b6cb0", "#2f855a", "#8a6d1d")
MOST = 1.05  # the power of n that is meant to be kept
Seconds = dict[str, dict[int, float]]  # of each name, by size


def ladder_of(peer: harness.Peer) -> harness.Peer:
    factor = peer.ladder[0] / harness.LBFGS[0] if "lbfgs" in peer.name else 1.0  # sklearnex counts in sums
    return peer._replace(ladder=tuple(tol * factor for tol in LADDER))


def measure(panel: str, scale: float, repeats: int, limit: float) -> Seconds:
    _, sizes, shape = PANELS[panel]
    seconds: Seconds = {name: {} for name in NAMES}
    slow: set[str] = set()
    for size in sizes:
        n_rows, n_features, n_classes = shape(size)
        X, y = harness.correlated(int(n_rows * scale), n_features, n_classes, np.float32)
        print(f"{panel} = {size:,}: {len(X):,} x {n_features}, {n_classes} classes", file=sys.stderr)
        found = [peer for peer in harness.peers(len(X), n_classes) if peer.name in PEERS]
        candidates = [ladder_of(peer) for peer in found if peer.name not in slow]
        for row in harness.compare(candidates, X, y, repeats, limit):
            if not row.seconds <= limit:  # also where it was ended, and has no time
                slow.add(row.name)
            if row.name in NAMES and row.counts:
                seconds[row.name][len(X) if panel == "n" else size] = row.seconds
    return seconds


def power(times: dict[int, float]) -> float:
    """The slope of log seconds over log size, by least squares."""
    return float(np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0])


def tables(results: dict[str, Seconds]) -> Iterator[str]:
    for panel, seconds in results.items():
        sizes = sorted({size for times in seconds.values() for size in times})
        lines = []
        for size in sizes:
            cells = (f"{times[size]:.4g}" if size in times else "" for times in seconds.values())
            lines.append([f"{panel} = {size:,}", *cells])
        if panel == "n":
            powers = [f"{power(times):.2f}" if len(times) > 1 else "" for times in seconds.values()]
            lines.append(["power of n", *powers])
        yield harness.table([f"{PANELS[panel][0]}, s", *(f"`{name}`" for name in seconds)], lines)
    yield f"Target: a power of n of at most {MOST} for ours. Empty: stops short of F\\*, or too slow."


def draw(results: dict[str, Seconds]) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    # Text stays text, and no date nor random id makes two runs differ.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "growth", "font.size": 9})
    figure, axes = plt.subplots(1, len(results), figsize=(11, 3.4), sharey=True, layout="constrained")
    for axis, (panel, seconds) in zip(axes, results.items(), strict=True):
        for colour, times in zip(COLOURS, seconds.values(), strict=True):
            axis.loglog(list(times), list(times.values()), "o-", color=colour, markersize=3.5, linewidth=1.5)
        axis.set_xlabel(f"{PANELS[panel][0]} ({panel})")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes[0].set_ylabel("seconds of a fit")
    # Direct labels, beside the ends of the last panel's lines and as far apart as it takes to read them.
    last = zip(COLOURS, seconds.items(), strict=True)
    ends = sorted((times[max(times)], colour, NAMES[name]) for colour, (name, times) in last if times)
    low, high = np.log(axes[-1].get_ylim())
    height = -np.inf
    for end, colour, label in ends:
        height = max((np.log(end) - low) / (high - low), height + 0.07)
        axes[-1].annotate(label, (1.03, height), xycoords="axes fraction", color=colour, va="center")
    figure.savefig(harness.PARTS / "growth.svg", metadata={"Date": None})


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.set_defaults(limit=20.0)
    arguments = parser.parse_args()
    results = {panel: measure(panel, arguments.scale, arguments.repeats, arguments.limit) for panel in PANELS}
    text = "\n".join(tables(results))
    if arguments.write:
        text = f"![Seconds of a fit against rows, columns and classes](growth.svg)\n\n{text}"
    harness.publish("growth", text, arguments.write)
    if arguments.write:
        draw(results)


if __name__ == "__main__":
    main()
