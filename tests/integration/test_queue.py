"""What Redis knows of the queue of handler tasks, with entries as kombu writes them."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from workers.dispatch.admission import Message
from workers.dispatch.queue import CLAIM_SECONDS, CeleryQueue, pack
from workers.store.deliveries import Candidate

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def queue(redis: Redis) -> CeleryQueue:
    return CeleryQueue(redis)


def message(*event_ids: uuid.UUID, handler: str = "acme.run") -> Message:
    candidates = (Candidate(event_id=each, handler=handler, tenant="acme", place=0, alone=False) for each in event_ids)
    return Message(handler=handler, deliveries=tuple(candidates))


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


def test_what_a_worker_has_just_taken_is_told(queue: CeleryQueue, redis: Redis) -> None:
    taken, other = uuid.uuid4(), uuid.uuid4()
    hold(redis, "tick", message(other), routing_key="housekeeping")
    hold(redis, "taken", message(taken))
    assert queue.list_named() == {(taken, "acme.run")}


def test_what_a_lost_worker_still_seems_to_hold_is_not_told(queue: CeleryQueue, redis: Redis) -> None:
    hold(redis, "lost", message(uuid.uuid4()), seconds_ago=CLAIM_SECONDS + 1)
    assert queue.list_named() == set()


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"body": 1}', '{"body": "e30="}', '{"body": "W1tbMV1dXQ=="}'])
def test_what_is_no_message_names_nothing(queue: CeleryQueue, redis: Redis, text: str) -> None:
    redis.lpush("handlers", text)
    redis.hset("unacked", "odd", text)
    redis.zadd("unacked_index", {"odd": time.time(), "gone": time.time()})
    assert queue.list_named() == set()
