"""Losses of modules a row at a time, and what their outputs are read as."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.utils import compute_sample_weight
from torch import nn
from torch.nn import functional as F

from torch_logreg import TorchLogisticClassifier
from torch_logreg._losses.criteria import resolve_criterion
from torch_logreg._losses.links import LogitLink, LogProbabilityLink, ProbabilityLink, class_major
from torch_logreg._solvers.registry import SOLVERS

CODES = torch.tensor([0, 1, 1, 0, 1])
CODES_3 = torch.tensor([0, 2, 1, 0, 1])
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0], dtype=torch.float64)


def _numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _sum(criterion, output, codes=CODES, weights=WEIGHTS):
    return resolve_criterion(criterion, int(codes.max()) + 1).weighted_sum(
        output, codes, weights, torch.float64
    )


def focal(z, target):
    """Focal loss of Lin et al. 2017 with gamma=2, of one logit."""
    loss = F.binary_cross_entropy_with_logits(z, target, reduction="none")
    return (1 - torch.exp(-loss)) ** 2 * loss


class Focal(nn.Module):
    """The same as torch's own losses are written."""

    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, z, target):
        loss = focal(z, target)
        return loss if self.reduction == "none" else loss.mean()


class MeanOnly(nn.Module):
    def forward(self, z, target):
        return F.binary_cross_entropy_with_logits(z, target)


# ---- losses ----


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
@pytest.mark.parametrize("criterion", [None, nn.BCEWithLogitsLoss, nn.BCEWithLogitsLoss()])
def test_one_logit_is_binary_cross_entropy(criterion, shape):
    z = _numbers(5)
    y = CODES.double()
    expected = -(WEIGHTS * (y * F.logsigmoid(z) + (1 - y) * F.logsigmoid(-z))).sum()
    torch.testing.assert_close(_sum(criterion, z.view(shape)), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("codes", [CODES, CODES_3], ids=["two classes", "three"])
@pytest.mark.parametrize("criterion", [None, nn.CrossEntropyLoss, nn.CrossEntropyLoss()])
def test_several_logits_are_softmax_cross_entropy(criterion, codes):
    z = _numbers(5, int(codes.max()) + 1)
    expected = -(WEIGHTS * z.log_softmax(dim=1)[torch.arange(5), codes]).sum()
    torch.testing.assert_close(_sum(criterion, z, codes), expected, rtol=1e-14, atol=0)
    of_log_probabilities = _sum(nn.NLLLoss, z.log_softmax(dim=1), codes)
    torch.testing.assert_close(of_log_probabilities, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_probabilities_under_bce_are_logits_under_bce_with_logits(shape):
    z = _numbers(5)
    torch.testing.assert_close(_sum(nn.BCELoss, z.sigmoid().view(shape)), _sum(None, z), rtol=1e-13, atol=0)


def test_pos_weight_multiplies_the_losses_of_class_1():
    z = _numbers(5)
    weights = torch.where(CODES == 1, 3 * WEIGHTS, WEIGHTS)
    weighted = _sum(nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), z)
    torch.testing.assert_close(weighted, _sum(None, z, weights=weights), rtol=1e-14, atol=0)


def test_weights_of_classes_in_the_criterion_multiply_and_do_not_divide():
    z, of_class = _numbers(5, 3), torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)
    weighted = _sum(nn.CrossEntropyLoss(weight=of_class), z, CODES_3)
    expected = _sum(None, z, CODES_3, WEIGHTS * of_class[CODES_3])
    torch.testing.assert_close(weighted, expected, rtol=1e-14, atol=0)


