"""Private and version-dependent names of torch and scikit-learn: where they are used, and what they mean.

A test that fails here says which name a new version has renamed, moved or given another meaning.
"""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer, make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.utils.fixes import parse_version
from torch import nn
from torch.nn.utils import parametrizations

import torch_logreg
from torch_logreg import TorchLogisticClassifier
from torch_logreg._checks import compat as sklearn_compat
from torch_logreg._modules.probe import LINEAR, MOVING, SQUASHING
from torch_logreg._runtime import compat as torch_compat

PACKAGE = Path(torch_logreg.__file__).parent
COMPAT = ("_runtime/compat.py", "_checks/compat.py")
# `NamedTuple._replace`, and attributes of ours that are assigned by their names.
OWN = {"_replace", "_history", "_link"}

# ---- no other file uses such names ----


def foreign_private(source: str) -> set[str]:
    """Private names of other packages in a file: those imported, and attributes that nobody here defines."""
    tree = ast.parse(source)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module is not None:
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            if names[0] != "torch_logreg":
                found |= {name for name in names if is_private(name)}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                found |= {name for name in parts if is_private(name) and parts[0] != "torch_logreg"}
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            found.add(node.attr)
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def defined_here() -> set[str]:
    """Private names that are assigned, declared or defined anywhere in the package."""
    found = set(OWN)
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(name, ast.Store()):
                    found.add(name)
                case ast.Attribute(ast.Name("self" | "some"), name, ast.Store()):
                    found.add(name)
    return found


OF_THE_PACKAGE = defined_here()
FILES = sorted({file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py")} - set(COMPAT))


@pytest.mark.parametrize("name", FILES)
def test_only_two_files_use_private_names_of_others(name):
    assert foreign_private((PACKAGE / name).read_text(encoding="utf-8")) - OF_THE_PACKAGE == set()


@cache
def names_of_others() -> set[str]:
    """Of attributes of what is met of torch and scikit-learn."""
    known: set[str] = set()
    for owner in (torch.Tensor, nn.Module(), torch.optim.SGD([torch.zeros(1)]), torch, sklearn):
        known |= set(dir(owner))
    for estimator in (LogisticRegression(), get_scorer("accuracy")):
        known |= set(dir(estimator))
    return known


@pytest.mark.parametrize("name", FILES)
def test_private_attributes_are_not_got_by_their_names_either(name):
    """As by `getattr(layer, "_buffers")`: no such string is the name of one of torch's or scikit-learn's."""
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert {string for string in strings & names_of_others() if is_private(string)} == set()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from torch._C import x", "_C"),
        ("from sklearn.utils.validation import _check_y", "_check_y"),
        ("from sklearn.utils.validation import _check_y as check_y", "_check_y"),
        ("import torch._dynamo", "_dynamo"),
        ("def f(x):\n    return x._version", "_version"),
        ("del layer._modules['a']", "_modules"),
        ("nn.modules.batchnorm._BatchNorm", "_BatchNorm"),
        ("torch._C._get_tracing_state()", "_C"),
    ],
)
def test_every_way_to_use_a_private_name_is_seen(source, name):
    assert name in foreign_private(source) - OF_THE_PACKAGE


@pytest.mark.parametrize(
    "source", ["from torch_logreg._data.csr import SLACK", "x.__dict__", "self._own", "x.data"]
)
def test_names_of_the_package_and_public_ones_are_allowed(source):
    assert foreign_private(source) <= OF_THE_PACKAGE | {"_own"}


TESTED = {
    torch_compat: (
        "BATCH_NORM COMPILED HOOKS NORM_LAYERS ProductPrecision UninitializedBuffer accelerator "
        "default_device global_generators is_lazy loading_hooks original products_are_exact sgd version"
    ),
    sklearn_compat: (
        "CallbackSupportMixin Interval InvalidParameterError StrOptions begin_callbacks check_feature_names "
        "check_n_features "
        "check_sample_weight check_y constraints_of needs_labels_alone num_samples raise_for_params "
        "routing_enabled validate_parameter_constraints with_callbacks"
    ),
}


