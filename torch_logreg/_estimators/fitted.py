"""Fitted models: their predictions, views, copies and pickles."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from torch_logreg._checks.containers import on_host
from torch_logreg._checks.data import check_predict
from torch_logreg._checks.module_data import check_batch, check_module_predict, read_labels, refuse_beside
from torch_logreg._checks.weights import one_a_row
from torch_logreg._data.inputs import holder
from torch_logreg._data.loaders import Batches, Item, is_loaded
from torch_logreg._data.tensors import to_tensor
from torch_logreg._estimators.statistics import Statistics
from torch_logreg._estimators.to_sklearn import logistic_regression_of
from torch_logreg._fit.predictor import Output, linear_predictions, module_predictions
from torch_logreg._losses.links import LINKS, Link, codes_of
from torch_logreg._modules.copies import copied, picklable, unpickled
from torch_logreg._modules.integers import dtypes_named
from torch_logreg._runtime.devices import resolve_device
from torch_logreg._runtime.out_of_memory import saying_what_to_do
from torch_logreg._runtime.random import RandomStream
from torch_logreg._runtime.surroundings import undisturbed
from torch_logreg._runtime.threads import safe_after_fork


def _codes(link: Link, z: Tensor) -> Tensor:
    """Class codes (1, n) of raw predictions."""
    return codes_of(link.decision(z))[None]


def _has_coefficients(estimator: FittedModel) -> bool:
    return estimator.module is None


class FittedModel(Statistics, ClassifierMixin, BaseEstimator):
    """All that a classifier does once it is fitted."""

    module: Any
    device: str | torch.device | None

    def _dense_coef(self) -> np.ndarray:
        coef: Any = self.coef_
        return coef.toarray() if scipy.sparse.issparse(coef) else coef

    def _predictions(self, X: Any, output: Output) -> np.ndarray:
        """`output` of the raw predictions, as (n_rows, _)."""
        with saying_what_to_do(X, self.device), safe_after_fork():
            return self._predicted(X, output)

    def _predicted(self, X: Any, output: Output) -> np.ndarray:
        linear = "coef_" in vars(self)
        if not linear:  # to look for other fitted attributes takes a tenth of predicting one row
            check_is_fitted(self)
        if linear:
            features = check_predict(self, X, defer_finite=True)
            device = resolve_device(self.device, features)
            coef = self._dense_coef()
            with undisturbed(device):
                return linear_predictions(self, features, coef, self.intercept_, device, output)
        checked = check_module_predict(self, X)
        if not is_loaded(checked):
            return self._predicted_by_module(checked, output)
        return np.concatenate([part for part, _ in self._predicted_batches(checked, output)])

    def _predicted_by_module(self, rows: Any, output: Output) -> np.ndarray:
        """`output` of checked rows."""
        device = resolve_device(self.device, holder(rows))
        names = vars(self).get("input_dtype_", "float")  # models of earlier versions do not know it
        dtypes = dtypes_named(names, next(self._module.parameters()).dtype)
        with torch.inference_mode(False), torch.no_grad(), undisturbed(device):
            n_outputs, link = len(self.classes_), LINKS[self._link]
            return module_predictions(rows, self._module, link, n_outputs, device, dtypes, output)

    def _predicted_batches(self, batches: Batches, output: Output) -> Iterator[tuple[np.ndarray, Item]]:
        """`output` of each batch, and what else is in it."""
        for item in batches.items():
            rows = check_batch(self, item, batches.name)
            yield self._predicted_by_module(rows, output), item._replace(X=None)

    def decision_function(self, X: Any) -> np.ndarray:
        """Raw predictions: log odds for two classes, unnormalised log-probabilities for more.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            The rows to predict. For a `module` also of more dimensions, `Inputs`, a Dataset or a DataLoader,
            as in `fit`.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            ``X @ coef_.T + intercept_``. For two classes, above 0 is ``classes_[1]``.
        """
        scores = self._predictions(X, lambda link, z: link.decision(z))
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> np.ndarray:
        """Predict class labels.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            The rows to predict. For a `module` also of more dimensions, `Inputs`, a Dataset or a DataLoader,
            as in `fit`.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            The most probable class of each row; of equals the first in `classes_`.
        """
        codes = self._predictions(X, _codes)
        return self.classes_[codes[:, 0]]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict class probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            The rows to predict. For a `module` also of more dimensions, `Inputs`, a Dataset or a DataLoader,
            as in `fit`.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`. A small probability keeps its relative accuracy.
        """
        return self._predictions(X, lambda link, z: link.probability(z))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Predict the logarithms of the class probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            The rows to predict. For a `module` also of more dimensions, `Inputs`, a Dataset or a DataLoader,
            as in `fit`.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`. Finite wherever the decision function is, unlike the
            logarithm of `predict_proba`.
        """
        return self._predictions(X, lambda link, z: link.log_probability(z))

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Mean accuracy of the predicted labels.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            The rows to predict.

        y : array-like of shape (n_samples,)
            Their true labels.

        sample_weight : array-like of shape (n_samples,) or float, default=None
            Weights of the rows.

        Returns
        -------
        accuracy : float
            The fraction, by weight, of the rows whose label is predicted.
        """
        y = on_host(y)
        return super().score(X, y, sample_weight=one_a_row(sample_weight, y))

    def _scored(self, X: Any, y: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Labels, predicted codes and weights of the rows of a Dataset or DataLoader."""
        check_is_fitted(self)
        refuse_beside(X, y, sample_weight, ("y", "sample_weight"))
        batches = check_module_predict(self, X)
        with saying_what_to_do(X, self.device), safe_after_fork():
            pairs = list(self._predicted_batches(batches, _codes))
        labels, weights = read_labels([item for _, item in pairs], batches.name)
        return labels, np.concatenate([codes[:, 0] for codes, _ in pairs]), weights

    def to_sklearn(self) -> LogisticRegression:
        """Make scikit-learn's own estimator of what was fitted.

        Returns
        -------
        model : sklearn.linear_model.LogisticRegression
            Fitted, with copies of the coefficients: its probabilities are the same. Whoever knows
            ``LogisticRegression`` by its class, such as a converter, knows it.

        Raises
        ------
        TypeError
            If a module was fitted, which has no coefficients.
        """
        return logistic_regression_of(self)

    @property
    def module_(self) -> nn.Module:
        """The fitted model as a module, made from `coef_` and `intercept_` if it has these."""
        check_is_fitted(self)
        if "coef_" not in vars(self):
            return self._module
        coef = self._dense_coef()
        dtype = torch.float32 if coef.dtype == np.float32 else torch.float64
        device = torch.device("cpu") if self.device in (None, "auto") else torch.device(self.device)
        with RandomStream(0, device).running():  # the constructor draws from the global generators
            module = nn.Linear(coef.shape[1], coef.shape[0], device=device, dtype=dtype)
        with torch.no_grad():
            module.weight.copy_(to_tensor(coef, device, dtype))
            module.bias.copy_(to_tensor(np.asarray(self.intercept_), device, dtype))
        return module

    @property
    def history_(self) -> pd.DataFrame:
        """The updates of the weights: a DataFrame of one row an update.

        ``objective`` and ``gradient_norm`` are those before the update, on the scales of `objective_` and
        `tol`; ``rows_read`` and ``seconds`` count from the start of the fit; ``step`` is 1 for a whole step.
        With `l1_ratio` above 0, ``dual_gap`` is by how much the objective was above its minimum at most, and
        ``n_nonzero`` the number of coefficients other than 0 after the update. The first may be on samples
        of the rows, or for a stronger penalty on the way to a weak one: there ``objective`` is of these, and
        ``dual_gap`` NaN.
        """
        check_is_fitted(self)
        return pd.DataFrame(self._history).astype({"rows_read": np.int64})

    @available_if(_has_coefficients)
    def densify(self) -> Self:
        """Convert `coef_` to a dense array, which it is after `fit`.

        Returns
        -------
        self : TorchLogisticClassifier
            The fitted estimator.
        """
        check_is_fitted(self)
        self.coef_ = self._dense_coef()
        return self

    @available_if(_has_coefficients)
    def sparsify(self) -> Self:
        """Convert `coef_` to a scipy CSR matrix, which is smaller where most of it is zero.

        Returns
        -------
        self : TorchLogisticClassifier
            The fitted estimator.
        """
        check_is_fitted(self)
        self.coef_ = scipy.sparse.csr_matrix(self.coef_)
        return self

    def __sklearn_clone__(self) -> Self:
        if not isinstance(self.module, nn.Module):
            return super().__sklearn_clone__()
        # `clone` makes a deep copy, which torch refuses of a module that keeps what it computed.
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__, module=None)
        cloned = super(FittedModel, twin).__sklearn_clone__()
        cloned.module = copied(self.module)
        return cloned

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = memo[id(self)] = type(self).__new__(type(self))
        for name, value in vars(self).items():
            is_module = isinstance(value, nn.Module)
            twin.__dict__[name] = copied(value) if is_module else copy.deepcopy(value, memo)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        # Only names of devices are pickled: skops and others refuse any object of torch.
        if isinstance(state.get("device"), torch.device):
            state = {**state, "device": str(state["device"])}
        if "_module" in state:  # which is one, and must be readable where there is no such device
            state = {**state, "_module": picklable(copied(state["_module"]).cpu())}
        if isinstance(state.get("module"), nn.Module):
            state = {**state, "module": picklable(state["module"])}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        modules: dict[str, Any] = {
            name: unpickled(state[name]) for name in ("module", "_module") if name in state
        }
        # A pickle of an earlier version has no value for a parameter that came later.
        parameters = inspect.signature(type(self)).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        super().__setstate__({**defaults, **state, **modules})

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
