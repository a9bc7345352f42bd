"""Handlers of a team whose other side is away for a tenant while a file says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from workers import handler

if TYPE_CHECKING:
    from workers import Delivery, Event

HOME = Path(os.environ["PIPELINE_HOME"])


@handler("crm.enroll", event="verification.completed", schedule=(0.2,), max_attempts=2)
def enroll(event: Event, delivery: Delivery) -> None:
    """Tell the other side."""
    _post(f"https://crm.example/{delivery.tenant}/people", delivery)


@handler("mail.confirm", event="verification.completed")
def confirm(event: Event, delivery: Delivery) -> None:
    """Send a mail."""


def _post(url: str, delivery: Delivery) -> None:
    if (HOME / f"away-{delivery.tenant}").exists():
        raise ConnectionError(f"HTTP 503 from {url} after {delivery.attempt * 117} ms")
