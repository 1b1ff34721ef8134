"""Our estimator in the place of one of scikit-learn's, with its parameters and what it has learnt."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier

from torch_logreg._estimators.classifier import TorchLogisticClassifier
from torch_logreg._estimators.classifier_cv import TorchLogisticClassifierCV

SAME = ("fit_intercept", "class_weight", "random_state", "verbose")
SAME_ALONE = (*SAME, "warm_start", "max_iter", "tol")
SAME_CV = (*SAME, "max_iter", "tol", "Cs", "cv", "refit")
NOTHING_SAID = ("deprecated", "warn")  # scikit-learn's words for a parameter that was not given
# What no solver here reads; a solver itself needs no counterpart, as the problem is the same.
OF_SOLVERS = ("dual", "intercept_scaling", "n_jobs")
OF_SGD = (
    "learning_rate", "eta0", "power_t", "shuffle", "average", "early_stopping", "validation_fraction",
    "n_iter_no_change", "n_jobs", "max_iter", "tol", "epsilon",
)  # fmt: skip


def from_sklearn(
    estimator: Any, *, n_samples: int | None = None
) -> TorchLogisticClassifier | TorchLogisticClassifierCV:
    """Make the estimator that stands in for one of scikit-learn.

    The objective is the same, and so are `classes_`, coefficients and predictions of a fitted estimator. A
    warning names the parameters that were set and have no counterpart here.

    Parameters
    ----------
    estimator : LogisticRegression, LogisticRegressionCV or SGDClassifier
        Of an `SGDClassifier` the loss must be "log_loss".

    n_samples : int, default=None
        Rows that an `SGDClassifier` which is not fitted is meant for: its penalty `alpha` is one on a mean
        over rows, ``C = 1 / (alpha * n_samples)``. None: those that a fitted one has seen.

    Returns
    -------
    model : TorchLogisticClassifier or TorchLogisticClassifierCV
        Fitted if `estimator` is, with its coefficients. It predicts at once; attributes that tell of the
        course of a fit come with a fit.

    Raises
    ------
    TypeError
        For any other estimator.
    ValueError
        For an `SGDClassifier` of another loss, or one that is not fitted without `n_samples`.

    Warns
    -----
    UserWarning
        For parameters without a counterpart, and for coefficients of one model a class, which are none of the
        softmax of all classes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from torch_logreg import from_sklearn
    >>> X, y = load_iris(return_X_y=True)
    >>> theirs = LogisticRegression(C=0.1).fit(X, y)
    >>> ours = from_sklearn(theirs)
    >>> ours.C
    0.1
    >>> bool(abs(ours.predict_proba(X) - theirs.predict_proba(X)).max() < 1e-15)
    True
    """
    if isinstance(estimator, LogisticRegressionCV):
        return _of_cv(estimator)
    if isinstance(estimator, LogisticRegression):
        return _of_logistic_regression(estimator)
    if isinstance(estimator, SGDClassifier):
        return _of_sgd(estimator, n_samples)
    raise TypeError(
        f"{type(estimator).__name__} has no counterpart here; pass a LogisticRegression, a "
        "LogisticRegressionCV or an SGDClassifier(loss='log_loss'). Of a Pipeline convert the step."
    )


def _of_logistic_regression(estimator: LogisticRegression) -> TorchLogisticClassifier:
    given = _given(estimator)
    C, l1_ratio = _penalty(given.get("penalty", ""), given.get("C", 1.0), given.get("l1_ratio"))
    model = TorchLogisticClassifier(C=C, l1_ratio=l1_ratio, **_only(given, SAME_ALONE))
    _warn_of(estimator, given, OF_SOLVERS)
    return _with_coefficients(model, estimator, _is_one_a_class(given))


def _of_cv(estimator: LogisticRegressionCV) -> TorchLogisticClassifierCV:
    given, fitted = _given(estimator), vars(estimator)
    ratios = _l1_ratios(given)
    model = TorchLogisticClassifierCV(
        scoring=given.get("scoring"),
        **({} if ratios is None else {"l1_ratios": ratios}),
        **_only(given, SAME_CV),
    )
    _warn_of(estimator, given, (*OF_SOLVERS, *(("penalty",) if given.get("penalty", "") is None else ())))
    if "C_" in fitted:
        for name in ("C_", "l1_ratio_"):  # legacy attributes are one a class
            chosen = {0.0 if value is None else float(value) for value in np.ravel(fitted[name])}
            if len(chosen) == 1:
                setattr(model, name, chosen.pop())
        if isinstance(fitted["scores_"], np.ndarray):  # laid out as here
            model.Cs_, model.scores_ = np.array(fitted["Cs_"]), np.array(fitted["scores_"])
            model.coefs_paths_ = np.array(fitted["coefs_paths_"])
            model.l1_ratios_ = np.zeros(1) if ratios is None else np.array(ratios, dtype=np.float64)
    return _with_coefficients(model, estimator, _is_one_a_class(given))


def _of_sgd(estimator: SGDClassifier, n_samples: int | None) -> TorchLogisticClassifier:
    if estimator.loss != "log_loss":
        raise ValueError(
            f"SGDClassifier(loss={estimator.loss!r}) is no logistic regression; its loss must be 'log_loss'."
        )
    fitted = vars(estimator)
    if n_samples is None and "t_" in fitted and np.max(estimator.n_iter_):
        n_samples = round((estimator.t_ - 1) / np.max(estimator.n_iter_))
    if n_samples is None:
        raise ValueError(
            "n_samples is needed for an SGDClassifier that is not fitted: alpha is a penalty on the mean "
            "over the rows, and C = 1 / (alpha * n_samples); pass the number of rows that it is to be given."
        )
    given = _given(estimator)
    alpha = float(estimator.alpha)
    C, l1_ratio = _penalty(
        estimator.penalty, 1 / (alpha * n_samples) if alpha else np.inf, given.get("l1_ratio", 0.15)
    )
    model = TorchLogisticClassifier(C=C, l1_ratio=l1_ratio, **_only(given, (*SAME, "warm_start")))
    _warn_of(estimator, given, OF_SGD)
    return _with_coefficients(model, estimator, one_a_class=True)


def _is_one_a_class(given: Mapping[str, Any]) -> bool:
    """Whether several classes are as many models; liblinear's also penalise the intercept, as ours do not."""
    return given.get("solver") == "liblinear" or given.get("multi_class") == "ovr"


