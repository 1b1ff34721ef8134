"""F and its derivatives for P problems over one set of rows."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Batch, Factorable, Factors, Fisher, Hints, Sketch
from torch_logreg._contracts.rows import Block, Rows
from torch_logreg._data.products import (
    dense_rows,
    matmul,
    rmatmul,
    rmatmul_deviation,
    sandwich,
    sandwich_outer,
)
from torch_logreg._linear.coordinates import Coordinates, find_null_space, gram
from torch_logreg._linear.moments import moments
from torch_logreg._losses.losses import Loss, outputs_factor
from torch_logreg._losses.penalties import L2Penalty, alike
from torch_logreg._runtime.limits import limits_of

SKETCHED = 64  # times the work of an eigendecomposition has X to have for a sketch to pay
ACTIVE = 0.6  # of the rows, at most, that are worth being gathered


class LinearObjective(Factorable, Hints):
    """Logistic regression with an L2 penalty, in closed form.

    For problem p with weights s, raw predictions ``z = X @ coef.T + intercept`` and
    ``strength = 1 / (C * sum(s))``::

        F(w) = sum_i s_i * loss(z_i, y_i) / sum_i s_i  +  strength / 2 * |coef|²

    which is scikit-learn's objective divided by ``C * sum(s)``. The coordinates w are those of centred and
    scaled columns: the same problem, with the penalty transformed too. X itself stays as it is: the
    transformation is of the (P, K, d) coefficients and gradients.

    Parameters
    ----------
    rows : Rows
    loss : Loss
    C : Tensor of shape (P,)
        On the device and in the dtype that the weights shall have.
    n_outputs : int
        K, raw predictions a row and problem.
    fit_intercept : bool
    coordinates : Coordinates, default=None
        None makes them of the means and variances of all rows.
    batches : sequence of Batch, default=()
        See `Objective`.
    """

    def __init__(
        self,
        rows: Rows,
        loss: Loss,
        C: Tensor,
        n_outputs: int,
        fit_intercept: bool,
        coordinates: Coordinates | None = None,
        batches: Sequence[Batch] = (),
    ) -> None:
        self.rows, self.loss, self.fit_intercept, self.batches = rows, loss, fit_intercept, batches
        self.dtype, self.n_problems, self.n_outputs = C.dtype, len(C), n_outputs
        self.n_parameters = n_outputs * (rows.n_features + fit_intercept)
        self.weight_sum = rows.weight_sum(C.dtype)
        self.penalty = L2Penalty(1 / (C * self.weight_sum))
        self.alike = alike(self.penalty.strength)
        self._last: tuple[Tensor, LinearFisher] | None = None
        self.coordinates = self._standardised() if coordinates is None else coordinates
        decay = self.penalty.strength[:, None, None].expand(-1, 1, rows.n_features)
        self._decay = torch.nn.functional.pad(decay, (0, int(fit_intercept)))  # (P, 1, d + 1)

    def _standardised(self) -> Coordinates:
        rows, strength = self.rows, self.penalty.strength
        found = moments(rows, self.weight_sum, self.fit_intercept)
        rows.check_finite(found.variance)
        shape = (rows.n_features, self.n_outputs, self.fit_intercept, self.loss.shift_invariant)
        coordinates = Coordinates(found, strength, *shape)
        find_null_space(coordinates, torch.finfo(rows.dtype).eps, gram(rows, coordinates))
        return coordinates

    def linear(self, block: Block, coef: Tensor, intercept: Tensor) -> Tensor:
        """Raw predictions of a block from raw coefficients, in the dtype of the rows."""
        dtype = self.rows.dtype
        z = matmul(block.X, coef.to(dtype).flatten(0, 1)).add_(intercept.to(dtype).reshape(-1, 1))
        return z.view(len(coef), self.n_outputs, -1)  # (P, K, n)

    def pull_back(self, partial: Tensor) -> Tensor:
        """Sums over blocks of `rmatmul` as a gradient of F in the coordinates w."""
        products = self.rows.total(partial) / self.weight_sum[:, None, None]
        return self.coordinates.pull_back(products[..., :-1], products[..., -1])

    def rmatmul(self, block: Block, r: Tensor) -> Tensor:
        """``r @ X`` with ``sum(r)`` in a last column: (P, K, n) -> (P, K, d + 1)."""
        products = rmatmul(block.X, r.flatten(0, 1)).view(*r.shape[:2], -1).to(self.dtype)
        # In its own dtype over a block, as the products are: a sum in another takes ten times as long.
        return torch.cat([products, r.sum(dim=2, keepdim=True).to(self.dtype)], dim=2)

    @property
    def hints(self) -> LinearObjective:
        return self

    def select(self, problems: np.ndarray) -> LinearObjective:
        rows = self.rows.select(problems)
        index = torch.as_tensor(problems, dtype=torch.int64, device=rows.device)
        C = 1 / (self.penalty.strength * self.weight_sum)[index]
        coordinates = self.coordinates.select(index)
        return LinearObjective(rows, self.loss, C, self.n_outputs, self.fit_intercept, coordinates)

    def reach(self, direction: Tensor) -> Tensor:
        coef, intercept = self.coordinates.to_raw(direction)
        most = torch.zeros_like(direction[:, 0])
        for block in self.rows.blocks():
            z = self.linear(block, coef, intercept).abs_().amax(dim=1)  # (P, n)
            most = torch.maximum(most, (z * (block.weights > 0)).amax(dim=1).to(self.dtype))
        return self.rows.total(most)  # of several holders at least the most

    def active(self, w: Tensor, part: float) -> LinearObjective | None:
        rows = self.rows.gatherable()
        if self.n_problems > 1 or rows is None:
            return None
        information = self._fisher(w).information()
        most, order = information.sort(descending=True)
        n = 1 + int((most.cumsum(0) < part * most.sum()).sum())
        if n > ACTIVE * len(order):
            return None
        some = copy.copy(self)
        some.rows, some._last = rows.subset(order[:n].sort().values), None
        return some

    def sketch(self, w: Tensor, n: int) -> Sketch | None:
        center, inverse = self.coordinates.center, self.coordinates.inverse_scale[0, 0]
        rows = self.rows.gatherable()
        if rows is None or self.n_parameters > rows.n_features + 1 or self.n_problems > 1:
            return None
        if rows.n_rows * rows.n_features < SKETCHED * n**2:
            return None
        information = self._fisher(w).information()
        # Without replacement, a row by its information (Efraimidis, Spirakis 2006): one that is drawn twice
        # would look like a direction of large curvature.
        key = torch.empty_like(information).exponential_(
            generator=torch.Generator(device="cpu").manual_seed(0)
        )
        drawn = key.div_(information).topk(n, largest=False).indices
        (block,) = rows.subset(drawn.sort().values).blocks()
        columns = (dense_rows(block.X, 0, n) - center) * inverse
        if self.fit_intercept:
            columns = torch.nn.functional.pad(columns, (0, 1), value=1.0)
        root = (information.sum() / (n * self.weight_sum[0])).sqrt()
        return Sketch(columns * root, self.decay())

    def decay(self) -> Tensor:
        """The diagonal of the penalty's Hessian, (P, n_parameters)."""
        scale = torch.nn.functional.pad(self.coordinates.inverse_scale, (0, int(self.fit_intercept)))
        decay = self._decay * scale.square()  # (P, 1, m)
        return decay.expand(-1, self.n_outputs, -1).reshape(self.n_problems, -1)

    def _fisher(self, w: Tensor) -> LinearFisher:
        if self._last is None or self._last[0] is not w:
            self._last = w, LinearFisher(self, w)
        return self._last[1]

    # ---- F and its derivatives ----

    def value_and_gradient(self, w: Tensor, n_alike: int = 1) -> tuple[Tensor, Tensor]:
        """See `Objective`; in runs of `n_alike` problems all have the same raw coefficients."""
        coef, intercept = self.coordinates.to_raw(w)

        def of_block(block: Block) -> tuple[Tensor, Tensor]:
            z = self.linear(block, coef[::n_alike], intercept[::n_alike])
            loss, slope = self.loss.value_and_gradient_(z, block.target)
            if n_alike > 1:
                loss, slope = (each.repeat_interleave(n_alike, dim=0) for each in (loss, slope))
            value = torch.linalg.vecdot(block.weights, loss).to(self.dtype)
            return value, self.rmatmul(block, slope.mul_(block.weights[:, None]))

        values, products = _sums(of_block(block) for block in self.rows.blocks())
        penalty, slope = self._penalty(w, coef)
        return self.rows.total(values) / self.weight_sum + penalty, self.pull_back(products) + slope

    def _penalty(self, w: Tensor, coef: Tensor) -> tuple[Tensor, Tensor]:
        """Of raw coefficients, (P,), and its gradient in w, (P, n_parameters)."""
        slope = self.penalty.gradient(coef) * self.coordinates.inverse_scale
        slope = self.coordinates.join(slope, slope.new_zeros(coef.shape[:2]))
        if self.coordinates.null is None:
            return self.penalty.value(coef), slope
        slope = self.coordinates.spare(slope, w)
        return 0.5 * torch.linalg.vecdot(slope, w), slope

    def value(self, w: Tensor) -> Tensor:
        coef, intercept = self.coordinates.to_raw(w)

        def of_block(block: Block) -> Tensor:
            loss, _ = self.loss.value_and_gradient_(self.linear(block, coef, intercept), block.target)
            return torch.linalg.vecdot(block.weights, loss).to(self.dtype)

        total = self.rows.total(_sum(of_block(block) for block in self.rows.blocks()))
        return total / self.weight_sum + self._penalty(w, coef)[0]

    def curvature(self, w: Tensor) -> LinearFisher:
        return self._fisher(w)

    def diagonal(self, w: Tensor) -> Tensor:
        return self._fisher(w).diagonal()

    def rough(self) -> LinearObjective:
        return self


