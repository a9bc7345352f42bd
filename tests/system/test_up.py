"""`pipeline up` from outside: what it prints, what it leaves behind, what it survives, what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import psycopg
import pytest
import redis
from cryptography.fernet import Fernet

from tests.launching import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.system

STOP_SECONDS = 15
SERVICES = {
    "postgres",
    "valkey",
    "ingress",
    "ingest",
    "handlers",
    "express",
    "housekeeping",
    "beat",
    "flower",
    "console",
    "exporter",
}


class Up:
    """One `pipeline up`, and what it has said."""

    def __init__(self, home: Path, *options: str, **environ: str) -> None:
        self.home = home
        inherited = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
        self.environ = {
            **inherited,
            "PIPELINE_HOME": str(home),
            "INGRESS_PORT": str(free_port()),
            "FLOWER_PORT": str(free_port()),
            "EXPORTER_PORT": str(free_port()),
            "CONSOLE_PORT": str(free_port()),
            "HANDLER_WORKERS": "2",
            "INGEST_WORKERS": "1",
            **environ,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "up", *options],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said: list[str] = []
        self._lines: Queue[str | None] = Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line.rstrip())
        self._lines.put(None)

    def wait_for(self, pattern: str, seconds: float = 180.0) -> re.Match[str]:
        """Return the match of the next line that fits."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                pytest.fail(f"no {pattern!r} within {seconds} s in:\n" + "\n".join(self.said))
            if line is None:
                pytest.fail(f"it ended before {pattern!r}:\n" + "\n".join(self.said))
            self.said.append(line)
            if match := re.search(pattern, line):
                return match

    def wait(self, seconds: float) -> str:
        """Wait for its end and return all that it said."""
        self.process.wait(seconds)
        self._reader.join(5)
        assert self.process.stdout
        self.process.stdout.close()
        while not self._lines.empty():
            self.said.append(self._lines.get() or "")
        return "\n".join(self.said)

    def stop(self) -> float:
        """Ask it to end; return the seconds it took."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.wait(STOP_SECONDS + 5)
        return time.monotonic() - started

    def state(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.home / "stack.json").read_text())
        return data

    def pid_of(self, name: str) -> int:
        (pid,) = (member["pid"] for member in self.state()["members"] if member["name"] == name)
        return int(pid)

    def family(self) -> list[psutil.Process]:
        """It and everything below it."""
        it = psutil.Process(self.process.pid)
        return [it, *it.children(recursive=True)]


@contextmanager
def new_home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="pipeline-up-", dir="/tmp"))
    home.chmod(0o755)  # the embedded Postgres may run as another user
    yield home
    shutil.rmtree(home)


@contextmanager
def running(home: Path, *options: str, **environ: str) -> Iterator[Up]:
    it = Up(home, *options, **environ)
    try:
        yield it
    finally:
        it.process.terminate()
        it.wait(STOP_SECONDS + 5)
        for process in belonging_to(home):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def belonging_to(home: Path) -> list[psutil.Process]:
    """Whatever runs with this folder in its environment or command line."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                words = " ".join(process.cmdline())
                if str(home) in words or process.environ().get("PIPELINE_HOME") == str(home):
                    found.append(process)
    return found


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [it for it in processes if it.is_running() and it.status() != psutil.STATUS_ZOMBIE]


AS_PEOPLE_HAVE_IT = {
    "http_proxy": "http://127.0.0.1:1",
    "https_proxy": "http://127.0.0.1:1",
    "no_proxy": "",
    "NO_PROXY": "",
    "FLOWER_URL_PREFIX": "/monitor/",
    "FLOWER_MAX_TASKS": "",
    "FLOWER_AUTH": "",
    "FLOWER_UNIX_SOCKET": "/nowhere/flower.sock",
    "LOG_LEVEL": "info\r",
    "REDIS_URL": "",
    "DATABASE_URL": " ",
    "SECRETS_KEY": "",
    "INGRESS_WORKERS": "",
}
"""A proxy that knows nothing of this machine, empty values, a file that was edited on Windows."""


@pytest.fixture(scope="module")
def first_run() -> Iterator[Up]:
    """A stack on a fresh folder with a blank in its name, after its first event."""
    with new_home() as parent, running(parent / "with a blank", **AS_PEOPLE_HAVE_IT) as it:
        it.wait_for(r"stop +Ctrl-C")
        yield it


