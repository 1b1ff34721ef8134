"""The plan by the shape of a fit: no array is made here."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import torch_logreg
from torch_logreg._fit import plan
from torch_logreg._fit.plan import (
    DESIGNS,
    METRICS,
    OF_FACTORS,
    SAMPLES,
    Shape,
    choose,
    has_own_metrics,
    is_best_dense,
    is_informative,
    matrix_numbers,
    metric_of,
    natural_settings,
    plan_of,
    sample_rows,
    shared_metric_of,
)

TABLES = {"DESIGNS": DESIGNS, "SAMPLES": SAMPLES, "METRICS": METRICS}
SCRIPTS = Path(torch_logreg.__file__).parent.parent / "examples" / "benchmarks"

# Of each fit: its shape, what X is held as, the samples, and the metric.
FITS = [
    ("breast cancer", Shape(569, 30), "held columns", "none", "cholesky"),
    ("iris", Shape(150, 4, 3), "held columns", "none", "cholesky"),
    ("digits", Shape(1797, 64, 10), "held columns", "none", "exact"),
    ("tall, float32", Shape(500_000, 100, itemsize=4), "columns", "solved", "cholesky"),
    ("tall, several classes", Shape(100_000, 100, 10), "columns", "solved", "sampled"),
    ("probe", Shape(50_000, 512, 100), "columns", "metric", "kronecker"),
    ("a thousand classes", Shape(60_000, 256, 1000), "columns", "minibatches", "outputs"),
    ("many classes of few rows", Shape(4000, 64, 200), "columns", "minibatches", "outputs"),
    ("a thousand classes, blocks too large", Shape(60_000, 768, 1000), "columns", "metric", "kronecker"),
    ("a thousand classes, two Cs", Shape(60_000, 256, 1000, n_problems=2), "columns", "metric", "kronecker"),
    ("wide", Shape(20_000, 2000), "columns", "starts", "products"),
    ("many columns, several classes", Shape(20_000, 4096, 10), "columns", "metric", "products"),
    ("few rows", Shape(300, 8000), "rows", "none", "products"),
    ("sparse", Shape(200_000, 50_000, n_stored=10_000_000), "columns", "starts", "products"),
    ("text", Shape(3000, 60_000, n_stored=300_000), "sparse rows", "none", "products"),
    ("stock SGD", Shape(500_000, 100, method="sgd"), "plain columns", "none", "cholesky"),
    ("line search", Shape(300, 8000, method="line search"), "drawn columns", "none", "products"),
    ("newton", Shape(500_000, 100, method="full"), "columns", "none", "cholesky"),
    ("newton, few rows", Shape(300, 8000, method="full"), "rows", "none", "products"),
]


@pytest.mark.parametrize(("name", "shape", "design", "samples", "metric"), FITS, ids=[fit[0] for fit in FITS])
def test_the_plan_of_a_fit(name, shape, design, samples, metric):
    made = plan_of(shape)
    assert (made.design, made.samples, metric_of(shape, made.samples)) == (design, samples, metric)
    assert (made.n_drawn > 0) == (samples in ("solved", "metric"))


@pytest.mark.parametrize("table", TABLES)
def test_every_table_decides_every_shape(table):
    rows = TABLES[table]
    assert rows[-1].holds(Shape(1, 1)) and rows[-1].holds(Shape(10**9, 10**6, 1000, n_stored=0))
    for shape in (Shape(1, 1), Shape(10**9, 10**6, 1000), Shape(10**6, 10**6, n_stored=10**7)):
        assert choose(rows, shape) in {row.choice for row in rows}


@pytest.mark.parametrize("table", TABLES)
def test_every_row_names_a_script_that_is_there(table):
    for row in TABLES[table]:
        names = row.measured.replace(",", "").split()
        assert row.measured == "by definition" or any((SCRIPTS / name).is_file() for name in names)


@pytest.mark.parametrize(("n", "d", "n_outputs", "design"), [
    (100, 150, 1, "held columns"),  # as fast in the rows' space, on the machine where both were timed
    (100, 300, 1, "rows"),
    (100, 768, 1, "rows"),
    (100, 768, 20, "rows"),
    (90, 1023, 1, "rows"),
    (90, 1024, 1, "rows"),
    (300, 768, 20, "rows"),
    (500, 550, 1, "held columns"),
    (500, 768, 1, "held columns"),
    (500, 1100, 1, "rows"),
    (300, 2000, 1, "rows"),
    (1000, 1500, 1, "columns"),
    (1000, 4000, 1, "columns"),
    (1000, 6000, 1, "rows"),
    (1000, 20_000, 1, "rows"),
    (10, 60, 1, "held columns"),  # too little work for a space to be made
    (1025, 10**6, 1, "columns"),
])  # fmt: skip
def test_few_rows_are_solved_in_their_space_where_that_takes_less(n, d, n_outputs, design):
    assert plan_of(Shape(n, d, n_outputs)).design == design


@pytest.mark.parametrize(("n", "d"), [(100, 160), (300, 440), (1000, 4500)])
def test_the_guide_says_about_where_the_rows_space_begins(n, d):
    guide = (SCRIPTS.parents[1] / "docs" / "user_guide.md").read_text()
    assert f"{d:,}".replace(",", " ") in guide
    assert plan_of(Shape(n, int(0.97 * d))).design != "rows"
    assert plan_of(Shape(n, int(1.03 * d))).design == "rows"


def test_more_columns_never_lead_out_of_the_rows_space_but_where_the_metric_changes():
    for n in (20, 100, 300):
        found = [plan_of(Shape(n, d)).design == "rows" for d in range(n, 1023, 7)]
        assert found == sorted(found) and found[-1]


def test_sizes_at_which_the_space_of_sparse_rows_begins():
    at = Shape(3000, 100_000, n_stored=10**5)
    assert plan_of(at).design == "sparse rows"
    for other in (
        replace(at, n_features=20_000),
        replace(at, n_stored=plan.MOST_STORED + 1, n_features=10**6),
        replace(at, method="full"),
        replace(at, starts_at_zero=False),
        replace(at, has_penalty=False),
        replace(at, by_columns=True),
        replace(at, n_problems=2),
    ):
        assert plan_of(other).design in ("columns", "held sparse columns")
    # Of several outputs vectors are that much longer.
    assert plan_of(replace(at, n_features=20_000, n_outputs=20)).design == "sparse rows"
    assert plan_of(Shape(300, 20_000, 20, n_stored=30_000)).design == "sparse rows"
    assert plan_of(Shape(100, 20_000, n_stored=3_000)).design == "rows"  # made at once of so few


def test_columns_are_held_up_to_a_number_of_them_and_with_several_outputs_of_rows():
    assert plan_of(Shape(2**20 // 4, 3)).design == "held columns"
    assert plan_of(Shape(2**20 // 4 + 1, 3)).design == "columns"
    assert plan_of(Shape(5_000, 3, 3)).design == "held columns"
    assert plan_of(Shape(5_001, 3, 3)).design == "columns"
    most = plan.HELD_STORED
    assert plan_of(Shape(10**6, 3000, n_stored=most)).design == "held sparse columns"
    assert plan_of(Shape(10**6, 3000, n_stored=most + 1)).design == "columns"
    assert plan_of(Shape(10**6, 3000, 4, n_stored=most // 4)).design == "held sparse columns"
    assert plan_of(Shape(10**6, 3000, 4, n_stored=most // 4 + 1)).design == "columns"


def test_sparse_rows_of_few_columns_are_made_dense_where_that_takes_less():
    assert is_best_dense(Shape(1000, 100, 3, n_stored=50_000))
    assert not is_best_dense(Shape(1000, 100, 3, n_stored=50_000, method="sgd"))
    assert not is_best_dense(Shape(300, 1000, 3, n_stored=900))
    assert not is_best_dense(Shape(100_000, 100, 3, n_stored=5_000_000))  # too many numbers
    assert not is_best_dense(Shape(1000, 100, 3))


def test_the_rows_space_pays_for_more_problems_where_it_does_not_for_one():
    shape = Shape(200, 3000, n_stored=6000)
    assert plan_of(shape).design == "held sparse columns"
    assert plan_of(replace(shape, n_problems=25)).design == "rows"
    assert plan_of(replace(shape, n_problems=25, by_columns=True)).design == "held sparse columns"


@pytest.mark.parametrize(("n", "n_features", "itemsize", "n_drawn"), [
    (10**6, 19, 8, 64 * 20),  # enough for the metric
    (15_000, 19, 8, 1200),  # a part of the memory of X
    (15_000, 19, 4, 600),  # of which float32 rows take half, and the sample does not
    (2000, 19, 8, 0),  # too few to say anything
    (10**5, 511, 8, 0),
])  # fmt: skip
def test_a_sample_has_rows_in_proportion_to_the_columns_and_little_memory(n, n_features, itemsize, n_drawn):
    assert sample_rows(Shape(n, n_features, itemsize=itemsize)) == n_drawn


@pytest.mark.parametrize(("n", "n_drawn"), [(10**6, 10_000), (20_000, 10_000), (19_999, 0)])
def test_softmax_takes_a_number_of_rows_or_none(n, n_drawn):
    assert sample_rows(Shape(n, 20, 5)) == n_drawn


def test_a_sample_is_solved_where_labels_tell_enough():
    shape = Shape(10**6, 20, 5)
    assert is_informative(shape, 10_000) and not is_informative(replace(shape, n_features=1000), 10_000)
    assert is_informative(Shape(10**6, 10**6), 1)


def test_the_metric_goes_from_a_factorisation_to_products_at_a_number_of_parameters():
    assert metric_of(Shape(10**6, 198), "none") == "cholesky"
    assert (
        metric_of(Shape(10**4, 199), "none") == "products"
    )  # and a factorisation once they have paid for it
    assert metric_of(Shape(10**6, 1024), "none") == "products"
    assert metric_of(Shape(100, 100, 3), "none") == "cholesky"
    assert metric_of(Shape(10**4, 100, 3), "none") == "exact"
    assert metric_of(Shape(10**4, 2047, 3), "none") == "products"  # which take less than a factorisation
    assert metric_of(Shape(10**5, 2047, 3), "none") == "exact"
    assert metric_of(Shape(10**5, 2048, 3), "none") == "products"
    assert {metric_of(Shape(10**5, 100, 10), samples) for samples in OF_FACTORS} == set(OF_FACTORS.values())


@pytest.mark.parametrize(("n", "d", "n_outputs", "a_row", "metric"), [
    (10_000, 1000, 1, 3, "products"),  # where a factorisation was timed at thirty times as long
    (1000, 1000, 1, 100, "products"),
    (300, 1000, 3, 3, "products"),
    (1000, 100, 1, 10, "cholesky"),
    (100_000, 30, 1, 10, "cholesky"),
    (5000, 300, 10, 30, "exact"),
    (300, 40, 3, 10, "cholesky"),
])  # fmt: skip
def test_sparse_rows_that_store_little_are_only_multiplied_with(n, d, n_outputs, a_row, metric):
    shape = Shape(n, d, n_outputs, n_stored=n * a_row)
    assert metric_of(shape, "none") == metric
    if metric == "products":
        assert shared_metric_of(shape) == "products" and matrix_numbers(shape) == 0


def test_columns_of_the_rows_space_are_solved_by_products_where_a_matrix_is_no_small_one():
    assert metric_of(Shape(300, 300, 1, is_orthogonal=True), "none") == "products"
    assert metric_of(Shape(3000, 190, 1), "none") == "cholesky"  # whose spectrum may fall
    assert metric_of(Shape(30, 30, 1, is_orthogonal=True), "none") == "cholesky"
    many = Shape(100, 100, 20, is_orthogonal=True, n_problems=25)
    assert metric_of(many, "none") == shared_metric_of(many) == "products" and has_own_metrics(many)


def test_folds_share_a_metric_by_the_same_sizes():
    assert shared_metric_of(Shape(10**5, 1023)) == "cholesky"
    assert shared_metric_of(Shape(10**5, 1024)) == "kronecker"
    assert shared_metric_of(Shape(10**5, 10, 3)) == "kronecker"
    assert shared_metric_of(Shape(10**5, 2048)) == "products"


def test_few_multiplications_give_each_fold_a_metric_of_its_own():
    shape = Shape(569, 30, n_problems=50)
    assert has_own_metrics(shape) and not has_own_metrics(replace(shape, n_problems=5000))
    assert not has_own_metrics(replace(shape, n_rows=10**6, n_problems=1))


def test_the_largest_matrix_of_a_problem():
    assert matrix_numbers(Shape(100, 30)) == 31**2
    assert matrix_numbers(Shape(10**5, 100, 50)) == 101**2
    assert matrix_numbers(Shape(10**5, 3000)) == 0


def test_a_solver_is_told_what_the_plan_says_of_its_objective():
    def objective(p, K, n_rows, *errors):
        batches = [SimpleNamespace(error=error) for error in errors]
        return SimpleNamespace(
            n_parameters=p,
            n_outputs=K,
            n_problems=1,
            is_orthogonal=False,
            rows=SimpleNamespace(n_rows=n_rows, n_stored=-1),
            batches=batches,
            by_output=lambda: None,
        )

    small = natural_settings(objective(31, 1, 569))
    assert small == {
        "metric": "cholesky",
        "kept_work": plan.KEPT_WORK,
        "late_work": plan.LATE_WORK,
        "factored_columns": 0,
    }
    waits = natural_settings(objective(500, 1, 1000))
    assert waits["metric"] == "products" and waits["factored_columns"] == plan.CHOLESKY_PARAMETERS
    assert natural_settings(objective(51300, 100, 50_000, float("inf")))["metric"] == "kronecker"
    assert natural_settings(objective(1010, 10, 100_000, 0.1, 0.01))["metric"] == "sampled"
    wide = natural_settings(objective(2001, 1, 20_000))
    assert wide["metric"] == "products" and wide["late_work"] == 0


def test_the_plan_makes_no_array():
    source = inspect.getsource(plan)
    assert "import torch" not in source and "import numpy" not in source
