"""What stands in for the Fisher matrix, against the matrices themselves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.losses import classes_for
from helpers.objectives import held_objective
from torch_logreg._contracts.objective import NO_HINTS, Factors, Fisher
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._linear.objective import ColumnsObjective
from torch_logreg._losses.losses import LOSSES
from torch_logreg._solvers.fisher import MAX_DAMPING, Cholesky, Kronecker, Metric, SampledFisher
from torch_logreg._solvers.search import Trial, start

MANY = 10**15  # rows, so that no factor is shrunk

losses = pytest.mark.parametrize("loss", LOSSES)
intercepts = pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])


def _objective(
    loss: str, C: list[float], fit_intercept: bool = False, constant: bool = False, n: int = 200
) -> ColumnsObjective:
    rng = np.random.default_rng(0)
    n_classes = classes_for(LOSSES[loss], 4)
    X = rng.normal(size=(n, 5)) + rng.normal(size=(n, 1))
    codes = (X[:, 0] + 2 * rng.normal(size=n)).argsort().argsort() * n_classes // n
    if constant:
        X[:, 2] = 0.0
    rule = LOSSES[loss]
    K = rule.n_outputs(n_classes)
    target = rule.encode(torch.from_numpy(codes), torch.float64)
    rows = ArrayRows(torch.from_numpy(X), target, torch.ones(1, n, dtype=torch.float64), len(C) * K)
    return held_objective(rows, rule, torch.tensor(C, dtype=torch.float64), K, fit_intercept)


def _random(objective: ColumnsObjective, seed: int = 0) -> Tensor:
    """Weights that do not shift all outputs alike."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(
        objective.n_problems, objective.n_outputs, objective.n_parameters // objective.n_outputs,
        generator=generator, dtype=torch.float64,
    )  # fmt: skip
    if objective.n_outputs > 1:
        v = v - v.mean(dim=1, keepdim=True)
    return v.flatten(1)


def _dense(objective: ColumnsObjective, w: Tensor) -> tuple[Tensor, Tensor]:
    """``outputs kron columns`` and the decay as matrices."""
    outputs, columns, decay, _ = objective.at(w).factors()
    K = objective.n_outputs
    if len(columns) < len(decay):  # in the coordinates of the first problem
        inverse = objective.coordinates.inverse_scale[:, 0]
        ratio = torch.ones_like(decay)
        ratio[:, : inverse.shape[1]] = inverse / inverse[:1]
        columns = columns * (ratio[:, :, None] * ratio[:, None])
    products = torch.stack([torch.kron(a, b) for a, b in zip(outputs, columns, strict=True)])
    return products, torch.diag_embed(decay.repeat(1, K))


def _times(matrix: Tensor, v: Tensor) -> Tensor:
    return (matrix @ v[..., None])[..., 0]


# ---- Kronecker ----


def test_factors_of_one_output_are_the_fisher_matrix():
    objective = _objective("binary", [1.0, np.inf], fit_intercept=True)
    w = _random(objective)
    product, decay = _dense(objective, w)
    torch.testing.assert_close(product + decay, objective.at(w).matrix(), rtol=1e-11, atol=1e-13)


def test_factors_of_several_outputs_have_the_sum_of_its_blocks():
    """What is approximated is how information is shared between outputs, not how much there is."""
    objective = _objective("softmax", [1.0, np.inf], fit_intercept=True)
    w = _random(objective)
    product, decay = _dense(objective, w)
    of_blocks = [
        of_all.view(2, objective.n_outputs, -1).sum(dim=1)
        for of_all in ((product + decay).diagonal(dim1=1, dim2=2), objective.at(w).diagonal())
    ]
    torch.testing.assert_close(*of_blocks, rtol=1e-11, atol=1e-13)


