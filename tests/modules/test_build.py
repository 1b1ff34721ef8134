"""How modules are built and checked, and the random numbers they draw."""

from __future__ import annotations

import functools
import pickle
import threading

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.nn import functional as F

from torch_logreg._losses.criteria import resolve_criterion
from torch_logreg._modules.build import build_module, penalised
from torch_logreg._modules.probe import check_module
from torch_logreg._modules.spec import ModuleSpec
from torch_logreg._runtime.random import RandomStream

CPU = torch.device("cpu")


def mlp(n_features, n_outputs, hidden=16, dropout=0.0):
    return nn.Sequential(
        nn.Linear(n_features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, n_outputs)
    )


def required(n_features, n_outputs, hidden):
    return mlp(n_features, n_outputs, hidden)


def open_ended(n_features, n_outputs, **settings):
    return mlp(n_features, n_outputs, **settings)


class MLP(nn.Module):
    def __init__(self, n_features, n_outputs=1, hidden=8):
        super().__init__()
        self.layers = mlp(n_features, n_outputs, hidden)

    def forward(self, X):
        return self.layers(X)


def _X(n=50, dtype=torch.float64):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(0)).to(dtype)


def _build(module, n_outputs=1, dtype=torch.float64):
    return build_module(module, 4, n_outputs, dtype, CPU)


def _check(module, criterion=None, n_classes=2, X=None):
    X = _X() if X is None else X
    return check_module(module.to(X.dtype), resolve_criterion(criterion, n_classes), X)


class Forward(nn.Module):
    """A linear layer and whatever is to be done to its output."""

    def __init__(self, after, n_outputs=1):
        super().__init__()
        self.linear = nn.Linear(4, n_outputs)
        self.after = after

    def forward(self, X):
        return self.after(self.linear(X))


# ---- ModuleSpec ----


def test_a_spec_builds_with_its_settings():
    module = ModuleSpec(mlp, hidden=3)(4, 2)
    assert [tuple(p.shape) for p in module.parameters()] == [(3, 4), (3,), (2, 3), (2,)]
    assert isinstance(ModuleSpec(MLP, hidden=3)(4, 1), MLP)


def test_every_setting_and_default_of_a_spec_is_a_parameter():
    spec = ModuleSpec(mlp, hidden=3)
    assert spec.get_params() == {"build": mlp, "hidden": 3, "dropout": 0.0}
    assert spec.set_params(dropout=0.5) is spec
    assert spec.get_params() == {"build": mlp, "hidden": 3, "dropout": 0.5}
    assert spec(4, 1)[2].p == 0.5
    assert ModuleSpec(MLP).get_params() == {"build": MLP, "hidden": 8}
    assert ModuleSpec(functools.partial(mlp, hidden=5)).get_params()["hidden"] == 5


def test_a_setting_without_a_default_and_one_of_open_ended_settings_can_be_set():
    assert ModuleSpec(required).set_params(hidden=3)(4, 1)[0].out_features == 3
    assert ModuleSpec(open_ended, hidden=2).set_params(hidden=3)(4, 1)[0].out_features == 3


@pytest.mark.parametrize("spec", [ModuleSpec(mlp, hidden=3), ModuleSpec(open_ended, hidden=3)])
def test_an_unknown_setting_raises_as_in_scikit_learn_and_sets_nothing(spec):
    with pytest.raises(ValueError, match=r"Invalid parameter 'hiden' for estimator ModuleSpec\(.*'hidden'"):
        spec.set_params(hidden=7, hiden=4)
    assert spec.get_params()["hidden"] == 3


def test_the_builder_of_a_spec_can_be_set_together_with_its_settings():
    spec = ModuleSpec(open_ended).set_params(build=mlp, dropout=0.5)
    assert spec.get_params() == {"build": mlp, "hidden": 16, "dropout": 0.5}


def test_a_clone_of_a_spec_is_its_own():
    spec = ModuleSpec(mlp, hidden=3)
    copy = clone(spec).set_params(hidden=5)
    assert (spec.get_params()["hidden"], copy.get_params()["hidden"]) == (3, 5)


def test_a_setting_may_have_the_name_of_anything_of_an_estimator():
    spec = clone(ModuleSpec(lambda d, k, get_params=1, deep=2, _settings=3: mlp(d, k), get_params=9))
    parameters = spec.get_params()
    assert {name: parameters[name] for name in ("get_params", "deep", "_settings")} == {
        "get_params": 9,
        "deep": 2,
        "_settings": 3,
    }


def test_a_spec_can_be_pickled():
    spec = pickle.loads(pickle.dumps(ModuleSpec(mlp, hidden=3)))
    assert spec.get_params() == {"build": mlp, "hidden": 3, "dropout": 0.0}


