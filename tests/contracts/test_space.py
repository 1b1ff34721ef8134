"""What every way from the parameters of a solver to raw coefficients promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

from helpers.losses import classes_for
from helpers.subclasses import subclasses
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._fit.linear import in_row_space
from torch_logreg._linear.coordinates import Coordinates, Space
from torch_logreg._linear.design import Design
from torch_logreg._linear.held import hold_all
from torch_logreg._linear.held_sparse import hold_sparse
from torch_logreg._linear.model import LinearModel
from torch_logreg._linear.row_space import RowSpace
from torch_logreg._linear.sparse_row_space import sparse_row_space
from torch_logreg._linear.streamed import Streamed
from torch_logreg._losses.losses import LOSSES

CLOSE = {"rtol": 1e-8, "atol": 1e-8}  # inner products of rows round by the squares of how far they are from 0
STRENGTHS = [0.5, np.inf]  # C, of which the last problem has no penalty


class Seen(NamedTuple):
    """Rows as a solver sees them, and the way back to their columns."""

    X: np.ndarray
    design: Design
    space: Space


def _columns(n: int = 40, d: int = 5) -> np.ndarray:
    """Of several scales, and far from 0 for them; the last are the sum of two and, next to it, a constant."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(n, d)) + 20) * 10.0 ** (np.arange(d) % 3 - 1)
    return np.column_stack([X, X[:, 0] + X[:, 1], np.full(n, 0.1)])


def _rows(X, loss: str, P: int) -> ArrayRows:
    """Weighted alike in all problems."""
    rng, n_classes = np.random.default_rng(1), classes_for(LOSSES[loss])
    target = LOSSES[loss].encode(torch.from_numpy(np.arange(X.shape[0]) % n_classes), torch.float64)
    weights = torch.from_numpy(rng.integers(1, 4, size=(1, X.shape[0])).astype(float))
    features = X if scipy.sparse.issparse(X) else torch.from_numpy(X)
    return ArrayRows(features, target, weights, P * LOSSES[loss].n_outputs(n_classes))


def _model(loss: str, fit_intercept: bool, C: list[float]) -> LinearModel:
    rule = LOSSES[loss]
    given = torch.tensor(C, dtype=torch.float64)
    return LinearModel(rule, given, rule.n_outputs(classes_for(rule)), fit_intercept)


def streamed(loss: str, fit_intercept: bool) -> Seen:
    X = _columns()
    design = Streamed(_rows(X, loss, 2), _model(loss, fit_intercept, STRENGTHS))
    return Seen(X, design, design.coordinates)


def held(loss: str, fit_intercept: bool) -> Seen:
    X = _columns()
    design = hold_all(_rows(X, loss, 2), _model(loss, fit_intercept, STRENGTHS))
    return Seen(X, design, design.coordinates)


def plain(loss: str, fit_intercept: bool) -> Seen:
    X = _columns()[:, :5]
    rows, model = _rows(X, loss, 2), _model(loss, fit_intercept, STRENGTHS)
    space = model.coordinates(None, 5, model.penalty(rows.weight_sum(torch.float64)))
    return Seen(X, Streamed(rows, model, space), space)


def few_rows(loss: str, fit_intercept: bool) -> Seen:
    X = _columns(12, 30)
    objective, space = in_row_space(_rows(X, loss, 2), _model(loss, fit_intercept, STRENGTHS))
    return Seen(X, objective.design, space)


def few_sparse_rows(loss: str, fit_intercept: bool) -> Seen:
    X = scipy.sparse.random_array((12, 60), density=0.1, format="csr", rng=np.random.default_rng(0))
    objective, space = in_row_space(_rows(X, loss, 2), _model(loss, fit_intercept, STRENGTHS))
    return Seen(X.toarray(), objective.design, space)


def held_sparse(loss: str, fit_intercept: bool) -> Seen:
    X = _columns()
    design = hold_sparse(_rows(scipy.sparse.csr_array(X), loss, 2), _model(loss, fit_intercept, STRENGTHS))
    return Seen(X, design, design.coordinates)


