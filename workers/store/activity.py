"""What was done in the last minutes and hours, as charts show it: of everything, of a tenant, or of a handler.

It comes from the tallies, which housekeeping rolls up every second: what ended in the last seconds may be missing.
Nothing is counted here but rows of minutes and hours, however many events there are. Queries are in `activity.sql`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import class_row

from workers.store.sql import Queries, readable
from workers.store.tallies import BOUNDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from uuid import UUID

    from workers.store.connect import Connection

_SQL: Final = Queries("activity.sql")
LATEST: Final = 1000
"""Finished deliveries from which `read_latency` computes."""
INCIDENT_BOUND: Final = 2_000
"""Dead deliveries of one incident that are counted by their hours, the newest first."""
_ID_TIME_SHIFT: Final = 80
_SUCCEEDED: Final = "succeeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A minute or an hour.

    Attributes:
        at: its beginning, aware.
        received: events that were stored, duplicates not counted.
        rejected: those among them that were rejected.
        handled: deliveries that succeeded.
        failed: attempts that failed, whether another one follows or not.
    """

    at: datetime
    received: int
    rejected: int
    handled: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Time from received to handled, in seconds, of the latest `count` deliveries that succeeded; None of none."""

    count: int
    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerActivity:
    """What a handler did; `p50` and `p99` are of the time that its attempts took, in seconds, None of none."""

    handler: str
    handled: int
    failed: int
    p50: float | None
    p99: float | None


def read_minutes(
    connection: Connection, *, tenant: str | None = None, handler: str | None = None, minutes: int = 60
) -> list[Moment]:
    """Return the last minutes, oldest first, the one that runs included.

    Args:
        connection: of any role that may read.
        tenant: only of this tenant.
        handler: only of this handler; not beside a tenant.
        minutes: how many, two hours at the most.

    Raises:
        ValueError: both are given.
    """
    return _read(connection, "minute", tenant=tenant, handler=handler, most=minutes)


def read_hours(
    connection: Connection, *, tenant: str | None = None, handler: str | None = None, hours: int = 24
) -> list[Moment]:
    """Return the last hours, as `read_minutes` does."""
    return _read(connection, "hour", tenant=tenant, handler=handler, most=hours)


def read_latency(connection: Connection) -> Latency:
    """Return how long the latest deliveries took from the receipt of their event to their success."""
    rows = connection.execute(_SQL["latest"], {"most": LATEST}, prepare=False).fetchall()
    taken = sorted(max(0.0, row["finished_at"] - received_at(row["event_id"])) for row in rows)
    return Latency(count=len(taken), p50=_rank(taken, 0.5), p99=_rank(taken, 0.99))


def read_handlers(connection: Connection, *, minutes: int = 60) -> list[HandlerActivity]:
    """Return what each handler did in the last minutes, by name."""
    rows = connection.execute(_SQL["handlers"], {"minutes": minutes}, prepare=False).fetchall()
    return [_handler(name, list(own)) for name, own in groupby(rows, key=lambda row: row["handler"])]


def read_incident_hours(
    connection: Connection, incidents: Sequence[int], *, hours: int = 24
) -> dict[int, list[tuple[datetime, int]]]:
    """Count the dead deliveries of incidents by the hour in which their events were received, oldest first.

    Incidents of rejected events and of refused endpoints have none. Of each incident the newest `INCIDENT_BOUND` are
    counted: where it has more, its earlier hours have too few.
    """
    at = [row["at"] for row in connection.execute(_SQL["list_hours"], {"hours": hours})]
    values = {"incidents": list(incidents), "hours": hours, "bound": INCIDENT_BOUND}
    rows = connection.execute(_SQL["incident_hours"], values, prepare=False)
    counted = {(row["incident"], row["at"]): row["count"] for row in rows}
    return {it: [(hour, counted.get((it, hour), 0)) for hour in at] for it in incidents}


def _read(connection: Connection, span: str, *, tenant: str | None, handler: str | None, most: int) -> list[Moment]:
    if tenant is not None and handler is not None:
        raise ValueError("of a tenant or of a handler, not of both")
    query = f"{span}s_of_tenant" if tenant is not None else "overall"
    values = {"span": span, "tenant": readable(tenant), "handler": readable(handler), "most": most}
    with connection.cursor(row_factory=class_row(Moment)) as cursor:
        return cursor.execute(_SQL[query], values, prepare=False).fetchall()


def _handler(name: str, rows: Sequence[Any]) -> HandlerActivity:
    timed = [(row["bucket"], row["count"]) for row in rows if row["bucket"] >= 0]
    return HandlerActivity(
        handler=name,
        handled=sum(row["count"] for row in rows if row["outcome"] == _SUCCEEDED),
        failed=sum(row["count"] for row in rows if row["outcome"] in {"retried", "dead"}),
        p50=percentile(timed, 0.5),
        p99=percentile(timed, 0.99),
    )


def percentile(buckets: Iterable[tuple[int, int]], share: float) -> float | None:
    """Return the time below which this share is, in seconds, by the straight line within its bucket; None of none.

    Args:
        buckets: number of a bucket (see `tallies.BOUNDS`) and how many are in it; a number may come more than once.
        share: above 0, at most 1.
    """
    counts: dict[int, int] = {}
    for bucket, count in buckets:
        counts[bucket] = counts.get(bucket, 0) + count
    left = share * sum(counts.values())
    for bucket in sorted(counts):
        if counts[bucket] >= left > 0:
            low, high = BOUNDS[bucket - 1] if bucket else 0.0, BOUNDS[min(bucket, len(BOUNDS) - 1)]
            return low + (high - low) * left / counts[bucket]
        left -= counts[bucket]
    return None


def _rank(values: Sequence[float], share: float) -> float | None:
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def received_at(event_id: UUID) -> float:
    """Return the Unix time in an id, which is a UUIDv7."""
    return (event_id.int >> _ID_TIME_SHIFT) / 1000
