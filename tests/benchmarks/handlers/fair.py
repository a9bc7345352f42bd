"""Handlers of quiet tenants, which tell at once, and of flooding ones, which take the time in FLOOD_SECONDS."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from workers import Delivery, handler

if TYPE_CHECKING:
    from workers.events.moveris import VerificationCompleted

_SECONDS = float(os.environ["FLOOD_SECONDS"])
_ADDRESS = ("127.0.0.1", int(os.environ["NOTICE_PORT"]))


def tell(event: VerificationCompleted, delivery: Delivery) -> None:
    """Tell which event was handled."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as notice:
        notice.sendto(event.session_id.encode(), _ADDRESS)


def flood(event: VerificationCompleted, delivery: Delivery) -> None:
    """Take the time it takes."""
    if _SECONDS:
        time.sleep(_SECONDS)


for _number in range(int(os.environ["QUIET_TENANTS"])):
    handler(f"quiet_{_number}.tell", event="verification.completed", tenant=f"quiet-{_number}")(tell)
for _tenant in range(int(os.environ["FLOOD_TENANTS"])):
    for _number in range(int(os.environ["FLOOD_HANDLERS"])):
        # A timeout beyond 30 s, so that what takes 30 s succeeds.
        handler(
            f"flood_{_tenant}.run_{_number}", event="verification.completed", tenant=f"flood-{_tenant}", timeout=60
        )(flood)
