"""Step 1: read the body, under a hard cap of bytes and of time.

Guarantees: no more than the cap is ever held, whatever `Content-Length` claims and for chunked bodies too; a client
that is slow or silent gets an answer. Refuses: 413 for too many bytes, 408 for too many seconds.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from ingress.errors import BODY_TIMEOUT, BODY_TOO_LARGE, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Receive

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 16 * 2**20
"""How long and how much is read and thrown away behind an early answer: a server that closes while bytes still arrive
resets the connection, and the client never sees its answer."""

_TICK_SECONDS: Final = 0.25
_LONGEST_NUMBER: Final = 18


class Gone(Enum):
    """The client closed the connection before its body was complete."""

    GONE = "gone"


GONE: Final = Gone.GONE


class Reader:
    """Reads bodies, with one timer for all of them.

    A timer per request would cost more than the reading itself: `asyncio.timeout` takes 10 us where everything else
    in `read` takes 2. So one timer looks after all readers, four times a second while there are any.
    """

    def __init__(self, *, max_bytes: int, seconds: float) -> None:
        self.max_bytes = max_bytes
        self._seconds = seconds
        self._deadlines: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, receive: Receive, headers: Sequence[tuple[bytes, bytes]]) -> bytes | Refusal | Gone:
        """Return the whole body, or why there is none.

        Args:
            receive: of the ASGI request; nothing has been received from it yet.
            headers: of the request; an honest `content-length` saves reading a body that is too large anyway.
        """
        for name, value in headers:
            if name == b"content-length" and self._is_too_large(value):
                return BODY_TOO_LARGE
        return await self._collect(receive, self.max_bytes, self._seconds, keep=True)

    async def discard(self, receive: Receive) -> bool:
        """Read a body that nobody wants; say whether its end was reached within the limits."""
        return await self._collect(receive, self.max_bytes, self._seconds, keep=False) == b""

    async def linger(self, receive: Receive) -> None:
        """Throw away what still arrives behind an answer that has been sent, for a while."""
        await self._collect(receive, LINGER_BYTES, LINGER_SECONDS, keep=False)

    def _is_too_large(self, content_length: bytes) -> bool:
        """Judge a `Content-Length`; what is no number is judged by the bytes that arrive."""
        if len(content_length) > _LONGEST_NUMBER:  # int() raises on thousands of digits
            return True
        return content_length.isdigit() and int(content_length) > self.max_bytes

    async def _collect(self, receive: Receive, at_most: int, seconds: float, *, keep: bool) -> bytes | Refusal | Gone:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a body is read inside a task")
        self._watch(task, seconds)
        chunks: list[bytes] = []
        size = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return GONE
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                if size > at_most:
                    return BODY_TOO_LARGE
                if keep:
                    chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            return BODY_TIMEOUT
        finally:
            self._deadlines.pop(task, None)
            self._late.discard(task)

    def _watch(self, task: asyncio.Task[Any], seconds: float) -> None:
        loop = task.get_loop()
        self._deadlines[task] = loop.time() + seconds
        if self._timer is None:
            self._timer = loop.call_later(_TICK_SECONDS, self._interrupt_the_late, loop)

    def _interrupt_the_late(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task, deadline in list(self._deadlines.items()):
            if deadline <= now:
                # The task waits in `receive` and nowhere else: it leaves the table before it goes on.
                del self._deadlines[task]
                self._late.add(task)
                task.cancel()
        self._timer = loop.call_later(_TICK_SECONDS, self._interrupt_the_late, loop) if self._deadlines else None
