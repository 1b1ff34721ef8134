"""Modules as people have them: each is trained, copied, restored, pickled and predicted with in every way."""

from __future__ import annotations

import copy
import functools
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn.utils import parametrizations, prune

from torch_logreg import TorchLogisticClassifier
from torch_logreg._modules.copies import Traces, copied, picklable, sharing_parameters, unpickled
from torch_logreg._modules.probe import evaluate

RNG = np.random.default_rng(0)
X = RNG.normal(size=(220, 4)).astype(np.float32)
y = (X[:, 0] + 0.3 * RNG.normal(size=220) > 0).astype(int)


class KeepsActivations(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last, self.hidden = nn.Linear(4, 6), nn.Linear(6, 1), None

    def forward(self, x):
        self.hidden = torch.tanh(self.first(x))
        return self.last(self.hidden)


class KeepsThemInAList(KeepsActivations):
    def __init__(self):
        super().__init__()
        self.kept = {"layers": []}

    def forward(self, x):
        self.kept["layers"] = [torch.tanh(self.first(x))]
        return self.last(self.kept["layers"][0])


class KeepsItsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.seen = nn.Linear(4, 1), None

    def forward(self, x):
        self.seen = x
        return self.last(self.seen)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.calls = nn.Linear(4, 1), 0
        self.register_buffer("n", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.n += 1
        self.calls += 1
        return self.last(x)


class ReplacesABuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 1)
        self.register_buffer("means", torch.zeros(0))

    def forward(self, x):
        if self.training:
            self.means = torch.cat([self.means, x.detach().mean()[None].to(self.means)])
        return self.last(x)


class DifferentiatesInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.energy, self.last = nn.Linear(4, 6), nn.Linear(4, 1)

    def forward(self, x):
        x = x if x.requires_grad else x.requires_grad_()
        (slope,) = torch.autograd.grad(torch.tanh(self.energy(x)).sum(), x, create_graph=True)
        return self.last(slope + x)


class KeepsAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 1)

    def forward(self, x):
        z, self.weights = self.attention(x[:, None], x[:, None], x[:, None])
        return self.last(z[:, 0] + x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.last = nn.LSTM(1, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x):
        return self.last(self.cells(x[:, :, None])[0][:, -1])


class HooksItsLayer(nn.Module):
    """Reads what a hook has kept, so that a hook of another copy would be seen in the predictions."""

    def __init__(self):
        super().__init__()
        self.net, self.last = nn.Linear(4, 3), nn.Linear(3, 1)
        self.hook()

    def hook(self):
        self.net.register_forward_hook(self.keep)

    def keep(self, layer, inputs, output):
        self.activation = output

    def forward(self, x):
        self.net(x)
        return self.last(torch.tanh(self.activation))


class HooksItByAClosure(HooksItsLayer):
    def hook(self):
        def keep(layer, inputs, output):
            self.activation = output

        self.net.register_forward_hook(keep)


class HasAView(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(0.1 * torch.ones(4, 1))
        self.first_rows = self.w[:2]

    def forward(self, x):
        return x @ self.w


class DrawsInEval(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 1)

    def forward(self, x):
        return self.last(x + 0.01 * torch.rand(x.shape))


class CastsToFloat32(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 1)

    def forward(self, x):
        return self.last(x.float())


class HasAConstant(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.mix = nn.Linear(4, 1), torch.eye(4)

    def forward(self, x):
        return self.last(x @ self.mix)


class LooksUpCodes(nn.Module):
    """The signs of a column stand for a category."""

    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(2, 3), nn.Linear(7, 1)

    def forward(self, x):
        return self.last(torch.cat([self.table((x[:, 0] > 0).long()), x], dim=1))


def layers(first=None):
    return nn.Sequential(
        nn.Linear(4, 4) if first is None else first(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 1)
    )


def old(name):
    def apply(layer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of an older interface, which people still have
            return getattr(torch.nn.utils, name)(layer)

    return apply


def tied():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False), nn.Linear(4, 1))
    net[2].weight = net[0].weight
    return net


def made_in_inference_mode():
    with torch.inference_mode():
        return layers()


def frozen_in_part():
    net = layers()
    net[0].requires_grad_(False)
    return net


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(layers())


def of_a_gpu_program():
    return nn.DataParallel(layers())


MODULES = {
    "keeps activations": KeepsActivations,
    "keeps them in a list": KeepsThemInAList,
    "keeps its input": KeepsItsInput,
    "counts calls": Counts,
    "replaces a buffer": ReplacesABuffer,
    "differentiates inside": DifferentiatesInside,
    "keeps attention": KeepsAttention,
    "LSTM": Recurrent,
    "hook, a method": HooksItsLayer,
    "hook, a closure": HooksItByAClosure,
    "a view of a parameter": HasAView,
    "casts to float32": CastsToFloat32,
    "a constant of its own": HasAConstant,
    "looks up codes": LooksUpCodes,
    "draws in eval mode": DrawsInEval,
    "weight norm": lambda: layers(parametrizations.weight_norm),
    "spectral norm": lambda: layers(parametrizations.spectral_norm),
    "orthogonal": lambda: layers(parametrizations.orthogonal),
    "older weight norm": lambda: layers(old("weight_norm")),
    "older spectral norm": lambda: layers(old("spectral_norm")),
    "pruned": lambda: layers(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
    "batch norm, dropout": lambda: nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.1), nn.Linear(5, 1)
    ),
    "in place": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 1)),
    "tied": tied,
    "made in inference mode": made_in_inference_mode,
    "frozen in part": frozen_in_part,
    "compiled": lambda: torch.compile(layers(), backend="eager"),
    "compiled inside": lambda: layers(lambda layer: torch.compile(layer, backend="eager")),
    "wrapped": of_a_gpu_program,
    "scripted": scripted,
    "lazy": lambda: nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(1)),
}
UNPICKLED = {"hook, a closure"}  # pickle knows no functions made inside others
DETERMINISTIC = [name for name in MODULES if name != "draws in eval mode"]


