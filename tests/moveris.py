"""Moveris as its receivers see it: bodies and signatures, made from the published description alone."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from datetime import UTC, datetime
from typing import Any


def completed(session: str = "", **data: Any) -> bytes:
    """Return a `verification.completed` of a session of its own; `data` replaces or adds fields of its result."""
    session = session or uuid.uuid4().hex
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    result = {"session_id": session, "model": "mixed-30-v2", "verdict": "live", "real_score": 0.97, "score": 97.4}
    result |= {"confidence": 0.98, "created_at": now}
    event = {"event": "verification.completed", "session_id": session, "timestamp": now, "data": result | data}
    return json.dumps(event).encode()


def other(event: str, **fields: Any) -> bytes:
    """Return an event of a type that Moveris does not send today, with further top-level fields."""
    return json.dumps({"event": event, "session_id": uuid.uuid4().hex, **fields}).encode()


def signature(secret: bytes, body: bytes) -> str:
    """Return the value of X-Webhook-Signature."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
