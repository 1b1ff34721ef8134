"""How many classes there are in a test of a loss."""

from __future__ import annotations

from torch_logreg._losses.losses import Loss


def classes_for(loss: Loss, most: int = 3) -> int:
    """Two where one raw prediction a row is for two classes alone, and otherwise `most`."""
    return 2 if loss.n_outputs(most) == 1 else most
