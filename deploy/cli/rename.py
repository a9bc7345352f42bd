"""The command `pipeline rename`: gives the names in Redis another prefix while everything runs."""

import os
import sys
import time
import uuid
from datetime import timedelta
from typing import Annotated, Any, Final

import redis
import typer

from deploy.cli.arguments import duration
from deploy.cli.connections import broker_client, database, environment, inbox_client, names
from deploy.cli.errors import CommandError
from deploy.cli.output import say
from shared.identity import claim
from shared.settings import redis_prefix
from shared.wire import EXPRESS_QUEUE, HANDLERS_QUEUE, HOUSEKEEPING_QUEUE, INGEST_QUEUE, Names
from workers.housekeeping.publishing import Publisher, published_version
from workers.ingest.inbox_reader import InboxReader
from workers.store.identity import read_identity

IDLE_SECONDS: Final = 10.0
"""Idle time after which an entry counts as left by a drain that died."""
BATCH: Final = 1000
EVERY_SECONDS: Final = 0.1
TELL_SECONDS: Final = 10.0

_APPEND: Final = """#!lua flags=allow-oom
return redis.call('XADD', KEYS[1], '*', unpack(ARGV))
"""
"""Lua, because a full Redis takes no XADD by itself; the room comes back when the original is acknowledged."""
_FORGET: Final = """
if redis.call('XLEN', KEYS[1]) + redis.call('XLEN', KEYS[2]) > 0 then return 0 end
redis.call('DEL', unpack(KEYS))
return 1
"""
"""KEYS both streams, then other names of the inbox. Returns 1 if they are gone, 0 if an event has come meanwhile."""


def rename(
    *,
    former_prefix: Annotated[
        str, typer.Option("--from", metavar="PREFIX", help="The prefix so far; none by default.", parser=redis_prefix)
    ] = "",
    quiet: Annotated[
        timedelta, typer.Option(parser=duration, metavar="TIME", help="How long nobody must have used the old names.")
    ] = "10s",  # type: ignore[assignment] # a text, for the parser
) -> None:
    """Move events from the old names in Redis to those of REDIS_PREFIX, until nobody uses the old ones any more.

    Set the new REDIS_PREFIX for every process, restart the workers, start this command with it, then restart the
    ingress, one after the other. It ends by itself, and can be interrupted and run again at any time. To go back, swap
    the two prefixes.
    """
    new, old = names(), Names(former_prefix)
    if new.prefix == old.prefix:
        raise CommandError(f"REDIS_PREFIX is {new.prefix or 'empty'}, as --from is: set it to the new prefix")
    with inbox_client() as client, broker_client() as broker:
        if published_version(client, old) is None and not client.exists(*old.streams):
            say({"moved": 0}, "nothing to move: the old names do not exist")
            return
        with database() as connection:
            own = read_identity(connection, environment())
            for server in (client, broker):
                claim(server, old, own)
                claim(server, new, own)
            Publisher(client, new, environment=environment()).publish(connection)
        moved = _move_until_quiet(client, broker, old, new, quiet.total_seconds())
    say({"moved": moved}, f"{moved} events moved; nobody uses the old names, and they are gone")


def _move_until_quiet(client: redis.Redis, broker: redis.Redis, old: Names, new: Names, quiet_seconds: float) -> int:
    """Move what comes; return how many events it were, when the old names are unused and removed."""
    source, target = (
        InboxReader(client, broker=broker, names=each, consumer=f"rename:{os.getpid()}:{uuid.uuid4().hex}")
        for each in (old, new)
    )
    streams = {old.inbox: new.inbox, old.overflow: new.overflow}
    moved, last_moved, last_told = 0, time.monotonic(), float("-inf")
    while True:
        count, now = _move(client, source, target, streams), time.monotonic()
        moved, last_moved = moved + count, now if count else last_moved
        is_quiet = now - last_moved >= quiet_seconds and _unused_seconds(client, old) >= quiet_seconds
        if is_quiet and client.eval(_FORGET, len(_at_inbox(old)), *_at_inbox(old)):
            broker.delete(*_at_broker(old))
            return moved
        if now - last_told >= TELL_SECONDS:
            print(f"pipeline: {moved} events moved; waiting until no process uses the old names", file=sys.stderr)
            last_told = now
        if count < BATCH:
            time.sleep(EVERY_SECONDS)


def _move(client: redis.Redis, source: InboxReader, target: InboxReader, streams: dict[str, str]) -> int:
    """Move entries that no living drain holds, and ring; one that is moved twice is stored once."""
    idle = source.list_idle(idle_seconds=IDLE_SECONDS, count=BATCH)
    entries = [*source.take_over(idle, idle_seconds=IDLE_SECONDS), *source.read(BATCH)]
    if entries:
        with client.pipeline(transaction=False) as pipeline:
            for entry in entries:
                flat = [part for pair in entry.fields.items() for part in pair]
                pipeline.eval(_APPEND, 1, streams[entry.place.stream], *flat)
            pipeline.execute()
        source.acknowledge(entries)
        target.ring()
    return len(entries)


def _unused_seconds(client: redis.Redis, old: Names) -> float:
    """Return since when no ingress and no sweeper has read the old registry, as they all do several times a second."""
    idle: Any = client.object("idletime", old.registry)
    return float("inf") if idle is None else float(idle)


def _at_inbox(old: Names) -> tuple[str, ...]:
    """Return the names at the inbox, the streams first."""
    return (
        *(*old.streams, old.registry, old.identity, old.bell, old.inbox_bytes, old.inbox_rates, old.active_tenants),
        *(old.refusals, old.live_ingresses),
    )


def _at_broker(old: Names) -> tuple[str, ...]:
    """Return the names at the broker; `unacked` may be another app's too, and is left to kombu."""
    queues = (INGEST_QUEUE, HANDLERS_QUEUE, EXPRESS_QUEUE, HOUSEKEEPING_QUEUE)
    return (
        *(old.tasks_ended, old.handler_means, old.express_closed, old.live_workers, old.live_handlers),
        *(old.seen_workers, old.worker_activity, old.identity, old.bell),
        *(f"{old.prefix}{queue}" for queue in queues),
    )
