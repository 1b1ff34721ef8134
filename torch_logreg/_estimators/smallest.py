"""The C below which an L1 penalty leaves no coefficient."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from torch_logreg._checks.data import check_finite, check_fit
from torch_logreg._estimators.classifier import TorchLogisticClassifier
from torch_logreg._estimators.fitting import guarded
from torch_logreg._fit.elastic_net import elastic_net_problem
from torch_logreg._fit.linear import work_of
from torch_logreg._fit.present import Present
from torch_logreg._runtime.devices import resolve_device
from torch_logreg._runtime.surroundings import undisturbed
from torch_logreg._runtime.threads import threads_for


def smallest_C(
    X: Any,
    y: ArrayLike,
    l1_ratio: float = 1.0,
    sample_weight: ArrayLike | None = None,
    fit_intercept: bool = True,
) -> float:
    r"""The largest `C` with which every coefficient of an L1 or elastic-net fit is 0.

    It is where a path of `C` begins: ``l1_ratio / max |sum_i s_i x_ij (p_k - y_ik)|`` over columns j and
    classes k. Here ``p_k`` is the part of the weight that class k has, or without an intercept one over the
    number of classes, and ``y_ik`` is 1 if row i is of class k, else 0.

    ``sklearn.svm.l1_min_c`` is another number, that of liblinear, which penalises the intercept: on the
    breast cancer data as they are it is 2.25 times as large.

    Parameters
    ----------
    X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
        Training rows, as `TorchLogisticClassifier` is to be fitted on them: the number depends on the units
        of the columns.

    y : array-like of shape (n_samples,)
        Class labels.

    l1_ratio : float, default=1.0
        The part of the L1 penalty, above 0 and at most 1.

    sample_weight : array-like of shape (n_samples,) or float, default=None
        Weights of the rows, times those of their classes if `class_weight` is to be used; 1 each by default.

    fit_intercept : bool, default=True
        Whether an intercept is to be fitted.

    Returns
    -------
    C : float
        Above it some coefficient is not 0. Infinite where no column says anything of the classes.

    Raises
    ------
    ValueError
        For an `l1_ratio` out of its range, or data that cannot be fitted.

    References
    ----------
    Tibshirani, Bien, Friedman, Hastie, Simon, Taylor, Tibshirani (2012), Strong rules for discarding
    predictors in lasso-type problems, Journal of the Royal Statistical Society B 74(2), section 5.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.preprocessing import scale
    >>> from torch_logreg import TorchLogisticClassifier, smallest_C
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> C = smallest_C(scale(X), y)
    >>> int((TorchLogisticClassifier(C=C, l1_ratio=1).fit(scale(X), y).coef_ != 0).sum())
    0
    >>> int((TorchLogisticClassifier(C=2 * C, l1_ratio=1).fit(scale(X), y).coef_ != 0).sum())
    3
    """
    if not 0 < l1_ratio <= 1:
        raise ValueError(
            f"l1_ratio={l1_ratio!r} must be above 0 and at most 1; an L2 penalty alone makes nothing 0."
        )
    estimator = TorchLogisticClassifier(fit_intercept=fit_intercept)
    with guarded(estimator, X), torch.inference_mode(False), torch.no_grad():
        data = check_fit(estimator, X, y, sample_weight, None, defer_finite=True)
        if fit_intercept and len(Present.of(data, True).index) == 1:
            check_finite(estimator, data.X)
            return float(np.inf)
        device, check = resolve_device(None, data.X), partial(check_finite, estimator, data.X)
        with undisturbed(device), threads_for(work_of(data)):
            problem = elastic_net_problem(
                data, device, 1.0, 1.0, bool(fit_intercept), None, "growing", int, check
            )
            objective: Any = problem.objective
            look = objective.look(objective.zeros())
            steepest = float(objective.split(look.slopes)[0].abs().amax()) * problem.weight_sum
    return float(l1_ratio) / steepest if steepest else float(np.inf)
