"""Pauses of tenants, of handlers, and of a handler for one tenant: nothing starts, nothing is lost, and all see why."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_admission import Sent, plan_of, states
from workers.dispatch.admission import admit
from workers.store import audit, deliveries, limits, pauses, stats, tenants
from workers.store.connect import Connection, connect
from workers.store.figures import count_by_handler, list_due_lanes
from workers.store.refusals import UnknownTenantError

if TYPE_CHECKING:
    from tests.integration.conftest import AddDeliveries

LANES = [("acme", "a.run"), ("acme", "b.run"), ("other", "a.run")]
PAUSES = [
    ({"tenant": "acme"}, {("other", "a.run")}),
    ({"handler": "a.run"}, {("acme", "b.run")}),
    ({"tenant": "acme", "handler": "a.run"}, {("acme", "b.run"), ("other", "a.run")}),
]


@pytest.fixture
def lanes(connection: Connection, add_deliveries: AddDeliveries) -> None:
    for tenant, handler in LANES:
        connection.execute("INSERT INTO tenants (name) VALUES (%s) ON CONFLICT DO NOTHING", [tenant])
        add_deliveries(3, tenant=tenant, handler=handler)


def admitted(connection: Connection) -> set[tuple[str, str]]:
    queue = Sent()
    admit(connection, queue, slots=20, message_seconds=1.0)
    return {(it.tenant, it.handler) for message in queue.messages for it in message.deliveries}


@pytest.mark.usefixtures("lanes")
@pytest.mark.parametrize(("paused", "left"), PAUSES, ids=["tenant", "handler", "handler of a tenant"])
def test_nothing_of_what_is_paused_is_admitted_until_it_is_resumed(
    connection: Connection, paused: dict[str, str], left: set[tuple[str, str]]
) -> None:
    pauses.pause(connection, **paused)  # type: ignore[arg-type]
    assert admitted(connection) == left
    assert set(count_by_handler(connection, runnable=None)) == {handler for _, handler in left}
    assert {(it.tenant, it.handler) for it in list_due_lanes(connection, after=("", "")) if it.paused} == {
        *LANES
    } - left
    assert pauses.resume(connection, **paused)
    assert not pauses.resume(connection, **paused)
    assert admitted(connection) == {*LANES} - left
    assert states(connection) == {"queued": 9}


@pytest.mark.usefixtures("lanes")
@pytest.mark.parametrize(("paused", "left"), PAUSES, ids=["tenant", "handler", "handler of a tenant"])
def test_what_was_sent_and_has_not_begun_is_taken_back_and_what_runs_is_left(
    connection: Connection, paused: dict[str, str], left: set[tuple[str, str]]
) -> None:
    queue = Sent()
    admit(connection, queue, slots=20, message_seconds=1.0)
    sent = {
        lane: [it.event_id for m in queue.messages for it in m.deliveries if (it.tenant, it.handler) == lane]
        for lane in LANES
    }
    for (_, handler), ids in sent.items():
        deliveries.claim(connection, handler, ids[:1], worker="w", lease=60.0)
    assert pauses.pause(connection, **paused) == 2 * (3 - len(left))  # type: ignore[arg-type]
    for lane, ids in sent.items():
        claimed, _ = deliveries.claim(connection, lane[1], ids, worker="w", lease=60.0)
        assert len(claimed) == (2 if lane in left else 0), "the messages of what was taken back are empty"
    assert admitted(connection) == set()


@pytest.mark.usefixtures("lanes")
def test_a_pause_waits_for_an_admission_under_way_and_takes_back_what_that_has_queued(
    connection: Connection, database_url: str
) -> None:
    with connect(database_url, name="test") as other, ThreadPoolExecutor(1) as pool:
        with other.transaction():
            deliveries.lock_admission(other, wait=True)
            pausing = pool.submit(pauses.pause, connection, handler="a.run")
            candidates, *_ = deliveries.list_candidates(other, after="", tenants=9, lanes=9, most=9, room=9, few=9)
            deliveries.queue(other, candidates, wait=60.0)
        assert pausing.result(timeout=20) == 6
    assert states(connection) == {"queued": 3, "pending": 6}


def test_handlers_that_are_paused_do_not_hide_those_that_are_not(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    for number in range(40):
        add_deliveries(2, handler=f"paused.h{number:02}")
        pauses.pause(connection, handler=f"paused.h{number:02}")
    add_deliveries(2, handler="zealous.run")
    found = [admitted(connection) for _ in range(4)]
    assert set().union(*found) == {("acme", "zealous.run")}


def test_under_a_cap_the_handlers_of_a_tenant_take_turns(connection: Connection, add_deliveries: AddDeliveries) -> None:
    connection.execute("INSERT INTO tenants (name, max_in_flight) VALUES ('acme', 1)")
    handlers = [f"acme.h{number}" for number in range(3)]
    for handler in handlers:
        add_deliveries(5, handler=handler)
    queue = Sent()
    for _ in range(6):
        admit(connection, queue, slots=4, message_seconds=1.0)
        connection.execute("DELETE FROM deliveries WHERE state = 'queued'")
    assert [message.handler for message in queue.messages] == handlers * 2


@pytest.mark.usefixtures("lanes")
def test_a_pause_ends_by_itself_and_everybody_is_told_who_paused_what_and_why(connection: Connection) -> None:
    audit.act_as(connection, "alice", "their API is down")
    until = pauses.list_pauses(connection)
    assert until == []
    for paused, _ in PAUSES:
        pauses.pause(connection, **paused, until=now_plus(connection, "1 hour"))  # type: ignore[arg-type]
    found = pauses.list_pauses(connection)
    assert {(it.tenant, it.handler) for it in found} == {("acme", "*"), ("*", "a.run"), ("acme", "a.run")}
    assert {(it.paused_by, it.pause_reason) for it in found} == {("alice", "their API is down")}
    assert "by alice" in str(found[0])
    assert str(found[0]).endswith("their API is down")
    (load,) = stats.read_load(connection, tenant="other")
    assert load.waits_for(None) == "the pause of a.run"
    assert stats.read_load(connection, tenant="acme")[0].waits_for(None) == f"its pause, {found[0]}"
    assert pauses.end_pauses(connection) == 0
    connection.execute("UPDATE tenants SET paused_until = now() WHERE paused_at IS NOT NULL")
    connection.execute("UPDATE handler_pauses SET paused_until = now() WHERE tenant = '*'")
    assert pauses.end_pauses(connection) == 2
    assert [(it.tenant, it.handler) for it in pauses.list_pauses(connection)] == [("acme", "a.run")]
    assert pauses.count_pauses(connection).lanes == 1
    entries = {(it.what, it.target, it.who, it.why) for it in audit.list_entries(connection, limit=20)}
    assert ("handler_pauses added", "a.run *", "alice", "their API is down") in entries
    assert ("handler_pauses removed", "a.run *", "alice", "its time was over") in entries


def test_a_second_pause_keeps_since_when_and_an_unknown_tenant_is_refused(connection: Connection) -> None:
    tenants.add_tenant(connection, "acme")
    for reason in ("one", "two"):
        audit.act_as(connection, "alice", reason)
        pauses.pause(connection, tenant="acme")
        pauses.pause(connection, handler="a.run")
    assert [it.pause_reason for it in pauses.list_pauses(connection)] == ["two", "two"]
    changes = [it.after for it in audit.list_entries(connection, limit=1, what="handler_pauses changed")]
    assert changes == [{"pause_reason": "two"}]
    with pytest.raises(UnknownTenantError):
        pauses.pause(connection, tenant="nobody", handler="a.run")
    with pytest.raises(ValueError, match="names a tenant"):
        pauses.pause(connection)


def test_ten_thousand_pauses_cost_an_admission_probes_of_their_index(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO handler_pauses (handler, tenant) SELECT 'h.' || n, 't' || n FROM generate_series(1, 10000) AS n"
    )
    connection.execute("ANALYZE handler_pauses")
    named = {"handlers": ["h.5", "h.6"], "tenants": ["t5", "t6"]}
    plan = plan_of(connection, "list_allowances", named, queries=limits._QUERIES)
    assert "Seq Scan on handler_pauses" not in plan, plan


def now_plus(connection: Connection, interval: str) -> object:
    (row,) = connection.execute("SELECT now() + %s::interval AS at", [interval]).fetchall()
    return row["at"]
