"""Sends requests that no provider sends, and judges every answer.

Guarantees: whatever arrives, the ingress answers as documented, in JSON, or closes the connection; it never answers 5xx
but 503 with a reason of its own, never logs an exception, its memory is bounded while it runs and does not grow, and
signed events beside it are acknowledged within a second.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import uvloop

from tests.chaos.client import read_answer
from tests.chaos.slow_clients import send_normal
from tests.chaos.strange import drawn, endless

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.chaos.client import Answer
    from tests.chaos.slow_clients import Sample
    from tests.chaos.stack import Endpoint, Stack
    from tests.chaos.strange import Signed

EXPECTED: Final = frozenset({200, 400, 401, 404, 405, 408, 413, 417, 431, 503})
"""Every status that the ingress may answer with."""
REASONS: Final = frozenset({"inbox_unavailable", "redis_away", "too_many_connections"})
"""Why it may answer 503 while Redis is only slow or busy, to an event or on `/readyz`; how often it did is told."""
AT_ONCE: Final = 96
"""Connections: many wait for the server's patience to end, the others shall not wait for them."""
SIGNED_RATE: Final = 20.0
"""Signed events a second beside the fuzz."""
ROUND_SECONDS: Final = 3.0
"""Of signed traffic, until it is asked whether the fuzz is over."""
MEMORY_EVERY_SECONDS: Final = 0.25
MEMORY_MB: Final = 64.0
"""What strangers may cost all ingress processes together while it runs."""


@dataclass(slots=True)
class Tally:
    """What came back.

    Attributes:
        statuses: answers by status; 0: the connection was closed without one.
        reasons: of the 503.
        requests: that were sent, pipelined ones counted as one.
        hung: requests with neither an answer nor an end within the time that the ingress has for slow clients.
        unexpected: answers that it should never send, or connections that it did not take, with the request.
        signed: what was signed rightly; nothing else may be stored.
        beside: seconds of each signed event that was sent beside, and whether it was acknowledged.
        most_memory: of all processes together while it ran, MB.
        seconds: it took.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    hung: list[bytes] = field(default_factory=list)
    unexpected: list[tuple[str, bytes]] = field(default_factory=list)
    signed: set[Signed] = field(default_factory=set)
    beside: list[Sample] = field(default_factory=list)
    most_memory: float = 0.0
    seconds: float = 0.0

    def judge(self, answer: Answer, sent: bytes) -> None:
        """Count an answer, and keep what it should not be."""
        self.statuses[answer.status] += 1
        if answer.status not in EXPECTED:
            self.unexpected.append((str(answer.status), sent))
        if not answer.body:  # of a HEAD
            return
        try:
            said = json.loads(answer.body)
        except ValueError:
            self.unexpected.append((f"{answer.status} that is not JSON", sent))
            return
        if answer.status == 503:
            for reason in [said["error"]["code"]] if "error" in said else said["reasons"]:
                self.reasons[reason] += 1
                if reason not in REASONS:
                    self.unexpected.append((f"503 {reason}", sent))


async def fuzz(
    endpoints: list[Endpoint],
    *,
    count: int,
    seed: int,
    patience: float,
    memory: Callable[[], float],
    on_step: Callable[[int], None],
) -> Tally:
    """Send so many requests, half of them structured, over many connections at once.

    Args:
        endpoints: where to send.
        count: requests.
        seed: decides all of them.
        patience: seconds after which a request counts as hung.
        memory: returns that of all processes, MB.
        on_step: told how many were sent, now and then.
    """
    chance = random.Random(seed)  # noqa: S311 - a seed that can be given again is what is wanted
    tally, started = Tally(), time.monotonic()
    pool = drawn(min(count // 2, 4000), seed=seed)
    source = endless(pool, endpoints, chance, tally.signed)

    async def work() -> None:
        while tally.requests < count:
            tally.requests += 1
            port, pieces, half = next(source)
            await _exchange(tally, port, pieces, half=half, patience=patience)
            if tally.requests % 500 == 0:
                on_step(tally.requests)

    async with _watched(tally, endpoints, memory):
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        tally.seconds = time.monotonic() - started
    return tally


@asynccontextmanager
async def _watched(tally: Tally, endpoints: list[Endpoint], memory: Callable[[], float]) -> AsyncIterator[None]:
    """Send signed events from another process, and look at the memory, until the block ends."""
    is_over = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def send() -> None:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            while not is_over.is_set():
                samples, signed = await loop.run_in_executor(pool, send_signed, endpoints)
                tally.beside += samples
                tally.signed |= signed

    async def look() -> None:
        while not is_over.is_set():
            tally.most_memory = max(tally.most_memory, memory())
            with suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), MEMORY_EVERY_SECONDS)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        tasks.create_task(look())
        try:
            yield
        finally:
            is_over.set()


def send_signed(endpoints: list[Endpoint]) -> tuple[list[Sample], set[Signed]]:
    """Send signed events for a while, in a process that does nothing else; return how it went and what was sent."""
    signed: set[Signed] = set()
    traffic = send_normal(
        endpoints,
        seconds=ROUND_SECONDS,
        rate=SIGNED_RATE,
        on_send=lambda endpoint, body: signed.add((endpoint.tenant, sha256(body).digest())),
    )
    return uvloop.run(traffic), signed


async def count_forged(stack: Stack, signed: set[Signed]) -> int:
    """Return how many stored events nobody has signed, for their tenant and byte by byte."""
    rows = await stack.query("SELECT tenant, sha256(body) AS digest FROM events")
    return sum((row["tenant"], bytes(row["digest"])) not in signed for row in rows)


async def _exchange(  # noqa: C901 - one conversation, with all the ways in which it can end
    tally: Tally, port: int, pieces: list[bytes], *, half: bool, patience: float
) -> None:
    """Send the pieces, read every answer until the connection ends or nothing more comes."""
    sent, answered = b"|".join(pieces)[:300], 0
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        tally.unexpected.append(("no connection", sent))
        return
    try:
        async with asyncio.timeout(patience):
            await _send(writer, pieces, half=half)
            while True:
                # A complete request that keeps its connection is done with its answer.
                try:
                    reading = read_answer(reader, is_head=pieces[0].startswith(b"HEAD "))
                    answer = await (asyncio.wait_for(reading, 0.02) if answered else reading)
                except TimeoutError:
                    if answered:
                        return
                    raise
                if answer.status == 100:  # the body is on its way already
                    continue
                answered += 1
                tally.judge(answer, sent)
                if answer.closes:
                    return
    except TimeoutError:
        tally.hung.append(sent)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            tally.unexpected.append(("an answer that was cut off", sent))
        tally.statuses[0] += not answered
    except OSError:
        tally.statuses[0] += not answered
    except ValueError:
        tally.unexpected.append(("an answer that is not HTTP", sent))
    finally:
        with suppress(OSError, RuntimeError):
            writer.transport.abort()


async def _send(writer: asyncio.StreamWriter, pieces: list[bytes], *, half: bool) -> None:
    with suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0)
        if half:
            writer.write_eof()
