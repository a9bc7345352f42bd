"""`pipeline rename`, while events come, workers drain, and every process is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from shared.registry import Cipher
from shared.wire import Names
from tests.conftest import SECRETS_KEY
from tests.ingress_process import SECRET, Process, serving, wait_for
from tests.moveris import completed
from workers.store import tenants

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from workers.store.connect import Connection

PIPELINE = str(Path(sys.executable).with_name("pipeline"))
OLD, NEW = Names(""), Names("webhooks:")
HANDLERS = """
from workers import handler

@handler("acme.count", tenant="acme")
def count(event, delivery):
    delivery.connection.execute("INSERT INTO counted VALUES (%s)", [delivery.event_id])
"""


class Load:
    """Posts one event after the other to whichever ingress it is told, and keeps what was acknowledged."""

    def __init__(self, ingress: Process) -> None:
        self.ingress = ingress
        self.acknowledged: list[str] = []
        self.refused: list[int] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.wait(0.01):
            answer = self.ingress.post(completed())
            if answer.status_code == 200:
                self.acknowledged.append(answer.json()["id"])
            else:
                self.refused.append(answer.status_code)

    def wait_for_more(self, count: int = 20) -> None:
        aim = len(self.acknowledged) + count
        wait_for(lambda: len(self.acknowledged) >= aim, seconds=20)

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()


@contextmanager
def workers(environ: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run one worker for all queues, with beat in it; yield it when it is ready."""
    queues = "ingest,handlers,express,housekeeping"
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-B", "-Q", queues, "-c", "2"]
    command += ["-n", f"{log.stem}@%h", "--schedule", str(log.with_suffix(".schedule"))]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environ, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_for(lambda: "ready." in log.read_text(), seconds=30)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def events(connection: Connection, table: str, column: str) -> list[str]:
    return [str(row["id"]) for row in connection.execute(f"SELECT {column} AS id FROM {table}")]


@pytest.mark.long
@pytest.mark.timeout(180)
def test_a_running_system_moves_from_no_prefix_to_one_and_every_event_is_handled_once(
    redis_url: str, database_url: str, connection: Connection, tmp_path: Path
) -> None:
    (tmp_path / "counting.py").write_text(HANDLERS)
    connection.execute("CREATE TABLE counted (id uuid)")
    tenants.add_tenant(connection, "acme")
    ciphertext = Cipher([SECRETS_KEY]).encrypt(SECRET)
    tenants.add_endpoint(
        connection, tenant="acme", provider="moveris", scheme="moveris", label="first", ciphertext=ciphertext
    )
    before = os.environ | {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "HANDLERS": "counting",
        "PYTHONPATH": str(tmp_path),
    }
    after = before | {"REDIS_PREFIX": NEW.prefix}
    with ExitStack() as stack, Redis.from_url(redis_url) as client:
        old_workers = stack.enter_context(workers(before, tmp_path / "old.log"))
        old_ingress = stack.enter_context(serving(redis_url))
        load = Load(old_ingress)
        stack.callback(load.stop)
        load.wait_for_more()

        stack.enter_context(workers(after, tmp_path / "new.log"))
        old_workers.terminate()
        load.wait_for_more()
        command = subprocess.Popen([PIPELINE, "rename", "--quiet", "4s"], env=after, stdout=subprocess.PIPE, text=True)
        stack.callback(command.kill)
        new_ingress = stack.enter_context(serving(redis_url, REDIS_PREFIX=NEW.prefix))
        load.wait_for_more()
        assert client.exists(OLD.registry), "the old ingress still needs it"
        load.ingress = new_ingress
        load.wait_for_more()
        old_ingress.stop()
        told, _ = command.communicate(timeout=60)
        load.stop()

        assert "nobody uses the old names, and they are gone" in told
        assert command.returncode == 0
        acknowledged = sorted(load.acknowledged)
        wait_for(lambda: len(events(connection, "counted", "id")) >= len(acknowledged), seconds=60)
        assert load.refused == []
        assert sorted(events(connection, "counted", "id")) == acknowledged
        assert sorted(events(connection, "events", "id")) == acknowledged
        left = [name for name in client.scan_iter() if not name.startswith(NEW.prefix.encode())]
        assert [name for name in left if not name.startswith((b"_kombu", b"unacked"))] == []


def test_another_databases_names_are_not_moved(redis_url: str, database_url: str) -> None:
    run = partial(subprocess.run, [PIPELINE, "rename"], capture_output=True, text=True, check=False)
    environ = os.environ | {"REDIS_URL": redis_url, "DATABASE_URL": database_url}
    with Redis.from_url(redis_url) as client:
        client.set(OLD.identity, "production 1/2/3")
        client.xadd(OLD.inbox, {"v": "1"})
        refused = run(env=environ | {"REDIS_PREFIX": NEW.prefix})
        assert refused.returncode == 1
        assert refused.stderr.startswith("pipeline: Redis belongs to production 1/2/3, and this is - ")
        assert client.xlen(OLD.inbox) == 1
        same = run(env=environ)
        assert same.stderr == "pipeline: REDIS_PREFIX is empty, as --from is: set it to the new prefix\n"
