"""Losses at one raw prediction: value, gradient, Fisher information and probability.

Raw predictions ``z`` are class-major, ``(P, K, n_rows)``: P problems, K outputs. Reductions over
the outputs then run over contiguous rows of numbers, which is many times cheaper than the same
reduction over ``(n_rows, K)``. For both losses the Fisher information equals the Hessian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F


def softplus(z: Tensor) -> Tensor:
    """``log(1 + exp(z))`` to the last digit: torch's default threshold of 20 cuts off 2e-9.

    `F.logsigmoid` would do, but starts all threads even for a few hundred numbers.
    """
    return F.softplus(z, threshold=40)


def _of_slope(slope: Tensor) -> Tensor:
    """``p (1 - p)`` with p of what is wrong, from the gradient of the loss, (P, K, n).

    The gradient is p of the classes that are not the row's, and ``p - 1`` of its own: both are known to the
    last digit where the row is predicted well. Where it is not the result may be a rounding error of 1.
    """
    wrong = slope.abs()
    return torch.addcmul(wrong, wrong, wrong, value=-1)


def _self_information(p: Tensor) -> Tensor:
    """``-p log(p)``, 0 at 0: by a bound of the logarithm, as `xlogy` takes twenty times as long."""
    return p.clamp(min=torch.finfo(p.dtype).tiny).log_().mul_(-p)


def _rest(wrong: Tensor) -> Tensor:
    """``q log(q)`` with ``q = 1 - wrong``, to the last digit where little is wrong."""
    q = 1 - wrong
    return torch.where(q > 0, torch.log1p(-wrong).mul_(q), 0.0)


class BinaryCrossEntropy:
    """``log(1 + exp(t z))`` with one raw prediction a row and ``t`` the sign of a wrong one.

    With the sign in ``t`` the gradient ``t / (1 + exp(-t z))`` keeps its relative accuracy however
    small it is, where ``sigmoid(z) - y`` rounds to zero.
    """

    shift_invariant = False

    @staticmethod
    def n_outputs(n_classes: int) -> int:
        return 1

    @staticmethod
    def encode(codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Class codes {0, 1} as the signs {+1, -1}."""
        return codes.to(dtype).mul_(-2).add_(1)  # (n_rows,)

    @staticmethod
    def codes(target: Tensor) -> Tensor:
        """Class codes, of what `encode` made of them."""
        return (target < 0).to(torch.int64)

    @staticmethod
    def value(z: Tensor, target: Tensor) -> Tensor:
        return softplus(target * z).squeeze(1)  # (P, n)

    @staticmethod
    def value_and_gradient(z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        against = target * z
        return softplus(against).squeeze(1), torch.sigmoid(against).mul_(target)  # (P, n), (P, 1, n)

    @staticmethod
    def value_and_gradient_(z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """`value_and_gradient` that overwrites z: fresh memory costs as much as the arithmetic."""
        against = z.mul_(target)
        value = softplus(against).squeeze(1)
        return value, against.sigmoid_().mul_(target)

    @staticmethod
    def gradient(z: Tensor, target: Tensor) -> Tensor:
        return torch.mul(target, z).sigmoid_().mul_(target)  # (P, 1, n)

    @staticmethod
    def entropy(slope: Tensor, target: Tensor, part: Tensor | float) -> Tensor:
        """Minus the conjugate of the loss at `part`, in [0, 1], of its gradient: (P, K, n) -> (P, n)."""
        wrong = slope[:, 0].abs() * part
        return _self_information(wrong).sub_(_rest(wrong))

    @staticmethod
    def fisher(z: Tensor) -> Tensor:
        """Prepare what the three functions below need of ``z``: here ``p (1 - p)``."""
        return torch.sigmoid(z) * torch.sigmoid(-z)  # (P, 1, n)

    @staticmethod
    def fisher_operator(fisher: Tensor, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what maps ``dz`` (P, K, n), in place, to products with each row's weighted Fisher matrix."""
        weighted = fisher * weights[:, None]
        return lambda dz: dz.mul_(weighted)

    @staticmethod
    def fisher_diagonal(fisher: Tensor) -> Tensor:
        return fisher

    @staticmethod
    def fisher_diagonal_at(slope: Tensor) -> Tensor:
        """`fisher_diagonal` from the gradient, where that is known."""
        return _of_slope(slope)

    @staticmethod
    def fisher_factors(fisher: Tensor) -> Tensor | None:
        """The b (P, K, n) that make a row's Fisher matrix ``-b_k b_l`` off its diagonal; None for 0."""
        return None

    @staticmethod
    def log_probability(z: Tensor) -> Tensor:
        return -softplus(torch.cat([z, -z]))  # (1, n) -> (2, n)

    @staticmethod
    def probability(z: Tensor) -> Tensor:
        # Each side from its own sigmoid: 1 - p would round a small probability away.
        return torch.sigmoid(torch.cat([-z, z]))  # (1, n) -> (2, n)


def _likeliest(probability: Tensor) -> Tensor:
    return probability.max(dim=1, keepdim=True).indices  # ten times as fast as `argmax`


class SoftmaxCrossEntropy:
    """``logsumexp(z) - z[y]`` with one raw prediction a class.

    Written as ``log(1 + exp(a))`` with ``a = logsumexp(z[k] - z[y] for k != y)``: value and gradient
    then keep their relative accuracy when the row is predicted well, where both are differences of
    numbers that are nearly equal.

    The parametrisation is symmetric: adding a constant to every output changes nothing, so the
    Fisher matrix is singular in that direction.
    """

    shift_invariant = True

    @staticmethod
    def n_outputs(n_classes: int) -> int:
        return n_classes

    @staticmethod
    def encode(codes: Tensor, dtype: torch.dtype) -> Tensor:
        return codes.to(torch.int64)  # (n_rows,)

    @staticmethod
    def codes(target: Tensor) -> Tensor:
        """Class codes, of what `encode` made of them."""
        return target

    @classmethod
    def value(cls, z: Tensor, target: Tensor) -> Tensor:
        return cls.value_and_gradient(z, target)[0]  # (P, n)

    @classmethod
    def value_and_gradient(cls, z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        index = target.expand(z.shape[0], 1, -1)
        return cls._of_differences(z - z.gather(1, index), index)

    @classmethod
    def value_and_gradient_(cls, z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """`value_and_gradient` that overwrites z."""
        index = target.expand(z.shape[0], 1, -1)
        return cls._of_differences(z.sub_(z.gather(1, index)), index)

    @staticmethod
    def _of_differences(z: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Value and gradient of z less that of the row's class, which is overwritten."""
        others = z.scatter_(1, index, -torch.inf)
        largest = others.amax(dim=1, keepdim=True)
        odds = others.sub_(largest).exp_()  # against the row's class, by class and but for a factor
        total = odds.sum(dim=1, keepdim=True)
        against = total.log().add_(largest)  # (P, 1, n)
        wrong = torch.sigmoid(against)
        gradient = odds.mul_(wrong / total).scatter_(1, index, -wrong)
        return softplus(against).squeeze(1), gradient  # (P, n), (P, K, n)

    @classmethod
    def gradient(cls, z: Tensor, target: Tensor) -> Tensor:
        return cls.value_and_gradient(z, target)[1]  # (P, K, n)

    @staticmethod
    def entropy(slope: Tensor, target: Tensor, part: Tensor | float) -> Tensor:
        """Minus the conjugate of the loss at `part`, in [0, 1], of its gradient: (P, K, n) -> (P, n)."""
        index = target.expand(slope.shape[0], 1, -1)
        wrong = slope.gather(1, index).squeeze(1).abs_() * part
        others = (slope * part).scatter_(1, index, 0.0)
        return _self_information(others).sum(dim=1).sub_(_rest(wrong))

    @staticmethod
    def fisher(z: Tensor) -> Tensor:
        """Prepare what the three functions below need of ``z``: here the probabilities."""
        return torch.softmax(z, dim=1)  # (P, K, n)

    @staticmethod
    def fisher_operator(fisher: Tensor, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what maps ``dz`` (P, K, n), in place, to products with each row's weighted Fisher matrix."""
        likeliest, weighted = _likeliest(fisher), fisher * weights[:, None]

        def product(dz: Tensor) -> Tensor:
            # Relative to the likeliest class: its own p near 1 then multiplies only zeros.
            dz = dz.sub_(dz.gather(1, likeliest))
            return dz.sub_((fisher * dz).sum(dim=1, keepdim=True)).mul_(weighted)

        return product

    @staticmethod
    def fisher_diagonal(fisher: Tensor) -> Tensor:
        # p (1 - p), with 1 - p of the likeliest class as the sum of the others, which does not cancel.
        likeliest = _likeliest(fisher)
        others = fisher.scatter(1, likeliest, 0.0).sum(dim=1, keepdim=True)
        return fisher * (1 - fisher).scatter(1, likeliest, others)

    @staticmethod
    def fisher_diagonal_at(slope: Tensor) -> Tensor:
        """`fisher_diagonal` from the gradient, where that is known."""
        return _of_slope(slope)

    @staticmethod
    def fisher_factors(fisher: Tensor) -> Tensor | None:
        """The b (P, K, n) that make a row's Fisher matrix ``-b_k b_l`` off its diagonal; None for 0."""
        return fisher

    @staticmethod
    def log_probability(z: Tensor) -> Tensor:
        return torch.log_softmax(z, dim=0)  # (K, n)

    @staticmethod
    def probability(z: Tensor) -> Tensor:
        return torch.softmax(z, dim=0)  # (K, n)


Loss: TypeAlias = BinaryCrossEntropy | SoftmaxCrossEntropy

LOSSES: dict[str, Loss] = {"binary": BinaryCrossEntropy(), "softmax": SoftmaxCrossEntropy()}


def outputs_factor(factors: Tensor | None, of_row: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum over rows of the Fisher matrices of their outputs, (P, K, K).

    `of_row` (P, K, n) is their diagonal times `weights` (1 or P, n), and the rest of `fisher_factors`.
    """
    diagonal = of_row.sum(dim=2)
    if factors is None:
        return torch.diag_embed(diagonal)
    outputs = -(factors * weights[:, None]) @ factors.mT
    outputs.diagonal(dim1=1, dim2=2).copy_(diagonal)
    return outputs
