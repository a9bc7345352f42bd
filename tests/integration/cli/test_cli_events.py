"""`pipeline events`, `deliveries` and `stats`, as processes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from shared.envelope import new_event_id
from shared.refusals import add_arguments
from tests.names import NAMES
from workers.registration import Handler
from workers.samples import moveris
from workers.store import catalogue
from workers.store.partitions import ensure_partitions, partition_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from tests.integration.cli.conftest import Pipeline
    from workers.store.connect import Connection

NOW = datetime.now(UTC) - timedelta(minutes=1)
"""Of what is stored here: some of it lies seconds behind, and nothing may lie in the future."""
LATER = Handler(name="acme.later", function=print, event="verification.completed", tenant="acme")


def store(connection: Connection, *, body: bytes | None = None, state: str = "accepted", **other: Any) -> UUID:
    """Store one event and return its id."""
    event_id: UUID = other.get("id") or new_event_id(other.get("received_at", NOW))
    row = {
        "id": event_id,
        "provider": "moveris",
        "tenant": "acme",
        "type": "verification.completed" if state == "accepted" else None,
        "subject": "session-1",
        "received_at": NOW,
        "headers": "{}",
        "body": moveris()[0] if body is None else body,
        "secret_label": "mixed-30-v2",
        "fingerprint": event_id.bytes,
        "state": state,
        "reject_reason": None if state == "accepted" else "schema_mismatch",
    } | other
    columns, places = ", ".join(row), ", ".join(f"%({name})s" for name in row)
    connection.execute(f"INSERT INTO events ({columns}) VALUES ({places})", row)
    return event_id


def kill(connection: Connection, event_id: UUID, handler: str = "acme.grant", state: str = "dead") -> None:
    """Store a delivery that is over, with two failed attempts."""
    connection.execute(
        "INSERT INTO deliveries_done"
        " (event_id, handler, tenant, state, attempt, fence, worker, last_error, created_at, finished_at)"
        " VALUES (%s, %s, 'acme', %s, 2, 2, 'host:1', 'ValueError: no such user', %s, %s)",
        [event_id, handler, state, NOW, NOW + timedelta(seconds=6)],
    )
    for attempt in (1, 2):
        connection.execute(
            "INSERT INTO attempts"
            " (event_id, handler, fence, attempt, error, traceback, duration, worker, failed_at)"
            " VALUES (%(id)s, %(handler)s, %(attempt)s, %(attempt)s, 'ValueError: no such user',"
            " 'Traceback of ' || %(attempt)s, interval '20 ms', 'host:1', %(now)s + %(attempt)s * interval '2 s')",
            {"id": event_id, "handler": handler, "attempt": attempt, "now": NOW},
        )


def wait_for_retry(connection: Connection, event_id: UUID) -> None:
    connection.execute(
        "INSERT INTO deliveries (event_id, handler, tenant, ready, attempt, due_at, last_error)"
        " VALUES (%s, 'acme.mail', 'acme', false, 1, now() + interval '1 hour', 'OSError: away')",
        [event_id],
    )


@contextmanager
def unchanged(connection: Connection) -> Iterator[None]:
    """Require of the block that no row of any table is written, not even with the same values."""
    listing = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
    tables = [row["relname"] for row in connection.execute(f"{listing} AND NOT relispartition").fetchall()]
    assert {"events", "deliveries", "deliveries_done", "attempts"} <= set(tables)

    def read() -> dict[str, list[Any]]:
        return {
            name: connection.execute(f"SELECT xmin::text, t::text FROM {name} AS t ORDER BY 1, 2").fetchall()
            for name in tables
        }

    before = read()
    yield
    assert read() == before


def test_the_story_of_an_event_is_told_as_a_timeline(pipeline: Pipeline, connection: Connection) -> None:
    event_id = store(connection)
    kill(connection, event_id)
    wait_for_retry(connection, event_id)
    duplicate = new_event_id(NOW + timedelta(seconds=3))
    connection.execute(
        "INSERT INTO arrivals (id, first_id, tenant, provider, received_at, secret_label)"
        " VALUES (%s, %s, 'acme', 'moveris', %s, 'mixed-30-v3')",
        [duplicate, event_id, NOW + timedelta(seconds=3)],
    )
    told = pipeline("events", "show", str(event_id)).text
    places = [
        told.index(part)
        for part in (
            "signed by mixed-30-v2",
            "attempt 1 failed after 20 ms on host:1: ValueError: no such user",
            f"arrived again as {duplicate}, signed by mixed-30-v3",
            "attempt 2 failed",
            "acme.grant: dead after 2 attempts",
            "acme.mail: next attempt in",
        )
    ]
    assert places == sorted(places)
    assert "Traceback of 2" not in told
    assert "Traceback of 2" in pipeline("events", "show", str(event_id), "--tracebacks").text
    assert f"{duplicate} is a duplicate of" in pipeline("events", "show", str(duplicate)).text
    (story,) = pipeline.json("events", "show", str(duplicate))
    assert (story["id"], len(story["arrivals"]), len(story["deliveries"])) == (str(event_id), 1, 2)
    assert story["deliveries"][0]["failures"][0]["duration"] == 0.02


@pytest.mark.parametrize("body", [b"\xff\x00\r\n{", b"", b"x" * 100_000])
def test_the_body_is_printed_byte_for_byte(pipeline: Pipeline, connection: Connection, body: bytes) -> None:
    event_id = store(connection, body=body, state="rejected")
    assert pipeline("events", "show", str(event_id), "--body").out == body


def test_an_unknown_event_is_told_apart_from_one_in_the_inbox(pipeline: Pipeline, redis_client: redis.Redis) -> None:
    assert "the inbox is empty" in pipeline("events", "show", str(uuid4()), status=1).err
    redis_client.xadd(NAMES.inbox, {"v": "1"})
    assert "1 wait in the inbox" in pipeline("events", "show", str(uuid4()), "--body", status=1).err
    assert "UUID" in pipeline("events", "show", "0198", status=2).err


def test_events_are_listed(pipeline: Pipeline, connection: Connection) -> None:
    accepted, rejected = store(connection), store(connection, state="rejected")
    two_hours_ago = NOW - timedelta(hours=2)
    old = store(connection, received_at=two_hours_ago)
    assert {row["id"] for row in pipeline.json("events", "list")} == {str(it) for it in (accepted, rejected, old)}
    assert [row["id"] for row in pipeline.json("events", "list", "--state", "rejected")] == [str(rejected)]
    recent = pipeline("events", "list", "--since", "90m", "--tenant", "acme", "--type", "verification.completed").text
    assert str(accepted) in recent
    assert str(old) not in recent
    assert "no duration" in pipeline("events", "list", "--since", "x5h", status=2).err
    assert "no time" in pipeline("events", "list", "--since", "yesterday", status=2).err


def test_rejected_events_are_parsed_again(pipeline: Pipeline, connection: Connection) -> None:
    catalogue.announce(connection, [LATER], code_version="1")
    fixed, broken = store(connection, state="rejected"), store(connection, state="rejected", body=b"[]")
    again = ("events", "reprocess", "--reason", "schema_mismatch")
    expected = {str(fixed): "accepted", str(broken): "rejected"}
    with unchanged(connection):
        tried = pipeline.json(*again, "--dry-run")
    assert {row["event_id"]: row["outcome"] for row in tried} == expected
    done = pipeline.json(*again)
    assert {row["event_id"]: row["outcome"] for row in done} == expected
    (delivery,) = pipeline.json("deliveries", "list")
    assert (delivery["event_id"], delivery["handler"], delivery["state"]) == (str(fixed), "acme.later", "pending")
    assert "not_rejected" in pipeline("events", "reprocess", str(fixed)).text
    assert "--reason" in pipeline("events", "reprocess", status=1).err


def test_dead_deliveries_are_listed_and_put_back(pipeline: Pipeline, connection: Connection) -> None:
    event_id = store(connection)
    kill(connection, event_id)
    kill(connection, event_id, "acme.other")
    listed = pipeline("deliveries", "list", "--state", "dead", "--handler", "acme.grant").text
    assert "ValueError: no such user" in listed
    assert "acme.other" not in listed
    asked = ("deliveries", "retry", "--handler", "acme.grant", "--since", "1h")
    with unchanged(connection):
        assert "1 delivery would be put back" in pipeline(*asked, "--dry-run").text
    (done,) = pipeline.json(*asked)
    assert done == {"tenant": "acme", "handler": "acme.grant", "count": 1, "dry_run": False}
    assert {row["handler"]: row["state"] for row in pipeline.json("deliveries", "list")} == {
        "acme.grant": "pending",
        "acme.other": "dead",
    }
    assert "--all" in pipeline("deliveries", "retry", status=1).err
    assert "1 delivery put back" in pipeline("deliveries", "retry", "--all").text


def test_open_deliveries_are_cancelled_and_put_back(pipeline: Pipeline, connection: Connection) -> None:
    event_id = store(connection)
    wait_for_retry(connection, event_id)
    with unchanged(connection):
        assert "1 delivery would be cancelled" in pipeline("deliveries", "cancel", str(event_id), "--dry-run").text
    pipeline("deliveries", "cancel", str(event_id))
    (row,) = pipeline.json("deliveries", "list", "--state", "cancelled")
    assert row["handler"] == "acme.mail"
    pipeline("deliveries", "retry", "--cancelled", "--tenant", "acme")
    assert [row["state"] for row in pipeline.json("deliveries", "list")] == ["pending"]


def test_a_later_handler_gets_its_deliveries(pipeline: Pipeline, connection: Connection) -> None:
    event_id = store(connection)
    store(connection, tenant="other")
    catalogue.announce(connection, [LATER], code_version="1")
    fill = ("deliveries", "backfill", "acme.later", "--since", "1d")
    with unchanged(connection):
        tried = pipeline.json(*fill, "--dry-run")
    assert tried == [{"handler": "acme.later", "events": 1, "count": 1, "dry_run": True}]
    assert "1 delivery made" in pipeline(*fill).text
    assert pipeline.json(*fill)[0]["count"] == 0
    (row,) = pipeline.json("deliveries", "list")
    assert (row["event_id"], row["handler"]) == (str(event_id), "acme.later")
    assert "acme.later" in pipeline("deliveries", "backfill", "acme.x", "--since", "1d", status=1).err
    assert "acme only" in pipeline(*fill, "--tenant", "other", status=1).err.replace("'", "")


def test_stats_show_inbox_deliveries_and_the_registry(
    pipeline: Pipeline, connection: Connection, redis_client: redis.Redis
) -> None:
    assert "not published" in pipeline("stats").text
    connection.execute(
        "INSERT INTO tallies_new (tenant, provider, outcome, seconds) VALUES ('acme', 'moveris', 'stored', '{0.1}')"
    )
    event_id = store(connection, id=new_event_id(datetime.now(UTC)))
    kill(connection, event_id)
    wait_for_retry(connection, event_id)
    redis_client.xadd(NAMES.inbox, {"v": "1"}, id=f"{int((NOW - timedelta(seconds=90)).timestamp() * 1000)}-0")
    pipeline("tenants", "add", "acme")
    pipeline("endpoints", "add", "acme", "--provider", "moveris", "--label", "v1", "--secret-stdin", stdin=b"x")
    whole, acme, grant, mail = pipeline.json("stats")
    assert (whole["inbox_length"], whole["stored_last_minute"], whole["rejected_last_hour"]) == (1, 1, 0)
    assert whole["inbox_oldest_seconds"] >= 90
    assert whole["registry_version"] == whole["registry_published"]
    assert (acme["tenant"], acme["retrying"], acme["dead"], acme["running"]) == ("acme", 1, 1, 0)
    assert (grant["handler"], grant["dead"], grant["top_error"]) == ("acme.grant", 1, "ValueError: no such user")
    assert (mail["handler"], mail["retrying"], mail["top_error"]) == ("acme.mail", 1, "OSError: away")
    shown = pipeline("stats").text
    assert "1 waiting, the oldest for" in shown
    assert "registry   published" in shown
    assert re.search(r"^since \d\d:\d\d 1 stored, 0 of them rejected$", shown, re.MULTILINE)


def test_stats_show_endpoints_that_are_refused_since_when_and_how_often(
    pipeline: Pipeline, redis_client: redis.Redis
) -> None:
    refused = {("moveris", "acme", "invalid_signature"): 3, ("moveris", "globex", "stale_signature"): 1}
    redis_client.eval(*add_arguments(NAMES.refusals, refused))
    shown = pipeline("stats").text
    line = r"^refused    acme/moveris gets invalid_signature since \d\d:\d\d UTC, 3 times, last at \d\d:\d\d$"
    assert re.search(line, shown, re.MULTILINE), shown
    (figures,) = pipeline.json("stats")
    assert {(it["tenant"], it["code"], it["count"]) for it in figures["refused"]} == {
        ("acme", "invalid_signature", 3),
        ("globex", "stale_signature", 1),
    }
    redis_client.eval(*add_arguments(NAMES.refusals, {("moveris", f"t{n}", "stale_signature"): 1 for n in range(10)}))
    assert "refused    and 2 more\n" in pipeline("stats").text


def test_stats_name_the_error_that_most_failures_of_a_handler_have_in_common(
    pipeline: Pipeline, connection: Connection
) -> None:
    for number in range(5):
        kill(connection, store(connection))
        connection.execute(
            "UPDATE deliveries_done SET last_error = %s WHERE last_error = 'ValueError: no such user'",
            [f"KeyError: {'user' if number < 2 else number}" if number < 4 else "OSError: the disk\nis full"],
        )
    (row,) = [row for row in pipeline.json("stats") if "handler" in row]
    assert (row["dead"], row["top_error"], row["top_error_count"]) == (5, "KeyError: user", 4)
    assert "KeyError: user (4 of 5)" in pipeline("stats").text


def test_stats_list_tenants_without_work(pipeline: Pipeline, connection: Connection) -> None:
    pipeline("tenants", "add", "acme")
    pipeline("tenants", "add", "globex")
    assert "no work    acme, globex\n" in pipeline("stats").text
    kill(connection, store(connection))
    assert "no work    globex\n" in pipeline("stats").text
    assert pipeline.json("stats")[0]["tenants_without_work"] == ["globex"]
    connection.execute("INSERT INTO tenants (name) SELECT 'more-' || n FROM generate_series(10, 40) n")
    assert "more-28 and 12 more\n" in pipeline("stats").text


def test_stats_show_what_can_be_reached_and_say_what_cannot(pipeline: Pipeline, connection: Connection) -> None:
    kill(connection, store(connection))
    nowhere: dict[str, Any] = {
        "DATABASE_URL": "postgresql://nobody:hidden@127.0.0.1:1/x",
        "REDIS_URL": "redis://:hidden@127.0.0.1:1/0",
    }
    for away, still in (("DATABASE_URL", "inbox      0 waiting"), ("REDIS_URL", "acme.grant")):
        only = {away: nowhere[away]}
        result = pipeline("stats", status=1, **only)
        assert still in result.text
        (line,) = result.err.splitlines()
        assert "cannot be reached: " in line
        assert f"is {away} right?" in line
        assert "hidden" not in line
        assert pipeline("stats", "--json", status=1, **only).rows[0]["missing"]
    result = pipeline("stats", status=1, **nowhere)
    assert result.text == ""
    assert len(result.err.splitlines()) == 2


def hear_interrupts() -> None:
    """Undo what a shell does to processes in the background, such as these tests: it has them ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_stats_that_are_watched_follow_until_they_are_interrupted(pipeline: Pipeline, connection: Connection) -> None:
    command = [str(Path(sys.executable).with_name("pipeline")), "stats", "--watch"]
    with subprocess.Popen(
        command,
        env=pipeline.environ,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,  # noqa: PLW1509 - no other thread runs here
    ) as process:
        assert process.stdout
        assert "acme" not in "".join(iter(process.stdout.readline, "\n"))
        kill(connection, store(connection))
        while "acme.grant" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_stats_say_when_days_are_missing_or_late(pipeline: Pipeline, connection: Connection) -> None:
    ensure_partitions(connection)
    assert "missing" not in pipeline("stats").text
    assert "late" not in pipeline("stats").text
    today = datetime.now(UTC).date()
    for day in range(3, 8):
        connection.execute(f"DROP TABLE {partition_name('attempts', today + timedelta(days=day))}")
    assert "tables of the coming days are missing, there are 2 of 7" in pipeline("stats").text
    ensure_partitions(connection, today - timedelta(days=40), days_ahead=0)
    assert "retention is 10 days late" in pipeline("stats").text
    assert "late" not in pipeline("stats", RETENTION_DAYS="60").text
    whole, *_ = pipeline.json("stats")
    assert whole["newest_day"] == str(today + timedelta(days=2))


