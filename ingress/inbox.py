"""Step 4: append to the inbox, all that waits in one round trip (group commit), and ring the doorbell with it.

Guarantees: an event counts as stored only when Redis has confirmed its own XADD; every caller has an answer within the
timeout; Redis may go and come back at any time. While one round trip is under way, arriving events collect for the
next: no timer, no added latency at rest. Redis away, slow or full, or too much waiting for it, is answered with False.

    append ──▶ waiting ──_send_batch──▶ in flight ──_finish──▶ answered: True, or False where Redis refused
                  ▲                        │
                  └── pause ◀── _fail ─────┘ connection lost or too slow: False for whoever has no reply yet

At most one batch is in flight. A reply belongs to a command by its place alone, so an unexpected reply fails the batch.
An event that was answered with False may have been written all the same, if Redis did not say so in time: the provider
sends it again, and the fingerprint makes the two one.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from hiredis import ReplyError, pack_command
from redis.exceptions import RedisError

from ingress.redis_connection import RedisConnection, connect, make_pool
from shared.envelope import Envelope, encode
from shared.wire import INBOX, RING, ring_arguments

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingress.metrics import Metrics

    Stored = asyncio.Future[bool]

log: Final = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 0.05
"""Pause between reconnection attempts, so that a burst of requests does not become a burst of connections."""
QUIET_SECONDS: Final = 0.005
"""After a doorbell: events that come so soon share the next one, which is rung whether or not others follow. A doorbell
costs Redis and the ingress more than an event, and a drain that has just been called is not there sooner."""
_TICK_SECONDS: Final = 0.001  # the loop's timers may be early by less


@dataclass(slots=True, eq=False)
class _Batch:
    """One round trip: what was sent together.

    Attributes:
        entries: packed XADDs, each with the future of its answer.
        size: bytes of all entries.
        started: in the loop's time.
        deadline: when the last answer is due.
        rings: whether the doorbell is sent after the entries.
        replies: how many have come.
        refused: the last error that Redis answered to an entry.
    """

    entries: list[tuple[bytes, Stored]]
    size: int
    started: float
    deadline: float
    rings: bool
    replies: int = 0
    refused: ReplyError | None = None

    def is_over(self) -> bool:
        """Return whether every reply has come."""
        return self.replies == len(self.entries) + self.rings

    def waits_for_doorbell(self) -> bool:
        """Return whether the next reply is the doorbell's."""
        return self.replies == len(self.entries)

    def expects(self, reply: object) -> bool:
        """Return whether a reply is of the kind that comes next: an entry's id, or the number that RING returns."""
        return isinstance(reply, int if self.waits_for_doorbell() else bytes)


