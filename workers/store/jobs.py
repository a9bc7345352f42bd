"""Jobs: what people have asked to be done with many deliveries or events, as rows that outlive whoever asked.

    running ⇄ paused        `change_state`
       ├────▶ done          the step after which nothing is left
       ├────▶ failed        a step met an error that is not the environment's
       └────▶ cancelled     also from paused; what was done stays done

Guarantees: a step, its counts and the place where it stopped commit together, so that a process may be killed at any
moment and nothing is done twice. A step holds the lock of its job: a change of the state waits for its end, and no step
begins after it. Each submission, change and end is in the audit.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from workers.store import audit
from workers.store.manual import Selection
from workers.store.refusals import RefusedError
from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workers.store.connect import Connection

_SQL: Final = Queries("jobs.sql")
Kind = Literal["retry", "resend", "cancel", "backfill", "reprocess"]
State = Literal["running", "paused", "done", "cancelled", "failed"]
Counts = Counter[tuple[str, str]]
"""By tenant and handler; of events by tenant and what came of them."""


class UnknownJobError(RefusedError):
    """There is no such job, or it is over."""

    code = "unknown_job"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter(Selection):
    """Which deliveries, or rejected events, a job is about.

    Attributes:
        reason: for events: rejected for this reason.
    """

    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what narrows, as JSON knows it."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: _to_json(value) for name, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Filter:
        """Return what `to_json` made; a name that this version does not know is an error: it would narrow."""
        if unknown := values.keys() - {it.name for it in fields(cls)}:
            raise ValueError(f"this version knows no filter {min(unknown)!r}")
        read = dict(values)
        for name in ("since", "until"):
            if name in read:
                read[name] = datetime.fromisoformat(read[name])
        if "event_ids" in read:
            read["event_ids"] = [UUID(text) for text in read["event_ids"]]
        return cls(**read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job; times are aware.

    Attributes:
        rate: deliveries or events a second; None for any number.
        expected: how many there were to do, or for a backfill to look at; None if they were not counted.
        is_counted: whether counting was tried.
        looked_at: events that a backfill has looked at.
        changed: deliveries or events done so far.
        position: after which the next step goes on.
        passes: how often a cancellation began anew, for what somebody held.
        tokens: of the rate, at `counted_at`.
        at: when this was read.
    """

    id: int
    kind: Kind
    filter: Filter
    who: str
    why: str | None
    rate: float | None
    state: State
    expected: int | None
    is_counted: bool
    looked_at: int
    changed: int
    position: Any
    passes: int
    tokens: float
    counted_at: datetime
    error: str | None
    created_at: datetime
    begins_at: datetime
    stepped_at: datetime | None
    finished_at: datetime | None
    at: datetime

    @property
    def is_over(self) -> bool:
        """Whether nothing more is done."""
        return self.state in {"done", "cancelled", "failed"}

    @property
    def progress(self) -> int:
        """How far it has come, of `expected`."""
        return self.looked_at if self.kind == "backfill" else self.changed

    @property
    def seconds_left(self) -> float | None:
        """About how long it still takes; None if that cannot be told."""
        if self.is_over or self.expected is None:
            return 0.0 if self.is_over else None
        seconds = (self.at - self.created_at).total_seconds()
        speed = self.rate or (self.progress / seconds if seconds > 0 else 0.0)
        return max(0, self.expected - self.progress) / speed if speed else None

    @property
    def allowance(self) -> float:
        """How many may be done now: a rate's bucket holds what one second brings, at least one."""
        if self.rate is None:
            return float("inf")
        seconds = (self.at - self.counted_at).total_seconds()
        return min(max(self.rate, 1.0), self.tokens + self.rate * max(0.0, seconds))


def submit(
    connection: Connection,
    kind: Kind,
    chosen: Filter,
    *,
    who: str,
    why: str | None = None,
    rate: float | None = None,
    expected: int | None = None,
    hold: float = 0.0,
) -> int:
    """Add a job and return its id; it is a fact once this is committed.

    Args:
        connection: in autocommit, or in a transaction of the caller's.
        kind: what is to be done.
        chosen: with what. A cancellation leaves what is made later; what dies or succeeds later is left, too.
        who: a user of the system or the console.
        why: for the audit.
        rate: deliveries or events a second; None for any number.
        expected: how many there are, if they were counted.
        hold: seconds in which only the caller works on it.
    """
    values = {
        "kind": kind,
        "filter": Jsonb(chosen.to_json()),
        "who": who,
        "why": why,
        "rate": rate,
        "expected": expected,
        "hold": hold,
    }
    with connection.transaction():
        (row,) = connection.execute(_SQL["submit"], values).fetchall()
        about = {"filter": chosen.to_json(), "expected": expected, "rate": rate}
        audit.record(connection, what=f"jobs {kind}", target=f"job {row['id']}", after=about, who=who, why=why)
    found: int = row["id"]
    return found


