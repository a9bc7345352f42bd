"""Works on the jobs of people in steps: a bounded number of rows, one transaction.

Any number of processes may work at the same time: a job is locked by the one that does its step. What a step did, and
where it stopped, commit together, so that a process may be killed at any moment. With Postgres away the job waits; any
other error of a step ends the job as failed, with that error.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from workers.ingest.reprocess import parse_again
from workers.store import jobs, manual
from workers.store.catalogue import Catalogue
from workers.store.connect import TIMED_OUT, UNREACHABLE, bounded
from workers.store.rejected import Narrowed, count_rejected, list_rejected, reprocess_event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from workers.store.connect import Connection
    from workers.store.jobs import Counts, Filter, Job, Kind
    from workers.store.rejected import Reprocessed

WORK_SECONDS: Final = 0.7
"""Of each second that housekeeping spends on jobs; its other ticks wait meanwhile."""
COUNT_SECONDS: Final = 2.0
"""After which counting what there is to do is given up."""
_EVENTS_PER_STEP: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """What came of one step.

    Attributes:
        can_go_on: whether another one may follow at once.
        outcomes: of the events that it has parsed again.
    """

    can_go_on: bool = False
    outcomes: Sequence[Reprocessed] = ()


def work(connection: Connection, *, seconds: float = WORK_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
    """Do steps of all running jobs in turn, until the time is over or none can go on at this moment."""
    ends = clock() + seconds
    can_go_on = True
    while can_go_on:
        can_go_on = False
        for job_id in jobs.list_waiting(connection):
            if clock() >= ends:
                return
            can_go_on |= work_on(connection, job_id).can_go_on


def work_on(connection: Connection, job_id: int) -> Worked:
    """Do one step of a job.

    1. Count what there is to do, unless that was tried.
    2. Lock the job. It may be over, paused, or another process may be doing a step.
    3. Do as much as its rate allows, at the most what fits one step, and note where it stopped.

    Args:
        connection: outside a transaction.
        job_id: of a job that need not exist.

    Raises:
        psycopg.OperationalError: Postgres is away; the job waits.
    """
    job = None
    try:
        with connection.transaction():
            job = jobs.lock(connection, job_id)
            if job is None or job.allowance < 1:
                return Worked()
            if job.is_counted:
                most = None if job.rate is None else int(job.allowance)
                return _STEPS[job.kind](connection, job, most)
        expected = count(connection, job.kind, job.filter, before=job.created_at, seconds=COUNT_SECONDS)
        jobs.note_count(connection, job.id, expected)
    except UNREACHABLE:
        raise
    except Exception as error:
        if job is None:
            raise
        jobs.fail(connection, job, f"{type(error).__name__}: {error}".splitlines()[0])
        return Worked()
    return Worked(can_go_on=True)


def count(connection: Connection, kind: Kind, chosen: Filter, *, before: datetime, seconds: float) -> int | None:
    """Count what a job that begins at this time has to do, or for a backfill to look at; None if that takes longer."""
    try:
        with bounded(connection, seconds):
            match kind:
                case "backfill":
                    times = _times(chosen, before)
                    return manual.count_events(connection, tenant=chosen.tenant, since=times[0], until=times[1])
                case "reprocess":
                    narrowed = _of_events(chosen)
                    return len(narrowed.event_ids or ()) if narrowed.is_a_list else count_rejected(connection, narrowed)
                case "retry" | "resend" | "cancel":
                    return manual.count_lanes(connection, kind, chosen).total()
    except TIMED_OUT:
        return None


def _retry(connection: Connection, job: Job, most: int | None) -> Worked:
    step = manual.retry_step(
        connection,
        job.filter,
        state=job.filter.state or "dead",
        before=job.created_at,
        after=_key(job, manual.RETRY_BEGINS),
        most=most,
    )
    return _note(connection, job, step)


def _resend(connection: Connection, job: Job, most: int | None) -> Worked:
    after = _key(job, manual.RESEND_BEGINS)
    return _note(
        connection, job, manual.resend_step(connection, job.filter, before=job.created_at, after=after, most=most)
    )


def _cancel(connection: Connection, job: Job, most: int | None) -> Worked:
    """Cancel the next ones; what somebody held is looked for again, from the beginning."""
    after, before = _key(job, manual.CANCEL_BEGINS), job.created_at
    step = manual.cancel_step(connection, job.filter, before=before, after=after, most=most)
    if step.after is None and job.passes < manual.PASSES and manual.is_left(connection, job.filter, before=before):
        jobs.advance(connection, job, counts=step.lanes, position=None, passes=job.passes + 1)
        return Worked()
    return _note(connection, job, step)


def _backfill(connection: Connection, job: Job, most: int | None) -> Worked:
    chosen = job.filter
    since, until = _times(chosen, job.created_at)
    page = manual.backfill_page(
        connection,
        handler=chosen.handler or "",
        provider=chosen.provider,
        event=chosen.type,
        tenant=chosen.tenant,
        from_id=UUID(job.position[0]) if job.position else manual.first_id(connection, since),
        until=until,
        most=most,
    )
    if page is None:
        jobs.advance(connection, job, counts=Counter(), position=None, is_over=True)
        return Worked()
    made: Counts = Counter({(tenant, chosen.handler or ""): number for tenant, number in page.tenants.items()})
    jobs.advance(connection, job, counts=made, position=[page.last_id], looked_at=page.events)
    return Worked(can_go_on=True)


def _reprocess(connection: Connection, job: Job, most: int | None) -> Worked:
    """Parse the next events again, each in a savepoint of its own."""
    after = UUID(job.position[0]) if job.position else UUID(int=0)
    most = _EVENTS_PER_STEP if most is None else min(most, _EVENTS_PER_STEP)
    narrowed = _of_events(job.filter)
    if narrowed.is_a_list:  # which of them are not rejected is said, too
        ids = sorted(it for it in set(narrowed.event_ids or ()) if it > after)[:most]
    else:
        ids = list_rejected(connection, narrowed, after=after, most=most)
    counts: Counts = Counter()
    outcomes = []
    catalogue = Catalogue()
    for event_id in ids:
        outcome = reprocess_event(connection, event_id, parse_again, catalogue, dry_run=False)
        counts[outcome.tenant or "-", outcome.outcome] += 1
        outcomes.append(outcome)
    jobs.advance(connection, job, counts=counts, position=[ids[-1]] if ids else job.position, is_over=len(ids) < most)
    return Worked(can_go_on=len(ids) == most, outcomes=outcomes)


def _note(connection: Connection, job: Job, step: manual.Step) -> Worked:
    jobs.advance(connection, job, counts=step.lanes, position=step.after, passes=job.passes, is_over=step.after is None)
    return Worked(can_go_on=step.after is not None)


def _key(job: Job, begins: manual.Key) -> manual.Key:
    """Return the key after which a job goes on; JSON has its UUID as text."""
    if job.position is None:
        return begins
    return tuple(UUID(text) if isinstance(it, UUID) else text for it, text in zip(begins, job.position, strict=True))


def _times(chosen: Filter, before: datetime) -> tuple[datetime, datetime]:
    """Return the time range of a backfill: later events get their deliveries from workers that know the handler."""
    return chosen.since or before, chosen.until or before


def _of_events(chosen: Filter) -> Narrowed:
    return Narrowed(event_ids=chosen.event_ids, reason=chosen.reason, tenant=chosen.tenant, provider=chosen.provider)


_STEPS: Final[dict[Kind, Callable[[Connection, Job, int | None], Worked]]] = {
    "retry": _retry,
    "resend": _resend,
    "cancel": _cancel,
    "backfill": _backfill,
    "reprocess": _reprocess,
}