def sparse_rows(loss: str, fit_intercept: bool) -> Seen:
    X = scipy.sparse.random_array((40, 600), density=2e-2, format="csr", rng=np.random.default_rng(0))
    X.data += 0.2  # where a column is next to nothing, columns would be the better space
    found = sparse_row_space(_rows(X, loss, 1), _model(loss, fit_intercept, [np.inf]))
    assert found is not None
    return Seen(X.toarray(), *found)


SPACES: dict[str, Callable[[str, bool], Seen]] = {
    "scaled columns": streamed,
    "scaled columns that are held": held,
    "columns as they are": plain,
    "scaled sparse columns that are held": held_sparse,
    "few rows": few_rows,
    "few sparse rows": few_sparse_rows,
    "sparse rows": sparse_rows,
}
of_each_kind = pytest.mark.parametrize("kind", SPACES)
losses = pytest.mark.parametrize("loss", LOSSES)
intercepts = pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])


def _w(design: Design) -> Tensor:
    """Parameters that a solver may come to: steps of this kind, where gradients are not 0 for certain."""
    of_rows = ((part, _random(design, design.n_outputs, len(part.target))) for part in design.parts())
    gradient = design.pull_back(of_rows, torch.zeros(1, dtype=torch.float64))
    return design.natural(_random(design, design.n_parameters) * (gradient != 0))


