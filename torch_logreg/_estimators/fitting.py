"""The surroundings of every fit: guards, seeds, and what an error leaves behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from numbers import Integral
from typing import Any

import numpy as np
import torch

from torch_logreg._runtime.out_of_memory import saying_what_to_do
from torch_logreg._runtime.threads import safe_after_fork

OF_FIT = ("_history", "_module", "_link", "_covariance", "_separated")
LARGEST_TOL = 1e100  # whose square, times an objective, is finite


@contextmanager
def guarded(estimator: Any, X: Any) -> Iterator[None]:
    """Run a fit so that nothing of it is left if it ends by an error, and that numpy is as by default."""
    with _keeping_fit_on_error(estimator), saying_what_to_do(X, estimator.device), safe_after_fork():
        # As numpy has them: an underflow is no error, whatever the caller has set.
        with np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"):
            yield


@contextmanager
def _keeping_fit_on_error(estimator: Any) -> Iterator[None]:
    """Put fitted attributes back as they were if anything, an interrupt included, ends `fit` early."""
    earlier = dict(vars(estimator))
    try:
        yield
    except BaseException:
        for name in _fitted(vars(estimator)):
            delattr(estimator, name)
        vars(estimator).update(_fitted(earlier))
        raise


def _fitted(state: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that `fit` has set."""
    return {name: value for name, value in state.items() if name.endswith("_") or name in OF_FIT}


def without_autograd(device: torch.device) -> AbstractContextManager[Any]:
    """Inference mode where it works, for a fit without autograd.

    `no_grad` alone leaves bookkeeping that a small fit has to wait for.
    """
    return torch.inference_mode() if device.type in ("cpu", "cuda") else nullcontext()


def finite_tol(tol: float | None) -> float | None:
    """The number to stop at; any step meets a larger one than `LARGEST_TOL` too."""
    return None if tol is None else min(float(tol), LARGEST_TOL)


def seed_of(random_state: Any) -> int:
    """A seed for torch's generators. None is a new one each time, which touches no global generator."""
    if isinstance(random_state, Integral):
        return int(random_state)
    source = np.random.RandomState() if random_state is None else random_state
    return int(source.randint(2**31 - 1))


def sampling_seed_of(random_state: Any) -> int:
    """A seed for samples of the rows, which change nothing beyond `tol`: None is always the same."""
    return 0 if random_state is None else seed_of(random_state)
