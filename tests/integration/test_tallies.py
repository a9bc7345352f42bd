"""Outcomes are counted once, where they are decided, and rolled up."""

from __future__ import annotations

import re
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.integration import draining
from tests.integration.draining import nobody, post
from tests.integration.test_admission import plan_of
from workers.errors import Permanent
from workers.housekeeping.sweeper import expire_leases
from workers.store import deliveries, manual, stats, tallies
from workers.store.connect import connect
from workers.store.manual import Selection
from workers.store.sql import Queries

if TYPE_CHECKING:
    from redis import Redis

    from tests.integration.conftest import AddDeliveries, Run
    from workers.dispatch.delivery import Delivery
    from workers.store.connect import Connection


def counts(connection: Connection, table: str = "tallies") -> dict[tuple[str, str, str], int]:
    """Roll up; return how many of each tenant, provider or handler, and outcome."""
    tallies.roll_up(connection)
    query = f"SELECT tenant, provider || handler AS what, outcome, sum(count) AS n FROM {table} GROUP BY 1, 2, 3"
    return {(row["tenant"], row["what"], row["outcome"]): int(row["n"]) for row in connection.execute(query)}


def totals(connection: Connection) -> Counter[tuple[str, str, str]]:
    found: Counter[tuple[str, str, str]] = Counter()
    for it in tallies.read_totals(connection, most_handlers=100):
        found[it.figure, it.handler, it.outcome] += it.count
    return found


def test_what_a_drain_stores_is_counted_by_tenant_and_provider(client: Redis, connection: Connection) -> None:
    for tenant in ("acme", "acme", "globex"):
        post(client, b'{"type":"greeting","n":%d}' % len(tenant), tenant=tenant)
    post(client, b"no JSON", provider="github")
    draining.run(client, connection, catalogue=nobody)
    assert counts(connection) == {
        ("acme", "in-house", "stored"): 1,
        ("acme", "in-house", "duplicate"): 1,
        ("globex", "in-house", "stored"): 1,
        ("acme", "github", "rejected"): 1,
    }
    assert totals(connection) == {
        ("events", "", "stored"): 2,
        ("events", "", "duplicate"): 1,
        ("events", "", "rejected"): 1,
    }


def test_what_was_stored_since_a_minute_is_known_before_it_is_rolled_up_and_after(
    client: Redis, connection: Connection
) -> None:
    now = datetime.now(UTC)
    for number in range(3):
        post(client, b'{"type":"it","n":%d}' % number)
    draining.run(client, connection, catalogue=nobody)
    connection.execute("UPDATE tallies_new SET at = now() - interval '50 min'")
    post(client, b"no JSON", provider="github")
    draining.run(client, connection, catalogue=nobody)
    deliveries_too = (
        "INSERT INTO tallies_new (tenant, handler, outcome, seconds) VALUES ('acme', 'x', 'succeeded', '{1}')"
    )
    connection.execute(deliveries_too)
    for _ in range(2):
        hour = stats.count_received(connection, since=now - timedelta(hours=1))
        minute = stats.count_received(connection, since=now - timedelta(minutes=1))
        assert (hour.stored, hour.rejected, hour.is_bounded) == (4, 1, False)
        assert (minute.stored, minute.rejected) == (1, 1)
        tallies.roll_up(connection)


def test_what_was_stored_in_the_last_hour_is_read_from_the_index_of_minutes(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO tallies (minute, tenant, provider, handler, outcome, bucket, count, seconds)"
        " SELECT date_trunc('minute', now()) - n / 500 * interval '1 min', 't' || n %% 500, 'moveris', '', 'stored', 1,"
        " 20000, 1 FROM generate_series(0, %s) AS n",
        [60_000],
    )
    connection.execute("ANALYZE tallies")
    since = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=1)
    plan = plan_of(connection, "count_received", {"since": since, "bound": 100_000}, queries=Queries("stats.sql"))
    assert "tallies_pkey" in plan
    assert not re.search(r"Seq Scan on tallies\b", plan), plan
    received = stats.count_received(connection, since=since)
    assert received.stored in {20_000_000, 30_000_000}  # a minute may have begun meanwhile


def test_an_entry_that_is_read_again_after_a_crash_counts_once(client: Redis, connection: Connection) -> None:
    post(client)
    draining.run(client, connection)
    (row,) = connection.execute("SELECT * FROM events").fetchall()
    post(client, id=row["id"])
    draining.run(client, connection)
    assert counts(connection) == {("acme", "in-house", "stored"): 1}


def test_the_time_from_received_to_stored_is_kept_in_buckets(client: Redis, connection: Connection) -> None:
    now = datetime.now(UTC)
    for age in (0.0, 7.0, 7.5, 4000.0, -60.0):  # a clock of the ingress may be ahead
        post(client, b'{"type":"it","age":%d}' % (age * 10), received_at=now - timedelta(seconds=age))
    draining.run(client, connection, catalogue=nobody)
    counts(connection)
    found = {it.bucket: it for it in tallies.read_totals(connection, most_handlers=0)}
    assert found[tallies.BOUNDS.index(5.0) + 1].count == 2
    assert found[tallies.BOUNDS.index(5.0) + 1].seconds == pytest.approx(14.5, abs=2)
    assert found[len(tallies.BOUNDS)].count == 1
    assert sum(it.count for it in found.values()) == 5
    assert min(it.seconds for it in found.values()) >= 0


