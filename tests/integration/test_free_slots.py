"""Real workers that take no work although they could: a child that is stopped, a connection that falls silent."""

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil
import pytest
from redis import Redis

from deploy.health import assess
from shared import wire
from shared.heartbeat import read_beats
from tests.conftest import SECRETS_KEY
from tests.ingress_process import wait_for
from tests.launching import free_port
from tests.names import NAMES
from workers.dispatch.admission import admit
from workers.dispatch.queue import CeleryQueue

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.conftest import AddDeliveries
    from workers.store.connect import Connection

STUCK_SECONDS = 2.0
SOON = 20.0
"""Seconds in which everything happens on a busy machine; a worker's start alone takes five there."""
HANDLERS = """
import time
from workers import handler

@handler("acme.run", event="thing.happened")
def run(event, delivery):
    delivery.connection.execute("INSERT INTO runs (event_id) VALUES (%s)", [delivery.event_id])

@handler("acme.slow", event="thing.happened")
def slow(event, delivery):
    time.sleep(6)
"""


class Relay:
    """Forwards connections to a port; `silence` silences for good each one on which a worker waits for messages."""

    def __init__(self, to: int) -> None:
        self._to = ("127.0.0.1", to)
        self._server = socket.create_server(("127.0.0.1", free_port()))
        self.port: int = self._server.getsockname()[1]
        self._silenced = threading.Event()
        self.has_silenced = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> None:
        """From now on a connection that asks for messages gets no answer and is not closed; others work."""
        self._silenced.set()

    def resume(self) -> None:
        """Let new connections ask again."""
        self._silenced.clear()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        is_silent = False
        with client, socket.create_connection(self._to) as server, selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    try:
                        data = key.fileobj.recv(65_536)  # type: ignore[union-attr]
                    except OSError:
                        return
                    if not data:
                        return
                    if b"BRPOP" in data and key.fileobj is client and self._silenced.is_set():
                        is_silent = True
                        self.has_silenced.set()
                    if not is_silent:
                        key.data.sendall(data)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def environ(redis_url: str, database_url: str, connection: Connection, tmp_path: Path) -> dict[str, str]:
    connection.execute("CREATE TABLE runs (event_id uuid PRIMARY KEY)")
    (tmp_path / "acme_handlers.py").write_text(HANDLERS)
    return {
        **os.environ,
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "SECRETS_KEY": SECRETS_KEY,
        "HEARTBEAT_DIR": str(tmp_path / "heartbeats"),
        "STUCK_SECONDS": str(STUCK_SECONDS),
        "HANDLERS": "acme_handlers",
        "PYTHONPATH": str(tmp_path),
    }


@contextmanager
def started(environ: dict[str, str], tmp_path: Path) -> Iterator[psutil.Popen]:
    """Run a worker for handlers with one process in its pool, from the moment when it takes messages."""
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "--queues=handlers", "--concurrency=1"]
    with (tmp_path / "log").open("wb") as log:
        process = psutil.Popen([*command, "-n", "handlers@%h"], env=environ, stdout=log, stderr=log)
    try:
        wait_for(lambda: b"ready" in (tmp_path / "log").read_bytes(), seconds=SOON)
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            for one in (*process.children(recursive=True), process):
                one.kill()
        process.wait()


def send(connection: Connection, redis: Redis) -> None:
    """Send what is due to the workers."""
    admit(connection, CeleryQueue(redis, NAMES), slots=1, message_seconds=1.0)


def runs(connection: Connection) -> set[uuid.UUID]:
    return {row["event_id"] for row in connection.execute("SELECT event_id FROM runs")}


def health(tmp_path: Path) -> tuple[str, bool]:
    """Return what `pipeline health` says of a worker whose loop runs."""
    beats = read_beats(tmp_path / "heartbeats")
    return assess(beats, now=max((beat.at for beat in beats), default=0.0), patience=60.0)


def test_a_child_that_is_stopped_is_replaced_and_its_message_runs(
    environ: dict[str, str], connection: Connection, redis: Redis, add_deliveries: AddDeliveries, tmp_path: Path
) -> None:
    with started(environ, tmp_path) as worker:
        wait_for(lambda: b"is announced" in (tmp_path / "log").read_bytes(), seconds=SOON)
        (child,) = (it for it in worker.children() if "resource_tracker" not in " ".join(it.cmdline()))
        child.suspend()
        ids = set(add_deliveries(3))
        send(connection, redis)
        wait_for(lambda: not health(tmp_path)[1], seconds=SOON)
        assert "takes nothing although it has a free slot and its queue waits" in health(tmp_path)[0]
        wait_for(lambda: runs(connection) == ids, seconds=SOON)
        wait_for(lambda: health(tmp_path)[1], seconds=SOON)
        assert worker.poll() is None
        assert not psutil.pid_exists(child.pid)
    assert '"code": "child_stuck"' in (tmp_path / "log").read_text()


@pytest.mark.long
def test_a_worker_that_hears_of_no_message_any_more_ends_and_its_successor_runs_what_waits(
    environ: dict[str, str], connection: Connection, redis: Redis, add_deliveries: AddDeliveries, tmp_path: Path
) -> None:
    parts = urlsplit(environ["REDIS_URL"])
    relay = Relay(parts.port or 0)
    environ["REDIS_URL"] = parts._replace(netloc=parts.netloc.replace(str(parts.port), str(relay.port))).geturl()
    try:
        with started(environ, tmp_path) as worker:
            relay.silence()
            assert relay.has_silenced.wait(SOON)
            ids = set(add_deliveries(3))
            send(connection, redis)
            wait_for(lambda: not health(tmp_path)[1], seconds=SOON)
            assert worker.wait(40) == 1
            assert '"code": "worker_stuck"' in (tmp_path / "log").read_text()
            assert runs(connection) == set()
        relay.resume()
        with started(environ, tmp_path):
            wait_for(lambda: runs(connection) == ids, seconds=SOON)
            assert health(tmp_path)[1]
    finally:
        relay.close()


def test_a_worker_that_is_busy_or_has_nothing_to_do_is_not_stuck(
    environ: dict[str, str], connection: Connection, redis: Redis, add_deliveries: AddDeliveries, tmp_path: Path
) -> None:
    with started(environ, tmp_path) as worker:
        add_deliveries(1, handler="acme.slow")
        ids = set(add_deliveries(1))
        send(connection, redis)
        wait_for(lambda: redis.llen(wire.HANDLERS_QUEUE) == 1, seconds=SOON)
        wait_for(lambda: runs(connection) == ids, seconds=SOON)
        time.sleep(STUCK_SECONDS * 2)  # at rest
        assert health(tmp_path)[1]
        assert worker.poll() is None
    assert "stuck" not in (tmp_path / "log").read_text()
