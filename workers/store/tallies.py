"""How many events and deliveries came to which end, and how long it took.

`tallies_new` is written by the statements that decide (`events.sql`, `deliveries.sql`, `manual.sql`, `recovery.sql`),
in their transactions; this module rolls it up. Guarantees: each is counted once, in `tallies` by minute and tenant, and
in `totals`, which never fall. Queries are in `tallies.sql`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from psycopg.rows import class_row

from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workers.store.connect import Connection

_SQL: Final = Queries("tallies.sql")
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
"""Seconds: the bounds of the buckets. A change mixes old counts with new ones under the same number."""
MINUTES_KEPT: Final = timedelta(hours=2)
"""How long minutes are kept; then they are added to their hour."""
USUAL_DAYS: Final = 8
"""How long hours are kept at least: that of a week ago tells what is usual."""
CALL_SECONDS: Final = 2.0
"""Time budget of one call; what is left is done by the next."""
OTHERS: Final = "(others)"
"""Stands for all that have no figure of their own."""
_AT_ONCE: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """How many, since the beginning.

    Attributes:
        figure: events, attempts or waits.
        handler: empty for events.
        bucket: the number of `BOUNDS` that their time has reached; -1 if it is unknown.
        seconds: all their times together.
    """

    figure: str
    handler: str
    outcome: str
    bucket: int
    count: int
    seconds: float


def roll_up(connection: Connection) -> int:
    """Add what was counted since the last call to its minute and to the totals; return how many rows that were.

    Args:
        connection: outside a transaction.
    """
    return _repeat(connection, "roll_up", {"bounds": list(BOUNDS)})


def roll_hours(connection: Connection, *, retention_days: int) -> None:
    """Add minutes to their hours after `MINUTES_KEPT`, drop old hours, note what endpoints usually send in this one.

    Args:
        connection: outside a transaction.
        retention_days: whole days that hours are kept, `USUAL_DAYS` at least.
    """
    _repeat(connection, "roll_hours", {"keep": MINUTES_KEPT})
    connection.execute(_SQL["note_usual"])
    values = {"keep": timedelta(days=max(retention_days, USUAL_DAYS)), "most": _AT_ONCE}
    ends = time.monotonic() + CALL_SECONDS
    while connection.execute(_SQL["drop_hours"], values).rowcount == _AT_ONCE and time.monotonic() < ends:
        pass
    values = {"minutes": MINUTES_KEPT, "hours": timedelta(days=USUAL_DAYS), "most": _AT_ONCE}
    connection.execute(_SQL["drop_activity"], values)


def list_uncounted(connection: Connection, *, most: int) -> list[str]:
    """Return handlers that are announced and have no total yet, those that were announced first."""
    return [row["name"] for row in connection.execute(_SQL["list_uncounted"], {"most": most})]


def _repeat(connection: Connection, query: str, values: Mapping[str, object]) -> int:
    """Take rows, a bounded number in each transaction, until none are left or the time is over; return how many."""
    done: int = 0
    ends = time.monotonic() + CALL_SECONDS
    while True:
        with connection.transaction():
            (lock,) = connection.execute(_SQL["lock"]).fetchall()
            if not lock["locked"]:
                return done
            (row,) = connection.execute(_SQL[query], {**values, "most": _AT_ONCE}).fetchall()
        done += row["taken"]
        if row["taken"] < _AT_ONCE or time.monotonic() >= ends:
            return done


def read_totals(connection: Connection, *, most_handlers: int) -> list[Total]:
    """Return the totals; those of handlers beyond the first `most_handlers` ever counted together, as `OTHERS`."""
    with connection.cursor(row_factory=class_row(Total)) as cursor:
        return cursor.execute(_SQL["read_totals"], {"handlers": most_handlers, "others": OTHERS}).fetchall()