def test_label_smoothing_mixes_in_the_mean_over_classes():
    z = _numbers(5, 3)
    log_p = z.log_softmax(dim=1)
    target = 0.9 * F.one_hot(CODES_3, 3).double() + 0.1 / 3
    expected = -(WEIGHTS * (target * log_p).sum(dim=1)).sum()
    smoothed = _sum(nn.CrossEntropyLoss(label_smoothing=0.1), z, CODES_3)
    torch.testing.assert_close(smoothed, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
@pytest.mark.parametrize("criterion", [focal, Focal, Focal()], ids=["function", "class", "instance"])
def test_a_users_own_loss_is_weighted_row_by_row(criterion, shape):
    z = _numbers(5)
    expected = (WEIGHTS * focal(z, CODES.double())).sum()
    torch.testing.assert_close(_sum(criterion, z.view(shape)), expected, rtol=1e-14, atol=0)


def test_the_users_criterion_stays_as_it_is():
    given = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0), reduction="sum")
    criterion = resolve_criterion(given, 2)
    criterion.to(torch.device("cpu"), torch.float64)
    assert given.reduction == "sum" and given.pos_weight.dtype == torch.float32
    assert criterion.loss.reduction == "none" and criterion.loss.pos_weight.dtype == torch.float64


def test_a_mean_over_rows_will_do_where_all_weights_are_equal():
    z = _numbers(5)
    equal = torch.full((5,), 2.5, dtype=torch.float64)
    expected = _sum(None, z, weights=equal)
    torch.testing.assert_close(_sum(MeanOnly(), z, weights=equal), expected, rtol=1e-14, atol=0)


def test_a_mean_over_rows_of_unequal_weight_raises():
    with pytest.raises(ValueError, match="one number for 5 rows of unequal weight.*one loss a row"):
        _sum(MeanOnly(), _numbers(5))


def test_a_loss_that_is_not_one_a_row_raises():
    with pytest.raises(ValueError, match=r"losses of shape \(5, 3\) for 5 rows.*one loss a row"):
        _sum(lambda z, target: z, _numbers(5, 3), CODES_3)


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_an_output_squeezed_to_no_row_axis_is_still_one_row(n_outputs):
    codes = torch.tensor([1])
    criterion = resolve_criterion(None, max(2, n_outputs))
    z, weight = _numbers(1, n_outputs), WEIGHTS[1:2]
    whole = criterion.weighted_sum(z, codes, weight, torch.float64)
    assert torch.equal(criterion.weighted_sum(z.squeeze(), codes, weight, torch.float64), whole)
    assert torch.equal(class_major(z.squeeze(), 1), class_major(z, 1))


def test_float32_losses_are_summed_in_the_dtype_asked_for():
    total = resolve_criterion(None, 2).weighted_sum(
        torch.zeros(5, dtype=torch.float32), CODES, WEIGHTS.float(), torch.float64
    )
    assert total.dtype == torch.float64


# ---- what fits which classes ----


@pytest.mark.parametrize(
    ("criterion", "link", "outputs", "outputs_3"),
    [
        (None, LogitLink, (1, 2), (3,)),
        (nn.BCEWithLogitsLoss(), LogitLink, (1,), None),
        (nn.BCELoss(), ProbabilityLink, (1,), None),
        (nn.CrossEntropyLoss(), LogitLink, (2,), (3,)),
        (nn.NLLLoss(), LogProbabilityLink, (2,), (3,)),
        (focal, LogitLink, (1, 2), (3,)),
    ],
)
def test_the_criterion_says_what_outputs_it_needs_and_means(criterion, link, outputs, outputs_3):
    resolved = resolve_criterion(criterion, 2)
    assert type(resolved.link) is link
    assert resolved.outputs == outputs and resolved.n_outputs == outputs[0]
    if outputs_3 is None:
        with pytest.raises(ValueError, match=r"for two classes, and y has 3; use nn\.CrossEntropyLoss"):
            resolve_criterion(criterion, 3)
    else:
        assert resolve_criterion(criterion, 3).outputs == outputs_3


