"""What Redis knows of the queue of handler tasks, with entries as kombu writes them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from workers.queue import CLAIM_SECONDS, CeleryQueue

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def queue(redis: Redis) -> CeleryQueue:
    return CeleryQueue(redis)


def hold(redis: Redis, tag: str, *, routing_key: str, seconds_ago: float = 0.0) -> None:
    """Let a worker hold a message that it took so long ago."""
    redis.hset("unacked", tag, json.dumps([{"body": ""}, "", routing_key]))
    redis.zadd("unacked_index", {tag: time.time() - seconds_ago})


def test_a_waiting_message_counts(queue: CeleryQueue, redis: Redis) -> None:
    assert queue.is_empty()
    redis.lpush("handlers", "a message")
    assert not queue.is_empty()


def test_a_message_that_a_worker_has_just_taken_counts(queue: CeleryQueue, redis: Redis) -> None:
    hold(redis, "tick", routing_key="housekeeping")
    assert queue.is_empty()
    hold(redis, "taken", routing_key="handlers")
    assert not queue.is_empty()


def test_a_message_that_a_lost_worker_still_seems_to_hold_does_not_count(queue: CeleryQueue, redis: Redis) -> None:
    hold(redis, "lost", routing_key="handlers", seconds_ago=CLAIM_SECONDS + 1)
    assert queue.is_empty()
