"""What all measurements share: their sizes, the shape of their figures, and waiting for an end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

Figures = dict[str, float]
"""Names ending in `_rate` are per second, `_ms` milliseconds."""

POLL_SECONDS: Final = 0.02
PATIENCE_SECONDS: Final = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes:
        load_seconds: of each load.
        backlog: inbox entries that are stored.
        events: through our whole pipeline.
        naive_events: through the peer's.
        noop_tasks: of Celery.
        idle_events: one after the other.
    """

    load_seconds: float = 4.0
    backlog: int = 200_000
    events: int = 30_000
    naive_events: int = 1_500
    noop_tasks: int = 4_000
    idle_events: int = 150


def wait_until(is_done: Callable[..., object], seconds: float = PATIENCE_SECONDS) -> None:
    """Look until it is done."""
    ends = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > ends:
            raise RuntimeError("not done in time")
        time.sleep(POLL_SECONDS)
