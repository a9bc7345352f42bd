"""One service of the stack: what to run, how to see that it is ready, how to end it.

Guarantees: it runs in a session of its own, its output goes to its log, and `end` leaves nothing of its process group.
Refuses: a program that cannot be started (`OSError`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from deploy.local.state import Member

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LEASH = Path(__file__).with_name("leash.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service.

    Attributes:
        name: in messages, the log's file name and the state file.
        argv: the command that runs it in the foreground; the program is an absolute path.
        environ: its whole environment.
        is_ready: whether it does its work now; may block for a second or two.
        settle: seconds that it must have lived before it is asked.
        stop_signal: asks it to finish what it has in hand and end.
        hurry_signal: asks it to end at once.
        patience: seconds between `stop_signal` and `hurry_signal`.
        uid: user to run it as, or None for ours.
    """

    name: str
    argv: Sequence[str]
    environ: Mapping[str, str] = field(repr=False)
    is_ready: Callable[[], bool]
    settle: float = 0.0
    stop_signal: signal.Signals = signal.SIGTERM
    hurry_signal: signal.Signals = signal.SIGKILL
    patience: float = 2.0
    uid: int | None = None


async def start(service: Service, log: Path) -> asyncio.subprocess.Process:
    """Start it, its output appended to `log`."""
    uid = os.geteuid() if service.uid is None else service.uid
    leash = [sys.executable, "-I", "-S", str(LEASH), str(int(service.stop_signal)), str(os.getpid()), str(uid)]
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *leash,
            *service.argv,
            env=dict(service.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=None if service.uid is None else "/",
        )


async def end(service: Service, process: asyncio.subprocess.Process) -> bool:
    """Stop it, hurry it after its patience, kill it a second later; say whether it ended by itself."""
    for request, seconds in ((service.stop_signal, service.patience), (service.hurry_signal, 1.0)):
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(request)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), seconds)
    ended = process.returncode is not None
    bury(process.pid)
    await process.wait()
    return ended


def bury(pid: int) -> None:
    """Kill what is left of the process group that a service led."""
    with suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        os.killpg(pid, signal.SIGKILL)


def member_of(service: Service, process: asyncio.subprocess.Process) -> Member:
    """Describe the process for the state file."""
    try:
        born = psutil.Process(process.pid).create_time()
    except psutil.NoSuchProcess:
        born = 0.0
    return Member(name=service.name, pid=process.pid, born=born)


def say_end(returncode: int) -> str:
    """Say how a process ended."""
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"ended with status {returncode}"
