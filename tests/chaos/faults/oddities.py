"""Clocks that jump, twins, crowds, a full pending list, an entry that kills."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

import psutil

from tests.chaos.faults import Missed, fault
from tests.chaos.faults.postgres import send_one, trigger
from tests.chaos.proxy import owner
from tests.chaos.servers import until
from tests.chaos.wire import BELL, INBOX, OVERFLOW

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.chaos.faults import Inject
    from tests.chaos.stack import Stack

POISON_GATE = 77_002
MANY = 20
FULL = 100
"""Entries of the inbox that a drain reads at first, if so many wait; of the overflow a fourth."""


def steps_clock(seconds: float) -> Inject:
    """Step a clock and back; an event's id must carry the time of that clock (its storage is seen with the others')."""

    async def inject(stack: Stack, chance: random.Random) -> None:
        stack.clock.write_text(str(seconds))
        try:
            await asyncio.sleep(1)  # it looks twice a second
            event_id = await send_one(stack, chance, f"clock-{chance.random()}", port=stack.clock_port)
            ahead = (UUID(event_id).int >> 80) / 1000 - time.time()
            assert abs(ahead - seconds) < 60, f"an event's id is {ahead:.0f} s ahead instead of {seconds:.0f}"
            await asyncio.sleep(3)
        finally:
            stack.clock.write_text("0")

    return inject


fault("clock-forward", "the clock of an ingress jumps an hour ahead, and back after 4 s")(steps_clock(3600))
fault("clock-back", "the clock of an ingress jumps an hour back, and forth after 4 s")(steps_clock(-3600))


def _talks_to(port: int, pid: int) -> bool:
    with suppress(psutil.Error):
        return any(link.raddr and link.raddr.port == port for link in psutil.Process(pid).net_connections("tcp"))
    return False


async def run_beside(stack: Stack, *argv: str, seconds: float, up: asyncio.Event | None = None) -> None:
    """Run one more process; when it is connected, tell so by `up` and let it work for a while."""
    process = stack.further("-m", "celery", "-A", "workers.app", *argv)
    await until(
        lambda: process.poll() is not None or _talks_to(stack.redis_proxy.port, process.pid),
        seconds=40,
        what=f"one more {argv[0]}",
    )
    if up is not None:
        up.set()
    await asyncio.sleep(seconds)
    assert process.poll() is None, f"{argv[0]} ended by itself with status {process.returncode}"
    process.terminate()
    with suppress(TimeoutError):
        async with asyncio.timeout(15):
            while process.poll() is None:  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.1)
    process.kill()


def worker(queue: str, slots: int) -> Sequence[str]:
    """Return the arguments of one more worker."""
    return [
        *("worker", "--queues", queue, "--hostname", f"further-{queue}@chaos", "--concurrency", str(slots)),
        *("--prefetch-multiplier", "1", "--without-gossip", "--without-mingle"),
    ]


@fault("two-beats", "a second beat for 8 s")
async def run_second_beat(stack: Stack, chance: random.Random) -> None:
    """Twice the ticks."""
    del chance
    await run_beside(stack, "beat", "--schedule", str(stack.home / "beat"), seconds=8)


@fault("two-sweepers", "a second sweeper beside the first for 8 s")
async def run_second_sweeper(stack: Stack, chance: random.Random) -> None:
    """With ticks for both."""
    del chance
    await asyncio.gather(
        run_beside(stack, *worker("housekeeping", 2), seconds=8),
        run_beside(stack, "beat", "--schedule", str(stack.home / "beat2"), seconds=8),
    )


@fault("twenty-drains", "20 drains that each hold entries of the one stream at once", mixes=False)
async def run_many_drains(stack: Stack, chance: random.Random) -> None:
    """Beside 18 more: a lock holds each that has read before it can store, until all of them have read."""
    del chance
    up = asyncio.Event()
    crowd = asyncio.create_task(run_beside(stack, *worker("ingest", MANY - 2), seconds=30, up=up))
    await asyncio.wait([crowd, asyncio.ensure_future(up.wait())], return_when=asyncio.FIRST_COMPLETED)
    most, until_then = 0, time.monotonic() + 25
    async with await stack.connect() as connection, connection.transaction():
        await connection.execute("LOCK TABLE receipts IN ACCESS EXCLUSIVE MODE")
        while most < MANY and time.monotonic() < until_then and not crowd.done():
            await stack.redis.delete(BELL)  # rung by hand: the ingress rings for two
            most = max(most, sum(held > 0 for held in await _held(stack)))
            await asyncio.sleep(0.05)
    await crowd
    if most < MANY:
        raise Missed(f"{most} drains held entries at once")


async def _held(stack: Stack, stream: str = INBOX) -> list[int]:
    """Return how many entries of a stream each consumer holds."""
    return [
        one["pending"]
        for group in (await stack.redis.xinfo_groups(stream) if await stack.redis.exists(stream) else [])
        for one in await stack.redis.xinfo_consumers(stream, group["name"])
    ]


@fault("kill-full-consumer", "kill -9 of all drains while each holds a full batch", mixes=False)
async def kill_full_consumers(stack: Stack, chance: random.Random) -> None:
    """A backlog is made by stopping them; a lock holds them before they can store what they then read of it."""
    del chance
    drains = stack.children("ingest")
    for child in drains:
        child.suspend()
    try:
        for _ in range(600):
            if await stack.redis.xlen(INBOX) > FULL * len(drains):  # before the worker replaces what stands still
                break
            await asyncio.sleep(0.1)
        async with await stack.connect() as connection, connection.transaction():
            locking = asyncio.create_task(connection.execute("LOCK TABLE receipts IN ACCESS EXCLUSIVE MODE"))
            await asyncio.wait([locking], timeout=0.5)  # in vain if a drain was stopped in its transaction
            for child in drains:
                child.resume()
            await locking
            for _ in range(200):
                held, overflowed = await _held(stack), await _held(stack, OVERFLOW)
                full = sum(each >= FULL for each in held) + sum(each >= FULL // 4 for each in overflowed)
                if full >= len(drains):
                    break
                await asyncio.sleep(0.05)
            else:
                raise Missed(f"the drains held {sum(held)} entries of the inbox and {sum(overflowed)} of the overflow")
            for child in stack.children("ingest"):
                child.kill()
    finally:
        for child in drains:
            with suppress(psutil.NoSuchProcess):
                child.resume()


@fault("poison", "an entry that kills its drain every time; it must end as rejected, alone", mixes=False)
async def poison(stack: Stack, chance: random.Random) -> None:
    """A trigger holds whoever stores it as accepted, and that process is killed."""
    session = f"poison-{chance.random()}"
    body = f"IF NEW.state = 'accepted' AND NEW.subject = '{session}' THEN"
    body += f" PERFORM pg_advisory_xact_lock_shared({POISON_GATE}); END IF;"
    holding = (
        "SELECT a.client_port FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)"
        " WHERE l.locktype = 'advisory' AND l.objid = %s AND NOT l.granted"
    )
    async with trigger(stack, "events", body, each="ROW"), await stack.connect() as connection:
        await connection.execute("SELECT pg_advisory_lock(%s)", [POISON_GATE])
        event_id = await send_one(stack, chance, session)
        deadline = time.monotonic() + 120
        while not await stack.query("SELECT id FROM events WHERE id = %s", [event_id]):
            assert time.monotonic() < deadline, "after 120 s an entry that kills its drain is still in the inbox"
            for row in await stack.query(holding, [POISON_GATE]):
                _kill_behind(stack, row["client_port"])
            await asyncio.sleep(0.05)
    (row,) = await stack.query("SELECT state, reject_reason FROM events WHERE id = %s", [event_id])
    assert (row["state"], row["reject_reason"]) == ("rejected", "poison"), row


def _kill_behind(stack: Stack, server_side_port: int) -> None:
    """Kill the process whose connection reaches Postgres through this port of the proxy."""
    client_port = stack.postgres_proxy.client_behind(server_side_port)
    if client_port is not None:
        pid = owner(client_port, [child.pid for child in stack.children("ingest")])
        if pid is not None:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).send_signal(signal.SIGKILL)
