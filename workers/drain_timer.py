"""Starts a drain without a doorbell, when the inbox stands still.

A Redis that is full refuses the doorbell's LPUSH, and kombu's own writes about a message that it has taken. Then no
drain would ever begin and make room. Reading and deleting entries need no memory, so the main process of an ingest
worker hands a drain to its pool by itself.

Guarantees: while entries wait and none was read or removed for `EVERY_SECONDS`, a drain is begun; one at a time.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from shared import wire
from shared.redis_client import open_client
from workers.consumer_timer import ConsumerTimer

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

log = logging.getLogger(__name__)

EVERY_SECONDS: Final = 2.0


class DrainTimer(ConsumerTimer):
    """Looks at the inbox, in workers that consume the queue `ingest`; a subclass sets the attributes.

    Attributes:
        redis_url: of the inbox.
        names: in Redis.
        drain: called in a process of the pool, which is killed after `limit_seconds`.
    """

    every_seconds = EVERY_SECONDS
    redis_url: str
    names: wire.Names
    drain: Callable[[], object]
    limit_seconds: float

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._running: Any = None
        self._seen: object = None
        self._redis: Redis | None = None

    def start(self, consumer: Any) -> None:
        """Begin to look, if this worker drains."""
        if wire.INGEST_QUEUE in consumer.app.amqp.queues.consume_from:
            self._redis = self._redis or open_client(self.redis_url, seconds=1.0, prefix=self.names.prefix)
            super().start(consumer)

    def tick(self, consumer: Any) -> None:
        """Begin a drain if nothing has changed since the last look and none is under way."""
        seen = self._state()
        stands_still = seen is not None and seen == self._seen
        self._seen = seen
        if stands_still and (self._running is None or self._running.ready()):
            log.info("the inbox stands still: a drain begins without a doorbell")
            self._running = consumer.pool.apply_async(type(self).drain, (), timeout=self.limit_seconds)

    def _state(self) -> object:
        """Return what changes with every entry that is read or removed; None if nothing waits or Redis is away."""
        if self._redis is None:
            return None
        try:
            states = [state for stream in self.names.streams if (state := _state_of(self._redis, stream))]
        except (RedisError, OSError):
            return None
        return states or None


def _state_of(client: Redis, stream: str) -> tuple[int, object] | None:
    """Return the length of a stream and what was read of it last; None if nothing waits there."""
    length = client.xlen(stream)
    groups = client.xinfo_groups(stream) if length else []
    read = next((group["last-delivered-id"] for group in groups if group["name"] == wire.INBOX_GROUP.encode()), None)
    return (length, read) if length else None