def test_a_spec_shows_its_settings():
    spec = ModuleSpec(mlp, hidden=3)
    assert repr(spec).startswith("ModuleSpec(build=<function mlp") and "hidden=3" in repr(spec)
    assert "hidden" in spec._repr_html_()


@pytest.mark.parametrize("build", ["mlp", nn.Linear(4, 1), None])
def test_a_spec_of_something_that_does_not_build_raises(build):
    with pytest.raises(TypeError, match="must be a callable.*an instance is passed as module= itself"):
        ModuleSpec(build)
    with pytest.raises(TypeError, match="must be a callable"):
        ModuleSpec(mlp).set_params(build=build)


# ---- building ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_module_is_one_linear_layer_of_zeros_and_draws_nothing(dtype):
    before = torch.get_rng_state()
    linear = _build(None, 3, dtype)
    assert torch.equal(torch.get_rng_state(), before)
    assert type(linear) is nn.Linear and linear.weight.shape == (3, 4)
    assert not linear.weight.any() and not linear.bias.any() and linear.weight.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_instance_is_copied(dtype):
    given = mlp(4, 1)
    state = {name: value.clone() for name, value in given.state_dict().items()}
    built = _build(given, dtype=dtype)
    assert built is not given
    with torch.no_grad():
        for parameter in built.parameters():
            assert parameter.dtype == dtype
            parameter.zero_()
    assert all(torch.equal(value, state[name]) for name, value in given.state_dict().items())
    assert next(given.parameters()).dtype == torch.float32


@pytest.mark.parametrize("module", [mlp, ModuleSpec(mlp), ModuleSpec(MLP), lambda d, k: MLP(d, k)])
def test_a_callable_is_asked_for_a_module_of_this_size(module):
    built = _build(module, 3)
    assert built(_X()).shape == (50, 3)
    assert next(built.parameters()).dtype == torch.float64


def test_a_module_that_a_callable_hands_out_each_time_stays_as_it_is():
    shared = mlp(4, 1)
    assert _build(lambda d, k: shared) is not shared


@pytest.mark.parametrize(
    ("module", "error", "words"),
    [
        (
            MLP,
            TypeError,
            r"module=MLP is a class; pass an instance, module=MLP\(\.\.\.\), or ModuleSpec\(MLP",
        ),
        (nn.Linear, TypeError, r"module=Linear is a class"),
        ("mlp", TypeError, r"module='mlp' is not a module; use None, a torch\.nn\.Module, a callable"),
        (
            lambda d, k: "mlp",
            TypeError,
            r"gave a str for \(n_features=4, n_outputs=1\); it must return a torch",
        ),
        (lambda d, k: nn.Linear, TypeError, r"gave a type for"),
        (nn.ReLU(), ValueError, r"module=ReLU has no trainable parameter; set requires_grad=True"),
        (nn.Linear(4, 1).requires_grad_(False), ValueError, r"no trainable parameter"),
    ],
)
def test_what_is_no_module_raises(module, error, words):
    with pytest.raises(error, match=words):
        _build(module)


# ---- what is penalised ----


def test_the_penalty_is_on_weights_and_not_on_biases_or_norm_layers():
    class Everything(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.batch, self.layer = nn.BatchNorm1d(4), nn.LayerNorm(4)
            self.group, self.instance = nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True)
            self.rms = nn.RMSNorm(4)
            self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
            self.lstm = nn.LSTM(4, 4)
            self.frozen = nn.Linear(4, 4).requires_grad_(False)
            self.scaled = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            self.bias_scale = nn.Parameter(torch.ones(4))
            self.scale = nn.Parameter(torch.ones(4))

    assert penalised(Everything()) == {
        "scale",
        "linear.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
        "scaled.parametrizations.weight.original0",
        "scaled.parametrizations.weight.original1",
    }


# ---- checks before training ----


@pytest.mark.parametrize(
    ("n_outputs", "criterion", "n_classes"),
    [
        (1, None, 2),
        (2, None, 2),
        (3, None, 3),
        (1, nn.BCEWithLogitsLoss, 2),
        (2, nn.CrossEntropyLoss, 2),
        (3, nn.CrossEntropyLoss, 3),
    ],
)
def test_modules_of_logits_pass(n_outputs, criterion, n_classes):
    assert _check(mlp(4, n_outputs), criterion, n_classes) == n_outputs


@pytest.mark.parametrize(
    ("module", "criterion"),
    [
        (nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()), nn.BCELoss),
        (Forward(lambda z: torch.sigmoid(z).squeeze(1)), nn.BCELoss),
        (nn.Sequential(nn.Linear(4, 2), nn.LogSoftmax(dim=1)), nn.NLLLoss),
        (Forward(lambda z: z.softmax(dim=1).log(), 2), nn.NLLLoss),
        (Forward(lambda z: z.squeeze()), None),
    ],
)
def test_modules_that_give_what_the_criterion_needs_pass(module, criterion):
    assert _check(module, criterion) in (1, 2)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("n_outputs", [1, 2, 3])
