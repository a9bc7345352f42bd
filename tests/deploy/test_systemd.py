"""systemd's units: systemd's own checks of them, and their exact commands run as a user without rights."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deploy.health import DUTIES, assess
from shared.heartbeat import read_beats
from tests.conftest import SECRETS_KEY
from tests.deploy.sandbox import sandboxed
from tests.deploy.units import FOLDER, LASTING, SERVICES, in_this_environment, read_unit
from tests.launching import free_port
from workers.registration import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: apt-get install systemd"
)


def name_of(path: Path) -> str:
    return path.stem


@needs_systemd
def test_systemd_finds_nothing_wrong_in_any_unit(tmp_path: Path) -> None:
    for path in (*SERVICES, *FOLDER.glob("*.target")):
        (tmp_path / path.name).write_text(in_this_environment(path.read_text()))
    units = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if "webhook-" in line] == []
    assert done.returncode == 0, done.stderr


@needs_systemd
@pytest.mark.parametrize("path", SERVICES, ids=name_of)
def test_every_unit_is_sandboxed(path: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=30", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (level,) = re.findall(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert float(level) < 3


@pytest.mark.parametrize("path", LASTING, ids=name_of)
def test_every_unit_is_started_again_whatever_ends_it(path: Path) -> None:
    unit = read_unit(path)
    assert unit.one("Restart") == "always"
    assert unit.one("StartLimitIntervalSec") == "0"


def test_the_target_starts_every_duty_and_two_ingresses() -> None:
    wanted = " ".join(read_unit(FOLDER / "webhook-pipeline.target").options["Wants"]).split()
    assert len([name for name in wanted if name.startswith("webhook-ingress@")]) == 2
    for duty in set(DUTIES) - {"console"}:  # which is enabled by itself, as Flower is
        assert [name for name in wanted if name.startswith(f"webhook-{duty}")], duty
    files = {path.name for path in SERVICES}
    assert {re.sub(r"@\d+", "@", name) for name in wanted} <= files


@pytest.mark.parametrize("name", ["webhook-handlers@", "webhook-express"])
def test_a_stop_waits_longer_than_a_handler_may_take_by_default(name: str) -> None:
    assert int(read_unit(FOLDER / f"{name}.service").one("TimeoutStopSec")) > DEFAULT_TIMEOUT + 3


def test_only_the_ingress_reads_the_file_with_the_key_of_the_secrets() -> None:
    assert "SECRETS_KEY" in (FOLDER / "ingress.env.example").read_text()
    assert "SECRETS_KEY" not in (FOLDER / "workers.env.example").read_text()
    for path in SERVICES:
        reads_it = "/etc/webhook-pipeline/ingress.env" in read_unit(path).options["EnvironmentFile"]
        assert reads_it == (path.stem == "webhook-ingress@")


def test_no_handler_runs_as_the_user_of_a_process_that_may_hold_the_key() -> None:
    users = {path.stem: read_unit(path).one("User") for path in LASTING}
    holders = {stem for stem in users if "SECRETS_KEY=" in environment_file(stem)}
    assert holders == {"webhook-ingress@", "webhook-console"}
    assert not {users[stem] for stem in holders} & {users[stem] for stem in set(users) - holders}
    for stem in holders:
        assert f"the group {users[stem]} only" in environment_file(stem)


def environment_file(stem: str) -> str:
    """Return the example of the file that a unit reads its settings from."""
    path = read_unit(FOLDER / f"{stem}.service").options["EnvironmentFile"][0]
    return (FOLDER / f"{Path(path).name}.example").read_text()


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that a user without rights reaches."""
    folder = Path(tempfile.mkdtemp(prefix="pipeline-units-", dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.timeout(300)
def test_the_command_of_every_unit_runs_without_rights_tells_systemd_and_ends_in_its_time(
    home: Path, redis_url: str, database_url: str
) -> None:
    given = {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "SECRETS_KEY": SECRETS_KEY, "PATH": "/usr/bin:/bin"}
    given["HANDLERS"] = "workers.handlers.example"
    heartbeats = home / "heartbeats"
    heartbeats.mkdir()
    heartbeats.chmod(0o777)
    with ExitStack() as stack:
        processes, silent = {}, []
        for path in LASTING:
            unit = read_unit(path, instance=str(free_port()))
            systemd = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            address = home / f"{unit.name}.socket"
            systemd.bind(str(address))
            address.chmod(0o777)
            systemd.settimeout(120)
            environ = (
                given
                | unit.environ
                | {
                    "FLOWER_PORT": str(free_port()),
                    "EXPORTER_PORT": str(free_port()),
                    "CONSOLE_PORT": str(free_port()),
                    "HEARTBEAT_DIR": str(heartbeats),
                }
            )
            if unit.one("Type") == "notify":
                environ["NOTIFY_SOCKET"] = str(address)
            log = stack.enter_context((home / f"{unit.name}.log").open("wb"))
            process = subprocess.Popen(
                sandboxed(unit.command, writable=home),
                env=environ,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes[unit.name] = process
            if unit.one("Type") == "notify":
                assert "WatchdogSec" in unit.options
                assert systemd.recv(100) == b"READY=1\nWATCHDOG=1", (home / f"{unit.name}.log").read_text()
                assert systemd.recv(100) == b"WATCHDOG=1"
            else:
                assert "WatchdogSec" not in unit.options
                silent.append(unit.name)
        assert silent == ["webhook-flower"]
        line, is_healthy = assess(read_beats(heartbeats), now=time.monotonic(), patience=60)
        assert is_healthy, line
        assert line.count(",") + 1 == len(LASTING) - 1
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        for path in LASTING:
            unit = read_unit(path)
            (process,) = [it for name, it in processes.items() if name.startswith(path.stem)]
            process.wait(min(30, int(unit.one("TimeoutStopSec"))))
