"""The inbox entry: what the ingress appends and the drain reads.

Guarantees: the body is carried byte for byte; the version comes first, so that either side may be deployed before the
other. Refuses: entries of an unknown version or with missing fields (`EnvelopeError`).
"""

import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

VERSION = b"1"
LONGEST_NAME = 500
"""Bytes of a provider, a tenant or a label in an entry; the registry allows fewer."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_MILLISECOND = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)
_VERSION_AND_VARIANT = 0x7 << 76 | 0x2 << 62
_RANDOM_BITS = (1 << 80) - 1 & ~(0xF << 76 | 0x3 << 62)

KEPT_HEADERS = frozenset(
    {
        b"content-type",
        b"content-encoding",
        b"user-agent",
        b"x-request-id",
        b"traceparent",
        b"x-webhook-event",
        b"x-webhook-session",
        b"x-webhook-id",
        b"webhook-id",
        b"webhook-timestamp",
        b"x-github-event",
        b"x-github-delivery",
        b"x-github-hook-id",
        b"x-shopify-topic",
        b"x-shopify-webhook-id",
        b"x-shopify-event-id",
        b"x-shopify-shop-domain",
        b"x-shopify-triggered-at",
        b"shopify-topic",
        b"shopify-webhook-id",
        b"shopify-event-id",
        b"shopify-shop-domain",
        b"x-slack-request-timestamp",
        b"x-slack-retry-num",
        b"x-slack-retry-reason",
    }
)
"""Headers worth keeping, lower case: hints and ids. Never cookies, authorization or signatures."""

SIGNED_ID = b"signed-id"
"""What the ingress adds to the kept headers when the scheme signs an id: that id. It is in no request's power to set
it, because it is not among `KEPT_HEADERS`."""


class EnvelopeError(ValueError):
    """An inbox entry that this version cannot read; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One acknowledged request.

    Attributes:
        id: UUIDv7 given by the ingress; also the time key of the tables.
        provider: first path segment, such as "moveris".
        tenant: second path segment.
        secret_label: label of the secret that verified the signature.
        received_at: when the body was complete, aware, UTC.
        headers: the kept ones, in order, names in lower case.
        body: the bytes as received.
    """

    id: uuid.UUID
    provider: str
    tenant: str
    secret_label: str
    received_at: datetime
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def new_event_id(received_at: datetime) -> uuid.UUID:
    """Make a UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, then randomness."""
    milliseconds = (received_at - EPOCH) // _MILLISECOND
    return uuid.UUID(int=milliseconds << 80 | int.from_bytes(os.urandom(10)) & _RANDOM_BITS | _VERSION_AND_VARIANT)


def select_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """Select the headers worth keeping; names must be lower case already, as ASGI has them."""
    return tuple((name, value) for name, value in headers if name in KEPT_HEADERS)


def encode(envelope: Envelope) -> dict[bytes, bytes]:
    """Return the stream fields of one entry, the version first."""
    return {
        b"v": VERSION,
        b"id": envelope.id.bytes,
        b"provider": envelope.provider.encode(),
        b"tenant": envelope.tenant.encode(),
        b"label": envelope.secret_label.encode(),
        b"received_at": str((envelope.received_at - EPOCH) // _MICROSECOND).encode(),
        b"headers": b"".join(b"%b: %b\r\n" % header for header in envelope.headers),
        b"body": envelope.body,
    }


def size(fields: Mapping[bytes, bytes]) -> int:
    """Return the bytes that one entry counts against its tenant's share of the inbox."""
    return sum(map(len, fields.values()))


def decode(fields: Mapping[bytes, bytes]) -> Envelope:
    """Read one entry.

    Raises:
        EnvelopeError: unknown version, or a field is missing or malformed.
    """
    version = fields.get(b"v")
    if version != VERSION:
        raise EnvelopeError(f"unknown envelope version {version!r}")
    try:
        return Envelope(
            id=uuid.UUID(bytes=fields[b"id"]),
            provider=_name(fields, b"provider"),
            tenant=_name(fields, b"tenant"),
            secret_label=_name(fields, b"label"),
            received_at=EPOCH + timedelta(microseconds=int(fields[b"received_at"])),
            headers=tuple([_header(line) for line in fields[b"headers"].split(b"\r\n") if line]),
            body=fields[b"body"],
        )
    except KeyError as missing:
        raise EnvelopeError(f"the field {missing} is missing") from None
    except (ValueError, OverflowError) as error:
        raise EnvelopeError(f"malformed: {error}") from None


def _name(fields: Mapping[bytes, bytes], field: bytes) -> str:
    """Return a name that every table can hold: no NUL, and short enough for an index."""
    name = fields[field].decode()
    if not name or "\0" in name or len(fields[field]) > LONGEST_NAME:
        raise ValueError(f"{field.decode()} is no name of 1 to {LONGEST_NAME} bytes without NUL")
    return name


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b": ")
    return name, value
