"""When the doorbell rings: at once after a rest, and in a flood a bell in a while for all that has come.

Guarantees: behind every event that Redis has confirmed a bell is rung, 5 ms later at most; if Redis goes away in
between, once more after a pause. Refuses nothing: a bell that is not rung costs time only, the sweeper makes up for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ingress.flight import pack
from shared.wire import RING, ring_arguments

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

QUIET_SECONDS: Final = 0.005
"""After a bell: events that come so soon share the next one, which rings whether or not others follow. A bell costs
Redis and us more than an event, and a drain that has just been called is not there before."""


class Bell:
    """Decides which flights ring.

    Attributes:
        is_owed: events wait for a bell, and the quiet behind the last one is over.
    """

    def __init__(self, *, slots: int, wake: Callable[[], None]) -> None:
        """Begin with no bell behind us.

        Args:
            slots: drains that there are.
            wake: called when a bell is owed, so that a flight departs even without entries.
        """
        self._slots = slots
        self._wake = wake
        self._quiet_ends = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.is_owed = False

    def join(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Say whether a flight that departs now has to ring; if not, see that one does later."""
        self.is_owed = False
        is_due = loop.time() >= self._quiet_ends
        if is_due and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif not is_due and self._timer is None:
            self._timer = loop.call_at(self._quiet_ends, self._end_quiet)
        return is_due

    def hush(self, now: float) -> None:
        """Begin the quiet: Redis has rung, or somebody else had. After a refusal the next flight rings."""
        self._quiet_ends = now + QUIET_SECONDS

    def ring_in(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        """See that a bell is rung after so long, unless one is before."""
        if self._timer is None:
            self._timer = loop.call_later(seconds, self._end_quiet)

    def hurry(self) -> None:
        """End the quiet if anybody waits for its end."""
        if self._timer is not None:
            self._timer.cancel()
            self._end_quiet()

    def message(self) -> bytes:
        """Return the command that rings."""
        keys, arguments = ring_arguments(self._slots)
        return pack("EVAL", RING, len(keys), *keys, *arguments)

    def _end_quiet(self) -> None:
        self._timer = None
        self._quiet_ends = 0.0
        self.is_owed = True
        self._wake()
