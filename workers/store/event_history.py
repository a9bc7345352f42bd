"""What people read: the history of one event, and lists of events and deliveries, newest first.

Lists and texts are bounded in length. A body is read only by `read_body`. What is unknown is None.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import class_row

from workers.store import pauses
from workers.store.limits import ANY
from workers.store.sql import Queries, readable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from workers.store.connect import Connection

_SQL: Final = Queries("event_history.sql")
_ARRIVALS_SHOWN: Final = 100
TYPE_BOUND: Final = 100_000
SUCCEEDED_BOUND: Final = 100_000
TENANT_EVENTS_BOUND: Final = 20_000
OPEN_STATES: Final = ("pending", "queued", "running")
DONE_STATES: Final = ("succeeded", "dead", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSummary:
    """One event as lists show it; times are aware, and `deliveries` says how many are in which state."""

    id: UUID
    provider: str
    tenant: str
    type: str | None
    subject: str | None
    received_at: datetime
    stored_at: datetime
    secret_label: str
    state: str
    reject_reason: str | None
    deliveries: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """The same event delivered again by the provider, under an id of its own."""

    id: UUID
    received_at: datetime
    secret_label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One failed attempt; `duration` is None when the attempt was lost with its process."""

    handler: str
    fence: int
    attempt: int
    error: str
    traceback: str | None
    duration: timedelta | None
    worker: str | None
    failed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryHistory:
    """One delivery of an event, with what failed in it.

    Attributes:
        attempt: outcomes recorded so far.
        fence: of the last claim.
        due_at: when it may run, if it is pending.
        lease_until: until when its message or its run is waited for.
        finished_at: when it came to succeeded, dead or cancelled.
        failures: recorded failed attempts, oldest first.
        paused: since when its tenant or handler is paused, by whom and why, in words; None if neither is.
    """

    handler: str
    state: str
    attempt: int
    fence: int
    due_at: datetime | None
    lease_until: datetime | None
    worker: str | None
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None
    failures: Sequence[Attempt] = ()
    paused: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventHistory:
    """Everything about one event but its body.

    Attributes:
        headers: pairs of name and value, in order, as they were kept.
        body_bytes: length of the body.
        notes: what was odd and not obeyed.
        arrivals: duplicates, oldest first, the first hundred.
        deliveries: by handler.
    """

    id: UUID
    provider: str
    tenant: str
    type: str | None
    subject: str | None
    occurred_at: datetime | None
    received_at: datetime
    stored_at: datetime
    headers: Any
    body_bytes: int
    secret_label: str
    state: str
    reject_reason: str | None
    notes: Sequence[str]
    arrivals: Sequence[Arrival] = ()
    deliveries: Sequence[DeliveryHistory] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySummary:
    """One delivery as lists show it."""

    event_id: UUID
    handler: str
    tenant: str
    state: str
    attempt: int
    due_at: datetime | None
    lease_until: datetime | None
    worker: str | None
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None


def find_event(connection: Connection, event_id: UUID) -> UUID:
    """Return the id of the event that an acknowledged id stands for: itself, or the first of a duplicate."""
    row = connection.execute(_SQL["find_first"], {"id": event_id}).fetchone()
    return row["first_id"] if row else event_id


def read_history(connection: Connection, event_id: UUID) -> EventHistory | None:
    """Return the whole history of one event, None if it is not stored."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        key = {"id": event_id}
        with connection.cursor(row_factory=class_row(EventHistory)) as cursor:
            story = cursor.execute(_SQL["read_event"], key).fetchone()
        if story is None:
            return None
        with connection.cursor(row_factory=class_row(Arrival)) as cursor:
            arrivals = cursor.execute(_SQL["read_arrivals"], key | {"most": _ARRIVALS_SHOWN}).fetchall()
        with connection.cursor(row_factory=class_row(DeliveryHistory)) as cursor:
            deliveries = cursor.execute(_SQL["read_deliveries"], key).fetchall()
        with connection.cursor(row_factory=class_row(Attempt)) as cursor:
            attempts = cursor.execute(_SQL["read_attempts"], key).fetchall()
        waits = any(it.state == "pending" for it in deliveries)
        held = pauses.list_pauses(connection, tenant=story.tenant) if waits else []
    return replace(
        story,
        arrivals=tuple(arrivals),
        deliveries=tuple(
            replace(
                it,
                failures=tuple(failed for failed in attempts if failed.handler == it.handler),
                paused=_paused(it, held),
            )
            for it in deliveries
        ),
    )


def _paused(delivery: DeliveryHistory, held: Iterable[pauses.Pause]) -> str | None:
    if delivery.state != "pending":
        return None
    return next((str(it) for it in held if it.handler in {ANY, delivery.handler}), None)


def read_tenants(connection: Connection, event_ids: Sequence[UUID]) -> set[str]:
    """Return whose these events are; those that are not stored are nobody's."""
    return {row["tenant"] for row in connection.execute(_SQL["read_tenants"], {"ids": list(event_ids)})}


