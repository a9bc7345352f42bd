"""Pauses: of a tenant, of a handler, or of a handler for one tenant; nothing of them starts until they are resumed.

Guarantees: what was queued before is due again once `pause` returns, and no admission queues it; what runs goes on to
its end. Events are still acknowledged and stored, and their deliveries wait in order. Queries are in `pauses.sql`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from psycopg.rows import class_row

from workers.store.limits import ANY
from workers.store.sql import Queries
from workers.store.tenants import find_tenant

if TYPE_CHECKING:
    from datetime import datetime

    from workers.store.connect import Connection

_QUERIES: Final = Queries("pauses.sql")
MOST_LISTED: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """One pause.

    Attributes:
        tenant: "*" for all tenants.
        handler: "*" for all handlers.
        paused_at: since when, aware.
        paused_by: a user of the system or the console; None where it was paused by an earlier release.
        pause_reason: as that person gave it.
        paused_until: when it ends by itself, aware; None: when somebody resumes it.
    """

    tenant: str
    handler: str
    paused_at: datetime
    paused_by: str | None
    pause_reason: str | None
    paused_until: datetime | None

    def __str__(self) -> str:
        """Return since when, by whom, why and until when, in words."""
        return describe(self.paused_at, self.paused_by, self.pause_reason, self.paused_until)


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseCounts:
    """How many tenants, handlers, and handlers for one tenant are paused; the oldest pause is `oldest_seconds` old."""

    tenants: int
    handlers: int
    lanes: int
    oldest_seconds: float | None


def describe(since: datetime, by: str | None, reason: str | None, until: datetime | None) -> str:
    """Return since when something is paused, by whom, why and until when, in words; times are UTC."""
    who = f" by {by}" if by else ""
    end = f", until {until:%Y-%m-%d %H:%M:%S} UTC" if until else ""
    return f"since {since:%Y-%m-%d %H:%M:%S} UTC{who}{end}{f': {reason}' if reason else ''}"


def pause(connection: Connection, *, tenant: str = ANY, handler: str = ANY, until: datetime | None = None) -> int:
    """Let nothing more start of a tenant, of a handler, or of a handler for one tenant.

    Who and why come from the session, see `audit.act_as`. What is paused already stays so since then, with the new
    reason and end.

    Args:
        connection: outside a transaction.
        tenant: one that exists, or "*".
        handler: its name, or "*"; not both may be "*".
        until: aware; None for good.

    Returns:
        How many deliveries had been sent to workers and were taken back.

    Raises:
        RefusedError: UnknownTenantError.
        ValueError: for all handlers of all tenants.
    """
    if tenant == handler == ANY:
        raise ValueError("a pause names a tenant, a handler or both")
    values = {"tenant": tenant, "handler": handler, "until": until}
    with connection.transaction():
        if tenant != ANY:
            find_tenant(connection, tenant)
        connection.execute(_QUERIES["lock_admission"])
        connection.execute(_QUERIES["pause_tenant" if handler == ANY else "pause_handler"], values)
        return connection.execute(_QUERIES["unqueue"], values).rowcount


def resume(connection: Connection, *, tenant: str = ANY, handler: str = ANY) -> bool:
    """Let what was paused start again; return whether exactly this was paused. Raises UnknownTenantError."""
    if tenant != ANY:
        find_tenant(connection, tenant)
    values = {"tenant": tenant, "handler": handler}
    query = "resume_tenant" if handler == ANY else "resume_handler"
    return connection.execute(_QUERIES[query], values).rowcount > 0


def list_pauses(
    connection: Connection, *, tenant: str = ANY, handler: str = ANY, most: int = MOST_LISTED
) -> list[Pause]:
    """Return pauses, the oldest first; given a tenant or a handler, those that hold its deliveries back."""
    values = {"tenant": tenant, "handler": handler, "most": most}
    with connection.cursor(row_factory=class_row(Pause)) as cursor:
        return cursor.execute(_QUERIES["list_pauses"], values, prepare=False).fetchall()


def count_pauses(connection: Connection) -> PauseCounts:
    """Count what is paused."""
    with connection.cursor(row_factory=class_row(PauseCounts)) as cursor:
        (found,) = cursor.execute(_QUERIES["count_pauses"]).fetchall()
    return found


def end_pauses(connection: Connection) -> int:
    """Resume what was paused until now or earlier; return how many pauses have ended."""
    (row,) = connection.execute(_QUERIES["are_over"]).fetchall()
    if not row["some"]:
        return 0
    with connection.transaction():
        connection.execute(_QUERIES["say_why"])
        queries = ("end_tenant_pauses", "end_handler_pauses")
        return sum(connection.execute(_QUERIES[query]).rowcount for query in queries)
