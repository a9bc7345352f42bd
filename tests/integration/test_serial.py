"""Handlers that run one delivery of a subject at a time, in the order of arrival."""

from __future__ import annotations

import random
import threading
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.integration.draining import Fixed
from tests.integration.open_work import Queue, outcome_of
from tests.integration.test_admission import plan_of
from tests.integration.test_dedup import START, moveris, verification
from workers.dispatch.admission import admit
from workers.store import deliveries, manual, serial
from workers.store.connect import connect
from workers.store.events import store_batch

if TYPE_CHECKING:
    from uuid import UUID

    from tests.integration.conftest import AddDeliveries
    from workers.store.connect import Connection

RUN = "acme.run"


@pytest.fixture
def add(connection: Connection, add_deliveries: AddDeliveries) -> AddDeliveries:
    """Return a function that adds deliveries of a subject, as a drain makes them."""
    serial.declare_serial(connection, serial=[RUN], others=[])

    def add_of(subject: str | None, count: int = 1, *, handler: str = RUN, tenant: str = "acme") -> list[UUID]:
        ids = add_deliveries(count, handler=handler, tenant=tenant)
        connection.execute("UPDATE deliveries SET serial = %s WHERE event_id = ANY (%s)", [subject, ids])
        return ids

    return add_of


def admitted(connection: Connection) -> list[UUID]:
    """Admit, and return what was sent."""
    queue = Queue()
    admit(connection, queue, slots=100, message_seconds=1.0)
    return [event_id for message in queue.sent for event_id in message.event_ids]


def end(connection: Connection, event_id: UUID, kind: str = "succeeded") -> None:
    """Run a delivery to its end."""
    (claimed,), _ = deliveries.claim(connection, RUN, [event_id], worker="w", lease=60)
    assert deliveries.record(connection, RUN, [outcome_of(claimed, kind)]) == {event_id}


def test_deliveries_are_made_with_their_subject_by_whoever_makes_them(connection: Connection) -> None:
    serial.declare_serial(connection, serial=[RUN], others=["acme.other"])
    row = "SELECT serial FROM deliveries WHERE handler = %s"
    store_batch(connection, [moveris(verification())], Fixed(lambda *_: (RUN, "acme.other")))
    assert connection.execute(row, [RUN]).fetchall() == [{"serial": "s1"}]
    assert connection.execute(row, ["acme.other"]).fetchall() == [{"serial": None}]
    ((event_id,),) = (tuple(it.values()) for it in connection.execute("SELECT id FROM events"))
    admitted(connection)
    end(connection, event_id, "dead")
    list(manual.retry(connection, manual.Selection(event_ids=[event_id]), state="dead"))
    assert connection.execute(row, [RUN]).fetchall() == [{"serial": "s1"}]
    connection.execute("DELETE FROM deliveries")
    pages = manual.backfill(
        connection,
        handler=RUN,
        provider=None,
        event=None,
        tenant=None,
        since=START - timedelta(days=1),
        until=START + timedelta(days=1),
    )
    assert [page.made for page in pages] == [1]
    assert connection.execute(row, [RUN]).fetchall() == [{"serial": "s1"}]
    serial.declare_serial(connection, serial=[], others=[RUN])
    assert connection.execute("SELECT handler FROM serial_handlers").fetchall() == []


@pytest.mark.parametrize("kind", ["succeeded", "dead"])
def test_deliveries_of_a_subject_run_one_at_a_time_in_the_order_of_arrival(
    connection: Connection, add: AddDeliveries, kind: str
) -> None:
    first = add("session-1", 3)
    other, without = add("session-2"), add(None, 2)
    assert set(admitted(connection)) == {first[0], *other, *without}
    assert admitted(connection) == []
    for earlier, later in pairwise(first):
        end(connection, earlier, kind)
        assert admitted(connection) == [later]


