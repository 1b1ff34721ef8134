"""Arguments of LogisticRegression and LogisticRegressionCV that do not exist here, and what to write."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, TypeAlias, TypeVar

Init = TypeVar("Init", bound=Callable[..., None])
Advice: TypeAlias = Mapping[str, Callable[[Any], str]]  # of each argument: what to write, given its value


def _is_zero(ratio: Any) -> bool:
    if isinstance(ratio, str):
        return ratio in ("deprecated", "warn")
    return ratio is None or (isinstance(ratio, Real) and ratio == 0)


def _l1_ratio_of_cv(ratio: Any) -> str:
    if _is_zero(ratio):
        return "leave it out, the penalty is L2"
    return f"write l1_ratios=[{ratio!r}] instead, the values to choose from"


def _are_zero(ratios: Any) -> bool:
    several = isinstance(ratios, Iterable) and not isinstance(ratios, str)
    return all(map(_is_zero, ratios)) if several else _is_zero(ratios)


def _one_l1_ratio(ratios: Any) -> str:
    if _are_zero(ratios):
        return "leave it out, the penalty is L2"
    return "write l1_ratio=... instead, one number; TorchLogisticClassifierCV chooses among several"


def _penalty(without: str, l1: str, both: str) -> Callable[[Any], str]:
    """Advise on a penalty; what to write for none, for the L1 penalty, and for both."""

    def advice(penalty: Any) -> str:
        if penalty is None or penalty == "none":
            return f"write {without} instead, which is no penalty"
        if penalty in ("l2", "deprecated"):
            return "leave it out, the penalty is L2"
        if penalty in ("l1", "elasticnet"):
            return l1 if penalty == "l1" else both
        return f"leave it out for the L2 penalty, or write {without} for none"

    return advice


def _multi_class(multi_class: Any) -> str:
    if multi_class == "ovr":
        return (
            "leave it out for the softmax of all classes, or use "
            "sklearn.multiclass.OneVsRestClassifier for one model a class"
        )
    return "leave it out, more than two classes are fitted by softmax"


def _n_jobs(n_jobs: Any) -> str:
    return "leave it out, torch.set_num_threads says how many threads a fit has"


def _dual(dual: Any) -> str:
    return "leave it out, the primal problem is solved, whose solution is the same"


def _intercept_scaling(intercept_scaling: Any) -> str:
    return "leave it out, the intercept is not penalised"


def _of_cv(name: str) -> Callable[[Any], str]:
    return lambda value: f"use TorchLogisticClassifierCV, which chooses C and takes {name}"


def _legacy(use_legacy_attributes: Any) -> str:
    return "leave it out, attributes have the shapes of use_legacy_attributes=False"


_OF_BOTH: Advice = {
    "dual": _dual,
    "intercept_scaling": _intercept_scaling,
    "multi_class": _multi_class,
    "n_jobs": _n_jobs,
    "use_legacy_attributes": _legacy,
}
ADVICE: Advice = {
    **_OF_BOTH,
    "l1_ratios": _one_l1_ratio,
    "penalty": _penalty(
        "C=np.inf",
        "write l1_ratio=1 instead, which is the L1 penalty",
        "write l1_ratio=... instead, such as l1_ratio=0.5, the part of the L1 penalty in both",
    ),
    **{name: _of_cv(name) for name in ("Cs", "cv", "refit")},
}
ADVICE_CV: Advice = {
    **_OF_BOTH,
    "l1_ratio": _l1_ratio_of_cv,
    "penalty": _penalty(
        "Cs=[np.inf]",
        "write l1_ratios=[1] instead, which is the L1 penalty",
        "write l1_ratios=... instead, such as l1_ratios=[0.1, 0.5, 0.9], to choose from",
    ),
    "C": lambda C: f"write Cs=[{C!r}] instead, the values to choose from",
    "warm_start": lambda warm_start: "leave it out, each fold starts from the solution on all rows",
}


def refusal(estimator: Any, given: Mapping[str, Any], advice: Advice) -> str | None:
    """Say what to write instead of the arguments `given` that `advice` knows; None where there are none."""
    found = [f"{name}={given[name]!r} ({say(given[name])})" for name, say in advice.items() if name in given]
    if not found:
        return None
    name = type(estimator).__name__
    return f"{name} does not have these arguments of LogisticRegression: {'; '.join(found)}."


def advising(advice: Advice) -> Callable[[Init], Init]:
    """Make a constructor raise TypeError with advice, and keep its signature, which scikit-learn reads."""

    def decorate(init: Init) -> Init:
        @functools.wraps(init)
        def advised(self: Any, *args: Any, **kwargs: Any) -> None:
            # The first argument of LogisticRegression may be given without its name.
            given = {"penalty": args[0], **kwargs} if len(args) == 1 and "penalty" in advice else kwargs
            if (message := refusal(self, given, advice)) is not None:
                raise TypeError(message)
            init(self, *args, **kwargs)

        return advised  # type: ignore[return-value]

    return decorate
