"""The tutorial this project grew from: its numbers, modules, printed lines and second data set."""

from __future__ import annotations

import copy
import re
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from torch_logreg import TorchLogisticClassifier

x = [[1, 2], [2, 3], [3, 1], [4, 3], [5, 3], [6, 2]]
y = [0, 0, 0, 1, 1, 1]
N_EPOCHS = 1001
TABLE = {
    0: 0.693147,
    100: 0.134722,
    200: 0.080643,
    300: 0.057900,
    400: 0.045300,
    500: 0.037261,
    600: 0.031673,
    700: 0.027556,
    800: 0.024394,
    900: 0.021888,
    1000: 0.019852,
}
LINE = re.compile(r" +(\d+) +(\d\.\d{6}) +\S+ +([01]\.\d{4}) +\d+\.\d\d")


class LogisticRegressionModel(nn.Module):
    """A module as a user writes it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x):
        return self.sigmoid(self.linear(x))


def sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())


def seeded(build, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def zeroed(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def losses_of_a_loop(module: nn.Module, n_epochs: int) -> tuple[list[float], nn.Module]:
    """The loss before each update of a training loop as tutorials write it, and the trained module."""
    module = copy.deepcopy(module).double()
    X, target = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)[:, None]
    criterion, optimizer = nn.BCELoss(), torch.optim.SGD(module.parameters(), lr=1.0)
    losses = []
    for _ in range(n_epochs):
        loss = criterion(module(X), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses, module


def settings(**changes):
    return {"C": np.inf, "learning_rate": 1.0, "batch_size": None, "tol": None, **changes}


def test_the_table_of_the_tutorial_to_six_decimals():
    curve = (
        TorchLogisticClassifier(C=np.inf, learning_rate=1.0, batch_size=None, max_iter=1001, tol=None)
        .fit(x, y)
        .loss_curve_
    )
    assert len(curve) == N_EPOCHS
    assert {k: round(float(curve[k]), 6) for k in TABLE} == TABLE


def test_the_linear_model_is_the_loop_from_zero_at_every_epoch():
    expected, module = losses_of_a_loop(zeroed(sequential()), N_EPOCHS)
    clf = TorchLogisticClassifier(**settings(max_iter=N_EPOCHS)).fit(x, y)
    np.testing.assert_allclose(clf.loss_curve_, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(clf.coef_, module[0].weight.detach(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(clf.intercept_, module[0].bias.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("build", [sequential, LogisticRegressionModel])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.deep), None])
@pytest.mark.one_in(100)
def test_a_module_that_ends_in_a_sigmoid_is_the_loop_at_every_epoch(build, seed):
    module = zeroed(build()) if seed is None else seeded(build, seed)
    before = copy.deepcopy(module.state_dict())
    expected, trained = losses_of_a_loop(module, N_EPOCHS)
    clf = TorchLogisticClassifier(module=module, criterion=nn.BCELoss(), **settings(max_iter=N_EPOCHS))
    clf.fit(x, y)
    assert clf.solver_ == "sgd"
    assert clf.stop_reason_ == "max_iter"
    np.testing.assert_allclose(clf.loss_curve_, expected, rtol=0, atol=1e-6)
    with torch.no_grad():
        p = trained(torch.tensor(x, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(clf.predict_proba(x), np.hstack([1 - p, p]), rtol=0, atol=1e-6)
    assert clf.score(x, y) == 1.0
    if seed is None:
        assert {k: round(float(clf.loss_curve_[k]), 6) for k in TABLE} == TABLE
    for name, value in module.state_dict().items():  # what the user gave stays as it was
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("module", [None, sequential()])
def test_verbose_prints_loss_and_accuracy_of_the_current_weights(capsys, module):
    module = module and zeroed(module)
    criterion = module and nn.BCELoss()
    n_epochs = 40  # the accuracy rises from 1/2 to 1 in these
    clf = TorchLogisticClassifier(
        module=module, criterion=criterion, verbose=1, **settings(max_iter=n_epochs)
    ).fit(x, y)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["epoch", "train", "loss", "max", "|grad|", "train", "acc.", "seconds"]
    assert len(lines) == n_epochs
    printed = [LINE.fullmatch(line).groups() for line in lines]
    assert [int(number) for number, _, _ in printed] == list(range(n_epochs))
    assert [loss for _, loss, _ in printed] == [f"{loss:.6f}" for loss in clf.loss_curve_]
    accuracies = []
    for k in range(n_epochs):
        _, trained = losses_of_a_loop(zeroed(sequential()), k + 1)
        with torch.no_grad():
            p = trained(torch.tensor(x, dtype=torch.float64))[:, 0].numpy()
        accuracies.append(np.mean((p > 0.5) == np.array(y)))
    assert len(set(accuracies)) > 1
    assert [accuracy for _, _, accuracy in printed] == [f"{a:.4f}" for a in accuracies]


def test_nothing_is_printed_by_default(capsys):
    TorchLogisticClassifier(**settings(max_iter=3)).fit(x, y)
    assert capsys.readouterr() == ("", "")


def test_pass_and_fail_of_scores():
    scores = np.array([[45], [50], [55], [60], [65], [70]])
    labels = np.array(["Fail"] * 3 + ["Pass"] * 3)
    for clf in (TorchLogisticClassifier(), TorchLogisticClassifier(solver="sgd")):
        clf.fit(scores, labels)
        assert list(clf.classes_) == ["Fail", "Pass"]
        assert (clf.predict(scores) == labels).all()
        p = clf.predict_proba(np.arange(40, 76)[:, None])[:, 1]
        assert (np.diff(p) > 0).all()
        assert p[57 - 40] < 0.5 < p[58 - 40]  # the classes mirror each other about 57.5
        boundary = -clf.intercept_[0] / clf.coef_[0, 0]
        np.testing.assert_allclose(boundary, 57.5, atol=1e-2)


# ---- what trains to nonsense elsewhere, and here does not or raises ----


def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(53, 2))
    return X, (X @ [2.0, -1.0] + rng.normal(size=53) > 0).astype(int), rng.uniform(0.2, 2, 53)


def mlp(n_features, n_outputs):
    return nn.Sequential(nn.Linear(n_features, 5), nn.Tanh(), nn.Linear(5, n_outputs))


def classifier(**changes):
    return TorchLogisticClassifier(solver="sgd", random_state=0, **settings(max_iter=20, **changes))


def test_any_labels_train_as_well_as_0_and_1():
    X, y, _ = data()
    expected = classifier(module=mlp).fit(X, y)
    for labels in (np.array([-1, 1]), np.array(["no", "yes"]), np.array([False, True]), np.array([1, 2])):
        clf = classifier(module=mlp).fit(X, labels[y])
        np.testing.assert_array_equal(clf.predict_proba(X), expected.predict_proba(X))
        assert (clf.predict(X) == labels[expected.predict(X)]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_missing_and_infinite_numbers_raise(value):
    X, y, _ = data()
    X[3, 1] = value
    clf = classifier(module=mlp)
    with pytest.raises(ValueError, match="NaN|infinity"):
        clf.fit(X, y)
    clf.fit(*data()[:2])
    with pytest.raises(ValueError, match="NaN|infinity"):
        clf.predict(X)


def test_a_module_in_float32_takes_float64_rows_and_weights():
    X, y, s = data()
    module = seeded(partial(mlp, 2, 1), 0)
    clf = classifier(module=module).fit(X, y, sample_weight=s)
    assert clf.predict_proba(X).dtype == np.float64
    assert module[0].weight.dtype == torch.float32
    assert np.abs(clf.predict_proba(X) - clone(clf).fit(X, y).predict_proba(X)).max() > 1e-4


@pytest.mark.parametrize("settings, message", [
    ({"module": nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())}, "ends in Sigmoid"),
    ({"module": nn.Linear(2, 1), "criterion": nn.BCELoss()}, "no probabilities"),
    ({"module": nn.Linear}, "is a class; pass an instance"),
])  # fmt: skip
def test_what_would_train_to_nonsense_raises(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        classifier(**settings).fit(*data()[:2])


def test_coefficients_edited_in_place_are_those_that_predict():
    X, y, _ = data()
    clf = classifier().fit(X, y)
    before = clf.decision_function(X)
    clf.coef_ *= 2
    clf.intercept_ += 1
    np.testing.assert_allclose(clf.decision_function(X), X @ clf.coef_[0] + clf.intercept_, rtol=1e-12)
    assert np.abs(clf.decision_function(X) - before).max() > 0.1
    with torch.no_grad():
        np.testing.assert_allclose(clf.module_(torch.as_tensor(X))[:, 0], clf.decision_function(X))


def test_a_fitted_module_predicts_in_eval_mode_whatever_mode_its_user_puts_it_in():
    X, y, _ = data()
    module = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    clf = classifier(module=module).fit(X, y)
    before = clf.predict_proba(X)
    clf.module_.train()
    np.testing.assert_array_equal(clf.predict_proba(X), before)
    np.testing.assert_array_equal(clf.predict_proba(X), before)


def test_a_warm_start_does_not_go_on_with_another_module_than_asked_for():
    X, y, _ = data()
    clf = classifier(module=mlp, warm_start=True).fit(X, y)
    clf.set_params(module=nn.Linear(2, 1))
    try:
        clf.fit(X, y)
    except ValueError as error:
        assert "warm_start" in str(error)
    else:
        assert isinstance(clf.module_, nn.Linear)
