"""The optimum of penalised logistic regression, by a Newton method in float64 numpy.

What the package's answers are judged by. It minimises::

    F(W, b) = sum_i s_i * loss_i + 0.5 * |W|^2 / C

with the intercept ``b`` unpenalised and ``C = inf`` for no penalty. Two classes: the logistic loss of one
weight vector, ``coef`` of shape (1, d). More: the softmax loss, ``coef`` of shape (K, d). ``objective`` is
``C * F``, scikit-learn's normalisation, and ``F`` itself where ``C`` is inf.

How it stays accurate on raw columns: the optimum lies in the row space of the centred rows (with a penalty
because leaving it only costs, without one because the minimum-norm optimum is wanted), so the problem is
solved for coefficients of a maximal set of independent, standardised columns, where it is never singular.
Softmax coefficients are solved for in an orthonormal basis of the vectors that sum to zero over classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import linalg, optimize, sparse, special
from threadpoolctl import threadpool_limits

GRADIENT_BOUND = 1e-12
RANK_TOLERANCE = 1e-11  # a standardised column this close to the span of others is taken to be in it
MAX_STEPS = 300

Array = np.ndarray


class Optimum(NamedTuple):
    """What `solve` found.

    `gradient_ratio` is the largest, over the columns j and the intercept, of |gradient of F| divided by the
    sum of the absolute values of the terms the gradient is a sum of, ``sum_i s_i |x_ij| |r_ik| + |w_kj| / C``
    with r the residual and x the centred column (as it is without an intercept); of both, the largest over
    the classes k. It does not depend on the scale of any column, nor of F: 1e-16 is rounding, 1 is a start.

    `rounding` is the largest difference between the probabilities of `coef` and `intercept`, in float64, and
    those of the columns that were solved for. Of collinear columns of large means and units, whose terms
    cancel, the smallest coefficients may predict no better than that.
    """

    coef: Array  # (1 or K, d)
    intercept: Array  # (1 or K,)
    objective: float
    gradient_ratio: float
    rounding: float


class _Design(NamedTuple):
    """Independent standardised columns of X, and how their coefficients give those of all raw columns."""

    centred: Array  # (n, d)
    centre: Array  # (d,)
    columns: Array  # (n, r), or (n, 1 + r) with ones in front for the intercept
    to_raw: Array  # (d, r): the minimum-norm raw coefficients with the same raw predictions


class _Point(NamedTuple):
    """The objective F and what a Newton step needs of it at some parameters."""

    theta: Array  # (m, columns), m = 1 or K - 1
    coef: Array  # (1 or K, d)
    logits: Array  # (n, K)
    value: float


class _Problem(NamedTuple):
    design: _Design
    codes: Array
    weight: Array
    C: float
    basis: Array  # (m, K): class logits = raw predictions of theta @ basis

    @property
    def free(self) -> int:
        """The number of unpenalised leading columns: 1 with an intercept, else 0."""
        return self.design.columns.shape[1] - self.design.to_raw.shape[1]


@threadpool_limits.wrap(limits=1)  # many small products: threads would only wait for each other
def solve(
    X: Array,
    codes: Array,
    n_classes: int,
    C: float,
    sample_weight: Array | None = None,
    fit_intercept: bool = True,
) -> Optimum:
    """Return the optimum of F, of minimum norm if there are many; AssertionError if it was not reached.

    Softmax coefficients and intercepts sum to zero over classes. `codes` are 0..n_classes-1.
    """
    X, codes = np.asarray(X, dtype=np.float64), np.asarray(codes)
    weight = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    kept = weight > 0
    rows, row_codes, row_weight = X[kept], codes[kept], weight[kept]
    # Newton steps towards an optimum at infinity end in a gradient of 0, by underflow: ask beforehand.
    if np.isinf(C):
        assert not separable(rows, row_codes, n_classes, fit_intercept), "the oracle found no optimum"
    design = _design(rows, row_weight, fit_intercept)
    problem = _Problem(design, row_codes, row_weight, C, _class_basis(n_classes))
    point, ratio = _minimise(problem)
    bound = max(GRADIENT_BOUND, _rounding(problem, point))
    assert ratio <= bound, f"the oracle stopped at a relative gradient of {ratio:.1e}, above {bound:.1e}"
    intercept = np.zeros(len(point.coef))
    if fit_intercept:
        centred_intercept = _to_classes(point.theta[:, 0], problem.basis)
        intercept = centred_intercept - point.coef @ problem.design.centre
    value = objective(point.coef, intercept, X, codes, C, weight)
    raw = special.softmax(_class_logits(point.coef, intercept, rows), axis=1)
    rounding = np.abs(raw - special.softmax(point.logits, axis=1)).max()
    return Optimum(point.coef, intercept, value, ratio, float(rounding))


def probabilities(
    X: Array,
    codes: Array,
    n_classes: int,
    C: float,
    sample_weight: Array | None = None,
    fit_intercept: bool = True,
    solved: Callable[..., Optimum] | None = None,
) -> Array:
    """Return those of the optimum at the rows of X, (n, n_classes).

    With an intercept F has no optimum where a class has no weight. Its infimum is approached as that class's
    probability goes to 0; the others solve the softmax problem without it, and for two of these the penalty
    on two opposite vectors w / 2 is half of that on w. `solved` stands for `solve`.
    """
    X, codes = np.asarray(X, dtype=np.float64), np.asarray(codes)
    weight = np.ones(len(codes)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    left = np.unique(codes[weight > 0]) if fit_intercept else np.arange(n_classes)
    result = np.zeros((len(codes), n_classes))
    if len(left) == 1:
        result[:, left] = 1.0
        return result
    C = 2 * C if len(left) == 2 < n_classes else C
    of_left = np.searchsorted(left, codes).clip(max=len(left) - 1)
    best = (solved or solve)(X, of_left, len(left), C, weight, fit_intercept)
    result[:, left] = special.softmax(_class_logits(best.coef, best.intercept, X), axis=1)
    return result


def objective(
    coef: Array,
    intercept: Array,
    X: Array,
    codes: Array,
    C: float,
    sample_weight: Array | None = None,
) -> float:
    """``C * sum_i s_i loss_i + 0.5 |coef|^2``; without the penalty and the C if C is inf. In float64."""
    coef, intercept = np.asarray(coef, dtype=np.float64), np.asarray(intercept, dtype=np.float64)
    weight = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    loss = weight @ _losses(_class_logits(coef, intercept, X), codes)
    return float(loss) if np.isinf(C) else float(C * loss + 0.5 * np.sum(coef**2))


def objective_rounding(
    coef: Array,
    intercept: Array,
    X: Array,
    codes: Array,
    C: float,
    sample_weight: Array | None = None,
) -> float:
    """By how much rounding may move what `objective` returns, to first order.

    An inner product of d + 1 terms is off by at most ``(d + 1) eps`` times the sum of their sizes, a loss by
    its derivative times that, and the sum of n losses by ``n eps`` of itself (Higham 2002, Accuracy and
    Stability of Numerical Algorithms, section 3.1).
    """
    eps = np.finfo(np.float64).eps
    coef, intercept = np.asarray(coef, dtype=np.float64), np.asarray(intercept, dtype=np.float64)
    X = np.asarray(X, dtype=np.float64)
    weight = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    of_logits = (X.shape[1] + 1) * eps * (np.abs(X) @ np.abs(coef).T + np.abs(intercept))  # (n, 1 or K)
    slopes = np.abs(_residuals(_class_logits(coef, intercept, X), codes))[:, -len(coef) :]
    moved = weight @ (slopes * of_logits).sum(axis=1)
    total = len(X) * eps * objective(coef, intercept, X, codes, np.inf, weight)
    return float((moved + total) * (1 if np.isinf(C) else C))


def gradient(
    coef: Array,
    intercept: Array,
    X: Array,
    codes: Array,
    C: float,
    sample_weight: Array | None = None,
) -> tuple[Array, Array]:
    """Return the derivatives of `objective` with respect to the coefficients and the intercept."""
    coef, intercept = np.asarray(coef, dtype=np.float64), np.asarray(intercept, dtype=np.float64)
    weight = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    residual = weight[:, None] * _residuals(_class_logits(coef, intercept, X), codes)  # (n, K)
    residual = residual[:, -len(coef) :]  # two classes: the second's alone
    if np.isinf(C):
        return residual.T @ X, residual.sum(axis=0)
    return C * (residual.T @ X) + coef, C * residual.sum(axis=0)


def separable(X: Array, codes: Array, n_classes: int, fit_intercept: bool = True) -> bool:
    """Say whether the unpenalised optimum does not exist (complete or quasi-complete separation).

    It does not if and only if some direction of the parameters raises no row's loss and lowers one's:
    ``margin_ik = z_i,y(i) - z_ik >= 0`` for all rows i and classes k, and not all zero (Albert and Anderson,
    1984, Biometrika 71). The linear program maximises the sum of the margins under ``0 <= margin <= 1``:
    the maximum is 0 if there is no such direction, and otherwise at least 1.
    """
    X, codes = np.asarray(X, dtype=np.float64), np.asarray(codes)
    columns = _design(X, np.ones(len(X)), fit_intercept).columns
    if columns.shape[1] == 0:
        return False
    if n_classes > 2 and len(np.unique(codes)) == n_classes:
        # A fit that gets every row right proves it without the program (digits: 70 s).
        optimum = solve(X, codes, n_classes, 1.0, fit_intercept=fit_intercept)
        if _others(X @ optimum.coef.T + optimum.intercept, codes).max() < -1e-6:
            return True
    margins = _margins(linalg.qr(columns, mode="economic")[0] * np.sqrt(len(X)), codes, n_classes)
    result = optimize.linprog(
        -np.asarray(margins.sum(axis=0)).ravel(),
        A_ub=sparse.vstack([margins, -margins], format="csr"),
        b_ub=np.concatenate([np.ones(margins.shape[0]), np.zeros(margins.shape[0])]),
        bounds=(None, None),
        method="highs",
    )
    assert result.status == 0, result.message
    return bool(-result.fun > 0.5)


def _margins(columns: Array, codes: Array, n_classes: int) -> sparse.csr_array:
    """Return the matrix from the parameters of classes 1..K-1 (class 0 has none) to all margins."""
    blocks = []
    for k in range(1, n_classes):
        for j in range(k):  # the margins between classes k and j, in the rows of either
            pair = np.zeros((1, n_classes - 1))
            pair[0, k - 1] = 1.0
            if j > 0:
                pair[0, j - 1] = -1.0
            sign = np.where(codes == k, 1.0, -1.0)[:, None]
            rows = (sign * columns)[(codes == k) | (codes == j)]
            blocks.append(sparse.kron(sparse.csr_array(pair), sparse.csr_array(rows)))
    return sparse.vstack(blocks, format="csr")


def _minimise(problem: _Problem) -> tuple[_Point, float]:
    """Newton steps until the gradient is within its bound and no longer falls."""
    point = _at(problem, np.zeros((len(problem.basis), problem.design.columns.shape[1])))
    best, best_ratio, stalled = point, np.inf, 0
    for _ in range(MAX_STEPS):
        ratio = _gradient_ratio(problem, point)
        stalled = 0 if ratio < best_ratio else stalled + 1
        if ratio < best_ratio:
            best, best_ratio = point, ratio
        if best_ratio <= GRADIENT_BOUND and (stalled == 2 or best_ratio < 1e-15):
            break
        point = _newton_step(problem, point)
    return best, best_ratio


def _newton_step(problem: _Problem, point: _Point) -> _Point:
    """Step along the Newton direction, halved until F falls as it should (to rounding)."""
    slope_of = _gradient(problem, point)
    direction = -_solve_symmetric(_hessian(problem, point), slope_of.ravel()).reshape(point.theta.shape)
    slope = float(np.sum(slope_of * direction))
    step = 1.0
    for _ in range(60):
        new = _at(problem, point.theta + step * direction)
        if new.value <= point.value + 1e-4 * step * slope + 1e-13 * abs(point.value):
            return new
        step /= 2
    return point


def _solve_symmetric(matrix: Array, vector: Array) -> Array:
    """Solve by Cholesky with a unit diagonal, adding to that diagonal only if the matrix needs it."""
    diagonal = np.diag(matrix)
    assert np.all(diagonal > 0), "the oracle's Hessian underflowed: is there an optimum?"
    scale = 1 / np.sqrt(diagonal)
    scaled = matrix * scale * scale[:, None]
    for ridge in (0.0, 1e-14, 1e-12, 1e-10, 1e-8, 1e-6):
        try:
            factor = linalg.cho_factor(scaled + ridge * np.eye(len(scaled)))
        except linalg.LinAlgError:
            continue
        return scale * linalg.cho_solve(factor, scale * vector)
    raise AssertionError("the oracle's Hessian is not positive definite")


def _design(X: Array, weight: Array, fit_intercept: bool) -> _Design:
    """Centre and scale the columns, and keep as many as are independent."""
    centre = np.zeros(X.shape[1])
    if fit_intercept:
        # A constant column's mean may round to something else: its value is exact.
        centre = np.where(np.ptp(X, axis=0) == 0, X[0], weight @ X / weight.sum())
    centred = X - centre
    largest = np.max(np.abs(centred), axis=0)
    largest[largest == 0] = 1.0
    scale = largest * np.sqrt(weight @ (centred / largest) ** 2 / weight.sum())
    scale[scale == 0] = 1.0
    standardised = centred / scale
    # Of collinear columns keep the larger ones: the rest then have small, well-determined coefficients.
    taste = (scale / scale.max()) ** 0.25
    triangle, pivot = linalg.qr(standardised * taste, mode="r", pivoting=True)
    diagonal = np.abs(np.diag(triangle)) / taste[pivot[: min(triangle.shape)]]
    # Far from 0 the numbers themselves are rounded by more: what is left of a sum of columns is its rounding.
    rounding = 8 * np.finfo(np.float64).eps * np.max(np.abs(centre) / scale, initial=0.0)
    rank = int(np.sum(diagonal > max(RANK_TOLERANCE, rounding) * diagonal.max()))
    kept, dependent = pivot[:rank], pivot[rank:]
    mixing = np.zeros((rank, X.shape[1]))  # standardised = standardised[:, kept] @ mixing
    mixing[:, kept] = np.eye(rank)
    if rank and len(dependent):
        ratios = linalg.solve_triangular(triangle[:rank, :rank], triangle[:rank, rank:])
        mixing[:, dependent] = ratios * taste[kept, None] / taste[dependent]
    # mixing @ (scale * coef) = theta has the minimum-norm solution coef = to_raw @ theta.
    to_raw = np.zeros((X.shape[1], 0))
    if rank:
        scaled = mixing * scale
        to_raw = linalg.cho_solve(linalg.cho_factor(scaled @ scaled.T), scaled).T
    columns = standardised[:, kept]
    if fit_intercept:
        columns = np.column_stack([np.ones(len(X)), columns])
    return _Design(centred, centre, columns, to_raw)


def _class_basis(n_classes: int) -> Array:
    """Raw predictions to class logits: (0, z) for two classes, else an orthonormal basis of sum zero."""
    if n_classes == 2:
        return np.array([[0.0, 1.0]])
    return linalg.helmert(n_classes)


def _to_classes(theta: Array, basis: Array) -> Array:
    return theta if basis.shape[1] == 2 else basis.T @ theta


def _at(problem: _Problem, theta: Array) -> _Point:
    logits = problem.design.columns @ theta.T @ problem.basis
    coef = _to_classes(theta[:, problem.free :] @ problem.design.to_raw.T, problem.basis)
    value = problem.weight @ _losses(logits, problem.codes) + 0.5 * np.sum(coef**2) / problem.C
    return _Point(theta, coef, logits, float(value))


def _gradient(problem: _Problem, point: _Point) -> Array:
    """Return the derivatives of F with respect to theta."""
    design, free = problem.design, problem.free
    residual = problem.weight[:, None] * _residuals(point.logits, problem.codes) @ problem.basis.T  # (n, m)
    result = residual.T @ design.columns
    result[:, free:] += point.theta[:, free:] @ (design.to_raw.T @ design.to_raw) / problem.C
    return result


def _hessian(problem: _Problem, point: _Point) -> Array:
    """Second derivatives of F with respect to theta, as a matrix."""
    columns, free = problem.design.columns, problem.free
    m, size = point.theta.shape
    p = special.softmax(point.logits, axis=1)
    # diag(p) - p p^T with its diagonal summed from the rest: 1 - p would cancel for a p near 1.
    curvature = -p[:, :, None] * p[:, None, :]  # (n, K, K)
    diagonal = np.arange(p.shape[1])
    curvature[:, diagonal, diagonal] = 0.0
    curvature[:, diagonal, diagonal] = -curvature.sum(axis=2)
    curvature = problem.basis @ curvature @ problem.basis.T * problem.weight[:, None, None]  # (n, m, m)
    result = np.empty((m, size, m, size))
    for a in range(m):
        for b in range(a + 1):
            result[a, :, b, :] = columns.T @ (curvature[:, a, b, None] * columns)
            result[b, :, a, :] = result[a, :, b, :].T
        result[a, free:, a, free:] += problem.design.to_raw.T @ problem.design.to_raw / problem.C
    return result.reshape(m * size, m * size)


def _rounding(problem: _Problem, point: _Point) -> float:
    """What rounding of the raw predictions leaves of a relative gradient: columns far from 0 cancel there."""
    terms = np.abs(point.coef) @ np.abs(problem.design.centred).max(axis=0)
    return float(np.finfo(np.float64).eps * terms.max())


def _gradient_ratio(problem: _Problem, point: _Point) -> float:
    """`Optimum.gradient_ratio`, from the raw coefficients and every centred column."""
    design = problem.design
    residual = problem.weight[:, None] * _residuals(point.logits, problem.codes)
    residual = residual[:, -len(point.coef) :]
    penalty = point.coef / problem.C
    slope, scale = residual.T @ design.centred + penalty, np.abs(residual).T @ np.abs(design.centred)
    scale = scale + np.abs(penalty)
    if problem.free:
        slope = np.column_stack([slope, residual.sum(axis=0)])
        scale = np.column_stack([scale, np.abs(residual).sum(axis=0)])
    slope, scale = np.abs(slope).max(axis=0), scale.max(axis=0)
    return float(np.max(slope / np.where(scale == 0, 1.0, scale)))


def _class_logits(coef: Array, intercept: Array, X: Array) -> Array:
    z = np.asarray(X, dtype=np.float64) @ coef.T + intercept  # (n, 1 or K)
    return np.column_stack([np.zeros(len(z)), z]) if len(coef) == 1 else z


def _losses(logits: Array, codes: Array) -> Array:
    """``logsumexp(logits) - logit of the row's class``, accurate also where it is tiny."""
    return np.logaddexp(0.0, special.logsumexp(_others(logits, codes), axis=1))


