"""Real workers say that they live, which handlers they have, and how many processes run them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, cast

import psutil
import pytest

from shared import wire
from shared.releases import RELEASE, read_ingresses
from tests.ingress_process import serving, wait_for
from tests.integration.draining import post
from tests.names import NAMES
from workers.live_workers import LIVE_SECONDS, LiveWorker, LiveWorkers, read_live, say_gone, say_live
from workers.store import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    from workers.store.connect import Connection

    Start = Callable[..., psutil.Popen]

HANDLERS = """
    import os
    from workers import handler

    @handler("team.note", event=os.environ.get("NOTED", "*"), max_attempts=3)
    def note(event, delivery): ...
"""
ONE = LiveWorker(id="a", name="handlers@one", queues=("express", "handlers"), slots=4, code_version="1")


@pytest.fixture
def start(redis_url: str, database_url: str, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a worker of some queues."""
    (tmp_path / "team_handlers.py").write_text(textwrap.dedent(HANDLERS))
    processes: list[psutil.Popen] = []

    def run(queues: str, *, slots: int = 2, **environ: str) -> psutil.Popen:
        own = {
            "REDIS_URL": redis_url,
            "DATABASE_URL": database_url,
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}",
        }
        own |= {"HANDLERS": "team_handlers"} if "handlers" in queues or queues == "express" else {}
        command = [sys.executable, "-m", "celery", "-A", "workers.app"]
        options = [f"--queues={queues}", f"--concurrency={slots}", f"--hostname={queues}@{len(processes)}"]
        command += ["beat"] if queues == "beat" else ["worker", *options, "--without-gossip", "--without-mingle"]
        with (tmp_path / f"log{len(processes)}").open("wb") as log:
            process = psutil.Popen(command, env={**os.environ, **own, **environ}, stdout=log, stderr=log)
        processes.append(process)
        return process

    yield run
    for process in processes:
        for each in (*process.children(recursive=True), process) if process.is_running() else ():
            each.kill()
        process.wait()


def test_processes_say_of_which_release_they_are_until_they_end(client: Redis, redis_url: str) -> None:
    say_live(client, NAMES, ONE, [])
    (said,) = cast("list[bytes]", client.zrange(NAMES.live_workers, 0, -1))
    client.zadd(NAMES.live_workers, {said.replace(b'"release"', b'"of_before"'): time.time()})
    assert [it.release for it in read_live(client, NAMES).workers] == [RELEASE, ""]
    with serving(redis_url, wait_until="/livez"):
        wait_for(lambda: read_ingresses(client, NAMES) == [RELEASE], seconds=10)
    assert read_ingresses(client, NAMES) == []


def test_slots_are_those_of_live_workers_and_handlers_those_that_they_have(client: Redis) -> None:
    say_live(client, NAMES, ONE, [("acme.run", "1"), ("acme.other", "2")])
    express = LiveWorker(id="b", name="express@one", queues=("express",), slots=1, code_version="1")
    say_live(client, NAMES, express, [("acme.run", "1")])
    live = read_live(client, NAMES)
    assert (live.handler_slots, live.express_slots) == (4, 1)
    assert live.handlers == {"acme.run", "acme.other"}
    assert live.workers == (express, ONE)
    say_gone(client, NAMES, ONE)
    assert read_live(client, NAMES).handler_slots == 0


def test_a_worker_that_says_nothing_is_forgotten(client: Redis) -> None:
    say_live(client, NAMES, ONE, [("acme.run", "1")])
    for key in ("workers:live", "handlers:live"):
        (member,) = client.zrange(key, 0, -1)
        client.zincrby(key, -LIVE_SECONDS, cast("bytes", member))
    assert read_live(client, NAMES).workers == ()
    assert read_live(client, NAMES).handlers == set()


def test_what_was_read_a_moment_ago_holds_for_half_a_second(client: Redis) -> None:
    moments = iter([0.0, 0.4, 0.6, 0.6])
    known = LiveWorkers(client, NAMES, clock=lambda: next(moments))
    assert known.read().handler_slots == 0
    say_live(client, NAMES, ONE, [])
    assert known.read().handler_slots == 0
    assert known.read().handler_slots == 4


def test_a_worker_is_used_within_two_seconds_and_gone_at_once_when_it_is_told_to_stop(
    start: Start, client: Redis, connection: Connection
) -> None:
    worker = start("express,handlers", slots=2)
    wait_for(lambda: bool(client.zcard("workers:live")), seconds=30)
    assert read_live(client, NAMES).handler_slots == 2
    wait_for(lambda: bool(catalogue.list_registered(connection)), seconds=5)
    (row,) = catalogue.list_registered(connection)
    assert (row.registration.name, row.registration.max_attempts, len(row.code_version)) == ("team.note", 3, 12)
    assert read_live(client, NAMES).registrations == {("team.note", row.registration.digest)}
    worker.terminate()
    wait_for(lambda: read_live(client, NAMES).handler_slots == 0, seconds=2)


