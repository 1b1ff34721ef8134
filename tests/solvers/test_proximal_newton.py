"""Proximal Newton steps: their quadratic models, and what they promise of F."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from helpers import oracle
from helpers.counted import CountedRows
from torch_logreg._linear import elastic_net
from torch_logreg._linear.elastic_net import ElasticNetObjective
from torch_logreg._losses.losses import LOSSES
from torch_logreg._losses.penalties import ElasticNet
from torch_logreg._solvers import proximal_newton, quadratic
from torch_logreg._solvers.proximal_newton import ProximalNewton
from torch_logreg._solvers.quadratic import Quadratic, minimise, nearest, search, shrink

# ---- quadratic functions with an L1 term ----


def made(m, seed=0, rank=None, threshold=0.3, as_matrix=True):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(2 * m if rank is None else rank, m))
    H = A.T @ A / len(A) + (1e-11 * np.eye(m) if rank is not None else 0)
    thresholds = threshold * rng.uniform(0.5, 2, size=m)
    linear = A.T @ rng.normal(size=len(A)) / len(A) * 3  # as slopes are: else F may have no minimum
    return Quadratic(lambda v: H @ v, H if as_matrix else None, H.diagonal(), linear, thresholds)


def violation(q, u):
    return np.abs(nearest(q.product(u) + q.linear, u, q.threshold)).max()


@pytest.mark.parametrize("m", [1, 2, 7, 63, 64, 200])
@pytest.mark.parametrize("threshold", [0.01, 0.3, 10.0])
def test_the_minimum_has_no_subgradient_but_0(m, threshold):
    q = made(m, threshold=threshold)
    u = minimise(q, np.zeros(m), 1e-12)
    assert violation(q, u) <= 1e-12
    if threshold == 10.0:
        assert not u.any()


@pytest.mark.parametrize("start", ["0", "random", "dense"])
def test_the_minimum_does_not_depend_on_the_start(start):
    q, rng = made(40), np.random.default_rng(1)
    u = {
        "0": np.zeros(40),
        "random": rng.normal(size=40) * (rng.random(40) < 0.5),
        "dense": 1e3 * np.ones(40),
    }
    found, expected = minimise(q, u[start], 1e-13), minimise(q, np.zeros(40), 1e-13)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert np.array_equal(found == 0, expected == 0)


def test_directions_without_curvature_leave_the_minimum_to_the_l1_term():
    q = made(30, rank=10)
    u = minimise(q, np.zeros(30), 1e-10)
    assert violation(q, u) <= 1e-10
    assert np.count_nonzero(u) <= 10  # a vertex, as of any linear program


def test_products_alone_find_the_same_minimum():
    whole, products = made(80), made(80, as_matrix=False)
    found = minimise(products, np.zeros(80), 1e-9)
    np.testing.assert_allclose(found, minimise(whole, np.zeros(80), 1e-9), atol=1e-7)


def test_the_search_is_exact():
    q, rng = made(25, threshold=1.0), np.random.default_rng(3)
    for _ in range(50):
        u, direction = rng.normal(size=25) * (rng.random(25) < 0.6), rng.normal(size=25)
        slope, curvature = (q.product(u) + q.linear) @ direction, direction @ q.product(direction)
        length = search(u, direction, slope, curvature, q.threshold)

        def value(a, u=u, direction=direction):
            there = u + a * direction
            return q.value(there, q.product(there))

        lengths = np.linspace(0, 3, 3001) if length is None else np.linspace(0, 3 * length, 3001)
        least = min(value(a) for a in lengths)
        assert value(length or 0.0) <= least + 1e-12 * abs(least)
        assert (length is None) == (least == value(0.0))


def test_numbers_that_pass_0_where_the_search_ends_are_exactly_0():
    u, direction = np.array([1.0, 3.0, -7.0]), np.array([-1 / 3, -0.7, 0.1])
    length = search(u, direction, -0.1, 1e-9, np.array([1.0, 1e-3, 1e-3]))
    assert length == -u[0] / direction[0]
    reached = quadratic._at(u, direction, length)
    assert reached[0] == 0.0 and reached[1:].all()


def test_shrinking_leaves_exact_zeros():
    assert shrink(np.array([-2.0, -0.5, 0.0, 0.5, 3.0]), 0.5).tolist() == [-1.5, 0, 0, 0, 2.5]


# ---- F ----


def data(n_classes, kind="dense", n=150, d=12, seed=0):
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(n, d)) + 0.5) * (rng.random((n, d)) < 0.7)
    codes = (X[:, 0] + X[:, 1] + rng.normal(size=n)).argsort().argsort() * n_classes // n
    X *= 10.0 ** rng.integers(-2, 3, size=d)
    if kind == "float32":
        X = X.astype(np.float32).astype(float)
    return X, codes, rng.integers(1, 4, size=n).astype(float)


def objective_of(X, codes, weight, C, l1_ratio, kind="dense", fit_intercept=True, rows=CountedRows):
    K = codes.max() + 1
    loss = LOSSES["binary" if K == 2 else "softmax"]
    n_outputs, dtype = loss.n_outputs(K), torch.float32 if kind == "float32" else torch.float64
    features = scipy.sparse.csr_array(X) if kind == "CSR" else torch.from_numpy(X).to(dtype)
    made = rows(
        features,
        loss.encode(torch.from_numpy(codes), dtype),
        torch.from_numpy(weight)[None].to(dtype),
        n_outputs,
    )

    def draw(size):
        return made.sample(size, loss.codes, torch.Generator().manual_seed(0))

    penalty = ElasticNet.of(C, l1_ratio, weight.sum())
    return ElasticNetObjective(made, loss, penalty, n_outputs, fit_intercept, torch.float64, draw)


def solved(objective, tol=1e-8, w=None, max_iter=300):
    iterations = []
    solver = ProximalNewton(max_iter=max_iter, tol=tol)
    w = objective.zeros() if w is None else w
    return solver.minimize(objective, w, lambda iteration: iterations.append(iteration)), iterations


def judged(objective, w, X, codes, weight, C, l1_ratio, fit_intercept=True):
    coef, intercept = (part.numpy() for part in objective.split(w))
    return oracle.duality_gap(coef, intercept, X, codes, C, l1_ratio, weight, fit_intercept)


kinds = pytest.mark.parametrize("kind", ["dense", "CSR", "float32"])
classes = pytest.mark.parametrize("n_classes", [2, 3, 4])
ratios = pytest.mark.parametrize("l1_ratio", [0.1, 0.5, 1.0])


@kinds
@classes
@ratios
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("C", [0.003, 1.0, 100.0])
@pytest.mark.one_in(6)
def test_the_gap_is_within_tol_and_is_that_of_an_oracle(kind, n_classes, l1_ratio, fit_intercept, C):
    X, codes, weight = data(n_classes, kind)
    objective = objective_of(X, codes, weight, C, l1_ratio, kind, fit_intercept)
    solution, _ = solved(objective)
    assert solution.reasons == ["converged"]
    found = judged(objective, solution.w, X, codes, weight, C, l1_ratio, fit_intercept)
    scale = C * weight.sum()
    assert scale * solution.objective[0] == pytest.approx(found.objective, rel=1e-12)
    assert -1e-12 <= found.gap / found.objective <= 2e-8
    assert scale * solution.gap[0] == pytest.approx(found.gap, rel=1e-3, abs=1e-10 * found.objective)


@kinds
@classes
@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-5])
def test_tol_bounds_the_gap_wherever_the_fit_stops(kind, n_classes, tol):
    X, codes, weight = data(n_classes, kind)
    objective = objective_of(X, codes, weight, 3.0, 0.7, kind)
    solution, _ = solved(objective, tol)
    found = judged(objective, solution.w, X, codes, weight, 3.0, 0.7)
    assert found.gap <= 2 * tol * found.objective * (1 + 1e-6)


@classes
def test_the_gap_is_told_and_bounds_F_all_the_way(n_classes):
    X, codes, weight = data(n_classes)
    objective = objective_of(X, codes, weight, 1.0, 1.0)
    solution, iterations = solved(objective, 1e-10)
    best = solution.objective[0]
    assert all(i.objective[0] - i.gap[0] <= best * (1 + 1e-12) for i in iterations if not i.sample_rows)
    assert all((i.w[0] != 0).sum() - objective.n_outputs == i.n_nonzero[0] for i in iterations)


def test_a_dual_point_whose_residuals_do_not_sum_to_0_is_no_bound():
    """The gap would be smaller than the true excess: an intercept that is off breaks it."""
    X, codes, weight = data(2)
    objective = objective_of(X, codes, weight, 1.0, 1.0)
    solution, _ = solved(objective, 1e-12)
    coef, intercept = objective.split(solution.w)
    for off in (1e-3, 1e-1, 1.0, -3.0):
        value, gap = objective.gap(coef, intercept + off)
        excess = value - solution.objective[0]
        assert excess > 0 and gap >= excess * (1 - 1e-9)


def test_without_balance_nothing_is_proved(monkeypatch):
    X, codes, weight = data(2)
    objective = objective_of(X, codes, weight, 1.0, 1.0)
    monkeypatch.setattr(objective, "_balancing", lambda z: torch.full((1,), 1e-3, dtype=z.dtype))
    assert objective.look(objective.zeros()).gap == np.inf


@pytest.mark.parametrize("C", [1.0, 1e4])
def test_F_never_rises(C):
    X, codes, weight = data(3)
    objective = objective_of(X, codes, weight, C, 0.9)
    _, iterations = solved(objective)
    F = [i.objective[0] for i in iterations if i.gap is not None and np.isfinite(i.gap[0])]
    assert all(
        later <= before * (1 + 1e-12) or later > 1.5 * before for before, later in zip(F, F[1:], strict=False)
    )


def test_a_start_at_the_optimum_ends_after_at_most_one_step():
    X, codes, weight = data(3)
    objective = objective_of(X, codes, weight, 1.0, 1.0)
    best, _ = solved(objective, 1e-12)
    again, iterations = solved(objective, 1e-6, best.w)
    assert again.reasons == ["converged"] and len(iterations) <= 1
    assert torch.equal(again.w != 0, best.w != 0)


@pytest.mark.parametrize("start", ["far", "all", "other C"])
def test_any_start_leads_to_the_optimum(start):
    X, codes, weight = data(2)
    objective = objective_of(X, codes, weight, 1.0, 1.0)
    best, _ = solved(objective, 1e-10)
    starts = {
        "far": 100
        * torch.randn(1, objective.n_parameters, dtype=torch.float64)
        / torch.from_numpy(np.append(X.std(axis=0), 1.0)),
        "all": torch.full((1, objective.n_parameters), 1e-3, dtype=torch.float64),
        "other C": solved(objective_of(X, codes, weight, 1e3, 1.0))[0].w,
    }
    found, _ = solved(objective, 1e-8, starts[start])
    assert found.reasons == ["converged"]
    assert found.objective[0] == pytest.approx(best.objective[0], rel=2e-8)
    assert torch.equal(found.w != 0, best.w != 0)


def test_without_tol_there_are_exactly_max_iter_steps():
    X, codes, weight = data(2)
    for max_iter in (0, 1, 7, 60):
        solution, iterations = solved(objective_of(X, codes, weight, 1.0, 1.0), None, max_iter=max_iter)
        assert len(iterations) == max_iter == solution.n_iter[0]
        assert solution.reasons == ["max_iter"]


def test_a_callback_stops_it():
    X, codes, weight = data(2)
    objective = objective_of(X, codes, weight, 1.0, 1.0)
    solution = ProximalNewton().minimize(
        objective, objective.zeros(), lambda iteration: iteration.number == 2
    )
    assert solution.reasons == ["callback"] and solution.n_iter.tolist() == [3]


def test_an_accuracy_that_rounding_forbids_is_said_to_be_out_of_reach():
    X, codes, weight = data(2)
    solution, _ = solved(objective_of(X, codes, weight, 1.0, 1.0), 1e-18)
    assert solution.reasons in (["precision"], ["converged"])
    assert solution.objective[0] == pytest.approx(
        solved(objective_of(X, codes, weight, 1.0, 1.0), 1e-10)[0].objective[0], rel=1e-10
    )


# ---- working sets, samples, stronger penalties ----


@pytest.fixture
def small_sets(monkeypatch):
    monkeypatch.setattr(proximal_newton, "SET_SIZES", (3, 3))


@kinds
@classes
@ratios
def test_small_working_sets_lead_to_the_same_optimum(small_sets, kind, n_classes, l1_ratio):
    X, codes, weight = data(n_classes, kind)
    objective = objective_of(X, codes, weight, 1.0, l1_ratio, kind)
    solution, _ = solved(objective)
    found = judged(objective, solution.w, X, codes, weight, 1.0, l1_ratio)
    assert solution.reasons == ["converged"] and found.gap <= 2e-8 * found.objective


@pytest.mark.parametrize("kind", ["dense", "CSR"])
def test_the_sizes_at_which_columns_are_held_change_nothing(monkeypatch, limits, kind):
    from torch_logreg._data import columns

    X, codes, weight = data(3, kind)
    expected, _ = solved(objective_of(X, codes, weight, 1.0, 0.5, kind))
    monkeypatch.setattr(columns, "HELD_NUMBERS", 1)
    monkeypatch.setattr(columns, "DENSE_NUMBERS", 1)  # sparse columns are multiplied with as they are
    limits(sandwich_numbers=40)
    found, _ = solved(objective_of(X, codes, weight, 1.0, 0.5, kind))
    assert found.reasons == ["converged"]
    assert found.objective[0] == pytest.approx(expected.objective[0], rel=2e-8)


@classes
@ratios
def test_of_many_pairs_no_matrix_is_made_and_the_optimum_is_the_same(monkeypatch, n_classes, l1_ratio):
    from torch_logreg._data import columns

    monkeypatch.setattr(columns, "FACTORISED", 1)
    X, codes, weight = data(n_classes)
    objective = objective_of(X, codes, weight, 1.0, l1_ratio)
    solution, _ = solved(objective)
    found = judged(objective, solution.w, X, codes, weight, 1.0, l1_ratio)
    assert solution.reasons == ["converged"] and found.gap <= 2e-8 * found.objective


@pytest.mark.parametrize("squared", [0, 300])
def test_sparse_columns_of_two_classes_are_squared_or_multiplied_with(monkeypatch, squared):
    from torch_logreg._data import columns

    X, codes, weight = data(2, "CSR")
    monkeypatch.setattr(columns, "DENSE_NUMBERS", 1)
    monkeypatch.setattr(columns, "SQUARED", squared)
    objective = objective_of(X, codes, weight, 1.0, 1.0, "CSR")
    solution, _ = solved(objective)
    found = judged(objective, solution.w, X, codes, weight, 1.0, 1.0)
    assert solution.reasons == ["converged"] and found.gap <= 2e-8 * found.objective


@pytest.mark.parametrize("kind", ["dense", "CSR"])
def test_large_data_start_on_samples(monkeypatch, kind):
    monkeypatch.setattr(elastic_net, "SAMPLE_ROWS", 60)
    X, codes, weight = data(2, n=4000, d=10)
    objective = objective_of(X, codes, weight, 1.0, 1.0, kind)
    solution, iterations = solved(objective)
    sizes = [i.sample_rows for i in iterations]
    assert 0 < sizes[0] < sizes[-2] or sizes[0] > 0 == sizes[-1]
    assert sizes.count(0) <= 6
    found = judged(objective, solution.w, X, codes, weight, 1.0, 1.0)
    assert found.gap <= 2e-8 * found.objective


def test_a_weak_penalty_is_reached_through_stronger_ones():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 300))
    codes = (X[:, 0] + rng.normal(size=80) > 0).astype(int)
    objective = objective_of(X, codes, np.ones(80), 1e4, 1.0)
    solution, _ = solved(objective, 1e-6)
    found = judged(objective, solution.w, X, codes, np.ones(80), 1e4, 1.0)
    assert solution.reasons == ["converged"] and found.gap <= 2e-6 * found.objective


@pytest.mark.parametrize(("n", "d"), [(500, 5000), (6000, 60)])
def test_all_columns_are_read_a_few_times(n, d):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    codes = (X[:, :5].sum(axis=1) + rng.normal(size=n) > 0).astype(int)
    steepest = np.abs((codes.mean() - codes) @ X).max()
    objective = objective_of(X, codes, np.ones(n), 5 / steepest, 1.0)
    solution, _ = solved(objective, 1e-6)
    assert solution.reasons == ["converged"]
    assert objective.rows.passes <= 12  # of which gathered columns are about half


def test_what_is_no_matrix_is_never_kept(monkeypatch):
    """A model with sides of one point and products of another has no minimum that its steps could reach."""
    from torch_logreg._data import columns

    monkeypatch.setattr(columns, "FACTORISED", 1)
    X, codes, weight = data(3, n=300, d=20)
    n_products = []
    for kept_work in (1, 2**60):
        monkeypatch.setattr(proximal_newton, "KEPT_WORK", kept_work)
        made, count = elastic_net.WorkingSet.product, []
        with monkeypatch.context() as patch:
            patch.setattr(elastic_net.WorkingSet, "product", lambda *args: count.append(1) or made(*args))  # noqa: B023
            solution, _ = solved(objective_of(X, codes, weight, 10.0, 1.0), 1e-10)
        assert solution.reasons == ["converged"]
        n_products.append(len(count))
    assert n_products[0] == n_products[1]


@classes
@pytest.mark.parametrize("length", [1.0, 0.5, 1 / 3])
def test_part_of_a_step_leaves_zeros_at_exactly_0(n_classes, length):
    X, codes, weight = data(n_classes)
    objective = objective_of(X, codes, weight, 1.0, 1.0)
    index = (objective.threshold[0] > 0).nonzero()[:, 0]
    working = objective.on(index, objective.look(objective.zeros()))
    aim, is_zero = np.linspace(-0.3, 0.4, len(working.u)), np.arange(len(working.u)) % 2 == 0
    is_zero[working.n :] = False
    aim[is_zero] = 0.0
    working.aim(aim)
    value = working.value_along(length)
    working.go(length)
    assert np.array_equal(working.u[: working.n] == 0, is_zero[: working.n])
    w = working.parameters()
    assert torch.equal(w[0, index] == 0, torch.from_numpy(is_zero[: working.n]))
    assert working.value == value == pytest.approx(float(objective.value(w)[0]), rel=1e-12)
    if length == 1.0:
        assert np.array_equal(working.u, aim)
