"""The estimator that chooses C."""

from __future__ import annotations

import inspect
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
from torch_logreg._checks.parameters import check_can_fit_l1_ratios, check_parameters, check_solver_exists
from torch_logreg._checks.ported import ADVICE_CV, advising
from torch_logreg._checks.weights import one_a_row, sample_weights
from torch_logreg._contracts.solver import FAILED, MORE_ITERATIONS, REASONS, ROUNDED
from torch_logreg._data.tensors import numpy_dtype
from torch_logreg._estimators.callbacks import Forward, scaled
from torch_logreg._estimators.classifier import TorchLogisticClassifier
from torch_logreg._estimators.fitting import finite_tol, guarded, sampling_seed_of, without_autograd
from torch_logreg._estimators.path_history import PathHistory
from torch_logreg._fit.linear import work_of
from torch_logreg._inspection.separation import Separation, separation_of
from torch_logreg._runtime.devices import resolve_device
from torch_logreg._runtime.out_of_memory import check_room
from torch_logreg._runtime.surroundings import undisturbed
from torch_logreg._runtime.threads import threads_for
from torch_logreg._selection.choice import best_of, choose, results
from torch_logreg._selection.elastic_net_path import ElasticNetPath
from torch_logreg._selection.folds import Fold, fold_counts, folds_of, without_silent
from torch_logreg._selection.grid import Grid, finish, solve_grid
from torch_logreg._selection.path import Path, PathSolver
from torch_logreg._selection.scorer import Scorer
from torch_logreg._solvers.registry import SOLVERS, WITH_L1

CV_SOLVERS = {name: entry for name, entry in SOLVERS.items() if name != "sgd"}
AS_THERE = ("fit_intercept", "class_weight", "max_iter", "tol", "device", "random_state", "verbose")
NAMED = 5  # problems named in a warning