@pytest.mark.parametrize("module", TESTED, ids=lambda module: module.__name__)
def test_a_name_that_is_added_needs_a_test_below(module):
    assert sorted(module.__all__) == sorted(TESTED[module].split())
    below = Path(__file__).read_text(encoding="utf-8").split("\n# ---- torch ----\n")[1]
    short = module.__name__.split(".")[-1]
    assert [name for name in module.__all__ if f"{short}.{name}" not in below] == []


# ---- torch ----


@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_the_function_sgd_does_what_the_optimizer_does(momentum, nesterov):
    stock = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    ours, velocity = nn.Parameter(stock.detach().clone()), [None]
    optimizer = torch.optim.SGD([stock], lr=0.3, momentum=momentum, nesterov=nesterov)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        gradient = torch.randn(2, dtype=torch.float64, generator=generator)
        stock.grad = gradient.clone()
        optimizer.step()
        with torch.no_grad():
            torch_compat.sgd(
                [ours], [gradient], velocity, foreach=False, fused=False, weight_decay=0.0, momentum=momentum,
                lr=0.3, dampening=0.0, nesterov=nesterov, maximize=False,
            )  # fmt: skip
        assert torch.equal(ours, stock)
    assert (velocity[0] is None) == (momentum == 0)
    if momentum:
        assert torch.equal(velocity[0], optimizer.state[stock]["momentum_buffer"])


def classes_of_torch(words: str) -> list[type[nn.Module]]:
    """The public layers of torch whose name holds one of these words."""
    return [kind for name, kind in vars(nn).items() if inspect.isclass(kind) and re.search(words, name)]


def test_batch_norm_is_every_layer_of_that_name():
    found = classes_of_torch("BatchNorm")
    assert nn.SyncBatchNorm in found and nn.LazyBatchNorm2d in found and len(found) >= 7
    assert [kind for kind in found if not issubclass(kind, torch_compat.BATCH_NORM)] == []
    others = set(classes_of_torch("Norm")) - set(found)
    assert [kind for kind in others if issubclass(kind, torch_compat.BATCH_NORM)] == []


def test_norm_layers_are_all_layers_of_torch_that_normalise_by_weights():
    without_weights = {nn.LocalResponseNorm, nn.CrossMapLRN2d}
    found = set(classes_of_torch("Norm$|Norm[123]d$|LRN")) - without_weights
    assert {nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm1d, nn.BatchNorm1d} <= found
    assert [kind for kind in found if not issubclass(kind, torch_compat.NORM_LAYERS)] == []
    for kind in without_weights:
        assert list(kind(2).parameters()) == []
    for layer in (nn.Linear(2, 2), nn.Embedding(2, 2), nn.PReLU(), nn.Conv1d(2, 2, 1), nn.LSTM(2, 2)):
        assert not isinstance(layer, torch_compat.NORM_LAYERS)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch.compile's own import
@pytest.mark.deep
def test_the_original_of_a_compiled_module_is_the_module():
    layer = nn.Linear(2, 1)
    compiled = torch.compile(layer)
    assert compiled is not layer
    assert torch_compat.original(compiled) is layer
    assert getattr(compiled, torch_compat.COMPILED) is layer
    assert torch_compat.original(layer) is layer
    assert all(name.startswith(torch_compat.COMPILED + ".") for name in compiled.state_dict())


def test_hooks_are_where_torch_keeps_them():
    layer = nn.Linear(2, 1)
    handles = [
        layer.register_forward_hook(print), layer.register_forward_pre_hook(print),
        layer.register_full_backward_hook(print), layer.register_full_backward_pre_hook(print),
    ]  # fmt: skip
    held = [vars(layer)[name] for name in torch_compat.HOOKS]
    assert [list(hooks.values()) for hooks in held] == [[print]] * 4
    for handle in handles:
        handle.remove()
    assert [len(hooks) for hooks in held] == [0] * 4


