"""The command `pipeline stats`: where work is at this moment."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import redis

from deploy.cli.connections import database, redis_client
from deploy.cli.output import emit, wants_json
from deploy.local.settings import RetentionSettings
from shared.settings import load
from shared.wire import EXPRESS_QUEUE, HANDLERS_QUEUE, INBOX, OVERFLOW
from workers.housekeeping import publishing
from workers.store import stats as store
from workers.store import tenants
from workers.store.partitions import DAYS_AHEAD


def stats() -> None:
    """Show what waits where: the inbox, the deliveries of each tenant, what came in lately, the registry.

    Deliveries: pending are due, retrying wait for their next attempt, queued are with Celery.
    Counting stops at a bound, shown as 10000+; nothing scans history.
    """
    with redis_client() as client:
        found = _read_redis(client)
    with database(read_only=True) as connection:
        for name, window in (("minute", timedelta(minutes=1)), ("hour", timedelta(hours=1))):
            found[f"stored_last_{name}"] = store.count_received(connection, window)
            found[f"rejected_last_{name}"] = store.count_rejected(connection, window)
        found["registry_version"] = tenants.registry_version(connection)
        days = store.read_days(connection)
        found |= {"oldest_day": days.oldest, "newest_day": days.newest}
        work = [asdict(it) | {"waits_for": it.waits_for} for it in store.read_load(connection)]
        snapshots = store.list_old_snapshots(connection)
        found["old_snapshots"] = [asdict(it) for it in snapshots]
    if wants_json():
        emit([found, *work])
        return
    _print(found)
    for line in _about_days(days):
        print(f"days       {line}")
    for snapshot in snapshots:
        print(f"postgres   {snapshot}")
    if work:
        print()
        columns = ("pending", "retrying", "queued", "running", "dead", "oldest_seconds", "waits_for")
        emit(work, "tenant", *columns, shown=lambda row: {name: _bounded(it, store.BOUND) for name, it in row.items()})


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
    milliseconds, _, _ = oldest[0][0].partition(b"-")
    return round(max(0.0, time.time() - int(milliseconds) / 1000), 3)


def _print(found: dict[str, Any]) -> None:
    for name in ("inbox", "overflow"):
        length, age = found[f"{name}_length"], found[f"{name}_oldest_seconds"]
        if length or name == "inbox":
            print(f"{name:10} {length} waiting{'' if age is None else f', the oldest for {age:.1f} s'}")
    for name in ("minute", "hour"):
        stored, rejected = (_bounded(found[f"{it}_last_{name}"], store.RECEIVED_BOUND) for it in ("stored", "rejected"))
        print(f"last {name:6} {stored} stored, {rejected} of them rejected")
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


def _about_days(days: store.Days) -> Iterator[str]:
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
