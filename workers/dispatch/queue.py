"""The Celery queue of handler tasks, and what Redis knows about it: the rim of admission and of the sweeper.

Guarantees: messages carry ids only. Refuses nothing: an error of Redis reaches the caller.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from shared import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from redis import Redis

    from workers.dispatch.admission import Message

MEANS: Final = "handlers:mean"
"""Redis hash: handler to its recent mean duration in seconds. Losing it costs a few badly filled messages."""
UNACKED: Final = "unacked"
"""kombu's hash of messages that workers hold."""
UNACKED_INDEX: Final = "unacked_index"
"""kombu's sorted set of the same messages by the moment when a worker took them, seconds of the epoch."""
SHOWN: Final = 20
"""Deliveries of a message that Flower lists."""
CLAIM_SECONDS: Final = 5.0
"""In which a worker that has taken a message has begun with it, also on a busy machine."""


class CeleryQueue:
    """The queue `handlers`."""

    def __init__(self, redis: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._clock = clock

    def state(self) -> tuple[int, Mapping[str, float]]:
        """Return the waiting messages and the mean seconds of each handler, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.llen(wire.HANDLERS_QUEUE)
        pipeline.hgetall(MEANS)
        length, means = pipeline.execute()
        return length, {name.decode(): float(mean) for name, mean in means.items()}

    def send(self, message: Message) -> None:
        """Send one message as the handler's own task."""
        self._redis.lpush(wire.HANDLERS_QUEUE, pack(message))

    def list_named(self) -> set[tuple[UUID, str]]:
        """Return event and handler of what a message will bring: one in the queue, or just taken by a worker.

        A worker claims as soon as it takes a message. One that was taken longer ago is at work, or lost with its worker
        or its connection: kombu keeps those for a minute or two, in which their deliveries would wait. Others are lost
        between the queue and `unacked`: kombu takes a message first, and then Redis may refuse to note that.
        """
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.lrange(wire.HANDLERS_QUEUE, 0, -1)  # as short as admission keeps it
        pipeline.hgetall(UNACKED)
        pipeline.zrangebyscore(UNACKED_INDEX, self._clock() - CLAIM_SECONDS, "+inf")
        waiting, held, lately = pipeline.execute()
        taken = (_message_of(held.get(tag, b"")) for tag in lately)
        return {pair for message in (*map(_read, waiting), *taken) for pair in _named_by(message)}


def pack(message: Message) -> str:
    """Return the Celery message that runs these deliveries."""
    argument = message.argument
    shown = argument[:SHOWN]
    more = f", and {len(argument) - SHOWN} more" if len(argument) > SHOWN else ""
    return wire.task_message(
        message.handler,
        [argument],
        queue=wire.HANDLERS_QUEUE,
        origin="admission",
        shown=f"[{shown!r}{more}]",
        task_id=str(uuid.uuid4()),
        tag=str(uuid.uuid4()),
    )


class HandlerDurations:
    """Recent mean durations, kept by each process and shared when they change by a fifth."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._means: dict[str, float] = {}
        self._shared: dict[str, float] = {}

    def add(self, handler: str, durations: list[float]) -> None:
        """Take in the seconds of the latest attempts."""
        for duration in durations:
            mean = self._means.get(handler, duration)
            self._means[handler] = mean + (duration - mean) * 0.1
        if not durations:
            return
        recent, shared = self._means[handler], self._shared.get(handler)
        if shared is None or abs(recent - shared) > shared / 5:
            self._redis.hset(MEANS, handler, f"{recent:.6f}")
            self._shared[handler] = recent


def _read(text: bytes) -> Any:
    """Return what JSON says, or None."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _message_of(entry: bytes) -> Any:
    """Return a message of `handlers` in kombu's hash, a JSON list of message, exchange and routing key; else None."""
    match _read(entry):
        case [message, _, wire.HANDLERS_QUEUE]:
            return message
    return None


def _named_by(message: Any) -> list[tuple[UUID, str]]:
    """Return what a message names: nothing if it cannot be read, for then no worker can either."""
    try:
        (argument,) = json.loads(base64.b64decode(message["body"]))[0]
        return [(UUID(each.rpartition("/")[2]), message["headers"]["task"]) for each in argument]
    except (ValueError, IndexError, TypeError, KeyError, AttributeError):
        return []
