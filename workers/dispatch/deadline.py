"""A handler's timeout, enforced in its own process.

`TimedOut` is raised in the main thread when the time is over, even in the middle of a query or a sleep, and again each
second if the handler swallows it. Signals reach only the main thread, so it works nowhere else. C code that never
returns to Python is left to Celery's hard limit.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from workers.errors import TimedOut

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise `TimedOut` in the block after so many seconds."""
    armed = True

    def expire(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        if armed:
            raise TimedOut(f"did not return within its timeout of {seconds:g} s")

    # Anew each time, whatever a handler has left there; not put back: a call costs eight times as much as the timer.
    signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
