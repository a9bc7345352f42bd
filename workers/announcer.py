"""Announces a worker: that it lives, in Redis, and what its handlers ask for, in the catalogue.

The main process says every two seconds that it lives, and what it does. It has no connection to Postgres, so that an
outage holds up no message: a process of its pool announces the handlers, at the start and then every 5 s, and while
Postgres is away it is asked again and again.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from celery.worker import state
from redis.exceptions import RedisError

from shared.redis_client import open_client
from workers.consumer_timer import ConsumerTimer
from workers.live_workers import EVERY_SECONDS, LiveWorker, say_gone, say_live
from workers.seen_workers import Activity, forget, say_activity

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.wire import Names
    from workers.registration import Handlers
    from workers.store.catalogue import Announced

log = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 5.0
LIMIT_SECONDS: Final = 60.0
"""Postgres may take five seconds for each of its hosts before it is known to be away."""


class Announcer(ConsumerTimer):
    """Announces this worker; a subclass sets the attributes.

    Attributes:
        redis_url: of the queues.
        names: in Redis.
        list_handlers: returns the handlers of this worker.
        announce: called in a process of the pool, which is killed after `LIMIT_SECONDS`; returns whether it is done.
    """

    every_seconds = EVERY_SECONDS
    redis_url: str
    names: Names
    list_handlers: Callable[[], Handlers]
    announce: Callable[[], bool]

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        handlers = type(self).list_handlers()
        self._id = uuid.uuid4().hex
        self._code_version = handlers.code_version
        self._registrations = [(it.name, it.digest) for it in handlers]
        self._redis = open_client(type(self).redis_url, seconds=1.0)
        self._said: LiveWorker | None = None
        self._announcement: Any = None
        self._again_at = 0.0
        self._taken, self._taken_at = 0, time.monotonic()

    def start(self, consumer: Any) -> None:
        """Say that the worker lives, and go on to do so."""
        self._say(consumer)
        super().start(consumer)
        self._timers.append(consumer.timer.call_after(0.0, self._announce, (consumer,)))  # when the pool takes work

    def stop(self, consumer: Any) -> None:
        """Say that the worker is gone, if it ends; after a lost connection it starts again."""
        super().stop(consumer)
        is_ending = any(it is not None and it is not False for it in (state.should_stop, state.should_terminate))
        if is_ending and self._said is not None:
            try:
                say_gone(self._redis, self.names, self._said)
                forget(self._redis, self.names, self._said.name)
            except (RedisError, OSError) as error:
                log.info("Redis was not told that this worker ends: %s", error)

    def tick(self, consumer: Any) -> None:
        """Say that the worker lives, and see to the announcement."""
        self._say(consumer)
        self._announce(consumer)

    def _say(self, consumer: Any) -> None:
        worker = LiveWorker(
            id=self._id,
            name=consumer.hostname,
            queues=tuple(sorted(consumer.app.amqp.queues.consume_from)),
            slots=consumer.pool.num_processes,
            code_version=self._code_version,
        )
        try:
            if self._said is not None and self._said != worker:
                say_gone(self._redis, self.names, self._said)
            say_live(self._redis, self.names, worker, self._registrations)
            self._said = worker
            say_activity(self._redis, self.names, worker.name, self._activity(consumer, worker))
        except (RedisError, OSError) as error:
            log.info("Redis was not told that this worker lives: %s", error)

    def _activity(self, consumer: Any, worker: LiveWorker) -> Activity:
        if consumer.taken != self._taken:
            self._taken, self._taken_at = consumer.taken, time.monotonic()
        return Activity(
            queues=worker.queues,
            slots=worker.slots,
            busy=len(state.active_requests),
            fetched_seconds=time.monotonic() - self._taken_at,
        )

    def _announce(self, consumer: Any) -> None:
        """Have a process of the pool announce the handlers, unless one is at it or it was done a moment ago."""
        if self._announcement is not None:
            if not self._announcement.ready():
                return
            is_done = self._announcement.successful() and self._announcement.get()
            self._announcement = None
            if is_done:
                self._again_at = time.monotonic() + AGAIN_SECONDS
        if self._registrations and time.monotonic() >= self._again_at:
            self._announcement = consumer.pool.apply_async(type(self).announce, (), timeout=LIMIT_SECONDS)


_told_of: set[str] = set()


def log_announced(done: Announced) -> None:
    """Log what an announcement has changed, and once what it has not."""
    for name in done.changed:
        log.info("the handler %s is announced", name, extra={"handler": name})
    for name in done.added:
        text = (
            "%s gets the events stored from now on; `pipeline deliveries backfill %s --since 7d` makes those of before"
        )
        log.info(text, name, name, extra={"handler": name})
    for name in set(done.outdated) - _told_of:
        text = "the handler %s stays as a newer version has announced it, while a worker of that version lives"
        log.warning(text, name, extra={"handler": name, "code": "outdated_handler"})
    for name in set(done.renamed) - _told_of:
        text = "the handler %s was renamed: nothing is delivered to it; `pipeline handlers remove %s` forgets that name"
        log.warning(text, name, name, extra={"handler": name, "code": "renamed_handler"})
    _told_of.update(done.outdated, done.renamed)
