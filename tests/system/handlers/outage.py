"""A handler whose two other sides are away while a file says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.system.handlers.effects import write
from workers import GenericEvent, handler

if TYPE_CHECKING:
    from workers import Delivery


OUTAGE = Path(os.environ["PIPELINE_HOME"], "outage")


@handler("outage.grant", event="outage.event", max_attempts=1)
def grant(event: GenericEvent, delivery: Delivery) -> None:
    """Fail for one of two causes, each time in other words; else take effect."""
    number = event.json()["number"]
    if OUTAGE.exists():
        if number % 2:
            raise LookupError(f"no account {number} of 'customer {number}' at 10.0.{number % 250}.1:5432")
        raise ConnectionError(f"HTTP 503 after {number} ms from https://{delivery.tenant}.example/{number}")
    write(delivery)
