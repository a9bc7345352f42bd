"""Watches Redis four times a second: its memory, the registry's version, the inbox's length.

A registry change is in use within a second of its publication. "Full" is known before Redis refuses writes, which would
stop Celery too. Redis may be away at any time, at the start included.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from shared.registry import REGISTRY, VERSION_FIELD
from shared.wire import INBOX

if TYPE_CHECKING:
    from ingress.endpoints import Endpoints
    from ingress.inbox import Inbox
    from ingress.metrics import Metrics

log: Final = logging.getLogger(__name__)

EVERY_SECONDS: Final = 0.25


class Watch:
    """Looks at Redis on a connection of its own, so that a slow append hides nothing from it."""

    def __init__(
        self, *, redis_url: str, timeout: float, high_water: float, endpoints: Endpoints, inbox: Inbox, metrics: Metrics
    ) -> None:
        self._redis: Redis = Redis.from_url(
            redis_url,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            protocol=2,
            decode_responses=False,
        )
        self._high_water = high_water
        self._endpoints = endpoints
        self._inbox = inbox
        self._metrics = metrics
        self.redis_answers = False
        self._is_full = False
        self._has_bad_policy = False
        self._silence = ""
        """Why Redis does not answer, as it was told."""
        self._is_over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look once, so that the first request already finds a registry, then go on looking."""
        await self.look()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="watch")

    async def stop(self) -> None:
        """Stop looking.

        The task is not cancelled: `asyncio.wait_for` of Python 3.11, in redis-py, swallows a cancellation that meets a
        result, and waiting for the task would never end.
        """
        self._is_over.set()
        if self._task is not None:
            await self._task
        await self._redis.aclose()

    async def _run(self) -> None:
        while not self._is_over.is_set():
            await self.look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_over.wait(), EVERY_SECONDS)

    async def look(self) -> None:
        """Ask once and pass on what Redis says; silence is an answer too."""
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.hget(REGISTRY, VERSION_FIELD)
                pipeline.info("memory")
                pipeline.xlen(INBOX)
                version, memory, length = await pipeline.execute()
            self._weigh(memory)  # first: appends use the room up, whatever becomes of the rest
            if version is not None and version.decode("ascii", "replace") != self._endpoints.version:
                self._endpoints.replace(cast("dict[bytes, bytes]", await self._redis.hgetall(REGISTRY)))
        except Exception as error:
            # Whatever it is, the watch must go on: without it no change of the registry would arrive any more.
            if not isinstance(error, (RedisError, OSError, TimeoutError)):
                log.exception("unexpected error in the watch", extra={"code": "internal_error"})
            reason = str(error) or type(error).__name__
            if reason != self._silence:
                log.warning("Redis does not answer: %s", reason)
            self._silence = reason
            self._mark(is_answering=False)
            return
        self._silence = ""
        self._mark(is_answering=True)
        self._metrics.inbox_length.set(length)
        if self._endpoints.version is not None and self._endpoints.version.isdecimal():
            self._metrics.registry_version.set(int(self._endpoints.version))

    def _mark(self, *, is_answering: bool) -> None:
        self.redis_answers = is_answering
        self._metrics.redis_answers.set(is_answering)

    def _weigh(self, memory: dict[str, Any]) -> None:
        used, bound = memory.get("used_memory", 0), memory.get("maxmemory", 0)
        if not bound:
            self._inbox.room = None
            return
        self._inbox.room = room = bound * self._high_water - used
        if (room <= 0) != self._is_full:
            self._is_full = room <= 0
            if self._is_full:
                log.error("Redis is full: %d of %d bytes are used", used, bound)
            else:
                log.info("Redis has room again")
        if (memory.get("maxmemory_policy") != "noeviction") != self._has_bad_policy:
            self._has_bad_policy = not self._has_bad_policy
            if self._has_bad_policy:
                log.error("Redis may throw acknowledged events away: set maxmemory-policy to noeviction")
