"""Runs blocking calls beside the event loop, in threads that do not keep the process alive."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def run_blocking(call: Callable[[], T]) -> T:
    """Return what `call` returns, or raise what it raises; a caller that is cancelled goes on at once.

    `asyncio.to_thread` would make the end of the process wait for a call that hangs, such as a migration that waits
    for another session's lock.
    """
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return await asyncio.wrap_future(outcome)
