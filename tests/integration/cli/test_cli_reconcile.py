"""`pipeline reconcile`: a provider's list against what came."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_event_history import NOW, deliver, explain, store
from workers.store import tenants
from workers.store.reconciling import list_came
from workers.store.sql import Queries

if TYPE_CHECKING:
    import redis

    from tests.integration.cli.conftest import Pipeline
    from workers.store.connect import Connection

OUTCOMES = ("handled", "failed", "waiting", "unwanted", "rejected", "missing")


@pytest.fixture
def came(pipeline: Pipeline, connection: Connection) -> str:
    """Store an event of each outcome, and more; return a list of ids with one that never came."""
    pipeline("tenants", "add", "acme")
    ids = {it: store(connection, subject=f"s-{it}") for it in ("handled", "failed", "waiting", "unwanted")}
    store(connection, subject="s-rejected", state="rejected")
    deliver(connection, ids["handled"], "succeeded")
    deliver(connection, ids["failed"], "dead")
    deliver(connection, ids["waiting"], "pending")
    connection.execute(
        "INSERT INTO arrivals (id, first_id, tenant, provider, received_at, secret_label)"
        " VALUES (gen_random_uuid(), %s, 'acme', 'moveris', now(), 'v1')",
        [ids["handled"]],
    )
    store(connection, subject="s-more")
    store(connection, subject=None, state="rejected")
    store(connection, subject="s-missing", tenant="other")
    store(connection, subject="s-missing", at=NOW - timedelta(days=3))
    return "".join(f"s-{it}\n" for it in OUTCOMES)


def test_each_id_has_its_outcome_and_what_is_not_in_the_list_is_named(pipeline: Pipeline, came: str) -> None:
    (pipeline.folder / "list.txt").write_text("\ufeff" + came + "\n\ns-handled\n")
    done = pipeline("reconcile", "list.txt", "--tenant", "acme", "--since", "1d", "--json", status=1)
    rows = {row["id"]: row for row in done.rows}
    assert {it: rows[f"s-{it}"]["outcome"] for it in OUTCOMES} == dict(zip(OUTCOMES, OUTCOMES, strict=True))
    assert rows["s-more"]["outcome"] == "not_listed"
    assert (rows["s-handled"]["arrivals"], rows["s-waiting"]["handlers"]) == (1, ["acme.grant"])
    assert rows["s-rejected"]["reasons"] == ["not_json"]
    assert "6 ids: 1 handled, 1 unwanted, 1 waiting, 1 failed, 1 rejected, 1 missing; 1 of them came more" in done.err
    assert "1 lines repeat an id" in done.err
    assert "1 events have no id to compare by" in done.err
    assert "inbox" not in done.err


def test_an_id_has_the_worst_outcome_of_its_events_and_nothing_missing_is_status_0(
    pipeline: Pipeline, connection: Connection
) -> None:
    pipeline("tenants", "add", "acme")
    for state in ("succeeded", "pending"):
        deliver(connection, store(connection, subject="s"), state)
    told = pipeline("reconcile", "-", "--tenant", "acme", "--column", "session", stdin=b"n;session\n1;s\n").text
    assert re.search(r"^s +waiting +2", told, re.MULTILINE)
    (row,) = pipeline("reconcile", "-", "--tenant=acme", "--type=other", "--json", stdin=b"s\n", status=1).rows
    assert row["outcome"] == "missing"


def test_events_that_wait_in_the_inbox_are_told_of_beside_what_is_missing(
    pipeline: Pipeline, redis_client: redis.Redis, came: str
) -> None:
    assert came
    redis_client.xadd("inbox", {"v": "1"})
    told = pipeline("reconcile", "-", "--tenant", "acme", stdin=b"s-none\n", status=1)
    assert "1 events still wait in the inbox" in told.err


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (b"", (), "the list has no id"),
        (b"a,b\n", (), "name the one that has the ids with --column"),
        (b"a,b\n1,2\n", ("--column", "c"), "there is no column 'c'; there are: a, b"),
        (b"\xff\xfe\n", (), "is not UTF-8"),
        (b"x" * 2000, (), "line 1 has 2000 characters"),
        (b"a\x00b\n", (), "NUL character"),
    ],
)
def test_what_is_no_list_of_ids_is_told_in_one_line(
    pipeline: Pipeline, content: bytes, options: tuple[str, ...], told: str
) -> None:
    (pipeline.folder / "list").write_bytes(content)
    assert told in pipeline("reconcile", "list", "--tenant", "acme", *options, status=1).err


def test_an_unknown_tenant_and_a_file_that_is_not_there_are_told_in_one_line(pipeline: Pipeline) -> None:
    assert "no tenant 'acme'" in pipeline("reconcile", "-", "--tenant", "acme", stdin=b"s\n", status=1).err
    assert "cannot be read" in pipeline("reconcile", "none", "--tenant", "acme", status=1).err


def test_pages_come_in_order_along_the_index_of_the_tenant(connection: Connection) -> None:
    tenants.add_tenant(connection, "acme")
    connection.execute(
        "INSERT INTO events (id, provider, tenant, type, subject, received_at, headers, body, secret_label,"
        " fingerprint, state) SELECT uuid_at(now() - n * interval '1 ms'), 'moveris',"
        " CASE WHEN n % 4 = 0 THEN 'acme' ELSE 't' || n END, 't', 's' || n, now(), '{}', '', 'v1', '', 'accepted'"
        " FROM generate_series(1, 48000) AS n"
    )
    connection.execute("ANALYZE events")
    found = [it.id for it in list_came(connection, tenant="acme", since=None, until=None)]
    assert (len(found), found == sorted(found)) == (12_000, True)
    values = {"tenant": "acme", "after": found[0], "before": found[-1]}
    plan = explain(connection, Queries("reconciling.sql")["list_came"], values)
    assert not re.search("Seq Scan on events", plan), plan
