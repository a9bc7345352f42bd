"""The command `pipeline stats`: where work is at this moment."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from deploy.cli.output import AsJson, emit
from deploy.cli.servers import database, redis_client
from deploy.local.settings import RetentionSettings
from shared.settings import load
from shared.wire import EXPRESS_QUEUE, HANDLERS_QUEUE, INBOX, OVERFLOW
from workers.housekeeping import publishing
from workers.store import tenants
from workers.store.partitions import DAYS_AHEAD
from workers.store.stats import (
    BOUND,
    RECEIVED_BOUND,
    count_received,
    count_rejected,
    list_old_snapshots,
    read_days,
    read_load,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from workers.store.stats import Days, Load

_READ_SECONDS: Final = 30
_COUNTS: Final = ("pending", "retrying", "queued", "running", "dead")


def stats(*, as_json: AsJson = False) -> None:
    """Show what waits where: the inbox, the deliveries of each tenant, what came in lately, the registry.

    Deliveries: pending are due, retrying wait for their next attempt, queued are with Celery.
    Counting stops at a bound, shown as 10000+; nothing scans history.
    """
    with redis_client() as client:
        found = _read_redis(client)
    with database(read_seconds=_READ_SECONDS) as connection:
        for name, window in (("minute", timedelta(minutes=1)), ("hour", timedelta(hours=1))):
            found[f"stored_last_{name}"] = count_received(connection, window)
            found[f"rejected_last_{name}"] = count_rejected(connection, window)
        found["registry_version"] = tenants.registry_version(connection)
        days = read_days(connection)
        found |= {"oldest_day": days.oldest, "newest_day": days.newest}
        work = read_load(connection)
        snapshots = list_old_snapshots(connection)
        found["old_snapshots"] = [asdict(it) for it in snapshots]
    if as_json:
        emit([found, *(describe(it) for it in work)], as_json=True, columns=[])
        return
    _print(found)
    for line in _about_days(days):
        print(f"days       {line}")
    for snapshot in snapshots:
        print(f"postgres   {snapshot}")
    if work:
        print()
        rows = ({name: _bounded(value, BOUND) for name, value in describe(it).items()} for it in work)
        emit(rows, as_json=False, columns=["tenant", *_COUNTS, "oldest_seconds", "waits_for"])


def describe(load: Load) -> dict[str, Any]:
    """Return a tenant's work by column, with what it waits for in words."""
    oldest = load.oldest_seconds
    return asdict(load) | {
        "oldest_seconds": None if oldest is None else round(max(0.0, oldest), 1),
        "waits_for": load.waits_for,
    }


def _read_redis(client: redis.Redis) -> dict[str, Any]:
    """Return what Redis holds: the inbox and its oldest entry's age, Celery's messages, the published registry."""
    return {
        "inbox_length": client.xlen(INBOX),
        "inbox_oldest_seconds": _oldest_seconds(client, INBOX),
        "overflow_length": client.xlen(OVERFLOW),
        "overflow_oldest_seconds": _oldest_seconds(client, OVERFLOW),
        "handler_messages": client.llen(HANDLERS_QUEUE),
        "express_messages": client.llen(EXPRESS_QUEUE),
        "registry_published": publishing.published_version(client),
    }


def _oldest_seconds(client: redis.Redis, stream: str) -> float | None:
    oldest: Any = client.xrange(stream, count=1)
    if not oldest:
        return None
    stream_id = oldest[0][0]
    return round(max(0.0, time.time() - int(stream_id.partition(b"-")[0]) / 1000), 3)


def _print(found: dict[str, Any]) -> None:
    for name in ("inbox", "overflow"):
        length, age = found[f"{name}_length"], found[f"{name}_oldest_seconds"]
        if length or name == "inbox":
            print(f"{name:10} {length} waiting{'' if age is None else f', the oldest for {age:.1f} s'}")
    for name in ("minute", "hour"):
        stored, rejected = found[f"stored_last_{name}"], found[f"rejected_last_{name}"]
        bound = RECEIVED_BOUND
        print(f"last {name:6} {_bounded(stored, bound)} stored, {_bounded(rejected, bound)} of them rejected")
    print(f"queues     {found['handler_messages']} messages for handlers, {found['express_messages']} express")
    published, version = found["registry_published"], found["registry_version"]
    if published is None:
        state = "not published: the sweeper does it within seconds, if it runs"
    elif published < version:
        state = "a newer one waits: the sweeper publishes it within seconds, if it runs"
    elif published > version:
        state = "Redis holds a newer one than Postgres (restored?): the sweeper publishes it again, if it runs"
    else:
        state = "published"
    print(f"registry   {state}")


def _about_days(days: Days) -> Iterator[str]:
    """Yield which days have tables, and what is wrong with them.

    The housekeeping worker makes the tables of a week ahead and drops what is older than RETENTION_DAYS.
    """
    yield f"{days.oldest} to {days.newest}"
    why = (
        "does the housekeeping worker run, and does its role own the tables? `pipeline migrate` as their owner mends it"
    )
    ahead = -1 if days.newest is None else (days.newest - days.today).days
    if ahead < DAYS_AHEAD - 1:
        yield f"tables of the coming days are missing, there are {max(0, ahead)} of {DAYS_AHEAD}: {why}"
    kept = load(RetentionSettings).retention_days
    if days.oldest is not None and (late := (days.today - days.oldest).days - kept) > 1:
        yield f"retention is {late} days late (RETENTION_DAYS is {kept} here): has that day open deliveries? {why}"


def _bounded(value: Any, bound: int) -> Any:
    return f"{bound}+" if isinstance(value, int) and value >= bound else value
