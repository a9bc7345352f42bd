"""The tasks of housekeeping, which beat sends: sweeps, tallies, warnings, days. The steps themselves are elsewhere."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final
from uuid import UUID

from shared import refusals
from shared.identity import ForeignRedisError
from workers.app import app, settings
from workers.housekeeping import incidents as grouping
from workers.housekeeping import jobs, sweeper
from workers.process import LostRightError, SchemaMissingError
from workers.store import alerts, catalogue, deliveries, incidents, pauses, recovery
from workers.store.jobs import forget_jobs
from workers.store.partitions import drop_expired, ensure_partitions
from workers.store.stats import list_old_snapshots
from workers.store.tallies import roll_hours, roll_up
from workers.tasks.admission import admit_due
from workers.tasks.this_process import require_schema, tell_refusal, this_process

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

SWEEP_LIMIT_SECONDS: Final = 120
MOST_TOLD: Final = 20
"""Pauses that are logged each minute."""
KEEP_DAYS_LIMIT_SECONDS: Final = 600
"""After which a process of the pool hangs in its task and is killed. The next tick does what it left."""


@app.task(name="housekeeping.sweep", send_events=False, time_limit=SWEEP_LIMIT_SECONDS)
def sweep() -> None:
    """Pick up what fell between two steps; one that fails does not keep the next ones from being done.

    1. The doorbell, which needs no Postgres; while nothing waits, the tenants' shares of the inbox are free.
    2. The registry, if Redis does not hold the latest.
    3. Expired leases, then queued deliveries that no message will bring, or that wait in an express queue which
       nobody serves.
    4. Pauses whose time is over end.
    5. Deliveries of events that were stored before any handler was announced.
    6. Admission, which also makes due retries ready.
    """
    _do_each(
        _ring_for_what_waits,
        _publish,
        _expire_leases,
        _return_queued,
        _close_express_if_late,
        _end_pauses,
        _backfill,
        admit_due,
    )
    this_process().note_end("sweep")


@app.task(name="housekeeping.tally", send_events=False, time_limit=SWEEP_LIMIT_SECONDS)
def tally() -> None:
    """Roll up what was counted since the last time."""
    _do_each(_roll_up)


@app.task(name="housekeeping.group", send_events=False, time_limit=SWEEP_LIMIT_SECONDS)
def group() -> None:
    """Group what has failed into incidents, and tell of them."""
    _do_each(_group, _tell)


@app.task(name="housekeeping.work_on_jobs", send_events=False, time_limit=SWEEP_LIMIT_SECONDS)
def work_on_jobs() -> None:
    """Do some steps of the jobs that people have asked for."""
    _do_each(_work_on_jobs)


@app.task(name="housekeeping.warn", send_events=False, time_limit=SWEEP_LIMIT_SECONDS)
def warn() -> None:
    """Log what keeps deliveries waiting or slows sweeps: old snapshots, handlers that no worker runs, pauses."""
    with this_process().connections() as process:
        connection = process.postgres.connection
        for snapshot in list_old_snapshots(connection):
            log.warning("%s", snapshot, extra={"code": "old_snapshot"})
        for name in sorted({*recovery.list_ready_handlers(connection)} - process.live.read().handlers):
            extra = {"code": "no_worker", "handler": name}
            log.warning("deliveries of %s wait, and no live worker runs it: see `pipeline doctor`", name, extra=extra)
        for it in pauses.list_pauses(connection, most=MOST_TOLD):
            extra = {"code": "paused", "tenant": it.tenant, "handler": it.handler}
            log.info("paused %s", it, extra=extra)


@app.task(name="housekeeping.keep_days", time_limit=KEEP_DAYS_LIMIT_SECONDS)
def keep_days() -> None:
    """Make the partitions of the days ahead, drop those whose time is over, and forget drains that are gone.

    The marks of lanes are made anew, whatever may have made them wrong, or forgotten when they save nothing. Tallies of
    minutes are added to their hours. Old incidents and alerts are deleted.
    """
    _do_each(
        _make_days,
        _drop_days,
        _forget_drains,
        _renew_marks,
        _roll_hours,
        _forget_refusals,
        _forget_incidents,
        _forget_jobs,
    )
    this_process().note_end("keep_days")


def _do_each(*steps: Callable[[], object]) -> None:
    """Do every step, then raise the first error.

    Raises:
        Exception: of the first step that failed; the others are logged.
    """
    failures = []
    for step in steps:
        try:
            with this_process().connections():
                if step is not _ring_for_what_waits:  # which needs no Postgres
                    require_schema()
                step()
        except (SchemaMissingError, ForeignRedisError, LostRightError) as error:
            tell_refusal(error)
        except Exception as error:  # noqa: BLE001 - the first one is raised, whatever it is
            name = step.__name__.strip("_")
            extra = {"code": "housekeeping_failed", "step": name}
            log.error("the step %s failed: %s", name, error, extra=extra)  # noqa: TRY400 - the same
            failures.append(error)
    if failures:
        raise failures[0]


def _ring_for_what_waits() -> None:
    process = this_process()
    if any(process.inbox_redis.xlen(stream) for stream in process.names.streams):
        process.inbox.ring()
    else:
        # an ingress that died in a batch has counted entries that never came
        process.inbox_redis.delete(process.names.inbox_bytes)


def _publish() -> None:
    process = this_process()
    process.publisher.publish_if_stale(process.postgres.connection)


def _expire_leases() -> None:
    sweeper.expire_leases(this_process().postgres.connection)


def _return_queued() -> None:
    process = this_process()
    sweeper.return_queued(process.postgres.connection, list_named=process.queue.list_named)


def _end_pauses() -> None:
    ended = pauses.end_pauses(this_process().postgres.connection)
    if ended:
        log.info("%s pauses ended: their time was over", ended, extra={"code": "pauses_ended"})


def _close_express_if_late() -> None:
    process = this_process()
    if process.queue.is_express_stuck() and sweeper.is_express_late(
        process.postgres.connection, list_express=process.queue.list_express
    ):
        process.queue.close_express()


def _backfill() -> None:
    catalogue.backfill(this_process().postgres.connection)


def _make_days() -> None:
    ensure_partitions(this_process().postgres.connection, days_back=settings.retention_days)


def _drop_days() -> None:
    drop_expired(
        this_process().postgres.connection, retention_days=settings.retention_days, dedup_days=settings.dedup_days
    )


def _forget_drains() -> None:
    this_process().inbox.forget_idle_consumers()


def _roll_up() -> None:
    roll_up(this_process().postgres.connection)


def _work_on_jobs() -> None:
    jobs.work(this_process().postgres.connection)


def _forget_jobs() -> None:
    forget_jobs(this_process().postgres.connection, days=settings.retention_days)


def _roll_hours() -> None:
    roll_hours(this_process().postgres.connection, retention_days=settings.retention_days)


def _forget_refusals() -> None:
    process = this_process()
    refusals.forget_old(process.inbox_redis, process.names.refusals)


def _group() -> None:
    process = this_process()
    grouping.group(
        process.postgres.connection,
        read_refused=lambda: refusals.read(process.inbox_redis, process.names.refusals),
        quiet_seconds=settings.incident_quiet_seconds,
    )


def _tell() -> None:
    process = this_process()
    process.alerter.notify(process.postgres.connection)


def _forget_incidents() -> None:
    connection = this_process().postgres.connection
    incidents.drop_old(connection, retention_days=settings.retention_days)
    alerts.drop_old(connection)


def _renew_marks() -> None:
    deliveries.renew_marks(this_process().postgres.connection)


@app.task(name="housekeeping.disown", send_events=False, time_limit=SWEEP_LIMIT_SECONDS)
def disown(handler: str, argument: list[str], worker: str) -> None:
    """Have deliveries tried elsewhere that came to a worker which does not know their handler."""
    event_ids = [UUID(text.rpartition("/")[2]) for text in argument]
    with this_process().connections() as process:
        sweeper.disown(process.postgres.connection, handler, event_ids, worker=worker)
