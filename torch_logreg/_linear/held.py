"""F and its derivatives over few enough rows to hold their scaled columns."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Factorable, Factors, Fisher, Hints
from torch_logreg._contracts.rows import Block, Rows
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.folds import FoldRows
from torch_logreg._data.products import dense_rows
from torch_logreg._linear.coordinates import Coordinates, find_null_space
from torch_logreg._linear.moments import Gram, Moments
from torch_logreg._losses.losses import Loss, fisher_diagonal_at, outputs_factor
from torch_logreg._losses.penalties import alike
from torch_logreg._runtime.limits import limits_of

# From so many matrices on, products of columns are held, where they are few numbers: half the work.
MANY = 8
STRETCHES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


class DesignObjective(Factorable, Hints):
    """The F of `LinearObjective`, from a matrix A of the columns ``(x - center) * inverse_scale``.

    A pass is two products and a few operations: on small data operations cost more than arithmetic. A has
    the dtype of the weights, float64 where there is one, so little is lost on float32 rows. It serves small
    data whole, and samples of large data.

    Parameters
    ----------
    rows : Rows
        Where the rows come from; `rows_read` is counted there.
    A : Tensor of shape (n, m)
        A last column of ones where there is an intercept. Products are fastest if it lies by columns.
    target : Tensor of shape (n,)
    weights : Tensor of shape (1, n) or (P, n)
        Divided by their sum.
    loss : Loss
    coordinates : Coordinates
    """

    weight_sum: Tensor  # (P,) of the weights as they were

    def __init__(
        self, rows: Rows, A: Tensor, target: Tensor, weights: Tensor, loss: Loss, coordinates: Coordinates
    ) -> None:
        self.rows, self.coordinates, self.loss, self.dtype = rows, coordinates, loss, A.dtype
        self.n_problems, self.n_outputs = coordinates.n_problems, coordinates.n_outputs
        self.n_rows, self.n_parameters = len(A), self.n_outputs * A.shape[1]
        self._A, self._columns, self._target, self.weights = A, A.T, target, weights
        inverse = coordinates.inverse_scale  # (P, 1, d)
        self._factor: Tensor | None = None  # (P, 1, m)
        if self.n_problems > 1:  # A is scaled for the first
            ratio = torch.where(inverse[:1] > 0, inverse / inverse[:1], 0.0)
            self._factor = self._with_intercept(ratio, 1.0).to(A.dtype)
        decay = self._with_intercept(inverse.square().mul_(coordinates.strength.view(-1, 1, 1)), 0.0)
        self._decay = self._of_outputs(decay.to(A.dtype))  # (P, n_parameters)
        self._of_row = weights[:, None]  # (1 or P, 1, n)
        self._root = self._of_row.sqrt()
        self._last: _AtWeights | None = None
        self._rough: DesignObjective | None = None
        self._scratch: Tensor | None = None
        self._limits = limits_of(rows.device)
        self._outer: tuple[Tensor, Tensor] | None = None  # products of two columns, and where they belong

    def _with_intercept(self, of_columns: Tensor, value: float) -> Tensor:
        fit_intercept = self.coordinates.fit_intercept
        return torch.nn.functional.pad(of_columns, (0, 1), value=value) if fit_intercept else of_columns

    def _of_outputs(self, of_columns: Tensor) -> Tensor:
        """The same for each output: (P, 1, m) -> (P, n_parameters)."""
        P, _, m = of_columns.shape
        return of_columns.expand(P, self.n_outputs, m).reshape(P, -1)

    def _linear(self, w: Tensor) -> Tensor:
        """Raw predictions (P, K, n)."""
        P, K, m = self.n_problems, self.n_outputs, self._columns.shape[0]
        if self._factor is not None:
            w = w.view(P, K, m) * self._factor
        self.rows.rows_read += self.n_rows
        return torch.mm(w.view(P * K, m), self._columns).view(P, K, -1)

    def _at(self, w: Tensor) -> _AtWeights:
        """The rows at `w`; those of the last weights are kept."""
        if self._last is None or self._last.w is not w:
            self._last = _AtWeights(w, self._linear(w), self.loss, self._target)
        return self._last

    @property
    def eps(self) -> float:
        return float(torch.finfo(self.dtype).eps)

    @property
    def hints(self) -> DesignObjective:
        return self

    def value(self, w: Tensor) -> Tensor:
        return self.value_and_gradient(w)[0]

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        loss, slope = self._at(w).loss_and_slope()
        penalty = self.coordinates.spare(self._decay * w, w)  # its gradient
        value = torch.linalg.vecdot(loss, self.weights).add_(torch.linalg.vecdot(penalty, w), alpha=0.5)
        slope = slope * self._of_row
        if self.n_outputs == 1:
            return value, self._pull_back(slope, penalty)
        # A shift of all outputs changes nothing but the penalty: of the rest it is rounding.
        gradient = self._pull_back(slope, None).view(self.n_problems, self.n_outputs, -1)
        shift = gradient.sum(dim=1, keepdim=True)  # `mean` takes twice as long
        gradient = gradient.sub_(shift, alpha=1 / self.n_outputs).view_as(w)
        return value, gradient.add_(penalty)

    def stretch(self, w: Tensor, direction: Tensor) -> Tensor:
        """By trial of a few lengths: from weights 0 a Newton step is too short where classes lie apart.

        With several outputs each would want its own length.
        """
        if self.n_outputs > 1:
            return direction
        z, dz = self._at(w).z, self._linear(direction)
        lengths = torch.tensor(STRETCHES, dtype=self.dtype, device=w.device).view(-1, 1, 1)
        along = torch.addcmul(z, lengths.unsqueeze(3), dz).view(-1, 1, self.n_rows)
        loss = self.loss.value(along, self._target).view(len(STRETCHES), -1, self.n_rows)
        there = torch.addcmul(w, lengths, direction)
        penalty = torch.linalg.vecdot(self.coordinates.spare(self._decay * there, there), there)
        values = torch.linalg.vecdot(loss, self.weights).add_(penalty, alpha=0.5)  # (lengths, P)
        return lengths.view(-1)[values.argmin(dim=0), None] * direction

    def reach(self, direction: Tensor) -> Tensor:
        return (self._linear(direction).abs_().amax(dim=1) * (self.weights > 0)).amax(dim=1)

    def _pull_back(self, r: Tensor, penalty: Tensor | None) -> Tensor:
        """``r @ A + penalty`` in the coordinates w: (P, K, n) -> (P, n_parameters)."""
        P, K, n = r.shape
        r, gauge = r.view(P * K, n), self.coordinates.gauge
        if penalty is not None and self._factor is None and gauge is None:
            return torch.addmm(penalty.view(P * K, -1), r, self._A).view(P, -1)
        gradient = torch.mm(r, self._A).view(P, K, -1)
        if self._factor is not None:
            gradient.mul_(self._factor)
        if gauge is not None:
            columns = gradient[..., : self.coordinates.n_features]
            columns.copy_(self.coordinates.without_gauge(columns))
        gradient = gradient.view(P, -1)
        return gradient if penalty is None else gradient.add_(penalty)

    def support_rare_columns(self, enough: float) -> None:
        """Penalise columns of which a sample has too few rows to know their curvature, as if it were 1.

        Their effective number of rows is the participation ratio of their weighted squares.
        """
        d, shares = self.coordinates.n_features, _shares(self.weights)
        squares = self._A[:, :d].square()
        second, fourth = shares @ squares, shares.square() @ squares.square_()
        n_effective = second.square() / torch.where(fourth > 0, fourth, 1.0)
        ridge = (enough / (enough + n_effective)).square()
        if self.n_outputs > 1:
            ridge = ridge * (4 * (1 - 1 / self.n_outputs) / self.n_outputs)
        self._decay = self._decay + self._of_outputs(self._with_intercept(ridge, 0.0)[None, None])

    def rough(self) -> DesignObjective:
        if self._rough is None:
            if self.dtype == torch.float32:
                return self
            A, weights = self._A.to(torch.float32), self.weights.to(torch.float32)
            target = self._target if self.loss.shift_invariant else self._target.to(torch.float32)
            rough = DesignObjective(self.rows, A, target, weights, self.loss, self.coordinates)
            rough._decay = self._decay.to(torch.float32)
            self._rough = rough
        return self._rough

    def select(self, problems: np.ndarray) -> DesignObjective | None:
        if self._factor is None:
            return None
        some, index = copy.copy(self), torch.as_tensor(problems, dtype=torch.int64, device=self._A.device)
        some.coordinates, some.n_problems = self.coordinates.select(index), len(index)
        some._factor, some._decay = self._factor[index], self._decay[index]
        some._last = some._rough = some._scratch = None
        if len(self.weights) > 1:
            some.weights, some._of_row, some._root = (
                self.weights[index],
                self._of_row[index],
                self._root[index],
            )
        return some

    def first(self, n: int, weights: Tensor) -> DesignObjective:
        """The objective over the first `n` rows, weighted by `weights` (1 or P, n)."""
        weights = weights.to(self.dtype)
        weights = weights / weights.sum(dim=1, keepdim=True)
        few = DesignObjective(self.rows, self._A[:n], self._target[:n], weights, self.loss, self.coordinates)
        few._decay = self._decay
        return few

    def gram(self, n: int | None = None) -> Gram:
        """Of the columns ``(x - center) / spread`` of the first `n` rows (all by default)."""
        coordinates = self.coordinates

        def columns() -> tuple[Tensor, Tensor]:
            shares = _shares(self.weights)[:n]
            scale = coordinates.inverse_scale[0] * coordinates.spread
            scaled = self._A[:n, : coordinates.n_features] / torch.where(scale > 0, scale, 1.0)
            if coordinates.fit_intercept:  # what is left once the mean is exactly taken out
                scaled = scaled - shares @ scaled / shares.sum()
            return scaled, shares[:, None]

        def matrix() -> Tensor:
            scaled, shares = columns()
            return (scaled * shares).T @ scaled

        def times(directions: Tensor) -> Tensor:
            scaled, shares = columns()
            return scaled.T @ ((scaled @ directions) * shares)

        return Gram(matrix, times if self.rows.dtype == torch.float64 else None)

    # ---- curvature ----

    def curvature(self, w: Tensor) -> DesignFisher:
        return DesignFisher(self, self._at(w))

    def diagonal(self, w: Tensor) -> Tensor:
        return self._diagonal(self._at(w))

    def _product(self, of_rows: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        penalty = self.coordinates.spare(self._decay * v, v)
        return self._pull_back(of_rows(self._linear(v)), penalty)

    def _of_rows(self, at: _AtWeights) -> Callable[[Tensor], Tensor]:
        """Products with the weighted Fisher matrices of rows."""
        return self.loss.fisher_operator(self.loss.fisher(at.z), self.weights)

    def _information(self, at: _AtWeights) -> Tensor:
        """Diagonals of the weighted Fisher matrices of rows, (P, K, n)."""
        self.rows.rows_read += self.n_rows
        return fisher_diagonal_at(at.loss_and_slope()[1]).mul_(self._of_row)

    def _diagonal(self, at: _AtWeights) -> Tensor:
        P, K, n = at.z.shape
        squares = (self._information(at).view(P * K, n) @ self._A.square()).view(P, K, -1)
        if self._factor is not None:
            squares = squares * self._factor.square()
        return squares.view(P, -1) + self._decay

    def _factors(self, at: _AtWeights) -> Factors:
        of_row = self._information(at)
        information = of_row.sum(dim=1)  # (P, n)
        if alike(self.coordinates.strength):
            information = information.mean(dim=0, keepdim=True)
        columns = (self._columns * information[:, None]) @ self._A  # (1 or P, m, m)
        if self._factor is not None:
            factor = self._factor[: len(columns)]
            columns = columns * (factor.mT * factor)
        total = information.sum(dim=1)[:, None, None]
        outputs = outputs_factor(self.loss, self.loss.fisher(at.z), of_row, self.weights)
        decay = self._decay[:, : len(self._columns)]
        return Factors(outputs, columns / total, decay, self.coordinates.strength)

    def _sandwich(self, information: Tensor) -> Tensor:
        """``A.T @ diag(information[q]) @ A`` for each q: (Q, 1, n) -> (Q * m, m)."""
        (Q, _, n), m = information.shape, self._columns.shape[0]
        if Q < MANY or n * m * m > self._limits.outer_numbers:
            # One product for all problems and outputs, of rows that lie in memory as it reads them.
            step = min(n, max(1, self._limits.weighted_numbers // (Q * m)))
            # A scratch array that is there already, and nothing to cut.
            if Q * m * n <= self._limits.kept_numbers:
                if self._scratch is None:
                    self._scratch = information.new_empty((Q, m, n))
                weighted = torch.mul(self._columns, information, out=self._scratch)
                return weighted.view(Q * m, n).mm(self._A)
            result = information.new_zeros((Q * m, m))
            scratch = information.new_empty(Q * m * step)
            for first in range(0, n, step):
                part = slice(first, min(first + step, n))
                weighted = scratch[: Q * m * (part.stop - first)].view(Q, m, -1)
                torch.mul(self._columns[:, part], information[..., part], out=weighted)
                result.addmm_(weighted.view(Q * m, -1), self._A[part])
            return result
        if self._outer is None:
            i, j = torch.triu_indices(m, m, dtype=torch.int64, device=information.device)
            index = torch.empty((m, m), dtype=torch.int64, device=information.device)
            index[i, j] = index[j, i] = torch.arange(len(i), dtype=torch.int64, device=information.device)
            self._outer = self._columns[i] * self._columns[j], index.flatten()
        products, index = self._outer
        return torch.mm(information.view(Q, n), products.T).index_select(1, index).view(-1, m)

    def _matrix(self, at: _AtWeights) -> Tensor:
        (P, K, n), m = at.z.shape, self._columns.shape[0]
        blocks = self._sandwich(self._information(at).view(P * K, 1, n))
        if K == 1:
            matrix = blocks.view(P, K, m, K, m)
        else:
            root = self.loss.fisher(at.z).mul_(self._root)
            outer = (root.view(P, K, 1, n) * self._columns).view(P, K * m, n)
            matrix = torch.bmm(outer, outer.mT).neg_().view(P, K, m, K, m)
            # `permute` would do, but takes as long as a product of small matrices.
            matrix.diagonal(dim1=1, dim2=3).copy_(blocks.view(P, K, m * m).mT.view(P, m, m, K))
        if self._factor is not None:
            matrix = matrix * (self._factor[:, :, :, None, None] * self._factor[:, :, None, None, :])
        if self.coordinates.null is not None or K > 1:
            self.coordinates.add_gauge(matrix)
            self.coordinates.spare_matrix(matrix)
        matrix = matrix.view(P, K * m, K * m)
        matrix.diagonal(0, 1, 2).add_(self._decay)
        return matrix


class _AtWeights:
    """The rows at some weights."""

    def __init__(self, w: Tensor, z: Tensor, loss: Loss, target: Tensor) -> None:
        self.w, self.z, self._loss, self._target = w, z, loss, target  # (P, n_parameters), (P, K, n)
        self._found: tuple[Tensor, Tensor] | None = None

    def loss_and_slope(self) -> tuple[Tensor, Tensor]:
        """The loss of each row (P, n) and its gradient in z (P, K, n)."""
        if self._found is None:
            self._found = self._loss.value_and_gradient(self.z, self._target)
        return self._found


class DesignFisher(Fisher):
    """The Fisher matrix of a `DesignObjective` at some weights."""

    def __init__(self, objective: DesignObjective, at: _AtWeights) -> None:
        self._objective, self._at = objective, at

    @functools.cached_property
    def _of_rows(self) -> Callable[[Tensor], Tensor]:  # not all who want the curvature multiply with it
        return self._objective._of_rows(self._at)

    def product(self, v: Tensor) -> Tensor:
        return self._objective._product(self._of_rows, v)

    def diagonal(self) -> Tensor:
        return self._objective._diagonal(self._at)

    def matrix(self) -> Tensor:
        return self._objective._matrix(self._at)

    def factors(self) -> Factors:
        return self._objective._factors(self._at)


def design(
    rows: Rows,
    block: Block,
    strength: Tensor,
    loss: Loss,
    n_outputs: int,
    fit_intercept: bool,
    eps: float,
    coordinates: Coordinates | None = None,
) -> DesignObjective:
    """The objective over the rows of `block`, with its own moments for the coordinates if none are given.

    Deviations below `eps` times the mean are rounding errors.
    """
    (n, d), dtype = block.X.shape, strength.dtype
    # By columns: products then read along rows, which saves more than the copy costs.
    columns = torch.empty((d + fit_intercept, n), dtype=dtype, device=strength.device)
    features = columns[:d].copy_(dense_rows(block.X, 0, n).T)
    if fit_intercept:
        columns[d].fill_(1.0)
    weights = block.weights.to(dtype)
    weights = weights / weights.sum(dim=1, keepdim=True)
    if coordinates is None:
        shares = _shares(weights)
        if fit_intercept:
            # Sums by pairs: those of `@` are off by more than `Moments.of` takes for rounding.
            center = torch.linalg.vecdot(features, shares)
            features.sub_(center.unsqueeze(1))
        else:
            center = torch.zeros(d, dtype=dtype, device=strength.device)
        moments = Moments.of(center, features.square() @ shares, eps)
        rows.check_finite(moments.variance)
        coordinates = Coordinates(moments, strength, d, n_outputs, fit_intercept, loss.shift_invariant)
    else:
        features.sub_(coordinates.center[:, None])
    features.mul_(coordinates.inverse_scale[0].mT)
    return DesignObjective(rows, columns.T, block.target, weights, loss, coordinates)


def small_design(
    rows: ArrayRows | FoldRows, C: Tensor, loss: Loss, n_outputs: int, fit_intercept: bool
) -> DesignObjective:
    """The objective over all rows."""
    block = rows.whole()
    weight_sum = rows.weight_sum(C.dtype)
    eps = float(torch.finfo(C.dtype).eps)
    strength = (C * weight_sum).reciprocal_()
    objective = design(rows, block, strength, loss, n_outputs, fit_intercept, eps)
    objective.weight_sum = weight_sum
    find_null_space(objective.coordinates, eps, objective.gram())
    return objective


def _shares(weights: Tensor) -> Tensor:
    """Weights of all problems together: (P, n) -> (n,)."""
    return weights[0] if len(weights) == 1 else weights.mean(dim=0)
