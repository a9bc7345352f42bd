"""Watches Redis four times a second: its memory, whether it keeps what it confirms, the registry's version.

A registry change is in use within a second of its publication. "Full" is known before Redis refuses writes, which would
stop Celery too. Redis may be away at any time, at the start included.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
import uuid
from typing import Any, Final, cast

from redis.exceptions import RedisError, ResponseError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ingress.endpoints import Endpoints
from ingress.inbox import Inbox
from ingress.metrics import Metrics
from ingress.redis_connection import make_client
from ingress.refusal_log import RefusalLog
from ingress.settings import IngressSettings
from shared import releases, rights
from shared.durability import Verdict, assess
from shared.registry import VERSION_FIELD
from shared.wire import Names

log: Final = logging.getLogger(__name__)

EVERY_SECONDS: Final = 0.25
CONFIG_SECONDS: Final = 60.0
"""Between two CONFIG GET: what it tells seldom changes. A Redis that has started meanwhile is asked at once."""
_ADVICE: Final = ", or set INBOX_DURABILITY to what is meant"


class Watch:
    """Looks at Redis on a connection of its own, so that a slow append hides nothing from it."""

    def __init__(
        self,
        settings: IngressSettings,
        *,
        endpoints: Endpoints,
        inbox: Inbox,
        metrics: Metrics,
        refusal_log: RefusalLog,
    ) -> None:
        self._redis = make_client(settings.inbox_url, settings.inbox_timeout, prefix=settings.redis_prefix)
        self._names = Names(settings.redis_prefix)
        self._high_water = settings.inbox_high_water
        self._meant = settings.inbox_durability
        self._durability = Verdict()
        self._appendfsync: str | None = None
        self._config_due = 0.0
        self._run_id: str | None = None
        self._needs = rights.of_ingress(
            self._names, rings=settings.broker_url == settings.inbox_url, waits=settings.wait_replicas > 0
        )
        self._missing_rights: tuple[str, ...] = ()
        self._rights_due = 0.0
        self._endpoints = endpoints
        self._inbox = inbox
        self._metrics = metrics
        self._refusal_log = refusal_log
        self._own = releases.describe(f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}")
        self._announce_at = 0.0
        self._is_full = False
        self._silence = "it has not been asked yet"
        """Why Redis does not answer; empty if it does."""
        metrics.redis_answers.set_function(lambda: not self._silence)
        self._is_over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def routes(self) -> list[Route]:
        """Return the routes of health. A full Redis is no reason: a balancer would answer without Retry-After."""

        async def livez(_: Request) -> Response:
            return JSONResponse({"status": "alive"})

        async def readyz(_: Request) -> Response:
            found = {
                "redis_away": bool(self._silence),
                "redis_not_durable": bool(self._durability.texts("wrong")),
                "missing_rights": bool(self._missing_rights),
                "no_registry": self._endpoints.version is None,
                "wrong_secrets_key": self._endpoints.has_wrong_key,
            }
            if reasons := [reason for reason, is_found in found.items() if is_found]:
                return JSONResponse({"status": "not_ready", "reasons": reasons}, status_code=503)
            unknown = {"unknown": it} if (it := self._durability.texts("unknown")) else {}
            return JSONResponse({"status": "ready", "registry_version": self._endpoints.version, **unknown})

        return [Route("/livez", livez), Route("/readyz", readyz)]

    async def start(self) -> None:
        """Check once, so that the first request already finds a registry, then go on."""
        await self._check()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="watch")

    async def stop(self) -> None:
        """Stop. The task is not cancelled: on 3.11 redis-py swallows a cancellation that meets a result."""
        self._is_over.set()
        if self._task is not None:
            await self._task
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self._redis.zrem(self._names.live_ingresses, self._own)
        await self._redis.aclose()

    async def _run(self) -> None:
        while not self._is_over.is_set():
            await self._check()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_over.wait(), EVERY_SECONDS)

    async def _check(self) -> None:
        """Ask once and pass on what Redis says; silence is an answer too."""
        try:
            await self._check_rights()
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.hget(self._names.registry, VERSION_FIELD)
                pipeline.info("memory", "persistence", "server")
                pipeline.xlen(self._names.inbox)
                pipeline.xlen(self._names.overflow)
                version, facts, length, overflow_length = await pipeline.execute()
            self._check_memory(facts)  # first: appends use the room up, whatever becomes of the rest
            await self._assess_durability(facts)
            if version is not None and version.decode("ascii", "replace") != self._endpoints.version:
                fields = await self._redis.hgetall(self._names.registry)
                self._endpoints.replace(cast("dict[bytes, bytes]", fields))
            await self._inbox.tenants.exchange(self._redis)
            await self._refusal_log.publish(self._redis, self._names.refusals)
            await self._announce()
        except Exception as error:
            # Whatever it is, the watch must go on: without it no change of the registry would arrive any more.
            if not isinstance(error, (RedisError, OSError, TimeoutError)):
                log.exception("unexpected error in the watch", extra={"code": "internal_error"})
            reason = str(error) or type(error).__name__
            self._rights_due = 0.0
            await self._redis.connection_pool.disconnect()  # after a failover, connecting finds the new primary
            if reason != self._silence:
                log.warning("Redis does not answer: %s", reason)
        else:
            reason = ""
            self._metrics.inbox_length.set(length)
            self._metrics.overflow_length.set(overflow_length)
            if self._endpoints.version is not None and self._endpoints.version.isdecimal():
                self._metrics.registry_version.set(int(self._endpoints.version))
        self._silence = reason

    async def _announce(self) -> None:
        """Say that this process lives, and of which release it is; a full Redis refuses that."""
        if time.monotonic() < self._announce_at:
            return
        self._announce_at = time.monotonic() + releases.EVERY_SECONDS
        with contextlib.suppress(ResponseError):
            await self._redis.eval(releases.SAY, 1, self._names.live_ingresses, self._own)

    async def _check_rights(self) -> None:
        """See whether the user of Redis may do what the ingress does: at first, after an error, and now and then."""
        now = time.monotonic()
        if now < self._rights_due:
            return
        try:
            reply = await self._redis.eval(rights.LIST_MISSING, 0, *rights.pack(self._needs))
            missing = rights.read_missing(reply)
        except ResponseError as error:
            if not rights.is_refusal(error):
                raise
            missing = ("EVAL",)
        if missing and missing != self._missing_rights:
            log.error("%s", rights.MissingRightsError(missing), extra={"code": "missing_rights"})
        self._missing_rights = missing
        self._rights_due = now + (0.0 if missing else CONFIG_SECONDS)

    async def _assess_durability(self, facts: dict[str, Any]) -> None:
        now = time.monotonic()
        if facts.get("run_id") != self._run_id or now >= self._config_due:
            self._appendfsync = None
            with contextlib.suppress(ResponseError):  # managed servers forbid CONFIG
                config = cast("dict[str, str]", await self._redis.config_get("appendfsync"))
                self._appendfsync = config.get("appendfsync")
            self._config_due, self._run_id = now + CONFIG_SECONDS, facts.get("run_id")
        before, self._durability = self._durability, assess(facts, self._appendfsync, meant=self._meant)
        for fault in set(self._durability.texts("wrong")) - set(before.texts("wrong")):
            log.error("%s%s", fault, _ADVICE, extra={"code": "redis_not_durable"})
        for unknown in set(self._durability.texts("unknown")) - set(before.texts("unknown")):
            log.warning("%s", unknown, extra={"code": "durability_unknown"})

    def _check_memory(self, memory: dict[str, Any]) -> None:
        used, bound = memory.get("used_memory", 0), memory.get("maxmemory", 0)
        self._inbox.room = room = bound * self._high_water - used if bound else None
        was_full, self._is_full = self._is_full, room is not None and room <= 0
        if self._is_full and not was_full:
            log.error("Redis is full: %d of %d bytes are used", used, bound)
        elif was_full and not self._is_full:
            log.info("Redis has room again")
