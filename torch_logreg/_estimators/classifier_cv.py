"""The estimator that chooses C."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable
from functools import partial
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.validation import check_is_fitted

from torch_logreg._checks.compat import (
    Interval,
    StrOptions,
    constraints_of,
    needs_labels_alone,
    with_callbacks,
)
from torch_logreg._checks.containers import on_host, refusing_huge_integers
from torch_logreg._checks.data import TrainingData, check_fit, route
from torch_logreg._checks.parameters import check_parameters, check_solver_exists
from torch_logreg._checks.ported import ADVICE_CV, advising
from torch_logreg._checks.weights import one_a_row, sample_weights
from torch_logreg._contracts.solver import FAILED, MORE_ITERATIONS, REASONS, Iteration
from torch_logreg._data.tensors import numpy_dtype
from torch_logreg._estimators.callbacks import HISTORY, Forward, scaled
from torch_logreg._estimators.classifier import TorchLogisticClassifier
from torch_logreg._estimators.fitting import finite_tol, guarded, sampling_seed_of, without_autograd
from torch_logreg._fit.linear import work_of
from torch_logreg._inspection.separation import Separation, separation_of
from torch_logreg._runtime.devices import resolve_device
from torch_logreg._runtime.out_of_memory import check_room
from torch_logreg._runtime.surroundings import undisturbed
from torch_logreg._runtime.threads import threads_for
from torch_logreg._selection.choice import choose, results
from torch_logreg._selection.folds import Fold, fold_counts, folds_of, without_silent
from torch_logreg._selection.path import Path, PathSolver, solve_present
from torch_logreg._selection.scorer import Scorer
from torch_logreg._solvers.registry import SOLVERS

CV_SOLVERS = {name: entry for name, entry in SOLVERS.items() if name != "sgd"}
AS_THERE = ("fit_intercept", "class_weight", "max_iter", "tol", "device", "random_state", "verbose")
NAMED = 5  # problems named in a warning


class TorchLogisticClassifierCV(TorchLogisticClassifier):
    r"""`TorchLogisticClassifier` that chooses C by cross-validation, as ``LogisticRegressionCV`` does.

    Every C on every fold, and on all rows, is one solve of many problems, which reads X once a pass for all
    of them. All rows are solved first; each fold starts from there, in the metric of all rows. The model
    refitted on all rows with the C chosen is one of these.

    Parameters
    ----------
    Cs : int or array-like of shape (n_Cs,), default=10
        Values of C to choose from, above 0; ``np.inf`` is no penalty. An integer is as many from 1e-4 to 1e4,
        equally spaced on a logarithmic scale.

    cv : int, splitter, iterable or None, default=None
        Any of scikit-learn's splitters, which split the rows that have weight, or pairs of arrays of row
        numbers to train and to score on. An integer is the number of folds of ``StratifiedKFold``; None is 5.

    scoring : str, callable or None, default=None
        The score to maximise on each held-out fold: the name of one of scikit-learn's scorers, or a callable
        of an estimator, X and y. None is accuracy. "accuracy", "balanced_accuracy", "neg_log_loss",
        "roc_auc", "average_precision" and "neg_brier_score" are computed for all Cs at once.

    refit : bool, default=True
        True: `coef_` is fitted on all rows with the best C. False: `coef_`, `intercept_` and `C_` are means
        over the folds, of each fold's at its own best C.

    one_standard_error : bool, default=False
        Whether to choose, instead of the best C, the smallest whose mean score is within one standard error
        of the best mean: the simplest model that is not clearly worse.

    max_batch_memory : int, default=2**30
        Bytes that the problems solved at once may take, besides X. With less of it fewer are solved at once,
        at least one, and X is read more often.

    fit_intercept : bool, default=True
        Whether to fit an intercept.

    class_weight : dict or "balanced", default=None
        Weights of the classes, which multiply `sample_weight`. "balanced" is of all rows, not of each fold's.

    solver : str, default="auto"
        Of those of `TorchLogisticClassifier` all but "sgd". "auto" is "natural-sgd", the only one with
        metrics that folds share.

    max_iter : int, default=100
        Most updates of the weights, on all rows and then on each fold.

    tol : float or None, default=1e-4
        The stopping rule of `TorchLogisticClassifier`, for each C and fold.

    device : str, torch.device or None, default=None
        Where to compute; None is where X is.

    random_state : int, RandomState instance or None, default=None
        Seeds the samples of "natural-sgd", on which the result depends no more than `tol` allows. It is not
        passed on to `cv`.

    verbose : int, default=0
        Above 0 prints a line an iteration on all rows.

    Attributes
    ----------
    C_ : float
        The C chosen.

    Cs_ : ndarray of shape (n_Cs,)
        Those to choose from.

    l1_ratio_ : float
        0: the penalty is L2.

    l1_ratios_ : ndarray of shape (1,)
        ``[0.]``, kept for code written for ``LogisticRegressionCV``.

    scores_ : ndarray of shape (n_folds, 1, n_Cs)
        Scores on the rows kept aside.

    coefs_paths_ : ndarray of shape (n_folds, 1, n_Cs, K, n_features + 1)
        Coefficients, and in a last column intercepts if there are any; K is 1 for two classes, else their
        number.

    n_iter_ : ndarray of shape (n_folds, 1, n_Cs), int32
        Updates of the weights made on each fold.

    cv_results_ : pandas.DataFrame
        One row a C: ``C``, ``mean_test_score``, ``std_test_score``, ``rank_test_score`` and
        ``split0_test_score`` and so on for each fold.

    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients with the C chosen.

    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts, 0 without `fit_intercept`.

    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted.

    n_features_in_ : int
        Number of columns of X in `fit`.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X had names that are all strings.

    solver_ : str
        The solver that ran.

    converged_ : bool
        Whether the stopping rule was met for all Cs, on all folds and on all rows.

    stop_reason_ : str or None
        Why the fit on all rows with the C chosen has ended; None with ``refit=False``.

    objective_ : float or None
        The objective of that fit, infinite where it overflows; None with ``refit=False``.

    loss_curve_ : ndarray of shape (n_iter,)
        Its objective divided by ``C * sum(s)`` before each update; empty with ``refit=False``.

    history_ : pandas.DataFrame
        One row an update of that fit, as in `TorchLogisticClassifier`.

    validation_scores_ : None
        There is no early stopping here.

    module_ : torch.nn.Linear
        Gives raw predictions; made from `coef_` and `intercept_` at each access.

    See Also
    --------
    sklearn.linear_model.LogisticRegressionCV : What this stands in for.

    References
    ----------
    Breiman, Friedman, Olshen, Stone (1984), Classification and Regression Trees, section 3.4.3 (the rule of
    one standard error).

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from torch_logreg import TorchLogisticClassifierCV
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> clf = TorchLogisticClassifierCV(Cs=5, scoring="neg_log_loss").fit(X, y)
    >>> clf.C_
    100.0
    >>> clf.cv_results_["mean_test_score"].round(2).tolist()
    [-0.17, -0.12, -0.12, -0.11, -0.21]
    """

    # Of `TorchLogisticClassifier`, and no parameters here.
    C, module, criterion, early_stopping, warm_start = 1.0, None, None, False, False
    learning_rate, momentum, nesterov, batch_size, lr_schedule = "auto", 0.0, False, "auto", None
    optimizer, clip_grad_norm, precision = None, None, "32"

    _advice = ADVICE_CV

    _parameter_constraints: dict = {
        "Cs": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "cv": ["cv_object"],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "refit": ["boolean"],
        "one_standard_error": ["boolean"],
        "max_batch_memory": [Interval(Real, 0, None, closed="neither")],
        **{
            name: constraints_of(TorchLogisticClassifier)[name]
            for name in (
                "fit_intercept",
                "class_weight",
                "max_iter",
                "tol",
                "device",
                "random_state",
                "verbose",
            )
        },
        "solver": [StrOptions({"auto", *CV_SOLVERS})],
    }

    @advising(ADVICE_CV)
    def __init__(
        self,
        *,
        Cs: int | ArrayLike = 10,
        cv: Any = None,
        scoring: str | Callable[..., float] | None = None,
        refit: bool = True,
        one_standard_error: bool = False,
        max_batch_memory: float = 2**30,
        fit_intercept: bool = True,
        class_weight: dict | str | None = None,
        solver: str = "auto",
        max_iter: int = 100,
        tol: float | None = 1e-4,
        device: str | torch.device | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.Cs = Cs
        self.cv = cv
        self.scoring = scoring
        self.refit = refit
        self.one_standard_error = one_standard_error
        self.max_batch_memory = max_batch_memory
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, **params: Any) -> Self:
        """Choose C, and fit the model with it.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            Training rows.

        y : array-like of shape (n_samples,)
            Class labels, of two or more classes.

        sample_weight : array-like of shape (n_samples,) or float, default=None
            Weights of the rows, not negative; 1 each by default. They go to the scorer too, with metadata
            routing only if it asks for them. Rows of weight 0 are in no fold that a splitter makes.

        **params : dict
            For the splitter (such as ``groups``) and the scorer, with metadata routing for those that ask.
            Without metadata routing all go to the scorer.

        Returns
        -------
        self : TorchLogisticClassifierCV
            The fitted estimator.

        Raises
        ------
        ValueError
            For parameters or data that cannot be fitted, a fold that has rows of one class to train on, or
            one without a row of weight to train or to score on.

        Warns
        -----
        ConvergenceWarning
            If the fit of a C on a fold or on all rows ended before the stopping rule was met; it says
            which, and why.
        """
        self._check_parameters()
        with guarded(self, X), torch.inference_mode(False), torch.no_grad():
            data = check_fit(self, X, y, sample_weight, self.class_weight)
            weights = None if sample_weight is None else sample_weights(sample_weight, data.codes)
            routed = route(self, params, weights)
            Cs = self._values(data)
            forward = Forward(self, X, y, None if sample_weight is None else {"sample_weight": sample_weight})
            device = resolve_device(self.device, data.X)
            work = work_of(data) * len(Cs)
            with undisturbed(device), without_autograd(device), threads_for(work):
                fitted = self._choose(data, np.asarray(on_host(y)).reshape(-1), weights, Cs, routed, forward)
            self.__dict__.update(fitted)
            forward.close()
        return self

    def _check_parameters(self) -> None:
        check_solver_exists(self.solver, CV_SOLVERS)
        check_parameters(self, DEFAULTS)

    def _values(self, data: TrainingData) -> np.ndarray:
        given: Any = self.Cs
        if isinstance(given, Integral):
            with refusing_huge_integers("Cs"):
                n_bytes = 8.0 * int(given) * (data.X.shape[1] + 1)
            what = f"The coefficients of as many values of C as Cs={given!r} asks for"
            check_room(n_bytes, torch.device("cpu"), what, "pass fewer, such as Cs=10")
            return np.logspace(-4, 4, int(given))
        with refusing_huge_integers("Cs"):
            Cs = np.asarray(given, dtype=np.float64)
        if Cs.ndim != 1 or not len(Cs) or not (Cs > 0).all():
            raise ValueError(f"Cs={self.Cs!r}: each must be a number above 0, or np.inf for no penalty.")
        return Cs

    def _choose(
        self,
        data: TrainingData,
        y: np.ndarray,
        weights: np.ndarray | None,
        Cs: np.ndarray,
        routed: Any,
        forward: Forward,
    ) -> dict[str, Any]:
        """The fitted attributes."""
        device = resolve_device(self.device, data.X)
        kept = np.arange(len(y)) if weights is None else np.flatnonzero(weights)
        folds = self._folds(data, y, routed.splitter.split, kept)
        counts = fold_counts(folds, data)
        if weights is not None and len(kept) < len(y):
            knows_weights = routed.scorer.score.get("sample_weight") is weights
            of_labels = needs_labels_alone(self._scorer())
            folds = without_silent(folds, data, weights, knows_weights and not of_labels)
        order = np.argsort(Cs, kind="stable")
        told = PathHistory(self, data.classes, forward)
        path = self._solve_path(data, counts, device, told, Cs[order])
        path = Path(*(array[:, np.argsort(order)] for array in path))
        dtype = numpy_dtype(data.X, device)
        path = path._replace(coef=path.coef.astype(dtype), intercept=path.intercept.astype(dtype))
        scorer = Scorer(
            self.scoring if isinstance(self.scoring, str) else None if self.scoring else "accuracy",
            self._scorer(),
            routed.scorer.score,
            partial(self._with_coefficients, data),
        )
        scores = np.stack(
            [
                scorer(data, y, fold.test, path.coef[number], path.intercept[number], device)
                for number, fold in enumerate(folds)
            ]
        )
        self._warn_of(path, Cs, self._separation_of(data, path, Cs))
        return self._attributes(data, Cs, scores, path, told, np.argsort(order))

    def _folds(
        self, data: TrainingData, y: np.ndarray, given: dict[str, Any], kept: np.ndarray
    ) -> list[Fold]:
        try:
            return folds_of(self.cv, data, y, given, kept)
        except ValueError as error:
            if not isinstance(self.cv, Integral):  # a splitter of the caller's, which knows its parameters
                raise
            raise ValueError(f"cv={self.cv} folds cannot be made: {error}") from error

    def _solve_path(
        self, data: TrainingData, counts: np.ndarray, device: torch.device, told: PathHistory, Cs: np.ndarray
    ) -> Path:
        name = self._solver_name()
        solver = PathSolver(
            data,
            counts,
            device,
            bool(self.fit_intercept),
            partial(CV_SOLVERS[name].make, max_iter=self.max_iter, tol=finite_tol(self.tol)),
            name == "natural-sgd",
            name == "newton-cholesky",
            partial(sampling_seed_of, self.random_state),
            int(min(self.max_batch_memory, 2**63)),  # which may be infinite
            told,
        )
        return solve_present(solver, Cs)

    def _with_coefficients(self, data: TrainingData, coef: np.ndarray, intercept: np.ndarray) -> Any:
        """A fitted estimator for a scorer."""
        estimator = clone(self)
        estimator.__dict__.update(
            coef_=coef, intercept_=intercept, classes_=data.classes, n_features_in_=data.X.shape[1]
        )
        return estimator

    def _attributes(
        self,
        data: TrainingData,
        Cs: np.ndarray,
        scores: np.ndarray,
        path: Path,
        told: PathHistory,
        sorted_index: np.ndarray,
    ) -> dict[str, Any]:
        chosen = choose(Cs, scores, bool(self.one_standard_error))
        columns = [path.coef, path.intercept[..., None]] if self.fit_intercept else [path.coef]
        factor = float(np.broadcast_to(data.weights, data.codes.shape).sum())
        factor *= float(Cs[chosen]) if np.isfinite(Cs[chosen]) else 1.0
        history = told.history(int(sorted_index[chosen]), int(path.n_iter[-1, chosen]))
        fitted = {
            "classes_": data.classes,
            "Cs_": Cs,
            "C_": float(Cs[chosen]),
            "l1_ratios_": np.zeros(1),
            "l1_ratio_": 0.0,
            "scores_": scores[:, None],
            "coefs_paths_": np.concatenate(columns, axis=-1)[:-1, None],
            "n_iter_": path.n_iter[:-1, None],
            "coef_": path.coef[-1, chosen].copy(),
            "intercept_": path.intercept[-1, chosen].copy(),
            "solver_": self._solver_name(),
            "converged_": bool((path.reasons == "converged").all()),
            "stop_reason_": str(path.reasons[-1, chosen]),
            "objective_": float(path.objective[-1, chosen]) * factor,
            "loss_curve_": history["objective"],
            "validation_scores_": None,
            "_history": scaled(history, factor),
        }
        if not self.refit:
            best = scores.argmax(axis=1)
            each = np.arange(len(scores))
            fitted |= {
                "C_": float(Cs[best].mean()),
                "coef_": path.coef[each, best].mean(axis=0),
                "intercept_": path.intercept[each, best].mean(axis=0),
                "stop_reason_": None,
                "objective_": None,
                "loss_curve_": np.zeros(0),
                "_history": {name: column[:0] for name, column in history.items()},
            }
        return fitted

    def _separation_of(self, data: TrainingData, path: Path, Cs: np.ndarray) -> Separation | None:
        """Find what separates the classes of all rows, if a fit has no penalty; notes it in `path`."""
        separated = None
        if (tol := finite_tol(self.tol)) is None:
            return None
        for number in np.flatnonzero(np.isinf(Cs)):
            fitted = {
                "coef_": path.coef[-1, number],
                "intercept_": path.intercept[-1, number],
                "objective_": float(path.objective[-1, number]) * data.weights.sum(),
                "converged_": path.reasons[-1, number] == "converged",
            }
            separated = separation_of(data, fitted, bool(self.fit_intercept), tol)
            if separated is not None:
                path.reasons[-1, number] = "separation"
        return separated

    def _warn_of(self, path: Path, Cs: np.ndarray, separated: Separation | None) -> None:
        if self.tol is None:
            return
        problems = [(fold, number) for fold, number in np.argwhere(np.isin(path.reasons, list(REASONS)))]
        if not problems:
            return
        n_folds = len(path.reasons) - 1
        why = partial(self._why, separated)
        named = [
            f"C={Cs[number]:.4g} on {'all rows' if fold == n_folds else f'fold {fold}'} "
            f"(after {path.n_iter[fold, number]} iteration(s): {why(path.reasons[fold, number])})"
            for fold, number in problems[:NAMED]
        ]
        more = f", and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        failed = FAILED.format(solver=self._solver_name())
        which = f"{'; '.join(named)}{more}"
        message = f"{failed} for {len(problems)} of {path.reasons.size} problems: {which}."
        if (path.reasons == "max_iter").any():
            message += f" {MORE_ITERATIONS.format(max_iter=self.max_iter)}."
        warnings.warn(
            message,
            ConvergenceWarning,
            stacklevel=5,  # the line that called `fit`, through `with_callbacks`
        )

    def _why(self, separated: Separation | None, reason: str) -> str:
        if reason == "separation" and separated is not None:
            return separated.describe(vars(self).get("feature_names_in_"))
        return REASONS[reason].format(max_iter=self.max_iter, dtype="this")

    # ---- views of the fitted state ----

    @property
    def cv_results_(self) -> pd.DataFrame:
        """Scores of each C, and which is best: a DataFrame of one row a C, made at each access."""
        check_is_fitted(self)
        return results(self.Cs_, self.scores_[:, 0])

    # ---- scoring and metadata ----

    def _scorer(self) -> Callable[..., float]:
        return get_scorer(self.scoring or "accuracy")

    def score(  # type: ignore[override]  # y is needed: no Dataset gives it
        self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, **score_params: Any
    ) -> float:
        """Score of the predictions by `scoring`.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            The rows to predict.

        y : array-like of shape (n_samples,)
            Their true labels.

        sample_weight : array-like of shape (n_samples,) or float, default=None
            Weights of the rows; they go to the scorer, with metadata routing only if it asks for them.

        **score_params : dict
            For the scorer, with metadata routing.

        Returns
        -------
        score : float
            Accuracy, unless `scoring` says otherwise.
        """
        y = on_host(y)
        routed = route(self, score_params, one_a_row(sample_weight, y), caller="score")
        return self._scorer()(self, X, y, **routed.scorer.score)

    def get_metadata_routing(self) -> MetadataRouter:
        """Get the metadata routing of this object.

        Returns
        -------
        routing : MetadataRouter
            See scikit-learn's user guide on metadata routing.
        """
        splits = MethodMapping().add(caller="fit", callee="split")
        scores = MethodMapping().add(caller="score", callee="score").add(caller="fit", callee="score")
        router = MetadataRouter(owner=self).add_self_request(self)
        return router.add(splitter=self.cv, method_mapping=splits).add(
            scorer=self._scorer(), method_mapping=scores
        )


class PathHistory:
    """Keeps what the fits on all rows tell, of every C, and passes it on to callbacks."""

    def __init__(self, estimator: TorchLogisticClassifierCV, classes: np.ndarray, forward: Forward) -> None:
        self._verbose, self._classes, self._forward = int(estimator.verbose), classes, forward
        self._left = max(estimator.max_iter, 1)  # iterations that callbacks can be told of
        self._start = time.perf_counter()
        self._kept: list[tuple[int, np.ndarray]] = []  # number of the first problem, (n_problems, 5)

    def __call__(
        self, first: int, iteration: Iteration, largest_C: Callable[[], tuple[np.ndarray, np.ndarray]]
    ) -> bool:
        seconds = time.perf_counter() - self._start
        parts = (iteration.objective, iteration.gradient_norm, iteration.rows_read, iteration.step, seconds)
        self._kept.append((first, np.stack(np.broadcast_arrays(*parts), axis=1)))
        if self._verbose:
            print(
                f"iteration {iteration.number}: {int(iteration.done.sum())} of {len(iteration.done)} values "
                f"of C done on all rows, largest max |gradient| {iteration.gradient_norm.max():.2e}"
            )
        self._left -= 1
        if self._left < 0:
            return False
        names = ("coef_", "intercept_")
        return self._forward(
            lambda: {"classes_": self._classes, **dict(zip(names, largest_C(), strict=True))}
        )

    def history(self, number: int, n_iter: int) -> dict[str, np.ndarray]:
        """The history of one problem, with F for the objective."""
        found = [table[number - first] for first, table in self._kept if 0 <= number - first < len(table)]
        columns = np.array(found[:n_iter]).reshape(-1, len(HISTORY)).T
        return dict(zip(HISTORY, columns, strict=True))


DEFAULTS = {name: p.default for name, p in inspect.signature(TorchLogisticClassifierCV).parameters.items()}
