"""Every solver by its name, and what it needs of an objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch_logreg._contracts.composite import Composite
from torch_logreg._contracts.objective import Curved, Factorable, Objective, Stochastic
from torch_logreg._contracts.solver import Solver
from torch_logreg._solvers.lbfgs import LBFGS
from torch_logreg._solvers.natural import NaturalSGD
from torch_logreg._solvers.proximal_newton import ProximalNewton
from torch_logreg._solvers.sgd import SGD

FACTORED_COLUMNS = 512  # of solvers by name, see `NewtonCG`: by_name.py


class Need(NamedTuple):
    """A kind of objective, and what is said of one that is not of it."""

    kind: type
    missing: str
    instead: str


CURVATURE = Need(
    Curved,
    "the curvature of F, which only the linear model has in closed form",
    "use solver='sgd', which needs gradients of minibatches alone",
)
MATRIX = Need(
    Factorable,
    "the Fisher matrix itself, which here can only be multiplied with",
    "use solver='newton-cg', which does no more than that",
)
MINIBATCHES = Need(
    Stochastic,
    "gradients of minibatches, and these rows are not drawn at random",
    "use solver='natural-sgd', which reads all rows",
)


class Entry(NamedTuple):
    """How a solver is made of its hyper-parameters, and what it needs of an objective."""

    make: Callable[..., Solver[Any]]
    needs: tuple[Need, ...]  # the first that is missing is named


SOLVERS: dict[str, Entry] = {
    "natural-sgd": Entry(NaturalSGD, (CURVATURE,)),
    "newton-cholesky": Entry(partial(NaturalSGD, metric="cholesky", lazy=False), (CURVATURE, MATRIX)),
    "newton-cg": Entry(
        partial(NaturalSGD, metric="products", factored_columns=FACTORED_COLUMNS), (CURVATURE,)
    ),
    "lbfgs": Entry(partial(LBFGS, factored_columns=FACTORED_COLUMNS), (CURVATURE,)),
    "sgd": Entry(SGD, (MINIBATCHES,)),
}


# With an L1 term, by the names that users write; there are no others.
WITH_L1: dict[str, Callable[..., Solver[Composite]]] = {"natural-sgd": ProximalNewton}


def make_solver(name: str, objective: Objective, settings: Mapping[str, Any]) -> Solver[Any]:
    """The solver `name` with these hyper-parameters; ValueError if `objective` lacks what it needs."""
    if isinstance(objective, Composite):
        if name not in WITH_L1:
            raise ValueError(
                f"solver={name!r} needs an objective without an L1 term; use "
                "solver='natural-sgd', which then takes proximal Newton steps."
            )
        return WITH_L1[name](**settings)
    entry = SOLVERS[name]
    for need in entry.needs:
        if not isinstance(objective, need.kind):
            raise ValueError(f"solver={name!r} needs {need.missing}; {need.instead}.")
    return entry.make(**settings)
