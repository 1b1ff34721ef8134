"""The plan: how a linear model is solved, decided by the shape of the fit alone.

Every crossover between two ways is a row of a table here, with the script of ``examples/benchmarks`` that
measured it. Both estimators ask, and nothing else compares sizes to choose a way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from torch_logreg._contracts.objective import Curved
from torch_logreg._linear.samples import MIN_ROWS_PER_PARAMETER

# What a solver will do with a linear objective: minibatches of the columns as they are, or of scaled ones,
# or passes over all rows, with or without samples that grow towards these.
Method: TypeAlias = Literal["sgd", "line search", "full", "growing"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a fit, and what is known of it before it starts.

    Parameters
    ----------
    n_rows, n_features : int
    n_outputs : int
        Raw predictions a row: 1 for two classes, else the number of classes.
    fit_intercept : bool
    method : Method
    n_problems : int
    n_stored : int
        Numbers that sparse rows hold; -1 for dense ones.
    itemsize : int
        Bytes of a number of X.
    starts_at_zero, has_penalty : bool
        Whether the first coefficients are 0, and whether every C is finite.
    by_columns : bool
        Whether the space of the rows is ruled out.
    is_orthogonal, is_flat : bool
        Whether columns are, as those of the rows' space, or have a spectrum that falls as little as that of
        sparse ones.
    """

    n_rows: int
    n_features: int
    n_outputs: int = 1
    fit_intercept: bool = True
    method: Method = "growing"
    n_problems: int = 1
    n_stored: int = -1
    itemsize: int = 8
    starts_at_zero: bool = True
    has_penalty: bool = True
    by_columns: bool = False
    is_orthogonal: bool = False
    is_flat: bool = False

    @property
    def is_dense(self) -> bool:
        return self.n_stored < 0

    @property
    def n_columns(self) -> int:
        """Columns, with one of ones for an intercept."""
        return self.n_features + self.fit_intercept

    @property
    def n_parameters(self) -> int:
        return self.n_outputs * self.n_columns

    @property
    def work(self) -> int:
        """Multiplications for the Fisher matrices of all problems."""
        return self.n_problems * self.n_rows * self.n_parameters**2


class Crossover(NamedTuple):
    """One way, the shapes it is chosen for, and the script that measured where they begin."""

    choice: str
    holds: Callable[[Shape], bool]
    measured: str


def choose(table: tuple[Crossover, ...], shape: Shape) -> str:
    """The choice of the first row that holds."""
    return next(row.choice for row in table if row.holds(shape))


# ---- what X is held as ----

# Rows in whose space a problem is solved, at most: an eigendecomposition of their inner products takes memory
# too. Those of sparse rows are never made, only multiplied with, by one thread.
MOST_ROWS, MOST_STORED = 1024, 2**20
# Numbers in X up to which its scaled columns are held, and rows where there are several outputs.
HELD_NUMBERS, HELD_SOFTMAX_ROWS = 2**20, 5_000
HELD_STORED = 2**19  # numbers of sparse rows for all outputs, up to which they are held with scaled columns


def _is_held(shape: Shape) -> bool:
    few = shape.n_outputs == 1 or shape.n_rows <= HELD_SOFTMAX_ROWS
    small = few and shape.n_rows * shape.n_columns <= HELD_NUMBERS
    return shape.is_dense and small and not _is_drawn_in_turn(shape)


# A fit in multiplications, by crossovers.py and shapes.py: updates, and steps of conjugate gradients in each,
# or where columns are orthogonal. An eigendecomposition takes so many by the cube of its size; one of a
# product with X, which waits for memory, takes the time of several.
UPDATES, STEPS, FLAT_STEPS, FEW_STEPS, EIGEN, WAITING = 10, 20, 6, 5, 15, 10
WAITING_FOR_CACHE, CACHED = 3, 2**17  # where X is no more numbers than these
WAITING_AT_ONCE, AT_ONCE = 1.5, 8  # where so many problems multiply with dense X at once
STEP_WORK, SPARSE_WORK = 2**20, 2**21  # what a step takes however few numbers there are, dense or sparse
SPARSE_SQUARE = 64  # as long as so many takes one of two numbers of sparse columns
PRECONDITIONED = 0.25  # the part of the steps that are left with the factors
LONGER = 0.25  # of products with sparse rows and back, by which they take longer in the rows' space
FALLING = 1.2  # times the steps, in the mean over spectra, flat ones and such as fall
VECTORS = 100  # operations with vectors in a step, by the time of multiplications
SPACE_WORK = 2**23  # in the time of so many the rows' space is made, however few rows there are


