"""What parsing returns, and what a handler is given.

Every event has a provider and a type. Fields that the provider's model does not know stay reachable. `Rejected` says
why a body must not reach a handler.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Protocol

from pydantic import AwareDatetime, TypeAdapter, ValidationError
from pydantic_core import from_json

from shared.envelope import SIGNED_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

Headers = tuple[tuple[bytes, bytes], ...]
"""Request headers, in order, names in lower case. They are not signed, but for `signed-id`: hints at most."""

MAX_NAME: Final = 200
"""Characters of a type, a subject or an identity's part; longer ones are no names."""
EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""What every database and every time zone can express; "2026" would else be read as seconds since 1970."""

CACHE_STRINGS: Final = "keys"
"""What the JSON parser keeps to use again: keys. It would keep texts, too, sixteen thousand of them, 2 MB in each
process, and session ids do not come again."""

_INSTANT: Final = TypeAdapter(AwareDatetime)


class Rejected(Exception):  # noqa: N818 - a verdict on the body, not a failure of the parser
    """The body must not reach a handler.

    Attributes:
        reason: snake_case code, kept as `reject_reason`.
        detail: one line for people, such as the field at fault; holds no value of the body.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Event(Protocol):
    """What every handler is given, whatever the provider."""

    @property
    def provider(self) -> str:
        """Who sent it, such as "moveris"."""

    @property
    def type(self) -> str:
        """The event type, such as "verification.completed"."""

    @property
    def subject(self) -> str | None:
        """What it is about, such as a session's id."""

    @property
    def occurred_at(self) -> datetime | None:
        """When it happened by the provider's clock, aware."""


@dataclass(frozen=True, kw_only=True)
class GenericEvent:
    """An event of a provider or type without a model of its own.

    Attributes:
        provider: who sent it.
        type: as the body names it, "unknown" if it does not.
        subject: what it is about, if that is known.
        occurred_at: aware, if that is known.
        body: exactly the bytes that were received.
    """

    provider: str
    type: str
    subject: str | None
    occurred_at: datetime | None
    body: bytes

    def json(self) -> dict[str, Any]:
        """Return the body's JSON object; the same one at every call."""
        return self._tree

    @cached_property
    def _tree(self) -> dict[str, Any]:
        tree: dict[str, Any] = from_json(self.body, cache_strings=CACHE_STRINGS)
        return tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A body that was understood.

    Attributes:
        fingerprint: 33 bytes for a provider's identity, 32 (SHA-256 of the body) where there is none.
        event: what handlers are given.
        signed_at: when the provider made this event, aware, if its signed body says so; an event that is older than
            `DEDUP_DAYS` when it is received is rejected, since its receipt may be gone.
        notes: what was odd and not obeyed, a line each.
    """

    type: str
    subject: str | None
    occurred_at: datetime | None
    fingerprint: bytes
    event: Event
    signed_at: datetime | None = None
    notes: tuple[str, ...] = ()


def body_fingerprint(body: bytes) -> bytes:
    """Return the identity of what has no better one: its bytes."""
    return sha256(body).digest()


def identity_fingerprint(provider: str, *parts: str) -> bytes:
    """Return the fingerprint of a provider's identity, from signed content.

    The parts hold no NUL (`strict_json` refuses them), so that joining them is unambiguous. The leading byte keeps
    identities apart from the SHA-256 of any body.
    """
    return b"\x01" + sha256("\0".join((provider, *parts)).encode()).digest()


def fingerprint_of(provider: str, body: bytes, headers: Headers) -> bytes:
    """Return the fingerprint of an event whose body names no identity: the id that its scheme signs, else its bytes."""
    for name, value in headers:
        if name == SIGNED_ID:
            return identity_fingerprint(provider, "signed-id", value.decode("latin-1"))
    return body_fingerprint(body)


def header_or_none(headers: Headers, name: bytes) -> str | None:
    """Return a header's value; of a repeated one all values, joined as they are stored."""
    values = [value.decode("latin-1") for each, value in headers if each == name]
    return ", ".join(values) if values else None


def name_or_none(value: object) -> str | None:
    """Return a text fit to be a type or subject, else None."""
    return value if isinstance(value, str) and 0 < len(value) <= MAX_NAME else None


def instant_or_none(value: object) -> datetime | None:
    """Return the aware time that an ISO 8601 text says, else None."""
    if not isinstance(value, str):
        return None
    try:
        instant = _INSTANT.validate_python(value)
    except ValidationError:
        return None
    return instant if EARLIEST <= instant < LATEST else None


def second_or_none(value: object) -> datetime | None:
    """Return the aware time that a whole number of Unix seconds says, else None."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    if not EARLIEST.timestamp() <= value < LATEST.timestamp():
        return None
    return datetime.fromtimestamp(value, UTC)


def note_mismatches(headers: Headers, hints: Sequence[tuple[bytes, str | None]]) -> tuple[str, ...]:
    """Return a line for each unsigned header that contradicts the signed body.

    Args:
        headers: as received.
        hints: header name (lower case) and what the body says.
    """
    if not headers:
        return ()
    said, notes = dict(headers), []
    for name, value in hints:
        given = said.get(name)
        if given is not None and value is not None and given != value.encode():
            shown = given.decode("latin-1")[:MAX_NAME]
            notes.append(f"{name.decode()}: the header says {shown!r}, the signed body {value!r}")
    return tuple(notes)
