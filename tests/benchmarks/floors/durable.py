"""Floor of a durable acknowledgement: Starlette verifies, appends the body to a file, and answers once that is on disk.

As little as a receiver can do that answers only for what it has; those who come during a flush share the next one.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.benchmarks.bodies import SECRET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

FILE: Final = "DURABLE_FILE"
"""Environment variable: the file that is appended to; it should be where Redis has its own."""


class Journal:
    """A file to which all that has arrived together is appended together.

    It flushes in the event loop, as Redis does: a thread of its own would wait for the interpreter's lock.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []

    async def append(self, line: bytes) -> None:
        """Return once it is on disk."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append((line, done))
        await done

    def _flush(self) -> None:
        taken, self._waiting = self._waiting, []
        os.write(self._file, b"".join(line for line, _ in taken))
        getattr(os, "fdatasync", os.fsync)(self._file)
        for _, done in taken:
            if not done.cancelled():
                done.set_result(None)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the file."""
    file = os.open(os.environ[FILE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    app.state.journal = Journal(file)
    yield
    os.close(file)


async def receive(request: Request) -> JSONResponse:
    """Verify one request and keep it."""
    body = await request.body()
    expected = "sha256=" + hmac.digest(SECRET, body, "sha256").hex()
    if not hmac.compare_digest(expected, request.headers.get("x-webhook-signature", "")):
        return JSONResponse({"code": "invalid_signature"}, 401)
    await request.app.state.journal.append(body + b"\n")
    return JSONResponse({"id": str(uuid.uuid4())})


app = Starlette(routes=[Route("/webhooks/{provider}/{tenant}", receive, methods=["POST"])], lifespan=lifespan)
