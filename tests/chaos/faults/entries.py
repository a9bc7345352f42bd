"""Entries that no ingress writes, days that have no table, readers that stay, and a Redis that stays full."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import psutil

from tests.chaos.faults import Missed, fault
from tests.chaos.faults.postgres import send_one
from tests.chaos.servers import MAXMEMORY, until
from tests.chaos.watch import memory_of
from tests.chaos.wire import INBOX, OVERFLOW, entry
from tests.moveris import completed

if TYPE_CHECKING:
    import random

    from tests.chaos.stack import Stack

STREAMS: Final = (INBOX, OVERFLOW)
STRANGE: Final = (b"\0", b"a\0b", "\ud800".encode(errors="surrogatepass"), b"\xff\xfe", b"", b"x" * 70_000)
PATIENCE: Final = 30.0
FULL_SECONDS: Final = 40.0
WAITING: Final = 50
SMALL: Final = 1200
LARGE: Final = 150
LARGE_BYTES: Final = 1_000_000
"""All of them fill a good half of Redis."""
DRAIN_MB: Final = 160.0
"""What a drain may hold beyond what it held before: a read brings 32 MB, kept as fields, rows and SQL."""


@fault("strange-entries", "entries in both streams with NUL, lone surrogates or any bytes in any field", mixes=False)
async def append_strange_entries(stack: Stack, chance: random.Random) -> None:
    """Each must be stored as rejected with all that it held, and nothing may wait for them."""
    bodies = []
    for name in _entry(stack, chance, b"")[1]:
        for value in (*STRANGE, chance.randbytes(20)):
            body = b"strange " + uuid.uuid4().hex.encode()
            fields = _entry(stack, chance, body)[1] | ({name: value} if name != b"body" else {body: value})
            bodies.append(body)
            await stack.redis.xadd(chance.choice(STREAMS), fields)  # type: ignore[arg-type] # bytes are fine
    began = time.monotonic()
    event_id = await send_one(stack, chance, f"beside-{chance.random()}")
    while not await stack.query("SELECT id FROM events WHERE id = %s", [event_id]):
        assert time.monotonic() < began + PATIENCE, f"an event beside them was not stored within {PATIENCE} s"
        await asyncio.sleep(0.05)
    while missing := await _missing(stack, bodies):
        assert time.monotonic() < began + PATIENCE, f"{len(missing)} of {len(bodies)} are not stored: {missing[:3]}"
        await asyncio.sleep(0.2)


async def _missing(stack: Stack, bodies: list[bytes]) -> list[bytes]:
    """Return those that no rejected event holds, as its body or as a field of what was no envelope."""
    stored = await stack.query("SELECT body FROM events WHERE state = 'rejected'")
    text = b"\n".join(bytes(row["body"]) for row in stored)
    return [body for body in bodies if body not in text and base64.b64encode(body) not in text]


@fault("rows-in-default", "events of a day whose table is missing, which is then made beside the load", mixes=False)
async def store_in_default(stack: Stack, chance: random.Random) -> None:
    """The rows lie in the default partition; the next look at the days must move them."""
    day = datetime.now(UTC) + timedelta(days=5)
    table = f"events_{day:%Y%m%d}"
    await stack.query(f"DROP TABLE {table}")
    ids = []
    for _ in range(WAITING):
        session = f"default-{uuid.uuid4()}"
        event_id, fields = _entry(stack, chance, completed(session), at=day)
        ids.append(event_id)
        await stack.redis.xadd(INBOX, fields)  # type: ignore[arg-type] # the same
    await _until_stored(stack, ids)
    keeping = stack.further("-m", "celery", "-A", "workers.app", "call", "housekeeping.keep_days")
    await until(lambda: keeping.poll() is not None, seconds=40, what="the call of keep_days")
    began = time.monotonic()
    where = "SELECT DISTINCT tableoid::regclass::text AS name FROM events WHERE id = ANY (%s::uuid[])"
    while [row["name"] for row in await stack.query(where, [ids])] != [table]:
        assert time.monotonic() < began + 2 * PATIENCE, f"after {2 * PATIENCE:.0f} s the rows are not in {table}"
        await asyncio.sleep(0.2)


@fault("postgres-long-reader", "a transaction that has read every table stays open for 15 s", mixes=False)
async def read_long(stack: Stack, chance: random.Random) -> None:
    """As a backup does; the days are looked at meanwhile, and events are stored and handled all the same."""
    async with await stack.connect() as connection, connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        for table in ("events", "receipts", "arrivals", "deliveries", "deliveries_done", "attempts", "admission"):
            await connection.execute(f"SELECT count(*) FROM {table}")
        stack.further("-m", "celery", "-A", "workers.app", "call", "housekeeping.keep_days")
        ends = time.monotonic() + 15
        while time.monotonic() < ends:
            began = time.monotonic()
            event_id = await send_one(stack, chance, f"beside-{chance.random()}")
            while not await stack.query("SELECT event_id FROM chaos_effects WHERE event_id = %s", [event_id]):
                assert time.monotonic() < began + 10, "an event was not handled within 10 s beside a long reader"
                await asyncio.sleep(0.1)
            await asyncio.sleep(1)


@fault("redis-stays-full", "maxmemory at half of what is used, for 40 s, while events wait", mixes=False)
async def keep_redis_full(stack: Stack, chance: random.Random) -> None:
    """The doorbell is refused with everything else; what waits must be drained nevertheless."""
    del chance
    drains = stack.children("ingest")
    try:
        for child in drains:
            with suppress(psutil.NoSuchProcess):
                child.suspend()
        began = time.monotonic()
        while await stack.redis.xlen(INBOX) < WAITING:
            if time.monotonic() > began + 10:
                raise Missed("too few events came")
            await asyncio.sleep(0.1)
        used = (await stack.redis.info("memory"))["used_memory"]
        await stack.redis.config_set("maxmemory", int(used / 2))
    finally:
        for child in drains:
            with suppress(psutil.NoSuchProcess):
                child.resume()
    try:
        began = time.monotonic()
        while waiting := await stack.redis.xlen(INBOX):
            assert time.monotonic() < began + PATIENCE, f"{waiting} events wait in a Redis that is full"
            await asyncio.sleep(0.2)
        await asyncio.sleep(max(0.0, began + FULL_SECONDS - time.monotonic()))
    finally:
        await stack.redis.config_set("maxmemory", MAXMEMORY)


@fault("large-entries", "1,200 small entries, then 150 of 1 MB each, wait for the drains at once", mixes=False)
async def append_large_entries(stack: Stack, chance: random.Random) -> None:
    """What a drain reads at once is bounded in bytes, so its memory is, too; all are stored."""
    drains = stack.children("ingest")
    before = memory_of(stack, "ingest")
    ids = []
    try:
        for child in drains:
            with suppress(psutil.NoSuchProcess):
                child.suspend()
        for number in range(SMALL + LARGE):
            size = 10 if number < SMALL else LARGE_BYTES
            event_id, fields = _entry(stack, chance, b"large " + uuid.uuid4().hex.encode() + b"x" * size)
            ids.append(event_id)
            await stack.redis.xadd(INBOX, fields)  # type: ignore[arg-type] # the same
    finally:
        for child in drains:
            with suppress(psutil.NoSuchProcess):
                child.resume()
    stored = asyncio.create_task(_until_stored(stack, ids))
    most: dict[int, float] = {}
    while not stored.done():
        for pid, held in memory_of(stack, "ingest").items():
            most[pid] = max(most.get(pid, 0.0), held - before.get(pid, held))
        await asyncio.wait([stored], timeout=0.1)
    await stored
    assert max(most.values()) < DRAIN_MB, f"a drain took {max(most.values()):.0f} MB more, above {DRAIN_MB:g}"


def _entry(
    stack: Stack, chance: random.Random, body: bytes, *, at: datetime | None = None
) -> tuple[str, dict[bytes, bytes]]:
    return entry(chance.choice(stack.endpoints()).tenant, body, at=at)


async def _until_stored(stack: Stack, ids: list[str]) -> None:
    began = time.monotonic()
    while True:
        (row,) = await stack.query("SELECT count(*) AS n FROM events WHERE id = ANY (%s::uuid[])", [ids])
        if row["n"] == len(ids):
            return
        assert time.monotonic() < began + PATIENCE, f"{row['n']} of {len(ids)} events were stored"
        await asyncio.sleep(0.1)
