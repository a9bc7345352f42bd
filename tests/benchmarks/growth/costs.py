"""What an event costs all the way, by who pays: CPU of each process, bytes in Redis and Postgres, write-ahead log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.fill import fill_inbox
from tests.benchmarks.growth.meter import cpu_of
from tests.benchmarks.handling import finished
from tests.benchmarks.measuring import wait_until
from tests.benchmarks.processes import load, run_ours
from tests.launching import free_port

if TYPE_CHECKING:
    from tests.benchmarks.ground import Ground, Place

WAITING = 20_000
EVENTS = 30_000
SERVICES: Final = ("ingress", "ingest", "handlers", "express", "housekeeping", "beat")
TABLES: Final = ("events", "receipts", "deliveries_done")
_SIZES = """
SELECT root, sum(pg_total_relation_size(relid)) AS bytes, sum(pg_indexes_size(relid)) AS index_bytes
FROM unnest(%(tables)s::text[]) AS root CROSS JOIN LATERAL (
    SELECT relid FROM pg_partition_tree(root::regclass) UNION SELECT root::regclass
) AS parts
GROUP BY root
"""


def measure_costs(ground: Ground, results: dict[str, Any], *, full: bool) -> None:
    """All services at work on events that the ingress takes, one handler each that does nothing."""
    events = EVENTS * (3 if full else 1)
    with ground.fresh() as place:
        port = free_port()
        place.add_endpoint()
        before = _redis(place)
        fill_inbox(place, WAITING)
        per_event = {name: (value - before[name]) / WAITING for name, value in _redis(place).items()}
        module = "tests.benchmarks.handlers.nothing"
        with run_ours(place, *SERVICES[:3], ingress_port=port, HANDLERS=module) as pids:
            load("closed", port=port, count=2_000)
            wait_until(lambda: finished(place) >= WAITING + 2_000)
            with place.connect() as connection:
                connection.execute("CHECKPOINT")
            processes = pids | dict(zip(("postgres", "redis"), ground.server_pids, strict=True))
            first, began = _look(place, processes), time.perf_counter()
            load("closed", port=port, count=events)
            wait_until(lambda: finished(place) >= WAITING + 2_000 + events)
            elapsed, last = time.perf_counter() - began, _look(place, processes)
    figures = {name: (value - first[name]) / events for name, value in last.items()} | per_event
    results["figures"] = figures | {"events_per_second": events / elapsed}
    results["tables"]["what a million events cost, all the way, a handler that does nothing"] = {
        "headings": ["what", "a million"],
        "rows": [
            [name, f"{value:,.0f} s of CPU" if name.startswith("cpu ") else f"{value / 1000:,.2f} GB"]
            for name, value in ((name, value * 1e6 if "cpu" in name else value) for name, value in figures.items())
        ],
    }


def _redis(place: Place) -> dict[str, float]:
    return {
        "redis memory, waiting": float(place.redis.info("memory")["used_memory"]),
        "redis file, written": float(place.redis.info("persistence")["aof_current_size"]),
    }


def _look(place: Place, processes: dict[str, int]) -> dict[str, float]:
    """Return CPU seconds by process and bytes by place, counted from whenever."""
    seen = {f"cpu {name}": cpu_of(pid) for name, pid in processes.items()}
    with place.connect() as connection:
        for row in connection.execute(_SIZES, {"tables": list(TABLES)}):
            seen[f"postgres {row['root']}"] = float(row["bytes"])
            seen[f"postgres {row['root']}, of it indexes"] = float(row["index_bytes"])
        log = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') AS bytes").fetchone()
        assert log
    return seen | {"postgres log, written": float(log["bytes"])}
