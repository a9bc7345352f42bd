"""Workers that are too new or too old for the database: they say so, wait, and work as soon as it suits them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import psycopg
import pytest
from redis import Redis

from shared import wire
from tests.ingress_process import wait_for
from tests.names import NAMES
from workers.dispatch.admission import Message, admit
from workers.dispatch.queue import CeleryQueue
from workers.store.connect import connect
from workers.store.deliveries import Candidate
from workers.store.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deploy.local.service import Server
    from tests.integration.conftest import AddDeliveries
    from workers.store.connect import Connection


@pytest.fixture
def empty_database_url(postgres_server: Server) -> Iterator[str]:
    name = f"empty_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        yield postgres_server.url.removesuffix("/postgres") + f"/{name}"
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def start_worker(redis_url: str, tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    """Return a function that starts a worker of a queue on a database, and returns the log."""
    running: list[subprocess.Popen[bytes]] = []

    def start(queue: str, database_url: str) -> Path:
        environ = {name: value for name, value in os.environ.items() if name != "SECRETS_KEY"}
        environ |= {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "HEARTBEAT_DIR": str(tmp_path)}
        environ |= {"HANDLERS": "tests.system.handlers.effects"}
        command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", queue, "-c", "1"]
        log = tmp_path / "log"
        with log.open("wb") as output:
            running.append(subprocess.Popen(command, env=environ, stdout=output, stderr=output, start_new_session=True))
        return log

    yield start
    for worker in running:
        assert worker.poll() is None
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def health(folder: Path, duty: str) -> str:
    """What `pipeline health` says; it must be healthy."""
    command = [sys.executable, "-m", "deploy.health", duty]
    environ = os.environ | {"HEARTBEAT_DIR": str(folder)}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout


def ring(redis: Redis) -> None:
    keys, arguments = wire.ring_arguments(NAMES)
    redis.delete(NAMES.bell)
    redis.eval(wire.RING, len(keys), *keys, *arguments)


def test_a_worker_without_a_schema_says_what_to_do_once_and_drains_when_it_is_there(
    redis_url: str, empty_database_url: str, start_worker: Callable[[str, str], Path], tmp_path: Path
) -> None:
    log = start_worker("ingest", empty_database_url)
    with Redis.from_url(redis_url) as redis:
        redis.xadd(NAMES.inbox, {"v": "0"})
        for _ in range(3):
            ring(redis)
        wait_for(lambda: "run pipeline migrate" in log.read_text(), seconds=30)
        wait_for(lambda: redis.llen(wire.INGEST_QUEUE) == 0, seconds=10)
        assert log.read_text().count("run pipeline migrate") == 1
        assert "Traceback" not in log.read_text()
        assert "(waits: the database is not ready for this version: run pipeline migrate" in health(tmp_path, "ingest")
        with connect(empty_database_url, name="test") as connection:
            migrate(connection)
        ring(redis)
        wait_for(lambda: redis.xlen(NAMES.inbox) == 0, seconds=15)
        assert "waits" not in health(tmp_path, "ingest")


def test_a_worker_that_is_too_old_for_the_database_says_so_once_and_takes_no_delivery(
    client: Redis,
    database_url: str,
    connection: Connection,
    start_worker: Callable[[str, str], Path],
    add_deliveries: AddDeliveries,
) -> None:
    connection.execute("INSERT INTO migrations (name) VALUES ('9998_pre_coming'), ('9999_post_coming')")
    connection.execute("CREATE TABLE effects (event_id uuid, handler text, note text)")
    connection.execute("CREATE TABLE effects_once (event_id uuid, handler text)")
    (event_id,) = add_deliveries(1, handler="effects.anyone")
    queue = CeleryQueue(client, NAMES)
    admit(connection, queue, slots=4, message_seconds=1.0)
    log = start_worker("handlers", database_url)
    wait_for(lambda: "too old for the database (9999_post_coming)" in log.read_text(), seconds=30)
    assert "waits: this version is too old" in health(log.parent, "handlers")
    (row,) = connection.execute("SELECT state, attempt FROM deliveries")
    assert row == {"state": "queued", "attempt": 0}
    connection.execute("DELETE FROM migrations WHERE name = '9999_post_coming'")
    candidate = Candidate(event_id=event_id, tenant="acme", handler="effects.anyone", place=1)
    queue.send(Message(handler="effects.anyone", deliveries=(candidate,)))
    wait_for(lambda: connection.execute("SELECT FROM deliveries_done").rowcount == 1, seconds=20)
    assert "waits" not in health(log.parent, "handlers")
    assert log.read_text().count("too old") == 1
    assert "Traceback" not in log.read_text()
