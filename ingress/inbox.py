"""Step 4: append to the inbox, all that waits in one round trip (group commit), and ring the doorbell with it.

Guarantees: an event counts as stored only when Redis has confirmed its own XADD; every caller has its verdict within
the timeout; Redis may go and come back at any time. While one round trip is under way, arriving events collect for the
next: no timer, no added latency at rest. Refuses (False): Redis away, slow, full, or too much waiting for it.

An event that was refused may have been written all the same, if Redis did not say so in time: the sender comes again,
and the fingerprint makes the two one.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import chain
from typing import TYPE_CHECKING, Final

from hiredis import ReplyError
from redis.exceptions import RedisError

from ingress.bell import Bell
from ingress.flight import Flight, pack
from ingress.link import Link, make_pool, open_link
from shared.envelope import Envelope, encode
from shared.wire import INBOX

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingress.flight import Entry
    from ingress.metrics import Counts

log: Final = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 0.05
"""Between two attempts to reach a Redis that refuses connections, so that a flood does not become a flood of them."""
_TICK_SECONDS: Final = 0.001  # the loop's timers may be early by less


class Inbox:
    """Appends entries through one connection that is made again whenever it fails.

    Attributes:
        room: bytes that Redis may still take, set by whoever watches its memory; None: no bound.
    """

    def __init__(
        self, *, redis_url: str, timeout: float, waiting_bytes: int, ingest_slots: int, counts: Counts
    ) -> None:
        self._pool = make_pool(redis_url, timeout)
        self._timeout = timeout
        self._bound = waiting_bytes
        self._bell = Bell(slots=ingest_slots, wake=self._ring_late)
        self._counts = counts
        self._waiting: list[Entry] = []
        self._waiting_size = 0
        self._oldest = 0.0
        self._flight: Flight | None = None
        self._link: Link | None = None
        self._opening: asyncio.Task[None] | None = None
        self._departure: asyncio.Handle | None = None
        self._pause_ends = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_answering = True
        self._is_stopping = False
        self._landed = asyncio.Event()
        self.room: float | None = None

    def start(self) -> None:
        """Begin to append; call it inside the loop."""
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """Append what waits, then close the connection."""
        self._is_stopping = True
        self._bell.hurry()
        while self._flight or self._waiting:
            self._landed.clear()
            await self._landed.wait()
            self._bell.hurry()
        if self._timer is not None:
            self._timer.cancel()
        self._drop()

    def append(self, envelope: Envelope, tell: Callable[[bool], None]) -> bool:
        """Queue one entry, unless there is no room for it.

        Args:
            envelope: the event.
            tell: called later with the verdict, whether Redis confirmed it; never called if it was not queued.
        """
        command = pack("XADD", INBOX, "*", *chain.from_iterable(encode(envelope).items()))
        size, counts = len(command), self._counts
        if counts.waiting_bytes + size > self._bound or (self.room is not None and size > self.room):
            return False
        counts.waiting_bytes += size
        if self.room is not None:
            self.room -= size
        if not self._waiting:
            self._oldest = self._loop.time()
            if self._flight is None and self._departure is None:
                self._schedule(self._oldest)
        self._waiting.append((command, tell))
        self._waiting_size += size
        return True

    def _schedule(self, now: float) -> None:
        """Depart when everything that has arrived together is read, or when the pause after a failure is over."""
        pause = self._pause_ends - now
        loop = self._loop
        self._departure = loop.call_later(pause, self._depart) if pause > 0 else loop.call_soon(self._depart)

    def _depart(self) -> None:
        """Send everything that waits in one write, and the doorbell unless it has just been rung."""
        self._departure = None
        now = self._loop.time()
        rings = self._bell.join(self._loop)
        deadline = (self._oldest if self._waiting else now) + self._timeout
        flight = self._flight = Flight(self._waiting, self._waiting_size, now, deadline, rings)
        self._waiting, self._waiting_size = [], 0
        if self._timer is None:
            self._timer = self._loop.call_at(flight.deadline, self._look)
        if self._link is not None and self._link.is_open:
            self._send(self._link, flight)
        else:
            self._opening = self._loop.create_task(self._open(), name="inbox")

    def _send(self, link: Link, flight: Flight) -> None:
        commands = [command for command, _ in flight.batch]
        if flight.rings:
            commands.append(self._bell.message())
        link.write(b"".join(commands))

    def _ring_late(self) -> None:
        if self._flight is None and self._departure is None:
            self._depart()  # else the flight after this one rings

    async def _open(self) -> None:
        """Reach Redis for the flight that waits for it."""
        link, failure = None, Exception()
        try:
            link = await open_link(self._pool, take=self._take, lose=self._fail)
        except Exception as error:  # whatever it is, later requests must not wait for ever
            if not isinstance(error, (RedisError, OSError, TimeoutError)):
                log.exception("unexpected error in the inbox", extra={"code": "internal_error"})
            failure = error
        if self._opening is not asyncio.current_task() or self._flight is None:
            if link is not None:
                link.close()  # too late: `asyncio.wait_for` of Python 3.11, in redis-py, swallows a cancellation
            return
        self._opening, self._link = None, link
        if link is None:
            self._fail(failure)
        else:
            self._send(link, self._flight)

    def _take(self, replies: list[object]) -> None:
        """Judge each reply by itself: a failure behind it takes nothing back.

        1. Pair replies and entries; the one behind the entries is the doorbell's.
        2. If the flight is over, let the next one depart, so that Redis has work while the answers are written.
        3. Tell the verdicts.
        """
        verdicts = []
        for reply in replies:
            flight = self._flight
            error = reply if isinstance(reply, ReplyError) else None
            if flight is None or flight.is_over() or not (error or flight.expects(reply)):
                self._fail(ConnectionResetError("Redis answered what nobody asked"))
                break
            if not flight.waits_for_bell():
                verdicts.append(flight.judge(error))
                continue
            flight.judged += 1
            if error is None:
                self._bell.hush(self._loop.time())
            else:
                self._counts.silent_bells += 1
        if self._flight is not None and self._flight.is_over():
            self._land(self._flight)
        for tell, is_stored in verdicts:
            self._tell(tell, is_stored=is_stored)

    def _land(self, flight: Flight) -> None:
        if flight.batch:
            self._tell_failure(flight.refused)
        if flight.refused is not None and str(flight.refused).startswith("READONLY"):
            self._drop()  # a failover: connecting again finds the new primary
        self._account(flight)
        if self._waiting or self._bell.is_owed:
            self._depart()

    def _fail(self, error: Exception) -> None:
        """End the flight, if there is one: whoever has no verdict by now, has False."""
        self._drop()
        flight = self._flight
        if flight is None:
            return
        self._tell_failure(error)
        self._account(flight)
        now = self._loop.time()
        self._pause_ends = now + PAUSE_SECONDS if flight.deadline - now > PAUSE_SECONDS else 0.0
        if self._waiting:
            self._schedule(now)
        elif flight.batch and not self._is_stopping and (self._bell.is_owed or (flight.rings and flight.judged)):
            self._bell.ring_in(PAUSE_SECONDS, self._loop)  # once: events are stored, and nobody was called
        for _, tell in flight.batch[flight.judged :]:
            self._tell(tell, is_stored=False)

    def _account(self, flight: Flight) -> None:
        self._flight = None
        self._counts.waiting_bytes -= flight.size
        if flight.batch:
            self._counts.flush_entries.add(len(flight.batch))
            self._counts.flush_seconds.add(self._loop.time() - flight.started)
        self._landed.set()

    def _look(self) -> None:
        """End a flight whose time is over; one timer for all of them, since a timer each costs more than the look."""
        self._timer = None
        flight = self._flight
        if flight is None:
            return  # the next one starts the timer again
        if flight.deadline - self._loop.time() < _TICK_SECONDS:
            self._fail(TimeoutError("Redis did not answer in time"))
        else:
            self._timer = self._loop.call_at(flight.deadline, self._look)

    def _drop(self) -> None:
        """Part from the connection, or from the attempt to make one."""
        link, self._link, opening, self._opening = self._link, None, self._opening, None
        if link is not None:
            link.close()
        if opening is not None:
            opening.cancel()

    def _tell(self, tell: Callable[[bool], None], *, is_stored: bool) -> None:
        try:
            tell(is_stored)
        except Exception:
            log.exception("unexpected error behind the inbox", extra={"code": "internal_error"})

    def _tell_failure(self, error: BaseException | None) -> None:
        """Log the change between answering and not answering, not every event."""
        if error is not None and self._is_answering:
            reason = str(error) or type(error).__name__
            log.error("the inbox takes no events: %s", reason, extra={"code": "inbox_unavailable"})
        elif error is None and not self._is_answering:
            log.info("the inbox takes events again")
        self._is_answering = error is None