def read_body(connection: Connection, event_id: UUID) -> bytes | None:
    """Return the body exactly as it was received, None if the event is not stored."""
    row = connection.execute(_SQL["read_body"], {"id": event_id}, binary=True).fetchone()
    return None if row is None else bytes(row["body"])


def list_events(
    connection: Connection,
    *,
    limit: int,
    tenant: str | None = None,
    state: str | None = None,
    type: str | None = None,  # noqa: A002 - the word of the providers, and the column's name
    since: datetime | None = None,
) -> list[EventSummary]:
    """Return events, newest first; None does not narrow. A type is looked for among the newest `TYPE_BOUND` others."""
    values = {"tenant": readable(tenant), "state": state, "type": readable(type), "since": since, "most": limit}
    with connection.cursor(row_factory=class_row(EventSummary)) as cursor:
        found = cursor.execute(_SQL["list_events"], values, prepare=False).fetchall()
    outcomes = read_outcomes(connection, [it.id for it in found])
    return [replace(it, deliveries=outcomes.get(it.id, {})) for it in found]


def read_outcomes(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, dict[str, int]]:
    """Count the deliveries of events by state; those that wait for their next attempt as "retrying".

    Events without any are left out.
    """
    found: dict[UUID, dict[str, int]] = {}
    for row in connection.execute(_SQL["read_outcomes"], {"ids": list(ids)}):
        found.setdefault(row["id"], {})[row["state"]] = row["count"]
    return found


def list_deliveries(
    connection: Connection,
    *,
    limit: int,
    states: Iterable[str],
    tenant: str | None = None,
    handler: str | None = None,
    before: tuple[UUID, str] | None = None,
) -> list[DeliverySummary]:
    """Return deliveries of some states, those of the newest events first; None does not narrow.

    What a handler has done with success is looked for among the newest `SUCCEEDED_BOUND`, or the newest
    `TENANT_EVENTS_BOUND` events of a tenant.

    Args:
        connection: of any role that may read.
        limit: at most so many.
        states: of `OPEN_STATES` and `DONE_STATES`.
        tenant: whose.
        handler: for this one.
        before: event and handler of the last one of the page before.
    """
    before_id, before_handler = before or (None, None)
    values = {
        "tenant": readable(tenant),
        "handler": readable(handler),
        "before_id": before_id,
        "before_handler": before_handler,
        "most": limit,
    }
    found: list[DeliverySummary] = []
    with connection.cursor(row_factory=class_row(DeliverySummary)) as cursor:
        for state in states:
            name, bound = _choose_list(state, tenant)
            rows = cursor.execute(_SQL[name], values | {"state": state, "bound": bound}, prepare=False)
            found += rows.fetchall()
    return sorted(found, key=lambda it: (it.event_id, it.handler), reverse=True)[:limit]


def list_of_incident(
    connection: Connection, incident: int, *, limit: int, before: tuple[UUID, str] | None = None
) -> list[DeliverySummary]:
    """Return the dead deliveries of an incident, those of the newest events first; `before` as in `list_deliveries`."""
    before_id, before_handler = before or (None, None)
    values = {"incident": incident, "before_id": before_id, "before_handler": before_handler, "most": limit}
    with connection.cursor(row_factory=class_row(DeliverySummary)) as cursor:
        return cursor.execute(_SQL["list_of_incident"], values, prepare=False).fetchall()


def _choose_list(state: str, tenant: str | None) -> tuple[str, int | None]:
    """Return the query that lists deliveries of a state, and its bound."""
    match state:
        case "pending" if tenant is not None:
            return "list_pending_of_tenant", None
        case "pending" | "queued" | "running":
            return "list_open", None
        case "succeeded" if tenant is None:
            return "list_succeeded", SUCCEEDED_BOUND
        case "succeeded":
            return "list_succeeded_of_tenant", TENANT_EVENTS_BOUND
    return "list_failed", None
