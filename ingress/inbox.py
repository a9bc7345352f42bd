"""Step 4: append to the inbox, all that waits in one round trip (group commit), and ring the doorbell with it.

Where the broker is another Redis, the doorbell is a call of its own after the round trip (`ingress.doorbell`).

Guarantees: an event counts as stored only when Redis has confirmed its own XADD; every caller has an answer within the
timeout; Redis may go and come back at any time. While one round trip is under way, arriving events collect for the
next: no timer, no added latency at rest. Redis away, slow or full, or too much waiting for it, is answered with False.

    append ──▶ waiting ──_take_batch──▶ in flight ──_finish──▶ True, or False where Redis refused or did not answer
                  ▲                                   │
                  └───────────────── pause ◀── connection lost

One task sends a batch at a time. A reply belongs to a command by its place alone, so what comes after an unexpected
reply counts for nothing. An event that was answered with False may have been written all the same, if Redis did not say
so in time: the provider sends it again, and the fingerprint makes the two one.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from hiredis import ReplyError, pack_command
from redis.exceptions import RedisError

from ingress.doorbell import Doorbell
from ingress.errors import INBOX_UNAVAILABLE, Refusal
from ingress.limits import Tenant, Tenants
from ingress.metrics import Metrics
from ingress.redis_connection import RedisConnection, connect, make_pool
from ingress.settings import IngressSettings
from shared.envelope import Envelope, encode
from shared.envelope import size as entry_size
from shared.registry import Limits
from shared.wire import RING, Names, ring_arguments

Stored = asyncio.Future[bool]

log: Final = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 0.05
"""Pause between reconnection attempts, so that a burst of requests does not become a burst of connections."""
_OF_THE_SERVER: Final = ("READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN", "MOVED", "NOAUTH", "WRONGPASS", "NOPERM")
QUIET_SECONDS: Final = 0.005
"""After a doorbell: events that come so soon share the next one, which is rung whether or not others follow. A doorbell
costs Redis and the ingress more than an event, and a drain that has just been called is not there sooner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """One round trip: packed XADDs, each with the future of its answer, and the doorbell after them if it `rings`.

    The events of `counted` tenants are counted before them: after them, a drain could have removed an entry already.
    """

    entries: list[tuple[bytes, Stored]]
    counted: Sequence[Tenant]
    count: Sequence[str | int]
    size: int
    started: float
    deadline: float
    rings: bool
    replies: list[object] = field(default_factory=list)