def test_loading_hooks_are_where_torch_keeps_them():
    layer = nn.Linear(2, 1)
    assert len(torch_compat.loading_hooks(layer)) == 0
    called = []
    layer.register_load_state_dict_pre_hook(lambda *args: called.append(1))
    assert len(torch_compat.loading_hooks(layer)) == 1
    torch_compat.loading_hooks(layer).clear()
    layer.load_state_dict(layer.state_dict())
    assert called == []
    # the one that `weight_norm` leaves, a function inside a function of torch's
    (hook,) = torch_compat.loading_hooks(parametrizations.weight_norm(nn.Linear(2, 1))).values()
    hook = getattr(hook, "hook", hook)
    assert hook.__module__.startswith("torch.") and "<locals>" in hook.__qualname__


def test_the_version_of_a_tensor_counts_what_is_written_to_it():
    tensor = torch.zeros(3)
    before = torch_compat.version(tensor)
    view = tensor[1:]
    view += 1
    assert torch_compat.version(tensor) == torch_compat.version(view) == before + 1
    assert torch_compat.version(tensor + 1) == 0
    with torch.inference_mode():
        uncounted = torch.zeros(3)
        uncounted += 1
    assert torch_compat.version(uncounted) == 0


@pytest.mark.parametrize("layer", [nn.LazyLinear(2), nn.LazyBatchNorm1d(), nn.LazyConv1d(2, 1)])
def test_lazy_tensors_are_those_without_a_shape(layer):
    tensors = [*layer.parameters(), *layer.buffers()]
    lazy = [tensor for tensor in tensors if torch_compat.is_lazy(tensor)]
    assert lazy != []
    buffers = [tensor for tensor in lazy if not isinstance(tensor, nn.Parameter)]
    assert all(isinstance(buffer, torch_compat.UninitializedBuffer) for buffer in buffers)
    assert bool(buffers) == isinstance(layer, nn.LazyBatchNorm1d)
    rows = torch.ones(4, 3, 1) if isinstance(layer, nn.LazyConv1d) else torch.ones(4, 3)
    layer(rows)
    assert not any(map(torch_compat.is_lazy, [*layer.parameters(), *layer.buffers()]))


def test_a_buffer_without_a_shape_is_made_of_nothing():
    buffer = torch_compat.UninitializedBuffer()
    assert torch_compat.is_lazy(buffer) and not isinstance(buffer, nn.Parameter)
    layer = nn.LazyBatchNorm1d()
    layer.running_mean = buffer
    layer(torch.ones(4, 3))
    assert layer.running_mean.shape == (3,)


def test_the_accelerator_is_one_that_is_there():
    found = torch_compat.accelerator()
    assert (found is not None) == torch.accelerator.is_available()
    if found is not None:
        assert torch.ones(1, device=found).device.type == found.type


