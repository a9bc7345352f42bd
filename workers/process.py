"""What one worker process holds: its connections and clients, opened after the fork, at first use."""

from __future__ import annotations

import os
import socket
import time
import uuid
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Final, Self

from redis.exceptions import RedisError

from shared import rights
from shared.identity import claim
from shared.redis_client import open_client
from shared.wire import NOTE_END, Names
from workers.dispatch.handler_loop import HandlerLoop
from workers.dispatch.queue import CeleryQueue, HandlerDurations
from workers.housekeeping.alerting import Alerter
from workers.housekeeping.publishing import Publisher
from workers.ingest.inbox_reader import InboxReader
from workers.live_workers import LiveWorkers
from workers.store.catalogue import Catalogue, announce
from workers.store.connect import REFUSED, SCHEMA_MISSING, UNREACHABLE, PostgresConnection, connect
from workers.store.identity import read_identity
from workers.store.migrate import find_misfit
from workers.store.session import HandlerSession, find_function

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from redis import Redis

    from workers.registration import Handlers
    from workers.settings import WorkerSettings
    from workers.store.catalogue import Announced


REDIS_SECONDS: Final = 5.0
"""In which a connection to Redis, and each reply, must come."""
SCHEMA_SECONDS: Final = 10.0
"""Between two looks whether the database was migrated by another version."""


class SchemaMissingError(Exception):
    """This version cannot work with the database as it is migrated; the text says what to do."""


class LostRightError(Exception):
    """A server has taken a right from this process since it started; the text is one line that names it."""


class Process:
    """The resources of this process; `of` makes them anew after a fork."""

    _current: Process | None = None
    queues: tuple[str, ...] = ()
    """That the worker of this process serves: they decide which rights it needs."""
    holds_errors = False
    """Whether the errors of the message before this one are still in memory."""

    def __init__(self, settings: WorkerSettings, on_process_start: Sequence[Callable[[], object]] = ()) -> None:
        self._settings = settings
        self._on_process_start = on_process_start
        self.pid = os.getpid()
        self.name = f"{socket.gethostname()}:{self.pid}"
        self.consumer = f"{self.name}:{uuid.uuid4().hex[:8]}"
        """Unique per process, ever: a name that came back would inherit a dead process's pending entries."""
        self.catalogue = Catalogue()
        self._schema_checked_at = float("-inf")
        self._identity = ""
        self._identified: object = None

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

        Raises:
            LostRightError: a server has refused what this process needs.
            SchemaMissingError: what it needs is not in the database.
        """
        try:
            yield self
        except RedisError as error:
            for client in (self.inbox_redis, self.broker_redis):
                client.connection_pool.disconnect()
            if rights.is_refusal(error):
                raise LostRightError(name_refusal(self._settings, error, queues=self.queues)) from None
            raise
        except REFUSED as error:
            if error.diag.message_primary is None:
                raise  # our own, which says what to do
            role = self.postgres.connection.info.user
            raise LostRightError(
                f"the role {role} of DATABASE_URL lacks a right ({error.diag.message_primary}): let the tables' owner "
                f"run what `pipeline grants --application {role}` prints"
            ) from None
        except UNREACHABLE:
            self.postgres.close()
            raise
        except SCHEMA_MISSING as error:
            reason = str(error).partition("\n")[0]
            raise SchemaMissingError(
                f"the database is not ready for this version: run pipeline migrate ({reason})"
            ) from None

    def note_end(self, task: str) -> None:
        """Note that a task has ended well, for the exporter. A Redis that refuses to is no reason to fail."""
        with suppress(RedisError):
            self.broker_redis.eval(NOTE_END, 1, self.names.tasks_ended, task)

    def require_schema(self) -> bool:
        """See that this version can work with the database as it is migrated; return whether it looked.

        It looks every `SCHEMA_SECONDS`: migrations of another version may come at any time.

        Raises:
            SchemaMissingError: it cannot.
        """
        now = time.monotonic()
        if now - self._schema_checked_at < SCHEMA_SECONDS:
            return False
        if misfit := find_misfit(self.postgres.connection):
            raise SchemaMissingError(misfit)
        self._schema_checked_at = now
        return True

    @cached_property
    def postgres(self) -> PostgresConnection:
        """Postgres, for the pipeline's own statements."""
        return PostgresConnection(
            self._settings.database_url, name="pipeline worker", schema=self._settings.database_schema
        )

    @cached_property
    def session(self) -> HandlerSession:
        """Postgres, for handlers."""
        url = self._settings.handler_database_url or self._settings.database_url
        return HandlerSession(url, schema=self._settings.database_schema)

    @cached_property
    def handler_loop(self) -> HandlerLoop:
        """The event loop of `async def` handlers."""
        return HandlerLoop(self._on_process_start)

    @cached_property
    def names(self) -> Names:
        """The names in Redis."""
        return Names(self._settings.redis_prefix)

    @cached_property
    def inbox_redis(self) -> Redis:
        """The Redis of the inbox and the registry."""
        settings = self._settings
        return open_client(settings.inbox_url, seconds=REDIS_SECONDS, prefix=settings.redis_prefix)

    @cached_property
    def broker_redis(self) -> Redis:
        """The Redis of the queues, beside Celery's own connections; the same client if it is the same Redis."""
        if self._settings.broker_url == self._settings.inbox_url:
            return self.inbox_redis
        return open_client(self._settings.broker_url, seconds=REDIS_SECONDS)

    @property
    def identity(self) -> str:
        """The identity of the database that `postgres` is connected to."""
        connection = self.postgres.connection
        if connection is not self._identified:
            self._identity = read_identity(connection, self._settings.environment)
            self._identified = connection
        return self._identity

    @cached_property
    def inbox(self) -> InboxReader:
        """The inbox, read by this process."""
        return InboxReader(self.inbox_redis, broker=self.broker_redis, names=self.names, consumer=self.consumer)

    @cached_property
    def publisher(self) -> Publisher:
        """What publishes the registry."""
        return Publisher(self.inbox_redis, self.names, environment=self._settings.environment)

    @cached_property
    def queue(self) -> CeleryQueue:
        """The queue of handler tasks."""
        return CeleryQueue(self.broker_redis, self.names)

    @cached_property
    def live(self) -> LiveWorkers:
        """Which workers live."""
        return LiveWorkers(self.broker_redis, self.names)

    @cached_property
    def alerter(self) -> Alerter:
        """What tells channels of incidents."""
        url, schema = self._settings.database_url, self._settings.database_schema
        return Alerter(self._settings.alerts, lambda: PostgresConnection(url, name="pipeline alerts", schema=schema))

    def announce(self, handlers: Handlers) -> Announced:
        """Tell the catalogue what the handlers of this worker ask for."""
        live = self.live.read().registrations
        return announce(self.postgres.connection, [*handlers], code_version=handlers.code_version, live=live)

    @cached_property
    def handler_durations(self) -> HandlerDurations:
        """Recent durations of handlers."""
        return HandlerDurations(self.broker_redis, self.names)


