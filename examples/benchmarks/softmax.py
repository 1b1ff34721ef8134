"""Seconds to fit many rows of many classes: ours and every peer that reaches the same objective.

    python examples/benchmarks/softmax.py [--probe] [--dtype D ...] [--repeats N] [--scale S] [--limit L]
        [--write]

100 000 x 100 with 10 classes, or with --probe the size of a linear probe, 50 000 x 512 with 100 classes,
for which the memory of a fit is measured too. The rule is in `harness.py`.
"""

from __future__ import annotations

import harness
import memory


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--probe", action="store_true", help="50 000 x 512 with 100 classes")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "float64"), default=["float32"])
    arguments = parser.parse_args()
    n_rows, n_features, n_classes = (50_000, 512, 100) if arguments.probe else (100_000, 100, 10)
    parts = []
    for dtype in arguments.dtype:
        X, y = harness.correlated(int(n_rows * arguments.scale), n_features, n_classes, dtype)
        candidates = harness.peers(len(X), n_classes, cholesky=not arguments.probe)
        rows = harness.compare(
            candidates, X, y, arguments.repeats, arguments.limit, burst=1 if arguments.probe else 2
        )
        title = f"{len(X):,} x {n_features}, {n_classes} classes, {dtype}, repeats: {arguments.repeats}"
        parts.append(f"**{title}**\n\n{harness.rows_table(rows)}")
        if arguments.probe:
            side = n_classes * (n_features + 1)
            parts.append(
                f"Left out: newton-cholesky, whose Hessian of {side:,} x {side:,} numbers takes "
                f"{side**2 * X.itemsize / 2**30:.1f} GiB.\n"
            )
        del X  # a child makes its own
        if arguments.probe:
            parts.append(memory.report([("probe", dtype)], arguments.scale))
    name = "probe" if arguments.probe else "softmax"
    harness.publish(name, "\n".join(parts), arguments.write)


if __name__ == "__main__":
    main()
