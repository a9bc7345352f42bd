"""An installation of single processes, each of a release and with settings of its own, on servers of the tests."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import psutil
import psycopg
from cryptography.fernet import Fernet
from psycopg import rows

from tests.launching import ROOT, free_port, spawn
from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

TENANT: Final = "pair"
WORKERS: Final = ("handlers", "ingest", "housekeeping", "beat")
INGRESSES: Final = ("ingress 1", "ingress 2")


class Site:
    """An installation whose processes are of one release or the other.

    Args:
        home: folder of its logs.
        database_url: of the tests' queries, and of processes unless `settings` say otherwise.
        redis_url: of its processes.
        settings: of all processes.

    Attributes:
        slots: processes of a worker for handlers.
        secret: with which events of the tenant are signed.
    """

    def __init__(self, home: Path, *, database_url: str, redis_url: str, **settings: str) -> None:
        self._home = home
        self._database_url = database_url
        self.secret = secrets.token_bytes(32)
        self._key = Fernet.generate_key()
        self._ports = {name: free_port() for name in INGRESSES}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._own: dict[str, dict[str, str]] = {}
        self._started = 0
        self.slots = 2
        self._environ = {
            **{name: value for name, value in os.environ.items() if name != "DATABASE_SCHEMA"},
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "SECRETS_KEY": self._key.decode(),
            "HANDLERS": "tests.system.handlers.effects",
            "HEARTBEAT_DIR": str(home / "heartbeats"),
            **settings,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._running.values():
            with suppress(psutil.NoSuchProcess):
                for one in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
                    one.kill()
            process.wait()

    @property
    def urls(self) -> list[str]:
        """Where the two ingresses listen for the tenant's events."""
        return [f"http://127.0.0.1:{port}/webhooks/moveris/{TENANT}" for port in self._ports.values()]

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        """Run one statement in Postgres."""
        with psycopg.connect(self._database_url, autocommit=True, row_factory=rows.dict_row) as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description is not None else []

    def pipeline(self, *arguments: str, tree: Path = ROOT) -> str:
        """Run the command `pipeline` of a release; return what it printed."""
        command = [sys.executable, "-m", "deploy.cli", *arguments]
        done = subprocess.run(command, cwd=tree, env=self._in(tree), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def add_tenant(self) -> None:
        """Make the tenant with its endpoint, and wait until the ingresses know it."""
        self.query("INSERT INTO tenants (name) VALUES (%s)", [TENANT])
        self.query("INSERT INTO endpoints (tenant, provider, scheme) VALUES (%s, 'moveris', '\"moveris\"')", [TENANT])
        self.query(
            "INSERT INTO endpoint_secrets (tenant, provider, label, ciphertext) VALUES (%s, 'moveris', 'first', %s)",
            [TENANT, Fernet(self._key).encrypt(self.secret)],
        )
        for name, url in zip(INGRESSES, self.urls, strict=True):
            if name in self._running:
                until(lambda url=url: httpx.post(url).status_code == 401, seconds=20, what="the endpoint")  # type: ignore[misc]

    def configure(self, *names: str, **settings: str) -> None:
        """Give further settings to these processes, or to all, from their next start."""
        for name in names:
            self._own.setdefault(name, {}).update(settings)
        if not names:
            self._environ.update(settings)

    def start(self, name: str, tree: Path = ROOT, **settings: str) -> None:
        """Start a process of a release with further settings, and wait until it is ready."""
        self._started += 1
        log = self._home / f"{name} {self._started} of {tree.name}.log"
        environ = self._in(tree) | self._own.get(name, {}) | settings
        if name in INGRESSES:
            environ["INGRESS_PORT"] = str(self._ports[name])
            argv = ["-m", "ingress"]
        elif name == "beat":
            argv = ["-m", "celery", "-A", "workers.app", "beat"]
        else:
            queues = "express,handlers" if name == "handlers" else name
            argv = ["-m", "celery", "-A", "workers.app", "worker", "-Q", queues, "-n", f"{name}-{self._started}@%h"]
            argv += [
                "-c",
                str(self.slots if name == "handlers" else 2),
                "--prefetch-multiplier=1",
                "--without-gossip",
                "--without-mingle",
            ]
        process = spawn([sys.executable, *argv], log=log, environ=environ, folder=tree, at_our_end=signal.SIGTERM)
        self._running[name] = process

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            if name in INGRESSES:
                with suppress(httpx.TransportError):
                    url = f"http://127.0.0.1:{self._ports[name]}/readyz"
                    return httpx.get(url).status_code == 200
                return False
            return name == "beat" or len(psutil.Process(process.pid).children()) >= 2

        until(is_ready, seconds=60, what=f"{name} of {tree}")

    def take(self, name: str) -> subprocess.Popen[bytes]:
        """Return a process that runs, and forget it, so that another of its name may be started beside it."""
        return self._running.pop(name)

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Stop a process as its service manager does."""
        process.terminate()
        assert process.wait(60) == 0

    def deploy_workers(self, tree: Path) -> None:
        """Start workers of a release beside those of the other, let both work, then stop these."""
        former = {name: self.take(name) for name in WORKERS}
        moment = self.query("SELECT now() AS now")[0]["now"]
        for name in WORKERS:
            self.start(name, tree)
        both = [former["handlers"], self._running["handlers"]]
        until(lambda: all(self._has_handled(it, moment) for it in both), seconds=30, what="work of both releases")
        for process in former.values():
            self.stop(process)

    def deploy_ingresses(self, tree: Path) -> None:
        """Restart one ingress after the other."""
        for name in INGRESSES:
            self.stop(self.take(name))
            self.start(name, tree)

    def _has_handled(self, worker: subprocess.Popen[bytes], since: object) -> bool:
        pids = [str(child.pid) for child in psutil.Process(worker.pid).children()]
        done = "SELECT FROM deliveries_done WHERE split_part(worker, ':', 2) = ANY (%s) AND finished_at > %s LIMIT 1"
        return bool(self.query(done, [pids, since]))

    def _in(self, tree: Path) -> dict[str, str]:
        return {**self._environ, "PYTHONPATH": str(tree)}