def _residuals(logits: Array, codes: Array) -> Array:
    """Probabilities minus one-hot codes (n, K); the row's own class is minus the sum of the others'."""
    rows = np.arange(len(codes))
    residual = special.softmax(logits, axis=1)
    residual[rows, codes] = 0.0
    residual[rows, codes] = -residual.sum(axis=1)
    return residual


def _others(logits: Array, codes: Array) -> Array:
    """Logits above the row's own class (n, K), with -inf for that class."""
    rows = np.arange(len(codes))
    others = logits - logits[rows, codes][:, None]
    others[rows, codes] = -np.inf
    return others


class Gap(NamedTuple):
    """What coefficients are worth where there is an L1 term, on the scale of scikit-learn's objective."""

    objective: float
    gap: float  # above the minimum by at most so much


def duality_gap(
    coef: Array,
    intercept: Array,
    X: Array,
    codes: Array,
    C: float,
    l1_ratio: float,
    sample_weight: Array | None = None,
    fit_intercept: bool = True,
) -> Gap:
    """Return ``C * sum_i s_i loss_i + (1 - l1_ratio) / 2 |coef|² + l1_ratio |coef|_1``, and bound its excess.

    The dual problem maximises ``C * sum_i s_i entropy(q_i) - h*(v)``, with ``v = C * X.T (Y - q)`` and h* the
    conjugate of the penalty, over class probabilities q_i whose residuals sum to 0 where there is an
    intercept. Its point here are the residuals at the best intercept for the coefficients, or as large a part
    of them as keeps every ``|v|`` within l1_ratio, whichever is better. X may be sparse.
    """
    coef, intercept = np.asarray(coef, dtype=np.float64), np.asarray(intercept, dtype=np.float64)
    n = X.shape[0]
    s = C * (np.ones(n) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64))
    # In extended precision, but for the losses: of raw columns and weak penalties, what rounding makes of the
    # slopes is more than the gap.
    wide = X.astype(np.longdouble)
    scores = np.asarray(wide @ coef.T.astype(np.longdouble))  # (n, 1 or K)
    logits = scores + intercept
    two = len(coef) == 1
    penalty = l1_ratio * np.abs(coef).sum() + (1 - l1_ratio) / 2 * np.sum(coef**2)
    narrow = logits.astype(np.float64)
    value = float(s @ _losses(np.column_stack([np.zeros(n), narrow]) if two else narrow, codes) + penalty)
    best = _best_intercept(scores, codes, s, intercept) if fit_intercept else np.zeros(len(coef))
    logits = np.column_stack([np.zeros(n), scores + best]) if two else scores + best
    residual = _residuals(logits, codes)  # p - Y
    slopes = np.asarray((s[:, None] * residual[:, -len(coef) :]).T @ wide)
    rows, largest = np.arange(n), np.max(np.abs(slopes), initial=0.0)
    bounds = []
    for part in {min(1.0, l1_ratio / largest) if largest else 1.0, 1.0 if l1_ratio < 1 else 0.0}:
        q = (part * residual).astype(np.float64)
        wrong = -q[rows, codes]
        q[rows, codes] = 0.0
        entropy = special.entr(q).sum(axis=1) - special.xlog1py(1 - wrong, -wrong)
        excess = np.maximum(part * np.abs(slopes) - l1_ratio, 0.0)
        conjugate = np.sum(excess**2) / (2 * (1 - l1_ratio)) if l1_ratio < 1 else 0.0
        bounds.append(float(s @ entropy - conjugate))
    return Gap(value, value - max(bounds))


