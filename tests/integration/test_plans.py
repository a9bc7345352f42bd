"""Statements that run with every message find their rows by an index, whatever Postgres knows of the table.

Workers plan each statement once. A plan made while the table was empty, or had no statistics yet, is used until
Postgres next analyzes the table, with whatever has come in meanwhile.
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from workers.store import deliveries, events, limits, recovery, serial
from workers.store.connect import PostgresConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.store.connect import Connection
    from workers.store.sql import Queries

IDS: Final = [uuid.uuid4() for _ in range(64)]
NAMES: Final = ["h.one"] * 64
OUTCOMES: Final = {
    "handler": "h.one",
    "event_ids": IDS,
    "fences": [1] * 64,
    "states": ["succeeded"] * 64,
    "retry_ins": [None] * 64,
    "errors": [None] * 64,
    "tracebacks": [None] * 64,
    "durations": [0.1] * 64,
}
STATEMENTS: Final[list[tuple[Queries, str, dict[str, Any]]]] = [
    (deliveries._QUERIES, "promote_due", {}),
    (deliveries._QUERIES, "queue", {"event_ids": IDS, "handlers": NAMES, "wait": 15.0}),
    (deliveries._QUERIES, "unqueue", {"event_ids": IDS, "handler": "h.one"}),
    (
        deliveries._QUERIES,
        "claim",
        {"event_ids": IDS, "handler": "h.one", "worker": "w", "lease": 30.0, "alone": False},
    ),
    (deliveries._QUERIES, "record", OUTCOMES),
    (deliveries._QUERIES, "hand_back", {"event_ids": IDS, "fences": [1] * 64, "handler": "h.one"}),
    (serial._QUERIES, "park_blocked", {"event_ids": IDS, "handlers": NAMES}),
    (
        deliveries._QUERIES,
        "list_candidates",
        {"after": "t5", "tenants": 256, "lanes": 8, "most": 256, "room": 1, "few": 16},
    ),
    (limits._QUERIES, "list_allowances", {"handlers": ["h.one"], "tenants": ["t1"]}),
    (
        events._QUERIES,
        "insert_arrivals",
        {
            "ids": IDS,
            "tenants": NAMES,
            "providers": NAMES,
            "fingerprints": [b"x"] * 64,
            "received_ats": [datetime.now(UTC)] * 64,
            "secret_labels": NAMES,
        },
    ),
    (recovery._QUERIES, "list_expired", {}),
    (recovery._QUERIES, "return_uncharged", {"event_ids": IDS, "handlers": NAMES, "error": "lost"}),
    (recovery._QUERIES, "keep_alone", {"event_ids": IDS, "handler": "h.one"}),
    (recovery._QUERIES, "are_queued_late", {"event_ids": IDS, "handlers": NAMES}),
    (recovery._QUERIES, "return_queued", {"event_ids": IDS, "handlers": NAMES}),
    (recovery._QUERIES, "return_unknown", {"event_ids": IDS, "handler": "h.one", "error": "unknown", "wait": 1.0}),
]
BEGINNINGS: Final = {
    "deliveries_pkey": r"event_id (=|>)",
    "deliveries_position": r"tenant,? ",
    "deliveries_serial": r"tenant = .*serial =",
    "deliveries_due": r"due_at <",
    "receipts_pkey": r"fingerprint =",
}
"""Index: what its condition must have, so that it is not read from one end to the other. Those of what is in flight may
be: that does not follow the backlog."""
FILL: Final = (
    "INSERT INTO deliveries (event_id, handler, tenant)"
    " SELECT uuid_at(now() + n * interval '1 ms'), 'h.one', 't' || n % 10 FROM generate_series(1, 20000) AS n"
)


class Session:
    """A worker's session, with its plans."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def plan(self, queries: Queries, name: str, parameters: dict[str, Any], *, prepare: bool = True) -> str:
        """Return the plan of a statement, made at the first call."""
        if prepare:
            numbers = {parameter: f"${number}" for number, parameter in enumerate(parameters, 1)}
            query = re.sub(r"%\((\w+)\)[sb]", lambda found: numbers[found[1]], queries[name])
            self._connection.execute(f"PREPARE {name} AS {query}", prepare=False)
        values = f"({', '.join(['%s'] * len(parameters))})" if parameters else ""
        with psycopg.ClientCursor(self._connection) as cursor:
            rows = cursor.execute(f"EXPLAIN EXECUTE {name}{values}", list(parameters.values())).fetchall()
        return "\n".join(str(row["QUERY PLAN"]) for row in rows)


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    postgres = PostgresConnection(database_url, name="test")
    yield Session(postgres.connection)
    postgres.close()


def read_whole(plan: str) -> list[str]:
    """Return the scans of a plan that read all of `deliveries`, `receipts` or an index of theirs."""
    scans = re.findall(
        r"(Seq Scan|Index Scan|Index Only Scan|Bitmap Index Scan)(?: using)?(?: on)? (\S+).*\n(?:\s*Index Cond: (.*))?",
        plan,
    )
    return [
        f"{scan} {name} {condition}"
        for scan, name, condition in scans
        if name in {"deliveries", "receipts"} or not re.search(BEGINNINGS.get(name, ""), condition)
    ]


@pytest.mark.parametrize("known", ["nothing", "an empty table", "an empty table, filled since", "all"])
def test_no_plan_reads_a_whole_table_or_index(connection: Connection, session: Session, known: str) -> None:
    for table in ("deliveries", "receipts"):
        connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    if "empty" in known:
        connection.execute("ANALYZE deliveries, receipts")
    if known != "an empty table":
        connection.execute(FILL)
    if known == "all":
        connection.execute("ANALYZE deliveries, receipts")
    plans = {name: session.plan(queries, name, parameters) for queries, name, parameters in STATEMENTS}
    assert {name: scans for name, plan in plans.items() if (scans := read_whole(plan))} == {}


def test_a_plan_is_kept_when_the_table_fills(connection: Connection, session: Session) -> None:
    """This is why: what was planned on an empty table is not planned anew."""
    connection.execute("ANALYZE deliveries")
    queries, name, parameters = next(it for it in STATEMENTS if it[1] == "claim")
    before = session.plan(queries, name, parameters)
    connection.execute(FILL)
    assert session.plan(queries, name, parameters, prepare=False) == before
