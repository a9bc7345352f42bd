"""The life of open work in Postgres: queued, claimed, finished or tried again, and found again when lost.

Guarantees: every transition is conditional on state and fence; a late outcome changes nothing. Queries are in
`deliveries.sql`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import tuple_row

from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    import psycopg

    from workers.store.connect import Connection

_QUERIES: Final = Queries("deliveries.sql")
MOST_WALKED: Final = 2000
"""Dead entries of the index that one look may walk over before lanes get marks: a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A due delivery that may be queued.

    Attributes:
        place: of its tenant in the order of service, from 1.
        lane: of its handler in the order of its tenant's handlers, from 1.
        alone: whether it needs a message of its own.
    """

    event_id: UUID
    tenant: str
    handler: str
    place: int
    lane: int = 1
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionState:
    """What the lock of admission brings with it.

    Attributes:
        after: the tenant served last.
        express: seconds of work that tenants have sent through the express queue, when it was last written.
        express_age: seconds since then.
        limited: whether any handler has a limit, or is paused.
        serial: whether any handler runs one delivery of a subject at a time.
        walked: entries of the index that this session has read before, of whatever transaction.
    """

    after: str
    express: Mapping[str, float]
    express_age: float
    limited: bool
    serial: bool
    walked: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DueTenant:
    """A tenant with due work.

    Attributes:
        weight: deliveries in one of its turns.
        allowance: deliveries that its cap and pause still admit; None for any number.
        crowded: whether more of its deliveries are due than were asked about as `few`, or too many others come first.
    """

    weight: int = 1
    allowance: int | None = None
    crowded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A delivery that is ours until its lease ends.

    Attributes:
        attempt: outcomes recorded before this run.
        fence: of this claim; an outcome with another one changes nothing.
        token: what a success in the handler's own transaction needs beside it, since it may come from a role that is
            trusted with nothing else; None for a claim that is no handler's.
        settings: of the tenant; None if it has none.
    """

    event_id: UUID
    tenant: str
    attempt: int
    fence: int
    token: UUID | None = None
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event as a handler's run needs it; the body is exactly what was received."""

    id: UUID
    provider: str
    tenant: str
    type: str
    subject: str | None
    received_at: datetime
    headers: dict[str, str]
    body: bytes
    secret_label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one attempt.

    Attributes:
        state: "succeeded" or "dead"; None when it is tried again.
        retry_in: seconds until the next attempt, None when finished.
        error: one line, None on success.
        duration: seconds, None when unknown.
    """

    claimed: Claimed
    state: str | None
    retry_in: float | None = None
    error: str | None = None
    traceback: str | None = None
    duration: float | None = None


def lock_admission(connection: Connection, *, wait: bool) -> AdmissionState | None:
    """Take the lock of admission until the transaction ends, and make retries whose time has come ready.

    At most 2,000 a call, so that a crowd of them does not hold the others up.

    Returns:
        Where admission stands; None when somebody else admits and we do not `wait`.
    """
    locked = connection.execute(_QUERIES["lock_admission" if wait else "lock_admission_if_free"])
    connection.execute(_QUERIES["promote_due"])
    row = locked.fetchone()
    if row is None:
        return None
    return AdmissionState(
        after=row["tenant"],
        express=row["express"],
        express_age=row["express_age"] or 0.0,
        limited=row["limited"],
        serial=row["serial"],
        walked=row["walked"],
    )


def list_candidates(
    connection: Connection, *, after: str, tenants: int, lanes: int, most: int, room: int, few: int
) -> tuple[list[Candidate], dict[str, DueTenant], int]:
    """Find due work, spread evenly over tenants and their handlers.

    Args:
        connection: in the transaction that holds the lock of admission.
        after: the tenant served last.
        tenants: to look at, at most.
        lanes: handlers of each to look at, at most.
        most: deliveries, rounded up to as many of each lane.
        room: messages that may be sent; 0 leaves the work of crowded tenants out.
        few: due deliveries beyond which a tenant is crowded.

    Returns:
        The oldest due deliveries of each lane; the tenants that they belong to, from the one after `after` on; and
        what this session has read of the index, dead entries included: see `AdmissionState.walked`.
    """
    parameters = {"after": after, "tenants": tenants, "lanes": lanes, "most": most, "room": room, "few": few}
    rows = connection.cursor(row_factory=tuple_row).execute(_QUERIES["list_candidates"], parameters).fetchall()
    candidates = [
        Candidate(event_id=event_id, tenant=tenant, handler=handler, place=place, lane=lane, alone=alone)
        for event_id, tenant, handler, alone, place, lane, *_ in rows
    ]
    due = {row[1]: row[6:9] for row in rows}
    made = {it: DueTenant(weight=it[0] or 1, allowance=it[1], crowded=it[2]) for it in set(due.values())}
    return candidates, {tenant: made[it] for tenant, it in due.items()}, rows[-1][-1] if rows else 0


def queue(connection: Connection, chosen: Sequence[Candidate], *, wait: float) -> Callable[[], set[tuple[UUID, str]]]:
    """Mark deliveries as sent.

    Args:
        connection: in the transaction that holds the lock of admission.
        chosen: what was dealt.
        wait: seconds after which a queued delivery counts as lost, unless a message still names it.

    Returns:
        What tells, after the commit, the (event, handler) pairs that still could be marked.
    """
    parameters = {
        "event_ids": [candidate.event_id for candidate in chosen],
        "handlers": [candidate.handler for candidate in chosen],
        "wait": wait,
    }
    marked = connection.cursor(row_factory=tuple_row).execute(_QUERIES["queue"], parameters)
    return lambda: set(marked.fetchall())


def mark_lanes(connection: Connection, seen: Collection[tuple[str, str]], *, anew: bool = False) -> bool:
    """Note where the ready work of lanes begins, so that the next look does not walk over what is finished.

    Args:
        connection: in a transaction.
        seen: (tenant, handler) pairs, beside those that have a mark.
        anew: whatever the marks say.

    Returns:
        Whether it was done; not while a delivery is being brought back to its old place.
    """
    (row,) = connection.execute(_QUERIES["lock_marks"]).fetchall()
    if row["locked"]:
        ordered = sorted(seen)
        parameters = {"tenants": [it[0] for it in ordered], "handlers": [it[1] for it in ordered], "anew": anew}
        connection.execute(_QUERIES["mark_lanes"], parameters)
    return bool(row["locked"])


def renew_marks(connection: Connection) -> None:
    """Make the marks of lanes anew, or forget them all when nothing is walked over without them.

    Args:
        connection: outside a transaction.
    """
    with connection.transaction():
        before = _count_walked(connection)
        if mark_lanes(connection, (), anew=True) and _count_walked(connection) - before <= MOST_WALKED:
            connection.execute(_QUERIES["forget_marks"])


def _count_walked(connection: Connection) -> int:
    (row,) = connection.execute(_QUERIES["count_walked"]).fetchall()
    walked: int = row["walked"]
    return walked


def move_admission(connection: Connection, *, after: str, express: Mapping[str, float]) -> None:
    """Remember the tenant served last, and what went through the express queue."""
    connection.execute(_QUERIES["move_admission"], {"tenant": after, "express": json.dumps(express)})


def move_turns(connection: Connection, turns: Mapping[str, str]) -> None:
    """Remember the handler served last of tenants whose handlers did not all find room."""
    if turns:
        parameters = {"tenants": list(turns), "handlers": list(turns.values())}
        connection.execute(_QUERIES["move_turns"], parameters)


def unqueue(connection: Connection, handler: str, event_ids: Sequence[UUID]) -> None:
    """Take back what could not be sent."""
    connection.execute(_QUERIES["unqueue"], {"handler": handler, "event_ids": list(event_ids)})


def claim(
    connection: Connection, handler: str, event_ids: Sequence[UUID], *, worker: str, lease: float, read: int = 0
) -> tuple[list[Claimed], dict[UUID, StoredEvent]]:
    """Make queued deliveries of a message ours, and read the first of their events, in one round trip.

    Args:
        connection: outside a transaction.
        handler: name.
        event_ids: of the message.
        worker: who claims, for people to read.
        lease: seconds until the claim counts as lost.
        read: how many events of the message to read at once; `read_events` brings the others.

    Returns:
        What was claimed in the message's order, and what is still stored of its first `read` events.
    """
    ids = list(dict.fromkeys(event_ids))
    stored = {}
    with connection.pipeline():
        claims = connection.execute(
            _QUERIES["claim"],
            {"handler": handler, "event_ids": ids, "worker": worker, "lease": lease, "alone": len(ids) == 1},
        )
        if read:
            stored = read_events(connection, ids[:read])
    claimed = {row["event_id"]: Claimed(**row) for row in claims}
    return [claimed[event_id] for event_id in ids if event_id in claimed], stored


def read_events(connection: Connection, event_ids: Sequence[UUID]) -> dict[UUID, StoredEvent]:
    """Return what is still stored of these events, at least one."""
    parameters = {"event_ids": list(event_ids), "first": min(event_ids), "last": max(event_ids)}
    return {row["id"]: StoredEvent(**row) for row in connection.execute(_QUERIES["read_events"], parameters)}


def record(connection: psycopg.Connection[Any], handler: str, outcomes: Sequence[Outcome]) -> set[UUID]:
    """Record outcomes of one handler; return the events whose outcome counted (the others were fenced off)."""
    parameters = {
        "handler": handler,
        "event_ids": [outcome.claimed.event_id for outcome in outcomes],
        "fences": [outcome.claimed.fence for outcome in outcomes],
        "states": [outcome.state for outcome in outcomes],
        "retry_ins": [outcome.retry_in for outcome in outcomes],
        "errors": [_storable(outcome.error) for outcome in outcomes],
        "tracebacks": [_storable(outcome.traceback) for outcome in outcomes],
        "durations": [outcome.duration for outcome in outcomes],
    }
    cursor = connection.cursor(row_factory=_first_column)
    return set(cursor.execute(_QUERIES["record"], parameters))


def hand_back(connection: Connection, handler: str, held: Sequence[Claimed]) -> None:
    """Return claimed deliveries that were not begun; nothing is charged."""
    parameters = {
        "handler": handler,
        "event_ids": [claimed.event_id for claimed in held],
        "fences": [claimed.fence for claimed in held],
    }
    connection.execute(_QUERIES["hand_back"], parameters)


def _first_column(cursor: psycopg.Cursor[Any]) -> Any:
    """Return only the first column of each row, whatever the connection's row factory is."""
    del cursor
    return lambda values: values[0]


def _storable(text: str | None) -> str | None:
    """Return the text without what Postgres refuses: NUL and lone surrogates."""
    if text is None:
        return None
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\N{SYMBOL FOR NULL}")
