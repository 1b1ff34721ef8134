"""Imports inside the package point down the table of ``docs/development.md``."""

import ast
import re
from pathlib import Path

import pytest

import torch_logreg

PACKAGE = Path(torch_logreg.__file__).parent
LEVELS = {
    "_csr": 0,
    "_labels": 0,
    "_losses": 0,
    "_penalty": 0,
    "_progress": 0,
    "_ported": 0,
    "_rows": 0,
    "_scores": 0,
    "_sklearn_compat": 0,
    "_torch_compat": 0,
    "_secants": 0,
    "_memory": 0,
    "_naming": 0,
    "_processes": 0,
    "_solver": 0,
    "_sparse": 0,
    "_surroundings": 1,
    "_callbacks": 1,
    "_conjugate": 1,
    "_coordinates": 1,
    "_criteria": 1,
    "_folds": 1,
    "_inputs": 1,
    "_module_copies": 1,
    "_newton": 1,
    "_sgd": 1,
    "_present": 2,
    "_design": 2,
    "_initial": 2,
    "_lbfgs": 2,
    "_metrics": 2,
    "_module_checks": 2,
    "_modules": 2,
    "_objective": 2,
    "_parameters": 2,
    "_row_space": 2,
    "_sparse_row_space": 2,
    "_conditioning": 3,
    "_separation": 3,
    "_growing": 3,
    "_module_objective": 3,
    "_module_predictor": 3,
    "_natural": 3,
    "_problems": 4,
    "_cross_validation": 5,
    "_early_stopping": 5,
    "_path": 5,
    "_predictions": 5,
    "_classifier": 6,
    "_classifier_cv": 7,
    "__init__": 8,
}
# An import between two modules of one level is a decision, and each one has its reason here.
SIDEWAYS = {
    ("_progress", "_solver"): "what solvers share works on the contracts",
    ("_rows", "_solver"): "the containers of rows implement the contract Rows",
    ("_rows", "_sparse"): "what CSR takes of the products with X",
    ("_csr", "_processes"): "the lock of its first use is safe across forks",
    ("_solver", "_csr"): "a block of the contracts may hold a CSR matrix",
    ("_sparse", "_csr"): "the matrix that it makes and sums over",
    ("_sparse", "_solver"): "the container of a CSR matrix is part of the contracts",
}
MODULES = sorted(file.stem for file in PACKAGE.glob("*.py"))


def package_imports(source):
    """Return the names of the modules of this package that the source imports, wherever it does so."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = f"torch_logreg.{node.module or ''}".rstrip(".") if node.level else node.module
            # "from torch_logreg import _rows" names a module in the second place.
            dotted = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in dotted]
        found |= {part[1] for part in parts if part[0] == "torch_logreg" and len(part) > 1}
    return found & set(MODULES)


def test_every_module_has_a_level():
    assert set(MODULES) == set(LEVELS)


def test_the_package_is_flat():
    assert [file.name for file in PACKAGE.rglob("*.py") if file.parent != PACKAGE] == []


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    imported = package_imports((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    upwards = {
        other for other in imported if LEVELS[other] >= LEVELS[module] and (module, other) not in SIDEWAYS
    }
    assert upwards == set()


def test_every_sideways_import_is_still_used_and_one_way():
    for module, other in SIDEWAYS:
        assert LEVELS[module] == LEVELS[other]
        assert (other, module) not in SIDEWAYS
        assert other in package_imports((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def test_the_documented_table_is_this_one():
    text = (PACKAGE.parent / "docs" / "development.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| `(_\w+)\.py` \|", text, flags=re.MULTILINE)
    assert {name: int(level) for level, name in rows} == {m: n for m, n in LEVELS.items() if m != "__init__"}


@pytest.mark.parametrize(
    "source",
    [
        "from torch_logreg._rows import Rows",
        "from torch_logreg import _rows",
        "from ._rows import Rows",
        "from . import _rows",
        "import torch_logreg._rows as rows",
        "def f():\n    from ._rows import Rows",
    ],
)
def test_every_form_of_import_is_seen(source):
    assert package_imports(source) == {"_rows"}
