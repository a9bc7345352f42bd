"""An example handler: it runs for every event of every tenant."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from workers import handler

if TYPE_CHECKING:
    from workers import Delivery, Event

log = logging.getLogger(__name__)


@handler("example.note", event="*", tenant="*", timeout=10)
def note(event: Event, delivery: Delivery) -> None:
    """Note that an event has come; a real handler would act on it."""
    log.info("noted %s at attempt %d", event.type, delivery.attempt)
