"""The estimator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from torch_logreg._callbacks import CallbackSupportMixin, Forward, Recorder, with_callbacks
from torch_logreg._inputs import (
    Interval,
    StrOptions,
    TrainingData,
    check_fit,
    check_predict,
    features_to,
    float_dtype,
    on_host,
    resolve_device,
    supports_float64,
    to_tensor,
)
from torch_logreg._lbfgs import LBFGS
from torch_logreg._losses import LOSSES, Loss
from torch_logreg._natural import NaturalSGD
from torch_logreg._objective import LinearObjective
from torch_logreg._rows import ArrayRows, matmul, sparse_matrix
from torch_logreg._solver import REASONS, Solver

SOLVERS: dict[str, Callable[..., Solver]] = {
    "natural-sgd": NaturalSGD,
    "newton-cholesky": partial(NaturalSGD, linear_solver="cholesky"),
    "newton-cg": partial(NaturalSGD, linear_solver="cg"),
    "lbfgs": LBFGS,
}

ELSEWHERE = ("liblinear", "sag", "saga")  # of LogisticRegression, and not here
PREDICT_NUMBERS = 2**22  # raw predictions held at a time besides the output


def _fitted(state: Mapping[str, Any]) -> dict[str, Any]:
    """What of an estimator's attributes `fit` has set."""
    return {name: value for name, value in state.items() if name.endswith("_") or name == "_history"}


class TorchLogisticClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    r"""Logistic regression trained with torch, a drop-in for scikit-learn's ``LogisticRegression``.

    Minimises, over the coefficients and the intercept,

    ``C * sum_i s_i * loss_i + 1/2 * |coef|²``

    with ``s_i`` the product of sample and class weight and ``loss_i`` the binary cross-entropy, or for
    more than two classes the softmax cross-entropy, of row i. The intercept is not penalised.

    The columns are centred and scaled inside, by a change of variables that leaves the problem as it is:
    raw columns of any unit need no scaler in front.

    Parameters
    ----------
    C : float, default=1.0
        Inverse of the strength of the penalty, above 0. ``np.inf`` is no penalty.

    fit_intercept : bool, default=True
        Whether to fit an intercept. Without one the columns are not centred either.

    class_weight : dict or "balanced", default=None
        Weights of the classes, which multiply `sample_weight`. "balanced" gives each class the same
        total weight. None gives each the weight 1.

    solver : str, default="auto"
        "auto"
            "natural-sgd".
        "natural-sgd"
            Natural-gradient descent: the Fisher matrix is the metric. In this version each step
            takes all rows, which makes it a damped Newton step, by a Cholesky factorisation up to
            1024 parameters and by preconditioned conjugate gradients above.
        "newton-cholesky", "newton-cg"
            The same with the linear solver named.
        "lbfgs"
            Limited-memory BFGS.

    max_iter : int, default=100
        Most updates of the weights.

    tol : float, default=1e-4
        The fit has converged once max \|gradient\| of the objective divided by ``C * sum(s)``, in
        the scaled columns, is at most `tol` and the predicted relative decrease of the
        objective at most ``tol**2`` (or 4 units of rounding, if that is more). The update at which this
        is found is still taken.

    device : str, torch.device or None, default=None
        Where to compute. None: where X is, the CPU for all but tensors. "auto": the accelerator of this
        machine if it has one, else the CPU. Otherwise a name such as "cuda", "cuda:1", "mps", "xpu", "cpu".

    warm_start : bool, default=False
        Whether `fit` starts from the coefficients of the fit before.

    random_state : int, RandomState instance or None, default=None
        Without effect: no solver of this version draws random numbers. It is there because pipelines
        set it.

    verbose : int, default=0
        Above 0 prints a line an iteration.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients, float32 if X was, else float64. A user may assign them; `sparsify` makes them sparse.

    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts, 0 without `fit_intercept`.

    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted.

    n_features_in_ : int
        Number of columns of X in `fit`.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X had names that are all strings.

    n_iter_ : ndarray of shape (1,), int32
        Updates of the weights made.

    solver_ : str
        The solver that ran.

    converged_ : bool
        Whether the stopping rule was met. Only then is the result claimed to be the optimum.

    stop_reason_ : str
        "converged", "max_iter", "precision" (no step decreases the objective any more in this dtype),
        "separation" (the classes are perfectly separable and C is infinite, or as good as) or "callback".

    objective_ : float
        The objective above at the end (with C taken as 1 where it is infinite).

    loss_curve_ : ndarray of shape (n_iter,)
        The objective divided by ``C * sum(s)``, before each update.

    history_ : pandas.DataFrame
        One row an update: ``objective``, ``gradient_norm``, ``rows_read``, ``step``, ``seconds``.

    module_ : torch.nn.Linear
        The model as a module that gives raw predictions, made from `coef_` and `intercept_` at each access.

    See Also
    --------
    sklearn.linear_model.LogisticRegression : What this stands in for.

    References
    ----------
    Amari (1998), Natural gradient works efficiently in learning, Neural Computation 10(2).

    Liu, Nocedal (1989), On the limited memory BFGS method, Mathematical Programming 45.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from torch_logreg import TorchLogisticClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> clf = TorchLogisticClassifier().fit(X, y)
    >>> clf.converged_
    True
    >>> round(clf.score(X, y), 3)
    0.958
    """

    _doc_link_module = "torch_logreg"

    _parameter_constraints: dict = {
        "C": [Interval(Real, 0, None, closed="right")],
        "fit_intercept": ["boolean"],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "solver": [StrOptions({"auto", *SOLVERS})],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "device": [str, torch.device, None],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        *,
        C: float = 1.0,
        fit_intercept: bool = True,
        class_weight: dict | str | None = None,
        solver: str = "auto",
        max_iter: int = 100,
        tol: float = 1e-4,
        device: str | torch.device | None = None,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            Training rows. Sparse input is computed with as CSR and never made dense as a whole.

        y : array-like of shape (n_samples,)
            Class labels: numbers, strings, booleans or categories, of two or more classes.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative; 1 each by default. A weight of 2 is the row twice, a
            weight of 0 is no such row.

        Returns
        -------
        self : TorchLogisticClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            For parameters or data that cannot be fitted; the message says what was got and what is
            needed. An earlier fit is then still there, unchanged.
        TypeError
            For data of a type that cannot be read.

        Warns
        -----
        ConvergenceWarning
            If the fit ended before the stopping rule was met, with the reason.
        """
        self._check_parameters()
        with self._keeping_fit_on_error(), torch.inference_mode(False), torch.no_grad():
            data = check_fit(self, X, y, sample_weight, self.class_weight)
            metadata = None if sample_weight is None else {"sample_weight": sample_weight}
            forward = Forward(self, X, y, metadata)
            fitted = self._solve(data, forward)
            self.__dict__.update(fitted)
            forward.close()
        if self.stop_reason_ not in ("converged", "callback"):
            self._warn_not_converged()
        return self

    def _check_parameters(self) -> None:
        if self.solver in ELSEWHERE:
            raise ValueError(
                f"solver={self.solver!r} of LogisticRegression does not exist here; use solver='auto', which "
                f"solves the same problem, or one of {sorted(SOLVERS)}."
            )
        self._validate_params()

    @contextmanager
    def _keeping_fit_on_error(self) -> Iterator[None]:
        """Put fitted attributes back as they were if anything, an interrupt included, ends `fit` early."""
        earlier = dict(vars(self))
        try:
            yield
        except BaseException:
            for name in _fitted(vars(self)):
                delattr(self, name)
            self.__dict__.update(_fitted(earlier))
            raise

    def _solve(self, data: TrainingData, forward: Forward) -> dict[str, Any]:
        """The fitted attributes."""
        solver_name = "natural-sgd" if self.solver == "auto" else self.solver
        solver = SOLVERS[solver_name](max_iter=self.max_iter, tol=self.tol)
        objective = self._objective(data)
        w = self._start(objective, len(data.classes))
        dtype = np.float32 if objective.rows.dtype == torch.float32 else np.float64

        def coefficients(w: Tensor) -> dict[str, np.ndarray]:
            coef, intercept = objective.to_raw(w)
            return {
                "coef_": coef[0].cpu().numpy().astype(dtype),
                "intercept_": intercept[0].cpu().numpy().astype(dtype),
            }

        factor = float(objective.weight_sum[0]) * (self.C if np.isfinite(self.C) else 1.0)
        classes = {"classes_": data.classes}
        recorder = Recorder(int(self.verbose), factor, lambda w: {**classes, **coefficients(w)}, forward)
        solution = solver.minimize(objective, w, recorder)
        history = recorder.history()
        return {
            **classes,
            **coefficients(objective.canonical(solution.w)),
            "n_iter_": solution.n_iter,
            "solver_": solver_name,
            "converged_": solution.reasons[0] == "converged",
            "stop_reason_": solution.reasons[0],
            "objective_": float(solution.objective[0]) * factor,
            "loss_curve_": history["objective"] / factor,
            "_history": history,
        }

    def _objective(self, data: TrainingData) -> LinearObjective:
        device = resolve_device(self.device, data.X)
        dtype = float_dtype(data.X, device)
        loss: Loss = LOSSES["binary" if len(data.classes) == 2 else "softmax"]
        n_outputs = loss.n_outputs(len(data.classes))
        rows = ArrayRows(
            features_to(data.X, device, dtype),
            loss.encode(to_tensor(data.codes, device, torch.int64), dtype),
            to_tensor(data.weights[None], device, dtype),
            n_outputs,
        )
        # Coefficients are kept in float64 where the device has it: what they cost is nothing, and a
        # Newton step in float32 loses half of its digits to the condition of the Fisher matrix.
        exact = torch.float64 if supports_float64(device) else torch.float32
        C = torch.tensor([float(self.C)], dtype=exact, device=device)
        return LinearObjective(rows, loss, C, n_outputs, bool(self.fit_intercept))

    def _start(self, objective: LinearObjective, n_classes: int) -> Tensor:
        """Where the solver starts: zero, or the fit before."""
        device, n_features = objective.rows.device, objective.rows.n_features
        shape = (objective.n_outputs, n_features)
        if not self.warm_start or "coef_" not in vars(self):
            return torch.zeros((1, objective.n_parameters), dtype=objective.dtype, device=device)
        if self.coef_.shape != shape:
            raise ValueError(
                f"warm_start=True, but the earlier coef_ has the shape {self.coef_.shape} and this data "
                f"needs {shape}; fit a clone, or set warm_start=False."
            )
        coef = to_tensor(self._dense_coef()[None], device, objective.dtype)
        intercept = to_tensor(self.intercept_[None], device, objective.dtype)
        return objective.canonical(objective.from_raw(coef, intercept * self.fit_intercept))

    def _warn_not_converged(self) -> None:
        reason = REASONS[self.stop_reason_].format(max_iter=self.max_iter, dtype=self.coef_.dtype)
        warnings.warn(
            f"{self.solver_} stopped after {int(self.n_iter_[0])} iterations before it converged: {reason}.",
            ConvergenceWarning,
            stacklevel=4,  # the line that called `fit`, through `with_callbacks`
        )

    # ---- predictions ----

    def _dense_coef(self) -> np.ndarray:
        coef: Any = self.coef_
        return coef.toarray() if scipy.sparse.issparse(coef) else coef

    def _predictions(self, X: Any, output: Callable[[Tensor], Tensor]) -> np.ndarray:
        """`output` of the raw predictions (K, n_rows), by row chunks, as (n_rows, K)."""
        check_is_fitted(self)
        features = check_predict(self, X)
        with torch.inference_mode(False), torch.no_grad():
            device = resolve_device(self.device, features)
            dtype = float_dtype(features, device)
            coef = self._dense_coef()
            if coef.shape[1] != features.shape[1]:
                raise ValueError(
                    f"coef_ has {coef.shape[1]} columns and X has {features.shape[1]}: "
                    "they must have equally many."
                )
            if coef.dtype == np.float64 and supports_float64(device):
                dtype = torch.float64
            weight = to_tensor(coef, device, dtype)
            bias = to_tensor(np.asarray(self.intercept_), device, dtype)[:, None]
            step = max(1, PREDICT_NUMBERS // len(weight))
            chunks = []
            for start in range(0, features.shape[0], step):
                part = features_to(features[start : start + step], device, dtype)
                block = part if isinstance(part, Tensor) else sparse_matrix(part, device, transpose=False)
                chunks.append(output(matmul(block, weight).add_(bias)).T.cpu().numpy())
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)

    def decision_function(self, X: Any) -> np.ndarray:
        """Raw predictions: log odds for two classes, unnormalised log-probabilities for more.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            The rows to predict.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            ``X @ coef_.T + intercept_``. For two classes, above 0 is ``classes_[1]``.
        """
        scores = self._predictions(X, lambda z: z)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> np.ndarray:
        """Predict class labels.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            The rows to predict.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            The most probable class of each row; of equals the first in `classes_`.
        """
        codes = self._predictions(
            X, lambda z: (z > 0).long() if len(z) == 1 else z.argmax(dim=0, keepdim=True)
        )
        return self.classes_[codes[:, 0]]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict class probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            The rows to predict.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`. A small probability keeps its relative accuracy.
        """
        return self._predictions(X, lambda z: self._link(z).probability(z))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Predict the logarithms of the class probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            The rows to predict.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`. Finite wherever the decision function is, unlike the
            logarithm of `predict_proba`.
        """
        return self._predictions(X, lambda z: self._link(z).log_probability(z))

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Mean accuracy of the predicted labels.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            The rows to predict.

        y : array-like of shape (n_samples,)
            Their true labels.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        accuracy : float
            The fraction, by weight, of the rows whose label is predicted.
        """
        return super().score(X, on_host(y), sample_weight=on_host(sample_weight))

    @staticmethod
    def _link(z: Tensor) -> Loss:
        return LOSSES["binary" if len(z) == 1 else "softmax"]

    # ---- views of the fitted state ----

    @property
    def module_(self) -> nn.Linear:
        """The fitted model as a module, made from `coef_` and `intercept_`."""
        check_is_fitted(self)
        coef = self._dense_coef()
        dtype = torch.float32 if coef.dtype == np.float32 else torch.float64
        device = torch.device("cpu") if self.device in (None, "auto") else torch.device(self.device)
        # skip_init: a plain constructor draws from the global generator.
        module = nn.utils.skip_init(nn.Linear, coef.shape[1], coef.shape[0], device=device, dtype=dtype)
        with torch.no_grad():
            module.weight.copy_(to_tensor(coef, device, dtype))
            module.bias.copy_(to_tensor(np.asarray(self.intercept_), device, dtype))
        return module

    @property
    def history_(self) -> pd.DataFrame:
        """What each update of the weights did: a DataFrame of one row an update.

        ``objective`` and ``gradient_norm`` are those before the update, on the scales of `objective_` and
        `tol`; ``rows_read`` and ``seconds`` count from the start of the fit; ``step`` is 1 for a whole step.
        """
        check_is_fitted(self)
        return pd.DataFrame(self._history).astype({"rows_read": np.int64})

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

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        # Only names of devices are pickled: skops and others refuse any object of torch.
        if isinstance(state.get("device"), torch.device):
            state = {**state, "device": str(state["device"])}
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
