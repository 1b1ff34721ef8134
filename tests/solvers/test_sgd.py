"""Stock SGD against loops written by hand, its line search, and what it leaves as it was."""

from __future__ import annotations

import contextlib
import copy
import pickle
import random
from functools import partial

import cloudpickle
import joblib
import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import StepLR

from helpers import optima
from torch_logreg import ModuleSpec, TorchLogisticClassifier

N_ROWS, N_FEATURES, N_EPOCHS, BATCH, SEED = 53, 4, 12, 8, 3  # the last batch has 5 rows

# ---- data, modules, criteria ----


def data(n_classes=2, dtype=np.float64, n_rows=N_ROWS):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, N_FEATURES)) * [1, 0.5, 2, 1] + [0, 1, 0, -1]
    z = X @ rng.normal(size=(N_FEATURES, n_classes)) + rng.normal(size=(n_rows, n_classes))
    return X.astype(dtype), z.argmax(axis=1), rng.uniform(0.2, 2, n_rows).astype(dtype)


def mlp(n_features, n_outputs, hidden=5):
    return nn.Sequential(nn.Linear(n_features, hidden), nn.Tanh(), nn.Linear(hidden, n_outputs))


def noisy(n_features, n_outputs):
    return nn.Sequential(
        nn.Linear(n_features, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, n_outputs)
    )


def seeded(build, *args):
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return build(*args)


def zero_linear(n_outputs):
    module = nn.Linear(N_FEATURES, n_outputs)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def focal(logits, target):
    """Of each row: cross-entropy, with less weight for what is predicted well already."""
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (1 - torch.exp(-loss)) ** 2 * loss


def mean_focal(logits, target):
    return focal(logits, target).mean()


