"""Batches: the objective on random samples of the rows, which natural-gradient descent starts on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torch_logreg._contracts.objective import Batch
from torch_logreg._contracts.rows import Drawable, Rows
from torch_logreg._data.samples import HeldRows, SampledRows
from torch_logreg._linear.coordinates import Coordinates, find_null_space, gram
from torch_logreg._linear.design import Columns
from torch_logreg._linear.held import Held, hold
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.moments import moments
from torch_logreg._linear.objective import ColumnsObjective
from torch_logreg._linear.streamed import Streamed

MIN_ROWS_PER_PARAMETER = 10  # of the smallest
GROWTH = 4
NULL_SPACE_ROWS = 4  # a feature, for a first look
# Of rows gathered for a start: fractions of all, and how many decide on a parameter.
START_PARTS, START_ROWS_PER_PARAMETER, MIN_STARTED_ROWS = (64, 8), 2, 20_000
RARE = 5.0  # rows behind a column of a sample, down to which its curvature can be relied on


class Sampling:
    """Draws a sample of about `n_drawn` rows, and makes coordinates and batches of it."""

    def __init__(self, rows: Drawable, model: LinearModel, n_drawn: int, seed: int) -> None:
        self._rows, self._model, self._n_drawn = rows, model, n_drawn
        self._weight_sum = rows.weight_sum(model.C.dtype)
        self._eps = float(torch.finfo(rows.dtype).eps)
        generator = torch.Generator(device="cpu").manual_seed(seed)
        self._sample = rows.sample(n_drawn, model.loss.codes, generator)

    def growing(self) -> tuple[Coordinates, list[Batch]]:
        """Nested batches, the smallest first, each to be solved."""
        everything = slice(0, len(self._sample.key))
        block = self._sample.gather(everything)
        block = block._replace(weights=self._sample.weights(everything, self._n_drawn))
        arguments = (self._rows, block, self._model, self._weight_sum, self._eps)
        whole = hold(*arguments)
        coordinates = self._where_constant(whole.coordinates)
        if coordinates is not whole.coordinates:
            whole = hold(*arguments, coordinates)
        # What does not vary in all rows does not vary in a few of them.
        few = NULL_SPACE_ROWS * self._rows.n_features
        if find_null_space(coordinates, self._eps, whole.gram(few)):
            find_null_space(coordinates, self._eps, gram(self._rows, coordinates)._replace(part=None))
        whole.support_rare_columns(RARE)
        batches, n = [self._batch(whole)], whole.n_rows // GROWTH
        while self._model.n_outputs == 1 and n >= MIN_ROWS_PER_PARAMETER * whole.n_parameters:
            weights = self._sample.weights(slice(0, n), self._sample.key[n])
            batches.append(self._batch(whole.first(n, weights)))
            n //= GROWTH
        return coordinates, batches[::-1]

    def _batch(self, held: Held) -> Batch:
        effective = float(1 / held.part.weights.square().sum(dim=1).max())
        objective = ColumnsObjective(held, self._model.loss)
        return Batch(objective, held.n_parameters / effective, held.n_rows)

    def metric_only(self) -> tuple[Coordinates, list[Batch]]:
        """One batch, read from X at each use, for the metric: too small to be solved."""
        sampled = SampledRows(self._rows, self._sample, self._n_drawn)
        weight_sum = sampled.weight_sum(self._weight_sum.dtype)
        coordinates = self._where_constant(self._coordinates(sampled, weight_sum))
        if find_null_space(coordinates, self._eps, gram(sampled, coordinates)):
            find_null_space(coordinates, self._eps, gram(self._rows, coordinates)._replace(part=None))
        model = self._model._replace(C=self._model.C * (self._weight_sum / weight_sum))  # the same penalty
        objective = ColumnsObjective(Streamed(sampled, model, coordinates), model.loss)
        return coordinates, [Batch(objective, math.inf, sampled.n_rows)]

    def _coordinates(self, rows: Rows, weight_sum: Tensor) -> Coordinates:
        """Coordinates by the moments of some rows, for the penalty of all."""
        found = moments(rows, weight_sum, self._model.fit_intercept)
        return self._model.coordinates(found, rows.n_features, self._model.penalty(self._weight_sum))

    def _where_constant(self, coordinates: Coordinates) -> Coordinates:
        """Take the moments of all rows where a column of the sample is constant, in which all need not be."""
        if bool(coordinates.varies.all()):
            return coordinates
        return self._coordinates(self._rows, self._weight_sum)


def sampled_starts(rows: Drawable, design: Columns, model: LinearModel, seed: int) -> list[Batch]:
    """Batches of gathered rows for a problem of so many columns that only products are made with it.

    What is not the penalty's of the Fisher matrix at parameters 0 adds up to the number of those that the
    rows decide on. Samples have to be several times as many rows, and several times fewer than all.
    """
    coordinates = design.coordinates
    decided = (1 - design.penalty.curvature(coordinates.inverse_scale[:, 0])).clamp(min=0)
    parameters = float((decided * coordinates.varies).sum(dim=1).max()) * max(model.n_outputs - 1, 1)
    batches = []
    for part in START_PARTS:
        size = rows.n_rows // part
        if size * part < MIN_STARTED_ROWS or size < START_ROWS_PER_PARAMETER * parameters:
            continue
        sample = rows.sample(size, model.loss.codes, torch.Generator(device="cpu").manual_seed(seed))
        drawn = slice(0, len(sample.key))
        held = HeldRows(rows, sample.gather(drawn)._replace(weights=sample.weights(drawn, size)))
        ratio = design.weight_sum / held.weight_sum(model.C.dtype)
        some = Streamed(held, model._replace(C=model.C * ratio), coordinates)
        batches.append(Batch(ColumnsObjective(some, model.loss), parameters / held.n_rows, held.n_rows))
    return batches


def make_batches(
    rows: Drawable, model: LinearModel, n_drawn: int, seed: int, are_solved: bool
) -> tuple[Coordinates, list[Batch]]:
    """Coordinates from the moments of a sample of about `n_drawn` rows, and batches of up to as many.

    Batches that are not solved are a metric, and read from X at each use.
    """
    sampling = Sampling(rows, model, n_drawn, seed)
    return sampling.growing() if are_solved else sampling.metric_only()
