"""What every design promises, against the matrix A that it never makes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

from helpers.losses import classes_for
from helpers.subclasses import subclasses
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear.design import Columns, Design
from torch_logreg._linear.held import hold_all
from torch_logreg._linear.held_sparse import hold_sparse
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.sparse_row_space import sparse_row_space
from torch_logreg._linear.streamed import Streamed
from torch_logreg._losses.losses import LOSSES

N, D = 40, 4
CLOSE = {"rtol": 1e-11, "atol": 1e-13}


def _rows(loss: str, P: int = 2, sparse: bool = False, own: bool = False) -> ArrayRows:
    """In several blocks of two sizes; `own`: each problem weighs them in its own way."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, D)) * [1e-2, 1.0, 3.0, 1e3]
    target = LOSSES[loss].encode(torch.from_numpy(np.arange(N) % classes_for(LOSSES[loss])), torch.float64)
    weights = torch.from_numpy(rng.integers(1, 4, size=(P if own else 1, N)).astype(float))
    K = LOSSES[loss].n_outputs(classes_for(LOSSES[loss]))
    rows = ArrayRows(scipy.sparse.csr_array(X) if sparse else torch.from_numpy(X), target, weights, P * K)
    rows._step = 15
    return rows


def _model(loss: str, P: int = 2) -> LinearModel:
    C = torch.tensor([0.5, 20.0][:P], dtype=torch.float64)
    return LinearModel(LOSSES[loss], C, LOSSES[loss].n_outputs(classes_for(LOSSES[loss])), fit_intercept=True)


def _of_sparse_rows(loss: str) -> Design:
    X = scipy.sparse.random_array((N, 600), density=2e-2, format="csr", rng=np.random.default_rng(0))
    rows = _rows(loss, 1, sparse=True)
    found = sparse_row_space(ArrayRows(X, rows.target, rows.weights, 1), _model(loss, 1))
    assert found is not None
    return found[0]


DESIGNS: dict[str, Callable[[str], Design]] = {
    "streamed": lambda loss: Streamed(_rows(loss), _model(loss)),
    "streamed CSR": lambda loss: Streamed(_rows(loss, sparse=True), _model(loss)),
    "streamed, of own weights": lambda loss: Streamed(_rows(loss, own=True), _model(loss)),
    "held": lambda loss: hold_all(_rows(loss), _model(loss)),
    "held, of own weights": lambda loss: hold_all(_rows(loss, own=True), _model(loss)),
    "held, of one problem": lambda loss: hold_all(_rows(loss, 1), _model(loss, 1)),
    "held CSR": lambda loss: hold_sparse(_rows(loss, sparse=True), _model(loss)),
    "held CSR, of own weights": lambda loss: hold_sparse(_rows(loss, sparse=True, own=True), _model(loss)),
    "held CSR, of one problem": lambda loss: hold_sparse(_rows(loss, 1, sparse=True), _model(loss, 1)),
    "sparse rows": _of_sparse_rows,
}
COLUMNS = [kind for kind in DESIGNS if kind != "sparse rows"]
designs = pytest.mark.parametrize("kind", DESIGNS)
of_columns = pytest.mark.parametrize("kind", COLUMNS)
losses = pytest.mark.parametrize("loss", LOSSES)