@pytest.mark.parametrize("criterion", [nn.MSELoss(), nn.SoftMarginLoss, nn.MultiMarginLoss(), nn.KLDivLoss()])
def test_losses_of_torch_that_are_not_of_class_probabilities_raise(criterion):
    with pytest.raises(ValueError, match=r"no loss of class probabilities; use one of nn\.BCELoss"):
        resolve_criterion(criterion, 2)


@pytest.mark.parametrize("criterion", [F.cross_entropy, F.nll_loss, F.binary_cross_entropy])
def test_functions_of_torch_raise_as_they_do_not_say_what_they_take(criterion):
    with pytest.raises(ValueError, match="is a function of torch.nn.functional.*use the loss of torch.nn"):
        resolve_criterion(criterion, 2)


def test_a_criterion_with_parameters_raises_as_nobody_would_train_them():
    class Learned(MeanOnly):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(()))

    with pytest.raises(ValueError, match="Learned has parameters.*make them part of the module"):
        resolve_criterion(Learned(), 2)


def test_what_is_not_a_loss_raises():
    with pytest.raises(TypeError, match="criterion='bce' is not a loss"):
        resolve_criterion("bce", 2)


# ---- links ----


@pytest.mark.parametrize("n_outputs", [1, 2, 3])
def test_logits_are_read_as_log_odds_and_probabilities(n_outputs):
    output = 3 * _numbers(6, n_outputs)
    z = class_major(output, 6)
    assert z.shape == (n_outputs, 6)
    logits = torch.cat([torch.zeros(6, 1, dtype=torch.float64), output], dim=1) if n_outputs == 1 else output
    p = logits.softmax(dim=1).T
    torch.testing.assert_close(LogitLink.probability(z), p, rtol=1e-13, atol=0)
    torch.testing.assert_close(LogitLink.log_probability(z), p.log(), rtol=1e-12, atol=1e-14)
    decision = LogitLink.decision(z)
    if n_outputs == 3:
        assert torch.equal(decision, z)
    else:
        torch.testing.assert_close(decision, (p[1] / p[0]).log()[None], rtol=1e-11, atol=1e-13)


def test_an_output_without_a_second_axis_is_one_output():
    z = _numbers(6)
    assert torch.equal(class_major(z, 6), class_major(z[:, None], 6))


def test_probabilities_are_read_as_both_columns():
    p = torch.tensor([[0.2, 0.5, 0.9, 1e-30]], dtype=torch.float64)
    torch.testing.assert_close(ProbabilityLink.probability(p), torch.cat([1 - p, p]), rtol=0, atol=0)
    torch.testing.assert_close(ProbabilityLink.decision(p), torch.logit(p), rtol=1e-14, atol=1e-15)
    assert float(ProbabilityLink.decision(p)[0, 1]) == 0
    log_p = ProbabilityLink.log_probability(p)
    np.testing.assert_allclose(log_p[:, 3], [-1e-30, -30 * np.log(10)], rtol=1e-14)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_log_probabilities_are_read_as_probabilities(n_classes):
    z = _numbers(n_classes, 6)
    log_p = z.log_softmax(dim=0)
    torch.testing.assert_close(LogProbabilityLink.probability(log_p), z.softmax(dim=0), rtol=1e-13, atol=0)
    assert torch.equal(LogProbabilityLink.log_probability(log_p), log_p)
    expected = LogitLink.decision(z) if n_classes == 2 else log_p
    torch.testing.assert_close(LogProbabilityLink.decision(log_p), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("link", "values"),
    [
        (LogitLink, [[-1e30, 0.0, 1e30]]),
        (ProbabilityLink, [[0.0, 0.5, 1.0]]),
        (LogProbabilityLink, [[0.0, -0.7, -np.inf], [-np.inf, -0.7, 0.0]]),
    ],
)
def test_every_reading_of_certain_rows_is_finite(link, values, dtype):
    z = torch.tensor(values, dtype=dtype)
    for reading in (link.decision(z), link.probability(z), link.log_probability(z)):
        assert bool(torch.isfinite(reading).all())
        assert reading.dtype == dtype
    np.testing.assert_allclose(link.probability(z)[:, [0, 2]], [[1, 0], [0, 1]])
    assert link.decision(z)[0, 0] < 0 < link.decision(z)[0, 2]


