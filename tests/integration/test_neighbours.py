"""A team's own Celery app on the Redis database of the pipeline, with a queue of the same name as one of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from celery import Celery
from redis import Redis

from shared.wire import HANDLERS_QUEUE, INGEST_QUEUE, Names, doorbell
from tests.ingress_process import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

OURS = Names("ours:")
THEIRS = """
import os
import time
from celery import Celery
from redis import Redis

app = Celery("theirs", broker=os.environ["REDIS_URL"])
app.conf.update(task_default_queue="handlers", task_acks_late=True, broker_connection_retry_on_startup=True)

@app.task(name="theirs.long")
def long():
    with Redis.from_url(os.environ["REDIS_URL"]) as client:
        client.rpush("theirs:ran", "once")
        while not client.exists("theirs:go"):
            time.sleep(0.05)
"""


@contextmanager
def worker(app: str, queue: str, environ: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "celery", "-A", app, "worker", "-Q", queue, "-n", f"{app}@%h", "-c", "2"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=log.parent, env=os.environ | environ, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def hold(client: Redis, names: Names, message: bytes, *, seconds_ago: float) -> None:
    """Leave a message as a worker does that took it so long ago and died."""
    client.hset(names.unacked, "tag", json.dumps([json.loads(message), "", INGEST_QUEUE]))
    client.zadd(names.unacked_index, {"tag": time.time() - seconds_ago})


def test_two_apps_on_one_database_leave_each_other_in_peace(redis_url: str, database_url: str, tmp_path: Path) -> None:
    """Ours look after 30 s for what a dead worker held, theirs after an hour: a task of theirs was run twice."""
    (tmp_path / "theirs.py").write_text(THEIRS)
    environ = {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "REDIS_PREFIX": OURS.prefix}
    theirs_log, ours_log = tmp_path / "theirs.log", tmp_path / "ours.log"
    theirs = Names("")
    with (
        Redis.from_url(redis_url) as client,
        Celery("theirs", broker=redis_url, set_as_current=False) as app,
        worker("theirs", HANDLERS_QUEUE, environ, theirs_log),
    ):
        app.send_task("theirs.long", queue=HANDLERS_QUEUE, ignore_result=True)
        wait_for(lambda: client.llen("theirs:ran") == 1, seconds=30)
        (tag,) = client.zrange(theirs.unacked_index, 0, -1)
        client.zincrby(theirs.unacked_index, -40, tag)  # as if it had run for longer than our visibility timeout
        hold(client, OURS, doorbell(), seconds_ago=40)
        client.lpush(OURS.handlers_queue, b"not for them: they would drop what they do not know")
        with worker("workers.app", INGEST_QUEUE, environ, ours_log):
            wait_for(lambda: not client.exists(OURS.unacked), seconds=40)  # ours was looked for, returned and done
            assert client.llen("theirs:ran") == 1
            assert client.zrange(theirs.unacked_index, 0, -1) == [tag]
            assert set(app.control.inspect(timeout=1.0).ping() or {}) == {f"theirs@{os.uname().nodename}"}
            client.set("theirs:go", "now")
            wait_for(lambda: not client.exists(theirs.unacked), seconds=10)
        assert client.llen("theirs:ran") == 1
        assert client.llen(OURS.handlers_queue) == 1
        unknown = [key for key in client.scan_iter() if not key.startswith((b"ours:", b"theirs:", b"_kombu.binding"))]
        assert unknown == []
    assert "unregistered" not in theirs_log.read_text()
