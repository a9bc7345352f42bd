"""The processes that serve: forked from one that has imported everything, replaced when they die or hang.

Guarantees: a process that dies is replaced at once, and its successor serves within milliseconds, because it imports
nothing (started afresh, as uvicorn does it, one took seconds on a busy machine); while the system has no room for it,
the others go on; one whose event loop stands still is killed and replaced; SIGTERM or SIGINT stops all of them and
waits for them; none outlives this process by more than its own grace. Refuses: to go on when one cannot be set up
(`STARTUP_FAILURE`); it has said why.
"""

from __future__ import annotations

import gc
import logging
import mmap
import os
import signal
import socket
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Final, NoReturn

from uvicorn import Server
from uvicorn.config import STARTUP_FAILURE

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import ForkProcess
    from types import FrameType

    from uvicorn import Config

log: Final = logging.getLogger(__name__)

HANG_SECONDS: Final = 20.0
"""An event loop that does not turn for so long does not come back; on a busy machine 5 s of silence are nothing yet."""
EVERY_SECONDS: Final = 1.0
"""Between two looks at the beats; a death is seen at once."""
SHORTEST_LIFE: Final = 1.0
"""Seconds from birth to successor, so that what cannot live does not eat a core."""
STOPS: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(slots=True)
class _Place:
    """Where one of the processes runs; without one until `due` (monotonic seconds)."""

    process: ForkProcess | None = None
    born: float = 0.0
    due: float = 0.0


class Fleet:
    """As many serving processes as asked.

    Args:
        serve: runs in each process until it is told to stop. It calls what it is given at every turn of its event
            loop, and stops by itself once that answers False: then nobody looks after the process any more.
        size: number of processes.
        hang_seconds: silence after which a process is killed.
    """

    def __init__(
        self, serve: Callable[[Callable[[], bool]], None], *, size: int, hang_seconds: float = HANG_SECONDS
    ) -> None:
        self._serve = serve
        self._hang_seconds = hang_seconds
        self._places = [_Place() for _ in range(size)]
        self._beats = memoryview(mmap.mmap(-1, 8 * size)).cast("d")  # shared with the processes, monotonic seconds
        self._is_over = False
        self._has_failed = False

    def run(self) -> bool:
        """Keep the processes running until SIGTERM or SIGINT; say whether each could be set up."""
        # the collector leaves alone what lives as long as the process: so its memory stays shared
        gc.collect()
        gc.freeze()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as who started us may have left it, it hides deaths
        news, bell = socket.socketpair()
        for end in (news, bell):
            end.setblocking(False)
        signal.set_wakeup_fd(bell.fileno())
        for number in STOPS:
            signal.signal(number, self._ask_to_stop)
        looked = time.monotonic()
        while not self._is_over:
            now = time.monotonic()
            if now - looked > 2 * EVERY_SECONDS:  # we were stopped ourselves, and so perhaps were they
                for slot in range(len(self._places)):
                    self._beats[slot] = now
            looked = now
            for slot, place in enumerate(self._places):
                self._tend(slot, place, now)
            sentinels = [place.process.sentinel for place in self._places if place.process]
            wait([news, *sentinels], timeout=EVERY_SECONDS)
        self._end()
        return not self._has_failed

    def _ask_to_stop(self, _: int, __: FrameType | None) -> None:
        self._is_over = True

    def _tend(self, slot: int, place: _Place, now: float) -> None:
        """Fill an empty place, or see whether the process in it is dead or hangs."""
        process = place.process
        if process is None:
            if now >= place.due:
                self._start(slot, place)
        elif not process.is_alive():
            if process.exitcode == STARTUP_FAILURE:
                self._has_failed = self._is_over = True
                return
            log.warning("process %d died with %s: replaced", process.pid, process.exitcode)
            place.process, place.due = None, place.born + SHORTEST_LIFE
            self._tend(slot, place, now)
        elif now - self._beats[slot] > self._hang_seconds:
            log.error("process %d hangs: killed", process.pid)
            process.kill()

    def _start(self, slot: int, place: _Place) -> None:
        process = get_context("fork").Process(target=self._live, args=(slot, os.getpid()))
        place.process, place.born = process, time.monotonic()
        self._beats[slot] = place.born
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # none may reach it while it has our handlers
        try:
            process.start()
        except OSError as error:  # no memory or no process id is left for now; the others go on serving
            log.error("no process can be started: %s", error)  # noqa: TRY400 the text says it all
            place.process, place.due = None, place.born + SHORTEST_LIFE
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _live(self, slot: int, parent: int) -> None:
        """Serve; runs in the new process."""
        signal.set_wakeup_fd(-1)
        for number in STOPS:
            signal.signal(number, leave)
        is_deaf = True

        def beat() -> bool:
            nonlocal is_deaf
            if is_deaf:  # until now: a stop amid the start would leave it half done, and say so
                is_deaf = False
                signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            self._beats[slot] = time.monotonic()
            return os.getppid() == parent

        self._serve(beat)

    def _end(self) -> None:
        """Tell all to stop, and wait for them."""
        running = [place.process for place in self._places if place.process]
        for process in running:
            process.terminate()
        for process in running:
            process.join(self._hang_seconds)
            if process.exitcode is None:
                log.error("process %d does not stop: killed", process.pid)
                process.kill()
                process.join()


class Member(Server):
    """uvicorn's server in one process of the fleet."""

    def __init__(self, config: Config, beat: Callable[[], bool]) -> None:
        super().__init__(config)
        self._beat = beat

    async def on_tick(self, counter: int) -> bool:
        """Tell that the event loop turns, and stop when nobody listens; uvicorn calls it ten times a second."""
        if not self._beat():
            self.should_exit = True
        return await super().on_tick(counter)


def leave(_: int, __: FrameType | None) -> NoReturn:
    """End the process with success: uvicorn raises the signal once more when it has stopped."""
    raise SystemExit(0)
