"""What fell between two arrows is picked up again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from redis import Redis

from tests.names import NAMES
from workers.dispatch.admission import QUEUED_SECONDS, admit
from workers.dispatch.queue import CeleryQueue, HandlerDurations
from workers.housekeeping.sweeper import UNKNOWN_SECONDS, disown, expire_leases, is_express_late, return_queued
from workers.registration import Handler
from workers.store import catalogue, deliveries
from workers.store.connect import Connection, connect

if TYPE_CHECKING:
    import uuid

    from tests.integration.conftest import AddDeliveries

RUN = Handler(name="acme.run", function=lambda event, delivery: None, max_attempts=2)


def claim_and_lose(connection: Connection, ids: list[uuid.UUID]) -> None:
    """Claim as one message, and let the lease end."""
    connection.execute(
        "UPDATE deliveries SET state = 'queued', ready = false, lease_until = now() WHERE event_id = ANY (%s)", [ids]
    )
    deliveries.claim(connection, "acme.run", ids, worker="gone", lease=-1.0)


def rows(connection: Connection) -> list[dict[str, Any]]:
    query = "SELECT state, attempt, alone FROM deliveries UNION ALL SELECT state, attempt, false FROM deliveries_done"
    return connection.execute(query).fetchall()


def test_lost_alone_is_charged_and_ends_dead(connection: Connection, add_deliveries: AddDeliveries) -> None:
    catalogue.announce(connection, [RUN], code_version="1")
    ids = add_deliveries(1)
    claim_and_lose(connection, ids)
    assert expire_leases(connection) == 1
    assert rows(connection) == [{"state": "pending", "attempt": 1, "alone": True}]
    claim_and_lose(connection, ids)
    expire_leases(connection)
    assert rows(connection) == [{"state": "dead", "attempt": 2, "alone": False}]
    (row,) = connection.execute("SELECT last_error FROM deliveries_done")
    assert row["last_error"].startswith("WorkerLost")


def test_lost_in_company_is_charged_nothing_and_runs_alone(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    claim_and_lose(connection, add_deliveries(3))
    assert expire_leases(connection) == 3
    assert rows(connection) == [{"state": "pending", "attempt": 0, "alone": True}] * 3
    (row,) = connection.execute(
        "SELECT count(*) AS number FROM attempts WHERE error LIKE 'WorkerLost%%' AND attempt = 0"
    )
    assert row["number"] == 3


def test_a_lease_that_still_holds_is_left(connection: Connection, add_deliveries: AddDeliveries) -> None:
    ids = add_deliveries(1)
    connection.execute("UPDATE deliveries SET state = 'queued', ready = false, lease_until = now()")
    deliveries.claim(connection, "acme.run", ids, worker="alive", lease=60)
    assert expire_leases(connection) == 0


def test_two_sweepers_charge_a_loss_once(
    connection: Connection, database_url: str, add_deliveries: AddDeliveries
) -> None:
    for event_id in add_deliveries(40):
        claim_and_lose(connection, [event_id])

    def sweep() -> None:
        with connect(database_url, name="sweeper") as own:
            expire_leases(own)

    threads = [threading.Thread(target=sweep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {row["attempt"] for row in rows(connection)} == {1}


def queue_all(connection: Connection, *, seconds_ago: float) -> None:
    """Let everything have been queued so long ago."""
    connection.execute(
        "UPDATE deliveries SET state = 'queued', ready = false, lease_until = now() + make_interval(secs => %s)",
        [QUEUED_SECONDS - seconds_ago],
    )


def test_queued_work_returns_soon_if_no_message_names_it_though_others_wait(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    lost, waiting = add_deliveries(2)
    (other,) = add_deliveries(1, handler="acme.other")
    queue_all(connection, seconds_ago=3)
    named = {(waiting, "acme.run"), (lost, "acme.other"), (other, "acme.other")}
    assert return_queued(connection, list_named=lambda: named) == 1
    pending = connection.execute("SELECT event_id, handler FROM deliveries WHERE state = 'pending'").fetchall()
    assert pending == [{"event_id": lost, "handler": "acme.run"}]
    assert return_queued(connection, list_named=set) == 2


def test_work_queued_a_moment_ago_is_left_and_redis_is_not_asked(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    add_deliveries(1)
    queue_all(connection, seconds_ago=0.5)

    def refuse() -> set[tuple[uuid.UUID, str]]:
        raise AssertionError

    assert return_queued(connection, list_named=refuse) == 0


def test_a_delivery_that_came_to_a_worker_without_its_handler_is_due_again_soon_and_uncharged(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    ids = add_deliveries(1)
    connection.execute("UPDATE deliveries SET state = 'queued', ready = false, lease_until = now()")
    assert disown(connection, "acme.run", ids, worker="handlers@host") == 1
    (row,) = connection.execute("SELECT state, attempt, last_error, due_at - now() AS due_in FROM deliveries")
    assert (row["state"], row["attempt"]) == ("pending", 0)
    assert 0.5 < row["due_in"].total_seconds() <= 1.5 * UNKNOWN_SECONDS
    assert "knows no handler 'acme.run'" in row["last_error"]
    assert connection.execute("SELECT FROM attempts").fetchall() == []


def test_an_express_queue_that_nobody_serves_is_late_after_two_seconds(
    connection: Connection, add_deliveries: AddDeliveries, redis_url: str
) -> None:
    with Redis.from_url(redis_url) as redis:
        queue = CeleryQueue(redis, NAMES)
        HandlerDurations(redis, NAMES).add("acme.run", [("acme", 0.001)])
        ids = add_deliveries(2)
        admit(connection, queue, slots=4, message_seconds=1.0)
        assert queue.lengths() == (0, 2), "both are quick, and their tenant is quiet"
        assert not is_express_late(connection, list_express=queue.list_express)
        connection.execute("UPDATE deliveries SET lease_until = now() WHERE event_id = %s", [ids[1]])
        assert is_express_late(connection, list_express=queue.list_express)
        queue.close_express()
        assert return_queued(connection, list_named=queue.list_named) == 0, "the messages are only in another queue"
        add_deliveries(1)
        admit(connection, queue, slots=4, message_seconds=1.0)
        assert redis.llen("handlers") == 3
        assert redis.llen("express") == 0


def test_a_message_that_the_express_worker_has_taken_is_not_late(
    connection: Connection, add_deliveries: AddDeliveries, redis_url: str
) -> None:
    with Redis.from_url(redis_url) as redis:
        queue = CeleryQueue(redis, NAMES)
        HandlerDurations(redis, NAMES).add("acme.run", [("acme", 0.001)])
        ids = add_deliveries(1)
        admit(connection, queue, slots=4, message_seconds=1.0)
        deliveries.claim(connection, "acme.run", ids, worker="express", lease=-1.0)
        assert not is_express_late(connection, list_express=queue.list_express)


SWEEP = "from workers.tasks import sweep; sweep()"


def test_a_step_of_the_sweep_that_fails_keeps_none_of_the_next_from_being_done(
    connection: Connection, add_deliveries: AddDeliveries, redis_url: str, database_url: str
) -> None:
    claim_and_lose(connection, add_deliveries(1))
    with Redis.from_url(redis_url) as client:
        client.set(NAMES.registry, "no hash, as the publisher expects")
    environ = {**os.environ, "REDIS_URL": redis_url, "DATABASE_URL": database_url}
    done = subprocess.run([sys.executable, "-c", SWEEP], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "WRONGTYPE" in done.stderr
    assert [row["attempt"] for row in rows(connection)] == [1], done.stderr
