"""How drains read the two streams: groups, consumers, bounds, shares, and the bytes of tenants."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import OutOfMemoryError

from shared import wire
from shared.envelope import size
from tests.integration.draining import (
    ANY_IDLE,
    Settings,
    both_protocols,
    events,
    post,
    reader,
    run,
    take_and_die,
    until,
)
from tests.names import NAMES
from workers.ingest.inbox_reader import ACTIVE_SECONDS, InboxReader
from workers.ingest.inbox_scripts import READ_STEP

if TYPE_CHECKING:
    from redis import Redis

    from workers.store.connect import Connection


@both_protocols
def test_a_group_that_is_gone_is_made_again_from_the_beginning(client: Redis, connection: Connection) -> None:
    assert run(client, connection).read == 0
    client.flushall()
    post(client)
    assert run(client, connection).stored == 1
    post(client, b'{"type":"later"}')
    client.xgroup_destroy(NAMES.inbox, wire.INBOX_GROUP)
    assert run(client, connection).stored == 1


def test_a_full_redis_without_the_group_is_drained(client: Redis, connection: Connection) -> None:
    post(client)
    before = client.config_get("maxmemory")["maxmemory"]
    client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)
    try:
        with pytest.raises(OutOfMemoryError):
            client.set("anything", "more")
        assert run(client, connection).stored == 1
        assert client.xlen(NAMES.inbox) == 0
    finally:
        client.config_set("maxmemory", before or 0)


@both_protocols
def test_pending_entries_that_were_deleted_do_not_hold_a_drain_up(client: Redis, connection: Connection) -> None:
    post(client)
    take_and_die(client)
    client.xtrim(NAMES.inbox, maxlen=0, approximate=False)
    assert run(client, connection).read == 0
    assert client.xpending(NAMES.inbox, wire.INBOX_GROUP)["pending"] == 0


@both_protocols
def test_a_consumer_is_forgotten_only_when_it_holds_nothing(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    post(client)
    assert len(reader(client, "holder").read(1)) == 1
    assert reader(client, "idle").read(1) == []
    monkeypatch.setattr("workers.ingest.inbox_reader.IDLE_CONSUMER_MILLISECONDS", -1)
    assert reader(client).forget_idle_consumers() == 1
    assert [consumer["name"] for consumer in client.xinfo_consumers(NAMES.inbox, wire.INBOX_GROUP)] == [b"holder"]


@both_protocols
def test_nothing_fresh_is_read_while_something_of_a_dead_drain_waits(client: Redis) -> None:
    post(client)
    take_and_die(client)
    fresh = post(client)
    client.set(NAMES.bell, "1")
    until(lambda: reader(client).list_idle(idle_seconds=0.05, count=10))
    idle, read = reader(client).open("test", idle_seconds=0.05, idle_count=10, count=10)
    assert (list(idle.values()), read) == ([1], [])
    assert not client.exists(NAMES.bell)
    idle, read = reader(client).open("test", idle_seconds=60, idle_count=10, count=10)
    assert (idle, [each.fields[b"id"] for each in read]) == ({}, [fresh.bytes])
    assert reader(client).open("test", idle_seconds=60, idle_count=10, count=10) == ({}, [])


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
    ids = {post(client, b'{"type":"t","n":%d}' % n, stream=NAMES.streams[n % 2]) for n in range(40)}
    assert run(client, connection, settings).stored == 40
    assert set(events(connection)) == ids
    assert [client.xlen(stream) for stream in NAMES.streams] == [0, 0]


def test_after_each_batch_of_the_inbox_comes_a_short_one_of_the_overflow_which_has_a_fifth_of_all(
    client: Redis,
) -> None:
    for number in range(160):
        post(client, b"%d" % number)
        post(client, b"%d" % number, stream=NAMES.overflow)
    one = reader(client)
    batches = [Counter(entry.place.stream for entry in one.read(40)) for _ in range(20)]
    assert batches[:8] == [{NAMES.inbox: 40}, {NAMES.overflow: 10}] * 4
    assert batches[8:] == [{NAMES.overflow: 10}] * 12


def test_an_event_in_the_inbox_comes_after_one_short_batch_of_the_overflow(client: Redis) -> None:
    for number in range(100):
        post(client, b"%d" % number, stream=NAMES.overflow)
    one = reader(client)
    assert len(one.read(40)) == 10
    for _ in range(3):
        quiet = post(client)
        batches = [one.read(40), one.read(40)]
        assert [entry.fields[b"id"] for entry in batches[0]] == [quiet.bytes]
        assert [entry.place.stream for entry in batches[1]] == [NAMES.overflow] * 10


def test_batches_of_the_overflow_are_short_while_events_come_into_the_inbox(client: Redis) -> None:
    now = [0.0]
    one = InboxReader(client, names=NAMES, consumer="one", clock=lambda: now[0])
    for number in range(500):
        post(client, b"%d" % number, stream=NAMES.overflow)
    assert len(one.read(500)) == 125
    post(client)
    assert [len(one.read(500)) for _ in range(3)] == [1, 32, 32]
    now[0] += ACTIVE_SECONDS + 0.1
    assert len(one.read(500)) == 125


def test_large_bodies_in_the_overflow_make_its_batches_shorter(client: Redis) -> None:
    for number in range(60):
        post(client, b"%d" % number + bytes(20_000))
        post(client, b"%d" % number + bytes(20_000), stream=NAMES.overflow)
    one = reader(client)
    inbox, overflow = (one.read(1000, most_bytes=1_000_000) for _ in range(2))
    assert 50 <= len(inbox) < 50 + READ_STEP
    assert 13 <= len(overflow) < 13 + READ_STEP
    assert {entry.place.stream for entry in overflow} == {NAMES.overflow}


def test_what_a_dead_drain_took_from_the_overflow_is_taken_over(client: Redis, connection: Connection) -> None:
    lost = {post(client, b'{"type":"t","n":%d}' % n, stream=NAMES.overflow) for n in range(3)}
    take_and_die(client)
    assert run(client, connection).stored == 3
    assert set(events(connection)) == lost
    assert client.xpending(NAMES.overflow, wire.INBOX_GROUP)["pending"] == 0


def test_an_overflow_whose_group_is_missing_holds_nothing_up(client: Redis, connection: Connection) -> None:
    post(client, b'{"type":"t","n":1}')
    run(client, connection)
    post(client, b'{"type":"t","n":2}', stream=NAMES.overflow)
    client.delete(NAMES.inbox)
    assert run(client, connection, Settings()).stored == 1
    post(client, b'{"type":"t","n":3}')
    assert run(client, connection, Settings()).stored == 1
    assert client.xpending(NAMES.overflow, wire.INBOX_GROUP)["pending"] == 0


def test_the_bytes_of_a_tenant_are_given_back_once_for_each_entry_that_leaves(
    client: Redis, connection: Connection
) -> None:
    for number in range(3):
        post(client, b'{"type":"t","n":%d}' % number, stream=NAMES.streams[number % 2])
        post(client, b'{"type":"t","n":%d}' % number, tenant="quiet")
    entries = [fields for stream in NAMES.streams for _, fields in cast("Any", client.xrange(stream))]
    client.hset(NAMES.inbox_bytes, "acme", sum(size(each) for each in entries if each[b"tenant"] == b"acme") + 5)
    one, other = reader(client), reader(client)
    taken = [*one.read(10), *one.read(10)]
    other.acknowledge(taken)
    one.acknowledge(taken)
    assert client.hgetall(NAMES.inbox_bytes) == {b"acme": b"5"}
    client.hset(NAMES.inbox_bytes, "acme", 5)
    post(client)
    assert run(client, connection).stored == 1
    assert not client.exists(NAMES.inbox_bytes)
