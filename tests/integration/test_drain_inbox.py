"""The drain on a real inbox and a real database: stored, acknowledged, taken over, and never blocked."""

from __future__ import annotations

import json
import uuid
from base64 import b64decode
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import OutOfMemoryError

from shared import wire
from shared.envelope import Envelope, encode, new_event_id, size
from workers.events import parse as parse_body
from workers.ingest import drain as draining
from workers.ingest import parsing
from workers.ingest.drain import DrainCounts, drain
from workers.ingest.inbox_reader import READ_STEP, STREAMS, InboxReader
from workers.ingest.reprocess import reprocess
from workers.store.events import Counts, store_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from workers.store.connect import Connection

SECOND, ZERO = timedelta(seconds=1), timedelta()
HELLO = b'{"type":"greeting","text":"hello"}'


@dataclass(frozen=True, kw_only=True)
class Settings:
    drain_batch: int = 1000
    drain_seconds: float = 60.0
    reclaim_seconds: float = 10.0
    dedup_days: int = 30


ANY_IDLE = Settings(reclaim_seconds=0.0)


@pytest.fixture
def client(redis_url: str, request: pytest.FixtureRequest) -> Iterator[Redis]:
    with Redis.from_url(redis_url, protocol=getattr(request, "param", 2)) as it:
        yield it


both_protocols = pytest.mark.parametrize("client", [2, 3], ids=["RESP2", "RESP3"], indirect=True)


def reader(client: Redis, name: str = "") -> InboxReader:
    return InboxReader(client, consumer=name or uuid.uuid4().hex, ingest_slots=2)


def post(client: Redis, body: bytes = HELLO, *, stream: str = wire.INBOX, **changes: Any) -> uuid.UUID:
    """Append one entry as the ingress does."""
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "id": new_event_id(now),
        "provider": "in-house",
        "tenant": "acme",
        "secret_label": "first",
        "received_at": now,
        "headers": ((b"content-type", b"application/json"), (b"user-agent", b"caf\xe9")),
        "body": body,
    }
    envelope = Envelope(**values | changes)
    client.xadd(stream, encode(envelope))  # type: ignore[arg-type]
    return envelope.id


def everyone(provider: str, kind: str | None, tenant: str) -> Sequence[str]:
    del provider, kind
    return (f"{tenant}.first", f"{tenant}.second")


def nobody(provider: str, kind: str | None, tenant: str) -> Sequence[str]:
    del provider, kind, tenant
    return ()


def run(client: Redis, connection: Connection, settings: Settings = ANY_IDLE, **changes: Any) -> DrainCounts:
    values: dict[str, Any] = {"wanting": everyone, "settings": settings}
    return drain(reader(client), connection, **values | changes)


def events(connection: Connection) -> dict[uuid.UUID, dict[str, Any]]:
    return {row["id"]: row for row in connection.execute("SELECT * FROM events")}


def count(connection: Connection, table: str) -> int:
    (row,) = connection.execute(f"SELECT count(*) AS n FROM {table}").fetchall()
    return int(row["n"])


class Killed(BaseException):
    """Stands for the end of the process: nothing is handed back."""


def take_and_die(client: Redis, times: int = 1) -> None:
    """Take all that may be taken, and leave it, so many times."""
    for _ in range(times):
        dying = reader(client)
        dying.take_over(dying.list_idle(idle_seconds=0.0, count=1000), idle_seconds=0.0)
        dying.read(1000)


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
    assert client.xlen(wire.INBOX) == 0
    assert client.xpending(wire.INBOX, wire.INBOX_GROUP)["pending"] == 0


def test_a_backlog_is_drained_in_batches_and_each_commit_that_made_work_is_told(
    client: Redis, connection: Connection
) -> None:
    for _ in range(250):
        post(client, b'{"type":"n%s"}' % uuid.uuid4().hex.encode())
    seen = []
    counts = run(client, connection, on_stored=lambda: seen.append(count(connection, "events")))
    assert counts.stored == 250
    assert seen == [100, 250]


def test_events_that_nobody_wants_are_stored_and_tell_nobody(client: Redis, connection: Connection) -> None:
    post(client)
    told: list[None] = []
    assert run(client, connection, wanting=nobody, on_stored=lambda: told.append(None)).stored == 1
    assert (told, count(connection, "deliveries")) == ([], 0)


def test_the_bell_is_free_after_a_drain(client: Redis, connection: Connection) -> None:
    client.set(wire.BELL, "1")
    run(client, connection)
    assert not client.exists(wire.BELL)


