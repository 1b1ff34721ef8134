"""The columns of rows that are read anew in each pass."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from itertools import starmap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.rows import Gatherable, Rows
from torch_logreg._data.products import (
    dense_rows,
    matmul,
    rmatmul,
    rmatmul_squares,
    sandwich,
    sandwich_outer,
)
from torch_logreg._linear import design
from torch_logreg._linear.coordinates import Coordinates, find_null_space, gram
from torch_logreg._linear.design import Columns, OfOutputs, OfRows, Part
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.moments import Gram, moments
from torch_logreg._linear.trust import loses_gradients
from torch_logreg._runtime.limits import limits_of


class Streamed(Columns):
    """Columns that are scaled without touching X: the transformation is of coefficients and gradients.

    Parameters
    ----------
    rows : Rows
    model : LinearModel
    coordinates : Coordinates, default=None
        None makes them of the means and variances of all rows.
    """

    keeps = False

    def __init__(self, rows: Rows, model: LinearModel, coordinates: Coordinates | None = None) -> None:
        self.rows, self._model, self.dtype = rows, model, model.C.dtype
        self.eps = float(torch.finfo(rows.dtype).eps)
        self.n_problems, self.n_outputs = len(model.C), model.n_outputs
        self.n_parameters = model.n_outputs * (rows.n_features + model.fit_intercept)
        self.weight_sum = rows.weight_sum(self.dtype)
        self.penalty = model.penalty(self.weight_sum)
        self.coordinates = self._standardised() if coordinates is None else coordinates
        self.decay = self.coordinates.decay(self.penalty)

    @property
    def _weight_of_parts(self) -> Tensor:
        """The sum of the weights as `parts` has them."""
        return self.weight_sum

    def _standardised(self) -> Coordinates:
        found = moments(self.rows, self.weight_sum, self._model.fit_intercept)
        self.rows.check_finite(found.variance)
        coordinates = self._model.coordinates(found, self.rows.n_features, self.penalty)
        find_null_space(coordinates, self.eps, gram(self.rows, coordinates))
        return coordinates

    @property
    def keeps_information(self) -> bool:
        numbers = self.rows.n_rows * self.n_problems * self.n_outputs
        return numbers <= limits_of(self.rows.device).information_numbers

    def parts(self) -> Iterable[Part]:
        for block in self.rows.blocks():
            yield Part.of(*block)

    def expand(self, w: Tensor, every: int = 1) -> Any:
        """Raw coefficients (P, K, d) and intercepts (P, K)."""
        coef, intercept = self.coordinates.to_raw(w)
        return coef[::every], intercept[::every]

    def predict(self, part: Part, expanded: Any) -> Tensor:
        """Raw predictions, in the dtype of the rows."""
        coef, intercept = (each.to(self.rows.dtype).flatten(0, 1) for each in expanded)
        z = matmul(part.X, coef).add_(intercept[:, None])
        return z.view(len(expanded[0]), self.n_outputs, -1)

    def mean(self, sums: list[Tensor]) -> Tensor:
        total = self._total(each.to(self.dtype) for each in sums)
        return total / self._weight_of_parts.view(-1, *[1] * (total.dim() - 1))

    def _total(self, partials: Iterable[Tensor]) -> Tensor:
        """The sum over all rows, in place: no more than two partials are ever held."""
        return self.rows.total(functools.reduce(Tensor.add_, partials))

    def _mean(self, of: Callable[[Part, Tensor], Tensor], r: OfRows) -> tuple[Tensor, Tensor]:
        """Means over all rows of `of` the columns (P, K, d), and of r itself (P, K)."""

        def sums(part: Part, r: Tensor) -> Tensor:
            products = of(part, r.flatten(0, 1)).view(*r.shape[:2], -1).to(self.dtype)
            # In its own dtype over a block, as the products are: a sum in another takes ten times as long.
            return torch.cat([products, r.sum(dim=2, keepdim=True).to(self.dtype)], dim=2)

        # `starmap` lets go of a block before it asks for the next one.
        total = self._total(starmap(sums, r)) / self._weight_of_parts[:, None, None]
        return total[..., :-1], total[..., -1]

    def pull_back(self, residuals: OfRows, plus: Tensor) -> Tensor:
        products = self._mean(lambda part, r: rmatmul(part.X, r), residuals)
        return self.coordinates.pull_back(*products) + plus

    def squares(self, of_rows: OfRows) -> Tensor:
        center, spread = self.coordinates.center, self.coordinates.spread
        columns, sums = self._mean(lambda part, r: rmatmul_squares(part.X, r, center, spread), of_rows)
        factor = (spread * self.coordinates.inverse_scale).square()
        return self.coordinates.join(columns * factor, sums)

    def sandwich(self, matrices: OfOutputs) -> Tensor:
        P, K = self.n_problems, self.n_outputs
        center, spread, intercept = self._standard

        def of(part: Part, diagonal: Tensor, factors: Tensor | None) -> Tensor:
            blocks = sandwich(part.X, diagonal.flatten(0, 1), center, spread, intercept)
            m = blocks.shape[-1]
            if factors is None:
                return blocks.view(P, K, m, K, m)
            outer = sandwich_outer(part.X, factors * part.of_row.sqrt(), center, spread, intercept)
            matrix = outer.neg_().view(P, K, m, K, m)
            matrix.diagonal(dim1=1, dim2=3).copy_(blocks.view(P, K, m, m).permute(0, 2, 3, 1))
            return matrix

        matrix, unit = self._total(starmap(of, matrices)), self._unit(P)
        matrix = matrix * (unit[:, None, :, None, None] * unit[:, None, None, None])
        return matrix / self._weight_of_parts[:, None, None, None, None]

    def columns(self, information: OfRows) -> Tensor:
        totals: list[Tensor] = []

        def of(part: Part, information: Tensor) -> Tensor:
            totals.append(information.sum(dim=1).to(self.dtype))
            return sandwich(part.X, information, *self._standard)

        columns = self._total(starmap(of, information))
        unit = self._unit(len(columns))
        total = self._total(totals)[:, None, None]
        return columns.mul_(unit[:, :, None]).mul_(unit[:, None]).div_(total)

    @property
    def _standard(self) -> tuple[Tensor, Tensor, bool]:
        coordinates = self.coordinates
        return coordinates.center, coordinates.spread, coordinates.fit_intercept

    def _unit(self, n_problems: int) -> Tensor:
        """The factors of the columns of `_standard`, for the first problems: (n_problems, m)."""
        coordinates = self.coordinates
        return coordinates.of_columns(coordinates.spread * coordinates.inverse_scale[:n_problems, 0], 1.0)

    def loses_gradients(self) -> bool:
        return loses_gradients(self.rows, self.coordinates)

    def gram(self) -> Gram:
        return gram(self.rows, self.coordinates)

    def select(self, problems: np.ndarray) -> Streamed | None:
        index = torch.as_tensor(problems, dtype=torch.int64, device=self.rows.device)
        model = self._model._replace(C=self._model.C[index])
        return Streamed(self.rows.select(problems), model, self.coordinates.select(index))

    def gatherable(self) -> GatherableColumns | None:
        rows = self.rows.gatherable()
        return None if self.n_problems > 1 or rows is None else GatherableColumns(self, rows)


class GatherableColumns(design.Gatherable):
    """The columns of some of the rows of a `Streamed`."""

    def __init__(self, all_rows: Streamed, rows: Gatherable) -> None:
        self._all, self._rows = all_rows, rows

    def subset(self, drawn: Tensor) -> Streamed:
        some = copy.copy(self._all)
        some.rows = self._rows.subset(drawn)
        some.rows.reads = self._rows.reads  # one count of all that is read
        return some

    def dense(self, drawn: Tensor) -> Tensor:
        (block,) = self._rows.subset(drawn).blocks()
        coordinates = self._all.coordinates
        columns = dense_rows(block.X, 0, len(drawn)) - coordinates.center
        return coordinates.of_columns(columns * coordinates.inverse_scale[0, 0], 1.0)
