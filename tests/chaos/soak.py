"""A long run at half load: memory and file descriptors of every process must stay flat.

Flat: over the second half of the run, the line through a process's memory rises by less than a fiftieth of it, or 1 MB;
its file descriptors by less than three. The line has the median slope of all pairs of samples (Theil and Sen): whatever
grows on and on shows in most of them, a single step, such as one more arena of the allocator, in few; from the first
tenth of the half to the last, the level itself may rise by a twentieth, or 2 MB. Descriptors of Postgres' own processes
may instead fall back to where they were: its background writer opens the files that it writes, a hundred of them, and
closes all at each checkpoint. The first half is left for pools, caches and arenas to fill. Connections that a client of
the ingress holds open are not counted: they follow the load, which keeps as many as it ever needed at once; one that
its client has closed and the ingress has not is. Every process of the pipeline and both servers are watched; none
of the pipeline may end.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import psutil
from rich.table import Table

from tests.chaos.load import Load
from tests.chaos.reconcile import reconcile, wait_until_quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from tests.chaos.reconcile import Account
    from tests.chaos.stack import Stack


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one process: seconds since the start, unique memory in MB, file descriptors without clients."""

    at: float
    memory: float
    files: int


@dataclass(slots=True, kw_only=True)
class Soak:
    """What was seen, by process name."""

    seconds: float
    rate: float
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    account: Account | None = None

    def rises(self) -> dict[str, tuple[float, float]]:
        """Return how much memory (MB) and descriptors of each process rose over the second half."""
        found = {}
        for name, samples in self.samples.items():
            late = [sample for sample in samples if sample.at >= self.seconds / 2]
            if len(late) > 5:
                found[name] = (_rise(late, [s.memory for s in late]), _rise(late, [float(s.files) for s in late]))
        return found

    @property
    def growing(self) -> list[str]:
        """Names of processes that are not flat."""
        return [
            name
            for name, (memory, files) in self.rises().items()
            if memory > max(1.0, self.samples[name][-1].memory / 50)
            or self._step(name) > max(2.0, self.samples[name][-1].memory / 20)
            or (files >= 3 and not self._is_saw(name))
        ]

    def _step(self, name: str) -> float:
        """Return how much more memory (MB) a process has in the last tenth of the second half than in its first."""
        late = [sample.memory for sample in self.samples[name] if sample.at >= self.seconds / 2]
        tenth = max(1, len(late) // 10)
        return statistics.median(late[-tenth:]) - statistics.median(late[:tenth])

    def _is_saw(self, name: str) -> bool:
        """Say whether a process of Postgres held at the fewest no more descriptors in the last quarter than before."""
        if not name.startswith("postgres "):
            return False
        halfway, late = self.seconds / 2, self.seconds * 3 / 4
        third = [sample.files for sample in self.samples[name] if halfway <= sample.at < late]
        fourth = [sample.files for sample in self.samples[name] if sample.at >= late]
        return min(fourth, default=0) <= min(third, default=0)  # a session may be gone by then, or new

    @property
    def ended(self) -> list[str]:
        """Names of processes that were not there at the end; sessions of Postgres may come and go."""
        last = max((samples[-1].at for samples in self.samples.values()), default=0.0)
        return [
            name for name, samples in self.samples.items() if samples[-1].at < last and not name.startswith("postgres ")
        ]

    @property
    def is_flat(self) -> bool:
        """Whether nothing grows, nothing ended and nothing was lost."""
        return not self.growing and not self.ended and self.account is not None and not self.account.violations

    def show(self, console: Console) -> None:
        """Print a line for each process."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("process", "MB at first", "half time", "at the end", "rise/half", "files first", "end", "rise"):
            table.add_column(column, justify="left" if column == "process" else "right")
        for name, (memory, files) in sorted(self.rises().items()):
            samples = self.samples[name]
            middle = next(sample for sample in samples if sample.at >= self.seconds / 2)
            table.add_row(
                name,
                *(f"{s.memory:.1f}" for s in (samples[0], middle, samples[-1])),
                f"{memory:+.2f}",
                *(str(s.files) for s in (samples[0], samples[-1])),
                f"{files:+.1f}",
            )
        console.print(table)
        if self.account is not None:
            console.print(
                f"{self.account.acknowledged:,} acknowledged at {self.rate:.0f}/s in {self.seconds:.0f} s,"
                f" {self.account.violations} violations: {self.account}"
            )
        if self.is_flat:
            console.print("flat")
        else:
            console.print(f"growing: {', '.join(self.growing) or 'none'}; ended: {', '.join(self.ended) or 'none'}")

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON knows."""
        return {
            "seconds": self.seconds,
            "rate": self.rate,
            "rises": self.rises(),
            "samples": {
                name: [[sample.at, sample.memory, sample.files] for sample in samples]
                for name, samples in self.samples.items()
            },
        }


def _rise(samples: Sequence[Sample], values: Sequence[float]) -> float:
    """Return the rise, from the first to the last sample, of the line with the median slope of all pairs."""
    points = [(sample.at, value) for sample, value in zip(samples, values, strict=True)]
    slope = statistics.median((value - before) / (at - then) for (then, before), (at, value) in combinations(points, 2))
    return slope * (points[-1][0] - points[0][0])


async def soak(stack: Stack, *, seconds: float, rate: float, seed: int, on_step: Callable[[float, str], None]) -> Soak:
    """Send load for so long and look at every process each five seconds; then reconcile."""
    load = Load(stack.endpoints(), rate=rate, chance=random.Random(seed))  # noqa: S311 - a seed that can be given again
    found, started = Soak(seconds=seconds, rate=rate), time.monotonic()
    load.start()
    while (at := time.monotonic() - started) < seconds:
        for name, process in _processes(stack).items():
            with suppress(psutil.Error):
                files = process.num_fds() - (_clients(process, stack.port) if name.startswith("ingress") else 0)
                memory = process.memory_full_info().uss / 1e6
                found.samples.setdefault(name, []).append(Sample(at, memory, files))
        on_step(at / seconds, f"{len(load.sent):,} sent")
        await asyncio.sleep(5)
    await load.stop()
    await wait_until_quiet(stack, seconds=180, on_step=lambda what: on_step(1.0, what))
    (found.account,) = await reconcile(stack, load.sent, [])
    return found


def _clients(process: psutil.Process, port: int) -> int:
    """Return how many connections to this port clients hold open."""
    return sum(
        connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == port
        for connection in process.net_connections("tcp")
    )


def _processes(stack: Stack) -> dict[str, psutil.Process]:
    """Return every process by a name that tells it from its siblings."""
    found = {"supervisor": stack.supervisor}
    for service in ("ingress", "ingest", "handlers", "express", "housekeeping", "beat", "flower"):
        if (main := stack.main(service)) is not None:
            found[service] = main
            found |= {f"{service} {child.pid}": child for child in stack.children(service)}
    with suppress(psutil.Error):
        found["valkey"] = psutil.Process(stack.valkey.pid)
        found["postgres"] = psutil.Process(stack.postgres.pid)
        for backend in found["postgres"].children():
            found[f"postgres {backend.pid}"] = backend
    found.pop(f"{os.getpid()}", None)
    return found
