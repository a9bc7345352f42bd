"""Handlers that make spans of their own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from opentelemetry import trace

from workers import handler

if TYPE_CHECKING:
    from workers import Delivery, Event

tracer = trace.get_tracer("team")


@handler("traced.plain", event="traced.one", schedule=(0.1,), max_attempts=3)
def plain(event: Event, delivery: Delivery) -> None:
    """Fail once, below a span of its own."""
    with tracer.start_as_current_span("ask the other side"):
        if delivery.attempt == 1:
            raise LookupError("no such user")


@handler("traced.coroutine", event="traced.one")
async def coroutine(event: Event, delivery: Delivery) -> None:
    """Make a span in a task."""
    await asyncio.create_task(_ask())


async def _ask() -> None:
    with tracer.start_as_current_span("ask from a task"):
        await asyncio.sleep(0)
