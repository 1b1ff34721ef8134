"""What is told of a fit: scikit-learn's callbacks, the history and the printed lines."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.callback import FitCallback, ScoringMonitor
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torch_logreg import TorchLogisticClassifier
from torch_logreg._solvers.registry import SOLVERS

EXACT = [name for name in SOLVERS if name != "sgd"]  # stock SGD claims no optimum: see test_sgd.py

X, Y = load_breast_cancer(return_X_y=True)
X = StandardScaler().fit_transform(X)
solvers = pytest.mark.parametrize("solver", EXACT)
problems = pytest.mark.parametrize(
    ("features", "labels"), [(X, Y), load_iris(return_X_y=True)], ids=["binary", "softmax"]
)


class Recording:
    """Keeps what every hook is given; stops the fit after `stop_after` iterations."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.events: list[tuple[str, str]] = []
        self.begun: list[np.ndarray | None] = []  # coefficients at the start of each iteration
        self.models: list[TorchLogisticClassifier] = []
        self.given: list[tuple] = []

    def setup(self, estimator, context) -> None:
        self.events.append(("setup", context.task_name))

    def teardown(self, estimator, context) -> None:
        self.events.append(("teardown", context.task_name))

    def on_fit_task_begin(self, estimator, context, *, fitted_estimator=None) -> None:
        self.events.append(("begin", context.task_name))
        if context.task_name == "iteration":
            self.begun.append(None if fitted_estimator is None else fitted_estimator.coef_)

    def on_fit_task_end(
        self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None
    ) -> bool:
        self.events.append(("end", context.task_name))
        if context.task_name != "iteration":
            return False
        self.models.append(fitted_estimator)
        self.given.append((X, y, metadata, context.task_id))
        return self.stop_after is not None and len(self.models) >= self.stop_after


class Propagated(Recording):
    """The same, handed on by meta-estimators to the estimators in them."""

    max_propagation_depth = None


def _fit(solver: str = "auto", callback: Recording | None = None, **settings) -> TorchLogisticClassifier:
    estimator = TorchLogisticClassifier(solver=solver, **settings)
    return (estimator if callback is None else estimator.set_callbacks(callback)).fit(X, Y)


# ---- scikit-learn's callbacks ----


@solvers
def test_a_callback_sees_every_iteration_in_order(solver):
    callback = Recording()
    assert isinstance(callback, FitCallback)
    model = _fit(solver, callback)
    one = [("begin", "iteration"), ("end", "iteration")]
    iterations = int(model.n_iter_[0]) * one
    begin, end = [("setup", "fit"), ("begin", "fit")], [("end", "fit"), ("teardown", "fit")]
    assert callback.events == begin + iterations + end
    assert [task_id for *_, task_id in callback.given] == list(range(int(model.n_iter_[0])))


@solvers
@problems
def test_the_model_of_an_iteration_predicts_and_has_the_objective_of_the_next(solver, features, labels):
    callback = Recording()
    model = TorchLogisticClassifier(solver=solver).set_callbacks(callback).fit(features, labels)
    objectives = []
    for fitted in callback.models:
        assert fitted is not model
        p = fitted.predict_proba(features)
        objectives.append(-np.log(p[range(len(labels)), labels]).sum() + 0.5 * np.sum(fitted.coef_**2))
    expected = [*model.history_["objective"][1:], model.objective_]
    # Coefficients are not centred over the classes before the end, which a penalty sees to anyway.
    np.testing.assert_allclose(objectives, expected, rtol=1e-9)
    last = callback.models[-1].predict_proba(features)
    np.testing.assert_allclose(last, model.predict_proba(features), rtol=1e-7)


def test_the_models_of_iterations_share_no_memory():
    callback = Recording()
    model = _fit(callback=callback)
    copies = [fitted.coef_.copy() for fitted in callback.models]
    callback.models[0].coef_[:] = 0
    model.coef_[:] = 0
    for fitted, copy in zip(callback.models[1:], copies[1:], strict=True):
        np.testing.assert_array_equal(fitted.coef_, copy)


def test_the_beginning_of_an_iteration_does_not_know_its_end():
    callback = Recording()
    _fit(callback=callback)
    ends = [fitted.coef_ for fitted in callback.models]
    for index, coef in enumerate(callback.begun):
        if coef is not None:
            before = np.zeros_like(coef) if index == 0 else ends[index - 1]
            np.testing.assert_array_equal(coef, before)


def test_a_callback_is_given_the_data_and_the_weights():
    callback, weight = Recording(), np.linspace(1, 2, len(Y))
    TorchLogisticClassifier().set_callbacks(callback).fit(X, Y, sample_weight=weight)
    for given_X, given_y, metadata, _ in callback.given:
        assert given_X is X and given_y is Y
        assert list(metadata) == ["sample_weight"] and metadata["sample_weight"] is weight


@solvers
@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_hook_that_returns_true_stops_the_fit_without_a_warning(solver, stop_after):
    callback = Recording(stop_after)
    model = _fit(solver, callback, tol=1e-10)  # warnings are errors
    assert model.stop_reason_ == "callback"
    assert not model.converged_
    assert model.n_iter_.tolist() == [stop_after] == [len(callback.models)]
    np.testing.assert_allclose(model.coef_, callback.models[-1].coef_, rtol=1e-12)
    assert callback.events[-2:] == [("end", "fit"), ("teardown", "fit")]


def test_a_callback_changes_nothing_of_the_fit():
    plain, watched = _fit(), _fit(callback=Recording())
    np.testing.assert_array_equal(plain.coef_, watched.coef_)
    assert plain.n_iter_ == watched.n_iter_


