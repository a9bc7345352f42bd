"""A handler that writes a row through `delivery.connection`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers import Delivery, handler

if TYPE_CHECKING:
    from workers.events.moveris import VerificationCompleted


@handler("bench.write", event="verification.completed", tenant="*")
def write_a_row(event: VerificationCompleted, delivery: Delivery) -> None:
    """Write a row of the team's own."""
    delivery.connection.execute("INSERT INTO grants (session_id) VALUES (%s)", [event.session_id])