def require_rights(settings: WorkerSettings, *, queues: Collection[str]) -> None:
    """Check, when a worker of these queues starts, that its user of Redis may do what it must.

    Raises:
        MissingRightsError: it may not.
        redis.RedisError: Redis is away.
    """
    names = Names(settings.redis_prefix)
    needs = {
        "BROKER_URL": rights.of_worker_at_broker(names, queues),
        "INBOX_URL": rights.of_worker_at_inbox(names, queues),
    }
    servers = _servers(settings)
    if len(servers) == 1:
        needs = {"REDIS_URL": [command for commands in needs.values() for command in commands]}
    for variable, url in servers.items():
        with open_client(url, seconds=REDIS_SECONDS, prefix=settings.redis_prefix) as client:
            rights.require(client, needs[variable], variable=variable)


def name_refusal(settings: WorkerSettings, error: Exception, *, queues: Collection[str]) -> str:
    """Return a line that names the rights which the user of Redis lacks, after it was refused a command."""
    try:
        require_rights(settings, queues=queues)
    except rights.MissingRightsError as refusal:
        return str(refusal)
    except RedisError:
        pass
    return f"Redis has refused a command ({error}): {rights.ADVICE}"


def require_fit_servers(settings: WorkerSettings) -> None:
    """Check, when a worker starts, that it can use this database and that Redis belongs to it.

    Raises:
        UnfitDatabaseError: the database cannot be used, or the role of handlers cannot record a success.
        ForeignRedisError: Redis belongs to another database or environment.
        psycopg.Error: Postgres is away, or not migrated for this version.
        redis.RedisError: Redis is away.
    """
    with connect(settings.database_url, name="pipeline start", schema=settings.database_schema) as connection:
        identity = read_identity(connection, settings.environment)
        is_migrated = find_function(connection, settings.database_schema) is not None
    if is_migrated and settings.handler_database_url:
        HandlerSession(settings.handler_database_url, schema=settings.database_schema).check()
    for url in _servers(settings).values():
        with open_client(url, seconds=REDIS_SECONDS, prefix=settings.redis_prefix) as client:
            claim(client, Names(settings.redis_prefix), identity)


def _servers(settings: WorkerSettings) -> Mapping[str, str]:
    """Return the URLs of the Redis that are used, by the variable that names each."""
    if settings.inbox_url == settings.broker_url:
        return {"REDIS_URL": settings.inbox_url}
    return {"INBOX_URL": settings.inbox_url, "BROKER_URL": settings.broker_url}