class Inbox:
    """Appends entries through one connection that is made again whenever it fails.

    Attributes:
        room: bytes that Redis may still take, set by whoever watches its memory; None: no bound.
    """

    def __init__(self, settings: IngressSettings, metrics: Metrics) -> None:
        self._pool = make_pool(settings.inbox_url, settings.inbox_timeout, prefix=settings.redis_prefix)
        self._doorbell = Doorbell(settings, metrics) if settings.broker_url != settings.inbox_url else None
        self._settings = settings
        self._names = Names(settings.redis_prefix)
        self._metrics = metrics
        metrics.waiting_bytes.set_function(lambda: self._held)
        self.tenants = Tenants(self._names, metrics)
        self._held = 0
        """Bytes of what waits and of what is in flight."""
        self._waiting: list[tuple[bytes, Stored]] = []
        self._waiting_size = 0
        self._oldest = 0.0
        self._has_work = asyncio.Event()
        self._connection: RedisConnection | None = None
        self._quiet_ends = 0.0
        """When the doorbell may ring again."""
        self._owes_doorbell = False
        """Whether events that were sent without a doorbell wait for the end of the quiet."""
        self._is_answering = True
        self._is_stopping = False
        self.room: float | None = None

    def start(self) -> None:
        """Begin to append; call it inside the loop."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name="inbox")

    async def stop(self) -> None:
        """Append what waits, ring if a doorbell is owed, and close the connection."""
        self._is_stopping = True
        self._has_work.set()
        await self._task
        if self._doorbell is not None:
            await self._doorbell.stop()

    def append(self, envelope: Envelope, limits: Limits) -> Stored | Refusal:
        """Queue one entry of a tenant with these limits.

        Returns:
            A future that will say whether Redis has confirmed it, within the timeout; or why it is not taken.
        """
        now = self._loop.time()
        fields = encode(envelope)
        counted_size = entry_size(fields) if limits.inbox_bytes is not None else 0
        tenant = self.tenants.admit(envelope.tenant, limits, size=counted_size, now=now)
        if isinstance(tenant, Refusal):
            return tenant
        tenant.take_off_burst(now)
        stream = self._names.overflow if tenant.overflows else self._names.inbox
        command = _pack("XADD", stream, "*", *chain.from_iterable(fields.items()))
        size = len(command)
        if self._held + size > self._settings.waiting_bytes or (self.room is not None and size > self.room):
            return INBOX_UNAVAILABLE
        if limits.rate is not None or limits.inbox_bytes is not None:
            self.tenants.count(tenant, size=counted_size, now=now)
        if tenant.overflows:
            self._metrics.overflowed.inc()
        self._held += size
        if self.room is not None:
            self.room -= size
        if not self._waiting:
            self._oldest = now
            self._has_work.set()
        stored = self._loop.create_future()
        self._waiting.append((command, stored))
        self._waiting_size += size
        return stored

    async def _run(self) -> None:
        """Send one batch after the other, each as soon as the one before is over."""
        while await self._wait():
            batch = self._take_batch()
            error: Exception | None = None
            try:
                async with asyncio.timeout_at(batch.deadline) as limit:
                    await self._send(batch, limit)
            except TimeoutError:
                error = TimeoutError("Redis did not answer in time")
            except Exception as caught:  # whatever it is, later requests must not wait for ever
                if not isinstance(caught, (RedisError, OSError)):
                    log.exception("unexpected error in the inbox", extra={"code": "internal_error"})
                error = caught
            self._finish(batch, error)
            if error is not None and batch.deadline - self._loop.time() > PAUSE_SECONDS:
                await asyncio.sleep(PAUSE_SECONDS)
        self._disconnect()

    async def _wait(self) -> bool:
        """Wait for entries or for the end of the quiet; return False if there is nothing more to do."""
        if not self._waiting and not self._is_stopping:
            self._has_work.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._quiet_ends if self._owes_doorbell else None):
                    await self._has_work.wait()
        return bool(self._waiting) or self._owes_doorbell or not self._is_stopping

    def _take_batch(self) -> _Batch:
        """Take everything that waits, and the doorbell unless it has just been rung."""
        now = self._loop.time()
        rings = now >= self._quiet_ends or self._is_stopping or not self._waiting
        self._owes_doorbell = not rings
        deadline = (self._oldest if self._waiting else now) + self._settings.inbox_timeout
        counted, count = self.tenants.take_uncounted()
        entries, size = self._waiting, self._waiting_size
        self._waiting, self._waiting_size = [], 0
        return _Batch(
            entries=entries, counted=counted, count=count, size=size, started=now, deadline=deadline, rings=rings
        )

    async def _send(self, batch: _Batch, limit: asyncio.Timeout) -> None:
        """Send all commands in one write, and wait for their replies."""
        if self._connection is None or not self._connection.is_open:
            self._connection = await connect(self._pool)
            if limit.expired():  # `asyncio.wait_for` of Python 3.11, in redis-py, swallows a cancellation
                raise TimeoutError
        commands = [_pack(*batch.count)] if batch.counted else []
        commands += [command for command, _ in batch.entries]
        if batch.entries and self._settings.wait_replicas:
            milliseconds = max(1, int((batch.deadline - self._loop.time()) * 900))  # the reply must come in time, too
            commands.append(_pack("WAIT", self._settings.wait_replicas, milliseconds))
        if batch.rings and self._doorbell is None:
            keys, arguments = ring_arguments(self._names)
            commands.append(_pack("EVAL", RING, len(keys), *keys, *arguments))
        if commands:
            await self._connection.exchange(b"".join(commands), batch.replies, count=len(commands))
        if batch.rings and self._doorbell is not None:
            self._doorbell.ring()
            self._quiet_ends = self._loop.time() + QUIET_SECONDS

    def _finish(self, batch: _Batch, error: Exception | None) -> None:
        """Answer each entry by its own reply: a failure later takes nothing back."""
        expected = [list] * bool(batch.counted) + [bytes] * len(batch.entries) + [int] * batch.rings
        waiting = iter(batch.entries)
        refused = self._take_shortage(batch)
        is_replicated = refused is None
        for reply, kind in zip(batch.replies, expected, strict=False):
            is_done = isinstance(reply, kind)
            if not is_done and not isinstance(reply, ReplyError):
                error = ConnectionResetError("Redis sent a reply to another command")
                break
            if kind is bytes:
                refused = refused if is_done else reply  # type: ignore[assignment] # the line before the last
                _answer(next(waiting)[1], is_stored=is_done and is_replicated)
            elif kind is list:
                self.tenants.finish_counting(batch.counted, reply, self._loop.time())
            elif is_done:
                self._quiet_ends = self._loop.time() + QUIET_SECONDS
            else:
                self._metrics.silent_bells.inc()
        for _, stored in batch.entries:
            _answer(stored, is_stored=False)  # those that have no answer yet
        if error is not None or (refused is not None and _is_of_the_server(refused)):
            self._disconnect()  # a failover or a new password: connecting again finds what is there now
        self._held -= batch.size
        if not batch.entries:
            return
        if error is not None and batch.rings and batch.replies and not self._is_stopping:
            # Some are stored, and nobody was called. Once: the sweeper makes up for a doorbell that cannot be rung.
            self._owes_doorbell, self._quiet_ends = True, self._loop.time() + PAUSE_SECONDS
        self._metrics.flush_entries.observe(len(batch.entries))
        self._metrics.flush_seconds.observe(self._loop.time() - batch.started)
        self._log_change(error or refused)

    def _take_shortage(self, batch: _Batch) -> ReplyError | None:
        """Take the reply of WAIT from among the others; return why the batch is not replicated, None if it is."""
        wanted, place = self._settings.wait_replicas, bool(batch.counted) + len(batch.entries)
        if not batch.entries or not wanted:
            return None
        reached = batch.replies.pop(place) if len(batch.replies) > place else 0
        if isinstance(reached, ReplyError):
            return reached
        is_enough = isinstance(reached, int) and reached >= wanted
        return None if is_enough else ReplyError(f"{reached} of {wanted} replicas confirmed it in time")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _log_change(self, error: Exception | None) -> None:
        """Log the change between answering and not answering, not every event."""
        if error is not None and self._is_answering:
            reason = str(error) or type(error).__name__
            log.error("the inbox takes no events: %s", reason, extra={"code": "inbox_unavailable"})
        elif error is None and not self._is_answering:
            log.info("the inbox takes events again")
        self._is_answering = error is None


def _answer(stored: Stored, *, is_stored: bool) -> None:
    if not stored.done():  # answered before, or the request was cancelled
        stored.set_result(is_stored)


def _is_of_the_server(error: ReplyError) -> bool:
    """Return whether Redis refuses for what it has become (a replica, unknown user), not for what was sent."""
    return str(error).startswith(_OF_THE_SERVER)


def _pack(*arguments: str | bytes | int) -> bytes:
    """Return one command as it stands on the wire: in C, redis-py's own packing takes five times as long."""
    packed: bytes = pack_command(arguments)  # type: ignore[arg-type] # the stub knows tuples of one only
    return packed