def list_jobs(connection: Connection, *, limit: int, state: State | None = None) -> list[Job]:
    """Return jobs, newest first; None does not narrow."""
    return _read(connection, "list_jobs", id=None, state=state, most=limit)


def find_job(connection: Connection, job_id: int) -> Job:
    """Return a job. Raises UnknownJobError."""
    for job in _read(connection, "list_jobs", id=job_id, state=None, most=1):
        return job
    raise UnknownJobError(f"there is no job {job_id}; `pipeline jobs list` shows them")


def list_counts(connection: Connection, job_id: int) -> Counts:
    """Return what a job has changed."""
    rows = connection.execute(_SQL["list_counts"], {"id": job_id})
    return Counter({(row["tenant"], row["name"]): row["count"] for row in rows})


def pause_job(connection: Connection, job_id: int) -> None:
    """Begin no further step until it is resumed. Raises UnknownJobError."""
    _change(connection, job_id, ["running"], "paused")


def resume_job(connection: Connection, job_id: int) -> None:
    """Go on where it stopped. Raises UnknownJobError."""
    _change(connection, job_id, ["paused"], "running")


def cancel_job(connection: Connection, job_id: int) -> None:
    """End it after the step that runs now, if any; what was done stays done. Raises UnknownJobError."""
    _change(connection, job_id, ["running", "paused"], "cancelled")


def list_waiting(connection: Connection) -> list[int]:
    """Return the ids of running jobs, the one that has waited for longest first."""
    return [row["id"] for row in connection.execute(_SQL["list_waiting"])]


def lock(connection: Connection, job_id: int) -> Job | None:
    """Take a running job for one step, until the transaction ends; None if it is not running or taken."""
    for job in _read(connection, "lock", id=job_id):
        return job
    return None


def note_count(connection: Connection, job_id: int, expected: int | None) -> None:
    """Keep how many there are to do; None if it could not be counted in time."""
    connection.execute(_SQL["note_count"], {"id": job_id, "expected": expected})


def advance(
    connection: Connection,
    job: Job,
    *,
    counts: Counts,
    position: Sequence[Any] | None,
    passes: int = 0,
    looked_at: int = 0,
    is_over: bool = False,
) -> None:
    """Keep what a step did, in its transaction.

    Args:
        connection: in the transaction that has locked the job.
        job: as it was locked.
        counts: what the step has changed.
        position: after which the next one goes on, of texts, numbers and UUIDs.
        passes: of a cancellation.
        looked_at: by this step.
        is_over: nothing is left.
    """
    changed = counts.total()
    values = {
        "id": job.id,
        "position": None if position is None else Jsonb([_to_json(it) for it in position]),
        "passes": passes,
        "looked_at": looked_at,
        "changed": changed,
        "tokens": 0.0 if job.rate is None else job.allowance - changed,
        "at": job.at,
        "is_over": is_over,
    }
    connection.execute(_SQL["advance"], values)
    if counts:
        lanes = sorted(counts)
        parameters = {
            "id": job.id,
            "tenants": [tenant for tenant, _ in lanes],
            "names": [name for _, name in lanes],
            "counts": [counts[lane] for lane in lanes],
        }
        connection.execute(_SQL["add_counts"], parameters)
    if is_over:
        about = {"changed": job.changed + changed}
        audit.record(connection, what="jobs done", target=f"job {job.id}", after=about, who=job.who, why=job.why)


def fail(connection: Connection, job: Job, error: str) -> None:
    """End a job whose step cannot succeed, with the reason."""
    with connection.transaction():
        values = {"id": job.id, "from": ["running"], "to": "failed", "error": error}
        if connection.execute(_SQL["change_state"], values).fetchone():
            about = {"error": error, "changed": job.changed}
            audit.record(connection, what="jobs failed", target=f"job {job.id}", after=about, who=job.who)


def release(connection: Connection, job_id: int) -> None:
    """Leave a job that was held to housekeeping."""
    connection.execute(_SQL["release"], {"id": job_id})


def forget_jobs(connection: Connection, *, days: int) -> None:
    """Delete jobs that ended so many days ago; the audit keeps what they were."""
    connection.execute(_SQL["forget"], {"days": days})


def _change(connection: Connection, job_id: int, states: Sequence[State], to: State) -> None:
    with connection.transaction():
        values = {"id": job_id, "from": list(states), "to": to, "error": None}
        if not connection.execute(_SQL["change_state"], values).fetchone():
            job = find_job(connection, job_id)
            raise UnknownJobError(f"job {job_id} is {job.state}: it cannot become {to}")
        audit.record(connection, what=f"jobs {to}", target=f"job {job_id}")


def _read(connection: Connection, query: str, **values: object) -> list[Job]:
    rows = connection.execute(_SQL[query], values).fetchall()
    return [Job(**(row | {"filter": Filter.from_json(row["filter"])})) for row in rows]


def _to_json(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case list() | tuple():
            return [_to_json(it) for it in value]
    return value
