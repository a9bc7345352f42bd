"""Admission on real tables: fair, within caps, and as cheap as what it admits."""

from __future__ import annotations

import re
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from workers.dispatch.admission import MOST_AT_ONCE, Message, admit
from workers.dispatch.express import FEW, MOST_WAITING
from workers.store import deliveries, limits, recovery
from workers.store.connect import Connection, connect

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tests.integration.conftest import AddDeliveries
    from workers.store.deliveries import Candidate
    from workers.store.sql import Queries


class Sent:
    """A queue that remembers what was sent, and may be full or broken."""

    def __init__(
        self,
        waiting: int = 0,
        *,
        express: int = MOST_WAITING,
        seconds: Mapping[str, float] | None = None,
        is_broken: bool = False,
    ) -> None:
        self.waiting = waiting
        self.express = express
        self.seconds = seconds or {}
        self.is_broken = is_broken
        self.messages: list[Message] = []

    def lengths(self) -> tuple[int, int]:
        return self.waiting, self.express

    def durations(self, lanes: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], float]:
        return {(tenant, handler): self.seconds.get(handler, 0.001) for tenant, handler in lanes}

    def send(self, *messages: Message) -> None:
        if self.is_broken:
            raise ConnectionError("the broker is away")
        self.messages += messages

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
        admit(connection, Sent(is_broken=True), slots=4, message_seconds=1.0)
    assert states(connection) == {"pending": 5}
    assert admit(connection, Sent(), slots=4, message_seconds=1.0) == 5


def test_a_flood_leaves_room_for_a_newcomer(connection: Connection, add_deliveries: AddDeliveries) -> None:
    add_deliveries(5000, tenant="flood")
    add_deliveries(1, tenant="quiet")
    queue = Sent()
    admit(connection, queue, slots=2, message_seconds=1.0)
    assert queue.tenants.count("quiet") == 1
    assert len(queue.messages) == 4


def test_service_goes_on_after_the_tenant_served_last(connection: Connection, add_deliveries: AddDeliveries) -> None:
    for number in range(200):
        add_deliveries(3, tenant=f"t{number:03}")
    first, second = Sent(), Sent()
    admit(connection, first, slots=1, message_seconds=0.015)  # room for two messages of 15
    admit(connection, second, slots=1, message_seconds=0.015)
    assert first.tenants == [f"t{number:03}" for number in range(30)]
    assert second.tenants == [f"t{number:03}" for number in range(30, 60)]


