"""The commands `pipeline jobs …`, and how other commands submit a job and follow it."""

import sys
import time
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal

import typer

from deploy.cli.arguments import Limit
from deploy.cli.connections import database, person
from deploy.cli.errors import CommandError
from deploy.cli.output import command, emit, given_reason, progress, say, wants_json
from workers.housekeeping.jobs import Worked, count, work_on
from workers.store import jobs
from workers.store.connect import Connection
from workers.store.jobs import Filter, Job, Kind, State
from workers.store.manual import count_lanes, now
from workers.store.rejected import Reprocessed

OWN_SECONDS: Final = 1.0
"""In which a command works on its own job, so that a small one is done at once; then housekeeping goes on with it."""
COUNT_SECONDS: Final = 0.25
COUNT_BOUND: Final = 100_000
"""Deliveries that a dry run counts."""
_POLL_SECONDS: Final = 0.1

app: Final = typer.Typer(
    help="Jobs: what was asked to be done with many deliveries or events; housekeeping does it.", no_args_is_help=True
)
JobId = Annotated[int, typer.Argument(metavar="JOB", help="Number of the job, see `pipeline jobs list`.")]


def submit(connection: Connection, kind: Kind, chosen: Filter, *, rate: float | None) -> int:
    """Add a job of this person, counted if that is quick, and return its id."""
    expected = count(connection, kind, chosen, before=now(connection), seconds=COUNT_SECONDS)
    return jobs.submit(
        connection, kind, chosen, who=person(), why=given_reason(), rate=rate, expected=expected, hold=2 * OWN_SECONDS
    )


