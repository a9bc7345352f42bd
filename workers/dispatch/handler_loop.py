"""The event loop of `async def` handlers, and what runs on it before the first one: one for each worker process.

Guarantees: a client or a pool that a team keeps at module level finds the loop that it was opened on, in every later
delivery; what a handler leaves running is cancelled before its outcome counts, what `on_process_start` functions leave
running is not; a plain handler that asks for the event loop gets the same one. A loop whose tasks do not end when they
are cancelled is replaced, and the `async def` ones among these functions run again.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Final

from workers.dispatch.delivery import current

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from workers.dispatch.delivery import Delivery

CANCEL_SECONDS: Final = 1.0
"""What tasks that are left running may take to end."""


class HandlerLoop:
    """Runs what `async def` handlers return; made anew after a fork."""

    def __init__(self, on_process_start: Sequence[Callable[[], object]] = ()) -> None:
        """Make one.

        Args:
            on_process_start: functions that `start` runs, in order, each until it has succeeded once.
        """
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lasting: set[asyncio.Task[Any]] = set()
        self._functions = on_process_start
        self._to_start = [*on_process_start]

    def prepare(self) -> asyncio.AbstractEventLoop:
        """Make the loop if there is none, and set it: `asyncio.run` in a plain handler takes it away."""
        if self._loop is None or self._loop.is_closed():
            if self._loop is not None:
                self._forget()
            self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        return self._loop

    def start(self) -> None:
        """Run the functions of `on_process_start` that have not succeeded yet.

        Raises:
            BaseException: whatever they raise; the one that does is run again by the next call.
        """
        loop = self.prepare()
        while self._to_start:
            try:
                result = self._to_start[0]()
                if inspect.isawaitable(result):
                    loop.run_until_complete(_wait_for(result))
            except BaseException:
                self._cancel_tasks(loop)
                raise
            self._lasting |= asyncio.all_tasks(loop)
            del self._to_start[0]

    def call(self, function: Callable[[Any, Delivery], object], event: object, delivery: Delivery) -> None:
        """Run a handler once; meanwhile `current_delivery` returns what it is given.

        Raises:
            BaseException: whatever the handler, or a function of `on_process_start`, raises.
        """
        self.start()
        token = current.set(delivery)
        try:
            result = function(event, delivery)
            if inspect.isawaitable(result):
                self.run(result)
        finally:
            current.reset(token)

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
        tasks = asyncio.all_tasks(loop) - self._lasting
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
        self._forget()

    def _forget(self) -> None:
        """Forget a loop that is closed: what was opened on it is lost, and opened again on the next."""
        self._loop = None
        self._lasting = set()
        self._to_start = [it for it in self._functions if it in self._to_start or inspect.iscoroutinefunction(it)]


async def _wait_for(result: Awaitable[Any]) -> Any:
    return await result
