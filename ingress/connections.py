"""HTTP connections: uvicorn's protocol with the limits that it lacks.

Each method says what uvicorn 0.54 lacks and calls `super()`; `tests/contract/test_uvicorn.py` fails when uvicorn
changes what is relied on here. In sum: headers, trailers and everything else around a body are bounded in number,
bytes and time; a client that does not read its answers loses its connection; `Upgrade` is ignored, as RFC 9110 7.8
allows, and the body is read as if it were not there; a refusal is JSON.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Sized
from typing import Any, Final, Protocol

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ingress.errors import HEADERS_TOO_LARGE, MALFORMED_REQUEST, METHOD_NOT_ALLOWED, TOO_MANY_CONNECTIONS, Refusal

HEADER_BYTES: Final = 65_536
"""Bound on the bytes around a body, wherever they stand: headers, chunk sizes, trailers. One read may go beyond it."""
HEADER_FIELDS: Final = 256
"""Bound on the header fields of one message, trailers included."""
BYTES_PER_BODY_BYTE: Final = 16
"""A chunk of one byte has a size line and line ends around it. Each byte of a body takes so many off the count of
what came before it, and allows nothing for what comes after it: 16 MB of one trailer would fit after 1 MiB."""
BUSY_SECONDS: Final = 10.0
"""Added to the time for headers and body: beyond it a request is stuck, with a client that does not read its answer."""
PIPELINED: Final = 100
"""Bound on the requests that a client may send before it has the answer to the first of them."""
RECEIVE_BYTES: Final = 65_536
"""That the kernel keeps of each connection, and so what one turn of the loop reads of it at most: what was read and is
not asked for yet is in no budget. Left to itself the kernel keeps megabytes. A body of 1 MiB still comes in 5 s over a
line with a round trip of 300 ms."""
GOODBYE_SECONDS: Final = 0.3
"""How long an idle connection may still bring a request after shutdown has begun."""


class ConnectionSettings(Protocol):
    """What connections are told, by the application's state `settings`; times in seconds."""

    @property
    def keep_alive(self) -> float:
        """For which an idle connection stays open."""

    @property
    def body_timeout(self) -> float:
        """That a client has for its headers, and again for its body."""

    @property
    def connections(self) -> int:
        """Open ones at the most."""


class _RefusedError(Exception):
    """Ends parsing with an answer; raised to the parser, which reports it to uvicorn as a request that is invalid."""


class _Parser(httptools.HttpRequestParser):
    """Reads a request that asks for an upgrade as one that does not.

    llhttp stops after the headers of such a request, and httptools reports what follows as another protocol: uvicorn
    then drops the body or parses it as the next request (uvicorn#2722, httptools#124). Here the same head is fed again
    without the `Upgrade` field.
    """

    def __init__(self, connection: "Connection") -> None:
        super().__init__(connection)
        self._connection = connection

    def feed_data(self, data: bytes) -> None:  # type: ignore[override] # uvicorn gives bytes
        """Parse; what comes after the head of an upgrade is parsed as its body."""
        while True:
            try:
                super().feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._connection.head_without_upgrade() + data[upgrade.args[0] :]
            else:
                return


