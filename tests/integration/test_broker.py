"""A real worker whose Redis refuses: it stays, and works again as soon as Redis does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psutil
import pytest
from redis import Redis
from redis.exceptions import ResponseError

from shared import wire
from shared.envelope import Envelope, encode, new_event_id
from tests.conftest import SECRETS_KEY
from tests.ingress_process import wait_for
from tests.launching import free_port
from tests.names import NAMES
from workers.broker import LONGEST_PAUSE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

SOON = 5.0
"""Seconds from the end of a refusal to the next drain; a worker's restart alone takes that on a busy machine."""


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def environ(redis_url: str, database_url: str) -> dict[str, str]:
    servers = {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "SECRETS_KEY": SECRETS_KEY}
    return {**os.environ, **servers}


@pytest.fixture
def worker(environ: dict[str, str], redis: Redis, tmp_path: Path) -> Iterator[psutil.Popen]:
    """A worker that drains the inbox, and has done so once."""
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "--queues=ingest", "--concurrency=1"]
    with (tmp_path / "log").open("wb") as log:
        process = psutil.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
        try:
            store_one(redis, seconds=30)
            yield process
        finally:
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ring(redis: Redis) -> None:
    keys, arguments = wire.ring_arguments(NAMES)
    redis.eval(wire.RING, len(keys), *keys, *arguments)


def store_one(redis: Redis, *, seconds: float) -> None:
    """Append something that will be stored as rejected, and wait until it is."""
    redis.xadd(NAMES.inbox, {"v": "0"})
    ring(redis)
    wait_for(lambda: redis.xlen(NAMES.inbox) == 0, seconds=seconds)


@contextmanager
def full(redis: Redis) -> Iterator[None]:
    """Let Redis refuse what takes memory."""
    before = redis.config_get("maxmemory")["maxmemory"]
    redis.config_set("maxmemory", redis.info("memory")["used_memory"] // 2)
    try:
        yield
    finally:
        redis.config_set("maxmemory", before or 0)


@contextmanager
def read_only(redis: Redis) -> Iterator[None]:
    """Make Redis the replica of nobody."""
    redis.replicaof("127.0.0.1", 1)
    try:
        yield
    finally:
        redis.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("refusing", [full, read_only])
def test_a_worker_outlives_a_redis_that_refuses_and_drains_as_soon_as_it_takes_writes_again(
    worker: psutil.Popen, redis: Redis, refusing: Callable[[Redis], AbstractContextManager[None]], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker.suspend()  # what it has not taken yet it takes while Redis refuses to note that
    ring(redis)
    with refusing(redis):
        worker.resume()
        wait_for(
            lambda: log.read_bytes().count(b"Trying to re") > 2 or b"Unrecoverable" in log.read_bytes(), seconds=15
        )
    store_one(redis, seconds=SOON)
    assert worker.poll() is None


DRAIN = "from workers.tasks import drain_inbox; print(drain_inbox()['stored'])"


def test_a_full_redis_does_not_keep_a_drain_from_making_room(environ: dict[str, str], redis: Redis) -> None:
    redis.xgroup_create(NAMES.inbox, wire.INBOX_GROUP, id="0", mkstream=True)  # as ever but for the first drain of all
    for number in range(250):  # more than a drain reads at first
        now = datetime.now(UTC)
        envelope = Envelope(
            id=new_event_id(now), provider="in-house", tenant="acme", secret_label="first", received_at=now, headers=(),
            body=b'{"number": %d}' % number,
        )  # fmt: skip
        redis.xadd(NAMES.inbox, encode(envelope))  # type: ignore[arg-type]
    with full(redis):
        done = subprocess.run([sys.executable, "-c", DRAIN], env=environ, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["250"], done.stderr
    assert redis.xlen(NAMES.inbox) == 0


LOOK = "from workers.tasks.housekeeping import _ring_for_what_waits as look; look()"


@pytest.mark.parametrize("stream", [NAMES.inbox, NAMES.overflow])
def test_bytes_that_were_counted_for_entries_that_never_came_are_forgotten_when_nothing_waits(
    environ: dict[str, str], redis: Redis, stream: str
) -> None:
    def sweep() -> None:
        subprocess.run([sys.executable, "-c", LOOK], env=environ, check=True)

    redis.hset(NAMES.inbox_bytes, "acme", 5000)  # an ingress was killed between the count and the entries
    redis.xadd(stream, {"v": "0"})
    sweep()
    assert redis.hget(NAMES.inbox_bytes, "acme") == b"5000"
    redis.delete(stream)
    sweep()
    assert not redis.exists(NAMES.inbox_bytes)


def test_what_waits_in_a_redis_too_full_for_a_doorbell_is_drained_all_the_same(
    worker: psutil.Popen, redis: Redis
) -> None:
    for _ in range(50):
        redis.xadd(NAMES.inbox, {"v": "0"})
    with full(redis):
        with pytest.raises(ResponseError, match="used memory"):
            ring(redis)
        wait_for(lambda: redis.xlen(NAMES.inbox) == 0, seconds=10)
    assert worker.poll() is None
    store_one(redis, seconds=SOON)


ATTEMPTS = """
from kombu.exceptions import OperationalError
from workers.app import app
with app.connection_for_write() as connection:
    try:
        connection.ensure_connection(lambda error, pause: print(pause), max_retries=4)
    except OperationalError:
        pass
"""


def test_while_redis_is_away_the_next_attempt_to_connect_is_never_far(environ: dict[str, str]) -> None:
    away = {**environ, "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    done = subprocess.run([sys.executable, "-c", ATTEMPTS], env=away, capture_output=True, text=True, check=True)
    pauses = [float(line) for line in done.stdout.split()]
    assert len(pauses) == 4
    assert all(0 < pause <= LONGEST_PAUSE for pause in pauses)
    assert pauses == sorted(pauses)


def test_a_worker_that_cannot_end_by_itself_is_ended(environ: dict[str, str]) -> None:
    script = "import threading; from workers import broker; broker.end_within(0.2); threading.Event().wait()"
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, timeout=20, check=False)
    assert done.returncode == 1
    assert b"does not end by itself" in done.stderr


def test_the_broker_of_another_celery_app_in_the_environment_is_not_taken(
    environ: dict[str, str], redis: Redis
) -> None:
    """The ingress rings where our own settings say, so the workers must listen there."""
    other = f"redis://127.0.0.1:{free_port()}/0"
    redis.lpush("probe", "{}")
    purge = [sys.executable, "-m", "celery", "-A", "workers.app", "purge", "--force", "--queues=probe"]
    done = subprocess.run(
        purge, env=environ | {"CELERY_BROKER_URL": other}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not redis.exists("probe")


@pytest.mark.parametrize(
    ("variable", "end", "part"),
    [
        ("REDIS_URL", "?visibility_timeout=3", "REDIS_URL is wrong: the option 'visibility_timeout' is not known"),
        ("DATABASE_URL", "?nonsense=1", "DATABASE_URL cannot be read"),
    ],
)
def test_an_option_that_is_not_known_ends_the_start_with_one_line(
    environ: dict[str, str], variable: str, end: str, part: str
) -> None:
    for command in (["-m", "celery", "-A", "workers.app", "worker"], ["-m", "ingress"]):
        if command[1] == "ingress" and variable == "DATABASE_URL":
            continue  # it reads none
        wrong = environ | {variable: environ[variable] + end}
        done = subprocess.run([sys.executable, *command], env=wrong, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        (line,) = done.stderr.splitlines()
        assert part in line