@losses
@pytest.mark.parametrize("C", [[1.0], [1e-3, 1.0, 1e4]], ids=["one", "three"])
def test_kronecker_solves_its_matrix_exactly(loss, C):
    objective = _objective(loss, C)
    w, v = 0.5 * _random(objective), _random(objective, seed=1)
    metric = Kronecker(objective, objective, MANY)
    metric.update(objective.at(w))
    product, decay = _dense(objective, w)
    x = metric.solve(v)
    # A condition of 1e5, the eigenvectors of two factors.
    torch.testing.assert_close(_times(product + decay, x), v, rtol=1e-9, atol=1e-10)
    assert x.shape == v.shape and x.dtype == v.dtype
    assert torch.equal(metric.size(v), x)
    if objective.n_outputs > 1:  # nothing shifts all outputs alike
        shift = x.view(len(C), objective.n_outputs, -1).sum(dim=1)
        assert float(shift.abs().max()) <= 1e-13 * float(x.abs().max())


@losses
def test_a_penalty_that_an_intercept_lacks_hardly_changes_its_step(loss):
    objective = _objective(loss, [1.0], fit_intercept=True)
    w, v = 0.5 * _random(objective), _random(objective, seed=1)
    metric = Kronecker(objective, objective, MANY)
    metric.update(objective.at(w))
    product, decay = _dense(objective, w)
    x = metric.solve(v)
    # It gets a thousandth of what the columns have: 1e-5 of a curvature of a tenth.
    torch.testing.assert_close(_times(product + decay, x), v, rtol=1e-3, atol=1e-3)


@losses
def test_kronecker_without_a_penalty_is_finite_and_the_inverse(loss):
    objective = _objective(loss, [np.inf, 1.0], fit_intercept=True)
    w, v = 0.5 * _random(objective), _random(objective, seed=1)
    metric = Kronecker(objective, objective, MANY)
    metric.update(objective.at(w))
    product, _ = _dense(objective, w)
    x = metric.solve(v)
    assert torch.isfinite(x).all()
    # 1e-12 of the diagonal is added, times the condition.
    torch.testing.assert_close(_times(product, x)[:1], v[:1], rtol=1e-6, atol=1e-8)


@losses
@pytest.mark.parametrize("C", [1.0, np.inf])
def test_kronecker_of_a_constant_column_leaves_the_others_as_they_are(loss, C):
    objective = _objective(loss, [C], constant=True)
    w, v = 0.5 * _random(objective), _random(objective, seed=1)
    v.view(objective.n_outputs, 5)[:, 2] = 0  # as every gradient is
    metric = Kronecker(objective, objective, MANY)
    metric.update(objective.at(w))
    x = metric.solve(v)
    # But for the rounding of eigenvectors, which scales of 1e6 at C = inf enlarge.
    assert float(x.view(objective.n_outputs, 5)[:, 2].abs().max()) <= 1e-8 * float(x.abs().max())
    product, decay = _dense(objective, w)
    torch.testing.assert_close(_times(product + decay, x), v, rtol=1e-6, atol=1e-8)


@losses
@pytest.mark.parametrize(("n_sampled", "kept"), [(5, 0.75), (45, 0.95), (MANY, 1.0)])
def test_few_rows_shrink_the_factor_of_the_columns_to_its_diagonal(loss, n_sampled, kept):
    objective = _objective(loss, [1.0])
    w, v = 0.5 * _random(objective), _random(objective, seed=1)
    metric = Kronecker(objective, objective, n_sampled)
    metric.update(objective.at(w))
    outputs, columns, decay = (factor[0] for factor in objective.at(w).factors()[:3])
    shrunk = kept * columns + (1 - kept) * torch.diag(columns.diagonal())
    matrix = torch.kron(outputs, shrunk) + torch.diag(decay.repeat(objective.n_outputs))
    torch.testing.assert_close(_times(matrix[None], metric.solve(v)), v, rtol=1e-9, atol=1e-10)