def test_migrate_beside_a_long_reader_says_which_days_are_missing(pipeline: Pipeline, connection: Connection) -> None:
    with connection.transaction():
        connection.execute("LOCK TABLE events, events_default IN ACCESS SHARE MODE")
        shown = pipeline("migrate").text
        assert "nothing to do" not in shown
        assert "8 partitions of days are missing (events_" in shown
        assert "a long transaction" in shown
    assert pipeline.json("migrate") == []
    assert "nothing to do" in pipeline("migrate").text


def test_migrate_of_a_role_that_may_not_is_one_line_and_none_where_nothing_is_to_do(
    pipeline: Pipeline, connection: Connection, database_url: str
) -> None:
    role = f"reader_{uuid4().hex[:8]}"
    connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'test'")
    connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    ensure_partitions(connection)
    reader = database_url.replace("//postgres:", f"//{role}:")
    try:
        assert "up to date" in pipeline("migrate", DATABASE_URL=reader).text
        connection.execute(f"DROP TABLE {partition_name('events', datetime.now(UTC).date() + timedelta(days=7))}")
        no_days = pipeline("migrate", status=1, DATABASE_URL=reader).err
        assert "the role of DATABASE_URL may not do this" in no_days
        connection.execute("DELETE FROM migrations WHERE name = (SELECT max(name) FROM migrations)")
        refused = pipeline("migrate", status=1, DATABASE_URL=reader).err
        assert "the role of DATABASE_URL may not do this" in refused
        assert len((no_days + refused).splitlines()) == 2
    finally:
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")


