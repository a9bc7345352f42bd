"""What a piece of work costs, in CPU time of this process, Postgres and Redis together.

Other work on the machine disturbs that less than it disturbs the time on the clock, and all points of a curve alike
when they are measured in turn.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.benchmarks.ground import Ground


@dataclass(slots=True)
class Cost:
    """CPU and wall time, seconds."""

    cpu: float = 0.0
    wall: float = 0.0


@dataclass(slots=True)
class Meter:
    """Measures on one ground."""

    ground: Ground
    others: Iterable[int] = ()
    costs: dict[object, list[float]] = field(default_factory=dict)

    def measure(self, work: Callable[[], object]) -> Cost:
        """Run the work and return what it cost everybody."""
        before = self._theirs()
        own, began = time.process_time(), time.perf_counter()
        work()
        own, wall = time.process_time() - own, time.perf_counter() - began
        return Cost(cpu=own + self._theirs() - before, wall=wall)

    def note(self, key: object, value: float) -> None:
        """Keep one value of a point."""
        self.costs.setdefault(key, []).append(value)

    def points(self, name: object = None) -> list[tuple[float, float]]:
        """Return the medians of the points, keyed by number or by (name, number), in order."""
        return sorted(
            (float(key[1]), median(values)) if isinstance(key, tuple) else (float(str(key)), median(values))
            for key, values in self.costs.items()
            if (isinstance(key, tuple) and key[0] == name) or (name is None and not isinstance(key, tuple))
        )

    def _theirs(self) -> float:
        """Look at the others: that costs this process milliseconds, which are no part of the work."""
        total = 0.0
        for pid in self.ground.server_pids:
            with suppress(psutil.NoSuchProcess):
                total += cpu_of(pid)
        return total + sum(cpu_of(pid) for pid in self.others)


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process and all that it has started, those that ended included."""
    process, total = psutil.Process(pid), 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            total += _exact(one.pid) or sum(one.cpu_times()[:2])
    times = process.cpu_times()
    return float(total + times.children_user + times.children_system)


def _exact(pid: int) -> float:
    """Return CPU seconds of all threads to the nanosecond where Linux tells them; `cpu_times` counts hundredths."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
