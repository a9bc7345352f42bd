"""Partitions: one a day, made ahead, dropped when their time is over.

Guarantees: any number of processes may do this at the same time; each lock is waited for no longer than
`LOCK_MILLISECONDS`, so that no insert waits long for it, and all of a call for `CALL_SECONDS`: what a long transaction,
such as a pg_dump, holds up is left for the next call. Today comes first. Rows that had to go to a DEFAULT partition are
moved when their day's is made, while inserts go on.

Time is that of Postgres: a day is dropped when what was stored last of it is old enough and none of its work is open.
Events whose ids lie outside of the days that there are stay in DEFAULT and go one by one. Receipts go before events.
"""

from __future__ import annotations

import re
import time
from datetime import date, datetime, timedelta
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
DAYS_BACK: Final = 30
LOCK_MILLISECONDS: Final = 100
CALL_SECONDS: Final = 5.0
LOCK_DEFAULT_SECONDS: Final = 2.0
"""In which the DEFAULT partition has to be locked after rows were moved, however long that took."""
_PAUSE: Final = 0.3  # seconds
_RECEIPTS_AT_ONCE: Final = 5000
_STRAYS_AT_ONCE: Final = 500
_DAY: Final = re.compile(r"_(\d{4})(\d\d)(\d\d)$")


def partition_name(table: str, day: date) -> str:
    """Return the name of a day's partition, such as "events_20260327"."""
    return f"{table}_{day:%Y%m%d}"


def ensure_partitions(
    connection: Connection, today: date | None = None, *, days_ahead: int = DAYS_AHEAD, days_back: int = DAYS_BACK
) -> list[str]:
    """Make the partitions of today, of the days ahead, and of past days whose rows went to DEFAULT.

    Args:
        connection: outside a transaction.
        today: UTC; by default Postgres' own.
        days_ahead: how many days after today.
        days_back: how many days before today; rows of earlier ones stay in DEFAULT.

    Returns:
        The names of what was made, today's first. What a long transaction held up is missing: call again.

    Raises:
        psycopg.errors.InsufficientPrivilege: something is missing, and this role does not own the tables.
    """
    today = today or _today(connection)
    ends = time.monotonic() + CALL_SECONDS
    made = []
    for day, table in _list_missing(connection, today, days_ahead, days_back):
        _require_owner(connection, table)
        if _patiently(lambda day=day, table=table: _make(connection, table, day, ends), ends):  # type: ignore[misc]
            made.append(partition_name(table, day))
    return made


def list_missing(connection: Connection, today: date | None = None) -> list[str]:
    """Return the names of what `ensure_partitions` would make."""
    missing = _list_missing(connection, today or _today(connection), DAYS_AHEAD, DAYS_BACK)
    return [partition_name(table, day) for day, table in missing]


def _list_missing(connection: Connection, today: date, days_ahead: int, days_back: int) -> list[tuple[date, str]]:
    missing: list[tuple[bool, date, str]] = []
    for table in KEYS:
        days = {today + timedelta(days=ahead) for ahead in range(days_ahead + 1)}
        days |= _days_in_default(connection, table, since=today - timedelta(days=days_back), before=today)
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
    connection: Connection, now: datetime | None = None, *, retention_days: int, dedup_days: int
) -> list[str]:
    """Delete receipts, days and events outside of all days whose time is over, but nothing with open work.

    1. Receipts first: what arrives from then on is an event of its own, not the arrival of one that is dropped next.
    2. Days, the oldest first.
    3. Events in DEFAULT, in small transactions.

    Args:
        connection: outside a transaction.
        now: aware; by default Postgres' own.
        retention_days: how long events are kept after they were stored.
        dedup_days: how long receipts are kept, if events are kept as long.

    Returns:
        The names of the dropped partitions.
    """
    now = now or _now(connection)
    ends = time.monotonic() + CALL_SECONDS
    before = now - timedelta(days=retention_days)
    for query in ("delete_receipts", "delete_old_receipts"):
        values = {"before": now - timedelta(days=min(dedup_days, retention_days)), "most": _RECEIPTS_AT_ONCE}
        while connection.execute(_QUERIES[query], values).rowcount == _RECEIPTS_AT_ONCE:
            if time.monotonic() >= ends:
                return []
    dropped: list[str] = []
    for day in sorted({day for table in KEYS for day in _present(connection, table).values() if day < before.date()}):
        if not _is_needed(connection, day, before):
            dropped += _patiently(lambda day=day: _drop(connection, day, before), ends) or []  # type: ignore[misc]
    while _patiently(lambda: _drop_strays(connection, before), ends) == _STRAYS_AT_ONCE:
        if time.monotonic() >= ends:
            break
    connection.execute(_QUERIES["forget_late_days"], {"before": before})
    return dropped


