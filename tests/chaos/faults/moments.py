"""Processes that are killed or stopped at one exact moment: in a drain, in a sweep, in a handler.

What a drain or a sweep says to its servers passes a proxy, which ends the process at the word; a handler of ours takes
an order and ends or stops itself.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from tests.chaos.faults import Missed, fault
from tests.chaos.faults.oddities import run_beside, worker
from tests.chaos.proxy import Trap
from tests.chaos.wire import PREFIX

if TYPE_CHECKING:
    import random

    from tests.chaos.faults import Inject
    from tests.chaos.proxy import Proxy
    from tests.chaos.stack import Stack

PATIENCE = 30.0
AT_ONCE = 5.0
"""Seconds in which an outcome is recorded; the claim's lease is longer."""
SENDS_A_MESSAGE = f"LPUSH\r\n${len(PREFIX) + 8}\r\n{PREFIX}handlers\r\n".encode()
BEYOND_LEASE = 17.0
"""Seconds; the lease is 13.5."""
LATE_SECONDS = 2.0
"""In which one that was stopped tries its late outcome, before its worker may kill it."""


async def spring(proxy: Proxy, trap: Trap) -> None:
    """Lay a trap and wait until it has killed."""
    proxy.set(trap)
    try:
        async with asyncio.timeout(PATIENCE):
            await trap.sprung
    except TimeoutError:
        raise Missed(f"nobody said {trap.word.decode()} within {PATIENCE:g} s") from None
    finally:
        proxy.lift(trap)


def pids(stack: Stack, name: str) -> list[int]:
    """Return the children of a service."""
    return [child.pid for child in stack.children(name)]


@fault("kill-drain-before-commit", "kill -9 of a drain that says COMMIT; Postgres never hears it")
async def kill_before_commit(stack: Stack, chance: random.Random) -> None:
    """The batch is rolled back and taken over by another drain."""
    del chance
    trap = Trap(word=b"COMMIT", after=b"mixed-30-v2", among=lambda: pids(stack, "ingest"))
    await spring(stack.postgres_proxy, trap)


@fault("kill-drain-after-commit", "kill -9 of a drain whose COMMIT has reached Postgres")
async def kill_after_commit(stack: Stack, chance: random.Random) -> None:
    """The batch is stored; its entries are read again and change nothing."""
    del chance
    trap = Trap(word=b"COMMIT", after=b"mixed-30-v2", among=lambda: pids(stack, "ingest"), delivered=True)
    await spring(stack.postgres_proxy, trap)


@fault("kill-drain-before-ack", "kill -9 of a drain that says XACK; Redis never hears it")
async def kill_before_ack(stack: Stack, chance: random.Random) -> None:
    """The same, a moment later."""
    del chance
    await spring(stack.redis_proxy, Trap(word=b"XACK", among=lambda: pids(stack, "ingest")))


@fault("kill-sweeper", "kill -9 of the sweeper that says COMMIT to an admission; Postgres never hears it")
async def kill_sweeper(stack: Stack, chance: random.Random) -> None:
    """What it has marked as queued is pending again; a sweep that has nothing to do names no handler."""
    del chance
    trap = Trap(word=b"COMMIT", after=b"chaos.", among=lambda: pids(stack, "housekeeping"))
    await spring(stack.postgres_proxy, trap)


@fault("kill-admit-before-send", "kill -9 between the commit of an admission and the sending of its first message")
async def kill_before_send(stack: Stack, chance: random.Random) -> None:
    """Deliveries are queued, and no message names them: the sweeper finds them."""
    del chance

    def admitting() -> list[int]:
        return [pid for name in ("housekeeping", "handlers", "express", "ingest") for pid in pids(stack, name)]

    await spring(stack.redis_proxy, Trap(word=SENDS_A_MESSAGE, among=admitting))


async def order(stack: Stack, what: str, moment: str) -> int:
    """Give an order to the handlers; return the process that took it."""
    before = set(stack.orders.iterdir())
    path = stack.orders / f"{what}-{moment}"
    path.touch()
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                for name in set(stack.orders.iterdir()) - before:
                    if taken := re.fullmatch(rf"{what}-{moment}\.(\d+)", name.name):
                        return int(taken.group(1))
                await asyncio.sleep(0.01)
    except TimeoutError:
        path.unlink(missing_ok=True)
        raise Missed(f"no handler came by within {PATIENCE:g} s") from None


def kills_at(moment: str) -> Inject:
    async def inject(stack: Stack, chance: random.Random) -> None:
        del chance
        await order(stack, "kill", moment)

    return inject


fault("kill-handler-before-write", "kill -9 in a handler, before its writes")(kills_at("before-write"))
fault("kill-handler-after-write", "kill -9 in a handler, after its writes, before its outcome")(kills_at("after-write"))
fault("kill-handler-outside", "kill -9 in a handler that writes outside, after it has written")(kills_at("outside"))


@fault("kill-handler-at-commit", "kill -9 of a handler's process that says COMMIT to its writes and outcome")
async def kill_at_commit(stack: Stack, chance: random.Random) -> None:
    """Writes and outcome are rolled back together."""
    del chance
    trap = Trap(word=b"COMMIT", after=b"chaos_effects", among=lambda: pids(stack, "handlers"))
    await spring(stack.postgres_proxy, trap)


@fault("kill-handler-after-commit", "kill -9 of a handler's process whose COMMIT has reached Postgres")
async def kill_after_handlers_commit(stack: Stack, chance: random.Random) -> None:
    """Writes and outcome are committed together; nothing of it runs again."""
    del chance
    trap = Trap(word=b"COMMIT", after=b"chaos_effects", among=lambda: pids(stack, "handlers"), delivered=True)
    await spring(stack.postgres_proxy, trap)


@fault("panic-in-handler", "a handler raises a BaseException without a text, after its writes", mixes=False)
async def panic(stack: Stack, chance: random.Random) -> None:
    """Its attempt has failed at once, not when its lease is over."""
    del chance
    told = "SELECT 1 FROM attempts WHERE error LIKE 'Panic: %%' AND traceback IS NOT NULL AND failed_at > %s"
    (row,) = await stack.query("SELECT clock_timestamp() AS began")
    await order(stack, "panic", "after-write")
    deadline = time.monotonic() + AT_ONCE
    while not await stack.query(told, [row["began"]]):
        assert time.monotonic() < deadline, f"no outcome {AT_ONCE:g} s after a handler raised a BaseException"
        await asyncio.sleep(0.05)


def stops_at(moment: str) -> Inject:
    async def inject(stack: Stack, chance: random.Random) -> None:
        del chance
        child = psutil.Process(await order(stack, "stop", moment))
        main = child.parent()
        if main is None:
            raise Missed("the stopped process has no worker any more")
        main.suspend()  # it would kill the child at the hard limit, 8.5 s
        beside = asyncio.create_task(run_beside(stack, *worker("handlers", 4), seconds=BEYOND_LEASE))
        try:
            await asyncio.sleep(BEYOND_LEASE)
            if not _lives(child):
                raise Missed("the stopped process was killed before its lease was over")
            child.resume()
            await asyncio.sleep(LATE_SECONDS)
        finally:
            for process in (child, main):
                with suppress(psutil.NoSuchProcess):
                    process.resume()
            await beside

    return inject


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


fault(
    "stop-handler-after-write",
    "SIGSTOP in a handler after its writes, and of its worker; beyond its lease, beside another worker, it goes on",
)(stops_at("after-write"))
fault("stop-handler-outside", "the same in a handler that writes outside")(stops_at("outside"))
