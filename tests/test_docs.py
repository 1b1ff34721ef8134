"""The README and the documentation say what is true of the package."""

import re
from pathlib import Path

import pytest

from torch_logreg._classifier import SOLVERS

ROOT = Path(__file__).parents[1]
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


@pytest.mark.parametrize("page", [p for p in PAGES if fences(p, "python")], ids=lambda page: page.name)
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