def make(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODULES[name]()


def used(module):
    """As after some training of the caller's own: with gradients, and graphs of what was kept."""
    module(torch.from_numpy(X)).sum().backward()
    return module


def fitted(module, X=X, **params):
    settings = {"learning_rate": 0.2, "max_iter": 3, "tol": None, "random_state": 0, **params}
    return TorchLogisticClassifier(module=module, **settings).fit(X, y)


WAYS = {
    "minibatches": {},
    "all rows": {"batch_size": None},
    "line search": {"learning_rate": "auto"},
    "early stopping": {"early_stopping": True},
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.one_in(6)
def test_it_is_trained_and_predicts_in_every_way(name, way):
    module = make(name)
    given, state = X.copy(), {} if name == "lazy" else copy.deepcopy(module.state_dict())
    model = fitted(module, given, **WAYS[way])
    probabilities = model.predict_proba(given)
    assert_array_equal(given, X)
    for key, value in state.items():
        assert torch.equal(module.state_dict()[key], value), key
    assert np.isfinite(probabilities).all() and np.ptp(probabilities[:, 0]) > 0
    assert_array_equal(model.predict_proba(given), probabilities)
    assert_array_equal(clone(model).fit(given, y).predict_proba(given), probabilities)
    assert_array_equal(copy.deepcopy(model).predict_proba(given), probabilities)
    if name not in UNPICKLED:
        assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(given), probabilities)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "lazy"])
def test_one_that_was_used_under_autograd_is_like_a_new_one(name):
    new, old_one = fitted(make(name)), fitted(make(name))
    assert_array_equal(new.predict_proba(X), old_one.predict_proba(X))
    module = make(name) if name == "made in inference mode" else used(make(name).eval()).train()
    if name in ("counts calls", "draws in eval mode", "made in inference mode"):
        assert np.isfinite(fitted(module).predict_proba(X)).all()
        return
    model = fitted(module)
    assert_array_equal(model.predict_proba(X), new.predict_proba(X))
    assert_array_equal(clone(model).fit(X, y).predict_proba(X), new.predict_proba(X))
    assert_array_equal(copy.deepcopy(model).predict_proba(X), new.predict_proba(X))


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("replaces a buffer", "lazy")])
def test_training_goes_on_from_the_fit_before(name):
    model = fitted(make(name), warm_start=True)
    before = model.loss_curve_
    assert model.fit(X, y).loss_curve_[len(before)] < before[0]


