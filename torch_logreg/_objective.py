"""F and its derivatives for P problems over one set of rows."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from torch_logreg._losses import Loss
from torch_logreg._penalty import L2Penalty
from torch_logreg._rows import matmul, rmatmul, rmatmul_square, sandwich, sandwich_outer
from torch_logreg._solver import Block, Curvature, Objective, Rows

NULL_SPACE_FEATURES = 2048  # above it the d x d eigenproblem costs more than the fit
CACHE_NUMBERS = 2**24  # numbers of Fisher information kept between the products of one CG solve


class LinearObjective(Objective):
    """Logistic regression with an L2 penalty, in closed form.

    For problem p with weights s, raw predictions ``z = X @ coef.T + intercept`` and
    ``strength = 1 / (C * sum(s))``::

        F(w) = sum_i s_i * loss(z_i, y_i) / sum_i s_i  +  strength / 2 * |coef|²

    which is scikit-learn's objective divided by ``C * sum(s)``. The coordinates w are those of the
    columns ``(x - center) / scale``: ``w = [coef * scale, intercept + coef @ center]`` for each output.
    It is the same problem, with the penalty transformed too. With ``scale² = variance / 4 + strength``
    no diagonal entry of the Hessian exceeds 1, as ``p (1 - p) <= 1/4`` (Böhning, Lindsay 1988), so
    a unit step is the right size for every column whatever its unit. X itself stays as it is: the
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
    standardise : bool, default=True
        False makes the coordinates those of the columns as they are, for plain SGD.
    """

    def __init__(
        self,
        rows: Rows,
        loss: Loss,
        C: Tensor,
        n_outputs: int,
        fit_intercept: bool,
        standardise: bool = True,
    ) -> None:
        self.rows, self.loss, self.fit_intercept = rows, loss, fit_intercept
        self.dtype, self.n_problems, self.n_outputs = C.dtype, len(C), n_outputs
        self.n_parameters = n_outputs * (rows.n_features + fit_intercept)
        self.weight_sum = self._total(_sum(b.weights.sum(dim=1, dtype=self.dtype) for b in rows.blocks()))
        self.penalty = L2Penalty(1 / (C * self.weight_sum))
        self._plain = not standardise and self.dtype == rows.dtype
        self._rows_per_weight = (rows.n_rows / self.weight_sum).to(rows.dtype)[:, None, None]  # (P, 1, 1)
        decay = self.penalty.strength[:, None, None].expand(-1, 1, rows.n_features)
        self._decay = torch.nn.functional.pad(decay, (0, int(fit_intercept)))  # (P, 1, d + 1)
        if not standardise:
            self.center = C.new_zeros(rows.n_features)
            self.spread = torch.ones_like(self.center)
            self.inverse_scale = C.new_ones((self.n_problems, 1, rows.n_features))
            self._null, self._gauge, self.undecided = None, None, C.new_zeros(self.n_problems) > 0
            return
        self.center, variance = self._moments()
        self.spread = torch.where(variance > 0, variance, 1.0).sqrt()  # (d,)
        # A column that says nothing gets no coefficient: an infinite scale is a coefficient of 0.
        scale = (variance / 4 + self.penalty.strength[:, None]).sqrt()
        self.inverse_scale = torch.where(variance > 0, 1 / scale, 0.0)[:, None]  # (P, 1, d)
        self._null, self._gauge, self.undecided = self._degeneracy(variance > 0)

    def _total(self, partial: Tensor) -> Tensor:
        return self.rows.total(partial.to(self.dtype))

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Means and variances of the columns, (d,).

        Any centre and any scale pose the same problem, so those of all problems together serve each.
        Without an intercept the columns are not centred, and "variance" is the mean square.
        """
        rows, weight_sum = self.rows, self.weight_sum.mean()
        origin = torch.zeros(rows.n_features, dtype=self.dtype, device=rows.device)
        if self.fit_intercept:
            origin = self._column_sums(None) / weight_sum
        variance = self._column_sums(origin) / weight_sum
        # A constant column's deviations are rounding errors of its mean, not variance.
        rounding = 16 * torch.finfo(rows.dtype).eps * origin.abs()
        return origin, torch.where(variance > rounding.square(), variance, 0.0)

    def _column_sums(self, center: Tensor | None) -> Tensor:
        """Weighted sums of the columns, or of their squared distances from `center`."""

        def of(block: Block) -> Tensor:
            weights = block.weights.mean(dim=0, keepdim=True)
            products = (
                rmatmul(block.X, weights) if center is None else rmatmul_square(block.X, weights, center)
            )
            return products[0].to(self.dtype)

        return self._total(_sum(of(block) for block in self.rows.blocks()))

    # ---- coordinates ----

    def to_raw(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (P, K, d) and intercepts (P, K) for the columns as they are given."""
        coef, shifted = self._split(w)
        coef = coef * self.inverse_scale
        return coef, shifted - coef @ self.center

    def from_raw(self, coef: Tensor, intercept: Tensor) -> Tensor:
        """The weights whose `to_raw` is this, up to what constant columns move to the intercept."""
        shifted = intercept + coef @ self.center
        coef = torch.where(self.inverse_scale > 0, coef / self.inverse_scale, 0.0)
        return self.join(coef, shifted)

    def _split(self, w: Tensor) -> tuple[Tensor, Tensor]:
        w = w.view(self.n_problems, self.n_outputs, -1)
        if self.fit_intercept:
            return w[..., :-1], w[..., -1]
        return w, w.new_zeros(w.shape[:2])

    def join(self, coef: Tensor, shifted: Tensor) -> Tensor:
        w = torch.cat([coef, shifted[..., None]], dim=2) if self.fit_intercept else coef
        return w.reshape(self.n_problems, self.n_parameters)

    def linear(self, block: Block, coef: Tensor, intercept: Tensor) -> Tensor:
        """Raw predictions of a block from raw coefficients, in the dtype of the rows."""
        dtype = self.rows.dtype
        z = matmul(block.X, coef.to(dtype).flatten(0, 1)) + intercept.to(dtype).view(-1, 1)
        return z.view(self.n_problems, self.n_outputs, -1)  # (P, K, n)

    def pull_back(self, partial: Tensor) -> Tensor:
        """Sums over blocks of `rmatmul` as a gradient of F in the coordinates w."""
        products = self.rows.total(partial) / self.weight_sum[:, None, None]
        return self._pull_back(products[..., :-1], products[..., -1])

    def _pull_back(self, columns: Tensor, sums: Tensor) -> Tensor:
        columns = (columns - sums[..., None] * self.center) * self.inverse_scale
        if self.loss.shift_invariant:
            columns, sums = columns - columns.mean(dim=1, keepdim=True), sums - sums.mean(dim=1, keepdim=True)
        if self._gauge is not None:  # there is nothing but rounding in these directions, nor in the mean
            columns = columns - (columns @ self._gauge) @ self._gauge.mT
        return self.join(columns, sums)

    def rmatmul(self, block: Block, r: Tensor) -> Tensor:
        """``r @ X`` with ``sum(r)`` in a last column: (P, K, n) -> (P, K, d + 1)."""
        products = rmatmul(block.X, r.flatten(0, 1)).view(*r.shape[:2], -1).to(self.dtype)
        return torch.cat([products, r.sum(dim=2, keepdim=True, dtype=self.dtype)], dim=2)

    # ---- F and its derivatives ----

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        coef, intercept = self.to_raw(w)
        values, products = [], []
        for block in self.rows.blocks():
            loss, slope = self.loss.value_and_gradient(self.linear(block, coef, intercept), block.target)
            values.append((block.weights * loss).sum(dim=1, dtype=self.dtype))
            products.append(self.rmatmul(block, block.weights[:, None] * slope))
        value = self.rows.total(_sum(values)) / self.weight_sum + self.penalty.value(coef)
        return value, self.pull_back(_sum(products)) + self._penalty_gradient(coef)

    def _penalty_gradient(self, coef: Tensor) -> Tensor:
        gradient = self.penalty.gradient(coef) * self.inverse_scale
        return self.join(gradient, gradient.new_zeros(coef.shape[:2]))

    def value(self, w: Tensor) -> Tensor:
        coef, intercept = self.to_raw(w)
        values = []
        for block in self.rows.blocks():
            loss, _ = self.loss.value_and_gradient(self.linear(block, coef, intercept), block.target)
            values.append((block.weights * loss).sum(dim=1, dtype=self.dtype))
        return self.rows.total(_sum(values)) / self.weight_sum + self.penalty.value(coef)

    def batch_value_and_gradient(self, w: Tensor, block: Block, n_nominal: int) -> tuple[Tensor, Tensor]:
        coef, intercept = self.to_raw(w)
        factor = self._batch_factor(n_nominal)  # (P, 1)
        loss, slope = self.loss.value_and_gradient(self.linear(block, coef, intercept), block.target)
        value = (block.weights * loss).sum(dim=1, dtype=self.dtype) * factor[:, 0] + self.penalty.value(coef)
        slope = slope.mul_((block.weights * factor)[:, None])
        columns = rmatmul(block.X, slope.flatten(0, 1)).view(coef.shape).to(self.dtype)
        gradient = self._pull_back(columns, slope.sum(dim=2, dtype=self.dtype))
        return value, gradient + self._penalty_gradient(coef)

    def batch_gradient(self, w: Tensor, block: Block, n_nominal: int) -> Tensor:
        if not self._plain:
            return self.batch_value_and_gradient(w, block, n_nominal)[1]
        # In as few operations as possible: each costs more than its arithmetic on a few hundred rows.
        P, K, d = self.n_problems, self.n_outputs, self.rows.n_features
        flat = w.view(P * K, -1)
        z = matmul(block.X, flat[:, :d])
        if self.fit_intercept:
            z = z.add_(flat[:, d:])
        slope = self.loss.gradient(z.view(P, K, -1), block.target)
        slope = slope.mul_(block.weights[:, None]).view(P * K, -1)
        gradient = rmatmul(block.X, slope)
        if self.fit_intercept:
            gradient = torch.cat([gradient, slope.sum(dim=1, keepdim=True)], dim=1)
        gradient = gradient.view(P, K, -1)
        if self.loss.shift_invariant:
            gradient = gradient - gradient.mean(dim=1, keepdim=True)
        penalty = self._decay * w.view(P, K, -1)
        return penalty.addcmul_(gradient, self._rows_per_weight, value=1 / n_nominal).view(P, -1)

    def batch_value(self, w: Tensor, block: Block, n_nominal: int) -> Tensor:
        coef, intercept = self.to_raw(w)
        loss, _ = self.loss.value_and_gradient(self.linear(block, coef, intercept), block.target)
        value = (block.weights * loss).sum(dim=1, dtype=self.dtype) * self._batch_factor(n_nominal)[:, 0]
        return value + self.penalty.value(coef)

    def _batch_factor(self, n_nominal: int) -> Tensor:
        return self._rows_per_weight[:, 0] / n_nominal  # (P, 1)

    def curvature(self, w: Tensor) -> Curvature:
        fisher = LinearFisher(self, w)
        return Curvature(fisher.product, fisher.diagonal, fisher.matrix)

    # ---- one of many optima ----

    def _degeneracy(self, varies: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Directions in which X does not vary though its columns do: raw, and orthonormal in w.

        Also which problems (P,) have a penalty too weak to choose among the optima along them. The
        directions matter, and are looked for, only where rounding of the gradient outweighs the penalty.
        """
        curve = torch.where(varies, self.penalty.strength[:, None] * self.inverse_scale[:, 0].square(), 1.0)
        least, d = curve.amin(dim=1), self.rows.n_features
        undecided = least < 16 * d * torch.finfo(self.dtype).eps
        weak = least < 16 * d * torch.finfo(self.rows.dtype).eps
        if d > NULL_SPACE_FEATURES or not bool(weak.any()):
            return None, None, undecided
        null = self._null_space(varies)
        if null.shape[1] == 0:
            return None, None, undecided
        scale = torch.where(varies, 1 / self.inverse_scale[:, 0], 0.0)
        return null, torch.linalg.qr(scale[:, :, None] * null).Q, undecided

    def _null_space(self, varies: Tensor) -> Tensor:
        """Orthonormal raw directions (d, r) along which no centred row has a component."""
        gram = self._total(
            _sum(
                sandwich(
                    b.X, b.weights.mean(dim=0, keepdim=True), self.center, self.spread, self.fit_intercept
                )[0]
                for b in self.rows.blocks()
            )
        )
        if self.fit_intercept:  # what is left of the columns once their mean is exactly taken out
            gram = gram[:-1, :-1] - torch.outer(gram[:-1, -1], gram[-1, :-1]) / gram[-1, -1]
        both = varies[:, None] & varies
        gram = torch.where(both, gram, 0.0) + torch.diag(torch.where(varies, 0.0, gram.diagonal().max()))
        values, vectors = torch.linalg.eigh(gram)
        zero = values <= 16 * len(values) * torch.finfo(self.dtype).eps * values[-1]
        return torch.linalg.qr(vectors[:, zero] / self.spread[:, None]).Q

    def canonical(self, w: Tensor) -> Tensor:
        """The same predictions from the smallest coefficients that make them.

        Softmax coefficients and intercepts are centred over the classes. Where there is no penalty to see
        to it, directions in which X does not vary (collinear columns) are taken out: the limit of C -> inf.
        """
        coef, shifted = self._split(w)
        if self.loss.shift_invariant:
            coef, shifted = coef - coef.mean(dim=1, keepdim=True), shifted - shifted.mean(dim=1, keepdim=True)
        if self._null is not None:
            raw = coef * self.inverse_scale
            raw = raw - (raw @ self._null) @ self._null.T
            smallest = torch.where(self.inverse_scale > 0, raw / self.inverse_scale, 0.0)
            coef = torch.where(self.undecided[:, None, None], smallest, coef)
        return self.join(coef, shifted)

    def add_gauge(self, matrix: Tensor) -> None:
        """Curvature where F is flat, in place on (P, K, m, K, m), so that the matrix is regular.

        Gradients have no part in these directions: the solution of a linear system stays as it is.
        """
        d, K = self.rows.n_features, self.n_outputs
        if self._gauge is not None:
            flat = self._gauge @ self._gauge.mT * self.undecided[:, None, None]  # (P, d, d)
            matrix.diagonal(dim1=1, dim2=3)[:, :d, :d].add_(flat[..., None])
        if self.loss.shift_invariant:
            curve = matrix.diagonal(dim1=1, dim2=3).diagonal(dim1=1, dim2=2).mean(dim=1)  # (P, m)
            matrix.diagonal(dim1=2, dim2=4).add_(curve[:, None, None] / K)  # (P, K, K, m)


class LinearFisher:
    """The Fisher matrix of a `LinearObjective` at weights w, in the objective's coordinates."""

    def __init__(self, objective: LinearObjective, w: Tensor) -> None:
        self.objective = objective
        self.coef, self.intercept = objective.to_raw(w)
        numbers = objective.rows.n_rows * objective.n_problems * objective.n_outputs
        self._keep, self._kept = numbers <= CACHE_NUMBERS, dict[int, Tensor]()

    def _blocks(self) -> Iterator[tuple[Block, Tensor]]:
        """Each block with its rows' Fisher information (P, K, n), kept for the next pass if that is small."""
        objective = self.objective
        for index, block in enumerate(objective.rows.blocks()):
            fisher = self._kept.get(index)
            if fisher is None:
                fisher = objective.loss.fisher(objective.linear(block, self.coef, self.intercept))
                if self._keep:
                    self._kept[index] = fisher
            yield block, fisher

    def _penalty(self) -> Tensor:
        objective = self.objective
        curve = objective.penalty.curvature(self.coef) * objective.inverse_scale.square()
        return objective.join(curve, torch.zeros_like(self.intercept))

    def product(self, v: Tensor) -> Tensor:
        objective = self.objective
        coef, intercept = objective.to_raw(v)
        total = _sum(
            objective.rmatmul(
                block,
                block.weights[:, None]
                * objective.loss.fisher_product(fisher, objective.linear(block, coef, intercept)),
            )
            for block, fisher in self._blocks()
        )
        return objective.pull_back(total) + self._penalty() * v

    def diagonal(self) -> Tensor:
        objective = self.objective

        def squares(block: Block, fisher: Tensor) -> Tensor:
            r = block.weights[:, None] * objective.loss.fisher_diagonal(fisher)
            products = rmatmul_square(block.X, r.flatten(0, 1), objective.center).view(*r.shape[:2], -1)
            return torch.cat([products, r.sum(dim=2, keepdim=True, dtype=objective.dtype)], dim=2)

        total = objective.rows.total(_sum(squares(block, fisher) for block, fisher in self._blocks()))
        total = total / objective.weight_sum[:, None, None]
        scaled = total[..., :-1] * objective.inverse_scale.square()
        return objective.join(scaled, total[..., -1]) + self._penalty()

    def matrix(self) -> Tensor:
        objective = self.objective
        P, K, center, spread = objective.n_problems, objective.n_outputs, objective.center, objective.spread

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
        factor[:, : objective.rows.n_features] = objective.spread * objective.inverse_scale[:, 0]
        matrix = matrix * (factor[:, None, :, None, None] * factor[:, None, None, None])
        matrix = matrix / objective.weight_sum[:, None, None, None, None]
        objective.add_gauge(matrix)
        matrix = matrix.view(P, objective.n_parameters, objective.n_parameters)
        matrix.diagonal(dim1=1, dim2=2).add_(self._penalty())
        return matrix


def _sum(partials: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, partials)
