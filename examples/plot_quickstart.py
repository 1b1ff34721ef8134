"""
Raw columns, no scaling
=======================

The columns of scikit-learn's breast cancer data differ in scale by a factor of more than a hundred thousand.
``LogisticRegression`` with its defaults stops before the optimum there, and says so.
``TorchLogisticClassifier`` scales inside the solver and undoes it exactly, so it returns the optimum of the
problem as it was posed.
"""

# %%
# Four candidates
# ---------------
#
# Two estimators, each on the raw columns and behind a ``StandardScaler``. All four are pipelines, so that the
# rest of the script cannot tell them apart.

import sys
import time
import warnings

import matplotlib

matplotlib.use("Agg")  # no window: the script also runs where there is no display

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from torch_logreg import TorchLogisticClassifier

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
smallest, largest = X.std().min(), X.std().max()
print(f"{len(X)} rows, {X.shape[1]} columns")
print(f"standard deviations of the columns: {smallest:.1e} to {largest:.1e}")

scaler = ("scale", StandardScaler())
candidates = {
    "TorchLogisticClassifier, raw": Pipeline([("model", TorchLogisticClassifier())]),
    "LogisticRegression, raw": Pipeline([("model", LogisticRegression())]),
    "TorchLogisticClassifier, scaled": Pipeline([scaler, ("model", TorchLogisticClassifier())]),
    "LogisticRegression, scaled": Pipeline([scaler, ("model", LogisticRegression())]),
}

# %%
# Cross-validation, a grid search and one fit on all rows
# -------------------------------------------------------
#
# The objective is that of the fit on all rows with ``C=1``. It can be compared between the two candidates
# that see the same columns, and not between raw and scaled: the penalty acts on other coefficients there.
# Warnings are recorded rather than silenced, and counted in the table.

Cs = np.logspace(-4, 4, 5)


def objective(model, X, C):
    """Return C times the summed loss plus half the squared norm, in float64."""
    z = model.decision_function(X)
    return C * np.sum(np.logaddexp(0, z) - y * z) + 0.5 * np.sum(model.coef_**2)


def examine(pipeline):
    """Cross-validate, search over C and fit once; return one row of the table."""
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = cross_validate(pipeline, X, y, cv=5, scoring=["accuracy", "neg_log_loss"])
        search = GridSearchCV(pipeline, {"model__C": Cs}, cv=5, scoring="neg_log_loss").fit(X, y)
        pipeline.fit(X, y)
    seconds = time.perf_counter() - start
    columns = pipeline[:-1].transform(X) if len(pipeline) > 1 else X
    return {
        "accuracy": f"{scores['test_accuracy'].mean():.4f}",
        "log loss": f"{-scores['test_neg_log_loss'].mean():.4f}",
        "objective": f"{objective(pipeline[-1], columns, C=1.0):.4f}",
        "best C": f"{search.best_params_['model__C']:g}",
        "its log loss": f"{-search.best_score_:.4f}",
        "warnings": sum(issubclass(w.category, ConvergenceWarning) for w in caught),
        "seconds": f"{seconds:.2f}",
    }


table = pd.DataFrame({name: examine(pipeline) for name, pipeline in candidates.items()}).T
print("Five folds; the search has", len(Cs), "values of C")
print("Warnings and seconds: all fits of the row together\n")
print(table.to_string())

# %%
# Scaling is then a question about the model, not about whether the solver arrives. It changes what the
# penalty means, and the log losses say whether that suits the data. Behind a scaler the two estimators agree.
#
# How far from the optimum?
# -------------------------
#
# The optimum on the raw columns is computed a third way, by scikit-learn's Newton solver with a tight
# tolerance. The left panel shows how far each objective is above it for every C, the right one what the gap
# at ``C=1`` does to the predicted probabilities.


def fit_at(model, C):
    """Fit on all raw rows; the warnings of these fits were counted above."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.set_params(C=C).fit(X, y)


exact = LogisticRegression(solver="newton-cholesky", tol=1e-12, max_iter=1000)
optimum = np.array([objective(fit_at(exact, C), X, C) for C in Cs])
probability = fit_at(exact, 1.0).predict_proba(X)[:, 1]
rounding = np.finfo(float).eps  # where objectives that agree in every digit are drawn

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
for model, colour, marker in (
    (LogisticRegression(), "C1", "s"),
    (TorchLogisticClassifier(), "C0", "o"),
):
    name = f"{type(model).__name__}()"
    gap = np.array([objective(fit_at(model, C), X, C) for C in Cs]) / optimum - 1
    left.loglog(Cs, np.maximum(gap, rounding), color=colour, marker=marker, label=name)
    predicted = fit_at(model, 1.0).predict_proba(X)[:, 1]
    right.scatter(probability, predicted, s=14, color=colour, marker=marker, label=name)
left.set(xlabel="C", ylabel="objective above the optimum, relative", title="Gap at the fit")
right.plot([0, 1], [0, 1], color="0.6", linewidth=1, zorder=0)
right.set(xlabel="probability at the optimum", ylabel="predicted", title="All rows, C = 1")
for axes in (left, right):
    axes.legend()

if "sphinx_gallery" not in sys.modules:  # the gallery takes the figure by itself
    figure.savefig("quickstart.png", dpi=120)
    print("\nFigure written to quickstart.png")
