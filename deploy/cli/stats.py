"""The command `pipeline stats`: where work is at this moment."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import redis
import typer

from deploy.cli.connections import broker_client, database, inbox_client, names
from deploy.cli.errors import explain
from deploy.cli.output import console, emit, wants_json
from deploy.local.settings import RetentionSettings
from shared import refusals
from shared.settings import load
from shared.wire import Names
from workers.housekeeping import publishing
from workers.live_workers import read_live
from workers.store import incidents, pauses, tenants
from workers.store import stats as store
from workers.store.connect import Connection
from workers.store.limits import ANY
from workers.store.partitions import DAYS_AHEAD
from workers.store.pauses import Pause

WATCH_SECONDS: Final = 2.0
IDLE_SHOWN: Final = 20
REFUSED_SHOWN: Final = 10
PAUSED_SHOWN: Final = 10


@dataclass(slots=True, kw_only=True)
class Figures:
    """What could be reached; `missing` has a line for each server that could not."""

    redis: dict[str, Any] = field(default_factory=dict)
    postgres: dict[str, Any] = field(default_factory=dict)
    received: dict[str, tuple[datetime, store.Received]] = field(default_factory=dict)
    """Since the beginning of the last minute, and of the minute an hour ago."""
    days: store.Days | None = None
    snapshots: list[store.OldSnapshot] = field(default_factory=list)
    work: list[store.Load] = field(default_factory=list)
    handlers: list[store.HandlerLoad] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    refused: list[refusals.Refused] = field(default_factory=list)
    incidents: int = 0
    paused: list[Pause] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @contextmanager
    def reach(self) -> Iterator[None]:
        """Note why a server cannot be read, instead of ending the command."""
        try:
            yield
        except Exception as error:
            line = explain(error)
            if line is None:
                raise
            self.missing.append(line)


def stats(
    *, watch: Annotated[bool, typer.Option("--watch", help="Show them again every two seconds, until Ctrl-C.")] = False
) -> None:
    """Show what waits where: inbox, deliveries of each tenant and handler, what came in or is refused, the registry.

    Deliveries: pending are due, retrying wait for their next attempt, queued are with Celery.
    Counting stops at a bound, shown as 10000+; nothing scans history.
    What cannot be reached is said in a line, with status 1 after the rest is shown.
    """
    figures = _read()
    _show(figures)
    with suppress(KeyboardInterrupt):
        while watch:
            time.sleep(WATCH_SECONDS)
            figures = _read()
            if sys.stdout.isatty() and not wants_json():
                console().clear()
            elif not wants_json():
                print()
            _show(figures)
    if figures.missing:
        sys.exit(1)


def _read() -> Figures:
    figures = Figures()
    with figures.reach(), inbox_client() as client, broker_client() as broker:
        figures.redis = _read_redis(client, broker, names())
        figures.refused = refusals.read(client, names().refusals)
        figures.redis["refused"] = [asdict(it) for it in figures.refused]
    with figures.reach(), database(read_only=True) as connection:
        _read_postgres(connection, figures)
    return figures


def _read_redis(client: redis.Redis, broker: redis.Redis, named: Names) -> dict[str, Any]:
    """Return what Redis holds: the inbox and its oldest entry's age, Celery's messages, live workers, the registry."""
    live = read_live(broker, named)
    return {
        "handler_slots": live.handler_slots,
        "express_slots": live.express_slots,
        "live_handlers": sorted(live.handlers),
        "inbox_length": client.xlen(named.inbox),
        "inbox_oldest_seconds": _oldest_seconds(client, named.inbox),
        "overflow_length": client.xlen(named.overflow),
        "overflow_oldest_seconds": _oldest_seconds(client, named.overflow),
        "handler_messages": broker.llen(named.handlers_queue),
        "express_messages": broker.llen(named.express_queue),
        "registry_published": publishing.published_version(client, named),
    }


def _read_postgres(connection: Connection, figures: Figures) -> None:
    found: dict[str, Any] = {}
    minute = datetime.now(UTC).replace(second=0, microsecond=0)
    for name, since in (("minute", minute - timedelta(minutes=1)), ("hour", minute - timedelta(hours=1))):
        figures.received[name] = (since, received := store.count_received(connection, since=since))
        found |= {f"stored_last_{name}": received.stored, f"rejected_last_{name}": received.rejected}
    found["registry_version"] = tenants.registry_version(connection)
    found["open_incidents"] = figures.incidents = incidents.count_open(connection)
    figures.paused = pauses.list_pauses(connection)
    found["paused"] = [asdict(it) for it in figures.paused]
    days = figures.days = store.read_days(connection)
    found |= {"oldest_day": days.oldest, "newest_day": days.newest}
    figures.snapshots = store.list_old_snapshots(connection)
    found["old_snapshots"] = [asdict(it) for it in figures.snapshots]
    figures.work = store.read_load(connection)
    figures.handlers = store.read_handler_load(connection)
    if len(figures.work) < store.TENANTS_SHOWN:
        busy = {it.tenant for it in figures.work}
        figures.idle = [it.name for it in tenants.list_tenants(connection) if it.name not in busy]
    figures.postgres = found | {"tenants_without_work": figures.idle}


def _oldest_seconds(client: redis.Redis, stream: str) -> float | None:
    oldest: Any = client.xrange(stream, count=1)
    if not oldest:
        return None
    milliseconds, _, _ = oldest[0][0].partition(b"-")
    return round(max(0.0, time.time() - int(milliseconds) / 1000), 3)


def _show(figures: Figures) -> None:
    """Print the figures, and on standard error what is missing."""
    live = figures.redis.get("live_handlers")
    work = [asdict(it) | {"waits_for": it.waits_for(live)} for it in figures.work]
    if wants_json():
        emit([figures.redis | figures.postgres | {"missing": figures.missing}, *work, *figures.handlers])
    else:
        for line in (*_about_inbox(figures.redis), *_about_refused(figures.refused), *_about_postgres(figures)):
            print(line)
        if work:
            print()
            columns = ("pending", "retrying", "queued", "running", "dead", "oldest_seconds", "waits_for")
            emit(work, "tenant", *columns, shown=_shown)
        if figures.handlers:
            print()
            emit(figures.handlers, "handler", "retrying", "queued", "running", "dead", "top_error", shown=_shown)
    sys.stdout.flush()
    for line in figures.missing:
        print(f"pipeline: {line}", file=sys.stderr)


def _about_inbox(found: dict[str, Any]) -> Iterator[str]:
    if not found:
        return
    for name in ("inbox", "overflow"):
        length, age = found[f"{name}_length"], found[f"{name}_oldest_seconds"]
        if length or name == "inbox":
            yield f"{name:10} {length} waiting{'' if age is None else f', the oldest for {age:.1f} s'}"
    yield f"queues     {found['handler_messages']} messages for handlers, {found['express_messages']} express"
    slots = f"{found['handler_slots']} processes for handlers, {found['express_slots']} express"
    yield f"workers    {slots}{'' if found['handler_slots'] else ': what is due waits for handler workers'}"


def _about_refused(refused: Sequence[refusals.Refused]) -> Iterator[str]:
    for it in refused[:REFUSED_SHOWN]:
        since, last = (f"{datetime.fromtimestamp(at, UTC):%H:%M}" for at in (it.first_at, it.last_at))
        where = f"{it.tenant}/{it.provider}"
        yield f"refused    {where} gets {it.code} since {since} UTC, {it.count} times, last at {last}"
    if (others := len(refused) - REFUSED_SHOWN) > 0:
        yield f"refused    and {others} more"


def _about_postgres(figures: Figures) -> Iterator[str]:
    found = figures.postgres
    if not found or figures.days is None:
        return
    for since, received in figures.received.values():
        more = "+" if received.is_bounded else ""
        yield f"since {since:%H:%M} {received.stored}{more} stored, {received.rejected}{more} of them rejected"
    if figures.redis:
        yield f"registry   {_about_registry(figures.redis['registry_published'], found['registry_version'])}"
    for line in _about_days(figures.days):
        yield f"days       {line}"
    for it in figures.paused[:PAUSED_SHOWN]:
        what = it.tenant if it.handler == ANY else it.handler + ("" if it.tenant == ANY else f" for {it.tenant}")
        yield f"paused     {what} {it}"
    if (others := len(figures.paused) - PAUSED_SHOWN) > 0:
        yield f"paused     and {others} more"
    if figures.incidents:
        yield f"incidents  {figures.incidents} open: pipeline incidents list"
    for snapshot in figures.snapshots:
        yield f"postgres   {snapshot}"
    if figures.idle:
        others = len(figures.idle) - IDLE_SHOWN
        more = f" and {others} more" if others > 0 else ""
        yield f"no work    {', '.join(figures.idle[:IDLE_SHOWN])}{more}"


def _about_registry(published: int | None, version: int) -> str:
    if published is None:
        return "not published: the sweeper does it within seconds, if it runs"
    if published < version:
        return "a newer one waits: the sweeper publishes it within seconds, if it runs"
    if published > version:
        return "Redis holds a newer one than Postgres (restored?): the sweeper publishes it again, if it runs"
    return "published"


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
        yield (
            f"retention is {late} days late (RETENTION_DAYS is {kept} here): has that day open deliveries, or events "
            f"that were stored late? {why}"
        )


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for the table: what reached the bound has a plus, an error says how many have its kind."""
    shown = {name: _bounded(it, store.BOUND) for name, it in row.items()}
    if row.get("top_error"):
        shown["top_error"] = f"{row['top_error']} ({row['top_error_count']} of {row['retrying'] + row['dead']})"
    return shown


def _bounded(value: Any, bound: int) -> Any:
    return f"{bound}+" if isinstance(value, int) and value >= bound else value