@pytest.mark.long
def test_events_are_handled_in_whatever_order_workers_are_deployed_and_wait_while_handlers_are_down(
    start: Start, client: Redis, connection: Connection
) -> None:
    def send() -> uuid.UUID:
        event_id = post(client, b'{"type":"greeting","id":"%s"}' % uuid.uuid4().hex.encode())
        keys, arguments = wire.ring_arguments(NAMES)
        client.eval(wire.RING, len(keys), *keys, *arguments)
        return event_id

    def state_of(event_id: uuid.UUID) -> tuple[str, int] | None:
        rows = connection.execute("SELECT state, attempt FROM all_deliveries WHERE event_id = %s", [event_id])
        return next(((row["state"], row["attempt"]) for row in rows), None)

    for queue in ("ingest", "housekeeping", "beat"):
        start(queue, slots=1)
    early = send()
    wait_for(lambda: bool(connection.execute("SELECT FROM events").fetchall()), seconds=30)
    assert state_of(early) is None
    worker = start("express,handlers", slots=1)
    wait_for(lambda: state_of(early) == ("succeeded", 1), seconds=30)
    worker.terminate()
    wait_for(lambda: read_live(client, NAMES).handler_slots == 0, seconds=10)
    worker.wait(30)
    waiting = send()
    wait_for(lambda: state_of(waiting) is not None, seconds=10)
    assert state_of(waiting) == ("pending", 0)
    start("express,handlers", slots=1)
    wait_for(lambda: read_live(client, NAMES).handler_slots == 1, seconds=30)
    wait_for(lambda: state_of(waiting) == ("succeeded", 1), seconds=4)


def test_a_killed_worker_frees_its_slots(start: Start, client: Redis) -> None:
    worker = start("handlers", slots=1)
    wait_for(lambda: read_live(client, NAMES).handler_slots == 1, seconds=30)
    for process in (worker, *worker.children(recursive=True)):
        process.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: read_live(client, NAMES).handler_slots == 0, seconds=LIVE_SECONDS + 2)
    assert time.monotonic() - killed > LIVE_SECONDS - 3, "it was told, not missed"


def test_workers_that_run_no_handlers_need_none(start: Start, client: Redis) -> None:
    for queue in ("ingest", "housekeeping"):
        start(queue, slots=1)
    wait_for(lambda: len(read_live(client, NAMES).workers) == 2, seconds=30)
    live = read_live(client, NAMES)
    assert {it.queues for it in live.workers} == {("ingest",), ("housekeeping",)}
    assert (live.handler_slots, live.handlers) == (0, frozenset())


@pytest.mark.parametrize("queues", ["handlers", "express", "express,handlers"])
def test_a_handler_worker_without_handlers_ends_with_one_line(start: Start, tmp_path: Path, queues: str) -> None:
    worker = start(queues, HANDLERS="")
    assert worker.wait(30) == 1
    assert (tmp_path / "log0").read_text() == (
        "workers: HANDLERS is not set: name the modules that register your handlers, such as acme_handlers\n"
    )


def test_a_worker_that_starts_before_the_database_is_there_announces_its_handlers_later(
    start: Start, client: Redis, connection: Connection
) -> None:
    connection.execute("ALTER TABLE registered_handlers RENAME TO away")
    start("handlers", slots=1)
    wait_for(lambda: read_live(client, NAMES).handler_slots == 1, seconds=30)
    connection.execute("ALTER TABLE away RENAME TO registered_handlers")
    wait_for(lambda: bool(catalogue.list_registered(connection)), seconds=10)


@pytest.mark.long
def test_old_and_new_workers_with_other_filters_agree_on_the_new_ones_and_on_the_old_ones_after_a_way_back(
    start: Start, client: Redis, connection: Connection
) -> None:
    def event() -> str:
        return catalogue.read_registrations(connection)["team.note"].event

    start("handlers", slots=1, NOTED="old")
    wait_for(lambda: bool(catalogue.list_registered(connection)), seconds=30)
    new = start("handlers", slots=1, NOTED="new")
    wait_for(lambda: event() == "new", seconds=30)
    start("handlers", slots=1, NOTED="old")
    wait_for(lambda: read_live(client, NAMES).handler_slots == 3, seconds=30)
    subprocess.run(["sleep", "1"], check=True)  # for its announcement, which is not to be seen
    assert event() == "new"
    new.terminate()
    wait_for(lambda: event() == "old", seconds=LIVE_SECONDS + 20)
