"""The products with X against numpy, for every kind of rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import optima
from torch_logreg import TorchLogisticClassifier
from torch_logreg._contracts.rows import Matrix, Sample
from torch_logreg._data import arrays
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.csr import CsrMatrix
from torch_logreg._data.products import (
    FEW_OUTPUTS,
    MIN_PART_ROWS,
    SUB_ROWS,
    matmul,
    rmatmul,
    rmatmul_deviation,
    rmatmul_squares,
    sandwich,
    sandwich_outer,
)
from torch_logreg._data.samples import SampledRows
from torch_logreg._data.sparse import Sparse, sparse_matrix
from torch_logreg._linear.objective import STRETCHES
from torch_logreg._losses.losses import LOSSES

CPU = torch.device("cpu")


def _csr_int64(X: np.ndarray) -> Sparse:
    """As a matrix with more than 2**31 entries would be."""

    def widened(csr: CsrMatrix) -> CsrMatrix:
        return CsrMatrix(csr.crow.long(), csr.column.long(), csr.values, csr.shape)

    narrow = sparse_matrix(scipy.sparse.csr_array(X), CPU)
    return Sparse(widened(narrow.csr), widened(narrow.transpose))


def _dense(X: Sparse) -> torch.Tensor:
    arrays = (X.csr.values.numpy(), X.csr.column.numpy(), X.csr.crow.numpy())
    return torch.as_tensor(scipy.sparse.csr_array(arrays, shape=X.csr.shape).toarray())


KINDS: dict[str, Callable[[np.ndarray], Matrix]] = {
    "dense C": lambda X: torch.from_numpy(np.ascontiguousarray(X)),
    "dense F": lambda X: torch.from_numpy(np.asfortranarray(X)),
    "CSR": lambda X: sparse_matrix(scipy.sparse.csr_array(X), CPU),
    "CSR int64": _csr_int64,
}
kinds = pytest.mark.parametrize("kind", KINDS)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def _data(dtype: type = np.float64, n: int = 57, d: int = 6, Q: int = 3) -> tuple[np.ndarray, ...]:
    """X with an empty column and empty rows, the first and the last among them; (Q, n) and (Q, d)."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)) * (rng.random((n, d)) < 0.5)
    X[:, 2] = 0
    X[[0, 1, 20, -1]] = 0
    return X.astype(dtype), rng.normal(size=(Q, n)).astype(dtype), rng.normal(size=(Q, d)).astype(dtype)


def _sandwich(X, weights, center, spread, ones: bool) -> np.ndarray:
    """In extended precision."""
    A = (X.astype(np.longdouble) - center) / spread
    if ones:
        A = np.hstack([A, np.ones((len(A), 1), dtype=A.dtype)])
    return np.einsum("qn,na,nb->qab", weights.astype(np.longdouble), A, A).astype(float)


def _rows_of(X: np.ndarray | scipy.sparse.csr_array, n_outputs: int = 1) -> ArrayRows:
    weights = torch.arange(1.0, X.shape[0] + 1, dtype=torch.float64)[None]
    features = X if scipy.sparse.issparse(X) else torch.from_numpy(X)
    return ArrayRows(features, torch.arange(X.shape[0]), weights, n_outputs)


# ---- the products ----


@kinds
@dtypes
def test_matmul_and_rmatmul_are_those_of_numpy(kind, dtype):
    X, residual, coef = _data(dtype)
    matrix = KINDS[kind](X)
    forward, backward = matmul(matrix, torch.from_numpy(coef)), rmatmul(matrix, torch.from_numpy(residual))
    assert forward.dtype == backward.dtype == torch.from_numpy(X).dtype
    rounding = 16 * np.finfo(dtype).eps
    for result, expected in ((forward, coef @ X.astype(float).T), (backward, residual @ X.astype(float))):
        np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=rounding * np.abs(expected).max())
    assert not backward[:, 2].any()  # the empty column
    assert not forward[:, [0, 1, 20, -1]].any()  # the empty rows


@kinds
def test_products_of_one_problem_are_contiguous_rows(kind):
    X, residual, coef = _data(Q=1)
    matrix = KINDS[kind](X)
    assert matmul(matrix, torch.from_numpy(coef)).shape == (1, len(X))
    assert rmatmul(matrix, torch.from_numpy(residual)).is_contiguous()


