"""The losses against formulas in extended precision and against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

from helpers.losses import classes_for
from torch_logreg._losses.losses import LOSSES, Loss

losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def _product(loss, fisher, dz):
    weights = torch.ones(1, dz.shape[2], dtype=dz.dtype)
    return loss.fisher_operator(fisher, weights)(dz.clone())


def _draw(loss: Loss, spread: float, P: int = 1, n: int = 200) -> tuple[Tensor, Tensor]:
    """Raw predictions (P, K, n) of size `spread` and class codes (n,)."""
    generator = torch.Generator().manual_seed(0)
    n_classes = classes_for(loss, 4)
    z = spread * torch.randn(P, loss.n_outputs(n_classes), n, generator=generator, dtype=torch.float64)
    return z, torch.randint(n_classes, (n,), generator=generator)


def _well_predicted(loss: Loss, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows whose class is ahead of the others by 0 to 60, and by no round number."""
    n_classes = classes_for(loss, 4)
    codes = torch.arange(400) % n_classes
    ahead = torch.linspace(0.013, 60.007, 400, dtype=torch.float64)
    if n_classes == 2:
        return (ahead * (2 * codes - 1)).to(dtype)[None, None], codes
    z, _ = _draw(loss, 1.0, n=400)
    z[0, codes, torch.arange(400)] = z[0].amax(dim=0) + ahead
    return z.to(dtype), codes


