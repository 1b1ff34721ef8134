"""What every kind of rows promises, and what of the rest it can do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from helpers.subclasses import subclasses
from torch_logreg._contracts.rows import Block, Drawable, Gatherable, Minibatched, Rows
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._data.folds import FoldRows
from torch_logreg._data.loaders import Loaded, batches_of
from torch_logreg._data.products import dense_rows
from torch_logreg._data.samples import HeldRows, SampledRows
from torch_logreg._modules.rows import LoadedRows, TensorRows
from torch_logreg._runtime.limits import Limits
from torch_logreg._runtime.random import RandomStream

N, D = 40, 3
# Numbers and weights that 16 and 32 bits hold; the sums of the weights take 64.
X = np.random.default_rng(0).integers(-8, 9, size=(N, D)).astype(float)
WEIGHTS = np.random.default_rng(1).integers(1, 9, size=(2, N)) / 4
WEIGHTS[:, 5] = 2.0**26
COUNTS = np.random.default_rng(2).integers(0, 3, size=(2, N))
COUNTS[:, 5] = 1


class Made(NamedTuple):
    """Rows whose targets are the numbers of rows of X, and what they hold."""

    rows: Rows
    numbers: np.ndarray  # (n,) of the rows of X, in order
    weights: np.ndarray  # (P, n)


def arrays(weights: np.ndarray = WEIGHTS, dtype: torch.dtype = torch.float64) -> ArrayRows:
    return ArrayRows(torch.from_numpy(X), torch.arange(N), torch.from_numpy(weights).to(dtype), 1)


def dense(weights: np.ndarray = WEIGHTS) -> Made:
    return Made(arrays(weights), np.arange(N), weights)


def half() -> Made:
    features, weights = torch.from_numpy(X).to(torch.bfloat16), torch.from_numpy(WEIGHTS).float()
    return Made(ArrayRows(features, torch.arange(N), weights, 1), np.arange(N), WEIGHTS)


def sparse() -> Made:
    features, weights = scipy.sparse.csr_array(X), torch.from_numpy(WEIGHTS)
    return Made(ArrayRows(features, torch.arange(N), weights, 1), np.arange(N), WEIGHTS)


def sampled(weights: np.ndarray = WEIGHTS) -> Made:
    rows = arrays(weights)
    sample = rows.sample(20, lambda target: target % 2, torch.Generator().manual_seed(0))
    numbers = sample.gather(slice(0, N)).target.numpy()
    chance = (20 * sample.measure).clamp(max=1).numpy()
    return Made(SampledRows(rows, sample, 20), numbers, weights[:, numbers] / chance)


def held(weights: np.ndarray = WEIGHTS) -> Made:
    rows, block = arrays(weights), arrays(weights).whole()
    return Made(HeldRows(rows, block), np.arange(N), weights)


def folds() -> Made:
    rows = arrays(WEIGHTS[:1])
    return Made(FoldRows(rows, torch.from_numpy(COUNTS), torch.tensor([1, 0])), np.arange(N), _of_folds())


def _of_folds() -> np.ndarray:
    return COUNTS[[1, 0]] * WEIGHTS[:1]


def tensors() -> Made:
    rows = TensorRows(torch.from_numpy(X), torch.arange(N), torch.from_numpy(WEIGHTS))
    return Made(rows, np.arange(N), WEIGHTS)


def loaded() -> Made:
    batches = batches_of(TensorDataset(*map(torch.from_numpy, (X, np.arange(N), WEIGHTS[0]))))
    given = Loaded(batches, N, np.arange(N), np.ones(N), next(batches.items()))
    cpu, dtype = torch.device("cpu"), torch.float64
    rows = LoadedRows(given, WEIGHTS[0].sum(), cpu, dtype, dtype, RandomStream(0, cpu))
    return Made(rows, np.arange(N), WEIGHTS[:1])


class Kind(NamedTuple):
    make: Callable[[], Made]  # for two problems of their own weights, or for the one that the kind knows
    abilities: set[type[Rows]]  # besides being read


ROWS = {
    "dense": Kind(dense, {Minibatched, Drawable, Gatherable}),
    "16 bits": Kind(half, {Minibatched, Drawable, Gatherable}),
    "CSR": Kind(sparse, {Minibatched, Drawable}),
    "tensors": Kind(tensors, {Minibatched}),
    "loaded": Kind(loaded, {Minibatched}),
    "sampled": Kind(sampled, set()),
    "held": Kind(held, set()),
    "folds": Kind(folds, set()),
}


def of_able(ability: type[Rows]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", [kind for kind in ROWS if ability in ROWS[kind].abilities])


of_each_kind = pytest.mark.parametrize("kind", ROWS)
of_minibatched, of_drawable, of_gatherable = map(of_able, (Minibatched, Drawable, Gatherable))
# All limits, of blocks among them; None is what they are.
of_blocks = pytest.mark.parametrize("most", [None, 7, 1])


def _limit(limits: Callable[..., None], most: int | None) -> None:
    if most is not None:
        limits(**{field.name: most for field in fields(Limits)})


class Read(NamedTuple):
    X: Tensor  # (n, d) dense
    target: Tensor  # (n,)
    weights: Tensor  # (P, n)


def _read(blocks: Iterable[Block]) -> Read:
    """What blocks hold, of which the next may take the memory of the one before."""
    copies = [
        (dense_rows(block.X, 0, len(block.target)).clone(), block.target.clone(), block.weights.clone())
        for block in blocks
    ]
    features, targets, weights = zip(*copies, strict=True)
    return Read(torch.cat(features), torch.cat(targets), torch.cat(weights, dim=1))


def _holds(found: Read, numbers: np.ndarray, weights: np.ndarray) -> None:
    assert found.target.tolist() == numbers.tolist()
    np.testing.assert_array_equal(found.X, X[numbers])
    np.testing.assert_allclose(found.weights, weights, rtol=1e-14)


def test_all_kinds_of_rows_are_here():
    assert {type(kind.make().rows) for kind in ROWS.values()} == subclasses(Rows)


@of_each_kind
def test_rows_can_do_what_their_kind_says(kind):
    rows, abilities = ROWS[kind].make().rows, ROWS[kind].abilities
    assert isinstance(rows, Rows)
    assert {able for able in (Minibatched, Drawable) if isinstance(rows, able)} == abilities - {Gatherable}
    assert (rows.gatherable() is rows) == (Gatherable in abilities)
    assert (rows.gatherable() is None) == (Gatherable not in abilities)


@of_each_kind
@of_blocks
def test_blocks_are_all_rows_once_and_in_order(kind, most, limits):
    _limit(limits, most)
    rows, numbers, weights = ROWS[kind].make()
    assert (rows.n_rows, rows.n_features) == (len(numbers), D)
    _holds(_read(rows.blocks()), numbers, weights)
    for block in rows.blocks():
        n = len(block.target)
        assert 0 < n == block.X.shape[0] and block.weights.shape == (len(weights), n)
        assert block.X.shape[1] == D and dense_rows(block.X, 0, n).dtype == block.weights.dtype == rows.dtype
        assert block.weights.device == block.target.device == rows.device


@of_each_kind
@of_blocks
def test_every_pass_reads_the_same_rows_and_counts_them(kind, most, limits):
    _limit(limits, most)
    rows, numbers, weights = ROWS[kind].make()
    for _ in range(3):
        before = rows.rows_read
        _holds(_read(rows.blocks()), numbers, weights)
        assert rows.rows_read - before == len(numbers)
    sizes = [len(block.target) for block in rows.blocks()]
    assert sizes == [len(block.target) for block in rows.blocks()]
    before, first = rows.rows_read, next(iter(rows.blocks()))
    assert rows.rows_read - before == len(first.target)  # of what was not asked for nothing


@of_each_kind
def test_rows_of_one_process_are_their_own_total(kind):
    rows = ROWS[kind].make().rows
    for shape in ((), (3,), (2, 3)):
        for dtype in (torch.float32, torch.float64):
            partial = torch.full(shape, 0.3, dtype=dtype)
            total = rows.total(partial.clone())
            assert total.dtype == dtype and torch.equal(total, partial)


@of_each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_weight_sum_is_one_in_the_dtype_asked_for(kind, dtype):
    rows, _, weights = ROWS[kind].make()
    found = rows.weight_sum(dtype)
    assert found.dtype == dtype and found.shape == (len(weights),) and found.device == rows.device
    np.testing.assert_allclose(found, weights.sum(axis=1), rtol=1e-6 if dtype == torch.float32 else 1e-14)
    assert rows.rows_read == ROWS[kind].make().rows.rows_read  # it is no pass


@of_each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_that_are_not_finite_are_refused_and_no_others(kind, dtype):
    rows = ROWS[kind].make().rows
    some = rows.select(np.array([1]))
    largest = torch.finfo(dtype).max
    fine = torch.tensor([[0.0, -1.0], [largest, -largest]], dtype=dtype)
    for each in (rows, some):
        each.check_finite(fine)
        each.check_finite(fine[0, 0])
        for bad in (torch.nan, torch.inf, -torch.inf):
            for place in ((0, 0), (1, 1)):
                sums = fine.clone()
                sums[place] = bad
                with pytest.raises(ValueError, match="X"):
                    each.check_finite(sums)


@of_each_kind
@pytest.mark.parametrize("problems", [[1], [1, 0], [0, 1, 1]])
def test_rows_are_selected_as_some_of_the_problems_weigh_them(kind, problems):
    rows, numbers, weights = ROWS[kind].make()
    if len(weights) == 1:
        assert rows.select(np.array([0])) is rows
        return
    some = rows.select(np.array(problems))
    before = rows.rows_read
    _holds(_read(some.blocks()), numbers, weights[problems])
    assert rows.rows_read - before == some.rows_read - before == some.n_rows == rows.n_rows
    assert (some.n_features, some.dtype, some.device) == (D, rows.dtype, rows.device)
    sums = rows.weight_sum(torch.float64)
    torch.testing.assert_close(some.weight_sum(torch.float64), sums[problems], rtol=1e-14, atol=0)
    _holds(_read(rows.blocks()), numbers, weights)  # which are as they were


@pytest.mark.parametrize("make", [dense, sampled, held])
def test_rows_that_all_problems_weigh_alike_are_the_same_for_some(make):
    rows = make(WEIGHTS[:1]).rows
    assert rows.select(np.array([0])) is rows


# ---- rows that come a few at a time ----


@of_minibatched
@of_blocks
@pytest.mark.parametrize("batch_size", [1, 7, N, 2 * N])
def test_minibatches_are_all_rows_once_in_an_order_that_is_drawn(kind, most, batch_size, limits):
    _limit(limits, most)
    rows, numbers, weights = ROWS[kind].make()
    orders = []
    for seed in (0, 0, 1):
        before, sizes = rows.rows_read, []

        def counted(batches, sizes=sizes):
            for batch in batches:
                sizes.append(len(batch.target))
                yield batch

        batches = rows.minibatches(batch_size, torch.Generator().manual_seed(seed))
        found = _read(counted(batches))
        assert rows.rows_read - before == N and sum(sizes) == N
        assert all(size == min(batch_size, N) for size in sizes[:-1])
        order = found.target.numpy()
        assert sorted(order.tolist()) == numbers.tolist()
        _holds(found, numbers[order], weights[:, order])
        assert found.X.dtype == found.weights.dtype == rows.dtype
        orders.append(order.tolist())
    assert orders[0] == orders[1] != orders[2]


@of_minibatched
def test_the_first_block_is_the_first_of_the_blocks(kind):
    rows = ROWS[kind].make().rows
    first, found = rows.first(), next(iter(rows.blocks()))
    n = len(first.target)
    assert torch.equal(first.target, found.target) and torch.equal(first.weights, found.weights)
    assert torch.equal(dense_rows(first.X, 0, n), dense_rows(found.X, 0, n))


@of_minibatched
@pytest.mark.parametrize("batch_size", [1, 7, N, 2 * N, None])
def test_the_nominal_size_is_that_of_all_minibatches_but_the_last(kind, batch_size):
    rows = ROWS[kind].make().rows
    sizes = [len(b.target) for b in rows.minibatches(batch_size, torch.Generator().manual_seed(0))]
    assert set(sizes[:-1]) <= {rows.nominal(batch_size)} and sizes[-1] <= rows.nominal(batch_size)


@of_minibatched
def test_one_batch_of_all_rows_is_not_drawn(kind):
    rows, numbers, weights = ROWS[kind].make()
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    before = rows.rows_read
    batches = list(rows.minibatches(None, generator))
    assert len(batches) == 1 and rows.rows_read - before == N
    assert batches[0].X.shape == (N, D) and torch.equal(generator.get_state(), state)
    _holds(_read(batches), numbers, weights)


# ---- rows that can be drawn ----


@of_drawable
@pytest.mark.parametrize("size", [20, 10**9])
def test_a_sample_is_of_rows_as_they_are(kind, size):
    rows, numbers, weights = ROWS[kind].make()
    sample = rows.sample(size, lambda target: target % 2, torch.Generator().manual_seed(0))
    n = len(sample.key)
    found = _read([sample.gather(slice(0, n))])
    drawn = found.target.numpy()
    _holds(found, numbers[drawn], weights[:, drawn])
    assert len(set(drawn.tolist())) == n <= N and (n < N or size > N)
    assert torch.equal(sample.own, found.weights) and sample.measure.shape == (n,)
    assert bool((sample.key.diff() >= 0).all()) and bool((sample.key < size).all())
    _holds(_read([sample.gather(slice(3, 7))]), drawn[3:7], weights[:, drawn[3:7]])
    if size > N:
        assert n == N and torch.equal(sample.weights(slice(0, n), size), sample.own)


# ---- rows of which some can be had ----


@of_gatherable
def test_some_rows_are_those_of_their_numbers_and_count_by_themselves(kind):
    rows, numbers, weights = ROWS[kind].make()
    gatherable = rows.gatherable()
    assert gatherable is not None
    drawn = np.array([7, 3, 39, 0])
    before, some = rows.rows_read, gatherable.subset(torch.from_numpy(drawn))
    _holds(_read(some.blocks()), numbers[drawn], weights[:, drawn])
    assert some.n_rows == some.rows_read == len(drawn) and rows.rows_read == before
    np.testing.assert_allclose(some.weight_sum(torch.float64), weights[:, drawn].sum(axis=1), rtol=1e-14)
