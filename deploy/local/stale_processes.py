"""Ends what a killed supervisor left running, as the state file names it, before a new start.

Only processes in the state file are touched, and those of a session that one of them led. A process id that another
program has taken since is told apart by the time at which it started.
"""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import psutil

from deploy.local.state import Member

SERVERS: Final = ("postgres", "valkey")
START_TOLERANCE_SECONDS: Final = 1.5
"""By which two readings of a process's start may differ after the clock was set."""


def end_stale_processes(members: Sequence[Member], *, patience: float = 5.0) -> list[str]:
    """End what still runs of a former stack, its servers last; return the names of what was found.

    The servers, and before them the others, get `patience` seconds to end by themselves.
    """
    found: list[str] = []
    for servers in (False, True):
        processes = {member.name: _running(member) for member in members if (member.name in SERVERS) == servers}
        found += [name for name, running in processes.items() if running]
        remaining = [process for running in processes.values() for process in running]
        for process in remaining:
            with suppress(psutil.NoSuchProcess):
                # Postgres: end the sessions, write everything, stop. The others take SIGTERM for the same.
                process.send_signal(signal.SIGINT if process.name().startswith("postgres") else signal.SIGTERM)
        _, stubborn = psutil.wait_procs(remaining, timeout=patience)
        for process in stubborn:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(stubborn, timeout=2)
    return found


def _running(member: Member) -> list[psutil.Process]:
    """Return the member's process, its descendants, and what else is left of the session that it led."""
    found: set[psutil.Process] = set()
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(member.pid)
        if abs(leader.create_time() - member.started_at) > START_TOLERANCE_SECONDS:
            return []  # another program has the number now, which none gets while a session of that number lives
        found = {leader, *leader.children(recursive=True)}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == member.pid:
                found.add(process)
    return [process for process in found if _is_running(process)]


def _is_running(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
