"""The outbox of alerts in Postgres: which notices a channel has seen, and the messages that it is sent.

Messages of a notice are made in one transaction with the place up to which notices are seen. A message is sent by who
has claimed it; one whose sender dies is claimed again after its lease, under the same id. Queries are in `alerts.sql`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from workers.store.connect import Connection

_SQL: Final = Queries("alerts.sql")
BURST: Final = 5
BURST_SECONDS: Final = 300.0
"""A channel gets `BURST` messages in that time; what would be more waits, and becomes one digest."""
_NOTICES: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message that is ours to send until its lease ends.

    Attributes:
        attempts: this one included.
    """

    number: int
    id: UUID
    content: dict[str, Any]
    attempts: int
    made_at: datetime


def make_messages(
    connection: Connection,
    channel: str,
    tenants: Sequence[str] | None,
    compose: Callable[[Sequence[Mapping[str, Any]], bool], list[dict[str, Any]]],
) -> int:
    """Make the messages of what a channel has not seen; return how many.

    Args:
        connection: outside a transaction.
        channel: its name; a new one begins with what is told from now on.
        tenants: whose incidents it is told; None for all.
        compose: returns the contents of notices, one each or, if the second argument is true, one of all.
    """
    with connection.transaction():
        connection.execute(_SQL["open_channel"], {"channel": channel})
        (row,) = connection.execute(_SQL["lock_channel"], {"channel": channel}).fetchall()
        values = {"seen": row["seen"], "tenants": None if tenants is None else list(tenants), "most": _NOTICES}
        notices = connection.execute(_SQL["list_notices"], values, prepare=False).fetchall()
        if not notices:
            return 0
        wanted = [it for it in notices if _is_wanted(it, tenants)]
        (made,) = connection.execute(_SQL["count_made"], {"channel": channel, "window": BURST_SECONDS}).fetchall()
        room = BURST - made["count"]
        if wanted and room <= 0:
            return 0
        contents = compose(wanted, len(wanted) > room) if wanted else []
        for content in contents:
            connection.execute(_SQL["add_message"], {"channel": channel, "content": json.dumps(content)})
        connection.execute(_SQL["move_channel"], {"channel": channel, "seen": notices[-1]["notice"]})
        return len(contents)


def _is_wanted(notice: Mapping[str, Any], tenants: Sequence[str] | None) -> bool:
    """Say whether a channel is told; one of all tenants is told of an incident as a whole, not of each that joins."""
    if tenants is None:
        return bool(notice["notice_kind"] != "joined")
    return not notice["told"] and not set(tenants).isdisjoint(notice["notice_tenants"])


def list_due(connection: Connection, channels: Sequence[str]) -> set[str]:
    """Return the channels whose oldest message is due."""
    return {row["channel"] for row in connection.execute(_SQL["list_due"], {"channels": list(channels)})}


def claim(connection: Connection, channel: str, *, lease: float) -> Message | None:
    """Take the oldest message of a channel for `lease` seconds; None if there is none, or it is not due."""
    row = connection.execute(_SQL["claim"], {"channel": channel, "lease": lease}).fetchone()
    return None if row is None else Message(**row)


def mark_sent(connection: Connection, message: Message) -> None:
    """Note that a message has arrived."""
    connection.execute(_SQL["mark_sent"], {"number": message.number})


def mark_failed(connection: Connection, message: Message, *, error: str, wait: float, gives_up: bool) -> None:
    """Note that a message has not arrived; it is tried again after `wait` seconds, or never."""
    values = {
        "number": message.number,
        "attempts": message.attempts,
        "error": error,
        "wait": wait,
        "gives_up": gives_up,
    }
    connection.execute(_SQL["mark_failed"], values)


def read_channels(connection: Connection, channels: Sequence[str]) -> list[dict[str, Any]]:
    """Return of each channel what waits, when something was sent last, and why the oldest message has not arrived."""
    return connection.execute(_SQL["read_channels"], {"channels": list(channels)}).fetchall()


def drop_old(connection: Connection) -> None:
    """Delete messages of more than a week ago."""
    connection.execute(_SQL["drop_old"])
