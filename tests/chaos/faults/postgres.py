"""What happens to Postgres."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from zlib import crc32

import psycopg

from tests.chaos.client import Connection, post, signature
from tests.chaos.faults import Missed, fault
from tests.moveris import completed

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator

    from tests.chaos.faults import Inject
    from tests.chaos.stack import Stack

GATE = 77_001
"""Advisory lock at which a trigger holds a transaction."""


@fault("kill-postgres", "immediate shutdown of Postgres, started again at once")
async def kill_postgres(stack: Stack, chance: random.Random) -> None:
    """Like a crash: it recovers from its log."""
    del chance
    await stack.postgres.restart(signal.SIGQUIT)


@fault("restart-postgres", "fast shutdown of Postgres, away for up to 4 s")
async def restart_postgres(stack: Stack, chance: random.Random) -> None:
    """All sessions end."""
    await stack.postgres.restart(signal.SIGINT, down=chance.uniform(0, 4))


@fault("postgres-refuses", "Postgres ends all connections and refuses new ones for 4 s", mixes=False)
async def refuse_connections(stack: Stack, chance: random.Random) -> None:
    """The server runs and says no."""
    del chance
    async with await stack.connect("template1") as connection:
        await connection.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS false")
        try:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'postgres'"
            )
            await asyncio.sleep(4)
        finally:
            await connection.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS true")


@fault("postgres-read-only", "Postgres is read-only for every session, old and new, for 4 s", mixes=False)
async def make_read_only(stack: Stack, chance: random.Random) -> None:
    """As a former primary is after a switchover: connections stay alive, `SELECT 1` passes, no write does."""
    del chance
    async with await stack.connect() as connection:
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        try:
            await connection.execute("SELECT pg_reload_conf()")
            await asyncio.sleep(4)
        finally:
            await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await connection.execute("SELECT pg_reload_conf()")


@fault("postgres-cut", "all connections of Postgres ended, several times")
async def cut_connections(stack: Stack, chance: random.Random) -> None:
    """Three times within a second."""
    del chance
    for _ in range(3):
        await stack.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = 'postgres' AND application_name <> 'chaos' AND pid <> pg_backend_pid()"
        )
        await asyncio.sleep(0.3)


def locks(table: str) -> Inject:
    async def inject(stack: Stack, chance: random.Random) -> None:
        del chance
        try:
            async with await stack.connect() as connection, connection.transaction():
                await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                await asyncio.sleep(4)
        except psycopg.OperationalError as error:
            raise Missed(f"{table} was not locked for 4 s: {error}") from error

    return inject


fault("postgres-lock-receipts", "a lock that every drain waits for, 4 s")(locks("receipts"))
fault("postgres-lock-deliveries", "a lock that every claim and outcome waits for, 4 s")(locks("deliveries"))


@asynccontextmanager
async def trigger(stack: Stack, table: str, body: str, *, each: str = "STATEMENT") -> AsyncIterator[None]:
    """Run something before every insert into a table, until the block ends; several may stand side by side."""
    name = f"chaos_{crc32(body.encode())}"
    await stack.query(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$"
    )
    await stack.query(
        f"CREATE OR REPLACE TRIGGER {name} BEFORE INSERT ON {table} FOR EACH {each} EXECUTE FUNCTION {name}()"
    )
    try:
        yield
    finally:
        await stack.query(f"DROP TRIGGER IF EXISTS {name} ON {table}")


def raises(table: str, state: str, seconds: float) -> Inject:
    async def inject(stack: Stack, chance: random.Random) -> None:
        del chance
        async with trigger(stack, table, f"RAISE EXCEPTION 'injected' USING ERRCODE = '{state}';"):
            await asyncio.sleep(seconds)

    return inject


fault("postgres-disk-full", "every insert of an event fails with disk full (53100), 4 s")(raises("events", "53100", 4))
fault("postgres-serialization", "every insert of an event fails with a serialization failure (40001), 2 s")(
    raises("events", "40001", 2)
)
fault("postgres-done-fails", "no outcome can be recorded (53100), 4 s")(raises("deliveries_done", "53100", 4))


@fault("postgres-deadlock", "a real deadlock between a drain and somebody else, which the drain loses", mixes=False)
async def deadlock(stack: Stack, chance: random.Random) -> None:
    """Hold what the drain will want, then want what it holds: Postgres ends the one that has waited a second first."""
    hold = f"PERFORM pg_advisory_xact_lock_shared({GATE});"
    async with trigger(stack, "events", hold):
        for _ in range(5):  # now and then it is we who lose
            async with await stack.connect() as connection:
                await connection.execute("SELECT pg_advisory_lock(%s)", [GATE])
                await send_one(stack, chance, f"deadlock-{chance.random()}")
                await _wait_for_a_drain_at(stack, GATE)
                with suppress(psycopg.errors.DeadlockDetected):
                    async with connection.transaction():
                        await connection.execute("LOCK TABLE receipts IN ACCESS EXCLUSIVE MODE")
                    return
    raise Missed("no drain lost a deadlock")


async def _wait_for_a_drain_at(stack: Stack, gate: int) -> None:
    """Wait until somebody waits for an advisory lock."""
    waiting = "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
    for _ in range(1000):
        (row,) = await stack.query(waiting, [gate])
        if row["n"]:
            return
        await asyncio.sleep(0.02)
    raise Missed("no drain came to the gate")


@fault("postgres-refuses-row", "rows that Postgres refuses (23514), among others that it takes", mixes=False)
async def refuse_rows(stack: Stack, chance: random.Random) -> None:
    """Events of certain sessions are refused as long as they are accepted ones; they must end as rejected."""
    body = "IF NEW.state = 'accepted' AND NEW.subject LIKE 'refused-%' THEN"
    body += " RAISE EXCEPTION 'injected' USING ERRCODE = '23514'; END IF;"
    async with trigger(stack, "events", body, each="ROW"):
        began = time.monotonic()
        ids = [await send_one(stack, chance, f"refused-{number}-{chance.random()}") for number in range(3)]
        found: list[dict[str, str]] = []
        while len(found) < len(ids):
            assert time.monotonic() < began + 30, f"after 30 s {len(ids) - len(found)} of them are still in the inbox"
            await asyncio.sleep(0.1)
            found = await stack.query("SELECT state, reject_reason FROM events WHERE id = ANY (%s::uuid[])", [ids])
        assert all(row["state"] == "rejected" and row["reject_reason"] for row in found), found
        await asyncio.sleep(max(0.0, began + 3 - time.monotonic()))


async def send_one(stack: Stack, chance: random.Random, session: str, *, port: int | None = None) -> str:
    """Post one event of a session, at one ingress if a port is given, until it is acknowledged; return its id."""
    endpoint = chance.choice([endpoint for endpoint in stack.endpoints() if port in (None, endpoint.port)])
    body = completed(session)
    connection = Connection(endpoint.port)
    for _ in range(100):
        answer = await connection.send(post(endpoint.path, body, signature(endpoint.secret, body)), seconds=5)
        if answer.status == 200:
            connection.close()
            return answer.body.decode()[7:43]
        await asyncio.sleep(0.1)
    raise Missed("no event was acknowledged")
