"""Workers that were started before the database was migrated: they say so, and work as soon as it is."""

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
from workers.store.connect import connect
from workers.store.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploy.local.service import Server


@pytest.fixture
def empty_database_url(postgres_server: Server) -> Iterator[str]:
    name = f"empty_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        yield postgres_server.url.removesuffix("/postgres") + f"/{name}"
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_worker_without_a_schema_says_what_to_do_once_and_drains_when_it_is_there(
    redis_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "SECRETS_KEY"}
    environ |= {"REDIS_URL": redis_url, "DATABASE_URL": empty_database_url}
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", "ingest", "-c", "1"]
    log = tmp_path / "log"
    with log.open("wb") as output, Redis.from_url(redis_url) as redis:
        worker = subprocess.Popen(command, env=environ, stdout=output, stderr=output, start_new_session=True)
        try:
            redis.xadd(NAMES.inbox, {"v": "0"})
            keys, arguments = wire.ring_arguments(NAMES)
            for _ in range(3):
                redis.delete(NAMES.bell)
                redis.eval(wire.RING, len(keys), *keys, *arguments)
            wait_for(lambda: "run pipeline migrate" in log.read_text(), seconds=30)
            wait_for(lambda: redis.llen(wire.INGEST_QUEUE) == 0, seconds=10)
            assert log.read_text().count("run pipeline migrate") == 1
            assert "Traceback" not in log.read_text()
            with connect(empty_database_url, name="test") as connection:
                migrate(connection)
            redis.delete(NAMES.bell)
            redis.eval(wire.RING, len(keys), *keys, *arguments)
            wait_for(lambda: redis.xlen(NAMES.inbox) == 0, seconds=15)
            assert worker.poll() is None
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
