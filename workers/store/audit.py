"""The audit: who changed what, when and why. Rows are only ever added, and outlive the events.

Changes of tenants, endpoints, secrets, limits and the console's users are recorded by triggers, in the transaction of
the change: one that somebody makes with psql is recorded too. Other changes call `record`. No secret, no password's
hash and no body is ever recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from workers.store.connect import Connection

_SQL: Final = Queries("audit.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One change.

    Attributes:
        at: when, aware.
        who: a user of the system or the console, or the role of Postgres where nobody was named.
        what: such as "tenants changed".
        target: names what was changed, such as "acme".
        before: of what changed only; None where there was nothing.
        after: the same.
        why: as that person gave it.
    """

    id: int
    at: datetime
    who: str
    what: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    why: str | None


def act_as(connection: Connection, who: str, why: str | None = None, *, is_local: bool = False) -> None:
    """Name the person in whose name changes are made from now on, and the reason: in this session, or transaction.

    Args:
        connection: of the changes.
        who: see `Entry`.
        why: None for no reason.
        is_local: until the end of this transaction only.
    """
    connection.execute(_SQL["act_as"], {"who": who, "why": why or "", "is_local": is_local})


def record(
    connection: Connection,
    *,
    what: str,
    target: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    who: str | None = None,
    why: str | None = None,
) -> None:
    """Add one entry, in the transaction of the change.

    Args:
        connection: of the change.
        what: such as "handlers removed".
        target: names what was changed.
        before: JSON values, nothing secret.
        after: the same.
        who: None for the person of the session.
        why: None for the reason of the session.
    """
    values = {
        "who": who,
        "what": what,
        "target": target,
        "before": None if before is None else Jsonb(before),
        "after": None if after is None else Jsonb(after),
        "why": why,
    }
    connection.execute(_SQL["record"], values)


def list_entries(
    connection: Connection,
    *,
    limit: int,
    who: str | None = None,
    what: str | None = None,
    target: str | None = None,
    since: datetime | None = None,
    before_id: int | None = None,
) -> list[Entry]:
    """Return entries, newest first; None does not narrow.

    Args:
        connection: of any role that may read.
        limit: most that are returned.
        who: exactly this person.
        what: begins so, as "tenants" does for all changes of tenants.
        target: exactly this, or the first word of it: a tenant finds its endpoints.
        since: aware.
        before_id: older than this one, for the next page.
    """
    values = {"who": who, "what": what, "target": target, "since": since, "before_id": before_id, "most": limit}
    with connection.cursor(row_factory=class_row(Entry)) as cursor:
        return cursor.execute(_SQL["list_entries"], values, prepare=False).fetchall()
