"""The drain on a real inbox and a real database: stored, acknowledged, taken over, and never blocked."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from shared import wire
from tests.integration.draining import (
    HELLO,
    Settings,
    both_protocols,
    count,
    events,
    everyone,
    nobody,
    post,
    reader,
    run,
    take_and_die,
)
from tests.names import NAMES
from workers.events import parse as parse_body
from workers.ingest import drain as draining
from workers.ingest import parsing
from workers.ingest.drain import DrainCounts
from workers.ingest.inbox_reader import InboxReader
from workers.ingest.reprocess import reprocess
from workers.store.events import Counts, store_batch

if TYPE_CHECKING:
    from redis import Redis

    from workers.store.connect import Connection


class Killed(BaseException):
    """Stands for the end of the process: nothing is handed back."""


@both_protocols
def test_an_entry_is_stored_with_its_exact_bytes_and_leaves_the_inbox(client: Redis, connection: Connection) -> None:
    body = b' {"text" : "\\u00e9\xc3\xa9",\r\n"type":"greeting" } '
    event_id = post(client, body)
    assert run(client, connection) == DrainCounts(stored=1, duplicates=0, rejected=0, read=1)
    stored = events(connection)[event_id]
    assert (stored["body"], stored["type"], stored["state"]) == (body, "greeting", "accepted")
    assert stored["headers"] == {"content-type": "application/json", "user-agent": "caf\xe9"}
    assert (stored["secret_label"], stored["tenant"], stored["provider"]) == ("first", "acme", "in-house")
    rows = connection.execute("SELECT * FROM deliveries ORDER BY handler").fetchall()
    assert [(row["event_id"], row["handler"], row["state"], row["ready"]) for row in rows] == [
        (event_id, "acme.first", "pending", True),
        (event_id, "acme.second", "pending", True),
    ]
    assert client.xlen(NAMES.inbox) == 0
    assert client.xpending(NAMES.inbox, wire.INBOX_GROUP)["pending"] == 0


def test_a_backlog_is_drained_in_batches_and_each_commit_that_made_work_is_told(
    client: Redis, connection: Connection
) -> None:
    for _ in range(250):
        post(client, b'{"type":"n%s"}' % uuid.uuid4().hex.encode())
    seen = []
    counts = run(client, connection, on_stored=lambda _: seen.append(count(connection, "events")))
    assert counts.stored == 250
    assert seen == [100, 250]


def test_events_that_nobody_wants_are_stored_and_tell_nobody(client: Redis, connection: Connection) -> None:
    post(client)
    told: list[None] = []
    assert run(client, connection, catalogue=nobody, on_stored=lambda _: told.append(None)).stored == 1
    assert (told, count(connection, "deliveries")) == ([], 0)


def test_the_bell_is_free_after_a_drain(client: Redis, connection: Connection) -> None:
    client.set(NAMES.bell, "1")
    run(client, connection)
    assert not client.exists(NAMES.bell)


def test_a_drain_whose_time_is_over_rings_for_another(client: Redis, connection: Connection) -> None:
    for _ in range(150):
        post(client, b'{"type":"n%s"}' % uuid.uuid4().hex.encode())
    ticks = iter([0.0, 100.0])
    counts = run(client, connection, clock=lambda: next(ticks))
    assert not list(ticks)
    assert counts.read == 100
    assert client.llen(wire.INGEST_QUEUE) == 1
    assert client.xlen(NAMES.inbox) == 50
    assert client.xpending(NAMES.inbox, wire.INBOX_GROUP)["pending"] == 0


def test_large_bodies_are_stored_in_portions(
    client: Redis, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "READ_BYTES", 3000)
    told: list[int] = []
    for number in range(5):
        post(client, b'{"type":"t","n":%d,"filler":"%s"}' % (number, b"x" * 1400))
    assert run(client, connection, on_stored=lambda _: told.append(count(connection, "events"))).stored == 5
    assert told == [2, 4, 5]


@both_protocols
def test_what_a_dead_drain_left_is_taken_over_once_it_is_idle(client: Redis, connection: Connection) -> None:
    event_id = post(client)
    take_and_die(client)
    assert run(client, connection, Settings(reclaim_seconds=600)).read == 0
    assert run(client, connection).stored == 1
    assert event_id in events(connection)


def test_an_entry_that_was_stored_before_the_crash_is_acknowledged_and_is_no_arrival(
    client: Redis, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(client)
    post(client)  # the same bytes: a real duplicate

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(InboxReader, "acknowledge", die)
        with pytest.raises(Killed):
            run(client, connection)
    assert (count(connection, "events"), count(connection, "arrivals"), client.xlen(NAMES.inbox)) == (1, 1, 2)
    assert run(client, connection) == DrainCounts(stored=0, duplicates=0, rejected=0, read=2)
    assert (count(connection, "events"), count(connection, "arrivals"), client.xlen(NAMES.inbox)) == (1, 1, 0)
    assert count(connection, "deliveries") == 2


def test_two_drains_that_hold_the_same_entry_store_it_once(client: Redis, connection: Connection) -> None:
    post(client)
    slow = reader(client)
    held = slow.read(10)
    assert run(client, connection).stored == 1
    late = draining._Run(slow, connection, everyone, lambda _: None, settings=Settings(), clock=lambda: 0.0)
    late.store(late._parse(held))
    assert late.counts == Counts()
    assert (count(connection, "events"), count(connection, "arrivals"), count(connection, "deliveries")) == (1, 0, 2)


def test_an_entry_delivered_five_times_is_stored_unparsed_as_poison(client: Redis, connection: Connection) -> None:
    event_id = post(client)
    take_and_die(client, times=4)
    assert run(client, connection).rejected == 1
    stored = events(connection)[event_id]
    assert (stored["state"], stored["reject_reason"], stored["body"], stored["type"]) == (
        "rejected",
        "poison",
        HELLO,
        None,
    )
    assert client.xlen(NAMES.inbox) == 0


def test_only_the_entry_that_ends_its_process_becomes_poison(
    client: Redis, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = b'{"type":"deadly"}'
    ids = [post(client, deadly if n == 20 else b'{"type":"t","n":%d}' % n) for n in range(40)]
    real = parsing.parse_entry

    def parse_entry(stream_id: bytes, fields: dict[bytes, bytes], **given: Any) -> Any:
        if fields[b"body"] == deadly and given["deliveries"] < 5:
            raise Killed
        return real(stream_id, fields, **given)

    monkeypatch.setattr(draining, "parse_entry", parse_entry)
    deaths = 0
    while client.xlen(NAMES.inbox):
        try:
            run(client, connection)
        except Killed:
            deaths += 1
    stored = events(connection)
    assert deaths == 4
    assert {event_id for event_id in ids if stored[event_id]["reject_reason"]} == {ids[20]}
    assert stored[ids[20]]["reject_reason"] == "poison"


def test_a_parser_that_fails_on_one_entry_blocks_nothing(
    client: Redis, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = post(client, b'{"type":"bad"}'), post(client)

    def parse(provider: str, body: bytes, headers: Any = ()) -> Any:
        if b"bad" in body:
            raise RuntimeError("a fault of ours")
        return parse_body(provider, body, headers)

    monkeypatch.setattr("workers.events.parse", parse)
    assert run(client, connection).rejected == 1
    assert events(connection)[bad]["reject_reason"] == "parser_failed"
    assert events(connection)[good]["state"] == "accepted"
    monkeypatch.undo()
    (result,) = reprocess(connection, catalogue=everyone, reason="parser_failed")
    assert (result.event_id, result.outcome) == (bad, "accepted")


def test_a_flush_while_entries_are_held_loses_none_of_those(
    client: Redis, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id = post(client)
    real = store_batch

    def flush_and_store(*arguments: Any) -> Any:
        client.flushall()
        return real(*arguments)

    monkeypatch.setattr(draining, "store_batch", flush_and_store)
    assert run(client, connection).stored == 1
    assert event_id in events(connection)


def test_with_postgres_away_nothing_is_taken(client: Redis, connection: Connection) -> None:
    post(client)
    reader(client).list_idle(idle_seconds=1.0, count=1)  # makes the group
    connection.close()
    with pytest.raises(psycopg.OperationalError):
        run(client, connection)
    assert client.xpending(NAMES.inbox, wire.INBOX_GROUP)["pending"] == 0
    assert client.xlen(NAMES.inbox) == 1


def test_what_postgres_cannot_store_now_is_given_back_uncounted(client: Redis, connection: Connection) -> None:
    event_id = post(client)
    connection.execute("ALTER TABLE receipts RENAME TO hidden")
    for _ in range(7):
        with pytest.raises(psycopg.errors.UndefinedTable):
            run(client, connection, Settings())
    connection.execute("ALTER TABLE hidden RENAME TO receipts")
    assert run(client, connection, Settings()).stored == 1
    assert events(connection)[event_id]["state"] == "accepted"


def test_a_full_batch_that_postgres_cannot_store_now_is_given_back_uncounted(
    client: Redis, connection: Connection
) -> None:
    for number in range(150):
        post(client, b'{"type":"t","n":%d}' % number)
    connection.execute("ALTER TABLE receipts RENAME TO hidden")
    for _ in range(7):
        with pytest.raises(psycopg.errors.UndefinedTable):
            run(client, connection, Settings())
    connection.execute("ALTER TABLE hidden RENAME TO receipts")
    assert run(client, connection, Settings()).stored == 150
    assert not [row for row in events(connection).values() if row["reject_reason"]]


def test_a_drain_told_to_stop_gives_back_what_it_holds(
    client: Redis, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(client)

    def stop(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(draining, "store_batch", stop)
        with pytest.raises(SystemExit):
            run(client, connection, Settings())
    assert run(client, connection, Settings()).stored == 1
