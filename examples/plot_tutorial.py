"""
A training loop, without the loop
=================================

Tutorials of PyTorch introduce logistic regression as a module, a loss, an optimizer and a loop. This page
goes through one such tutorial with ``TorchLogisticClassifier``, which runs the same loop: the six points, the
losses to six decimals, and the user's own module. What comes out is an estimator of scikit-learn.
"""

# %%
# The sigmoid
# -----------
#
# Logistic regression turns a linear function z of the columns into a probability, ``1 / (1 + exp(-z))``.

import sys

import matplotlib

matplotlib.use("Agg")  # no window: the script also runs where there is no display

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from torch_logreg import TorchLogisticClassifier

z = torch.linspace(-8, 8, 201)
sigmoid_figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
axes.plot(z, torch.sigmoid(z))
axes.axhline(0.5, color="0.7", linewidth=1)
axes.axvline(0, color="0.7", linewidth=1)
axes.set(xlabel="z", ylabel="probability", title="The sigmoid")

# %%
# Six points
# ----------
#
# Two columns, three rows of each class. ``C=np.inf`` is no penalty; a number as ``learning_rate`` chooses
# stock SGD; ``batch_size=None`` takes all rows in each update; ``tol=None`` means exactly ``max_iter``
# updates. Weights and bias start from zero, so the first loss is log 2.

x = [[1, 2], [2, 3], [3, 1], [4, 3], [5, 3], [6, 2]]
y = [0, 0, 0, 1, 1, 1]

clf = TorchLogisticClassifier(C=np.inf, learning_rate=1.0, batch_size=None, max_iter=1001, tol=None)
clf.fit(x, y)

print("epoch     loss")
for epoch in range(0, 1001, 100):
    print(f"{epoch:5d} {clf.loss_curve_[epoch]:.6f}")

# %%
# The loss of an epoch is that before its update. The two classes can be separated here, so without a penalty
# the loss falls for ever, and the coefficients grow: the default ``C=1.0`` keeps them finite.

print("coefficients, no penalty:", clf.coef_.round(3), clf.intercept_.round(3))
penalised = TorchLogisticClassifier().fit(x, y)
print("coefficients, C=1:       ", penalised.coef_.round(3), penalised.intercept_.round(3))
print("solver:", clf.solver_, "and", penalised.solver_)

# %%
# One line an epoch
# -----------------
#
# ``verbose=1`` prints the loss before each update and the accuracy of the weights after it.

TorchLogisticClassifier(**{**clf.get_params(), "max_iter": 10, "verbose": 1}).fit(x, y)

# %%
# Your own module
# ---------------
#
# The same model as a module. A module that ends in a sigmoid gives probabilities, and ``nn.BCELoss()`` says
# so; without a criterion the outputs would be taken for logits, and ``fit`` raises rather than train that.
# The module is copied: yours keeps the weights it has. From the same weights it is the same fit.


class LogisticRegressionModel(nn.Module):
    """A linear layer and a sigmoid."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x):
        return self.sigmoid(self.linear(x))


def zeroed(module):
    """Start from zero, as the linear model does."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


settings = dict(C=np.inf, learning_rate=1.0, batch_size=None, max_iter=1001, tol=None)
forms = {
    "no module": TorchLogisticClassifier(**settings),
    "nn.Linear": TorchLogisticClassifier(module=zeroed(nn.Linear(2, 1)), **settings),
    "nn.Sequential with nn.Sigmoid": TorchLogisticClassifier(
        module=zeroed(nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())), criterion=nn.BCELoss(), **settings
    ),
    "a class": TorchLogisticClassifier(
        module=zeroed(LogisticRegressionModel()), criterion=nn.BCELoss(), **settings
    ),
}
for name, form in forms.items():
    form.fit(x, y)
    difference = np.abs(form.loss_curve_ - clf.loss_curve_).max()
    print(f"{name:30s} last loss {form.loss_curve_[-1]:.6f}, largest difference {difference:.0e}")

try:
    TorchLogisticClassifier(module=LogisticRegressionModel(), **settings).fit(x, y)
except ValueError as error:
    print("\nwithout the criterion:", error)

# %%
# As ``fit`` makes no changes to the module, and the estimator follows scikit-learn's rules, pipelines and
# grid searches need nothing else. A callable builds the module once the numbers of columns and outputs are
# known.


def perceptron(n_features, n_outputs):
    """Build a network with one hidden layer."""
    return nn.Sequential(nn.Linear(n_features, 8), nn.ReLU(), nn.Linear(8, n_outputs))


model = TorchLogisticClassifier(module=perceptron, max_iter=50, tol=None, random_state=0)
pipeline = make_pipeline(StandardScaler(), model)
grid = {"torchlogisticclassifier__learning_rate": [0.1, 1.0, "auto"]}
search = GridSearchCV(pipeline, grid, cv=3).fit(x, y)
print("best:", search.best_params_, "accuracy", round(search.best_score_, 3))

# %%
# Pass or fail
# ------------
#
# One column, the score of an exam, and labels in words. The defaults find the optimum, with no learning rate
# and no scaling of the scores; the fitted S-curve crosses 1/2 half way between 55 and 60.

scores = np.array([[45], [50], [55], [60], [65], [70]])
results = np.array(["Fail", "Fail", "Fail", "Pass", "Pass", "Pass"])
exam = TorchLogisticClassifier().fit(scores, results)
boundary = -exam.intercept_[0] / exam.coef_[0, 0]
print(f"classes {exam.classes_.tolist()}, accuracy {exam.score(scores, results)}, boundary {boundary:.2f}")
print("a score of 58:", exam.predict([[58]])[0], exam.predict_proba([[58]]).round(3)[0])

grid_of_scores = np.linspace(40, 75, 200)[:, None]
exam_figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for height, (label, colour, marker) in enumerate((("Fail", "C1", "s"), ("Pass", "C0", "o"))):
    of_label = scores[results == label]
    heights = np.full(len(of_label), height)
    axes.scatter(of_label, heights, color=colour, marker=marker, label=label)
axes.plot(grid_of_scores, exam.predict_proba(grid_of_scores)[:, 1], color="C2", label="probability of Pass")
axes.axvline(boundary, color="0.7", linewidth=1, zorder=0)
axes.set(xlabel="score", ylabel="probability of Pass", title="The fitted S-curve")
axes.legend()

if "sphinx_gallery" not in sys.modules:  # the gallery takes the figures by itself
    sigmoid_figure.savefig("tutorial_sigmoid.png", dpi=120)
    exam_figure.savefig("tutorial_pass_fail.png", dpi=120)
    print("\nFigures written to tutorial_sigmoid.png and tutorial_pass_fail.png")