def test_max_iter_iterations_are_not_too_many_for_the_callbacks():
    for max_iter in (0, 1, 3):
        callback = Recording()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _fit(callback=callback, max_iter=max_iter, tol=1e-12)
        assert len(callback.models) == max_iter


def test_a_callback_that_fails_is_torn_down_and_leaves_no_trace():
    class Failing(Recording):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None) -> bool:
            raise RuntimeError("from the callback")

    callback = Failing()
    estimator = TorchLogisticClassifier().set_callbacks(callback)
    with pytest.raises(RuntimeError, match="from the callback"):
        estimator.fit(X, Y)
    assert callback.events[-1] == ("teardown", "fit")
    assert not hasattr(estimator, "coef_")
    estimator.set_callbacks()
    assert estimator.fit(X, Y).converged_


def test_a_scoring_monitor_sees_the_score_rise():
    monitor = ScoringMonitor(scoring="neg_log_loss")
    model = TorchLogisticClassifier(C=100.0).set_callbacks(monitor).fit(X, Y)
    table = monitor.get_logs().data_as_pandas
    scores = table.loc[table["task_name"] == "iteration", "neg_log_loss"].to_numpy()
    assert len(scores) == model.n_iter_[0]
    assert np.all(np.diff(scores[:4]) > 0)  # the last steps trade loss for penalty
    at_the_end = -np.log(model.predict_proba(X)[range(len(Y)), Y]).mean()
    np.testing.assert_allclose(-scores[-1], at_the_end, rtol=1e-6)


def test_a_grid_search_hands_its_callback_on():
    callback = Propagated()
    search = GridSearchCV(TorchLogisticClassifier(), {"C": [0.1, 1.0]}, cv=2).set_callbacks(callback)
    search.fit(X, Y)
    assert len(callback.models) >= 5 * 3  # two values on two folds, and the refit
    assert {len(given_X) for given_X, *_ in callback.given} == {284, 285, 569}
    assert callback.events.count(("setup", "fit")) == 1
    plain = GridSearchCV(TorchLogisticClassifier(), {"C": [0.1, 1.0]}, cv=2).fit(X, Y)
    np.testing.assert_array_equal(search.best_estimator_.coef_, plain.best_estimator_.coef_)


def test_a_callback_of_the_estimator_in_a_pipeline_is_called():
    callback = Recording()
    pipeline = make_pipeline(StandardScaler(), TorchLogisticClassifier().set_callbacks(callback)).fit(X, Y)
    assert len(callback.models) == pipeline[-1].n_iter_[0]
    np.testing.assert_allclose(callback.given[0][0].mean(axis=0), 0, atol=1e-12)


def test_a_model_with_callbacks_can_be_pickled():
    model = _fit(callback=Recording(stop_after=50))
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    again = loaded.fit(X, Y)
    np.testing.assert_array_equal(again.coef_, model.coef_)


# ---- history ----


@solvers
@pytest.mark.parametrize("C", [0.1, np.inf])
def test_the_history_has_a_row_for_every_update(solver, C):
    features, labels = X[:, :2], Y  # not separable
    model = TorchLogisticClassifier(solver=solver, C=C).fit(features, labels)
    history = model.history_
    assert isinstance(history, pd.DataFrame)
    assert list(history.columns) == ["objective", "gradient_norm", "rows_read", "step", "seconds"]
    assert [str(dtype) for dtype in history.dtypes] == ["float64", "float64", "int64", "float64", "float64"]
    assert len(history) == len(model.loss_curve_) == model.n_iter_[0] >= 2
    factor = len(labels) * (C if np.isfinite(C) else 1.0)
    np.testing.assert_allclose(history["objective"], model.loss_curve_ * factor, rtol=1e-14)
    assert history["rows_read"].is_monotonic_increasing and (history["rows_read"] % len(labels) == 0).all()
    assert history["seconds"].is_monotonic_increasing and history["seconds"].iloc[0] >= 0
    assert history["step"].between(0, 1).all()
    assert history["gradient_norm"].iloc[-1] <= model.tol
    assert model.objective_ <= history["objective"].iloc[-1] * (1 + 1e-15)


@solvers
@problems
@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_array], ids=["dense", "CSR"])
def test_the_loss_curve_starts_at_the_loss_of_equal_probabilities_and_falls(solver, features, labels, make):
    weight = np.linspace(0.5, 3, len(labels))
    model = TorchLogisticClassifier(solver=solver, C=7.0).fit(make(features), labels, sample_weight=weight)
    assert model.loss_curve_[0] == pytest.approx(np.log(len(model.classes_)), rel=1e-14)
    assert np.all(np.diff(model.loss_curve_) < 0)


def test_a_fit_of_no_iterations_has_an_empty_history():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _fit(max_iter=0)
    assert model.history_.shape == (0, 5)
    assert model.loss_curve_.shape == (0,)


def test_the_history_is_made_anew_at_each_access():
    model = _fit()
    changed = model.history_
    changed.loc[:, "objective"] = 0.0
    assert (model.history_["objective"] > 0).all()


# ---- printed lines ----


@solvers
@pytest.mark.parametrize("verbose", [1, 2, True])
def test_verbose_prints_a_line_an_iteration(solver, verbose, capsys):
    model = _fit(solver, verbose=verbose)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[0] == ("epoch" if model.solver_ == "sgd" else "iteration")
    assert len(lines) == model.n_iter_[0]
    for index, (line, loss) in enumerate(zip(lines, model.loss_curve_, strict=True)):
        assert line.split()[:2] == [str(index), f"{loss:.6f}"]
    accuracy = float(lines[-1].split()[-2])
    assert accuracy == pytest.approx(model.score(X, Y), abs=5e-5)


def test_nothing_is_printed_unless_asked_for(capsys):
    _fit()
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