def _exact(z: Tensor, codes: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Value (P, n), gradient (P, K, n), Fisher matrix (P, n, K, K), probabilities (P, n_classes, n)."""
    logits = z.numpy().astype(np.longdouble)
    binary = logits.shape[1] == 1
    if binary:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    P, K, n = logits.shape
    own = (slice(None), codes.numpy(), np.arange(n))
    others = logits - logits[:, codes.numpy(), np.arange(n)][:, None]
    others[own] = -np.inf
    against = np.logaddexp.reduce(others, axis=1)
    value = np.logaddexp(0, against)
    gradient = np.exp(others - value[:, None])
    gradient[own] = -np.exp(against - value)
    largest = logits.max(axis=1, keepdims=True)
    p = np.exp(logits - largest)
    p /= p.sum(axis=1, keepdims=True)
    fisher = -p[:, :, None] * p[:, None]
    for k in range(K):  # summed from the rest: 1 - p would cancel
        fisher[:, k, k] = p[:, k] * np.delete(p, k, axis=1).sum(axis=1)
    first = 1 if binary else 0
    return value, gradient[:, first:], np.moveaxis(fisher[:, first:, first:], 3, 1), p


def _assert_close(actual: Tensor, exact: np.ndarray, rtol: float) -> None:
    """Relatively close down to the smallest normal number of the dtype."""
    tiny = torch.finfo(actual.dtype).tiny
    np.testing.assert_allclose(actual.numpy(), exact.astype(float), rtol=rtol, atol=tiny)


def _fisher_matrix(loss: Loss, z: Tensor) -> Tensor:
    """The K x K matrix of each row (P, n, K, K), from products with unit vectors."""
    fisher = loss.fisher(z)
    unit = torch.eye(z.shape[1], dtype=z.dtype)
    columns = [_product(loss, fisher, each[:, None].expand_as(z)) for each in unit]
    return torch.stack(columns, dim=-1).permute(0, 2, 1, 3)


def test_the_formulas_here_are_those_of_scipy():
    z, codes = _draw(LOSSES["softmax"], 3.0)
    value, _, _, p = _exact(z, codes)
    logits = z[0].numpy()
    of_scipy = special.logsumexp(logits, axis=0) - logits[codes, range(200)]
    np.testing.assert_allclose(value[0].astype(float), of_scipy, rtol=1e-12)
    np.testing.assert_allclose(p[0].astype(float), special.softmax(logits, axis=0), rtol=1e-13)
    z, codes = _draw(LOSSES["binary"], 3.0)
    of_numpy = np.log1p(np.exp((1 - 2 * codes.numpy()) * z[0, 0].numpy()))
    np.testing.assert_allclose(_exact(z, codes)[0][0].astype(float), of_numpy, rtol=1e-13)


@losses
@dtypes
@pytest.mark.parametrize("spread", [1e-3, 1.0, 30.0])
def test_value_and_gradient_are_relatively_accurate(loss, dtype, spread):
    z, codes = _draw(loss, spread, P=2)
    z = z.to(dtype)
    value, gradient = loss.value_and_gradient(z, loss.encode(codes, dtype))
    exact_value, exact_gradient, _, _ = _exact(z, codes)
    assert value.dtype == gradient.dtype == dtype
    # A difference of two predictions rounds by eps times their size; the exponential passes that on.
    rtol = 4 * torch.finfo(dtype).eps * (2 + 2 * float(z.abs().max()))
    _assert_close(value, exact_value, rtol)
    _assert_close(gradient, exact_gradient, rtol)


@losses
@dtypes
def test_well_predicted_rows_keep_the_relative_accuracy_of_value_and_gradient(loss, dtype):
    z, codes = _well_predicted(loss, dtype)
    value, gradient = loss.value_and_gradient(z, loss.encode(codes, dtype))
    exact_value, exact_gradient, _, _ = _exact(z, codes)
    rtol = 4 * torch.finfo(dtype).eps * float(z.abs().max())
    _assert_close(value, exact_value, rtol)
    _assert_close(gradient, exact_gradient, rtol)
    assert float(value.min()) < 1e-24


@losses
@dtypes
def test_well_predicted_rows_keep_the_relative_accuracy_of_the_fisher_diagonal(loss, dtype):
    z, codes = _well_predicted(loss, dtype)
    exact = np.moveaxis(np.diagonal(_exact(z, codes)[2], axis1=2, axis2=3), 2, 1)
    rtol = 8 * torch.finfo(dtype).eps * float(z.abs().max())
    _assert_close(loss.fisher_diagonal(loss.fisher(z)), exact, rtol)


@losses
@dtypes
def test_well_predicted_rows_keep_the_relative_accuracy_of_fisher_products(loss, dtype):
    z, codes = _well_predicted(loss, dtype)
    dz = torch.ones_like(z)
    dz[:, 0] = -1  # along it no two terms cancel for classes beyond the first
    exact = np.einsum("pnkl,pln->pkn", _exact(z, codes)[2], dz.numpy())
    rtol = 8 * torch.finfo(dtype).eps * float(z.abs().max())
    product = _product(loss, loss.fisher(z), dz)
    size = np.abs(exact).max(axis=1)
    assert np.all(np.abs(product.numpy() - exact).max(axis=1) <= rtol * size + torch.finfo(dtype).tiny)


@losses
@dtypes
def test_predictions_of_800_neither_overflow_nor_round_to_nothing(loss, dtype):
    n_classes = classes_for(loss, 4)
    codes = torch.arange(n_classes).repeat(2)
    z = torch.zeros(1, loss.n_outputs(n_classes), len(codes), dtype=dtype)
    z[0, -1, :n_classes], z[0, -1, n_classes:] = 800.0, -800.0
    value, gradient = loss.value_and_gradient(z, loss.encode(codes, dtype))
    exact_value, exact_gradient, exact_fisher, _ = _exact(z, codes)
    rtol = 4 * torch.finfo(dtype).eps
    _assert_close(value, exact_value, rtol)
    _assert_close(gradient, exact_gradient, rtol)
    _assert_close(_fisher_matrix(loss, z), exact_fisher, rtol)
    assert float(value.max()) >= 800
    assert float(gradient.abs().max()) == 1  # the slope of a row entirely wrong is whole


@losses
def test_gradient_is_the_finite_difference_of_the_value(loss):
    z, codes = _draw(loss, 2.0, P=2)
    target, h = loss.encode(codes, torch.float64), 1e-5
    _, gradient = loss.value_and_gradient(z, target)
    for k in range(z.shape[1]):
        shift = torch.zeros_like(z)
        shift[:, k] = h
        above, below = (loss.value_and_gradient(moved, target)[0] for moved in (z + shift, z - shift))
        # Truncation h²/6 and rounding eps/h are both about 2e-11.
        torch.testing.assert_close(gradient[:, k], (above - below) / (2 * h), rtol=1e-8, atol=1e-9)


@losses
def test_fisher_matrix_is_the_hessian_whatever_the_class(loss):
    z, codes = _draw(loss, 2.0, P=2)
    matrix, h = _fisher_matrix(loss, z), 1e-5
    for shifted_codes in (codes, (codes + 1) % classes_for(loss, 4)):
        target = loss.encode(shifted_codes, torch.float64)
        for k in range(z.shape[1]):
            shift = torch.zeros_like(z)
            shift[:, k] = h
            above, below = (loss.value_and_gradient(moved, target)[1] for moved in (z + shift, z - shift))
            hessian = ((above - below) / (2 * h)).permute(0, 2, 1)  # (P, n, K)
            torch.testing.assert_close(matrix[..., k], hessian, rtol=1e-8, atol=1e-9)


@losses
def test_fisher_products_diagonal_and_factors_are_of_one_matrix(loss):
    z, _ = _draw(loss, 2.0, P=3)
    fisher, K = loss.fisher(z), z.shape[1]
    matrix = _fisher_matrix(loss, z)
    close = {"rtol": 1e-13, "atol": 1e-15}
    torch.testing.assert_close(matrix, matrix.mT, **close)
    torch.testing.assert_close(loss.fisher_diagonal(fisher), matrix.diagonal(dim1=2, dim2=3).mT, **close)
    factor = loss.fisher_factors(fisher)
    outside = (
        torch.zeros_like(matrix) if factor is None else -factor.mT[..., :, None] * factor.mT[..., None, :]
    )
    from_factors = torch.where(torch.eye(K, dtype=torch.bool), matrix, outside)
    torch.testing.assert_close(from_factors, matrix, **close)
    dz = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=z.dtype)
    expected = torch.einsum("pnkl,pln->pkn", matrix, dz)
    torch.testing.assert_close(_product(loss, fisher, dz), expected, **close)
    assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-15


@losses
def test_a_shift_of_all_outputs_is_invisible_exactly_if_the_loss_says_so(loss):
    z, codes = _draw(loss, 2.0)
    target = loss.encode(codes, torch.float64)
    value, _ = loss.value_and_gradient(z, target)
    shifted, gradient = loss.value_and_gradient(z + 1.0, target)
    assert loss.shift_invariant == bool(torch.allclose(value, shifted, rtol=1e-12, atol=1e-14))
    assert loss.shift_invariant == bool(gradient.sum(dim=1).abs().max() < 1e-15)


@losses
@dtypes
@pytest.mark.parametrize("spread", [1.0, 30.0, 1e3, 1e6])
def test_probabilities_sum_to_one_and_rank_as_the_predictions(loss, dtype, spread):
    z = _draw(loss, spread)[0][0].to(dtype)
    p = loss.probability(z)
    assert p.shape == (classes_for(loss, 4), z.shape[1]) and p.dtype == dtype
    assert bool(((p >= 0) & (p <= 1)).all())
    torch.testing.assert_close(p.sum(dim=0), torch.ones_like(p[0]), rtol=4 * torch.finfo(dtype).eps, atol=0)
    best = (z[0] > 0).long() if len(z) == 1 else z.argmax(dim=0)
    assert bool((p.argmax(dim=0) == best).all())


@losses
@dtypes
def test_small_probabilities_keep_their_relative_accuracy(loss, dtype):
    z, codes = _well_predicted(loss, dtype)
    exact = _exact(z, codes)[3][0]
    rtol = 4 * torch.finfo(dtype).eps * float(z.abs().max())
    _assert_close(loss.probability(z[0]), exact, rtol)
    assert 0 < float(loss.probability(z[0]).min()) < 1e-24


@losses
@dtypes
def test_log_probabilities_are_accurate_and_finite_at_a_million(loss, dtype):
    n_outputs = loss.n_outputs(classes_for(loss, 4))
    z = torch.zeros(n_outputs, 4, dtype=dtype)
    z[-1] = torch.tensor([1e6, -1e6, 40.0, -40.0], dtype=dtype)
    log_p = loss.log_probability(z)
    assert bool(torch.isfinite(log_p).all())
    logits = z.numpy().astype(np.longdouble)
    logits = np.concatenate([np.zeros((1, 4)), logits]) if n_outputs == 1 else logits
    rest = np.stack([np.delete(logits, k, axis=0) for k in range(len(logits))]) - logits[:, None]
    exact = -np.logaddexp(0, np.logaddexp.reduce(rest, axis=1)).astype(float)
    # Where p rounds to 1 its logarithm may round to 0: accurate to eps, absolutely.
    eps = torch.finfo(dtype).eps
    np.testing.assert_allclose(log_p.numpy(), exact, rtol=4 * eps, atol=eps)


@losses
@dtypes
def test_problems_together_are_the_problems_alone(loss, dtype):
    z, codes = _draw(loss, 5.0, P=3)
    z, target = z.to(dtype), loss.encode(codes, dtype)
    dz = z.flip(2)

    def everything(z: Tensor, dz: Tensor) -> list[Tensor]:
        fisher = loss.fisher(z)
        factors = [] if loss.fisher_factors(fisher) is None else [loss.fisher_factors(fisher)]
        parts = [_product(loss, fisher, dz), loss.fisher_diagonal(fisher), *factors]
        return [*loss.value_and_gradient(z, target), *parts]

    together = everything(z, dz)
    alone = [everything(z[p : p + 1], dz[p : p + 1]) for p in range(3)]
    eps = torch.finfo(dtype).eps
    for index, batched in enumerate(together):
        looped = torch.cat([parts[index] for parts in alone])
        torch.testing.assert_close(batched, looped, rtol=4 * eps, atol=16 * eps)


@losses
def test_inputs_are_left_as_they_are(loss):
    z, codes = _draw(loss, 2.0)
    target = loss.encode(codes, torch.float64)
    before = z.clone(), codes.clone(), target.clone()
    loss.value_and_gradient(z, target)
    loss.fisher_factors(loss.fisher(z))
    loss.probability(z[0])
    loss.log_probability(z[0])
    assert all(torch.equal(a, b) for a, b in zip(before, (z, codes, target), strict=True))


@losses
@dtypes
def test_the_gradient_alone_is_the_gradient_with_the_value(loss, dtype):
    z, codes = _draw(loss, 5.0, P=2)
    z, target = z.to(dtype), loss.encode(codes, dtype)
    torch.testing.assert_close(loss.gradient(z, target), loss.value_and_gradient(z, target)[1])


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_value_alone_is_the_value_with_the_gradient(loss):
    z = torch.randn(2, loss.n_outputs(3), 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes = torch.arange(50) % classes_for(loss)
    target, given = loss.encode(codes, z.dtype), z.clone()
    value = loss.value(z, target)
    assert value.shape == (2, 50)
    torch.testing.assert_close(value, loss.value_and_gradient(z, target)[0], rtol=1e-15, atol=0)
    torch.testing.assert_close(z, given, rtol=0, atol=0)  # neither overwrites it


@losses
@pytest.mark.parametrize("part", [0.0, 0.3, 1.0])
def test_the_entropy_is_minus_the_conjugate_at_part_of_the_gradient(loss, part):
    z, codes = _draw(loss, 3.0)
    target = loss.encode(codes, z.dtype)
    slope = loss.gradient(z, target)
    p = _exact(z, codes)[3].astype(float)[0]
    q = part * p + (1 - part) * np.eye(len(p))[codes.numpy()].T
    np.testing.assert_allclose(
        loss.entropy(slope, target, part)[0], special.entr(q).sum(axis=0), rtol=1e-12, atol=1e-15
    )


@losses
def test_entropy_and_loss_meet_fenchel_and_young_with_equality(loss):
    """``loss(z) = z @ gradient + entropy(gradient)`` but for the logit of the row's class."""
    z, codes = _well_predicted(loss, torch.float64)
    target = loss.encode(codes, z.dtype)
    value, slope = loss.value_and_gradient(z, target)
    own = z[:, 0] * (codes == 1) if z.shape[1] == 1 else z.gather(1, codes[None, None])[:, 0]
    linear = (z * slope).sum(dim=1) + 0 * own
    np.testing.assert_allclose(linear + loss.entropy(slope, target, 1.0), value, atol=1e-12)
