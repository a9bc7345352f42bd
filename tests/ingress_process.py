"""A real ingress for the tests: `python -m ingress` on a port of its own, and the registry it reads."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import redis

from deploy.local.servers import prepare_valkey
from ingress.schemes import find
from shared.envelope import Envelope, decode
from shared.registry import PUBLISH, Cipher, Endpoint, Secret, encode, field_of
from tests.conftest import SECRETS_KEY
from tests.launching import free_port, spawn
from tests.names import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

moveris = find("moveris")

SECRET = b"It's a Secret to Everybody"
PATH = "/webhooks/moveris/acme"

CLIENT = httpx.Client(timeout=20, headers={"Connection": "close"})
"""One for all tests: making a client costs 50 ms, more than what is measured with it.

Each request has a connection of its own, which its header closes. With idle ones, httpx may close the connection that
another thread has just been given.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A running ingress.

    Attributes:
        port: of its HTTP server.
        popen: the process; its parent one if it has several.
        log: what it wrote to standard error.
    """

    port: int
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(
        self, body: bytes = b"{}", *, path: str = PATH, secret: bytes = SECRET, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Post a body, signed unless `headers` say otherwise."""
        given = moveris.sign(secret, body) if headers is None else headers
        return CLIENT.post(self.url + path, content=body, headers=dict(given))

    def connect(self) -> socket.socket:
        """Open a plain connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def talk(self, request: bytes) -> bytes:
        """Send bytes on a connection of their own and return all that comes back until the end."""
        with self.connect() as connection:
            connection.sendall(request)
            return until_closed(connection)

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(15)


def until_closed(connection: socket.socket) -> bytes:
    """Return everything that arrives before the other side closes."""
    chunks = []
    while chunk := connection.recv(65_536):
        chunks.append(chunk)
    return b"".join(chunks)


def read_answer(connection: socket.socket) -> bytes:
    """Return the next response: its head, and as many bytes as its `content-length` says."""
    received = b""
    while not (match := re.search(rb"\r\ncontent-length: (\d+)\r\n(?:.*\r\n)?\r\n", received, re.DOTALL)):
        chunk = connection.recv(65_536)
        assert chunk, received
        received += chunk
    while len(received) < match.end() + int(match[1]):
        chunk = connection.recv(65_536)
        assert chunk, received
        received += chunk
    return received


def request(body: bytes, *, path: str = PATH, secret: bytes = SECRET, extra: str = "") -> bytes:
    """Return one signed request as it stands on the wire."""
    signature = "".join(f"{name}: {value}\r\n" for name, value in moveris.sign(secret, body).items())
    head = f"POST {path} HTTP/1.1\r\nhost: test\r\n{signature}{extra}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def environment(redis_url: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of an ingress process."""
    own = {"REDIS_URL": redis_url, "SECRETS_KEY": SECRETS_KEY, "INBOX_DURABILITY": "any"}  # see `Valkey`
    return {**os.environ, **own, **settings}


@contextmanager
def serving(redis_url: str, *, wait_until: str = "/readyz", **settings: str) -> Iterator[Process]:
    """Run an ingress until the block ends; it must leave with success and without a traceback."""
    home = Path(tempfile.mkdtemp(prefix="ingress-test-", dir="/tmp"))
    log = home / "ingress.log"
    port = free_port()
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [sys.executable, "-m", "ingress"],
            env=environment(redis_url, {"INGRESS_PORT": str(port), **settings}),
            stderr=output,
            stdout=output,
        )
    process = Process(port=port, popen=popen, log=log)
    try:
        if wait_until:
            wait_for(lambda: answers(process, wait_until), seconds=20)
        yield process
        if popen.poll() is None:
            assert process.stop() == 0, log.read_text()
        assert "traceback" not in log.read_text().lower(), log.read_text()
    except BaseException:
        sys.stderr.write(log.read_text())
        raise
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait()
        shutil.rmtree(home, ignore_errors=True)


def answers(process: Process, path: str) -> bool:
    """Say whether a path is answered with 200."""
    assert process.popen.poll() is None, process.log.read_text()
    try:
        return CLIENT.get(process.url + path).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def wait_for(condition: Callable[[], bool], *, seconds: float) -> float:
    """Wait until a condition holds; return how long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - started


class Valkey:
    """A Valkey that a test may stop, pause and fill; its data survive a stop.

    Attributes:
        url: of its port.
        socket: of the file system, where it listens too.
    """

    def __init__(self, home: Path, *, maxmemory: str) -> None:
        self._home = home
        self.socket = home / "valkey.sock"
        server = prepare_valkey(home, port=free_port(), password="test", maxmemory=maxmemory)
        # no flush for each event: what is tested here is not the disk, and a slow one would be answered for with 503
        more = ["--unixsocket", str(self.socket), "--appendfsync", "no"]
        self._server = replace(server, argv=[*server.argv, *more])
        self._popen: subprocess.Popen[bytes] | None = None
        self.url = self._server.url

    def start(self) -> None:
        if self._popen is not None:
            self._popen.send_signal(signal.SIGCONT)
            return
        server, log = self._server, self._home / "valkey.log"
        self._popen = spawn(server.argv, log=log, user=server.uid, at_our_end=server.stop_signal)
        wait_for(self._server.is_ready, seconds=20)

    def signal(self, number: signal.Signals) -> None:
        assert self._popen is not None
        self._popen.send_signal(number)

    def wait(self) -> None:
        """Wait until it has ended after a signal; `start` starts it again."""
        assert self._popen is not None
        self._popen.wait(20)
        self._popen = None

    def stop(self) -> None:
        if self._popen is not None:
            self._popen.send_signal(signal.SIGCONT)
            self._popen.terminate()
            self._popen.wait(20)
            self._popen = None

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)


@contextmanager
def own_valkey(*, maxmemory: str = "64mb") -> Iterator[Valkey]:
    """Run a Valkey until the block ends."""
    home = Path(tempfile.mkdtemp(prefix="valkey-test-", dir="/tmp"))
    valkey = Valkey(home, maxmemory=maxmemory)
    try:
        valkey.start()
        yield valkey
    finally:
        valkey.stop()
        shutil.rmtree(home, ignore_errors=True)


def secret(value: bytes = SECRET, *, label: str = "first", expires_at: datetime | None = None) -> Secret:
    """Return an encrypted secret."""
    return Secret(label=label, ciphertext=Cipher([SECRETS_KEY]).encrypt(value), expires_at=expires_at)


def endpoint(*secrets: Secret, tenant: str = "acme", enabled: bool = True, scheme: str = "moveris") -> Endpoint:
    """Return a Moveris endpoint, with the usual secret unless others are given."""
    return Endpoint(provider="moveris", tenant=tenant, scheme=scheme, enabled=enabled, secrets=secrets or (secret(),))


def publish(redis_url: str, version: int, *endpoints: Endpoint) -> None:
    """Publish a registry as the workers do."""
    fields = [part for one in endpoints for part in (field_of(one.provider, one.tenant), encode(one))]
    with redis.Redis.from_url(redis_url) as client:
        assert client.eval(PUBLISH, 1, NAMES.registry, version, *fields) == 1


def inbox(redis_url: str) -> list[Envelope]:
    """Return all entries of the inbox and its overflow, in the order in which they were received."""
    with redis.Redis.from_url(redis_url) as client:
        found = [decode(fields) for stream in NAMES.streams for _, fields in client.xrange(stream)]
    return sorted(found, key=lambda it: it.received_at)
