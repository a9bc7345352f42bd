"""Blocking calls beside an event loop, in threads that nobody waits for at the end of the process.

Guarantees: a caller that is cancelled goes on at once. Refuses nothing. (`asyncio.to_thread` would make the end of the
process wait for a call that hangs, such as a migration behind another's lock.)
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    """Return what `call` returns, or raise what it raises."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if outcome.cancelled():
            return
        if error is None:
            outcome.set_result(result)  # type: ignore[arg-type] # only None when T is
        else:
            outcome.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as caught:  # noqa: BLE001 - the awaiting side raises it
            error = caught
        with suppress(RuntimeError):  # the loop is closed, nobody asks any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, daemon=True).start()
    return await outcome
