"""Batches of Datasets and DataLoaders: what they hold, their order, and the generators they draw from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from torch_logreg import Inputs
from torch_logreg._data.loaders import (
    _starting_anew,
    batches_of,
    codes_among,
    cut,
    is_loaded,
    labels_of,
    unpacked,
)
from torch_logreg._runtime.random import RandomStream

CPU = torch.device("cpu")
N = 11


def dataset() -> TensorDataset:
    return TensorDataset(torch.arange(N * 2.0).reshape(N, 2), torch.arange(N) % 2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def order_of(batches) -> list[int]:
    return [int(x) // 2 for X, *_ in batches for x in X[:, 0]]


LOADERS = {
    "its own": lambda: DataLoader(dataset(), 4, shuffle=True, generator=seeded()),
    "its sampler's": lambda: DataLoader(dataset(), 4, sampler=RandomSampler(dataset(), generator=seeded())),
    "its batch sampler's": lambda: DataLoader(
        dataset(),
        batch_sampler=torch.utils.data.BatchSampler(
            WeightedRandomSampler(torch.ones(N), N, generator=seeded()), 4, drop_last=False
        ),
    ),
    "none": lambda: DataLoader(dataset(), 4, shuffle=True),
}


@pytest.mark.parametrize("generator", LOADERS)
def test_passes_that_look_have_one_order_and_leave_all_generators_as_they_are(generator):
    before = torch.get_rng_state()
    loader, untouched = LOADERS[generator](), LOADERS[generator]()
    batches, stream = batches_of(loader), RandomStream(3, CPU)
    looked = order_of(batches.look())
    trained = [order_of(batches.train(None, seeded(), stream)) for _ in range(2)]
    assert order_of(batches.look()) == looked  # also between epochs, in the order of the first
    abandoned = batches.look()
    next(abandoned), abandoned.close()
    trained.append(order_of(batches.train(None, seeded(), stream)))
    assert torch.equal(torch.get_rng_state(), before)
    assert batches.size == 4
    if generator == "none":
        assert trained[0] != trained[1] and sorted(trained[0]) == list(range(N))
        return
    assert trained == [order_of(untouched) for _ in range(3)]


def test_without_a_generator_the_order_follows_the_seed_of_the_stream():
    def orders(seed):
        batches, stream = batches_of(DataLoader(dataset(), 4, shuffle=True)), RandomStream(seed, CPU)
        return [order_of(batches.train(None, seeded(), stream)) for _ in range(2)]

    assert orders(1) == orders(1) != orders(2)


class Augmented(Dataset):
    """Draws from the global generator for each row, as augmentations do."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return torch.rand(2), i % 2


def test_what_a_dataset_draws_leaves_the_global_generator_as_it_is_and_repeats_with_the_seed():
    before = torch.get_rng_state()

    def epochs(seed):
        batches, stream = batches_of(DataLoader(Augmented(), 4)), RandomStream(seed, CPU)
        list(batches.look())
        return torch.cat([X for _ in range(2) for X, _ in batches.train(None, seeded(), stream)])

    first = epochs(1)
    assert torch.equal(first, epochs(1)) and not torch.equal(first[:N], first[N:])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_dataset_is_shuffled_by_the_generator_like_rows_in_memory():
    batches, stream = batches_of(dataset()), RandomStream(0, CPU)
    assert order_of(batches.look()) == list(range(N)) and batches.size is None
    expected = torch.randperm(N, generator=seeded(5)).tolist()
    assert order_of(batches.train(4, seeded(5), stream)) == expected
    whole = list(batches.train(None, seeded(5), stream))
    assert len(whole) == 1 and order_of(whole) == list(range(N))
    part = batches.subset(np.array([3, 9]))
    assert order_of(part.look()) == [3, 9] and part.name == "TensorDataset"


@pytest.mark.parametrize(
    ("loader", "n_rows"),
    [
        (DataLoader(dataset(), 4), N),
        (DataLoader(dataset(), 4, drop_last=True), 8),
        (DataLoader(dataset(), 4, sampler=RandomSampler(dataset(), num_samples=30, replacement=True)), 30),
        (DataLoader(dataset(), batch_sampler=[[0, 1], [2]]), None),
        (DataLoader(dataset(), batch_size=None), None),
    ],
)
def test_the_number_of_rows_is_known_where_the_sampler_tells_it(loader, n_rows):
    assert batches_of(loader).n_rows() == n_rows


