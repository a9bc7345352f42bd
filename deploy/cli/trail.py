"""The trail of one event: signed and posted as its provider would, then watched in Postgres until it is handled.

Guarantees: the times are of one clock, from the moment the request is sent; a step that does not come within its time
is said, not raised. Refuses: a missing endpoint (`RefusedError`), a key that does not fit (`RegistryError`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from deploy.cli import samples
from deploy.cli.endpoints import path_of
from deploy.cli.posting import post_many
from ingress.schemes import find
from shared.registry import Cipher, RegistryError
from shared.settings import fernet_keys
from workers.store.connect import connect
from workers.store.tenants import find_endpoint, is_alive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from deploy.cli.posting import Answer
    from deploy.local.state import Stack
    from shared.registry import Endpoint
    from workers.store.connect import Connection

POLL_SECONDS: Final = 0.004
TENANT: Final = "demo"
PROVIDER: Final = "moveris"


@dataclass(slots=True, kw_only=True)
class Trail:
    """What happened to one event; times in milliseconds since it was sent, None for what did not happen in time.

    Attributes:
        event_id: given by the ingress; None if it refused.
        refusal: what it answered then.
        acknowledged: the answer was there.
        stored: Postgres has it.
        handled: the last handler was done; None also while there is no handler.
        handlers: name of each delivery's handler, and its state unless it succeeded.
    """

    event_id: UUID | None
    refusal: str
    acknowledged: float = 0.0
    stored: float | None = None
    handled: float | None = None
    handlers: Sequence[str] = field(default_factory=tuple)


def follow(stack: Stack, *, seconds: float) -> Trail:
    """Send one event to the demo's endpoint and follow it for up to `seconds`."""
    with connect(stack.database_url, name="pipeline up") as connection:
        endpoint = find_endpoint(connection, tenant=TENANT, provider=PROVIDER)
        started = time.monotonic()
        answer = _post(stack, endpoint)
        trail = Trail(event_id=answer.id, refusal=f"{answer.status} {answer.code} {answer.detail}".strip())
        trail.acknowledged = answer.seconds * 1000
        while trail.event_id and time.monotonic() - started < seconds:
            if _look(connection, trail, started):
                break
            time.sleep(POLL_SECONDS)
        return trail


def _post(stack: Stack, endpoint: Endpoint) -> Answer:
    """Post one event as the provider would."""
    secret = next(filter(is_alive, endpoint.secrets), None)
    if secret is None:
        raise RegistryError(f"{TENANT} has no secret that may sign: add one with `pipeline secrets add {TENANT}`")
    body, headers = samples.moveris()
    key = Cipher(fernet_keys(stack.secrets_key)).decrypt(secret)
    signed = find(endpoint.scheme).sign(key, body, now=time.time(), event_id="")
    headers = {"Content-Type": "application/json"} | headers | signed
    url = stack.ingress_url + path_of(TENANT, PROVIDER)
    (answer,) = post_many(url, lambda: (body, headers), count=1, rate=None, connections=1, timeout=10)
    return answer


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
