"""Step 2: read the body, under a cap of bytes, of time, and of what all unfinished bodies hold together.

Guarantees: no more than the cap is ever held of one body, whatever `Content-Length` claims and for chunked bodies too.
Refuses: 413 for too many bytes, 408 for too many seconds, and 503 `too_busy`, when all unfinished bodies together hold
more than their budget, for the one that has held most for longest. A part of the budget is kept for small bodies.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast

from starlette.types import Receive

from ingress.errors import BODY_TIMEOUT, BODY_TOO_LARGE, TOO_BUSY, Refusal

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 16 * 2**20
"""How long, and how much of, the rest of a body is discarded after an early response: a server that closes while bytes
still arrive resets the connection, and the client never sees the response."""
SMALL_BYTES: Final = 65_536
"""Bodies up to this size may use the whole budget, larger ones only `LARGE_SHARE` of it."""
LARGE_SHARE: Final = 0.75

_TICK_SECONDS: Final = 0.25
_LONGEST_NUMBER: Final = 18


@dataclass(slots=True, eq=False)
class _Body:
    """A body that is being read, by a task that waits in `receive` and nowhere else, since `began` in the loop's time.

    `held` are the bytes that have arrived, if there are more to come; `refusal` is why its reading was ended.
    """

    task: asyncio.Task[Any]
    began: float
    held: int = 0
    refusal: Refusal | None = None

    def end(self, refusal: Refusal) -> None:
        """End its reading; the one that is being read just now looks at `refusal` itself."""
        self.refusal = refusal
        if self.task is not asyncio.current_task():
            self.task.cancel()


class BodyReader:
    """Reads bodies within the limits of this process.

    One timer serves all bodies: `asyncio.timeout` for each request costs a sixth of the requests per second.
    """

    def __init__(self, *, max_bytes: int, seconds: float, budget: int) -> None:
        """Make a reader for bodies of `max_bytes` within `seconds`; unfinished ones hold `budget` bytes at most."""
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._budget = budget
        self._held = 0
        self._held_by_large = 0
        self._bodies: set[_Body] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, receive: Receive, headers: Sequence[tuple[bytes, bytes]]) -> bytes | Refusal | None:
        """Return the whole body, why it is refused, or None if the client has gone.

        An honest `content-length` in the headers saves reading a body that is too large anyway.
        """
        for name, value in headers:
            if name == b"content-length" and self._is_too_large(value):
                return BODY_TOO_LARGE
        body = self._begin()
        try:
            return await self._read(receive, body)
        except asyncio.CancelledError:
            if body.refusal is None:
                raise
            body.task.uncancel()
            return body.refusal
        finally:
            self._forget(body)

    async def _read(self, receive: Receive, body: _Body) -> bytes | Refusal | None:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > self._max_bytes:
                return BODY_TOO_LARGE
            if not message.get("more_body", False):
                return b"".join((*chunks, chunk)) if chunks else chunk
            chunks.append(chunk)
            self._hold(body, len(chunk))
            if body.refusal is not None:
                return body.refusal

    def _begin(self) -> _Body:
        loop = asyncio.get_running_loop()
        body = _Body(cast("asyncio.Task[Any]", asyncio.current_task()), loop.time())
        self._bodies.add(body)
        if self._timer is None:
            self._timer = loop.call_later(_TICK_SECONDS, self._end_the_late, loop)
        return body

    def _forget(self, body: _Body) -> None:
        if body in self._bodies:
            self._bodies.remove(body)
            self._held -= body.held
            self._held_by_large -= body.held if body.held > SMALL_BYTES else 0

    def _end_the_late(self, loop: asyncio.AbstractEventLoop) -> None:
        began_before = loop.time() - self._seconds
        for body in [body for body in self._bodies if body.began <= began_before]:
            self._forget(body)
            body.end(BODY_TIMEOUT)
        self._timer = loop.call_later(_TICK_SECONDS, self._end_the_late, loop) if self._bodies else None

    def _hold(self, body: _Body, count: int) -> None:
        """Count bytes that a body holds from now on; end others, or itself, if there is no room for them."""
        was_large = body.held > SMALL_BYTES
        body.held += count
        self._held += count
        if body.held > SMALL_BYTES:
            self._held_by_large += count if was_large else body.held
        while self._held > self._budget:
            self._make_room(self._bodies)
        while self._held_by_large > self._budget * LARGE_SHARE:
            self._make_room({each for each in self._bodies if each.held > SMALL_BYTES})

    def _make_room(self, bodies: set[_Body]) -> None:
        """End the body that has held most for longest: a sender that makes progress is not it."""
        now = asyncio.get_running_loop().time()
        worst = max(bodies, key=lambda body: body.held * (now - body.began))
        self._forget(worst)
        worst.end(TOO_BUSY)

    async def discard(self, receive: Receive) -> bool:
        """Read a body that nobody wants, holding none of it; return whether its end was reached within the limits."""
        return await _discard(receive, self._max_bytes, self._seconds)

    def _is_too_large(self, content_length: bytes) -> bool:
        """Judge a `Content-Length`; what is no number is judged by the bytes that arrive."""
        if len(content_length) > _LONGEST_NUMBER:  # int() raises on thousands of digits
            return True
        return content_length.isdigit() and int(content_length) > self._max_bytes


async def linger(receive: Receive) -> None:
    """Discard the rest of a body after an early response, within `LINGER_BYTES` and `LINGER_SECONDS`."""
    await _discard(receive, LINGER_BYTES, LINGER_SECONDS)


async def _discard(receive: Receive, at_most: int, seconds: float) -> bool:
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while size <= at_most:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return False
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return size <= at_most
    return False
