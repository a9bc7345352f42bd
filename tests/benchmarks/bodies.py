"""Requests as Moveris sends them: signed, each of a session of its own, of the size that is asked for."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tests.moveris import signature

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET: Final = b"benchmarks-only-secret"
TENANT: Final = "acme"
PATH: Final = f"/webhooks/moveris/{TENANT}"
SIZE: Final = 600
"""Bytes of a body; the measured ones of Moveris have about that."""

_BODY: Final = (  # dated when the run begins: an event of another month is rejected as too old
    '{"event":"verification.completed","session_id":"%(session)s","timestamp":"%(now)s","data":'
    '{"session_id":"%(session)s","verdict":"live","confidence":0.94,"real_score":0.94,"score":94.0,'
    '"type":"VERY HIGH","model":"mixed-30-v2","input_source":"rest_frames","processing_ms":412,'
    '"frames_processed":30,"created_at":"%(now)s","tenant_metadata":{"note":"%(padding)s"}}}'
)
_NOW: Final = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
_BARE: Final = len(_BODY % {"session": "0" * 36, "padding": "", "now": _NOW})


def make_body(session: str, size: int = SIZE) -> bytes:
    """Return one `verification.completed` of `size` bytes, or the smallest possible."""
    return (_BODY % {"session": session, "padding": "x" * max(0, size - _BARE), "now": _NOW}).encode()


def make_small_body(session: str) -> bytes:
    """Return the smallest event that is accepted: 200 bytes less than a verdict, of a type without a model."""
    return b'{"event":"session.opened","session_id":"%b","pad":"%b"}' % (session.encode(), b"x" * 112)


def sign(body: bytes) -> str:
    """Return the value of X-Webhook-Signature."""
    return signature(SECRET, body)


def make_request(body: bytes, path: str = PATH) -> bytes:
    """Return a whole HTTP/1.1 request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Moveris-Webhooks/1.0\r\n"
        f"Content-Type: application/json\r\nX-Webhook-Event: verification.completed\r\n"
        f"X-Webhook-Signature: {sign(body)}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def make_requests(size: int = SIZE, path: str = PATH, tenants: int = 1) -> Iterator[bytes]:
    """Yield requests without end, each of a new session; a `*` in the path takes the numbers below `tenants`."""
    prefix, number = uuid.uuid4().hex[:20], 0
    while True:
        session = f"{prefix}{number:016d}"
        body = make_body(session, size) if size >= _BARE else make_small_body(session)
        yield make_request(body, path.replace("*", str(number % tenants)))
        number += 1
