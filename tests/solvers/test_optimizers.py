"""Optimizers of torch, schedules by batch, clipping and closures, against loops written by hand."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from torch_logreg import ModuleSpec, OptimizerSpec, TorchLogisticClassifier

N_ROWS, N_EPOCHS, BATCH, SEED = 53, 8, 8, 3  # the last batch has 5 rows
N_BATCHES = -(-N_ROWS // BATCH)


def data(n_classes=2, dtype=np.float64):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_ROWS, 4)) * [1, 0.5, 2, 1]
    z = X @ rng.normal(size=(4, n_classes)) + rng.normal(size=(N_ROWS, n_classes))
    return X.astype(dtype), z.argmax(axis=1)


def mlp(n_features, n_outputs, hidden=5):
    return nn.Sequential(nn.Linear(n_features, hidden), nn.Tanh(), nn.Linear(hidden, n_outputs))


def started(n_outputs=1):
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return mlp(4, n_outputs)


def zeros(n_outputs=1):
    module = nn.Linear(4, n_outputs)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def loop(
    module, X, y, make, *, C=1.0, batch_size=None, clip=None, schedule=None, each="epoch", closure=False
):
    """F before each epoch and the trained module, by torch alone."""
    X, module = torch.as_tensor(X), copy.deepcopy(module).to(torch.as_tensor(X).dtype)
    codes, decay = torch.as_tensor(y), 1 / (C * len(X))
    optimizer = make(module.parameters())
    scheduler = schedule and schedule(optimizer)
    generator = torch.Generator().manual_seed(SEED)

    def loss_of(rows, nominal):
        z = module(X[rows])
        if z.shape[1] == 1:
            losses = F.binary_cross_entropy_with_logits(z[:, 0], codes[rows].to(X.dtype), reduction="sum")
        else:
            losses = F.cross_entropy(z, codes[rows], reduction="sum")
        kernels = [p for name, p in module.named_parameters() if "bias" not in name]
        return losses / nominal + decay / 2 * sum(p.square().sum() for p in kernels)

    values = []
    for _ in range(N_EPOCHS):
        with torch.no_grad():
            values.append(float(loss_of(torch.arange(len(X)), len(X))))
        order = torch.arange(len(X)) if batch_size is None else torch.randperm(len(X), generator=generator)
        for rows in order.split(batch_size or len(X)):

            def evaluate(rows=rows):
                optimizer.zero_grad()
                loss = loss_of(rows, batch_size or len(X))
                loss.backward()
                if clip is not None:
                    nn.utils.clip_grad_norm_(module.parameters(), clip)
                return loss

            if closure:
                optimizer.step(evaluate)
            else:
                evaluate()
                optimizer.step()
            if scheduler and each == "batch":
                scheduler.step()
        if scheduler and each == "epoch":
            scheduler.step()
    return values, module


def classifier(**settings):
    given = {"max_iter": N_EPOCHS, "tol": None, "random_state": SEED, "batch_size": BATCH, **settings}
    return TorchLogisticClassifier(**given)


def assert_same(clf, values, module):
    assert_allclose(clf.loss_curve_, values, rtol=1e-6)
    trained = clf.module_.state_dict()
    for name, tensor in module.state_dict().items():
        assert_allclose(trained[name].numpy(), tensor.numpy(), rtol=1e-6, atol=1e-8)


OPTIMIZERS = {
    "AdamW": torch.optim.AdamW,
    "RMSprop": partial(torch.optim.RMSprop, momentum=0.5),
    "NAdam": torch.optim.NAdam,
    "Adagrad": torch.optim.Adagrad,
    "SGD": partial(torch.optim.SGD, weight_decay=0.1),
    "a spec": OptimizerSpec(torch.optim.AdamW, weight_decay=0.3),
}


@pytest.mark.parametrize("learning_rate", ["auto", 0.02])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_takes_the_steps_of_a_loop_by_hand(name, learning_rate):
    X, y = data()
    make = OPTIMIZERS[name]
    clf = classifier(module=started(), optimizer=make, learning_rate=learning_rate).fit(X, y)
    rate = {} if learning_rate == "auto" else {"lr": learning_rate}
    assert_same(clf, *loop(started(), X, y, partial(make, **rate), batch_size=BATCH))
    assert clf.solver_ == "sgd"
    assert clf.optimizer_ == ("AdamW" if name == "a spec" else name)


@pytest.mark.parametrize("batch_size", [BATCH, None])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_linear_model_takes_the_same_steps(n_classes, batch_size):
    X, y = data(n_classes)
    settings = {"optimizer": torch.optim.RMSprop, "clip_grad_norm": 0.5, "batch_size": batch_size}
    clf = classifier(**settings, lr_schedule=lambda optimizer: StepLR(optimizer, 2)).fit(X, y)
    n_outputs = 1 if n_classes == 2 else 3
    values, module = loop(
        zeros(n_outputs), X, y, torch.optim.RMSprop, batch_size=batch_size, clip=0.5,
        schedule=lambda optimizer: StepLR(optimizer, 2),
    )  # fmt: skip
    if n_classes == 2:
        assert_allclose(clf.loss_curve_, values, rtol=1e-6)
        assert_allclose(clf.coef_, module.weight.detach().numpy(), rtol=1e-6, atol=1e-9)
    else:  # a shift of all outputs changes nothing, and is taken out of every gradient
        assert_allclose(clf.loss_curve_[:2], values[:2], rtol=1e-6)


@pytest.mark.parametrize("batch_size", [BATCH, None])
def test_closures_are_evaluated_as_by_hand(batch_size):
    X, y = data()
    make = partial(torch.optim.LBFGS, max_iter=2, lr=0.1)
    settings = {"clip_grad_norm": 10.0, "batch_size": batch_size}
    clf = classifier(module=started(), optimizer=make, **settings).fit(X, y)
    assert_same(clf, *loop(started(), X, y, make, batch_size=batch_size, clip=10.0, closure=True))


def test_a_full_batch_with_a_closure_is_not_evaluated_once_more_where_it_is_known(monkeypatch):
    from torch_logreg._modules.objective import ModuleObjective

    counted, evaluate = [], ModuleObjective.batch_value_and_gradient
    monkeypatch.setattr(
        ModuleObjective,
        "batch_value_and_gradient",
        lambda self, *given: counted.append(1) or evaluate(self, *given),
    )
    X, y = data()
    make = partial(torch.optim.LBFGS, max_iter=1)
    classifier(module=started(), optimizer=make, batch_size=None).fit(X, y)
    assert len(counted) == N_EPOCHS


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, None])
def test_gradients_are_clipped_to_a_norm(optimizer):
    X, y = data()
    rate = {"learning_rate": 0.3} if optimizer is None else {}
    clf = classifier(module=started(), optimizer=optimizer, clip_grad_norm=0.05, **rate).fit(X, y)
    make = optimizer or partial(torch.optim.SGD, lr=0.3)
    assert_same(clf, *loop(started(), X, y, make, batch_size=BATCH, clip=0.05))
    free = classifier(module=started(), optimizer=optimizer, **rate).fit(X, y)
    assert not np.allclose(clf.loss_curve_, free.loss_curve_)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, None])
def test_a_schedule_by_batch_is_stepped_after_each(optimizer):
    X, y = data()

    def one_cycle(made):
        return OneCycleLR(made, max_lr=0.1, total_steps=N_EPOCHS * N_BATCHES)

    rate = {"learning_rate": 0.3} if optimizer is None else {}
    clf = classifier(module=started(), optimizer=optimizer, lr_schedule=(one_cycle, "batch"), **rate)
    make = optimizer or partial(torch.optim.SGD, lr=0.3)
    by_hand = loop(started(), X, y, make, batch_size=BATCH, schedule=one_cycle, each="batch")
    assert_same(clf.fit(X, y), *by_hand)
    again = clone(clf).fit(X, y)
    np.testing.assert_array_equal(again.loss_curve_, clf.loss_curve_)


def test_a_schedule_by_epoch_may_be_said_so():
    X, y = data()

    def halved(made):
        return StepLR(made, 1, 0.5)

    plain = classifier(optimizer=torch.optim.Adam, lr_schedule=halved).fit(X, y)
    said = classifier(optimizer=torch.optim.Adam, lr_schedule=(halved, "epoch")).fit(X, y)
    np.testing.assert_array_equal(plain.coef_, said.coef_)
    assert_allclose(plain.history_["step"], 0.001 * 0.5 ** np.arange(N_EPOCHS))


def test_the_penalty_of_C_alone_is_in_the_objective():
    X, y = data()
    clf = classifier(module=started(), optimizer=OptimizerSpec(torch.optim.AdamW, weight_decay=10.0)).fit(
        X, y
    )
    p = clf.predict_proba(X)[np.arange(len(y)), y]
    weights = [v for name, v in clf.module_.named_parameters() if "bias" not in name]
    penalty = sum(float(v.detach().square().sum()) for v in weights) / 2
    assert_allclose(clf.objective_, -np.log(p).sum() + penalty)


class Doubling(torch.optim.Optimizer):
    """One of a user, with neither a rate nor a closure."""

    def __init__(self, params):
        super().__init__(params, {})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= 2 * parameter.grad


def test_an_optimizer_of_a_user_needs_no_learning_rate():
    X, y = data()
    clf = classifier(module=started(), optimizer=Doubling).fit(X, y)
    assert_same(clf, *loop(started(), X, y, Doubling, batch_size=BATCH))
    assert clf.history_["step"].isna().all()
    assert clf.optimizer_ == "Doubling"


class Replacing(Doubling):
    """One that gives parameters other memory, in place of writing into theirs."""

    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data = parameter.data - 2 * parameter.grad


@pytest.mark.parametrize("module", [None, started()])
def test_an_optimizer_may_give_parameters_other_memory(module):
    X, y = data()
    clf = classifier(module=module, optimizer=Replacing).fit(X, y)
    in_place = classifier(module=module, optimizer=Doubling).fit(X, y)
    assert_allclose(clf.loss_curve_, in_place.loss_curve_, rtol=1e-12)
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]


def test_groups_of_parameters_are_the_modules_own():
    X, y = data()

    def frozen_first_layer(parameters):
        first, *others = list(parameters)
        return torch.optim.Adam([{"params": [first], "lr": 0.0}, {"params": others}])

    start = started()
    clf = classifier(module=start, optimizer=frozen_first_layer).fit(X, y)
    assert torch.equal(clf.module_[0].weight, start[0].weight.double())
    assert not torch.equal(clf.module_[2].weight, start[2].weight.double())


def test_settings_of_an_optimizer_and_of_a_module_are_searched_together():
    X, y = data()
    search = GridSearchCV(
        classifier(module=ModuleSpec(mlp), optimizer=OptimizerSpec(torch.optim.AdamW), max_iter=3),
        {
            "optimizer__weight_decay": [0.0, 0.5],
            "optimizer__lr": [0.01, 0.1],
            "module__hidden": [2, 3],
        },
        cv=2,
    ).fit(X, y)
    assert len(search.cv_results_["params"]) == 8
    assert search.cv_results_["mean_test_score"].min() > 0
    chosen = search.best_estimator_.optimizer.get_params()
    assert chosen["weight_decay"] == search.best_params_["optimizer__weight_decay"]


def test_optimizers_are_searched():
    X, y = data()
    grid = {"optimizer": [torch.optim.Adam, OptimizerSpec(torch.optim.SGD, lr=0.1), None]}
    search = GridSearchCV(classifier(module=ModuleSpec(mlp), max_iter=3), grid, cv=2).fit(X, y)
    assert not np.isnan(search.cv_results_["mean_test_score"]).any()


def test_a_clone_of_a_spec_has_the_settings_that_were_given_and_no_others():
    spec = clone(OptimizerSpec(torch.optim.AdamW, weight_decay=0.3))
    assert spec.get_params()["weight_decay"] == 0.3
    parameter = nn.Parameter(torch.zeros(1))
    assert spec([parameter], lr=0.5).param_groups[0]["lr"] == 0.5  # a default is no setting
    changed = spec.set_params(build=torch.optim.RMSprop)([parameter])
    assert changed.param_groups[0]["weight_decay"] == 0.3


def test_a_fit_with_an_optimizer_is_pickled():
    X, y = data()
    for optimizer in (torch.optim.Adam, partial(torch.optim.Adam, eps=1e-6), OptimizerSpec(torch.optim.Adam)):
        clf = classifier(optimizer=optimizer).fit(X, y)
        again = pickle.loads(pickle.dumps(clf))
        np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
        np.testing.assert_array_equal(again.fit(X, y).coef_, clf.coef_)


def test_there_is_no_optimizer_where_none_made_the_steps():
    X, y = data()
    clf = classifier(learning_rate=0.1).fit(X, y)
    assert clf.optimizer_ == "SGD"
    assert not hasattr(clf.set_params(learning_rate="auto", batch_size="auto").fit(X, y), "optimizer_")


class Plain(nn.Module):
    pass


MADE = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
WRONG = {
    "momentum with an optimizer": (
        {"optimizer": torch.optim.Adam, "momentum": 0.9},
        ValueError,
        "momentum=0.9",
    ),
    "nesterov with an optimizer": (
        {"optimizer": torch.optim.Adam, "nesterov": True},
        ValueError,
        "nesterov=True is not read with an optimizer",
    ),
    "one that was made": ({"optimizer": MADE}, ValueError, "that was made already, of class Adam"),
    "the name of one": ({"optimizer": "adam"}, ValueError, "such as torch.optim.Adam. Got 'adam'"),
    "the name of none": ({"optimizer": "best"}, ValueError, "such as torch.optim.AdamW. Got 'best'"),
    "a schedule that is a tuple of one": (
        {"optimizer": torch.optim.Adam, "lr_schedule": (StepLR,)},
        ValueError,
        "lr_schedule",
    ),
    "no optimizer": ({"optimizer": lambda parameters: Plain()}, TypeError, "gave a Plain"),
    "another solver": ({"optimizer": torch.optim.Adam, "solver": "lbfgs"}, ValueError, "optimizer="),
    "two rates": (
        {"optimizer": OptimizerSpec(torch.optim.Adam, lr=0.1), "learning_rate": 0.2},
        ValueError,
        "lr=0.1 is a setting of",
    ),
    "clipping of a line search": ({"solver": "sgd", "clip_grad_norm": 1.0}, ValueError, "clip_grad_norm=1.0"),
    "clipping to nothing": (
        {"optimizer": torch.optim.Adam, "clip_grad_norm": 0.0},
        ValueError,
        "clip_grad_norm",
    ),
    "a plateau by batch": (
        {"optimizer": torch.optim.Adam, "lr_schedule": (ReduceLROnPlateau, "batch")},
        ValueError,
        "ReduceLROnPlateau looks at the loss of an epoch",
    ),
    "a schedule by something else": (
        {"optimizer": torch.optim.Adam, "lr_schedule": (StepLR, "row")},
        ValueError,
        "'batch'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_contradicts_itself_is_refused_with_a_sentence(name):
    settings, kind, words = WRONG[name]
    given = {**settings}
    if "batch_size" not in given and settings.get("solver") == "lbfgs":
        given["batch_size"] = "auto"
    with pytest.raises(kind, match=words.replace("(", r"\(")):
        classifier(**given).fit(*data())


def test_an_error_inside_an_optimizer_says_whose_it_is():
    with pytest.raises(TypeError) as caught:
        classifier(optimizer=partial(torch.optim.Adam, rate=3)).fit(*data())
    assert "optimizer=functools.partial" in caught.value.__notes__[0]


def test_a_step_that_diverges_says_what_to_do():
    X, y = data()
    with pytest.raises(ValueError, match="clip_grad_norm=1.0") as caught:
        classifier(module=started(), optimizer=torch.optim.SGD, learning_rate=1e200).fit(1e3 * X, y)
    assert "SGD" in str(caught.value)


@pytest.mark.parametrize(("solver", "name"), [("adam", "Adam"), ("AdamW", "AdamW"), ("rmsprop", "RMSprop")])
def test_the_name_of_an_optimizer_as_a_solver_says_what_to_write(solver, name):
    with pytest.raises(ValueError, match=rf"pass optimizer=torch\.optim\.{name}"):
        TorchLogisticClassifier(solver=solver).fit(*data())
