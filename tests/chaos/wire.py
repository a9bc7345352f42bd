"""What of Redis the faults and the account must know: the names of keys, and an entry as the ingress writes it.

Spelled out, not imported: a change of it that old processes would not understand is to be noticed here.
"""

from __future__ import annotations

import secrets
import uuid
from datetime import UTC, datetime
from typing import Final

PREFIX: Final = "chaos:"
INBOX: Final = f"{PREFIX}inbox"
OVERFLOW: Final = f"{PREFIX}inbox:overflow"
INBOX_BYTES: Final = f"{PREFIX}inbox:bytes"
BELL: Final = f"{PREFIX}inbox:bell"
REGISTRY: Final = f"{PREFIX}registry"
IDENTITY: Final = f"{PREFIX}identity"


def entry(tenant: str, body: bytes, *, at: datetime | None = None) -> tuple[str, dict[bytes, bytes]]:
    """Return the id and the fields of an entry of this tenant; `at` is the time in its id, otherwise now."""
    now = datetime.now(UTC)
    milliseconds = int((at or now).timestamp() * 1000)
    event_id = uuid.UUID(
        bytes=milliseconds.to_bytes(6) + b"\x70" + secrets.token_bytes(1) + b"\x80" + secrets.token_bytes(7)
    )
    return str(event_id), {
        b"v": b"1",
        b"id": event_id.bytes,
        b"provider": b"moveris",
        b"tenant": tenant.encode(),
        b"label": b"first",
        b"received_at": b"%d" % (now.timestamp() * 1_000_000),
        b"headers": b"",
        b"body": body,
    }
