"""The plans of one admission and one sweep, kept with the results: index scans only, no sort of the backlog."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import psycopg

from workers.store import deliveries, recovery

if TYPE_CHECKING:
    from workers.store.connect import Connection
    from workers.store.sql import Queries

GUILTY: Final = re.compile(r"Seq Scan on deliveries|Sort Key: \w+\.(?:tenant|due_at|position|event_id)")
"""What is in flight may be sorted (by `lease_until`): it does not follow the backlog."""
FEW: Final = 5_000
"""Rows below which reading all of them is the cheaper plan, and taken."""


def explain(connection: Connection) -> dict[str, str]:
    """Return the plans that workers run, with their times.

    Raises:
        RuntimeError: one of them reads or sorts the backlog.
    """
    some = "SELECT event_id, handler FROM deliveries WHERE ready ORDER BY tenant, handler, position LIMIT 64"
    rows = connection.execute(some, prepare=False).fetchall()
    chosen = {name: [row[name] for row in rows] for name in ("event_id", "handler")}
    plans = {
        "list_candidates": _plan(
            connection,
            deliveries._QUERIES,
            "list_candidates",
            {"after": "", "tenants": 256, "lanes": 8, "most": 256, "room": 1, "few": 32},
        ),
        "promote_due": _plan(connection, deliveries._QUERIES, "promote_due", {}),
        "queue": _plan(
            connection,
            deliveries._QUERIES,
            "queue",
            {"wait": 15.0, "event_ids": chosen["event_id"], "handlers": chosen["handler"]},
        ),
        "list_expired": _plan(connection, recovery._QUERIES, "list_expired", {}),
        "return_queued": _plan(
            connection,
            recovery._QUERIES,
            "return_queued",
            {"event_ids": chosen["event_id"], "handlers": chosen["handler"]},
        ),
    }
    there = connection.execute("SELECT reltuples FROM pg_class WHERE oid = 'deliveries'::regclass").fetchone()
    if not there or there["reltuples"] < FEW:
        return plans
    guilty = [name for name, plan in plans.items() if GUILTY.search(plan)]
    if guilty:
        raise RuntimeError("the backlog is read or sorted:\n" + "\n".join(plans[name] for name in guilty))
    return plans


def _plan(connection: Connection, queries: Queries, name: str, parameters: dict[str, Any]) -> str:
    """Run one statement with a plan made once, whatever its parameters; undo what it did."""
    numbers = {parameter: f"${number}" for number, parameter in enumerate(parameters, 1)}
    query = re.sub(r"%\((\w+)\)[sb]", lambda found: numbers[found[1]], queries[name])
    values = f"({', '.join(['%s'] * len(parameters))})" if parameters else ""
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL plan_cache_mode = force_generic_plan", prepare=False)
        connection.execute(f"PREPARE it AS {query}", prepare=False)
        with psycopg.ClientCursor(connection) as cursor:
            explained = f"EXPLAIN (ANALYZE, BUFFERS) EXECUTE it{values}"
            rows = cursor.execute(explained, list(parameters.values())).fetchall()
    connection.execute("DEALLOCATE ALL", prepare=False)
    return "\n".join(str(row["QUERY PLAN"]) for row in rows)
