"""Doubts of a solution: what floating-point numbers could not resolve of the problem."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torch_logreg._contracts.rows import Rows
from torch_logreg._data.products import holds_below, matmul
from torch_logreg._data.samples import HeldRows
from torch_logreg._linear.coordinates import Coordinates, Space
from torch_logreg._linear.design import Design
from torch_logreg._linear.moments import Moments, moments
from torch_logreg._losses.losses import Loss

# Of a raw prediction, by rounding of the coefficients: about 1e-3 of a probability.
ROUNDING = 5e-4
# The same by rounding of a gradient, in parts of eps and of how far its column is from 0 for what it varies:
# sums of stored numbers are made one by one, those of dense blocks by pairs.
GRADIENT_ROUNDING = {"sparse": 1.0, "dense": 0.125}
SQUARE_ROOT_OF_TINY = 1e-150  # a number below it, squared, is 0 in float64, or nearly
LEFT = 1e-8  # of F, that may be left to gain
NOISE = 16.0  # times the rounding of the columns: what is no more says nothing


def find_doubt(
    design: Design, space: Space, loss: Loss, w: Tensor, value: Callable[[], float], kept: torch.dtype
) -> str | None:
    """Why the solution `w` of one problem is not to be trusted: a key of `REASONS`, or None.

    `value` is F there, and `kept` the dtype in which the coefficients are kept.
    """
    rows, directions = design.rows, space.directions
    if kept != torch.float64:
        if bool(space.rounding(w, torch.finfo(kept).eps) > ROUNDING) or design.loses_gradients():
            return "rounding"
    free = bool((space.strength == 0).all())  # a penalty would take the coefficients of tiny columns
    if free and not space.plain and not bool(space.varies.all()):
        unseen = ~space.varies
        if any(holds_below(block.X, unseen, SQUARE_ROOT_OF_TINY) for block in rows.blocks()):
            return "underflow"
    if directions is not None and _left_to_gain(rows, space, directions.T, loss, w) > LEFT * value():
        return "collinear"
    return None


def loses_gradients(rows: Rows, coordinates: Coordinates) -> bool:
    """Whether gradients of columns far from 0 for what they vary are lost among rounding errors.

    One is the sum of the residuals times the column, of which only the part that varies is left in the end.
    """
    if coordinates.plain:
        return False
    first = next(iter(rows.blocks()))
    kind = "dense" if isinstance(first.X, torch.Tensor) else "sparse"
    most = ROUNDING / (torch.finfo(rows.dtype).eps * GRADIENT_ROUNDING[kind])

    def is_far(of: Moments) -> bool:
        return bool((of.center.abs() > most * of.variance.sqrt())[of.variance > 0].any())

    if coordinates.fit_intercept:
        return is_far(Moments(coordinates.center, coordinates.spread.square() * coordinates.varies))
    exact = coordinates.strength.dtype
    few = HeldRows(rows, first)
    if not is_far(moments(few, few.weight_sum(exact), fit_intercept=True)):
        return False
    return is_far(moments(rows, rows.weight_sum(exact), fit_intercept=True))


def _left_to_gain(rows: Rows, space: Space, directions: Tensor, loss: Loss, w: Tensor) -> float:
    """Estimate the gain of a Newton step along directions that were taken for none: nearly collinear columns.

    `directions` (r, d) are raw, and of unit length among scaled columns. One counts if the columns differ
    from a combination of others by more than their rounding: it is not solved for because its curvature is
    lost among the rounding errors of the Fisher matrix.
    """
    eps = torch.finfo(rows.dtype).eps
    shift = directions @ space.center
    coef, intercept = space.to_raw(w)
    zero = w.new_zeros(())
    square, slopes, curves, total = zero, zero, zero, zero
    for block in rows.blocks():
        along = matmul(block.X, directions.to(rows.dtype)).to(w.dtype) - shift[:, None]  # (r, n)
        z = matmul(block.X, coef[0].to(rows.dtype)) + intercept[0].to(rows.dtype)[:, None]
        weights = block.weights.to(w.dtype)
        slope = loss.gradient(z[None], block.target).to(w.dtype)[0] * weights  # (K, n)
        curve = loss.fisher_diagonal(loss.fisher(z[None])).to(w.dtype)[0] * weights
        square = square + along.square() @ weights[0]
        slopes, curves = slopes + slope @ along.T, curves + curve @ along.square().T  # (K, r)
        total = total + weights.sum()
    total = rows.total(total)
    rms = (rows.total(square) / total).sqrt()
    strength = space.strength[0]
    slopes = rows.total(slopes) / total + strength * coef[0] @ directions.T
    curves = rows.total(curves) / total + strength * directions.square().sum(dim=1)
    level = eps * (1 + (space.center / space.spread).abs().max()) * len(space.spread) ** 0.5
    gain = torch.where(rms > NOISE * level, slopes.square() / (2 * curves), 0.0)
    return float(gain.sum())
