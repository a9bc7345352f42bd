"""The doorbell where Celery's broker is another Redis than the inbox: a call of its own after the round trip.

Guarantees: no event waits for it; one call at a time, and whatever asks meanwhile shares the next one. A doorbell that
cannot be rung costs time only.
"""

import asyncio
import logging
from typing import Final

from redis.exceptions import RedisError

from ingress.metrics import Metrics
from ingress.redis_connection import make_client
from ingress.settings import IngressSettings
from shared.wire import RING, Names, ring_arguments

log: Final = logging.getLogger(__name__)


class Doorbell:
    """Rings at the broker, on a connection of its own."""

    def __init__(self, settings: IngressSettings, metrics: Metrics) -> None:
        self._redis = make_client(settings.broker_url, settings.inbox_timeout, prefix=settings.redis_prefix)
        self._names = Names(settings.redis_prefix)
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None
        self._is_asked = False
        self._silence = ""
        """Why the last one was not rung; empty if it was."""

    def ring(self) -> None:
        """Ring soon; returns at once."""
        self._is_asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._ring(), name="doorbell")

    async def stop(self) -> None:
        """Finish a call that is under way, and close the connection."""
        if self._task is not None:
            await self._task
        await self._redis.aclose()

    async def _ring(self) -> None:
        while self._is_asked:
            self._is_asked = False
            keys, arguments = ring_arguments(self._names)
            reason = ""
            try:
                await self._redis.eval(RING, len(keys), *keys, *arguments)
            except (RedisError, OSError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
                self._metrics.silent_bells.inc()
                await self._redis.connection_pool.disconnect()  # after a failover, connecting finds the new primary
            if reason and reason != self._silence:
                log.warning("the broker takes no doorbell: %s", reason, extra={"code": "broker_unavailable"})
            self._silence = reason
