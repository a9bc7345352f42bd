"""The application: `uvicorn ingress.asgi:app --http ingress.connections:Connection --workers 4`.

`python -m ingress` is the same with the settings of this project. Wrong settings, and a start without `--http`, end the
process with one line: without it, connections would have none of the limits of `ingress.connections`.

Every answer is JSON; an unexpected exception is logged and answered without its details; the process ends when the
process that started it as one of several workers has gone.
"""

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any, Final, NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ingress.body import BodyReader
from ingress.endpoints import Endpoints
from ingress.errors import INTERNAL_ERROR
from ingress.inbox import Inbox
from ingress.metrics import Metrics, serve
from ingress.refusal_log import RefusalLog
from ingress.settings import IngressSettings
from ingress.watch import Watch
from ingress.webhooks import Webhooks
from shared import traces
from shared.heartbeat import EVERY_SECONDS, Heartbeat
from shared.logs import configure
from shared.registry import Cipher
from shared.settings import SettingError, load

log: Final = logging.getLogger(__name__)


def make_app(settings: IngressSettings) -> Starlette:
    """Return the application of one process."""
    metrics = Metrics()
    endpoints = Endpoints(Cipher(settings.secrets_key))
    inbox = Inbox(settings, metrics)
    refusal_log = RefusalLog()
    watch = Watch(settings, endpoints=endpoints, inbox=inbox, metrics=metrics, refusal_log=refusal_log)
    reader = BodyReader(max_bytes=settings.max_body_bytes, seconds=settings.body_timeout, budget=settings.bodies_bytes)
    webhooks = Webhooks(reader=reader, endpoints=endpoints, inbox=inbox, metrics=metrics, refusal_log=refusal_log)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        """Run what runs beside the requests; uvicorn calls the end of it when the last request is answered."""
        _end_with_parent(asyncio.get_running_loop())
        serving = asyncio.create_task(serve(metrics, settings), name="metrics")
        inbox.start()
        await watch.start()
        heartbeat = Heartbeat(folder=settings.heartbeat_dir, name=f"ingress-{settings.port}", duties=["ingress"])
        beating = asyncio.create_task(_keep_beating(heartbeat), name="heartbeat")
        _settle_memory()
        yield {"settings": settings}  # `ingress.connections` reads it
        await watch.stop()
        await inbox.stop()
        serving.cancel()
        beating.cancel()
        await asyncio.wait([serving, beating])
        heartbeat.remove()
        traces.current().flush()

    application = Starlette(
        routes=[*webhooks.routes(), *watch.routes()],
        lifespan=lifespan,
        exception_handlers={HTTPException: webhooks.refuse, Exception: _fail},  # type: ignore[dict-item]
    )
    application.router.redirect_slashes = False
    return application


def _end_with_parent(loop: asyncio.AbstractEventLoop) -> None:
    """Stop like after SIGTERM when the supervisor of `--workers` has gone: nobody would stop or replace this process.

    uvicorn's workers do not watch it. Started alone, a process has no such parent.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def stop() -> None:
        loop.remove_reader(parent.sentinel)
        log.warning("the parent process has gone: this one stops")
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(parent.sentinel, stop)


async def _keep_beating(heartbeat: Heartbeat) -> None:
    while True:
        heartbeat.beat()
        await asyncio.sleep(EVERY_SECONDS)


def _settle_memory() -> None:
    """Let the garbage collector run seldom and leave out what stays: requests leave no reference cycles.

    Every few thousand requests it walked through all modules and their functions: 39 ms in which nobody was answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


async def _fail(_: Request, __: Exception) -> Response:
    """Answer an unexpected exception; Starlette raises it again, and uvicorn logs it."""
    return Response(INTERNAL_ERROR.body, INTERNAL_ERROR.status, media_type="application/json")


def _stop(reason: object) -> NoReturn:
    sys.stderr.write(f"ingress: {reason}\n")
    raise SystemExit(3)  # 3 tells uvicorn's parent process that a restart would not help


if "ingress.connections" not in sys.modules:  # uvicorn imports it before the application, and nothing else does
    _stop("start uvicorn with --http ingress.connections:Connection, or run python -m ingress")
try:
    _settings = load(IngressSettings)
    traces.start(_settings.otlp_endpoint, service="webhook-ingress")
except SettingError as error:
    _stop(error)

configure(_settings.log_level, _settings.log_format)
app = make_app(_settings)
