"""Failures of one cause are one incident: opened, told, resolved, opened again; each dead delivery counted once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from shared.envelope import new_event_id
from shared.refusals import Refused
from workers.housekeeping import incidents as grouping
from workers.housekeeping.incidents import group, group_dead
from workers.store import incidents, manual
from workers.store.connect import connect
from workers.store.manual import Selection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tests.integration.conftest import AddDeliveries, Run
    from workers.store.connect import Connection

QUIET = 600.0


def die(
    connection: Connection,
    count: int = 1,
    *,
    tenant: str = "acme",
    handler: str = "acme.grant",
    error: str = "LookupError: no user {}",
    ago: timedelta = timedelta(0),
) -> list[UUID]:
    """Let deliveries die, each with a number of its own in its error."""
    moment = datetime.now(UTC) - ago
    ids = sorted(new_event_id(moment) for _ in range(count))
    connection.execute(
        "INSERT INTO deliveries_done"
        " (event_id, handler, tenant, state, attempt, fence, last_error, created_at, finished_at)"
        " SELECT id, %s, %s, 'dead', 3, 3, replace(%s, '{}', (1000 + place)::text), %s, %s"
        " FROM unnest(%s::uuid[]) WITH ORDINALITY AS it(id, place)",
        [handler, tenant, error, moment, moment, ids],
    )
    return ids


def succeed(connection: Connection, handler: str = "acme.grant") -> None:
    """Count a success, as `record` does."""
    connection.execute(
        "INSERT INTO tallies_new (tenant, handler, outcome, seconds) VALUES ('acme', %s, 'succeeded', '{0.1}')",
        [handler],
    )


def look(connection: Connection, *, refused: Sequence[Refused] = (), quiet: float = QUIET) -> list[dict[str, Any]]:
    """Let housekeeping look once; return all incidents, the first one first."""
    group(connection, read_refused=lambda: refused, quiet_seconds=quiet)
    return connection.execute("SELECT * FROM incidents ORDER BY id").fetchall()


def notices(connection: Connection) -> list[tuple[int, str, list[str]]]:
    found = connection.execute("SELECT incident, kind, tenants FROM incident_notices ORDER BY id")
    return [(row["incident"], row["kind"], row["tenants"]) for row in found]


def pass_by(connection: Connection, seconds: float) -> None:
    """Let time pass for incidents."""
    connection.execute(
        "UPDATE incidents SET first_seen = first_seen - d, last_seen = last_seen - d, opened_at = opened_at - d,"
        " resolved_at = resolved_at - d, told_at = told_at - d FROM (SELECT make_interval(secs => %s) AS d) AS it",
        [seconds],
    )


def test_ten_thousand_deaths_of_one_cause_are_one_incident_after_a_look_or_two(connection: Connection) -> None:
    for tenant in ("acme", "globex"):
        die(connection, 5000, tenant=tenant)
    while connection.execute("SELECT FROM deliveries_done WHERE incident IS NULL LIMIT 1").fetchall():
        (it,) = look(connection)
    assert (it["kind"], it["subject"], it["cause"]) == ("failure", "acme.grant", "LookupError: no user <n>")
    assert (it["count"], it["state"], len(it["samples"])) == (10_000, "open", 5)
    assert it["example"].startswith("LookupError: no user ")
    assert [(t["tenant"], t["count"]) for t in incidents.list_tenants(connection, it["id"], limit=9)] == [
        ("acme", 5000),
        ("globex", 5000),
    ]
    assert {kind for _, kind, _ in notices(connection)} <= {"opened", "joined"}
    assert [kind for _, kind, _ in notices(connection)].count("opened") == 1


def test_two_causes_of_a_handler_and_two_handlers_of_a_cause_are_different_incidents(connection: Connection) -> None:
    die(connection, 3)
    die(connection, 2, error="CRMError: HTTP 503 after {} ms")
    die(connection, 1, handler="acme.mail")
    assert [(it["subject"], it["cause"], it["count"]) for it in look(connection)] == [
        ("acme.grant", "CRMError: HTTP 503 after <n>", 2),
        ("acme.grant", "LookupError: no user <n>", 3),
        ("acme.mail", "LookupError: no user <n>", 1),
    ]


def test_a_look_finds_only_what_is_new(connection: Connection) -> None:
    die(connection, 3)
    look(connection)
    die(connection, 2)
    (it,) = look(connection)
    assert it["count"] == 5
    (it,) = look(connection)
    assert it["count"] == 5
    assert [kind for _, kind, _ in notices(connection)] == ["opened"]


def test_two_that_look_at_once_count_each_death_once(connection: Connection, database_url: str) -> None:
    die(connection, 6000)

    def look_for_some() -> int:
        with connect(database_url, name="test") as own:
            return group_dead(own, seconds=60)

    with ThreadPoolExecutor(2) as pool:
        looks = [pool.submit(look_for_some) for _ in range(2)]
        assert sum(it.result(60) for it in looks) == 6000
    (row,) = connection.execute("SELECT sum(count) AS count FROM incidents").fetchall()
    assert row["count"] == 6000


def test_a_look_that_ends_in_the_middle_leaves_all_to_the_next(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(connection, 3)
    with monkeypatch.context() as patch:
        patch.setattr(incidents, "mark_grouped", lambda *_: (_ for _ in ()).throw(ConnectionError("killed")))
        with pytest.raises(ConnectionError):
            look(connection)
    assert look(connection)[0]["count"] == 3
    assert [kind for _, kind, _ in notices(connection)] == ["opened"]


def test_it_is_resolved_when_its_cause_was_quiet_and_its_handler_has_succeeded_since(connection: Connection) -> None:
    succeed(connection)
    die(connection)
    look(connection)
    pass_by(connection, QUIET + 1)
    assert look(connection)[0]["state"] == "open"  # nothing has succeeded since
    succeed(connection, handler="acme.mail")
    assert look(connection)[0]["state"] == "open"
    succeed(connection)
    (it,) = look(connection)
    assert (it["state"], it["resolved_by"]) == ("resolved", None)
    assert [kind for _, kind, _ in notices(connection)] == ["opened", "resolved"]


def test_what_was_quiet_for_a_week_is_resolved_though_nothing_has_succeeded(connection: Connection) -> None:
    die(connection)
    look(connection)
    pass_by(connection, 6 * 86_400)
    assert look(connection)[0]["state"] == "open"
    pass_by(connection, 86_401)
    assert look(connection)[0]["state"] == "resolved"


def test_the_latest_deaths_are_grouped_before_a_heap_of_old_ones(connection: Connection) -> None:
    die(connection, grouping.AT_ONCE, ago=timedelta(hours=3), error="ValueError: old {}")
    (latest,) = die(connection)
    group_dead(connection, seconds=0)
    (row,) = connection.execute("SELECT incident FROM deliveries_done WHERE event_id = %s", [latest]).fetchall()
    assert row["incident"] is not None
    (left,) = connection.execute("SELECT count(*) AS n FROM deliveries_done WHERE incident IS NULL").fetchall()
    assert left["n"] == 1


def test_it_is_not_resolved_while_it_goes_on(connection: Connection) -> None:
    die(connection)
    look(connection)
    succeed(connection)
    pass_by(connection, QUIET + 1)
    die(connection)
    assert look(connection)[0]["state"] == "open"


def test_what_comes_back_opens_it_again_and_the_next_quiet_must_last_twice_as_long(connection: Connection) -> None:
    die(connection)
    look(connection)
    succeed(connection)
    pass_by(connection, QUIET + 1)
    assert look(connection)[0]["state"] == "resolved"
    die(connection)
    (it,) = look(connection)
    assert (it["state"], it["count"], it["reopened"], it["resolved_at"]) == ("open", 2, 1, None)
    succeed(connection)
    pass_by(connection, QUIET + 1)
    assert look(connection)[0]["state"] == "open"
    pass_by(connection, QUIET)
    assert look(connection)[0]["state"] == "resolved"
    assert [kind for _, kind, _ in notices(connection)] == ["opened", "resolved"] * 2


def test_a_person_resolves_it_and_deaths_of_before_do_not_open_it_again(connection: Connection) -> None:
    die(connection)
    look(connection)
    late = die(connection)
    with connection.transaction():
        incidents.lock(connection)
        assert incidents.resolve(connection, 1, who="alice")
        assert not incidents.resolve(connection, 1, who="alice")
    (it,) = look(connection)
    assert (it["state"], it["resolved_by"], it["count"]) == ("resolved", "alice", 2)
    (row,) = connection.execute("SELECT incident FROM deliveries_done WHERE event_id = %s", late).fetchall()
    assert row["incident"] == 1


def test_nobody_is_told_of_a_muted_one_until_it_is_told_again(connection: Connection) -> None:
    die(connection)
    look(connection)
    incidents.mute(connection, 1, until=datetime.now(UTC) + timedelta(hours=1))
    succeed(connection)
    pass_by(connection, 2 * QUIET)
    assert look(connection)[0]["state"] == "resolved"
    die(connection)
    assert look(connection)[0]["state"] == "open"
    assert [kind for _, kind, _ in notices(connection)] == ["opened"]
    incidents.mute(connection, 1, until=None)
    die(connection)
    look(connection)
    assert [kind for _, kind, _ in notices(connection)] == ["opened", "opened"]


def test_one_reminder_a_day_is_told(connection: Connection) -> None:
    die(connection)
    look(connection)
    for days in (1, 2):
        pass_by(connection, 86_401)
        look(connection)
        look(connection)
        assert [kind for _, kind, _ in notices(connection)] == ["opened"] + ["reminder"] * days


def test_a_tenant_that_is_affected_later_is_noted_once(connection: Connection) -> None:
    die(connection)
    look(connection)
    for _ in range(2):
        die(connection, tenant="globex")
        die(connection)
        look(connection)
    assert notices(connection) == [(1, "opened", ["acme"]), (1, "joined", ["globex"])]


def test_deaths_of_before_yesterday_are_grouped_and_told_to_nobody(connection: Connection) -> None:
    die(connection, 4, ago=timedelta(days=2))
    assert look(connection)[0]["count"] == 4
    assert notices(connection) == []
    die(connection)
    look(connection)
    assert [kind for _, kind, _ in notices(connection)] == ["opened"]


def test_causes_of_a_handler_beyond_the_bound_are_one_incident(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incidents, "MOST_CAUSES", 3)
    for word in "abcdefg":
        die(connection, error=f"ValueError: strange {word * 3}")
        look(connection)
    found = {it["cause"]: it["count"] for it in look(connection)}
    assert len(found) == 4
    assert found[incidents.OTHERS] == 4
    die(connection, error="ValueError: strange aaa")
    assert {it["cause"]: it["count"] for it in look(connection)}["ValueError: strange aaa"] == 2


def test_replaying_an_incident_touches_nothing_else(connection: Connection) -> None:
    wanted = die(connection, 3)
    others = [*die(connection, error="CRMError: HTTP 503"), *die(connection, handler="acme.mail")]
    look(connection)
    (later,) = die(connection)  # not grouped yet
    found = incidents.list_incidents(connection, state="open", subject="acme.grant", tenant=None, limit=9)
    incident = next(it["id"] for it in found if it["count"] == 3)
    selection = Selection(incident=incident)
    assert list(manual.retry(connection, selection, state="dead", dry_run=True)) == [{("acme", "acme.grant"): 3}]
    assert list(manual.retry(connection, selection, state="dead")) == [{("acme", "acme.grant"): 3}]
    assert {row["event_id"] for row in connection.execute("SELECT event_id FROM deliveries")} == set(wanted)
    left = {row["event_id"] for row in connection.execute("SELECT event_id FROM deliveries_done")}
    assert left == {*others, later}


def test_what_dies_again_after_a_replay_is_counted_again(connection: Connection) -> None:
    die(connection)
    look(connection)
    list(manual.retry(connection, Selection(incident=1), state="dead"))
    connection.execute(
        "WITH d AS (DELETE FROM deliveries RETURNING *) INSERT INTO deliveries_done"
        " (event_id, handler, tenant, state, attempt, fence, last_error, created_at)"
        " SELECT event_id, handler, tenant, 'dead', 3, 6, 'LookupError: no user 7', created_at FROM d"
    )
    (it,) = look(connection)
    assert it["count"] == 2
    assert incidents.count_dead(connection, 1) == 1


def test_what_waits_after_its_third_failure_is_an_incident_and_no_death(
    connection: Connection, add_deliveries: AddDeliveries, run: Run
) -> None:
    ids = add_deliveries(2)

    def function(event: object, delivery: object) -> None:
        raise LookupError("no user 4711")

    for attempt in range(1, 4):
        run(ids, function, schedule=(3600.0,), max_attempts=9)
        found = look(connection)
        assert len(found) == (attempt == 3)
    (it,) = found
    assert (it["count"], it["waiting"], it["state"]) == (0, 2, "open")
    assert it["cause"] == "LookupError: no user <n>"
    (sample, _) = incidents.list_samples(connection, it["samples"], handler="acme.run")
    assert "raise LookupError" in sample["traceback"]
    run(ids, lambda event, delivery: None, schedule=(3600.0,), max_attempts=9)
    (it,) = look(connection)
    assert (it["waiting"], it["state"]) == (0, "open")
    pass_by(connection, QUIET + 1)
    assert look(connection)[0]["state"] == "resolved"
    assert [kind for _, kind, _ in notices(connection)] == ["opened", "resolved"]


def reject(
    connection: Connection, *, provider: str = "moveris", reason: str = "not_json", tenant: str = "acme"
) -> None:
    event_id = new_event_id(datetime.now(UTC))
    connection.execute(
        "INSERT INTO events"
        " (id, provider, tenant, received_at, stored_at, headers, body, secret_label, fingerprint, state,"
        " reject_reason)"
        " VALUES (%s, %s, %s, now(), now() - interval '4 s', '{}', '', 'v1', %s, 'rejected', %s)",
        [event_id, provider, tenant, event_id.bytes, reason],
    )


def test_rejected_events_are_grouped_by_provider_and_reason_each_once(connection: Connection) -> None:
    connection.execute("UPDATE incident_progress SET stored_at = now() - interval '1 minute'")
    for tenant in ("acme", "globex"):
        reject(connection, tenant=tenant)
    reject(connection, provider="github")
    reject(connection, reason="poison")
    look(connection)
    assert [(it["kind"], it["subject"], it["cause"], it["count"]) for it in look(connection)] == [
        ("rejected", "github", "not_json", 1),
        ("rejected", "moveris", "not_json", 2),
        ("rejected", "moveris", "poison", 1),
    ]
    pass_by(connection, QUIET + 1)
    assert {it["state"] for it in look(connection)} == {"resolved"}


def refusal(*, count: int = 20, seconds: float = 90.0, ended: float = 0.0, provider: str = "moveris") -> Refused:
    last = time.time() - ended
    return Refused(
        provider=provider, tenant="acme", code="invalid_signature", first_at=last - seconds, last_at=last, count=count
    )


def test_an_endpoint_that_is_refused_for_a_while_is_an_incident(connection: Connection) -> None:
    (it,) = look(connection, refused=[refusal()])
    assert (it["kind"], it["subject"], it["cause"], it["count"]) == ("refused", "acme/moveris", "invalid_signature", 20)
    (it,) = look(connection, refused=[refusal(count=30)])
    assert it["count"] == 30
    pass_by(connection, QUIET + 1)
    (it,) = look(connection, refused=[refusal(count=30, ended=QUIET + 1)])
    assert it["state"] == "resolved"


def test_a_few_refusals_and_those_beside_valid_events_are_none(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO endpoint_activity (tenant, provider, first_at, last_at) VALUES ('acme', 'github', now(), now())"
    )
    few = [refusal(count=2), refusal(seconds=10), refusal(provider="github")]
    assert look(connection, refused=few) == []


def test_old_incidents_are_deleted_with_what_belongs_to_them(connection: Connection) -> None:
    die(connection)
    look(connection)
    pass_by(connection, 31 * 86_400)
    incidents.drop_old(connection, retention_days=30)
    assert len(look(connection)) == 1  # it is open
    with connection.transaction():
        incidents.resolve(connection, 1, who="alice")
    incidents.drop_old(connection, retention_days=30)
    assert connection.execute("SELECT FROM incidents").fetchall() == []
    assert connection.execute("SELECT FROM incident_tenants").fetchall() == []


def test_dead_deliveries_without_an_incident_are_found_by_an_index(connection: Connection) -> None:
    die(connection, 4000)
    group_dead(connection, seconds=60)
    connection.execute(
        "INSERT INTO deliveries_done (event_id, handler, tenant, state, attempt, fence, created_at)"
        " SELECT gen_random_uuid(), 'acme.grant', 'acme', 'succeeded', 1, 1, now() FROM generate_series(1, 4000)"
    )
    connection.execute("ANALYZE deliveries_done")
    with connection.transaction():
        incidents.lock(connection)
        query = incidents._SQL["list_ungrouped"]
        plan = connection.execute(f"EXPLAIN (ANALYZE) {query}", {"most": grouping.AT_ONCE}).fetchall()
    text = "\n".join(row["QUERY PLAN"] for row in plan)
    assert "deliveries_done_default_incident_event_id_idx" in text
    assert "Seq Scan" not in text, text
    assert "Rows Removed by Filter" not in text, text
