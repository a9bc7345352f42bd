"""A tenant that floods during the whole run: more of its slow work waits at every moment than all slots do in seconds.

It tops up instead of sending at a rate, so that what waits has a bound however little of it is handled.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tests.chaos.load import Sender
from tests.chaos.stack import FLOODING
from tests.moveris import completed

if TYPE_CHECKING:
    from tests.chaos.load import Load, Sent
    from tests.chaos.stack import Stack

HANDLER: Final = "chaos.slow"
WAITING: Final = 100
"""Events whose slow handler has not ended; of half a second each, 12 seconds of all slots."""
LOOK_SECONDS: Final = 1.0


class Flood(Sender):
    """Sends events of one tenant through a load, which keeps them for the account and waits for the answers."""

    def __init__(self, stack: Stack, load: Load) -> None:
        self._stack = stack
        self._load = load
        self._sent: list[Sent] = []

    async def _run(self) -> None:
        (endpoint, *_) = self._stack.endpoints(FLOODING)
        while True:
            (done,) = await self._stack.query(
                "SELECT count(*) AS n FROM deliveries_done WHERE tenant = %s AND handler = %s", [FLOODING, HANDLER]
            )
            unanswered_or_waiting = [
                one
                for one in self._sent
                if not one.outcome or (one.event_id and one.event_id not in self._stack.flushed)
            ]
            for _ in range(WAITING - len(unanswered_or_waiting) + done["n"]):
                self._sent.append(self._load.send_fresh(endpoint, completed()))
            await asyncio.sleep(LOOK_SECONDS)
