"""Slow clients beside normal traffic: connections with no data, half a header, half a body, or a drip.

Guarantees: the same normal traffic is measured without them and beside them, in turns. Refuses nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.chaos.client import Connection, completed, post, signature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.stack import Door


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of normal requests, milliseconds; and how many were not answered 200."""

    requests: int
    p50: float
    p99: float
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Normal traffic without slow clients and beside them; `held` of them were connected on average."""

    without: Latency
    beside: Latency
    held: float

    @property
    def ratio(self) -> float:
        """The 99th percentile beside them over the one without."""
        return self.beside.p99 / self.without.p99


async def compare(doors: Sequence[Door], *, clients: int, seconds: float, turns: int, rate: float) -> Comparison:
    """Measure in turns, so that a noisy machine disturbs both alike.

    Args:
        doors: endpoints.
        clients: slow ones at any time.
        seconds: of each half of a turn.
        turns: pairs of measurements.
        rate: of normal requests a second.
    """
    without: list[tuple[float, bool]] = []
    beside: list[tuple[float, bool]] = []
    held: list[int] = []
    for _ in range(turns):
        without += await _normal(doors, seconds=seconds, rate=rate)
        crowd = Crowd(doors, clients)
        try:
            await crowd.gather()
            beside += await _normal(doors, seconds=seconds, rate=rate)
            held.append(crowd.connected)
        finally:
            await crowd.leave()
    return Comparison(without=_latency(without), beside=_latency(beside), held=sum(held) / len(held))


class Crowd:
    """Slow clients; each comes again when the server has had enough of it."""

    def __init__(self, doors: Sequence[Door], clients: int) -> None:
        self._doors = doors
        self._clients = clients
        self._tasks: list[asyncio.Task[None]] = []
        self.connected = 0

    async def gather(self) -> None:
        """Connect all of them."""
        self._tasks = [asyncio.create_task(self._linger(number)) for number in range(self._clients)]
        deadline = time.monotonic() + 10
        while self.connected < self._clients * 0.95 and time.monotonic() < deadline:  # noqa: ASYNC110 - 500 events
            await asyncio.sleep(0.05)

    async def leave(self) -> None:
        """Disconnect all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _linger(self, number: int) -> None:
        door = self._doors[number % len(self._doors)]
        body = completed()
        request = post(door.path, body, signature(door.secret, body))
        begins = [b"", request[:40], request[: len(request) - 100], request[:1]][number % 4]
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
            except OSError:
                await asyncio.sleep(0.5)
                continue
            self.connected += 1
            drip = asyncio.create_task(_drip(writer)) if number % 4 == 3 else None
            try:
                writer.write(begins)
                while await reader.read(1000):
                    pass
            except OSError:
                pass
            finally:
                self.connected -= 1
                if drip is not None:
                    drip.cancel()
                writer.transport.abort()


async def _drip(writer: asyncio.StreamWriter) -> None:
    """Send a header's byte a second."""
    with suppress(OSError, RuntimeError):  # uvloop says RuntimeError of a closed transport
        while True:
            await asyncio.sleep(1)
            writer.write(b"x")


async def _normal(doors: Sequence[Door], *, seconds: float, rate: float) -> list[tuple[float, bool]]:
    """Send requests at their time; return the seconds of each and whether it was acknowledged."""
    chance = random.Random(1)  # noqa: S311 - the same traffic each time
    idle = [Connection(door.port) for door in doors for _ in range(4)]
    found: list[tuple[float, bool]] = []
    tasks: list[asyncio.Task[None]] = []

    async def send(due: float) -> None:
        connection = idle.pop() if idle else Connection(chance.choice(doors).port)
        door = next(door for door in doors if door.port == connection.port)
        body = completed()
        answer = await connection.send(post(door.path, body, signature(door.secret, body)), seconds=10)
        found.append((time.monotonic() - due, answer.status == 200))
        idle.append(connection)

    due, ends = time.monotonic(), time.monotonic() + seconds
    while due < ends:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(send(due)))
        due += chance.expovariate(rate)
    await asyncio.wait(tasks)
    for connection in idle:
        connection.close()
    return found


def _latency(found: list[tuple[float, bool]]) -> Latency:
    times = sorted(seconds * 1000 for seconds, _ in found)
    return Latency(
        requests=len(times),
        p50=times[len(times) // 2],
        p99=times[int(len(times) * 0.99)],
        failed=sum(not is_stored for _, is_stored in found),
    )
