"""Coordinates in which solvers work: those of centred and scaled columns."""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from torch_logreg._contracts.objective import Factors, Matrices
from torch_logreg._contracts.rows import Block, Rows
from torch_logreg._data.products import matmul, rmatmul_deviation, sandwich
from torch_logreg._linear.moments import Gram, Moments
from torch_logreg._losses.penalties import L2Penalty
from torch_logreg._runtime.linalg import eigh

CANCELLED = 1e-8  # of a raw prediction, by rounding of the coefficients
ZERO = 16.0  # times eps and the number of eigenvalues, of the largest of them
NOISE = 256.0  # times eps, of an eigenvector of length 1
NULL_SPACE_FEATURES = 2048  # above it the d x d eigenproblem costs more than the fit
# Above it no d x d matrix is factorised, whose rounding would count for more than that of gradients.
FACTORISED_FEATURES = 1024
FIRST_LOOK = 1.2  # rows a feature, which show that all directions vary where they do so evenly


class Space(ABC):
    """The way from the parameters of a solver to raw coefficients: those of the columns of X."""

    strength: Tensor  # (P,) of the L2 penalty
    center: Tensor  # (d,) of the columns; 0 without an intercept
    spread: Tensor  # (d,) their deviations from it
    varies: Tensor  # (d,) whether a column says anything
    plain = False  # whether the columns are taken as they are
    # Directions (d, r) in which X does not vary though its columns do, orthonormal but for `spread`.
    directions: Tensor | None = None

    @abstractmethod
    def to_raw(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (P, K, d) and intercepts (P, K) for the columns as they are given."""

    @abstractmethod
    def canonical(self, w: Tensor) -> Tensor:
        """Return the smallest coefficients that make the same predictions."""

    def rounding(self, w: Tensor, eps: float) -> Tensor:
        """How much raw predictions differ once coefficients and intercepts are rounded to `eps`, (P,)."""
        coef, intercept = self.to_raw(w)
        squares = coef.square() @ (self.center.square() + self.spread.square()) + intercept.square()
        return eps * squares.amax(dim=1).sqrt()


class Coordinates(Space):
    """``w = [coef * scale, intercept + coef @ center]`` for each output, and back.

    With ``scale² = variance / 4 + strength`` no diagonal entry of the Hessian exceeds 1, as
    ``p (1 - p) <= 1/4`` (Böhning, Lindsay 1988), so a unit step is the right size for every column
    whatever its unit. Any centre and any scale pose the same problem, so those of all problems
    together, or of a sample of the rows, serve each.

    Parameters
    ----------
    moments : Moments or None
        None makes the coordinates those of the columns as they are.
    strength : Tensor of shape (P,)
        Of the L2 penalty.
    n_features, n_outputs : int
        d and K.
    fit_intercept : bool
    shift_invariant : bool
        Whether a shift of all outputs changes nothing.
    """

    def __init__(
        self,
        moments: Moments | None,
        strength: Tensor,
        n_features: int,
        n_outputs: int,
        fit_intercept: bool,
        shift_invariant: bool,
    ) -> None:
        self.n_problems, self.n_features, self.n_outputs = len(strength), n_features, n_outputs
        self.strength, self.fit_intercept, self.shift_invariant = strength, fit_intercept, shift_invariant
        # The `directions` orthonormal, and orthonormal in w (P, d, r).
        self.null: Tensor | None = None
        self.gauge: Tensor | None = None
        self._spared: Tensor | None = None  # (P, d, r), see `spare`
        self.undecided = torch.zeros_like(strength, dtype=torch.bool)  # no penalty chooses among optima there
        self.plain = moments is None
        if moments is None:
            self.center = strength.new_zeros(n_features)
            self.spread = torch.ones_like(self.center)
            self.inverse_scale = strength.new_ones((self.n_problems, 1, n_features))
            return
        self.center, variance = moments
        self.varies = variance > 0
        constant = ~self.varies
        self.spread = variance.masked_fill(constant, 1.0).sqrt_()  # (d,)
        # A column that says nothing gets no coefficient: an infinite scale is a coefficient of 0.
        inverse = (variance / 4 + strength.unsqueeze(1)).rsqrt_()
        self.inverse_scale = inverse.masked_fill_(constant, 0.0).unsqueeze(1)  # (P, 1, d)

    def select(self, problems: Tensor) -> Coordinates:
        """Coordinates of some of the problems."""
        some = copy.copy(self)
        some.n_problems, some.strength = len(problems), self.strength[problems]
        some.inverse_scale, some.undecided = self.inverse_scale[problems], self.undecided[problems]
        if self.gauge is not None and self._spared is not None:
            some.gauge, some._spared = self.gauge[problems], self._spared[problems]
        return some

    # ---- to the columns as they are, and back ----

    def to_raw(self, w: Tensor) -> tuple[Tensor, Tensor]:
        coef, shifted = self.split(w)
        coef = coef * self.inverse_scale
        return coef, shifted - coef @ self.center

    def from_raw(self, coef: Tensor, intercept: Tensor) -> Tensor:
        """The parameters whose `to_raw` is this, up to what constant columns move to the intercept."""
        shifted = intercept + coef @ self.center
        coef = torch.where(self.inverse_scale > 0, coef / self.inverse_scale, 0.0)
        return self.join(coef, shifted)

    def split(self, w: Tensor) -> tuple[Tensor, Tensor]:
        w = w.view(self.n_problems, self.n_outputs, -1)
        if self.fit_intercept:
            return w[..., :-1], w[..., -1]
        return w, w.new_zeros(w.shape[:2])

    def join(self, coef: Tensor, shifted: Tensor) -> Tensor:
        w = torch.cat([coef, shifted[..., None]], dim=2) if self.fit_intercept else coef
        return w.reshape(self.n_problems, -1)

    def of_columns(self, features: Tensor, of_intercept: float) -> Tensor:
        """Numbers of the features (..., d), and that of the intercept if it is fitted: (..., m)."""
        if not self.fit_intercept:
            return features
        return torch.nn.functional.pad(features, (0, 1), value=of_intercept)

    def decay(self, penalty: L2Penalty) -> Tensor:
        """The diagonal of the penalty's Hessian in w, (P, n_parameters)."""
        of_column = self.of_columns(penalty.curvature(self.inverse_scale), 0.0)  # (P, 1, m)
        return of_column.expand(-1, self.n_outputs, -1).reshape(self.n_problems, -1)

    def pull_back(self, columns: Tensor, sums: Tensor) -> Tensor:
        """A gradient in raw coefficients (P, K, d) and intercepts (P, K) as one in w."""
        columns = (columns - sums[..., None] * self.center) * self.inverse_scale
        if self.shift_invariant:
            columns, sums = columns - columns.mean(dim=1, keepdim=True), sums - sums.mean(dim=1, keepdim=True)
        return self.join(self.without_gauge(columns), sums)

    def without_gauge(self, columns: Tensor) -> Tensor:
        """Without what is nothing but rounding: F is flat along the gauge."""
        if self.gauge is None:
            return columns
        gauge = self.gauge.to(columns.dtype)
        return columns - (columns @ gauge) @ gauge.mT

    # ---- one of many optima ----

    def is_weak(self, eps: float) -> tuple[Tensor, Tensor]:
        """Say where rounding outweighs the penalty along directions in which X does not vary, (P,) twice.

        Rounding of the weights: the penalty cannot choose among the optima. And rounding by `eps`, that
        of the products with X: gradients there must be cleared of noise.
        """
        if not self.n_features or self.n_features > NULL_SPACE_FEATURES:
            none = torch.zeros_like(self.undecided)
            return none, none
        curve = self.strength.unsqueeze(1) * self.inverse_scale.select(1, 0).square()
        curve = curve.masked_fill_(~self.varies, 1.0)  # `where` takes twice as long
        least = curve.amin(dim=1) / (16 * self.n_features)
        undecided = least < torch.finfo(self.strength.dtype).eps
        return undecided, undecided if self.n_features > FACTORISED_FEATURES else least < eps

    def null_space(self, gram: Gram) -> Tensor:
        """Raw directions (d, r) along which no row has a component, orthonormal but for ``1 / spread``."""
        matrix, varies = self._of_varying(gram.matrix()), self.varies
        if _is_regular(matrix, matrix.trace()):
            return matrix[:, :0]
        values, vectors = eigh(matrix)
        eps = torch.finfo(values.dtype).eps
        zero = values <= ZERO * len(values) * eps * values[-1]
        null, rest = vectors[:, zero], vectors[:, ~zero]
        if gram.times is not None and null.shape[1]:
            # Where others vary little too, eigenvectors are not accurate: what the rows have along them is.
            left = torch.where(varies[:, None], gram.times(torch.where(varies[:, None], null, 0.0)), 0.0)
            null = null - rest @ ((rest.T @ left) / values[~zero, None])
        # A column with no part in it must have none: rounding, divided by a small spread, is large.
        cleared = torch.where(null.abs() > NOISE * eps, null, 0.0)
        if gram.times is not None and null.shape[1] and not self.fit_intercept:
            # Not where columns far from 0 are so alike that these parts make up for one another.
            both = torch.cat([null, cleared], dim=1)
            along, along_cleared = (both * gram.times(both)).sum(dim=0).abs().chunk(2)  # squares, weighted
            floor = (16 * eps) ** 2 * matrix.diagonal().max()
            cleared = torch.where(along_cleared > 4 * along + floor, null, cleared)
        return cleared / self.spread[:, None]

    def all_vary(self, gram: Gram) -> bool:
        """Whether some of the rows already show that there are no such directions.

        Each row more adds to the curvature along all of them, whose sum is known of columns of variance 1.
        """
        return gram.part is not None and _is_regular(self._of_varying(gram.part()), self.n_features)

    def _of_varying(self, matrix: Tensor) -> Tensor:
        """The matrix, in place, with nothing but a diagonal for columns that are constant."""
        varies = self.varies
        matrix.masked_fill_(~(varies[:, None] & varies), 0.0)
        matrix.diagonal().add_(torch.where(varies, 0.0, matrix.diagonal().max()))
        return matrix

    def set_null(self, directions: Tensor, undecided: Tensor) -> None:
        """Take note of directions in which X does not vary."""
        scale = torch.where(self.varies, 1 / self.inverse_scale[:, 0], 0.0)
        self.directions, self.undecided = directions, undecided
        self.null = _orthonormal(directions)
        self.gauge = torch.linalg.qr(scale[:, :, None] * directions).Q
        spared = self.inverse_scale[:, 0, :, None] * self.null * self.strength.sqrt()[:, None, None]
        self._spared = torch.where(undecided[:, None, None], spared, 0.0)

    def canonical(self, w: Tensor) -> Tensor:
        """See `Space`.

        Softmax coefficients and intercepts are centred over the classes. Where there is no penalty to see
        to it, directions in which X does not vary (collinear columns) are taken out: the limit of C -> inf.
        Not where the smallest coefficients, of columns of very different units, would cancel to fewer digits
        of the predictions.
        """
        if self.null is None and not self.shift_invariant:
            return w
        coef, shifted = self.split(w)
        if self.shift_invariant:
            coef, shifted = coef - coef.mean(dim=1, keepdim=True), shifted - shifted.mean(dim=1, keepdim=True)
        if self.null is not None:
            raw = coef * self.inverse_scale
            raw = raw - (raw @ self.null) @ self.null.T
            smallest = torch.where(self.inverse_scale > 0, raw / self.inverse_scale, 0.0)
            noise = self.rounding(self.join(smallest, shifted), torch.finfo(w.dtype).eps)
            better = self.undecided & ((self.strength > 0) | (noise <= CANCELLED))
            coef = torch.where(better[:, None, None], smallest, coef)
        return self.join(coef, shifted)

    def spare(self, penalty: Tensor, w: Tensor) -> Tensor:
        """The gradient of the penalty at w, from that of all coefficients, both (..., P, n_parameters).

        Where rounding outweighs the penalty along directions in which X does not vary, their coefficients are
        not solved for but chosen afterwards, the smallest: the penalty is that of what is then left.
        """
        if self._spared is None:
            return penalty
        spared = self._spared.to(w.dtype)
        coef = w.unflatten(-1, (self.n_outputs, -1))[..., : self.n_features]
        part = (coef @ spared) @ spared.mT  # (..., P, K, d)
        part = torch.nn.functional.pad(part, (0, int(self.fit_intercept)))
        return penalty - part.flatten(-2)

    def spare_matrix(self, matrix: Tensor) -> None:
        """Take what `spare` does off the penalty's Hessian, in place on (P, K, m, K, m)."""
        if self._spared is not None:
            less = self._spared @ self._spared.mT  # (P, d, d)
            blocks = matrix.diagonal(dim1=1, dim2=3)[:, : self.n_features, : self.n_features]
            blocks.sub_(less[..., None])

    def regularise(self, matrix: Tensor) -> None:
        """Give a Fisher matrix curvature where F is flat, in place on (P, K, m, K, m), and `spare_matrix` it.

        Gradients have no part in these directions: the solution of a linear system stays as it is.
        """
        if self.gauge is not None:
            flat = self._flat(self.gauge)
            matrix.diagonal(dim1=1, dim2=3)[:, : self.n_features, : self.n_features].add_(flat[..., None])
        if self.shift_invariant:
            curve = matrix.diagonal(dim1=1, dim2=3).diagonal(dim1=1, dim2=2).sum(dim=1)  # (P, m)
            everywhere = matrix.diagonal(dim1=2, dim2=4)  # (P, K, K, m)
            everywhere.add_(curve.view(len(curve), 1, 1, -1), alpha=1 / self.n_outputs**2)
        if self._spared is not None:
            self.spare_matrix(matrix)

    def regularise_columns(self, columns: Tensor) -> None:
        """The same of the columns' factor of a Fisher matrix, in place on (1 or P, m, m)."""
        if self.gauge is not None:
            flat = self._flat(self.gauge)[: len(columns)]
            columns[:, : self.n_features, : self.n_features].add_(flat)

    def _flat(self, gauge: Tensor) -> Tensor:
        return gauge @ gauge.mT * self.undecided[:, None, None]  # (P, d, d)


def _is_regular(matrix: Tensor, largest: Tensor | float) -> bool:
    """Whether no eigenvalue is 0 but for rounding, given a bound of the largest one.

    That takes a factorisation, a tenth of the time of the eigenvalues.
    """
    n, eps = len(matrix), torch.finfo(matrix.dtype).eps
    shifted = matrix.clone()
    shifted.diagonal().sub_(2 * ZERO * n * eps * largest)
    return not bool(torch.linalg.cholesky_ex(shifted).info)


def _orthonormal(directions: Tensor) -> Tensor:
    """A basis (d, r) of the span, whose small rows are as accurate as the large ones.

    Those of columns of large units are small, and all depends on them. Householder's method gives each row
    its own accuracy if large rows come first (Cox, Higham 1998, BIT 38); as they come, small ones would be
    rounded as the large are.
    """
    order = directions.abs().amax(dim=1).argsort(descending=True)
    return torch.linalg.qr(directions[order]).Q[order.argsort()]


def for_problems(coordinates: Coordinates, strength: Tensor, eps: float) -> Coordinates:
    """Keep centre and spread for other problems on the rows, of which some may weigh nothing.

    What does not vary in all rows does not vary in some of them either.
    """
    variance = torch.where(coordinates.varies, coordinates.spread.square(), 0.0)
    shape = (coordinates.n_features, coordinates.n_outputs, coordinates.fit_intercept)
    others = Coordinates(Moments(coordinates.center, variance), strength, *shape, coordinates.shift_invariant)
    undecided, weak = others.is_weak(eps)
    if coordinates.directions is not None and bool(weak.any()):
        others.set_null(coordinates.directions, undecided)
    return others


class Moved(Matrices):
    """The matrices of the same rows in other coordinates, with their penalty."""

    def __init__(self, given: Matrices, here: Coordinates, there: Coordinates) -> None:
        self._given, self._n_outputs, self._there = given, here.n_outputs, there
        ratio = torch.where(here.inverse_scale > 0, there.inverse_scale / here.inverse_scale, 1.0)[:, 0]
        old, new = (of.strength[:, None] * of.inverse_scale[:, 0].square() for of in (here, there))
        if here.fit_intercept:
            ratio = torch.nn.functional.pad(ratio, (0, 1), value=1.0)
            old, new = (torch.nn.functional.pad(decay, (0, 1)) for decay in (old, new))
        self._ratio, self._old, self._new = ratio, old, new

    def matrix(self) -> Tensor:
        found, r, K = self._given.matrix(), self._ratio.to(self._old.dtype), self._n_outputs
        r = r.repeat(1, K)
        found = found * (r[:, :, None] * r[:, None])
        moved = self._new - self._ratio.square() * self._old
        found.diagonal(dim1=1, dim2=2).add_(moved.repeat(1, K))
        self._there.spare_matrix(found.view(len(found), K, -1, K, found.shape[-1] // K))
        return found

    def factors(self) -> Factors:
        outputs, columns, _, _ = self._given.factors()
        r = self._ratio[: len(columns)].to(columns.dtype)
        return Factors(outputs, columns * (r[:, :, None] * r[:, None]), self._new, self._there.strength)


def find_null_space(coordinates: Coordinates, eps: float, gram: Gram) -> bool:
    """Let the coordinates know of directions in which X does not vary, where the penalty is too weak there.

    Returns whether there are any.
    """
    undecided, weak = coordinates.is_weak(eps)
    if not bool(weak.any()):
        return False
    if not coordinates.all_vary(gram):
        directions = coordinates.null_space(gram)
        if directions.shape[1]:
            coordinates.set_null(directions, undecided)
            return True
    coordinates.directions = coordinates.null = coordinates.gauge = None
    return False


def gram(rows: Rows, coordinates: Coordinates) -> Gram:
    """The `Gram` of all rows, with the mean weight of the problems."""
    center, spread, intercept = coordinates.center, coordinates.spread, coordinates.fit_intercept

    def sum_of(of: Callable[[Block, Tensor], Tensor]) -> Tensor:
        partials = (of(block, block.weights.mean(dim=0, keepdim=True)) for block in rows.blocks())
        return rows.total(functools.reduce(Tensor.add_, partials))

    def matrix(every: int = 1) -> Tensor:
        def of(block: Block, weights: Tensor) -> Tensor:
            some = block.X if every == 1 else block.X[::every]
            return sandwich(some, weights[:, ::every], center, spread, intercept)[0]

        total = sum_of(of)
        if intercept:  # what is left of the columns once their mean is exactly taken out
            return total[:-1, :-1].addr_(total[:-1, -1], total[-1, :-1] / -total[-1, -1])
        return total

    def part() -> Tensor:
        return matrix(every) / rows.weight_sum(center.dtype).mean()

    def times(directions: Tensor) -> Tensor:
        raw = (directions / spread[:, None]).T  # (r, d)
        shift = (raw @ center)[:, None]

        def of(block: Block, weights: Tensor) -> Tensor:
            along = (matmul(block.X, raw) - shift) * weights
            ones = torch.cat([weights, along])
            sums = torch.cat([*rmatmul_deviation(block.X, ones, center, 1), ones.sum(1, True)], dim=1)
            return sums  # of the columns, and of ones, by weight and along each direction

        sums = sum_of(of)
        result = sums[1:, :-1]
        if intercept:
            result = result - torch.outer(sums[1:, -1] / sums[0, -1], sums[0, :-1])
        return (result / spread).T

    every = 1 if rows.n_stored >= 0 else int(rows.n_rows / (FIRST_LOOK * rows.n_features))
    return Gram(matrix, times if rows.dtype == torch.float64 else None, part if every > 1 else None)
