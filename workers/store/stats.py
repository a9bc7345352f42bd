"""Figures of the moment: what became of acknowledged ids, the work of each tenant, events lately received.

Guarantees: nothing scans history; counting stops at a bound, and a figure of that size means "that or more". Refuses
nothing. Queries are in `stats.sql`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import class_row

from workers.store.partitions import KEYS
from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date, datetime, timedelta
    from uuid import UUID

    from workers.store.connect import Connection

_SQL: Final = Queries("stats.sql")
BOUND: Final = 10_000
"""Where counting one tenant's deliveries stops."""
RECEIVED_BOUND: Final = 500_000
"""Where counting events of the last minute or hour stops."""
_TENANTS_SHOWN: Final = 100


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


def read_load(connection: Connection) -> list[Load]:
    """Return the tenants that have open or dead deliveries, the first hundred by name."""
    values = {"bound": BOUND, "tenants": _TENANTS_SHOWN}
    with connection.cursor(row_factory=class_row(Load)) as cursor:
        return cursor.execute(_SQL["tenants_with_work"], values, prepare=False).fetchall()


def count_received(connection: Connection, window: timedelta) -> int:
    """Count the events stored of those received in the last `window`, up to `RECEIVED_BOUND`."""
    return _count(connection, "count_received", window)


def count_rejected(connection: Connection, window: timedelta) -> int:
    """Count the rejected ones among them."""
    return _count(connection, "count_rejected", window)


def read_days(connection: Connection) -> Days:
    """Return which days have partitions."""
    with connection.cursor(row_factory=class_row(Days)) as cursor:
        (days,) = cursor.execute(_SQL["read_days"], {"tables": list(KEYS)}, prepare=False).fetchall()
    return days


def _count(connection: Connection, query: str, window: timedelta) -> int:
    values = {"window": window, "bound": RECEIVED_BOUND}
    (row,) = connection.execute(_SQL[query], values, prepare=False).fetchall()
    return int(row["count"])
