"""Conjugate gradients, and Newton directions by them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Curved, Fisher, Point
from torch_logreg._runtime.devices import looks_are_free
from torch_logreg._runtime.linalg import eigh
from torch_logreg._solvers.directions import Directions, Lesson
from torch_logreg._solvers.per_problem import Numbers, array, each, index, no, some, to_host, where
from torch_logreg._solvers.search import State, Trial, least_decrease, provable

CG_STEPS, CG_MAX_STEPS = 16, 4096
CG_ACCURACY = 1e-5  # of a direction that is to prove convergence
CG_ACCURACY_FAR = 0.1  # of any other
# With `Factored`, whose quotient with the Fisher matrix hardly has eigenvalues below a thousandth.
FACTORED = 1e-2
# Of any other direction with one that is exact but for its age: so that a proof takes next to nothing more.
RECENT = 0.05
# The same with many parameters: of a decrement the square of it, and as good on the whole as more of fewer.
ROUGH, ROUGH_FAR, MANY_PARAMETERS = 3e-2, 0.25, 2**10
FEW_STEPS = 3  # of a solve, after which the next is expected to pay for rows to be gathered
MOST, NEARLY_ALL = 0.95, 0.999  # of the Fisher information, far from the solution and near it
SKETCH_ROWS = 2**9
# Products with the Fisher matrix, each of which waits for memory as long as so many multiplications take
# for each number of X, and how many of them a factorised matrix serves at least: by_name.py.
WAITING, SERVES, SERVES_EXACT = 10, 10, 4
PROOF = 4  # times the steps of a rough solve, that one takes which is to prove convergence
AHEAD = 6  # solves, that are expected to take as long as the last one
PAID = 2  # products that a factorised preconditioner may take before others have shown that it pays
MANY_STEPS = 8  # of a solve: more than the diagonal of the Fisher matrix costs to compute


class Solve:
    """A solution x of ``matrix x = b`` for P problems by preconditioned conjugate gradients, so far.

    A problem stands still once its preconditioned residual is small enough, and so does one along whose
    direction the matrix does not curve upwards.

    References
    ----------
    Hestenes, Stiefel (1952), Journal of Research of the National Bureau of Standards 49(6).
    """

    def __init__(
        self, product: Callable[[Tensor], Tensor], b: Tensor, precondition: Callable[[Tensor], Tensor]
    ) -> None:
        self._product, self._precondition = product, precondition
        self.x, self._residual, self.n_steps = torch.zeros_like(b), b.clone(), 0
        self._p = precondition(self._residual)
        self._rz = self._first = torch.linalg.vecdot(self._residual, self._p)[:, None]
        self._alone = len(b) == 1 and looks_are_free(b.device)

    def reached(self) -> Tensor:
        """The factor by which the preconditioned residual has fallen, (P,)."""
        return torch.where(self._first > 0, (self._rz / self._first).sqrt(), 0.0)[:, 0]

    def go_on(self, n_steps: int, accuracy: Tensor) -> None:
        """Make up to `n_steps`, until the residual has fallen by the factor `accuracy` (P,).

        On the CPU fewer are made, where all problems stand still. On other devices a look at that would cost
        more: the host would wait for every step so far.
        """
        enough = accuracy.square()[:, None] * self._first
        if self._alone:
            self._go_on_alone(n_steps, enough.item())
            return
        nothing, looks = torch.zeros_like(self._first), looks_are_free(self.x.device)
        rz, p = self._rz, self._p
        active = rz > enough
        for _ in range(n_steps):
            if looks and not bool(active.any()):
                break
            self.n_steps += 1
            curved = self._product(p)
            curve = torch.linalg.vecdot(p, curved)[:, None]
            active &= curve > 0
            alpha = torch.where(active, rz / curve, nothing)
            self.x.addcmul_(alpha, p)
            self._residual.addcmul_(alpha, curved, value=-1)
            z = self._precondition(self._residual)
            rz, before = torch.linalg.vecdot(self._residual, z)[:, None], rz
            # The next direction, also of those that have enough: more may be asked of them.
            p = torch.where(active, torch.addcmul(z, rz / before, p), p)
            active &= rz > enough
        self._rz, self._p = rz, p

    def _go_on_alone(self, n_steps: int, enough: float) -> None:
        """The same of one problem, where numbers on the host cost less than tensors."""
        rz, p = self._rz.item(), self._p
        for _ in range(n_steps):
            if not rz > enough:
                break
            self.n_steps += 1
            curved = self._product(p)
            curve = torch.linalg.vecdot(p, curved).item()
            if not curve > 0:
                break
            self.x.add_(p, alpha=rz / curve)
            self._residual.sub_(curved, alpha=rz / curve)
            z = self._precondition(self._residual)
            rz, before = torch.linalg.vecdot(self._residual, z).item(), rz
            p = z.add(p, alpha=rz / before)
        self._rz, self._p = torch.full_like(self._first, rz), p


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    precondition: Callable[[Tensor], Tensor],
    n_steps: int,
    accuracy: Tensor,
) -> tuple[Tensor, Tensor, int]:
    """What a `Solve` of at most `n_steps` comes to: x, the factor reached, (P,), and the number of steps."""
    solve = Solve(product, b, precondition)
    solve.go_on(n_steps, accuracy)
    return solve.x, solve.reached(), solve.n_steps


class Spikes:
    """The inverse of a Fisher matrix that is a few directions of large curvature on top of an even rest.

    Made of a random sample of rows, V with V^T V near the matrix: the eigenvalues above those that so few
    rows of evenly distributed numbers would show too, and the mean of the others.

    References
    ----------
    Johnstone (2001), On the distribution of the largest eigenvalue in principal components analysis,
    Annals of Statistics 29(2). Marchenko, Pastur (1967), for where noise ends.
    Frangella, Tropp, Udell (2023), Randomized Nyström preconditioning, SIAM Journal on Matrix Analysis and
    Applications 44(2).
    """

    MARGIN = 1.1  # over the end of the noise

    def __init__(self, sample: Tensor, penalty: Tensor) -> None:
        n, p = sample.shape
        exact = penalty.dtype
        curves, vectors = eigh((sample @ sample.T).to(exact))
        curves, vectors = curves.flip(0).clamp(min=0), vectors.flip(1)
        # The mean of what those before leave, and how far above it noise reaches (n samples of p numbers).
        rest = (curves.sum() - curves.cumsum(0) + curves) / (
            p - torch.arange(n, dtype=exact, device=curves.device)
        )
        above = curves > self.MARGIN * (1 + (p / n) ** 0.5) ** 2 * rest
        spikes = above.to(torch.int64).cumprod(0).to(exact)  # the first of them, up to one that is noise
        level = (curves * (1 - spikes)).sum() / (p - spikes.sum()) + penalty.mean()
        curve = torch.maximum(
            curves + penalty.mean() - (p / n) * level, level
        )  # a sample shows them too large
        self._U = (vectors * (spikes / curves.clamp(min=torch.finfo(exact).tiny).sqrt())).T.to(
            sample.dtype
        ) @ sample
        self._U, self._level = self._U.to(exact), level
        self._inverse = torch.where(spikes > 0, 1 / curve - 1 / level, 0.0)

    def __call__(self, residual: Tensor) -> Tensor:
        return residual / self._level + ((residual @ self._U.T) * self._inverse) @ self._U


class Factored:
    """The inverse of the Kronecker approximation ``outputs kron columns + decay`` to a Fisher matrix.

    In the eigenvectors of `outputs` it is a matrix of the columns for each. For one output it is exact, and
    for several at coefficients 0.
    """

    RIDGE = 1e-10  # of the diagonal, for what rounding may have taken

    def __init__(self, at: Fisher) -> None:
        outputs, columns, decay, _ = at.factors()
        self._K, m = outputs.shape[1], columns.shape[1]
        self.is_exact = self._K == 1
        curves, self._vectors = eigh(outputs[0])
        # Their sum has no curvature but the penalty's.
        curves = torch.where(curves > self.RIDGE * curves[-1], curves, 0.0)
        matrix = (curves[:, None, None] * columns).to(decay.dtype)  # (K, m, m)
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        diagonal.mul_(1 + self.RIDGE).add_(decay[:, :m])
        diagonal.add_(diagonal <= 0)  # of what has no effect
        factor, info = torch.linalg.cholesky_ex(matrix)
        self.failed = bool(info.any())
        self._inverse = matrix if self.failed else torch.cholesky_inverse(factor)
        # A gradient has no part there but rounding, which a weak penalty would make large.
        self._inverse = self._inverse * (curves > 0)[:, None, None]

    def __call__(self, residual: Tensor) -> Tensor:
        if self._K == 1:
            return torch.mm(residual, self._inverse[0])
        x = torch.mm(self._vectors.T, residual.view(self._K, -1))
        x = torch.bmm(x.unsqueeze(1), self._inverse).squeeze(1)
        return torch.mm(self._vectors, x).view(residual.shape)


class Preconditioner:
    """The `Factored` matrix of a point, once what it saves is spent without it or soon will be, and so on.

    A problem that is solved in few products with X never pays for it, and one that takes many soon has it
    (Karlin, Manasse, Rudolph, Sleator 1988, Competitive snoopy caching, Algorithmica 3). The number of
    products that a rough solve takes shows how far the spectrum falls.
    """

    def __init__(self, objective: Curved, most_columns: int) -> None:
        """See `NewtonCG`."""
        self._objective = objective.factorable()
        n, m = objective.rows.n_rows, objective.n_parameters // objective.n_outputs
        possible = self._objective is not None and objective.n_problems == 1 and m <= most_columns
        possible &= looks_are_free(objective.rows.device)  # or the host would wait for each to be made
        self.is_possible, K = possible, objective.n_outputs
        cost = m * (1 + K * m / n) / (WAITING * K) if possible else np.inf
        # The first is made at once where it costs little. One that is not exact serves for a while.
        self._cost = max(cost, SERVES_EXACT if K == 1 else SERVES)
        self._spent, self._ahead = PAID if cost > PAID else self._cost, 0
        self.inverse: Factored | None = None

    def spend(self, n_products: int, n_ahead: int = AHEAD) -> None:
        """Take in that so many products were needed, and may be for each of `n_ahead` solves to come."""
        self._spent, self._ahead = self._spent + n_products, n_ahead * n_products

    def give_up(self) -> None:
        """Do without from now on."""
        self.inverse, self._cost = None, np.inf

    def update(self, w: Tensor) -> bool:
        """Make the matrix of the point `w`, if it is time; returns whether it is new."""
        ahead = 0 if self.inverse is not None else self._ahead
        if self._objective is None or self._spent + ahead < self._cost:
            return False
        made = Factored(self._objective.at(w))
        self.inverse, self._spent = made, PAID
        if made.failed:
            self.give_up()
        return not made.failed


class NewtonCG(Directions):
    """Newton directions by conjugate gradients, with as many steps as the last one turned out to need.

    All are solved as roughly as will do far from the solution. Only where the fit may end by `tol`, for the
    gradient is small enough, so is the decrement that the rough direction shows, and the step before went as
    predicted, the same solve goes on until it proves that. So a looser `tol` asks for no more.

    The most steps of one solve are decided before it starts. Where few rows hold nearly all of the Fisher
    information, as late in problems that are nearly separable, only these are multiplied with. Coordinates
    are such that the Fisher matrix at parameters 0 has a diagonal near 1, so there is no preconditioner until
    solves take many steps or fail, or where parameters are few; it is then made of a sample of the rows, or
    else the diagonal, anew each time. With up to `factored_columns` columns it is `Factored`.
    """

    are_newton = True
    _verdict: Tensor  # (P,) of the last direction: 0 where it is not as accurate as asked for, 2 where proven

    def __init__(self, objective: Curved, tol: float | None, factored_columns: int = 0) -> None:
        self.objective, self._tol, self._n_steps = objective, tol, CG_STEPS
        # In exact arithmetic n_parameters steps solve it; many more than that is rounding, not progress.
        self._max_steps = min(CG_MAX_STEPS, 4 * objective.n_parameters + CG_STEPS)
        self._many = objective.n_parameters > MANY_PARAMETERS
        self._accuracies = (ROUGH, ROUGH_FAR) if self._many else (CG_ACCURACY, CG_ACCURACY_FAR)
        # Of several problems the diagonal serves each, and one pass over the rows is for all of them.
        self._last_steps, self._gathering = 0, False
        self._hard = objective.n_problems > 1 and not self._many
        self._inverse_diagonal = torch.empty(0, dtype=objective.dtype, device=objective.rows.device)
        self._spikes: Spikes | None = None
        self.preconditioner = Preconditioner(objective, factored_columns)
        self.last: tuple[State, Trial] | None = None  # the step before, and where it was from

    def direction(self, state: State) -> Tensor:
        tol, at = self._tol, state.at
        small = each(False, len(state.w)) if tol is None else state.gradient_norm <= tol
        active: Point | None = None
        self._gathering |= self._many and self._last_steps > FEW_STEPS  # rows that are gathered have to pay
        if self._gathering and looks_are_free(state.w.device):
            active = at.active(NEARLY_ALL if some(small) else MOST)
        there = active or at
        self.preconditioner.update(state.w)
        if self.preconditioner.inverse is None and (self._last_steps > MANY_STEPS or self._hard):
            self._learn(at, there)
        near, far = self._accuracies
        if self.preconditioner.inverse is not None and self.preconditioner.inverse.is_exact:
            far = RECENT
        accuracy = torch.full_like(state.value, far)
        size = state.gradient.abs().amax(dim=1, keepdim=True)
        size = torch.where(size > 0, size, 1.0)
        b = state.gradient / -size
        solve = Solve(there.quick_product, b, self._precondition)
        solve.go_on(self._n_steps, accuracy)
        self._verdict = (solve.reached() <= accuracy).to(state.value.dtype)
        worth = small & self.may_end(state, solve.x * size) if some(small) else small
        if some(worth):
            proves = torch.as_tensor(array(worth), dtype=torch.bool, device=state.w.device)
            if self.preconditioner.inverse is None:
                self.preconditioner.spend(PROOF * solve.n_steps, n_ahead=0)
                if self.preconditioner.update(state.w):
                    solve = Solve(there.quick_product, b, self._precondition)
            if self.preconditioner.inverse is not None:
                near = FACTORED
            accuracy = torch.where(proves, near, accuracy)
            # The host sees when it is enough; elsewhere all of the steps are made.
            solve.go_on(self._max_steps if looks_are_free(state.w.device) else self._n_steps, accuracy)
            self._verdict = (solve.reached() <= accuracy) * (1.0 + proves)
        if self.preconditioner.inverse is not None or not some(worth):
            self.preconditioner.spend(solve.n_steps)
        self._last_steps = solve.n_steps
        return self._centred(solve.x * size)

    def _centred(self, direction: Tensor) -> Tensor:
        """Without what a diagonal preconditioner adds to all outputs alike: `Factored` keeps it."""
        K = self.objective.n_outputs
        if K == 1 or not self.preconditioner.is_possible:
            return direction
        of_outputs = direction.view(len(direction), K, -1)
        return (of_outputs - of_outputs.mean(dim=1, keepdim=True)).view(direction.shape)

    def may_end(self, state: State, direction: Tensor) -> Numbers:
        """Whether the decrement is as small as it is to be, and the step before went as predicted."""
        (decrement,) = to_host([-torch.linalg.vecdot(state.gradient, direction)])
        small = decrement / 2 <= provable(least_decrease(self._tol, self.objective.eps)) * state.objective
        if self.last is None or not some(small):
            return small
        before, trial = self.last
        return small & no(trial.falls_on(before))

    def judge(self, reached: Tensor) -> Tensor:
        """Whether the direction is as accurate as asked for, 1, and as proves the end of a fit, 2."""
        return self._verdict

    def _learn(self, at: Point, there: Point) -> None:
        """Make a preconditioner, the diagonal that of the rows `there`."""
        sketch = at.sketch(SKETCH_ROWS)
        if sketch is not None:
            self._spikes = Spikes(sketch.rows, sketch.decay)
            return
        diagonal = there.diagonal()
        if diagonal is not None:
            self._inverse_diagonal = torch.where(diagonal > 0, 1 / diagonal, 1.0)

    def _precondition(self, residual: Tensor) -> Tensor:
        if self.preconditioner.inverse is not None:
            return self.preconditioner.inverse(residual)
        if self._spikes is not None:
            return self._spikes(residual)
        if not len(self._inverse_diagonal):
            return self.objective.hints.natural(residual)
        if self.objective.n_outputs == 1:
            return residual * self._inverse_diagonal
        # A shift of all outputs has next to no curvature, and gradients have no part in it: nor may these.
        return self._without_shift(self._without_shift(residual) * self._inverse_diagonal)

    def _without_shift(self, v: Tensor) -> Tensor:
        of_outputs = v.view(len(v), self.objective.n_outputs, -1)
        return (of_outputs - of_outputs.mean(dim=1, keepdim=True)).view(v.shape)

    def select(self, problems: np.ndarray) -> NewtonCG | None:
        objective = self.objective.select(problems)
        if objective is None:
            return None
        fewer = copy.copy(self)
        fewer.objective, fewer.last = objective, None
        if len(self._inverse_diagonal):
            fewer._inverse_diagonal = self._inverse_diagonal[index(problems, objective.rows.device)]
        return fewer

    def learn(self, before: State, trial: Trial, done: Numbers) -> Lesson:
        self.last = (before, trial)
        return Lesson(where(trial.verdict == 2, 1.0, 0.0), self.adapt(trial.verdict > 0))

    def adapt(self, trust: Numbers) -> Numbers:
        """More steps next time where these were too few; returns where that may still help."""
        failed = no(trust)
        improvable = failed & (self._n_steps < self._max_steps or not self._hard)
        if some(failed):
            self._hard = True
            self._n_steps = min(2 * self._n_steps, self._max_steps)
        return improvable