def _given(estimator: Any) -> dict[str, Any]:
    """The parameters that are not scikit-learn's defaults, nor its words for nothing."""
    parameters = estimator.get_params(deep=False)
    defaults = {name: p.default for name, p in inspect.signature(type(estimator)).parameters.items()}
    return {
        name: value
        for name, value in parameters.items()
        if not (isinstance(value, str) and value in NOTHING_SAID) and not _same(value, defaults.get(name))
    }


def _same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(np.all(value == default)))


def _only(given: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}


def _penalty(penalty: Any, C: float, l1_ratio: float | None) -> tuple[float, float]:
    """C and l1_ratio, of what may be said by the deprecated `penalty` too."""
    if penalty is None or penalty == "none":
        return np.inf, 0.0
    ratio = 0.0 if l1_ratio is None else float(l1_ratio)
    return {"l2": (C, 0.0), "l1": (C, 1.0), "elasticnet": (C, ratio)}.get(penalty, (C, ratio))


def _l1_ratios(given: Mapping[str, Any]) -> Any:
    """The parts of the L1 penalty to choose from, if there are any but 0."""
    if given.get("penalty") in ("l1", "l2"):  # deprecated, and the ratios then mean nothing
        return (1.0,) if given["penalty"] == "l1" else None
    return given.get("l1_ratios")


def _warn_of(estimator: Any, given: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Name the parameters that were set, and that nothing here reads."""
    found = [f"{name}={given[name]!r}" for name in names if name in given]
    if found:
        warnings.warn(
            f"{type(estimator).__name__} has parameters without a counterpart, which are left out: "
            f"{', '.join(found)}.",
            stacklevel=4,
        )


def _with_coefficients(model: Any, estimator: Any, one_a_class: bool) -> Any:
    """The model with what the estimator has learnt, if it is fitted."""
    fitted = vars(estimator)
    if "coef_" not in fitted:
        return model
    coef: Any = estimator.coef_
    if one_a_class and len(estimator.classes_) > 2:
        warnings.warn(
            f"{type(estimator).__name__} has one model a class, and here is one softmax of all classes; the "
            "coefficients are left out, and the model is not fitted.",
            stacklevel=4,
        )
        return model
    model.coef_ = coef.toarray() if scipy.sparse.issparse(coef) else np.array(coef)
    model.intercept_ = np.array(
        np.broadcast_to(estimator.intercept_, len(model.coef_)), dtype=model.coef_.dtype
    )
    model.classes_, model.n_features_in_ = np.array(estimator.classes_), int(estimator.n_features_in_)
    model.n_iter_ = np.array([np.max(estimator.n_iter_)], dtype=np.int32)
    if "feature_names_in_" in fitted:
        model.feature_names_in_ = fitted["feature_names_in_"]
    return model
