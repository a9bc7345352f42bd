"""What the exporter shows of this moment: how much waits in which state, and for how long.

Nothing scans a table; counting stops at `BOUND`, and a figure of that size means "that or more". Queries are in
`figures.sql`; what has been counted since the beginning is in `workers.store.tallies`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from psycopg.rows import class_row

from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Collection

    from workers.store.connect import Connection

_QUERIES: Final = Queries("figures.sql")
BOUND: Final = 10_000
"""Where counting the deliveries of one state stops, and a walk over lanes."""
TENANT_BOUND: Final = 1_000
"""Where counting one tenant's deliveries stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWork:
    """Open deliveries by state, each up to `BOUND`; seconds are None where there are none, below 0 before the time.

    Attributes:
        due: may be admitted.
        retrying: wait for their next attempt; the first one's time came `late_seconds` ago.
        parked: wait for an older one of their subject.
        queued: a message was sent; the sweeper has looked for the first since `queued_late_seconds`.
        running: claimed; the first lease ended `lease_late_seconds` ago.
    """

    due: int
    retrying: int
    late_seconds: float | None
    parked: int
    queued: int
    queued_late_seconds: float | None
    running: int
    lease_late_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A tenant's due deliveries for one handler; the first has been due since `due_at` (Unix time)."""

    tenant: str
    handler: str
    due_at: float
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SilentEndpoint:
    """One that should have sent something so many seconds ago."""

    tenant: str
    provider: str
    overdue_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Finished without success, each up to `BOUND`: dead deliveries and rejected events that are stored."""

    dead: int
    rejected: int


def begin_look(connection: Connection, *, seconds: float) -> float:
    """Let no statement of this session take longer, nor read a whole table; return Postgres' Unix time."""
    (row,) = connection.execute(_QUERIES["begin_look"], {"timeout": f"{seconds * 1000:.0f}ms"}).fetchall()
    now: float = row["now"]
    return now


def read_open_work(connection: Connection) -> OpenWork:
    """Count open deliveries."""
    with connection.cursor(row_factory=class_row(OpenWork)) as cursor:
        (found,) = cursor.execute(_QUERIES["open_work"]).fetchall()
    return found


def list_due_lanes(connection: Connection, *, after: tuple[str, str]) -> list[Lane]:
    """Return lanes with due deliveries in the order of tenant and handler, at most `BOUND`.

    Args:
        connection: outside a transaction.
        after: tenant and handler of the last lane that is not wanted.
    """
    parameters = {"tenant": after[0], "handler": after[1]}
    with connection.cursor(row_factory=class_row(Lane)) as cursor:
        return cursor.execute(_QUERIES["due_lanes"], parameters).fetchall()


def count_due(connection: Connection, tenants: Collection[str]) -> dict[str, int]:
    """Count the due deliveries of each of these tenants, up to `TENANT_BOUND`."""
    rows = connection.execute(_QUERIES["count_due"], {"tenants": list(tenants)})
    return {row["tenant"]: row["count"] for row in rows}


def count_kept(connection: Connection) -> Kept:
    """Count what finished without success."""
    with connection.cursor(row_factory=class_row(Kept)) as cursor:
        (found,) = cursor.execute(_QUERIES["count_kept"]).fetchall()
    return found


def count_by_handler(connection: Connection, *, runnable: Collection[str] | None) -> dict[str, int]:
    """Count the deliveries of each handler that could run now or are under way, up to `BOUND` of each state.

    Args:
        connection: outside a transaction.
        runnable: handlers whose due deliveries count; None: all.
    """
    parameters = {"runnable": None if runnable is None else sorted(runnable)}
    return {row["handler"]: row["count"] for row in connection.execute(_QUERIES["open_by_handler"], parameters)}


def list_silent_endpoints(connection: Connection) -> list[SilentEndpoint]:
    """Return the endpoints that have been silent for longest against what is usual, twenty at most."""
    with connection.cursor(row_factory=class_row(SilentEndpoint)) as cursor:
        return cursor.execute(_QUERIES["silent_endpoints"]).fetchall()


def read_last_events(connection: Connection, endpoints: Collection[tuple[str, str]]) -> dict[tuple[str, str], float]:
    """Return when (Unix time) the last event of each (tenant, provider) was stored, as far as it is known."""
    parameters = {"tenants": [it[0] for it in endpoints], "providers": [it[1] for it in endpoints]}
    rows = connection.execute(_QUERIES["last_events"], parameters)
    return {(row["tenant"], row["provider"]): row["at"] for row in rows}