@losses
def test_kronecker_of_a_float32_sample_keeps_small_differences_of_the_penalty(loss):
    objective = _objective(loss, [1e5], fit_intercept=True)
    w, v = 0.5 * _random(objective), _random(objective, seed=1)
    metrics = [Kronecker(objective, sample, MANY) for sample in (objective, objective.rough())]
    metrics[0].update(objective.at(w))
    metrics[1].set(objective.rough().at(w.float()))
    exact, rough = metrics[0].solve(v), metrics[1].solve(v)
    assert rough.dtype == v.dtype
    torch.testing.assert_close(rough, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))


# ---- the Fisher matrix of a sample ----


def _residual(metric: SampledFisher, objective: ColumnsObjective, w: Tensor, v: Tensor) -> float:
    """Of `solve`, in the norm of the preconditioner, relative."""
    residual = v - objective.at(w).product(metric.solve(v))
    size = torch.linalg.vecdot(residual, metric.size(residual)) / torch.linalg.vecdot(v, metric.size(v))
    return float(size.sqrt().max())


def _learn(
    metric: Metric, objective: ColumnsObjective, w: Tensor, step: float, failed: bool = False
) -> np.ndarray:
    """Teach a step that did exactly what the quadratic model predicts, or whose solve failed."""
    before, ones = start(objective, w), np.ones(objective.n_problems)
    after = before._replace(objective=before.objective - step * (1 - step / 2) * ones)
    trial = Trial(after, step * ones, ones, 0 * ones, 0 * ones, w, NO_HINTS)
    return metric.learn(before, trial, np.full(len(ones), failed))


@losses
@pytest.mark.parametrize("exact", [False, True])
def test_a_sampled_fisher_matrix_is_solved_as_accurately_as_its_quadratic_model_is(loss, exact):
    objective = _objective(loss, [1e-2, 1e2], fit_intercept=True)
    w, v = 0.5 * _random(objective), _random(objective, seed=1)
    metric = SampledFisher(objective, objective, objective.rows.n_rows, exact=exact)
    metric.update(objective.at(w))
    assert _residual(metric, objective, w, v) <= SampledFisher.FAR_ACCURACY
    _learn(metric, objective, w, 1.0)
    metric.update(objective.at(w))
    assert _residual(metric, objective, w, v) <= SampledFisher.ACCURACY
    assert not metric.failed.any()


def test_a_solve_that_did_not_arrive_is_given_more_steps_until_more_are_no_use():
    objective = _objective("softmax", [1.0], fit_intercept=True)
    w = 0.5 * _random(objective)
    metric = SampledFisher(objective, objective, objective.rows.n_rows, exact=True)
    metric.update(objective.at(w))
    may_help = [bool(_learn(metric, objective, w, 0.0, failed=True).all()) for _ in range(20)]
    assert may_help[0] and not may_help[-1]
    assert may_help == sorted(may_help, reverse=True)
    assert not _learn(metric, objective, w, 1.0).any()  # a step that was as predicted


@losses
def test_solutions_are_of_the_size_of_what_is_solved_for(loss):
    """A gradient of 1e-30 would underflow in float32."""
    objective = _objective(loss, [1.0], fit_intercept=True)
    w, v = 0.5 * _random(objective), _random(objective, seed=1)
    metric = SampledFisher(objective, objective.rough(), objective.rows.n_rows, exact=False)
    metric.update(objective.at(w))
    whole, tiny, nothing = metric.solve(v), metric.solve(1e-30 * v), metric.solve(0 * v)
    assert whole.dtype == v.dtype
    torch.testing.assert_close(1e30 * tiny, whole, rtol=1e-4, atol=1e-4)
    assert not nothing.any()


# ---- Cholesky ----


@losses
@intercepts
def test_cholesky_solves_the_fisher_matrix(loss, fit_intercept):
    objective = _objective(loss, [1e-2, np.inf], fit_intercept)
    w, v = 0.5 * _random(objective), _random(objective, seed=1)
    metric = Cholesky(objective)
    metric.update(objective.at(w))
    assert not metric.failed.any()
    torch.testing.assert_close(objective.at(w).product(metric.solve(v)), v, rtol=1e-10, atol=1e-11)


