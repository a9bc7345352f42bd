"""A handler that tells the harness at once that the event was handled, after the time in HANDLER_SECONDS."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from workers import Delivery, handler

if TYPE_CHECKING:
    from workers.events.moveris import VerificationCompleted

_SECONDS = float(os.environ.get("HANDLER_SECONDS", "0"))
_ADDRESS = ("127.0.0.1", int(os.environ["NOTICE_PORT"]))


@handler("bench.tell", event="verification.completed", tenant="*")
def tell(event: VerificationCompleted, delivery: Delivery) -> None:
    """Take the time it takes, then tell."""
    if _SECONDS:
        time.sleep(_SECONDS)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as notice:
        notice.sendto(f"{delivery.tenant} {event.session_id}".encode(), _ADDRESS)
