"""HTTP connections: uvicorn's protocol with the limits that it lacks.

Guarantees: a client that is slow with its headers, drips empty lines, or never reads its answers loses its connection
(uvicorn 0.54 keeps these for ever: its keep-alive timer ends at the first byte and starts at the first answer), and so
does one that is idle for too long; headers are bounded; past the bound of connections the answer is a 503 in our form.
On shutdown an idle connection stays open for a moment, so that a request on its way to us is answered and not reset.
Refuses: 400, 431 and 503, as JSON.

A proxy in front is still needed for what one process cannot know: limits for each address, TLS, and buffering of slow
bodies, so that they never reach us.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ingress.errors import HEADERS_TOO_LARGE, MALFORMED_REQUEST, TOO_MANY_CONNECTIONS, Refusal
from ingress.joined import Joined

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

HEADER_BYTES: Final = 65_536
"""Bound of the headers of one request; what arrives in one read may be above it."""
BUSY_SECONDS: Final = 10.0
"""Added to the time for headers and body: beyond it a request is stuck, with a client that does not read its answer."""
PIPELINED: Final = 100
"""Bound of the requests that a client may send before it has the answer to the first of them."""
GOODBYE_SECONDS: Final = 0.3
"""How long an idle connection may still bring a request after shutdown has begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a connection must keep to; the application hands it over as `limits` of its lifespan state.

    Attributes:
        connections: bound of open connections in this process.
        headers_seconds: from the connection, later from a request's first byte, to the end of its headers; a body has
            as long again.
        idle_seconds: from an answer to the first byte of the next request.
    """

    connections: int
    headers_seconds: float
    idle_seconds: float


class Connection(HttpToolsProtocol):
    """One client's connection, with one timer that looks after it every few seconds."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, or refuse it at once if there are too many."""
        super().connection_made(transport)
        self._limits: Limits = self.app_state["limits"]
        self._since = self.loop.time()
        self._header_bytes = 0
        self._is_leaving = False
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._joined = Joined(transport)
        self._timer = self.loop.call_later(self._limits.headers_seconds, self._look)
        if len(self.connections) > self._limits.connections:
            self._refuse(TOO_MANY_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer and the requests."""
        self._timer.cancel()
        self._abandon()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what arrives while headers are incomplete."""
        if self.transport.is_closing():
            return
        if self._is_idle():
            if not self._header_bytes:
                self._since = self.loop.time()
            elif self._header_bytes > HEADER_BYTES:
                self._refuse(HEADERS_TOO_LARGE)
                return
            self._header_bytes += len(data)
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Start the request, or let it wait behind those that were sent before it."""
        if len(self._unanswered) >= PIPELINED:
            raise OverflowError("too many requests wait for their answers")  # to the parser: no more is parsed
        self._header_bytes = 0
        super().on_headers_complete()
        self._unanswered.append(self.cycle)
        self.cycle.transport = cast("asyncio.Transport", self._joined)
        if self._is_leaving:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        """Start the clock of what comes next, and the request that already waits, if one does.

        It takes the place of uvicorn's own, which sets a timer for each answer and cancels it at the next request.
        """
        self._since = self.loop.time()
        self._unanswered.popleft()
        self._joined.flush()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        if self.pipeline:  # uvicorn 0.54 resumes at each answer, and parses another 256 kB of requests
            self.flow.pause_reading()
        else:
            self.flow.resume_reading()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        del msg
        self._refuse(MALFORMED_REQUEST)

    def shutdown(self) -> None:
        """Ask the connection to end: after its answer, or after a moment without a request."""
        self._is_leaving = True
        if self._is_idle():
            self.loop.call_later(GOODBYE_SECONDS, self._leave)
        else:
            self.cycle.keep_alive = False

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _leave(self) -> None:
        if self._is_idle():
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        self.transport.write(refusal.raw())
        self.transport.close()
        self._abandon()

    def _abandon(self) -> None:
        """Tell all requests of this connection that nobody waits any more.

        uvicorn 0.54 tells only the one parsed last: one that runs before pipelined others would write to a closed
        transport, and that is an exception.
        """
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()

    def _look(self) -> None:
        limits = self._limits
        seconds = limits.headers_seconds
        waits_for_its_next_request = (
            self._is_idle()
            and self.cycle is not None
            and not self._header_bytes
            and not self.transport.is_closing()  # else it waits for the client to read what is left of an answer
        )
        if waits_for_its_next_request:
            allowed = limits.idle_seconds
        else:
            allowed = seconds if self._is_idle() else 2 * seconds + BUSY_SECONDS
        left = self._since + allowed - self.loop.time()
        if left <= 0 and not waits_for_its_next_request:
            self.transport.abort()
            return
        if left <= 0:
            self.transport.close()
        # what begins meanwhile is looked at in time, too
        self._timer = self.loop.call_later(max(min(left, seconds), 1.0), self._look)
