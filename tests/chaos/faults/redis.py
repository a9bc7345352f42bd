"""What happens to Redis."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

import psutil
from redis.exceptions import RedisError

from tests.chaos.faults import fault
from tests.chaos.servers import MAXMEMORY
from tests.chaos.wire import IDENTITY, INBOX, INBOX_BYTES, OVERFLOW, REGISTRY

if TYPE_CHECKING:
    import random

    from tests.chaos.stack import Stack

KEPT = frozenset(name.encode() for name in (INBOX, OVERFLOW, INBOX_BYTES, REGISTRY, IDENTITY))
WAITING = 10
"""Events that wait in the inbox when everything is flushed, if the load brings them within ten seconds."""
MOST_HELD = 100_000
"""More entries than all drains hold together."""


@fault("kill-redis", "kill -9 of Redis, started again at once")
async def kill_redis(stack: Stack, chance: random.Random) -> None:
    """It comes back from its append-only file."""
    del chance
    await stack.valkey.restart(signal.SIGKILL)


@fault("restart-redis", "SIGTERM of Redis, away for up to 3 s")
async def restart_redis(stack: Stack, chance: random.Random) -> None:
    """Orderly, and away for a while."""
    await stack.valkey.restart(signal.SIGTERM, down=chance.uniform(0, 3))


@fault("flush-queues", "every Celery key deleted, the inbox and the registry left")
async def flush_queues(stack: Stack, chance: random.Random) -> None:
    """All messages are gone; they were hints."""
    del chance
    keys = [key for key in await stack.redis.keys() if key not in KEPT]
    if keys:
        await stack.redis.delete(*keys)


@fault(
    "flush-all",
    "FLUSHALL while the inbox holds events: those that no drain has read yet are lost, nothing else",
    mixes=False,
    loses=True,
)
async def flush_all(stack: Stack, chance: random.Random) -> None:
    """Stop the drains so that something waits, note in the same transaction what; the registry must return by itself.

    What a drain had in its hands must be stored nevertheless; so no other fault may kill a drain meanwhile.
    """
    del chance
    stopped = stack.children("ingest")
    try:
        for child in stopped:
            with suppress(psutil.NoSuchProcess):
                child.suspend()
        for _ in range(100):
            if await stack.redis.xlen(INBOX) >= WAITING:
                break
            await asyncio.sleep(0.1)
        streams = [stream for stream in (INBOX, OVERFLOW) if await stack.redis.exists(stream)]
        groups = {stream: await stack.redis.xinfo_groups(stream) for stream in streams}
        pipeline = stack.redis.pipeline(transaction=True)
        for stream in (INBOX, OVERFLOW):
            pipeline.xrange(stream)
        for stream, found in groups.items():
            for group in found:
                pipeline.xpending_range(stream, group["name"], "-", "+", MOST_HELD)
        pipeline.flushall()
        entries, overflow, *held, _ = await pipeline.execute()
    finally:
        for child in stopped:
            with suppress(psutil.NoSuchProcess):
                child.resume()
    in_hand = {one["message_id"] for some in held for one in some}
    waited = (*entries, *overflow)
    stack.flushed |= {str(UUID(bytes=fields[b"id"])) for entry, fields in waited if entry not in in_hand}
    deadline = time.monotonic() + 30
    while not await stack.redis.exists(REGISTRY):
        assert time.monotonic() < deadline, "the registry did not return within 30 s"
        await asyncio.sleep(0.05)


@fault("redis-full", "maxmemory below what is used: Redis refuses every write for 3 s")
async def fill_redis(stack: Stack, chance: random.Random) -> None:
    """Beyond the high water: what Celery writes fails too."""
    del chance
    await _limit(stack, 0.9, 3)


@fault("redis-nearly-full", "maxmemory at which more than the high water is used, for 4 s")
async def nearly_fill_redis(stack: Stack, chance: random.Random) -> None:
    """The ingress refuses; the pipeline goes on draining."""
    del chance
    await _limit(stack, 1.15, 4)


async def _limit(stack: Stack, share: float, seconds: float) -> None:
    """Set maxmemory to a share of what is used now, then to what it was at the start: two of these may overlap."""
    used = (await stack.redis.info("memory"))["used_memory"]
    await stack.redis.config_set("maxmemory", int(used * share))
    try:
        await asyncio.sleep(seconds)
    finally:
        await stack.redis.config_set("maxmemory", MAXMEMORY)


@fault("redis-client-kill", "CLIENT KILL of all connections, several times")
async def kill_clients(stack: Stack, chance: random.Random) -> None:
    """Three times within a second."""
    del chance
    for _ in range(3):
        await stack.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with suppress(RedisError):
            await stack.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.sleep(0.3)


@fault("redis-sleep", "DEBUG SLEEP: Redis answers nobody for 2 s")
async def sleep_redis(stack: Stack, chance: random.Random) -> None:
    """Longer than the ingress waits."""
    del chance
    await stack.redis.execute_command("DEBUG", "SLEEP", "2")


@fault("redis-pause", "CLIENT PAUSE of all writes for 3 s")
async def pause_redis(stack: Stack, chance: random.Random) -> None:
    """Reads go on."""
    del chance
    await stack.redis.execute_command("CLIENT", "PAUSE", "3000", "WRITE")
    await asyncio.sleep(3)


@fault("redis-read-only", "Redis is a read-only replica for 3 s")
async def make_read_only(stack: Stack, chance: random.Random) -> None:
    """Of a primary that does not exist, so that it keeps its data."""
    del chance
    await stack.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        await asyncio.sleep(3)
    finally:
        await stack.redis.execute_command("REPLICAOF", "NO", "ONE")
