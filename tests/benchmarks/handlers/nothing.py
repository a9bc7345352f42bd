"""A handler that does nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers import Delivery, handler

if TYPE_CHECKING:
    from workers.events.moveris import VerificationCompleted


@handler("bench.nothing", event="verification.completed", tenant="*")
def do_nothing(event: VerificationCompleted, delivery: Delivery) -> None:
    """Do nothing."""
