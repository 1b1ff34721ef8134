"""F of a module and its derivatives, against hand-written torch, finite differences and the linear model."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn
from torch.nn import functional as F

from helpers.objectives import streamed_objective
from torch_logreg._contracts.rows import Block
from torch_logreg._data.arrays import ArrayRows
from torch_logreg._losses.criteria import resolve_criterion
from torch_logreg._losses.losses import LOSSES
from torch_logreg._modules.build import build_module
from torch_logreg._modules.objective import ModuleObjective
from torch_logreg._runtime.random import RandomStream

CPU = torch.device("cpu")
N, D = 60, 4

CRITERIA = {
    "binary": (None, 2),
    "binary, two outputs": (nn.CrossEntropyLoss(), 2),
    "softmax": (None, 3),
    "pos_weight": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), 2),
    "label_smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), 3),
}
criteria = pytest.mark.parametrize(("criterion", "n_classes"), CRITERIA.values(), ids=CRITERIA)


def _data(n_classes=2, n=N):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, D)) * (rng.random((n, D)) < 0.7)
    return X, rng.integers(0, n_classes, size=n), rng.integers(1, 4, size=n).astype(float)


def _rows(X, codes, weights, dtype=torch.float64, blocks=1):
    features = X if scipy.sparse.issparse(X) else torch.from_numpy(X).to(dtype)
    n_outputs = 2**20 * blocks // len(codes)  # of which ArrayRows makes so many blocks
    return ArrayRows(
        features, torch.from_numpy(codes), torch.from_numpy(weights[None]).to(dtype), max(1, n_outputs)
    )


def _built(module, n_outputs=1, dtype=torch.float64, seed=0):
    with RandomStream(seed, CPU).running():
        return build_module(module, D, n_outputs, dtype, CPU)


def mlp(n_features, n_outputs):
    return nn.Sequential(nn.Linear(n_features, 5), nn.Tanh(), nn.Linear(5, n_outputs))


def noisy(n_features, n_outputs):
    return nn.Sequential(
        nn.Linear(n_features, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, n_outputs)
    )


def _objective(module=mlp, criterion=None, n_classes=2, C=0.7, dtype=torch.float64, data=None):
    X, codes, weights = _data(n_classes) if data is None else data
    rule = resolve_criterion(criterion, n_classes)
    built = _built(module, rule.n_outputs, dtype)
    return ModuleObjective(_rows(X, codes, weights, dtype), built, rule, C)


def _block(objective, part=slice(None)):
    whole = next(iter(objective.rows.blocks()))
    return Block(whole.X[part], whole.target[part], whole.weights[:, part])


def _at(objective, seed=0):
    shape = (1, objective.n_parameters)
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (0.5 * w).to(objective.dtype)


# ---- F over all rows ----


@pytest.mark.parametrize("C", [0.7, np.inf])
def test_value_and_gradient_are_those_of_hand_written_torch(C):
    X, codes, weights = _data()
    objective = _objective(C=C)
    w = objective.start()
    module = objective.module_at(w)
    X, y, s = torch.from_numpy(X), torch.from_numpy(codes).double(), torch.from_numpy(weights)
    losses = nn.BCEWithLogitsLoss(reduction="none")(module(X)[:, 0], y)
    penalty = sum(p.square().sum() for name, p in module.named_parameters() if "weight" in name) / 2
    expected = (s * losses).sum() / s.sum() + penalty / (C * s.sum())
    expected.backward()
    gradient = torch.cat([p.grad.flatten() for p in module.parameters()])[None]
    found, found_gradient = objective.value_and_gradient(w)
    assert found.shape == (1,) and found_gradient.shape == (1, objective.n_parameters)
    torch.testing.assert_close(found, expected.detach()[None], rtol=1e-13, atol=0)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-11, atol=1e-14)
    assert torch.equal(objective.value(w), found)


@criteria
@pytest.mark.parametrize("module", [None, mlp, noisy], ids=["linear", "mlp", "noisy"])
def test_gradient_is_the_finite_difference_of_the_value(module, criterion, n_classes):
    objective = _objective(module, criterion, n_classes)
    w, h = _at(objective), 1e-6
    _, gradient = objective.value_and_gradient(w)
    for j in range(objective.n_parameters):
        shift = torch.zeros_like(w)
        shift[0, j] = h
        difference = objective.value(w + shift) - objective.value(w - shift)
        torch.testing.assert_close(gradient[:, j], difference / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["dense", "CSR"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_linear_module_has_the_value_and_gradient_of_the_linear_model(n_classes, kind):
    X, codes, weights = _data(n_classes)
    loss = LOSSES["binary" if n_classes == 2 else "softmax"]
    K = loss.n_outputs(n_classes)
    encoded = loss.encode(torch.from_numpy(codes), torch.float64)
    given = X if kind == "dense" else scipy.sparse.csr_array(X)
    features = torch.from_numpy(X) if kind == "dense" else given
    linear = streamed_objective(
        ArrayRows(features, encoded, torch.from_numpy(weights[None]), K),
        loss,
        torch.tensor([0.7], dtype=torch.float64),
        K,
        True,
    )
    objective = _objective(None, None, n_classes, data=(given, codes, weights))
    w = _at(objective)
    coef, intercept = w[:, : K * D].view(1, K, D), w[:, K * D :]
    value, gradient = linear.value_and_gradient(linear.coordinates.from_raw(coef, intercept))
    found, found_gradient = objective.value_and_gradient(w)
    torch.testing.assert_close(found, value, rtol=1e-13, atol=0)
    # By the chain rule: w of the linear model is a linear function of the raw coefficients.
    _, pulled = torch.func.vjp(lambda c, b: linear.coordinates.from_raw(c, b), coef, intercept)
    of_coef, of_intercept = pulled(gradient)
    expected = torch.cat([of_coef.reshape(1, -1), of_intercept], dim=1)
    if n_classes == 3:  # the linear model leaves out of its gradient what only shifts all outputs
        found_gradient = _centred(found_gradient, K)
        expected = _centred(expected, K)
    torch.testing.assert_close(found_gradient, expected, rtol=1e-11, atol=1e-13)


def _centred(gradient, K):
    coef, intercept = gradient[:, : K * D].view(K, D), gradient[:, K * D :].view(K, 1)
    return torch.cat([part - part.mean(dim=0) for part in (coef, intercept)], dim=1)


def test_weights_are_repeated_rows():
    X, codes, weights = _data()
    times = weights.astype(int)
    repeated = X.repeat(times, axis=0), codes.repeat(times), np.ones(times.sum())
    weighted, of_repeats = _objective(), _objective(data=repeated)
    w = _at(weighted)
    for one, other in zip(weighted.value_and_gradient(w), of_repeats.value_and_gradient(w), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_blocks_and_chunks_change_nothing_and_every_row_is_read_once(limits):
    X, codes, weights = _data()
    whole = _objective()
    limits(forward_rows=7)
    rule = resolve_criterion(None, 2)
    parted = ModuleObjective(_rows(X, codes, weights, blocks=4), _built(mlp), rule, 0.7)
    assert len(list(parted.rows.blocks())) >= 4
    w, before = _at(whole), parted.rows.rows_read
    for one, other in zip(whole.value_and_gradient(w), parted.value_and_gradient(w), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)
    assert parted.rows.rows_read == before + N


def test_float32_modules_have_float32_gradients_and_float64_values():
    exact, rounded = _objective(), _objective(dtype=torch.float32)
    w = _at(exact).float()
    value, gradient = rounded.value_and_gradient(w)
    assert (rounded.dtype, value.dtype, gradient.dtype) == (torch.float32, torch.float64, torch.float32)
    expected, expected_gradient = exact.value_and_gradient(w.double())
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=1e-6)


def test_the_penalty_is_on_weights_alone():
    penalised, free = _objective(noisy, C=0.01), _objective(noisy, C=np.inf)
    w = _at(penalised)
    difference = (penalised.value_and_gradient(w)[1] - free.value_and_gradient(w)[1])[0]
    named = dict(penalised.module.named_parameters())
    parts = dict(zip(named, difference.split([p.numel() for p in named.values()]), strict=True))
    assert {name for name, part in parts.items() if part.any()} == {"0.weight", "4.weight"}
    strength = 1 / (0.01 * float(penalised.weight_sum))
    torch.testing.assert_close(parts["0.weight"], strength * w[0, :20], rtol=1e-9, atol=1e-10)


def test_frozen_parameters_are_no_part_of_w_and_stay():
    module = mlp(D, 1).double()
    module[0].requires_grad_(False)
    before = module[0].weight.clone()
    objective = _objective(module)
    assert objective.n_parameters == 6
    objective.value_and_gradient(_at(objective))
    assert torch.equal(objective.module[0].weight, before)
    penalty = objective.strength / 2 * _at(objective)[0, :5].square().sum()
    free = _objective(module, C=np.inf).value(_at(objective))
    torch.testing.assert_close(objective.value(_at(objective)), free + penalty, rtol=1e-13, atol=0)


def test_tied_weights_are_one_parameter():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(D, D)
            self.two, self.last = nn.Linear(D, D), nn.Linear(D, 1)
            self.two.weight = self.one.weight

        def forward(self, X):
            return self.last(self.two(torch.tanh(self.one(X))))

    objective = _objective(Tied())
    assert objective.n_parameters == D * D + 2 * D + D + 1
    w, h = _at(objective), 1e-6
    _, gradient = objective.value_and_gradient(w)
    shift = torch.zeros_like(w)
    shift[0, 3] = h
    difference = (objective.value(w + shift) - objective.value(w - shift)) / (2 * h)
    torch.testing.assert_close(gradient[:, 3], difference, rtol=1e-6, atol=1e-9)
    module = objective.module_at(w)
    assert module.two.weight is module.one.weight


def test_parameters_without_a_part_in_the_output_have_the_gradient_zero():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(D, 1), nn.Linear(2, 2)

        def forward(self, X):
            return self.used(X)

    objective = _objective(Partly(), C=np.inf)
    _, gradient = objective.value_and_gradient(_at(objective))
    assert not gradient[0, D + 1 :].any() and bool(gradient[0, : D + 1].all())


def test_sparse_gradients_of_embeddings_are_made_dense():
    class Embedded(nn.Module):
        def __init__(self, sparse=True):
            super().__init__()
            self.table, self.last = nn.Embedding(3, 2, sparse=sparse), nn.Linear(2, 1)

        def forward(self, X):
            return self.last(self.table((X[:, 0] > 0).long()))

    sparse, dense = _objective(Embedded()), _objective(Embedded(sparse=False))
    w = _at(sparse)
    assert torch.equal(sparse.value_and_gradient(w)[1], dense.value_and_gradient(w)[1])


def test_lazy_modules_and_all_links_work():
    for module, criterion, n_classes in [
        (nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.LazyLinear(1)), None, 2),
        (nn.Sequential(nn.Linear(D, 1), nn.Sigmoid()), nn.BCELoss(), 2),
        (nn.Sequential(nn.Linear(D, 3), nn.LogSoftmax(dim=1)), nn.NLLLoss(), 3),
    ]:
        objective = _objective(module, criterion, n_classes)
        value, gradient = objective.value_and_gradient(objective.start())
        assert bool(torch.isfinite(value)) and bool(gradient.any())


def test_a_sigmoid_module_under_bce_is_the_linear_module_under_logits():
    data = _data()
    linear = nn.Linear(D, 1)
    logits = _objective(linear, data=data)
    probabilities = _objective(nn.Sequential(linear, nn.Sigmoid()), nn.BCELoss(), data=data)
    w = _at(logits)
    for one, other in zip(logits.value_and_gradient(w), probabilities.value_and_gradient(w), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-14)


def test_a_module_that_does_not_fit_the_criterion_raises_at_once():
    with pytest.raises(ValueError, match="gives 2 outputs a row.*needs 3"):
        _objective(nn.Linear(D, 2), None, 3)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_the_callers_grad_mode_does_not_matter_and_stays(mode):
    objective = _objective()
    w = objective.start()
    expected = objective.value_and_gradient(w)
    with mode():
        inside = torch.is_grad_enabled()
        found = objective.value_and_gradient(w)
        objective.batch_value_and_gradient(w, _block(objective), N)
        objective.batch_value(w, _block(objective), N)
        assert torch.is_grad_enabled() is inside
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not any(tensor.requires_grad for tensor in found)
    assert all(p.grad is None for p in objective.module.parameters())


# ---- where the weights are ----


def test_the_start_is_the_module_as_it_was_built():
    objective = _objective(noisy)
    built = _built(noisy)
    expected = torch.cat([p.detach().flatten() for p in built.parameters()])[None]
    assert torch.equal(objective.start(), expected)


def test_weights_given_are_never_written_to_and_are_read_where_they_are():
    objective = _objective()
    w, other = objective.start(), _at(objective)
    kept, kept_other = w.clone(), other.clone()
    value, _ = objective.value_and_gradient(w)
    objective.value_and_gradient(other)
    assert torch.equal(w, kept) and torch.equal(other, kept_other)
    assert torch.equal(objective.value(w), value)
    w.mul_(2)  # as a torch optimizer does
    assert torch.equal(next(objective.module.parameters()).flatten(), w[0, : 5 * D])
    assert torch.equal(objective.value(w), objective.value(2 * kept))


def test_a_torch_optimizer_on_w_is_one_on_the_parameters():
    objective = _objective()
    reference = objective.module_at(objective.start())
    by_hand = torch.optim.SGD(reference.parameters(), lr=0.5, momentum=0.9)
    w = nn.Parameter(objective.start())
    flat = torch.optim.SGD([w], lr=0.5, momentum=0.9)
    X, codes, weights = (torch.from_numpy(array) for array in _data())
    for _ in range(20):
        w.grad = objective.value_and_gradient(w)[1]
        flat.step()
        by_hand.zero_grad()
        losses = F.binary_cross_entropy_with_logits(reference(X)[:, 0], codes.double(), reduction="none")
        penalty = sum(p.square().sum() for name, p in reference.named_parameters() if "weight" in name)
        ((weights * losses).sum() / weights.sum() + objective.strength / 2 * penalty).backward()
        by_hand.step()
    expected = torch.cat([p.detach().flatten() for p in reference.parameters()])[None]
    torch.testing.assert_close(w.detach(), expected, rtol=1e-10, atol=1e-12)


def test_a_module_at_some_weights_is_a_copy_in_eval_mode_with_memory_of_its_own():
    objective = _objective(noisy)
    w = _at(objective)
    module = objective.module_at(w)
    assert not module.training and not module[1].training
    assert torch.equal(torch.cat([p.detach().flatten() for p in module.parameters()]), w[0])
    for parameter in module.parameters():
        assert parameter.untyped_storage().nbytes() == parameter.nbytes
    kept = w.clone()
    w.zero_()
    assert torch.equal(torch.cat([p.detach().flatten() for p in module.parameters()]), kept[0])


# ---- minibatches ----


def test_batches_are_divided_by_the_nominal_size_so_that_their_mean_is_the_whole():
    objective = _objective(C=0.05)
    w = _at(objective)
    value, gradient = objective.value_and_gradient(w)
    size = 7  # the last batch has 4 rows
    batches = [slice(start, start + size) for start in range(0, N, size)]
    parts = [objective.batch_value_and_gradient(w, _block(objective, part), size) for part in batches]
    share = size / N
    penalty = objective.strength / 2 * (w * objective._penalised).square().sum()
    of_penalty = objective.strength * w * objective._penalised
    summed = sum(part[0] - penalty for part in parts) * share + penalty
    summed_gradient = sum(part[1] - of_penalty for part in parts) * share + of_penalty
    torch.testing.assert_close(summed, value, rtol=1e-12, atol=0)
    torch.testing.assert_close(summed_gradient, gradient, rtol=1e-10, atol=1e-13)


def test_a_batch_of_all_rows_is_the_whole_where_no_layer_is_random():
    objective = _objective()
    w = _at(objective)
    whole = objective.value_and_gradient(w)
    batch = objective.batch_value_and_gradient(w, _block(objective), N)
    for one, other in zip(whole, batch, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(objective.batch_value(w, _block(objective), N), whole[0], rtol=1e-13, atol=0)


def test_sparse_batches_are_dense_batches():
    X, codes, weights = _data()
    dense, sparse = _objective(noisy), _objective(noisy, data=(scipy.sparse.csr_array(X), codes, weights))
    w = _at(dense)
    blocks = [next(iter(objective.rows.blocks())) for objective in (dense, sparse)]
    one = dense.batch_value_and_gradient(w, blocks[0], N)
    other = sparse.batch_value_and_gradient(w, blocks[1], N)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_gradient_of_a_batch_is_the_finite_difference_of_its_value_at_the_same_randomness():
    objective = _objective(noisy)
    w, h, block = _at(objective), 1e-6, _block(objective, slice(0, 20))
    value, gradient = objective.batch_value_and_gradient(w, block, 20)
    assert torch.equal(objective.batch_value(w, block, 20), value)
    for j in range(0, objective.n_parameters, 3):
        shift = torch.zeros_like(w)
        shift[0, j] = h
        difference = objective.batch_value(w + shift, block, 20) - objective.batch_value(w - shift, block, 20)
        torch.testing.assert_close(gradient[:, j], difference / (2 * h), rtol=1e-5, atol=1e-7)


def test_each_batch_has_its_own_randomness_and_trials_do_not_change_the_next():
    plain, searched = _objective(noisy), _objective(noisy)
    w = _at(plain)
    values = {"plain": [], "searched": []}
    for _ in range(3):
        block = _block(plain)
        values["plain"].append(float(plain.batch_value_and_gradient(w, block, N)[0]))
        values["searched"].append(float(searched.batch_value_and_gradient(w, block, N)[0]))
        for _ in range(3):
            searched.batch_value(w / 2, block, N)
    assert values["plain"] == values["searched"]
    assert len(set(values["plain"])) == 3


def test_dropout_is_off_and_statistics_stand_still_over_all_rows():
    objective = _objective(noisy)
    w = _at(objective)
    objective.batch_value_and_gradient(w, _block(objective), N)
    statistics = objective.module[1].running_mean.clone()
    assert bool(statistics.any())
    first = objective.value_and_gradient(w)
    assert all(torch.equal(a, b) for a, b in zip(first, objective.value_and_gradient(w), strict=True))
    assert torch.equal(objective.module[1].running_mean, statistics)


def test_statistics_are_updated_by_a_batch_and_not_by_a_trial():
    objective = _objective(noisy)
    w, block = _at(objective), _block(objective)
    with torch.no_grad():
        hidden = objective.module_at(w)[0](block.X)
    objective.batch_value_and_gradient(w, block, N)
    norm = objective.module[1]
    torch.testing.assert_close(norm.running_mean, 0.1 * hidden.mean(dim=0), rtol=1e-12, atol=1e-15)
    assert norm.num_batches_tracked == 1
    mean = norm.running_mean.clone()
    objective.batch_value(2 * w, block, N)
    assert torch.equal(norm.running_mean, mean) and norm.num_batches_tracked == 1


def test_a_batch_of_one_row_does_not_fail_in_batch_norm():
    objective = _objective(noisy)
    w = _at(objective)
    _, gradient = objective.batch_value_and_gradient(w, _block(objective, slice(0, 1)), 8)
    assert bool(torch.isfinite(gradient).all())
    objective.batch_value_and_gradient(w, _block(objective), N)
    assert objective.module[1].num_batches_tracked == 1


def test_layers_that_the_user_put_in_eval_mode_stay_in_it():
    module = noisy(D, 1)
    module[1].eval()
    objective = _objective(module)
    w = _at(objective)
    objective.batch_value_and_gradient(w, _block(objective), N)
    assert not objective.module[1].running_mean.any()
    assert objective.module[3].training


def test_a_module_given_in_eval_mode_is_trained_all_the_same():
    objective = _objective(noisy(D, 1).eval())
    w = _at(objective)
    objective.batch_value_and_gradient(w, _block(objective), N)
    assert bool(objective.module[1].running_mean.any())


def test_a_snapshot_holds_weights_and_buffers():
    objective = _objective(noisy)
    w, block = objective.start(), _block(objective)
    objective.batch_value_and_gradient(w, block, N)
    snapshot, value, kept = objective.snapshot(w), objective.value(w), w.clone()
    w.add_(1)
    objective.batch_value_and_gradient(w, block, N)
    assert not torch.equal(objective.value(w), value)
    restored = objective.restore(snapshot)
    assert torch.equal(restored, kept) and torch.equal(objective.value(restored), value)
    assert objective.module[1].num_batches_tracked == 1
    objective.batch_value_and_gradient(restored, block, N)
    assert torch.equal(objective.value(objective.restore(snapshot)), value)


def test_two_objectives_may_share_a_module():
    training = _objective(noisy)
    X, codes, weights = _data(n=30)
    validation = ModuleObjective(_rows(X, codes, weights), training.module, training.criterion, np.inf)
    w = _at(training)
    value = training.value(w)
    batch = training.batch_value_and_gradient(w, _block(training), N)[0]
    validation.value(2 * w)
    assert not torch.equal(training.value(w), value)  # its statistics have moved on
    again = _objective(noisy)
    assert torch.equal(again.batch_value_and_gradient(w, _block(again), N)[0], batch)
    assert torch.equal(again.value(w), training.value(w))


# ---- global state ----


def test_the_global_generator_is_the_same_after_every_method():
    torch.rand(2)
    before = torch.get_rng_state()
    objective = _objective(noisy)
    w, block = objective.start(), _block(objective)
    objective.value_and_gradient(w)
    objective.batch_value_and_gradient(w, block, N)
    objective.batch_value(w, block, N)
    objective.module_at(w)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_and_buffers_are_the_same_after_an_error():
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.fail = noisy(D, 1), False

        def forward(self, X):
            output = self.layers(X)
            if self.fail:
                raise ZeroDivisionError
            return output

    objective = _objective(Failing())
    before = torch.get_rng_state()
    w, block = objective.start(), _block(objective)
    objective.batch_value_and_gradient(w, block, N)
    mean = objective.module.layers[1].running_mean.clone()
    objective.module.fail = True
    with pytest.raises(ZeroDivisionError):
        objective.batch_value(w, block, N)
    assert torch.equal(objective.module.layers[1].running_mean, mean)
    for call in (objective.value_and_gradient, objective.value):
        with pytest.raises(ZeroDivisionError):
            call(w)
    with pytest.raises(ZeroDivisionError):
        objective.batch_value_and_gradient(w, block, N)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_module_that_is_random_even_in_eval_mode_leaves_the_global_generator_alone():
    class Always(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(D, 1)

        def forward(self, X):
            return self.linear(F.dropout(X))

    module = Always()
    before = torch.get_rng_state()
    objective = _objective(module)
    objective.value_and_gradient(objective.start())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_randomness_is_that_of_the_stream_given():
    X, codes, weights = _data()
    values = []
    for seed in (1, 1, 2):
        rule = resolve_criterion(None, 2)
        objective = ModuleObjective(
            _rows(X, codes, weights), _built(noisy), rule, 1.0, RandomStream(seed, CPU)
        )
        values.append(float(objective.batch_value_and_gradient(objective.start(), _block(objective), N)[0]))
    assert values[0] == values[1] != values[2]


@pytest.mark.processes
def test_modules_work_on_a_device_that_is_not_the_cpu():
    # In a process of its own: torch can start its lazy backend once, and never stop it. No BatchNorm: that
    # backend updates its statistics when it pleases, after they were put back too.
    script = """
        import torch
        import torch._lazy.ts_backend
        torch._lazy.ts_backend.init()
        from torch import nn
        from torch_logreg._losses.criteria import resolve_criterion
        from torch_logreg._modules.build import build_module
        from torch_logreg._modules.objective import ModuleObjective
        from torch_logreg._data.arrays import ArrayRows
        from torch_logreg._runtime.random import RandomStream

        g = torch.Generator().manual_seed(0)
        X, codes = torch.randn(40, 4, generator=g), torch.randint(0, 2, (40,), generator=g)
        module = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 1))
        results = []
        for name in ("cpu", "lazy"):
            device, rule = torch.device(name), resolve_criterion(None, 2)
            rows = ArrayRows(X.to(device), codes.to(device), torch.ones(1, 40).to(device), 1)
            built = build_module(module, 4, 1, torch.float32, device)
            objective = ModuleObjective(rows, built, rule, 1.0, RandomStream(0, device))
            w, (block,) = objective.start(), rows.blocks()
            found = []
            for _ in range(3):
                value, gradient = objective.batch_value_and_gradient(w, block, 40)
                w.sub_(0.1 * gradient)
                found += [value, gradient, objective.batch_value(w, block, 40)]
            snapshot = objective.snapshot(w)
            found += [*objective.value_and_gradient(objective.restore(snapshot)), w]
            results.append([tensor.cpu() for tensor in found])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
