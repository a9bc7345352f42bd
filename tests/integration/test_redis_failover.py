"""Redis killed again and again, or demoted, under load: no worker ends, and all is handled soon after."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil
import pytest
from redis.exceptions import RedisError

from shared import wire
from shared.envelope import Envelope, encode, new_event_id
from tests.ingress_process import Valkey, own_valkey, wait_for
from tests.names import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from workers.store.connect import Connection

ROUNDS = int(os.environ.get("REDIS_KILLED_ROUNDS", "2"))
QUEUES = ("ingest", "handlers", "housekeeping")


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with own_valkey() as it:
        yield it


Workers = dict[str, psutil.Popen]


@pytest.fixture
def start_workers(database_url: str, tmp_path: Path) -> Iterator[Callable[[str], Workers]]:
    """Start the workers and beat, on a Redis that is this test's alone."""
    with ExitStack() as stack:

        def start(redis_url: str) -> Workers:
            servers = {"REDIS_URL": redis_url, "DATABASE_URL": database_url}
            environ = os.environ | servers | {"HANDLERS": "workers.handlers.example"}
            celery = [sys.executable, "-m", "celery", "-A", "workers.app"]
            options = ["--concurrency=2", "-n"]
            commands = {name: [*celery, "worker", f"--queues={name}", *options, f"{name}@%h"] for name in QUEUES}
            commands["beat"] = [*celery, "beat", "--schedule", str(tmp_path / "beat")]
            running = {}
            for name, command in commands.items():
                log = stack.enter_context((tmp_path / f"{name}.log").open("wb"))
                running[name] = psutil.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
                stack.callback(running[name].wait)
                stack.callback(os.killpg, running[name].pid, signal.SIGKILL)
            return running

        yield start


def ended(workers: Workers, tmp_path: Path) -> list[str]:
    """Return the last lines of those that have ended."""
    return [
        (tmp_path / f"{name}.log").read_text()[-3000:]
        for name, process in workers.items()
        if process.poll() is not None
    ]


def post(valkey: Valkey, number: int) -> bool:
    """Append an event as the ingress does, and ring; return whether Redis confirmed it."""
    now = datetime.now(UTC)
    envelope = Envelope(
        id=new_event_id(now), provider="in-house", tenant="acme", secret_label="first", received_at=now, headers=(),
        body=b'{"type":"t","number":%d}' % number,
    )  # fmt: skip
    with suppress(RedisError, OSError), valkey.client() as client:
        client.xadd(NAMES.inbox, encode(envelope))
        with suppress(RedisError, OSError):
            keys, arguments = wire.ring_arguments(NAMES)
            client.eval(wire.RING, len(keys), *keys, *arguments)
        return True
    return False


def has_handled(connection: Connection, expected: int) -> bool:
    (row,) = connection.execute("SELECT count(*) AS n FROM deliveries_done WHERE state = 'succeeded'")
    return int(row["n"]) >= expected


@pytest.mark.long  # it compares seconds, which a busy machine does not keep
@pytest.mark.timeout(200)
def test_no_worker_ends_when_redis_is_killed_and_all_is_handled_within_ten_seconds_of_its_return(
    valkey: Valkey, start_workers: Callable[[str], Workers], connection: Connection, tmp_path: Path
) -> None:
    workers = start_workers(valkey.url)
    posted = sum(post(valkey, number) for number in range(10))
    wait_for(partial(has_handled, connection, posted), seconds=60)
    for round_number in range(ROUNDS):
        for kill in range(5):
            for number in range(28):
                posted += post(valkey, 1000 * round_number + 100 * kill + number + 100)
                time.sleep(0.025)
            valkey.signal(signal.SIGKILL)
            valkey.wait()
            valkey.start()
        with valkey.client() as client:
            for _ in range(20):
                client.client_kill_filter(skipme=True, _type="normal")
        wait_for(partial(has_handled, connection, posted), seconds=10)
        assert ended(workers, tmp_path) == []


class Switch:
    """A TCP proxy whose target may be changed; connections that are open stay where they are."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def close(self) -> None:
        self._server.close()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with source:
            with suppress(OSError):
                while chunk := source.recv(65_536):
                    target.sendall(chunk)
            with suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)


def port_of(valkey: Valkey) -> int:
    port = urlsplit(valkey.url).port
    assert port is not None
    return port


@pytest.mark.timeout(120)
def test_when_redis_is_demoted_with_connections_alive_all_go_to_the_new_primary(
    valkey: Valkey, start_workers: Callable[[str], Workers], connection: Connection, tmp_path: Path
) -> None:
    with (
        own_valkey() as other,
        valkey.client() as old,
        other.client() as new,
        closing(Switch(port_of(valkey))) as switch,
    ):
        workers = start_workers(valkey.url.replace(str(port_of(valkey)), str(switch.port)))
        posted = sum(post(valkey, number) for number in range(10))
        wait_for(partial(has_handled, connection, posted), seconds=60)
        for client in (old, new):
            client.config_set("masterauth", "test")
        new.replicaof("127.0.0.1", port_of(valkey))
        wait_for(lambda: new.info("replication")["master_link_status"] == "up", seconds=20)
        new.execute_command("REPLICAOF", "NO", "ONE")
        switch.target = port_of(other)
        old.replicaof("127.0.0.1", port_of(other))
        posted += sum(post(other, 100 + number) for number in range(20))
        wait_for(partial(has_handled, connection, posted), seconds=10)
        assert ended(workers, tmp_path) == []