def _w(design: Design, seed: int = 0) -> Tensor:
    shape = (design.n_problems, design.n_outputs, design.n_parameters // design.n_outputs)
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (w - w.mean(dim=1, keepdim=True) * (shape[1] > 1)).flatten(1)


def _predicted(design: Design, w: Tensor) -> Tensor:
    expanded = design.expand(w)
    return torch.cat([design.predict(part, expanded) for part in design.parts()], dim=2)  # (P, K, n)


def _shares(design: Design) -> Tensor:
    weights = torch.cat([part.weights for part in design.parts()], dim=1)
    return weights / weights.sum(dim=1, keepdim=True)  # (1 or P, n)


def _cut(design: Design, of_rows: Tensor, weighted: bool = True):
    """Of the rows of each part, (P, ..., n) as the parts weigh them."""
    first = 0
    for part in design.parts():
        mine = of_rows[..., first : first + len(part.target)]
        yield part, mine * part.of_row if weighted else mine
        first += len(part.target)


def _A(design: Columns) -> Tensor:
    """(P, n, m), by the predictions of unit vectors for the first output."""
    m, K = design.n_parameters // design.n_outputs, design.n_outputs
    unit = torch.eye(m, K * m, dtype=torch.float64).expand(design.n_problems, -1, -1)
    return torch.stack([_predicted(design, unit[:, j].contiguous())[:, 0] for j in range(m)], dim=2)


def _residuals(design: Design, seed: int = 1) -> Tensor:
    """(P, K, n), of no sum over several outputs."""
    shape = (design.n_problems, design.n_outputs, design.rows.n_rows)
    r = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return r - r.mean(dim=1, keepdim=True) if design.n_outputs > 1 else r


def test_all_designs_are_here():
    assert {type(make("binary")) for make in DESIGNS.values()} == subclasses(Design)


@of_columns
@losses
def test_pulling_back_is_the_transpose_of_predicting(kind, loss):
    design = DESIGNS[kind](loss)
    w, v, r = _w(design), _w(design, 2), _residuals(design)
    pulled = design.pull_back(_cut(design, r), w)
    expected = (_shares(design)[:, None] * r * _predicted(design, v)).sum(dim=(1, 2)) + (w * v).sum(dim=1)
    torch.testing.assert_close((pulled * v).sum(dim=1), expected, **CLOSE)


@designs
@losses
def test_a_pass_reads_all_rows_once_and_its_mean_is_by_weight(kind, loss):
    design = DESIGNS[kind](loss)
    read = design.rows.rows_read
    assert sum(len(part.target) for part in design.parts()) == N
    assert design.rows.rows_read - read == (0 if kind == "sparse rows" else N)  # which holds predictions
    numbers = torch.arange(N, dtype=torch.float64)
    sums = [(mine * part.weights).sum(dim=1) for part, mine in _cut(design, numbers, weighted=False)]
    torch.testing.assert_close(design.mean(sums), _shares(design) @ numbers, **CLOSE)


@designs
@losses
def test_predictions_of_every_second_problem_are_those_of_all(kind, loss):
    design = DESIGNS[kind](loss)
    w = _w(design)
    part = next(iter(design.parts()))
    some = design.predict(part, design.expand(w, 2))
    torch.testing.assert_close(some, design.predict(part, design.expand(w))[::2], **CLOSE)


@of_columns
@losses
def test_the_penalty_is_that_of_the_coefficients_it_stands_for(kind, loss):
    design = DESIGNS[kind](loss)
    w = _w(design)
    coef, _ = design.coordinates.to_raw(w)
    strength = (1 / (_model(loss).C * design.weight_sum))[: design.n_problems]
    expected = strength * coef.square().sum(dim=(1, 2))
    torch.testing.assert_close((design.penalty_slope(w) * w).sum(dim=1), expected, **CLOSE)


@of_columns
@losses
def test_squares_sandwiches_and_columns_are_those_of_A(kind, loss):
    design = DESIGNS[kind](loss)
    A, shares, K = _A(design), _shares(design), design.n_outputs
    r = _residuals(design).abs()
    squares = torch.einsum("pnm,pkn,pn->pkm", A.square(), r, shares.expand(len(A), -1))
    torch.testing.assert_close(design.squares(_cut(design, r)), squares.flatten(1), **CLOSE)
    information = r.sum(dim=1)
    columns = torch.einsum("pnm,pn,pnl->pml", A, information, A) / information.sum(dim=1)[:, None, None]
    found = design.columns(_cut(design, information, weighted=False))
    torch.testing.assert_close(found, columns, **CLOSE)
    factors = None if K == 1 else _residuals(design, 3)
    D = torch.diag_embed(r.mT)  # (P, n, K, K)
    if factors is not None:
        outer = -torch.einsum("pkn,pln->pnkl", factors, factors)
        D = torch.where(torch.eye(K, dtype=torch.bool), D, outer)
    expected = torch.einsum("pnm,pnkj,pnl,pn->pkmjl", A, D, A, shares.expand(len(A), -1))
    given = _cut(design, r)
    if factors is None:
        found = design.sandwich((part, diagonal, None) for part, diagonal in given)
    else:
        of_parts = zip(given, _cut(design, factors, weighted=False), strict=True)
        found = design.sandwich((part, diagonal, b.clone()) for (part, diagonal), (_, b) in of_parts)
    torch.testing.assert_close(found, expected, **CLOSE)


@of_columns
@losses
def test_some_of_the_problems_see_the_rows_as_they_did(kind, loss):
    design = DESIGNS[kind](loss)
    some = design.select(np.array([1])) if design.n_problems > 1 else None
    if some is None:  # held columns of one problem stay as they are
        assert kind.endswith("of one problem") and design.select(np.array([0])) is None
        return
    w = _w(design)
    torch.testing.assert_close(_predicted(some, w[1:]), _predicted(design, w)[1:], **CLOSE)
    torch.testing.assert_close(some.penalty_slope(w[1:]), design.penalty_slope(w)[1:], **CLOSE)
    r, zero = _residuals(design), torch.zeros_like(w)
    of_all = design.pull_back(_cut(design, r), zero)
    torch.testing.assert_close(some.pull_back(_cut(some, r[1:]), zero[1:]), of_all[1:], **CLOSE)


@losses
def test_rows_that_are_gathered_are_those_of_A(loss):
    design = Streamed(_rows(loss, 1), _model(loss, 1))
    gathered, drawn = design.gatherable(), torch.tensor([3, 17, 18])
    assert gathered is not None
    torch.testing.assert_close(gathered.dense(drawn), _A(design)[0, drawn], **CLOSE)
    some = gathered.subset(drawn)
    w = _w(design)
    torch.testing.assert_close(_predicted(some, w), _predicted(design, w)[..., drawn], **CLOSE)
    torch.testing.assert_close(some.weight_sum, design.weight_sum)


def test_other_designs_gather_nothing():
    assert Streamed(_rows("binary"), _model("binary")).gatherable() is None
    assert hold_all(_rows("binary", 1), _model("binary", 1)).gatherable() is None
    assert Streamed(_rows("binary", 1, sparse=True), _model("binary", 1)).gatherable() is None
