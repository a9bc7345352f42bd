"""The images as buildah builds and runs them, without a daemon: on Debian's packages in place of the base image."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import psutil
import pytest

from tests.conftest import SECRETS_KEY
from tests.deploy.container import CONTAINERFILE, ROOT, TARGETS, ancestry, read_stages
from tests.ingress_process import wait_for
from tests.launching import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_BYTES: Final = {"ingress": 80e6, "workers": 100e6, "tools": 130e6}
"""What a target may add to its base image."""
FROM_HERE: Final = ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
"""How this machine reaches its package index, as the build should."""
BASE: Final = "FROM scratch\nADD base.tar /\nRUN python3 -m venv /usr/local\n"

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        os.geteuid() != 0 or not (shutil.which("buildah") and shutil.which("mmdebstrap")),
        reason="needs root, and apt-get install buildah mmdebstrap",
    ),
]


class Buildah:
    """buildah with a store of its own."""

    def __init__(self, home: Path) -> None:
        self._command = ["buildah", "--root", f"{home}/root", "--runroot", f"{home}/run", "--storage-driver", "overlay"]

    def __call__(self, *arguments: str | Path) -> str:
        done = subprocess.run(self.command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout.strip()

    def command(self, *arguments: str | Path) -> list[str]:
        return [*self._command, *map(str, arguments)]

    def image(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self("inspect", "--type", "image", name))["Docker"])

    def size(self, name: str) -> int:
        container = self("from", "--pull-never", f"localhost/{name}")
        folder = self("mount", container)
        done = subprocess.run(["du", "--bytes", "--summarize", folder], capture_output=True, text=True, check=True)
        self("rm", container)
        return int(done.stdout.split()[0])


@pytest.fixture(scope="module")
def buildah() -> Iterator[Buildah]:
    home = Path(tempfile.mkdtemp(prefix="pipeline-buildah-", dir="/var/tmp"))
    packages = "--include=ca-certificates,passwd,python3,python3-venv"
    it = Buildah(home)
    try:
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", packages, "bookworm", home / "base.tar"], check=True
        )
        (home / "Containerfile").write_text(BASE)
        it("bud", "--isolation", "chroot", "-t", "localhost/python", "-f", home / "Containerfile", home)
        volumes = [f"--volume={path}:{path}:ro" for path in FROM_HERE if Path(path).exists()]
        for target in TARGETS:
            it(
                *("bud", "--isolation", "chroot", "--format", "docker", "--layers", *volumes),
                *("--build-arg", "PYTHON=localhost/python", "--target", target, "-t", f"localhost/{target}"),
                *("-f", CONTAINERFILE, ROOT),
            )
        yield it
    finally:
        shutil.rmtree(home, ignore_errors=True)


def test_an_image_has_the_user_the_command_and_the_health_check_of_its_target(buildah: Buildah) -> None:
    stages = read_stages()
    for target in TARGETS:
        config = buildah.image(f"localhost/{target}")["config"]
        assert config["User"] == "10001:10001"
        assert config["Cmd"] == stages[target].last("CMD")
        assert (config.get("Entrypoint") or []) == stages[target].last("ENTRYPOINT")
        steps = [text for stage in ancestry(stages, target) for name, text in stage.steps if name == "HEALTHCHECK"]
        assert ("Healthcheck" in config) == bool(steps)


def test_an_image_is_small(buildah: Buildah) -> None:
    base = buildah.size("python")
    for target in TARGETS:
        assert buildah.size(target) - base < MOST_BYTES[target], target


def run(buildah: Buildah, target: str, command: Sequence[str], log: Path, **environ: str) -> subprocess.Popen[bytes]:
    container = buildah("from", "--pull-never", f"localhost/{target}")
    given = [f"--env={name}={value}" for name, value in environ.items()]
    argv = buildah.command("run", "--isolation", "chroot", *given, container, "--", *command)
    with log.open("wb") as output:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def test_the_ingress_of_its_image_is_ready_and_ends_when_it_is_told(
    buildah: Buildah, redis_url: str, tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "log"
    environ = {"REDIS_URL": redis_url, "SECRETS_KEY": SECRETS_KEY, "INGRESS_PORT": str(port)}
    command = buildah.image("localhost/ingress")["config"]["Cmd"]
    process = run(buildah, "ingress", command, log, INBOX_DURABILITY="any", **environ)
    try:

        def is_alive() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/livez").status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        wait_for(is_alive, seconds=120)
        (inside,) = [
            it for it in psutil.Process(process.pid).children(recursive=True) if it.cmdline()[1:] == command[1:]
        ]
        assert inside.uids().effective == 10001
        inside.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_the_command_of_the_tools_image_migrates(buildah: Buildah, database_url: str, tmp_path: Path) -> None:
    config = buildah.image("localhost/tools")["config"]
    command = [*config["Entrypoint"], "migrate", "--phase", "pre"]
    process = run(buildah, "tools", command, tmp_path / "log", DATABASE_URL=database_url)
    assert process.wait(120) == 0, (tmp_path / "log").read_text()
