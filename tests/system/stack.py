"""A whole stack for a test: `pipeline up` in a folder of its own, on free ports, with the tests' handlers.

It is used from outside only: HTTP, SQL, Redis, signals and the command `pipeline`. `stop` takes everything down, and
fails when a process was left. A test run that is killed takes its stack with it (on Linux).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import psutil
import psycopg
import redis
from cryptography.fernet import Fernet
from psycopg import rows

from tests.launching import ROOT, free_port, spawn
from tests.system.provider import Endpoint
from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

PIPELINE: Final = str(Path(sys.executable).with_name("pipeline"))
HANDLERS: Final = "tests.system.handlers."
PREFIX: Final = "webhooks:"
"""Of names in the Redis of a stack in a new folder."""
FLOWER_USER: Final = ("system", "of-the-tests")


class Stack:
    """One stack.

    Args:
        home: a folder of its own that any user may walk to (Postgres does not run as root).
        handlers: modules in `tests/system/handlers` that the workers import.
        environ: further settings.

    Attributes:
        client: for HTTP; kept open between requests.
    """

    def __init__(self, home: Path, *, handlers: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.output = home / "up.log"
        self.ingress_url = f"http://127.0.0.1:{free_port()}"
        self.flower_url = f"http://127.0.0.1:{free_port()}"
        self.exporter_url = f"http://127.0.0.1:{free_port()}"
        self.client = httpx.Client()
        self._secrets: dict[str, bytes] = {}
        user, password = FLOWER_USER
        kept = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
        self.environ = {
            **kept,
            "PIPELINE_HOME": str(home),
            "INGRESS_PORT": self.ingress_url.rpartition(":")[2],
            "FLOWER_PORT": self.flower_url.rpartition(":")[2],
            "EXPORTER_PORT": self.exporter_url.rpartition(":")[2],
            "FLOWER_USER": user,
            "FLOWER_PASSWORD": password,
            "HANDLERS": ",".join(f"{HANDLERS}{module}" for module in handlers),
            "PYTHONPATH": str(ROOT),
            **(environ or {}),
        }
        self._up: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def ingress_metrics_ports(self) -> range:
        """The ports of the ingress processes' figures."""
        first = int(self.environ["INGRESS_METRICS_PORT"])
        return range(first, first + int(self.environ["INGRESS_WORKERS"]))

    # The whole ------------------------------------------------------------------------------------------------------

    def start(self, *, seconds: float = 240.0) -> None:
        """Start everything and wait until it is ready."""
        self._up = spawn(
            [PIPELINE, "up", "--no-demo-event", "--no-console"],
            log=self.output,
            environ=self.environ,
            at_our_end=signal.SIGTERM,
        )
        until(self._is_up, seconds=seconds, what=f"readiness of the stack, see {self.output}")

    def _is_up(self) -> bool:
        assert self._up is not None
        said = self.output.read_text()
        assert self._up.poll() is None, said
        return "Ctrl-C" in said

    def stop(self) -> None:
        """Stop everything; fail if it takes more than 15 s or leaves a process."""
        self.client.close()
        if self._up is None:
            return
        started = time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            self._up.send_signal(signal.SIGCONT)
            self._up.terminate()
            self._up.wait(20)
        took = time.monotonic() - started
        left = self.processes()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._up.kill()
        self._up.wait()
        assert took <= 15, f"stopping took {took:.1f} s: {self.output.read_text()}"
        assert not left, f"left behind: {left}"

    # Its processes --------------------------------------------------------------------------------------------------

    @property
    def supervisor(self) -> psutil.Process:
        """The process of `pipeline up`."""
        assert self._up is not None
        return psutil.Process(self._up.pid)

    def processes(self) -> list[psutil.Process]:
        """Return every living process of this stack: those that carry its folder in their environment or command."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                is_ours = (
                    process.environ().get("PIPELINE_HOME") == str(self.home) or str(self.home) in process.cmdline()
                )
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def main(self, name: str) -> psutil.Process:
        """Return the main process of a service: ingress, ingest, handlers, express, housekeeping, beat, ..."""
        members = json.loads((self.home / "stack.json").read_text())["members"]
        return psutil.Process(next(member["pid"] for member in members if member["name"] == name))

    def is_alive(self, name: str) -> bool:
        """Say whether a service's main process lives."""
        try:
            return not is_gone(self.main(name))
        except psutil.NoSuchProcess:
            return False

    def children(self, name: str) -> list[psutil.Process]:
        """Return the processes that a service's main process has started: pool children, ingress workers, backends."""
        return [child for child in self.main(name).children() if "resource_tracker" not in " ".join(child.cmdline())]

    def successor(self, name: str, former: psutil.Process, *, seconds: float = 30.0) -> psutil.Process:
        """Wait until the supervisor has started a service again; return its new main process."""

        def look() -> psutil.Process | None:
            with suppress(psutil.NoSuchProcess):
                return main if (main := self.main(name)).pid != former.pid else None
            return None

        return until(look, seconds=seconds, what=f"a new {name}")

    @contextmanager
    def held_down(self, name: str, *, by: signal.Signals) -> Iterator[None]:
        """Stop a server by a signal and keep it down for the block: the supervisor, that would start it, is frozen."""
        process = self.main(name)
        self.supervisor.suspend()
        try:
            process.send_signal(by)
            until(lambda: is_gone(process), seconds=30, what=f"the end of {name}")  # behind a checkpoint, perhaps
            yield
        finally:
            self.supervisor.resume()

    @contextmanager
    def further(self, *argv: str, environ: Mapping[str, str] | None = None) -> Iterator[psutil.Process]:
        """Run one more process of Python beside the stack for the block, such as a second ingress or worker."""
        settings = json.loads((self.home / "stack.json").read_text())
        of_the_stack = ("database_url", "inbox_url", "broker_url", "redis_prefix", "secrets_key")
        servers = {name.upper(): settings[name] for name in of_the_stack}
        with (self.home / "further.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, *argv],
                env={**self.environ, **servers, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
            process.wait()

    @contextmanager
    def second_ingress(self) -> Iterator[str]:
        """Run another ingress process for the block; yields its URL once it is ready."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with self.further("-m", "ingress", environ={"INGRESS_PORT": str(port), "INGRESS_WORKERS": "1"}):
            until(lambda: answers(self.client, f"{url}/readyz"), seconds=20, what="a second ingress")
            yield url

    @contextmanager
    def second_worker(self, queue: str) -> Iterator[psutil.Process]:
        """Run another worker with one child for the block; yields its main process at once."""
        with self.further(
            *("-m", "celery", "-A", "workers.app", "worker", f"--queues={queue}", f"--hostname=second-{queue}@%h"),
            *("--concurrency=1", "--prefetch-multiplier=1", "--without-gossip", "--without-mingle", "--task-events"),
        ) as process:
            yield process

    # Ways in -------------------------------------------------------------------------------------------------------

    def pipeline(self, *arguments: str, text: str = "") -> str:
        """Run the command `pipeline` to its end, with `text` as its input; return what it printed."""
        done = subprocess.run(
            [PIPELINE, *arguments],
            env=self.environ,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"pipeline {' '.join(arguments)}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        """Run one statement in Postgres and return its rows; wait for Postgres while it is being started again."""
        url = json.loads((self.home / "stack.json").read_text())["database_url"]

        def reach() -> psycopg.Connection[dict[str, Any]] | None:
            with suppress(psycopg.OperationalError):
                return psycopg.connect(url, autocommit=True, row_factory=rows.dict_row, connect_timeout=5)
            return None

        with until(reach, seconds=60, what="Postgres") as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description is not None else []

    @contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        """Return a client of the stack's Redis; its names begin with `PREFIX`."""
        url = json.loads((self.home / "stack.json").read_text())["inbox_url"]
        with redis.Redis.from_url(url) as client:
            yield client

    def flower(self, path: str) -> httpx.Response:
        """Ask Flower."""
        return self.client.get(f"{self.flower_url}{path}", auth=FLOWER_USER)

    # Its tenants ----------------------------------------------------------------------------------------------------

    def add_tenants(self, *names: str) -> None:
        """Make tenants with a Moveris endpoint each, all by one statement: the sweeper publishes what has changed."""
        cipher = Fernet(json.loads((self.home / "stack.json").read_text())["secrets_key"])
        self._secrets |= {name: secrets.token_bytes(32) for name in names}
        ciphertexts = [cipher.encrypt(self._secrets[name]) for name in names]
        self.query(
            "WITH made AS (INSERT INTO tenants (name) SELECT unnest(%(names)s::text[])), opened AS ("
            " INSERT INTO endpoints (tenant, provider, scheme)"
            " SELECT unnest(%(names)s::text[]), 'moveris', '\"moveris\"'"
            ") INSERT INTO endpoint_secrets (tenant, provider, label, ciphertext)"
            " SELECT name, 'moveris', 'first', secret"
            " FROM unnest(%(names)s::text[], %(secrets)s::bytea[]) AS t(name, secret)",
            {"names": list(names), "secrets": ciphertexts},
        )
        last = self.endpoint(names[-1]).url
        until(lambda: self.client.post(last).status_code == httpx.codes.UNAUTHORIZED, seconds=10, what="the endpoints")
        # one process has answered, and so told of the version in its log; each looks by itself
        until(self._is_told_by_all, seconds=10, what="the endpoints in every ingress process")

    def _is_told_by_all(self) -> bool:
        log = (self.home / "logs" / "ingress.log").read_text()
        told = re.findall(r"the registry has \d+ endpoints at version (\d+)", log)
        return bool(told) and told.count(max(told, key=int)) >= int(self.environ.get("INGRESS_WORKERS", "1"))

    def endpoint(self, tenant: str, *, secret: bytes | None = None, ingress_url: str = "") -> Endpoint:
        """Return where a tenant's events are posted; the secret is the one of `add_tenants` unless another is given."""
        return Endpoint(
            ingress_url=ingress_url or self.ingress_url,
            tenant=tenant,
            secret=secret if secret is not None else self._secrets[tenant],
            client=self.client,
        )


def is_gone(process: psutil.Process) -> bool:
    """Say whether a process has ended, also when nobody has asked for its status yet."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def kill(process: psutil.Process) -> None:
    """Kill a process by SIGKILL and wait until it is gone; one that has ended by itself is fine."""
    with suppress(psutil.NoSuchProcess):
        process.kill()
    until(lambda: is_gone(process), seconds=5, what=f"the end of {process}", every=0.005)


def answers(client: httpx.Client, url: str) -> bool:
    """Say whether a URL answers with status 200."""
    try:
        return client.get(url).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
