"""The Celery queue of handler tasks, and what Redis knows about it: the rim of admission and of the sweeper.

Guarantees: messages carry ids only. Refuses nothing: an error of Redis or Celery reaches the caller.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from shared import wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery
    from redis import Redis

    from workers.admission import Message

MEANS: Final = "handlers:mean"
"""Redis hash: handler to its recent mean duration in seconds. Losing it costs a few badly filled messages."""
UNACKED: Final = "unacked"
"""kombu's hash of messages that workers hold."""


class CeleryQueue:
    """The queue `handlers`."""

    def __init__(self, app: Celery, redis: Redis) -> None:
        self._app = app
        self._redis = redis

    def state(self) -> tuple[int, Mapping[str, float]]:
        """Return the waiting messages and the mean seconds of each handler, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.llen(wire.HANDLERS_QUEUE)
        pipeline.hgetall(MEANS)
        length, means = pipeline.execute()
        return length, {name.decode(): float(mean) for name, mean in means.items()}

    def send(self, message: Message) -> None:
        """Send one message as the handler's own task."""
        self._app.send_task(message.handler, args=[message.argument], queue=wire.HANDLERS_QUEUE, ignore_result=True)

    def is_empty(self) -> bool:
        """Say whether no message of a handler waits or is held by a worker."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.llen(wire.HANDLERS_QUEUE)
        pipeline.hvals(UNACKED)
        length, held = pipeline.execute()
        return length == 0 and not any(_routing_key(entry) == wire.HANDLERS_QUEUE for entry in held)


class Means:
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


def _routing_key(entry: bytes) -> Any:
    """Return the queue of a message in kombu's hash: a JSON list of message, exchange and routing key."""
    try:
        return json.loads(entry)[2]
    except (ValueError, IndexError, TypeError, KeyError):
        return None
