"""A handler with a parameter that does not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers import handler

if TYPE_CHECKING:
    from workers import Delivery, Event


@handler("mistyped.parameter", max_atempts=3)  # type: ignore[call-overload] # what mypy says, too
def one(event: Event, delivery: Delivery) -> None:
    """Ask for too little attention."""