class LinearFisher(Fisher):
    """The Fisher matrix of a `LinearObjective` at weights w, in the objective's coordinates."""

    def __init__(self, objective: LinearObjective, w: Tensor) -> None:
        self.objective = objective
        self.coef, self.intercept = objective.coordinates.to_raw(w)
        numbers = objective.rows.n_rows * objective.n_problems * objective.n_outputs
        self._keep = numbers <= limits_of(objective.rows.device).information_numbers
        self._kept: dict[int, Tensor] = {}
        self._operators: dict[int, Callable[[Tensor], Tensor]] = {}

    def _fisher(self, index: int, block: Block, keep: bool = True) -> Tensor:
        """The Fisher information of a block's rows (P, K, n), kept for the next pass if that is small."""
        fisher = self._kept.get(index)
        if fisher is None:
            fisher = self.objective.loss.fisher(self.objective.linear(block, self.coef, self.intercept))
            if self._keep and keep:
                self._kept[index] = fisher
        return fisher

    def _blocks(self, keep: bool = True) -> Iterator[tuple[Block, Tensor]]:
        for index, block in enumerate(self.objective.rows.blocks()):
            yield block, self._fisher(index, block, keep)

    @functools.cached_property
    def _penalty(self) -> Tensor:
        objective = self.objective
        curve = objective.penalty.curvature(self.coef) * objective.coordinates.inverse_scale.square()
        return objective.coordinates.join(curve, torch.zeros_like(self.intercept))

    def product(self, v: Tensor) -> Tensor:
        objective = self.objective
        coef, intercept = objective.coordinates.to_raw(v)
        total = _sum(
            objective.rmatmul(block, self._of_rows(index, block)(objective.linear(block, coef, intercept)))
            for index, block in enumerate(objective.rows.blocks())
        )
        return objective.pull_back(total) + objective.coordinates.spare(self._penalty * v, v)

    def _of_rows(self, index: int, block: Block) -> Callable[[Tensor], Tensor]:
        """Products with the Fisher matrices of a block's rows, kept likewise."""
        operator = self._operators.get(index)
        if operator is None:
            operator = self.objective.loss.fisher_operator(self._fisher(index, block), block.weights)
            if self._keep:
                self._operators[index] = operator
        return operator

    def information(self) -> Tensor:
        """The weighted trace of each row's Fisher matrix, of the first problem: (n,)."""
        of_rows = (
            self.objective.loss.fisher_diagonal(fisher)[0].sum(dim=0) * block.weights[0]
            for block, fisher in self._blocks()
        )
        return torch.cat(list(of_rows))

    def diagonal(self) -> Tensor:
        objective = self.objective

        def of_block(block: Block, fisher: Tensor) -> Tensor:
            r = block.weights[:, None] * objective.loss.fisher_diagonal(fisher)
            (squares,) = rmatmul_deviation(block.X, r.flatten(0, 1), objective.coordinates.center, 2)
            products = squares.view(*r.shape[:2], -1)
            return torch.cat([products, r.sum(dim=2, keepdim=True, dtype=objective.dtype)], dim=2)

        total = objective.rows.total(_sum(of_block(block, fisher) for block, fisher in self._blocks()))
        total = total / objective.weight_sum[:, None, None]
        scaled = total[..., :-1] * objective.coordinates.inverse_scale.square()
        return objective.coordinates.join(scaled, total[..., -1]) + self._penalty

    def matrix(self) -> Tensor:
        objective = self.objective
        P, K, center, spread = (
            objective.n_problems,
            objective.n_outputs,
            objective.coordinates.center,
            objective.coordinates.spread,
        )

        def of_block(block: Block, fisher: Tensor) -> Tensor:
            weights = (objective.loss.fisher_diagonal(fisher) * block.weights[:, None]).flatten(0, 1)
            blocks = sandwich(block.X, weights, center, spread, objective.fit_intercept)
            m = blocks.shape[-1]
            factors = objective.loss.fisher_factors(fisher)
            if factors is None:
                return blocks.view(P, K, m, K, m)
            root = factors * block.weights.sqrt()[:, None]
            matrix = -sandwich_outer(block.X, root, center, spread, objective.fit_intercept)
            matrix = matrix.view(P, K, m, K, m)
            matrix.diagonal(dim1=1, dim2=3).copy_(blocks.view(P, K, m, m).permute(0, 2, 3, 1))
            return matrix

        matrix = objective.rows.total(_sum(of_block(block, fisher) for block, fisher in self._blocks()))
        factor = torch.ones((P, matrix.shape[-1]), dtype=matrix.dtype, device=matrix.device)
        factor[:, : objective.rows.n_features] = (
            objective.coordinates.spread * objective.coordinates.inverse_scale[:, 0]
        )
        matrix = matrix * (factor[:, None, :, None, None] * factor[:, None, None, None])
        matrix = matrix / objective.weight_sum[:, None, None, None, None]
        objective.coordinates.add_gauge(matrix)
        objective.coordinates.spare_matrix(matrix)
        matrix = matrix.view(P, objective.n_parameters, objective.n_parameters)
        matrix.diagonal(dim1=1, dim2=2).add_(self._penalty)
        return matrix

    def factors(self) -> Factors:
        objective, coordinates = self.objective, self.objective.coordinates
        center, spread, intercept = coordinates.center, coordinates.spread, objective.fit_intercept

        def of_block(block: Block, fisher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            of_row = objective.loss.fisher_diagonal(fisher) * block.weights[:, None]
            information = of_row.sum(dim=1)
            if objective.alike:
                information = information.mean(dim=0, keepdim=True)
            outputs = outputs_factor(objective.loss, fisher, of_row, block.weights).to(objective.dtype)
            total = information.sum(dim=1).to(objective.dtype)
            return outputs, sandwich(block.X, information, center, spread, intercept), total

        sums = _sums(of_block(block, fisher) for block, fisher in self._blocks(keep=False))
        outputs, columns, total = (objective.rows.total(part) for part in sums)
        unit = torch.ones(columns.shape[:2], dtype=columns.dtype, device=columns.device)
        unit[:, : objective.rows.n_features] = spread * coordinates.inverse_scale[: len(unit), 0]
        columns.mul_(unit[:, :, None]).mul_(unit[:, None]).div_(total[:, None, None])
        decay = self._penalty.view(objective.n_problems, objective.n_outputs, -1)[:, 0]
        outputs = outputs / objective.weight_sum[:, None, None]
        return Factors(outputs, columns, decay, objective.penalty.strength)


def _sum(partials: Iterable[Tensor]) -> Tensor:
    return functools.reduce(Tensor.add_, partials)


def _sums(partials: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Sums of several things at once, in place: no more than two partials are ever held."""
    total: tuple[Tensor, ...] = ()
    for partial in partials:
        total = tuple(a.add_(b) for a, b in zip(total, partial, strict=True)) if total else partial
    return total
