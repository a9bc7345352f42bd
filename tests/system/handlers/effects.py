"""Handlers that write through `delivery.connection`, so that the tests can count what took effect."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from workers import handler

if TYPE_CHECKING:
    from workers import Delivery, Event

QUICK: dict[str, Any] = {"timeout": 2, "schedule": (0.5,), "max_attempts": 50}


def write(delivery: Delivery, note: str = "") -> None:
    """Leave one row that counts and one that can be there only once."""
    row = [delivery.event_id, delivery.handler]
    delivery.connection.execute("INSERT INTO effects (event_id, handler, note) VALUES (%s, %s, %s)", [*row, note])
    delivery.connection.execute("INSERT INTO effects_once (event_id, handler) VALUES (%s, %s)", row)


@handler("effects.first", event="verification.completed", tenant="pair", **QUICK)
def first(event: Event, delivery: Delivery) -> None:
    """Take effect."""
    write(delivery, str(event.subject))


@handler("effects.second", event="verification.completed", tenant="pair", **QUICK)
def second(event: Event, delivery: Delivery) -> None:
    """Take effect beside the first."""
    write(delivery, str(event.subject))


@handler("effects.anyone", event="effect.anyone", tenant="*", **QUICK)
def anyone(event: Event, delivery: Delivery) -> None:
    """Take effect for whatever tenant."""
    write(delivery, delivery.tenant)


@handler("effects.asynchronous", event="effect.asynchronous", **QUICK)
async def asynchronous(event: Event, delivery: Delivery) -> None:
    """Take effect after other coroutines had their turn."""
    await asyncio.sleep(0)
    write(delivery)


@handler("effects.slowly", event="effect.slowly", **QUICK)
def slowly(event: Event, delivery: Delivery) -> None:
    """Take effect after some work, so that there is a backlog."""
    write(delivery)
    time.sleep(0.03)


@handler("effects.kept", event="verification.completed", tenant="kills", **QUICK)
def kept(event: Event, delivery: Delivery) -> None:
    """Take effect, whatever is killed meanwhile."""
    write(delivery)
