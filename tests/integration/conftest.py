"""Rows to work on, put in place by plain SQL, and a message run as a worker runs it."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from redis import Redis

from shared.envelope import new_event_id
from tests.ingress_process import Valkey, endpoint, own_valkey, publish
from workers.dispatch.handler_loop import HandlerLoop
from workers.dispatch.running import MessageRun
from workers.registration import Handler
from workers.store.connect import PostgresConnection
from workers.store.session import HandlerSession

if TYPE_CHECKING:
    from pathlib import Path

    from workers.store.connect import Connection


def is_terminating() -> bool:
    """Stand in for what the pool tells a process that has to end."""
    return False


AddDeliveries = Callable[..., list[uuid.UUID]]
Run = Callable[..., MessageRun]


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    """A Redis of the module's own, with the registry of one endpoint; some modules have another."""
    with own_valkey() as it:
        publish(it.url, 1, endpoint())
        yield it


@pytest.fixture
def client(redis_url: str, request: pytest.FixtureRequest) -> Iterator[Redis]:
    """A client of Redis, of protocol 2 or of the one that a test asks for."""
    with Redis.from_url(redis_url, protocol=getattr(request, "param", 2)) as it:
        yield it


@pytest.fixture
def add_deliveries(connection: Connection) -> AddDeliveries:
    """Return a function that stores events with one delivery each, and returns their ids in order."""

    def add(
        count: int = 1,
        *,
        tenant: str = "acme",
        handler: str = "acme.run",
        body: bytes = b"{}",
        moment: datetime | None = None,
    ) -> list[uuid.UUID]:
        ids = sorted(new_event_id(moment or datetime.now(UTC)) for _ in range(count))
        connection.execute(
            "INSERT INTO events"
            " (id, provider, tenant, type, received_at, headers, body, secret_label, fingerprint, state)"
            " SELECT id, 'other', %s, 'thing.happened', now(), '{}', %s, 'first', uuid_send(id), 'accepted'"
            " FROM unnest(%s::uuid[]) AS id",
            [tenant, body, ids],
        )
        connection.execute(
            "INSERT INTO deliveries (event_id, handler, tenant) SELECT id, %s, %s FROM unnest(%s::uuid[]) AS id",
            [handler, tenant, ids],
        )
        return ids

    return add


@pytest.fixture
def run(connection: Connection, database_url: str) -> Iterator[Run]:
    """Return a function that queues deliveries and runs them as one message."""
    postgres, session = PostgresConnection(database_url, name="test"), HandlerSession(database_url)
    loops = [HandlerLoop()]

    def run_message(ids: list[uuid.UUID], function: Callable[..., Any], **policy: Any) -> MessageRun:
        connection.execute(
            "UPDATE deliveries SET state = 'queued', ready = false, lease_until = now() + interval '1 min'"
            " WHERE event_id = ANY (%s) AND state = 'pending'",
            [ids],
        )
        budget, start = policy.pop("budget", 60.0), policy.pop("on_process_start", None)
        if start:
            loops.append(HandlerLoop(start))
        one = HandlerSession(policy.pop("session_url")) if "session_url" in policy else session
        handler = Handler(name="acme.run", function=function, **policy)
        message = MessageRun(
            handler,
            postgres=postgres,
            session=one,
            loop=loops[-1],
            message_seconds=budget,
            is_terminating=lambda: is_terminating(),  # noqa: PLW0108 - a test may replace it
        )
        message.run(ids)
        return message

    yield run_message
    postgres.close()
    session.discard()
    for loop in loops:
        loop.prepare().close()


@pytest.fixture
def start_workers(database_url: str, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Start the workers and beat with these settings; they must live until the test is over."""
    with ExitStack() as stack:
        running: dict[str, psutil.Popen] = {}

        def start(**settings: str) -> None:
            environ = os.environ | {"DATABASE_URL": database_url, "HANDLERS": "workers.handlers.example"} | settings
            celery = [sys.executable, "-m", "celery", "-A", "workers.app"]
            queues = ("ingest", "handlers", "housekeeping")
            commands = {name: [*celery, "worker", "-Q", name, "-c", "1", "-n", f"{name}@%h"] for name in queues}
            commands["beat"] = [*celery, "beat", "--schedule", str(tmp_path / "beat")]
            for name, command in commands.items():
                log = stack.enter_context((tmp_path / f"{name}.log").open("wb"))
                running[name] = psutil.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
                stack.callback(running[name].wait)
                stack.callback(os.killpg, running[name].pid, signal.SIGKILL)

        yield start
        for name, process in running.items():
            assert process.poll() is None, (tmp_path / f"{name}.log").read_text()[-3000:]
