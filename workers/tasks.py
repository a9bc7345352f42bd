"""The Celery tasks: the drain, one per handler, and those of housekeeping. The steps themselves are elsewhere.

Every task may run twice, or be lost, without harm. The task of a handler ends in RETRY or FAILURE, with the traceback,
when any of its deliveries did.
"""

from __future__ import annotations

import gc
import logging
import time
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from billiard.common import terminate_handler_fired
from celery import Task, signals
from celery.exceptions import Reject
from redis.exceptions import RedisError

from shared import wire
from shared.identity import ForeignRedisError
from shared.refusals import forget_old
from workers import heartbeat
from workers.announcer import Announcer, log_announced
from workers.app import app, settings
from workers.dispatch.admission import admit
from workers.dispatch.outcomes import hard_limit
from workers.dispatch.running import MessageRun
from workers.drain_timer import DrainTimer
from workers.failed_task import end_as_failed
from workers.housekeeping import sweeper
from workers.ingest.drain import drain
from workers.process import Process, SchemaMissingError
from workers.registration import Handlers, load
from workers.store import catalogue, deliveries, recovery
from workers.store.connect import UNREACHABLE
from workers.store.partitions import drop_expired, ensure_partitions
from workers.store.stats import list_old_snapshots
from workers.store.tallies import roll_hours, roll_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.registration import Handler

log = logging.getLogger(__name__)

REFUSAL_SECONDS: Final = 60.0
"""Between two lines about servers that this process can do nothing with."""
AWAY_SECONDS: Final = 1.0
"""Between two attempts at a message while Postgres is away."""
DRAIN_LIMIT_SECONDS: Final = 300
SWEEP_LIMIT_SECONDS: Final = 120
KEEP_DAYS_LIMIT_SECONDS: Final = 600
"""After which a process of the pool hangs in its task and is killed. What it held is taken up by the next one."""


_handlers = Handlers()


def _process() -> Process:
    return Process.of(settings, _handlers.on_process_start)


def _admit(*, wait: bool = True, express: bool = True, messages: int | None = None) -> int:
    """Top the queues of handlers up."""
    process = _process()
    live = process.live.read()
    return admit(
        process.postgres.connection,
        process.queue,
        slots=live.handler_slots,
        express_slots=live.express_slots,
        runnable=live.handlers,
        message_seconds=settings.message_seconds,
        wait=wait,
        express=express,
        messages=messages,
    )


def _admit_after_message(queue: str) -> None:
    """Top the queues up after a message of `handlers` or `express`.

    An admission that fills `handlers` takes tens of milliseconds, in which quiet tenants' messages would wait for the
    express worker. After one of those only one other is sent, for what waited for its end, such as the next of its
    subject; none while more of them wait, for the last one sees to it.
    """
    process = _process()
    waiting, waiting_express = process.queue.lengths()
    if waiting >= process.live.read().handler_slots:
        return
    if queue != wire.EXPRESS_QUEUE:
        _admit(wait=False)
    elif not waiting_express:
        _admit(wait=False, messages=1)


def _admit_if_redis_lets(has_overflowed: bool) -> None:  # noqa: FBT001 - of a callback
    """Top the queues up after a drain's commit; a Redis that is full must not keep the drain from making room."""
    try:
        with _process().connections():
            _admit(express=not has_overflowed)
    except RedisError as error:
        log.warning("no admission after a drain: %s", error, extra={"code": "admission_failed"})


def _make_handler_task(handler: Handler) -> None:
    """Register the Celery task of one handler, under the handler's name."""

    @app.task(
        bind=True,
        name=handler.name,
        time_limit=hard_limit(handler, message_seconds=settings.message_seconds),
        # A message that hits the hard limit is not sent again: the leases of its deliveries decide.
        acks_on_failure_or_timeout=True,
    )
    def run_message(task: Task, argument: list[str]) -> dict[str, int]:
        process = _process()
        if process.holds_errors:
            # An error and the frames of its traceback hold each other, with all that the handler had in hand, and so do
            # Celery's copies. Left to the collector's own pace, 20 minutes in which one attempt in a hundred failed
            # took a process from 42 MB to 100. The errors are let go of only now, when their task is over.
            gc.collect()
            process.holds_errors = False
        run = MessageRun(
            handler,
            postgres=process.postgres,
            session=process.session,
            loop=process.handler_loop,
            message_seconds=settings.message_seconds,
            is_terminating=terminate_handler_fired,
        )
        event_ids = [UUID(text.rpartition("/")[2]) for text in argument]
        try:
            with process.connections():
                _require_schema()
                run.run(event_ids)
        except SchemaMissingError as error:
            _tell_refusal(error)
            time.sleep(AWAY_SECONDS)
            return {"succeeded": 0, "fenced": 0}  # what it names is still queued: the sweeper finds it
        except UNREACHABLE as error:
            process.holds_errors = bool(run.failures)
            # The message stays: what it names and is still queued would else wait for the sweeper, seconds.
            time.sleep(AWAY_SECONDS)
            raise Reject(str(error), requeue=True) from error
        try:
            with process.connections():
                process.handler_durations.add(handler.name, run.durations)
                _admit_after_message((task.request.delivery_info or {}).get("routing_key", wire.HANDLERS_QUEUE))
        except (RedisError, *UNREACHABLE) as error:
            # Everything is recorded: the sweeper admits what waits.
            log.warning("no admission after a message: %s", error, extra={"code": "admission_failed"})
        if run.failures:
            process.holds_errors = True
            end_as_failed(run)
        return {"succeeded": run.succeeded, "fenced": run.fenced}


