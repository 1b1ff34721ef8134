"""Limited-memory BFGS for P problems at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torch_logreg._contracts.objective import Curved
from torch_logreg._contracts.solver import Callback, Solution, Solver
from torch_logreg._solvers.conjugate_gradients import Factored, NewtonCG
from torch_logreg._solvers.directions import Directions, Lesson
from torch_logreg._solvers.iterate import iterate
from torch_logreg._solvers.per_problem import Numbers, array, each, no, some, where
from torch_logreg._solvers.search import State, Trial, start
from torch_logreg._solvers.secants import Compact
from torch_logreg._solvers.stopping import Progress

# Updates with a small gradient, after which Newton's directions take over, and what is small for that,
# whatever `tol` asks for.
PATIENCE, CRAWLING = 10, 1e-4


@dataclass(frozen=True)
class LBFGS(Solver[Curved]):
    """L-BFGS with backtracking, and a certificate before it stops.

    References
    ----------
    Liu, Nocedal (1989), On the limited memory BFGS method, Mathematical Programming 45.
    """

    max_iter: int = 100
    tol: float | None = 1e-4
    memory: int = 10
    factored_columns: int = 0  # see `NewtonCG`

    def minimize(self, objective: Curved, w: Tensor, callback: Callback) -> Solution:
        progress = Progress(objective, self.tol, self.max_iter, callback)
        directions = SecantDirections(objective, self.tol, self.memory, self.factored_columns)
        return progress.solution(iterate(directions, start(objective, w), progress))


class SecantDirections(Directions):
    """Directions of secant pairs, and Newton's where gradient and decrement are as small as asked for.

    These alone say little where curvature is small, so once both rules seem to be met one Newton direction
    from conjugate gradients gives the decrease still to be had. It is also taken as the step, and so it is
    where the gradient has been small for long: secant pairs alone then crawl. What preconditions the
    conjugate gradients is what the pairs correct.
    """

    _trust: Tensor  # (P,) in the last direction: 2 where it is Newton's and proven, 1 where not that, else 0
    _of_gradient: Tensor  # (P, n_parameters) the inverse that is corrected, times the gradient

    def __init__(self, objective: Curved, tol: float | None, memory: int, factored_columns: int = 0) -> None:
        self.objective, self._tol = objective, tol
        self._newton = NewtonCG(objective, tol, factored_columns)
        self._pairs = Compact(memory)
        self._inverse: Factored | None = None  # what they correct
        self._gradient: Tensor | None = None  # there
        self._done = self._near = each(False, objective.n_problems)
        self._waited = each(0, objective.n_problems)  # updates with a small gradient
        self._renewed = False  # whether the pairs were given up after the last step
        self._w = objective.zeros()  # the point before

    def direction(self, state: State) -> Tensor:
        gradient, preconditioner = state.gradient, self._newton.preconditioner
        preconditioner.update(state.w)
        inverse = preconditioner.inverse
        if inverse is not None and inverse is not self._inverse:
            self._inverse, self.are_newton = inverse, True
            if inverse.is_exact:  # Newton's direction has nothing to be corrected
                self._pairs.forget()
                self._gradient = None
            elif self._gradient is not None:
                self._of_gradient = inverse(self._gradient)
                self._pairs.correct(inverse)
        of_gradient = gradient if inverse is None else inverse(gradient)
        if self._gradient is not None:
            y, z = gradient - self._gradient, of_gradient - self._of_gradient
            self._pairs.add(state.w - self._w, y, z)
        self._w, self._gradient, self._of_gradient = state.w, gradient, of_gradient
        direction = self._pairs.direction(gradient, of_gradient)
        self._trust = torch.zeros_like(state.value)
        self._near = self._is_small(state)
        self._waited = self._waited + (self._near & (state.gradient_norm <= CRAWLING))
        if some(self._near):
            late = self._waited > PATIENCE
            self._near &= no(self._done) & (late | self._newton.may_end(state, direction))
        if some(self._near):
            near = torch.as_tensor(array(self._near), dtype=torch.bool, device=state.w.device)
            direction = torch.where(near[:, None], self._newton.direction(state), direction)
            self._trust = near * self._newton.judge(gradient)
        else:
            preconditioner.spend(1)
        return direction

    def _is_small(self, state: State) -> Numbers:
        return each(False, len(state.w)) if self._tol is None else state.gradient_norm <= self._tol

    def judge(self, reached: Tensor) -> Tensor:
        return self._trust

    def learn(self, before: State, trial: Trial, done: Numbers) -> Lesson:
        # Where pairs show no way down it is looked for without them, and then in Newton's direction.
        stuck = (trial.step == 0) & no(self._near) & no(done)
        improvable = stuck & ((self._inverse is not None) | (not self._renewed) | self._is_small(before))
        self._waited = where(stuck, PATIENCE, self._waited)
        if some(stuck):
            self._pairs.forget()
            if self._renewed:
                self._newton.preconditioner.give_up()
                self._inverse = None
        self._renewed = some(stuck)
        if some(self._near):
            improvable = improvable | self._newton.adapt((trial.verdict > 0) | no(self._near))
        self._newton.last = (before, trial)
        return Lesson(where(trial.verdict == 2, 1.0, 0.0), improvable)

    def may_leave(self, done: Numbers) -> Numbers:
        return np.zeros_like(done)

    def select(self, problems: np.ndarray) -> None:
        """All stay together."""

    def escalate(self, done: Numbers) -> Directions:
        self._done = done
        return self
