"""The supervisor: starts services, restarts what ends, stops everything in order.

A service that ends is started again: at once the first time, then after 1, 2, 4 … 30 seconds. A process whose loop
stands still, by the rule of `pipeline health`, is killed: it would follow no other request. `stop` leaves no process
and takes at most the sum of the stages' patience. A service that ends again and again before it was ever ready is a
`StackError` with the path of its log.
"""

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import psutil

from deploy.local.service import Service, describe, kill_group, last_line, rotate_log, start, stop
from deploy.local.state import Member, StackError
from deploy.local.terminal import Terminal
from shared.heartbeat import read_beats

T = TypeVar("T")

STEADY_SECONDS: Final = 30.0
"""After running for so long, the next restart is immediate again."""
LONGEST_PAUSE: Final = 30.0
MAX_FAILED_STARTS: Final = 4
"""Ends in a row, before the service was ever ready, after which starting is given up."""
MAINTENANCE_SECONDS: Final = 10.0
PR_SET_CHILD_SUBREAPER: Final = 36


async def run_blocking(call: Callable[[], T]) -> T:
    """Return what `call` returns, or raise what it raises; a caller that is cancelled goes on at once.

    `asyncio.to_thread` would make the end of the process wait for a call that hangs, such as a migration that waits
    for another session's lock.
    """
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return await asyncio.wrap_future(outcome)


@dataclass(slots=True)
class _Supervised:
    """A service and the process that runs it now."""

    service: Service
    process: asyncio.subprocess.Process
    is_ready: bool = False
    was_ready: bool = False
    has_failed: bool = False
    task: asyncio.Task[None] | None = None


