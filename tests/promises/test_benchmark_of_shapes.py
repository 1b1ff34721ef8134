"""The grid and the rule of `shape_cells.py` and `shapes.py` in `examples/benchmarks/`."""

from __future__ import annotations

import math
import sys
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "benchmarks"))
import harness  # noqa: E402
import shape_cells  # noqa: E402
import shapes  # noqa: E402

CELL = shape_cells.Cell("fit", "dense", 60, 4, 2, 1.0, "noisy", "float64", 1.0)


@pytest.fixture(scope="module")
def grids():
    return {grid: shape_cells.cells(grid) for grid in shape_cells.GRIDS}


def in_this_process(cell, setting, limit):
    return shapes.run(cell, setting)


def result(ours, theirs, own=None, fails=""):
    rows = [
        shapes.Row(True, "auto", None, ours, 0.0, fails),
        shapes.Row(False, "lbfgs", 1e-4, theirs, 0.0, ""),
    ]
    rows += [] if own is None else [shapes.Row(True, "lbfgs", 1e-4, own, 0.0, "")]
    return shapes.Result(CELL, rows)


@pytest.mark.parametrize("grid", shape_cells.GRIDS)
def test_every_value_and_every_feasible_pair_of_two_occurs(grids, grid):
    axes = shape_cells.GRIDS[grid]
    for kind in ("dense", "CSR"):
        values = product(axes.n, axes.d[kind], axes.K, axes.spread[kind])
        every = [shape_cells.Cell("fit", kind, *v, "easy", "float64", 1.0) for v in values]
        possible = {cell[2:6] for cell in every if cell.is_feasible}
        found = {cell[2:6] for cell in grids[grid] if cell[:2] == ("fit", kind)}
        for pair in combinations(range(4), 2):
            assert {tuple(v[i] for i in pair) for v in found} == {tuple(v[i] for i in pair) for v in possible}
        assert {v[:3] for v in found} == {v[:3] for v in possible}
    for name, of_axis in (
        ("labels", shape_cells.LABELS),
        ("C", (0, *axes.C)),
        ("dtype", ("float32", "float64")),
    ):
        assert {getattr(cell, name) for cell in grids[grid]} == set(of_axis)


@pytest.mark.parametrize("grid", shape_cells.GRIDS)
def test_a_grid_is_the_same_each_time_within_bounds_and_without_copies(grids, grid):
    found = grids[grid]
    assert found == shape_cells.cells(grid) and len(found) == len(set(found)) and 200 < len(found) < 400
    assert all(cell.is_feasible for cell in found)
    assert max(cell.n * cell.d for cell in found if cell.format == "dense") <= 4e7
    quick = shape_cells.cells(grid, quick=True)
    assert set(quick) <= set(found) and 30 <= len(quick) <= 44


def test_grids_share_no_cell(grids):
    assert not set(grids["main"]) & set(grids["between"])


@pytest.mark.parametrize("format, spread", [("dense", 0.0), ("dense", 1.0), ("CSR", 10)])
def test_each_class_has_a_row_in_each_fold_and_the_spectrum_is_that_asked_for(format, spread):
    X, y = shape_cells.data(CELL._replace(format=format, n=200, d=40, K=20, spread=spread, dtype="float32"))
    assert X.dtype == "float32" and np.bincount(y, minlength=20).min() >= shape_cells.FOLDS
    if format == "CSR":
        assert scipy.sparse.issparse(X) and X.indices.dtype == X.indptr.dtype == "int32"
        return
    found = np.linalg.svd(X, compute_uv=False)
    wide = found[0] / found[-1]
    assert wide < 3 if spread == 0 else wide > 20
    np.testing.assert_allclose((X.astype(float) ** 2).mean(), 1, rtol=0.3)


@pytest.mark.parametrize("task", shapes.GAPS)
def test_ours_and_a_peer_count_on_a_small_cell(task):
    rows = shapes.measure(in_this_process, CELL._replace(task=task), repeats=2, limit=60.0)
    assert rows[0][:3] == (True, "auto", None) and rows[0].counts
    assert {row.solver for row in rows if not row.ours} == set(shapes.PEERS)
    assert any(row.counts for row in rows if not row.ours)
    assert all(row.note.startswith("left out") for row in rows if row.solver in ("sag", "liblinear, dual"))
    assert 0 < shapes.Result(CELL, rows).of_peers < math.inf


def test_a_run_far_from_the_least_objective_does_not_count():
    def ask(cell, setting, limit):
        if setting.solver == "lbfgs":
            return "ended after 1 s"
        return shapes.Run(1.0, [2.0 if setting.solver == "newton-cg" else 1.0])

    rows = {row[:2]: row for row in shapes.measure(ask, CELL, repeats=1, limit=60.0)}
    assert rows[False, "newton-cg"].note == harness.SHORT and not rows[False, "newton-cg"].counts
    assert rows[False, "lbfgs"].note == "ended after 1 s" and rows[False, "lbfgs"].seconds is None
    assert rows[False, "newton-cholesky"].counts


def test_slack_forgives_short_fits_alone_and_takes_nothing_off_a_ratio_below_one():
    assert result(0.0026, 0.002).of_peers == pytest.approx(1.15)
    assert result(0.0022, 0.002).of_peers == 1
    assert result(0.001, 0.002).of_peers == 0.5
    assert result(0.0066, 0.006).of_peers == pytest.approx(1.1)
    assert result(0.001, 0.002, fails=harness.SHORT).of_peers == math.inf
    assert math.isnan(result(0.001, 0.002).of_own) and result(0.03, 1.0, own=0.02).of_own == pytest.approx(
        1.5
    )


def test_a_report_lists_slow_and_failed_cells():
    text = shapes.report(
        [result(0.2, 0.1, own=0.1), result(0.1, 0.4), result(0.1, 0.1, fails=harness.SHORT)], 5
    )
    assert "3 of 5 cells" in text and "| all | 3 | 0.707 | 1 | 1 | 1 | 0 |" in text
    assert f"fails: {harness.SHORT}" in text and "| 2.00 |" in text


def test_results_are_read_again_for_the_same_state_only(tmp_path):
    path, of = tmp_path / "results.jsonl", {"package": "a", "threads": 1}
    kept = result(0.2, 0.1)
    shapes.keep(path, of, kept)
    assert shapes.stored(path, of) == {CELL: kept} and not shapes.stored(path, {**of, "threads": 2})