def _now(connection: Connection) -> datetime:
    (row,) = connection.execute(_QUERIES["now"]).fetchall()
    now: datetime = row["now"]
    return now


def _today(connection: Connection) -> date:
    return _now(connection).date()


def _present(connection: Connection, table: str) -> dict[str, date]:
    """Return the days that have a partition, by its name."""
    rows = connection.execute(_QUERIES["list_partitions"], {"parent": table})
    found = ((row["name"], _DAY.search(row["name"])) for row in rows)
    return {name: date(*map(int, match.groups())) for name, match in found if match}


def _days_in_default(connection: Connection, table: str, *, since: date, before: date) -> set[date]:
    query = sql.SQL(_QUERIES["days_in_default"]).format(
        key=sql.Identifier(KEYS[table]), default=sql.Identifier(f"{table}_default")
    )
    try:
        return {row["day"] for row in connection.execute(query, {"since": since, "before": before})}
    except psycopg.errors.InsufficientPrivilege:
        _require_owner(connection, table)
        raise


def _patiently(step: Callable[[], Any], ends: float) -> Any:
    """Do a step again while locks stand in its way, until `ends` (monotonic); None when they did to the end."""
    while True:
        try:
            return step()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if time.monotonic() + _PAUSE >= ends:
                return None
            time.sleep(_PAUSE)


def _limit_lock_wait(connection: Connection) -> None:
    connection.execute(_QUERIES["limit_lock_wait"], {"timeout": f"{LOCK_MILLISECONDS}ms"})


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
        _limit_lock_wait(connection)
        connection.execute(_QUERIES["lock"])
        if name in _present(connection, table):
            return False
        (row,) = connection.execute(_QUERIES["exists"], {"name": name}).fetchall()
        if not row["exists"]:
            run("create_table")
    with connection.transaction():
        _limit_lock_wait(connection)
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


def _is_needed(connection: Connection, day: date, before: datetime) -> bool:
    """Say whether a day has open work, or something that was stored later than `before`."""
    low, high = _bounds(connection, day)
    values = {"low": low, "high": high, "day": day, "before": before}
    (row,) = connection.execute(_QUERIES["is_needed"], values).fetchall()
    return bool(row["needed"])


def _drop(connection: Connection, day: date, before: datetime) -> list[str]:
    """Drop a day's partitions of all tables, unless it is needed.

    1. Lock them, parents first as everybody does: nobody reads the day, or has stored or opened anything uncommitted.
    2. Look whether it is needed in a statement of its own, which sees what was committed before.
    3. Drop, and delete what lies in DEFAULT.
    """
    with connection.transaction():
        _limit_lock_wait(connection)
        connection.execute(_QUERIES["lock"])
        names = [name for table in KEYS for name, its_day in _present(connection, table).items() if its_day == day]
        if not names:
            return []
        parents = sql.SQL(", ").join(sql.SQL("ONLY {}").format(sql.Identifier(table)) for table in KEYS)
        tables = sql.SQL(", ").join(map(sql.Identifier, names))
        for locked in (parents, tables):
            connection.execute(sql.SQL(_QUERIES["lock_tables"]).format(tables=locked))
        if _is_needed(connection, day, before):
            return []
        connection.execute(sql.SQL(_QUERIES["drop_tables"]).format(tables=tables))
        low, high = _bounds(connection, day)
        bounds = {"low": low, "high": high}
        for table, key in KEYS.items():
            query = sql.SQL(_QUERIES["delete_day"])
            identifiers = {"default": sql.Identifier(f"{table}_default"), "key": sql.Identifier(key)}
            connection.execute(query.format(**identifiers), bounds)
        connection.execute(_QUERIES["delete_arrivals_of_day"], bounds)
    return names


def _drop_strays(connection: Connection, before: datetime) -> int:
    """Delete a batch of the events in DEFAULT that were stored before then; return how many there were.

    DEFAULT is locked against readers too, as a day is: none of them opens work of an event that is deleted next.
    """
    values = {"before": before, "most": _STRAYS_AT_ONCE}
    ids = [row["id"] for row in connection.execute(_QUERIES["list_strays"], values)]
    if ids:
        with connection.transaction():
            _limit_lock_wait(connection)
            tables = sql.SQL(", ").join(sql.Identifier(f"{table}_default") for table in KEYS)
            connection.execute(sql.SQL(_QUERIES["lock_tables"]).format(tables=tables))
            connection.execute(_QUERIES["delete_strays"], {"ids": ids})
    return len(ids)
