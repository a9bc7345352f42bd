"""A handler that takes the time in HANDLER_SECONDS for the tenant `slow`, and none for all others."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from workers import Delivery, handler

if TYPE_CHECKING:
    from workers.events.moveris import VerificationCompleted

_SECONDS = float(os.environ.get("HANDLER_SECONDS", "0"))


@handler("bench.slow", event="verification.completed", tenant="*")
def wait_for_one(event: VerificationCompleted, delivery: Delivery) -> None:
    """Wait, if it is the one."""
    if delivery.tenant == "slow":
        time.sleep(_SECONDS)
