"""How long the reads of the console's pages take in a big installation: `python -m tests.benchmarks console`.

The installation is that of `commands`: 10,000,000 events of 10,000 tenants in a month, 1,000,000 open deliveries. Each
read runs several times on one connection, set up as the console's; a page may take 200 ms, and one read of it 150. It
prints the table: the first run, which may find nothing in the caches, the median and the worst of the others.
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks import report
from tests.benchmarks.big import stand_on_big
from workers.store import (
    activity,
    audit,
    catalogue,
    event_history,
    figures,
    incidents,
    jobs,
    limits,
    manual,
    pauses,
    stats,
    tenants,
)
from workers.store.connect import Connection, bound_statements, connect
from workers.store.event_search import EventQuery, search_events
from workers.store.manual import Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.benchmarks.ground import Place

MUST_SECONDS: Final = 0.15
STATEMENT_SECONDS: Final = 5.0
RUNS: Final = 5
SHOWN: Final = 50
HEADINGS: Final = ("read", "first, ms", "median, ms", "worst, ms", "≤ 150 ms")
OUTCOMES: Final = ("open", "retrying", "handled", "dead", "cancelled", "unwanted")
QUERIES: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"tenant": "tenant-0"},
    {"tenant": "tenant-9999"},
    {"type": "nobody.sends"},
    {"subject": "nobody"},
    {"subject": "nobody", "tenant": "tenant-0"},
    {"state": "rejected"},
    {"state": "rejected", "tenant": "tenant-0"},
    {"state": "rejected", "provider": "nobody"},
    {"reason": "too_old"},
    {"handler": "big.handler_3"},
    {"handler": "nobody.has", "tenant": "tenant-0"},
    *({"outcome": it} for it in OUTCOMES),
    *({"outcome": it, "tenant": "tenant-0"} for it in OUTCOMES),
    *({"outcome": it, "tenant": "tenant-9999"} for it in OUTCOMES),
    *({"outcome": it, "handler": "nobody.has"} for it in OUTCOMES),
    *({"outcome": it, "type": "nobody.sends", "tenant": "tenant-0"} for it in OUTCOMES),
    {"field": ("data", "verdict"), "text": "live"},
    {"field": ("data", "verdict"), "text": "nothing"},
    {"field": ("data", "verdict"), "text": "session", "tenant": "tenant-0"},
)
LISTS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"tenant": "tenant-0"},
    {"tenant": "tenant-9999"},
    {"handler": "big.paused"},
    {"handler": "nobody.has"},
    {"handler": "nobody.has", "tenant": "tenant-0"},
)


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks console", description=__doc__)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the installation there, or use it again")
    parser.add_argument("--scale", type=float, default=1.0, help="of 10,000,000 events, for a quick look")
    parser.add_argument("--runs", type=int, default=RUNS, help="of each read, after the first")
    parser.add_argument("--database-url", help="of such an installation that runs already")
    chosen = parser.parse_args(arguments)
    if chosen.database_url:
        rows = measure(chosen.database_url, runs=chosen.runs)
    else:
        with stand_on_big(chosen.keep, scale=chosen.scale) as place:
            rows = measure_place(place, runs=chosen.runs)
    report.print_table(rows, HEADINGS, f"{datetime.now(UTC):%Y-%m-%d}")


def measure_place(place: Place, *, runs: int) -> list[list[str]]:
    """Run each read in this place; return the rows of the table."""
    return measure(place.database_url, runs=runs)


def measure(database_url: str, *, runs: int) -> list[list[str]]:
    """Run each read; return the rows of the table."""
    rows = []
    with connect(database_url, name="benchmark") as connection:
        bound_statements(connection, STATEMENT_SECONDS, is_local=False)
        for name, read in list_reads(connection):
            first, *others = [_time(read) for _ in range(runs + 1)]
            worst = max(others)
            figures_ = (f"{it * 1000:.0f}" for it in (first, median(others), worst))
            rows.append([name, *figures_, "yes" if median(others) <= MUST_SECONDS else "no"])
            print(*rows[-1], sep="  ", flush=True)
    return rows


def _time(read: Callable[[], object]) -> float:
    began = time.perf_counter()
    read()
    return time.perf_counter() - began


def list_reads(connection: Connection) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each read with what it is called in the table."""
    every = (*event_history.OPEN_STATES, *event_history.DONE_STATES)
    for narrow in QUERIES:
        query = EventQuery(**narrow)
        yield f"events {_words(narrow)}", partial(search_events, connection, query, before=None, limit=SHOWN)
    (newest,) = search_events(connection, EventQuery(tenant="tenant-0"), before=None, limit=1).events
    yield "one event", partial(event_history.read_history, connection, newest.id)
    for narrow in LISTS:
        listed = partial(event_history.list_deliveries, connection, limit=SHOWN, **narrow)
        yield f"deliveries {_words(narrow)}", partial(listed, states=every)
    yield from _list_figures(connection)
    yield from _list_people_asked(connection)


