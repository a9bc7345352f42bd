"""Slow clients beside normal traffic: connections with no data, half a header, half a body, or a drip.

The same normal traffic is measured without them and beside them, in turns, half of the time without them before and
half of it after, so that what changes by itself changes both.
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

import psutil

from tests.chaos.client import Connection, post, signature
from tests.moveris import completed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.chaos.stack import Endpoint

    Sample = tuple[float, bool]
    """Seconds of a request, and whether it was acknowledged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of normal requests, milliseconds; and how many were not answered 200."""

    requests: int
    p50: float
    p99: float
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Normal traffic without slow clients and beside them.

    Attributes:
        without: half of it before they came, half after they went.
        beside: while they were there.
        held: of them were connected at its end.
        busy: share of a core that they took themselves.
    """

    without: list[Sample]
    beside: list[Sample]
    held: int
    busy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the turns say together."""

    turns: Sequence[Turn]

    @property
    def without(self) -> Latency:
        """Without slow clients."""
        return latency([sample for turn in self.turns for sample in turn.without])

    @property
    def beside(self) -> Latency:
        """Beside them."""
        return latency([sample for turn in self.turns for sample in turn.beside])

    @property
    def held(self) -> float:
        """How many were connected, on average."""
        return sum(turn.held for turn in self.turns) / len(self.turns)

    @property
    def ratio(self) -> float:
        """The 99th percentile beside them over the one without."""
        return self.beside.p99 / self.without.p99


async def compare(
    endpoints: Sequence[Endpoint],
    *,
    clients: int,
    seconds: float,
    turns: int,
    rate: float,
    spread: float,
    on_turn: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Measure in turns, so that a noisy machine disturbs both alike.

    Args:
        endpoints: where to send.
        clients: slow ones at any time.
        seconds: without them, and again beside them, in each turn.
        turns: pairs of measurements.
        rate: of normal requests a second.
        spread: seconds over which the slow ones arrive: the server's patience with them, else they come and go at once.
        on_turn: called with the number of turns that are over.
    """
    found: list[Turn] = []
    for turn in range(turns):
        before = await send_normal(endpoints, seconds=seconds / 2, rate=rate)
        crowd = await Crowd.gather(endpoints, clients, spread=spread)
        try:
            spent, started = crowd.cpu_seconds(), time.monotonic()
            beside = await send_normal(endpoints, seconds=seconds, rate=rate)
            held, busy = crowd.connected, (crowd.cpu_seconds() - spent) / (time.monotonic() - started)
        finally:
            await crowd.leave()
        after = await send_normal(endpoints, seconds=seconds / 2, rate=rate)
        found.append(Turn(without=before + after, beside=beside, held=held, busy=busy))
        on_turn(turn + 1)
    return Comparison(turns=found)


class Crowd:
    """The process of the slow clients."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._reading = asyncio.create_task(self._read())
        self.connected = 0

    @classmethod
    async def gather(cls, endpoints: Sequence[Endpoint], clients: int, *, spread: float) -> Self:
        """Start it and wait until nearly all are connected."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.crowd", stdin=pipe, stdout=pipe
        )
        assert process.stdin
        secret = {endpoint: base64.b64encode(endpoint.secret).decode() for endpoint in endpoints}
        told = [
            {"port": endpoint.port, "tenant": endpoint.tenant, "secret": secret[endpoint]} for endpoint in endpoints
        ]
        process.stdin.write(json.dumps({"endpoints": told, "clients": clients, "spread": spread}).encode() + b"\n")
        crowd, deadline = cls(process), time.monotonic() + spread + 10
        while crowd.connected < clients * 0.95 and time.monotonic() < deadline:  # noqa: ASYNC110 - 500 events
            await asyncio.sleep(0.05)
        return crowd

    def cpu_seconds(self) -> float:
        """Return what it has computed so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

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


async def send_normal(
    endpoints: Sequence[Endpoint],
    *,
    seconds: float,
    rate: float,
    on_send: Callable[[Endpoint, bytes], None] = lambda *_: None,
) -> list[Sample]:
    """Send requests at their time, which is when their latency begins.

    Args:
        endpoints: where to send.
        seconds: for which new ones are sent.
        rate: of them a second.
        on_send: told each body, and where it goes.
    """
    chance = random.Random(1)  # noqa: S311 - the same traffic each time
    idle = [Connection(endpoint.port) for endpoint in endpoints for _ in range(4)]
    found: list[Sample] = []
    tasks: list[asyncio.Task[None]] = []

    async def send(due: float) -> None:
        connection = idle.pop() if idle else Connection(chance.choice(endpoints).port)
        endpoint = next(endpoint for endpoint in endpoints if endpoint.port == connection.port)
        body = completed()
        on_send(endpoint, body)
        answer = await connection.send(post(endpoint.path, body, signature(endpoint.secret, body)), seconds=10)
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


def latency(found: Sequence[Sample]) -> Latency:
    """Sum requests up."""
    times = sorted(seconds * 1000 for seconds, _ in found)
    return Latency(
        requests=len(times),
        p50=times[len(times) // 2],
        p99=times[int(len(times) * 0.99)],
        failed=sum(not is_stored for _, is_stored in found),
    )