class _Doorbell:
    """Decides which batches ring: at once after a rest, and in a burst once in a while for all that has come.

    After every event that Redis has confirmed it is rung, `QUIET_SECONDS` later at most. The sweeper makes up for one
    that could not be rung.

    Attributes:
        is_owed: events wait for a doorbell, and the quiet after the last one is over.
    """

    def __init__(self, *, slots: int, wake: Callable[[], None]) -> None:
        """Begin with no doorbell rung.

        Args:
            slots: drains that there are.
            wake: called when a doorbell is owed, so that a batch is sent even without entries.
        """
        self._slots = slots
        self._wake = wake
        self._quiet_ends = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.is_owed = False

    def should_ring(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether a batch that is sent now has to ring; if not, one that is sent later will."""
        self.is_owed = False
        is_due = loop.time() >= self._quiet_ends
        if is_due and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif not is_due and self._timer is None:
            self._timer = loop.call_at(self._quiet_ends, self._end_quiet)
        return is_due

    def mark_rung(self, now: float) -> None:
        """Begin the quiet. After a refusal it does not begin, and the next batch rings."""
        self._quiet_ends = now + QUIET_SECONDS

    def ring_in(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        """Ring after so long, unless it is rung before."""
        if self._timer is None:
            self._timer = loop.call_later(seconds, self._end_quiet)

    def ring_now(self) -> None:
        """End the quiet if events wait for its end."""
        if self._timer is not None:
            self._timer.cancel()
            self._end_quiet()

    def command(self) -> bytes:
        """Return the command that rings."""
        keys, arguments = ring_arguments(self._slots)
        return _pack("EVAL", RING, len(keys), *keys, *arguments)

    def _end_quiet(self) -> None:
        self._timer = None
        self._quiet_ends = 0.0
        self.is_owed = True
        self._wake()


class Inbox:
    """Appends entries through one connection that is made again whenever it fails.

    Attributes:
        room: bytes that Redis may still take, set by whoever watches its memory; None: no bound.
    """

    def __init__(
        self, *, redis_url: str, timeout: float, waiting_bytes: int, ingest_slots: int, metrics: Metrics
    ) -> None:
        self._pool = make_pool(redis_url, timeout)
        self._timeout = timeout
        self._bound = waiting_bytes
        self._doorbell = _Doorbell(slots=ingest_slots, wake=self._ring_late)
        self._metrics = metrics
        metrics.waiting_bytes.set_function(lambda: self._held)
        self._held = 0
        self._waiting: list[tuple[bytes, Stored]] = []
        self._waiting_size = 0
        self._oldest = 0.0
        self._batch: _Batch | None = None
        self._connection: RedisConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._next_batch: asyncio.Handle | None = None
        self._pause_ends = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_answering = True
        self._is_stopping = False
        self._finished = asyncio.Event()
        self.room: float | None = None

    def start(self) -> None:
        """Begin to append; call it inside the loop."""
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """Append what waits, then close the connection."""
        self._is_stopping = True
        self._doorbell.ring_now()
        while self._batch or self._waiting:
            self._finished.clear()
            await self._finished.wait()
            self._doorbell.ring_now()
        if self._timer is not None:
            self._timer.cancel()
        self._disconnect()

    def append(self, envelope: Envelope) -> Stored | None:
        """Queue one entry.

        Returns:
            A future that will say whether Redis has confirmed it, within the timeout; None if there is no room for it.
        """
        command = _pack("XADD", INBOX, "*", *chain.from_iterable(encode(envelope).items()))
        size = len(command)
        if self._held + size > self._bound or (self.room is not None and size > self.room):
            return None
        self._held += size
        if self.room is not None:
            self.room -= size
        if not self._waiting:
            self._oldest = self._loop.time()
            if self._batch is None and self._next_batch is None:
                self._schedule(self._oldest)
        stored = self._loop.create_future()
        self._waiting.append((command, stored))
        self._waiting_size += size
        return stored

    def _schedule(self, now: float) -> None:
        """Send a batch when everything that has arrived together is read, or when the pause after a failure is over."""
        pause = self._pause_ends - now
        loop = self._loop
        self._next_batch = loop.call_later(pause, self._send_batch) if pause > 0 else loop.call_soon(self._send_batch)

    def _send_batch(self) -> None:
        """Send everything that waits in one write, and the doorbell unless it has just been rung."""
        self._next_batch = None
        now = self._loop.time()
        rings = self._doorbell.should_ring(self._loop)
        deadline = (self._oldest if self._waiting else now) + self._timeout
        batch = self._batch = _Batch(self._waiting, self._waiting_size, now, deadline, rings)
        self._waiting, self._waiting_size = [], 0
        if self._timer is None:
            self._timer = self._loop.call_at(batch.deadline, self._check_deadline)
        if self._connection is not None and self._connection.is_open:
            self._write(self._connection, batch)
        else:
            self._connecting = self._loop.create_task(self._connect(), name="inbox")

    def _write(self, connection: RedisConnection, batch: _Batch) -> None:
        commands = [command for command, _ in batch.entries]
        if batch.rings:
            commands.append(self._doorbell.command())
        connection.write(b"".join(commands))

    def _ring_late(self) -> None:
        if self._batch is None and self._next_batch is None:
            self._send_batch()  # else the batch after this one rings

    async def _connect(self) -> None:
        """Reach Redis for the batch that waits for it."""
        connection, failure = None, Exception()
        try:
            connection = await connect(self._pool, on_replies=self._receive, on_lost=self._fail)
        except Exception as error:  # whatever it is, later requests must not wait for ever
            if not isinstance(error, (RedisError, OSError, TimeoutError)):
                log.exception("unexpected error in the inbox", extra={"code": "internal_error"})
            failure = error
        if self._connecting is not asyncio.current_task() or self._batch is None:
            if connection is not None:
                connection.close()  # too late: `asyncio.wait_for` of Python 3.11, in redis-py, swallows a cancellation
            return
        self._connecting, self._connection = None, connection
        if connection is None:
            self._fail(failure)
        else:
            self._write(connection, self._batch)

    def _receive(self, replies: list[object]) -> None:
        """Match replies to entries, each by itself: a failure later takes nothing back.

        1. Pair replies and entries; the one after the entries is the doorbell's.
        2. If the batch is over, send the next one, so that Redis has work while the answers are written.
        3. Answer.
        """
        answers: list[tuple[Stored, bool]] = []
        for reply in replies:
            batch = self._batch
            error = reply if isinstance(reply, ReplyError) else None
            if batch is None or batch.is_over() or not (error or batch.expects(reply)):
                self._fail(ConnectionResetError("Redis sent a reply to no command"))
                break
            if batch.waits_for_doorbell():
                if error is None:
                    self._doorbell.mark_rung(self._loop.time())
                else:
                    self._metrics.silent_bells.inc()
            else:
                batch.refused = error or batch.refused
                answers.append((batch.entries[batch.replies][1], error is None))
            batch.replies += 1
        if self._batch is not None and self._batch.is_over():
            self._finish(self._batch)
        for stored, is_stored in answers:
            _answer(stored, is_stored=is_stored)

    def _finish(self, batch: _Batch) -> None:
        if batch.entries:
            self._log_change(batch.refused)
        if batch.refused is not None and _is_of_the_server(batch.refused):
            self._disconnect()  # a failover or a new password: connecting again finds what is there now
        self._account(batch)
        if self._waiting or self._doorbell.is_owed:
            self._send_batch()

    def _fail(self, error: Exception) -> None:
        """End the batch, if there is one: whoever has no answer by now gets False."""
        self._disconnect()
        batch = self._batch
        if batch is None:
            return
        self._log_change(error)
        self._account(batch)
        now = self._loop.time()
        self._pause_ends = now + PAUSE_SECONDS if batch.deadline - now > PAUSE_SECONDS else 0.0
        if self._waiting:
            self._schedule(now)
        elif batch.entries and not self._is_stopping and (self._doorbell.is_owed or (batch.rings and batch.replies)):
            self._doorbell.ring_in(PAUSE_SECONDS, self._loop)  # once: events are stored, and nobody was called
        for _, stored in batch.entries[batch.replies :]:
            _answer(stored, is_stored=False)

    def _account(self, batch: _Batch) -> None:
        self._batch = None
        self._held -= batch.size
        if batch.entries:
            self._metrics.flush_entries.observe(len(batch.entries))
            self._metrics.flush_seconds.observe(self._loop.time() - batch.started)
        self._finished.set()

    def _check_deadline(self) -> None:
        """End a batch whose time is over; one timer serves all of them, since a timer each costs more than the look."""
        self._timer = None
        batch = self._batch
        if batch is None:
            return  # the next one starts the timer again
        if batch.deadline - self._loop.time() < _TICK_SECONDS:
            self._fail(TimeoutError("Redis did not answer in time"))
        else:
            self._timer = self._loop.call_at(batch.deadline, self._check_deadline)

    def _disconnect(self) -> None:
        """Close the connection, or give up the attempt to make one."""
        connection, self._connection = self._connection, None
        connecting, self._connecting = self._connecting, None
        if connection is not None:
            connection.close()
        if connecting is not None:
            connecting.cancel()

    def _log_change(self, error: BaseException | None) -> None:
        """Log the change between answering and not answering, not every event."""
        if error is not None and self._is_answering:
            reason = str(error) or type(error).__name__
            log.error("the inbox takes no events: %s", reason, extra={"code": "inbox_unavailable"})
        elif error is None and not self._is_answering:
            log.info("the inbox takes events again")
        self._is_answering = error is None


def _answer(stored: Stored, *, is_stored: bool) -> None:
    if not stored.done():  # the request was cancelled
        stored.set_result(is_stored)


def _is_of_the_server(error: ReplyError) -> bool:
    """Return whether Redis refuses for what it has become (a replica, unknown user), not for what was sent."""
    return str(error).startswith(("READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN", "NOAUTH", "WRONGPASS", "NOPERM"))


def _pack(*arguments: str | bytes | int) -> bytes:
    """Return one command as it stands on the wire: in C, redis-py's own packing takes five times as long."""
    packed: bytes = pack_command(arguments)  # type: ignore[arg-type] # the stub knows tuples of one only
    return packed
