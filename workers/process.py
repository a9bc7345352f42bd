"""What one worker process holds: its connections and clients, opened after the fork, at first use."""

from __future__ import annotations

import os
import socket
import uuid
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Self

from redis import Redis
from redis.exceptions import RedisError

from workers.dispatch.handler_loop import HandlerLoop
from workers.dispatch.queue import CeleryQueue, HandlerDurations
from workers.store.connect import SCHEMA_MISSING, UNREACHABLE, PostgresConnection
from workers.store.session import HandlerSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from workers.settings import WorkerSettings


class SchemaMissingError(Exception):
    """The database was not migrated for this version; the text says what to do."""


class Process:
    """The resources of this process; `of` makes them anew after a fork."""

    _current: Process | None = None
    holds_errors = False
    """Whether the errors of the message before this one are still in memory."""

    def __init__(self, settings: WorkerSettings, on_process_start: Sequence[Callable[[], object]] = ()) -> None:
        self._settings = settings
        self._on_process_start = on_process_start
        self.pid = os.getpid()
        self.name = f"{socket.gethostname()}:{self.pid}"
        self.consumer = f"{self.name}:{uuid.uuid4().hex[:8]}"
        """Unique per process, ever: a name that came back would inherit a dead process's pending entries."""
        self.has_declared_serial = False

    @classmethod
    def of(cls, settings: WorkerSettings, on_process_start: Sequence[Callable[[], object]] = ()) -> Process:
        """Return the one of this process."""
        if cls._current is None or cls._current.pid != os.getpid():
            cls._current = cls(settings, on_process_start)
        return cls._current

    @contextmanager
    def connections(self) -> Iterator[Self]:
        """Use the connections of this process; after an error that a server has told, the next use connects anew.

        A server may have been demoted, or its password changed, while a connection lived on.
        """
        try:
            yield self
        except RedisError:
            self.redis.connection_pool.disconnect()
            raise
        except UNREACHABLE:
            self.postgres.close()
            raise
        except SCHEMA_MISSING as error:
            reason = str(error).partition("\n")[0]
            raise SchemaMissingError(
                f"the database is not ready for this version: run pipeline migrate ({reason})"
            ) from None

    @cached_property
    def postgres(self) -> PostgresConnection:
        """Postgres, for the pipeline's own statements."""
        return PostgresConnection(
            self._settings.database_url, name="pipeline worker", schema=self._settings.database_schema
        )

    @cached_property
    def session(self) -> HandlerSession:
        """Postgres, for handlers."""
        return HandlerSession(self._settings.database_url, schema=self._settings.database_schema)

    @cached_property
    def handler_loop(self) -> HandlerLoop:
        """The event loop of `async def` handlers."""
        return HandlerLoop(self._on_process_start)

    @cached_property
    def redis(self) -> Redis:
        """Redis, beside Celery's own connections."""
        return Redis.from_url(self._settings.redis_url, socket_timeout=5.0, socket_connect_timeout=5.0)

    @cached_property
    def queue(self) -> CeleryQueue:
        """The queue of handler tasks."""
        return CeleryQueue(self.redis)

    @cached_property
    def handler_durations(self) -> HandlerDurations:
        """Recent durations of handlers."""
        return HandlerDurations(self.redis)
