"""The estimator."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer_names
from torch import Tensor, nn

from torch_logreg._checks.compat import CallbackSupportMixin, Interval, StrOptions, with_callbacks
from torch_logreg._checks.data import (
    TrainingData,
    check_finite,
    check_fit,
    check_predict,
    check_validation,
    weigh_classes,
)
from torch_logreg._checks.module_data import check_module_fit, check_module_validation, refuse_classes
from torch_logreg._checks.parameters import (
    check_all_are_read,
    check_can_fit_l1,
    check_makes_optimizers,
    check_parameters,
    check_scored,
    check_solver_exists,
    schedule_of,
)
from torch_logreg._checks.ported import ADVICE, Advice, advising, refusal
from torch_logreg._checks.start import Initial
from torch_logreg._contracts.objective import Curved
from torch_logreg._contracts.solver import FAILED, MORE_ITERATIONS, REASONS, ROUNDED, Solver
from torch_logreg._data.inputs import holder
from torch_logreg._data.loaders import first_of, is_loaded
from torch_logreg._data.tensors import numpy_dtype
from torch_logreg._estimators.callbacks import HISTORY, Forward, Recorder, scaled
from torch_logreg._estimators.estimates import left_for_statistics
from torch_logreg._estimators.fitted import FittedModel
from torch_logreg._estimators.fitting import (
    finite_tol,
    guarded,
    sampling_seed_of,
    seed_of,
    without_autograd,
)
from torch_logreg._estimators.progress import Table
from torch_logreg._fit.elastic_net import elastic_net_problem
from torch_logreg._fit.linear import linear_problem, work_of
from torch_logreg._fit.module import module_problem
from torch_logreg._fit.plan import Method, natural_settings
from torch_logreg._fit.present import Present, forget_absent
from torch_logreg._fit.problem import Problem
from torch_logreg._inspection.separation import Separation, separation_of
from torch_logreg._losses.criteria import is_cross_entropy, weights_of_classes
from torch_logreg._modules.objective import PRECISIONS
from torch_logreg._runtime.devices import resolve_device
from torch_logreg._runtime.surroundings import undisturbed, with_plain_defaults
from torch_logreg._runtime.threads import threads_for
from torch_logreg._selection.holdout import hold_out, validation_of
from torch_logreg._solvers.optimizers import NamingOptimizer
from torch_logreg._solvers.registry import SOLVERS, WITH_L1, make_solver

READ_BY_SGD = ("learning_rate", "momentum", "nesterov", "clip_grad_norm")
OF_MODEL = ("coef_", "intercept_", "_module", "_link", "input_dtype_", "input_shape_")
OF_SOME = (
    *OF_MODEL,
    "optimizer_",
    "dual_gap_",
    "_covariance",
    "_separated",
)  # attributes that not every fit has
SMALL_ROWS, BATCH_ROWS, MODULE_BATCH_ROWS = 10_000, 256, 200


class TorchLogisticClassifier(CallbackSupportMixin, FittedModel):
    r"""Logistic regression trained with torch, a drop-in for scikit-learn's ``LogisticRegression``.

    Minimises, over the coefficients and the intercept (or the parameters of a `module`),

    ``C * sum_i s_i * loss_i + (1 - l1_ratio)/2 * |coef|² + l1_ratio * |coef|_1``

    with ``s_i`` the product of sample and class weight and ``loss_i`` the binary cross-entropy, or for
    more than two classes the softmax cross-entropy, of row i. The intercept is not penalised.

    The columns are centred and scaled inside, by a change of variables that leaves the problem as it is:
    raw columns of any unit need no scaler in front.

    Parameters
    ----------
    C : float, default=1.0
        Inverse of the strength of the penalty, above 0. ``np.inf`` is no penalty.

    l1_ratio : float, default=0.0
        The part of the L1 penalty, in [0, 1]. 0 is the L2 penalty. Above 0 coefficients become exactly 0, the
        more the smaller `C` is (of `smallest_C` and below all): "auto" or "natural-sgd" then take proximal
        Newton steps, and `dual_gap_` proves how good the result is. "sgd" takes proximal steps, without
        momentum or an `optimizer`, also on the penalised weights of a `module`. Not with other solvers.

    fit_intercept : bool, default=True
        Whether to fit an intercept. Without one the columns are not centred either.

    class_weight : dict or "balanced", default=None
        Weights of the classes, not negative, which multiply `sample_weight`. "balanced" gives each class that
        has weight the same total. None gives each the weight 1.

    module : nn.Module, callable or ModuleSpec, default=None
        What is trained. None: the linear model. An instance is copied and never changed; a callable that is
        no class is called with ``(n_features, n_outputs)`` and returns a module, where the first is
        ``X.shape[1]``, of `Inputs` a dict of these by name; a `ModuleSpec` is such a callable with settings
        that a grid search can set. A class of modules raises. The module gives one output a row for two
        classes, or one a class. The penalty is on its trainable weights, not on biases nor on norm layers.

    criterion : loss of torch.nn or callable, default=None
        None: binary cross-entropy of one logit, softmax cross-entropy of several. An instance or a
        class. ``nn.BCELoss`` says that the module gives probabilities, ``nn.NLLLoss`` log-probabilities,
        any other that it gives logits. It is evaluated row by row and weighted with ``s_i``.
        Of the linear model ``nn.BCEWithLogitsLoss`` and ``nn.CrossEntropyLoss`` are the same as None, with
        `pos_weight` and `weight` of classes as factors of ``s_i``, except with "sgd"; any other loss, a
        `weight` of ``nn.BCEWithLogitsLoss``, `label_smoothing` and an `ignore_index` of 0 or more need "sgd".

    optimizer : callable or OptimizerSpec, default=None
        What makes the optimizer of "sgd", called as ``optimizer(parameters, lr=learning_rate)``, or as
        ``optimizer(parameters)`` with ``learning_rate="auto"``, which leaves torch's own default: a class of
        ``torch.optim``, a `functools.partial` of one, or an `OptimizerSpec`, whose settings a grid search can
        set. Its own `weight_decay` comes on top of the penalty of `C`. None: ``torch.optim.SGD``.

    solver : str, default="auto"
        "auto"
            "sgd" if `learning_rate` is a number, or a `module`, an `optimizer` or a `criterion` that needs it
            is given, else "natural-sgd".
        "natural-sgd"
            Natural-gradient descent: the Fisher matrix is the metric. On small data each step takes all rows,
            which makes it a damped Newton step. On large data the first steps are on random samples of
            the rows that grow; passes over all rows then finish in the metric of the last sample,
            corrected by what the steps show of the curvature.
        "newton-cholesky", "newton-cg"
            Damped Newton steps on all rows, by a Cholesky factorisation or by conjugate gradients.
        "lbfgs"
            Limited-memory BFGS.
        "sgd"
            ``torch.optim.SGD`` or another `optimizer`, on the columns as they are; without one and with
            ``learning_rate="auto"`` a line search (for the linear model, on scaled columns).

    learning_rate : float or "auto", default="auto"
        Step length of ``solver="sgd"``, as in ``torch.optim.SGD``, for the objective divided by
        ``C * sum(s)``. "auto" chooses it by a line search, or with an `optimizer` leaves the default of that.

    momentum : float, default=0.0
        Of "sgd" without an `optimizer` and with a number for `learning_rate`; at least 0, below 1.

    nesterov : bool, default=False
        Nesterov's form of the momentum.

    batch_size : int, "auto" or None, default="auto"
        Rows in a minibatch of "sgd". None: all. "auto": for the linear model all up to 10 000 rows, else
        256; for a module 200, or what a DataLoader gives. Sums over a short last batch are divided by
        `batch_size` too.

    lr_schedule : callable or tuple, default=None
        Takes the optimizer and returns a scheduler of ``torch.optim.lr_scheduler``, stepped each epoch. The
        pair ``(lr_schedule, "batch")`` has it stepped after each minibatch, as ``OneCycleLR`` wants.

    clip_grad_norm : float, default=None
        The largest norm of the gradient of a minibatch, penalty included, by
        ``torch.nn.utils.clip_grad_norm_``; above 0. None: no bound.

    precision : {"32", "bf16-mixed", "16-mixed"}, default="32"
        What forward passes of a `module` compute in while it is trained. "32": the dtype of X.
        "bf16-mixed" and "16-mixed": bfloat16 and float16 by ``torch.autocast``, the latter with a
        ``torch.amp.GradScaler``; weights, losses and predictions stay float32, which X must be.

    max_iter : int, default=100
        Most updates of the weights, or epochs of "sgd".

    tol : float or None, default=1e-4
        The fit has converged once max \|gradient\| of the objective divided by ``C * sum(s)``, in
        the scaled columns, is at most `tol` and the predicted relative decrease of the
        objective at most ``tol**2`` (or 4 units of rounding, if that is more). The update at which this
        is found is still taken. "sgd" looks at the gradient alone, once an epoch. None: exactly
        `max_iter` updates, without a warning. With `l1_ratio` above 0 the objective has converged once it is
        proved to be above its minimum by at most ``2 * tol`` of itself, and the last update promised at most
        ``tol**2`` of it.

    early_stopping : bool, default=False
        Whether to stop once rows that are kept aside, or `X_val` of `fit`, are predicted no better, and to
        return the best weights.

    scoring : str, callable or None, default=None
        How these rows are scored. None: accuracy. "loss": the negative mean of the criterion, without the
        penalty. Otherwise the name of a scorer of scikit-learn, or a callable ``(estimator, X, y) -> float``,
        larger for better. It is given `sample_weight` too where these rows have weights: those of the rows
        kept aside are multiplied by `class_weight`.

    validation_fraction : float, default=0.1
        The fraction of rows kept aside, classes in equal parts; not with `X_val`.

    n_iter_no_change : int, default=5
        Updates in a row without a better score after which `early_stopping` stops. Better is by more than
        1e-4 of an accuracy, and by more than 1e-4 of its size of any other score.

    device : str, torch.device or None, default=None
        Where to compute. None: where X is, the CPU for all but tensors. "auto": the accelerator of this
        machine if it has one, else the CPU. Otherwise a name such as "cuda", "cuda:1", "mps", "xpu", "cpu".

    warm_start : bool, default=False
        Whether `fit` starts from the coefficients of the fit before; its `coef_init` and `intercept_init`
        come first.

    random_state : int, RandomState instance or None, default=None
        Seeds the order of minibatches, the construction and random layers of a module, and the split of
        `early_stopping`. None is a new seed each time. Also seeds the samples of "natural-sgd", on which the
        result depends no more than `tol` allows; None draws the same ones each time. Global generators are
        never touched.

    verbose : int, default=0
        Above 0 prints a table, a line an epoch or iteration.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients, float32 if X was, else float64. A user may assign them; `sparsify` makes them sparse.

    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts, 0 without `fit_intercept`.

    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted.

    n_features_in_ : int
        Number of columns of X in `fit`: ``X.shape[1]``, of `Inputs` the sum of these, where an input of one
        dimension counts 1.

    input_shape_ : tuple of int or dict
        The shape of a row, which rows to predict must have. Only with a `module`; of `Inputs` by name.

    input_dtype_ : str or dict
        The dtype that X goes into the `module` as: "float32", "float64", or for integers that it takes as
        they are "int64" ("bool" for truth values). Only with a `module`; of `Inputs` by name.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X had names that are all strings.

    n_iter_ : ndarray of shape (1,), int32
        Updates of the weights made.

    solver_ : str
        The solver that ran.

    optimizer_ : str
        The class of the optimizer of torch that made the steps; missing where none did.

    converged_ : bool
        Whether the stopping rule was met. Only then is the result claimed to be the optimum.

    stop_reason_ : str
        "converged", "max_iter", "precision" (no step decreases the objective any more in this dtype),
        "rounding" (a column's mean is so large for its spread that float32 cannot tell its values apart: use
        float64, or subtract the mean; with `l1_ratio` above 0, that coefficients rounded to float32 are worth
        less than `tol` asks for), "collinear" (some columns are almost exact combinations of others, and
        the answer depends on a difference that float64 cannot hold: drop one, or lower C), "underflow"
        (values below 1e-150 were left out, as their squares are 0: multiply those columns), "early_stopping",
        "separation" (C is infinite, or as good as, and the classes can be separated, completely or in part)
        or "callback".

    objective_ : float
        The objective above at the end (with C taken as 1 where it is infinite); infinite where `C` times the
        weights is so large that it overflows.

    dual_gap_ : float
        With `l1_ratio` above 0, and not of "sgd": by how much `objective_` is above its minimum at most, by a
        point of the dual problem. It is that of the coefficients as they are returned.

    loss_curve_ : ndarray of shape (n_iter,)
        The objective divided by ``C * sum(s)``, before each update. While "natural-sgd" is on a sample of
        the rows, which ``rows_read`` of `history_` tells, it is an estimate from these. Of a Dataset or
        DataLoader it is the mean over the batches of each epoch, as they were trained on. A warm start of
        "sgd" appends to it.

    history_ : pandas.DataFrame
        One row an update: ``objective``, ``gradient_norm``, ``rows_read``, ``step``, ``seconds``, and with
        rows to be scored on ``validation_loss`` and ``validation_score``. With `l1_ratio` above 0 also
        ``dual_gap`` and ``n_nonzero``.

    validation_scores_ : ndarray of shape (n_iter,) or None
        The score of the rows kept aside, or of `X_val`, after each update; None without such rows. A warm
        start of "sgd" appends to it.

    module_ : torch.nn.Module
        The trained module. For the linear model an ``nn.Linear`` that gives raw predictions, made from
        `coef_` and `intercept_` at each access; other modules have no `coef_` and `intercept_`.

    See Also
    --------
    sklearn.linear_model.LogisticRegression : What this stands in for.

    References
    ----------
    Amari (1998), Natural gradient works efficiently in learning, Neural Computation 10(2).

    Byrd, Chin, Nocedal, Wu (2012), Sample size selection in optimization methods for machine learning,
    Mathematical Programming 134.

    Liu, Nocedal (1989), On the limited memory BFGS method, Mathematical Programming 45.

    Vaswani, Mishkin, Laradji, Schmidt, Gidel, Lacoste-Julien (2019), Painless stochastic gradient:
    interpolation, line-search, and convergence rates, NeurIPS 32.

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

    _advice: ClassVar[Advice] = ADVICE

    _parameter_constraints: dict = {
        "C": [Interval(Real, 0, None, closed="right")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
        "fit_intercept": ["boolean"],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "solver": [StrOptions({"auto", *SOLVERS})],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "nesterov": ["boolean"],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"}), None],
        "lr_schedule": [callable, tuple, None],
        "optimizer": [callable, None],
        "clip_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "precision": [StrOptions(set(PRECISIONS))],
        "module": [callable, None],
        "criterion": [callable, None],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left"), None],
        "early_stopping": ["boolean"],
        "scoring": [StrOptions({"loss", *get_scorer_names()}), callable, None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device, None],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    @advising(ADVICE)
    def __init__(
        self,
        *,
        C: float = 1.0,
        l1_ratio: float = 0.0,
        fit_intercept: bool = True,
        class_weight: dict | str | None = None,
        module: nn.Module | Callable[[int, int], nn.Module] | None = None,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        solver: str = "auto",
        learning_rate: float | str = "auto",
        momentum: float = 0.0,
        nesterov: bool = False,
        batch_size: int | str | None = "auto",
        lr_schedule: Callable[[torch.optim.Optimizer], Any] | tuple[Callable, str] | None = None,
        clip_grad_norm: float | None = None,
        precision: str = "32",
        max_iter: int = 100,
        tol: float | None = 1e-4,
        early_stopping: bool = False,
        scoring: str | Callable[..., float] | None = None,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        device: str | torch.device | None = None,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.C = C
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.module = module
        self.criterion = criterion
        self.optimizer = optimizer
        self.solver = solver
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.nesterov = nesterov
        self.batch_size = batch_size
        self.lr_schedule = lr_schedule
        self.clip_grad_norm = clip_grad_norm
        self.precision = precision
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.scoring = scoring
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        coef_init: ArrayLike | None = None,
        intercept_init: ArrayLike | None = None,
        X_val: Any = None,
        y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            Training rows. Sparse input is computed with as CSR and never made dense as a whole.

            A `module` takes more: arrays and tensors of shape (n_samples, n_features, ...), such as images
            (n_samples, channels, height, width); integers, which go in as floats, or as int64 where its first
            forward pass raises for floats and not for integers (``nn.Embedding``); `Inputs`, several arrays
            for the arguments of ``forward``; a map-style ``torch.utils.data.Dataset``, or a ``DataLoader``
            whose batches, order and workers are then what is trained on. Either gives pairs of x and y, or
            triples with a weight, where x is a tensor, or a dict of tensors for several inputs.

        y : array-like of shape (n_samples,), default=None
            Class labels: numbers, strings, booleans or categories, of two or more classes. None for a Dataset
            or DataLoader, which gives them with the rows.

        sample_weight : array-like of shape (n_samples,) or float, default=None
            Weights of the rows, not negative; 1 each by default. A weight of 2 is the row twice, a
            weight of 0 is no such row, but that a class stays in `classes_` if all of its rows weigh nothing.
            Then it is not predicted, unless ``fit_intercept=False`` gives it an optimum.

        coef_init : array-like of shape (1, n_features) or (n_classes, n_features), default=None
            Coefficients to start from, for two classes also of shape (n_features,). They change how long the
            fit takes, and not the optimum. None: those of the fit before with `warm_start`, else 0.

        intercept_init : array-like of shape (1,) or (n_classes,), default=None
            Intercepts to start from, likewise.

        X_val : {array-like, sparse matrix, torch.Tensor} of shape (n_val, n_features), default=None
            Rows that the fit is scored on after each update, none of which it learns from. With
            `early_stopping` they take the place of the rows kept aside; without it nothing stops. In a
            Pipeline they are transformed like X with ``Pipeline(..., transform_input=["X_val"])``, which
            needs metadata routing.

        y_val : array-like of shape (n_val,), default=None
            Their class labels, all of which must be in `y`.

        sample_weight_val : array-like of shape (n_val,) or float, default=None
            Their weights, which `class_weight` does not multiply.
        classes : array-like of shape (n_classes,), default=None
            The labels that a Dataset or DataLoader gives. None: a first pass over it finds them. With them,
            there is no such pass where the number of rows is known, none has a weight, `class_weight` is None
            and no rows are kept aside.

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
            If the fit ended before the stopping rule was met, with the reason; not where a `module` was
            trained for `max_iter` epochs.
        """
        self._check_parameters()
        initial = Initial.of(coef_init, intercept_init, self._is_module())
        check_scored(self, X_val, {"y_val": y_val, "sample_weight_val": sample_weight_val})
        with guarded(self, X), torch.inference_mode(False), torch.no_grad():
            # Of rows that early stopping keeps, no sum over the rows to train on would tell.
            whole = self._solver_name() != "sgd" and not self.early_stopping
            defer_finite = whole and not self._is_module()
            data = self._checked(X, y, sample_weight, classes, X_val is None, defer_finite)
            val = self._checked_validation(data, X_val, y_val, sample_weight_val)
            metadata = None if sample_weight is None else {"sample_weight": sample_weight}
            forward = Forward(self, X, y, metadata)
            work = np.inf if self._is_module() else work_of(data)
            device = resolve_device(self.device, holder(first_of(data.X)))
            defaults = with_plain_defaults(device) if self._is_module() else nullcontext()
            with undisturbed(device), defaults, self._without_autograd(device), threads_for(work):
                fitted = self._solve(data, val, forward, initial)
            separated = self._separation(data, fitted)
            if not self._is_module():
                fitted |= left_for_statistics(self, data, fitted, separated)
            for name in OF_SOME:  # of the fit before
                self.__dict__.pop(name, None)
            self.__dict__.update(fitted)
            forward.close()
        # Hardly any network is trained until its gradient vanishes.
        as_asked = self.tol is None or (self.module is not None and self.stop_reason_ == "max_iter")
        as_asked = as_asked or (self.max_iter == 0 and (initial.is_some or bool(self.warm_start)))
        if self.stop_reason_ in REASONS and not as_asked:
            self._warn_not_converged(separated)
        return self

    def score(self, X: Any, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None) -> float:
        """Mean accuracy of the predicted labels.

        Parameters
        ----------
        X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
            The rows to predict; for a `module` all that `fit` takes.

        y : array-like of shape (n_samples,), default=None
            Their true labels. None for a Dataset or DataLoader, which gives them with the rows.

        sample_weight : array-like of shape (n_samples,) or float, default=None
            Weights of the rows. A Dataset or DataLoader gives them in the third place.

        Returns
        -------
        accuracy : float
            The fraction, by weight, of the rows whose label is predicted.
        """
        if self.module is None or not is_loaded(X):
            labels: Any = y
            return super().score(X, labels, sample_weight)
        y_true, codes, weights = self._scored(X, y, sample_weight)
        return float(np.average(self.classes_[codes] == y_true, weights=weights))

    def set_params(self, **params: Any) -> Self:
        """Set parameters of this estimator, or of a `ModuleSpec` in it as ``module__hidden``.

        Parameters
        ----------
        **params : dict
            New values by name.

        Returns
        -------
        self : TorchLogisticClassifier
            The estimator itself.

        Raises
        ------
        ValueError
            For a name that is no parameter; for one of LogisticRegression with what to write instead.
        """
        own = self.get_params(deep=False)  # a subclass may have one of LogisticRegression's names
        foreign = {name: value for name, value in params.items() if name not in own}
        if (message := refusal(self, foreign, self._advice)) is not None:
            raise ValueError(message)
        return super().set_params(**params)

    def _check_parameters(self) -> None:
        check_solver_exists(self.solver, SOLVERS)
        check_makes_optimizers(self.optimizer)
        check_parameters(self, DEFAULTS)
        check_all_are_read(self, self._solver_name())
        if self._has_l1():
            check_can_fit_l1(self, self._solver_name(), (*WITH_L1, "sgd"))

    def _solver_name(self) -> str:
        if self.solver != "auto":
            return self.solver
        plain = self.learning_rate != "auto" or self.module is not None or self.optimizer is not None
        return "sgd" if plain or not is_cross_entropy(self.criterion) else "natural-sgd"

    def _has_l1(self) -> bool:
        """Whether the penalty has an L1 term; no penalty at all has none."""
        return self.l1_ratio > 0 and np.isfinite(float(self.C))

    def _is_module(self) -> bool:
        """Whether losses are the criterion's own: all solvers but "sgd" minimise the cross-entropy."""
        return self.module is not None or (self.criterion is not None and self._solver_name() == "sgd")

    def _checked(
        self, X: Any, y: Any, sample_weight: Any, classes: Any, may_hold_out: bool, defer_finite: bool
    ) -> TrainingData:
        if self.module is not None:
            holds_out = bool(self.early_stopping) and may_hold_out
            return check_module_fit(self, X, y, sample_weight, classes, holds_out)
        refuse_classes(classes, "this is the linear model")
        data = check_fit(self, X, y, sample_weight, self.class_weight, defer_finite)
        return self._with_weights_of_criterion(data)

    def _checked_validation(
        self, data: TrainingData, X: Any, y: Any, sample_weight: Any
    ) -> TrainingData | None:
        if X is None:
            return None
        if self.module is not None:
            return check_module_validation(self, data, X, y, sample_weight)
        return check_validation(self, X, y, sample_weight, data.classes, check_predict)

    def _with_weights_of_criterion(self, data: TrainingData) -> TrainingData:
        if self.criterion is None or self._is_module():
            return data
        of_class = weights_of_classes(self.criterion, data.classes)
        return data if of_class is None else weigh_classes(data, of_class)

    def _solve(
        self, data: TrainingData, val: TrainingData | None, forward: Forward, initial: Initial
    ) -> dict[str, Any]:
        """The fitted attributes."""
        present = Present.of(data, bool(self.fit_intercept))
        if len(present.index) == 1 and not self._is_module():
            return self._constant(data, present, self.early_stopping or val is not None)
        seed, kept = self._seed(), val
        if self.early_stopping and val is None:
            data, kept = hold_out(data, float(self.validation_fraction), seed)
        problem = self._problem(data, seed, initial)
        C = float(self.C)
        factor = problem.weight_sum * (C if np.isfinite(C) else 1.0)
        attributes = partial(_attributes_at, problem, data.classes)
        validation = None if kept is None else validation_of(self, problem, kept, attributes)
        name = self._solver_name()
        recorder = Recorder(
            attributes,
            forward,
            validation,
            Table("epoch" if name == "sgd" else "iteration") if self.verbose else None,
            None if is_loaded(data.X) else lambda w: problem.judged_by(data, w).accuracy,
        )
        optimizer = None if self.optimizer is None else NamingOptimizer(self.optimizer)
        solver = self._make_solver(problem, seed, optimizer)
        solution = solver.minimize(problem.objective, problem.start, recorder)
        w, reason, early = solution.w, solution.reasons[0], validation if self.early_stopping else None
        if early is not None:
            w = problem.restore(early.best)
            reason = "early_stopping" if early.stopped else reason
        final = problem.final(w)
        certificate = problem.certificate(solution, final)
        if reason == "converged":
            reason = problem.doubt(final) or reason
        of_l1: dict[str, Any] = {}
        if certificate is None:
            objective = problem.value(w) if early else float(solution.objective[0])
        else:
            objective, of_l1 = certificate.objective, {"dual_gap_": certificate.gap * factor}
            tol = self.tol
            if reason == "converged" and tol is not None and certificate.gap > 2 * tol * objective:
                reason = "rounding"
        history = recorder.history()
        scores = None if validation is None else np.array(validation.scores)
        return {
            **attributes(final),
            "n_iter_": solution.n_iter,
            "solver_": name,
            "converged_": reason == "converged" and early is None,  # the best weights need not be the last
            "stop_reason_": reason,
            "objective_": objective * factor,
            "loss_curve_": self._appended("loss_curve_", history["objective"]),
            "validation_scores_": None if scores is None else self._appended("validation_scores_", scores),
            "_history": scaled(history, factor),
            **of_l1,
            **self._optimizer_name(optimizer),
        }

    def _appended(self, name: str, values: np.ndarray) -> np.ndarray:
        """Values of each epoch, after those of the epochs that a warm start goes on from."""
        earlier = vars(self).get(name) if self.warm_start and self._solver_name() == "sgd" else None
        goes_on = earlier is not None and vars(self).get("solver_") == "sgd"
        return np.concatenate([earlier, values]) if goes_on else values

    def _optimizer_name(self, optimizer: NamingOptimizer | None) -> dict[str, str]:
        """The class of the optimizer of torch, where one made the steps."""
        if optimizer is not None:
            return {"optimizer_": optimizer.name}
        stock = self._solver_name() == "sgd" and self.learning_rate != "auto"
        return {"optimizer_": "SGD"} if stock else {}

    def _constant(self, data: TrainingData, present: Present, is_scored: bool) -> dict[str, Any]:
        """The fitted attributes where one class alone has weight: nothing is left to be solved."""
        check_finite(self, data.X)
        dtype = numpy_dtype(data.X, resolve_device(self.device, data.X))
        coef, intercept = present.constant(data.X.shape[1])
        history: dict[str, np.ndarray] = {name: np.zeros(0) for name in HISTORY}
        return {
            "classes_": data.classes,
            "coef_": coef.astype(dtype),
            "intercept_": intercept.astype(dtype),
            "n_iter_": np.zeros(1, dtype=np.int32),
            "solver_": self._solver_name(),
            "converged_": not self.early_stopping,
            "stop_reason_": "converged",
            "objective_": 0.0,
            "loss_curve_": history["objective"],
            "validation_scores_": np.zeros(0) if is_scored else None,
            "_history": history,
        } | ({"dual_gap_": 0.0} if self._has_l1() else {})

    def _without_autograd(self, device: torch.device) -> AbstractContextManager[Any]:
        closed_form = self._solver_name() != "sgd" and not self._is_module()
        return without_autograd(device) if closed_form else nullcontext()

    def _seed(self) -> int:
        if self._solver_name() != "sgd" and not self.early_stopping:
            return 0  # nothing is drawn, from a RandomState of the caller's neither
        return seed_of(self.random_state)

    def _make_solver(self, problem: Problem, seed: int, optimizer: NamingOptimizer | None) -> Solver[Any]:
        settings: dict[str, Any] = {"max_iter": self.max_iter, "tol": finite_tol(self.tol)}
        if self._solver_name() == "sgd":
            batch_size: Any = self.batch_size
            if batch_size == "auto":
                small = problem.objective.rows.n_rows <= SMALL_ROWS
                batch_size = MODULE_BATCH_ROWS if self._is_module() else None if small else BATCH_ROWS
            settings |= {name: getattr(self, name) for name in READ_BY_SGD}
            make, each = schedule_of(self.lr_schedule)
            settings |= {"optimizer": optimizer, "lr_schedule": make, "schedule_each": each}
            # Searches pass numpy's numbers, which torch and scikit-learn do not take everywhere.
            settings |= {"batch_size": None if batch_size is None else int(batch_size), "seed": seed}
        objective = problem.objective
        if self._solver_name() == "natural-sgd" and isinstance(objective, Curved):
            settings |= natural_settings(objective)
        return make_solver(self._solver_name(), objective, settings)

    def _problem(self, data: TrainingData, seed: int, initial: Initial) -> Problem:
        device, C = resolve_device(self.device, holder(first_of(data.X))), float(self.C)
        earlier = self.warm_start and "classes_" in vars(self)
        if self._is_module():
            trained = self.module_ if earlier else None
            ratio = float(self.l1_ratio) if self._has_l1() else 0.0
            arguments = (self.module, self.criterion, seed, trained, self.precision, ratio)
            return module_problem(data, device, C, *arguments)
        warm = None
        if earlier and "coef_" in vars(self):
            coef = self._dense_coef()
            warm = (coef, forget_absent(coef, np.asarray(self.intercept_)))
        intercept, name = bool(self.fit_intercept), self._solver_name()
        method: Method = "growing" if name == "natural-sgd" else "full"
        if name == "sgd":
            searches = self.learning_rate == "auto" and self.optimizer is None
            method = "line search" if searches else "sgd"
        start, check = initial.coefficients(data, intercept, warm), partial(check_finite, self, data.X)
        draws = partial(sampling_seed_of, self.random_state)
        if self._has_l1():
            ratio = float(self.l1_ratio)
            return elastic_net_problem(data, device, C, ratio, intercept, start, method, draws, check)
        return linear_problem(data, device, C, intercept, start, method, draws, check)

    def _separation(self, data: TrainingData, fitted: dict[str, Any]) -> Separation | None:
        """Find what separates the classes of a fit without a penalty, which then has not converged."""
        tol = finite_tol(self.tol)
        if np.isfinite(float(self.C)) or self._is_module() or self.early_stopping or tol is None:
            return None
        return separation_of(data, fitted, bool(self.fit_intercept), tol)

    def _warn_not_converged(self, separated: Separation | None) -> None:
        dtype = self.coef_.dtype if "coef_" in vars(self) else next(self._module.parameters()).dtype
        reason = REASONS[self.stop_reason_].format(max_iter=self.max_iter, dtype=dtype)
        if self.stop_reason_ == "max_iter":
            reason += ". " + MORE_ITERATIONS.format(max_iter=self.max_iter)
            if dtype == np.float32 and self.solver_ != "sgd":
                reason += ", or use float64 data where that does not help"
        if self.stop_reason_ == "rounding" and "dual_gap_" in vars(self):
            reason = ROUNDED.format(dtype=dtype, gap=self.dual_gap_ / self.objective_)
        if separated is not None:
            reason = separated.describe(vars(self).get("feature_names_in_"))
        failed = FAILED.format(solver=self.solver_)
        warnings.warn(
            f"{failed} after {int(self.n_iter_[0])} iteration(s): {reason}.",
            ConvergenceWarning,
            stacklevel=4,  # the line that called `fit`, through `with_callbacks`
        )


def _attributes_at(problem: Problem, classes: np.ndarray, w: Tensor) -> dict[str, Any]:
    return {"classes_": classes, **problem.attributes(w)}


DEFAULTS = {name: p.default for name, p in inspect.signature(TorchLogisticClassifier).parameters.items()}