def _squares_work(shape: Shape) -> float:
    """For the inner products of all columns: of sparse ones as stored, where that is quick."""
    n, m = shape.n_rows, shape.n_columns
    dense = n * m**2
    return dense if shape.is_dense else min(dense, SPARSE_SQUARE * shape.n_stored**2 / max(n, 1))


def _cholesky_work(shape: Shape) -> float:
    p = shape.n_parameters
    squares = _squares_work(shape) if shape.n_outputs == 1 else shape.n_rows * p**2
    return UPDATES * (squares + p**3 / 3)


def _factors_work(shape: Shape) -> float:
    """For the factors of a Kronecker approximation, which are made about twice."""
    return 2 * (_squares_work(shape) + EIGEN * shape.n_columns**3)


def products_work(shape: Shape) -> float:
    """About the multiplications in whose time one problem is solved by conjugate gradients."""
    n, m, K = shape.n_rows, shape.n_columns, shape.n_outputs
    stored, fixed = (n * m, STEP_WORK) if shape.is_dense else (shape.n_stored, SPARSE_WORK)
    waiting: float = WAITING_FOR_CACHE if shape.is_dense and stored <= CACHED else WAITING
    if shape.is_dense and shape.n_problems >= AT_ONCE:
        waiting = WAITING_AT_ONCE
    step = VECTORS * K * m + 2 * waiting * stored * K + fixed / shape.n_problems
    flat = shape.is_flat or not shape.is_dense
    return UPDATES * (FEW_STEPS if shape.is_orthogonal else FLAT_STEPS if flat else STEPS) * step


def columns_work(shape: Shape) -> float:
    """About the multiplications of a fit of one problem to all rows."""
    metric = choose(METRICS, shape)
    if metric == "cholesky":
        return _cholesky_work(shape)
    products = products_work(shape)
    return products if metric == "products" else PRECONDITIONED * products + _factors_work(shape)


def _space_work(shape: Shape) -> float:
    """About the multiplications for the rows' space."""
    n = shape.n_rows
    products = n**2 * shape.n_columns / 2 if shape.is_dense else WAITING * n * shape.n_stored
    return SPACE_WORK + products + EIGEN * n**3


def _has_short_rows(shape: Shape) -> bool:
    n, m, P = shape.n_rows, shape.n_columns, shape.n_problems
    if n > MOST_ROWS or m <= n or shape.by_columns:
        return False
    here = columns_work(as_dense(shape) if is_best_dense(shape) else shape)
    if _has_short_sparse_rows(shape):
        here = min(here, products_work(replace(shape, n_features=2 * n)))
    there = replace(as_dense(shape, n), is_orthogonal=True, by_columns=True)
    return _space_work(shape) + P * columns_work(there) <= P * here


def as_dense(shape: Shape, n_features: int | None = None) -> Shape:
    """The same with dense rows, and where `n_features` is given of so many columns."""
    d = shape.n_features if n_features is None else n_features
    return replace(shape, n_features=d, n_stored=-1, is_flat=not shape.is_dense)


def is_best_dense(shape: Shape) -> bool:
    """Whether sparse rows are few numbers, and best made dense."""
    if shape.is_dense or shape.method in ("sgd", "line search") or not _is_held(as_dense(shape)):
        return False
    return columns_work(as_dense(shape)) <= columns_work(shape)


def _has_short_sparse_rows(shape: Shape) -> bool:
    """Whether vectors of two numbers a row save so much that products may take longer."""
    known = shape.starts_at_zero and shape.has_penalty and not shape.by_columns and shape.n_problems == 1
    if not known or shape.method != "growing" or not 0 <= shape.n_stored <= MOST_STORED:
        return False
    saved = VECTORS * shape.n_outputs * (shape.n_columns - 2 * shape.n_rows)
    return saved >= SPARSE_WORK + LONGER * 2 * WAITING * shape.n_stored * shape.n_outputs


# Outputs for each column from which the Fisher matrix is made of a block for each output: the fewer, the more
# passes over the rows could be made in the time of that (thousand.py). And their numbers in all, at most:
# 512 MB of float32.
OUTPUTS_PER_COLUMN, MATRICES_NUMBERS = 0.25, 2**27