class _FlowControl(FlowControl):
    """Reads on only when no request waits for the answer to an earlier one.

    uvicorn reads on with each answer and whenever an application asks for its body, and so parses another 256 kB of
    requests, with their bodies, while up to `PIPELINED` of them wait.
    """

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Read on, unless requests wait."""
        if not self._pipeline:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """One client's connection, with one timer that looks after it every few seconds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = _Parser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._settings: ConnectionSettings = self.app_state["settings"]
        self.timeout_keep_alive = self._settings.keep_alive
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._refusal = MALFORMED_REQUEST
        self._has_failed = False
        self._is_leaving = False
        self._around_body = 0
        """Bytes around bodies; see `BYTES_PER_BODY_BYTE`."""
        self._arriving: RequestResponseCycle | None = None
        self._begin_message()

    # Called by the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer: uvicorn's keep-alive timer starts with the first answer, and ends with any byte."""
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self.flow = _FlowControl(transport, self.pipeline)
        self._since = self.loop.time()
        self._timer = self.loop.call_later(self._settings.body_timeout, self._check_timeouts)
        if len(self.connections) > self._settings.connections:
            self._refuse(TOO_MANY_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all requests that their client is gone, and cancel the timers.

        uvicorn tells only the request that was parsed last, and after a reset keeps its keep-alive timer, and with it
        this connection.
        """
        self._timer.cancel()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        self._abandon()
        super().connection_lost(exc)
        # What waits holds its body and names this connection: reference cycles, which are collected seldom.
        self.pipeline.clear()
        self._unanswered.clear()
        self._arriving = self.cycle = None  # type: ignore[assignment] # as uvicorn begins

    def data_received(self, data: bytes) -> None:
        """Bound what arrives around bodies, such as a header line without an end; uvicorn and llhttp do not."""
        if self._has_failed or self.transport.is_closing():
            return
        if not self._unanswered and self._is_complete and not self._around_body:
            self._since = self.loop.time()  # the first byte of a request, or of empty lines before it
        self._around_body += len(data)
        super().data_received(data)
        if self._around_body > HEADER_BYTES:
            self._refuse(HEADERS_TOO_LARGE)

    # Called by the parser

    def on_message_begin(self) -> None:
        """Count anew."""
        super().on_message_begin()
        self._begin_message()
        self._is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count fields, drop trailers (uvicorn puts them among the headers), and cut blanks that llhttp leaves."""
        self._fields += 1
        if self._fields > HEADER_FIELDS:
            self._refusal = HEADERS_TOO_LARGE
            raise _RefusedError
        if not self._has_headers:
            super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        """Start the request, or let it wait for those that were sent before it; uvicorn queues any number."""
        self._has_headers = True
        if self.parser.get_method() == b"CONNECT":
            self._refusal = METHOD_NOT_ALLOWED
            raise _RefusedError
        if self.parser.should_upgrade():
            return  # the head comes again, without the upgrade
        if len(self._unanswered) >= PIPELINED:
            raise _RefusedError
        super().on_headers_complete()
        self._arriving = self.cycle
        self._unanswered.append(self.cycle)
        if self._is_leaving:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Tell a body from what is around it."""
        self._around_body = max(0, self._around_body - (1 + BYTES_PER_BODY_BYTE) * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the message, unless it is the head of an upgrade."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._begin_message()

    # Called by uvicorn

    def on_response_complete(self) -> None:
        """Start the clock of what comes next; uvicorn has none for a request that is on its way."""
        self._since = self.loop.time()
        self._unanswered.popleft()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, in our form."""
        del msg
        self._refuse(self._refusal)

    def shutdown(self) -> None:
        """End the connection after its answer; an idle one after a moment, so that a request on its way is answered."""
        self._is_leaving = True
        if not self._unanswered:
            self.loop.call_later(GOODBYE_SECONDS, super().shutdown)
        else:
            super().shutdown()  # at once: later, the answer might have gone out without `Connection: close`

    # Called by this class

    def head_without_upgrade(self) -> bytes:
        """Return the head that was parsed last, without its `Upgrade` fields."""
        lines = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines))

    def _begin_message(self) -> None:
        self._is_complete = True
        self._has_headers = False
        self._arriving = None
        self._fields = self._around_body = 0

    def _refuse(self, refusal: Refusal) -> None:
        """Answer and close: at once, or after the answers to the requests that came before."""
        current = self._arriving
        earlier = [cycle for cycle in self._unanswered if cycle is not current]
        if earlier:
            self._has_failed = True
            earlier[-1].keep_alive = False
            return
        if current is None or not current.response_started:
            self.transport.write(refusal.raw())
        self.transport.close()
        self._abandon()

    def _abandon(self) -> None:
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()

    def _check_timeouts(self) -> None:
        """Abort a connection whose request takes too long.

        One that waits for its next request is left to uvicorn's keep-alive timer, which runs unless a byte has come.
        """
        seconds = self._settings.body_timeout
        is_idle = not self._unanswered
        allowed = seconds if is_idle else 2 * seconds + BUSY_SECONDS
        is_waiting = is_idle and self.timeout_keep_alive_task is not None and not self.transport.is_closing()
        left = self._since + allowed - self.loop.time()
        if left <= 0 and not is_waiting:
            self.transport.abort()
            return
        self._timer = self.loop.call_later(max(min(left, seconds), 1.0), self._check_timeouts)