def test_a_drain_whose_time_is_over_rings_for_another(client: Redis, connection: Connection) -> None:
    for _ in range(150):
        post(client, b'{"type":"n%s"}' % uuid.uuid4().hex.encode())
    ticks = iter([0.0, 100.0])
    counts = run(client, connection, clock=lambda: next(ticks))
    assert not list(ticks)
    assert counts.read == 100
    assert client.llen(wire.INGEST_QUEUE) == 1
    assert client.xlen(wire.INBOX) == 50
    assert client.xpending(wire.INBOX, wire.INBOX_GROUP)["pending"] == 0


def test_large_bodies_are_stored_in_portions(
    client: Redis, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "READ_BYTES", 3000)
    told: list[int] = []
    for number in range(5):
        post(client, b'{"type":"t","n":%d,"filler":"%s"}' % (number, b"x" * 1400))
    assert run(client, connection, on_stored=lambda: told.append(count(connection, "events"))).stored == 5
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
    assert (count(connection, "events"), count(connection, "arrivals"), client.xlen(wire.INBOX)) == (1, 1, 2)
    assert run(client, connection) == DrainCounts(stored=0, duplicates=0, rejected=0, read=2)
    assert (count(connection, "events"), count(connection, "arrivals"), client.xlen(wire.INBOX)) == (1, 1, 0)
    assert count(connection, "deliveries") == 2


def test_two_drains_that_hold_the_same_entry_store_it_once(client: Redis, connection: Connection) -> None:
    post(client)
    slow = reader(client)
    held = slow.read(10)
    assert run(client, connection).stored == 1
    late = draining._Run(slow, connection, everyone, lambda: None, settings=Settings(), clock=lambda: 0.0)
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
    assert client.xlen(wire.INBOX) == 0


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
    while client.xlen(wire.INBOX):
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
    (result,) = reprocess(connection, wanting=everyone, reason="parser_failed")
    assert (result.event_id, result.outcome) == (bad, "accepted")


@pytest.mark.parametrize(
    "fields",
    [
        {b"v": b"9", b"id": b"x", b"body": HELLO},
        {b"v": b"1", b"tenant": b"acme\x00\xff"},
        {b"nonsense": b"\xff\x00"},
        {b"v": b"1", b"id": b"short", b"provider": b"p", b"tenant": b"t", b"label": b"l", b"received_at": b"0",
         b"headers": b"", b"body": b""},
    ],
)  # fmt: skip
def test_an_entry_that_is_no_envelope_is_kept_with_all_its_fields(
    client: Redis, connection: Connection, fields: dict[bytes, bytes]
) -> None:
    client.xadd(wire.INBOX, fields)  # type: ignore[arg-type]
    good = post(client)
    take_and_die(client)
    assert run(client, connection).rejected == 1
    stored = events(connection)
    assert stored.pop(good)["state"] == "accepted"
    (broken,) = stored.values()
    assert (broken["reject_reason"], broken["state"]) == ("bad_envelope", "rejected")
    assert len(json.loads(broken["body"])) == len(fields)
    assert broken["notes"]
    assert client.xlen(wire.INBOX) == 0


def test_an_envelope_that_a_later_version_can_read_is_accepted_then(
    client: Redis, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        later.setattr("shared.envelope.VERSION", b"2")
        post(client)
    assert run(client, connection).rejected == 1
    (still,) = reprocess(connection, wanting=everyone, reason="bad_envelope")
    assert (still.outcome, still.reason) == ("rejected", "bad_envelope")
    monkeypatch.setattr("shared.envelope.VERSION", b"2")
    (result,) = reprocess(connection, wanting=everyone, reason="bad_envelope")
    assert result.outcome == "accepted"
    (stored,) = events(connection).values()
    assert (stored["body"], stored["type"], stored["tenant"]) == (HELLO, "greeting", "acme")


@both_protocols
def test_a_group_that_is_gone_is_made_again_from_the_beginning(client: Redis, connection: Connection) -> None:
    assert run(client, connection).read == 0
    client.flushall()
    post(client)
    assert run(client, connection).stored == 1
    post(client, b'{"type":"later"}')
    client.xgroup_destroy(wire.INBOX, wire.INBOX_GROUP)
    assert run(client, connection).stored == 1


def test_a_full_redis_without_the_group_is_drained(client: Redis, connection: Connection) -> None:
    post(client)
    before = client.config_get("maxmemory")["maxmemory"]
    client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)
    try:
        with pytest.raises(OutOfMemoryError):
            client.set("anything", "more")
        assert run(client, connection).stored == 1
        assert client.xlen(wire.INBOX) == 0
    finally:
        client.config_set("maxmemory", before or 0)


