"""What a killed supervisor left running: found by the state file, taken down before a new start.

Guarantees: only processes that the state file names are touched, or that belong to a session which one of them led;
a process id that another program has taken since is told apart by its birth. Refuses nothing.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.local.state import Member

SERVERS: Final = ("postgres", "valkey")
BIRTH_TOLERANCE: Final = 1.5
"""Seconds by which two readings of one process's birth may differ after the clock was set."""


def take_down(members: Sequence[Member], *, patience: float = 5.0) -> list[str]:
    """End what still runs of a former stack, its servers last; return the names of what was found.

    Args:
        members: as the state file names them.
        patience: seconds that the servers, and before them the others, get to end by themselves.
    """
    found: list[str] = []
    for servers in (False, True):
        processes = {member.name: _alive(member) for member in members if (member.name in SERVERS) == servers}
        found += [name for name, alive in processes.items() if alive]
        remaining = [process for alive in processes.values() for process in alive]
        for process in remaining:
            with suppress(psutil.NoSuchProcess):
                # For Postgres: end sessions, write everything, stop. The others understand SIGTERM alike.
                process.send_signal(signal.SIGINT if process.name().startswith("postgres") else signal.SIGTERM)
        _, stubborn = psutil.wait_procs(remaining, timeout=patience)
        for process in stubborn:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(stubborn, timeout=2)
    return found


def _alive(member: Member) -> list[psutil.Process]:
    """Return the member's process, its descendants, and what else is left of the session that it led."""
    alive: dict[int, psutil.Process] = {}
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(member.pid)
        if abs(leader.create_time() - member.born) > BIRTH_TOLERANCE:
            return []  # a stranger has the number now, which no process gets while a session of that number lives
        alive = {process.pid: process for process in (leader, *leader.children(recursive=True))}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == member.pid:
                alive |= {process.pid: process}
    return [process for process in alive.values() if _is_running(process)]


def _is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
