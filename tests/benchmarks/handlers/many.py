"""As many handlers of each event as HANDLER_COUNT says, all doing nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from workers import Delivery, handler

if TYPE_CHECKING:
    from workers.events.moveris import VerificationCompleted


def do_nothing(event: VerificationCompleted, delivery: Delivery) -> None:
    """Do nothing."""


for _number in range(int(os.environ.get("HANDLER_COUNT", "1"))):
    handler(f"bench.many_{_number:02d}", event="verification.completed", tenant="*")(do_nothing)