def test_the_first_event_is_acknowledged_stored_and_handled(first_run: Up) -> None:
    said = "\n".join(first_run.said)
    assert re.search(r"event [0-9a-f-]{36}\b", said)
    assert re.search(r"acknowledged after \d+ ms", said)
    assert re.search(r"stored after \d+ ms", said)
    assert re.search(r"handled after \d+ ms by example\.note$", said, re.MULTILINE)
    assert f"http://127.0.0.1:{first_run.environ['INGRESS_PORT']}/webhooks/moveris/demo" in said
    assert f"http://127.0.0.1:{first_run.environ['FLOWER_PORT']}/monitor" in said
    assert f"http://127.0.0.1:{first_run.environ['CONSOLE_PORT']}\n" in said
    assert f"PIPELINE_HOME='{first_run.home}'" in said
    assert re.search(r"pipeline send demo --count \d+ --wait", said)
    assert "\x1b" not in said, "no colours where nobody sees them"


def test_the_printed_command_runs_as_it_is_printed(first_run: Up) -> None:
    (line,) = [line for line in first_run.said if "send more" in line]
    environ: dict[str, str] = {name: first_run.environ[name] for name in ("PATH", "HOME")}
    command = line.partition("send more")[2].replace("--count 100", "--count 2")
    done = subprocess.run(command, shell=True, env=environ, capture_output=True, text=True, check=False)  # noqa: S602 - as a person types it
    assert done.returncode == 0, done.stderr
    assert "handled      2 after" in done.stdout


