"""The ASGI application: health and the life of the process through Starlette, everything else to `ingress.receive`.

Guarantees: every answer is JSON; an unexpected exception is logged and answered without its details. Refuses: unknown
paths with `unknown_endpoint`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ingress import health
from ingress.body import Reader
from ingress.connections import Limits
from ingress.endpoints import Endpoints
from ingress.errors import INTERNAL_ERROR, METHOD_NOT_ALLOWED, UNKNOWN_ENDPOINT
from ingress.inbox import Inbox
from ingress.metrics import Counts, serve
from ingress.receive import Webhooks
from ingress.watch import Watch
from shared.registry import Cipher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from ingress.settings import IngressSettings

log: Final = logging.getLogger(__name__)


class Ingress:
    """One process of the ingress, put together from its settings."""

    def __init__(self, settings: IngressSettings) -> None:
        self._settings = settings
        self._counts = Counts()
        self._endpoints = Endpoints(Cipher(settings.secrets_key))
        self._inbox = Inbox(
            redis_url=settings.redis_url,
            timeout=settings.inbox_timeout,
            waiting_bytes=settings.waiting_bytes,
            ingest_slots=settings.ingest_slots,
            counts=self._counts,
        )
        self._watch = Watch(
            redis_url=settings.redis_url,
            timeout=settings.inbox_timeout,
            high_water=settings.inbox_high_water,
            endpoints=self._endpoints,
            inbox=self._inbox,
            counts=self._counts,
        )
        self._webhooks = Webhooks(
            reader=Reader(max_bytes=settings.max_body_bytes, seconds=settings.body_timeout),
            endpoints=self._endpoints,
            inbox=self._inbox,
            counts=self._counts,
        )
        self._starlette = Starlette(
            routes=health.routes(endpoints=self._endpoints, counts=self._counts),
            lifespan=self._live,
            exception_handlers={HTTPException: _refuse, Exception: _fail},
        )
        self._starlette.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; webhooks go around Starlette's middleware and routing."""
        if scope["type"] != "http" or scope["path"] in health.PATHS:
            await self._starlette(scope, receive, send)
            return
        try:
            await self._webhooks(scope, receive, send)
        except Exception:
            log.exception("unexpected error", extra={"code": INTERNAL_ERROR.code})
            with contextlib.suppress(RuntimeError):  # the answer had begun: the server closes the connection
                await INTERNAL_ERROR.answer(send)

    @contextlib.asynccontextmanager
    async def _live(self, _: Starlette) -> AsyncIterator[dict[str, Any]]:
        """Run what runs beside the requests; the server calls the end of it when the last request is answered."""
        settings = self._settings
        metrics = asyncio.create_task(self._serve_metrics(), name="metrics")
        self._inbox.start()
        await self._watch.start()
        settle_memory()
        yield {
            "limits": Limits(
                connections=settings.connections,
                headers_seconds=settings.body_timeout,
                idle_seconds=settings.keep_alive,
            ),
            "webhooks": self._webhooks,
        }
        await self._watch.stop()
        await self._inbox.stop()
        metrics.cancel()
        await asyncio.wait([metrics])

    async def _serve_metrics(self) -> None:
        settings = self._settings
        if settings.metrics_port:
            await serve(self._counts, host=settings.host, first_port=settings.metrics_port, workers=settings.workers)


def settle_memory() -> None:
    """Let the garbage collector leave alone what lives as long as the process.

    Every few thousand requests it walked through all modules and their functions, 39 ms in which nobody was answered.
    A request leaves no cycles behind, so what remains for it is little.
    """
    gc.collect()
    gc.freeze()


async def _refuse(_: Request, error: Exception) -> Response:
    """Put Starlette's own refusals (404, 405) into our form."""
    is_method = isinstance(error, HTTPException) and error.status_code == METHOD_NOT_ALLOWED.status
    refusal = METHOD_NOT_ALLOWED if is_method else UNKNOWN_ENDPOINT
    return Response(refusal.body, refusal.status, getattr(error, "headers", None), "application/json")


async def _fail(_: Request, __: Exception) -> Response:
    """Answer an unexpected exception; Starlette raises it again, and the server logs it."""
    return Response(INTERNAL_ERROR.body, INTERNAL_ERROR.status, media_type="application/json")