def test_a_failed_one_holds_only_its_own_subject_back(connection: Connection, add: AddDeliveries) -> None:
    first, other = add("session-1", 2), add("session-2", 2)
    admitted(connection)
    end(connection, first[0], "later")
    end(connection, other[0])
    assert admitted(connection) == [other[1]]
    connection.execute("UPDATE deliveries SET due_at = now() WHERE event_id = %s", [first[0]])
    assert admitted(connection) == [first[0]]
    end(connection, first[0])
    assert admitted(connection) == [first[1]]


def test_other_tenants_and_handlers_are_not_held_up(connection: Connection, add: AddDeliveries) -> None:
    ids = [*add("session-1"), *add("session-1", tenant="other"), *add("session-1", handler="acme.mail")]
    assert set(admitted(connection)) == set(ids)


def test_a_cancelled_one_lets_the_next_one_run(connection: Connection, add: AddDeliveries) -> None:
    first, second = add("session-1", 2)
    assert admitted(connection) == [first]
    list(manual.cancel(connection, manual.Selection(event_ids=[first])))
    assert admitted(connection) == [second]


def test_an_older_one_that_is_tried_again_by_hand_takes_its_place_without_a_standstill(
    connection: Connection, add: AddDeliveries
) -> None:
    older, younger, last = add("session-1", 3)
    admitted(connection)
    end(connection, older, "dead")
    assert admitted(connection) == [younger]
    connection.execute(
        "WITH gone AS (DELETE FROM deliveries_done WHERE event_id = %s RETURNING *) INSERT INTO deliveries"
        " (event_id, handler, tenant, fence, created_at, serial)"
        " SELECT event_id, handler, tenant, fence, created_at, 'session-1' FROM gone",
        [older],
    )
    assert admitted(connection) == [], "one is in flight"
    end(connection, younger, "again")
    found = [event_id for _ in range(3) for event_id in admitted(connection)]
    assert found == [older]
    end(connection, older)
    found = [event_id for _ in range(3) for event_id in admitted(connection)]
    assert found == [younger]
    end(connection, younger)
    assert admitted(connection) == [last]


def test_admissions_and_ends_at_the_same_time_leave_none_behind(
    connection: Connection, add: AddDeliveries, database_url: str
) -> None:
    for number in range(6):
        add(f"session-{number}", 8)
    order: dict[str, list[UUID]] = {}
    lock = threading.Lock()

    def work(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - a schedule
        with connect(database_url, name="worker") as own:
            while own.execute("SELECT true FROM deliveries LIMIT 1").fetchone():
                queue = Queue()
                admit(own, queue, slots=chance.choice([1, 20]), message_seconds=1.0)
                for message in queue.sent:
                    claimed, _ = deliveries.claim(own, RUN, message.event_ids, worker="w", lease=60)
                    for each in claimed:
                        row = own.execute(
                            "SELECT serial FROM deliveries WHERE event_id = %s", [each.event_id]
                        ).fetchone()
                        assert row
                        with lock:
                            order.setdefault(row["serial"], []).append(each.event_id)
                        deliveries.record(own, RUN, [outcome_of(each, "succeeded")])

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "deliveries are left that nobody admits"
    assert [len(ids) for ids in order.values()] == [8] * 6
    assert all(ids == sorted(ids) for ids in order.values())


@pytest.mark.long
def test_the_cost_of_parking_does_not_follow_the_backlog(connection: Connection) -> None:
    connection.execute("ALTER TABLE deliveries SET (autovacuum_enabled = false)")
    connection.execute(
        "INSERT INTO deliveries (event_id, handler, tenant, serial)"
        " SELECT uuid_at(now() + n * interval '1 ms'), 'acme.run', 'acme', 'session-' || n % 10000"
        " FROM generate_series(1, 1000000) AS n",
        prepare=False,
    )
    chosen = connection.execute("SELECT event_id FROM deliveries ORDER BY event_id DESC LIMIT 256").fetchall()
    ids = [row["event_id"] for row in chosen]
    for _ in range(2):
        plan = plan_of(
            connection,
            "park_blocked",
            {"event_ids": ids, "handlers": [RUN] * len(ids)},
            queries=serial._QUERIES,
        )
        assert "Seq Scan" not in plan, plan
        connection.execute("ANALYZE deliveries")
