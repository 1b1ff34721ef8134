"""Classes without weight: the problem of the others alone, and its solution as one of all classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from torch_logreg._checks.data import TrainingData
from torch_logreg._losses.penalties import ElasticNet

# By so much at least the raw prediction of a class without weight is below another. Its probability, e^-80 =
# 2e-35, is lost among the rounding errors of any other, and still a normal number of float32.
BELOW = 80.0
# The same where a module starts: e^-16 = 1e-7 is less than stock SGD tells from 0, and not so little that a
# warm start of data in which the class has weight would stay there.
START_BELOW = 16.0


@dataclass(frozen=True)
class Present:
    """Which classes have weight.

    With an intercept a class without weight has no optimum but at infinity: its coefficients go to 0, its
    intercept to minus infinity, and the others solve the problem of their own. Only that is solved, and the
    intercept is set. As the coefficients of the others sum to zero, the largest of their raw predictions is
    nowhere below the mean of their intercepts: `BELOW` that, the class is predicted nowhere.

    Two classes that are left of several are a problem of two with half the penalty, for each of two opposite
    halves of the coefficients is penalised there.
    """

    index: np.ndarray  # into all classes
    n_classes: int

    @classmethod
    def of(cls, data: TrainingData, fit_intercept: bool, times: np.ndarray | None = None) -> Present:
        """The classes of rows that count so many `times`, once by default; all without an intercept."""
        n_classes = len(data.classes)
        every = cls(np.arange(n_classes), n_classes)
        if not fit_intercept or (data.weights.strides == (0,) and times is None):
            return every
        counted = data.weights > 0 if times is None else (data.weights > 0) & (times > 0)
        present = np.bincount(data.codes[counted], minlength=n_classes) > 0
        return every if present.all() else cls(np.flatnonzero(present), n_classes)

    @property
    def are_all(self) -> bool:
        return len(self.index) == self.n_classes

    @property
    def are_two_of_more(self) -> bool:
        return len(self.index) == 2 < self.n_classes

    def narrow(self, data: TrainingData) -> TrainingData:
        """Number the rows by the classes present; those of the others, without weight, as of the first."""
        if self.are_all:
            return data
        codes = np.zeros(self.n_classes, dtype=np.int64)
        codes[self.index] = np.arange(len(self.index))
        return data._replace(codes=codes[data.codes], classes=data.classes[self.index])

    def inverse_strength(self, C: np.ndarray) -> np.ndarray:
        """C of the narrow problem."""
        if not self.are_two_of_more:
            return C
        with np.errstate(over="ignore"):  # as good as no penalty
            return 2 * C

    def penalty(self, penalty: ElasticNet) -> ElasticNet:
        """The penalty of the narrow problem: two opposite halves together are as large as the whole."""
        return ElasticNet(penalty.l1, penalty.l2 / 2) if self.are_two_of_more else penalty

    def narrow_coefficients(self, coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(K, d) and (K,) of all classes as those of the classes present, of two of them the difference."""
        if self.are_all or self.n_classes == 2:
            return coef, intercept
        coef, intercept = coef[self.index], intercept[self.index]
        if len(self.index) == 2:
            return coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        return coef, intercept

    def widen(self, coef: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
        """Make coefficients of all classes from those of the present, (..., K', d) and (..., K')."""
        if self.are_all:
            return coef, intercept
        if self.are_two_of_more:
            coef = torch.cat([-coef / 2, coef / 2], dim=-2)
            intercept = torch.cat([-intercept / 2, intercept / 2], dim=-1)
        index = torch.as_tensor(self.index, dtype=torch.int64, device=coef.device)
        wide = coef.new_zeros((*coef.shape[:-2], self.n_classes, coef.shape[-1]))
        low = (intercept.mean(dim=-1, keepdim=True) - BELOW).expand(*intercept.shape[:-1], self.n_classes)
        return wide.index_copy(-2, index, coef), low.index_copy(-1, index, intercept)

    def widen_arrays(self, coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`widen` of arrays."""
        wide = self.widen(torch.from_numpy(coef), torch.from_numpy(intercept))
        return wide[0].numpy(), wide[1].numpy()

    def constant(self, n_features: int) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients that predict the one class that is present, whatever the row."""
        if self.n_classes == 2:
            return np.zeros((1, n_features)), np.full(1, BELOW if self.index[0] == 1 else -BELOW)
        intercept = np.full(self.n_classes, -BELOW)
        intercept[self.index] = 0.0
        return np.zeros((self.n_classes, n_features)), intercept


def forget_absent(coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """The intercepts (K,) of an earlier fit, without what it set for classes that had no weight in it.

    There all slopes vanish, and a fit of data in which the class has weight would hardly leave.
    """
    unmoved = ~coef.any(axis=1)
    if len(coef) == 1:
        return np.where(unmoved & (np.abs(intercept) > BELOW / 2), 0.0, intercept)
    absent = unmoved & (intercept < intercept.max() - BELOW / 2)
    return np.where(absent, intercept[~absent].mean(), intercept)


@torch.no_grad()
def start_low(module: nn.Module, present: Present) -> None:
    """Let outputs of classes without weight start below the mean of the others', if of a linear layer.

    To get there takes training for ever. Softmax slopes sum to zero over outputs, and a penalty shrinks
    all alike: these outputs then stay below that mean, and are nowhere the largest.
    """
    layer = _last_linear(module)
    if present.are_all or layer is None:
        return
    weight, bias = layer.weight, layer.bias
    if len(bias) == 1:  # one output for two classes
        weight.zero_()
        bias.fill_(START_BELOW if present.index[0] == 1 else -START_BELOW)
        return
    absent = np.setdiff1d(np.arange(present.n_classes), present.index)
    weight[absent] = weight[present.index].mean(dim=0)
    bias[absent] = bias[present.index].mean() - START_BELOW


def _last_linear(module: nn.Module) -> nn.Linear | None:
    """The trainable layer that gives the outputs, or their logits; None if there is no telling."""
    while isinstance(module, nn.Sequential) and len(module):
        layers = list(module)
        if isinstance(layers[-1], nn.LogSoftmax | nn.Sigmoid) and len(layers) > 1:
            layers.pop()
        module = layers[-1]
    # Not a layer of a derived class, such as a parametrised one: its weights may be made anew at each call.
    if type(module) is not nn.Linear or module.bias is None:
        return None
    return module if module.weight.requires_grad and module.bias.requires_grad else None
