"""What Redis knows of the queue of handler tasks, with entries as kombu writes them."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.names import NAMES
from workers.dispatch.admission import Message
from workers.dispatch.express import MOST_WAITING
from workers.dispatch.queue import CLAIM_SECONDS, KNOWN_SECONDS, CeleryQueue, HandlerDurations, pack
from workers.store.deliveries import Candidate

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def queue(redis: Redis) -> CeleryQueue:
    return CeleryQueue(redis, NAMES)


def message(*event_ids: uuid.UUID, handler: str = "acme.run", express: bool = False) -> Message:
    candidates = (Candidate(event_id=each, handler=handler, tenant="acme", place=0, alone=False) for each in event_ids)
    return Message(handler=handler, deliveries=tuple(candidates), express=express)


def hold(redis: Redis, tag: str, sent: Message, *, routing_key: str = "handlers", seconds_ago: float = 0.0) -> None:
    """Let a worker hold a message that it took so long ago."""
    redis.hset("unacked", tag, json.dumps([json.loads(pack(sent)), "", routing_key]))
    redis.zadd("unacked_index", {tag: time.time() - seconds_ago})


def test_what_waiting_messages_name_is_told(queue: CeleryQueue) -> None:
    assert queue.list_named() == set()
    first, second, third = (uuid.uuid4() for _ in range(3))
    queue.send(message(first, second))
    queue.send(message(third, handler="acme.other"))
    assert queue.list_named() == {(first, "acme.run"), (second, "acme.run"), (third, "acme.other")}


@pytest.mark.parametrize("routing_key", ["handlers", "express"])
def test_what_a_worker_has_just_taken_is_told(queue: CeleryQueue, redis: Redis, routing_key: str) -> None:
    taken, other = uuid.uuid4(), uuid.uuid4()
    hold(redis, "tick", message(other), routing_key="housekeeping")
    hold(redis, "taken", message(taken), routing_key=routing_key)
    assert queue.list_named() == {(taken, "acme.run")}


def test_an_express_message_waits_in_its_own_queue(queue: CeleryQueue, redis: Redis) -> None:
    quick, other = uuid.uuid4(), uuid.uuid4()
    queue.send(message(quick, express=True))
    queue.send(message(other))
    assert queue.lengths() == (1, 1)
    assert queue.list_express() == {(quick, "acme.run")}
    assert queue.list_named() == {(quick, "acme.run"), (other, "acme.run")}
    (sent,) = redis.lrange("express", 0, -1)
    assert json.loads(sent)["properties"]["delivery_info"]["routing_key"] == "express"


def test_a_closed_express_queue_is_empty_and_seems_full(queue: CeleryQueue, redis: Redis) -> None:
    first, second = uuid.uuid4(), uuid.uuid4()
    for each in (first, second):
        queue.send(message(each, express=True))
    queue.close_express()
    assert queue.lengths() == (2, MOST_WAITING)
    assert queue.list_express() == set()
    assert queue.list_named() == {(first, "acme.run"), (second, "acme.run")}
    assert 0 < redis.pttl("express:closed") <= 10_000


def test_durations_are_told_by_handler_and_by_tenant(queue: CeleryQueue, redis: Redis) -> None:
    durations = HandlerDurations(redis, NAMES)
    durations.add("acme.run", [("slow", 2.0), ("quick", 0.001)])
    lanes = [("*", "acme.run"), ("slow", "acme.run"), ("quick", "acme.run"), ("new", "acme.run")]
    told = queue.durations(lanes)
    assert told["slow", "acme.run"] == pytest.approx(2.0)
    assert told["quick", "acme.run"] == pytest.approx(0.001)
    assert told["*", "acme.run"] == pytest.approx(1.8, rel=0.01)
    assert ("new", "acme.run") not in told


def test_durations_are_read_again_after_a_moment(redis: Redis) -> None:
    now = [0.0]
    queue = CeleryQueue(redis, NAMES, clock=lambda: now[0])
    durations = HandlerDurations(redis, NAMES)
    assert queue.durations([("*", "acme.run")]) == {}
    durations.add("acme.run", [("acme", 1.0)])
    assert queue.durations([("*", "acme.run")]) == {}
    assert queue.durations([("*", "acme.run"), ("acme", "acme.run")]) == {("acme", "acme.run"): 1.0}
    now[0] += KNOWN_SECONDS
    assert queue.durations([("*", "acme.run")]) == {("*", "acme.run"): 1.0}


def test_messages_that_are_sent_together_keep_their_order(queue: CeleryQueue, redis: Redis) -> None:
    first, second, quick = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    queue.send(message(quick, express=True), message(first), message(second))
    assert queue.lengths() == (2, 1)
    redis.rpop("handlers")
    assert queue.list_named() == {(quick, "acme.run"), (second, "acme.run")}


def test_a_redis_that_is_full_takes_none_of_the_messages(queue: CeleryQueue, redis: Redis) -> None:
    before = redis.config_get("maxmemory")["maxmemory"]
    redis.config_set("maxmemory", redis.info("memory")["used_memory"] // 2)
    try:
        with pytest.raises(RedisError):
            queue.send(message(uuid.uuid4()), message(uuid.uuid4(), express=True))
        assert queue.lengths() == (0, 0)
    finally:
        redis.config_set("maxmemory", before or 0)


def test_what_a_lost_worker_still_seems_to_hold_is_not_told(queue: CeleryQueue, redis: Redis) -> None:
    hold(redis, "lost", message(uuid.uuid4()), seconds_ago=CLAIM_SECONDS + 1)
    assert queue.list_named() == set()


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"body": 1}', '{"body": "e30="}', '{"body": "W1tbMV1dXQ=="}'])
def test_what_is_no_message_names_nothing(queue: CeleryQueue, redis: Redis, text: str) -> None:
    redis.lpush("handlers", text)
    redis.hset("unacked", "odd", text)
    redis.zadd("unacked_index", {"odd": time.time(), "gone": time.time()})
    assert queue.list_named() == set()


def test_an_express_queue_is_stuck_when_its_next_message_stays_the_same(redis: Redis) -> None:
    now = [0.0]
    queue = CeleryQueue(redis, NAMES, clock=lambda: now[0])
    assert not queue.is_express_stuck()
    for _ in range(3):
        queue.send(message(uuid.uuid4(), express=True))
    for taken in (True, True, False):
        assert not queue.is_express_stuck()
        now[0] += 2.0
        if taken:
            redis.rpop("express")
    assert queue.is_express_stuck()
    redis.delete("express")
    assert not queue.is_express_stuck()