def test_outcomes_of_attempts_are_counted_with_their_times(
    connection: Connection, add_deliveries: AddDeliveries, run: Run
) -> None:
    ids = add_deliveries(4) + add_deliveries(1, tenant="globex")

    def function(event: object, delivery: Delivery) -> None:
        place = ids.index(delivery.event_id)
        if place == 1:
            raise ValueError("again")
        if place == 2:
            raise Permanent("no")
        if place == 3:
            delivery.connection.execute("SELECT 1")

    run(ids, function)
    assert counts(connection) == {
        ("acme", "acme.run", "succeeded"): 2,
        ("acme", "acme.run", "retried"): 1,
        ("acme", "acme.run", "dead"): 1,
        ("globex", "acme.run", "succeeded"): 1,
    }
    assert totals(connection) == {
        ("attempts", "acme.run", "succeeded"): 3,
        ("attempts", "acme.run", "retried"): 1,
        ("attempts", "acme.run", "dead"): 1,
        ("waits", "acme.run", "succeeded"): 3,
        ("waits", "acme.run", "dead"): 1,
    }
    assert min(it.bucket for it in tallies.read_totals(connection, most_handlers=1)) == 0


def test_an_outcome_that_is_fenced_off_or_not_committed_is_not_counted(
    connection: Connection, add_deliveries: AddDeliveries, run: Run
) -> None:
    ids = add_deliveries(3)

    def function(event: object, delivery: Delivery) -> None:
        if delivery.event_id == ids[0]:
            delivery.connection.execute("SELECT 1")
        if delivery.event_id == ids[2]:
            delivery.connection.execute(
                "CREATE TEMP TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO late VALUES (1), (1)"
            )
        else:
            connection.execute("UPDATE deliveries SET fence = fence + 1 WHERE event_id = %s", [delivery.event_id])

    assert run(ids, function).fenced == 2
    assert counts(connection) == {("acme", "acme.run", "retried"): 1}


def test_lost_workers_and_what_people_cancel_are_counted(connection: Connection, add_deliveries: AddDeliveries) -> None:
    ids = add_deliveries(5)
    connection.execute(
        "UPDATE deliveries SET state = 'queued', ready = false, lease_until = now() WHERE event_id = ANY (%s)",
        [ids[:3]],
    )
    deliveries.claim(connection, "acme.run", ids[:1], worker="gone", lease=-1.0)
    deliveries.claim(connection, "acme.run", ids[1:3], worker="gone", lease=-1.0)
    expire_leases(connection)
    list(manual.cancel(connection, Selection(event_ids=ids[3:])))
    assert counts(connection) == {
        ("acme", "acme.run", "lost"): 3,
        ("acme", "acme.run", "retried"): 1,
        ("acme", "acme.run", "cancelled"): 2,
    }


def test_whoever_rolls_up_at_the_same_time_counts_nothing_twice(
    connection: Connection, database_url: str, client: Redis
) -> None:
    def roll() -> None:
        with connect(database_url, name="test") as own:
            while not is_over.is_set():
                tallies.roll_up(own)

    is_over = threading.Event()
    threads = [threading.Thread(target=roll) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(40):
        post(client, b'{"type":"it","n":%d}' % number)
        draining.run(client, connection, catalogue=nobody)
    is_over.set()
    for thread in threads:
        thread.join()
    assert counts(connection) == {("acme", "in-house", "stored"): 40}
    assert totals(connection) == {("events", "", "stored"): 40}


def test_totals_never_fall_while_minutes_become_hours_and_hours_are_dropped(
    connection: Connection, client: Redis
) -> None:
    for number in range(3):
        post(client, b'{"type":"it","n":%d}' % number)
        draining.run(client, connection, catalogue=nobody)
    connection.execute(
        "UPDATE tallies_new SET at = date_trunc('hour', now()) - interval '5 hours 10 min' + ctid_part"
        " FROM (SELECT ctid AS it, interval '1 min' * row_number() OVER () AS ctid_part FROM tallies_new) AS n"
        " WHERE tallies_new.ctid = n.it"
    )
    assert counts(connection) == {("acme", "in-house", "stored"): 3}
    tallies.roll_hours(connection, retention_days=1)
    assert counts(connection) == {}
    assert counts(connection, "tallies_hourly") == {("acme", "in-house", "stored"): 3}
    (row,) = connection.execute("SELECT count(DISTINCT hour) AS n FROM tallies_hourly").fetchall()
    assert row["n"] == 1
    connection.execute("UPDATE tallies_hourly SET hour = now() - interval '9 days'")
    tallies.roll_hours(connection, retention_days=1)
    assert counts(connection, "tallies_hourly") == {}
    assert totals(connection) == {("events", "", "stored"): 3}


def test_handlers_beyond_a_bound_share_one_total_and_the_first_keep_theirs(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    for handler in ("z.first", "y.second", "a.third", "b.fourth"):
        ids = add_deliveries(1, handler=handler)
        list(manual.cancel(connection, Selection(event_ids=ids)))
        tallies.roll_up(connection)
    found = {it.handler: it.count for it in tallies.read_totals(connection, most_handlers=2)}
    assert found == {"z.first": 1, "y.second": 1, tallies.OTHERS: 2}
