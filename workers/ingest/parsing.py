"""Decides what one inbox entry becomes: accepted, or rejected for which reason.

Every entry gets an outcome, whatever it holds, so that none can block the inbox. The body is passed on exactly as
received.
"""

from __future__ import annotations

import json
import logging
from base64 import b64decode, b64encode
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Final
from uuid import UUID

from shared.envelope import EPOCH, EnvelopeError, decode
from workers import events
from workers.events.model import Rejected, body_fingerprint
from workers.store.entry import Entry, headers_json, notes_array

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.envelope import Envelope

log = logging.getLogger(__name__)

POISON_DELIVERIES: Final = 5
"""From this delivery on, an entry is stored unparsed: it has ended too many processes."""
POISON: Final = "poison"
BAD_ENVELOPE: Final = "bad_envelope"
PARSER_FAILED: Final = "parser_failed"
TOO_OLD: Final = "too_old"
_LAST_MILLISECOND: Final = 253_402_300_799_999  # of the year 9999
_UNKNOWN: Final = "unknown"


def parse_entry(stream_id: bytes, fields: Mapping[bytes, bytes], *, deliveries: int, dedup_days: int) -> Entry:
    """Decide what to store of one inbox entry.

    1. What cannot be read as an envelope is rejected with all its fields in the body.
    2. What was delivered too often is rejected unparsed.
    3. What does not parse is rejected with the parser's reason; what parses is accepted.

    Args:
        stream_id: its place in the inbox.
        fields: as the ingress wrote them.
        deliveries: how often it was given to a drain, this time included.
        dedup_days: see `parse_envelope`.
    """
    try:
        envelope = decode(fields)
    except EnvelopeError as error:
        return _broken(stream_id, fields, error)
    if deliveries >= POISON_DELIVERIES:
        return rejected(envelope, Rejected(POISON, f"delivered {deliveries} times"))
    return parse_envelope(envelope, dedup_days=dedup_days)


def parse_envelope(envelope: Envelope, *, dedup_days: int | None = None) -> Entry:
    """Do step 3 of `parse_entry`.

    Args:
        envelope: what the ingress received.
        dedup_days: reject what its provider dated earlier than that before it was received: it may be a replay of an
            event whose receipt is gone. None to accept it.
    """
    try:
        parsed = events.parse(envelope.provider, envelope.body, envelope.headers)
        if dedup_days is not None and parsed.signed_at is not None:
            age = envelope.received_at - parsed.signed_at
            if age > timedelta(days=dedup_days):
                detail = f"dated {age.days} days before it was received; DEDUP_DAYS is {dedup_days}"
                return rejected(envelope, Rejected(TOO_OLD, detail))
    except Rejected as rejection:
        return rejected(envelope, rejection)
    except Exception as error:  # noqa: BLE001 - a fault of a parser must not block the inbox
        # Without the error's text: it may quote the body.
        log.error(  # noqa: TRY400 - the same
            "the parser of %s failed with %s",
            envelope.provider,
            type(error).__name__,
            extra={"event_id": envelope.id, "tenant": envelope.tenant, "code": PARSER_FAILED},
        )
        return rejected(envelope, Rejected(PARSER_FAILED, type(error).__name__))
    return Entry(
        envelope.id,
        envelope.provider,
        envelope.tenant,
        parsed.type,
        parsed.subject,
        parsed.occurred_at,
        envelope.received_at,
        headers_json(envelope.headers),
        envelope.body,
        envelope.secret_label,
        parsed.fingerprint,
        None,
        notes_array(parsed.notes),
    )


def rejected(envelope: Envelope, rejection: Rejected) -> Entry:
    """Return the entry of a body that must not reach a handler."""
    return Entry(
        id=envelope.id,
        provider=envelope.provider,
        tenant=envelope.tenant,
        type=None,
        subject=None,
        occurred_at=None,
        received_at=envelope.received_at,
        headers=headers_json(envelope.headers),
        body=envelope.body,
        secret_label=envelope.secret_label,
        fingerprint=body_fingerprint(envelope.body),
        reject_reason=rejection.reason,
        notes=notes_array([rejection.detail] if rejection.detail else []),
    )


def _broken(stream_id: bytes, fields: Mapping[bytes, bytes], error: EnvelopeError) -> Entry:
    """Return the entry of what is no envelope. Its id is derived from it: read again, it is the same event."""
    body = json.dumps({name.decode("latin-1"): b64encode(value).decode() for name, value in fields.items()}).encode()
    milliseconds = min(int(stream_id.partition(b"-")[0]), _LAST_MILLISECOND)
    number = (milliseconds << 80) | int.from_bytes(sha256(stream_id + body).digest()[:10])
    number = number & ~(0xF << 76) | (0x7 << 76)
    number = number & ~(0x3 << 62) | (0x2 << 62)
    return Entry(
        id=UUID(int=number),
        provider=_text(fields.get(b"provider")),
        tenant=_text(fields.get(b"tenant")),
        type=None,
        subject=None,
        occurred_at=None,
        received_at=EPOCH + timedelta(milliseconds=milliseconds),
        headers=headers_json(()),
        body=body,
        secret_label=_text(fields.get(b"label")),
        fingerprint=body_fingerprint(body),
        reject_reason=BAD_ENVELOPE,
        notes=notes_array([str(error)[:500].replace("\0", "")]),
    )


def fields_of_broken(body: bytes) -> dict[bytes, bytes]:
    """Return the fields of an entry that was stored as `bad_envelope`, for a version that can read it."""
    return {name.encode("latin-1"): b64decode(value) for name, value in json.loads(body).items()}


def _text(value: bytes | None) -> str:
    """Return bytes as a text that every table can hold."""
    return (value or b"").decode(errors="replace").replace("\0", "")[:100] or _UNKNOWN