@pytest.mark.parametrize("name", MODULES)
def test_sixteen_threads_predict_with_it_at_once(name):
    model = fitted(make(name))
    parts = [X[start : start + 20] for start in range(0, 200, 20)] * 4
    alone = [model.predict_proba(part) for part in parts]
    together = threading.Barrier(16)

    def predict(part):
        if together.n_waiting < 16:
            try:
                together.wait(timeout=0.2)
            except threading.BrokenBarrierError:
                pass
        return model.predict_proba(part)

    with ThreadPoolExecutor(16) as pool:
        for got, right in zip(pool.map(predict, parts), alone, strict=True):
            assert_array_equal(got, right)


@pytest.mark.parametrize("name", MODULES)
def test_a_prediction_leaves_no_trace_in_the_module(name):
    model = fitted(make(name))
    right = model.predict_proba(X)
    module = model.module_
    for training in (False, True):
        module.train(training)
        modes = [layer.training for layer in module.modules()]
        before = Traces(module)
        versions = [(t.data_ptr(), t.device) for t in module.state_dict().values()]
        assert_array_equal(model.predict_proba(X), right)
        assert_array_equal(model.predict_proba(X[:1])[0].argmax(), right[0].argmax())
        assert [layer.training for layer in module.modules()] == modes
        assert not before.left_in(module)
        assert [(t.data_ptr(), t.device) for t in module.state_dict().values()] == versions


def test_predictions_take_no_lock_for_a_module_that_keeps_and_draws_nothing(monkeypatch):
    model = fitted(layers())
    right = model.predict_proba(X)

    class Taken:
        def __enter__(self):
            raise AssertionError("a lock was taken")

        def __exit__(self, *exception):
            pass

    monkeypatch.setattr("torch_logreg._runtime.random._GLOBAL_GENERATORS", Taken())
    assert_array_equal(model.predict_proba(X), right)


