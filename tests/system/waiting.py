"""Waiting for what another process does: poll with a deadline, and say what was seen last when it did not come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def until(look: Callable[[], T | None], *, seconds: float, what: str, every: float = 0.05) -> T:
    """Return the first true value of `look`.

    Args:
        look: asked again and again; what it raises reaches the caller.
        seconds: the deadline.
        what: is waited for, as the failure should say it.
        every: seconds between two looks.

    Raises:
        AssertionError: it did not come in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"after {seconds:g} s not seen: {what}; last: {seen!r}"
        time.sleep(every)