def test_a_tenant_of_a_thousand_handlers_takes_no_more_turns_than_one_of_one(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    for number in range(1000):
        add_deliveries(1, tenant="many", handler=f"many.h{number:04}")
    add_deliveries(1000, tenant="one", handler="one.run")
    queue = Sent(seconds=dict.fromkeys(["one.run"], 60.0))
    for _ in range(20):
        admit(connection, queue, slots=4, message_seconds=1.0)
    assert abs(queue.tenants.count("many") - queue.tenants.count("one")) <= 20


@pytest.mark.parametrize(
    "case",
    [
        (1, 0, 512, 1),
        (4, 0, 1, 300),
        *(pytest.param(it, marks=pytest.mark.long) for it in [(4, 0, 2048, 1), (4, 0, 1, 2048)]),
    ],
)
def test_no_lane_starves_beside_lanes_that_share_a_handler(
    connection: Connection, add_deliveries: AddDeliveries, case: tuple[int, int, int, int]
) -> None:
    slots, waiting, tenants, handlers = case
    for number in range(tenants):
        add_deliveries(10, tenant=f"t{number:03}", handler="shared.run")
    for number in range(handlers):
        add_deliveries(10, tenant="t100", handler=f"other.h{number:03}")
    queue = Sent(waiting)
    ends = 2 * (handlers + tenants // 256 + 1) // (2 * slots - waiting) + 4
    for _ in range(ends):
        admit(connection, queue, slots=slots, message_seconds=1.0)
    served = {message.handler for message in queue.messages}
    assert {f"other.h{number:03}" for number in range(handlers)} <= served
    assert {f"t{number:03}" for number in range(tenants)} <= set(queue.tenants)


def test_a_tenants_handlers_take_turns_from_one_admission_to_the_next_so_that_none_starves(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    handlers = [f"acme.h{number}" for number in range(6)]
    for handler in handlers:
        add_deliveries(5, handler=handler)
    queue = Sent(seconds=dict.fromkeys(handlers, 60.0))  # room for two messages of one delivery
    for _ in range(3):
        admit(connection, queue, slots=1, message_seconds=1.0)
    assert [message.handler for message in queue.messages] == handlers


def test_a_weight_gives_a_tenant_more_turns(connection: Connection, add_deliveries: AddDeliveries) -> None:
    connection.execute("INSERT INTO tenants (name, weight) VALUES ('heavy', 3)")
    for tenant in ("heavy", "light"):
        add_deliveries(100, tenant=tenant, handler=f"{tenant}.run")
    queue = Sent(seconds={"heavy.run": 60.0, "light.run": 60.0})
    admit(connection, queue, slots=4, message_seconds=1.0)
    assert (queue.tenants.count("heavy"), queue.tenants.count("light")) == (6, 2)


def test_a_quiet_tenants_delivery_takes_the_express_queue_while_others_fill_the_slots(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    add_deliveries(5000, tenant="flood", handler="flood.run")
    add_deliveries(2, tenant="quiet", handler="quiet.run")
    full = Sent(waiting=8, express=0)
    assert admit(connection, full, slots=4, message_seconds=1.0) == 2
    assert [(message.express, len(message.deliveries)) for message in full.messages] == [(True, 2)]
    assert full.tenants == ["quiet", "quiet"]
    add_deliveries(1, tenant="quiet", handler="quiet.run")
    assert admit(connection, full, slots=4, message_seconds=1.0, express=False) == 0
    empty = Sent(express=0)
    admit(connection, empty, slots=4, message_seconds=1.0)
    assert set(empty.tenants) == {"flood", "quiet"}
    assert [message.handler for message in empty.messages if message.express] == ["quiet.run"]


@pytest.mark.parametrize(("waiting", "express", "sizes"), [(0, 0, [1] * 6), (1, 0, [6]), (8, 0, [6]), (8, 1, [6])])
def test_quiet_deliveries_share_a_message_while_others_wait(
    connection: Connection, add_deliveries: AddDeliveries, waiting: int, express: int, sizes: list[int]
) -> None:
    add_deliveries(6, tenant="quiet", handler="quiet.run")
    queue = Sent(waiting=waiting, express=express)
    admit(connection, queue, slots=4, message_seconds=1.0)
    assert [len(message.deliveries) for message in queue.messages] == sizes
    assert all(message.express for message in queue.messages)


def test_an_admission_looks_at_so_many_of_a_flood_and_fills_messages_with_them(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    add_deliveries(3000, tenant="flood", handler="flood.run")
    queue = Sent()
    assert admit(connection, queue, slots=8, message_seconds=1.0) == MOST_AT_ONCE
    assert [len(message.deliveries) for message in queue.messages] == [256] * 4
    slow = Sent(seconds={"flood.run": 0.5})
    assert admit(connection, slow, slots=8, message_seconds=1.0) == 32, "room for 16 messages of two"


def test_with_a_bound_of_one_the_queue_is_filled_only_when_it_is_empty(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    add_deliveries(5000, tenant="flood", handler="flood.run")
    add_deliveries(1, tenant="quiet", handler="quiet.run")
    queue = Sent(waiting=1, express=0)
    assert admit(connection, queue, slots=4, message_seconds=1.0, below=1) == 1
    assert queue.tenants == ["quiet"]
    assert admit(connection, Sent(), slots=4, message_seconds=1.0, below=1) == MOST_AT_ONCE


def test_the_queue_is_topped_up_when_less_than_a_message_a_slot_waits(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    add_deliveries(5000)
    assert admit(connection, Sent(waiting=4), slots=4, message_seconds=1.0) == 0
    queue = Sent(waiting=3, seconds={"acme.run": 0.01})
    admit(connection, queue, slots=4, message_seconds=1.0)
    assert len(queue.messages) == 5


def test_a_tenant_has_its_share_of_the_express_queue_and_then_its_turns(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    queue = Sent(express=0, seconds={"busy.run": 0.2})
    for _ in range(8):
        add_deliveries(1, tenant="busy", handler="busy.run")
        admit(connection, queue, slots=4, message_seconds=1.0)
    kinds = [message.express for message in queue.messages]
    assert kinds[:2] == [True, True]
    assert kinds.count(False) >= 3


def test_caps_of_a_handler_hold_for_all_tenants_and_for_one(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    connection.execute(
        "INSERT INTO handler_limits (handler, tenant, max_in_flight) VALUES ('a.run', '*', 5), ('b.run', 't1', 2)"
    )
    for tenant in ("t1", "t2"):
        for handler in ("a.run", "b.run"):
            add_deliveries(10, tenant=tenant, handler=handler)
    for _ in range(3):
        admit(connection, Sent(), slots=4, message_seconds=1.0)
    rows = connection.execute(
        "SELECT tenant, handler, count(*) AS n FROM deliveries WHERE state = 'queued' GROUP BY 1, 2"
    )
    queued = {(row["tenant"], row["handler"]): row["n"] for row in rows}
    assert queued["t1", "a.run"] + queued["t2", "a.run"] == 5
    assert (queued["t1", "b.run"], queued["t2", "b.run"]) == (2, 10)


def test_a_rate_admits_what_a_second_brings_and_no_more(connection: Connection, add_deliveries: AddDeliveries) -> None:
    connection.execute("INSERT INTO handler_limits (handler, rate) VALUES ('a.run', 20)")
    add_deliveries(200, handler="a.run")
    add_deliveries(3, handler="b.run")

    def admit_after(seconds: float) -> int:
        query = "UPDATE handler_limits SET counted_at = clock_timestamp() - make_interval(secs => %s)"
        connection.execute(query, [seconds])
        return admit(connection, Sent(), slots=4, message_seconds=1.0)

    assert admit_after(3600) == 20 + 3, "a bucket holds one second's worth; others are not held up"
    assert admit_after(0) < 5, "as many as the time between the two statements brings"
    connection.execute("UPDATE handler_limits SET tokens = 0")
    assert 10 <= admit_after(0.5) < 15
    assert admit_after(60) == 20


@pytest.mark.parametrize("rate", ["1e308", "infinity"])
def test_a_rate_beyond_all_measure_holds_nobody_up(
    connection: Connection, add_deliveries: AddDeliveries, rate: str
) -> None:
    query = "INSERT INTO handler_limits (handler, rate, counted_at) VALUES ('a.run', %s, now() - interval '1 hour')"
    connection.execute(query, [rate])
    add_deliveries(5, handler="a.run")
    add_deliveries(3, handler="b.run")
    assert admit(connection, Sent(), slots=20, message_seconds=1.0) == 8


def test_a_rate_below_one_a_second_admits_one_at_a_time(connection: Connection, add_deliveries: AddDeliveries) -> None:
    connection.execute("INSERT INTO handler_limits (handler, rate) VALUES ('a.run', 0.1)")
    add_deliveries(5, handler="a.run")
    assert admit(connection, Sent(), slots=4, message_seconds=1.0) == 1
    assert admit(connection, Sent(), slots=4, message_seconds=1.0) == 0
    connection.execute("UPDATE handler_limits SET counted_at = counted_at - interval '10 s'")
    assert admit(connection, Sent(), slots=4, message_seconds=1.0) == 1


def test_a_paused_tenant_waits_and_a_cap_holds_between_concurrent_admissions(
    connection: Connection, database_url: str, add_deliveries: AddDeliveries
) -> None:
    connection.execute("INSERT INTO tenants (name, max_in_flight) VALUES ('capped', 7)")
    connection.execute("INSERT INTO tenants (name, paused_at) VALUES ('paused', now())")
    add_deliveries(50, tenant="capped")
    add_deliveries(50, tenant="capped", handler="acme.other")
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


def test_a_rate_holds_between_concurrent_admissions_and_for_workers_that_are_started_later(
    connection: Connection, database_url: str, add_deliveries: AddDeliveries
) -> None:
    connection.execute("INSERT INTO handler_limits (handler, rate) VALUES ('acme.run', 0.001)")
    add_deliveries(10)

    def admit_once(_: int) -> int:
        with connect(database_url, name="test") as own:
            return admit(own, Sent(), slots=2, message_seconds=1.0)

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(admit_once, range(6))) == 1
    assert admit_once(7) == 0


def test_an_admission_waits_for_another_and_then_looks_or_leaves_the_work_to_it(
    connection: Connection, database_url: str, add_deliveries: AddDeliveries
) -> None:
    connection.execute("INSERT INTO tenants (name, max_in_flight) VALUES ('capped', 7)")
    ids = add_deliveries(20, tenant="capped")
    with connect(database_url, name="test") as other, ThreadPoolExecutor(1) as pool:
        with other.transaction():
            other.execute("SELECT FROM admission FOR UPDATE")
            other.execute(
                "UPDATE deliveries SET state = 'queued', ready = false, lease_until = now() + interval '1 minute'"
                " WHERE event_id = ANY (%s)",
                [ids[-7:]],
            )
            assert admit(connection, Sent(), slots=2, message_seconds=1.0, wait=False) == 0
            waiting = pool.submit(admit, connection, Sent(), slots=2, message_seconds=1.0)
            with psycopg.connect(database_url, autocommit=True) as watch:
                while not watch.execute(
                    "SELECT 1 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)"
                    " WHERE NOT l.granted AND a.datname = current_database()"
                ).fetchone():
                    assert not waiting.done()
        assert waiting.result(10) == 0
    assert states(connection) == {"queued": 7, "pending": 13}


def test_caps_count_what_runs_and_a_cap_for_one_tenant_counts_no_others(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    connection.execute("INSERT INTO tenants (name, max_in_flight) VALUES ('t3', 3)")
    connection.execute(
        "INSERT INTO handler_limits (handler, tenant, max_in_flight) VALUES ('a.run', '*', 5), ('b.run', 't1', 2)"
    )
    for tenant, handler in (("t2", "a.run"), ("t2", "b.run"), ("t3", "c.run")):
        add_deliveries(10, tenant=tenant, handler=handler)
    admit(connection, Sent(), slots=20, message_seconds=1.0)
    connection.execute("UPDATE deliveries SET state = 'running' WHERE state = 'queued'")
    for handler in ("a.run", "b.run"):
        add_deliveries(10, tenant="t1", handler=handler)
    admit(connection, Sent(), slots=20, message_seconds=1.0)
    rows = connection.execute(
        "SELECT tenant, handler, count(*) AS n FROM deliveries WHERE state <> 'pending' GROUP BY 1, 2"
    )
    in_flight = {(row["tenant"], row["handler"]): row["n"] for row in rows}
    assert in_flight == {("t2", "a.run"): 5, ("t2", "b.run"): 10, ("t3", "c.run"): 3, ("t1", "b.run"): 2}


def list_due(connection: Connection, *, after: str = "", most: int = 10, lanes: int = 8) -> list[Candidate]:
    found, *_ = deliveries.list_candidates(
        connection, after=after, tenants=most, lanes=lanes, most=most, room=1, few=FEW
    )
    return sorted(found, key=lambda one: (one.place, one.lane))


def test_room_is_dealt_over_all_tenants_once_around(connection: Connection, add_deliveries: AddDeliveries) -> None:
    for tenant, count in (("a", 3), ("b", 1), ("c", 9), ("d", 2)):
        add_deliveries(count, tenant=tenant)
    candidates = list_due(connection, after="b")
    assert [candidate.tenant for candidate in candidates] == ["c", "c", "c", "d", "d", "a", "a", "a", "b"], (
        "10 over 4 lanes, rounded up to 3 of each"
    )
    rows = connection.execute("SELECT event_id FROM deliveries WHERE tenant = 'c' ORDER BY due_at, event_id LIMIT 3")
    assert [one.event_id for one in candidates if one.tenant == "c"] == [row["event_id"] for row in rows]


def test_a_tenants_handlers_are_looked_at_once_around_from_the_one_after_the_last(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    for handler in ("h.a", "h.b", "h.c", "h.d"):
        add_deliveries(1, handler=handler)
    connection.execute("INSERT INTO admission_turns (tenant, handler) VALUES ('acme', 'h.b')")
    assert [it.handler for it in list_due(connection)] == ["h.c", "h.d", "h.a", "h.b"]
    assert [it.handler for it in list_due(connection, lanes=3)] == ["h.c", "h.d", "h.a"]
    assert [it.handler for it in list_due(connection, lanes=1)] == ["h.c"]


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


@pytest.mark.parametrize(
    ("tenants", "lanes", "each"),
    [pytest.param(1, 1, 1_000_000, marks=pytest.mark.long), (10_000, 1, 2), (1, 10_000, 40)],
    ids=["a long lane", "many tenants", "many handlers of a tenant"],
)
def test_the_cost_of_admission_does_not_follow_the_backlog(
    connection: Connection, tenants: int, lanes: int, each: int
) -> None:
    connection.execute("ALTER TABLE deliveries SET (autovacuum_enabled = false)")  # no statistics until we say so
    connection.execute("INSERT INTO handler_limits (handler, max_in_flight) VALUES ('h.00001', 5)")
    connection.execute(
        "INSERT INTO deliveries (event_id, handler, tenant)"
        " SELECT uuid_at(now() + (t * 10 + each) * interval '1 ms'), 'h.' || lpad(h::text, 5, '0'),"
        " 't' || lpad(t::text, 5, '0')"
        " FROM generate_series(1, %s) AS t, generate_series(1, %s) AS h, generate_series(1, %s) AS each",
        [tenants, lanes, each],
    )
    for _ in range(2):
        check_plans(connection, lanes_expected=min(tenants * min(lanes, 8), 256))
        connection.execute("ANALYZE deliveries")


def check_plans(connection: Connection, *, lanes_expected: int) -> None:
    parameters = {"after": "t05000", "tenants": 256, "lanes": 8, "most": 256, "room": 1, "few": FEW}
    candidates, *_ = deliveries.list_candidates(connection, **parameters)  # type: ignore[arg-type]
    assert (len({(it.place, it.lane) for it in candidates}), len(candidates)) == (lanes_expected, 256)
    limited = {"handlers": ["h.00001"], "tenants": ["t00001"]}
    plans = [
        plan_of(connection, "list_candidates", parameters),
        plan_of(connection, "promote_due", {}),
        plan_of(connection, "list_allowances", limited, queries=limits._QUERIES),
        plan_of(connection, "have_queued_late", {}, queries=recovery._QUERIES),
        plan_of(
            connection,
            "return_queued",
            {"event_ids": [uuid.uuid4()], "handlers": ["acme.run"]},
            queries=recovery._QUERIES,
        ),
    ]
    for plan in plans:
        assert not re.search("Seq Scan on (deliveries|tenants)", plan), plan
    assert "Sort" not in plans[0], plans[0]
    assert "hashed" in plans[-1], plans[-1]


@pytest.mark.parametrize("tenants", [1, 4])
def test_handlers_beyond_those_that_are_looked_at_have_their_turn_while_the_first_have_work(
    connection: Connection, add_deliveries: AddDeliveries, monkeypatch: pytest.MonkeyPatch, tenants: int
) -> None:
    monkeypatch.setattr("workers.dispatch.admission.LEAST_LANES", 2)
    monkeypatch.setattr("workers.dispatch.admission.MOST_AT_ONCE", 4)
    names, handlers = [f"t{number}" for number in range(tenants)], [f"h.{number}" for number in range(3)]
    served: set[tuple[str, str]] = set()
    for _ in range(2 * len(handlers)):
        for name in names:  # as fast as they are served: no lane is ever empty
            for handler in handlers:
                add_deliveries(1, tenant=name, handler=handler)
        queue = Sent()
        admit(connection, queue, slots=1, message_seconds=1.0)
        served |= {(one.tenant, one.handler) for message in queue.messages for one in message.deliveries}
        connection.execute("DELETE FROM deliveries WHERE state = 'queued'")
    assert served == {(name, handler) for name in names for handler in handlers}
