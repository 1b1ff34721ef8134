"""F and its derivatives over few enough rows to hold their scaled columns."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_logreg._coordinates import Coordinates, Moments, find_null_space
from torch_logreg._losses import Loss, outputs_factor
from torch_logreg._rows import ArrayRows, dense_rows
from torch_logreg._solver import Block, Curvature, Factors, Objective, Rows


class DesignObjective(Objective):
    """The F of `LinearObjective`, from a matrix A of the columns ``(x - center) * inverse_scale``.

    A pass is two products and a few operations: on small data operations cost more than arithmetic. A has
    the dtype of the weights, float64 where there is one, so little is lost on float32 rows. It serves small
    data whole, and samples of large data.

    Parameters
    ----------
    rows : Rows
        Where the rows come from; `rows_read` is counted there.
    A : Tensor of shape (n, m)
        A last column of ones where there is an intercept.
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
        self.n_parameters = self.n_outputs * A.shape[1]
        self._A, self._target, self.weights = A, target, weights
        inverse = coordinates.inverse_scale  # (P, 1, d)
        decay = coordinates.strength[:, None, None] * inverse.square()
        self._factor: Tensor | None = None
        if self.n_problems > 1:  # A is scaled for the first
            ratio = torch.where(inverse[:1] > 0, inverse / inverse[:1], 0.0)
            self._factor = self._with_intercept(ratio, 1.0).to(A.dtype)
        self._decay = self._with_intercept(decay, 0.0).to(A.dtype)  # (P, 1, m)
        self.n_rows = len(A)
        self._last: tuple[Tensor, Tensor] | None = None
        self._rough: DesignObjective | None = None

    def _with_intercept(self, of_columns: Tensor, value: float) -> Tensor:
        fit_intercept = self.coordinates.fit_intercept
        return torch.nn.functional.pad(of_columns, (0, 1), value=value) if fit_intercept else of_columns

    def _linear(self, w: Tensor) -> Tensor:
        """Raw predictions (P, K, n); those of the last weights are kept."""
        if self._last is None or self._last[0] is not w:
            by_output = w.view(self.n_problems, self.n_outputs, -1)
            if self._factor is not None:
                by_output = by_output * self._factor
            z = by_output.view(-1, self._A.shape[1]) @ self._A.T
            self._last = w, z.view(self.n_problems, self.n_outputs, -1)
            self.rows.rows_read += len(self._A)
        return self._last[1]

    def value(self, w: Tensor) -> Tensor:
        loss, _ = self.loss.value_and_gradient(self._linear(w), self._target)
        return (loss * self.weights).sum(dim=1) + self._penalty(w)[0]

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        loss, slope = self.loss.value_and_gradient(self._linear(w), self._target)
        penalty, gradient = self._penalty(w)
        value = (loss * self.weights).sum(dim=1) + penalty
        return value, self._pull_back(slope.mul_(self.weights[:, None])).add_(gradient)

    def _penalty(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Its value (P,) and gradient (P, n_parameters)."""
        gradient = (self._decay * w.view(self.n_problems, self.n_outputs, -1)).view_as(w)
        return torch.linalg.vecdot(gradient, w).mul_(0.5), gradient

    def _pull_back(self, r: Tensor) -> Tensor:
        """``r @ A`` in the coordinates w: (P, K, n) -> (P, n_parameters)."""
        coordinates = self.coordinates
        gradient = (r.view(-1, r.shape[2]) @ self._A).view(self.n_problems, self.n_outputs, -1)
        if self._factor is not None:
            gradient = gradient * self._factor
        if self.loss.shift_invariant:
            gradient = gradient - gradient.mean(dim=1, keepdim=True)
        if coordinates.gauge is not None:
            columns = gradient[..., : coordinates.n_features]
            gradient = torch.cat(
                [coordinates.without_gauge(columns), gradient[..., coordinates.n_features :]], dim=2
            )
        return gradient.view(self.n_problems, self.n_parameters)

    def support_rare_columns(self, enough: float) -> None:
        """Penalise columns of which a sample has too few rows to know their curvature, as if it were 1.

        Their effective number of rows is the participation ratio of their squares.
        """
        d, shares = self.coordinates.n_features, _shares(self.weights)
        squares = self._A[:, :d].square()
        second, fourth = shares @ squares, shares @ squares.square_()
        n_effective = len(self._A) * second.square() / torch.where(fourth > 0, fourth, 1.0)
        ridge = (enough / (enough + n_effective)).square()
        if self.n_outputs > 1:
            ridge = ridge * (4 * (1 - 1 / self.n_outputs) / self.n_outputs)
        self._decay = self._decay + self._with_intercept(ridge, 0.0)

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

    def first(self, n: int, weights: Tensor) -> DesignObjective:
        """The objective over the first `n` rows, weighted by `weights` (1 or P, n)."""
        weights = weights.to(self.dtype)
        weights = weights / weights.sum(dim=1, keepdim=True)
        few = DesignObjective(self.rows, self._A[:n], self._target[:n], weights, self.loss, self.coordinates)
        few._decay = self._decay
        return few

    def gram(self, n: int | None = None) -> Tensor:
        """Of the columns ``(x - center) / spread`` of the first `n` rows (all by default), (d, d)."""
        coordinates, shares = self.coordinates, _shares(self.weights)[:n]
        scale = coordinates.inverse_scale[0] * coordinates.spread
        columns = self._A[:n, : coordinates.n_features] / scale
        gram = (columns * shares[:, None]).T @ columns
        if coordinates.fit_intercept:  # what is left once the mean is exactly taken out
            mean = shares @ columns
            gram -= torch.outer(mean, mean) / shares.sum()
        return gram

    # ---- curvature ----

    def curvature(self, w: Tensor) -> Curvature:
        fisher, weights = self.loss.fisher(self._linear(w)), self.weights[:, None]
        of_rows = self.loss.fisher_operator(fisher, self.weights)

        def product(v: Tensor) -> Tensor:
            by_output = v.view(self.n_problems, self.n_outputs, -1)
            scaled = by_output if self._factor is None else by_output * self._factor
            dz = (scaled.reshape(-1, self._A.shape[1]) @ self._A.T).view_as(fisher)
            self.rows.rows_read += len(self._A)
            curved = self._pull_back(of_rows(dz)).view_as(by_output)
            return curved.addcmul_(self._decay, by_output).view_as(v)

        def diagonal() -> Tensor:
            self.rows.rows_read += len(self._A)
            r = self.loss.fisher_diagonal(fisher) * weights
            squares = (r.view(-1, r.shape[2]) @ self._A.square()).view(*r.shape[:2], -1)
            if self._factor is not None:
                squares = squares * self._factor.square()
            return (squares + self._decay).view(self.n_problems, -1)

        return Curvature(product, diagonal, lambda: self._matrix(fisher), lambda: self._factors(fisher))

    def _factors(self, fisher: Tensor) -> Factors:
        self.rows.rows_read += len(self._A)
        of_row = self.loss.fisher_diagonal(fisher) * self.weights[:, None]  # (P, K, n)
        information = of_row.sum(dim=1)  # (P, n)
        columns = (self._A.T * information[:, None]) @ self._A  # (P, m, m)
        if self._factor is not None:
            columns = columns * (self._factor.mT * self._factor)
        total = information.sum(dim=1)[:, None, None]
        outputs = outputs_factor(self.loss, fisher, of_row, self.weights)
        return Factors(outputs, columns / total, self._decay.expand(self.n_problems, 1, -1)[:, 0])

    def _matrix(self, fisher: Tensor) -> Tensor:
        P, K, n = fisher.shape
        m = self._A.shape[1]
        self.rows.rows_read += n
        weights = (self.loss.fisher_diagonal(fisher) * self.weights[:, None]).view(P * K, n, 1)
        blocks = torch.bmm(self._A.T.expand(P * K, m, n), self._A * weights).view(P, K, m, m)
        factors = self.loss.fisher_factors(fisher)
        if factors is None:
            matrix = blocks.view(P, 1, m, 1, m)
        else:
            root = (factors * self.weights.sqrt()[:, None]).mT.contiguous()  # (P, n, K)
            outer = (root[..., None] * self._A[:, None]).view(P, n, K * m)
            matrix = (-outer.mT @ outer).view(P, K, m, K, m)
            matrix.diagonal(dim1=1, dim2=3).copy_(blocks.permute(0, 2, 3, 1))
        if self._factor is not None:
            matrix = matrix * (self._factor[:, :, :, None, None] * self._factor[:, :, None, None, :])
        self.coordinates.add_gauge(matrix)
        matrix = matrix.view(P, K * m, K * m)
        matrix.diagonal(dim1=1, dim2=2).add_(self._decay.expand(P, K, m).reshape(P, K * m))
        return matrix


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
    A = torch.empty((n, d + fit_intercept), dtype=dtype, device=strength.device)
    columns = A[:, :d].copy_(dense_rows(block.X, 0, n))
    if fit_intercept:
        A[:, d] = 1.0
    weights = block.weights.to(dtype)
    weights = weights / weights.sum(dim=1, keepdim=True)
    if coordinates is None:
        shares = _shares(weights)
        center = shares @ columns if fit_intercept else torch.zeros_like(columns[0])
        columns.sub_(center)
        moments = Moments.of(center, shares @ columns.square(), eps)
        rows.check_finite(moments.variance)
        coordinates = Coordinates(moments, strength, d, n_outputs, fit_intercept, loss.shift_invariant)
    else:
        columns.sub_(coordinates.center)
    columns.mul_(coordinates.inverse_scale[0])
    return DesignObjective(rows, A, block.target, weights, loss, coordinates)


def small_design(
    rows: ArrayRows, C: Tensor, loss: Loss, n_outputs: int, fit_intercept: bool
) -> DesignObjective:
    """The objective over all rows."""
    block = rows.whole()
    weight_sum = rows.weight_sum(C.dtype)
    eps = float(torch.finfo(C.dtype).eps)
    objective = design(rows, block, 1 / (C * weight_sum), loss, n_outputs, fit_intercept, eps)
    objective.weight_sum = weight_sum
    find_null_space(objective.coordinates, eps, objective.gram)
    return objective


def _shares(weights: Tensor) -> Tensor:
    """Weights of all problems together: (P, n) -> (n,)."""
    return weights[0] if len(weights) == 1 else weights.mean(dim=0)
