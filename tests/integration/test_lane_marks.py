"""Beside an old snapshot, admission does not walk over what has been finished, and misses nothing."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.integration.test_admission import Sent
from workers.dispatch.admission import admit
from workers.dispatch.express import FEW
from workers.housekeeping import sweeper
from workers.store import deliveries, manual
from workers.store.connect import Connection, connect
from workers.store.deliveries import Outcome
from workers.store.manual import Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from tests.integration.conftest import AddDeliveries

FINISHED = 30_000


@contextmanager
def old_snapshot(database_url: str) -> Iterator[None]:
    """Look at one moment until the block ends, as pg_dump does."""
    with psycopg.connect(database_url, application_name="pg_dump") as dump:
        dump.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        dump.execute("SELECT FROM deliveries")
        yield


@pytest.fixture
def many_finished(connection: Connection, database_url: str) -> Iterator[None]:
    """Deliveries of twenty lanes that were finished while an old snapshot is held."""
    connection.execute("ALTER TABLE deliveries SET (autovacuum_enabled = false)")  # which may choose another plan
    with old_snapshot(database_url):
        for handler in ("acme.mail", "acme.run"):
            connection.execute(
                "INSERT INTO deliveries (event_id, handler, tenant)"
                " SELECT gen_random_uuid(), %s, 't' || n %% 10 FROM generate_series(1, %s) AS n",
                [handler, FINISHED // 2],
            )
        connection.execute(
            "UPDATE deliveries SET state = 'queued', ready = false, lease_until = now() - interval '1 h'"
        )
        connection.execute("DELETE FROM deliveries")
        yield


@pytest.fixture
def _always_marking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "MOST_WALKED", -(10**9))


def walk(connection: Connection) -> int:
    """Return how many entries of the index a look for due work reads."""
    before = deliveries._count_walked(connection)
    deliveries.list_candidates(connection, after="", tenants=256, lanes=8, most=256, room=1, few=FEW)
    return deliveries._count_walked(connection) - before


def marks(connection: Connection) -> dict[tuple[str, str], int]:
    rows = connection.execute("SELECT tenant, handler, low::text::bigint AS low FROM lane_marks")
    return {(row["tenant"], row["handler"]): row["low"] for row in rows}


def admitted(connection: Connection) -> set[UUID]:
    queue = Sent()
    admit(connection, queue, slots=8, message_seconds=1.0)
    return {event_id for message in queue.messages for event_id in message.event_ids}


@pytest.mark.usefixtures("many_finished")
def test_beside_an_old_snapshot_admission_walks_over_what_is_finished_once(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    lanes = [(f"t{number}", handler) for number in range(10) for handler in ("acme.mail", "acme.run")]
    for tenant, handler in lanes:
        add_deliveries(1, tenant=tenant, handler=handler)
    assert walk(connection) >= FINISHED
    assert len(admitted(connection)) == 20
    assert set(marks(connection)) == set(lanes)
    for tenant, handler in lanes:
        added = add_deliveries(2, tenant=tenant, handler=handler)
        assert walk(connection) < 200
        assert admitted(connection) == set(added)


def test_marks_are_made_anew_while_they_save_a_walk_and_then_forgotten(
    connection: Connection, database_url: str, add_deliveries: AddDeliveries
) -> None:
    with old_snapshot(database_url):
        add_deliveries(5000)
        connection.execute("DELETE FROM deliveries")
        add_deliveries(1)
        admitted(connection)
        connection.execute("UPDATE lane_marks SET low = '0'")
        deliveries.renew_marks(connection)
        assert marks(connection)["acme", "acme.run"] > 0
    connection.execute("VACUUM deliveries")
    deliveries.renew_marks(connection)
    assert marks(connection) == {}


@pytest.mark.usefixtures("_always_marking")
def test_what_was_made_by_a_transaction_that_was_still_open_is_found(
    connection: Connection, database_url: str, add_deliveries: AddDeliveries
) -> None:
    with connect(database_url, name="drain") as drain, drain.transaction():
        drain.execute("INSERT INTO deliveries (event_id, handler, tenant) VALUES (uuid_at(now()), 'acme.run', 'acme')")
        for _ in range(3):
            younger = set(add_deliveries(1))
            assert admitted(connection) == younger
    assert len(admitted(connection)) == 1


@pytest.mark.usefixtures("_always_marking")
@pytest.mark.parametrize("way", ["unqueue", "hand_back", "return_queued", "expire", "retry", "by_hand"])
def test_what_comes_back_after_younger_ones_were_admitted_is_found(
    connection: Connection, add_deliveries: AddDeliveries, way: str
) -> None:
    ids = add_deliveries(2)
    assert admitted(connection) == set(ids)
    lease = -1.0 if way == "expire" else 60.0
    if way in {"hand_back", "expire", "retry", "by_hand"}:
        claimed, _ = deliveries.claim(connection, "acme.run", ids, worker="one", lease=lease)
    for _ in range(2):
        younger = set(add_deliveries(3))
        assert admitted(connection) == younger
    before = marks(connection)
    steps: dict[str, Callable[[], object]] = {
        "unqueue": lambda: deliveries.unqueue(connection, "acme.run", ids),
        "hand_back": lambda: deliveries.hand_back(connection, "acme.run", claimed),
        "return_queued": lambda: sweeper.return_queued(connection, list_named=list),
        "expire": lambda: sweeper.expire_leases(connection),
        "retry": lambda: deliveries.record(
            connection, "acme.run", [Outcome(claimed=one, state=None, retry_in=0.0, error="it") for one in claimed]
        ),
        "by_hand": lambda: (
            deliveries.record(
                connection, "acme.run", [Outcome(claimed=one, state="dead", error="it") for one in claimed]
            ),
            list(manual.retry(connection, Selection(event_ids=ids), state="dead")),
        ),
    }
    if way == "return_queued":
        connection.execute("UPDATE deliveries SET lease_until = now() WHERE event_id = ANY (%s)", [ids])
    steps[way]()
    assert set(ids) <= admitted(connection)
    assert before


@pytest.mark.usefixtures("_always_marking")
def test_no_mark_is_made_while_something_is_being_brought_back(
    connection: Connection, database_url: str, add_deliveries: AddDeliveries
) -> None:
    ids = add_deliveries(1)
    connection.execute("UPDATE deliveries SET state = 'queued', ready = false, lease_until = now()")
    with connect(database_url, name="worker") as worker, worker.transaction():
        deliveries.unqueue(worker, "acme.run", ids)
        younger = set(add_deliveries(1))
        assert admitted(connection) == younger
        assert marks(connection) == {}
    assert admitted(connection) == set(ids)


@pytest.mark.usefixtures("many_finished")
def test_a_lane_that_was_cancelled_is_walked_over_once(connection: Connection, add_deliveries: AddDeliveries) -> None:
    add_deliveries(5000, tenant="t0", handler="acme.old")
    add_deliveries(1, tenant="t9", handler="acme.run")
    admitted(connection)
    connection.execute("UPDATE deliveries SET state = 'pending', ready = true, lease_until = NULL")
    list(manual.cancel(connection, Selection(handler="acme.old")))
    for _ in range(2):
        add_deliveries(1, tenant="t9", handler="acme.run")
        admitted(connection)
    assert ("t0", "acme.old") in marks(connection)
    assert connection.execute("SELECT FROM deliveries WHERE handler = 'acme.old'").fetchall() == []


def test_a_mark_of_another_server_hides_nothing(connection: Connection, add_deliveries: AddDeliveries) -> None:
    connection.execute("INSERT INTO lane_marks VALUES ('acme', 'acme.run', '9000000000000000')")
    ids = set(add_deliveries(2))
    assert admitted(connection) == ids
