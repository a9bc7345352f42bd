"""What beat sends when it starts, and what the timer of an ingest worker holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from redis import Redis

from shared import wire
from tests.ingress_process import wait_for
from tests.names import NAMES
from workers.drain_timer import DrainTimer

if TYPE_CHECKING:
    from pathlib import Path


def test_the_days_are_looked_after_soon_after_beat_has_started(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "SECRETS_KEY"}
    environ |= {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "HEARTBEAT_DIR": str(tmp_path)}

    def sent() -> set[str]:
        return {json.loads(message)["headers"]["task"] for message in redis.lrange(wire.HOUSEKEEPING_QUEUE, 0, -1)}

    with (tmp_path / "log").open("wb") as log, Redis.from_url(redis_url) as redis:
        command = [sys.executable, "-m", "celery", "-A", "workers.app", "beat"]
        beat = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        try:
            wait_for(lambda: {"housekeeping.keep_days", "housekeeping.warn"} <= sent(), seconds=20)
        finally:
            beat.kill()
            beat.wait()


class Timer:
    """Calls nothing by itself."""

    def call_repeatedly(self, *_: object) -> Any:
        return SimpleNamespace(cancel=lambda: None)


def test_a_consumer_that_starts_again_and_again_has_one_connection(redis_url: str) -> None:
    queues = SimpleNamespace(consume_from={wire.INGEST_QUEUE})
    consumer = SimpleNamespace(app=SimpleNamespace(amqp=SimpleNamespace(queues=queues)), timer=Timer())
    step = type("Step", (DrainTimer,), {"redis_url": redis_url, "names": NAMES})(consumer)
    with Redis.from_url(redis_url) as redis:
        before = len(redis.client_list())
        clients = []
        for _ in range(3):
            step.start(consumer)
            step._state()
            clients.append(step._redis)
            step.stop(consumer)
        assert len(redis.client_list()) == before + 1
