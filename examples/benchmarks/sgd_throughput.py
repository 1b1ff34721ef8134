"""Seconds an epoch of stock SGD in minibatches: ours, a loop written by hand, and skorch's.

    python examples/benchmarks/sgd_throughput.py [--threads N] [--repeats N]

Logistic regression on 100 000 x 30 float32, batches of 256, learning rate 0.01, rows in a new order each
epoch. The three run in turn in one process; a figure is the median over the repeats. An epoch is timed as
the difference between a long and a short fit, so that what a fit costs once (checks of X and y, skorch's
initialisation) is in none of them. Ours also computes the loss over all rows once an epoch.
Needs skorch besides this package.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from skorch import NeuralNetBinaryClassifier
from torch import nn

from torch_logreg import TorchLogisticClassifier

N_ROWS, N_FEATURES, BATCH_SIZE, LEARNING_RATE = 100_000, 30, 256, 0.01


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_ROWS, N_FEATURES)).astype(np.float32)
    z = X @ rng.normal(size=N_FEATURES) / 2
    return X, (rng.random(N_ROWS) < 1 / (1 + np.exp(-z))).astype(np.int64)


def ours(X: np.ndarray, y: np.ndarray, n_epochs: int) -> np.ndarray:
    clf = TorchLogisticClassifier(
        C=np.inf,
        learning_rate=LEARNING_RATE,
        batch_size=BATCH_SIZE,
        max_iter=n_epochs,
        tol=None,
        random_state=0,
    )
    return clf.fit(X, y).coef_


def by_hand(X: np.ndarray, y: np.ndarray, n_epochs: int) -> np.ndarray:
    """The loop of a tutorial, with the batches as slices of a permutation."""
    torch.manual_seed(0)
    inputs, targets = torch.from_numpy(X), torch.from_numpy(y.astype(np.float32))[:, None]
    model = nn.Linear(N_FEATURES, 1)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for _ in range(n_epochs):
        for rows in torch.randperm(len(inputs)).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss = criterion(model(inputs[rows]), targets[rows])
            loss.backward()
            optimizer.step()
    return model.weight.detach().numpy()


def skorch(X: np.ndarray, y: np.ndarray, n_epochs: int) -> np.ndarray:
    torch.manual_seed(0)
    net = NeuralNetBinaryClassifier(
        nn.Linear,
        module__in_features=N_FEATURES,
        module__out_features=1,
        lr=LEARNING_RATE,
        batch_size=BATCH_SIZE,
        max_epochs=n_epochs,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    return net.fit(X, y.astype(np.float32)).module_.weight.detach().numpy()


def seconds_an_epoch(fit: Callable[[int], np.ndarray], short: int, long: int) -> float:
    marks = [time.perf_counter()]
    for n_epochs in (short, long):
        fit(n_epochs)
        marks.append(time.perf_counter())
    return ((marks[2] - marks[1]) - (marks[1] - marks[0])) / (long - short)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, help="default: as many as torch takes")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    X, y = data()
    candidates = {"torch_logreg": (ours, 1, 6), "by hand": (by_hand, 1, 4), "skorch": (skorch, 1, 2)}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(arguments.repeats):
        for name, (fit, short, long) in candidates.items():
            seconds[name].append(seconds_an_epoch(lambda n, fit=fit: fit(X, y, n), short, long))
    print(f"torch {torch.__version__}, threads: {torch.get_num_threads()}, repeats: {arguments.repeats}")
    base = median(seconds["torch_logreg"])
    for name, times in seconds.items():
        print(f"{name:14}{median(times):8.4f} s an epoch {median(times) / base:7.1f} x ours")
    assert np.corrcoef(ours(X, y, 2)[0], by_hand(X, y, 2)[0])[0, 1] > 0.99, "not the same model"


if __name__ == "__main__":
    main()