def test_other_commands_find_the_running_stack_by_themselves(first_run: Up) -> None:
    env = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "env"], env=first_run.environ, capture_output=True, text=True, check=True
    )
    urls = dict(line.split("=", 1) for line in env.stdout.splitlines())
    assert set(urls) == {"DATABASE_URL", "REDIS_URL", "REDIS_PREFIX"}
    with psycopg.connect(urls["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchall() == [(3,)]


def test_what_it_keeps_secret_only_its_owner_reads(first_run: Up) -> None:
    for name in ("secrets.json", "stack.json", "valkey", "valkey/valkey.conf", "logs"):
        assert not (first_run.home / name).stat().st_mode & 0o077, name
    key = json.loads((first_run.home / "secrets.json").read_text())["secrets_key"]
    assert key not in "\n".join(first_run.said)
    for log in (first_run.home / "logs").iterdir():
        assert key not in log.read_text()
    for process in first_run.family():
        with suppress(psutil.NoSuchProcess):  # sessions of Postgres come and go
            assert key not in " ".join(process.cmdline())


def test_flower_shows_the_handler_and_the_event_but_nothing_of_its_body(first_run: Up) -> None:
    flower = f"http://127.0.0.1:{first_run.environ['FLOWER_PORT']}/monitor"
    query = "/tasks/datatable?draw=1&start=0&length=99&order[0][column]=0&search[value]="
    shown = httpx.get(flower + query, timeout=10).text
    (event_id,) = re.findall(r"event ([0-9a-f-]{36})", "\n".join(first_run.said))
    assert "example.note" in shown
    assert f"demo/{event_id}" in shown
    for word in ("verdict", "session_id", "mixed-30-v2", "sha256="):
        assert word not in shown


def test_a_second_one_on_the_same_folder_is_refused(first_run: Up) -> None:
    second = Up(first_run.home)
    said = second.wait(30)
    assert second.process.returncode == 1
    assert re.fullmatch(rf"pipeline: a stack already runs in .* \(pid {first_run.process.pid}\): stop it .*\n", said)


@pytest.mark.parametrize("name", ["handlers", "ingress", "valkey", "postgres", "beat", "flower"])
def test_a_killed_process_is_started_again(first_run: Up, name: str) -> None:
    pid = first_run.pid_of(name)
    os.kill(pid, signal.SIGKILL)
    first_run.wait_for(rf"{name} was killed by SIGKILL; starting it again")
    back = first_run.wait_for(rf"{name} is back \(pid (\d+)\)")
    assert int(back[1]) == first_run.pid_of(name) != pid


def test_stopping_leaves_no_process_and_the_next_run_finds_the_data(first_run: Up) -> None:
    family, urls = first_run.family(), first_run.state()["database_url"]
    names = {member["name"] for member in first_run.state()["members"]}
    assert names == SERVICES
    assert len(family) > len(SERVICES)
    assert first_run.stop() < STOP_SECONDS
    assert first_run.process.returncode == 0
    assert "stopped" in first_run.said
    assert not alive(family)
    assert not belonging_to(first_run.home)
    assert not (first_run.home / "stack.json").exists()

    with running(first_run.home, "--no-demo-event", **AS_PEOPLE_HAVE_IT) as second:
        second.wait_for("database: up to date")
        second.wait_for(r"stop +Ctrl-C")
        assert second.state()["database_url"] == urls
        with psycopg.connect(urls) as connection:
            assert connection.execute("SELECT count(*) FROM events").fetchall() == [(3,)]

        family = second.family()
        second.process.kill()
        second.wait(5)
        if sys.platform == "linux":
            _, left = psutil.wait_procs(family, timeout=STOP_SECONDS)
            assert not alive(left), "services outlived their supervisor"


def test_what_a_killed_run_left_is_ended_before_the_next_starts() -> None:
    with new_home() as home:
        orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        born = psutil.Process(orphan.pid).create_time()
        state = {
            **dict.fromkeys(("database_url", "inbox_url", "broker_url"), "x"),
            **dict.fromkeys(("secrets_key", "ingress_url", "flower_url"), "x"),
            "members": [{"name": "ingress", "pid": orphan.pid, "started_at": born}],
        }
        (home / "stack.json").write_text(json.dumps(state))
        reaper = threading.Thread(target=orphan.wait)
        reaper.start()
        try:
            with running(home, DATABASE_URL="postgresql://nobody@127.0.0.1:1/x") as it:
                it.wait_for("ingress was left over from a run that was killed; ended it")
            reaper.join(5)
            assert orphan.returncode == -signal.SIGTERM
        finally:
            orphan.kill()


def refusal(home: Path, **environ: str) -> str:
    """Return the one line with which it refuses."""
    with running(home, **environ) as it:
        said = it.wait(60)
    assert it.process.returncode == 1, said
    assert "Traceback" not in said
    assert not belonging_to(home)
    complaints = [line for line in said.splitlines() if line.startswith("pipeline: ")]
    assert len(complaints) == 1, said
    return complaints[0]


def test_data_whose_password_is_lost_are_refused() -> None:
    with new_home() as home:
        (home / "postgres").mkdir()
        line = refusal(home)
        assert re.search(r"secrets\.json is missing, and with it the password of the data in .*: restore it$", line)
        (home / "secrets.json").write_text("{")
        assert re.search(r"secrets\.json cannot be read .*: restore it, or set another PIPELINE_HOME$", refusal(home))


@pytest.mark.parametrize("variable", ["INGRESS_PORT", "FLOWER_PORT", "CONSOLE_PORT", "EXPORTER_PORT"])
def test_a_port_in_use_is_refused_with_its_variable(variable: str) -> None:
    with new_home() as home, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refusal(home, **{variable: str(port)})
    assert line == f"pipeline: port {port} is in use by another program: set {variable} to a free one"


def test_unreachable_servers_are_refused_without_their_passwords() -> None:
    with new_home() as home:
        line = refusal(home, DATABASE_URL="postgresql://app:hunter2@127.0.0.1:1/app", REDIS_URL="redis://127.0.0.1:1/0")
        assert line.startswith("pipeline: Postgres cannot be reached: ")
        assert "is DATABASE_URL right?" in line
        assert "hunter2" not in line


def test_an_unreachable_redis_is_refused_without_its_password(database_url: str) -> None:
    with new_home() as home:
        line = refusal(home, DATABASE_URL=database_url, REDIS_URL="redis://:hunter2@127.0.0.1:1/0")
        assert line.startswith("pipeline: Redis cannot be reached: ")
        assert "is REDIS_URL right?" in line
        assert "hunter2" not in line


def test_a_redis_that_loses_events_is_refused_before_anything_starts(database_url: str, redis_url: str) -> None:
    with new_home() as home, redis.Redis.from_url(redis_url) as client:
        client.config_set("appendfsync", "everysec")
        try:
            line = refusal(home, DATABASE_URL=database_url, REDIS_URL=redis_url)
        finally:
            client.config_set("appendfsync", "always")
    assert "Redis has appendfsync everysec and loses acknowledged events if its machine dies" in line
    assert "set INBOX_DURABILITY" in line


def test_a_key_that_does_not_decrypt_the_stored_secrets_is_refused(database_url: str, redis_url: str) -> None:
    servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO tenants (name) VALUES ('acme')")
        connection.execute("INSERT INTO endpoints (tenant, provider, scheme) VALUES ('acme', 'moveris', '\"moveris\"')")
        connection.execute(
            "INSERT INTO endpoint_secrets (tenant, provider, label, ciphertext) VALUES ('acme', 'moveris', 'main', %s)",
            [Fernet(Fernet.generate_key()).encrypt(b"whatever")],
        )
    with new_home() as home:
        line = refusal(home, SECRETS_KEY=Fernet.generate_key().decode(), **servers)
        assert "SECRETS_KEY is wrong: it does not decrypt acme's moveris secret 'main'" in line
        assert "SECRETS_KEY is wrong: each key is 32 bytes" in refusal(home, SECRETS_KEY="12345", **servers)
        assert "set the key that encrypted it" in refusal(home, **servers), "a key made here fits nothing stored there"


def test_handlers_that_do_not_import_are_refused_with_the_reason(database_url: str, redis_url: str) -> None:
    with new_home() as home:
        line = refusal(home, DATABASE_URL=database_url, REDIS_URL=redis_url, HANDLERS="nothing.of.that.name")
    assert line.startswith("pipeline: the workers would not start: workers: ")
    assert "nothing.of.that.name" in line
