"""Recycles what takes no work although it could: a slot is free, and for `stuck_seconds` its queue waits.

Two faults are known. A child process that is stopped, or hangs, before it begins with the message that it was given is
killed; the pool gives the message to its successor. A worker that takes no message, such as one whose connection to
Redis fell silent without being closed, finishes what runs and ends, so that whoever supervises it starts it again.
Messages are hints, so nothing is lost either way. With Redis away nothing is known to wait: an outage ends nobody.

A child that hangs later, in a task, is the matter of the task's time limit.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from celery.worker import state
from redis.exceptions import RedisError

from shared.redis_client import open_client
from workers.broker import END_SECONDS, end_within
from workers.consumer_timer import ConsumerTimer
from workers.heartbeat import set_stuck

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

log = logging.getLogger(__name__)

LOOKS: Final = 6


class FreeSlotTimer(ConsumerTimer):
    """Looks `LOOKS` times within `stuck_seconds`; a subclass sets the attributes.

    Attributes:
        redis_url: of the broker.
        prefix: of names in Redis.
        stuck_seconds: that a free slot and a message may be beside each other.
    """

    redis_url: str
    prefix: str
    stuck_seconds: float

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._redis: Redis | None = None
        self._taken = 0
        self._idle_since: float | None = None
        self._given: dict[Any, float] = {}

    def start(self, consumer: Any) -> None:
        """Start the timer; what was seen before a lost connection counts no more."""
        self._redis = self._redis or open_client(self.redis_url, seconds=1.0)
        self._idle_since, self._given = None, {}
        self.every_seconds = self.stuck_seconds / LOOKS
        super().start(consumer)

    def tick(self, consumer: Any) -> None:
        """Recycle what is stuck.

        1. Note since when each message that a child was given waits to be begun.
        2. If there is none, note since when nothing was taken although a queue waits.
        3. Kill the children that do not begin; else end a worker that does not take.
        """
        now = time.monotonic()
        jobs = list(consumer.pool._pool._cache.values())  # noqa: SLF001 - billiard has no other list of them
        waiting = [job for job in jobs if not job.accepted()]
        has_taken, self._taken = consumer.taken != self._taken, consumer.taken
        is_full = len(jobs) - len(waiting) >= consumer.pool.num_processes
        self._given = {} if is_full else {job: self._given.get(job, now) for job in waiting}
        if is_full or waiting or has_taken or not self._has_messages(consumer):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        hung = [job for job, since in self._given.items() if now - since >= self.stuck_seconds]
        is_idle = self._idle_since is not None and now - self._idle_since >= self.stuck_seconds
        set_stuck(is_stuck=bool(hung) or is_idle)
        # a message of which no process is known waits behind one that a child was given
        children = {process.pid for job in hung if (process := job._write_to or job._scheduled_for)}  # noqa: SLF001
        if children:
            self._kill(children)
        elif hung or is_idle:
            self._end()

    def _has_messages(self, consumer: Any) -> bool:
        """Return whether a queue of this worker waits; not while Redis does not answer."""
        queues: Sequence[str] = list(consumer.app.amqp.queues.consume_from)
        if self._redis is None:
            return False
        try:
            return any(self._redis.llen(self.prefix + queue) for queue in queues)
        except (RedisError, OSError):
            return False

    def _kill(self, children: set[int]) -> None:
        """Kill child processes that do not begin with their messages; the pool replaces them."""
        for pid in children:
            log.error(
                "the process %s has not begun with a message in %.0f s; its successor gets it",
                pid,
                self.stuck_seconds,
                extra={"code": "child_stuck"},
            )
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._given = {}

    def _end(self) -> None:
        """Finish what runs and end, with a status that every supervisor answers by a start."""
        log.critical(
            "no message was taken in %.0f s although a slot is free and a queue waits; this worker ends, to be started "
            "again",
            self.stuck_seconds,
            extra={"code": "worker_stuck"},
        )
        end_within(END_SECONDS)
        state.should_stop = 1
