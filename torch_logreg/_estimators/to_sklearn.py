"""A fitted model as scikit-learn's own `LogisticRegression`."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted

SAME = ("fit_intercept", "class_weight", "random_state", "warm_start", "verbose")
DEFAULT_TOL = 1e-4  # of both


def logistic_regression_of(model: Any) -> LogisticRegression:
    """See `FittedModel.to_sklearn`."""
    check_is_fitted(model)
    fitted = vars(model)
    if "coef_" not in fitted:
        raise TypeError(
            f"{type(model).__name__} has a module, and LogisticRegression has coefficients alone; take "
            "module_ itself, or fit the linear model, module=None."
        )
    C, l1_ratio = (
        fitted.get(f"{name}_", getattr(model, name, default))
        for name, default in (("C", 1.0), ("l1_ratio", 0.0))
    )
    twin = LogisticRegression(
        C=float(C),
        l1_ratio=float(l1_ratio),
        solver="saga" if l1_ratio > 0 else "lbfgs",
        tol=DEFAULT_TOL if model.tol is None else model.tol,
        max_iter=model.max_iter,
        **{name: getattr(model, name) for name in SAME},
    )
    coef: Any = model.coef_
    twin.coef_ = coef.toarray() if scipy.sparse.issparse(coef) else np.array(coef)
    twin.intercept_ = np.array(model.intercept_)
    twin.classes_ = np.array(model.classes_)
    twin.n_iter_ = np.array([np.max(model.n_iter_, initial=0)], dtype=np.int32)
    for name in ("n_features_in_", "feature_names_in_"):
        if name in fitted:
            setattr(twin, name, fitted[name])
    return twin
