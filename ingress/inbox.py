"""Step 4: append to the inbox, all that waits in one round trip (group commit), and ring the doorbell with it.

Guarantees: an event counts as stored only when Redis has confirmed its own XADD; every caller has its verdict within
the timeout; Redis may go and come back at any time. While one round trip is under way, arriving events collect for the
next: no timer, no added latency at rest. Refuses (False): Redis away, slow, full, or too much waiting for it.

An event that was refused may have been written all the same, if Redis did not say so in time: the sender comes again,
and the fingerprint makes the two one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from itertools import chain
from typing import TYPE_CHECKING, Final, cast

from hiredis import pack_command
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from shared.envelope import Envelope, encode
from shared.wire import INBOX, RING, ring_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio.connection import AbstractConnection

    from ingress.metrics import Counts

log: Final = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 0.05
"""Between two attempts to reach a Redis that refuses connections, so that a flood does not become a flood of them."""

Entry = tuple[bytes, "asyncio.Future[bool]"]


class Inbox:
    """Appends entries through one connection that is made again whenever it fails.

    Attributes:
        room: bytes that Redis may still take, set by whoever watches its memory; None: no bound.
    """

    def __init__(
        self, *, redis_url: str, timeout: float, waiting_bytes: int, ingest_slots: int, counts: Counts
    ) -> None:
        # One attempt for each command: the client's own retries would write an entry twice and double the wait.
        # The timeout is kept here, over the whole round trip, not by the client for every reply.
        self._pool = ConnectionPool.from_url(
            redis_url,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=timeout,
            protocol=2,
            decode_responses=False,
        )
        self._timeout = timeout
        self._bound = waiting_bytes
        self._slots = ingest_slots
        self._counts = counts
        self._connection: AbstractConnection | None = None
        self._waiting: list[Entry] = []
        self._oldest = 0.0
        self._wake = asyncio.Event()
        self._is_answering = True
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None
        self.room: float | None = None

    def start(self) -> None:
        """Begin to append; call it inside the loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="inbox")

    async def stop(self) -> None:
        """Append what waits, then close the connection."""
        self._is_closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        await self._drop()

    def append(self, envelope: Envelope) -> asyncio.Future[bool] | None:
        """Queue one entry.

        Returns:
            A future that tells whether Redis confirmed it, or None if there is no room for it.
        """
        command = pack("XADD", INBOX, "*", *chain.from_iterable(encode(envelope).items()))
        size = len(command)
        counts = self._counts
        if counts.waiting_bytes + size > self._bound or (self.room is not None and size > self.room):
            return None
        counts.waiting_bytes += size
        if self.room is not None:
            self.room -= size
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        if not self._waiting:
            self._oldest = loop.time()
            self._wake.set()
        self._waiting.append((command, future))
        return future

    async def _run(self) -> None:
        while not self._is_closing or self._waiting:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    await self._flush(batch, self._oldest + self._timeout)
                except Exception:
                    # This task must outlive anything, or every later request would wait for ever.
                    log.exception("unexpected error in the inbox", extra={"code": "internal_error"})
                    await self._drop()

    async def _flush(self, batch: Sequence[Entry], deadline: float) -> None:
        """Append one batch.

        1. Reach Redis.
        2. Send everything and the doorbell in one write.
        3. Judge each reply by itself, as it comes: a failure behind it takes nothing back.
        4. Whoever has no verdict by then, has False.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        commands = [command for command, _ in batch]
        refused: ResponseError | None = None
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self._reach()
                await connection.send_packed_command([b"".join([*commands, self._doorbell()])], check_health=False)
                for _, stored in batch:
                    try:
                        await connection.read_response(disable_decoding=True)
                    except ResponseError as error:
                        refused = error
                        settle(stored, is_stored=False)
                    else:
                        settle(stored, is_stored=True)
                try:
                    await connection.read_response(disable_decoding=True)
                except ResponseError:
                    self._counts.silent_bells += 1
            if isinstance(refused, ReadOnlyError):
                await self._drop()  # a failover: connecting again finds the new primary
        except (RedisError, OSError, TimeoutError) as error:
            self._tell_failure(error)
            await self._drop()
            if deadline - loop.time() > PAUSE_SECONDS:
                await asyncio.sleep(PAUSE_SECONDS)
        else:
            self._tell_failure(refused)
        finally:
            for _, stored in batch:
                settle(stored, is_stored=False)
            self._counts.waiting_bytes -= sum(map(len, commands))
            self._counts.flush_entries.observe(len(batch))
            self._counts.flush_seconds.observe(loop.time() - started)

    async def _reach(self) -> AbstractConnection:
        """Return a connection that nobody has closed; otherwise the first event after a restart of Redis would fail."""
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(RedisError, OSError):
                if not await connection.can_read():
                    return connection
            await self._drop()
        connection = self._connection = cast("AbstractConnection", self._pool.make_connection())  # type: ignore[no-untyped-call]
        await connection.connect()  # type: ignore[no-untyped-call]
        return connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await connection.disconnect(nowait=True)

    def _doorbell(self) -> bytes:
        keys, arguments = ring_arguments(self._slots)
        return pack("EVAL", RING, len(keys), *keys, *arguments)

    def _tell_failure(self, error: BaseException | None) -> None:
        """Log the change between answering and not answering, not every event."""
        if error is not None and self._is_answering:
            log.error(
                "the inbox takes no events: %s", error or type(error).__name__, extra={"code": "inbox_unavailable"}
            )
        elif error is None and not self._is_answering:
            log.info("the inbox takes events again")
        self._is_answering = error is None


def pack(*arguments: str | bytes | int) -> bytes:
    """Return one command as it stands on the wire: in C, redis-py's own packing takes five times as long."""
    packed: bytes = pack_command(arguments)  # type: ignore[arg-type] # the stub knows tuples of one only
    return packed


def settle(stored: asyncio.Future[bool], *, is_stored: bool) -> None:
    """Give a waiting request its verdict, unless it has one or was cancelled."""
    if not stored.done():
        stored.set_result(is_stored)
