"""Coefficients that a fit of the linear model starts from."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from torch_logreg._checks.containers import on_host, refusing_huge_integers
from torch_logreg._checks.data import TrainingData
from torch_logreg._data.tensors import float_info


class Initial(NamedTuple):
    """`coef_init` and `intercept_init`, as `fit` was given them."""

    coef: Any
    intercept: Any

    @property
    def is_some(self) -> bool:
        return self.coef is not None or self.intercept is not None

    @classmethod
    def of(cls, coef: Any, intercept: Any, is_module: bool) -> Initial:
        """Raise ValueError for a module, which brings weights of its own."""
        if is_module and not (coef is None and intercept is None):
            raise ValueError(
                "coef_init and intercept_init are for the linear model, and a module or criterion was given; "
                "leave both out, and pass as module one that has the weights to start from."
            )
        return cls(coef, intercept)

    def coefficients(
        self, data: TrainingData, fit_intercept: bool, earlier: tuple[np.ndarray, np.ndarray] | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """(K, d) and (K,), of which those of an `earlier` fit are what is not given; None: start from 0."""
        shape = (1 if len(data.classes) == 2 else len(data.classes), data.X.shape[1])
        coef = None if self.coef is None else _checked("coef_init", self.coef, shape, data)
        intercept = None
        if self.intercept is not None:
            intercept = _checked("intercept_init", self.intercept, shape[:1], data)
            if not fit_intercept and intercept.any():
                raise ValueError(
                    f"intercept_init={intercept.tolist()} with fit_intercept=False, which has no intercept; "
                    "leave it out, or set fit_intercept=True."
                )
        if coef is not None and intercept is not None:
            return coef, intercept
        if earlier is None:
            if coef is None and intercept is None:
                return None
            earlier = np.zeros(shape), np.zeros(shape[:1])
        if earlier[0].shape != shape:
            raise ValueError(
                f"warm_start=True, but the earlier coef_ has the shape {earlier[0].shape} and this data "
                f"needs {shape}; fit a clone, or set warm_start=False."
            )
        return earlier[0] if coef is None else coef, earlier[1] if intercept is None else intercept


def _checked(name: str, given: Any, shape: tuple[int, ...], data: TrainingData) -> np.ndarray:
    """The array in float64 and of that shape, whose first axis may be missing for two classes."""
    if scipy.sparse.issparse(given):
        given = given.toarray()
    try:
        with refusing_huge_integers(name):
            values = np.asarray(on_host(given, of=name), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers, of shape {shape}: {error}") from error
    classes, info = data.classes, float_info(data.X)
    two = len(classes) == 2
    if values.shape != shape and not (two and values.shape == shape[1:]):
        what_to_do = (
            "of two classes pass the values of the second less those of the first"
            if two
            else f"pass those of each class, in the order {classes.tolist()}"
        )
        raise ValueError(f"{name} has the shape {values.shape} and this data needs {shape}; {what_to_do}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} contains NaN or infinity; pass 0 where no better value is known.")
    if (largest := np.abs(values).max()) > info.max**0.5:
        raise ValueError(
            f"{name} holds {largest:.1e} and its like, whose squares overflow {info.dtype}, the dtype of X; "
            "pass 0 where no better value is known."
        )
    return values.reshape(shape)
