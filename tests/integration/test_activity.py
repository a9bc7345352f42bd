"""What was done in the last minutes and hours, of everything, of a tenant and of a handler."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from shared.envelope import new_event_id
from tests.integration import draining
from tests.integration.draining import nobody, post
from workers.errors import Permanent
from workers.store import activity, tallies

if TYPE_CHECKING:
    from redis import Redis

    from tests.integration.conftest import AddDeliveries, Run
    from workers.dispatch.delivery import Delivery
    from workers.store.connect import Connection


def succeed(_event: object, _delivery: Delivery) -> None:
    """Handle an event."""


def refuse(_event: object, _delivery: Delivery) -> None:
    raise Permanent("no")


def test_events_and_deliveries_are_in_the_minute_and_the_hour_in_which_they_ended(
    client: Redis, connection: Connection, add_deliveries: AddDeliveries, run: Run
) -> None:
    for number in range(3):
        post(client, b'{"type":"it","n":%d}' % number, tenant="acme")
    post(client, b"no JSON", tenant="globex", provider="github")
    draining.run(client, connection, catalogue=nobody)
    run(add_deliveries(2, tenant="acme"), function=succeed)
    run(add_deliveries(1, tenant="globex"), function=refuse)
    tallies.roll_up(connection)
    for points in (activity.read_minutes(connection), activity.read_hours(connection)):
        assert [sum(getattr(it, name) for it in points) for name in ("received", "rejected", "handled", "failed")] == [
            4,
            1,
            2,
            1,
        ]
    of_tenant = activity.read_minutes(connection, tenant="acme")
    assert [sum(getattr(it, name) for it in of_tenant) for name in ("received", "handled", "failed")] == [3, 2, 0]
    of_handler = activity.read_minutes(connection, handler="acme.run")
    assert [sum(getattr(it, name) for it in of_handler) for name in ("received", "handled", "failed")] == [0, 2, 1]
    with pytest.raises(ValueError, match="not of both"):
        activity.read_minutes(connection, tenant="acme", handler="acme.run")


def test_minutes_without_anything_are_there_and_the_one_that_runs_is_the_last(connection: Connection) -> None:
    points = activity.read_minutes(connection, minutes=5)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    assert now - points[-1].at <= timedelta(minutes=1)
    assert [points[-1].at - it.at for it in points] == [timedelta(minutes=it) for it in (4, 3, 2, 1, 0)]
    assert all(it.received == it.handled == 0 for it in points)


def test_a_tenants_hours_come_from_what_was_rolled_up_and_from_minutes_that_were_not(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO tallies_hourly (hour, tenant, provider, handler, outcome, bucket, count, seconds)"
        " VALUES (date_trunc('hour', now()) - interval '5 hours', 'acme', 'github', '', 'stored', 1, 7, 1)"
    )
    connection.execute(
        "INSERT INTO tallies (minute, tenant, provider, handler, outcome, bucket, count, seconds)"
        " VALUES (date_trunc('hour', now()) - interval '1 minute', 'acme', 'github', '', 'stored', 1, 3, 1),"
        " (date_trunc('hour', now()) + interval '59 minutes', 'acme', 'github', '', 'stored', 1, 2, 1)"
    )
    assert [it.received for it in activity.read_hours(connection, tenant="acme", hours=6)] == [7, 0, 0, 0, 3, 2]
    assert not any(it.received for it in activity.read_hours(connection, tenant="\0"))


def test_a_handlers_times_are_within_their_buckets(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO activity (span, at, handler, outcome, bucket, count) VALUES"
        " ('minute', date_trunc('minute', now()), 'acme.run', 'succeeded', 4, 98),"
        " ('minute', date_trunc('minute', now()), 'acme.run', 'dead', 7, 2),"
        " ('minute', date_trunc('minute', now()), 'acme.run', 'lost', -1, 5)"
    )
    (found,) = activity.read_handlers(connection)
    assert (found.handler, found.handled, found.failed) == ("acme.run", 98, 2)
    assert found.p50 is not None
    assert 0.05 < found.p50 < 0.1
    assert found.p99 is not None
    assert 0.5 < found.p99 <= 1.0


@pytest.mark.parametrize(
    ("buckets", "share", "seconds"),
    [([], 0.5, None), ([(0, 1)], 0.5, 0.0025), ([(15, 10)], 0.99, 3600.0), ([(4, 1), (4, 3)], 1.0, 0.1)],
)
def test_a_percentile_is_on_the_straight_line_within_its_bucket(
    buckets: list[tuple[int, int]], share: float, seconds: float | None
) -> None:
    assert activity.percentile(buckets, share) == seconds


def test_time_to_handled_is_that_of_the_latest_deliveries(
    connection: Connection, add_deliveries: AddDeliveries, run: Run
) -> None:
    assert activity.read_latency(connection).p50 is None
    run(add_deliveries(3, moment=datetime.now(UTC) - timedelta(seconds=10)), function=succeed)
    found = activity.read_latency(connection)
    assert found.count == 3
    assert found.p50 is not None
    assert found.p99 is not None
    assert 10 <= found.p50 <= found.p99 < 60


def test_dead_deliveries_of_an_incident_are_counted_by_the_hour_of_their_event(connection: Connection) -> None:
    now = datetime.now(UTC)
    for incident, hours_ago in [(1, 0), (1, 3), (1, 3), (1, 50), (2, 5), (None, 3)]:
        connection.execute(
            "INSERT INTO deliveries_done"
            " (event_id, handler, tenant, state, attempt, fence, last_error, created_at, incident)"
            " VALUES (%s, 'a', 'acme', 'dead', 1, 1, 'no', now(), %s)",
            [new_event_id(now - timedelta(hours=hours_ago)), incident],
        )
    found = activity.read_incident_hours(connection, [1, 2, 3])
    assert [number for _, number in found[1]] == [0] * 20 + [2, 0, 0, 1]
    assert [number for _, number in found[2]] == [0] * 18 + [1] + [0] * 5
    assert [number for _, number in found[3]] == [0] * 24


def test_old_minutes_and_hours_are_dropped(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO activity (span, at, handler, outcome, bucket, count)"
        " SELECT span, now() - age, '', 'stored', 1, 1 FROM (VALUES ('minute', interval '3 hours'),"
        " ('minute', '1 hour'), ('hour', '9 days'), ('hour', '7 days')) AS it(span, age)"
    )
    tallies.roll_hours(connection, retention_days=30)
    kept = connection.execute("SELECT span, now() - at < '8 days' AS young FROM activity ORDER BY span").fetchall()
    assert [(row["span"], row["young"]) for row in kept] == [("hour", True), ("minute", True)]
