"""Seconds to fit many dense columns: ours and every peer that reaches the same objective.

    python examples/benchmarks/wide.py [--dtype D ...] [--repeats N] [--scale S] [--limit L] [--write]

20 000 x 2000 nearly separable rows, and 500 x 20 000, fewer rows than columns. The rule is in `harness.py`.
"""

from __future__ import annotations

import harness
import numpy as np
from scipy.special import expit

# Rows, columns, latent factors, their size next to the noise, and the spread of the log odds.
SHAPES = {
    "nearly separable": (20_000, 2_000, 50, 0.3, 8.0),
    "few rows": (500, 20_000, 20, 1.0, 3.0),
}


def factors(n: int, d: int, k: int, size: float, odds: float, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(k, d))
    X = size * rng.normal(size=(n, k)) @ loadings + rng.normal(size=(n, d))
    X /= X.std(axis=0)
    z = X @ rng.normal(size=d)
    return X.astype(dtype), (rng.random(n) < expit(odds * z / z.std())).astype(np.int64)


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--dtype", nargs="+", choices=("float32", "float64"), default=["float32"])
    arguments = parser.parse_args()
    parts = []
    for name, (n_rows, *shape) in SHAPES.items():
        for dtype in arguments.dtype:
            X, y = factors(int(n_rows * arguments.scale), *shape, dtype)
            found = harness.peers(len(X), cholesky=False)
            candidates = [peer for peer in found if not peer.name.startswith("glum")]
            rows = harness.compare(candidates, X, y, arguments.repeats, arguments.limit)
            title = f"{len(X):,} x {X.shape[1]:,}, {name}, {dtype}, repeats: {arguments.repeats}"
            parts.append(f"**{title}**\n\n{harness.rows_table(rows)}")
    parts.append("Left out: newton-cholesky and glum, which factorise a matrix of columns x columns.\n")
    harness.publish("wide", "\n".join(parts), arguments.write)


if __name__ == "__main__":
    main()
