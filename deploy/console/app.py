"""The application: the routes with what each response carries, and nothing that reads the environment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.console.database import Database
from deploy.console.dispatch import endpoint
from deploy.console.routes import RULES
from deploy.console.visit import Console
from shared.heartbeat import EVERY_SECONDS, Heartbeat

STATIC: Final = Path(__file__).with_name("static")
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
GRACE_SECONDS: Final = 5
_KEPT: Final = "public, max-age=3600"


@dataclass(frozen=True, kw_only=True)
class Connections:
    """What `ingress.connections` bounds: strangers reach the console too. Times in seconds; a change may take one."""

    keep_alive: float = 75.0
    body_timeout: float = 60.0
    connections: int = 500


def serving(app: Starlette) -> uvicorn.Config:
    """Return how the application is served: headers, time and number of connections are bounded."""
    return uvicorn.Config(
        app,
        http="ingress.connections:Connection",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def build(console: Console, database: Database, *, heartbeat: Heartbeat | None = None) -> Starlette:
    """Return the application; it closes its connections at its end.

    Args:
        console: its parts.
        database: its connections to Postgres.
        heartbeat: says that its loop goes on, until the end.
    """

    async def beat(heart: Heartbeat) -> None:
        while True:
            heart.beat()
            await asyncio.sleep(EVERY_SECONDS)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        beating = asyncio.create_task(beat(heartbeat)) if heartbeat else None
        yield {"settings": Connections()}
        if heartbeat and beating:
            beating.cancel()
            heartbeat.remove()
        database.close()
        console.inbox.close()
        console.broker.close()

    routes = [Route(it.path, endpoint(console, database, it), methods=[it.method]) for it in RULES]
    app = Starlette(
        routes=[
            *routes,
            Route("/livez", _live),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(WithHeaders)],
        exception_handlers={404: _not_found, 405: _not_found},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # by the Host of whoever asks, and behind a proxy with TLS to http
    return app


class WithHeaders:
    """ASGI middleware: every response has `HEADERS`, and pages are kept in no cache."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers["Cache-Control"] = _KEPT if scope["path"].startswith("/static/") else "no-store"
            await send(message)

        await self._app(scope, receive, send_with if scope["type"] == "http" else send)


async def _live(_: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _not_found(_: Request, __: Exception) -> Response:
    return PlainTextResponse("there is no such page\n", status_code=404)