def test_an_entry_that_repeats_a_field_is_no_envelope_and_is_kept_with_both_values(
    client: Redis, connection: Connection
) -> None:
    post(client)
    ((_, fields),) = cast("Any", client.xrange(wire.INBOX))
    client.delete(wire.INBOX)
    client.execute_command("XADD", wire.INBOX, "*", *(it for pair in fields.items() for it in pair), "body", b"another")
    good = post(client, b'{"type":"later"}')
    assert run(client, connection).rejected == 1
    stored = events(connection)
    assert stored.pop(good)["state"] == "accepted"
    (broken,) = stored.values()
    assert broken["reject_reason"] == "bad_envelope"
    assert {HELLO, b"another"} <= {b64decode(value) for value in json.loads(broken["body"]).values()}
    assert client.xlen(wire.INBOX) == 0


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


@both_protocols
def test_pending_entries_that_were_deleted_do_not_hold_a_drain_up(client: Redis, connection: Connection) -> None:
    post(client)
    take_and_die(client)
    client.xtrim(wire.INBOX, maxlen=0, approximate=False)
    assert run(client, connection).read == 0
    assert client.xpending(wire.INBOX, wire.INBOX_GROUP)["pending"] == 0


def test_with_postgres_away_nothing_is_taken(client: Redis, connection: Connection) -> None:
    post(client)
    reader(client).list_idle(idle_seconds=1.0, count=1)  # makes the group
    connection.close()
    with pytest.raises(psycopg.OperationalError):
        run(client, connection)
    assert client.xpending(wire.INBOX, wire.INBOX_GROUP)["pending"] == 0
    assert client.xlen(wire.INBOX) == 1


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


