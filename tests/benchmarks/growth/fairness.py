"""Whoever floods: how long a quiet tenant's event takes, and how busy the slots are kept."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from shared import wire
from tests.benchmarks.bodies import TENANT
from tests.benchmarks.fill import fill_inbox, fill_pending
from tests.benchmarks.growth.meter import Meter
from tests.benchmarks.measuring import wait_until
from tests.benchmarks.notices import Notices
from tests.benchmarks.processes import run_ours
from tests.names import NAMES

if TYPE_CHECKING:
    from tests.benchmarks.ground import Ground, Place

SLOTS = 4
QUIET_EVENTS = 3
NEIGHBOURS = 600
BUSY = 0.85
OCCUPANCY = ("slots", "handler takes", "handled/s", "CPU beside it", "slots * that ÷ cores", "busy share")


def measure_quiet_tenant(ground: Ground, results: dict[str, Any], *, full: bool) -> None:
    """One event of a quiet tenant while another's 100,000 wait, for handlers from nothing to a second."""
    flood, rows = 100_000 if full else 30_000, []
    for seconds in (0.0, 0.01, 0.1, 1.0):
        with ground.fresh() as place, Notices() as notices:
            with place.connect() as connection:
                fill_pending(connection, flood, handler="bench.tell", tenant="flood")
                connection.execute("VACUUM ANALYZE deliveries")
            environ = {"HANDLERS": "tests.benchmarks.handlers.tell", "HANDLER_SECONDS": seconds}
            with run_ours(place, "ingest", "handlers", "express", slots=SLOTS, NOTICE_PORT=notices.port, **environ):  # type: ignore[arg-type]
                wait_until(lambda place=place: _done(place) > 0)
                times = []
                for _ in range(QUIET_EVENTS):
                    began = time.perf_counter()
                    fill_inbox(place, 1, tenant="quiet")
                    keys, arguments = wire.ring_arguments(NAMES)
                    place.redis.eval(wire.RING, len(keys), *keys, *arguments)
                    notices.wait_for_tenant("quiet")
                    times.append(time.perf_counter() - began)
                left = place.query("SELECT count(*) AS n FROM deliveries")["n"]
        rows.append([f"{seconds * 1000:g} ms", f"{sorted(times)[1]:.2f} s", f"{max(times):.2f} s", f"{left:,}"])
    results["tables"][f"a quiet tenant beside {flood:,} deliveries of another, {SLOTS} slots, messages of 1 s"] = {
        "headings": ["handler takes", "quiet event handled, median", "worst", "still waiting behind it"],
        "rows": rows,
    }


def _done(place: Place) -> int:
    return int(place.query("SELECT count(*) AS n FROM deliveries_done")["n"])


def measure_neighbours(ground: Ground, results: dict[str, Any], *, full: bool) -> None:
    """One slow delivery in a message with others, of other tenants: when the others are handled, and when it is."""
    del full
    rows = []
    for seconds in (0.0, 2.0, 5.0):
        with ground.fresh() as place:
            with place.connect() as connection:
                fill_pending(connection, NEIGHBOURS, handler="bench.slow", tenant="tenant-*", tenants=60)
                fill_pending(connection, 1, handler="bench.slow", tenant="slow")  # sorted first: first of its message
            environ = {"HANDLERS": "tests.benchmarks.handlers.slow", "HANDLER_SECONDS": seconds}
            with run_ours(place, "handlers", slots=SLOTS, **environ):  # type: ignore[arg-type]
                wait_until(lambda place=place: _done(place) > NEIGHBOURS)
            row = place.query(
                "SELECT extract(epoch FROM max(at) FILTER (WHERE tenant <> 'slow') - min(at)) AS others,"
                " extract(epoch FROM max(at) FILTER (WHERE tenant = 'slow') - min(at)) AS slow"
                " FROM (SELECT tenant, finished_at AS at FROM deliveries_done) AS done"
            )
        rows.append([f"{seconds:g} s", f"{row['others']:.2f} s", f"{row['slow']:.2f} s"])
    results["tables"][f"{NEIGHBOURS} deliveries of others beside a slow one, {SLOTS} slots, messages of 1 s"] = {
        "headings": ["the slow one takes", "all others handled after", "the slow one after"],
        "rows": rows,
    }


def measure_occupancy(ground: Ground, results: dict[str, Any], *, full: bool) -> None:
    """The share of slot time that handlers had, while there is more work than they can do.

    A delivery costs CPU beside its handler; so many slots can be fed only if the handler takes at least
    slots * cost / cores. Below that the cores are full and the slots cannot be.
    """
    rows, cores = [], os.cpu_count() or 1
    for slots in (8, 32, *((128,) if full else ())):
        for seconds in (0.0, 0.001, 0.01, 0.1):
            enough = 60_000 if seconds < 0.01 else int(slots / seconds * 16)
            with ground.fresh() as place:
                with place.connect() as connection:
                    fill_pending(connection, enough, handler="bench.sleep", tenant=TENANT)
                    connection.execute("VACUUM ANALYZE deliveries")
                environ = {"HANDLERS": "tests.benchmarks.handlers.sleep", "HANDLER_SECONDS": seconds}
                with run_ours(place, "handlers", slots=slots, **environ) as pids:  # type: ignore[arg-type]
                    wait_until(lambda place=place: _done(place) > 0)
                    time.sleep(2.0 + slots / 32)  # until every slot has had its first message
                    first, began = _done(place), time.perf_counter()
                    meter = Meter(ground, others=pids.values())
                    spent = meter.measure(lambda: time.sleep(4.0)).cpu
                    done, elapsed = _done(place) - first, time.perf_counter() - began
            busy, cost = done * seconds / slots / elapsed, spent / max(done, 1)
            needed = slots * cost / cores
            verdict = "" if not seconds else "yes" if busy >= BUSY else "cores are full" if seconds < needed else "no"
            rows.append(
                [
                    str(slots),
                    f"{seconds * 1000:g} ms",
                    f"{done / elapsed:,.0f}",
                    f"{cost * 1e6:.0f} µs",
                    f"{needed * 1000:.1f} ms",
                    f"{busy:.0%}" if seconds else "",
                    verdict,
                ]
            )
    results["tables"][f"slots while there is more work than they can do, {cores} cores"] = {
        "headings": [*OCCUPANCY, f"≥ {BUSY:.0%}"],
        "rows": rows,
    }
