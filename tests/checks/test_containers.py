"""What gives rows one after another is no array of them, and an error says so."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV

X = torch.randn((40, 3), generator=torch.Generator().manual_seed(0))
y = torch.arange(40) % 2
DATASET = TensorDataset(X, y)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, y, strict=True))


GIVEN = {
    "TensorDataset": lambda: DATASET,
    "Subset": lambda: Subset(DATASET, range(30)),
    "Stream": Stream,
    "DataLoader": lambda: DataLoader(DATASET, batch_size=8),
    "DataLoaderIter": lambda: iter(DataLoader(DATASET)),
    "generator": lambda: (row for row in X.numpy()),
    "map": lambda: map(np.asarray, X),
}
LOADED = (
    "TensorDataset",
    "Subset",
    "Stream",
    "DataLoader",
)  # which modules take, or refuse in their own words
CALLS = {
    "fit": lambda given: TorchLogisticClassifier().fit(given, y),
    "fit without y": lambda given: TorchLogisticClassifier().fit(given, None),
    "fit a module": lambda given: TorchLogisticClassifier(module=torch.nn.Linear(3, 1)).fit(given, y),
    "fit, as y": lambda given: TorchLogisticClassifier().fit(X, given),
    "fit, as weights": lambda given: TorchLogisticClassifier().fit(X, y, given),
    "choose C": lambda given: TorchLogisticClassifierCV().fit(given, y),
    "predict": lambda given: TorchLogisticClassifier().fit(X, y).predict(given),
    "predict_proba": lambda given: TorchLogisticClassifier().fit(X, y).predict_proba(given),
    "score": lambda given: TorchLogisticClassifier().fit(X, y).score(given, y),
    "predict with a module": lambda given: (
        TorchLogisticClassifier(module=torch.nn.Linear(3, 1), max_iter=1, tol=None).fit(X, y).predict(given)
    ),
}


@pytest.mark.parametrize(
    ("name", "call"),
    [(name, call) for name in GIVEN for call in CALLS if not (name in LOADED and "a module" in call)],
)
def test_it_is_refused_by_its_name_with_what_to_do(name, call):
    with pytest.raises(TypeError, match=f"is a _?.*{name}, which gives rows one after another; pass all"):
        CALLS[call](GIVEN[name]())


def test_what_the_error_says_works():
    rows = torch.stack([row for row, *_ in DATASET])
    batches = torch.cat([rows for rows, *_ in DataLoader(DATASET, batch_size=8)])
    assert torch.equal(rows, X) and torch.equal(batches, X)
