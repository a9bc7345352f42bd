"""Current figures: what became of acknowledged ids, the work of each tenant, events received in the last hour.

Nothing scans history. Counting stops at a bound; a figure of that size means "that or more". Queries are in
`stats.sql`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import class_row

from workers.store.partitions import KEYS
from workers.store.pauses import describe
from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import date, datetime
    from uuid import UUID

    from workers.store.connect import Connection

_SQL: Final = Queries("stats.sql")
BOUND: Final = 10_000
"""Where counting one tenant's deliveries stops."""
COUNTED_BOUND: Final = 100_000
"""Rows of tallies that are read for the events of the last minute or hour."""
OLD_SECONDS: Final = 60
"""Age of an old snapshot. With one, the look for expired leases takes 12 ms more per 100,000 that were finished."""
TENANTS_SHOWN: Final = 100
"""Tenants, and handlers, of which figures are read."""
_NAMES_SHOWN: Final = 3


class Fate(StrEnum):
    """What became of an acknowledged id."""

    NOT_STORED = "not_stored"  # still in the inbox
    OPEN = "open"  # a delivery waits or runs
    HANDLED = "handled"  # every delivery succeeded
    DEAD = "dead"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    UNWANTED = "unwanted"  # stored, and no handler asks for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One tenant's work at this moment; each figure stops at `BOUND`."""

    tenant: str
    pending: int
    retrying: int
    queued: int
    running: int
    dead: int
    paused_at: datetime | None
    paused_by: str | None
    pause_reason: str | None
    paused_until: datetime | None
    max_in_flight: int | None
    weight: int
    oldest_seconds: float | None
    """Since when the oldest of what is pending has been due."""
    limited_handlers: list[str]
    """Handlers with a limit that some of what is pending is for."""
    handlers: list[str]
    """The handlers that something is pending for, the first hundred."""
    paused_handlers: list[str]
    """Those of them that are paused."""

    def waits_for(self, live: Collection[str] | None) -> str | None:
        """Say in words what the pending deliveries wait for, None if there are none.

        Args:
            live: the handlers that some worker runs; None if that is not known.
        """
        return next(self._reasons(live), "its turn at a free slot") if self.pending else None

    def _reasons(self, live: Collection[str] | None) -> Iterator[str]:
        """Yield what holds them back, what holds back most first."""
        if self.paused_at is not None:
            yield f"its pause, {describe(self.paused_at, self.paused_by, self.pause_reason, self.paused_until)}"
        if self.handlers and not {*self.handlers} - {*self.paused_handlers}:
            yield f"the pause of {_name_some(self.paused_handlers)}"
        if nobodys := [] if live is None else [it for it in self.handlers if it not in live]:
            yield f"a worker that runs {_name_some(nobodys)}"
        if self.max_in_flight is not None and self.queued + self.running >= self.max_in_flight:
            yield f"its own limit of {self.max_in_flight} in flight"
        if self.limited_handlers:
            yield f"the limit of {', '.join(self.limited_handlers)}, or its turn"
        if self.paused_handlers:
            yield f"the pause of {_name_some(self.paused_handlers)}, or its turn"


def _name_some(handlers: Sequence[str]) -> str:
    more = " and others" if len(handlers) > _NAMES_SHOWN else ""
    return f"{', '.join(handlers[:_NAMES_SHOWN])}{more}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerLoad:
    """One handler's work at this moment, of `BOUND` deliveries in each state at most."""

    handler: str
    retrying: int
    queued: int
    running: int
    dead: int
    top_error: str | None
    """The commonest text of the kind of error that most of what is retrying or dead has in common."""
    top_error_count: int
    """Deliveries whose last error is of that kind: what stands before the first colon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What drains have stored: all events, and those among them that were rejected."""

    stored: int
    rejected: int
    is_bounded: bool
    """There are more: `COUNTED_BOUND` rows were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OldSnapshot:
    """A session, or a prepared transaction without one, that has looked at the same moment for so many seconds."""

    pid: int | None
    role: str
    application: str
    seconds: float

    def __str__(self) -> str:
        """Return a sentence that names it and says what to do."""
        end = f"SELECT pg_terminate_backend({self.pid})" if self.pid else "COMMIT PREPARED or ROLLBACK PREPARED"
        who = f"{self.application or 'a session'} of the role {self.role}" + (f" (pid {self.pid})" if self.pid else "")
        return f"{who} has held a snapshot for {self.seconds:.0f} s: until it ends, sweeps get slower ({end})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Days:
    """The days that have partitions; `newest` is the last one that every table has, None if one has none."""

    oldest: date | None
    newest: date | None
    today: date


def read_fates(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, Fate]:
    """Say what became of acknowledged ids; a duplicate shares the fate of the event that it repeats."""
    rows = connection.execute(_SQL["read_fates"], {"ids": list(ids)}, prepare=False)
    return {row["id"]: _fate(row) for row in rows}


def _fate(row: Mapping[str, Any]) -> Fate:
    done = row["done"] or []
    match row["state"]:
        case None:
            return Fate.NOT_STORED
        case "rejected":
            return Fate.REJECTED
    if row["open"]:
        return Fate.OPEN
    if "dead" in done:
        return Fate.DEAD
    if "cancelled" in done:
        return Fate.CANCELLED
    return Fate.HANDLED if done else Fate.UNWANTED


def read_load(connection: Connection, *, tenant: str | None = None) -> list[Load]:
    """Return the work of one tenant; or of those that have open or dead deliveries, the first hundred by name."""
    values = {"bound": BOUND, "tenants": TENANTS_SHOWN, "tenant": tenant}
    with connection.cursor(row_factory=class_row(Load)) as cursor:
        return cursor.execute(_SQL["tenants_with_work"], values, prepare=False).fetchall()


def read_handler_load(connection: Connection) -> list[HandlerLoad]:
    """Return the work of the handlers whose deliveries are in flight, wait for their next attempt, or are dead."""
    values = {"bound": BOUND, "handlers": TENANTS_SHOWN}
    with connection.cursor(row_factory=class_row(HandlerLoad)) as cursor:
        return cursor.execute(_SQL["handlers_with_work"], values, prepare=False).fetchall()


def count_received(connection: Connection, *, since: datetime) -> Received:
    """Return how many events were stored since the beginning of a minute, of the last two hours."""
    values = {"since": since.replace(second=0, microsecond=0), "bound": COUNTED_BOUND}
    with connection.cursor(row_factory=class_row(Received)) as cursor:
        (received,) = cursor.execute(_SQL["count_received"], values, prepare=False).fetchall()
    return received


def list_old_snapshots(
    connection: Connection, *, older_than: timedelta = timedelta(seconds=OLD_SECONDS)
) -> list[OldSnapshot]:
    """Return who has held a snapshot for so long, the oldest first, five at most."""
    with connection.cursor(row_factory=class_row(OldSnapshot)) as cursor:
        return cursor.execute(_SQL["old_snapshots"], {"older_than": older_than}, prepare=False).fetchall()


def read_days(connection: Connection) -> Days:
    """Return which days have partitions."""
    with connection.cursor(row_factory=class_row(Days)) as cursor:
        (days,) = cursor.execute(_SQL["read_days"], {"tables": list(KEYS)}, prepare=False).fetchall()
    return days
