"""F of P problems of the linear model and its derivatives, over any design."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import (
    Batch,
    Curved,
    Factorable,
    Factors,
    Fisher,
    Hints,
    Point,
    Sketch,
)
from torch_logreg._linear.coordinates import Coordinates
from torch_logreg._linear.design import Columns, Design, Part
from torch_logreg._losses.losses import Loss, outputs_factor

SKETCHED = 64  # times the work of an eigendecomposition has X to have for a sketch to pay
ACTIVE = 0.6  # of the rows, at most, that are worth being gathered
STRETCHES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


class LinearObjective(Curved, Hints):
    """Logistic regression with an L2 penalty, in closed form.

    For problem p with weights s, raw predictions ``z = X @ coef.T + intercept`` and
    ``strength = 1 / (C * sum(s))``::

        F(w) = sum_i s_i * loss(z_i, y_i) / sum_i s_i  +  strength / 2 * |coef|²

    which is scikit-learn's objective divided by ``C * sum(s)``. What the coordinates w are is the design's
    affair: the problem is the same.

    Parameters
    ----------
    design : Design
    loss : Loss
    batches : sequence of Batch, default=()
        See `Curved`.
    """

    def __init__(self, design: Design, loss: Loss, batches: Sequence[Batch] = ()) -> None:
        self.design, self.loss, self.batches = design, loss, batches
        self.rows, self.dtype, self.n_problems = design.rows, design.dtype, design.n_problems
        self.n_outputs, self.n_parameters, self.eps = design.n_outputs, design.n_parameters, design.eps
        self.is_orthogonal = design.is_orthogonal

    @property
    def hints(self) -> LinearObjective:
        return self

    def at(self, w: Tensor) -> LinearPoint:
        """The rows at `w`."""
        return LinearPoint(w, self.design, self.loss)

    def value(self, w: Tensor) -> Tensor:
        return self.at(w).value()

    def natural(self, gradient: Tensor) -> Tensor:
        return self.design.natural(gradient)

    def reach(self, direction: Tensor) -> Tensor:
        expanded = self.design.expand(direction)
        most = torch.zeros_like(direction[:, 0])
        for part in self.design.parts():
            z = self.design.predict(part, expanded).abs_().amax(dim=1)  # (P, n)
            most = torch.maximum(most, (z * (part.weights > 0)).amax(dim=1).to(self.dtype))
        return self.rows.total(most)  # of several holders at least the most

    def select(self, problems: np.ndarray) -> LinearObjective | None:
        return None


class LinearPoint(Point):
    """A `LinearObjective` at some parameters.

    Of few rows the raw predictions and the slopes of the loss are kept, once they are known.
    """

    def __init__(self, w: Tensor, design: Design, loss: Loss) -> None:
        self.w, self.design, self._loss = w, design, loss
        self._expanded = design.expand(w)
        self._z: dict[int, Tensor] = {}
        self._slopes: dict[int, Tensor] = {}
        self._fishers: dict[int, Tensor] = {}
        self._operators: dict[int, Callable[[Tensor], Tensor]] = {}

    def predictions(self, index: int, part: Part) -> Tensor:
        """Raw predictions of the part of that number, (P, K, n)."""
        z = self._z.get(index)
        if z is None:
            z = self.design.predict(part, self._expanded)
            if self.design.keeps:
                self._z[index] = z
        return z

    def distance(self, other: Point) -> Tensor | None:
        before = cast(LinearPoint, other)._z
        if not before or before.keys() != self._z.keys():
            return None
        moved = [(z - before[index]).abs_().amax(dim=(1, 2)) for index, z in self._z.items()]
        return self.design.rows.total(functools.reduce(torch.maximum, moved)).to(self.w.dtype)

    def value(self) -> Tensor:
        """F, (P,)."""
        sums = [
            torch.linalg.vecdot(self._loss.value(self.predictions(index, part), part.target), part.weights)
            for index, part in enumerate(self.design.parts())
        ]
        slope = self.design.penalty_slope(self.w)
        return self.design.mean(sums).add_(torch.linalg.vecdot(slope, self.w), alpha=0.5)

    def value_and_gradient(self, n_alike: int = 1) -> tuple[Tensor, Tensor]:
        """See `Point`; in runs of `n_alike` problems all have the same raw coefficients."""
        sums: list[Tensor] = []
        slope = self.design.penalty_slope(self.w)
        gradient = self.design.pull_back(self._residuals(sums, n_alike), slope)
        return self.design.mean(sums).add_(torch.linalg.vecdot(slope, self.w), alpha=0.5), gradient

    def _residuals(self, sums: list[Tensor], n_alike: int) -> Iterator[tuple[Part, Tensor]]:
        """Weighted slopes of the loss, part by part; its own weighted sums are left in `sums`."""
        design, loss = self.design, self._loss
        evaluate = loss.value_and_gradient if design.keeps else loss.value_and_gradient_
        expanded = self._expanded if n_alike == 1 else design.expand(self.w, n_alike)
        for index, part in enumerate(design.parts()):
            if n_alike == 1:
                value, slope = evaluate(self.predictions(index, part), part.target)
            else:
                found = evaluate(design.predict(part, expanded), part.target)
                value, slope = (each.repeat_interleave(n_alike, dim=0) for each in found)
            sums.append(torch.linalg.vecdot(value, part.weights))
            if design.keeps:
                self._slopes[index] = slope
                yield part, slope * part.of_row
            else:
                yield part, slope.mul_(part.of_row)
            del value, slope  # before the next block takes as much memory

    def product(self, v: Tensor) -> Tensor:
        design = self.design
        expanded = design.expand(v)
        residuals = (
            (part, self._operator(index, part)(design.predict(part, expanded)))
            for index, part in enumerate(design.parts())
        )
        return design.pull_back(residuals, design.penalty_slope(v))

    def _fisher(self, index: int, part: Part) -> Tensor:
        """The Fisher information of rows (P, K, n), kept for the next pass where predictions are not."""
        fisher = self._fishers.get(index)
        if fisher is None:
            fisher = self._loss.fisher(self.predictions(index, part))
            if self.design.keeps_information and not self.design.keeps:
                self._fishers[index] = fisher
        return fisher

    def _operator(self, index: int, part: Part) -> Callable[[Tensor], Tensor]:
        """Products with the Fisher matrices of rows, kept likewise."""
        operator = self._operators.get(index)
        if operator is None:
            operator = self._loss.fisher_operator(self._fisher(index, part), part.weights)
            if self.design.keeps_information:
                self._operators[index] = operator
        return operator


class ColumnsObjective(LinearObjective, Factorable):
    """A `LinearObjective` over columns, whose Fisher matrix can be made."""

    design: Columns

    @property
    def coordinates(self) -> Coordinates:
        """The coordinates of w."""
        return self.design.coordinates

    def at(self, w: Tensor) -> ColumnsPoint:
        return ColumnsPoint(w, self.design, self.loss)

    def _over(self, design: Columns) -> ColumnsObjective:
        """The same over another design, without batches."""
        return ColumnsObjective(design, self.loss)

    def select(self, problems: np.ndarray) -> ColumnsObjective | None:
        design = self.design.select(problems)
        return None if design is None else self._over(design)

    @functools.cached_property
    def _rough(self) -> ColumnsObjective:
        return self._over(self.design.rough())

    def rough(self) -> ColumnsObjective:
        return self if self.design.rough() is self.design else self._rough


class ColumnsPoint(LinearPoint, Fisher):
    """A `ColumnsObjective` at some parameters."""

    design: Columns

    @functools.cached_property
    def _rough(self) -> ColumnsPoint | None:
        """The same point in float32, if products with the rows then take less time."""
        if not self.design.is_quicker_rough:
            return None
        rough = ColumnsPoint(self.w.to(torch.float32), self.design.rough(), self._loss)
        rough._z = {index: z.to(torch.float32) for index, z in self._z.items()}
        return rough

    def quick_product(self, v: Tensor) -> Tensor:
        if self._rough is None:
            return self.product(v)
        return self._rough.product(v.to(torch.float32)).to(v.dtype)

    def _diagonal(self, index: int, part: Part) -> Tensor:
        """The diagonals of the weighted Fisher matrices of rows, (P, K, n)."""
        slope = self._slopes.get(index)
        if slope is not None:
            return self._loss.fisher_diagonal_at(slope).mul_(part.of_row)
        return self._loss.fisher_diagonal(self._fisher(index, part)) * part.of_row

    def _diagonals(self) -> Iterator[tuple[Part, Tensor]]:
        for index, part in enumerate(self.design.parts()):
            yield part, self._diagonal(index, part)

    def _factors(self, index: int, part: Part) -> Tensor | None:
        """The rest of these matrices, off their diagonals: see `OfOutputs`."""
        if self.design.n_outputs == 1:
            return None
        return self._loss.fisher_factors(self._fisher(index, part))

    def information(self) -> Tensor:
        """The weighted trace of each row's Fisher matrix, of the first problem: (n,)."""
        return torch.cat([diagonal[0].sum(dim=0) for _, diagonal in self._diagonals()])

    def diagonal(self) -> Tensor:
        return self.design.squares(self._diagonals()) + self.design.decay

    def matrix(self) -> Tensor:
        design = self.design
        matrix = design.sandwich(
            (part, self._diagonal(index, part), self._factors(index, part))
            for index, part in enumerate(design.parts())
        )
        design.coordinates.regularise(matrix)
        matrix = matrix.view(design.n_problems, design.n_parameters, design.n_parameters)
        matrix.diagonal(dim1=1, dim2=2).add_(design.decay)
        return matrix

    def factors(self) -> Factors:
        design, outputs = self.design, list[Tensor]()
        alike = design.penalty.alike()

        def information() -> Iterator[tuple[Part, Tensor]]:
            for index, part in enumerate(design.parts()):
                diagonal = self._diagonal(index, part)
                outputs.append(outputs_factor(self._factors(index, part), diagonal, part.weights))
                self._fishers.pop(
                    index, None
                )  # of all blocks it is much to hold for a metric of factors alone
                total = diagonal.sum(dim=1)  # (P, n)
                del diagonal
                yield part, total.mean(dim=0, keepdim=True) if alike else total

        columns = design.columns(information())
        design.coordinates.regularise_columns(columns)
        decay = design.decay[:, : columns.shape[1]]
        return Factors(design.mean(outputs), columns, decay, design.penalty.strength)

    def sketch(self, n: int) -> Sketch | None:
        design, gatherable = self.design, self.design.gatherable()
        if gatherable is None or design.n_outputs > 1:
            return None
        if design.rows.n_rows * design.rows.n_features < SKETCHED * n**2:
            return None
        information = self.information()
        # Without replacement, a row by its information (Efraimidis, Spirakis 2006): one that is drawn twice
        # would look like a direction of large curvature.
        key = torch.empty_like(information).exponential_(
            generator=torch.Generator(device="cpu").manual_seed(0)
        )
        drawn = key.div_(information).topk(n, largest=False).indices
        root = (information.sum() / (n * design.weight_sum[0])).sqrt()
        return Sketch(gatherable.dense(drawn.sort().values) * root, design.decay)

    def active(self, part: float) -> ColumnsPoint | None:
        gatherable = self.design.gatherable()
        if gatherable is None:
            return None
        most, order = self.information().sort(descending=True)
        n = 1 + int((most.cumsum(0) < part * most.sum()).sum())
        if n > ACTIVE * len(order):
            return None
        return ColumnsPoint(self.w, gatherable.subset(order[:n].sort().values), self._loss)

    def stretch(self, direction: Tensor) -> Tensor:
        """By trial of a few lengths: from parameters 0 a Newton step is too short where classes lie apart.

        With several outputs each would want its own length, and of many rows a pass would be too dear.
        """
        design = self.design
        if design.n_outputs > 1 or not design.keeps:
            return direction
        (part,) = design.parts()
        z, dz = self.predictions(0, part), design.predict(part, design.expand(direction))
        lengths = torch.tensor(STRETCHES, dtype=dz.dtype, device=dz.device).view(-1, 1, 1)
        along = torch.addcmul(z, lengths.unsqueeze(3), dz).view(-1, 1, dz.shape[2])
        loss = self._loss.value(along, part.target).view(len(STRETCHES), -1, dz.shape[2])
        here, along_it = design.penalty_slope(self.w), design.penalty_slope(direction)
        length = lengths.view(-1, 1)
        penalty = length * (
            torch.linalg.vecdot(here, direction) + length / 2 * torch.linalg.vecdot(along_it, direction)
        )
        values = torch.linalg.vecdot(loss, part.weights).add_(penalty)  # (lengths, P)
        return lengths.view(-1)[values.argmin(dim=0), None] * direction