class TorchLogisticClassifierCV(TorchLogisticClassifier):
    r"""`TorchLogisticClassifier` that chooses C and l1_ratio by cross-validation.

    It stands in for ``LogisticRegressionCV`` with ``use_legacy_attributes=False``.

    Every C on every fold, and on all rows, is one solve of many problems, which reads X once a pass for all
    of them. All rows are solved first; each fold starts from there, in the metric of all rows. The model
    refitted on all rows with the C chosen is one of these. With an L1 term each C, on all rows or a fold,
    starts from the solution of the smaller one before.

    Parameters
    ----------
    Cs : int or array-like of shape (n_Cs,), default=10
        Values of C to choose from, above 0; ``np.inf`` is no penalty. An integer is as many from 1e-4 to 1e4,
        equally spaced on a logarithmic scale.

    l1_ratios : array-like of shape (n_l1_ratios,), default=(0.0,)
        Parts of the L1 penalty to choose from, each in [0, 1], as `l1_ratio` of `TorchLogisticClassifier`: 0
        is the L2 penalty, 1 the L1 penalty. Every one is tried with every C. Above 0 it needs `solver` "auto"
        or "natural-sgd", which then takes proximal Newton steps.

    cv : int, splitter, iterable or None, default=None
        Any of scikit-learn's splitters, which split the rows that have weight, or pairs of arrays of row
        numbers to train and to score on. An integer is the number of folds of ``StratifiedKFold``; None is 5.

    scoring : str, callable or None, default=None
        The score to maximise on each held-out fold: the name of one of scikit-learn's scorers, or a callable
        of an estimator, X and y. None is accuracy. "accuracy", "balanced_accuracy", "neg_log_loss",
        "roc_auc", "average_precision" and "neg_brier_score" are computed for all Cs at once.

    refit : bool, default=True
        True: `coef_` is fitted on all rows with the best C and l1_ratio. False: `coef_`, `intercept_`, `C_`
        and `l1_ratio_` are means over the folds, of each fold's at its own best C and l1_ratio.

    one_standard_error : bool, default=False
        Whether to choose, instead of the best C and l1_ratio, the simplest whose mean score is within one
        standard error of the best mean. Simplest is the one of the fewest coefficients other than 0 on all
        rows, of these the one of the smallest C, and then of the largest l1_ratio. With the L2 penalty alone,
        which makes no coefficient 0, it is the smallest C.

    max_batch_memory : int, default=2**30
        Bytes that the problems solved at once may take, besides X. With less of it fewer are solved at once,
        at least one, and X is read more often. With an L1 term the rows of a fold are copied if they take no
        more than that, and else all rows are read, with weights of 0 for those kept aside.

    fit_intercept : bool, default=True
        Whether to fit an intercept.

    class_weight : dict or "balanced", default=None
        Weights of the classes, which multiply `sample_weight`. "balanced" is of all rows, not of each fold's.

    solver : str, default="auto"
        Of those of `TorchLogisticClassifier` all but "sgd". "auto" is "natural-sgd", the only one with
        metrics that folds share, and that fits an L1 term.

    max_iter : int, default=100
        Most updates of the weights, on all rows and then on each fold, of each problem.

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
        The l1_ratio chosen.

    l1_ratios_ : ndarray of shape (n_l1_ratios,)
        Those to choose from.

    scores_ : ndarray of shape (n_folds, n_l1_ratios, n_Cs)
        Scores on the rows kept aside.

    coefs_paths_ : ndarray of shape (n_folds, n_l1_ratios, n_Cs, K, n_features + 1)
        Coefficients, and in a last column intercepts if there are any; K is 1 for two classes, else their
        number.

    n_iter_ : ndarray of shape (n_folds, n_l1_ratios, n_Cs), int32
        Updates of the weights made on each fold. With an L1 term at least 1, to find the intercept, if not
        `max_iter` is 0.

    cv_results_ : pandas.DataFrame
        One row a pair, all Cs of the first l1_ratio first: ``C``, ``l1_ratio``, ``mean_test_score``,
        ``std_test_score``, ``rank_test_score`` and ``split0_test_score`` and so on for each fold.

    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients with the C and l1_ratio chosen.

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
        Whether the stopping rule was met for all Cs and l1_ratios, on all folds and on all rows.

    stop_reason_ : str or None
        Why the fit on all rows with the C and l1_ratio chosen has ended; None with ``refit=False``.

    objective_ : float or None
        The objective of that fit, infinite where it overflows; None with ``refit=False``.

    dual_gap_ : float
        By how much `objective_` is above its minimum at most, by a point of the dual problem; only where the
        pair chosen has an L1 term, and not with ``refit=False``.

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

    Friedman, Hastie, Tibshirani (2010), Regularization paths for generalized linear models via coordinate
    descent, Journal of Statistical Software 33(1) (chains of solutions, each from the one before).

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
        "l1_ratios": ["array-like"],
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
        l1_ratios: ArrayLike = (0.0,),
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
        self.l1_ratios = l1_ratios
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
            grid = Grid(self._values(data), self._ratios())
            if grid.n_with_l1:
                check_can_fit_l1_ratios(self.l1_ratios, self._solver_name(), WITH_L1)
            metadata = None if sample_weight is None else {"sample_weight": sample_weight}
            forward = Forward(self, X, y, metadata, 1 + grid.n_with_l1)
            device = resolve_device(self.device, data.X)
            work, labels = work_of(data) * grid.n_at_once, np.asarray(on_host(y)).reshape(-1)
            with undisturbed(device), without_autograd(device), threads_for(work):
                fitted = self._choose(data, labels, weights, grid, routed, forward)
            self.__dict__.pop("dual_gap_", None)  # of the fit before
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

    def _ratios(self) -> np.ndarray:
        given = np.asarray(self.l1_ratios)
        is_number = given.dtype.kind in "biuf" and given.ndim == 1 and len(given) > 0
        if not is_number or not ((given >= 0) & (given <= 1)).all():
            raise ValueError(
                f"l1_ratios={self.l1_ratios!r}: each must be a number in [0, 1], such as (0.0,) for the L2 "
                "penalty alone or (1.0,) for the L1 penalty alone."
            )
        return given.astype(np.float64)

    def _choose(
        self,
        data: TrainingData,
        y: np.ndarray,
        weights: np.ndarray | None,
        grid: Grid,
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
        rising, ratios = grid.Cs[grid.order], grid.l1_ratios[grid.l1_ratios > 0]
        told = PathHistory(int(self.verbose), data.classes, forward, rising, ratios)
        smooth, with_l1 = self._path_solvers(data, counts, device, told, grid)
        path = solve_grid(smooth, with_l1, grid)
        dtype = numpy_dtype(data.X, device)
        path = path._replace(coef=path.coef.astype(dtype), intercept=path.intercept.astype(dtype))
        scorer = Scorer(
            self.scoring if isinstance(self.scoring, str) else None if self.scoring else "accuracy",
            self._scorer(),
            routed.scorer.score,
            partial(self._with_coefficients, data),
        )
        pairs = [of_all.reshape(len(of_all), -1, *of_all.shape[3:]) for of_all in (path.coef, path.intercept)]
        scores = np.stack(
            [
                scorer(data, y, fold.test, pairs[0][number], pairs[1][number], device)
                for number, fold in enumerate(folds)
            ]
        ).reshape(len(folds), *path.n_iter.shape[1:])
        self._warn_of(path, grid, self._separation_of(data, path, grid.Cs))
        n_nonzero = grid.n_nonzero(path.coef[-1])
        pair = choose(*grid, scores, n_nonzero, bool(self.one_standard_error))
        if with_l1 is not None and self.refit:
            finish(with_l1, path, grid, pair)
        return self._attributes(data, grid, pair, scores, path, told)

    def _folds(
        self, data: TrainingData, y: np.ndarray, given: dict[str, Any], kept: np.ndarray
    ) -> list[Fold]:
        try:
            return folds_of(self.cv, data, y, given, kept)
        except ValueError as error:
            if not isinstance(self.cv, Integral):  # a splitter of the caller's, which knows its parameters
                raise
            raise ValueError(f"cv={self.cv} folds cannot be made: {error}") from error

    def _path_solvers(
        self, data: TrainingData, counts: np.ndarray, device: torch.device, told: PathHistory, grid: Grid
    ) -> tuple[PathSolver, ElasticNetPath | None]:
        """What solves the pairs without an L1 term, and those with one, if there are any."""
        name, intercept, tol = self._solver_name(), bool(self.fit_intercept), finite_tol(self.tol)
        seed, memory = partial(sampling_seed_of, self.random_state), int(min(self.max_batch_memory, 2**63))
        smooth = PathSolver(
            data,
            counts,
            device,
            intercept,
            partial(CV_SOLVERS[name].make, max_iter=self.max_iter, tol=tol),
            name == "natural-sgd",
            name == "newton-cholesky",
            seed,
            memory,  # which may have been infinite
            told,
        )
        if not grid.n_with_l1:
            return smooth, None
        make = partial(WITH_L1[name], max_iter=int(self.max_iter), tol=tol)
        return smooth, ElasticNetPath(data, counts, device, intercept, make, tol, seed, memory, told.of_l1)

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
        grid: Grid,
        pair: tuple[int, int],
        scores: np.ndarray,
        path: Path,
        told: PathHistory,
    ) -> dict[str, Any]:
        ratio, C = pair
        columns = [path.coef, path.intercept[..., None]] if self.fit_intercept else [path.coef]
        factor = float(np.broadcast_to(data.weights, data.codes.shape).sum())
        factor *= float(grid.Cs[C]) if np.isfinite(grid.Cs[C]) else 1.0
        chosen = (-1, ratio, C)
        history = told.history(told.number_of(*grid.number_of(ratio, C)), int(path.n_iter[chosen]))
        fitted = {
            "classes_": data.classes,
            "Cs_": grid.Cs,
            "C_": float(grid.Cs[C]),
            "l1_ratios_": grid.l1_ratios,
            "l1_ratio_": float(grid.l1_ratios[ratio]),
            "scores_": scores,
            "coefs_paths_": np.concatenate(columns, axis=-1)[:-1],
            "n_iter_": grid.n_iter(path, self.max_iter)[:-1],
            "coef_": path.coef[chosen].copy(),
            "intercept_": path.intercept[chosen].copy(),
            "solver_": self._solver_name(),
            "converged_": bool((path.reasons == "converged").all()),
            "stop_reason_": str(path.reasons[chosen]),
            "objective_": float(path.objective[chosen]) * factor,
            "loss_curve_": history["objective"],
            "validation_scores_": None,
            "_history": scaled(history, factor),
        }
        gap = float(path.gap[chosen])
        if not self.refit:
            fitted |= self._means(grid, scores, path, history)
        elif np.isfinite(gap):
            fitted["dual_gap_"] = gap * factor
        return fitted

    def _means(
        self, grid: Grid, scores: np.ndarray, path: Path, history: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """What is kept without a refit: means over folds, of each with the best pair of its own."""
        ratios, Cs = np.array([best_of(of_fold) for of_fold in scores]).T
        each = np.arange(len(scores))
        return {
            "C_": float(grid.Cs[Cs].mean()),
            "l1_ratio_": float(grid.l1_ratios[ratios].mean()),
            "coef_": path.coef[each, ratios, Cs].mean(axis=0),
            "intercept_": path.intercept[each, ratios, Cs].mean(axis=0),
            "stop_reason_": None,
            "objective_": None,
            "loss_curve_": np.zeros(0),
            "_history": {name: column[:0] for name, column in history.items()},
        }

    def _separation_of(self, data: TrainingData, path: Path, Cs: np.ndarray) -> Separation | None:
        """Find what separates the classes of all rows, if a fit has no penalty; notes it in `path`."""
        separated = None
        if (tol := finite_tol(self.tol)) is None:
            return None
        for number in np.flatnonzero(np.isinf(Cs)):
            fitted = {
                "coef_": path.coef[-1, 0, number],
                "intercept_": path.intercept[-1, 0, number],
                "objective_": float(path.objective[-1, 0, number]) * data.weights.sum(),
                "converged_": path.reasons[-1, 0, number] == "converged",
            }
            separated = separation_of(data, fitted, bool(self.fit_intercept), tol)
            if separated is not None:
                path.reasons[-1, :, number] = "separation"
        return separated

    def _warn_of(self, path: Path, grid: Grid, separated: Separation | None) -> None:
        if self.tol is None:
            return
        problems = np.argwhere(np.isin(path.reasons, list(REASONS)))
        if not len(problems):
            return
        n_folds = len(path.reasons) - 1
        named = [
            f"{grid.name_of(*place[1:])} on {'all rows' if place[0] == n_folds else f'fold {place[0]}'} "
            f"(after {path.n_iter[place]} iteration(s): {self._why(path, place, separated)})"
            for place in map(tuple, problems[:NAMED])
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

    def _why(self, path: Path, place: tuple[int, int, int], separated: Separation | None) -> str:
        reason = path.reasons[place]
        if reason == "separation" and separated is not None:
            return separated.describe(vars(self).get("feature_names_in_"))
        if reason == "rounding" and np.isfinite(path.gap[place]):
            return ROUNDED.format(dtype=path.coef.dtype, gap=path.gap[place] / path.objective[place])
        return REASONS[reason].format(max_iter=self.max_iter, dtype="this")

    # ---- views of the fitted state ----

    @property
    def cv_results_(self) -> pd.DataFrame:
        """Scores of each C and l1_ratio, and which is best: a DataFrame made at each access."""
        check_is_fitted(self)
        return results(self.Cs_, self.l1_ratios_, self.scores_)

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


DEFAULTS = {name: p.default for name, p in inspect.signature(TorchLogisticClassifierCV).parameters.items()}
