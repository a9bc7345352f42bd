"""Handlers of the drill: one that is slow, one of a tenant that floods, and one that fails until somebody mends it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from workers import Permanent, handler

if TYPE_CHECKING:
    from workers import Delivery, Event

MENDED = Path(os.environ["DRILL_MENDED"])
"""`broken.grant` fails until this file exists."""
SLOW_SECONDS = 5.0
CROWD_SECONDS = 0.3


@handler("slow.grant", event="drill.work", tenant="slow")
def take_long(event: Event, delivery: Delivery) -> None:
    """Take five seconds."""
    time.sleep(SLOW_SECONDS)


@handler("crowd.grant", event="drill.work", tenant="crowd")
def take_a_moment(event: Event, delivery: Delivery) -> None:
    """Take a third of a second: little, unless many come."""
    time.sleep(CROWD_SECONDS)


@handler("broken.grant", event="drill.work", tenant="broken")
def fail(event: Event, delivery: Delivery) -> None:
    """Die at the first attempt, as long as the cause is there."""
    if not MENDED.exists():
        raise Permanent("the account service says 410")