@both_protocols
def test_a_consumer_is_forgotten_only_when_it_holds_nothing(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    post(client)
    assert len(reader(client, "holder").read(1)) == 1
    assert reader(client, "idle").read(1) == []
    monkeypatch.setattr("workers.ingest.inbox_reader.IDLE_CONSUMER_MILLISECONDS", -1)
    assert reader(client).forget_idle_consumers() == 1
    assert [consumer["name"] for consumer in client.xinfo_consumers(wire.INBOX, wire.INBOX_GROUP)] == [b"holder"]


@both_protocols
def test_nothing_fresh_is_read_while_something_of_a_dead_drain_waits(client: Redis) -> None:
    post(client)
    take_and_die(client)
    fresh = post(client)
    client.set(wire.BELL, "1")
    until(lambda: reader(client).list_idle(idle_seconds=0.05, count=10))
    idle, read = reader(client).open(idle_seconds=0.05, idle_count=10, count=10)
    assert (list(idle.values()), read) == ([1], [])
    assert not client.exists(wire.BELL)
    idle, read = reader(client).open(idle_seconds=60, idle_count=10, count=10)
    assert (idle, [each.fields[b"id"] for each in read]) == ({}, [fresh.bytes])
    assert reader(client).open(idle_seconds=60, idle_count=10, count=10) == ({}, [])


@both_protocols
def test_of_two_that_take_over_the_same_entry_one_gets_it(client: Redis) -> None:
    post(client)
    dying = reader(client)
    dying.give_back(dying.read(1), idle_seconds=30)
    first, second = reader(client), reader(client)
    idle = first.list_idle(idle_seconds=30, count=10)
    assert len(idle) == 1
    assert second.list_idle(idle_seconds=30, count=10) == idle
    taken = [len(each.take_over(idle, idle_seconds=30)) for each in (first, second)]
    assert taken == [1, 0]


def until(condition: Callable[[], object]) -> None:
    while not condition():
        pass


def completed(created_at: datetime) -> bytes:
    """A result of Moveris whose signed date is this one."""
    moment = created_at.isoformat()
    result = {"verdict": "live", "confidence": 0.9, "real_score": 0.9, "score": 90, "model": "m", "created_at": moment}
    tree = {"event": "verification.completed", "session_id": "s1", "timestamp": moment, "data": result}
    return json.dumps(tree).encode()


def test_an_event_older_than_its_receipt_could_be_is_rejected_and_may_be_taken_by_hand(
    client: Redis, connection: Connection
) -> None:
    now = datetime.now(UTC)
    ages = {name: timedelta(days=30) + more for name, more in (("old", SECOND), ("young", -SECOND), ("exact", ZERO))}
    ids = {name: post(client, completed(now - age), provider="moveris", received_at=now) for name, age in ages.items()}
    counts = run(client, connection)
    assert (counts.stored, counts.rejected) == (2, 1)
    row = events(connection)[ids["old"]]
    assert (row["state"], row["reject_reason"]) == ("rejected", "too_old")
    assert row["notes"] == ["dated 30 days before it was received; DEDUP_DAYS is 30"]
    assert {events(connection)[ids[name]]["state"] for name in ("young", "exact")} == {"accepted"}
    post(client, completed(now - ages["old"]), provider="moveris", received_at=now)
    assert run(client, connection).duplicates == 1
    (result,) = reprocess(connection, wanting=everyone, reason="too_old")
    assert (result.event_id, result.outcome) == (ids["old"], "accepted")


def test_the_age_of_an_event_is_that_at_its_arrival_and_not_when_it_is_stored(
    client: Redis, connection: Connection
) -> None:
    received_at = datetime.now(UTC) - timedelta(days=40)  # it waited in the inbox
    post(client, completed(received_at - timedelta(days=29)), provider="moveris", received_at=received_at)
    assert run(client, connection).stored == 1


def test_what_carries_no_date_of_its_own_is_never_too_old(client: Redis, connection: Connection) -> None:
    post(client, b'{"type":"t","timestamp":"2001-01-01T00:00:00Z"}')
    post(client, b'{"id":1,"created_at":"2001-01-01T00:00:00Z"}', provider="shopify")
    assert run(client, connection).stored == 2
    post(client, b'{"id":"evt_1","type":"a","created":978307200}', provider="stripe")
    post(client, b'{"type":"event_callback","event_id":"E1","event_time":978307200}', provider="slack")
    post(client, b'{"event":"new.kind","timestamp":"2001-01-01T00:00:00Z"}', provider="moveris")
    assert run(client, connection).rejected == 3


GOOD: dict[bytes, bytes] = encode(
    Envelope(
        id=new_event_id(datetime(2026, 3, 27, tzinfo=UTC)),
        provider="in-house",
        tenant="acme",
        secret_label="first",
        received_at=datetime(2026, 3, 27, tzinfo=UTC),
        headers=((b"content-type", b"application/json"),),
        body=HELLO,
    )
)
AWKWARD = [b"", b"\0", b"a\0b", b"\xff", b"\xed\xa0\x80", b"x" * 9000, b"9" * 30, b"-1", b"\r\n\r\n: \0", b"{}"]


@pytest.mark.parametrize("field", sorted(GOOD), ids=lambda field: field.decode())
@pytest.mark.parametrize("value", AWKWARD, ids=range(len(AWKWARD)))
def test_whatever_stands_in_a_field_the_entry_is_stored_and_its_neighbours_go_through(
    client: Redis, connection: Connection, field: bytes, value: bytes
) -> None:
    client.xadd(wire.INBOX, GOOD | {field: value})  # type: ignore[arg-type]
    neighbours = [post(client, b'{"type":"t","n":%d}' % number) for number in range(3)]
    counts = run(client, connection)
    assert counts.stored + counts.rejected == 4
    assert set(neighbours) <= {event_id for event_id, row in events(connection).items() if row["state"] == "accepted"}
    assert client.xlen(wire.INBOX) == 0
    assert client.xpending(wire.INBOX, wire.INBOX_GROUP)["pending"] == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from([*GOOD, b"other"]), st.binary(max_size=60)), min_size=1, max_size=8))
def test_arbitrary_bytes_in_any_fields_end_stored(
    client: Redis, connection: Connection, changes: list[dict[bytes, bytes]]
) -> None:
    before = count(connection, "events") + count(connection, "arrivals")
    for change in changes:
        client.xadd(wire.INBOX, GOOD | {b"id": uuid.uuid4().bytes} | change)  # type: ignore[arg-type]
    counts = run(client, connection)
    assert counts.read == len(changes)
    assert client.xlen(wire.INBOX) == 0
    kept = count(connection, "events") + count(connection, "arrivals") - before
    assert kept == counts.stored + counts.rejected + counts.duplicates
    with_own_id = sum(len(change.get(b"id", b"")) == 16 for change in changes)
    assert kept >= len(changes) - with_own_id  # an id that is there already is the same entry again


def test_what_the_database_refuses_in_any_other_form_is_stored_with_all_its_fields_in_base64(
    client: Redis, connection: Connection
) -> None:
    connection.execute("ALTER TABLE events ADD CHECK (tenant <> 'cursed')")
    cursed = post(client, tenant="cursed")
    post(client)
    counts = run(client, connection)
    assert (counts.stored, counts.rejected) == (1, 1)
    row = events(connection)[cursed]
    assert (row["state"], row["reject_reason"], row["tenant"]) == ("rejected", "refused_by_database", "unknown")
    fields = {name: b64decode(value) for name, value in json.loads(row["body"]).items()}
    assert (fields["tenant"], fields["body"], fields["provider"]) == (b"cursed", HELLO, b"in-house")


