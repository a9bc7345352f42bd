"""One inbox entry after parsing, in the form that the tables need; Postgres can store all its texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pydantic_core import to_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

NO_HEADERS: Final = "{}"
_NO_NOTES: Final = "{}"


class Entry(NamedTuple):
    """One inbox entry after parsing. A tuple, because columns are made of thousands of them.

    Attributes:
        id: given by the ingress.
        type: None when it was rejected before that was known.
        received_at: aware.
        headers: a JSON object, see `headers_json`.
        fingerprint: what makes it the same event.
        reject_reason: None when accepted.
        notes: a Postgres array, see `notes_array`.
    """

    id: UUID
    provider: str
    tenant: str
    type: str | None
    subject: str | None
    occurred_at: datetime | None
    received_at: datetime
    headers: str
    body: bytes
    secret_label: str
    fingerprint: bytes
    reject_reason: str | None
    notes: str


def headers_json(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Return headers as a JSON object; values of a repeated one are joined by ", ", as HTTP has it."""
    if not headers:
        return NO_HEADERS
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    merged = dict(pairs)
    if len(merged) < len(pairs):
        merged = {name: ", ".join(value for each, value in pairs if each == name) for name in merged}
    return to_json(merged).decode()


def notes_array(notes: Sequence[str]) -> str:
    """Return notes as the text of a Postgres array: inside an array of rows they could not be one themselves."""
    if not notes:
        return _NO_NOTES
    quoted = (note.replace("\\", "\\\\").replace('"', '\\"') for note in notes)
    return "{" + ",".join(f'"{note}"' for note in quoted) + "}"
