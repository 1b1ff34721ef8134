"""Every solver by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch_logreg._contracts.solver import Solver
from torch_logreg._solvers.lbfgs import LBFGS
from torch_logreg._solvers.natural import NaturalSGD
from torch_logreg._solvers.sgd import SGD

SOLVERS: dict[str, Callable[..., Solver]] = {
    "natural-sgd": NaturalSGD,
    "newton-cholesky": partial(NaturalSGD, metric="cholesky", lazy=False),
    "newton-cg": partial(NaturalSGD, metric="products"),
    "lbfgs": LBFGS,
    "sgd": SGD,
}
