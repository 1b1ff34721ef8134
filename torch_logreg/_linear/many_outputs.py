"""F of many outputs: estimates from minibatches, and the block of the Fisher matrix of each output."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from torch_logreg._contracts.objective import Batch, ByOutput
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.products import dense_rows
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.objective import ColumnsObjective
from torch_logreg._linear.streamed import Streamed
from torch_logreg._losses.losses import Loss
from torch_logreg._runtime.limits import limits_of

# Of the information of a row on an output, ``p (1 - p)``, from which the row is counted by itself there; and
# how many passes over the rows the products of such rows may take, which is more than enough where most rows
# are predicted well (thousand.py).
MUCH, PASSES = 0.02, 1.0
FIRST_ROWS = 2**11  # that tell of F at parameters 0, where each has the same loss


class Pairs(NamedTuple):
    """Rows with much information on an output, and how much: sorted by output."""

    row: Tensor  # (n_pairs,)
    curve: Tensor  # (n_pairs,) the information, by weight
    ends: list[int]  # of each output
    rest: Tensor  # (n_outputs,) the information of all other rows together


class ManyOutputs(ByOutput, ColumnsObjective):
    """A `ColumnsObjective` of one problem and many outputs, over dense rows in memory."""

    def __init__(
        self, rows: ArrayRows, design: Streamed, loss: Loss, batches: list[Batch], seed: int
    ) -> None:
        ColumnsObjective.__init__(self, design, loss, batches)
        self._rows, self.seed = rows, seed
        self._n_columns = self.n_parameters // self.n_outputs
        coordinates = design.coordinates
        self._center, self._inverse = (
            numbers.to(rows.dtype) for numbers in (coordinates.center, coordinates.inverse_scale[0, 0])
        )

    def _columns_of(self, X: Tensor) -> Tensor:
        """Rows of A, (n, m), in the dtype of the rows."""
        d = X.shape[1]
        A = torch.ones((len(X), self._n_columns), dtype=self._rows.dtype, device=X.device)
        torch.sub(X, self._center, out=A[:, :d]).mul_(self._inverse)
        return A

    def minibatches(self, n_rows: int, generator: torch.Generator) -> Iterator[Callable[[Tensor], Tensor]]:
        scale = (self.rows.n_rows / self.design.weight_sum).to(self._rows.dtype)
        decay = self.decay().to(self._rows.dtype)
        for X, target, weights in self._rows.minibatches(n_rows, generator):
            A = self._columns_of(dense_rows(X, 0, len(target)))
            of_row = weights * (scale / n_rows)  # by the nominal number, also of a last one that is shorter

            yield functools.partial(self._estimate, A, target, of_row, decay)

    def _estimate(self, A: Tensor, target: Tensor, of_row: Tensor, decay: Tensor, w: Tensor) -> Tensor:
        """The gradient of the penalty and of the weighted sum over a few rows, (K, m)."""
        _, slope = self.loss.value_and_gradient_((w @ A.T)[None], target)
        return torch.addmm(decay * w, slope[0].mul_(of_row), A)

    @functools.cached_property
    def columns(self) -> Tensor:
        design = self.design
        ones = ((part, torch.ones_like(part.weights).mul_(part.weights)) for part in design.parts())
        return design.columns(ones)[0]

    def decay(self) -> Tensor:
        return self.design.decay[0, : self._n_columns]

    def blocks(self, w: Tensor) -> Tensor:
        pairs, dtype = self._pairs(w), self._rows.dtype
        blocks = pairs.rest[:, None, None].to(dtype) * self.columns.to(dtype)
        blocks.diagonal(dim1=1, dim2=2).add_(self.decay().to(dtype))
        numbers = limits_of(self.rows.device).chunk_numbers
        first, start = 0, 0  # an output, and the first of its pairs
        while first < self.n_outputs:
            last = first + 1  # of outputs whose rows are gathered together
            while last < self.n_outputs and (pairs.ends[last] - start) * self._n_columns <= numbers:
                last += 1
            stop = pairs.ends[last - 1]
            if stop > start:
                A = self._gather(pairs.row[start:stop])
                A.mul_(pairs.curve[start:stop, None].sqrt())
                begin = start
                for output in range(first, last):
                    end = pairs.ends[output]
                    own = A[begin - start : end - start]
                    blocks[output].addmm_(own.T, own)
                    begin = end
            first, start = last, stop
        return blocks

    def _gather(self, drawn: Tensor) -> Tensor:
        blocks = self._rows.subset(drawn).blocks()
        return torch.cat([self._columns_of(dense_rows(X, 0, len(target))) for X, target, _ in blocks])

    def _pairs(self, w: Tensor) -> Pairs:
        """The information of each row on each output at `w`, as means over rows."""
        design, much = self.design, 0.0
        at, first, found, rest = self.at(w), 0, [], []
        for index, part in enumerate(design.parts()):
            p = self.loss.fisher(at.predictions(index, part))[0]  # (K, n)
            curve = p.addcmul_(p, p, value=-1)
            much = much or self._much(curve)
            output, row = (curve > much).nonzero(as_tuple=True)
            curve.mul_(part.weights)
            own = curve[output, row]
            rest.append((curve.sum(dim=1) - own.new_zeros(len(p)).index_add_(0, output, own)).clamp_(min=0))
            found.append((output, row + first, own))
            first += p.shape[1]
        outputs, rows, curves = (torch.cat(numbers) for numbers in zip(*found, strict=True))
        order = outputs.argsort(stable=True)
        ends = torch.bincount(outputs, minlength=self.n_outputs).cumsum(0).tolist()
        mean = (1 / design.weight_sum).to(curves.dtype)
        return Pairs(rows[order], curves[order] * mean, ends, torch.stack(rest).sum(dim=0) * mean)

    def _much(self, curve: Tensor) -> float:
        """What is much of the information (K, n) of some rows."""
        much = MUCH
        # A pass takes 4 m K multiplications and additions a row, and a pair 2 m².
        most = max(1, int(PASSES * 2 * curve.numel() / self._n_columns))
        if int((curve > much).sum()) > most:
            much = float(curve.flatten().kthvalue(curve.numel() - most).values)
        return much


def many_outputs(rows: ArrayRows, model: LinearModel, seed: int) -> ManyOutputs:
    """F over all rows, with a batch of a few."""
    design = Streamed(rows, model)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    drawn = torch.randperm(rows.n_rows, generator=generator, dtype=torch.int64, device="cpu")[:FIRST_ROWS]
    some = rows.subset(drawn.to(rows.device))
    some.reads = rows.reads
    ratio = design.weight_sum / some.weight_sum(model.C.dtype)
    few = Streamed(some, model._replace(C=model.C * ratio), design.coordinates)
    batch = Batch(ColumnsObjective(few, model.loss), math.inf, some.n_rows)
    return ManyOutputs(rows, design, model.loss, [batch], seed)
