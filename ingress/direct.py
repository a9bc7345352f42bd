"""Requests that arrive whole are answered without a task: parsed, judged, appended, and answered when Redis confirms.

Nearly every webhook comes in one piece. Such a request needs no coroutine that could wait for more of it, no scope, no
messages to and fro: what uvicorn and asyncio spend on these is more than half of a request. Whatever is not plain (a
body in pieces, another method, a query, an escape, pipelining, a question of a provider) takes the way through ASGI,
`ingress.app`, and is answered there.

Guarantees: the same answers as through ASGI, in the order of the requests. Refuses: the same.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from ingress.connections import Connection
from ingress.errors import Refusal
from ingress.receive import ACCEPTED_HEADERS, PREFIX

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from ingress.receive import Webhooks

_PREFIX: Final = PREFIX.encode()
_STORED: Final = b"".join(b"%b: %b\r\n" % header for header in ACCEPTED_HEADERS)


class Direct:
    """A request on the short way; to uvicorn it looks like a cycle of its own."""

    __slots__ = ("disconnected", "keep_alive", "message_event", "response_complete")

    def __init__(self, message_event: asyncio.Event) -> None:
        self.message_event = message_event
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False


class DirectConnection(Connection):
    """One client's connection, with the short way."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection."""
        self._pieces: list[bytes] | None = None  # of the body, while the way is still open
        self._nobody_waits = asyncio.Event()
        self._webhooks: Webhooks = self.app_state["webhooks"]
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Read; a request whose end is not among the data goes through ASGI."""
        super().data_received(data)
        if self._pieces is not None:
            if self.transport.is_closing():
                self._pieces = None
            else:
                self._take_the_long_way()

    def on_message_begin(self) -> None:
        """Begin a request; its scope is made only if it goes through ASGI."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Leave the way open if the request is plain so far."""
        parser = self.parser
        self._pieces = []
        if (
            not self.url.startswith(_PREFIX)
            or parser.get_method() != b"POST"
            or not self._is_idle()
            or not parser.should_keep_alive()
            or parser.get_http_version() != "1.1"
            or parser.should_upgrade()
            or self.expect_100_continue
            or self.flow.write_paused
            or self._is_leaving
        ):
            self._take_the_long_way()

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        if self._pieces is None:
            super().on_body(body)
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Append the event; it is answered when Redis has confirmed it."""
        pieces = self._pieces
        if pieces is not None:
            if self._append(pieces[0] if len(pieces) == 1 else b"".join(pieces)):
                self._pieces = None
                self._header_bytes = 0
                return
            self._take_the_long_way()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; behind an event that was appended, its own answer comes and ends the connection."""
        direct = self._unanswered[0] if self._unanswered else None
        if not isinstance(direct, Direct):
            super().send_400_response(msg)
            return
        direct.keep_alive = False
        self.flow.pause_reading()
        for behind in list(self._unanswered)[1:]:
            behind.disconnected = True
            behind.message_event.set()

    def _append(self, body: bytes) -> bool:
        """Say whether the request goes the short way to its end."""
        direct = Direct(self._nobody_waits)
        try:
            name = self.url[len(_PREFIX) :].decode("ascii")
            verdict = self._webhooks.append(name, self.headers, body, partial(self._answer, direct))
        except Exception:  # noqa: BLE001 on the long way it happens again, is logged and answered
            return False
        if verdict is False:
            return False
        self.cycle = cast("RequestResponseCycle", direct)
        self._unanswered.append(self.cycle)
        if isinstance(verdict, Refusal):
            self._answer(direct, verdict)
        return True

    def _answer(self, direct: Direct, outcome: str | Refusal) -> None:
        direct.response_complete = True
        if direct.disconnected:
            return
        defaults = b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])
        if isinstance(outcome, Refusal):
            answer = outcome.raw(more=defaults, close=not direct.keep_alive)
        else:
            closing = b"" if direct.keep_alive else b"connection: close\r\n"
            answer = b'HTTP/1.1 200 OK\r\n%b%b%b\r\n{"id":"%b"}' % (defaults, _STORED, closing, outcome.encode())
        self.transport.write(answer)
        if not direct.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _take_the_long_way(self) -> None:
        """Give to ASGI what has come of the request."""
        pieces, self._pieces = self._pieces, None
        url, headers, expect_100_continue = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope, and forgets these
        self.url, self.expect_100_continue = url, expect_100_continue
        self.headers += headers
        super().on_headers_complete()
        for piece in pieces or ():
            super().on_body(piece)