def test_there_is_no_accelerator_where_torch_names_that_of_its_build(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert torch_compat.accelerator() is None


def test_the_default_device_is_where_tensors_are_made():
    assert torch_compat.default_device() == torch.device("cpu")
    torch.set_default_device("meta")
    try:
        assert torch_compat.default_device() == torch.device("meta")
        with torch.device("cpu"):
            assert torch_compat.default_device() == torch.device("cpu")
    finally:
        torch.set_default_device(None)
    assert torch_compat.default_device() == torch.device("cpu")
    with torch.device("meta"):
        assert torch_compat.default_device() == torch.device("meta")


def test_the_global_generators_are_what_layers_draw_from():
    device = torch.device("cpu")
    generators = torch_compat.global_generators(device)
    assert len(generators) == 1
    before = [generator.get_state() for generator in generators]
    drawn = nn.Linear(3, 2).weight.detach().clone(), nn.Dropout()(torch.ones(20)), torch.randperm(5)
    assert not torch.equal(generators[0].get_state(), before[0])
    for generator, state in zip(generators, before, strict=True):
        generator.set_state(state)
    again = nn.Linear(3, 2).weight.detach().clone(), nn.Dropout()(torch.ones(20)), torch.randperm(5)
    assert all(map(torch.equal, drawn, again))


class Backend:
    """Stands in for a module of torch of a device that is not here."""

    def __init__(self) -> None:
        self.started, self.generators = False, [torch.Generator(), torch.Generator()]

    def init(self) -> None:
        self.started = True

    def current_device(self) -> int:
        return 1

    @property
    def default_generators(self) -> list[torch.Generator]:
        assert self.started  # those of CUDA are an empty tuple before
        return self.generators


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_an_accelerator_has_a_global_generator_of_its_own(kind, monkeypatch):
    backend = Backend()
    monkeypatch.setattr(torch, "get_device_module", lambda device: backend)
    for name, index in ((kind, 1), (f"{kind}:0", 0)):
        found = torch_compat.global_generators(torch.device(name))
        assert found[0] is torch.default_generator and found[1] is backend.generators[index]


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_the_modules_of_accelerators_have_what_is_asked_of_them(kind):
    backend = torch.get_device_module(torch.device(kind))
    assert callable(backend.init) and callable(backend.current_device)
    assert isinstance(backend.default_generators, tuple)
    assert callable(torch.mps._get_default_mps_generator)


# ---- torch: how exact products are ----

HAS_NEWER = hasattr(torch.backends.mkldnn, "matmul")


@pytest.fixture
def as_it_was():
    """Whatever a test sets is undone by torch's own means: all follows the setting of the general one."""
    yield
    torch.set_float32_matmul_precision("highest")
    for operation in operations():
        operation.fp32_precision = "none"


def operations() -> list:
    if not HAS_NEWER:
        return []
    mkldnn, cuda = torch.backends.mkldnn, torch.backends.cuda
    return [mkldnn.matmul, mkldnn.conv, mkldnn.rnn, cuda.matmul]


def test_torch_has_the_newer_interface_from_2_9_on():
    assert HAS_NEWER == (parse_version(torch.__version__) >= parse_version("2.9"))


@pytest.mark.parametrize(("precision", "exact"), [("highest", True), ("high", False), ("medium", False)])
def test_products_are_exact_but_for_the_older_settings(precision, exact, as_it_was):
    assert torch_compat.products_are_exact()
    torch.set_float32_matmul_precision(precision)
    assert torch_compat.products_are_exact() == exact
    before = torch_compat.ProductPrecision()
    before.make_exact()
    assert torch_compat.products_are_exact()
    before.restore()
    assert torch.get_float32_matmul_precision() == precision
    assert torch_compat.products_are_exact() == exact


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("precision", ["tf32", "bf16", "ieee"])
def test_products_are_exact_but_for_the_newer_settings(number, precision, as_it_was):
    operation = operations()[number]
    if number == 3 and precision == "bf16":
        precision = "tf32"  # CUDA has no other
    plain = [each.fp32_precision for each in operations()]
    operation.fp32_precision = precision
    changed = [each.fp32_precision for each in operations()]
    assert changed[number] == precision
    assert torch_compat.products_are_exact() == (precision == "ieee")
    before = torch_compat.ProductPrecision()
    before.make_exact()
    assert torch_compat.products_are_exact()
    before.restore()
    assert [each.fp32_precision for each in operations()] == changed
    operation.fp32_precision = "none"
    assert [each.fp32_precision for each in operations()] == plain


def test_settings_that_the_older_interface_cannot_say_are_restored(as_it_was):
    """Reading the older one raises then, where the newer exists."""
    for operation in operations()[:1]:
        operation.fp32_precision = "bf16"
        with pytest.raises(RuntimeError):
            torch.get_float32_matmul_precision()
    before = torch_compat.ProductPrecision()
    before.make_exact()
    assert torch_compat.products_are_exact()
    before.restore()
    assert torch_compat.products_are_exact() == (not HAS_NEWER)
    assert [operation.fp32_precision for operation in operations()[:1]] == ["bf16"] * HAS_NEWER


def test_an_operation_that_follows_the_general_setting_follows_it_afterwards(as_it_was):
    before = torch_compat.ProductPrecision()
    before.make_exact()
    before.restore()
    torch.set_float32_matmul_precision("medium")
    assert not torch_compat.products_are_exact()


# ---- torch: names of the nodes of graphs ----


def name_of(output: torch.Tensor) -> str:
    return output.grad_fn.name()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.sigmoid, "Sigmoid"), (nn.Sigmoid(), "Sigmoid"), (torch.special.expit, "Sigmoid"),
        (lambda z: z.softmax(dim=1), "Softmax"), (nn.Softmax(dim=1), "Softmax"),
        (nn.LogSoftmax(dim=1), "LogSoftmax"), (lambda z: z.log_softmax(dim=1), "LogSoftmax"),
        (nn.LogSigmoid(), "LogSigmoid"), (nn.Hardsigmoid(), "Hardsigmoid"),
    ],
)  # fmt: skip
def test_what_ends_in_probabilities_is_squashing(function, name):
    found = name_of(function(torch.ones(2, 3, requires_grad=True)))
    match = SQUASHING.fullmatch(found)
    assert match is not None, found
    assert match[1] == name
    assert not MOVING.fullmatch(found) and not LINEAR.fullmatch(found)