def test_bce_of_a_sigmoid_learns_nothing_from_a_row_that_is_most_wrong_and_logits_do():
    def slope(criterion, link):
        z = torch.tensor([17.0], requires_grad=True)
        one = torch.ones(1)
        resolve_criterion(criterion, 2).weighted_sum(link(z), CODES[:1], one, torch.float64).backward()
        return float(z.grad)

    assert slope(nn.BCELoss(), torch.sigmoid) == 0
    assert slope(None, lambda z: z) == pytest.approx(1)


# ---- the linear model's own loss ----

rng = np.random.default_rng(0)
X = rng.normal(size=(90, 3)) * [1, 30, 0.1] + [0, 100, 5]
SCORES = (X - X.mean(axis=0)) / X.std(axis=0) @ rng.normal(size=(3, 3)) + rng.normal(size=(90, 3))
Y = {2: np.array(["no", "yes"])[(SCORES[:, 0] > 0).astype(int)], 3: SCORES.argmax(axis=1)}
SAME = [
    (nn.BCEWithLogitsLoss(), 2),
    (nn.BCEWithLogitsLoss, 2),
    (nn.BCEWithLogitsLoss(reduction="sum"), 2),
    (nn.CrossEntropyLoss(), 2),
    (nn.CrossEntropyLoss, 3),
    (nn.CrossEntropyLoss(reduction="none", ignore_index=-1), 3),
]
# The criterion, and the class weights that say the same.
WEIGHTED = [
    (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), {"no": 1, "yes": 3}),
    (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([0.25])), {"no": 1, "yes": 0.25}),
    (nn.CrossEntropyLoss(weight=torch.tensor([2.0, 0.5])), {"no": 2, "yes": 0.5}),
    (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)), {0: 1, 1: 4, 2: 0.5}),
]
CLOSED_FORM = ["auto", *(name for name in SOLVERS if name != "sgd")]


def assert_same_fit(fitted, expected):
    assert fitted.solver_ == expected.solver_ and fitted.converged_
    assert fitted.objective_ == expected.objective_
    for name in ("coef_", "intercept_", "n_iter_", "loss_curve_"):
        assert np.array_equal(getattr(fitted, name), getattr(expected, name))
        assert getattr(fitted, name).dtype == getattr(expected, name).dtype


@pytest.mark.parametrize("solver", CLOSED_FORM)
@pytest.mark.parametrize(("criterion", "n_classes"), SAME, ids=str)
def test_the_loss_of_the_linear_model_by_its_name_is_the_default(criterion, n_classes, solver):
    y = Y[n_classes]
    expected = TorchLogisticClassifier(solver=solver, max_iter=1000).fit(X, y)
    fitted = TorchLogisticClassifier(criterion=criterion, solver=solver, max_iter=1000).fit(X, y)
    assert_same_fit(fitted, expected)


@pytest.mark.parametrize(("criterion", "class_weight"), WEIGHTED, ids=str)
def test_weights_of_classes_in_it_are_class_weights(criterion, class_weight):
    y, s = Y[len(class_weight)], rng.uniform(0.5, 2, 90)
    fitted = TorchLogisticClassifier(criterion=criterion).fit(X, y)
    assert_same_fit(fitted, TorchLogisticClassifier(class_weight=class_weight).fit(X, y))
    # Both multiply sample_weight and class_weight.
    twice = {label: 2 * weight for label, weight in class_weight.items()}
    both = TorchLogisticClassifier(criterion=criterion, class_weight=dict.fromkeys(class_weight, 2))
    assert_same_fit(both.fit(X, y, s), TorchLogisticClassifier(class_weight=twice).fit(X, y, s))