def _best_intercept(scores: Array, codes: Array, s: Array, start: Array) -> Array:
    """Newton steps on the intercepts alone, until residuals sum to 1e-17 of the weight."""
    two, total = scores.shape[1] == 1, s.sum()

    def residuals(b: Array) -> tuple[Array, Array]:
        logits = np.column_stack([np.zeros(len(scores)), scores + b]) if two else scores + b
        return _residuals(logits, codes)[:, -len(b) :], special.softmax(logits, axis=1)[:, -len(b) :]

    best, step = start.astype(np.longdouble), 1.0
    r, p = residuals(best)
    for _ in range(200):
        sums = s @ r
        if np.abs(sums).max() <= 1e-17 * total:
            break
        hessian = np.diag(s @ p) - (s[:, None] * p).T @ p
        if not two:
            hessian += np.trace(hessian) / len(best) ** 2
        direction = np.linalg.solve(hessian.astype(np.float64), -sums.astype(np.float64))
        step = 1.0
        while step > 1e-8:
            trial = best + step * direction
            r, p = residuals(trial)
            if np.abs(s @ r).max() < np.abs(sums).max():
                break
            step /= 2
        else:
            r, p = residuals(best)
            break
        best = trial
    return best


def shift_to_medians(coef: Array) -> Array:
    """Coefficients (K, d) of softmax with the lower median of each column at 0: the same predictions."""
    return coef - np.sort(coef, axis=0)[(len(coef) - 1) // 2]