@pytest.mark.parametrize(
    "function",
    [nn.Linear(3, 2), nn.Linear(3, 2, bias=False), lambda z: z @ torch.ones(3), lambda z: z.mm(z.T)],
)
def test_layers_without_a_bound_are_linear(function):
    output = function(torch.ones(2, 3, requires_grad=True))
    assert LINEAR.fullmatch(name_of(output)), name_of(output)
    assert not SQUASHING.fullmatch(name_of(output)) and not MOVING.fullmatch(name_of(output))


@pytest.mark.parametrize(
    "function",
    [
        lambda z: z.view(3, 2), lambda z: z.reshape(-1), lambda z: z.T, lambda z: z.transpose(0, 1),
        lambda z: z.permute(1, 0), lambda z: z[:, :1], lambda z: z[:, 0], lambda z: z.unsqueeze(1),
        lambda z: z.unsqueeze(1).squeeze(1), lambda z: z.double(), lambda z: z.clone(),
        lambda z: z.unsqueeze(1).expand(2, 4, 3), lambda z: z.clamp(0, 1), lambda z: z.clamp_min(0),
        lambda z: z.clamp_max(1), lambda z: torch.cat([z, z]), lambda z: torch.stack([z, z]),
        lambda z: z.flatten(), lambda z: z.contiguous().T.reshape(-1),
    ],
)  # fmt: skip
def test_what_moves_or_picks_numbers_is_moving(function):
    output = function(torch.ones(2, 3, requires_grad=True) * 1.0)
    assert MOVING.fullmatch(name_of(output)), name_of(output)
    assert not SQUASHING.fullmatch(name_of(output)) and not LINEAR.fullmatch(name_of(output))


# ---- scikit-learn ----


class Estimator(BaseEstimator):
    _parameter_constraints = {"a": [sklearn_compat.Interval(Real, 0, None, closed="left"), None]}

    def __init__(self, a=1.0):
        self.a = a


def test_constraints_are_where_scikit_learn_keeps_them():
    assert "C" in sklearn_compat.constraints_of(LogisticRegression())
    assert sklearn_compat.constraints_of(LogisticRegression) is LogisticRegression._parameter_constraints
    assert sklearn_compat.constraints_of(Estimator()) is Estimator._parameter_constraints