@pytest.mark.parametrize("first", [nn.ReLU, nn.Dropout, nn.Hardtanh, nn.ELU, nn.SiLU])
@pytest.mark.parametrize("kind", ["numpy", "Fortran order", "read-only", "torch", "float64", "bfloat16"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.one_in(4)
def test_layers_that_work_in_place_do_not_write_to_the_rows_of_the_user(way, kind, first):
    rows = {
        "numpy": X.copy(),
        "Fortran order": np.asfortranarray(X),
        "read-only": X.copy(),
        "torch": torch.from_numpy(X.copy()),
        "float64": X.astype(np.float64),
        "bfloat16": torch.from_numpy(X.copy()).to(torch.bfloat16),
    }[kind]
    if kind == "read-only":
        rows.flags.writeable = False
    before = copy.deepcopy(rows)
    model = fitted(nn.Sequential(first(inplace=True), nn.Linear(4, 1)), rows, **WAYS[way])
    model.predict_proba(rows), model.score(rows, y)
    assert (rows == before).all()


def test_a_criterion_that_works_in_place_does_not_write_to_the_labels_of_the_user():
    def of_two(output, target):
        return nn.functional.cross_entropy(output, target.clamp_(max=1), reduction="none")

    labels = np.arange(220) % 3
    before = labels.copy()
    TorchLogisticClassifier(
        module=nn.Linear(4, 3), criterion=of_two, max_iter=2, tol=None, learning_rate=0.1
    ).fit(X, labels)
    assert_array_equal(labels, before)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_copies_give_what_the_module_gives(name):
    if name == "lazy":
        module = fitted(make(name)).module_
    else:
        module = make(name).eval()
    if name not in ("made in inference mode", "lazy"):
        used(module)
    rows = torch.from_numpy(X)
    evaluated = functools.partial(evaluate, X=rows)
    right = evaluated(module)
    copy_ = copied(module)
    assert torch.equal(evaluated(copy_), right)
    assert [p.requires_grad for p in copy_.parameters()] == [p.requires_grad for p in module.parameters()]
    assert {p.data_ptr() for p in copy_.parameters()}.isdisjoint({p.data_ptr() for p in module.parameters()})
    assert torch.equal(evaluated(sharing_parameters(module)), right)
    if name not in UNPICKLED:
        stored = unpickled(pickle.loads(pickle.dumps(picklable(module))))
        assert torch.equal(evaluated(stored), right)
        assert sorted(dict(stored.named_parameters())) == sorted(dict(module.named_parameters()))
        assert torch.equal(evaluated(module), right)  # which is as it was


def test_a_module_that_keeps_activations_is_a_candidate_of_a_grid_search():
    search = GridSearchCV(
        make_pipeline(
            StandardScaler(),
            TorchLogisticClassifier(module=used(KeepsActivations()), max_iter=3, tol=None, random_state=0),
        ),
        {"torchlogisticclassifier__learning_rate": [0.01, 0.3]},
        cv=2,
    )
    assert search.fit(X, y).best_score_ > 0.5


# ---- what a module ends in ----


class Ends(nn.Module):
    def __init__(self, end, n_outputs=1):
        super().__init__()
        self.linear, self.end = nn.Linear(4, n_outputs), end

    def forward(self, x):
        return self.end(self.linear(x))


SQUASHED = {
    "sigmoid times 1": (lambda z: torch.sigmoid(z) * 1.0, 1, "Sigmoid"),
    "1 / (1 + exp(-z))": (lambda z: 1 / (1 + torch.exp(-z)), 1, "Sigmoid"),
    "half of tanh": (lambda z: (torch.tanh(z) + 1) / 2, 1, "Sigmoid"),
    "sigmoid of two": (lambda z: torch.sigmoid(z) + 0, 2, "Sigmoid"),
    "softmax plus 0": (lambda z: torch.softmax(z, dim=1) + 0, 2, "Softmax"),
    "exp over its sum": (lambda z: torch.exp(z) / torch.exp(z).sum(dim=1, keepdim=True), 2, "Softmax"),
}


@pytest.mark.parametrize("name", SQUASHED)
def test_probabilities_for_logits_are_refused_however_they_are_computed(name):
    end, n_outputs, word = SQUASHED[name]
    with pytest.raises(ValueError, match=f"ends in {word} or the like: it gives probabilities whatever"):
        fitted(Ends(end, n_outputs))


@pytest.mark.parametrize("inner", [nn.Sigmoid(), nn.Softmax(dim=1)])
def test_a_compiled_module_that_ends_in_probabilities_is_refused(inner):
    net = nn.Sequential(nn.Linear(4, 2 if isinstance(inner, nn.Softmax) else 1), inner)
    with pytest.raises(ValueError, match="ends in (Sigmoid|Softmax)"):
        fitted(torch.compile(net, backend="eager"))


LOGITS = {
    "zeros": lambda z: z * 0 + z,
    "small": lambda z: 0.5 + 1e-3 * z,
    "relu": torch.relu,
    "a bounded logit": lambda z: 5 * torch.tanh(z),
}


@pytest.mark.parametrize("name", LOGITS)
def test_logits_that_lie_between_0_and_1_by_chance_are_taken(name):
    module = Ends(LOGITS[name])
    with torch.no_grad():
        module.linear.weight.mul_(1e-3)
        module.linear.bias.fill_(0.5)
    assert np.isfinite(fitted(module).predict_proba(X)).all()
    linear = nn.Linear(4, 1)
    nn.init.zeros_(linear.weight), nn.init.zeros_(linear.bias)
    assert fitted(linear).score(X, y) > 0.7


class Bounded(nn.Module):
    """Looks a number up by the size of its weight, which it was made for as it is and not for any other."""

    def __init__(self, refusal):
        super().__init__()
        self.linear, self.refusal = nn.Linear(4, 1), refusal
        with torch.no_grad():  # outputs between 0 and 1, for which the check tries other weights
            self.linear.weight.zero_()
            self.linear.bias.fill_(0.5)

    def forward(self, X):
        if float(self.linear.weight.detach().abs().max()) > 5:
            raise self.refusal("a weight is out of bounds")
        return self.linear(X)


@pytest.mark.parametrize(
    "refusal", [IndexError, KeyError, ValueError, RuntimeError, OverflowError, AssertionError]
)
def test_a_module_that_refuses_other_weights_is_not_judged_by_them(refusal):
    model = fitted(Bounded(refusal))
    assert np.isfinite(model.predict_proba(X)).all()
    assert float(model.module_.linear.weight.detach().abs().max()) > 0  # it was trained


# ---- errors from inside ----


class Fails(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error, self.linear = error, nn.Linear(4, 1)

    def forward(self, x):
        raise self.error


def notes(error):
    return " ".join([str(error), *getattr(error, "__notes__", [])])


@pytest.mark.parametrize("error", [RuntimeError("no"), ValueError("no"), KeyError("no"), IndexError("no")])
def test_whatever_a_module_raises_names_it_and_what_it_was_given(error):
    with pytest.raises(type(error)) as caught:
        fitted(Fails(error))
    text = notes(caught.value)
    assert "module=Fails called with X of shape (200, 4)" in text or "(220, 4)" in text
    assert "torch.float32" in text and "'cpu'" in text


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_module_of_another_dtype_or_width_is_told_what_to_do(dtype):
    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 1)

        def forward(self, x):
            return self.linear(x.half())

    with pytest.raises(RuntimeError) as caught:
        fitted(Casts(), X.astype(dtype))
    assert ("X.astype('float32')" in notes(caught.value)) == (dtype == np.float64)
    with pytest.raises(RuntimeError) as caught:
        fitted(nn.Linear(7, 1), X.astype(dtype))
    assert "Its first layer has to take 4 columns" in notes(caught.value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [CastsToFloat32, HasAConstant, LooksUpCodes])
def test_a_module_written_for_float32_is_trained_on_float64_or_told_what_to_pass(kind, way):
    rows = X.astype(np.float64)
    if kind is LooksUpCodes:
        assert np.isfinite(fitted(kind(), rows, **WAYS[way]).predict_proba(rows)).all()
        return
    with pytest.raises(RuntimeError) as caught:
        fitted(kind(), rows, **WAYS[way])
    assert f"module={kind.__name__} called with X of shape" in notes(caught.value)
    assert "torch.float64" in notes(caught.value) and "X.astype('float32')" in notes(caught.value)


def test_errors_of_a_criterion_and_a_schedule_name_them():
    def wrong(output, target):
        return output @ target

    with pytest.raises(RuntimeError) as caught:
        fitted(nn.Linear(4, 1), criterion=wrong)
    assert "criterion=wrong called with outputs of shape (" in notes(caught.value)
    assert "targets of shape (" in notes(caught.value)

    def no_schedule(optimizer):
        raise LookupError("none")

    with pytest.raises(LookupError) as caught:
        fitted(nn.Linear(4, 1), lr_schedule=no_schedule)
    assert "lr_schedule=" in notes(caught.value) and "scheduler of torch.optim" in notes(caught.value)

    class Stuck(torch.optim.lr_scheduler.ExponentialLR):
        def step(self, *arguments):
            if self.last_epoch >= 0:
                raise LookupError("stuck")
            super().step(*arguments)

    with pytest.raises(LookupError) as caught:
        fitted(nn.Linear(4, 1), lr_schedule=functools.partial(Stuck, gamma=0.5))
    assert "lr_schedule, a Stuck" in notes(caught.value)


def test_a_search_may_pass_numbers_of_numpy():
    settings = {"module": nn.Linear(4, 1), "max_iter": 2, "early_stopping": True, "random_state": 0}
    plain = TorchLogisticClassifier(batch_size=16, validation_fraction=0.25, **settings).fit(X, y)
    numpys = {"batch_size": np.int64(16), "validation_fraction": np.float32(0.25)}
    searched = TorchLogisticClassifier(**numpys, **settings).fit(X, y)
    assert_array_equal(searched.predict_proba(X), plain.predict_proba(X))