def _list_figures(connection: Connection) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what the pages of the moment, of tenants and of handlers read."""
    yield "minutes", partial(activity.read_minutes, connection)
    yield "hours", partial(activity.read_hours, connection)
    yield "minutes of a tenant", partial(activity.read_minutes, connection, tenant="tenant-0")
    yield "hours of a tenant", partial(activity.read_hours, connection, tenant="tenant-0")
    yield "minutes of a handler", partial(activity.read_minutes, connection, handler="big.handler_3")
    yield "latency", partial(activity.read_latency, connection)
    yield "handlers' activity", partial(activity.read_handlers, connection)
    yield "open work", partial(figures.read_open_work, connection)
    yield "dead and rejected", partial(figures.count_kept, connection)
    yield "load of tenants", partial(stats.read_load, connection)
    yield "load of the largest tenant", partial(stats.read_load, connection, tenant="tenant-0")
    yield "load of a small tenant", partial(stats.read_load, connection, tenant="tenant-9999")
    yield "load of handlers", partial(stats.read_handler_load, connection)
    yield "tenant", partial(tenants.find_tenant, connection, "tenant-0")
    yield "endpoints of a tenant", partial(tenants.list_endpoints, connection, tenant="tenant-0")
    yield (
        "last events",
        partial(figures.read_last_events, connection, {(f"tenant-{n}", "moveris") for n in range(SHOWN)}),
    )
    yield "registered handlers", partial(catalogue.list_registered, connection)
    yield "open deliveries of a handler", partial(catalogue.count_open, connection, "big.paused")
    yield "limits", partial(limits.list_limits, connection)
    yield "pauses", partial(pauses.list_pauses, connection)


def _list_people_asked(connection: Connection) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what the pages of incidents, jobs and the audit read, and what changes look at first."""
    listed = partial(incidents.list_incidents, connection, state=None, subject=None, tenant=None, limit=SHOWN)
    yield "incidents", listed
    yield "open incidents", partial(listed, state="open")
    yield "incidents of a tenant", partial(listed, tenant="tenant-9999")
    yield "incidents of a handler", partial(listed, subject="big.handler_1")
    yield "one incident", partial(incidents.read_incident, connection, 1)
    yield "its tenants", partial(incidents.list_tenants, connection, 1, limit=SHOWN)
    yield "its dead deliveries", partial(incidents.count_dead, connection, 1)
    yield "hours of incidents", partial(activity.read_incident_hours, connection, range(1, SHOWN + 1))
    yield "jobs", partial(jobs.list_jobs, connection, limit=SHOWN)
    yield "running jobs", partial(jobs.list_jobs, connection, limit=SHOWN, state="running")
    entries = partial(audit.list_entries, connection, limit=SHOWN)
    since = datetime.now(UTC) - timedelta(hours=1)
    yield "audit", entries
    yield "audit of a target", partial(entries, target="tenant-5")
    yield "audit since", partial(entries, since=since)
    for selection in (
        Selection(tenant="tenant-5"),
        Selection(handler="big.handler_3"),
        Selection(handler="nobody.has"),
    ):
        retried = partial(manual.count_lanes, connection, "retry", selection, most=100_000)
        yield f"retry of {selection.tenant or selection.handler}", retried


def _words(narrow: dict[str, Any]) -> str:
    return " ".join(f"{name}={'.'.join(it) if isinstance(it, tuple) else it}" for name, it in narrow.items()) or "(all)"
