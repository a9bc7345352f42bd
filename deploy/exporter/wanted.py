"""How many processes the work that waits wants: JSON for an autoscaler such as KEDA.

One handler process is wanted for each `SECONDS` of work by the handlers' recent mean durations, and no more than there
are deliveries; one ingest process for each `ENTRIES` events of the inbox. Anything that waits wants one.

Guarantees: each figure is a whole number from 0 to `MOST`, never null, and as of the request. A server that does not
answer leaves its figures as they were last, and at 1 at the least: nothing is stopped unseen. However many ask, there
is one look at a time, on connections that stay open.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from redis.exceptions import RedisError

from shared.redis_client import open_client
from shared.wire import Names
from workers.dispatch.admission import ASSUMED_SECONDS
from workers.live_workers import read_live
from workers.store import figures
from workers.store.connect import SCHEMA_MISSING, TIMED_OUT, UNREACHABLE, PostgresConnection

log: Final = logging.getLogger(__name__)

PATH: Final = "/wanted"
SECONDS: Final = 10.0
"""Work, in seconds of handlers, that one more process is wanted for."""
ENTRIES: Final = 5_000
"""Events in the inbox that one more ingest process is wanted for; it stores about as many in a second."""
HANDLERS_PER_EXPRESS: Final = 4
MOST: Final = 1_000
STATEMENT_SECONDS: Final = 2.0
REDIS_SECONDS: Final = 2.0


def handler_processes(counts: Mapping[str, int], means: Mapping[str, float]) -> int:
    """Return the processes that these deliveries want.

    Args:
        counts: open deliveries by handler.
        means: recent mean seconds by handler, as far as they are known.
    """
    wanted = sum(min(count, count * means.get(handler, ASSUMED_SECONDS) / SECONDS) for handler, count in counts.items())
    return bounded(math.ceil(wanted))


def bounded(number: int) -> int:
    """Return the number, or the nearest one that may be wanted."""
    return max(0, min(number, MOST))


class Wanted:
    """Looks when it is asked, on connections of its own."""

    def __init__(
        self, redis_url: str, names: Names, database_url: str, *, schema: str, broker_url: str | None = None
    ) -> None:
        """Connect at first use.

        Args:
            redis_url: of the inbox.
            names: in Redis.
            database_url: of Postgres.
            schema: of the pipeline's tables.
            broker_url: of the queues, if they are elsewhere.
        """
        self._redis = open_client(redis_url, seconds=REDIS_SECONDS, prefix=names.prefix)
        self._broker = open_client(broker_url or redis_url, seconds=REDIS_SECONDS)
        self._names = names
        self._postgres = PostgresConnection(database_url, name="pipeline wanted", schema=schema)
        self._lock = threading.Lock()
        self._began_at = -math.inf
        self._ingest = 1
        self._handlers = 1

    def read(self, *, clock: Callable[[], float] = time.monotonic) -> dict[str, int]:
        """Return the wanted processes by duty, as of now or of a look that began after this call."""
        asked_at = clock()
        with self._lock:
            if self._began_at < asked_at:
                self._began_at = clock()
                self._look()
            express = math.ceil(self._handlers / HANDLERS_PER_EXPRESS)
            return {"express": express, "handlers": self._handlers, "ingest": self._ingest}

    def close(self) -> None:
        """Close both connections; the next look opens others."""
        self._redis.close()
        self._broker.close()
        self._postgres.close()

    def _look(self) -> None:
        try:
            self._ingest = bounded(math.ceil(self._count_entries() / ENTRIES))
        except RedisError as error:
            log.warning("redis does not answer: %s", error, extra={"code": "redis_away"})
            self._ingest, self._handlers = max(1, self._ingest), max(1, self._handlers)
            return
        try:
            counts = self._count_deliveries()
            self._handlers = handler_processes(counts, self._read_means(counts))
        except (*UNREACHABLE, *SCHEMA_MISSING, *TIMED_OUT, RedisError) as error:
            log.warning("postgres does not answer: %s", error, extra={"code": "postgres_away"})
            self._postgres.close()
            self._handlers = max(1, self._handlers)

    def _count_entries(self) -> int:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xlen(self._names.inbox)
        pipeline.xlen(self._names.overflow)
        return sum(pipeline.execute())

    def _count_deliveries(self) -> dict[str, int]:
        """Count by handler; while handler workers live, only what they can run."""
        runnable = read_live(self._broker, self._names).handlers or None
        figures.begin_look(self._postgres.connection, seconds=STATEMENT_SECONDS)
        return figures.count_by_handler(self._postgres.connection, runnable=runnable)

    def _read_means(self, handlers: Iterable[str]) -> dict[str, float]:
        names = sorted(handlers)
        if not names:
            return {}
        values: Any = self._broker.hmget(self._names.handler_means, names)
        return {name: float(value) for name, value in zip(names, values, strict=True) if value is not None}


def serve_wanted(wanted: Wanted, *, otherwise: WSGIApplication) -> WSGIApplication:
    """Return an application that answers `PATH`, and every other path as another does."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            return otherwise(environ, start_response)
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(wanted.read()).encode()]

    return application
