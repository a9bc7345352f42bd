"""Handlers that log, by the means that a team's code would."""

from __future__ import annotations

import asyncio
import logging
from contextvars import copy_context
from threading import Thread
from typing import TYPE_CHECKING

from workers import handler

if TYPE_CHECKING:
    from workers import Delivery, Event

log = logging.getLogger("team.lines")


@handler("lines.plain", event="lines.logged")
def plain(event: Event, delivery: Delivery) -> None:
    """Log here, and in a thread that is run in a copy of the context."""
    log.info("from a handler", extra={"customer": 7})
    thread = Thread(target=copy_context().run, args=[log.info, "from a thread"])
    thread.start()
    thread.join()


@handler("lines.coroutine", event="lines.logged")
async def coroutine(event: Event, delivery: Delivery) -> None:
    """Log in a task beside this one, and in a thread that asyncio gives it."""
    await asyncio.create_task(_log_in_a_task())
    await asyncio.to_thread(log.info, "from asyncio's thread")


@handler("lines.broken", event="lines.broken", schedule=(0.1,), max_attempts=2)
def broken(event: Event, delivery: Delivery) -> None:
    """Fail each time."""
    raise LookupError("no such user")


async def _log_in_a_task() -> None:
    await asyncio.sleep(0)
    log.info("from a task")
