"""F of the linear model with an L1 term, as a proximal Newton method asks for it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.composite import Composite, Look, Working
from torch_logreg._contracts.rows import Rows, Sample
from torch_logreg._data.columns import ColumnSet, gather, predictions, slopes
from torch_logreg._data.samples import HeldRows
from torch_logreg._losses.losses import Loss, outputs_factor
from torch_logreg._losses.penalties import ElasticNet

LEAST = 1e-30  # of the weight, of a class
UNBALANCED = 1e5  # times eps, of a sum of residuals, what leaves a dual point that proves anything
POLISHES, BALANCED = 60, 1e-16  # Newton steps of the intercepts, and of the sums of residuals what ends them
# Samples to start on: rows of the smallest, by how much each is larger, and the part of all at most.
SAMPLE_ROWS, SAMPLE_GROWTH, SAMPLE_PART = 1_500, 8, 8
# And how many for each column: of fewer a sample finds columns that have nothing to say.
SAMPLE_ROWS_PER_COLUMN = 4


class ElasticNetObjective(Composite):
    """Logistic regression with an elastic-net penalty, for one problem.

    With ``S = sum(s)``, ``l1 = l1_ratio / (C * S)`` and ``l2 = (1 - l1_ratio) / (C * S)``::

        F(w) = sum_i s_i * loss(z_i, y_i) / S  +  l1 * |coef|_1  +  l2 / 2 * |coef|²

    The parameters are those of the columns as they are, and each intercept behind its coefficients. Scales
    are a matter of working sets.

    Parameters
    ----------
    rows : Rows
    loss : Loss
    penalty : ElasticNet
    n_outputs : int
    fit_intercept : bool
    dtype : torch.dtype
        Of the parameters and of all sums.
    draw : callable, default=None
        Draws a sample of so many of the rows; None where none is wanted.
    weights : Tensor of shape (n_rows,), default=None
        Weights of the rows in `dtype`, where the rows hold them rounded: a gap is that of the weights it is
        computed with, and slopes within 1e-7 of a threshold are not within it. None for those of the rows.
    """

    n_problems = 1

    def __init__(
        self,
        rows: Rows,
        loss: Loss,
        penalty: ElasticNet,
        n_outputs: int,
        fit_intercept: bool,
        dtype: torch.dtype,
        draw: Callable[[int], Sample] | None = None,
        weights: Tensor | None = None,
    ) -> None:
        self.rows, self.loss, self.penalty, self.dtype = rows, loss, penalty, dtype
        self.n_outputs, self.fit_intercept, self._draw = n_outputs, fit_intercept, draw
        self.n_parameters = n_outputs * (rows.n_features + fit_intercept)
        self.eps = float(torch.finfo(dtype).eps)
        blocks = list(rows.blocks())
        self.target = torch.cat([block.target for block in blocks])
        if weights is None:
            weights = torch.cat([block.weights[0] for block in blocks]).to(dtype)
        self._weights = weights
        self.weight_sum = weights.sum()
        self.shares = weights / self.weight_sum

    @functools.cached_property
    def threshold(self) -> Tensor:
        threshold = self.zeros().view(self.n_outputs, -1)
        threshold[:, : self.rows.n_features] = self.penalty.l1
        return threshold.view(1, -1)

    def split(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (K, d) and intercepts (K,)."""
        w = w.view(self.n_outputs, -1)
        if self.fit_intercept:
            return w[:, :-1], w[:, -1]
        return w, w.new_zeros(self.n_outputs)

    def join(self, coef: Tensor, intercept: Tensor) -> Tensor:
        """The parameters of coefficients and intercepts."""
        w = torch.cat([coef, intercept[:, None]], dim=1) if self.fit_intercept else coef
        return w.reshape(1, -1)

    def predictions(self, coef: Tensor, intercept: Tensor) -> Tensor:
        """Raw predictions, (K, n)."""
        if not bool(coef.any()):
            return intercept[:, None].expand(-1, len(self.shares)).clone()
        return predictions(self.rows, coef, self.dtype).add_(intercept[:, None])

    def value(self, w: Tensor) -> Tensor:
        coef, intercept = self.split(w)
        value = self.loss.value(self.predictions(coef, intercept)[None], self.target)[0] @ self.shares
        return (value + self.penalty.value(coef))[None]

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """F, and of its subgradients the one that is nearest to 0."""
        coef, intercept = self.split(w)
        value, slope = self.loss.value_and_gradient(self.predictions(coef, intercept)[None], self.target)
        r = slope[0] * self.shares
        of_coef = slopes(self.rows, r) + self.penalty.l2 * coef
        shrunk = of_coef.sign() * (of_coef.abs() - self.penalty.l1).clamp(min=0)
        nearest = torch.where(coef != 0, of_coef + self.penalty.l1 * coef.sign(), shrunk)
        return (value[0] @ self.shares + self.penalty.value(coef))[None], self.join(nearest, r.sum(dim=1))

    # ---- looks ----

    def look(self, w: Tensor) -> Look:
        coef, intercept = self.split(w)
        if self.fit_intercept and not bool(coef.any()):
            intercept = self._log_odds()
        return self.look_at(coef, intercept, self.predictions(coef, intercept))

    def _log_odds(self) -> Tensor:
        """The best intercepts without coefficients."""
        codes = self.loss.codes(self.target)
        n_classes = max(self.n_outputs, 2)
        of_class = torch.zeros(n_classes, dtype=self.dtype, device=self.shares.device)
        logs = of_class.index_add(0, codes, self.shares).clamp_(min=LEAST).log_()
        return logs[1:] - logs[:1] if self.n_outputs == 1 else logs - logs.mean()

    def look_at(self, coef: Tensor, intercept: Tensor, z: Tensor) -> Look:
        """What a `look` finds at raw predictions z, with the best intercepts put in."""
        if self.fit_intercept:
            moved = self._balancing(z)
            intercept, z = intercept + moved, z + moved[:, None]
        losses, slope = self.loss.value_and_gradient(z[None], self.target)
        r = slope[0] * self.shares
        of_rows = slopes(self.rows, r)
        self.rows.check_finite(of_rows)
        F = losses[0] @ self.shares + self.penalty.value(coef)
        sums = r.sum(dim=1)
        value, bound, left = torch.stack([F, self._dual(slope, of_rows), sums.abs().amax()]).tolist()
        if self.fit_intercept and left > UNBALANCED * self.eps:
            bound = -float("inf")  # a point that is none of the dual problem's bounds nothing
        of_coef = of_rows + self.penalty.l2 * coef
        return Look(self.join(coef, intercept), value, self.join(of_coef, sums), bound, z)

    def _dual(self, slope: Tensor, of_rows: Tensor) -> Tensor:
        """The better of two values of the dual problem.

        They are at the residuals, and at the part of them that the L1 term alone allows. The residuals of
        each output must sum to 0 where an intercept is fitted.
        """
        largest = of_rows.abs().amax()
        allowed = torch.where(largest > self.penalty.l1, self.penalty.l1 / largest, 1.0)
        parts = [allowed] if not self.penalty.l2 else [allowed, torch.ones_like(allowed)]
        values = [
            self.loss.entropy(slope, self.target, part)[0] @ self.shares
            - self.penalty.conjugate(of_rows * part)
            for part in parts
        ]
        return torch.stack(values).amax()

    def _balancing(self, z: Tensor) -> Tensor:
        """What to add to the intercepts for the residuals of each output to sum to 0: (K,)."""
        moved = z.new_zeros(len(z))
        sums = self._sums(z)
        for _ in range(POLISHES):
            size = float(sums.abs().amax())
            if size <= BALANCED:
                break
            step, length = self._step_of_intercepts(z + moved[:, None], sums), 1.0
            while length > 1e-6:
                found = self._sums(z + (moved + length * step)[:, None])
                if float(found.abs().amax()) < size:
                    break
                length /= 4
            else:
                break  # nothing but rounding is left
            moved, sums = moved + length * step, found
        return moved

    def _step_of_intercepts(self, z: Tensor, sums: Tensor) -> Tensor:
        """Newton's, where the residuals of each output sum to `sums`: (K,)."""
        fisher = self.loss.fisher(z[None])
        diagonal = self.loss.fisher_diagonal(fisher) * self.shares
        if len(z) == 1:
            return -sums / diagonal.sum()
        matrix = outputs_factor(self.loss.fisher_factors(fisher), diagonal, self.shares[None])[0]
        return torch.linalg.solve_ex(matrix + matrix.diagonal().mean(), -sums)[0]

    def _sums(self, z: Tensor) -> Tensor:
        return self.loss.gradient(z[None], self.target)[0] @ self.shares

    def gap(self, coef: Tensor, intercept: Tensor) -> tuple[float, float]:
        """F at just these coefficients and intercepts, and by how much it is above its minimum at most."""
        z = self.predictions(coef, intercept)
        value = float(self.loss.value(z[None], self.target)[0] @ self.shares + self.penalty.value(coef))
        return value, value - self.look_at(coef, intercept, z).bound

    # ---- working sets, samples, other penalties ----

    def on(self, index: Tensor, look: Look) -> Working:
        return WorkingSet(self, index, look)

    def times(self, factor: float) -> ElasticNetObjective:
        return self._of(self.rows, self.penalty.times(factor), self._weights)

    def having(self, penalty: ElasticNet) -> ElasticNetObjective:
        """The same with another penalty, samples included."""
        other = copy.copy(self)
        vars(other).pop("threshold", None)
        other.penalty = penalty
        return other

    def _of(self, rows: Rows, penalty: ElasticNet, weights: Tensor | None = None) -> ElasticNetObjective:
        settings = (self.n_outputs, self.fit_intercept, self.dtype)
        return ElasticNetObjective(rows, self.loss, penalty, *settings, weights=weights)

    def samples(self) -> Sequence[ElasticNetObjective]:
        largest = self.rows.n_rows // SAMPLE_PART
        sizes, least = [], max(SAMPLE_ROWS, SAMPLE_ROWS_PER_COLUMN * self.rows.n_features)
        while largest >= least:
            sizes.append(largest)
            largest //= SAMPLE_GROWTH
        if not sizes or self._draw is None:
            return []
        sample = self._draw(sizes[0])
        found = []
        for size in sizes[::-1]:
            n = int((sample.key < size).sum())
            drawn = slice(0, n)
            block = sample.gather(drawn)._replace(weights=sample.weights(drawn, size))
            found.append(self._of(HeldRows(self.rows, block), self.penalty))
        return found


