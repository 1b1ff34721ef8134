"""Quadratic functions with an L1 term, ``u.T H u / 2 + c.T u + sum(t * |u|)``: their minimum.

Their parameters are few and on the host. There is no loop over coordinates: signs of many are predicted at
once, the linear system that they leave is solved, and an exact search along the way there decides which of
them become 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import scipy.linalg

Array: TypeAlias = np.ndarray

RIDGE = 1e-12  # of the mean curvature, where a factorisation fails
ROUNDS = 200  # of predicted signs
# Of the least residual so far, what rounds of more than so many numbers may leave: else proximal steps find
# signs sooner. With fewer numbers they do not, but after so many rounds without a smaller residual.
FEW, SLOW, PATIENCE = 64, 0.5, 8
SETTLING = 20  # rounds in which numbers become 0, of more than `FEW`
BLOCK = 25  # accelerated proximal steps where predicted signs lead nowhere
RESOLVES = 3  # times that signs which came out wrong are dropped at once
CG_STEPS, CG_ACCURACY = 30, 0.1  # of conjugate gradients, and the part of the residual that they leave


class Quadratic(NamedTuple):
    """``u.T H u / 2 + c.T u + sum(t * |u|)``; H by its products, and as a matrix where that is known."""

    product: Callable[[Array], Array]
    matrix: Array | None
    diagonal: Array
    linear: Array
    threshold: Array

    def value(self, u: Array, product: Array) -> float:
        """The function at u, of which H makes `product`."""
        return float(u @ (product / 2 + self.linear) + np.abs(u) @ self.threshold)


# Of a quadratic, which numbers may change and minus its slopes, the step to where these vanish.
Solve: TypeAlias = Callable[[Quadratic, Array, Array], Array]


def nearest(slopes: Array, u: Array, threshold: Array) -> Array:
    """Of the subgradients at u, with `slopes` of the smooth part, the one that is nearest to 0."""
    return np.where(u != 0, slopes + threshold * np.sign(u), shrink(slopes, threshold))


def shrink(u: Array, by: Array | float) -> Array:
    """The minimum of ``|v - u|² / 2 + by * |v|``."""
    return u - np.minimum(np.maximum(u, -by), by)  # `np.clip` takes longer for a few numbers


def minimise(q: Quadratic, u: Array, residual: float) -> Array:
    """The minimum from u, until no subgradient is above `residual`; numbers that are 0 are exactly 0."""
    if q.matrix is None:
        return _by_products(q, u, residual)
    return _by_matrix(q, partial(_by_cholesky, q.matrix), u, residual)


def _by_matrix(q: Quadratic, solve: Solve, u: Array, residual: float) -> Array:
    Hu = q.product(u)
    least, bound, waited = np.inf, None, 0
    for _ in range(ROUNDS):
        found = nearest(Hu + q.linear, u, q.threshold)
        size = float(np.abs(found).max(initial=0.0))
        if size <= residual:
            break
        moved = _to_predicted_signs(q, u, Hu, found, solve)
        waited = 0 if size < least else waited + 1
        stuck = moved is None or waited > PATIENCE or (len(u) > FEW and size > SLOW * least)
        least = min(least, size)
        if moved is not None:
            u, Hu = _settled(q, solve, *moved, residual)
        if stuck:
            bound = _largest_curvature(q) if bound is None else bound
            u, Hu, bound = _further(q, u, Hu, bound)
    return u


def _settled(q: Quadratic, solve: Solve, u: Array, Hu: Array, residual: float) -> tuple[Array, Array]:
    """The minimum over the numbers that are not 0, of which more may become 0 and none leaves it.

    Where there is next to no curvature a way leads past many zeros, and each round ends at the first of them.
    """
    for _ in range(len(u) if len(u) <= FEW else SETTLING):
        found = np.where(u != 0, nearest(Hu + q.linear, u, q.threshold), 0.0)
        if np.abs(found).max(initial=0.0) <= residual:
            return u, Hu
        moved = _to_predicted_signs(q, u, Hu, found, solve)
        if moved is None or np.count_nonzero(moved[0]) == np.count_nonzero(u):
            return (u, Hu) if moved is None else moved
        u, Hu = moved
    return u, Hu


def _by_products(q: Quadratic, u: Array, residual: float) -> Array:
    """Proximal steps find the signs, and conjugate gradients the numbers that have them."""
    Hu, bound = q.product(u), _largest_curvature(q)
    least, waited = np.inf, 0
    for _ in range(ROUNDS):
        found = nearest(Hu + q.linear, u, q.threshold)
        size = float(np.abs(found).max(initial=0.0))
        waited = 0 if size < least else waited + 1
        least = min(least, size)
        if size <= residual or waited > PATIENCE:
            break
        u, Hu, bound = _further(q, u, Hu, bound)
        found = np.where(u != 0, nearest(Hu + q.linear, u, q.threshold), 0.0)
        moved = _to_predicted_signs(q, u, Hu, found, _by_conjugate_gradients)
        if moved is not None:
            u, Hu = moved
    return u


def _further(q: Quadratic, u: Array, Hu: Array, bound: float) -> tuple[Array, Array, float]:
    """A block of proximal steps; a bound of the curvature that was too small is doubled."""
    reached = _accelerated(q, u, bound)
    product = q.product(reached)
    if q.value(reached, product) <= q.value(u, Hu):
        return reached, product, bound
    return u, Hu, 2 * bound


def _to_predicted_signs(
    q: Quadratic, u: Array, Hu: Array, found: Array, solve: Solve
) -> tuple[Array, Array] | None:
    """Go to where the slopes vanish if signs stay as they are predicted; None if that does not lead down."""
    signs = np.where(u != 0, np.sign(u), -np.sign(found))
    slopes = Hu + q.linear
    for attempt in range(RESOLVES + 1):
        active = signs != 0
        if not active.any():
            return None
        direction = np.zeros_like(u)
        direction[active] = solve(q, active, -(slopes + q.threshold * signs))
        # One that leaves 0 against its sign would only raise the L1 term.
        wrong = (u == 0) & (direction * signs < 0)
        if not wrong.any():
            break
        if attempt == RESOLVES - 1:
            signs = np.where(u != 0, signs, 0.0)
        else:
            signs[wrong] = 0.0
    product, whole = q.product(direction), u + direction
    if (whole * signs >= 0).all() and float((slopes + q.threshold * signs) @ direction) < 0:
        return whole, Hu + product  # the minimum, as no sign changes on the way
    length = search(u, direction, float(slopes @ direction), float(product @ direction), q.threshold)
    if length is None:
        return None
    there = _at(u, direction, length), Hu + length * product
    if length == 1.0:
        return there
    # All that would change their sign on the whole way are 0 at once: a search may stop at the first of many.
    cut = whole
    cut[(cut * signs < 0) | (signs == 0)] = 0.0
    of_cut = q.product(cut)
    return (cut, of_cut) if q.value(cut, of_cut) < q.value(*there) else there


def search(u: Array, direction: Array, slope: float, curvature: float, threshold: Array) -> float | None:
    """The best length of a step along which the smooth part has that slope and curvature.

    The L1 term bends where a number passes 0. None if no length leads down.
    """
    moving = direction != 0
    u, direction = u[moving], direction[moving]
    weights = threshold[moving] * np.abs(direction)
    slope += float(np.where(u != 0, np.sign(u) * np.sign(direction), 1.0) @ weights)
    if slope >= 0:
        return None
    crossing = u * direction < 0
    at = -u[crossing] / direction[crossing]
    order = np.argsort(at)
    at, jumps = at[order], 2 * weights[crossing][order]
    before = slope + curvature * at + np.concatenate([[0.0], np.cumsum(jumps)[:-1]]) if len(at) else at
    after = before + jumps
    first = int(np.argmax(after >= 0)) if (after >= 0).any() else len(at)
    if first < len(at) and before[first] <= 0:
        return float(at[first])
    passed = slope + float(jumps[:first].sum())
    if curvature <= 0:
        return float(at[-1]) if len(at) else None
    return -passed / curvature


def _at(u: Array, direction: Array, length: float) -> Array:
    """The point there; a number that passes 0 just there is 0."""
    reached = u + length * direction
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        zero = (u != 0) & (direction != 0) & (-u / direction == length)
    reached[zero] = 0.0
    return reached


def _by_cholesky(matrix: Array, q: Quadratic, active: Array, target: Array) -> Array:
    index = active.nonzero()[0]
    wanted = target[index]
    ridge = RIDGE * max(float(q.diagonal.sum()) / len(q.diagonal), np.finfo(float).tiny)
    added = 0.0
    for _ in range(8):
        # By rows and then by columns, which takes less time than both at once.
        some = matrix.take(index, axis=0).take(index, axis=1)
        if added:
            some.flat[:: len(some) + 1] += added
        # Straight to LAPACK: what is around it in scipy takes longer than to solve a system of a few numbers.
        # It is given the transpose, which is the same matrix in the order that it would else be copied to.
        _, found, failed = scipy.linalg.lapack.dposv(some.T, wanted, lower=1, overwrite_a=1)
        if not failed:
            return found
        added, ridge = added + ridge, 100 * ridge
    return target[active] / np.maximum(q.diagonal[active], ridge)


def _by_conjugate_gradients(q: Quadratic, active: Array, target: Array) -> Array:
    """Preconditioned by the diagonal."""

    def times(v: Array) -> Array:
        wide = np.zeros(len(active))
        wide[active] = v
        return q.product(wide)[active]

    inverse = 1 / np.maximum(q.diagonal[active], RIDGE * q.diagonal.max(initial=1.0))
    x, r = np.zeros(int(active.sum())), target[active]
    z = inverse * r
    p, rz, enough = z, float(r @ z), CG_ACCURACY**2 * float(r @ (inverse * r))
    for _ in range(CG_STEPS):
        if rz <= enough:
            break
        Hp = times(p)
        curvature = float(p @ Hp)
        if curvature <= 0:
            break
        x, r = x + rz / curvature * p, r - rz / curvature * Hp
        z = inverse * r
        rz, before = float(r @ z), rz
        p = z + rz / before * p
    return x


def _largest_curvature(q: Quadratic) -> float:
    """A bound of the eigenvalues: of a matrix a norm, else an estimate that `_accelerated` corrects."""
    if q.matrix is not None:
        return float(min(np.abs(q.matrix).sum(axis=1).max(), np.linalg.norm(q.matrix)))
    v = np.sqrt(q.diagonal)
    for _ in range(4):
        v = q.product(v / max(np.linalg.norm(v), np.finfo(float).tiny))
    return 1.1 * float(np.linalg.norm(v))


def _accelerated(q: Quadratic, u: Array, bound: float) -> Array:
    """Proximal steps with momentum, begun anew where it leads up (O'Donoghue, Candès 2015)."""
    if bound <= 0:
        return u
    v, momentum = u, 1.0
    for _ in range(BLOCK):
        reached = shrink(v - (q.product(v) + q.linear) / bound, q.threshold / bound)
        if float((v - reached) @ (reached - u)) > 0:
            v, momentum = u, 1.0
            continue
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        v = reached + (momentum - 1) / following * (reached - u)
        u, momentum = reached, following
    return u
