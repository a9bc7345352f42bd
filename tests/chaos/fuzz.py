"""Sends requests that no provider sends, and judges every answer.

Guarantees: whatever arrives, the ingress answers as documented, in JSON, or closes the connection; it never answers 5xx
but 503 with a reason of its own, never logs an exception, and its memory does not grow. Refuses nothing.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.chaos.client import read_answer
from tests.chaos.strange import drawn, endless

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.client import Answer
    from tests.chaos.stack import Door, Stack
    from tests.chaos.strange import Signed

EXPECTED: Final = frozenset({200, 400, 401, 404, 405, 408, 413, 417, 431, 503})
"""Every status that the ingress may answer with."""
REASONS: Final = frozenset({"inbox_unavailable", "too_many_connections"})
"""Why it may answer 503 while Redis is only slow or busy; how often it did is told."""
AT_ONCE: Final = 96
"""Connections: many wait for the server's patience to end, the others shall not wait for them."""


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
        seconds: it took.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    hung: list[bytes] = field(default_factory=list)
    unexpected: list[tuple[str, bytes]] = field(default_factory=list)
    signed: set[Signed] = field(default_factory=set)
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
            reason = str(said["error"]["code"] if "error" in said else said)
            self.reasons[reason] += 1
            if reason not in REASONS:
                self.unexpected.append((f"503 {reason}", sent))


async def fuzz(doors: list[Door], *, count: int, seed: int, patience: float, on_step: Callable[[int], None]) -> Tally:
    """Send so many requests, half of them structured, over many connections at once.

    Args:
        doors: endpoints.
        count: requests.
        seed: decides all of them.
        patience: seconds after which a request counts as hung.
        on_step: told how many were sent, now and then.
    """
    chance = random.Random(seed)  # noqa: S311 - a seed that can be given again is what is wanted
    tally, started = Tally(), time.monotonic()
    pool = drawn(min(count // 2, 4000), seed=seed)
    source = endless(pool, doors, chance, tally.signed)

    async def work() -> None:
        while tally.requests < count:
            tally.requests += 1
            port, pieces, half = next(source)
            await _exchange(tally, port, pieces, half=half, patience=patience)
            if tally.requests % 500 == 0:
                on_step(tally.requests)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    tally.seconds = time.monotonic() - started
    return tally


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