def test_a_standby_and_a_url_that_cannot_be_read_are_one_line_without_the_password(
    pipeline: Pipeline, database_url: str
) -> None:
    read_only = f"{database_url}?options=-cdefault_transaction_read_only%3Don"
    refused = pipeline("tenants", "add", "globex", status=1, DATABASE_URL=read_only).err
    assert "DATABASE_URL names a standby or a read-only database" in refused
    for wrong in (f"{database_url}?nonsense=1", "postgresql://user:hid%zzden@127.0.0.1/x"):
        line = pipeline("stats", status=1, DATABASE_URL=wrong).err
        assert "DATABASE_URL cannot be read" in line
        assert len(line.splitlines()) == 1
        assert "den" not in line


def test_every_command_teaches_with_an_example_or_takes_nothing(pipeline: Pipeline) -> None:
    for command in (
        ("tenants", "add"),
        ("endpoints", "add"),
        ("secrets", "add"),
        ("secrets", "expire"),
        ("keygen",),
        ("send",),
        ("events", "list"),
        ("events", "show"),
        ("events", "reprocess"),
        ("deliveries", "list"),
        ("deliveries", "retry"),
        ("deliveries", "cancel"),
        ("deliveries", "backfill"),
        ("deliveries", "resend"),
        ("jobs", "list"),
        ("audit", "list"),
    ):
        assert f"pipeline {' '.join(command)}" in pipeline(*command, "--help").text.partition("Examples")[2], command
