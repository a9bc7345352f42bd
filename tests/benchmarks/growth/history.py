"""What stored history costs: a month of daily partitions, made by the server itself.

The histories stand beside each other and are measured in turn, so that the machine's moods reach all of them alike.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg

from tests.benchmarks.fill import fill_history, fill_inbox, fill_pending
from tests.benchmarks.growth.inside import Inside
from tests.benchmarks.growth.meter import Meter
from workers.store import event_history
from workers.store.partitions import ensure_partitions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from tests.benchmarks.ground import Ground, Place

DAYS = 30
TENANTS = 100
BATCH = 4_000
ROUNDS = 5
COMMANDS = 100
PENDING = 40_000
MAKERS = 2


def measure_history(ground: Ground, results: dict[str, Any], *, full: bool) -> None:
    """Insert, duplicate check, admit, show and list, with more and more stored."""
    meter, took = Meter(ground), []
    with ExitStack() as stack:
        histories: dict[int, _History] = {}
        for stored in (0, 30_000, 300_000, *((10_000_000,) if full else ())):
            place = stack.enter_context(ground.fresh())
            began = time.monotonic()
            _make(ground, place, stored)
            took.append([f"{stored:,}", f"{time.monotonic() - began:.1f}", _size(place)])
            histories[stored] = _History(place)
        for number in range(ROUNDS + 1):
            kept = meter if number else Meter(ground)  # the first round warms caches
            for stored, history in histories.items():
                history.measure(kept, stored)
    results["tables"]["history was made in"] = {"headings": ["events", "seconds", "database"], "rows": took}
    for unit, names in (
        ("event", ("insert", "duplicate")),
        ("delivery", ("admit",)),
        ("command", ("events show", "events list")),
    ):
        results["curves"][f"{unit} by events stored"] = {
            "x": "events stored, 30 days",
            "y": f"µs of CPU per {unit}",
            "lines": {name: meter.points(name) for name in names},
            "flat": True,
        }


def _make(ground: Ground, place: Place, stored: int) -> None:
    """Make a month of days, several at a time, each vacuumed and analyzed as autovacuum would have done by then."""
    today = datetime.now(UTC).date()
    with place.connect() as connection:
        ensure_partitions(connection, today - timedelta(days=DAYS), days_ahead=DAYS + 7)
    with _in_a_hurry(ground), ThreadPoolExecutor(MAKERS) as makers:
        for _ in makers.map(lambda day: _make_day(place, stored // DAYS, day), range(1, DAYS + 1)):
            pass
    with place.connect() as connection:
        connection.execute("VACUUM ANALYZE receipts")
        connection.execute("ANALYZE")
        connection.execute("CHECKPOINT")


def _make_day(place: Place, count: int, days_ago: int) -> None:
    name = (datetime.now(UTC).date() - timedelta(days=days_ago)).strftime("%Y%m%d")
    with place.connect() as connection:
        connection.execute("SET synchronous_commit = off")
        if count:
            fill_history(connection, count, days_ago=days_ago, tenants=TENANTS)
        for table in ("events", "deliveries_done"):
            connection.execute(f"VACUUM ANALYZE {table}_{name}")


@contextmanager
def _in_a_hurry(ground: Ground) -> Iterator[None]:
    """Let the server write less often while history is made; what is measured runs with its usual settings."""
    with psycopg.connect(ground.postgres_url, autocommit=True) as admin:
        for setting in ("max_wal_size = '16GB'", "checkpoint_timeout = '1h'", "autovacuum = off"):
            admin.execute(f"ALTER SYSTEM SET {setting}")
        admin.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            admin.execute("ALTER SYSTEM RESET ALL")
            admin.execute("SELECT pg_reload_conf()")


def _size(place: Place) -> str:
    return f"{place.query('SELECT pg_database_size(current_database()) AS size')['size'] / 1e9:.2f} GB"


class _History:
    """One place with so much stored."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._inside = Inside(place)
        self._connection = place.connect()
        self._connection.prepare_threshold = None  # a command is a process of its own: it plans each time
        fill_inbox(place, 2000)
        self._inside.drain()
        self._connection.execute("TRUNCATE deliveries")
        fill_pending(self._connection, PENDING, handler="bench.nothing")
        self._connection.execute("VACUUM ANALYZE deliveries")
        for _ in range(6):  # plans are made once, after five runs
            self._inside.run(self._inside.admit())
        row = self._connection.execute("SELECT id, tenant FROM events ORDER BY id LIMIT 1").fetchone()
        assert row
        self._oldest: UUID = row["id"]
        self._tenant: str = row["tenant"]

    def measure(self, meter: Meter, stored: int) -> None:
        """Measure everything once."""
        self._insert(meter, stored)
        self._admit(meter, stored)

        def show() -> None:
            for _ in range(COMMANDS):
                assert event_history.read_history(self._connection, self._oldest)

        def lists() -> None:
            for _ in range(COMMANDS):
                assert event_history.list_events(self._connection, limit=20, tenant=self._tenant)

        meter.note(("events show", stored), meter.measure(show).cpu / COMMANDS * 1e6)
        meter.note(("events list", stored), meter.measure(lists).cpu / COMMANDS * 1e6)

    def _insert(self, meter: Meter, stored: int) -> None:
        fill_inbox(self._place, BATCH)
        entries: Any = self._place.redis.xrange("inbox")
        meter.note(("insert", stored), meter.measure(lambda: self._inside.drain(60)).cpu / BATCH * 1e6)
        pipeline = self._place.redis.pipeline(transaction=False)
        for number, (_, fields) in enumerate(entries):
            # the same event under an id of its own arrives again
            other = fields[b"id"][:10] + number.to_bytes(6, "big")
            pipeline.xadd("inbox", {**fields, b"id": other})
        pipeline.execute()
        meter.note(("duplicate", stored), meter.measure(lambda: self._inside.drain(60)).cpu / BATCH * 1e6)

    def _admit(self, meter: Meter, stored: int) -> None:
        for _ in range(2):
            messages: list[Any] = []
            cost = meter.measure(lambda m=messages: m.extend(self._inside.admit()))  # type: ignore[misc]
            count = sum(len(message.deliveries) for message in messages)
            meter.note(("admit", stored), cost.cpu / count * 1e6)
            self._inside.run(messages)
