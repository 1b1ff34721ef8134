"""
A convolutional network that stops in time
==========================================

Images go in as images, ``(n_samples, channels, height, width)``. The network is trained by AdamW with a
schedule by batch, is scored after each epoch on images that it does not learn from, and ends with the weights
of its best epoch. A grid search then chooses a setting of the network and one of the optimizer together.
"""

# %%
# The data
# --------
#
# Handwritten digits of 8 x 8 pixels: some to learn from, some to score each epoch on, and some to test on in
# the end.

import sys

import matplotlib

matplotlib.use("Agg")  # no window: the script also runs where there is no display

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from torch_logreg import ModuleSpec, OptimizerSpec, TorchLogisticClassifier

digits = load_digits()
images = (digits.images[:, None] / 16).astype(np.float32)  # (1797, 1, 8, 8)
X, X_test, y, y_test = train_test_split(images, digits.target, test_size=0.4, random_state=0)
X, X_val, y, y_val = train_test_split(X, y, test_size=0.3, random_state=0)
print(f"{len(X)} images to learn from, {len(X_val)} to score on, {len(X_test)} to test on")

# %%
# The network
# -----------
#
# A builder is called with ``X.shape[1]``, here the number of channels, and the number of outputs.


def conv_net(n_channels, n_outputs, width=16, dropout=0.0):
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(n_channels, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(8 * width, n_outputs),
    )


def network(epochs, **settings):
    """The estimator, for so many epochs of minibatches of 64 images."""
    n_batches = -(-len(X) // 64)
    return TorchLogisticClassifier(
        module=ModuleSpec(conv_net),
        optimizer=OptimizerSpec(torch.optim.AdamW),
        lr_schedule=(lambda made: OneCycleLR(made, 0.01, total_steps=epochs * n_batches), "batch"),
        batch_size=64,
        max_iter=epochs,
        tol=None,
        C=np.inf,
        random_state=0,
        **settings,
    )


# %%
# The fit
# -------
#
# ``scoring="loss"`` looks at the cross-entropy of the images to score on. The fit ends once it has not
# improved for eight epochs.

model = network(40, early_stopping=True, scoring="loss", n_iter_no_change=8).fit(
    X, y, X_val=X_val, y_val=y_val
)
best = int(model.validation_scores_.argmax())
print(f"{model.stop_reason_} after {model.n_iter_[0]} epochs, the best is epoch {best}")
print(f"accuracy on the test images: {model.score(X_test, y_test):.3f}")
table = model.history_.assign(training_loss=model.loss_curve_)
print(table[["training_loss", "validation_loss", "seconds"]].iloc[[0, best, -1]].round(4).to_string())

# %%
# The training loss goes on falling where the other has stopped to. The weights are those of the marked epoch.

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
axes.semilogy(model.loss_curve_, label="learnt from, before the epoch")
axes.semilogy(model.history_["validation_loss"], label="scored on, after it")
axes.axvline(best, color="grey", linestyle=":", label="the weights that are kept")
axes.set(xlabel="epoch", ylabel="cross-entropy")
axes.legend()

# %%
# Settings of the network and of the optimizer
# --------------------------------------------
#
# All are parameters like any other. Every fold is trained for ten epochs, at a constant rate.

grid = {"module__dropout": [0.0, 0.4], "optimizer__weight_decay": [0.0, 0.3]}
plain = network(10).set_params(lr_schedule=None, optimizer__lr=0.003, clip_grad_norm=1.0)
search = GridSearchCV(plain, grid, cv=2, scoring="neg_log_loss").fit(X, y)
results = pd.DataFrame(search.cv_results_["params"]).rename(columns=lambda name: name.partition("__")[2])
results["log loss"] = -search.cv_results_["mean_test_score"]
print(results.round(4).to_string(index=False))

if "sphinx_gallery" not in sys.modules:  # the gallery takes the figure by itself
    figure.savefig("conv_net.png", dpi=120)
    print("\nFigure written to conv_net.png")
