"""Weights that a module brings, that are taken out, frozen or gone on from."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from torch_logreg import TorchLogisticClassifier

rng = np.random.default_rng(0)
X = rng.normal(size=(120, 5)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] ** 2 + rng.normal(size=120) > 1).astype(int)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 1))


def classifier(**settings):
    given = {"module": net(), "optimizer": torch.optim.Adam, "max_iter": 5, "tol": None, "random_state": 0}
    return TorchLogisticClassifier(**{**given, **settings})


def test_a_module_with_weights_predicts_as_it_is_without_training_and_without_a_warning():
    trained = classifier().fit(X, Y).module_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for tol in (None, 1e-4):
            clf = classifier(module=trained, max_iter=0, tol=tol).fit(X, Y)
    with torch.no_grad():
        p = torch.sigmoid(trained(torch.from_numpy(X)))[:, 0].numpy()
    assert_allclose(clf.predict_proba(X)[:, 1], p, rtol=1e-6)
    assert clf.n_iter_[0] == 0
    assert len(clf.loss_curve_) == 0


def test_coefficients_are_taken_as_they_are_without_a_warning():
    coef = rng.normal(size=(1, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = TorchLogisticClassifier(max_iter=0).fit(
            X.astype(float), Y, coef_init=coef, intercept_init=[0.5]
        )
    assert_allclose(clf.coef_, coef, rtol=1e-12)
    with pytest.warns(UserWarning, match="max_iter=0"):
        TorchLogisticClassifier(max_iter=0).fit(X, Y)


def test_a_state_dict_goes_out_and_into_another_module(tmp_path):
    clf = classifier().fit(X, Y)
    torch.save(clf.module_.state_dict(), tmp_path / "weights.pt")
    module = net()
    module.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    again = classifier(module=module, max_iter=0).fit(X, Y)
    assert_array_equal(again.predict_proba(X), clf.predict_proba(X))


def test_frozen_layers_stay_as_they_are_and_the_others_are_trained():
    module = net()
    for parameter in module[0].parameters():
        parameter.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    clf = classifier(module=module).fit(X, Y)
    after = clf.module_.state_dict()
    for name in ("0.weight", "0.bias"):
        assert torch.equal(after[name], before[name])
    assert not torch.equal(after["3.weight"], before["3.weight"])
    assert not clf.module_[0].weight.requires_grad


def test_a_warm_start_goes_on_with_the_weights_and_the_curve():
    clf = classifier(warm_start=True).fit(X, Y, X_val=X[:30], y_val=Y[:30])
    first, scores = clf.loss_curve_, clf.validation_scores_
    clf.set_params(max_iter=3).fit(X, Y, X_val=X[:30], y_val=Y[:30])
    assert len(clf.loss_curve_) == len(clf.validation_scores_) == 8
    assert_array_equal(clf.loss_curve_[:5], first)
    assert_array_equal(clf.validation_scores_[:5], scores)
    assert clf.n_iter_[0] == 3
    assert clf.loss_curve_[5] < first[-1]
    assert len(clf.history_) == 3


def test_without_a_warm_start_the_curve_begins_anew():
    clf = classifier().fit(X, Y)
    assert len(clf.fit(X, Y).loss_curve_) == 5


def test_the_linear_model_goes_on_by_sgd_too_and_not_after_another_solver():
    clf = TorchLogisticClassifier(solver="sgd", warm_start=True, max_iter=4, tol=None).fit(X, Y)
    assert len(clf.fit(X, Y).loss_curve_) == 8
    clf.set_params(solver="lbfgs").fit(X, Y)
    assert len(clf.loss_curve_) == 4
    assert len(clf.set_params(solver="sgd").fit(X, Y).loss_curve_) == 4


def test_a_compiled_module_is_trained_as_it_is():
    compiled = torch.compile(net(), backend="eager")
    clf = classifier(module=compiled).fit(X, Y)
    plain = classifier().fit(X, Y)
    assert_allclose(clf.predict_proba(X), plain.predict_proba(X), rtol=1e-5)
