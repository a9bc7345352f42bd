"""`pipeline health`, asked about real processes that are stopped, killed, or left without their servers."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deploy.health import assess
from shared.heartbeat import Beat, Heartbeat, read_beats
from tests import runbook
from tests.conftest import SECRETS_KEY
from tests.ingress_process import own_valkey, wait_for
from tests.launching import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIPELINE = str(Path(sys.executable).with_name("pipeline"))
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
PATIENCE = 4.0
COMMANDS = {
    "ingress": "ingress",
    "ingest": "celery -A workers.app worker -Q ingest -n ingest@%h -c 1",
    "handlers": "celery -A workers.app worker -Q express,handlers -n handlers@%h -c 1",
    "express": "celery -A workers.app worker -Q express -n express@%h -c 1",
    "housekeeping": "celery -A workers.app worker -Q housekeeping -n housekeeping@%h -c 1",
    "beat": "celery -A workers.app beat",
}


def ask(duty: str, folder: Path, *, patience: float = PATIENCE) -> tuple[int, str]:
    """Return the exit code and the line of `pipeline health`."""
    environ = {"PATH": os.environ["PATH"], "HEARTBEAT_DIR": str(folder), "HEALTH_SECONDS": str(patience)}
    done = subprocess.run([PIPELINE, "health", duty], env=environ, capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1, done.stderr
    return done.returncode, done.stdout.strip()


@contextmanager
def started(duty: str, folder: Path, redis_url: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the process of a duty until the block ends, from its first heartbeat on."""
    given = {"REDIS_URL": redis_url, "DATABASE_URL": NOWHERE, "SECRETS_KEY": SECRETS_KEY, "HEARTBEAT_DIR": str(folder)}
    given |= {"STUCK_SECONDS": "3", "INGRESS_PORT": str(free_port()), "HANDLERS": "workers.handlers.example"}
    environ = {**os.environ, **given, **environ}
    before = {beat.pid for beat in read_beats(folder)}
    with (folder.parent / f"{duty}.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", *COMMANDS[duty].split()], env=environ, stdout=log, stderr=log)
    try:
        wait_for(lambda: {beat.pid for beat in read_beats(folder)} - before != set(), seconds=40)
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "heartbeats"


def test_a_process_that_stands_still_is_unhealthy_until_it_goes_on(folder: Path, redis_url: str) -> None:
    with ExitStack() as stack:
        running = {duty: stack.enter_context(started(duty, folder, redis_url)) for duty in COMMANDS}
        for duty in running:
            wait_for(lambda duty=duty: ask(duty, folder)[0] == 0, seconds=10)  # type: ignore[misc]
        for process in running.values():
            process.send_signal(signal.SIGSTOP)
        for duty, process in running.items():
            wait_for(lambda duty=duty: ask(duty, folder)[0] == 1, seconds=PATIENCE + 20)  # type: ignore[misc]
            assert f"stands still (process {process.pid}): last heartbeat" in ask(duty, folder)[1]
            process.send_signal(signal.SIGCONT)
            wait_for(lambda duty=duty: ask(duty, folder)[0] == 0, seconds=20)  # type: ignore[misc]
    for duty in COMMANDS:
        assert ask(duty, folder)[1].startswith(f"unhealthy: no heartbeat of {duty} in {folder}")


def test_a_killed_process_is_gone_until_its_successor_has_started(folder: Path, redis_url: str) -> None:
    with started("ingest", folder, redis_url) as process:
        process.kill()
        process.wait()
        assert ask("ingest", folder) == (1, f"unhealthy: ingest@{socket.gethostname()} is gone (process {process.pid})")
        with started("ingest", folder, redis_url):
            wait_for(lambda: ask("all", folder)[0] == 0, seconds=10)