@pytest.mark.parametrize("kind", ["dense C", "dense F"])
@dtypes
@pytest.mark.parametrize("n", [4 * SUB_ROWS, 4 * SUB_ROWS + 1, 6 * SUB_ROWS - 1])
@pytest.mark.parametrize("Q", [1, 2, FEW_OUTPUTS, FEW_OUTPUTS + 1])
def test_products_of_many_rows_in_parts_are_those_of_numpy(kind, dtype, n, Q):
    X, residual, coef = _data(dtype, n, 6, Q)
    matrix = KINDS[kind](X)
    forward, backward = matmul(matrix, torch.from_numpy(coef)), rmatmul(matrix, torch.from_numpy(residual))
    assert forward.shape == (Q, n) and backward.shape == (Q, 6)
    assert forward.is_contiguous() and backward.is_contiguous()
    rounding = 16 * np.finfo(dtype).eps
    expected = coef.astype(float) @ X.astype(float).T
    np.testing.assert_allclose(forward.numpy(), expected, rtol=0, atol=rounding * np.abs(expected).max())
    expected = residual.astype(float) @ X.astype(float)
    of_terms = np.abs(residual.astype(float)) @ np.abs(X.astype(float))
    assert np.all(np.abs(backward.numpy() - expected) <= rounding * of_terms)


def test_part_of_a_larger_array_is_multiplied_in_parts_like_any_other():
    X, residual, coef = _data(n=9 * SUB_ROWS)
    residual, coef = residual[:1], coef[:1]
    part = torch.from_numpy(X)[100 : 100 + 5 * SUB_ROWS]
    few = residual[:, 100 : 100 + 5 * SUB_ROWS]  # not contiguous with what is around it
    np.testing.assert_allclose(
        matmul(part, torch.from_numpy(coef)), coef @ part.numpy().T, rtol=0, atol=1e-13
    )
    np.testing.assert_allclose(rmatmul(part, torch.from_numpy(few)), few @ part.numpy(), rtol=0, atol=1e-11)


@kinds
@dtypes
@pytest.mark.parametrize("chunk", [1, 40, 2**21])
def test_rmatmul_deviation_is_that_of_numpy(kind, dtype, chunk, limits):
    limits(centred_numbers=chunk, exact_stored=chunk)
    X, residual, other = _data(dtype)
    residual, center = np.abs(residual), other[0].astype(float)
    arguments = KINDS[kind](X), torch.from_numpy(residual), torch.from_numpy(center)
    first, result = rmatmul_deviation(*arguments, 1, 2)
    assert result.dtype == torch.float64  # the dtype of the centre, not of X
    expected = residual.astype(float) @ (X.astype(float) - center) ** 2
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-13)
    expected = residual.astype(float) @ (X.astype(float) - center)
    np.testing.assert_allclose(first.numpy(), expected, rtol=1e-12)


@kinds
@dtypes
@pytest.mark.parametrize("chunk", [1, 40, 2**21])
def test_rmatmul_squares_is_that_of_numpy(kind, dtype, chunk, limits):
    limits(centred_numbers=chunk)
    X, residual, other = _data(dtype)
    residual, center, spread = np.abs(residual), other[0].astype(float), 0.5 + np.abs(other[1]).astype(float)
    arguments = (torch.from_numpy(each) for each in (residual, center, spread))
    result = rmatmul_squares(KINDS[kind](X), *arguments)
    expected = residual.astype(float) @ ((X.astype(float) - center) / spread) ** 2
    rtol = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(result.numpy(), expected, rtol=rtol)


@pytest.mark.parametrize("unit", [1e30, 1e-30])
def test_squares_of_float32_numbers_of_any_unit_are_numbers(unit):
    X, residual, _ = _data(np.float32)
    scaled = torch.from_numpy((X * unit).astype(np.float32))
    zero, spread = torch.zeros(6, dtype=torch.float64), torch.full((6,), unit, dtype=torch.float64)
    result = rmatmul_squares(scaled, torch.from_numpy(np.abs(residual)), zero, spread)
    np.testing.assert_allclose(result.numpy(), np.abs(residual) @ X.astype(float) ** 2, rtol=1e-5)


