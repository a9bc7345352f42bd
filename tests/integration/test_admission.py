"""Admission on real tables: fair, within caps, and as cheap as what it admits."""

from __future__ import annotations

import re
import threading
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from workers.dispatch.admission import Message, admit
from workers.store import deliveries, recovery
from workers.store.connect import Connection, connect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.integration.conftest import AddDeliveries
    from workers.store.sql import Queries


class Sent:
    """A queue that remembers what was sent, and may be full or broken."""

    def __init__(self, waiting: int = 0, *, fails_after: int | None = None) -> None:
        self.waiting = waiting
        self.fails_after = fails_after
        self.messages: list[Message] = []

    def state(self) -> tuple[int, Mapping[str, float]]:
        return self.waiting, {"acme.run": 0.001}

    def send(self, message: Message) -> None:
        if self.fails_after is not None and len(self.messages) >= self.fails_after:
            raise ConnectionError("the broker is away")
        self.messages.append(message)

    @property
    def tenants(self) -> list[str]:
        return [candidate.tenant for message in self.messages for candidate in message.deliveries]


def states(connection: Connection) -> dict[str, int]:
    rows = connection.execute("SELECT state, count(*) AS number FROM deliveries GROUP BY state")
    return {row["state"]: row["number"] for row in rows}


def test_at_rest_a_message_carries_one_delivery(connection: Connection, add_deliveries: AddDeliveries) -> None:
    add_deliveries(3)
    queue = Sent()
    assert admit(connection, queue, slots=4, message_seconds=1.0) == 3
    assert [len(message.deliveries) for message in queue.messages] == [1, 1, 1]
    assert states(connection) == {"queued": 3}


def test_a_full_queue_is_left_alone(connection: Connection, add_deliveries: AddDeliveries) -> None:
    add_deliveries(3)
    assert admit(connection, Sent(waiting=8), slots=4, message_seconds=1.0) == 0
    assert states(connection) == {"pending": 3}


def test_what_could_not_be_sent_is_pending_again(connection: Connection, add_deliveries: AddDeliveries) -> None:
    add_deliveries(5)
    with pytest.raises(ConnectionError):
        admit(connection, Sent(fails_after=2), slots=4, message_seconds=1.0)
    assert states(connection) == {"queued": 2, "pending": 3}
    assert admit(connection, Sent(), slots=4, message_seconds=1.0) == 3


def test_a_flood_leaves_room_for_a_newcomer(connection: Connection, add_deliveries: AddDeliveries) -> None:
    add_deliveries(5000, tenant="flood")
    add_deliveries(1, tenant="quiet")
    queue = Sent()
    admit(connection, queue, slots=2, message_seconds=1.0)
    assert queue.tenants.count("quiet") == 1
    assert len(queue.messages) == 4


def test_service_goes_on_behind_the_lane_served_last(connection: Connection, add_deliveries: AddDeliveries) -> None:
    for number in range(200):
        add_deliveries(1, tenant=f"t{number:03}")
    first, second = Sent(waiting=1), Sent(waiting=1)
    admit(connection, first, slots=1, message_seconds=0.03)  # room for one message of 30
    admit(connection, second, slots=1, message_seconds=0.03)
    assert first.tenants == [f"t{number:03}" for number in range(30)]
    assert second.tenants == [f"t{number:03}" for number in range(30, 60)]


