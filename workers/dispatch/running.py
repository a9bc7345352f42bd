"""Runs the deliveries of one message, and records what comes of each.

Guarantees: one attempt at a time; outcomes of handlers that never touched `delivery.connection` share a commit, at most
50 ms' worth of them; when the message's time budget is over, also beside a slow handler, what was not begun goes back.
Whatever a handler raises, `BaseException` included, ends as an outcome; only the pool's own shutdown does not.

    queued ──claim──▶ running ──record──▶ succeeded │ dead │ pending, due later
       ▲                 └──hand back──▶ pending (not begun in time: nothing is charged)
       └── admission
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from os import getpid
from typing import TYPE_CHECKING, Final

from shared import traces
from workers import events
from workers.dispatch.deadline import within
from workers.dispatch.delivery import Delivery
from workers.dispatch.failure_log import log_failure
from workers.dispatch.outcomes import decide, lease
from workers.dispatch.tenant_settings import read_settings
from workers.errors import EventGone, Fenced
from workers.store import deliveries
from workers.store.connect import UNREACHABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from shared.traces import Attempt
    from workers.dispatch.handler_loop import HandlerLoop
    from workers.registration import Handler
    from workers.store.connect import PostgresConnection
    from workers.store.deliveries import Claimed, Outcome, StoredEvent
    from workers.store.session import HandlerSession

SHARED_COMMIT_SECONDS: Final = 0.05
READ_EVENTS: Final = 64
"""Events of a message that are read at once: bodies may be large, and a message may carry many."""
RECORD_SECONDS: Final = 4.0
"""How long outcomes are tried to be recorded while Postgres is away; then the lease decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An attempt that failed, for Celery and Flower: the error itself beside its outcome."""

    outcome: Outcome
    error: BaseException


class MessageRun:
    """One message: claims its deliveries, runs them in order, records their outcomes."""

    def __init__(
        self,
        handler: Handler,
        *,
        postgres: PostgresConnection,
        session: HandlerSession,
        loop: HandlerLoop,
        message_seconds: float,
        is_terminating: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make a run.

        Args:
            handler: of all deliveries of the message.
            postgres: for the pipeline's own statements.
            session: for `delivery.connection`.
            loop: for `async def` handlers.
            message_seconds: time budget.
            is_terminating: tells whether the pool has told this process to end.
        """
        self._handler = handler
        self._loop = loop
        self._is_terminating = is_terminating
        self._postgres = postgres
        self._session = session
        self._budget = message_seconds
        self._lock = threading.Lock()  # between this thread and the one that watches the time
        self._waiting: deque[Claimed] = deque()
        self._events: dict[UUID, StoredEvent] = {}
        self._unread: set[UUID] = set()
        self._unrecorded: list[Outcome] = []
        self._oldest = 0.0
        self._began = 0.0
        self.durations: list[tuple[str, float]] = []  # tenant and seconds of each attempt
        self.failures: list[Failure] = []
        self.succeeded = 0
        self.fenced = 0

    def run(self, event_ids: Sequence[UUID]) -> None:
        """Do the whole message.

        1. Claim what is still queued.
        2. Run one after the other until the time budget is over; record as they finish.
        3. Hand back what was not begun.
        """
        self._began = time.monotonic()
        claimed, self._events = deliveries.claim(
            self._postgres.connection,
            self._handler.name,
            event_ids,
            worker=f"{socket.gethostname()}:{getpid()}",
            lease=lease(self._handler, message_seconds=self._budget),
            read=READ_EVENTS,
        )
        self._waiting.extend(claimed)
        self._unread = set(event_ids[READ_EVENTS:])
        stop = threading.Event()
        watch = threading.Thread(target=self._watch, args=[stop], daemon=True) if len(self._waiting) > 1 else None
        if watch:
            watch.start()
        try:
            while (begun := self._next()) is not None:
                self._run_one(*begun)
        finally:
            stop.set()
            if watch:
                watch.join()
            with self._lock:
                self._record_all()
                self._hand_back()

    def _next(self) -> tuple[Claimed, StoredEvent | None] | None:
        """Return the next delivery; None when there is none or the time is over."""
        with self._lock:
            if not self._waiting:
                return None
            now = time.monotonic()
            if self._unrecorded and now - self._oldest >= SHARED_COMMIT_SECONDS:
                self._record_all()
            if now - self._began >= self._budget and self.durations:
                self._hand_back()
                return None
            event_id = self._waiting[0].event_id
            if event_id in self._unread:
                following = [claimed.event_id for claimed in islice(self._waiting, READ_EVENTS)]
                self._events = deliveries.read_events(self._postgres.connection, following)
                self._unread.difference_update(following)
            return self._waiting.popleft(), self._events.pop(event_id, None)

    def _watch(self, stop: threading.Event) -> None:
        """Look every 50 ms, beside a handler that may be slow: record what is finished, hand back what is late."""
        while not stop.wait(SHARED_COMMIT_SECONDS):
            now = time.monotonic()
            # A database that is away is met again, and reported, by the thread that runs the message.
            with self._lock, suppress(*UNREACHABLE):
                if self._unrecorded and now - self._oldest >= SHARED_COMMIT_SECONDS:
                    self._record(self._unrecorded)
                    self._unrecorded = []
                if now - self._began >= self._budget:
                    self._hand_back()

    def _run_one(self, claimed: Claimed, event: StoredEvent | None) -> None:
        """Run the handler once and settle what came of it."""
        about = {"tenant": claimed.tenant, "handler": self._handler.name}
        with traces.current().attempt(claimed.event_id, number=claimed.attempt + 1, **about) as attempt:
            self._attempt(claimed, event, attempt)

    def _attempt(self, claimed: Claimed, event: StoredEvent | None, attempt: Attempt) -> None:
        started = time.monotonic()
        self._session.unavailable = None
        error: BaseException | None = None
        try:
            self._call(claimed, event, started)
        except BaseException as raised:
            if isinstance(raised, SystemExit) and self._is_terminating():
                raise
            if self._session.unavailable is not None and isinstance(raised, Exception):
                with self._lock:
                    self._waiting.appendleft(claimed)  # no attempt: it goes back, and the message ends here
                raise self._session.unavailable from raised
            error = raised
        duration = time.monotonic() - started
        self.durations.append((claimed.tenant, duration))
        outcome = decide(claimed, self._handler, error, duration=duration)
        if error is None and self._session.used:
            error = self._commit(outcome)
            if isinstance(error, Fenced):
                self.fenced += 1
                return
            if error is None:
                self.succeeded += 1
                return
            outcome = decide(claimed, self._handler, error, duration=duration)
        if isinstance(error, UNREACHABLE):
            self._session.discard()  # the server may have been demoted: connect again
        else:
            self._session.roll_back()
        if error is not None:
            self.failures.append(Failure(outcome=outcome, error=error))
            attempt.fail(outcome.error or "", outcome.traceback or "", outcome=outcome.state or "retry")
            log_failure(outcome, self._handler, provider=event.provider if event else None, error=error)
        else:
            self.succeeded += 1
        with self._lock:
            if not self._unrecorded:
                self._oldest = time.monotonic()
            self._unrecorded.append(outcome)

    def _call(self, claimed: Claimed, event: StoredEvent | None, started: float) -> None:
        """Call the handler within its timeout."""
        if event is None:
            raise EventGone(f"the event {claimed.event_id} is no longer stored")
        handler, ends = self._handler, started + self._handler.timeout
        delivery = Delivery(
            event_id=claimed.event_id,
            tenant=claimed.tenant,
            provider=event.provider,
            handler=handler.name,
            attempt=claimed.attempt + 1,
            received_at=event.received_at,
            headers=event.headers,
            body=event.body,
            subject=event.subject,
            settings=read_settings(handler.settings, claimed.tenant, claimed.settings or {}),
            connect=lambda: self._session.begin(claimed, seconds_left=ends - time.monotonic()),
        )
        with within(handler.timeout):
            self._loop.call(handler.function, events.load(event), delivery)

    def _commit(self, outcome: Outcome) -> BaseException | None:
        """Commit the handler's writes with the outcome; return why that was not possible."""
        try:
            self._session.commit(self._handler.name, outcome)
        except Exception as error:  # noqa: BLE001 - whatever Postgres or the check says is the attempt's error
            return error
        return None

    def _record_all(self) -> None:
        """Record what is finished; while Postgres is away, try for some seconds."""
        ends = time.monotonic() + RECORD_SECONDS
        while self._unrecorded:
            try:
                self._record(self._unrecorded)
            except UNREACHABLE:
                self._postgres.close()
                if time.monotonic() > ends:
                    raise
                time.sleep(0.1)
                continue
            self._unrecorded = []

    def _record(self, outcomes: list[Outcome]) -> None:
        counted = deliveries.record(self._postgres.connection, self._handler.name, outcomes)
        self.fenced += len(outcomes) - len(counted)

    def _hand_back(self) -> None:
        """Return what was not begun."""
        if self._waiting:
            deliveries.hand_back(self._postgres.connection, self._handler.name, list(self._waiting))
            self._waiting.clear()