def _has_many_outputs(shape: Shape) -> bool:
    m, K = shape.n_columns, shape.n_outputs
    many = K >= OUTPUTS_PER_COLUMN * m and K * m**2 <= MATRICES_NUMBERS and shape.n_rows >= m
    alone = shape.n_problems == 1 and shape.starts_at_zero and shape.has_penalty
    return many and alone and shape.is_dense and shape.n_parameters > CHOLESKY_PARAMETERS


def _is_drawn_in_turn(shape: Shape) -> bool:
    """Whether outputs are many, and no sample of the rows tells enough of them to be solved."""
    if shape.method != "growing" or not _has_many_outputs(shape):
        return False
    return not is_informative(shape, min(SOFTMAX_ROWS, shape.n_rows))


DESIGNS = (
    Crossover("plain columns", lambda s: s.method == "sgd", "by definition"),
    Crossover("drawn columns", lambda s: s.method == "line search", "by definition"),
    Crossover("rows", _has_short_rows, "crossovers.py"),
    Crossover("sparse rows", _has_short_sparse_rows, "crossovers.py"),
    Crossover("held columns", _is_held, "small.py"),
    Crossover("held sparse columns", lambda s: 0 <= s.n_stored * s.n_outputs <= HELD_STORED, "shapes.py"),
    Crossover("columns", lambda s: True, "tall.py"),
)

# ---- samples to start on ----

ROWS_PER_PARAMETER = 64  # of the largest sample: it bends the metric by an eighth in the worst direction
SAMPLE_NUMBERS = 2**21  # of the largest sample, at most
SAMPLE_PART = 0.08  # of the memory of X, at most, for two classes
SOFTMAX_ROWS = 10_000
INFORMATIVE = 0.2  # parameters for the information in a label, up to which a sample is worth solving on


