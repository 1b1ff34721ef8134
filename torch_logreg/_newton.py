"""Newton's method for one problem on few rows, where an operation costs more than its arithmetic."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torch_logreg._progress import ARMIJO, MAX_DAMPING, MAX_HALVINGS, largest, start
from torch_logreg._solver import Callback, Iteration, Objective, Solution


class SmallNewton:
    """The damped Newton method by factorisation, as `NaturalSGD` makes it for many problems.

    The same steps, line search and stopping rule with numbers in place of arrays over the problems:
    arrays of one number would take as long as all products of the rows together.
    """

    def __init__(self, objective: Objective, max_iter: int, tol: float | None, callback: Callback) -> None:
        self._objective, self._max_iter, self._tol, self._callback = objective, max_iter, tol, callback
        self._eps = float(torch.finfo(objective.rows.dtype).eps)
        self._least = 4 * float(torch.finfo(objective.dtype).eps)
        self._tiny = float(torch.finfo(objective.dtype).tiny)
        self._decrease = max((tol or 0.0) ** 2, 4 * self._eps)  # as in `Progress`
        self._damping = self._least  # as in `Cholesky`

    def run(self, w: Tensor) -> Solution:
        first = start(self._objective, w)
        gradient, value, norm = first.gradient, float(first.objective[0]), float(first.gradient_norm[0])
        reason, n_iter = "max_iter", 0
        while reason == "max_iter" and n_iter < self._max_iter:
            direction, info = self._direction(w, gradient)
            if not n_iter:
                direction = self._objective.stretch(w, direction)
            before, norm_before, w_before = value, norm, w
            w, gradient, value, norm, step, decrement, failed = self._backtrack(
                w, gradient, value, norm, direction, info
            )
            improvable = failed and self._damping < MAX_DAMPING
            damping = self._damping * 100 if failed else self._damping / 100
            self._damping = min(max(damping, self._least), MAX_DAMPING)
            if self._tol is None:
                pass
            elif before <= self._eps**2:
                reason = "separation"
            elif not failed and norm_before <= self._tol and decrement / 2 <= self._decrease * before:
                reason = "converged"
            elif w is w_before and not improvable:
                reason = "precision"
            if self._tell(n_iter, before, norm_before, step, w, reason) and reason == "max_iter":
                reason = "callback"
            n_iter += 1
        found = np.array([value]), np.array([norm]), np.array([n_iter], dtype=np.int32)
        return Solution(w, *found, [reason])

    def _direction(self, w: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The direction (1, n_parameters), and what is not 0 where the factorisation failed, (1,)."""
        matrix = self._objective.curvature(w).matrix()
        matrix.diagonal(dim1=1, dim2=2).mul_(1 + self._damping).clamp_(min=self._tiny)
        factor, info = torch.linalg.cholesky_ex(matrix)
        direction = torch.cholesky_solve(gradient.unsqueeze(2), factor).squeeze(2).neg_()
        return direction, info.to(gradient.dtype)

    def _backtrack(
        self, w: Tensor, gradient: Tensor, value: float, norm: float, direction: Tensor, info: Tensor
    ) -> tuple[Tensor, Tensor, float, float, float, float, bool]:
        """See `backtrack`: where it ended, F, max |gradient|, the step, the decrement, whether `info` failed."""
        slope = torch.linalg.vecdot(gradient, direction)
        highest, step, there = value + 4 * self._eps * abs(value), 1.0, w + direction
        for _ in range(MAX_HALVINGS):
            F, reached = self._objective.value_and_gradient(there)
            along, new, largest_new, failed = torch.cat([slope, F, largest(reached), info]).cpu().tolist()
            if along <= 0 and new <= highest + ARMIJO * step * along:
                return there, reached, new, largest_new, step, -along, failed != 0
            if not along <= 0:  # NaN too
                break
            step /= 2
            there = w + step * direction
        return w, gradient, value, norm, 0.0, -along, failed != 0

    def _tell(self, number: int, value: float, norm: float, step: float, w: Tensor, reason: str) -> bool:
        """Whether the callback says to stop."""
        F, gradient_norm, length = np.array([[value], [norm], [step]])
        done = np.array([reason != "max_iter"])
        read = self._objective.rows.rows_read
        return self._callback(Iteration(number, F, gradient_norm, length, read, w, done))
