"""Seconds an epoch of training in minibatches: ours, a loop written by hand, and skorch's.

    python examples/benchmarks/sgd_throughput.py [--repeats N] [--scale S] [--write]

100 000 x 30 float32, batches of 256, rows in a new order each epoch: logistic regression by SGD, a network
of one hidden layer by SGD and by AdamW, and that by AdamW from a DataLoader of the rows. All take the same
steps. They run in turn in one process; a figure is the median over the repeats. An epoch is timed as the
difference between a long and a short fit, so that what a fit costs once (checks of X and y, skorch's
initialisation) is in none of them. From arrays ours also computes the loss over all rows once an epoch. Needs
skorch besides this package.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import harness
import numpy as np
import torch
from skorch import NeuralNetBinaryClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torch_logreg import ModuleSpec, TorchLogisticClassifier

N_FEATURES, BATCH_SIZE, LEARNING_RATE, HIDDEN = 30, 256, 0.01, 64
LENGTHS = {"torch_logreg": (1, 5), "by hand": (1, 4), "skorch": (1, 2)}  # epochs of the two fits


class Case(NamedTuple):
    """What is trained, and how."""

    title: str
    hidden: int  # 0: logistic regression
    optimizer: type[torch.optim.Optimizer]
    from_loader: bool


CASES = (
    Case("logistic regression, SGD", 0, torch.optim.SGD, False),
    Case(f"{HIDDEN} hidden units, SGD", HIDDEN, torch.optim.SGD, False),
    Case(f"{HIDDEN} hidden units, AdamW", HIDDEN, torch.optim.AdamW, False),
    Case(f"{HIDDEN} hidden units, AdamW, from a DataLoader", HIDDEN, torch.optim.AdamW, True),
)


def network(n_features: int, n_outputs: int, hidden: int) -> nn.Module:
    if not hidden:
        return nn.Linear(n_features, n_outputs)
    return nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, n_outputs))


def data(n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, N_FEATURES)).astype(np.float32)
    z = X @ rng.normal(size=N_FEATURES) / 2
    return X, (rng.random(n_rows) < 1 / (1 + np.exp(-z))).astype(np.int64)


def loader_of(X: np.ndarray, y: np.ndarray) -> DataLoader:
    rows = TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    return DataLoader(rows, BATCH_SIZE, shuffle=True, generator=torch.Generator().manual_seed(0))


def ours(case: Case, X: np.ndarray, y: np.ndarray, n_epochs: int) -> np.ndarray:
    settings: dict[str, Any] = {
        "C": np.inf,
        "learning_rate": LEARNING_RATE,
        "max_iter": n_epochs,
        "tol": None,
    }
    if case.hidden:
        settings["module"] = ModuleSpec(network, hidden=case.hidden)
    if case.optimizer is not torch.optim.SGD:
        settings["optimizer"] = case.optimizer
    clf = TorchLogisticClassifier(**settings, random_state=0)
    if case.from_loader:
        return clf.fit(loader_of(X, y)).predict_proba(X)[:, 1]
    return clf.set_params(batch_size=BATCH_SIZE).fit(X, y).predict_proba(X)[:, 1]


def by_hand(case: Case, X: np.ndarray, y: np.ndarray, n_epochs: int) -> np.ndarray:
    """The loop of a tutorial, with batches of a loader or as slices of a permutation."""
    torch.manual_seed(0)
    inputs, targets = torch.from_numpy(X), torch.from_numpy(y.astype(np.float32))[:, None]
    model, loader = network(N_FEATURES, 1, case.hidden), loader_of(X, y)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = case.optimizer(model.parameters(), lr=LEARNING_RATE)  # type: ignore[call-arg]
    for _ in range(n_epochs):
        if case.from_loader:
            batches = ((rows, labels.float()[:, None]) for rows, labels in loader)
        else:
            order = torch.randperm(len(inputs)).split(BATCH_SIZE)
            batches = ((inputs[rows], targets[rows]) for rows in order)
        for rows, labels in batches:
            optimizer.zero_grad()
            loss = criterion(model(rows), labels)
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return torch.sigmoid(model(inputs))[:, 0].numpy()


def skorch(case: Case, X: np.ndarray, y: np.ndarray, n_epochs: int) -> np.ndarray:
    torch.manual_seed(0)
    net = NeuralNetBinaryClassifier(
        network,
        module__n_features=N_FEATURES,
        module__n_outputs=1,
        module__hidden=case.hidden,
        optimizer=case.optimizer,
        lr=LEARNING_RATE,
        batch_size=BATCH_SIZE,
        max_epochs=n_epochs,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return net.fit(X, y.astype(np.float32)).predict_proba(X)[:, 1]


FITS = {"torch_logreg": ours, "by hand": by_hand, "skorch": skorch}


def seconds_an_epoch(fit: Callable[[int], Any], short: int, long: int) -> float:
    marks = [time.perf_counter()]
    for n_epochs in (short, long):
        fit(n_epochs)
        marks.append(time.perf_counter())
    return ((marks[2] - marks[1]) - (marks[1] - marks[0])) / (long - short)


def main() -> None:
    arguments = harness.parser(__doc__, repeats=5).parse_args()
    X, y = data(int(100_000 * arguments.scale))
    lines = [
        "| trained | " + " | ".join(f"{name}, s" for name in FITS) + " | by hand / ours | skorch / ours |"
    ]
    lines.append("|" + " --- |" * (len(FITS) + 3))
    for case in CASES:
        seconds: dict[str, list[float]] = {name: [] for name in FITS}
        for _ in range(arguments.repeats):
            for name, fit in FITS.items():
                seconds[name].append(seconds_an_epoch(lambda n, f=fit, c=case: f(c, X, y, n), *LENGTHS[name]))
        found = {name: median(times) for name, times in seconds.items()}
        ratios = [found[name] / found["torch_logreg"] for name in ("by hand", "skorch")]
        cells = [f"{value:.3f}" for value in found.values()] + [f"{ratio:.2f}" for ratio in ratios]
        lines.append(f"| {case.title} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
        same = np.corrcoef(ours(case, X, y, 2), by_hand(case, X, y, 2))[0, 1]
        if same < 0.99:
            raise SystemExit(f"{case.title}: not the same model, correlation {same:.3f}")
    harness.publish("modules", "\n".join(lines), arguments.write)


if __name__ == "__main__":
    main()
