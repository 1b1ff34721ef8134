"""Links: what the outputs of a module mean."""

from __future__ import annotations

import math
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from torch_logreg._losses.losses import LOSSES


def class_major(output: Tensor, n_rows: int) -> Tensor:
    """Turn what a module gave for `n_rows` rows into (n_outputs, n_rows), like all raw predictions."""
    output = by_row(output, n_rows)
    return output[None] if output.ndim == 1 else output.T.contiguous()


def by_row(output: Tensor, n_rows: int) -> Tensor:
    """Put the row axis back that a module's ``squeeze()`` took from a batch of one row."""
    return output[None] if n_rows == 1 and output.shape[:1] != (1,) else output


class LogitLink:
    """Outputs are log odds, or one unnormalised log-probability a class."""

    name: ClassVar[str] = "logits"

    @staticmethod
    def decision(z: Tensor) -> Tensor:
        """Log odds (1, n) for two classes, (n_classes, n) for more."""
        return z[1:] - z[:1] if len(z) == 2 else z

    @staticmethod
    def probability(z: Tensor) -> Tensor:
        return LOSSES["binary" if len(z) == 1 else "softmax"].probability(z)  # (n_classes, n)

    @staticmethod
    def log_probability(z: Tensor) -> Tensor:
        return LOSSES["binary" if len(z) == 1 else "softmax"].log_probability(z)  # (n_classes, n)


class ProbabilityLink:
    """The one output is the probability of the second class."""

    name: ClassVar[str] = "probabilities"

    @staticmethod
    def decision(p: Tensor) -> Tensor:
        tiny = torch.finfo(p.dtype).tiny
        return (p.clamp_min(tiny) / (1 - p).clamp_min(tiny)).log()  # (1, n), finite for 0 and 1 too

    @staticmethod
    def probability(p: Tensor) -> Tensor:
        return torch.cat([1 - p, p])  # (2, n)

    @staticmethod
    def log_probability(p: Tensor) -> Tensor:
        tiny = torch.finfo(p.dtype).tiny
        return torch.cat([torch.log1p(-p), p.log()]).clamp_min(math.log(tiny))  # (2, n)


class LogProbabilityLink:
    """Outputs are log-probabilities, one a class."""

    name: ClassVar[str] = "log-probabilities"

    @staticmethod
    def decision(z: Tensor) -> Tensor:
        return LogitLink.decision(LogProbabilityLink.log_probability(z))

    @staticmethod
    def probability(z: Tensor) -> Tensor:
        return z.exp()  # (n_classes, n)

    @staticmethod
    def log_probability(z: Tensor) -> Tensor:
        # Half the range, so that the difference of two is finite as well.
        return z.clamp_min(torch.finfo(z.dtype).min / 2)  # (n_classes, n)


Link: TypeAlias = LogitLink | ProbabilityLink | LogProbabilityLink

# By the names that fitted estimators keep: a pickle is to name no class of ours but the public ones.
LINKS: dict[str, Link] = {link.name: link for link in (LogitLink(), ProbabilityLink(), LogProbabilityLink())}


def codes_of(decision: Tensor) -> Tensor:
    """Class codes (n,) from decision values (1 or K, n); 0 decides for the first of two classes."""
    if len(decision) == 1:
        return (decision[0] > 0).long()
    return decision.max(dim=0).indices  # the first, as of argmax, which takes ten times as long
