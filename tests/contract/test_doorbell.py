"""The doorbell against Celery: the same message, and a real worker that runs it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import redis
from celery import Celery

from shared.wire import DRAIN_TASK, INGEST_QUEUE, MOST_BELLS, RING, doorbell, ring_arguments
from tests.ingress_process import wait_for
from tests.names import NAMES

if TYPE_CHECKING:
    from pathlib import Path

OF_THE_SENDER = {"id", "root_id", "correlation_id", "delivery_tag", "origin", "reply_to"}
"""Fields that are the sender's own or fresh in every message."""


def sent_by_celery(redis_url: str) -> dict[str, Any]:
    """Return the message as Celery itself puts it into Redis."""
    with Celery("other", broker=redis_url, set_as_current=False) as app:
        app.conf.task_ignore_result = True
        app.conf.task_default_queue = INGEST_QUEUE
        app.send_task(DRAIN_TASK, queue=INGEST_QUEUE, ignore_result=True)
    with redis.Redis.from_url(redis_url) as client:
        text = client.rpop(INGEST_QUEUE)
    assert isinstance(text, bytes)
    message: dict[str, Any] = json.loads(text)
    return message


def test_the_doorbell_is_what_celery_would_send_field_by_field(redis_url: str) -> None:
    theirs, ours = sent_by_celery(redis_url), json.loads(doorbell())
    assert list(ours) == list(theirs)
    for part in ("headers", "properties"):
        assert set(ours[part]) == set(theirs[part])
        for field in set(theirs[part]) - OF_THE_SENDER:
            assert ours[part][field] == theirs[part][field], f"{part}.{field}"
    assert {name: ours[name] for name in ("content-encoding", "content-type")} == {
        name: theirs[name] for name in ("content-encoding", "content-type")
    }
    assert json.loads(base64.b64decode(ours["body"])) == json.loads(base64.b64decode(theirs["body"]))


def test_the_ids_of_a_doorbell_agree_and_are_fresh() -> None:
    first, second = (json.loads(doorbell()) for _ in range(2))
    for one in (first, second):
        assert one["headers"]["id"] == one["headers"]["root_id"] == one["properties"]["correlation_id"]
    assert first["headers"]["id"] != second["headers"]["id"]
    assert first["properties"]["delivery_tag"] != second["properties"]["delivery_tag"]


def test_it_rings_once_until_the_bell_is_cleared_and_never_piles_up(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:

        def ring() -> int:
            keys, arguments = ring_arguments(NAMES)
            return int(client.eval(RING, len(keys), *keys, *arguments))

        assert [ring(), ring()] == [1, 0]
        for _ in range(MOST_BELLS - 1):
            client.delete(NAMES.bell)
            assert ring() == 1
        client.delete(NAMES.bell)
        assert ring() == 0, "enough of them wait already"
        client.delete(NAMES.bell, INGEST_QUEUE)
        assert ring() == 1
        wait_for(lambda: not client.exists(NAMES.bell), seconds=2)  # nobody drained: it falls silent by itself


WORKER = """
import os
from celery import Celery

app = Celery("drainer", broker=os.environ["REDIS_URL"])
app.conf.task_default_queue = "ingest"
app.conf.task_acks_late = True
app.conf.worker_enable_remote_control = False
app.conf.broker_connection_retry_on_startup = True

@app.task(name="ingest.drain", bind=True)
def drain(self, *args, **kwargs):
    assert (args, kwargs) == ((), {})
    app.backend  # the result backend is off
    import redis
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        client.rpush("ran", self.request.id)
"""


def test_a_real_worker_runs_every_doorbell_and_acknowledges_it(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "drainer.py").write_text(WORKER)
    bells = [doorbell() for _ in range(3)]
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "drainer",
        "worker",
        "-Q",
        INGEST_QUEUE,
        "-P",
        "prefork",
        "-c",
        "1",
    ]
    with (
        redis.Redis.from_url(redis_url) as client,
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, "REDIS_URL": redis_url}, stdout=log, stderr=log
        ) as worker,
    ):
        try:
            client.lpush(INGEST_QUEUE, *bells)
            wait_for(lambda: client.llen("ran") == len(bells), seconds=40)
            wait_for(lambda: not client.exists("unacked"), seconds=10)
            assert worker.poll() is None, (tmp_path / "log").read_text()
        finally:
            worker.terminate()
            worker.wait(60)
        expected = {json.loads(bell)["headers"]["id"].encode() for bell in bells}
        assert set(client.lrange("ran", 0, -1)) == expected
        assert not client.exists(INGEST_QUEUE)
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text, text