def test_a_paused_tenant_waits_and_a_cap_holds_between_concurrent_admissions(
    connection: Connection, database_url: str, add_deliveries: AddDeliveries
) -> None:
    connection.execute("INSERT INTO tenants (name, max_in_flight) VALUES ('capped', 7)")
    connection.execute("INSERT INTO tenants (name, paused_at) VALUES ('paused', now())")
    add_deliveries(100, tenant="capped")
    add_deliveries(100, tenant="paused")

    def admit_once() -> None:
        with connect(database_url, name="test") as own:
            admit(own, Sent(), slots=2, message_seconds=1.0)

    threads = [threading.Thread(target=admit_once) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states(connection) == {"queued": 7, "pending": 193}


def test_room_is_dealt_over_all_lanes_once_around(connection: Connection, add_deliveries: AddDeliveries) -> None:
    for tenant, count in (("a", 3), ("b", 1), ("c", 9), ("d", 2)):
        add_deliveries(count, tenant=tenant)
    candidates, allowances = deliveries.list_candidates(connection, after=("b", "acme.run"), most=10)
    turns = [candidate.tenant for candidate in sorted(candidates, key=lambda one: one.place)]
    assert turns == ["c", "c", "c", "d", "d", "a", "a", "a", "b"], "10 over 4 lanes, rounded up to 3 of each"
    rows = connection.execute("SELECT event_id FROM deliveries WHERE tenant = 'c' ORDER BY due_at, event_id LIMIT 3")
    assert [one.event_id for one in candidates if one.tenant == "c"] == [row["event_id"] for row in rows]
    assert not allowances


def test_a_retry_is_admitted_when_its_time_has_come(connection: Connection, add_deliveries: AddDeliveries) -> None:
    early, late = add_deliveries(2)
    connection.execute(
        "UPDATE deliveries SET ready = false, due_at = now() - interval '1 s' WHERE event_id = %s", [early]
    )
    connection.execute(
        "UPDATE deliveries SET ready = false, due_at = now() + interval '1 h' WHERE event_id = %s", [late]
    )
    queue = Sent()
    assert admit(connection, queue, slots=4, message_seconds=1.0) == 1
    assert queue.messages[0].event_ids == [early]


def plan_of(
    connection: Connection, name: str, parameters: dict[str, Any], *, queries: Queries = deliveries._QUERIES
) -> str:
    """Return the plan that workers run: made once, whatever the parameters."""
    numbers = {parameter: f"${number}" for number, parameter in enumerate(parameters, 1)}
    query = re.sub(r"%\((\w+)\)[sb]", lambda found: numbers[found[1]], queries[name])
    connection.execute("SET plan_cache_mode = force_generic_plan", prepare=False)
    connection.execute(f"PREPARE it AS {query}", prepare=False)
    values = f"({', '.join(['%s'] * len(parameters))})" if parameters else ""
    with psycopg.ClientCursor(connection) as cursor:
        rows = cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) EXECUTE it{values}", list(parameters.values())).fetchall()
    connection.execute("DEALLOCATE it", prepare=False)
    return "\n".join(str(row["QUERY PLAN"]) for row in rows)


@pytest.mark.parametrize(("tenants", "each"), [(1, 1_000_000), (10_000, 2)], ids=["a long lane", "many lanes"])
def test_the_cost_of_admission_does_not_follow_the_backlog(connection: Connection, tenants: int, each: int) -> None:
    connection.execute("ALTER TABLE deliveries SET (autovacuum_enabled = false)")  # no statistics until we say so
    connection.execute(
        "INSERT INTO deliveries (event_id, handler, tenant)"
        " SELECT uuid_at(now() + (t * 10 + each) * interval '1 ms'), 'acme.run', 't' || lpad(t::text, 5, '0')"
        " FROM generate_series(1, %s) AS t, generate_series(1, %s) AS each",
        [tenants, each],
    )
    check_plans(connection, lanes_expected=min(tenants, 256))
    connection.execute("ANALYZE deliveries")
    check_plans(connection, lanes_expected=min(tenants, 256))


def check_plans(connection: Connection, *, lanes_expected: int) -> None:
    after = ("t05000", "acme.run")
    candidates, _ = deliveries.list_candidates(connection, after=after, most=256)
    assert (len({candidate.place for candidate in candidates}), len(candidates)) == (lanes_expected, 256)
    plans = [
        plan_of(connection, "list_candidates", {"tenant": after[0], "handler": after[1], "most": 256}),
        plan_of(connection, "promote_due", {}),
        plan_of(connection, "have_queued_late", {}, queries=recovery._QUERIES),
        plan_of(
            connection,
            "return_queued",
            {"event_ids": [uuid.uuid4()], "handlers": ["acme.run"]},
            queries=recovery._QUERIES,
        ),
    ]
    for plan in plans:
        assert "Seq Scan" not in plan, plan
    assert "Sort" not in plans[0], plans[0]
    assert "hashed" in plans[-1], plans[-1]
