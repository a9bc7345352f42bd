"""What people read: the story of one event, lists, fates, stats."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from shared.envelope import new_event_id
from workers.store import event_history, stats
from workers.store.connect import connect
from workers.store.sql import Queries
from workers.store.stats import Fate

if TYPE_CHECKING:
    from workers.store.connect import Connection

NOW = datetime.now(UTC)


def store(connection: Connection, *, at: datetime = NOW, state: str = "accepted", **other: Any) -> UUID:
    """Store one event and return its id."""
    event_id = new_event_id(at)
    row = {
        "id": event_id,
        "provider": "moveris",
        "tenant": "acme",
        "type": "verification.completed" if state == "accepted" else None,
        "received_at": at,
        "headers": "{}",
        "body": b"\xff\x00 exactly",
        "secret_label": "v1",
        "fingerprint": event_id.bytes,
        "state": state,
        "reject_reason": None if state == "accepted" else "not_json",
    } | other
    columns, places = ", ".join(row), ", ".join(f"%({name})s" for name in row)
    connection.execute(f"INSERT INTO events ({columns}) VALUES ({places})", row)
    return event_id


def deliver(connection: Connection, event_id: UUID, state: str, handler: str = "acme.grant") -> None:
    """Store a delivery in some state."""
    values = {"id": event_id, "handler": handler, "state": state}
    if state in event_history.OPEN_STATES:
        connection.execute(
            "INSERT INTO deliveries (event_id, handler, tenant, state, ready, lease_until, attempt, due_at, last_error)"
            " SELECT id, %(handler)s, tenant, %(state)s, false,"
            " CASE WHEN %(state)s <> 'pending' THEN now() + interval '1 minute' END, 1, now() + interval '5 minutes',"
            " 'ValueError: no' FROM events WHERE id = %(id)s",
            values,
        )
    else:
        connection.execute(
            "INSERT INTO deliveries_done (event_id, handler, tenant, state, attempt, fence, last_error, created_at)"
            " SELECT id, %(handler)s, tenant, %(state)s, 2, 2, 'ValueError: no', now() FROM events WHERE id = %(id)s",
            values,
        )


def test_the_story_of_an_event_tells_arrivals_deliveries_and_failed_attempts(connection: Connection) -> None:
    event_id = store(connection, subject="session-1", notes=["header differs"])
    duplicate = new_event_id(NOW + timedelta(seconds=1))
    connection.execute(
        "INSERT INTO arrivals (id, first_id, tenant, provider, received_at, secret_label)"
        " VALUES (%s, %s, 'acme', 'moveris', %s, 'v2')",
        [duplicate, event_id, NOW + timedelta(seconds=1)],
    )
    deliver(connection, event_id, "pending")
    deliver(connection, event_id, "succeeded", "acme.mail")
    connection.execute(
        "INSERT INTO attempts (event_id, handler, fence, attempt, error, traceback, duration, worker)"
        " VALUES (%s, 'acme.grant', 1, 1, 'ValueError: no', 'Traceback …', interval '20 ms', 'host:1')",
        [event_id],
    )
    story = event_history.read_history(connection, event_id)
    assert story is not None
    assert (story.subject, story.secret_label, story.body_bytes, list(story.notes)) == (
        "session-1",
        "v1",
        10,
        ["header differs"],
    )
    assert [(arrival.id, arrival.secret_label) for arrival in story.arrivals] == [(duplicate, "v2")]
    deliveries = {delivery.handler: delivery for delivery in story.deliveries}
    assert {name: delivery.state for name, delivery in deliveries.items()} == {
        "acme.grant": "pending",
        "acme.mail": "succeeded",
    }
    (failed,) = deliveries["acme.grant"].failures
    assert (failed.error, failed.duration) == ("ValueError: no", timedelta(milliseconds=20))
    assert event_history.find_event(connection, duplicate) == event_id


def test_a_body_is_read_byte_for_byte_and_an_unknown_event_is_none(connection: Connection) -> None:
    assert event_history.read_body(connection, store(connection)) == b"\xff\x00 exactly"
    unknown = uuid4()
    assert event_history.read_body(connection, unknown) is None
    assert event_history.read_history(connection, unknown) is None
    assert event_history.find_event(connection, unknown) == unknown


def test_events_are_listed_newest_first_and_narrowed(connection: Connection) -> None:
    oldest = store(connection, at=NOW - timedelta(hours=2))
    rejected = store(connection, at=NOW - timedelta(minutes=2), state="rejected")
    other = store(connection, at=NOW - timedelta(minutes=1), tenant="other")
    failed = store(connection, type="verification.failed")

    def listed(**narrow: Any) -> list[UUID]:
        return [event.id for event in event_history.list_events(connection, **{"limit": 10} | narrow)]

    assert listed() == [failed, other, rejected, oldest]
    assert listed(limit=2) == [failed, other]
    assert listed(tenant="acme") == [failed, rejected, oldest]
    assert listed(state="rejected") == [rejected]
    assert listed(type="verification.failed") == [failed]
    assert listed(since=NOW - timedelta(hours=1), tenant="acme", state="accepted") == [failed]


def test_deliveries_of_open_and_done_states_are_listed_together(connection: Connection) -> None:
    states = ["pending", "queued", "running", "succeeded", "dead", "cancelled"]
    for minutes, state in enumerate(states):
        deliver(connection, store(connection, at=NOW - timedelta(minutes=minutes)), state)
    deliver(connection, store(connection, tenant="other"), "dead", "other.run")
    assert [
        it.state for it in event_history.list_deliveries(connection, limit=10, states=states, tenant="acme")
    ] == states
    (succeeded,) = event_history.list_deliveries(connection, limit=10, states=["succeeded"], tenant="acme")
    assert succeeded.finished_at
    assert not event_history.list_deliveries(
        connection, limit=10, states=["succeeded"], tenant="acme", handler="other.run"
    )
    (dead,) = event_history.list_deliveries(connection, limit=10, states=["dead"], handler="other.run")
    assert (dead.tenant, dead.last_error) == ("other", "ValueError: no")
    assert len(event_history.list_deliveries(connection, limit=3, states=states)) == 3


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_pages_of_deliveries_go_on_after_the_last_one(connection: Connection, tenant: str | None) -> None:
    states = ["pending", "queued", "running", "succeeded", "dead", "cancelled"]
    for minutes in range(4):
        event_id = store(connection, at=NOW - timedelta(minutes=minutes))
        for number, state in enumerate(states):
            deliver(connection, event_id, state, f"acme.h{number}")
        connection.execute(
            "INSERT INTO deliveries (event_id, handler, tenant) VALUES (%s, 'acme.due', 'acme')", [event_id]
        )
    found: list[event_history.DeliverySummary] = []
    for _ in range(7):
        before = (found[-1].event_id, found[-1].handler) if found else None
        found += event_history.list_deliveries(connection, limit=5, states=states, tenant=tenant, before=before)
    keys = [(it.event_id, it.handler) for it in found]
    assert keys == sorted(keys, reverse=True)
    assert len({*keys}) == len(keys) == 28


def test_the_dead_deliveries_of_an_incident_are_listed_in_pages(connection: Connection) -> None:
    for minutes in range(3):
        event_id = store(connection, at=NOW - timedelta(minutes=minutes))
        for handler in ("acme.a", "acme.b"):
            deliver(connection, event_id, "dead", handler)
    connection.execute("UPDATE deliveries_done SET incident = 7 WHERE handler = 'acme.a'")
    first = event_history.list_of_incident(connection, 7, limit=2)
    last = first[-1]
    rest = event_history.list_of_incident(connection, 7, limit=5, before=(last.event_id, last.handler))
    found = [*first, *rest]
    assert [it.handler for it in found] == ["acme.a"] * 3
    assert [it.event_id for it in found] == sorted((it.event_id for it in found), reverse=True)


def test_what_a_handler_has_done_is_looked_for_within_a_bound(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(connection, store(connection, at=NOW - timedelta(hours=1)), "succeeded", "acme.rare")
    for minutes in range(5):
        deliver(connection, store(connection, at=NOW - timedelta(minutes=minutes)), "succeeded")

    def listed(tenant: str | None) -> int:
        it = event_history.list_deliveries(
            connection, limit=10, states=["succeeded"], tenant=tenant, handler="acme.rare"
        )
        return len(it)

    assert (listed(None), listed("acme")) == (1, 1)
    monkeypatch.setattr(event_history, "SUCCEEDED_BOUND", 5)
    monkeypatch.setattr(event_history, "TENANT_EVENTS_BOUND", 5)
    assert (listed(None), listed("acme")) == (0, 0)


def test_each_acknowledged_id_has_its_fate(connection: Connection) -> None:
    expected = {uuid4(): Fate.NOT_STORED, store(connection, state="rejected"): Fate.REJECTED}
    for states, fate in (
        ([], Fate.UNWANTED),
        (["pending", "succeeded"], Fate.OPEN),
        (["succeeded", "running"], Fate.OPEN),
        (["succeeded", "succeeded"], Fate.HANDLED),
        (["succeeded", "dead"], Fate.DEAD),
        (["cancelled", "succeeded"], Fate.CANCELLED),
    ):
        event_id = store(connection)
        for number, state in enumerate(states):
            deliver(connection, event_id, state, f"acme.h{number}")
        expected[event_id] = fate
        duplicate = new_event_id(NOW)
        connection.execute(
            "INSERT INTO arrivals (id, first_id, tenant, provider, received_at, secret_label)"
            " VALUES (%s, %s, 'acme', 'moveris', now(), 'v1')",
            [duplicate, event_id],
        )
        expected[duplicate] = fate
    assert stats.read_fates(connection, list(expected)) == expected


def test_the_load_of_each_tenant_with_work_is_counted(connection: Connection) -> None:
    for tenant, states in {
        "a": ["queued", "running", "running", "succeeded"],
        "c": ["dead", "dead", "pending"],
    }.items():
        for state in states:
            deliver(connection, store(connection, tenant=tenant), state)
    deliver(connection, store(connection, tenant="d"), "succeeded")
    ready = store(connection, tenant="b")
    connection.execute("INSERT INTO deliveries (event_id, handler, tenant) VALUES (%s, 'b.run', 'b')", [ready])
    counts = {
        it.tenant: (it.pending, it.retrying, it.queued, it.running, it.dead) for it in stats.read_load(connection)
    }
    assert counts == {"a": (0, 0, 1, 2, 0), "b": (1, 0, 0, 0, 0), "c": (0, 1, 0, 0, 2)}


def test_an_idle_pipeline_has_no_load(connection: Connection) -> None:
    assert stats.read_load(connection) == []


def test_a_session_that_holds_an_old_snapshot_is_named(connection: Connection, database_url: str) -> None:
    def look() -> list[stats.OldSnapshot]:
        return stats.list_old_snapshots(connection, older_than=timedelta(0))

    with connect(database_url, name="pg_dump") as reader, reader.transaction():
        assert "pg_dump" not in [it.application for it in look()]
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM deliveries")
        (found,) = (it for it in look() if it.application == "pg_dump")
        assert found.pid == reader.info.backend_pid
        assert str(found).startswith(f"pg_dump of the role postgres (pid {found.pid}) has held a snapshot for 0 s")
        assert stats.list_old_snapshots(connection) == []


@pytest.fixture
def history(connection: Connection) -> None:
    """Store 60,000 events of 200 tenants, each delivered, a few dead, and 20,000 deliveries that wait."""
    connection.execute(
        "INSERT INTO events (id, provider, tenant, type, received_at, headers, body, secret_label, fingerprint, state,"
        " reject_reason)"
        " SELECT overlay(uuid_at(now() - n * interval '1 s')::text PLACING lpad(to_hex(n), 12, '0') FROM 25)::uuid,"
        " 'moveris', 't' || n %% 200, 'verification.completed', now(), '{}', '', 'v1', '', 'accepted', NULL"
        " FROM generate_series(1, %s) n",
        [60_000],
    )
    connection.execute(
        "INSERT INTO deliveries_done (event_id, handler, tenant, state, attempt, fence, last_error, created_at)"
        " SELECT id, 'x.run', tenant, CASE WHEN tenant = 't7' THEN 'dead' ELSE 'succeeded' END, 1, 1, 'x', now()"
        " FROM events"
    )
    connection.execute(
        "INSERT INTO deliveries (event_id, handler, tenant)"
        " SELECT id, 'x.late', tenant FROM events ORDER BY id LIMIT 20000"
    )
    connection.execute("ANALYZE events, deliveries, deliveries_done")


@pytest.mark.usefixtures("history")
def test_nothing_that_people_read_scans_history(connection: Connection) -> None:
    narrow = dict.fromkeys(("state", "type", "since", "handler", "before_id", "before_handler"))
    narrow |= {"tenant": "t7", "most": 20, "bound": 1000}
    bounds = {"bound": stats.BOUND, "tenants": 100}
    lists, counts = Queries("event_history.sql"), Queries("stats.sql")
    by_hand = Queries("manual.sql")
    ids = [row["id"] for row in connection.execute("SELECT id FROM events ORDER BY id LIMIT 50")]
    unset = (
        "event_ids",
        "handler",
        "since",
        "until",
        "provider",
        "type",
        "error",
        "incident",
        "end_tenant",
        "end_handler",
        "end_id",
    )
    selection = dict.fromkeys(unset) | {"tenant": "t7"}
    after = {"after_tenant": "", "after_handler": "", "after_id": UUID(int=0)}
    for query, values in (
        (lists["list_events"], narrow),
        (lists["list_events"], narrow | {"tenant": None}),
        (lists["list_events"], narrow | {"type": "nobody.sends"}),
        (lists["list_events"], narrow | {"tenant": None, "state": "rejected", "since": NOW - timedelta(hours=1)}),
        (lists["list_failed"], narrow | {"state": "dead"}),
        (lists["list_succeeded"], narrow | {"handler": "nobody.has"}),
        (lists["list_succeeded_of_tenant"], narrow),
        (counts["read_fates"], {"ids": ids}),
        (counts["tenants_with_work"], bounds | {"tenant": None}),
        (counts["tenants_with_work"], bounds | {"tenant": "acme"}),
        (counts["handlers_with_work"], bounds | {"handlers": 100}),
        (by_hand["preview_retry"], selection | {"state": "dead", "most": 100_000}),
        (
            by_hand["retry"],
            selection | after | {"state": "dead", "before": NOW + timedelta(minutes=1), "most": 2000},
        ),
        (by_hand["end_of_retry"], selection | after | {"state": "dead"}),
        (by_hand["end_of_resend"], selection | after),
        (
            by_hand["resend"],
            selection | after | {"before": NOW, "most": 2000, "after_id": ids[0], "end_id": ids[-1], "end_handler": ""},
        ),
    ):
        plan = explain(connection, query, values)
        scanned = set(re.findall(r"Seq Scan on (events\w*|deliveries\w*|arrivals_\d\w*|attempts\w*)", plan))
        # `LIMIT bound` on open work, and a table that holds nothing, may be scanned
        assert not scanned & {"events_default", "deliveries_done_default"}, plan


def explain(connection: Connection, query: str, values: dict[str, Any]) -> str:
    with connection.transaction(force_rollback=True):
        rows = connection.execute(f"EXPLAIN {query}", values, prepare=False)
        return "\n".join(row["QUERY PLAN"] for row in rows)