def test_the_command_of_the_runbook_ends_the_worker_that_hangs_and_no_other(folder: Path, redis_url: str) -> None:
    (line,) = runbook.commands("PipelineWorkerGone")
    with started("ingest", folder, redis_url) as other, started("housekeeping", folder, redis_url) as hung:
        hung.send_signal(signal.SIGSTOP)
        wait_for(lambda: ask("all", folder)[0] == 1, seconds=PATIENCE + 20)
        environ = {"PATH": f"{Path(PIPELINE).parent}:{os.environ['PATH']}", "HEARTBEAT_DIR": str(folder)}
        environ |= {"HEALTH_SECONDS": str(PATIENCE)}
        subprocess.run(["sh", "-ec", line], env=environ, check=True)
        assert hung.wait(10) == -signal.SIGKILL
        assert other.poll() is None


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_with_redis_dead_or_silent_and_postgres_away_nobody_is_unhealthy(folder: Path, fault: signal.Signals) -> None:
    # A silent Redis holds a process up for 10 seconds a command, as long as its sockets wait: measured 11, while a
    # worker starts 20, and 30 beside other tests. HEALTH_SECONDS is 60 by default.
    patience = 8.0 if fault == signal.SIGKILL else 60.0
    duties = ("ingress", "handlers", "beat")
    with own_valkey() as valkey, ExitStack() as stack:
        for duty in duties:
            stack.enter_context(started(duty, folder, valkey.url))
        wait_for(lambda: ask("all", folder)[0] == 0, seconds=10)
        valkey.signal(fault)
        lasts = time.monotonic() + patience + 2
        while not all(beat.at > lasts for beat in read_beats(folder)):
            line = ask("all", folder, patience=patience)
            assert line[0] == 0, line
            assert time.monotonic() < lasts + patience
            time.sleep(0.2)
        assert len(read_beats(folder)) == len(duties)


def test_a_worker_that_was_asked_to_stop_and_finishes_its_work_is_healthy() -> None:
    beat = Beat(name="handlers@host", pid=os.getpid(), at=100.0, state="stopping", duties=("handlers",))
    assert assess([beat], now=1_000.0, patience=60) == ("healthy: handlers@host", True)


def test_a_heartbeat_from_before_the_last_start_of_the_machine_is_unhealthy() -> None:
    beat = Beat(name="beat", pid=os.getpid(), at=5_000.0, state="running", duties=("beat",))
    line, is_healthy = assess([beat], now=10.0, patience=60)
    assert not is_healthy
    assert "stands still" in line


def test_systemd_is_told_that_a_process_is_ready_and_then_that_it_goes_on(folder: Path, redis_url: str) -> None:
    address = folder.parent / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(30)
        with started("ingress", folder, redis_url, NOTIFY_SOCKET=str(address)):
            assert systemd.recv(100) == b"READY=1\nWATCHDOG=1"
            assert [systemd.recv(100), systemd.recv(100)] == [b"WATCHDOG=1"] * 2


def test_a_folder_that_cannot_be_written_to_stops_no_process_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    heartbeat = Heartbeat(folder=tmp_path / "file" / "heartbeats", name="beat", duties=["beat"])
    heartbeat.beat()
    heartbeat.remove()
    (record,) = caplog.records
    assert "set HEARTBEAT_DIR to a folder that this user may write to" in record.getMessage()


def test_a_forked_process_does_not_beat_in_the_name_of_the_one_that_started_it(folder: Path) -> None:
    heartbeat = Heartbeat(folder=folder, name="handlers@host", duties=["handlers"])
    (before,) = read_beats(folder)
    if (child := os.fork()) == 0:
        heartbeat.beat()
        heartbeat.remove()
        os._exit(0)
    os.waitpid(child, 0)
    assert read_beats(folder) == [before]
    heartbeat.remove()
    assert read_beats(folder) == []


def test_a_question_costs_little_more_than_the_start_of_python(folder: Path) -> None:
    heartbeat = Heartbeat(folder=folder, name="beat", duties=["beat"])

    def cost(command: Callable[[], object]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def start_python() -> object:
        return subprocess.run([sys.executable, "-c", ""], check=True)

    def question() -> object:
        return ask("beat", folder)

    # A question takes 60 ms where the start of Python takes 25. A busy machine slows both down, so they take turns.
    rounds = [(cost(start_python), cost(question)) for _ in range(5)]
    assert min(asked for _, asked in rounds) < 4 * min(started for started, _ in rounds)
    assert ask("beat", folder)[0] == 0
    heartbeat.remove()


def test_a_question_imports_none_of_the_libraries_that_the_processes_need() -> None:
    script = "import sys, deploy.health; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert not packages & {"celery", "cryptography", "psycopg", "pydantic", "redis"}


@pytest.mark.parametrize("arguments", [[], ["worker"], ["ingress", "beat"]])
def test_an_unknown_duty_is_answered_with_those_that_there_are(arguments: list[str]) -> None:
    done = subprocess.run([PIPELINE, "health", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr == "usage: pipeline health ingress|ingest|handlers|express|housekeeping|beat|exporter|console|all\n"
    )
