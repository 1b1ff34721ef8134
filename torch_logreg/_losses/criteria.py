"""Criteria: the loss of each row, and what it takes the outputs of a module for (its link)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_logreg._losses.links import Link, LogitLink, LogProbabilityLink, ProbabilityLink, by_row
from torch_logreg._runtime.blame import described, naming


@dataclass(frozen=True)
class Criterion:
    """A loss of each row, and what it takes the outputs of a module for."""

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    link: Link
    outputs: tuple[int, ...]  # how many a row it can work with; builders are asked for the first

    @property
    def n_outputs(self) -> int:
        return self.outputs[0]

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the loss's own tensors, such as weights of classes."""
        if isinstance(self.loss, nn.Module):
            self.loss.to(device=device, dtype=dtype)

    def weighted_sum(self, output: Tensor, codes: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
        """The sum of weight times loss over rows with class codes and weights (n,), summed in `dtype`."""
        n_rows = len(codes)
        output = by_row(output, n_rows)
        single = output.ndim == 1 or output.shape[1] == 1
        # Codes may be the user's own y, which a loss is not to write to.
        target = codes.to(output.dtype, copy=True).view_as(output) if single else codes.clone()
        try:
            losses = self.loss(output, target)
        except Exception:
            advice = "It must take such outputs and targets, and give one loss a row, of shape (n_rows,)."
            given = f"outputs {described(output)} and targets {described(target)}"
            with naming(f"criterion={self.name} called with {given}", advice):
                raise
        if losses.ndim == 0:
            return self._sum_of_mean(losses, weights).to(dtype)
        if losses.numel() != n_rows:
            raise ValueError(
                f"criterion={self.name} gave losses of shape {tuple(losses.shape)} for {n_rows} rows; it "
                "must give one loss a row, of shape (n_rows,)."
            )
        losses = losses.reshape(n_rows)
        if weights.dtype == losses.dtype == dtype:
            return torch.dot(weights, losses)
        return (weights * losses).sum(dtype=dtype)

    def _sum_of_mean(self, mean: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum from a mean over rows, if that is all one needs to know."""
        if not bool((weights == weights[0]).all()):
            raise ValueError(
                f"criterion={self.name} gave one number for {len(weights)} rows of unequal weight, so "
                "sample_weight and class_weight cannot be taken into account; let it return one loss a row, "
                'of shape (n_rows,), as losses of torch do with reduction="none".'
            )
        return mean * weights.sum()


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of one logit, softmax cross-entropy of several: (n,) or (n, 1)."""
    if output.shape == target.shape:
        return F.binary_cross_entropy_with_logits(output, target, reduction="none")
    return F.cross_entropy(output, target, reduction="none")


def resolve_criterion(criterion: Any, n_classes: int) -> Criterion:
    """A criterion as the user gave it: None, a loss, or a class of losses, which is never changed.

    `nn.BCELoss` says that a module gives probabilities, `nn.NLLLoss` log-probabilities, and all else
    logits. BCELoss learns nothing from the rows that are most wrong: its gradient through a sigmoid is 0 from
    a logit of 17 on in float32 (37 in float64), and small below -28, where that of BCEWithLogitsLoss is 1.
    """
    either = (1, 2) if n_classes == 2 else (n_classes,)
    if criterion is None:
        return Criterion("None", cross_entropy, LogitLink(), either)
    loss = criterion() if isinstance(criterion, type) else copy.deepcopy(criterion)
    if not callable(loss):
        raise TypeError(
            f"criterion={loss!r} is not a loss; use None or a loss of torch.nn such as nn.BCELoss()."
        )
    name = getattr(loss, "__name__", type(loss).__name__)
    _refuse_unfit(loss, name)
    if hasattr(loss, "reduction"):
        loss.reduction = "none"
    if isinstance(loss, nn.BCELoss | nn.BCEWithLogitsLoss):
        if n_classes != 2:
            raise ValueError(
                f"criterion={name} is for two classes, and y has {n_classes}; use nn.CrossEntropyLoss()."
            )
        return Criterion(name, loss, ProbabilityLink() if isinstance(loss, nn.BCELoss) else LogitLink(), (1,))
    if isinstance(loss, nn.NLLLoss):
        return Criterion(name, loss, LogProbabilityLink(), (n_classes,))
    if isinstance(loss, nn.CrossEntropyLoss):
        return Criterion(name, loss, LogitLink(), (n_classes,))
    return Criterion(name, loss, LogitLink(), either)


def is_cross_entropy(criterion: Any) -> bool:
    """Whether a criterion is the loss of the linear model, but for weights of its classes.

    A subclass may compute anything. Codes of classes are never negative, so that no row has a negative
    `ignore_index`.
    """
    if criterion in (None, nn.BCEWithLogitsLoss, nn.CrossEntropyLoss):
        return True
    if type(criterion) is nn.BCEWithLogitsLoss:
        return criterion.weight is None
    plain = type(criterion) is nn.CrossEntropyLoss and criterion.label_smoothing == 0
    return plain and criterion.ignore_index < 0


def weights_of_classes(criterion: Any, classes: np.ndarray) -> np.ndarray | None:
    """Factors of a criterion that `is_cross_entropy` on the losses of each class; None for none.

    Of a mean over rows torch divides by these weights again; here losses are summed, so it does not matter.
    """
    resolved = resolve_criterion(criterion, len(classes))
    of_second = isinstance(resolved.loss, nn.BCEWithLogitsLoss)
    name = "pos_weight" if of_second else "weight"
    given: Tensor | None = getattr(resolved.loss, name, None)
    if given is None:
        return None
    values = given.detach().cpu().double().numpy()
    n_needed = 1 if of_second else len(classes)
    if values.size != n_needed:
        raise ValueError(
            f"criterion={resolved.name} has a {name} of shape {values.shape}, and these classes need "
            f"{n_needed} in it: {classes.tolist()}."
        )
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(
            f"criterion={resolved.name} has {name}={values.tolist()}: each must be a finite number above 0."
        )
    return np.array([1.0, values.item()]) if of_second else values.reshape(-1)


def _refuse_unfit(loss: Any, name: str) -> None:
    """Raise for what would train in silence to something other than a classifier of its probabilities."""
    known = (nn.BCELoss, nn.BCEWithLogitsLoss, nn.CrossEntropyLoss, nn.NLLLoss)
    if type(loss).__module__ == nn.BCELoss.__module__ and not isinstance(loss, known):
        raise ValueError(
            f"criterion={name} is no loss of class probabilities; use one of "
            f"{', '.join('nn.' + kind.__name__ for kind in known)}, or your own callable(logits, target) "
            "that gives one loss a row."
        )
    if getattr(loss, "__module__", None) == F.__name__:
        raise ValueError(
            f"criterion={name} is a function of torch.nn.functional, which does not say what it takes for an "
            "output; use the loss of torch.nn, such as nn.CrossEntropyLoss()."
        )
    if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
        raise ValueError(
            f"criterion={name} has parameters, which are not trained; make them part of the module."
        )
