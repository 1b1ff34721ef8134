"""The choice of C and l1_ratio, and the table of what it rests on."""

from __future__ import annotations

import numpy as np
import pandas as pd


def results(Cs: np.ndarray, l1_ratios: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """A row a pair, the Cs of an l1_ratio in a row, from `scores` (n_folds, n_l1_ratios, n_Cs)."""
    scores = scores.reshape(len(scores), -1)
    mean = scores.mean(axis=0)
    columns = {
        "C": np.tile(Cs, len(l1_ratios)),
        "l1_ratio": np.repeat(l1_ratios, len(Cs)),
        "mean_test_score": mean,
        "std_test_score": scores.std(axis=0),
        "rank_test_score": pd.Series(-mean).rank(method="min").fillna(len(mean)).astype(np.int32).to_numpy(),
    }
    return pd.DataFrame(columns | {f"split{i}_test_score": row for i, row in enumerate(scores)})


def best_of(scores: np.ndarray) -> tuple[int, int]:
    """The place of the best of `scores` (n_l1_ratios, n_Cs); of equal ones the first C, then l1_ratio."""
    C, ratio = np.unravel_index(np.argmax(scores.T), scores.T.shape)
    return int(ratio), int(C)


def choose(
    Cs: np.ndarray, l1_ratios: np.ndarray, scores: np.ndarray, n_nonzero: np.ndarray, one_standard_error: bool
) -> tuple[int, int]:
    """The place of the best pair of l1_ratio and C, or of the simplest within a standard error of it.

    Simplest is the one of the fewest coefficients, `n_nonzero` (n_l1_ratios, n_Cs), of these of the smallest
    C, and then of the largest l1_ratio. Where that is 0 all coefficients count, whatever rounding made of
    them.

    References
    ----------
    Breiman, Friedman, Olshen, Stone (1984), Classification and Regression Trees, section 3.4.3.
    """
    mean = scores.mean(axis=0)
    best = best_of(mean)
    if not one_standard_error or len(scores) < 2:
        return best
    error = scores[:, *best].std(ddof=1) / np.sqrt(len(scores))
    ratio, C = np.nonzero(mean >= mean[best] - error)
    if not len(C):
        return best
    simplest = np.lexsort((-l1_ratios[ratio], Cs[C], n_nonzero[ratio, C]))[0]
    return int(ratio[simplest]), int(C[simplest])