@signals.celeryd_init.connect
def _make_handler_tasks(**_: Any) -> None:
    """Make the tasks of the handlers that `workers.app` has loaded for this worker, if any."""
    global _handlers  # noqa: PLW0603 - of this process
    _handlers = load(())
    for handler in _handlers:
        _make_handler_task(handler)


def announce_handlers() -> bool:
    """Tell the catalogue what the handlers ask for, in a process of the pool, for `Announcer`; return if it is told."""
    try:
        with _process().connections() as process:
            done = process.announce(_handlers)
    except SchemaMissingError as error:
        _tell_refusal(error)
    except (RedisError, *UNREACHABLE) as error:
        log.warning("the handlers are not announced yet: %s", error, extra={"code": "not_announced"})
    else:
        log_announced(done)
        return True
    return False


class _Announcer(Announcer):
    redis_url = settings.redis_url
    names = wire.Names(settings.redis_prefix)
    list_handlers = staticmethod(lambda: _handlers)
    announce = staticmethod(announce_handlers)


app.steps["consumer"].add(_Announcer)


@app.task(name=wire.DRAIN_TASK, time_limit=DRAIN_LIMIT_SECONDS)
def drain_inbox() -> dict[str, int]:
    """Store what waits in the inbox; return the counts."""
    return _drain()


def drain_without_doorbell() -> None:
    """Do the same in a process of the pool, for `DrainTimer`."""
    try:
        counts = _drain()
    except (RedisError, *UNREACHABLE) as error:
        log.warning("a drain without a doorbell failed: %s", error, extra={"code": "drain_failed"})
    else:
        log.info("a drain without a doorbell: %s", counts)


class _DrainTimer(DrainTimer):
    redis_url = settings.redis_url
    names = wire.Names(settings.redis_prefix)
    drain = staticmethod(drain_without_doorbell)
    limit_seconds = DRAIN_LIMIT_SECONDS


app.steps["consumer"].add(_DrainTimer)


_refusal_told_at = float("-inf")


def _tell_refusal(error: SchemaMissingError | ForeignRedisError) -> None:
    """Log what a person must mend, at most once a minute: the sweeper runs every second."""
    global _refusal_told_at  # noqa: PLW0603 - of this process
    heartbeat.set_waiting(str(error))
    if time.monotonic() - _refusal_told_at >= REFUSAL_SECONDS:
        _refusal_told_at = time.monotonic()
        code = "schema_missing" if isinstance(error, SchemaMissingError) else "foreign_redis"
        log.error("%s", error, extra={"code": code})


def _drain() -> dict[str, int]:
    try:
        return _drain_inbox()
    except (SchemaMissingError, ForeignRedisError) as error:
        _tell_refusal(error)
        return {"stored": 0, "duplicates": 0, "rejected": 0}


def _require_schema() -> None:
    """See that this version can work with the database; `pipeline health` says so when it cannot."""
    if _process().require_schema():
        heartbeat.set_waiting("")


def _drain_inbox() -> dict[str, int]:
    with _process().connections() as process:
        _require_schema()
        counts = drain(
            process.inbox,
            process.postgres.connection,
            identity=process.identity,
            catalogue=process.catalogue,
            settings=settings,
            on_stored=_admit_if_redis_lets,
        )
        process.note_end("drain")
    return {"stored": counts.stored, "duplicates": counts.duplicates, "rejected": counts.rejected}


@app.task(name="housekeeping.sweep", send_events=False, time_limit=SWEEP_LIMIT_SECONDS)
def sweep() -> None:
    """Pick up what fell between two steps; one that fails does not keep the next ones from being done.

    1. The doorbell, which needs no Postgres; while nothing waits, the tenants' shares of the inbox are free.
    2. The registry, if Redis does not hold the latest.
    3. Expired leases, then queued deliveries that no message will bring, or that wait in an express queue which
       nobody serves.
    4. Deliveries of events that were stored before any handler was announced.
    5. Admission, which also makes due retries ready.
    """
    _do_each(_ring_for_what_waits, _publish, _expire_leases, _return_queued, _close_express_if_late, _backfill, _admit)
    _process().note_end("sweep")


