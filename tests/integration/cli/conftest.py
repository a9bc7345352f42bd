"""The command `pipeline` as a process, and an ingress to send to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import redis
from cryptography.fernet import Fernet

from tests.launching import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a command ended and what it printed."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The JSON objects, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Runs commands against the test's servers, each in a process of its own."""

    zygote: subprocess.Popen[str]
    environ: dict[str, str]
    folder: Path

    def __call__(self, *arguments: str, stdin: bytes = b"", status: int | None = 0, **environ: str) -> Result:
        """Run one command and check how it ended, unless `status` is None."""
        assert self.zygote.stdin
        assert self.zygote.stdout
        files = {name: self.folder / f".{name}" for name in ("stdin", "stdout", "stderr")}
        for name, file in files.items():
            file.write_bytes(stdin if name == "stdin" else b"")
        order = {"arguments": arguments, "environ": self.environ | environ, "folder": self.folder} | files
        print(json.dumps(order, default=str), file=self.zygote.stdin, flush=True)
        ended = int(self.zygote.stdout.readline())
        result = Result(status=ended, out=files["stdout"].read_bytes(), err=files["stderr"].read_text())
        assert status in {None, result.status}, result
        assert "Traceback" not in result.err, result.err
        return result

    def json(self, *arguments: str, **more: Any) -> list[dict[str, Any]]:
        """Run one command with `--json` and return its objects."""
        return self(*arguments, "--json", **more).rows


@pytest.fixture(scope="session")
def zygote() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("zygote.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


@pytest.fixture
def pipeline(zygote: subprocess.Popen[str], database_url: str, redis_url: str, tmp_path: Path) -> Pipeline:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PIPELINE_HOME": str(tmp_path / "no-stack"),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "SECRETS_KEY": Fernet.generate_key().decode(),
        "HEARTBEAT_DIR": str(tmp_path / "heartbeats"),
    }
    return Pipeline(zygote=zygote, environ=environ, folder=tmp_path)


@pytest.fixture
def acme(pipeline: Pipeline) -> Pipeline:
    """A tenant with an endpoint whose secret is "first"."""
    pipeline("tenants", "add", "acme")
    pipeline("endpoints", "add", "acme", "--provider", "moveris", "--label", "v1", "--secret-stdin", stdin=b"first\n")
    return pipeline


@pytest.fixture
def ingress(acme: Pipeline) -> Iterator[Pipeline]:
    """The same with a running ingress that knows the endpoint."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = acme.folder / "ingress.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ingress"],
            env=acme.environ | {"INGRESS_HOST": "127.0.0.1", "INGRESS_PORT": str(port)},
            stdout=output,
            stderr=output,
        )
    try:
        while not _is_ready(url):
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        yield replace(acme, environ=acme.environ | {"INGRESS_URL": url})
    finally:
        process.terminate()
        process.wait(15)


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def _is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/readyz", timeout=2) as answer:  # noqa: S310 - the test's own ingress
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
