"""What the package shows to the world."""

import inspect
import re
from pathlib import Path

import torch_logreg

PUBLIC = [
    "Inputs",
    "ModuleSpec",
    "OptimizerSpec",
    "TorchLogisticClassifier",
    "TorchLogisticClassifierCV",
    "from_sklearn",
    "smallest_C",
]


def test_the_public_names_are_exactly_these():
    assert sorted(set(torch_logreg.__all__) - {"__version__"}) == PUBLIC
    assert len(torch_logreg.__all__) == len(set(torch_logreg.__all__))


def test_no_other_name_leaks_from_the_package():
    visible = {name for name in vars(torch_logreg) if not name.startswith("_")}
    assert visible == set(PUBLIC)


def test_every_submodule_is_private():
    package = Path(torch_logreg.__file__).parent
    files = [file.relative_to(package) for file in package.rglob("*.py")]
    assert [str(file) for file in files if not file.parts[0].startswith("_")] == []


def test_every_public_name_has_a_docstring():
    undocumented = [name for name in PUBLIC if not inspect.getdoc(getattr(torch_logreg, name))]
    assert undocumented == []
    assert torch_logreg.__doc__


def test_every_constructor_parameter_is_keyword_only():
    parameters = list(inspect.signature(torch_logreg.TorchLogisticClassifier).parameters.values())
    assert parameters
    assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == []


def test_the_version_is_one_that_packaging_tools_accept():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", torch_logreg.__version__)


def test_the_type_marker_is_shipped():
    assert (Path(torch_logreg.__file__).parent / "py.typed").is_file()
