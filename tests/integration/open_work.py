"""What the tests of deliveries share: two handlers, what the tables hold, and a queue that keeps its messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from workers.registration import Handler
from workers.store import catalogue
from workers.store.deliveries import Claimed, Outcome

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from uuid import UUID

    from workers.dispatch.admission import Message
    from workers.store.connect import Connection

NAMES = ["acme.mail", "acme.run"]

Key = tuple["UUID", str]


class Row(NamedTuple):
    """A delivery at one moment."""

    state: str
    attempt: int
    fence: int
    alone: bool
    tenant: str


def look(connection: Connection) -> dict[Key, Row]:
    """Return every delivery, open or finished; each is in one place only."""
    query = (
        "SELECT event_id, handler, state, attempt, fence, alone, tenant FROM deliveries UNION ALL"
        " SELECT event_id, handler, state, attempt, fence, false, tenant FROM deliveries_done"
    )
    rows = connection.execute(query).fetchall()
    found = {(row.pop("event_id"), row.pop("handler")): Row(**row) for row in rows}
    assert len(found) == len(rows), "a delivery is open and finished"
    return found


def announce_handlers(connection: Connection) -> None:
    """Let both have two attempts."""
    handlers = [
        Handler(name=name, function=lambda event, delivery: None, max_attempts=2, schedule=(0.0,)) for name in NAMES
    ]
    catalogue.announce(connection, handlers, code_version="1")


class Queue:
    """Keeps messages instead of sending them; some it loses, some it refuses."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.sent: list[Message] = []
        self._fails_at = fails_at

    def lengths(self) -> tuple[int, int]:
        return 0, 0

    def durations(self, lanes: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], float]:
        return {}

    def send(self, *messages: Message) -> None:
        if self._fails_at is not None and len(self.sent) + len(messages) > self._fails_at:
            raise ConnectionError("Redis is away")
        self.sent += messages


def outcome_of(claimed: Claimed, kind: str) -> Outcome:
    if kind == "succeeded":
        return Outcome(claimed=claimed, state="succeeded")
    if kind == "dead":
        return Outcome(claimed=claimed, state="dead", error="Permanent: no")
    return Outcome(claimed=claimed, state=None, error="ValueError: no", retry_in=0.0 if kind == "again" else 3600.0)
