"""Scores of many models at once on the same rows, as scikit-learn's scorers of these names define them.

Raw predictions ``z`` are class-major, ``(n_models, K, n_rows)``: K is 1 for two classes, the log odds of the
second, and else the number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

LEAST = float(np.finfo(np.float64).eps)  # of probabilities


def _means(of_rows: Tensor, weights: Tensor | None) -> Tensor:
    """(n_models, n_rows) -> (n_models,)."""
    of_rows = of_rows.to(torch.float64)
    return of_rows.mean(dim=1) if weights is None else (of_rows @ weights) / weights.sum()


def _correct(z: Tensor, codes: Tensor) -> Tensor:
    predicted = z[:, 0] > 0 if z.shape[1] == 1 else z.max(dim=1).indices
    return predicted == codes  # (n_models, n_rows)


def _accuracy(z: Tensor, codes: Tensor, weights: Tensor | None) -> Tensor:
    return _means(_correct(z, codes), weights)


def _balanced_accuracy(z: Tensor, codes: Tensor, weights: Tensor | None) -> Tensor:
    of_class = F.one_hot(codes).to(torch.float64)  # (n_rows, n_classes)
    if weights is not None:
        of_class = of_class * weights[:, None]
    recalls = _correct(z, codes).to(torch.float64) @ of_class / of_class.sum(dim=0)
    return recalls.mean(dim=1)


def _neg_log_loss(z: Tensor, codes: Tensor, weights: Tensor | None) -> Tensor:
    """Cut probabilities off at `LEAST`, as scikit-learn does: a score must be the same there."""
    z = z.to(torch.float64)
    if z.shape[1] == 1:
        loss = F.softplus((1 - 2 * codes) * z[:, 0], threshold=40)
    else:
        loss = z.logsumexp(dim=1) - z.gather(1, codes.expand(len(z), 1, -1))[:, 0]
    return -_means(loss.clamp(-math.log1p(-LEAST), -math.log(LEAST)), weights)


def _neg_brier_score(z: Tensor, codes: Tensor, weights: Tensor | None) -> Tensor:
    z = z.to(torch.float64)
    if z.shape[1] == 1:
        return -_means(torch.sigmoid((1 - 2 * codes) * z[:, 0]).square(), weights)
    wrong = torch.softmax(z, dim=1)
    wrong.scatter_add_(1, codes.expand(len(z), 1, -1), -torch.ones_like(wrong[:, :1]))
    return -_means(wrong.square().sum(dim=1), weights)


def _ranked(z: Tensor, positive: Tensor, weights: Tensor | None) -> tuple[Tensor, ...]:
    """Rank by falling z (Q, n): weights of positives and of all rows, first and last row of each tie."""
    z, order = z.sort(dim=1, descending=True)
    positive = positive.to(torch.float64).expand(z.shape).gather(1, order)
    every = torch.ones_like(positive) if weights is None else weights[order]
    index = torch.arange(z.shape[1], dtype=torch.int64, device=z.device).expand(z.shape)
    starts = F.pad(z[:, 1:] != z[:, :-1], (1, 0), value=True)
    ends = F.pad(starts[:, 1:], (0, 1), value=True)
    first = torch.where(starts, index, 0).cummax(dim=1).values
    last = torch.where(ends, index, z.shape[1]).flip(1).cummin(dim=1).values.flip(1)
    return positive * every, every, first, last


def _roc_auc(z: Tensor, codes: Tensor, weights: Tensor | None) -> Tensor:
    """The chance that a row of the second class is ranked above one of the first; ties count half."""
    positive, every, first, last = _ranked(z[:, 0], codes, weights)
    negative = every - positive
    above = negative.cumsum(dim=1)
    ahead = (above - negative).gather(1, first)  # of the tie
    total = negative.sum(dim=1, keepdim=True)
    behind = total - (ahead + above.gather(1, last)) / 2
    return (positive * behind).sum(dim=1) / (positive.sum(dim=1) * total[:, 0])


def _average_precision(z: Tensor, codes: Tensor, weights: Tensor | None) -> Tensor:
    """The mean over several classes of each against the rest."""
    n_models, K, n = z.shape
    target = codes[None] if K == 1 else F.one_hot(codes, K).T
    positive, every, _, last = _ranked(z.reshape(-1, n), target.repeat(n_models, 1), weights)
    precision = (positive.cumsum(dim=1) / every.cumsum(dim=1).clamp(min=torch.finfo(z.dtype).tiny)).gather(
        1, last
    )
    return ((positive * precision).sum(dim=1) / positive.sum(dim=1)).view(n_models, K).mean(dim=1)


SCORES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "accuracy": _accuracy,
    "average_precision": _average_precision,
    "balanced_accuracy": _balanced_accuracy,
    "neg_brier_score": _neg_brier_score,
    "neg_log_loss": _neg_log_loss,
    "roc_auc": _roc_auc,
}
OF_PROBABILITIES = ("neg_brier_score", "neg_log_loss")


def positive_class(name: str, classes: np.ndarray) -> int | None:
    """The index of the class that the scorer of that name calls positive of two; None where it raises.

    Where the scorer names none the larger label is; a Brier score of words, and an average precision
    (``pos_label=1``) of labels without a 1, raise.
    """
    words = classes.dtype.kind not in "biuf"
    if name == "neg_brier_score" and words:
        return None
    if name == "average_precision":
        ones = [] if words else np.flatnonzero(classes == 1).tolist()
        return ones[0] if ones else None
    return 1


def is_vectorised(name: str, classes: np.ndarray, codes: Tensor, weights: Tensor | None) -> bool:
    """Whether `score_all` has this score: not where scikit-learn warns or raises, as for an absent class."""
    n_classes = len(classes)
    if name not in SCORES or (name == "roc_auc" and n_classes > 2):
        return False
    if weights is not None and not bool(weights.sum() > 0):
        return False
    # Of several classes too scikit-learn 1.8 wants a 1 for an average precision; later ones do not.
    if (n_classes == 2 or name == "average_precision") and positive_class(name, classes) is None:
        return False
    if name == "accuracy":
        return True
    # A row without weight shows a label to a loss of probabilities, and is none to what counts rows.
    of_rows = None if name in OF_PROBABILITIES else weights
    return bool((torch.bincount(codes, of_rows, n_classes) > 0).all())


def score_all(name: str, z: Tensor, codes: Tensor, weights: Tensor | None, classes: np.ndarray) -> np.ndarray:
    """The score of each model, (n_models,), where `is_vectorised` says that it is the scorer's.

    Parameters
    ----------
    name : str
        A key of `SCORES`.
    z : Tensor of shape (n_models, K, n_rows)
    codes : Tensor of shape (n_rows,)
        int64, an index into the classes.
    weights : Tensor of shape (n_rows,) or None
        float64.
    classes : ndarray of shape (n_classes,)
        The labels, of which a scorer may call one positive.
    """
    if len(classes) == 2 and positive_class(name, classes) == 0:
        z, codes = -z, 1 - codes
    # The sums are in float64, which not every accelerator has; what is ranked is ranked where it lies.
    if z.device.type not in ("cpu", "cuda"):
        z, codes = z.cpu(), codes.cpu()
        weights = None if weights is None else weights.cpu()
    return SCORES[name](z, codes, weights).cpu().numpy()
