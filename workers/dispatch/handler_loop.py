"""The event loop of `async def` handlers: one for each worker process.

Guarantees: a client or a pool that a team keeps at module level finds the loop that it was opened on, in every later
delivery; what a handler leaves running is cancelled before its outcome counts; a plain handler that asks for the event
loop gets the same one. A loop whose tasks do not end when they are cancelled is replaced.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable

CANCEL_SECONDS: Final = 1.0
"""What tasks that are left running may take to end."""


class HandlerLoop:
    """Runs what `async def` handlers return; made anew after a fork."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def prepare(self) -> asyncio.AbstractEventLoop:
        """Make the loop if there is none, and set it: `asyncio.run` in a plain handler takes it away."""
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        return self._loop

    def run(self, result: Awaitable[Any]) -> None:
        """Await what a handler returned, then cancel what it has left running.

        Raises:
            BaseException: whatever the handler raises.
        """
        loop = self.prepare()
        try:
            loop.run_until_complete(_wait_for(result))
        finally:
            self._cancel_tasks(loop)

    def _cancel_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        tasks = asyncio.all_tasks(loop)
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        try:
            done, left = loop.run_until_complete(asyncio.wait(tasks, timeout=CANCEL_SECONDS))
        except BaseException:
            self._replace(loop)
            raise
        for task in done:
            if not task.cancelled():
                task.exception()  # seen: asyncio would log it as never retrieved
        if left:
            self._replace(loop)

    def _replace(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.close()
        self._loop = None


async def _wait_for(result: Awaitable[Any]) -> Any:
    return await result
