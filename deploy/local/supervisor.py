"""The supervisor: starts services, restarts what dies, stops everything in order.

Guarantees: a service that dies is started again, at once the first time and then after 1, 2, 4 … 30 seconds; `stop`
leaves no process behind and takes at most the sum of the stages' patience. Refuses: a service that dies again and
again before it was ever ready (`StackError`, with the path of its log).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

from deploy.local.errors import StackError
from deploy.local.logs import last_line, shorten
from deploy.local.service import bury, end, member_of, say_end, start
from deploy.local.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from deploy.local.report import Report
    from deploy.local.service import Service
    from deploy.local.state import Member

STEADY_SECONDS: Final = 30.0
"""A service that lived this long starts over with an immediate restart."""
LONGEST_PAUSE: Final = 30.0
HOPELESS: Final = 4
"""Deaths in a row, before it was ever ready, after which starting is given up."""
PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(slots=True)
class _Kept:
    """A service and the process that runs it now."""

    service: Service
    process: asyncio.subprocess.Process
    ready: bool = False
    was_ready: bool = False
    hopeless: bool = False
    keeper: asyncio.Task[None] | None = None


class Supervisor:
    """Keeps services running until `stop`.

    Args:
        logs: folder of the logs, one `<name>.log` each.
        report: told of every death and restart.
        adopt: the process has no other children: orphans of a killed service become its own, and `stop` ends them too.

    Attributes:
        on_change: called with all processes whenever one has been started.
    """

    def __init__(self, *, logs: Path, report: Report, adopt: bool = False) -> None:
        self._logs = logs
        self._report = report
        self.on_change: Callable[[Sequence[Member]], None] = lambda _: None
        self._kept: dict[str, _Kept] = {}
        self._news = asyncio.Event()  # some service became ready, or was given up
        self._adopt = adopt
        if adopt and sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def log_of(self, name: str) -> Path:
        """Return the path of a service's log."""
        return self._logs / f"{name}.log"

    async def start(self, *services: Service) -> None:
        """Start services and keep them running; returns before they are ready."""
        for service in services:
            shorten(self.log_of(service.name))
            kept = _Kept(service, await start(service, self.log_of(service.name)))
            self._kept[service.name] = kept
            kept.keeper = asyncio.create_task(self._keep(kept), name=f"keep {service.name}")
        self._tell()

    async def wait_until_ready(self, *names: str, seconds: float) -> None:
        """Wait for services to be ready.

        Raises:
            StackError: one keeps dying, or is not ready in time.
        """
        try:
            await asyncio.wait_for(self._wait_for([self._kept[name] for name in names]), seconds)
        except TimeoutError:
            late = ", ".join(name for name in names if not self._kept[name].ready)
            raise StackError(f"not ready after {seconds:.0f} s: {late}; see the logs in {self._logs}") from None

    async def stop(self, *stages: Sequence[str]) -> list[str]:
        """Stop services stage by stage, those of a stage together; return the names of those that had to be killed."""
        keepers = [kept.keeper for kept in self._kept.values() if kept.keeper]
        for keeper in keepers:  # from here on, what dies is not started again
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        killed: list[str] = []
        for stage in stages:
            members = [self._kept[name] for name in stage if name in self._kept]
            ends = await asyncio.gather(*(end(kept.service, kept.process) for kept in members))
            killed += [kept.service.name for kept, ended in zip(members, ends, strict=True) if not ended]
        self._kept.clear()
        self.bury_orphans(kill=True)
        return killed

    def hurry(self) -> None:
        """Ask everything to end at once; for a second Ctrl-C, while `stop` waits."""
        for kept in self._kept.values():
            if kept.process.returncode is None:
                with suppress(ProcessLookupError):
                    kept.process.send_signal(kept.service.hurry_signal)

    async def tend(self) -> None:
        """Until cancelled: cut logs that grow large, and let the kernel forget orphans that ended."""
        while True:
            await asyncio.sleep(10)
            for kept in self._kept.values():
                shorten(self.log_of(kept.service.name))
            self.bury_orphans(kill=False)

    def bury_orphans(self, *, kill: bool) -> None:
        """Reap adopted processes that have ended; with `kill`, end the others first."""
        if not self._adopt:
            return
        ours = {kept.process.pid for kept in self._kept.values()}
        orphans = [child for child in psutil.Process().children() if child.pid not in ours]
        for orphan in orphans:
            with suppress(psutil.Error, ChildProcessError):
                if kill:
                    for process in (*orphan.children(recursive=True), orphan):
                        process.kill()
                    orphan.wait(1)
                elif orphan.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(orphan.pid, os.WNOHANG)

    async def _wait_for(self, them: Sequence[_Kept]) -> None:
        while not all(kept.ready for kept in them):
            for kept in them:
                if kept.hopeless:
                    log = self.log_of(kept.service.name)
                    raise StackError(f"{kept.service.name} does not start; {log} ends with: {last_line(log)}")
            self._news.clear()
            await self._news.wait()

    async def _keep(self, kept: _Kept) -> None:
        """Run one service for ever.

        1. Watch for readiness while it runs.
        2. When it dies, kill what is left of its process group, so that nothing of it works beside its successor.
        3. Say so, wait longer each time, start it again.
        """
        name, deaths = kept.service.name, 0
        while True:
            started = time.monotonic()
            watcher = asyncio.create_task(self._watch(kept, again=deaths > 0))
            try:
                returncode = await kept.process.wait()
            finally:
                watcher.cancel()
            bury(kept.process.pid)
            kept.ready = False
            deaths = 1 if time.monotonic() - started >= STEADY_SECONDS else deaths + 1
            pause = 0.0 if deaths == 1 else min(2.0 ** (deaths - 2), LONGEST_PAUSE)
            self._lament(name, returncode, deaths, pause)
            kept.hopeless = deaths >= HOPELESS and not kept.was_ready
            self._news.set()
            await asyncio.sleep(pause)
            kept.process = await start(kept.service, self.log_of(name))
            self._tell()

    async def _watch(self, kept: _Kept, *, again: bool) -> None:
        await asyncio.sleep(kept.service.settle)
        while not await in_thread(kept.service.is_ready):  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(0.1)
        kept.ready = kept.was_ready = True
        self._news.set()
        if again:
            self._report.good(f"{kept.service.name} is back (pid {kept.process.pid})")

    def _lament(self, name: str, returncode: int, deaths: int, pause: float) -> None:
        how = f"{name} {say_end(returncode)}"
        if deaths < HOPELESS - 1:
            self._report.bad(f"{how}; starting it again" + (f" in {pause:.0f} s" if pause else ""))
        else:
            self._report.bad(f"{how}, {deaths} times in a row; next try in {pause:.0f} s; see {self.log_of(name)}")

    def _tell(self) -> None:
        self.on_change([member_of(kept.service, kept.process) for kept in self._kept.values()])