def loop(module, X, y, criterion, weights=None, *, lr=0.3, C=np.inf, batch_size=None, schedule=None, **sgd):
    """F before each epoch, and the trained module, of a loop in torch alone.

    `criterion` gives the loss of each row, from outputs (n, K) and, if K is 1, a target (n, 1) of its dtype.
    """
    X = torch.as_tensor(X)
    module = copy.deepcopy(module).to(X.dtype)
    codes = torch.as_tensor(y)
    s = torch.ones(len(X), dtype=X.dtype) if weights is None else torch.as_tensor(weights, dtype=X.dtype)
    decay = 1 / (C * float(s.sum()))
    named = list(module.named_parameters())
    kernels = [p for name, p in named if "bias" not in name]
    biases = [p for name, p in named if "bias" in name]
    groups = [{"params": kernels, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=lr, **sgd)
    schedule = schedule and schedule(optimizer)
    generator = torch.Generator().manual_seed(SEED)

    def of_rows(rows):
        output = module(X[rows])
        target = codes[rows].to(X.dtype)[:, None] if output.shape[1] == 1 else codes[rows]
        return (s[rows] * criterion(output, target).reshape(len(rows))).sum()

    values = []
    nominal = batch_size or len(X)
    for _ in range(N_EPOCHS):
        with torch.no_grad():
            penalty = decay / 2 * sum(p.square().sum() for p in kernels)
            values.append(float(of_rows(torch.arange(len(X))) / s.sum() + penalty))
        order = torch.arange(len(X)) if batch_size is None else torch.randperm(len(X), generator=generator)
        for rows in order.split(nominal):
            optimizer.zero_grad()
            (of_rows(rows) * len(X) / nominal / s.sum()).backward()
            optimizer.step()
        if schedule:
            schedule.step()
    return values, module


def classifier(**settings):
    return TorchLogisticClassifier(**{
        "solver": "sgd", "learning_rate": 0.3, "C": np.inf, "batch_size": None, "max_iter": N_EPOCHS,
        "tol": None, "random_state": SEED, **settings,
    })  # fmt: skip


def assert_same(clf, values, module, X):
    np.testing.assert_allclose(clf.loss_curve_, values, rtol=0, atol=1e-6)
    assert clf.n_iter_.tolist() == [N_EPOCHS]
    with torch.no_grad():
        z = module(torch.as_tensor(X)).numpy()
    n_outputs, scores = z.shape[1], clf.decision_function(X)
    if n_outputs == 1:
        z = z[:, 0]
    elif scores.ndim == 1:  # two outputs for two classes
        z = z[:, 1] - z[:, 0]
    else:  # the linear model's are centred
        z, scores = (a - a.mean(axis=1, keepdims=True) for a in (z, scores))
    np.testing.assert_allclose(scores, z, rtol=0, atol=1e-6 if X.dtype == np.float64 else 1e-5)


bce = partial(F.binary_cross_entropy_with_logits, reduction="none")
softmax = partial(F.cross_entropy, reduction="none")
halving = partial(StepLR, step_size=3, gamma=0.5)
OPTIMISERS = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "schedule": {"lr_schedule": halving},
    "penalty": {"C": 0.3},
    "all": {"momentum": 0.8, "nesterov": True, "lr_schedule": halving, "C": 0.3, "learning_rate": 0.1},
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("batch_size", [None, BATCH])
@pytest.mark.parametrize("kind", ["linear", "module", "mlp"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.one_in(6)
def test_every_epoch_is_that_of_a_loop_written_by_hand(name, n_classes, kind, batch_size, dtype):
    X, y, _ = data(n_classes, dtype)
    n_outputs = 1 if n_classes == 2 else n_classes
    module = seeded(mlp, N_FEATURES, n_outputs) if kind == "mlp" else zero_linear(n_outputs)
    settings = OPTIMISERS[name]
    of_loop = {"lr": 0.3, **settings}
    of_loop["lr"] = of_loop.pop("learning_rate", 0.3)
    of_loop["schedule"] = of_loop.pop("lr_schedule", None)
    expected = loop(module, X, y, bce if n_classes == 2 else softmax, batch_size=batch_size, **of_loop)
    clf = classifier(module=None if kind == "linear" else module, batch_size=batch_size, **settings)
    assert_same(clf.fit(X, y), *expected, X)
    assert clf.predict_proba(X).dtype == dtype


three = torch.tensor(3.0)
CRITERIA = {
    "pos_weight": (2, nn.BCEWithLogitsLoss(pos_weight=three), partial(bce, pos_weight=three)),
    "smoothing": (3, nn.CrossEntropyLoss(label_smoothing=0.1), partial(softmax, label_smoothing=0.1)),
    "two outputs": (2, nn.CrossEntropyLoss(), softmax),
    "focal": (2, focal, focal),
    "mean focal": (2, mean_focal, focal),
}  # fmt: skip


@pytest.mark.parametrize("batch_size", [None, BATCH])
@pytest.mark.parametrize("build", [mlp, None])
@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_is_that_of_a_loop_written_by_hand(name, build, batch_size):
    n_classes, criterion, of_rows = CRITERIA[name]
    X, y, _ = data(n_classes)
    n_outputs = n_classes if isinstance(criterion, nn.CrossEntropyLoss) else 1
    module = zero_linear(n_outputs) if build is None else seeded(build, N_FEATURES, n_outputs)
    expected = loop(module, X, y, of_rows, batch_size=batch_size, C=2.0)
    clf = classifier(module=build and module, criterion=criterion, batch_size=batch_size, C=2.0)
    assert_same(clf.fit(X, y), *expected, X)


@pytest.mark.parametrize("batch_size", [None, BATCH])
@pytest.mark.parametrize("build", [mlp, None])
@pytest.mark.parametrize("weighing", ["sample", "class", "balanced", "both"])
def test_weights_of_rows_and_classes_are_in_the_loss(weighing, build, batch_size):
    X, y, s = data()
    sample_weight = s if weighing in ("sample", "both") else None
    class_weight = {"class": {0: 0.5, 1: 3.0}, "both": {1: 2.0}, "balanced": "balanced"}.get(weighing)
    of_class = {
        "class": np.array([0.5, 3.0]), "both": np.array([1.0, 2.0]), "sample": np.ones(2),
        "balanced": N_ROWS / (2 * np.bincount(y)),
    }[weighing]  # fmt: skip
    module = zero_linear(1) if build is None else seeded(build, N_FEATURES, 1)
    weights = (1 if sample_weight is None else sample_weight) * of_class[y]
    expected = loop(module, X, y, bce, weights, batch_size=batch_size, C=0.7)
    clf = classifier(module=build and module, class_weight=class_weight, batch_size=batch_size, C=0.7)
    assert_same(clf.fit(X, y, sample_weight=sample_weight), *expected, X)


@pytest.mark.parametrize("learning_rate", [0.3, "auto"])
@pytest.mark.parametrize("build", [mlp, None])
@pytest.mark.one_in(100)
def test_minibatches_of_sparse_rows_are_those_of_dense_ones(build, learning_rate):
    X, y, s = data()
    X[X < 0] = 0
    module = build and seeded(build, N_FEATURES, 1)
    clf = classifier(module=module, batch_size=BATCH, learning_rate=learning_rate, C=1.0)
    dense = clone(clf).fit(X, y, s)
    for matrix in (scipy.sparse.csr_array(X), scipy.sparse.csr_matrix(X)):
        sparse = clone(clf).fit(matrix, y, s)
        np.testing.assert_allclose(sparse.loss_curve_, dense.loss_curve_, rtol=1e-9)
        np.testing.assert_allclose(sparse.predict_proba(matrix), dense.predict_proba(X), rtol=1e-9)


# ---- when it stops ----


@pytest.mark.parametrize("module", [None, mlp])
def test_without_a_tol_there_are_exactly_max_iter_epochs_and_no_warning(module):
    X, y, _ = data()
    for max_iter in (0, 1, 7):
        clf = classifier(module=module, max_iter=max_iter).fit(X, y)
        assert clf.n_iter_.tolist() == [max_iter] == [len(clf.loss_curve_)]
        assert clf.stop_reason_ == "max_iter" and not clf.converged_


@pytest.mark.parametrize("module", [None, mlp])
def test_with_a_tol_it_stops_at_a_small_gradient_or_warns_unless_a_module_is_trained(module):
    X, y, _ = data()
    says = pytest.warns(ConvergenceWarning, match="sgd failed to converge after 2 .*Increase the number of")
    with says if module is None else contextlib.nullcontext():
        assert classifier(module=module, tol=1e-4, max_iter=2).fit(X, y).stop_reason_ == "max_iter"
    clf = classifier(module=module, tol=0.05, max_iter=1000).fit(X, y)
    assert clf.converged_ and clf.n_iter_[0] < 1000
    norms = clf.history_["gradient_norm"]
    assert norms.iloc[-1] <= 0.05 < norms.iloc[:-1].min()


@pytest.mark.parametrize("batch_size", [None, BATCH])
@pytest.mark.parametrize("module", [None, mlp])
def test_a_loss_that_is_not_finite_names_its_epoch_and_keeps_the_earlier_model(module, batch_size):
    X, y, _ = data()
    clf = classifier(module=module, batch_size=batch_size).fit(X, y)
    before = clf.predict_proba(X)
    clf.set_params(learning_rate=1e6, C=1e-3, max_iter=1000)  # the penalty alone makes it diverge
    with pytest.raises(ValueError, match=r"not finite .*epoch \d+ .*smaller learning_rate") as caught:
        clf.fit(X, y)
    assert "StandardScaler" in str(caught.value)
    np.testing.assert_array_equal(clf.predict_proba(X), before)
    epoch = int(str(caught.value).split("epoch ")[1].split()[0])
    clf.set_params(max_iter=epoch - 1).fit(X, y)  # up to there all is finite
    assert np.isfinite(clf.loss_curve_).all()


UNREAD = {
    "momentum": {"solver": "lbfgs", "momentum": 0.9},
    "learning_rate": {"solver": "newton-cg", "learning_rate": 0.1},
    "batch_size": {"solver": "natural-sgd", "batch_size": 8},
    "batch_size ": {"solver": "natural-sgd", "batch_size": None},
    "lr_schedule": {"solver": "newton-cholesky", "lr_schedule": halving},
    "module": {"solver": "lbfgs", "module": mlp},
    "criterion": {"solver": "lbfgs", "criterion": nn.BCELoss()},
    "criterion.*which minimises the cross-entropy": {
        "solver": "newton-cg",
        "criterion": nn.CrossEntropyLoss(label_smoothing=0.1),
    },
    "criterion.*no weight of elements": {
        "solver": "natural-sgd",
        "criterion": nn.BCEWithLogitsLoss(weight=torch.ones(1)),
    },
    "criterion.*or ignore_index": {
        "solver": "newton-cholesky",
        "criterion": nn.CrossEntropyLoss(ignore_index=0),
    },
    "criterion.*use solver='sgd'": {"solver": "lbfgs", "criterion": focal},
    "momentum ": {"solver": "sgd", "learning_rate": "auto", "momentum": 0.9},
    "lr_schedule ": {"solver": "sgd", "learning_rate": "auto", "lr_schedule": halving},
    "nesterov": {"solver": "sgd", "learning_rate": 0.1, "nesterov": True},
    "fit_intercept": {"module": mlp, "fit_intercept": False},
}


@pytest.mark.parametrize("name", UNREAD)
def test_a_parameter_that_is_not_read_raises(name):
    with pytest.raises(ValueError, match=name.strip()):
        TorchLogisticClassifier(**UNREAD[name], max_iter=2, tol=None).fit(*data()[:2])


# ---- early stopping ----


@pytest.mark.parametrize("module", [None, noisy])
def test_early_stopping_gives_the_best_weights_and_buffers_back(module):
    X, y, _ = data(n_rows=200)
    y = np.where(np.random.default_rng(1).random(200) < 0.25, 1 - y, y)
    clf = classifier(
        module=module, batch_size=16, early_stopping=True, validation_fraction=0.2, n_iter_no_change=4,
        max_iter=60, learning_rate=0.5,
    ).fit(X, y)  # fmt: skip
    scores = clf.validation_scores_
    best = int(scores.argmax())
    assert clf.stop_reason_ == "early_stopping"
    assert len(scores) == clf.n_iter_[0] == len(clf.loss_curve_) == best + 1 + 4 < 60
    _, kept = train_test_split(np.arange(200), test_size=0.2, stratify=y, random_state=SEED)
    assert clf.score(X[kept], y[kept]) == scores[best]
    shorter = clone(clf).set_params(max_iter=best + 1).fit(X, y)
    np.testing.assert_array_equal(shorter.validation_scores_, scores[: best + 1])
    np.testing.assert_array_equal(clf.predict_proba(X), shorter.predict_proba(X))
    assert clf.objective_ == shorter.objective_
    assert module is None or not clf.module_.training


def test_early_stopping_needs_rows_of_each_class_in_both_parts():
    X, y, _ = data(n_rows=12)
    with pytest.raises(ValueError, match="early_stopping=True keeps validation_fraction=0.05"):
        classifier(early_stopping=True, validation_fraction=0.05).fit(X, y)
    assert classifier().fit(X, y).validation_scores_ is None


# ---- the line search ----


@pytest.mark.parametrize(("scaled", "max_iter"), [(True, 400), (False, 800)])
def test_the_line_search_decreases_the_objective_to_near_its_optimum(scaled, max_iter):
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X) if scaled else X
    clf = classifier(learning_rate="auto", C=1.0, max_iter=max_iter).fit(X, y)
    assert (np.diff(clf.loss_curve_) <= 0).all()
    optimum = optima.solve(X, y, 2, C=1.0).objective
    assert optimum <= clf.objective_ * (1 + 1e-12)
    assert clf.objective_ <= 1.02 * optimum


@pytest.mark.parametrize("module", [None, mlp])
@pytest.mark.parametrize("batch_size", [None, BATCH])
@pytest.mark.one_in(100)
def test_the_line_search_needs_no_tuning(module, batch_size):
    X, y, _ = data()
    clf = classifier(module=module, learning_rate="auto", batch_size=batch_size, C=1.0, max_iter=100)
    clf.fit(X * 10, y)
    assert clf.loss_curve_[-1] < 0.7 * clf.loss_curve_[0]
    assert (clf.history_["step"] > 0).all()


# ---- what is around it ----


def global_state():
    return (
        torch.get_rng_state().tolist(), pickle.dumps(np.random.get_state()), random.getstate(),  # noqa: NPY002
        torch.get_default_dtype(), torch.empty(0).device, torch.get_num_threads(),
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
    )  # fmt: skip


@pytest.mark.parametrize("context", [contextlib.nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("module", [None, noisy])
@pytest.mark.parametrize("how", ["fine", "diverges", "early"])
@pytest.mark.one_in(3)
def test_nothing_global_changes_and_the_context_does_not_matter(how, module, context):
    X, y, _ = data()
    clf = classifier(module=module, batch_size=BATCH, learning_rate=0.05)
    failing = {"diverges": {"learning_rate": 1e9, "C": 1e-3, "max_iter": 1000}}
    clf.set_params(**failing.get(how, {"early_stopping": how == "early"}))
    with context():
        before = global_state()
        with pytest.raises(ValueError, match="not finite") if how == "diverges" else contextlib.nullcontext():
            clf.fit(X, y)
        assert global_state() == before
        if how != "diverges":
            inside = clf.predict_proba(X)
            assert global_state() == before
    if how != "diverges":
        np.testing.assert_array_equal(inside, clone(clf).fit(X, y).predict_proba(X))


@pytest.mark.parametrize("package", [pickle, cloudpickle, joblib])
def test_a_fitted_module_is_pickled_and_cloned(package, tmp_path):
    X, y, _ = data()
    clf = classifier(module=noisy, criterion=nn.BCEWithLogitsLoss()).fit(X, y)
    with open(tmp_path / "model", "w+b") as file:
        package.dump(clf, file)
        file.seek(0)
        again = package.load(file)
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    np.testing.assert_array_equal(again.loss_curve_, clf.loss_curve_)
    copied = clone(clf)
    assert not any(name.endswith("_") and not name.startswith("_") for name in vars(copied))
    np.testing.assert_array_equal(copied.fit(X, y).predict_proba(X), clf.predict_proba(X))


def test_a_grid_search_reaches_the_settings_of_the_module():
    X, y, _ = data()
    clf = classifier(module=ModuleSpec(mlp, hidden=3))
    grid = {"module__hidden": [2, 6], "learning_rate": [0.1, 0.5]}
    search = GridSearchCV(clf, grid, cv=3, n_jobs=1, error_score="raise").fit(X, y)
    hidden = search.best_params_["module__hidden"]
    assert search.best_estimator_.module_[0].out_features == hidden
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    assert clf.get_params()["module__hidden"] == 3
