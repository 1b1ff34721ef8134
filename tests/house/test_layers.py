"""A wing imports from wings on lower floors alone, as in the map of ``docs/development.md``."""

import ast
import re
from pathlib import Path

import pytest

import torch_logreg

PACKAGE = Path(torch_logreg.__file__).parent
FLOORS = {
    "_estimators": 6,
    "_selection": 5,
    "_inspection": 5,
    "_fit": 4,
    "_checks": 3,
    "_linear": 3,
    "_modules": 3,
    "_data": 2,
    "_solvers": 2,
    "_contracts": 1,
    "_losses": 1,
    "_runtime": 0,
}
# What a wing must not know, though it lies below, or what of other packages it must not.
NEVER = {
    "_inspection": {"_solvers"},
    "_checks": {"_solvers"},
    "_linear": {"_solvers", "sklearn"},
    "_modules": {"_solvers"},
    "_solvers": {"_losses", "sklearn"},
    "_data": {"_losses", "sklearn"},
    "_contracts": {"sklearn", "_runtime"},
    "_losses": {"sklearn"},
    "_runtime": {"sklearn"},
}
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [file.relative_to(PACKAGE).with_suffix("").as_posix() for file in FILES]
MOST_WINGS = 12


def imported(source, of="x"):
    """Return the dotted names that the source of the file `of` imports, wherever it does so."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = ["torch_logreg", *of.split("/")][: -node.level] if node.level else []
            base = ".".join([*here, node.module] if node.module else here)
            # "from torch_logreg._data import csr" names a file in the second place.
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def wings(names):
    """Return the wings among dotted names."""
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "torch_logreg" and len(part) > 1} & set(FLOORS)


def read(file):
    return file.read_text(encoding="utf-8")


def test_every_file_is_in_a_wing():
    assert {name.partition("/")[0] for name in NAMES} == {*FLOORS, "__init__"}
    assert len(FLOORS) <= MOST_WINGS


@pytest.mark.parametrize(("file", "name"), list(zip(FILES, NAMES, strict=True)), ids=NAMES)
def test_imports_point_down(file, name):
    wing = name.partition("/")[0]
    others = wings(imported(read(file), name)) - {wing}
    assert {other for other in others if FLOORS[other] >= FLOORS.get(wing, 7)} == set()


@pytest.mark.parametrize(("file", "name"), list(zip(FILES, NAMES, strict=True)), ids=NAMES)
def test_a_wing_does_not_know_what_it_must_not(file, name):
    wing = name.partition("/")[0]
    found = imported(read(file), name)
    known = wings(found) | {dotted.partition(".")[0] for dotted in found}
    assert known & NEVER.get(wing, set()) == set()


def test_those_who_choose_know_no_insides_of_solvers():
    for file, name in zip(FILES, NAMES, strict=True):
        if name.startswith("_selection/"):
            known = {dotted for dotted in imported(read(file), name) if "._solvers" in dotted}
            assert known <= {"torch_logreg._solvers.natural.NaturalSGD"}


@pytest.mark.parametrize("wing", FLOORS)
def test_a_wing_has_no_cycle(wing):
    graph = {}
    for file, name in zip(FILES, NAMES, strict=True):
        if name.startswith(f"{wing}/") and not name.endswith("__init__"):
            dotted = {found.removeprefix("torch_logreg.") for found in imported(read(file), name)}
            graph[name] = {
                other for other in NAMES if any(d.startswith(other.replace("/", ".") + ".") for d in dotted)
            } - {name}
    left = dict(graph)
    while left:  # a wing without a cycle has a file that imports none of those left
        free = [name for name, others in left.items() if not others & set(left)]
        assert free, f"a cycle among {sorted(left)}"
        for name in free:
            del left[name]


def test_the_documented_map_is_this_one():
    text = read(PACKAGE.parent / "docs" / "development.md")
    rows = re.findall(r"^\| (\d) \| `(_\w+)` \|", text, flags=re.MULTILINE)
    assert {wing: int(floor) for floor, wing in rows} == FLOORS


def test_every_file_is_in_the_documented_map():
    text = read(PACKAGE.parent / "docs" / "development.md")
    shown = set(re.findall(r"^\| `(_[\w/]+)\.py` \|", text, flags=re.MULTILINE))
    assert shown == {name for name in NAMES if not name.endswith("__init__")}


@pytest.mark.parametrize(
    "source",
    [
        "from torch_logreg._data.csr import CsrMatrix",
        "from torch_logreg._data import csr",
        "from .csr import CsrMatrix",
        "from . import csr",
        "from .. import _data",
        "import torch_logreg._data.csr as csr",
        "def f():\n    from .._data.csr import CsrMatrix",
    ],
)
def test_every_form_of_import_is_seen(source):
    assert wings(imported(source, "_data/products")) == {"_data"}