@pytest.mark.parametrize("criterion", [None, nn.CrossEntropyLoss()])
def test_the_wrong_number_of_outputs_raises(n_outputs, criterion, n_classes):
    if n_outputs in resolve_criterion(criterion, n_classes).outputs:
        return
    with pytest.raises(
        ValueError, match=rf"gives {n_outputs} outputs a row, and criterion=.* needs .*{n_classes}"
    ):
        _check(mlp(4, n_outputs), criterion, n_classes)


@pytest.mark.parametrize(
    ("after", "error", "words"),
    [
        (lambda z: (z, z), TypeError, "gives a tuple; forward must return one floating-point tensor"),
        (lambda z: z > 0, TypeError, r"gives a torch\.bool"),
        (lambda z: z[:-1], ValueError, r"output of shape \(49, 1\) for 50 rows"),
        (lambda z: z[..., None], ValueError, r"output of shape \(50, 1, 1\) for 50 rows"),
        (lambda z: z.mean(), ValueError, r"output of shape \(\) for 50 rows"),
        (lambda z: z.detach(), ValueError, "does not depend on any trainable parameter"),
        (lambda z: z * torch.nan, ValueError, "gives NaN with the weights it starts from"),
    ],
)
def test_what_is_no_output_of_each_row_raises(after, error, words):
    with pytest.raises(error, match=words):
        _check(Forward(after))


def test_a_module_for_other_columns_raises_torchs_error_with_the_shape_it_was_called_with():
    with pytest.raises(RuntimeError) as raised:
        _check(nn.Linear(3, 1))
    assert "module=Linear called with X of shape (50, 4)" in raised.value.__notes__[0]


class OwnSigmoid(nn.Module):
    """As the tutorial writes it."""

    def __init__(self):
        super().__init__()
        self.linear, self.sigmoid = nn.Linear(4, 1), nn.Sigmoid()

    def forward(self, X):
        return self.sigmoid(self.linear(X))


@pytest.mark.parametrize(
    ("module", "criterion", "words"),
    [
        (nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()), None, "Sigmoid.*criterion=nn.BCELoss"),
        (nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()), nn.BCEWithLogitsLoss(), "Sigmoid"),
        (nn.Sequential(nn.Linear(4, 1), nn.Sequential(nn.Sequential(nn.Sigmoid()))), None, "Sigmoid"),
        (nn.Sequential(nn.Linear(4, 1), nn.Sigmoid(), nn.Flatten(0)), None, "Sigmoid"),
        (OwnSigmoid(), None, "Sigmoid"),
        (OwnSigmoid(), lambda z, target: (z - target) ** 2, "Sigmoid"),
        (Forward(lambda z: torch.sigmoid(z).squeeze()), None, "Sigmoid"),
        (Forward(lambda z: z.sigmoid().clamp(0.01, 0.99)[:, 0]), None, "Sigmoid"),
        (Forward(lambda z: torch.cat([1 - z.sigmoid(), z.sigmoid()], dim=1)), None, "Sigmoid"),
        (Forward(F.logsigmoid), None, "LogSigmoid"),
        (nn.Sequential(nn.Linear(4, 2), nn.Softmax(dim=1)), None, "Softmax.*LogSoftmax.*nn.NLLLoss"),
        (Forward(lambda z: F.softmax(z, dim=1), 2), nn.CrossEntropyLoss(), "Softmax"),
        (Forward(lambda z: z.softmax(dim=1)[:, 1], 2), None, "Softmax"),
        (
            nn.Sequential(nn.Linear(4, 2), nn.LogSoftmax(dim=1)),
            nn.CrossEntropyLoss(),
            "LogSoftmax.*nn.NLLLoss",
        ),
    ],
)
def test_a_module_that_ends_in_probabilities_under_a_criterion_of_logits_raises(module, criterion, words):
    with pytest.raises(ValueError, match=f"ends in {words}"):
        _check(module, criterion)


def test_a_sigmoid_inside_a_module_or_logits_between_0_and_1_are_no_reason_to_raise():
    assert _check(nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 1))) == 1
    assert _check(_build(None)) == 1
    assert _check(Forward(lambda z: 4 * torch.sigmoid(z) - 2)) == 1


@pytest.mark.parametrize("module", [mlp(4, 1), _build(None), Forward(lambda z: z * 100)])
def test_logits_under_bce_raise(module):
    with pytest.raises(
        ValueError, match=r"no probabilities \(from .*end it with nn.Sigmoid\(\).*BCEWithLogits"
    ):
        _check(module, nn.BCELoss())


