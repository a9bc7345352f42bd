"""Partitions: one a day, made ahead, dropped when their time is over.

Guarantees: any number of processes may do this at the same time; each lock is waited for no longer than
`LOCK_MILLISECONDS`, so that no insert waits long for it, and all of a call for `CALL_SECONDS`: what a long transaction,
such as a pg_dump, holds up is left for the next call. Today comes first. Rows that had to go to a DEFAULT partition are
moved when their day's is made, while inserts go on. A day with open work is kept; receipts are kept no longer than
events.
"""

from __future__ import annotations

import re
import time
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql

from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from workers.store.connect import Connection

_QUERIES: Final = Queries("partitions.sql")
KEYS: Final = {"events": "id", "arrivals": "id", "deliveries_done": "event_id", "attempts": "event_id"}
"""The partitioned tables, and the UUIDv7 whose day decides."""
DAYS_AHEAD: Final = 7
LOCK_MILLISECONDS: Final = 100
CALL_SECONDS: Final = 5.0
LOCK_DEFAULT_SECONDS: Final = 2.0
"""In which the DEFAULT partition has to be locked after rows were moved, however long that took."""
_PAUSE: Final = 0.3  # seconds
_MOST_DAYS: Final = 400
_RECEIPTS_AT_ONCE: Final = 5000
_DAY: Final = re.compile(r"_(\d{4})(\d\d)(\d\d)$")


def partition_name(table: str, day: date) -> str:
    """Return the name of a day's partition, such as "events_20260327"."""
    return f"{table}_{day:%Y%m%d}"


def ensure_partitions(connection: Connection, today: date | None = None, *, days_ahead: int = DAYS_AHEAD) -> list[str]:
    """Make the partitions of today, of the days ahead, and of past days whose rows went to DEFAULT.

    Args:
        connection: outside a transaction.
        today: UTC; by default Postgres' own.
        days_ahead: how many days after today.

    Returns:
        The names of what was made, today's first. What a long transaction held up is missing: call again.

    Raises:
        psycopg.errors.InsufficientPrivilege: something is missing, and this role does not own the tables.
    """
    today = today or _today(connection)
    ends = time.monotonic() + CALL_SECONDS
    made = []
    for day, table in _list_missing(connection, today, days_ahead):
        _require_owner(connection, table)
        if _patiently(lambda day=day, table=table: _make(connection, table, day, ends), ends):  # type: ignore[misc]
            made.append(partition_name(table, day))
    return made


def list_missing(connection: Connection, today: date | None = None, *, days_ahead: int = DAYS_AHEAD) -> list[str]:
    """Return the names of what `ensure_partitions` would make."""
    missing = _list_missing(connection, today or _today(connection), days_ahead)
    return [partition_name(table, day) for day, table in missing]


def _list_missing(connection: Connection, today: date, days_ahead: int) -> list[tuple[date, str]]:
    missing: list[tuple[bool, date, str]] = []
    for table in KEYS:
        days = {today + timedelta(days=ahead) for ahead in range(days_ahead + 1)}
        days |= _days_in_default(connection, table, before=today)
        present = _present(connection, table).values()
        missing += [(day != today, day, table) for day in days if day not in present]
    return [(day, table) for _, day, table in sorted(missing, key=lambda one: one[:2])]


def _require_owner(connection: Connection, table: str) -> None:
    """Check, before anything is made, what attaching needs: the owner could not use what another role has made."""
    (row,) = connection.execute(_QUERIES["owner"], {"table": table}).fetchall()
    if not row["is_ours"]:
        raise psycopg.errors.InsufficientPrivilege(
            f"the table {table} belongs to the role {row['owner']}, and {row['role']} cannot make its days:"
            f" let {row['owner']} run pipeline migrate, or GRANT {row['owner']} TO {row['role']}"
        )


def drop_expired(
    connection: Connection, today: date | None = None, *, retention_days: int, dedup_days: int
) -> list[str]:
    """Drop the days before `today - retention_days`, but none with open work; delete old receipts.

    Args:
        connection: outside a transaction.
        today: UTC; by default Postgres' own.
        retention_days: whole days that events are kept.
        dedup_days: whole days that receipts are kept, if events are kept as long.

    Returns:
        The names of the dropped partitions.
    """
    today = today or _today(connection)
    ends = time.monotonic() + CALL_SECONDS
    oldest_kept = today - timedelta(days=retention_days)
    days = sorted({day for table in KEYS for day in _present(connection, table).values() if day < oldest_kept})
    dropped: list[str] = []
    for day in days:
        dropped += _patiently(lambda day=day: _drop(connection, day), ends) or []  # type: ignore[misc]
    receipts_before = today - timedelta(days=min(dedup_days, retention_days))
    values = {"before": receipts_before, "most": _RECEIPTS_AT_ONCE}
    while connection.execute(_QUERIES["delete_receipts"], values).rowcount == _RECEIPTS_AT_ONCE:
        if time.monotonic() >= ends:
            break
    return dropped