def test_one_read_brings_no_more_bytes_than_its_bound_whatever_its_count(client: Redis) -> None:
    for number in range(200):
        post(client, b"x" * (100 if number < 40 else 100_000))
    one = reader(client)
    sizes = []
    while entries := one.read(1000, most_bytes=500_000):
        sizes.append(sum(len(entry.fields[b"body"]) for entry in entries))
    assert sum(sizes) == 40 * 100 + 160 * 100_000
    assert max(sizes) <= 500_000 + READ_STEP * 100_000
    idle = one.list_idle(idle_seconds=0.0, count=1000)
    taken = reader(client).take_over(idle, idle_seconds=0.0, most_bytes=500_000)
    assert sum(len(entry.fields[b"body"]) for entry in taken) <= 600_100
    assert {entry.deliveries for entry in taken} == {2}


@both_protocols
@pytest.mark.parametrize("settings", [ANY_IDLE, Settings()], ids=["idle", "fresh"])
def test_what_waits_in_the_overflow_is_stored_like_the_rest(
    client: Redis, connection: Connection, settings: Settings
) -> None:
    ids = {post(client, b'{"type":"t","n":%d}' % n, stream=STREAMS[n % 2]) for n in range(40)}
    assert run(client, connection, settings).stored == 40
    assert set(events(connection)) == ids
    assert [client.xlen(stream) for stream in STREAMS] == [0, 0]


def test_a_fifth_of_each_batch_is_the_overflows_and_what_the_inbox_leaves(client: Redis) -> None:
    for number in range(300):
        post(client, b"%d" % number)
        post(client, b"%d" % number, stream=wire.OVERFLOW)
    one = reader(client)
    batches = [Counter(entry.place.stream for entry in one.read(100)) for _ in range(6)]
    assert batches[:3] == [{wire.INBOX: 80, wire.OVERFLOW: 20}] * 3
    assert batches[3:5] == [{wire.INBOX: 60, wire.OVERFLOW: 40}, {wire.OVERFLOW: 100}]


def test_large_bodies_in_the_overflow_leave_the_inbox_its_share_of_a_batch(client: Redis) -> None:
    for number in range(60):
        post(client, b"%d" % number + bytes(20_000))
        post(client, b"%d" % number + bytes(20_000), stream=wire.OVERFLOW)
    read = Counter(entry.place.stream for entry in reader(client).read(1000, most_bytes=1_000_000))
    assert read[wire.INBOX] > read[wire.OVERFLOW] > 0


def test_what_a_dead_drain_took_from_the_overflow_is_taken_over(client: Redis, connection: Connection) -> None:
    lost = {post(client, b'{"type":"t","n":%d}' % n, stream=wire.OVERFLOW) for n in range(3)}
    take_and_die(client)
    assert run(client, connection).stored == 3
    assert set(events(connection)) == lost
    assert client.xpending(wire.OVERFLOW, wire.INBOX_GROUP)["pending"] == 0


def test_an_overflow_whose_group_is_missing_holds_nothing_up(client: Redis, connection: Connection) -> None:
    post(client, b'{"type":"t","n":1}')
    run(client, connection)
    post(client, b'{"type":"t","n":2}', stream=wire.OVERFLOW)
    client.delete(wire.INBOX)
    assert run(client, connection, Settings()).stored == 1
    post(client, b'{"type":"t","n":3}')
    assert run(client, connection, Settings()).stored == 1
    assert client.xpending(wire.OVERFLOW, wire.INBOX_GROUP)["pending"] == 0


def test_the_bytes_of_a_tenant_are_given_back_once_for_each_entry_that_leaves(
    client: Redis, connection: Connection
) -> None:
    for number in range(3):
        post(client, b'{"type":"t","n":%d}' % number, stream=STREAMS[number % 2])
        post(client, b'{"type":"t","n":%d}' % number, tenant="quiet")
    entries = [fields for stream in STREAMS for _, fields in cast("Any", client.xrange(stream))]
    client.hset(wire.INBOX_BYTES, "acme", sum(size(each) for each in entries if each[b"tenant"] == b"acme") + 5)
    one, other = reader(client), reader(client)
    taken = one.read(10)
    other.acknowledge(taken)
    one.acknowledge(taken)
    assert client.hgetall(wire.INBOX_BYTES) == {b"acme": b"5"}
    client.hset(wire.INBOX_BYTES, "acme", 5)
    post(client)
    assert run(client, connection).stored == 1
    assert not client.exists(wire.INBOX_BYTES)
