"""Jobs: what was asked to be done with many deliveries or events, how far it is, and pausing or ending it."""

from collections.abc import Callable
from typing import Final, get_args

from starlette.responses import Response

from deploy.console import inputs
from deploy.console.actions import Action, Done, Field, Plan
from deploy.console.rendering import command_line
from deploy.console.rules import Rule
from deploy.console.visit import InputError, NotFoundError, Visit, local_path
from workers.store import jobs
from workers.store.connect import Connection
from workers.store.jobs import Job, State

SHOWN: Final = 100


def list_jobs(visit: Visit) -> Response:
    """Show jobs, newest first."""
    state = visit.given("state")
    if state is not None and state not in get_args(State):
        raise InputError(f"no job is {state[:20]!r}")
    found = jobs.list_jobs(visit.connection, limit=SHOWN, state=state)  # type: ignore[arg-type]
    command = command_line("jobs", "list", state=state)
    return visit.page("jobs", title="Jobs", jobs=found, state=state, states=get_args(State), command=command, live=True)


def show_job(visit: Visit) -> Response:
    """Show a job, and what it has done for whom."""
    job = _find(visit)
    counts = sorted(jobs.list_counts(visit.connection, job.id).items())
    command = command_line("jobs", "show", str(job.id))
    return visit.page(
        "job",
        title=f"Job {job.id}: {job.kind}",
        job=job,
        counts=counts,
        back=local_path(visit.given("back"), default=""),
        command=command,
        live=True,
    )


def tenant_of(job: Job) -> str | None:
    """Return whose deliveries a job is about; None if it may be about several tenants'."""
    return job.filter.tenant


def _find(visit: Visit) -> Job:
    try:
        return jobs.find_job(visit.connection, inputs.identity(visit))
    except jobs.UnknownJobError as error:
        raise NotFoundError(str(error)) from None


def _change(
    name: str,
    title: str,
    sentence: str,
    said: str,
    change: Callable[[Connection, int], None],
    *,
    is_dangerous: bool = False,
) -> Action:
    def plan(visit: Visit) -> Plan:
        job = _find(visit)
        return Plan(
            sentence=sentence.format(job=f"job {job.id} ({job.kind}, {job.state}, asked for by {job.who})"),
            command=command_line("jobs", name, str(job.id), reason=visit.given("why")),
            tenant=tenant_of(job),
        )

    def perform(visit: Visit) -> Done:
        job_id = inputs.identity(visit)
        change(visit.connection, job_id)
        return Done(said=said.format(job=job_id), to=local_path(visit.given("back"), f"/jobs/{job_id}"))

    return Action(
        name=f"job-{name}",
        title=title,
        fields=(Field(name="id", label="Job", kind="fixed", required=True),),
        plan=plan,
        perform=perform,
        is_dangerous=is_dangerous,
    )


RULES: Final = (
    Rule(method="GET", path="/jobs", role="viewer", page=list_jobs),
    Rule(method="GET", path="/jobs/{id}", role="viewer", page=show_job),
)
ACTIONS: Final = (
    _change(
        "pause", "Pause the job", "Do nothing more of {job} until it is resumed.", "job {job} is paused", jobs.pause_job
    ),
    _change("resume", "Resume the job", "Go on with {job} where it stopped.", "job {job} goes on", jobs.resume_job),
    _change(
        "cancel",
        "Cancel the job",
        "End {job}; what it has done stays done.",
        "job {job} is cancelled",
        jobs.cancel_job,
        is_dangerous=True,
    ),
)