@kinds
@dtypes
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("chunk", [1, 100, 2**21])
def test_sandwich_is_that_of_numpy(kind, dtype, intercept, chunk, limits):
    limits(sandwich_numbers=chunk)
    X, weights, other = _data(dtype)
    center, spread = other[0].astype(float), 0.5 + np.abs(other[1]).astype(float)
    arguments = torch.from_numpy(weights), torch.from_numpy(center), torch.from_numpy(spread), intercept
    result = sandwich(KINDS[kind](X), *arguments)
    expected = _sandwich(X, weights, center, spread, intercept)
    assert result.shape == (3, 6 + intercept, 6 + intercept)
    assert result.dtype == torch.float64  # the dtype of the centre, not of X
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-13, atol=1e-13 * np.abs(expected).max())


@kinds
@dtypes
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("chunk", [1, 200, 2**21])
def test_sandwich_outer_is_that_of_numpy(kind, dtype, intercept, chunk, limits):
    limits(sandwich_numbers=chunk)
    X, _, other = _data(dtype)
    factors = np.random.default_rng(1).normal(size=(2, 3, len(X))).astype(dtype)
    center, spread = other[0].astype(float), 0.5 + np.abs(other[1]).astype(float)
    arguments = torch.from_numpy(factors), torch.from_numpy(center), torch.from_numpy(spread), intercept
    result = sandwich_outer(KINDS[kind](X), *arguments)
    pairs = np.einsum("pkn,pln->pkln", factors.astype(float), factors.astype(float)).reshape(18, -1)
    m = 6 + intercept
    expected = _sandwich(X, pairs, center, spread, intercept).reshape(2, 3, 3, m, m)
    expected = expected.transpose(0, 1, 3, 2, 4).reshape(2, 3 * m, 3 * m)
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-13, atol=1e-13 * np.abs(expected).max())


@kinds
@dtypes
def test_sandwich_keeps_its_accuracy_a_million_deviations_from_zero(kind, dtype):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(200, 3)) + 1e6).astype(dtype)
    weights = np.abs(rng.normal(size=(2, 200))).astype(dtype)
    center = X.astype(np.longdouble).mean(axis=0).astype(float)
    arguments = torch.from_numpy(weights), torch.from_numpy(center), torch.ones(3, dtype=torch.float64), True
    result = sandwich(KINDS[kind](X), *arguments)
    # x - center is exact but for the last digit of the centre: 1e6 * eps of a deviation.
    expected = _sandwich(X, weights, center, np.ones(3), True)
    size = np.sqrt(np.einsum("qaa,qbb->qab", expected, expected))
    assert np.max(np.abs(result.numpy() - expected) / size) < 1e-14


@kinds
@dtypes
def test_squared_deviations_of_columns_far_from_zero_is_a_usable_variance(kind, dtype):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(500, 3)) + 1e6).astype(dtype)
    ones, center = torch.ones(1, 500, dtype=torch.from_numpy(X).dtype), X.astype(float).mean(axis=0)
    (result,) = rmatmul_deviation(KINDS[kind](X), ones, torch.from_numpy(center), 2)
    expected = np.sum((X.astype(float) - center) ** 2, axis=0)
    # The 1e12 of a squared offset rounds to 1e-4: it must be neither added nor subtracted.
    np.testing.assert_allclose(result.numpy()[0], expected, rtol=1e-9)


@kinds
@dtypes
def test_a_constant_column_is_at_no_distance_from_its_value(kind, dtype):
    X = np.full((500, 2), [12345.678, 0.1], dtype=dtype)
    residual = torch.from_numpy(np.random.default_rng(0).random((1, 500)).astype(dtype))
    center = torch.from_numpy(X[0].astype(float))
    assert not torch.cat(rmatmul_deviation(KINDS[kind](X), residual, center, 1, 2)).any()


@dtypes
def test_repeated_entries_of_a_csr_matrix_are_summed(dtype):
    indptr, indices = np.array([0, 3, 3, 4]), np.array([1, 1, 0, 2])
    X = scipy.sparse.csr_array((np.array([1, 2, 5, 7], dtype=dtype), indices, indptr), shape=(3, 4))
    ones = torch.ones(1, 3, dtype=torch.from_numpy(X.data).dtype)
    center, spread = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    result = sandwich(sparse_matrix(X, CPU), ones, center, spread, False)
    np.testing.assert_array_equal(result[0].numpy(), X.toarray().T @ X.toarray())


def test_big_endian_values_of_a_csr_matrix_are_read_rightly():
    X, _, coef = _data()
    swapped = scipy.sparse.csr_array(X)
    swapped.data = swapped.data.astype(">f8")
    forward = matmul(sparse_matrix(swapped, CPU), torch.from_numpy(coef))
    np.testing.assert_allclose(forward.numpy(), coef @ X.T, atol=1e-14)


