"""The first page: what comes in and is done, what waits and for how long, what is wrong, and who works."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import redis
from starlette.responses import Response

from deploy.console.rendering import command_line
from deploy.console.rules import Rule
from deploy.console.visit import InputError, Visit
from deploy.exporter.redis_figures import OLDEST
from shared import wire
from workers.seen_workers import SeenWorker, read_seen
from workers.store import activity, figures, incidents, pauses

DUTIES: Final = (wire.INGEST_QUEUE, wire.HANDLERS_QUEUE, wire.EXPRESS_QUEUE, wire.HOUSEKEEPING_QUEUE)
SPANS: Final = ("hour", "day")
HOUR_MINUTES: Final = 60
PAUSES_SHOWN: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What waits to be stored: how many entries, and since when the oldest (seconds; None where there is none)."""

    name: str
    entries: int
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """The workers of a queue; `fetched_seconds`: since one with a free slot took a message last."""

    name: str
    live: int
    lost: int
    slots: int
    busy: int
    fetched_seconds: float | None


def show(visit: Visit) -> Response:
    """Show how things stand."""
    span = visit.given("span") or "hour"
    if span not in SPANS:
        raise InputError(f"no span {span[:20]!r}: take hour or day")
    connection, doctor = visit.connection, visit.console.doctor
    points = (
        activity.read_minutes(connection, minutes=HOUR_MINUTES)
        if span == "hour"
        else activity.read_hours(connection, hours=24)
    )
    streams, duties, away = _read_redis(visit)
    paused = pauses.list_pauses(connection, most=PAUSES_SHOWN + 1)
    return visit.page(
        "now",
        title="Now",
        span=span,
        points=points[:-1],  # the minute that runs would look like a fall
        last=points[-2],
        latency=activity.read_latency(connection),
        work=figures.read_open_work(connection),
        bound=figures.BOUND,
        kept=figures.count_kept(connection),
        incidents=incidents.list_incidents(connection, state="open", subject=None, tenant=None, limit=10),
        open_incidents=incidents.count_open(connection),
        paused=paused[:PAUSES_SHOWN],
        more_paused=len(paused) > PAUSES_SHOWN,
        streams=streams,
        duties=duties,
        away=away,
        findings=[it for it in doctor.findings if it.state != "ok"],
        looked_at=doctor.looked_at,
        command=command_line("stats"),
        live=True,
    )


def show_doctor(visit: Visit) -> Response:
    """Show all that the doctor has found."""
    doctor = visit.console.doctor
    return visit.page(
        "doctor",
        title="Doctor",
        findings=doctor.findings,
        looked_at=doctor.looked_at,
        command="pipeline doctor",
        live=True,
    )


def _read_redis(visit: Visit) -> tuple[list[Stream], list[Duty], str]:
    """Return what waits in the inbox, who works, and why that is not known, if so."""
    console = visit.console
    names = {"inbox": console.names.inbox, "overflow": console.names.overflow}
    try:
        with console.inbox_breaker.asking():
            pipeline = console.inbox.pipeline(transaction=False)
            pipeline.time()
            for stream in names.values():
                pipeline.xlen(stream)
                pipeline.eval_ro(OLDEST, 1, stream)
            (seconds, micros), *found = pipeline.execute()
        now = seconds + micros / 1e6
        streams = [
            Stream(name=name, entries=length, oldest_seconds=_age(oldest, now))
            for name, length, oldest in zip(names, found[::2], found[1::2], strict=True)
        ]
        with console.broker_breaker.asking():
            seen = read_seen(console.broker, console.names)
    except redis.RedisError as error:
        return [], [], f"Redis does not answer: {type(error).__name__}"
    return streams, [_duty(name, seen) for name in DUTIES], ""


def _age(entry_id: bytes | None, now: float) -> float | None:
    return max(0.0, now - int(entry_id.partition(b"-")[0]) / 1000) if entry_id else None


def _duty(name: str, seen: Sequence[SeenWorker]) -> Duty:
    workers = [it for it in seen if name in it.activity.duties]
    live = [it.activity for it in workers if not it.is_lost]
    free = [it.fetched_seconds for it in live if it.busy < it.slots]
    return Duty(
        name=name,
        live=len(live),
        lost=len(workers) - len(live),
        slots=sum(it.slots for it in live),
        busy=sum(min(it.busy, it.slots) for it in live),
        fetched_seconds=min(free, default=None),
    )


RULES: Final = (
    Rule(method="GET", path="/", role="viewer", page=show),
    Rule(method="GET", path="/doctor", role="viewer", page=show_doctor),
)
ACTIONS: Final = ()
