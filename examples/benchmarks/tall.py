"""Seconds to fit many rows of two classes: ours and every peer that reaches the same objective.

    python examples/benchmarks/tall.py [--repeats N] [--scale S] [--limit L] [--write]

500 000 x 100 correlated columns, float32 and float64. The rule is in `harness.py`.
"""

from __future__ import annotations

import harness
import numpy as np


def main() -> None:
    arguments = harness.parser(__doc__, repeats=5).parse_args()
    parts = []
    for dtype in (np.float32, np.float64):
        X, y = harness.correlated(int(500_000 * arguments.scale), 100, 2, dtype)
        rows = harness.compare(harness.peers(len(X)), X, y, arguments.repeats, arguments.limit)
        title = f"{len(X):,} x {X.shape[1]}, 2 classes, {X.dtype}, repeats: {arguments.repeats}"
        parts.append(f"**{title}**\n\n{harness.rows_table(rows)}")
    harness.publish("tall", "\n".join(parts), arguments.write)


if __name__ == "__main__":
    main()