def test_a_softmax_over_one_output_raises():
    with pytest.raises(ValueError, match="Softmax over its one output, which is always 1"):
        _check(nn.Sequential(nn.Linear(4, 1), nn.Softmax(dim=1)), nn.BCELoss())


@pytest.mark.parametrize("after", [lambda z: z, lambda z: z.softmax(dim=1), lambda z: z.log_softmax(dim=0)])
def test_what_are_no_log_probabilities_under_nll_raises(after):
    with pytest.raises(
        ValueError, match=r"no log-probabilities.*nn.LogSoftmax\(dim=1\).*nn.CrossEntropyLoss"
    ):
        _check(Forward(after, 2), nn.NLLLoss())


def test_a_check_leaves_modes_and_buffers_as_they_are():
    module = nn.Sequential(
        nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Linear(3, 1)
    )
    module[3].eval()
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    _check(module, X=_X(dtype=torch.float32))
    assert [layer.training for layer in module] == [True, True, True, False, True]
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in module.named_buffers())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lazy_layers_are_materialised_without_changing_statistics(dtype):
    given = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.Dropout(0.5), nn.LazyLinear(1))
    built = _build(given, dtype=dtype)
    with torch.no_grad():
        assert check_module(built, resolve_criterion(None, 2), _X(dtype=dtype)) == 1
    assert {p.dtype for p in built.parameters()} == {dtype}
    assert built[0].weight.shape == (3, 4)
    assert not built[1].running_mean.any() and bool((built[1].running_var == 1).all())
    assert built[1].num_batches_tracked == 0 and built.training
    assert isinstance(given[0], nn.LazyLinear)


# ---- random numbers ----


def test_a_stream_goes_on_and_leaves_the_global_generator_alone():
    torch.rand(3)
    before = torch.get_rng_state()
    stream = RandomStream(7, CPU)
    drawn = []
    for _ in range(2):
        with stream.running():
            drawn.append(torch.rand(3))
        assert torch.equal(torch.get_rng_state(), before)
    expected = torch.rand(6, generator=torch.Generator().manual_seed(7))
    assert torch.equal(torch.cat(drawn), expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_replay_draws_the_same_and_does_not_move_the_stream():
    stream, twin = RandomStream(7, CPU), RandomStream(7, CPU)
    began = stream.state
    with stream.running():
        first = torch.rand(3)
    with stream.running(replay=began):
        assert torch.equal(torch.rand(3), first)
    with twin.running():
        both = torch.rand(3), torch.rand(3)
    with stream.running():
        assert torch.equal(torch.rand(3), both[1])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_global_generator_is_put_back_after_an_error(error):
    before = torch.get_rng_state()
    with pytest.raises(error), RandomStream(7, CPU).running():
        torch.rand(3)
        raise error
    assert torch.equal(torch.get_rng_state(), before)


def test_other_global_state_is_left_alone():
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    with torch.no_grad(), RandomStream(7, CPU).running():
        assert not torch.is_grad_enabled()
        inside = torch.get_num_threads(), torch.get_default_dtype(), torch.empty(0).device
    assert inside == (torch.get_num_threads(), torch.get_default_dtype(), torch.empty(0).device)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_a_stream_may_run_inside_another_of_the_same_thread():
    outer, inner = RandomStream(1, CPU), RandomStream(2, CPU)
    with outer.running():
        first = torch.rand(2)
        with inner.running():
            torch.rand(5)
        second = torch.rand(2)
    expected = torch.rand(4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.cat([first, second]), expected)


def test_streams_of_several_threads_do_not_mix():
    drawn: dict[int, torch.Tensor] = {}

    def draw(seed: int) -> None:
        stream, numbers = RandomStream(seed, CPU), []
        for _ in range(50):
            with stream.running():
                numbers.append(torch.cat([torch.rand(1), torch.rand(1)]))
        drawn[seed] = torch.cat(numbers)

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    for seed in range(4):
        assert torch.equal(drawn[seed], torch.rand(100, generator=torch.Generator().manual_seed(seed)))


def test_construction_depends_on_the_seed_alone():
    def built(seed: int) -> torch.Tensor:
        with RandomStream(seed, CPU).running():
            return nn.utils.parameters_to_vector(_build(mlp).parameters()).detach()

    first = built(0)
    torch.rand(5)
    assert torch.equal(built(0), first)
    assert not torch.equal(built(1), first)


def test_a_stream_can_be_made_under_another_default_device():
    with torch.device("meta"):
        stream = RandomStream(7, CPU)
        with stream.running():
            drawn = torch.rand(3, device="cpu")
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(7)))