def _today(connection: Connection) -> date:
    (row,) = connection.execute(_QUERIES["today"]).fetchall()
    today: date = row["today"]
    return today


def _present(connection: Connection, table: str) -> dict[str, date]:
    """Return the days that have a partition, by its name."""
    rows = connection.execute(_QUERIES["list_partitions"], {"parent": table})
    found = ((row["name"], _DAY.search(row["name"])) for row in rows)
    return {name: date(*map(int, match.groups())) for name, match in found if match}


def _days_in_default(connection: Connection, table: str, *, before: date) -> set[date]:
    query = sql.SQL(_QUERIES["days_in_default"]).format(
        key=sql.Identifier(KEYS[table]), default=sql.Identifier(f"{table}_default")
    )
    return {row["day"] for row in connection.execute(query, {"before": before, "most": _MOST_DAYS})}


def _patiently(step: Callable[[], Any], ends: float) -> Any:
    """Do a step again while locks stand in its way, until `ends` (monotonic); None when they did to the end."""
    while True:
        try:
            return step()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if time.monotonic() + _PAUSE >= ends:
                return None
            time.sleep(_PAUSE)


def _hurry(connection: Connection) -> None:
    connection.execute(_QUERIES["hurry"], {"timeout": f"{LOCK_MILLISECONDS}ms"})


def _bounds(connection: Connection, day: date) -> tuple[UUID, UUID]:
    (row,) = connection.execute(_QUERIES["bounds"], {"day": day}).fetchall()
    return row["low"], row["high"]


def _make(connection: Connection, table: str, day: date, ends: float) -> bool:
    """Make one partition; return whether it was missing.

    1. Build a plain table, which blocks nobody. One that an earlier call left behind is used.
    2. In one transaction: move the day's rows while inserts go on; lock DEFAULT, move what has come since, attach.
    """
    name, check = partition_name(table, day), f"{partition_name(table, day)}_day"
    low, high = _bounds(connection, day)
    names = {
        "parent": sql.Identifier(table),
        "default": sql.Identifier(f"{table}_default"),
        "partition": sql.Identifier(name),
        "check": sql.Identifier(check),
        "key": sql.Identifier(KEYS[table]),
        "low": sql.Literal(str(low)),
        "high": sql.Literal(str(high)),
    }

    def run(query: str) -> None:
        connection.execute(sql.SQL(_QUERIES[query]).format(**names))

    with connection.transaction():
        _hurry(connection)
        connection.execute(_QUERIES["lock"])
        if name in _present(connection, table):
            return False
        (row,) = connection.execute(_QUERIES["exists"], {"name": name}).fetchall()
        if not row["exists"]:
            run("create_table")
    with connection.transaction():
        _hurry(connection)
        connection.execute(_QUERIES["lock"])
        if name in _present(connection, table):
            return False
        with connection.transaction(force_rollback=True):
            run("lock_default")  # before anything is moved: a long reader would undo it
        run("move_rows")

        def lock_default() -> bool:
            with connection.transaction():  # so that what was moved is kept when this fails
                run("lock_default")
            return True

        if not _patiently(lock_default, max(ends, time.monotonic() + LOCK_DEFAULT_SECONDS)):
            raise psycopg.errors.LockNotAvailable("a long transaction holds the DEFAULT partition")
        connection.execute(_QUERIES["read_in_order"])
        run("move_rows")
        run("attach")
        run("drop_check")
    return True


def _drop(connection: Connection, day: date) -> list[str]:
    """Drop a day's partitions of all tables, unless it has open work.

    1. Lock them, parents first as everybody does: nobody reads the day, or has made work of it open uncommitted.
    2. Look for open work in a statement of its own, which sees what was committed before.
    3. Drop.
    """
    with connection.transaction():
        _hurry(connection)
        connection.execute(_QUERIES["lock"])
        names = [name for table in KEYS for name, its_day in _present(connection, table).items() if its_day == day]
        if not names:
            return []
        parents = sql.SQL(", ").join(sql.SQL("ONLY {}").format(sql.Identifier(table)) for table in KEYS)
        tables = sql.SQL(", ").join(map(sql.Identifier, names))
        for locked in (parents, tables):
            connection.execute(sql.SQL(_QUERIES["lock_tables"]).format(tables=locked))
        low, high = _bounds(connection, day)
        (row,) = connection.execute(_QUERIES["has_open_work"], {"low": low, "high": high}).fetchall()
        if row["open"]:
            return []
        connection.execute(sql.SQL(_QUERIES["drop_tables"]).format(tables=tables))
    return names