def sample_rows(shape: Shape) -> int:
    """Rows of the largest sample; 0 where all rows are better taken at once."""
    if shape.n_outputs > 1:
        return SOFTMAX_ROWS if shape.n_rows >= 2 * SOFTMAX_ROWS else 0
    m = shape.n_columns
    most = min(SAMPLE_NUMBERS // m, int(SAMPLE_PART * shape.n_rows * shape.itemsize / 8))
    wanted = min(ROWS_PER_PARAMETER * m, most)
    return wanted if wanted >= MIN_ROWS_PER_PARAMETER * m else 0


def is_informative(shape: Shape, n_drawn: int) -> bool:
    """Whether a sample of `n_drawn` rows is worth solving on, and not only a metric."""
    information = n_drawn * math.log(max(shape.n_outputs, 2))
    parameters = max(shape.n_outputs - 1, 1) * shape.n_columns
    return shape.n_outputs == 1 or parameters <= INFORMATIVE * information


def _grows(shape: Shape) -> bool:
    return shape.method == "growing" and choose(DESIGNS, shape) == "columns"


def _draws(shape: Shape) -> bool:
    return shape.is_dense and sample_rows(shape) > 0


def _gathers_starts(shape: Shape) -> bool:
    return shape.n_problems == 1 and metric_of(shape, "none") == "products"


SAMPLES = (
    Crossover("none", lambda s: not _grows(s), "by definition"),
    Crossover("minibatches", _is_drawn_in_turn, "thousand.py"),
    Crossover("solved", lambda s: _draws(s) and is_informative(s, sample_rows(s)), "growth.py"),
    Crossover("metric", _draws, "softmax.py --probe"),
    Crossover("starts", _gathers_starts, "sparse.py"),
    Crossover("none", lambda s: True, "small.py"),
)

# ---- what stands in for the Fisher matrix ----

CHOLESKY_PARAMETERS = 1024  # above it a factorisation costs more than the products of a CG solve
FACTOR_PARAMETERS = 2048  # of one output, above which the same is true of an eigendecomposition
KEPT_WORK = 2**24  # multiplications for a Fisher matrix below which a new one costs next to nothing
LATE_WORK = 2**30  # up to which many steps, as where classes are nearly separable, are best made exact ones
OWN_WORK = 2**28  # for the Fisher matrices of all problems, up to which each has its own


def _is_small(shape: Shape) -> bool:
    """Whether a Fisher matrix is made of several outputs too."""
    few = shape.n_outputs == 1 or shape.work <= KEPT_WORK * shape.n_problems
    return few and shape.n_parameters <= CHOLESKY_PARAMETERS


def _is_quick_by_products(shape: Shape) -> bool:
    """Whether products take less than matrices; of dense rows with a margin, for spectra may fall."""
    if shape.is_dense and shape.n_outputs == 1 and not (shape.is_orthogonal or shape.is_flat):
        return False
    products = products_work(shape)
    if shape.is_dense and not (shape.is_orthogonal or shape.is_flat):
        products *= FALLING
    if _is_small(shape):
        return products <= _cholesky_work(shape)
    return shape.is_orthogonal or (1 - PRECONDITIONED) * products <= _factors_work(shape)


# Columns from which a factorisation takes so long next to products that it is made once these have shown to
# take as long: with a flat spectrum they never do.
WAITED_COLUMNS = 200


def _waits_for_matrix(shape: Shape) -> bool:
    """Whether one problem of two classes starts with products, whatever its spectrum."""
    wide = WAITED_COLUMNS <= shape.n_columns <= CHOLESKY_PARAMETERS and not sample_rows(shape)
    return wide and shape.is_dense and shape.n_outputs == shape.n_problems == 1


METRICS = (
    Crossover("products", _is_quick_by_products, "shapes.py"),
    Crossover("products", _waits_for_matrix, "shapes.py"),
    Crossover("cholesky", _is_small, "crossovers.py"),
    Crossover(
        "products", lambda s: s.n_outputs == 1 or s.n_columns > FACTOR_PARAMETERS, "crossovers.py, wide.py"
    ),
    Crossover("factors", lambda s: True, "softmax.py"),
)
OF_FACTORS = {  # by samples
    "none": "exact",
    "starts": "exact",
    "solved": "sampled",
    "metric": "kronecker",
    "minibatches": "outputs",
}


def metric_of(shape: Shape, samples: str) -> str:
    """The metric of one problem: by a factorisation, by products, or by factors, and of which rows."""
    found = choose(METRICS, shape)
    return OF_FACTORS[samples] if found == "factors" else found


def _has_no_matrix(shape: Shape) -> bool:
    """Whether products are quick where all problems may also share a matrix."""
    return (shape.is_orthogonal or not shape.is_dense) and _is_quick_by_products(shape)


def shared_metric_of(shape: Shape) -> str:
    """The metric of all rows that serves the folds of one C each."""
    if _has_no_matrix(shape):
        return "products"
    if shape.n_outputs == 1 and shape.n_parameters <= CHOLESKY_PARAMETERS:
        return "cholesky"
    return "products" if shape.n_columns > FACTOR_PARAMETERS else "kronecker"


def has_own_metrics(shape: Shape) -> bool:
    """Whether each of the problems is to have a metric of its own."""
    return choose(DESIGNS, shape) == "held columns" and (shape.work <= OWN_WORK or _has_no_matrix(shape))


def matrix_numbers(shape: Shape) -> int:
    """Numbers of the largest matrix that natural-gradient descent makes for one problem."""
    if choose(METRICS, shape) == "products" and _has_no_matrix(shape):
        return 0
    if shape.n_parameters <= CHOLESKY_PARAMETERS:
        return shape.n_parameters**2
    return 0 if shape.n_columns > FACTOR_PARAMETERS else shape.n_columns**2


class Plan(NamedTuple):
    """How a fit is made: what X is held as, and what samples of the rows it starts on."""

    design: str  # a choice of DESIGNS
    samples: str  # a choice of SAMPLES
    n_drawn: int  # rows of the largest sample that is drawn; 0 for none


def plan_of(shape: Shape) -> Plan:
    """The plan for a shape."""
    samples = choose(SAMPLES, shape)
    return Plan(choose(DESIGNS, shape), samples, sample_rows(shape) if samples in ("solved", "metric") else 0)


def natural_settings(objective: Curved) -> dict[str, Any]:
    """Settings of `NaturalSGD` for an objective: its metric, and when to change it."""
    K, m = objective.n_outputs, objective.n_parameters // objective.n_outputs
    samples = "none"
    if objective.by_output() is not None:
        samples = "minibatches"
    elif objective.batches:
        samples = "solved" if objective.batches[-1].error < math.inf else "metric"
    rows = objective.rows
    shape = Shape(
        rows.n_rows,
        m,
        K,
        fit_intercept=False,
        n_problems=objective.n_problems,
        n_stored=rows.n_stored,
        is_orthogonal=objective.is_orthogonal,
    )
    late = LATE_WORK if objective.n_parameters <= CHOLESKY_PARAMETERS else 0
    factored = CHOLESKY_PARAMETERS if _waits_for_matrix(shape) else 0
    metric = metric_of(shape, samples)
    return {"metric": metric, "kept_work": KEPT_WORK, "late_work": late, "factored_columns": factored}
