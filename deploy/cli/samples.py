"""Bodies and headers as Moveris sends them, for `pipeline send` and whoever tries the pipeline out.

Guarantees: a fresh session each time, so that no two are the same event. Refuses nothing: an event type that is not
known gets a body with the common fields, as a new type of the provider would have.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

COMPLETED: Final = "verification.completed"
FAILED: Final = "verification.failed"


def moveris(event: str = COMPLETED, *, model: str = "mixed-30-v2") -> tuple[bytes, dict[str, str]]:
    """Return a body and the unsigned headers that come with it."""
    session_id = str(uuid4())
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    body = json.dumps(
        {"event": event, "session_id": session_id, "timestamp": now, "data": _data(event, session_id, now, model)}
    )
    return body.encode(), {"X-Webhook-Event": event, "X-Webhook-Session": session_id}


def _data(event: str, session_id: str, now: str, model: str) -> dict[str, Any]:
    if event == FAILED:
        return {"session_id": session_id, "model": model, "error": "the video could not be processed"}
    if event != COMPLETED:
        return {}
    return {
        "verdict": "live",
        "confidence": 0.94,
        "real_score": 0.94,
        "score": 94.0,
        "type": "VERY HIGH",
        "session_id": session_id,
        "model": model,
        "input_source": "rest_frames",
        "processing_ms": 845,
        "frames_processed": 30,
        "tenant_metadata": None,
        "warning": None,
        "created_at": now,
    }
