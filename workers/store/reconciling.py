"""What came of a tenant's events in a time, to be compared with what a provider says that it has sent.

A page of 5,000 events is read at a time, along an index; a million take some minutes. Queries are in `reconciling.sql`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from psycopg.rows import class_row

from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from workers.store.connect import Connection

_QUERIES: Final = Queries("reconciling.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """One stored event.

    Attributes:
        subject: what it is about, such as a session's id; None if the provider names nothing, or it was not readable.
        state: "accepted" or "rejected", for the `reject_reason`.
        arrivals: how often it came again.
        waiting: handlers whose delivery is open.
        failed: handlers whose delivery is dead or cancelled.
        finished: whether any delivery is finished.
    """

    id: UUID
    provider: str
    type: str | None
    subject: str | None
    state: str
    reject_reason: str | None
    arrivals: int
    waiting: Sequence[str]
    failed: Sequence[str]
    finished: bool

    @property
    def outcome(self) -> str:
        """What became of it: rejected, failed, waiting, handled or unwanted (no handler asked for it)."""
        if self.state == "rejected":
            return "rejected"
        if self.failed:
            return "failed"
        if self.waiting:
            return "waiting"
        return "handled" if self.finished else "unwanted"


def list_came(connection: Connection, *, tenant: str, since: datetime | None, until: datetime | None) -> Iterator[Came]:
    """Yield a tenant's events in the order of receipt.

    Args:
        connection: outside a transaction.
        tenant: its name.
        since: aware, received then or later; None: as far back as events are kept.
        until: aware, received before; None: until now.
    """
    (bounds,) = connection.execute(_QUERIES["bounds"], {"since": since, "until": until}).fetchall()
    values = bounds | {"tenant": tenant}
    while True:
        with connection.cursor(row_factory=class_row(Came)) as cursor:
            page = cursor.execute(_QUERIES["list_came"], values, prepare=False).fetchall()
        if not page:
            return
        yield from page
        values["after"] = page[-1].id
