"""Connections to Redis: one from the moment it is ready for commands, and plain clients.

redis-py makes the connection, for it knows URLs, TLS, users and databases, and then has no part in it any more: its
`read_response` is a coroutine for each reply, and costs more than all the rest of an event. Here a chunk of bytes
becomes all the replies in it.

Guarantees: replies come in the order of the commands. What is no Redis protocol, and a reply to no command, end the
connection.
"""

import asyncio
from typing import Final, cast

from hiredis import ProtocolError, Reader
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from shared.redis_client import make_async_pool

_NOTHING: Final = object()


class RedisConnection(asyncio.Protocol):
    """A connection that somebody else has opened; while it `is_open`, commands may be sent."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer  # kept, because it closes the connection when it is forgotten
        self._transport = cast("asyncio.Transport", writer.transport)
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(notEnoughData=_NOTHING)
        self._replies: list[object] = []
        self._expected = 0
        self._done: asyncio.Future[None] | None = None
        self.is_open = not self._transport.is_closing()
        self._transport.set_protocol(self)

    async def exchange(self, commands: bytes, replies: list[object], *, count: int) -> None:
        """Send `count` packed commands and wait for their replies, errors of Redis as `hiredis.ReplyError`.

        Raises:
            OSError: the connection was lost; `replies` has what came before.
        """
        self._replies, self._expected = replies, count
        self._done = self._loop.create_future()
        self._transport.write(commands)
        await self._done

    def close(self) -> None:
        """Close the connection; what Redis still says to it is not wanted."""
        self.is_open = False
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Collect every reply that is complete."""
        if not self.is_open:
            return
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _NOTHING:
                self._replies.append(reply)
        except ProtocolError as error:
            self._end(f"Redis sent no Redis protocol: {error}")
            return
        if len(self._replies) > self._expected:
            self._end("Redis sent a reply to no command")
        elif len(self._replies) == self._expected and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def eof_received(self) -> None:
        """Close at once: what is written from here on would be lost."""
        self._end("Redis closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits for replies."""
        self._end(str(exc or "Redis closed the connection"))

    def _end(self, reason: str) -> None:
        self.close()
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionResetError(reason))


def make_pool(redis_url: str, timeout: float, *, prefix: str, reply_timeout: float | None = None) -> ConnectionPool:
    """Return what makes connections, one attempt each: redis-py's own retries would write an entry twice.

    The inbox needs no timeout of replies: it keeps its own, over the whole round trip.
    """
    pool = make_async_pool(
        redis_url,
        prefix=prefix,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=reply_timeout,
        socket_connect_timeout=timeout,
        decode_responses=False,
    )
    pool.connection_kwargs["protocol"] = 2  # whatever the URL says: nothing but replies may come
    return pool


def make_client(redis_url: str, timeout: float, *, prefix: str) -> Redis:
    """Return a client for what is not on the path of a request; each reply must come within `timeout` seconds."""
    return Redis.from_pool(make_pool(redis_url, timeout, prefix=prefix, reply_timeout=timeout))


async def connect(pool: ConnectionPool) -> RedisConnection:
    """Connect, log in, choose the database, and take the connection over.

    Raises:
        redis.exceptions.RedisError: there is no Redis, or not for us.
        OSError: the same.
    """
    connection = cast("AbstractConnection", pool.make_connection())  # type: ignore[no-untyped-call]
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    writer = connection._writer  # noqa: SLF001 redis-py has no other way to part from its connection
    if writer is None:
        raise ConnectionResetError("Redis closed the connection")
    connection._reader = connection._writer = None  # noqa: SLF001 the same: else it closes it when it is forgotten
    return RedisConnection(writer)
