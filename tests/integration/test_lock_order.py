"""The order in which statements lock deliveries: two that wait for rows never wait for each other."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.ingress_process import wait_for
from tests.integration.open_work import outcome_of
from workers.store import deliveries, recovery
from workers.store.connect import Connection, connect
from workers.store.deliveries import Candidate, Claimed

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable

    from tests.integration.conftest import AddDeliveries

    Statement = Callable[[Connection, list[Claimed]], object]

HANDLER = "acme.run"


BLOCKED = (
    "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name LIKE '%waits%' AND wait_event_type = 'Lock'"
)


def record(connection: Connection, held: list[Claimed]) -> object:
    kinds = ["dead" if place % 2 else "again" for place in range(len(held))]
    return deliveries.record(
        connection, HANDLER, [outcome_of(one, kind) for one, kind in zip(held, kinds, strict=True)]
    )


def hand_back(connection: Connection, held: list[Claimed]) -> None:
    deliveries.hand_back(connection, HANDLER, held)


def unqueue(connection: Connection, held: list[Claimed]) -> None:
    deliveries.unqueue(connection, HANDLER, [one.event_id for one in held])


def return_unknown(connection: Connection, held: list[Claimed]) -> object:
    return recovery.return_unknown(connection, HANDLER, [one.event_id for one in held], error="unknown", wait=1)


def lock(connection: Connection, event_id: uuid.UUID) -> None:
    connection.execute("SELECT FROM deliveries WHERE event_id = %s FOR UPDATE NOWAIT", [event_id])


@pytest.mark.parametrize("statement", [record, hand_back, unqueue, return_unknown])
def test_a_statement_that_waits_for_a_row_has_locked_none_that_comes_after_it(
    connection: Connection, database_url: str, add_deliveries: AddDeliveries, statement: Statement
) -> None:
    ids = add_deliveries(4)
    state = "running" if statement in {record, hand_back} else "queued"
    made = "UPDATE deliveries SET state = %s, ready = false, lease_until = now(), fence = 1 WHERE event_id = %s"
    for event_id in reversed(ids):  # so that they lie in the table in another order than that of their keys
        connection.execute(made, [state, event_id])
    held = [Claimed(event_id=event_id, tenant="acme", attempt=0, fence=1) for event_id in reversed(ids)]
    with connect(database_url, name="waits") as waiting, connect(database_url, name="looks") as looking:
        thread = threading.Thread(target=statement, args=[waiting, held], daemon=True)
        with connection.transaction():
            lock(connection, ids[0])
            thread.start()
            wait_for(lambda: looking.execute(BLOCKED).fetchone() == {"n": 1}, seconds=20)
            for event_id in ids[1:]:
                lock(looking, event_id)
        thread.join()
        (left,) = connection.execute("SELECT count(*) AS n FROM deliveries WHERE state = %s", [state])
        assert left == {"n": 0}


def test_an_admission_waits_for_no_row(
    connection: Connection, database_url: str, add_deliveries: AddDeliveries
) -> None:
    ids = add_deliveries(3)
    chosen = [
        Candidate(event_id=event_id, tenant="acme", handler=HANDLER, place=1, lane=1, alone=False) for event_id in ids
    ]
    with connect(database_url, name="admits") as admitting, connection.transaction():
        lock(connection, ids[1])
        assert deliveries.queue(admitting, chosen, wait=2.0)() == {(ids[0], HANDLER), (ids[2], HANDLER)}


def test_a_lock_that_is_held_is_seen(connection: Connection, database_url: str, add_deliveries: AddDeliveries) -> None:
    (event_id,) = add_deliveries(1)
    with connect(database_url, name="looks") as looking, connection.transaction():
        lock(connection, event_id)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            lock(looking, event_id)
