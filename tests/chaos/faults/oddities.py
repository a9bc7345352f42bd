"""Clocks that jump, twins, crowds, a full pending list, an entry that kills."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import psycopg

from tests.chaos.faults import fault
from tests.chaos.faults.postgres import send_one, trigger
from tests.chaos.proxy import owner

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.chaos.faults import Inject
    from tests.chaos.stack import Stack

POISON_GATE = 77_002


def steps_clock(seconds: float) -> Inject:
    async def inject(stack: Stack, chance: random.Random) -> None:
        del chance
        stack.clock.write_text(str(seconds))
        await asyncio.sleep(4)
        stack.clock.write_text("0")

    return inject


fault("clock-forward", "the clock of an ingress jumps an hour ahead, and back after 4 s")(steps_clock(3600))
fault("clock-back", "the clock of an ingress jumps an hour back, and forth after 4 s")(steps_clock(-3600))


async def run_beside(stack: Stack, *argv: str, seconds: float) -> None:
    """Run one more process for a while."""
    process = stack.further("-m", "celery", "-A", "workers.app", *argv)
    await asyncio.sleep(seconds)
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


@fault("two-beats", "a second beat for 10 s")
async def run_second_beat(stack: Stack, chance: random.Random) -> None:
    """Twice the ticks."""
    del chance
    await run_beside(stack, "beat", "--schedule", str(stack.home / "beat"), seconds=10)


@fault("two-sweepers", "a second sweeper beside the first for 10 s")
async def run_second_sweeper(stack: Stack, chance: random.Random) -> None:
    """With ticks for both."""
    del chance
    await asyncio.gather(
        run_beside(stack, *worker("housekeeping", 2), seconds=10),
        run_beside(stack, "beat", "--schedule", str(stack.home / "beat2"), seconds=10),
    )


@fault("twenty-drains", "18 more drains on the one stream for 12 s", mixes=False)
async def run_many_drains(stack: Stack, chance: random.Random) -> None:
    """With bells for all of them: a backlog is made by stopping the two that there are."""
    del chance
    stopped = stack.children("ingest")
    for child in stopped:
        child.suspend()
    with suppress(psutil.NoSuchProcess):
        crowd = asyncio.create_task(run_beside(stack, *worker("ingest", 18), seconds=12))
        await asyncio.sleep(4)
        for child in stopped:
            child.resume()
        for _ in range(40):  # rung by hand: the ingress rings for two
            await stack.redis.delete("inbox:bell")
            await asyncio.sleep(0.1)
        await crowd


@fault("kill-full-consumer", "kill -9 of all drains while each holds a full batch", mixes=False)
async def kill_full_consumers(stack: Stack, chance: random.Random) -> None:
    """A lock holds them before they can store what they have read."""
    del chance
    with suppress(psycopg.OperationalError):
        async with await stack.connect() as connection, connection.transaction():
            await connection.execute("LOCK TABLE receipts IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(3)
            for child in stack.children("ingest"):
                with suppress(psutil.NoSuchProcess):
                    child.kill()


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
