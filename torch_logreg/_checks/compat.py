"""Names of scikit-learn that are private, or not in every version. Each has a test that fails loudly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.metadata_routing import _raise_for_params as raise_for_params
from sklearn.utils.metadata_routing import _routing_enabled as routing_enabled
from sklearn.utils.validation import _check_feature_names as check_feature_names
from sklearn.utils.validation import _check_n_features as check_n_features
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import _check_y as check_y
from sklearn.utils.validation import _num_samples as num_samples

try:  # scikit-learn >= 1.9, experimental there
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ModuleNotFoundError:  # scikit-learn 1.8 has no callbacks: then neither has the estimator

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in where scikit-learn has no callbacks."""

    def with_callbacks(method: Callable) -> Callable:
        """One frame on the stack, as there, so that warnings name the same line."""

        @functools.wraps(method)
        def plain(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return plain


__all__ = [
    "CallbackSupportMixin",
    "Interval",
    "InvalidParameterError",
    "StrOptions",
    "begin_callbacks",
    "check_feature_names",
    "check_n_features",
    "check_sample_weight",
    "check_y",
    "constraints_of",
    "needs_labels_alone",
    "num_samples",
    "raise_for_params",
    "routing_enabled",
    "validate_parameter_constraints",
    "with_callbacks",
]

# Where scikit-learn keeps the callbacks that were set on an estimator, or on one that it is a part of.
CALLBACK_ATTRIBUTES = ("_skl_callbacks", "_parent_callback_ctx")


def constraints_of(estimator: Any) -> dict[str, Any]:
    """Return what the parameters of an estimator or its class are checked against."""
    return estimator._parameter_constraints


def needs_labels_alone(scorer: Any) -> bool:
    """Whether a scorer looks at predicted labels alone, which is assumed of a plain callable."""
    return getattr(scorer, "_response_method", "predict") == "predict"


def begin_callbacks(estimator: Any, max_subtasks: int) -> Any | None:
    """The context in which callbacks are called, or None where there are none to call."""
    if not any(name in vars(estimator) for name in CALLBACK_ATTRIBUTES):
        return None
    return estimator._init_callback_context(max_subtasks=max_subtasks)
