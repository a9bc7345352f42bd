"""Step 2: read the body, under a cap of bytes, of time, and of what all unfinished bodies hold together.

Guarantees: no more than the cap is ever held of one body, whatever `Content-Length` claims and for chunked bodies too;
all bodies that are still arriving hold no more than their budget, a part of which is kept for small ones; a client that
is slow or silent gets an answer. Refuses: 413 for too many bytes, 408 for too many seconds, 503 `too_busy` for the body
that has held most for longest when the budget is used up.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from ingress.errors import BODY_TIMEOUT, BODY_TOO_LARGE, TOO_BUSY, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Receive

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 16 * 2**20
"""How long, and how much of, the rest of a body is discarded after an early response: a server that closes while bytes
still arrive resets the connection, and the client never sees the response."""
SMALL_BYTES: Final = 65_536
"""Bodies up to this size may use the whole budget, larger ones only `LARGE_SHARE` of it."""
LARGE_SHARE: Final = 0.75

_LONGEST_NUMBER: Final = 18


class Gone(Enum):
    """The client closed the connection before its body was complete."""

    GONE = "gone"


GONE: Final = Gone.GONE


@dataclass(slots=True, eq=False)
class _Arriving:
    """A body of which more is to come.

    Attributes:
        began: in the loop's time.
        timeout: of its reading; rescheduled to now when the body has to make room.
        held: bytes that have arrived.
        has_to_go: it was chosen to make room.
    """

    began: float
    timeout: asyncio.Timeout
    held: int = 0
    has_to_go: bool = False


class _Budget:
    """The bytes that unfinished bodies may hold together, in one process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._arriving: set[_Arriving] = set()
        self._held = 0

    def begin(self, body: _Arriving) -> None:
        self._arriving.add(body)

    def end(self, body: _Arriving) -> None:
        if body in self._arriving:
            self._arriving.remove(body)
            self._held -= body.held

    def add(self, body: _Arriving, count: int, now: float) -> None:
        """Count bytes that a body holds from now on, and choose others, or itself, to make room if there is none."""
        body.held += count
        self._held += count
        while self._held > self._limit:
            self._make_room(self._arriving, now)
        while body.held > SMALL_BYTES:
            large = {each for each in self._arriving if each.held > SMALL_BYTES}
            if sum(each.held for each in large) <= self._limit * LARGE_SHARE:
                break
            self._make_room(large, now)

    def _make_room(self, bodies: set[_Arriving], now: float) -> None:
        """End the body that has held most for longest: a sender that makes progress is not it."""
        worst = max(bodies, key=lambda body: body.held * (now - body.began))
        self.end(worst)
        worst.has_to_go = True
        worst.timeout.reschedule(now)


class BodyReader:
    """Reads bodies within the limits of this process."""

    def __init__(self, *, max_bytes: int, seconds: float, budget: int) -> None:
        """Make a reader.

        Args:
            max_bytes: of one body.
            seconds: from the headers to the end of the body.
            budget: bytes that all unfinished bodies may hold together.
        """
        self.max_bytes = max_bytes
        self._seconds = seconds
        self._budget = _Budget(budget)

    async def read(self, receive: Receive, headers: Sequence[tuple[bytes, bytes]]) -> bytes | Refusal | Gone:
        """Return the whole body, or why there is none.

        Args:
            receive: of the ASGI request; nothing has been received from it yet.
            headers: of the request; an honest `content-length` saves reading a body that is too large anyway.
        """
        for name, value in headers:
            if name == b"content-length" and self._is_too_large(value):
                return BODY_TOO_LARGE
        loop = asyncio.get_running_loop()
        chunks: list[bytes] = []
        size = 0
        body: _Arriving | None = None
        try:
            async with asyncio.timeout(self._seconds) as timeout:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return GONE
                    chunk: bytes = message.get("body", b"")
                    size += len(chunk)
                    if size > self.max_bytes:
                        return BODY_TOO_LARGE
                    if not message.get("more_body", False):
                        return b"".join((*chunks, chunk)) if chunks else chunk
                    if body is None:
                        body = _Arriving(loop.time(), timeout)
                        self._budget.begin(body)
                    chunks.append(chunk)
                    self._budget.add(body, len(chunk), loop.time())
        except TimeoutError:
            return TOO_BUSY if body is not None and body.has_to_go else BODY_TIMEOUT
        finally:
            if body is not None:
                self._budget.end(body)

    async def discard(self, receive: Receive) -> bool:
        """Read a body that nobody wants, holding none of it; return whether its end was reached within the limits."""
        return await _discard(receive, self.max_bytes, self._seconds)

    async def linger(self, receive: Receive) -> None:
        """Discard the rest of a body after an early response (at most `LINGER_SECONDS`)."""
        await _discard(receive, LINGER_BYTES, LINGER_SECONDS)

    def _is_too_large(self, content_length: bytes) -> bool:
        """Judge a `Content-Length`; what is no number is judged by the bytes that arrive."""
        if len(content_length) > _LONGEST_NUMBER:  # int() raises on thousands of digits
            return True
        return content_length.isdigit() and int(content_length) > self.max_bytes


async def _discard(receive: Receive, at_most: int, seconds: float) -> bool:
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return False
                size += len(message.get("body", b""))
                if size > at_most:
                    return False
                if not message.get("more_body", False):
                    return True
    except TimeoutError:
        return False
