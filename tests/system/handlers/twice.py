"""Two handlers of one name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers import handler

if TYPE_CHECKING:
    from workers import Delivery, Event


@handler("twice.named")
def one(event: Event, delivery: Delivery) -> None:
    """Have a name."""


@handler("twice.named")
def two(event: Event, delivery: Delivery) -> None:
    """Have the same name."""
