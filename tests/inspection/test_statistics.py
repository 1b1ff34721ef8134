"""Standard errors, tests and likelihoods: those of statsmodels, or of numpy where it has none."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import statsmodels.api as sm
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted
from statsmodels.datasets import anes96, spector

from helpers.datasets import load
from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV, from_sklearn

pytestmark = pytest.mark.filterwarnings("error")


def problem(name):
    if name == "spector":
        data = spector.load_pandas()
        return data.exog.to_numpy(float), data.endog.to_numpy(int)
    if name == "anes96":  # left, middle and right of seven
        data = anes96.load_pandas().data
        X = data[["logpopul", "selfLR", "age", "educ", "income"]].to_numpy(float)
        return X, np.digitize(data["PID"], [2, 5])
    data = load(name)
    return data.X, data.y


BINARY = ["birthwt", "default", "hmda", "spector"]
SETTINGS = {"C": np.inf, "tol": 1e-8}


def fitted(X, y, sample_weight=None, **settings):
    return TorchLogisticClassifier(**{**SETTINGS, **settings}).fit(X, y, sample_weight)


def theirs(X, y, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what statsmodels says of itself
        model = sm.MNLogit if y.max() > 1 else sm.Logit
        return model(y, sm.add_constant(X, has_constant="add")).fit(
            disp=0, method="newton", maxiter=200, tol=1e-12, **settings
        )


def sandwich(X, y, probability, counts, factors=None, groups=None, fit_intercept=True):
    """The covariance of White, with counts of rows, factors of their losses, and groups."""
    D = np.column_stack([np.ones(len(X)), X]) if fit_intercept else X
    factors = np.ones(len(y)) if factors is None else factors
    K = probability.shape[1]
    P, Y = probability[:, 1:], np.eye(K)[y][:, 1:]
    bread = sum(
        c * f * np.kron(np.diag(p) - np.outer(p, p), np.outer(d, d))
        for c, f, p, d in zip(counts, factors, P, D, strict=True)
    )
    scores = (factors[:, None, None] * (P - Y)[:, :, None] * D[:, None]).reshape(len(y), -1)
    if groups is None:
        meat = (counts[:, None] * scores).T @ scores
    else:
        sums = np.array([(counts[:, None] * scores)[groups == g].sum(axis=0) for g in np.unique(groups)])
        meat = sums.T @ sums
    inverse = np.linalg.inv(bread)
    return inverse, inverse @ meat @ inverse


# ---- against statsmodels ----


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("cov_type", ["nonrobust", "HC0"])
def test_two_classes_are_as_in_logit(name, cov_type):
    X, y = problem(name)
    clf, reference = fitted(X, y), theirs(X, y, cov_type=cov_type)
    found = clf.summary(X, y, cov_type=cov_type)
    assert list(found.columns) == ["coef", "std_err", "z", "p_value", "ci_lower", "ci_upper", "odds_ratio"]
    assert_allclose(found.coef, reference.params, rtol=1e-6, atol=1e-9)
    assert_allclose(found.std_err, reference.bse, rtol=1e-5)
    assert_allclose(found.z, reference.tvalues, rtol=1e-5)
    assert_allclose(found.p_value, reference.pvalues, rtol=1e-3, atol=1e-300)
    assert_allclose(found[["ci_lower", "ci_upper"]], reference.conf_int(), rtol=1e-5, atol=1e-9)
    assert_allclose(found.odds_ratio, np.exp(reference.params), rtol=1e-5)
    if cov_type == "nonrobust":
        assert_allclose(clf.summary(), found, rtol=1e-9)
    narrow = clf.summary(X, y, cov_type=cov_type, level=0.5)
    assert_allclose(narrow[["ci_lower", "ci_upper"]], reference.conf_int(0.5), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("cov_type", ["nonrobust", "HC0"])
def test_three_classes_are_as_in_mnlogit(cov_type):
    X, y = problem("anes96")
    clf, reference = fitted(X, y), theirs(X, y, cov_type=cov_type)
    found = clf.summary(X, y, cov_type=cov_type)
    assert found.index.names == ["class", "feature"]
    assert found.index[0] == (1, "intercept") and found.index[-1] == (2, "x4")
    assert_allclose(found.coef, np.asarray(reference.params).T.ravel(), rtol=1e-6)
    assert_allclose(found.std_err, np.asarray(reference.bse).T.ravel(), rtol=1e-5)


@pytest.mark.parametrize("name", [*BINARY, "anes96"])
def test_likelihoods_are_those_of_statsmodels(name):
    X, y = problem(name)
    found, reference = fitted(X, y).fit_statistics(X, y), theirs(X, y)
    assert_allclose(found.log_likelihood, reference.llf, rtol=1e-9)
    assert_allclose(found.log_likelihood_null, reference.llnull, rtol=1e-9)
    assert_allclose([found.aic, found.bic], [reference.aic, reference.bic], rtol=1e-9)
    assert_allclose(found.mcfadden_r2, reference.prsquared, rtol=1e-7)
    assert found.deviance == -2 * found.log_likelihood
    assert found.n_observations == len(y) and found.n_parameters == np.size(reference.params)


def test_weights_are_as_in_glm_with_frequencies():
    X, y = problem("birthwt")
    counts = np.random.default_rng(0).integers(1, 4, len(y))
    clf = fitted(X, y, counts)
    model = sm.GLM(y, sm.add_constant(X), family=sm.families.Binomial(), freq_weights=counts)
    reference = model.fit(tol=1e-14)
    found = clf.summary()
    assert_allclose(found.coef, reference.params, rtol=1e-6)
    assert_allclose(found.std_err, reference.bse, rtol=1e-5)
    statistics = clf.fit_statistics(X, y, sample_weight=counts)
    assert_allclose([statistics.log_likelihood, statistics.deviance], [reference.llf, reference.deviance])
    assert statistics.n_observations == counts.sum()


@pytest.mark.parametrize("columns", [[0], [2, 3], ["c2", 5]])
@pytest.mark.parametrize("name", ["birthwt", "anes96"])
def test_the_wald_test_is_that_of_statsmodels(columns, name):
    X, y = problem(name)
    frame = pd.DataFrame(X, columns=[f"c{j}" for j in range(X.shape[1])])
    columns = [column if isinstance(column, str) else column % X.shape[1] for column in columns]
    clf, reference = fitted(frame, y), theirs(X, y)
    numbers = [int(str(column).strip("c")) + 1 for column in columns]
    K, m = max(1, y.max()), X.shape[1] + 1
    tested = [k * m + j for k in range(K) for j in numbers]
    coef = np.asarray(reference.params).T.ravel()[tested]
    covariance = np.asarray(reference.cov_params())[np.ix_(tested, tested)]
    expected = coef @ np.linalg.inv(covariance) @ coef
    found = clf.wald_test(columns)
    assert_allclose(found.statistic, expected, rtol=1e-5)
    assert found.df == len(tested)
    if name == "birthwt":
        of_theirs = reference.wald_test(np.eye(m)[numbers], scalar=True, use_f=False)
        assert_allclose([found.statistic, found.p_value], [of_theirs.statistic, of_theirs.pvalue], rtol=1e-4)


# ---- against numpy ----


@pytest.mark.parametrize("name", ["birthwt", "spector", "anes96"])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("cov_type", ["nonrobust", "HC0", "HC1", "cluster"])
@pytest.mark.parametrize("way", ["plain", "counts", "balanced"])
def test_every_covariance_is_its_definition(name, fit_intercept, cov_type, way):
    X, y = problem(name)
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 4, len(y)) if way == "counts" else np.ones(len(y))
    factors = (len(y) / (y.max() + 1) / np.bincount(y))[y] if way == "balanced" else np.ones(len(y))
    groups = rng.integers(0, 15, len(y)) if cov_type == "cluster" else None
    clf = fitted(
        X, y, counts, fit_intercept=fit_intercept, class_weight="balanced" if way == "balanced" else None
    )
    settings = {"sample_weight": counts, "cov_type": cov_type, "groups": groups}
    if way == "balanced" and cov_type == "nonrobust":
        with pytest.raises(ValueError, match="weights of classes.*cov_type='HC0'"):
            clf.summary(X, y, **settings)
        return
    arguments = (X, y, clf.predict_proba(X), counts, factors, groups, fit_intercept)
    nonrobust, robust = sandwich(*arguments)
    n, p = counts.sum(), len(nonrobust)
    G = 0 if groups is None else len(np.unique(groups))
    expected = {
        "nonrobust": nonrobust,
        "HC0": robust,
        "HC1": robust * n / (n - p),
        "cluster": robust * G / max(G - 1, 1) * (n - 1) / (n - p),
    }[cov_type]
    found = clf.summary(X, y, **settings)
    assert_allclose(found.std_err, np.sqrt(np.diagonal(expected)), rtol=1e-6)
    m = X.shape[1] + fit_intercept
    tested = [k * m + fit_intercept for k in range(max(1, y.max()))]
    coef = found.coef.to_numpy()[tested]
    statistic = coef @ np.linalg.inv(expected[np.ix_(tested, tested)]) @ coef
    assert_allclose(clf.wald_test(0, X, y, **settings).statistic, statistic, rtol=1e-6)


@pytest.mark.parametrize("cov_type", ["nonrobust", "HC0", "HC1", "cluster"])
def test_a_count_is_as_many_rows(cov_type):
    X, y = problem("birthwt")
    counts = np.random.default_rng(0).integers(0, 4, len(y))
    groups = np.arange(len(y)) % 20
    each = np.repeat(np.arange(len(y)), counts)
    one = fitted(X, y, counts).summary(
        X, y, sample_weight=counts, cov_type=cov_type, groups=groups if cov_type == "cluster" else None
    )
    other = fitted(X[each], y[each]).summary(
        X[each], y[each], cov_type=cov_type, groups=groups[each] if cov_type == "cluster" else None
    )
    assert_allclose(one, other, rtol=1e-6)


# ---- every kind of data ----


@pytest.mark.parametrize(
    "kind, rtol",
    [
        (scipy.sparse.csr_array, 1e-7),
        (torch.from_numpy, 1e-7),
        (np.asfortranarray, 1e-7),
        (lambda X: X.astype(np.float32), 2e-4),
    ],
    ids=["CSR", "tensor", "by columns", "float32"],
)
@pytest.mark.parametrize("name", ["hmda", "anes96"])
def test_every_kind_of_rows_gives_the_same(kind, rtol, name):
    X, y = problem(name)
    expected = fitted(X, y).summary(X, y, cov_type="HC1")
    clf = fitted(kind(X), y, tol=1e-6)
    assert_allclose(clf.summary(kind(X), y, cov_type="HC1").std_err, expected.std_err, rtol=rtol)
    assert_allclose(clf.summary().std_err, fitted(X, y).summary().std_err, rtol=rtol)


def test_columns_far_from_0_lose_nothing():
    X, y = problem("birthwt")
    far = X.copy()
    far[:, 0] = 1e6 + 1e-3 * X[:, 0]
    one, other = fitted(X, y).summary(), fitted(far, y).summary()
    assert_allclose(one.std_err.iloc[1] * 1e3, other.std_err.iloc[1], rtol=1e-4)
    assert_allclose(one.std_err.iloc[2:], other.std_err.iloc[2:], rtol=1e-6)


def test_names_of_features_and_classes_are_in_the_index():
    X, y = problem("anes96")
    frame = pd.DataFrame(X, columns=["town", "left", "age", "school", "income"])
    names = np.array(["D", "I", "R"])[y]
    found = fitted(frame, names).summary()
    assert found.index[:2].tolist() == [("I", "intercept"), ("I", "town")]
    assert found.loc[("R", "income"), "odds_ratio"] == pytest.approx(
        np.exp(found.loc[("R", "income"), "coef"])
    )
    two = fitted(frame, names == "D").summary()
    assert two.index.tolist() == ["intercept", "town", "left", "age", "school", "income"]
    assert fitted(frame, names == "D", fit_intercept=False).summary().index[0] == "town"


def test_what_is_kept_goes_with_pickles_copies_and_the_next_fit():
    X, y = problem("spector")
    clf = fitted(X, y)
    expected = clf.summary()
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(clf)).summary(), expected)
    assert not hasattr(clone(clf), "_covariance")
    clf.set_params(C=1.0).fit(X, y)
    with pytest.raises(ValueError, match="fitted with a penalty"):
        clf.summary()
    with pytest.raises(ValueError, match="kept no covariance"):
        clf.summary(penalized="ignore")
    clf.sparsify()
    assert clf.summary(X, y, penalized="ignore").shape == expected.shape


def test_a_fit_in_the_place_of_scikit_learns_has_statistics():
    X, y = problem("spector")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn 1.8 says that without a penalty C is not read
        reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000, solver="newton-cg").fit(X, y)
    found = from_sklearn(reference).summary(X, y)
    assert_allclose(found, fitted(X, y).summary(), rtol=1e-5)


def test_a_model_whose_C_was_chosen_has_statistics_of_no_penalty():
    X, y = problem("birthwt")
    clf = TorchLogisticClassifierCV(Cs=[np.inf], cv=3, tol=1e-8).fit(X, y)
    assert_allclose(clf.summary(X, y), fitted(X, y).summary(), rtol=1e-5)
    with pytest.raises(ValueError, match="fitted with a penalty, C=1,"):
        TorchLogisticClassifierCV(Cs=[1.0], cv=3).fit(X, y).summary(X, y)


# ---- what is refused, and why ----


def test_columns_that_add_up_are_named():
    X, y = problem("birthwt")
    frame = pd.DataFrame(np.column_stack([X[:, :3], X[:, 0] + X[:, 1]]), columns=list("abcd"))
    clf = fitted(frame, y)
    for arguments in ((), (frame, y)):
        with pytest.raises(ValueError, match="'a', 'b', 'd' are combinations of each other"):
            clf.summary(*arguments)
    constant = pd.DataFrame(np.column_stack([X[:, :3], np.full(len(y), 3.0)]), columns=list("abcd"))
    with pytest.raises(ValueError, match="The column 'd' is constant"):
        fitted(constant, y).summary()


def test_separated_classes_are_named():
    X, y = problem("birthwt")
    frame = pd.DataFrame({"a": X[:, 0], "tells": y + 0.0})
    with pytest.warns(ConvergenceWarning):
        clf = TorchLogisticClassifier(C=np.inf).fit(frame, y)
    with pytest.raises(ValueError, match="no estimates of maximum likelihood.*'tells'"):
        clf.summary()
    with pytest.raises(ValueError, match="'tells'"):
        clf.summary(frame, y)


def test_a_fit_that_is_not_done_warns():
    X, y = problem("birthwt")
    with pytest.warns(ConvergenceWarning):
        clf = TorchLogisticClassifier(C=np.inf, max_iter=1).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="'max_iter', before its optimum"):
        clf.summary(X, y)


def test_rows_or_weights_of_another_fit_warn():
    X, y = problem("birthwt")
    counts = np.random.default_rng(0).integers(1, 9, len(y))
    clf = fitted(X, y, counts)
    clf.summary(X, y, sample_weight=counts)
    message = "standard errors away .* Pass the X, y and sample_weight"
    for arguments in ((X, y), (X[::2], y[::2])):
        with pytest.warns(ConvergenceWarning, match=message):
            clf.summary(*arguments)
    default = TorchLogisticClassifier(C=np.inf).fit(X, y)  # is near enough at the default tol
    default.summary(X, y, cov_type="HC1")


def test_modules_have_no_summary():
    X, y = problem("spector")
    clf = TorchLogisticClassifier(module=torch.nn.Linear(3, 1), max_iter=2, tol=None).fit(X, y)
    assert not any(hasattr(clf, name) for name in ("summary", "wald_test", "fit_statistics"))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"cov_type": "HC3"}, "cov_type='HC3' must be one of 'nonrobust', 'HC0'"),
        ({"cov_type": "HC0"}, "needs the rows; pass the X and y"),
        ({"level": 95}, "level=95 must be a number between 0 and 1"),
        ({"penalized": True}, "penalized=True must be one of"),
        ({"groups": [1]}, "groups are for cov_type='cluster'"),
        ({"y": [1]}, "y and sample_weight go with X"),
    ],
)
def test_arguments_that_say_nothing_raise(settings, message):
    clf = fitted(*problem("spector"))
    with pytest.raises(ValueError, match=message):
        clf.summary(**settings)


def test_data_that_are_not_the_models_raise():
    X, y = problem("spector")
    clf = fitted(X, y)
    with pytest.raises(ValueError, match="X has 2 features"):
        clf.summary(X[:, :2], y)
    with pytest.raises(ValueError, match="label 7"):
        clf.summary(X, np.where(y == 1, 7, y))
    with pytest.raises(ValueError, match="no row of the class 0"):
        clf.summary(X[y == 1], y[y == 1])
    with pytest.raises(ValueError, match="X is given without y"):
        clf.summary(X)
    with pytest.raises(ValueError, match="NaN"):
        clf.summary(np.where(X > 3, np.nan, X), y)
    groups = np.where(np.arange(len(y)) == 3, None, "a")
    with pytest.raises(ValueError, match="groups has missing values"):
        clf.summary(X, y, cov_type="cluster", groups=groups)
    with pytest.raises(ValueError, match="one group alone"):
        clf.summary(X, y, cov_type="cluster", groups=np.zeros(len(y)))
    with pytest.raises(ValueError, match="groups has the shape"):
        clf.summary(X, y, cov_type="cluster", groups=[1, 2])
    for columns, message in (
        ("a", "had no names"),
        (3, "numbers from 0 to 2"),
        ([], "empty"),
        ([0, -3], "twice"),
    ):
        with pytest.raises(ValueError, match=message):
            clf.wald_test(columns)


def test_an_unfitted_model_says_so():
    for call in (TorchLogisticClassifier().summary, lambda: TorchLogisticClassifier().wald_test(0)):
        with pytest.raises(Exception, match="not fitted"):
            call()
    check_is_fitted(fitted(*problem("spector")))


def test_a_large_fit_keeps_nothing_and_says_so(monkeypatch):
    from torch_logreg._estimators import estimates

    monkeypatch.setattr(estimates, "KEPT_PARAMETERS", 3)
    X, y = problem("spector")
    clf = fitted(X, y)
    with pytest.raises(ValueError, match="kept no covariance.*not too many"):
        clf.summary()
    assert_array_equal(clf.summary(X, y).index, ["intercept", "x0", "x1", "x2"])
