"""Errors that are raised inside what a user handed in say which of it that was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


@contextmanager
def naming(what: str, advice: str) -> Iterator[None]:
    """Add to whatever is raised inside that it came from `what` of the user, and what to do."""
    try:
        yield
    except Exception as error:
        error.add_note(f"This was raised by {what}. {advice}")
        raise


def described(tensor: Tensor) -> str:
    """Shape, dtype and device for a message."""
    return f"of shape {tuple(tensor.shape)} and dtype {tensor.dtype} on {str(tensor.device)!r}"
