"""Estimates of maximum likelihood in a fitted model, and their covariance."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from torch_logreg._checks.data import TrainingData, check_predict, check_validation
from torch_logreg._checks.statistics import check_groups, check_one_of
from torch_logreg._checks.weights import weights_of_classes
from torch_logreg._fit.linear import work_of
from torch_logreg._inspection.covariance import COV_TYPES, Singular, covariance_of, errors_away
from torch_logreg._inspection.information import Evaluated, Information, contrasts, information_of
from torch_logreg._inspection.separation import Separation
from torch_logreg._losses.criteria import weights_of_classes as of_classes
from torch_logreg._runtime.devices import resolve_device
from torch_logreg._runtime.out_of_memory import saying_what_to_do
from torch_logreg._runtime.surroundings import undisturbed
from torch_logreg._runtime.threads import safe_after_fork, threads_for

NAMES = ("X", "y", "sample_weight")
PENALIZED = ("raise", "ignore")
UNFINISHED = ("max_iter", "early_stopping", "callback")
INTERCEPT = "intercept"
AWAY = 0.1  # standard errors that coefficients may be away from their estimates
# Parameters, and multiplications for their information, up to which a fit without a penalty keeps it: then
# it takes no more than some passes of the fit.
KEPT_PARAMETERS, KEPT_ANYWAY, KEPT_WORK = 2**10, 2**6, 2**33


def left_for_statistics(
    estimator: Any, data: TrainingData, fitted: dict[str, Any], separated: Separation | None
) -> dict[str, Any]:
    """The attributes that a fit of the linear model leaves for `summary`: of maximum likelihood alone."""
    if separated is not None:
        return {"_separated": separated.describe(vars(estimator).get("feature_names_in_"))}
    weighs_classes = estimator.class_weight is not None or estimator.criterion is not None
    done = fitted["converged_"] and np.isfinite(fitted["intercept_"]).all()
    if np.isfinite(float(estimator.C)) or weighs_classes or not done:
        return {}
    return {"_covariance": _covariance(estimator, data, fitted, bool(estimator.fit_intercept))}


def _covariance(
    estimator: Any, data: TrainingData, fitted: dict[str, Any], fit_intercept: bool
) -> np.ndarray | str | None:
    """The covariance (p, p) of a fit without a penalty, or why there is none.

    None where it is too much to keep.
    """
    n, d = data.X.shape
    p = max(1, len(fitted["coef_"]) - 1) * (d + fit_intercept)
    if p > KEPT_PARAMETERS or (p > KEPT_ANYWAY and n * p**2 > KEPT_WORK):
        return None
    counts = np.broadcast_to(data.weights, data.codes.shape)
    coefficients = fitted["coef_"], fitted["intercept_"]
    given = Evaluated(data.X, data.codes, counts, np.ones(n), *coefficients, fit_intercept)
    information = information_of(given, resolve_device(estimator.device, data.X))
    try:
        return covariance_of(information, "nonrobust", names_of(estimator) or numbered(d))
    except Singular as error:
        return str(error)


def numbered(d: int) -> list[str]:
    """Names of features that have none."""
    return [f"x{j}" for j in range(d)]


def estimates_of(
    estimator: Any, X: Any, y: Any, sample_weight: Any, cov_type: str, groups: Any, penalized: str
) -> tuple[pd.Series, np.ndarray]:
    """Coefficients, contrasts where there are several classes, and their covariance."""
    check_is_fitted(estimator)
    check_one_of("cov_type", cov_type, COV_TYPES)
    refuse_penalty(estimator, penalized)
    if (cov_type == "cluster") != (groups is not None):
        raise ValueError("groups are for cov_type='cluster', which needs them; pass both or neither.")
    _warn_unfinished(estimator)
    coefficients = _coefficients(estimator)
    if X is None:
        return coefficients, _kept(estimator, cov_type, y, sample_weight)
    with saying_what_to_do(X, estimator.device), safe_after_fork():
        information = _looked_at(estimator, X, y, sample_weight, cov_type, groups)
    names = names_of(estimator) or numbered(estimator.n_features_in_)
    covariance = covariance_of(information, cov_type, names)
    if penalized == "raise" and vars(estimator).get("stop_reason_") not in UNFINISHED:
        _warn_of_other_rows(errors_away(information, names))
    return coefficients, covariance


def _coefficients(estimator: Any) -> pd.Series:
    """Coefficients by feature, the intercept first; contrasts where there are several classes."""
    dense = estimator._dense_coef()
    coef, intercept = contrasts(dense, estimator.intercept_)
    names = names_of(estimator) or numbered(dense.shape[1])
    rows = [INTERCEPT, *names] if estimator.fit_intercept else names
    values = np.column_stack([intercept, coef]) if estimator.fit_intercept else coef
    index = pd.Index(rows)
    if len(estimator.classes_) > 2:
        index = pd.MultiIndex.from_product([estimator.classes_[1:], rows], names=["class", "feature"])
    return pd.Series(values.ravel(), index=index, name="coef")


def names_of(estimator: Any) -> list[str] | None:
    """The names of the features, if they have any."""
    names = vars(estimator).get("feature_names_in_")
    return None if names is None else [str(name) for name in names]


def refuse_penalty(estimator: Any, penalized: str) -> None:
    """Raise for a model with a penalty, unless that is to be ignored."""
    check_one_of("penalized", penalized, PENALIZED)
    C = float(vars(estimator).get("C_", getattr(estimator, "C", np.inf)))
    if np.isfinite(C) and penalized == "raise":
        raise ValueError(
            f"The model was fitted with a penalty, C={C:g}, which draws its coefficients to 0: they are "
            "biased, and standard errors would not say how far they are from the truth. Fit with C=np.inf, "
            "or pass penalized='ignore' to take them for estimates without a penalty."
        )


def _warn_unfinished(estimator: Any) -> None:
    reason = vars(estimator).get("stop_reason_")
    if reason == "separation":
        why = vars(estimator).get("_separated") or "the classes can be separated"
        raise ValueError(f"There are no estimates of maximum likelihood: {why}.")
    if reason in UNFINISHED:
        warnings.warn(
            f"The fit ended by {reason!r}, before its optimum, which standard errors are of; fit with a "
            "larger max_iter, and without early stopping.",
            ConvergenceWarning,
            stacklevel=4,
        )


def _warn_of_other_rows(away: float) -> None:
    if away > AWAY:
        warnings.warn(
            f"The coefficients are {away:.2g} standard errors away from the estimates of maximum likelihood "
            "for these rows. Pass the X, y and sample_weight that the model was fitted on; if these are "
            "they, fit with a smaller tol.",
            ConvergenceWarning,
            stacklevel=4,
        )


def _kept(estimator: Any, cov_type: str, y: Any, sample_weight: Any) -> np.ndarray:
    """The covariance that the fit has left."""
    if y is not None or sample_weight is not None:
        raise ValueError("y and sample_weight go with X; pass X too, or none of them.")
    if cov_type != "nonrobust":
        raise ValueError(
            f"cov_type={cov_type!r} needs the rows; pass the X and y that the model was fitted on."
        )
    kept = vars(estimator).get("_covariance")
    if isinstance(kept, str):
        raise Singular(kept)
    if kept is None:
        raise ValueError(
            "This fit has kept no covariance: one with C=np.inf does, without class_weight, of not too many "
            "rows and columns. Pass the X and y that the model was fitted on."
        )
    return kept


def _looked_at(estimator: Any, X: Any, y: Any, sample_weight: Any, cov_type: str, groups: Any) -> Information:
    """The information of the rows that are given."""
    classes = estimator.classes_
    data = check_validation(estimator, X, y, sample_weight, classes, check_predict, NAMES)
    counts = np.broadcast_to(data.weights, data.codes.shape)
    sums = np.bincount(data.codes, counts, minlength=len(classes))
    if not sums.all():
        raise ValueError(
            f"X has no row of the class {classes[sums == 0].tolist()[0]!r}, so nothing can be said of its "
            "coefficients; pass the rows that the model was fitted on, or fit without this class."
        )
    of_class = _factors(estimator, classes, sums)
    if cov_type == "nonrobust" and len(set(of_class)) > 1:
        raise ValueError(
            "The model was fitted with weights of classes, which makes it none of maximum likelihood: "
            "cov_type='nonrobust' does not hold for it. Use cov_type='HC0'."
        )
    group = None if groups is None else check_groups(groups, len(data.codes))
    given = Evaluated(
        data.X,
        data.codes,
        counts,
        of_class[data.codes],
        estimator._dense_coef(),
        estimator.intercept_,
        bool(estimator.fit_intercept),
    )
    device = resolve_device(estimator.device, data.X)
    with undisturbed(device), threads_for(work_of(data) * given.coef.size):
        return information_of(given, device, group, meat=cov_type != "nonrobust")


def _factors(estimator: Any, classes: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Factors of the losses of each class, (n_classes,)."""
    of_class = np.ones(len(classes))
    if estimator.class_weight is not None:
        of_class = weights_of_classes(estimator.class_weight, classes, sums)
    of_criterion = None if estimator.criterion is None else of_classes(estimator.criterion, classes)
    return of_class if of_criterion is None else of_class * of_criterion
