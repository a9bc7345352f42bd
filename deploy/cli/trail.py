"""The trail of one event: signed and posted as its provider would, then watched in Postgres until it is handled.

Guarantees: the times are of one clock, from the moment the request is sent; a step that does not come within its time
is said, not raised. Refuses: a missing endpoint (`RefusedError`), a key that does not fit (`RegistryError`).
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from ingress.schemes import moveris
from shared.registry import Cipher
from shared.settings import fernet_keys
from workers.store.connect import connect
from workers.store.tenants import find_endpoint, is_alive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.local.state import Stack
    from workers.store.connect import Connection

POLL_SECONDS: Final = 0.004
TENANT: Final = "demo"
PROVIDER: Final = "moveris"


@dataclass(slots=True, kw_only=True)
class Trail:
    """What happened to one event; times in milliseconds since it was sent, None for what did not happen in time.

    Attributes:
        event_id: given by the ingress; empty if it refused.
        answer: what the ingress answered.
        acknowledged: the answer was there.
        stored: Postgres has it.
        handled: the last handler was done; None also while there is no handler.
        handlers: name of each delivery's handler, and its state unless it succeeded.
    """

    event_id: str = ""
    answer: str = ""
    acknowledged: float | None = None
    stored: float | None = None
    handled: float | None = None
    handlers: Sequence[str] = field(default_factory=tuple)


def completed(session_id: str) -> bytes:
    """Return a `verification.completed` as Moveris sends it."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    data = {
        "session_id": session_id,
        "verdict": "live",
        "confidence": 0.94,
        "real_score": 0.94,
        "score": 94.0,
        "type": "VERY HIGH",
        "model": "mixed-30-v2",
        "input_source": "rest_frames",
        "processing_ms": 412,
        "frames_processed": 30,
        "created_at": now,
    }
    event = {"event": "verification.completed", "session_id": session_id, "timestamp": now, "data": data}
    return json.dumps(event).encode()


def follow(stack: Stack, *, seconds: float) -> Trail:
    """Send one event to the demo's endpoint and follow it for up to `seconds`."""
    with connect(stack.database_url, name="pipeline up") as connection:
        endpoint = find_endpoint(connection, tenant=TENANT, provider=PROVIDER)
        cipher = Cipher(fernet_keys(stack.secrets_key))
        secret = next(cipher.decrypt(secret) for secret in endpoint.secrets if is_alive(secret))
        trail, started = Trail(), time.monotonic()
        _post(trail, f"{stack.ingress_url}/webhooks/{PROVIDER}/{TENANT}", secret)
        trail.acknowledged = _milliseconds(started)
        while trail.event_id and time.monotonic() - started < seconds:
            if _look(connection, trail, started):
                break
            time.sleep(POLL_SECONDS)
        return trail


def _post(trail: Trail, url: str, secret: bytes) -> None:
    body = completed(f"demo-{uuid.uuid4()}")
    headers = {"Content-Type": "application/json", "X-Webhook-Event": "verification.completed"}
    request = Request(url, data=body, headers=headers | moveris.sign(secret, body))  # noqa: S310 - the stack's own
    try:
        with urlopen(request, timeout=10) as answer:  # noqa: S310 - the same
            trail.answer = f"{answer.status}"
            trail.event_id = json.loads(answer.read())["id"]
    except HTTPError as refusal:
        trail.answer = f"{refusal.code} {refusal.read(200).decode(errors='replace')}"
    except (URLError, OSError) as error:
        trail.answer = str(error)


def _look(connection: Connection, trail: Trail, started: float) -> bool:
    """Look once; say whether nothing more is to come."""
    if trail.stored is None:
        if not connection.execute("SELECT FROM events WHERE id = %s", [trail.event_id]).fetchall():
            return False
        trail.stored = _milliseconds(started)
    rows: list[dict[str, Any]] = connection.execute(
        "SELECT handler, state FROM all_deliveries WHERE event_id = %s ORDER BY handler", [trail.event_id]
    ).fetchall()
    trail.handlers = [
        row["handler"] if row["state"] == "succeeded" else f"{row['handler']} ({row['state']})" for row in rows
    ]
    if all(row["state"] in {"succeeded", "dead", "cancelled"} for row in rows):
        trail.handled = _milliseconds(started) if rows else None
        return True
    return False


def _milliseconds(started: float) -> float:
    return (time.monotonic() - started) * 1000