def _random(design: Design, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(design.n_problems, *shape, generator=generator, dtype=torch.float64)


def _predicted(design: Design, w: Tensor) -> Tensor:
    expanded = design.expand(w)
    return torch.cat([design.predict(part, expanded) for part in design.parts()], dim=2)  # (P, K, n)


def _of_raw(X: np.ndarray, coef: Tensor, intercept: Tensor) -> Tensor:
    return coef @ torch.from_numpy(X).T + intercept[..., None]


def _without_shift(z: Tensor, loss: str) -> Tensor:
    """Predictions (P, K, n), but for a shift of all outputs where that changes no loss."""
    return z - z.mean(dim=1, keepdim=True) if LOSSES[loss].shift_invariant else z


def _moments(seen: Seen, fit_intercept: bool) -> tuple[Tensor, Tensor]:
    weights = seen.design.rows.weights[0]
    shares, X = weights / weights.sum(), torch.from_numpy(seen.X)
    center = shares @ X * fit_intercept
    return center, (shares @ (X - center).square()).sqrt()


def test_all_spaces_are_here():
    assert {type(make("binary", True).space) for make in SPACES.values()} == subclasses(Space)


@of_each_kind
@losses
@intercepts
def test_a_space_says_where_the_columns_are_and_how_far_they_vary(kind, loss, fit_intercept):
    seen = SPACES[kind](loss, fit_intercept)
    space, (center, deviation) = seen.space, _moments(seen, fit_intercept)
    weight_sum = seen.design.rows.weights.sum()
    C = torch.tensor(STRENGTHS[-seen.design.n_problems :], dtype=torch.float64)
    torch.testing.assert_close(space.strength, 1 / (C * weight_sum))
    if space.plain:
        center, deviation = torch.zeros_like(center), torch.ones_like(deviation)
    else:
        varies = deviation > 1e-9 * center.abs()
        assert torch.equal(space.varies, varies)
        deviation = torch.where(varies, deviation, space.spread)
    torch.testing.assert_close(space.center, center, **CLOSE)
    torch.testing.assert_close(space.spread, deviation, **CLOSE)


@of_each_kind
@losses
@intercepts
def test_raw_coefficients_predict_what_the_design_does(kind, loss, fit_intercept):
    X, design, space = SPACES[kind](loss, fit_intercept)
    w = _w(design)
    coef, intercept = space.to_raw(w)
    P, K = design.n_problems, design.n_outputs
    assert coef.shape == (P, K, X.shape[1]) and intercept.shape == (P, K)
    torch.testing.assert_close(_of_raw(X, coef, intercept), _predicted(design, w), **CLOSE)
    if not fit_intercept:
        assert not intercept.any()
    if not space.plain:
        assert not coef[..., ~space.varies].any()


@of_each_kind
@losses
@intercepts
def test_canonical_parameters_predict_the_same_and_are_their_own(kind, loss, fit_intercept):
    X, design, space = SPACES[kind](loss, fit_intercept)
    w = _w(design)
    given, z = w.clone(), _without_shift(_predicted(design, w), loss)
    found = space.canonical(w)
    assert found.shape == w.shape and torch.equal(w, given)
    torch.testing.assert_close(space.canonical(found), found, **CLOSE)
    torch.testing.assert_close(_predicted(design, found), z, **CLOSE)
    coef, intercept = space.to_raw(found)
    torch.testing.assert_close(_of_raw(X, coef, intercept), z, **CLOSE)


@of_each_kind
@losses
@intercepts
def test_canonical_parameters_without_a_penalty_are_the_smallest_coefficients(kind, loss, fit_intercept):
    X, design, space = SPACES[kind](loss, fit_intercept)
    w = _w(design)
    coef = space.to_raw(space.canonical(w))[0][-1].numpy()
    A, z = X, _without_shift(_predicted(design, w), loss)[-1].numpy()
    if fit_intercept:
        A, z = A - A.mean(axis=0), z - z.mean(axis=1, keepdims=True)
    smallest = np.linalg.lstsq(A, z.T, rcond=1e-12)[0].T
    np.testing.assert_allclose(coef, smallest, rtol=1e-8, atol=1e-9 * np.abs(smallest).max())


@of_each_kind
@losses
@intercepts
def test_rounding_is_what_rounding_of_coefficients_changes(kind, loss, fit_intercept):
    seen = SPACES[kind](loss, fit_intercept)
    X, design, space = seen
    w, eps = _w(design), float(torch.finfo(torch.float32).eps)
    rounding = space.rounding(w, eps)
    assert rounding.shape == (design.n_problems,) and (rounding > 0).all()
    torch.testing.assert_close(space.rounding(w, 8 * eps), 8 * rounding, rtol=1e-13, atol=0)
    torch.testing.assert_close(space.rounding(2 * w, eps), 2 * rounding, rtol=1e-13, atol=0)
    if space.plain:  # which knows no moments of the columns
        return
    coef, intercept = space.to_raw(w)
    rounded = _of_raw(X, coef.float().double(), intercept.float().double())
    shares = design.rows.weights[0] / design.rows.weights.sum()
    changes = ((rounded - _of_raw(X, coef, intercept)).square() @ shares).sqrt().amax(dim=1)
    # Each coefficient changes by eps / 2 of itself at most, and it is all of them at worst that add up.
    assert (changes <= rounding * (X.shape[1] + 1) ** 0.5 / 2).all()
    assert (changes >= rounding / 50).all()


@of_each_kind
@losses
@intercepts
def test_parameters_of_raw_coefficients_predict_what_these_do(kind, loss, fit_intercept):
    X, design, space = SPACES[kind](loss, fit_intercept)
    if not isinstance(space, Coordinates | RowSpace):  # others take no coefficients to start from
        return
    rng = np.random.default_rng(3)
    shape = (design.n_problems, design.n_outputs, X.shape[1])
    coef = torch.from_numpy(rng.normal(size=shape))
    intercept = torch.from_numpy(rng.normal(size=shape[:2]) * fit_intercept)
    w = space.from_raw(coef, intercept)
    assert w.shape == (design.n_problems, design.n_parameters)
    if fit_intercept:  # an intercept alone, which rounds too
        alone = space.from_raw(torch.zeros_like(coef), torch.ones_like(intercept))
        torch.testing.assert_close(space.rounding(alone, 0.25), torch.full_like(coef[:, 0, 0], 0.25), **CLOSE)
    torch.testing.assert_close(_predicted(design, w), _of_raw(X, coef, intercept), **CLOSE)
