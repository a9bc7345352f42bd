"""When a failed attempt is tried again.

Guarantees: full jitter (anywhere between now and the step of the schedule), so that a crowd that failed together does
not come back together. The step after the last repeats the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEFAULT_SCHEDULE: Final = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 10800.0, 21600.0, 43200.0)
"""Seconds: 5 s, 30 s, 2 min, 10 min, 30 min, 1 h, 3 h, 6 h, 12 h. Ten attempts, at the most 22 h 42 min 35 s in all."""


def delay(schedule: Sequence[float], failures: int, draw: Callable[[], float]) -> float:
    """Return the seconds until the next attempt.

    Args:
        schedule: upper bounds in seconds, one per failure.
        failures: attempts that failed so far, at least 1.
        draw: returns a number in [0, 1), such as `random.random`.
    """
    if not schedule:
        return 0.0
    return schedule[min(failures, len(schedule)) - 1] * draw()