class Five(IterableDataset):
    def __iter__(self):
        return iter(range(5))


def test_passes_over_a_loader_of_persistent_workers_start_anew():
    for loader in (
        DataLoader([1, 2, 3], batch_size=2, num_workers=1, persistent_workers=True),
        DataLoader([1, 2, 3], batch_size=None, num_workers=1, persistent_workers=True),
        DataLoader(Five(), batch_size=2, num_workers=1, persistent_workers=True, drop_last=True),
    ):
        anew = _starting_anew(loader)
        assert getattr(anew.batch_sampler, "batch_size", None) == loader.batch_size
        assert anew.num_workers == 1 and not anew.persistent_workers
    loader = DataLoader([1, 2, 3])
    assert _starting_anew(loader) is loader


# ---- what a batch holds ----

X, Y = torch.zeros(3, 2), torch.tensor([0, 1, 0])


def test_a_batch_is_x_or_a_pair_or_a_triple_and_a_dict_is_several_inputs():
    assert unpacked(X, "D").X is not None and unpacked([X], "D").y is None
    item = unpacked([{"a": X, "b": Y}, Y.float()[:, None], [1, 2, 3]], "D")
    assert repr(item.X) == "Inputs(a=float32 (3, 2), b=int64 (3,))"
    assert item.y.tolist() == [0, 1, 0] and item.weights.tolist() == [1, 2, 3]
    assert item.weights.dtype == np.float64
    assert type(unpacked(Inputs(a=X), "D").X) is Inputs
    assert unpacked((X.numpy(), ("u", "v", "u")), "D").y.tolist() == ["u", "v", "u"]


@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        ([X, Y, Y, Y], TypeError, r"D gives batches of 4 parts; it must give pairs \(x, y\)"),
        ([[X, X], Y], TypeError, "D gives batches whose x is a list; .*a dict of tensors by the names"),
        ([X, X], ValueError, r"labels of shape \(3, 2\) in a batch, and one a row is needed"),
        ([X, Y[:2]], ValueError, "a batch of 3 rows with 2 labels"),
        ([X, Y, Y[:2]], ValueError, "a batch of 3 rows with 2 weights"),
        ([X, torch.tensor(1)], ValueError, "D gives single rows, and batches are needed; set its batch_size"),
        ([torch.tensor(1.0), Y], ValueError, "D gives single rows"),
        ([np.array(["u", "v", "w"]), Y], TypeError, "D gives x of dtype <U1; encode it as numbers"),
        (["u", Y], TypeError, "x is a str"),
    ],
)
def test_what_is_no_batch_is_refused_by_the_name_of_its_loader(batch, error, words):
    with pytest.raises(error, match=words):
        unpacked(batch, "D")


def test_labels_are_coded_among_the_classes_or_refused_by_name():
    assert codes_among(np.array(["u", "w"]), np.array(["u", "v", "w"]), "D").tolist() == [0, 2]
    assert codes_among(np.array([1.0, 0.0]), np.array([0, 1]), "D").tolist() == [1, 0]
    for labels, shown in (([1, 7], "7"), ([1, -7], "-7"), (["u"], "'u'"), ([0.5], "0.5")):
        with pytest.raises(ValueError, match=rf"D has the label {shown}, which is none of .*\[0, 1\]"):
            codes_among(np.array(labels), np.array([0, 1]), "D")
    assert labels_of(torch.tensor([[1], [0]]), "D").tolist() == [1, 0]


def test_rows_of_anything_can_be_cut():
    rows = np.array([2, 0])
    assert cut(np.arange(3), rows).tolist() == cut(torch.arange(3), rows).tolist() == [2, 0]
    assert len(cut(Inputs(a=X), rows)) == 2


def test_datasets_and_loaders_are_told_from_arrays():
    assert is_loaded(dataset()) and is_loaded(DataLoader(dataset())) and is_loaded(batches_of(dataset()))
    assert (
        not is_loaded(np.zeros(2))
        and not is_loaded([dataset()[0]])
        and not is_loaded(iter(DataLoader(dataset())))
    )
