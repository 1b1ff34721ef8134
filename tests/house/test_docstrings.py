"""Public docstrings follow numpydoc."""

import inspect

import pytest
from numpydoc.validate import validate

import torch_logreg

IGNORED = {
    "ES01": "no extended summary: the short one may say it all",
    "EX01": "no example: the class has one, methods need none",
    "GL01": "text starts on the line of the quotes",
    "RT02": "a returned value may have a name, as in scikit-learn",
    "SA01": "no See Also section",
    "SA04": "no description in See Also",
    "YD01": "no Yields section",
}


def public_names():
    """Return the dotted name of every public object and of every public method written here."""
    names = []
    for name in torch_logreg.__all__:
        value = getattr(torch_logreg, name)
        if not inspect.isclass(value):
            continue
        names.append(f"torch_logreg.{name}")
        for attribute, member in inspect.getmembers(value):
            defined_here = getattr(inspect.unwrap(getattr(member, "fget", None) or member), "__module__", "")
            if not attribute.startswith("_") and str(defined_here).startswith("torch_logreg"):
                names.append(f"torch_logreg.{name}.{attribute}")
    return names


@pytest.mark.parametrize("name", public_names())
def test_the_docstring_is_valid(name):
    errors = [error for error in validate(name)["errors"] if error[0] not in IGNORED]
    assert errors == []


def test_methods_are_among_the_names():
    methods = {"fit", "predict", "predict_proba", "predict_log_proba", "decision_function"}
    assert {f"torch_logreg.TorchLogisticClassifier.{method}" for method in methods} <= set(public_names())


def test_every_parameter_says_its_default():
    lines = [line.strip() for line in inspect.getdoc(torch_logreg.TorchLogisticClassifier).splitlines()]
    headings = [line for line in lines if " : " in line and "default=" in line]
    documented = {line.partition(" : ")[0] for line in headings}
    assert set(inspect.signature(torch_logreg.TorchLogisticClassifier).parameters) <= documented
