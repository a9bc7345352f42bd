"""Slow clients beside normal traffic: connections with no data, half a header, half a body, or a drip.

Guarantees: the same normal traffic is measured without them and beside them, in turns. Refuses nothing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

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


async def compare(
    doors: Sequence[Door], *, clients: int, seconds: float, turns: int, rate: float, spread: float
) -> Comparison:
    """Measure in turns, so that a noisy machine disturbs both alike.

    Args:
        doors: endpoints.
        clients: slow ones at any time.
        seconds: of each half of a turn.
        turns: pairs of measurements.
        rate: of normal requests a second.
        spread: seconds over which the slow ones arrive: the server's patience with them, else they come and go at once.
    """
    without: list[tuple[float, bool]] = []
    beside: list[tuple[float, bool]] = []
    held: list[int] = []
    for _ in range(turns):
        without += await _normal(doors, seconds=seconds, rate=rate)
        crowd = await Crowd.gather(doors, clients, spread=spread)
        try:
            beside += await _normal(doors, seconds=seconds, rate=rate)
            held.append(crowd.connected)
        finally:
            await crowd.leave()
    return Comparison(without=_latency(without), beside=_latency(beside), held=sum(held) / len(held))


class Crowd:
    """The process of the slow clients."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._reading = asyncio.create_task(self._read())
        self.connected = 0

    @classmethod
    async def gather(cls, doors: Sequence[Door], clients: int, *, spread: float) -> Self:
        """Start it and wait until nearly all are connected."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.crowd", stdin=pipe, stdout=pipe
        )
        assert process.stdin
        secret = {door: base64.b64encode(door.secret).decode() for door in doors}
        told = [{"port": door.port, "tenant": door.tenant, "secret": secret[door]} for door in doors]
        process.stdin.write(json.dumps({"doors": told, "clients": clients, "spread": spread}).encode() + b"\n")
        crowd, deadline = cls(process), time.monotonic() + spread + 10
        while crowd.connected < clients * 0.95 and time.monotonic() < deadline:  # noqa: ASYNC110 - 500 events
            await asyncio.sleep(0.05)
        return crowd

    async def leave(self) -> None:
        """Disconnect all of them."""
        assert self._process.stdin
        self._process.stdin.close()
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout
        async for line in self._process.stdout:
            self.connected = int(line)


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
