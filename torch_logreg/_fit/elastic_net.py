"""The linear model with an L1 term: from checked data to an objective, and back to coefficients."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from torch_logreg._checks.data import TrainingData
from torch_logreg._contracts.objective import Objective
from torch_logreg._contracts.rows import Sample
from torch_logreg._contracts.solver import Solution
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.tensors import float_dtype, to_tensor
from torch_logreg._fit.linear import CoefficientProblem, Coefficients, regular_C
from torch_logreg._fit.plan import Method
from torch_logreg._fit.present import Present
from torch_logreg._fit.problem import Certificate, make_rows
from torch_logreg._fit.used import Used
from torch_logreg._linear.coordinates import Coordinates
from torch_logreg._linear.elastic_net import ElasticNetObjective
from torch_logreg._linear.minibatches import MinibatchObjective
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.moments import moments
from torch_logreg._linear.streamed import Streamed
from torch_logreg._losses.losses import LOSSES
from torch_logreg._losses.penalties import ElasticNet
from torch_logreg._runtime.devices import supports_float64

STOCHASTIC = ("sgd", "line search")


def elastic_net_problem(
    data: TrainingData,
    device: torch.device,
    C: float,
    l1_ratio: float,
    fit_intercept: bool,
    earlier: Coefficients | None,
    method: Method,
    seed: Callable[[], int],
    check: Callable[[], None] | None,
) -> CoefficientProblem:
    """The linear model with an elastic-net penalty; arguments as of `linear_problem`.

    Coefficients and all sums are in float64 where the device has it, but for stock SGD.
    """
    present = Present.of(data, fit_intercept)
    used = Used.of(data, None if earlier is None else earlier[0])
    data = used.narrow(present.narrow(data))
    loss = LOSSES["binary" if len(data.classes) == 2 else "softmax"]
    n_outputs = loss.n_outputs(len(data.classes))
    dtype = float_dtype(data.X, device)
    codes = loss.encode(to_tensor(data.codes, device, torch.int64), dtype)
    rows = make_rows(data, codes, device, dtype, n_outputs, check)
    exact = dtype if method == "sgd" or not supports_float64(device) else torch.float64
    weights = rows.weights[0]
    if dtype != exact:  # the certificate is that of the weights it is computed with, to the last digit
        weights = to_tensor(data.weights, device, exact)
    weight_sum = float(weights.sum(dtype=exact))
    least = float(regular_C(np.array([C]), data, exact)[0])
    penalty = present.penalty(ElasticNet.of(least, l1_ratio, weight_sum))

    def draw(n_rows: int) -> Sample:
        return rows.sample(n_rows, loss.codes, torch.Generator(device="cpu").manual_seed(seed()))

    whole = torch.tensor([weight_sum], dtype=exact, device=device)
    C_of_l2 = 1 / (penalty.l2 * whole)
    model, is_stochastic = LinearModel(loss, C_of_l2, n_outputs, fit_intercept), method in STOCHASTIC
    found = moments(rows, whole, fit_intercept) if method == "line search" else None
    space = model.coordinates(found, rows.n_features, model.penalty(whole))
    objective: Objective
    if is_stochastic:
        objective = _estimated(rows, model, space, penalty.l1)
    else:
        objective = ElasticNetObjective(rows, loss, penalty, n_outputs, fit_intercept, exact, draw, weights)
    kind = EstimatedProblem if is_stochastic else ElasticNetProblem
    problem = kind(objective, objective.zeros(), weight_sum, space, present, used, dtype)
    if earlier is not None:
        coef, intercept = problem.narrow(*earlier)
        pair = coef, intercept * fit_intercept
        problem.start = space.from_raw(*(to_tensor(array[None], device, exact) for array in pair))
    return problem


def path_problem(
    data: TrainingData, device: torch.device, fit_intercept: bool, seed: Callable[[], int]
) -> ElasticNetProblem:
    """The problem of some rows, which are known to be finite, for `having` to be asked of."""
    problem = elastic_net_problem(data, device, 1.0, 1.0, fit_intercept, None, "growing", seed, None)
    if not isinstance(problem, ElasticNetProblem):
        raise TypeError(f"{type(problem).__name__} has no certificate.")
    return problem


def _estimated(rows: ArrayRows, model: LinearModel, space: Coordinates, l1: float) -> MinibatchObjective:
    """F as stock SGD and the line search take it: the L1 term is theirs to see to."""
    objective = MinibatchObjective(rows, Streamed(rows, model, space), model.loss)
    of_column = space.of_columns(space.inverse_scale * l1, 0.0)  # (1, 1, m)
    objective.left_out = of_column.expand(-1, model.n_outputs, -1).reshape(1, -1)
    return objective


class EstimatedProblem(CoefficientProblem):
    """A problem with an L1 term, solved by estimates of F, whose zeros are to stay as they are."""

    def final(self, w: Tensor) -> Tensor:
        return w


class ElasticNetProblem(CoefficientProblem):
    """A problem with an L1 term."""

    objective: ElasticNetObjective

    def having(self, C: float, l1_ratio: float) -> ElasticNetProblem:
        """The same with another penalty; what was made of the rows is shared."""
        other = copy.copy(self)
        penalty = self._present.penalty(ElasticNet.of(C, l1_ratio, self.weight_sum))
        other.objective = self.objective.having(penalty)
        return other

    def at(self, coef: np.ndarray, intercept: np.ndarray) -> Tensor:
        """The parameters of coefficients (K, d) and intercepts (K,) of all classes."""
        device, dtype = self.start.device, self.objective.dtype
        return self.objective.join(*(to_tensor(part, device, dtype) for part in self.narrow(coef, intercept)))

    def final(self, w: Tensor) -> Tensor:
        """The solution, of several with equal predictions the one whose median coefficient is 0.

        A shift of all classes' coefficients of a column changes no prediction. With an L1 penalty alone the
        best shift is one that makes a median 0, never the mean: of an even number of classes the lower one
        is taken. With an L2 term there is but one optimum.
        """
        objective = self.objective
        if objective.n_outputs == 1:
            return w
        coef, intercept = objective.split(w)
        if not objective.penalty.l2:
            coef = coef - coef.median(dim=0).values
        return objective.join(coef, intercept - intercept.mean())

    def certificate(self, solution: Solution, w: Tensor) -> Certificate:
        objective = self.objective
        if self._dtype == objective.dtype and w is solution.w and solution.gap is not None:
            value, gap = float(solution.objective[0]), float(solution.gap[0])
        else:
            pair = (part.to(self._dtype).to(objective.dtype) for part in objective.split(w))
            value, gap = objective.gap(*pair)
        return Certificate(value, max(gap, 0.0))  # below 0 is rounding
