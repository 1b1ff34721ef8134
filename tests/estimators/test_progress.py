"""The table that `verbose` prints."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch
from torch import nn

from torch_logreg import TorchLogisticClassifier
from torch_logreg._estimators.progress import Table

rng = np.random.default_rng(0)
X = rng.normal(size=(200, 5))
Y = (X[:, 0] + rng.normal(size=200) > 0).astype(int)


def printed(capsys, *given, X=X, Y=Y, **settings):
    fit_params = given[0] if given else {}
    model = TorchLogisticClassifier(verbose=1, random_state=0, **settings).fit(X, Y, **fit_params)
    return model, capsys.readouterr().out.splitlines()


def test_an_epoch_shows_losses_the_score_and_the_seconds(capsys):
    settings = {"module": nn.Linear(5, 1), "optimizer": torch.optim.Adam, "max_iter": 4, "tol": None}
    given = {"X_val": X[:50], "y_val": Y[:50]}
    model, (head, *lines) = printed(capsys, given, batch_size=50, **settings)
    assert head.split() == ["epoch", "train", "loss", "valid", "loss", "valid", "score", "seconds"]
    assert len(lines) == 4
    for k, line in enumerate(lines):
        number, train, valid, score, seconds = line.split()
        assert int(number) == k
        assert train == f"{model.loss_curve_[k]:.6f}"
        assert valid == f"{model.history_['validation_loss'][k]:.6f}"
        assert score == f"{model.validation_scores_[k]:.4f}"
        assert float(seconds) >= 0


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("settings", [{"tol": None}, {"tol": 1e-4}, {"early_stopping": True}])
@pytest.mark.parametrize("solver", ["sgd", "lbfgs", "natural-sgd"])
def test_nothing_that_is_not_known_is_printed(solver, settings, capsys):
    _, (head, *lines) = printed(capsys, solver=solver, max_iter=3, **settings)
    assert "nan" not in "\n".join(lines)
    assert len({len(line) for line in [head, *lines]}) == 1  # they stand below one another


def test_a_loss_on_a_sample_of_the_rows_says_so(capsys):
    X = rng.normal(size=(60_000, 20)).astype(np.float32)
    Y = (X[:, 0] + rng.normal(size=len(X)) > 0).astype(int)
    model, (_, *lines) = printed(capsys, X=X, Y=Y)
    of_sample = [line for line in lines if "sample of" in line]
    assert 0 < len(of_sample) < len(lines)
    assert re.search(r"sample of \d+( \d{3})* rows$", of_sample[0])
    assert "sample" not in lines[-1]
    assert len(lines) == model.n_iter_[0]


def test_the_best_is_bold_on_a_terminal_and_there_alone(capsys, monkeypatch):
    settings = {"module": nn.Linear(5, 1), "optimizer": torch.optim.Adam, "max_iter": 4, "tol": None}
    given = {"X_val": X[:50], "y_val": Y[:50]}
    _, plain = printed(capsys, given, **settings)
    assert "\033" not in "".join(plain)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    model, (_, *lines) = printed(capsys, given, **settings)
    assert "\033[1m" in lines[0]
    losses = model.history_["validation_loss"].to_numpy()
    for k, line in enumerate(lines):
        is_best = losses[k] == losses[: k + 1].min()
        assert (f"\033[1m{losses[k]:>12.6f}\033[0m" in line) == is_best
    assert [re.sub(r"\033\[\dm", "", line)[:-12] for line in lines] == [line[:-12] for line in plain[1:]]


def test_a_loss_that_is_no_number_is_never_the_best(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    table = Table("epoch")
    assert "\033" not in table._marked("valid loss", "nan", np.nan)
    assert "\033" in table._marked("valid loss", "1.0", 1.0)