class WorkingSet(Working):
    """See `Working`: pairs of a column and an output, in coordinates of scaled columns."""

    def __init__(self, objective: ElasticNetObjective, index: Tensor, look: Look) -> None:
        self._objective, rows, K = objective, objective.rows, objective.n_outputs
        d, free = rows.n_features, objective.fit_intercept
        output, number = index // (d + free), index % (d + free)
        self._numbers, column = number.unique(return_inverse=True)
        columns = gather(rows, self._numbers, objective.shares, objective.penalty.l2, free)
        self._columns: ColumnSet = columns
        m = len(self._numbers)
        if free:
            every = torch.arange(K, dtype=torch.int64, device=index.device)
            column, output = torch.cat([column, torch.full_like(every, m)]), torch.cat([output, every])
        self._column, self._output, self.n = column, output, len(index)
        self._inverse = columns.inverse_scale[column[: self.n]].cpu().numpy().astype(np.float64, copy=False)
        self.threshold = objective.penalty.l1 * self._inverse
        self._decay = np.zeros(self.n + K * free)
        self._decay[: self.n] = objective.penalty.l2 * self._inverse**2
        self._moved: Tensor = look.z
        self.at(look)
        self._aim = self.u
        self._tried: tuple[float, Tensor, np.ndarray, float] = 0.0, self._z, self.u, self.value

    def at(self, look: Look) -> None:
        coef, intercept = self._objective.split(look.w)
        pairs = slice(0, self.n)
        number = self._numbers[self._column[pairs]]
        u = coef[self._output[pairs], number].cpu().numpy() / self._inverse
        if self._objective.fit_intercept:
            centred = intercept + coef[:, self._numbers] @ self._columns.center
            u = np.concatenate([u, centred.cpu().numpy()])
        self.u, self._z = u.astype(np.float64, copy=False), look.z
        self._operator: Callable[[Tensor], Tensor] | None = None
        self.value = self._value(self._z, self.u)

    def _value(self, z: Tensor, u: np.ndarray) -> float:
        losses = self._objective.loss.value(z[None], self._objective.target)[0]
        of_penalty = np.abs(u[: self.n]) @ self.threshold + (self._decay * u) @ u / 2
        return float(losses @ self._objective.shares) + float(of_penalty)

    def _to_device(self, v: np.ndarray) -> Tensor:
        """Numbers of pairs, as one of each column and output: (K, m + ones)."""
        if self._objective.n_outputs == 1:  # pairs are the columns, in their order
            return torch.from_numpy(v)[None].to(self._z)
        shape = (self._objective.n_outputs, len(self._numbers) + self._objective.fit_intercept)
        of_columns = torch.zeros(shape, dtype=self._objective.dtype, device=self._z.device)
        values = torch.from_numpy(v).to(of_columns)
        return of_columns.index_put_((self._output, self._column), values)

    def _to_host(self, of_columns: Tensor) -> np.ndarray:
        if self._objective.n_outputs == 1:
            return of_columns[0].cpu().numpy().astype(np.float64, copy=False)
        return of_columns[self._output, self._column].cpu().numpy().astype(np.float64, copy=False)

    def slopes(self) -> np.ndarray:
        slope = self._objective.loss.gradient(self._z[None], self._objective.target)[0]
        pulled = self._columns.pull_back(slope.mul_(self._objective.shares))
        return self._to_host(pulled) + self._decay * self.u

    def matrix(self) -> np.ndarray | None:
        loss, shares = self._objective.loss, self._objective.shares
        fisher = loss.fisher(self._z[None])
        factors = loss.fisher_factors(fisher)
        if factors is not None:
            factors = factors[0] * shares.sqrt()
        diagonal = (loss.fisher_diagonal(fisher) * shares)[0]
        found = self._columns.matrix(diagonal, factors, self._column, self._output)
        if found is None:
            return None
        matrix = found.cpu().numpy().astype(np.float64, copy=False)
        matrix.flat[:: len(matrix) + 1] += self._decay
        return matrix

    def product(self, v: np.ndarray) -> np.ndarray:
        if self._operator is None:
            loss = self._objective.loss
            fisher = loss.fisher(self._z[None])
            self._operator = loss.fisher_operator(fisher, self._objective.shares[None])
        dz = self._columns.predict(self._to_device(v))
        return self._to_host(self._columns.pull_back(self._operator(dz[None])[0])) + self._decay * v

    def diagonal(self) -> np.ndarray:
        loss, shares = self._objective.loss, self._objective.shares
        diagonal = loss.fisher_diagonal(loss.fisher(self._z[None]))[0] * shares
        return self._to_host(self._columns.squares(diagonal)) + self._decay

    def aim(self, u: np.ndarray) -> None:
        self._aim, self._tried = u, (0.0, self._z, self.u, self.value)
        self._moved = self._columns.predict(self._to_device(u - self.u))

    def _at(self, length: float) -> tuple[Tensor, np.ndarray]:
        u = self._aim if length == 1 else self.u + length * (self._aim - self.u)
        return torch.add(self._z, self._moved, alpha=length), u

    def value_along(self, length: float) -> float:
        z, u = self._at(length)
        value = self._value(z, u)
        self._tried = length, z, u, value
        return value

    def go(self, length: float) -> None:
        if self._tried[0] != length:
            self.value_along(length)
        _, self._z, self.u, self.value = self._tried
        self._operator = None

    def _raw(self) -> tuple[Tensor, Tensor]:
        """Coefficients (K, d) and intercepts (K,)."""
        objective, z = self._objective, self._z
        values = torch.from_numpy(self.u[: self.n] * self._inverse).to(z)
        coef = torch.zeros(
            (objective.n_outputs, objective.rows.n_features), dtype=objective.dtype, device=z.device
        )
        if objective.n_outputs == 1:
            coef[0, self._numbers] = values
            moved = (values @ self._columns.center)[None]
        else:
            pairs = slice(0, self.n)
            coef.index_put_((self._output[pairs], self._numbers[self._column[pairs]]), values)
            moved = coef[:, self._numbers] @ self._columns.center
        if not objective.fit_intercept:
            return coef, torch.zeros_like(moved)
        return coef, torch.from_numpy(self.u[self.n :]).to(z) - moved

    def parameters(self) -> Tensor:
        return self._objective.join(*self._raw())

    def look(self) -> Look:
        return self._objective.look_at(*self._raw(), self._z)
