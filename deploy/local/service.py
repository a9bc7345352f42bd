"""One service of the stack: its command, how to see that it is ready, how to stop it, and its log.

It runs in a session of its own and ends with this process. `stop` leaves nothing of its process group. A log and its
predecessor `<name>.log.1` stay below about twice `LARGE_BYTES` each.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from deploy.local.state import Member

PARENT_WATCH: Final = str(Path(__file__).with_name("parent_watch.py"))
LARGE_BYTES: Final = 20_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service.

    Attributes:
        name: in messages, the log's file name and the state file.
        argv: the command that runs it in the foreground; the program is an absolute path.
        is_ready: whether it does its work now; may block for a second or two.
        environ: its whole environment; None for ours.
        settle_seconds: time that it must have run before it is asked.
        stop_signal: asks it to finish what it has in hand and end; `kill_signal`, `patience` seconds later, at once.
        uid: user to run it as, or None for ours.
    """

    name: str
    argv: Sequence[str]
    is_ready: Callable[[], bool] = field(compare=False)
    environ: Mapping[str, str] | None = field(default=None, repr=False)
    settle_seconds: float = 0.0
    stop_signal: signal.Signals = signal.SIGTERM
    kill_signal: signal.Signals = signal.SIGKILL
    patience: float = 2.0
    uid: int | None = None

    @property
    def command(self) -> list[str]:
        """The command line that runs it and ends it with this process."""
        uid = os.geteuid() if self.uid is None else self.uid
        watch = [sys.executable, "-I", "-S", PARENT_WATCH, str(int(self.stop_signal)), str(os.getpid()), str(uid)]
        return [*watch, *self.argv]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server(Service):
    """An embedded server; `url` is how clients reach it."""

    url: str


async def start(service: Service, log: Path) -> asyncio.subprocess.Process:
    """Start a service, its output appended to `log`."""
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *service.command,
            env=None if service.environ is None else dict(service.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=None if service.uid is None else "/",
        )


async def stop(service: Service, process: asyncio.subprocess.Process) -> bool:
    """Ask it to stop, and after its patience to end at once; kill it a second later. Return whether it ended itself."""
    for request, seconds in ((service.stop_signal, service.patience), (service.kill_signal, 1.0)):
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(request)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), seconds)
    has_ended = process.returncode is not None
    kill_group(process.pid)
    await process.wait()
    return has_ended


def kill_group(pid: int) -> None:
    """Kill what is left of the process group that a service led."""
    with suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        os.killpg(pid, signal.SIGKILL)


def describe(service: Service, process: asyncio.subprocess.Process) -> Member:
    """Return the process as the state file has it."""
    started_at = 0.0
    with suppress(psutil.NoSuchProcess):
        started_at = psutil.Process(process.pid).create_time()
    return Member(name=service.name, pid=process.pid, started_at=started_at)


def rotate_log(log: Path) -> None:
    """Move what a large log holds aside; the service goes on writing to the file, which it opened to append."""
    if log.exists() and log.stat().st_size >= LARGE_BYTES:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)


def last_line(log: Path) -> str:
    """Return the last line that is not empty, up to 300 characters of it; of a line of JSON its message."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "nothing")
    with suppress(ValueError, TypeError, KeyError):
        last = json.loads(last)["message"]
    return last[:300]