class Supervisor:
    """Keeps services running until `stop`.

    Args:
        logs: folder of the logs, one `<name>.log` each.
        terminal: told of every end and restart.
        adopt: the process has no other children: orphans of a killed service become its own, and `stop` ends them too.
        heartbeats: folder of the services' heartbeats, or None; they may be `health_seconds` old.

    Attributes:
        on_change: called with all processes whenever one has been started.
    """

    def __init__(
        self,
        *,
        logs: Path,
        terminal: Terminal,
        adopt: bool = False,
        heartbeats: Path | None = None,
        health_seconds: float = 60.0,
    ) -> None:
        self._logs = logs
        self._terminal = terminal
        self.on_change: Callable[[Sequence[Member]], None] = lambda _: None
        self._supervised: dict[str, _Supervised] = {}
        self._changed = asyncio.Event()  # some service became ready, or was given up
        self._is_notified = True
        self._adopt = adopt
        self._heartbeats = heartbeats
        self._health_seconds = health_seconds
        if adopt and sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    async def start(self, *services: Service) -> None:
        """Start services and keep them running; return before they are ready."""
        for service in services:
            rotate_log(self._log_of(service.name))
            one = _Supervised(service, await start(service, self._log_of(service.name)))
            self._supervised[service.name] = one
            one.task = asyncio.create_task(self._supervise(one), name=f"supervise {service.name}")
        self._notify()

    async def wait_until_ready(self, *names: str, seconds: float) -> None:
        """Wait for services to be ready; a `StackError` if one keeps ending, or is not ready in time."""
        them = [self._supervised[name] for name in names]
        try:
            async with asyncio.timeout(seconds):
                while not all(one.is_ready for one in them):
                    for one in them:
                        if one.has_failed:
                            log = self._log_of(one.service.name)
                            raise StackError(f"{one.service.name} does not start; {log} ends with: {last_line(log)}")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            late = ", ".join(one.service.name for one in them if not one.is_ready)
            raise StackError(f"not ready after {seconds:.0f} s: {late}; see the logs in {self._logs}") from None

    async def stop(self, *stages: Sequence[str]) -> list[str]:
        """Stop services stage by stage, those of a stage together; return the names of those that had to be killed."""
        tasks = [one.task for one in self._supervised.values() if one.task]
        for task in tasks:  # from here on, what ends is not started again
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        killed: list[str] = []
        for stage in stages:
            members = [self._supervised[name] for name in stage if name in self._supervised]
            ends = await asyncio.gather(*(stop(one.service, one.process) for one in members))
            killed += [one.service.name for one, has_ended in zip(members, ends, strict=True) if not has_ended]
        self._supervised.clear()
        self._reap_orphans(kill=True)
        return killed

    def kill_now(self) -> None:
        """Ask everything to end at once; for a second Ctrl-C, while `stop` waits."""
        for one in self._supervised.values():
            if one.process.returncode is None:
                with suppress(ProcessLookupError):
                    one.process.send_signal(one.service.kill_signal)

    async def maintain(self) -> None:
        """Until cancelled: kill what stands still, rotate logs that grow large, and reap orphans that have ended."""
        while True:
            await asyncio.sleep(MAINTENANCE_SECONDS)
            self.kill_standing_still()
            with suppress(OSError):  # a full disk
                for name in self._supervised:
                    rotate_log(self._log_of(name))
            if not self._is_notified:
                self._notify_if_possible()
            self._reap_orphans(kill=False)

    def kill_standing_still(self) -> None:
        """Kill every process of ours whose heartbeat is too old; its service, or its parent, then starts it again."""
        beats = read_beats(self._heartbeats) if self._heartbeats else []
        for beat in beats:
            if beat.stands_still(now=time.monotonic(), patience=self._health_seconds) and self._is_ours(beat.pid):
                self._terminal.bad(f"{beat.name} stands still (process {beat.pid}); killing it")
                with suppress(ProcessLookupError):
                    os.kill(beat.pid, signal.SIGKILL)

    def _is_ours(self, pid: int) -> bool:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            family = {pid, *(parent.pid for parent in process.parents())}
            return any(one.process.pid in family for one in self._supervised.values())
        return False

    def _reap_orphans(self, *, kill: bool) -> None:
        """Reap adopted processes that have ended; with `kill`, end the others first."""
        if not self._adopt:
            return
        ours = {one.process.pid for one in self._supervised.values()}
        for orphan in [child for child in psutil.Process().children() if child.pid not in ours]:
            with suppress(psutil.Error, ChildProcessError):
                if kill:
                    for process in (*orphan.children(recursive=True), orphan):
                        process.kill()
                    orphan.wait(1)
                elif orphan.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(orphan.pid, os.WNOHANG)

    async def _supervise(self, one: _Supervised) -> None:
        """Run one service until cancelled.

        1. Watch for readiness while it runs.
        2. When it ends, kill what is left of its process group, so that nothing of it works beside its successor.
        3. Print that, wait longer each time, start it again.
        """
        name, ends = one.service.name, 0
        while True:
            started = time.monotonic()
            watcher = asyncio.create_task(self._watch_readiness(one, is_restart=ends > 0))
            try:
                returncode = await one.process.wait()
            finally:
                watcher.cancel()
            kill_group(one.process.pid)
            one.is_ready = False
            ends = 1 if time.monotonic() - started >= STEADY_SECONDS else ends + 1
            pause = 0.0 if ends == 1 else min(2.0 ** (ends - 2), LONGEST_PAUSE)
            self._print_end(name, returncode, ends, pause)
            one.has_failed = ends >= MAX_FAILED_STARTS and not one.was_ready
            self._changed.set()
            await asyncio.sleep(pause)
            one.process = await self._start_again(one.service)
            self._notify_if_possible()

    async def _start_again(self, service: Service) -> asyncio.subprocess.Process:
        """Start a service; as long as the system refuses, as on a full disk, try again after a pause."""
        while True:
            try:
                return await start(service, self._log_of(service.name))
            except OSError as error:
                self._terminal.bad(f"{service.name} cannot be started: {error}")
                await asyncio.sleep(LONGEST_PAUSE)

    async def _watch_readiness(self, one: _Supervised, *, is_restart: bool) -> None:
        await asyncio.sleep(one.service.settle_seconds)
        while not await run_blocking(one.service.is_ready):  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(0.1)
        one.is_ready = one.was_ready = True
        self._changed.set()
        if is_restart:
            self._terminal.good(f"{one.service.name} is back (pid {one.process.pid})")

    def _print_end(self, name: str, returncode: int, ends: int, pause: float) -> None:
        is_killed = returncode < 0
        how = f"was killed by {signal.Signals(-returncode).name}" if is_killed else f"ended with status {returncode}"
        if ends < MAX_FAILED_STARTS - 1:
            self._terminal.bad(f"{name} {how}; starting it again" + (f" in {pause:.0f} s" if pause else ""))
        else:
            log = self._log_of(name)
            self._terminal.bad(f"{name} {how}, {ends} times in a row; next try in {pause:.0f} s; see {log}")

    def _log_of(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _notify_if_possible(self) -> None:
        """Notify; what cannot be written now, as on a full disk, is by `maintain`."""
        try:
            self._notify()
            self._is_notified = True
        except OSError as error:
            self._terminal.bad(f"the list of processes cannot be written: {error}")
            self._is_notified = False

    def _notify(self) -> None:
        self.on_change([describe(one.service, one.process) for one in self._supervised.values()])