def test_balanced_class_weights_are_multiplied_too():
    criterion, class_weight = WEIGHTED[0]
    y = Y[2]
    fitted = TorchLogisticClassifier(criterion=criterion, class_weight="balanced").fit(X, y)
    weights = np.where(y == "yes", 3.0, 1.0) * compute_sample_weight("balanced", y)
    expected = TorchLogisticClassifier().fit(X, y, weights)
    np.testing.assert_allclose(fitted.coef_, expected.coef_, rtol=1e-12)


@pytest.mark.parametrize(
    ("criterion", "says"),
    [
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(0.0)), r"pos_weight=0.0: each must be"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0])), r"pos_weight of shape \(2,\).*need 1"),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, -2.0])), r"weight=\[1.0, -2.0\]: each must be"),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, torch.nan])), "finite number above 0"),
        (nn.CrossEntropyLoss(weight=torch.ones(3)), r"weight of shape \(3,\).*need 2.*'no', 'yes'"),
    ],
)
def test_weights_of_classes_that_cannot_be_are_refused(criterion, says):
    with pytest.raises(ValueError, match=says):
        TorchLogisticClassifier(criterion=criterion).fit(X, Y[2])


def test_one_logit_for_three_classes_is_still_refused():
    with pytest.raises(ValueError, match="is for two classes, and y has 3; use nn.CrossEntropyLoss"):
        TorchLogisticClassifier(criterion=nn.BCEWithLogitsLoss()).fit(X, Y[3])


class Mine(nn.BCEWithLogitsLoss):
    """What a subclass computes is not looked at."""


@pytest.mark.parametrize(
    "criterion",
    [
        nn.BCEWithLogitsLoss(weight=torch.ones(1)),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(ignore_index=1),
        Mine(),
        focal,
        Focal,
    ],
)
def test_any_other_loss_of_the_linear_model_is_minimised_by_sgd(criterion):
    settings = {"max_iter": 2, "tol": None, "random_state": 0}
    assert TorchLogisticClassifier(criterion=criterion, **settings).fit(X, Y[2]).solver_ == "sgd"
    with pytest.raises(ValueError, match="criterion=.*is not read by solver='lbfgs'.*use solver='sgd'"):
        TorchLogisticClassifier(criterion=criterion, solver="lbfgs", **settings).fit(X, Y[2])


@pytest.mark.parametrize("how", [{"solver": "sgd"}, {"learning_rate": 1e-5}], ids=str)
def test_sgd_is_what_is_asked_for_with_the_loss_of_the_linear_model_too(how):
    fitted = TorchLogisticClassifier(
        criterion=nn.BCEWithLogitsLoss(), max_iter=2, tol=None, random_state=0, **how
    ).fit(X, Y[2])
    assert fitted.solver_ == "sgd" and fitted.coef_.shape == (1, 3)


def test_a_fit_with_its_loss_by_name_is_used_like_any_other():
    y, criterion = Y[2], nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0))
    model = TorchLogisticClassifier(criterion=criterion, warm_start=True).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    assert np.array_equal(clone(model).fit(X, y).coef_, model.coef_)
    assert isinstance(model.module_, nn.Linear) and list(model.predict(X[:3])) == list(again.predict(X[:3]))
    assert model.fit(X, y).n_iter_[0] == 1
    cold = clone(model).fit(X, y, coef_init=model.coef_, intercept_init=model.intercept_)
    assert cold.n_iter_[0] == 1
    without = TorchLogisticClassifier(criterion=criterion, fit_intercept=False).fit(X, y)
    assert without.intercept_.tolist() == [0.0] and without.converged_


def test_the_criterion_itself_stays_as_it_is():
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([2.0, 0.5]))
    TorchLogisticClassifier(criterion=criterion).fit(X, Y[2])
    assert criterion.reduction == "mean" and criterion.weight.tolist() == [2.0, 0.5]
    assert criterion.weight.dtype == torch.float32