def follow(connection: Connection, job_id: int, *, own_seconds: float = 0.0) -> tuple[Job, list[Reprocessed]]:
    """Wait until a job is over, with a progress bar on a terminal.

    Args:
        connection: outside a transaction.
        job_id: an existing one.
        own_seconds: in which this process works on it.

    Returns:
        The job, and what came of the events that this process has parsed again.

    Raises:
        CommandError: it failed, or somebody cancelled it.
        typer.Exit: with Ctrl-C this command ends, and the job goes on.
    """
    outcomes: list[Reprocessed] = []
    ends, is_own = time.monotonic() + own_seconds, bool(own_seconds)
    try:
        with progress() as bars:
            bar = bars.add_task(f"job {job_id}", total=None)
            while not (job := jobs.find_job(connection, job_id)).is_over:
                description = f"job {job_id}, paused" if job.state == "paused" else f"job {job_id}"
                bars.update(bar, completed=job.progress, total=job.expected, description=description)
                worked = work_on(connection, job_id) if is_own else Worked()
                outcomes += worked.outcomes
                if is_own and time.monotonic() >= ends:
                    is_own = False
                    jobs.release(connection, job_id)
                if not worked.can_go_on:
                    time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        connection.close()  # it may have been interrupted in the middle of a statement
        with database() as another:
            jobs.release(another, job_id)
        print(
            f"pipeline: job {job_id} goes on without this command: `pipeline jobs wait {job_id}` follows it, "
            f"`pipeline jobs cancel {job_id}` ends it",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    if job.state == "failed":
        raise CommandError(f"job {job_id} failed after {job.changed} were done: {job.error}")
    if job.state == "cancelled":
        raise CommandError(f"job {job_id} was cancelled after {job.changed} were done")
    return job, outcomes


def run(connection: Connection, kind: Kind, chosen: Filter, *, rate: float | None) -> tuple[Job, list[Reprocessed]]:
    """Submit a job and follow it to its end, as `follow` does."""
    job_id = submit(connection, kind, chosen, rate=rate)
    return follow(connection, job_id, own_seconds=OWN_SECONDS)


def change(
    kind: Literal["retry", "resend", "cancel"],
    chosen: Filter,
    done: str,
    *,
    rate: float | None,
    dry_run: bool,
) -> int:
    """Do it as a job, or only count, up to `COUNT_BOUND`; print how many of each lane, and return how many in all."""
    with database(read_only=dry_run) as connection:
        if dry_run:
            lanes = count_lanes(connection, kind, chosen, most=COUNT_BOUND)
        else:
            job, _ = run(connection, kind, chosen, rate=rate)
            lanes = jobs.list_counts(connection, job.id)
    rows = [
        {"tenant": tenant, "handler": handler, "count": count, "dry_run": dry_run}
        for (tenant, handler), count in sorted(lanes.items())
    ]
    if rows:
        emit(rows, "tenant", "handler", "count")
    is_bounded = dry_run and lanes.total() >= COUNT_BOUND
    if not wants_json():
        print(f"{'at least ' if is_bounded else ''}{say_deliveries(lanes.total(), dry_run=dry_run)} {done}")
    elif is_bounded:
        print(f"pipeline: counting stopped at {COUNT_BOUND}: there may be more, and in other lanes", file=sys.stderr)
    return lanes.total()


def reprocess(chosen: Filter, *, rate: float | None) -> None:
    """Parse rejected events again as a job; print what came of each, or how many where housekeeping had to go on."""
    with database() as connection:
        job, outcomes = run(connection, "reprocess", chosen, rate=rate)
        counts = jobs.list_counts(connection, job.id)
    if len(outcomes) == job.changed:
        rows = (asdict(it) | {"dry_run": False} for it in outcomes)
        emit(rows, "event_id", "outcome", "reason", "handlers", "same_as")
    else:
        found = ((*key, number) for key, number in sorted(counts.items()))
        emit((dict(zip(("tenant", "outcome", "count"), it, strict=True)) for it in found), "tenant", "outcome", "count")


def say_deliveries(count: int, *, dry_run: bool) -> str:
    """Return the subject of a sentence about so many deliveries."""
    return ("1 delivery" if count == 1 else f"{count} deliveries") + (" would be" if dry_run else "")


@command(app, "list")
def list_(
    *, state: Annotated[State | None, typer.Option(help="Only in this state.")] = None, limit: Limit = 20
) -> None:
    """List jobs, newest first.

    Examples:
        pipeline jobs list --state running
    """
    with database(read_only=True) as connection:
        found = jobs.list_jobs(connection, limit=limit, state=state)
    emit(map(_row, found), "id", "kind", "state", "who", "done", "left", "filter", "created_at", shown=_shown)


@command(app)
def show(job: JobId) -> None:
    """Show a job: who asked for what and why, how far it is, and what it has done for whom."""
    with database(read_only=True) as connection:
        found = jobs.find_job(connection, job)
        counts = jobs.list_counts(connection, job)
    row = _row(found)
    shown = _shown(row)
    lanes = [{"tenant": tenant, "name": name, "count": number} for (tenant, name), number in sorted(counts.items())]
    names = ("kind", "state", "who", "why", "filter", "rate", "done", "left", "error", "created_at", "finished_at")
    lines = [f"{name.replace('_at', ''):9} {shown[name]}" for name in names if shown[name] is not None]
    say(row | {"counts": lanes}, *lines, *(f"{it['count']:9} {it['tenant']} {it['name']}" for it in lanes))


@command(app)
def wait(job: JobId) -> None:
    """Follow a job until it is over; status 1 if it failed or was cancelled. Ctrl-C leaves it running."""
    with database() as connection:
        ended, _ = follow(connection, job)
    say(_row(ended), f"job {job} is done: {ended.changed} changed")


@command(app, changes=True)
def pause(job: JobId) -> None:
    """Do nothing more of a job until it is resumed."""
    with database() as connection:
        jobs.pause_job(connection, job)
    say({"id": job, "state": "paused"}, f"paused job {job}")


@command(app, changes=True)
def resume(job: JobId) -> None:
    """Go on with a paused job where it stopped."""
    with database() as connection:
        jobs.resume_job(connection, job)
    say({"id": job, "state": "running"}, f"job {job} goes on")


@command(app, changes=True)
def cancel(job: JobId) -> None:
    """End a job; what it has done stays done."""
    with database() as connection:
        jobs.cancel_job(connection, job)
        ended = jobs.find_job(connection, job)
    say(_row(ended), f"cancelled job {job} after {ended.changed} were done")


def _row(job: Job) -> dict[str, Any]:
    hidden = ("position", "passes", "tokens", "counted_at", "begins_at", "is_counted", "at")
    row = {name: value for name, value in asdict(job).items() if name not in hidden}
    return row | {"filter": job.filter.to_json(), "seconds_left": job.seconds_left}


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    done = row["looked_at"] if row["kind"] == "backfill" else row["changed"]
    left = row["seconds_left"]
    texts = (
        f"{name}={', '.join(value) if isinstance(value, list) else value}" for name, value in row["filter"].items()
    )
    return row | {
        "done": f"{done} of {'?' if row['expected'] is None else row['expected']}",
        "left": None if left is None or row["state"] != "running" else f"{left:.0f} s",
        "filter": " ".join(texts) or "all",
    }
