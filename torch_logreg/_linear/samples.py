"""Batches: the objective on random samples of the rows, which natural-gradient descent starts on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torch_logreg._contracts.objective import Batch
from torch_logreg._contracts.rows import Drawable
from torch_logreg._data.samples import HeldRows, SampledRows
from torch_logreg._linear.coordinates import Coordinates, find_null_space, gram
from torch_logreg._linear.held import DesignObjective, design
from torch_logreg._linear.moments import Moments, moments
from torch_logreg._linear.objective import LinearObjective
from torch_logreg._losses.losses import Loss

MIN_ROWS_PER_PARAMETER = 10  # of the smallest
GROWTH = 4
NULL_SPACE_ROWS = 4  # a feature, for a first look
# Of rows gathered for a start: fractions of all, and how many decide on a parameter.
START_PARTS, START_ROWS_PER_PARAMETER, MIN_STARTED_ROWS = (64, 8), 2, 20_000
RARE = 5.0  # rows behind a column of a sample, down to which its curvature can be relied on


class Sampling:
    """Draws a sample of about `n_drawn` rows, and makes coordinates and batches of it."""

    def __init__(
        self,
        rows: Drawable,
        C: Tensor,
        loss: Loss,
        n_outputs: int,
        fit_intercept: bool,
        n_drawn: int,
        seed: int,
    ) -> None:
        self._rows, self._loss, self._n_drawn = rows, loss, n_drawn
        self._strength = 1 / (C * rows.weight_sum(C.dtype))
        self._shape = (n_outputs, fit_intercept)
        self._eps = float(torch.finfo(rows.dtype).eps)
        self._sample = rows.sample(n_drawn, loss.codes, torch.Generator(device="cpu").manual_seed(seed))

    def growing(self) -> tuple[Coordinates, list[Batch]]:
        """Nested batches, the smallest first, each to be solved."""
        everything = slice(0, len(self._sample.key))
        block = self._sample.gather(everything)
        block = block._replace(weights=self._sample.weights(everything, self._n_drawn))
        arguments = (self._rows, block, self._strength, self._loss, *self._shape, self._eps)
        whole = design(*arguments)
        coordinates = self._where_constant(whole.coordinates)
        if coordinates is not whole.coordinates:
            whole = design(*arguments, coordinates)
        # What does not vary in all rows does not vary in a few of them.
        few = NULL_SPACE_ROWS * self._rows.n_features
        if find_null_space(coordinates, self._eps, whole.gram(few)):
            find_null_space(coordinates, self._eps, gram(self._rows, coordinates))
        whole.support_rare_columns(RARE)
        batches, n = [_batch(whole)], whole.n_rows // GROWTH
        while self._shape[0] == 1 and n >= MIN_ROWS_PER_PARAMETER * whole.n_parameters:
            weights = self._sample.weights(slice(0, n), self._sample.key[n])
            batches.append(_batch(whole.first(n, weights)))
            n //= GROWTH
        return coordinates, batches[::-1]

    def metric_only(self) -> tuple[Coordinates, list[Batch]]:
        """One batch, read from X at each use, for the metric: too small to be solved."""
        sampled = SampledRows(self._rows, self._sample, self._n_drawn)
        weight_sum = sampled.weight_sum(self._strength.dtype)
        coordinates = self._where_constant(self._coordinates(moments(sampled, weight_sum, self._shape[1])))
        if find_null_space(coordinates, self._eps, gram(sampled, coordinates)):
            find_null_space(coordinates, self._eps, gram(self._rows, coordinates))
        C = 1 / (self._strength * weight_sum)
        objective = LinearObjective(sampled, self._loss, C, *self._shape, coordinates)
        return coordinates, [Batch(objective, math.inf, sampled.n_rows)]

    def _coordinates(self, found: Moments) -> Coordinates:
        n_features, invariant = self._rows.n_features, self._loss.shift_invariant
        return Coordinates(found, self._strength, n_features, *self._shape, invariant)

    def _where_constant(self, coordinates: Coordinates) -> Coordinates:
        """Take the moments of all rows where a column of the sample is constant, in which all need not be."""
        if bool(coordinates.varies.all()):
            return coordinates
        weight_sum = self._rows.weight_sum(self._strength.dtype)
        return self._coordinates(moments(self._rows, weight_sum, self._shape[1]))


def sampled_starts(rows: Drawable, objective: LinearObjective, seed: int) -> list[Batch]:
    """Batches of gathered rows for a problem of so many columns that only products are made with it.

    What is not the penalty's of the Fisher matrix at weights 0 adds up to the number of parameters that the
    rows decide on. Samples have to be several times as many rows, and several times fewer than all.
    """
    coordinates, loss = objective.coordinates, objective.loss
    strength = coordinates.strength
    decided = (1 - strength[:, None] * coordinates.inverse_scale[:, 0].square()).clamp(min=0)
    parameters = float((decided * coordinates.varies).sum(dim=1).max()) * max(objective.n_outputs - 1, 1)
    batches = []
    for part in START_PARTS:
        size = rows.n_rows // part
        if size * part < MIN_STARTED_ROWS or size < START_ROWS_PER_PARAMETER * parameters:
            continue
        sample = rows.sample(size, loss.codes, torch.Generator(device="cpu").manual_seed(seed))
        drawn = slice(0, len(sample.key))
        held = HeldRows(rows, sample.gather(drawn)._replace(weights=sample.weights(drawn, size)))
        C = 1 / (strength * held.weight_sum(strength.dtype))
        some = LinearObjective(held, loss, C, objective.n_outputs, objective.fit_intercept, coordinates)
        batches.append(Batch(some, parameters / held.n_rows, held.n_rows))
    return batches


def _batch(objective: DesignObjective) -> Batch:
    effective = float(1 / objective.weights.square().sum(dim=1).max())
    return Batch(objective, objective.n_parameters / effective, objective.n_rows)


def make_batches(
    rows: Drawable,
    C: Tensor,
    loss: Loss,
    n_outputs: int,
    fit_intercept: bool,
    n_drawn: int,
    seed: int,
    are_solved: bool,
) -> tuple[Coordinates, list[Batch]]:
    """Coordinates from the moments of a sample of about `n_drawn` rows, and batches of up to as many.

    Batches that are not solved are a metric, and read from X at each use.
    """
    sampling = Sampling(rows, C, loss, n_outputs, fit_intercept, n_drawn, seed)
    return sampling.growing() if are_solved else sampling.metric_only()