def test_indices_of_a_csr_matrix_are_stored_in_32_bits():
    X = scipy.sparse.csr_array(_data()[0])
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    matrix = sparse_matrix(X, CPU)
    assert matrix.csr.crow.dtype == matrix.transpose.column.dtype == torch.int32


# ---- blocks ----


@pytest.mark.parametrize("kind", ["dense", "CSR"])
@pytest.mark.parametrize("numbers", [1, 14, 2**20])
def test_blocks_hold_every_row_once_and_in_order(kind, numbers, limits):
    limits(block_numbers=numbers)
    X, _, _ = _data()
    rows = _rows_of(X if kind == "dense" else scipy.sparse.csr_array(X), n_outputs=2)
    blocks = list(rows.blocks())
    expected_rows = max(1, numbers // 2)
    assert all(len(block.target) <= expected_rows for block in blocks)
    assert len(blocks) == -(-len(X) // expected_rows)
    parts = [block.X if kind == "dense" else _dense(block.X) for block in blocks]
    assert [tuple(block.X.shape) for block in blocks] == [tuple(part.shape) for part in parts]
    np.testing.assert_array_equal(torch.cat(parts).numpy(), X)
    np.testing.assert_array_equal(torch.cat([block.target for block in blocks]).numpy(), np.arange(57))
    np.testing.assert_array_equal(torch.cat([block.weights for block in blocks], dim=1)[0], np.arange(1, 58))
    for block, again in zip(blocks, rows.blocks(), strict=True):
        assert again.X is block.X and torch.equal(again.target, block.target)
    assert (rows.n_rows, rows.n_features) == X.shape


def test_rows_of_one_machine_are_their_own_total():
    partial = torch.arange(3.0)
    assert _rows_of(_data()[0]).total(partial) is partial


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("solver", ["newton-cholesky", "newton-cg", "lbfgs"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_many_blocks_give_the_fit_of_one(sparse, solver, n_classes, limits):
    X, residual, _ = _data(n=90)
    y = (X[:, 0] + residual[0]).argsort().argsort() * n_classes // len(X)
    features = scipy.sparse.csr_array(X) if sparse else X
    settings = {"solver": solver, "tol": 1e-8, "max_iter": 500}
    one = TorchLogisticClassifier(**settings).fit(features, y)
    limits(block_numbers=80, chunk_numbers=200)
    many = TorchLogisticClassifier(**settings).fit(features, y)
    np.testing.assert_allclose(many.coef_, one.coef_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(many.intercept_, one.intercept_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(many.coef_, optima.solve(X, y, n_classes, 1.0).coef, rtol=1e-6, atol=1e-8)


# ---- samples ----


def _sampled(
    n: int,
    size: int,
    weight: np.ndarray | None = None,
    codes: np.ndarray | None = None,
    seed: int = 0,
    kind: str = "dense",
) -> tuple[ArrayRows, Sample]:
    """Rows of three columns whose target is the row's number, and about `size` of them."""
    X = np.arange(3.0 * n).reshape(n, 3)
    features = scipy.sparse.csr_array(X)
    if kind != "CSR":
        features = torch.from_numpy(np.asfortranarray(X) if kind == "dense F" else X)
    weight = np.ones(n) if weight is None else weight
    rows = ArrayRows(features, torch.arange(n), torch.from_numpy(np.atleast_2d(weight)), 1)
    groups = torch.zeros(n, dtype=torch.int64) if codes is None else torch.from_numpy(codes)
    generator = torch.Generator().manual_seed(seed)
    return rows, rows.sample(size, lambda target: groups[target], generator)


def _numbers(sample: Sample) -> np.ndarray:
    return sample.gather(slice(0, len(sample.key))).target.numpy()


@pytest.mark.deep
def test_a_row_is_drawn_with_the_probability_that_its_measure_says():
    rng = np.random.default_rng(0)
    weight, codes = rng.random(200), (rng.random(200) < 0.1).astype(int)
    counts, n_draws, probability = np.zeros(200), 3000, np.zeros(200)
    for seed in range(n_draws):
        _, sample = _sampled(200, 30, weight, codes, seed)
        drawn = _numbers(sample)
        counts[drawn] += 1
        probability[drawn] = np.minimum(1, 30 * sample.measure.numpy())
    deviation = np.sqrt(n_draws * probability * (1 - probability))
    # Of 200 binomial counts the largest deviation exceeds 4.5 standard ones once in 700 draws of a seed.
    assert np.all(np.abs(counts - n_draws * probability) <= 4.5 * deviation)
    # Half by weight, half to the two groups in equal parts.
    of_group = np.array([weight[codes == code].sum() for code in (0, 1)])[codes]
    measure = weight / 2 * (1 / weight.sum() + 1 / (2 * of_group))
    np.testing.assert_allclose(probability, 30 * measure, rtol=1e-12)


def test_weighted_sums_over_a_sample_are_unbiased():
    rng = np.random.default_rng(0)
    weight, codes = 10 ** rng.uniform(-2, 2, size=500), (rng.random(500) < 0.05).astype(int)
    values = rng.normal(size=500) + 1
    sums = []
    for seed in range(1500):
        _, sample = _sampled(500, 50, weight, codes, seed)
        everything = slice(0, len(sample.key))
        sums.append(float(sample.weights(everything, 50)[0] @ torch.from_numpy(values[_numbers(sample)])))
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - weight @ values) <= 4 * error
    assert error < 0.01 * weight @ values  # or the line above would say nothing


@pytest.mark.deep
def test_the_first_few_of_a_sample_are_a_smaller_sample():
    rng = np.random.default_rng(0)
    weight, values = 10 ** rng.uniform(-1, 1, size=500), rng.normal(size=500) + 1
    sums, sizes = [], []
    for seed in range(1500):
        _, sample = _sampled(500, 200, weight, seed=seed)
        assert bool((sample.key.diff() >= 0).all())
        few = slice(0, 40)
        size = sample.key[40]
        sums.append(float(sample.weights(few, size)[0] @ torch.from_numpy(values[_numbers(sample)[:40]])))
        sizes.append(float(size))
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - weight @ values) <= 4 * error
    assert np.mean(sizes) == pytest.approx(40, rel=0.1)  # 40 rows are a sample of about 40


def test_a_rare_group_has_its_part_of_a_sample():
    codes = np.zeros(20_000, dtype=int)
    codes[[17, 5000, 19_999]] = 1
    codes[:100] = np.where(codes[:100] == 1, 1, 2)
    for seed in range(10):
        _, sample = _sampled(20_000, 400, codes=codes, seed=seed)
        drawn = codes[_numbers(sample)]
        assert (drawn == 1).sum() == 3  # 400 / 6 would be its part
        assert 40 <= (drawn == 2).sum() <= 95  # of 100 rows 68 in the mean, within 5 standard deviations
        assert 250 <= len(drawn) <= 420


def test_groups_that_no_row_of_weight_is_in_have_no_part_of_a_sample():
    codes = np.arange(1000) % 2 * 3  # nothing is of group 1 or 2, and group 3 has no weight
    _, sample = _sampled(1000, 100, (codes == 0).astype(float), codes)
    assert np.all(codes[_numbers(sample)] == 0)
    assert 60 <= len(sample.key) <= 140


def test_rows_without_weight_are_never_drawn_and_rows_of_great_weight_always():
    weight = np.ones(1000)
    weight[::2], weight[[7, 501]] = 0.0, 1e4
    for seed in range(10):
        _, sample = _sampled(1000, 50, weight, seed=seed)
        drawn = _numbers(sample)
        assert not weight[drawn].min() == 0
        assert {7, 501} <= set(drawn.tolist())
        everything = slice(0, len(drawn))
        certain = np.isin(drawn, [7, 501])
        np.testing.assert_array_equal(sample.weights(everything, 50)[0, certain], [1e4, 1e4])


def test_a_sample_is_in_random_order():
    _, sample = _sampled(10_000, 1000)
    drawn = _numbers(sample)
    assert len(set(drawn.tolist())) == len(drawn)
    # A rank correlation of about a thousand numbers in random order has a standard deviation of 0.03.
    assert abs(np.corrcoef(drawn, np.arange(len(drawn)))[0, 1]) < 0.13


def test_a_sample_of_all_rows_is_all_rows_as_they_are():
    weight = np.random.default_rng(0).random(100) + 0.1
    rows, sample = _sampled(100, 10_000, weight)
    block = sample.gather(slice(0, 100))
    assert sorted(block.target.tolist()) == list(range(100))
    assert torch.equal(sample.weights(slice(0, 100), 10_000), block.weights)


@pytest.mark.parametrize("kind", ["dense", "dense F", "CSR"])
def test_what_is_gathered_are_the_rows_that_were_drawn(kind):
    weight = np.random.default_rng(0).random((2, 300))  # of two problems
    _, sample = _sampled(300, 60, weight, kind=kind)
    _, again = _sampled(300, 60, weight, kind="dense")
    part = slice(5, 25)
    block = sample.gather(part)
    X = _dense(block.X) if kind == "CSR" else block.X
    drawn = block.target.numpy()
    np.testing.assert_array_equal(X, np.arange(900.0).reshape(300, 3)[drawn])
    np.testing.assert_array_equal(block.weights, weight[:, drawn])
    assert block.target.tolist() == _numbers(again)[5:25].tolist()  # the same for every kind


@pytest.mark.parametrize("loss", LOSSES)
def test_a_sample_of_either_loss_holds_every_class(loss):
    rule = LOSSES[loss]
    codes = torch.zeros(5000, dtype=torch.int64)
    codes[[3, 4000]] = 1
    X, weight = torch.zeros(5000, 1, dtype=torch.float64), torch.ones(1, 5000, dtype=torch.float64)
    rows = ArrayRows(X, rule.encode(codes, torch.float64), weight, 1)
    sample = rows.sample(50, rule.codes, torch.Generator().manual_seed(0))
    block = sample.gather(slice(0, len(sample.key)))
    assert rule.codes(block.target).sum() == 2


def test_a_seed_draws_the_same_rows_again_and_another_one_others():
    drawn = [_numbers(_sampled(1000, 100, seed=seed)[1]).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("kind", ["dense", "dense F", "CSR"])
@pytest.mark.parametrize("step", [1, 7, 2**10])
def test_sampled_rows_are_the_sample_a_few_at_a_time(kind, step, limits):
    limits(sample_rows=step)
    weight = np.random.default_rng(0).random((2, 300))
    rows, sample = _sampled(300, 60, weight, kind=kind)
    n = len(sample.key)
    everything = slice(0, n)
    expected = sample.gather(everything)
    weights = sample.weights(everything, 60)
    few = SampledRows(rows, sample, 60)
    assert (few.n_rows, few.n_features, few.dtype, few.device) == (n, 3, rows.dtype, rows.device)
    blocks = list(few.blocks())
    assert rows.rows_read == n
    assert [len(block.target) for block in blocks[:-1]] == [step] * (-(-n // step) - 1)
    assert torch.cat([block.target for block in blocks]).tolist() == expected.target.tolist()
    assert torch.equal(torch.cat([block.weights for block in blocks], dim=1), weights)
    torch.testing.assert_close(few.weight_sum(torch.float64), weights.sum(dim=1), rtol=1e-13, atol=0)
    products = sum(rmatmul(block.X, block.weights) for block in blocks)
    X = _dense(expected.X) if kind == "CSR" else expected.X
    torch.testing.assert_close(few.total(products), weights @ X, rtol=1e-13, atol=0)


def test_infinity_in_sums_over_a_sample_is_reported_by_the_rows():
    def check() -> None:
        raise ValueError("X has infinity")

    rows = ArrayRows(torch.zeros(9, 1), torch.zeros(9), torch.ones(1, 9), 1, check)
    sample = rows.sample(5, lambda target: target.long(), torch.Generator().manual_seed(0))
    few = SampledRows(rows, sample, 5)
    few.check_finite(torch.zeros(2))
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="X has infinity"):
            few.check_finite(torch.tensor([0.0, bad]))


# ---- memory ----


class _Largest(TorchDispatchMode):
    """The most numbers in any dense tensor that torch makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(made, torch.Tensor) and made.layout == torch.strided:
                # A view of few numbers may be expanded to many.
                self.numbers = max(self.numbers, made.untyped_storage().nbytes() // made.element_size())
        return result


def test_a_sparse_matrix_is_never_made_dense_as_a_whole():
    n, d = 3000, 200_000  # 4.8 GB if dense
    X = scipy.sparse.random_array((n, d), density=2e-5, format="csr", rng=np.random.default_rng(0))
    y = np.arange(n) % 2
    with _Largest() as largest:
        TorchLogisticClassifier(solver="newton-cg", C=0.1).fit(X, y).predict_proba(X)
    assert largest.numbers <= 2 * max(X.nnz, d + 1)


def test_the_fisher_matrix_of_sparse_rows_makes_few_of_them_dense_at_a_time(limits):
    n, d = 40_000, 30  # too many numbers to be made dense at once
    X = scipy.sparse.random_array((n, d), density=0.05, format="csr", rng=np.random.default_rng(0))
    limits(sandwich_numbers=2**14)
    y = np.arange(n) % 2
    with _Largest() as largest:
        TorchLogisticClassifier(solver="newton-cholesky").fit(X, y)
    assert largest.numbers <= max(2 * X.nnz, 2**15, len(STRETCHES) * n)
    assert largest.numbers < n * d // 4


@dtypes
@pytest.mark.parametrize("order", ["C", "F"])
def test_dense_arrays_are_not_copied(dtype, order, limits, monkeypatch):
    X = np.asarray(np.random.default_rng(0).normal(size=(40, 3)), dtype=dtype, order=order)
    made, make = [], ArrayRows.__init__

    def recording(self, *args):
        make(self, *args)
        made.append(self)

    monkeypatch.setattr(ArrayRows, "__init__", recording)
    limits(block_numbers=10)
    TorchLogisticClassifier().fit(X, np.arange(40) % 2)
    blocks = list(made[0].blocks())
    assert len(made) == 1 and len(blocks) == 4
    for index, block in enumerate(blocks):
        assert block.X.data_ptr() == X[10 * index :].ctypes.data
        assert block.X.stride() == tuple(stride // X.itemsize for stride in X.strides)


@kinds
@dtypes
def test_the_products_leave_X_as_it_is(kind, dtype):
    X, residual, coef = _data(dtype)
    before, matrix = X.copy(), KINDS[kind](X)
    center = torch.from_numpy(coef[0])
    matmul(matrix, torch.from_numpy(coef))
    rmatmul(matrix, torch.from_numpy(residual))
    rmatmul_deviation(matrix, torch.from_numpy(residual), center, 1, 2)
    sandwich(matrix, torch.from_numpy(residual), center, torch.ones_like(center), True)
    after = _dense(matrix) if isinstance(matrix, Sparse) else matrix
    np.testing.assert_array_equal(after.numpy(), before)


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_products_in_parts_take_coefficients_of_any_strides(n_outputs):
    rng = np.random.default_rng(0)
    X, wide = rng.normal(size=(2**13 + 5, 7)), rng.normal(size=(2 * n_outputs, 7))
    strided = np.lib.stride_tricks.as_strided(wide, (n_outputs, 7), (0 if n_outputs == 1 else 112, 8))
    product = matmul(torch.from_numpy(X), torch.from_numpy(strided.copy() if n_outputs > 1 else strided))
    np.testing.assert_allclose(product.numpy(), strided @ X.T, rtol=0, atol=1e-13)


@dtypes
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n", [2 * MIN_PART_ROWS, 2 * MIN_PART_ROWS + 1, 5 * MIN_PART_ROWS + 3])
@pytest.mark.parametrize("n_threads", [2, 3, 5])
def test_products_of_many_outputs_in_parts_are_the_products(n_threads, n, order, dtype, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    X, residual, coef = _data(dtype, n=n, Q=FEW_OUTPUTS + 1)
    calls = []
    monkeypatch.setattr(torch, "bmm", lambda *given, bmm=torch.bmm: calls.append(1) or bmm(*given))
    given = torch.from_numpy(np.asarray(X, order=order))
    tolerance = {
        "rtol": 1e-5 if dtype == np.float32 else 1e-12,
        "atol": 1e-4 if dtype == np.float32 else 1e-12,
    }
    np.testing.assert_allclose(matmul(given, torch.from_numpy(coef)), coef @ X.T, **tolerance)
    np.testing.assert_allclose(rmatmul(given, torch.from_numpy(residual)), residual @ X, **tolerance)
    assert len(calls) == 2 * (n >= n_threads * MIN_PART_ROWS)


def test_sums_of_groups_go_on_to_grow_in_float32():
    n = 2**24 + 2**18 + 5
    group = torch.zeros(n, dtype=torch.int64)
    group[-3:] = 2
    sums = arrays.group_sums(group, torch.ones(n, dtype=torch.float32))
    assert sums.tolist() == [n - 3, 0, 3]