def test_parameters_are_checked_against_intervals_and_words():
    constraints = {
        "a": [sklearn_compat.Interval(Real, 0, 1, closed="left")],
        "b": [sklearn_compat.StrOptions({"x", "y"})],
        "c": ["boolean"], "d": ["random_state"], "e": ["cv_object"], "f": ["array-like"],
        "g": [callable, None],
    }  # fmt: skip
    good = {"a": 0.0, "b": "x", "c": True, "d": 3, "e": 5, "f": [1], "g": None}
    sklearn_compat.validate_parameter_constraints(constraints, good, caller_name="Name")
    for name, value, words in [
        ("a", 1.0, "range [0.0, 1.0)"), ("a", np.nan, "range [0.0, 1.0)"), ("b", "z", "a str among"),
        ("c", "no", "bool"), ("d", -1, "[0, 4294967295]"), ("e", 1, "[2, inf)"), ("g", 3, "a callable"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="^The '" + name + "' parameter of Name must be") as caught:
            sklearn_compat.validate_parameter_constraints(
                constraints, good | {name: value}, caller_name="Name"
            )
        assert isinstance(caught.value, sklearn_compat.InvalidParameterError)
        assert words in str(caught.value)


def test_feature_names_and_numbers_are_remembered_and_compared():
    X = pd.DataFrame({"a": [1.0], "b": [2.0]})
    estimator = Estimator()
    sklearn_compat.check_feature_names(estimator, X, reset=True)
    sklearn_compat.check_n_features(estimator, X, reset=True)
    assert estimator.feature_names_in_.tolist() == ["a", "b"] and estimator.n_features_in_ == 2
    sklearn_compat.check_feature_names(estimator, X, reset=False)
    sklearn_compat.check_n_features(estimator, X, reset=False)
    with pytest.raises(ValueError, match="feature names should match those that were passed during fit"):
        sklearn_compat.check_feature_names(estimator, X[["b", "a"]], reset=False)
    with pytest.raises(ValueError, match="X has 1 features, but Estimator is expecting 2 features"):
        sklearn_compat.check_n_features(estimator, X[["a"]], reset=False)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        sklearn_compat.check_feature_names(estimator, X.to_numpy(), reset=False)


def test_weights_are_checked():
    X = np.zeros((3, 2))
    assert sklearn_compat.check_sample_weight(None, X).tolist() == [1.0] * 3
    assert sklearn_compat.check_sample_weight(2, X).tolist() == [2.0] * 3
    found = sklearn_compat.check_sample_weight([1, 2, 3], X, dtype=np.float32)
    assert found.dtype == np.float32 and found.tolist() == [1, 2, 3]
    for weight, words in [
        ([1, 2], r"sample_weight.shape == \(2,\), expected \(3,\)"), ([[1], [2], [3]], "must be 1D"),
        ([1, np.nan, 1], "contains NaN"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            sklearn_compat.check_sample_weight(weight, X)


def test_labels_are_checked():
    estimator = LogisticRegression()
    assert sklearn_compat.check_y([1, 0], estimator=estimator).tolist() == [1, 0]
    with pytest.raises(ValueError, match="should be a 1d array"):
        sklearn_compat.check_y(np.zeros((3, 2)), estimator=estimator)
    with pytest.raises(ValueError, match="contains NaN"):
        sklearn_compat.check_y([0.0, np.nan], estimator=estimator)


def test_samples_are_counted():
    for data in ([1, 2, 3], np.zeros((3, 2)), torch.zeros(3, 2)):
        assert sklearn_compat.num_samples(data) == 3
    with pytest.raises(TypeError, match="Expected sequence or array-like"):
        sklearn_compat.num_samples(3)


def test_metadata_without_routing_is_refused():
    estimator = LogisticRegression()
    assert not sklearn_compat.routing_enabled()
    sklearn_compat.raise_for_params({}, estimator, "fit")
    with pytest.raises(ValueError, match="groups"):
        sklearn_compat.raise_for_params({"groups": 1}, estimator, "fit")
    with sklearn.config_context(enable_metadata_routing=True):
        assert sklearn_compat.routing_enabled()
        sklearn_compat.raise_for_params({"groups": 1}, estimator, "fit")


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("accuracy", True),
        ("f1_macro", True),
        ("neg_log_loss", False),
        ("roc_auc", False),
        ("top_k_accuracy", False),
    ],
)
def test_scorers_say_what_they_look_at(name, alone):
    assert sklearn_compat.needs_labels_alone(get_scorer(name)) == alone


def test_a_plain_callable_and_a_scorer_made_of_one_look_at_labels():
    assert sklearn_compat.needs_labels_alone(lambda estimator, X, y: 1.0)
    assert sklearn_compat.needs_labels_alone(make_scorer(lambda y, predicted: 1.0))
    scorer = make_scorer(lambda y, p: 1.0, response_method="predict_proba")
    assert not sklearn_compat.needs_labels_alone(scorer)


# ---- scikit-learn: callbacks ----

HAS_CALLBACKS = parse_version(sklearn.__version__) >= parse_version("1.9")


class Told:
    """A callback in the form that scikit-learn asks for."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    def setup(self, estimator, context) -> None:
        self.tasks.append("setup")

    def teardown(self, estimator, context) -> None:
        self.tasks.append("teardown")

    def on_fit_task_begin(self, estimator, context) -> None:
        self.tasks.append(context.task_name)

    def on_fit_task_end(self, estimator, context) -> bool:
        return False


class Propagated(Told):
    """One that an estimator hands on to those it fits."""

    max_propagation_depth = None


def test_the_classes_are_those_of_scikit_learn_where_it_has_them():
    of_sklearn = sklearn_compat.CallbackSupportMixin.__module__.startswith("sklearn.")
    assert of_sklearn == HAS_CALLBACKS == hasattr(TorchLogisticClassifier, "set_callbacks")
    assert issubclass(TorchLogisticClassifier, sklearn_compat.CallbackSupportMixin)


def test_nobody_is_told_where_nothing_was_set():
    assert sklearn_compat.begin_callbacks(TorchLogisticClassifier(), 3) is None


def test_callbacks_that_were_set_are_found():
    told = Told()
    estimator = TorchLogisticClassifier().set_callbacks(told)
    held, _ = (vars(estimator).get(name) for name in sklearn_compat.CALLBACK_ATTRIBUTES)
    assert list(held) == [told]
    context = sklearn_compat.begin_callbacks(estimator, 3)
    assert context.max_subtasks == 3 and context.subcontext(task_name="iteration").task_name == "iteration"


def test_callbacks_that_were_set_on_a_search_are_found_by_what_it_fits():
    told, rng = Propagated(), np.random.default_rng(0)
    search = GridSearchCV(TorchLogisticClassifier(max_iter=2, tol=None), {"C": [1.0]}, cv=2)
    search.set_callbacks(told).fit(rng.normal(size=(40, 2)), np.arange(40) % 2)
    assert told.tasks.count("iteration") == 6  # two folds and all rows, two iterations each


def test_what_is_decorated_keeps_its_name_its_result_and_its_errors():
    class Fitted(sklearn_compat.CallbackSupportMixin, BaseEstimator):
        @sklearn_compat.with_callbacks
        def fit(self, X, y=None):
            """Fit."""
            if X is None:
                raise KeyError("X")
            return [frame.function for frame in inspect.stack()[:3]]

    assert (Fitted.fit.__name__, Fitted.fit.__doc__) == ("fit", "Fit.")
    assert list(inspect.signature(Fitted.fit).parameters) == ["self", "X", "y"]
    # one frame between, so that warnings name the line of the caller
    inner, _, caller = Fitted().fit(1)
    assert (inner, caller) == ("fit", "test_what_is_decorated_keeps_its_name_its_result_and_its_errors")
    with pytest.raises(KeyError, match="X"):
        Fitted().fit(None)
