"""What a `ColumnsObjective` tells of few of its rows, for Newton directions by conjugate gradients."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from helpers.losses import classes_for
from helpers.objectives import predictions, streamed_objective
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear.objective import ACTIVE, SKETCHED, ColumnsObjective
from torch_logreg._losses.losses import LOSSES

losses = pytest.mark.parametrize("loss", LOSSES)
intercepts = pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])


def objective_of(
    loss: str,
    n: int = 60,
    d: int = 4,
    weights: np.ndarray | None = None,
    C: tuple[float, ...] = (0.5,),
    fit_intercept: bool = True,
    sparse: bool = False,
) -> ColumnsObjective:
    rng = np.random.default_rng(0)
    X, codes, rule = (
        rng.normal(size=(n, d)) * [1 + j % 3 for j in range(d)],
        rng.integers(3, size=n),
        LOSSES[loss],
    )
    n_classes = classes_for(rule)
    codes, K = codes % n_classes, rule.n_outputs(n_classes)
    features = scipy.sparse.csr_array(X) if sparse else torch.from_numpy(X)
    given = torch.from_numpy(np.ones(n) if weights is None else weights)[None]
    rows = ArrayRows(features, rule.encode(torch.from_numpy(codes), torch.float64), given, len(C) * K)
    return streamed_objective(rows, rule, torch.tensor(C, dtype=torch.float64), K, fit_intercept)


def somewhere(objective: ColumnsObjective, size: float = 1.0) -> torch.Tensor:
    shape = (objective.n_problems, objective.n_parameters)
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def information_of(objective: ColumnsObjective, w: torch.Tensor) -> torch.Tensor:
    """The weighted trace of each row's Fisher matrix."""
    (block,) = objective.rows.blocks()
    z = predictions(objective, w)[0]
    p = torch.sigmoid(z) if objective.n_outputs == 1 else torch.softmax(z, dim=0)
    return (p * (1 - p)).sum(dim=0) * block.weights[0]


@losses
@intercepts
@pytest.mark.parametrize("part", [0.5, 0.8])
def test_active_rows_are_the_fewest_that_hold_the_part(part, fit_intercept, loss):
    weights = np.random.default_rng(1).uniform(0.1, 3, size=60)
    objective = objective_of(loss, weights=weights, fit_intercept=fit_intercept)
    w = somewhere(objective, 3.0)
    information = information_of(objective, w)
    order = information.argsort(descending=True)
    held = information[order].cumsum(0) / information.sum()
    n = int((held < part).sum()) + 1
    assert n <= ACTIVE * 60
    active = objective.at(w).active(part)
    assert active.design.rows.n_rows == n
    chosen = order[:n].sort().values
    torch.testing.assert_close(active.design.rows.weights[0], torch.from_numpy(weights)[chosen])
    # Its sums are those over the chosen rows: nothing is scaled up, the penalty is there once.
    only = torch.zeros(60, dtype=torch.float64)
    only[chosen] = torch.from_numpy(weights)[chosen]
    few = objective_of(loss, weights=only.numpy(), fit_intercept=fit_intercept)
    few.design.coordinates, few.design.decay = objective.coordinates, objective.design.decay
    few.design.weight_sum = objective.design.weight_sum
    v = somewhere(objective, 0.3)
    expected = few.at(w).product(v)
    torch.testing.assert_close(active.product(v), expected, rtol=1e-12, atol=1e-12)


@losses
def test_there_are_no_active_rows_where_they_would_be_many_or_cannot_be_told(loss):
    even = objective_of(loss)
    w = torch.zeros_like(somewhere(even))
    n_most = int(ACTIVE * 60)
    assert even.at(w).active((n_most - 0.5) / 60).design.rows.n_rows == n_most
    assert even.at(w).active((n_most + 0.5) / 60) is None
    several = objective_of(loss, C=(0.5, 1.0))
    assert several.at(somewhere(several, 3.0)).active(0.5) is None
    sparse = objective_of(loss, sparse=True)
    assert sparse.at(somewhere(sparse, 3.0)).active(0.5) is None


@intercepts
@pytest.mark.parametrize("weights", [[1, 1, 1], [2, 2, 0, 2, 0]])
def test_a_sketch_of_all_rows_of_equal_information_is_the_fisher_matrix(weights, fit_intercept):
    weights = np.array(weights, dtype=float)
    d = SKETCHED * 9 // len(weights) + 1
    objective = objective_of("binary", len(weights), d, weights, fit_intercept=fit_intercept)
    w = torch.zeros(1, objective.n_parameters, dtype=torch.float64)
    sample = objective.at(w).sketch(3).rows  # rows without weight are never drawn
    matrix = objective.at(w).matrix()[0] - torch.diag(objective.design.decay[0])
    assert sample.shape == (3, objective.n_parameters)
    torch.testing.assert_close(sample.T @ sample, matrix, rtol=1e-10, atol=1e-14)


def test_a_sketch_draws_rows_by_their_information_and_always_the_same():
    weights = np.ones(40)
    weights[[3, 11, 25]] = 1e6
    objective = objective_of("binary", 40, 64, weights)
    w = somewhere(objective, 0.1)
    sample = objective.at(w).sketch(5).rows
    torch.testing.assert_close(objective.at(w).sketch(5).rows, sample, rtol=0, atol=0)
    (block,) = objective.rows.blocks()
    scale = torch.nn.functional.pad(objective.coordinates.inverse_scale[0, 0], (0, 1), value=1.0)
    columns = torch.nn.functional.pad(block.X - objective.coordinates.center, (0, 1), value=1.0) * scale
    length = (information_of(objective, w).sum() / (5 * weights.sum())).sqrt()
    # Each is a row of the scaled columns, of one length for all: which ones is told by the last column.
    distances = torch.cdist(sample / length, columns)
    drawn = distances.argmin(dim=1)
    assert float(distances.amin(dim=1).max()) < 1e-6
    assert len(set(drawn.tolist())) == 5 and {3, 11, 25} <= set(drawn.tolist())
    assert drawn.tolist() == sorted(drawn.tolist())


def test_there_is_no_sketch_of_what_it_would_not_pay_for():
    n_rows = SKETCHED * 4 // 4
    w = torch.zeros(1, 5, dtype=torch.float64)
    assert objective_of("binary", n_rows).at(w).sketch(2) is not None
    assert objective_of("binary", n_rows - 1).at(w).sketch(2) is None
    assert objective_of("binary", n_rows, sparse=True).at(w).sketch(2) is None
    several = objective_of("binary", n_rows, C=(0.5, 1.0))
    assert several.at(torch.zeros(2, 5, dtype=torch.float64)).sketch(2) is None
    softmax = objective_of("softmax", n_rows)
    assert softmax.at(torch.zeros(1, 15, dtype=torch.float64)).sketch(2) is None


@losses
@intercepts
def test_decay_is_what_the_penalty_adds_to_the_fisher_matrix(fit_intercept, loss):
    C = (0.5, 20.0)
    objective = objective_of(loss, C=C, fit_intercept=fit_intercept)
    free = objective_of(loss, C=C, fit_intercept=fit_intercept)
    w = somewhere(objective)
    free.design.decay = torch.zeros_like(free.design.decay)
    difference = objective.at(w).matrix() - free.at(w).matrix()
    torch.testing.assert_close(difference, torch.diag_embed(objective.design.decay), rtol=1e-9, atol=1e-12)
