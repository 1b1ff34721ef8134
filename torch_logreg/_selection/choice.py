"""The choice of C, and the table of what it rests on."""

from __future__ import annotations

import numpy as np
import pandas as pd


def results(Cs: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """A row a C, from `scores` (n_folds, n_Cs)."""
    mean = scores.mean(axis=0)
    columns = {
        "C": Cs,
        "mean_test_score": mean,
        "std_test_score": scores.std(axis=0),
        "rank_test_score": pd.Series(-mean).rank(method="min").fillna(len(Cs)).astype(np.int32).to_numpy(),
    }
    return pd.DataFrame(columns | {f"split{i}_test_score": row for i, row in enumerate(scores)})


def choose(Cs: np.ndarray, scores: np.ndarray, one_standard_error: bool) -> int:
    """The index of the best C, or of the smallest within a standard error of it.

    References
    ----------
    Breiman, Friedman, Olshen, Stone (1984), Classification and Regression Trees, section 3.4.3.
    """
    mean = scores.mean(axis=0)
    best = int(np.argmax(mean))
    if not one_standard_error or len(scores) < 2:
        return best
    error = scores[:, best].std(ddof=1) / np.sqrt(len(scores))
    within = np.flatnonzero(mean >= mean[best] - error)
    return int(within[np.argmin(Cs[within])]) if len(within) else best
