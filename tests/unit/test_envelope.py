"""The inbox entry: what is appended is what is read, and what is malformed is told."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from shared.envelope import LONGEST_NAME, Envelope, EnvelopeError, decode, encode, new_event_id, size

RECEIVED_AT = datetime(2026, 3, 27, 12, 0, 0, 123456, tzinfo=UTC)
ENVELOPE = Envelope(
    id=new_event_id(RECEIVED_AT),
    provider="moveris",
    tenant="acme",
    secret_label="first",
    received_at=RECEIVED_AT,
    headers=((b"content-type", b"application/json"), (b"x-request-id", b"a: b")),
    body=b'{"raw": "\xff\x00"}\r\n',
)


def test_an_entry_is_read_as_it_was_written() -> None:
    fields = encode(ENVELOPE)
    assert next(iter(fields)) == b"v", "the version comes first"
    assert decode(fields) == ENVELOPE


def test_an_entry_counts_the_bytes_of_all_its_fields() -> None:
    fields = encode(ENVELOPE)
    assert size(fields) == sum(len(value) for value in fields.values()) > len(ENVELOPE.body)


@pytest.mark.parametrize("field", [b"provider", b"tenant", b"label"])
def test_a_name_may_be_as_long_as_the_bound_and_no_longer(field: bytes) -> None:
    fields = encode(ENVELOPE)
    decode(fields | {field: b"n" * LONGEST_NAME})
    for wrong in (b"n" * (LONGEST_NAME + 1), b"", b"a\0b", b"\xff"):
        with pytest.raises(EnvelopeError, match="malformed"):
            decode(fields | {field: wrong})


@pytest.mark.parametrize(
    ("field", "wrong"), [(b"id", b"short"), (b"received_at", b"soon"), (b"received_at", b"9" * 30)]
)
def test_what_cannot_be_read_is_malformed(field: bytes, wrong: bytes) -> None:
    with pytest.raises(EnvelopeError, match="malformed"):
        decode(encode(ENVELOPE) | {field: wrong})


@pytest.mark.parametrize("field", list(encode(ENVELOPE)))
def test_a_field_that_is_missing_is_named(field: bytes) -> None:
    fields = encode(ENVELOPE)
    del fields[field]
    with pytest.raises(EnvelopeError, match="version" if field == b"v" else field.decode()):
        decode(fields)


def test_an_entry_of_another_version_is_refused() -> None:
    with pytest.raises(EnvelopeError, match=r"unknown envelope version b'2'"):
        decode(encode(ENVELOPE) | {b"v": b"2"})
