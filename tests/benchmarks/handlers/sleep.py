"""A handler that takes the time in HANDLER_SECONDS."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from workers import Delivery, handler

if TYPE_CHECKING:
    from workers.events.moveris import VerificationCompleted

_SECONDS = float(os.environ.get("HANDLER_SECONDS", "0"))


@handler("bench.sleep", event="verification.completed", tenant="*")
def sleep(event: VerificationCompleted, delivery: Delivery) -> None:
    """Wait as for a service elsewhere."""
    if _SECONDS:
        time.sleep(_SECONDS)
