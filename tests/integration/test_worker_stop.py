"""SIGTERM of workers: how long they take, whatever they did before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from shared import wire
from shared.envelope import Envelope, encode, new_event_id
from tests.ingress_process import wait_for
from tests.names import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from workers.store.connect import Connection

IDLE_SECONDS = float(os.environ.get("IDLE_SECONDS", "0"))
MANY = 4


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def post(redis: Redis, number: int) -> None:
    now = datetime.now(UTC)
    envelope = Envelope(
        id=new_event_id(now), provider="in-house", tenant="acme", secret_label="first", received_at=now, headers=(),
        body=b'{"type":"t","number":%d}' % number,
    )  # fmt: skip
    redis.xadd(NAMES.inbox, encode(envelope))  # type: ignore[arg-type]
    keys, arguments = wire.ring_arguments(NAMES)
    redis.eval(wire.RING, len(keys), *keys, *arguments)


def finished(connection: Connection) -> int:
    (row,) = connection.execute("SELECT count(*) AS n FROM deliveries_done")
    return int(row["n"])


@pytest.mark.timeout(200)
def test_workers_that_were_busy_end_within_two_seconds_of_sigterm(
    redis: Redis, redis_url: str, database_url: str, connection: Connection, tmp_path: Path
) -> None:
    servers = {"REDIS_URL": redis_url, "DATABASE_URL": database_url}
    environ = os.environ | servers | {"HANDLERS": "workers.handlers.example"}
    celery = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "--concurrency=4"]
    names = ["ingest", *[f"handlers{number}" for number in range(MANY)]]
    with ExitStack() as stack:
        running = {}
        for name in names:
            log = stack.enter_context((tmp_path / f"{name}.log").open("wb"))
            command = [*celery, f"--queues={name.rstrip('0123456789')}", "-n", f"{name}@%h", "-E"]
            running[name] = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
            stack.callback(running[name].wait)
            stack.callback(running[name].kill)
        announced = "SELECT FROM registered_handlers"
        wait_for(lambda: bool(connection.execute(announced).fetchall()), seconds=60)
        for number in range(40):
            post(redis, number)
        wait_for(lambda: finished(connection) >= 40, seconds=60)
        wait_for(lambda: all("ready" in (tmp_path / f"{it}.log").read_text() for it in names), seconds=30)
        time.sleep(IDLE_SECONDS)
        ends = time.monotonic() + 4.5
        number = 100
        while time.monotonic() < ends:
            post(redis, number := number + 1)
            time.sleep(0.01)
        told = time.monotonic()
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        took = {}
        for name, process in running.items():
            process.wait(60)
            took[name] = round(time.monotonic() - told, 1)
        assert max(took.values()) < 3, took