@app.task(name="housekeeping.tally", send_events=False, time_limit=SWEEP_LIMIT_SECONDS)
def tally() -> None:
    """Roll up what was counted since the last time."""
    _do_each(_roll_up)


@app.task(name="housekeeping.warn", send_events=False, time_limit=SWEEP_LIMIT_SECONDS)
def warn() -> None:
    """Log which sessions have held a snapshot for long, and which handlers something waits for that no worker runs."""
    with _process().connections() as process:
        connection = process.postgres.connection
        for snapshot in list_old_snapshots(connection):
            log.warning("%s", snapshot, extra={"code": "old_snapshot"})
        for name in sorted({*recovery.list_ready_handlers(connection)} - process.live.read().handlers):
            extra = {"code": "no_worker", "handler": name}
            log.warning("deliveries of %s wait, and no live worker runs it: see `pipeline doctor`", name, extra=extra)


@app.task(name="housekeeping.keep_days", time_limit=KEEP_DAYS_LIMIT_SECONDS)
def keep_days() -> None:
    """Make the partitions of the days ahead, drop those whose time is over, and forget drains that are gone.

    The marks of lanes are made anew, whatever may have made them wrong, or forgotten when they save nothing. Tallies of
    minutes are added to their hours.
    """
    _do_each(_make_days, _drop_days, _forget_drains, _renew_marks, _roll_hours, _forget_refusals)
    _process().note_end("keep_days")


def _do_each(*steps: Callable[[], object]) -> None:
    """Do every step, then raise the first error.

    Raises:
        Exception: of the first step that failed; the others are logged.
    """
    failures = []
    for step in steps:
        try:
            with _process().connections():
                if step is not _ring_for_what_waits:  # which needs no Postgres
                    _require_schema()
                step()
        except (SchemaMissingError, ForeignRedisError) as error:
            _tell_refusal(error)
        except Exception as error:  # noqa: BLE001 - the first one is raised, whatever it is
            name = step.__name__.strip("_")
            extra = {"code": "housekeeping_failed", "step": name}
            log.error("the step %s failed: %s", name, error, extra=extra)  # noqa: TRY400 - the same
            failures.append(error)
    if failures:
        raise failures[0]


def _ring_for_what_waits() -> None:
    process = _process()
    if any(process.redis.xlen(stream) for stream in process.names.streams):
        process.inbox.ring()
    else:
        # an ingress that died in a batch has counted entries that never came
        process.redis.delete(process.names.inbox_bytes)


def _publish() -> None:
    process = _process()
    process.publisher.publish_if_stale(process.postgres.connection)


def _expire_leases() -> None:
    sweeper.expire_leases(_process().postgres.connection)


def _return_queued() -> None:
    process = _process()
    sweeper.return_queued(process.postgres.connection, list_named=process.queue.list_named)


def _close_express_if_late() -> None:
    process = _process()
    if process.queue.is_express_stuck() and sweeper.is_express_late(
        process.postgres.connection, list_express=process.queue.list_express
    ):
        process.queue.close_express()


def _backfill() -> None:
    catalogue.backfill(_process().postgres.connection)


def _make_days() -> None:
    ensure_partitions(_process().postgres.connection, days_back=settings.retention_days)


def _drop_days() -> None:
    drop_expired(_process().postgres.connection, retention_days=settings.retention_days, dedup_days=settings.dedup_days)


def _forget_drains() -> None:
    _process().inbox.forget_idle_consumers()


def _roll_up() -> None:
    roll_up(_process().postgres.connection)


def _roll_hours() -> None:
    roll_hours(_process().postgres.connection, retention_days=settings.retention_days)


def _forget_refusals() -> None:
    process = _process()
    forget_old(process.redis, process.names.refusals)


def _renew_marks() -> None:
    deliveries.renew_marks(_process().postgres.connection)


@app.task(name="housekeeping.disown", send_events=False, time_limit=SWEEP_LIMIT_SECONDS)
def disown(handler: str, argument: list[str], worker: str) -> None:
    """Have deliveries tried elsewhere that came to a worker which does not know their handler."""
    event_ids = [UUID(text.rpartition("/")[2]) for text in argument]
    with _process().connections() as process:
        sweeper.disown(process.postgres.connection, handler, event_ids, worker=worker)


@signals.task_unknown.connect
def _tell_unknown(sender: Any = None, name: str = "", message: Any = None, **_: Any) -> None:
    """Pass a message that this worker cannot run on to housekeeping; Celery itself would drop it."""
    try:
        (argument,) = message.decode()[0]
    except (ValueError, TypeError, AttributeError, IndexError):
        log.exception("a message of the unknown task %s cannot be read", name, extra={"code": "unknown_task"})
        return
    worker = str(getattr(sender, "hostname", sender))
    extra = {"handler": name, "code": "unknown_handler"}
    log.warning("this worker has no such handler: %d deliveries come again", len(argument), extra=extra)
    disown.apply_async(args=[name, argument, worker])
