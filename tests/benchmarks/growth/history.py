"""What stored history costs: a month of daily partitions, filled by the server itself."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.benchmarks.fill import fill_history, fill_inbox, fill_pending
from tests.benchmarks.growth.inside import Inside
from tests.benchmarks.growth.meter import Meter
from workers.store import stories
from workers.store.partitions import ensure_partitions

if TYPE_CHECKING:
    from tests.benchmarks.ground import Ground, Place

DAYS = 30
TENANTS = 100
BATCH = 4_000


def measure_history(ground: Ground, results: dict[str, Any], *, full: bool) -> None:
    """Insert, duplicate check, admit, show and list, with more and more stored."""
    meter = Meter(ground)
    took = {}
    for stored in (0, 30_000, 300_000, *((10_000_000,) if full else ())):
        with ground.fresh() as place:
            with place.connect() as connection:
                today = datetime.now(UTC).date()
                ensure_partitions(connection, today - timedelta(days=DAYS), days_ahead=DAYS + 7)
                began = time.monotonic()
                for day in range(1, DAYS + 1):
                    if stored:
                        fill_history(connection, stored // DAYS, days_ago=day, tenants=TENANTS)
                connection.execute("VACUUM ANALYZE")
                connection.execute("CHECKPOINT")
                took[f"{stored:,}"] = round(time.monotonic() - began, 1)
            _measure(meter, place, stored)
    results["tables"]["history was made in"] = {
        "headings": ["events", "seconds"],
        "rows": [[name, f"{seconds}"] for name, seconds in took.items()],
    }
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


def _measure(meter: Meter, place: Place, stored: int) -> None:
    inside = Inside(place)
    fill_inbox(place, 2000)
    inside.drain()
    for _ in range(3):
        fill_inbox(place, BATCH)
        entries: Any = place.redis.xrange("inbox")
        meter.note(("insert", stored), meter.measure(lambda: inside.drain(60)).cpu / BATCH * 1e6)
        pipeline = place.redis.pipeline(transaction=False)
        for number, (_, fields) in enumerate(entries):
            # the same event under an id of its own arrives again
            other = fields[b"id"][:10] + number.to_bytes(6, "big")
            pipeline.xadd("inbox", {**fields, b"id": other})
        pipeline.execute()
        meter.note(("duplicate", stored), meter.measure(lambda: inside.drain(60)).cpu / BATCH * 1e6)
    with place.connect() as connection:
        connection.execute("TRUNCATE deliveries")
        fill_pending(connection, 20_000, handler="bench.nothing")
        connection.execute("VACUUM ANALYZE deliveries")
        for _ in range(8):
            inside.run(inside.admit())
        for _ in range(6):
            messages: list[Any] = []
            cost = meter.measure(lambda m=messages: m.extend(inside.admit()))  # type: ignore[misc]
            meter.note(("admit", stored), cost.cpu / sum(len(message.deliveries) for message in messages) * 1e6)
            inside.run(messages)
        (row,) = connection.execute("SELECT id, tenant FROM events ORDER BY id LIMIT 1")
        commands = 100

        def show() -> None:
            for _ in range(commands):
                assert stories.tell_story(connection, row["id"])

        def lists() -> None:
            for _ in range(commands):
                assert stories.list_events(connection, limit=20, tenant=row["tenant"])

        for _ in range(3):
            meter.note(("events show", stored), meter.measure(show).cpu / commands * 1e6)
            meter.note(("events list", stored), meter.measure(lists).cpu / commands * 1e6)
