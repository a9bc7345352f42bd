"""A TCP proxy that cuts, delays, silences, and ends a client's process at a chosen moment of its conversation.

It stands between every process of the pipeline and a server. Bytes keep their order; untouched, it adds well under a
millisecond.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_REMEMBERED: Final = 2**20
_HEARING_SECONDS: Final = 0.05
"""In which Postgres works on what was said before the word."""


@dataclass(slots=True, kw_only=True, eq=False)
class Trap:
    """Kill whoever says something, at the moment of saying it.

    Attributes:
        word: the bytes that spring the trap.
        among: tells the processes that it is for; only a client of theirs springs it.
        after: bytes that the client must have sent since it last said `word`.
        delivered: whether the server gets the word; its answer never reaches the client. Otherwise Postgres gets what
            was said before the word's message, Redis nothing of what came with it.
        sprung: the process that was killed.
    """

    word: bytes
    among: Callable[[], Collection[int]]
    after: bytes = b""
    delivered: bool = False
    sprung: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Proxy:
    """Forwards a port of ours to a port of the server's, and interferes.

    Attributes:
        refuses: new connections are closed at once.
        delay: seconds added in each direction.
        silent: a silence lasts; see `hush`.
    """

    def __init__(self, *, to: int) -> None:
        self._to = to
        self._links: set[_Link] = set()
        self._traps: list[Trap] = []
        self._server: asyncio.Server | None = None
        self.refuses = False
        self.delay = 0.0
        self.silent = False
        self.port = 0

    async def start(self, port: int) -> None:
        """Listen on a port of the loopback."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Client(self), "127.0.0.1", port, backlog=512
        )
        self.port = port

    def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        self.cut()

    def cut(self) -> None:
        """Reset all connections."""
        for link in list(self._links):
            link.reset()

    def hush(self) -> None:
        """Let what the connections of this moment say vanish, both ways and for good; new ones work."""
        self.silent = True
        for link in self._links:
            link.is_silent = True

    def end_hush(self, *, reset: bool) -> None:
        """Tell the server of clients that are gone; whoever still waits for an answer goes on waiting, or is reset."""
        self.silent = False
        for link in list(self._links):
            if link.is_silent and (reset or link.client.is_closing()):
                link.reset()

    def set(self, trap: Trap) -> None:
        """Lay a trap; `lift` it when it is no longer wanted."""
        self._traps.append(trap)

    def lift(self, trap: Trap) -> None:
        """Take a trap away."""
        with suppress(ValueError):
            self._traps.remove(trap)

    def client_behind(self, port: int) -> int | None:
        """Return the client's port of the connection that reaches the server from this port of ours."""
        for link in self._links:
            if link.server is not None and link.server.get_extra_info("sockname")[1] == port:
                return link.client_port
        return None

    def _springs(self, link: _Link, data: bytes) -> Trap | None:
        """Say which trap these bytes spring."""
        if not self._traps:
            link.said = b""
            return None
        link.said = (link.said + data)[-_REMEMBERED:]
        for trap in self._traps:
            if trap.word in data and trap.after in link.said and owner(link.client_port, trap.among()) is not None:
                return trap
        if any(trap.word in data for trap in self._traps):
            link.said = b""
        return None


class _Link:
    """One client's connection and the one to the server behind it."""

    def __init__(self, proxy: Proxy, client: asyncio.Transport) -> None:
        self.proxy = proxy
        self.client = client
        self.client_port: int = client.get_extra_info("peername")[1]
        self.server: asyncio.Transport | None = None
        self.said = b""
        self.is_dead = False
        self.is_silent = False
        self._early: list[bytes] = []
        self._ready_at = [0.0, 0.0]
        proxy._links.add(self)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Server(self), "127.0.0.1", self.proxy._to)
        except OSError:
            self.reset()

    def opened(self, server: asyncio.Transport) -> None:
        self.server = server
        for data in self._early:
            self.pass_on(data, up=True)
        self._early.clear()

    def from_client(self, data: bytes) -> None:
        if self.is_dead:
            return
        if self.server is None:
            self._early.append(data)
            return
        trap = None if self.is_silent else self.proxy._springs(self, data)
        if trap is None:
            self.pass_on(data, up=True)
            return
        pid = owner(self.client_port, trap.among())
        self.proxy.lift(trap)
        self.is_dead = True
        heard = data if trap.delivered else data[: _message_start(data, trap.word)]
        self.server.write(heard)
        if heard and not trap.delivered:
            asyncio.get_running_loop().call_later(_HEARING_SECONDS, self._kill, trap, pid)
        else:
            self._kill(trap, pid)

    def _kill(self, trap: Trap, pid: int | None) -> None:
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if not trap.sprung.done():
                trap.sprung.set_result(pid)

    def pass_on(self, data: bytes, *, up: bool) -> None:
        """Forward bytes, late if there is a delay, never if there is silence."""
        proxy = self.proxy
        if self.is_silent or self.is_dead:
            return
        loop = asyncio.get_running_loop()
        at = max(loop.time() + proxy.delay, self._ready_at[up])
        if proxy.delay or at > loop.time():
            self._ready_at[up] = at
            loop.call_at(at, self._write, data, up)
        else:
            self._write(data, up)

    def _write(self, data: bytes, up: bool) -> None:  # noqa: FBT001 - call_at passes no keywords
        if self.is_silent:
            return
        target = self.server if up else self.client
        if target is not None and not target.is_closing():
            target.write(data)

    def ended(self) -> None:
        """One side closed: so does the other, behind what is still to be forwarded."""
        if self.is_silent and (self.proxy.silent or not self.client.is_closing()):
            return  # the other side does not hear of it
        self.proxy._links.discard(self)
        for transport in (self.client, self.server):
            if transport is not None:
                transport.close()

    def reset(self) -> None:
        self.proxy._links.discard(self)
        for transport in (self.client, self.server):
            if transport is not None:
                transport.abort()


class _Client(asyncio.Protocol):
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._link: _Link | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # sockets are such
        if self._proxy.refuses:
            transport.abort()
        else:
            self._link = _Link(self._proxy, transport)

    def data_received(self, data: bytes) -> None:
        if self._link is not None:
            self._link.from_client(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._link is not None:
            self._link.ended()


class _Server(asyncio.Protocol):
    def __init__(self, link: _Link) -> None:
        self._link = link

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # sockets are such
        if self._link.client.is_closing():
            transport.abort()
        else:
            self._link.opened(transport)

    def data_received(self, data: bytes) -> None:
        self._link.pass_on(data, up=False)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._link.ended()


def _message_start(data: bytes, word: bytes) -> int:
    """Return where the message of Postgres' protocol begins that says the word; 0 if there is none.

    A Parse is a P, four bytes of length, an empty name's NUL, and the text; a Query is a Q, the length, and the text.
    """
    at = data.find(word)
    while at >= 0:
        for kind, ahead in ((b"P", 6), (b"Q", 5)):
            if at >= ahead and data[at - ahead : at - ahead + 1] == kind:
                return at - ahead
        at = data.find(word, at + 1)
    return 0


def owner(port: int, pids: Collection[int]) -> int | None:
    """Return the process among these that holds the local TCP port."""
    for pid in pids:
        with suppress(psutil.Error):
            if any(link.laddr and link.laddr.port == port for link in psutil.Process(pid).net_connections("tcp")):
                return pid
    return None
