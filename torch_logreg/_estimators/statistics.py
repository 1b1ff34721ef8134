"""Statistics of a fitted linear model: standard errors, tests, and how well it fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import chdtrc, ndtr, ndtri
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from torch_logreg._checks.data import check_predict, check_validation
from torch_logreg._checks.statistics import check_columns
from torch_logreg._estimators.estimates import NAMES, estimates_of, names_of, refuse_penalty


def _is_linear(estimator: Any) -> bool:
    return estimator.module is None


class Statistics:
    """Inference for a linear model; the estimator has its coefficients."""

    module: Any
    fit_intercept: Any
    classes_: Any
    coef_: Any
    n_features_in_: int
    predict_log_proba: Any

    @available_if(_is_linear)
    def summary(
        self,
        X: Any = None,
        y: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        cov_type: str = "nonrobust",
        groups: ArrayLike | None = None,
        level: float = 0.95,
        penalized: str = "raise",
    ) -> pd.DataFrame:
        """Make a table of the coefficients with their standard errors, tests and intervals.

        They are those of maximum likelihood: of a fit without a penalty, ``C=np.inf``. Such a fit keeps what
        "nonrobust" needs, unless it is large; everything else needs the training data.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features), default=None
            The rows that the model was fitted on.

        y : array-like of shape (n_samples,), default=None
            Their labels.

        sample_weight : array-like of shape (n_samples,) or float, default=None
            How often each row was there, as it was given to `fit`.

        cov_type : {"nonrobust", "HC0", "HC1", "cluster"}, default="nonrobust"
            The covariance of the coefficients. "nonrobust" is the inverse of the Fisher information. "HC0" is
            the sandwich, which holds too where the model is wrong; "HC1" is ``n / (n - p)`` times it, of n
            rows and p coefficients. "cluster" allows rows of a group to depend on each other; of G groups it
            is ``G / (G - 1) * (n - 1) / (n - p)`` times the sandwich.

        groups : array-like of shape (n_samples,), default=None
            The group of each row, for "cluster".

        level : float, default=0.95
            The probability with which an interval holds the true coefficient.

        penalized : {"raise", "ignore"}, default="raise"
            What to do with a model that was fitted with a penalty, whose coefficients are biased: refuse, or
            take them for estimates of maximum likelihood.

        Returns
        -------
        summary : DataFrame
            A row for each coefficient, the intercept first, with ``coef``, ``std_err``, ``z``, ``p_value``
            (of both sides), ``ci_lower``, ``ci_upper`` and ``odds_ratio``. For two classes coefficients are
            of ``classes_[1]``. For more they are contrasts to ``classes_[0]``, and the index is of class and
            feature.

        Raises
        ------
        ValueError
            For a penalised model, classes that can be separated, columns that add up to others, or data that
            do not fit the model.

        Warns
        -----
        ConvergenceWarning
            If the fit ended before its stopping rule was met, or the rows given are not those it was made on.

        References
        ----------
        McCullagh, Nelder (1989), Generalized Linear Models, section 4.4. White (1980), A
        heteroskedasticity-consistent covariance matrix estimator, Econometrica 48(4).

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.datasets import load_breast_cancer
        >>> from torch_logreg import TorchLogisticClassifier
        >>> X, y = load_breast_cancer(return_X_y=True, as_frame=True)
        >>> clf = TorchLogisticClassifier(C=np.inf).fit(X[["mean radius", "mean texture"]], y)
        >>> clf.summary()[["coef", "std_err", "p_value"]].round(2)
                       coef  std_err  p_value
        intercept     19.85     1.77      0.0
        mean radius   -1.06     0.10      0.0
        mean texture  -0.22     0.04      0.0
        """
        if not 0 < level < 1:
            raise ValueError(f"level={level!r} must be a number between 0 and 1, such as 0.95.")
        estimates, covariance = estimates_of(self, X, y, sample_weight, cov_type, groups, penalized)
        coef, error = estimates.to_numpy(), np.sqrt(np.diagonal(covariance))
        z, wide = coef / error, float(ndtri((1 + level) / 2)) * error
        with np.errstate(over="ignore"):  # the odds ratio of a large coefficient is infinite
            columns = {
                "coef": coef,
                "std_err": error,
                "z": z,
                "p_value": 2 * ndtr(-np.abs(z)),
                "ci_lower": coef - wide,
                "ci_upper": coef + wide,
                "odds_ratio": np.exp(coef),
            }
        return pd.DataFrame(columns, index=estimates.index)

    @available_if(_is_linear)
    def wald_test(
        self,
        columns: Any,
        X: Any = None,
        y: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        cov_type: str = "nonrobust",
        groups: ArrayLike | None = None,
        penalized: str = "raise",
    ) -> pd.Series:
        """Test whether all coefficients of some columns are 0.

        Parameters
        ----------
        columns : str, int, or a sequence of them
            Names of features, or their numbers.

        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features), default=None
            The rows that the model was fitted on; this and what follows are as in `summary`.

        y : array-like of shape (n_samples,), default=None
            Their labels.

        sample_weight : array-like of shape (n_samples,) or float, default=None
            How often each row was there, as it was given to `fit`.

        cov_type : {"nonrobust", "HC0", "HC1", "cluster"}, default="nonrobust"
            The covariance of the coefficients.

        groups : array-like of shape (n_samples,), default=None
            The group of each row, for "cluster".

        penalized : {"raise", "ignore"}, default="raise"
            What to do with a model that was fitted with a penalty.

        Returns
        -------
        test : Series
            ``statistic``, ``df``, its degrees of freedom (of several classes one for each contrast), and
            ``p_value``, from the chi-squared distribution.

        Raises
        ------
        ValueError
            As in `summary`, and for a column that is not there.

        References
        ----------
        Wald (1943), Tests of statistical hypotheses concerning several parameters when the number of
        observations is large, Transactions of the AMS 54(3).
        """
        check_is_fitted(self)
        numbers = check_columns(columns, names_of(self), self.n_features_in_)
        estimates, covariance = estimates_of(self, X, y, sample_weight, cov_type, groups, penalized)
        m = self.n_features_in_ + bool(self.fit_intercept)
        first = np.arange(0, len(estimates), m)[:, None] + bool(self.fit_intercept)
        tested = (first + numbers).ravel()
        coef = estimates.to_numpy()[tested]
        statistic = float(coef @ np.linalg.solve(covariance[np.ix_(tested, tested)], coef))
        found = {"statistic": statistic, "df": len(tested), "p_value": float(chdtrc(len(tested), statistic))}
        return pd.Series(found, name="wald_test")

    @available_if(_is_linear)
    def fit_statistics(
        self, X: Any, y: ArrayLike, *, sample_weight: ArrayLike | None = None, penalized: str = "raise"
    ) -> pd.Series:
        """Compute how well a model without a penalty fits the rows that it was fitted on.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            The rows.

        y : array-like of shape (n_samples,)
            Their labels.

        sample_weight : array-like of shape (n_samples,) or float, default=None
            How often each row was there, as it was given to `fit`.

        penalized : {"raise", "ignore"}, default="raise"
            As in `summary`.

        Returns
        -------
        statistics : Series
            ``log_likelihood``; ``log_likelihood_null``, of the shares of the classes alone; ``deviance``,
            ``-2 * log_likelihood``; ``aic``, the deviance plus ``2 * n_parameters``; ``bic``, the deviance
            plus ``log(n_observations) * n_parameters``; ``mcfadden_r2``, ``1 - log_likelihood /
            log_likelihood_null``; ``n_observations``, the sum of the weights; and ``n_parameters``.

        Raises
        ------
        ValueError
            For a penalised model, or data that do not fit the model.

        References
        ----------
        McFadden (1974), Conditional logit analysis of qualitative choice behavior, in Frontiers in
        Econometrics.
        """
        check_is_fitted(self)
        refuse_penalty(self, penalized)
        data = check_validation(self, X, y, sample_weight, self.classes_, check_predict, NAMES)
        log_probability = self.predict_log_proba(X)
        weights = np.broadcast_to(data.weights, data.codes.shape)
        log_likelihood = float(
            weights @ log_probability[np.arange(len(weights)), data.codes].astype(np.float64)
        )
        sums = np.bincount(data.codes, weights)
        n, present = float(weights.sum()), sums > 0
        null = float(sums[present] @ np.log(sums[present] / n))
        p = max(1, len(self.coef_) - 1) * (self.n_features_in_ + bool(self.fit_intercept))
        found = {
            "log_likelihood": log_likelihood,
            "log_likelihood_null": null,
            "deviance": -2 * log_likelihood,
            "aic": 2 * p - 2 * log_likelihood,
            "bic": np.log(n) * p - 2 * log_likelihood,
            "mcfadden_r2": 1 - log_likelihood / null if null else np.nan,
            "n_observations": n,
            "n_parameters": float(p),
        }
        return pd.Series(found, name="fit_statistics")