class Given(Fisher):
    """A matrix, and nothing else that is asked for."""

    def __init__(self, of_all: Tensor) -> None:
        self._of_all, self.n_problems = of_all, len(of_all)

    def value_and_gradient(self) -> tuple[Tensor, Tensor]:
        raise AssertionError("a factorised metric asks for no gradient")

    def product(self, v: Tensor) -> Tensor:
        return (self._of_all @ v[..., None])[..., 0]

    def diagonal(self) -> Tensor:
        return self._of_all.diagonal(dim1=1, dim2=2)

    def matrix(self) -> Tensor:
        return self._of_all.clone()

    def factors(self) -> Factors:
        raise AssertionError("a factorised metric asks for no factors")


def _given(matrix: list[list[list[float]]]) -> Given:
    return Given(torch.tensor(matrix, dtype=torch.float64))


def _cholesky(of: Given) -> Cholesky:
    return Cholesky(SimpleNamespace(dtype=torch.float64, n_problems=of.n_problems))


def _failed(*values: bool) -> tuple[None, None, np.ndarray]:
    """What a factorisation learns: nothing of the step."""
    return None, None, np.array(values)


def test_cholesky_damps_what_fails_until_it_succeeds_and_less_again_later():
    regular, indefinite = [[2.0, 0.5], [0.5, 1.0]], [[1.0, 1.05], [1.05, 1.0]]
    given = _given([regular, indefinite])
    metric = _cholesky(given)
    metric.update(given)
    assert (metric.failed != 0).tolist() == [False, True]
    failures = 0
    while metric.failed.any():
        may_help = metric.learn(*_failed(*(metric.failed != 0).tolist()))
        assert may_help.tolist() == [False, True]
        failures += 1
        metric.update(given)
    assert failures <= 8  # from 1e-15 by factors of 100
    v = torch.ones(2, 2, dtype=torch.float64)
    x = metric.solve(v)
    damping = (v[1] - torch.tensor(indefinite, dtype=torch.float64) @ x[1]) / x[1]
    assert 0.05 < float(damping[0]) <= MAX_DAMPING
    assert float(damping[1]) == pytest.approx(float(damping[0]), rel=1e-10)
    # The problem beside it is not damped.
    torch.testing.assert_close(torch.tensor(regular, dtype=torch.float64) @ x[0], v[0], rtol=1e-13, atol=0)
    for _ in range(10):
        metric.learn(*_failed(False, False))
    metric.update(_given([regular, regular]))
    x = metric.solve(v)
    torch.testing.assert_close(torch.tensor(regular, dtype=torch.float64) @ x[1], v[1], rtol=1e-13, atol=0)


def test_a_matrix_that_no_damping_saves_is_given_up():
    hopeless = _given([[[1.0, 9.0], [9.0, 1.0]]])
    metric = _cholesky(hopeless)
    may_help = []
    for _ in range(12):
        metric.update(hopeless)
        assert metric.failed.all()
        may_help.append(bool(metric.learn(*_failed(True)).all()))
    assert may_help[0] and not may_help[-1]


def test_the_largest_damping_is_tried_before_a_matrix_is_given_up():
    # Regular from a damping of 0.95 on, and the one before the largest is below 0.1.
    late = _given([[[1.0, 1.95], [1.95, 1.0]]])
    metric = _cholesky(late)
    for _ in range(12):
        metric.update(late)
        if not metric.failed.any():
            break
        assert metric.learn(*_failed(True)).all()
    assert not metric.failed.any()


def test_a_parameter_with_no_effect_is_no_reason_to_fail():
    given = _given([[[2.0, 0.0], [0.0, 0.0]]])
    metric = _cholesky(given)
    metric.update(given)
    assert not metric.failed.any()
    x = metric.solve(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(x, torch.tensor([[0.5, 0.0]], dtype=torch.float64), rtol=1e-14, atol=0)
