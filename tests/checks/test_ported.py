"""Code that was written for LogisticRegression is told what to write here."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import estimator_html_repr
from torch import nn

from torch_logreg import ModuleSpec, TorchLogisticClassifier, TorchLogisticClassifierCV
from torch_logreg._solvers.registry import SOLVERS

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3))
y = (X @ [1.0, -2.0, 0.5] + rng.normal(size=60) > 0).astype(int)

BOTH = [TorchLogisticClassifier, TorchLogisticClassifierCV]
# The argument, and what the error must say.
FOREIGN = {
    TorchLogisticClassifier: [
        ({"penalty": "l2"}, ("penalty='l2'", "leave it out", "L2")),
        ({"penalty": None}, ("penalty=None", "C=np.inf")),
        ({"penalty": "none"}, ("penalty='none'", "C=np.inf")),
        ({"penalty": "l3"}, ("penalty='l3'", "leave it out", "C=np.inf")),
        ({"penalty": "l1"}, ("penalty='l1'", "write l1_ratio=1 ")),
        ({"penalty": "elasticnet"}, ("penalty='elasticnet'", "l1_ratio=0.5")),
        ({"l1_ratios": [0, 1]}, ("l1_ratios=[0, 1]", "write l1_ratio=...", "TorchLogisticClassifierCV")),
        ({"l1_ratios": (0,)}, ("l1_ratios=(0,)", "leave it out", "L2")),
        ({"l1_ratios": np.zeros(2)}, ("l1_ratios=array", "leave it out", "L2")),
        ({"l1_ratios": "warn"}, ("l1_ratios='warn'", "leave it out", "L2")),
        ({"Cs": 10}, ("Cs=10", "TorchLogisticClassifierCV")),
        ({"cv": 3}, ("cv=3", "TorchLogisticClassifierCV")),
        ({"refit": True}, ("refit=True", "TorchLogisticClassifierCV")),
    ],
    TorchLogisticClassifierCV: [
        ({"penalty": "l2"}, ("penalty='l2'", "leave it out", "L2")),
        ({"penalty": None}, ("penalty=None", "Cs=[np.inf]")),
        ({"C": 0.5}, ("C=0.5", "Cs=[0.5]")),
        ({"warm_start": True}, ("warm_start=True", "leave it out")),
        ({"penalty": "l1"}, ("penalty='l1'", "write l1_ratios=[1] ")),
        ({"penalty": "elasticnet"}, ("penalty='elasticnet'", "l1_ratios=[0.1, 0.5, 0.9]")),
        ({"l1_ratio": 0}, ("l1_ratio=0", "leave it out", "L2")),
        ({"l1_ratio": None}, ("l1_ratio=None", "leave it out", "L2")),
        ({"l1_ratio": 0.5}, ("l1_ratio=0.5", "l1_ratios=[0.5]")),
    ],
}
OF_BOTH = [
    ({"penalty": "deprecated"}, ("penalty='deprecated'", "leave it out")),
    ({"n_jobs": -1}, ("n_jobs=-1", "leave it out", "torch.set_num_threads")),
    ({"n_jobs": None}, ("n_jobs=None", "leave it out")),
    ({"dual": False}, ("dual=False", "leave it out")),
    ({"intercept_scaling": 1}, ("intercept_scaling=1", "leave it out")),
    ({"multi_class": "auto"}, ("multi_class='auto'", "leave it out", "softmax")),
    ({"multi_class": "ovr"}, ("multi_class='ovr'", "OneVsRestClassifier")),
    ({"use_legacy_attributes": False}, ("use_legacy_attributes=False", "leave it out")),
    ({"penalty": "l2", "n_jobs": 2}, ("penalty='l2'", "n_jobs=2")),
]
CASES = [(kind, *case) for kind in BOTH for case in [*FOREIGN[kind], *OF_BOTH]]
IDS = [f"{kind.__name__}-{given}" for kind, given, _ in CASES]


def assert_says(caught, words):
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(("kind", "given", "words"), CASES, ids=IDS)
def test_the_constructor_says_what_to_write(kind, given, words):
    with pytest.raises(TypeError) as caught:
        kind(**given)
    assert_says(caught, (kind.__name__, *words))


@pytest.mark.parametrize(("kind", "given", "words"), CASES, ids=IDS)
def test_set_params_says_what_to_write_and_sets_nothing(kind, given, words):
    estimator = kind()
    with pytest.raises(ValueError) as caught:
        estimator.set_params(tol=1e-3, **given)
    assert_says(caught, (kind.__name__, *words))
    assert estimator.get_params() == kind().get_params()
    in_a_pipeline = Pipeline([("model", kind())])
    with pytest.raises(ValueError) as caught:
        in_a_pipeline.set_params(**{f"model__{name}": value for name, value in given.items()})
    assert_says(caught, words)


@pytest.mark.parametrize("kind", BOTH)
def test_a_grid_over_the_penalty_says_what_to_write(kind):
    words = "write l1_ratio=1" if kind is TorchLogisticClassifier else "write l1_ratios=.1."
    with pytest.raises(ValueError, match=f"penalty='l1'.*{words}"):
        GridSearchCV(kind(), {"penalty": ["l1"]}, error_score="raise").fit(X, y)
    pipeline = Pipeline([("model", kind())])
    with pytest.raises(ValueError, match="penalty=None.*np.inf"):
        GridSearchCV(pipeline, {"model__penalty": [None]}, error_score="raise").fit(X, y)


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        (TorchLogisticClassifier, LogisticRegression),
        (TorchLogisticClassifierCV, LogisticRegressionCV),
        (TorchLogisticClassifier, LogisticRegressionCV),
        (TorchLogisticClassifierCV, LogisticRegression),
    ],
)
def test_every_argument_of_the_reference_is_taken_or_advised_on(kind, reference):
    for name, parameter in inspect.signature(reference).parameters.items():
        if name in inspect.signature(kind).parameters:
            continue
        with pytest.raises(TypeError, match=f"does not have these arguments .* {name}="):
            kind(**{name: parameter.default})


def test_a_penalty_without_its_name_is_advised_on_too():
    with pytest.raises(TypeError, match=r"penalty='l2' \(leave it out"):
        TorchLogisticClassifier("l2")


@pytest.mark.parametrize("kind", BOTH)
def test_a_name_that_is_nobodys_is_told_as_python_and_scikit_learn_tell_it(kind):
    with pytest.raises(TypeError, match=r"__init__\(\) got an unexpected keyword argument 'colour'"):
        kind(colour="red")
    with pytest.raises(ValueError, match="Invalid parameter 'colour' for estimator"):
        kind().set_params(colour="red")


@pytest.mark.parametrize("kind", BOTH)
def test_the_signature_is_that_of_the_parameters(kind):
    parameters = inspect.signature(kind).parameters
    assert sorted(kind().get_params()) == sorted(parameters)
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert "penalty" not in parameters


class OnlyC(TorchLogisticClassifier):
    def __init__(self, C=1.0):
        super().__init__(C=C)


class WithPenalty(TorchLogisticClassifier):
    """A subclass that makes something of a name of LogisticRegression."""

    def __init__(self, penalty="l2", C=1.0):
        super().__init__(C=C if penalty == "l2" else np.inf)
        self.penalty = penalty
        self.C = C


def test_subclasses_have_the_signature_that_they_write():
    mine = clone(OnlyC(C=0.1)).fit(X, y)
    assert mine.get_params() == {"C": 0.1}
    assert np.array_equal(mine.coef_, TorchLogisticClassifier(C=0.1).fit(X, y).coef_)
    with pytest.raises(ValueError, match="OnlyC does not have .*penalty='l2'"):
        mine.set_params(penalty="l2")
    assert clone(WithPenalty()).set_params(penalty=None).get_params() == {"C": 1.0, "penalty": None}


# ---- how it looks ----


@pytest.mark.parametrize(
    "estimator",
    [TorchLogisticClassifier(), TorchLogisticClassifierCV(), ModuleSpec(nn.Linear, bias=False)],
    ids=lambda estimator: type(estimator).__name__,
)
def test_the_html_of_an_estimator_has_no_link_to_a_page_that_does_not_exist(estimator):
    pages = [estimator_html_repr(estimator)]
    if not isinstance(estimator, ModuleSpec):
        pages.append(estimator_html_repr(clone(estimator).fit(X, y)))
        pages.append(estimator_html_repr(Pipeline([("model", estimator)])))
    for page in pages:
        links = re.findall(r'href="([^"]*)"', page)
        assert [link for link in links if "torch_logreg" in link or type(estimator).__name__ in link] == []
        assert "generated/torch_logreg" not in page


# ---- what programs look for in warnings ----


def separable(rows):
    return rows, (rows[:, 0] > 0).astype(int)


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "sgd"])
@pytest.mark.parametrize("kind", BOTH)
def test_a_fit_that_needs_more_iterations_says_so_in_the_words_of_scikit_learn(kind, solver):
    with pytest.warns(ConvergenceWarning) as of_reference:
        LogisticRegression(max_iter=1, tol=1e-12).fit(X * [1, 100, 0.01], y)
    words = r"lbfgs failed to converge", r"Increase the number of iterations", r"\(max_iter=1\)"
    assert all(re.search(word, str(of_reference[0].message)) for word in words)
    with pytest.warns(ConvergenceWarning) as ours:
        kind(solver=solver, max_iter=1, tol=1e-12).fit(X * [1, 100, 0.01], y)
    message = str(ours[0].message)
    assert len(ours) == 1 and message.startswith(f"{solver} failed to converge ")
    assert message.count("Increase the number of iterations to improve the convergence (max_iter=1)") == 1


@pytest.mark.parametrize("kind", BOTH)
def test_a_fit_that_more_iterations_do_not_help_does_not_ask_for_them(kind):
    free = {"C": np.inf} if kind is TorchLogisticClassifier else {"Cs": [np.inf]}
    with pytest.warns(ConvergenceWarning, match="^natural-sgd failed to converge .* separated") as caught:
        kind(**free).fit(*separable(X))
    assert "Increase" not in str(caught[0].message)
