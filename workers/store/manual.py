"""Changes of deliveries by hand, in steps; `workers.store.jobs` keeps which of them are under way.

Dead ones are retried, open ones cancelled, those that succeeded resent, and those of a handler that was deployed later
made.

Each batch is one transaction, and moving a delivery is one statement, so that it is open or finished and never both.
Fences never fall. What became dead again meanwhile is not taken twice; two backfills at once make each delivery once.
An empty selection selects everything: the caller decides whether that is meant.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from workers.store.connect import Connection

Key = tuple[Any, ...]
"""Of the last delivery that a step looked at."""
_SQL: Final = Queries("manual.sql")
_BATCH: Final = 2000
_EVENTS_PER_PAGE: Final = 5000
_NIL: Final = UUID(int=0)
RETRY_BEGINS: Final[Key] = ("", "", _NIL)
RESEND_BEGINS: Final[Key] = (_NIL, "")
CANCEL_BEGINS: Final[Key] = RESEND_BEGINS
PASSES: Final = 50
_PAUSE: Final = 0.1  # seconds; a claim or an outcome holds its rows for milliseconds

Lanes = Counter[tuple[str, str]]
"""How many deliveries of each (tenant, handler)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which deliveries are meant; None does not narrow.

    Attributes:
        event_ids: of these events.
        tenant: of this tenant.
        handler: of this handler.
        since: of events received at this (aware) time or later.
        incident: dead ones of this incident.
        until: of events received before this (aware) time.
        provider: of events of this provider.
        type: of events of this type.
        error: whose last error has this text in it, in whatever case.
        state: in this state; for retries "dead" or "cancelled", for cancellations an open one.
    """

    event_ids: Sequence[UUID] | None = None
    tenant: str | None = None
    handler: str | None = None
    since: datetime | None = None
    incident: int | None = None
    until: datetime | None = None
    provider: str | None = None
    type: str | None = None
    error: str | None = None
    state: str | None = None

    @property
    def is_about_content(self) -> bool:
        """Whether it asks for what no index of deliveries tells."""
        return any(it is not None for it in (self.provider, self.type, self.error))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step of a change has done.

    Attributes:
        lanes: how many deliveries of each.
        after: the key after which the next step goes on; None if there is nothing after it.
    """

    lanes: Lanes
    after: Key | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one page of a backfill found.

    Attributes:
        events: looked at.
        last_id: of the last of them.
        missing: those that the handler wants and has no delivery of.
        made: deliveries that were made; 0 in a dry run.
        tenants: how many of them of each tenant.
    """

    events: int
    last_id: UUID
    missing: int
    made: int
    tenants: Mapping[str, int]


def retry(
    connection: Connection, selection: Selection, *, state: Literal["dead", "cancelled"], dry_run: bool = False
) -> Iterator[Lanes]:
    """Put dead (or cancelled) deliveries back, due at once, their attempts starting anew.

    What was recorded of earlier attempts stays.

    Yields:
        What each batch put back; of a dry run, what all would.
    """
    if dry_run:
        yield _counted(connection, "preview_retry", selection, state=state)
        return
    before = now(connection)
    after: Key | None = RETRY_BEGINS
    while after is not None:
        step = retry_step(connection, selection, state=state, before=before, after=after)
        after = step.after
        if step.lanes:
            yield step.lanes


def retry_step(
    connection: Connection, selection: Selection, *, state: str, before: datetime, after: Key, most: int | None = None
) -> Step:
    """Put the next dead (or cancelled) deliveries back that finished before a time; `RETRY_BEGINS` is before all."""
    return _step(
        connection, "retry", ("tenant", "handler", "id"), selection, after=after, most=most, state=state, before=before
    )


def resend_step(
    connection: Connection, selection: Selection, *, before: datetime, after: Key, most: int | None = None
) -> Step:
    """Put the next deliveries back that succeeded before a time; `RESEND_BEGINS` is before all."""
    return _step(connection, "resend", ("id", "handler"), selection, after=after, most=most, before=before)


def cancel(connection: Connection, selection: Selection, *, dry_run: bool = False) -> Iterator[Lanes]:
    """Finish open deliveries as cancelled; those that run are fenced out, so that their outcome changes nothing.

    Deliveries made after the call are left alone. Rows that somebody holds are tried again for about five seconds.

    Yields:
        What each batch cancelled; of a dry run, what all would.
    """
    before = now(connection)
    if dry_run:
        yield _counted(connection, "preview_cancel", selection, before=before)
        return
    for _ in range(PASSES):
        after: Key | None = CANCEL_BEGINS
        while after is not None:
            step = cancel_step(connection, selection, before=before, after=after)
            after = step.after
            if step.lanes:
                yield step.lanes
        if not is_left(connection, selection, before=before):
            return
        time.sleep(_PAUSE)


def cancel_step(
    connection: Connection, selection: Selection, *, before: datetime, after: Key, most: int | None = None
) -> Step:
    """Cancel the next open deliveries that were made before a time; `CANCEL_BEGINS` is before all.

    Those that somebody holds at this moment are left: look again.
    """
    return _step(connection, "cancel", ("id", "handler"), selection, after=after, most=most, before=before)


def is_left(connection: Connection, selection: Selection, *, before: datetime) -> bool:
    """Say whether a cancellation that began at this time has left something that somebody held."""
    return bool(_counted(connection, "preview_cancel", selection, before=before, most=1))


def count_lanes(
    connection: Connection, kind: Literal["retry", "resend", "cancel"], selection: Selection, *, most: int | None = None
) -> Lanes:
    """Count what a change would take if it began now; a retry takes dead ones where no state is given.

    Args:
        connection: outside a transaction.
        kind: of the change.
        selection: which deliveries.
        most: where counting stops, whichever those are; None for nowhere.
    """
    state = (selection.state or "dead") if kind == "retry" else selection.state
    return _counted(connection, f"preview_{kind}", selection, state=state, before=now(connection), most=most)


def count_events(connection: Connection, *, since: datetime, until: datetime, tenant: str | None) -> int:
    """Count the events that a backfill looks at."""
    values = {"since": since, "until": until, "tenant": tenant}
    (row,) = connection.execute(_SQL["count_events"], values, prepare=False).fetchall()
    found: int = row["count"]
    return found


def backfill(
    connection: Connection,
    *,
    handler: str,
    provider: str | None,
    event: str | None,
    tenant: str | None,
    since: datetime,
    until: datetime,
    dry_run: bool = False,
) -> Iterator[Page]:
    """Make the deliveries that a handler would have had, had it been deployed at `since`.

    Args:
        connection: in autocommit.
        handler: its name.
        provider: what it listens to; None for every provider.
        event: the event type that it asks for; None for every one.
        tenant: whose events; None for every tenant.
        since: aware; events received from then on.
        until: aware; events received before. Later ones get their deliveries from workers that know the handler.
        dry_run: count only.

    Yields:
        What each page of events found.
    """
    from_id = first_id(connection, since)
    while True:
        with connection.transaction():
            page = backfill_page(
                connection,
                handler=handler,
                provider=provider,
                event=event,
                tenant=tenant,
                from_id=from_id,
                until=until,
                dry_run=dry_run,
            )
        if page is None:
            return
        yield page
        from_id = page.last_id


def backfill_page(
    connection: Connection,
    *,
    handler: str,
    provider: str | None,
    event: str | None,
    tenant: str | None,
    from_id: UUID,
    until: datetime,
    stored_since: datetime | None = None,
    most: int | None = None,
    dry_run: bool = False,
) -> Page | None:
    """Do the same for the next events after an id, inside a transaction; None if there are none.

    Args:
        connection: inside a transaction.
        handler: as in `backfill`, and so are the others.
        provider: the same.
        event: the same.
        tenant: the same.
        from_id: the event after which to look.
        until: the same.
        stored_since: aware; nothing is made for events that were stored before. None for no such bound.
        most: events to look at; None for as many as a page has.
        dry_run: the same.
    """
    values = {
        "handler": handler,
        "provider": provider,
        "type": event,
        "tenant": tenant,
        "until": until,
        "after": from_id,
        "stored_since": stored_since,
        "most": _EVENTS_PER_PAGE if most is None else min(most, _EVENTS_PER_PAGE),
        "dry_run": dry_run,
    }
    if not dry_run:
        connection.execute(_SQL["lock_backfill"], {"handler": handler})
    (found,) = connection.execute(_SQL["backfill"], values, prepare=False).fetchall()
    return None if found["last_id"] is None else Page(**found)


def first_id(connection: Connection, since: datetime) -> UUID:
    """Return the id before all events that were received at this (aware) time or later."""
    (row,) = connection.execute(_SQL["first_id"], {"since": since}).fetchall()
    found: UUID = row["id"]
    return found


def now(connection: Connection) -> datetime:
    """Return Postgres' time."""
    (row,) = connection.execute(_SQL["now"]).fetchall()
    found: datetime = row["now"]
    return found


def _step(
    connection: Connection,
    query: str,
    columns: Sequence[str],
    selection: Selection,
    *,
    after: Key,
    most: int | None,
    **more: Any,
) -> Step:
    """Run one step: of what no index tells, it looks at a bounded number of rows."""
    most = _BATCH if most is None else min(most, _BATCH)
    keyset = {f"after_{column}": value for column, value in zip(columns, after, strict=True)}
    ends: dict[str, Any] = {f"end_{column}": None for column in columns}
    values = _values(selection) | more | keyset
    if selection.is_about_content or (query == "resend" and selection.event_ids is None):
        found = connection.execute(_SQL[f"end_of_{query}"], values, prepare=False).fetchone()
        ends = found or ends
    rows = connection.execute(_SQL[query], values | ends | {"most": most}, prepare=False).fetchall()
    if len(rows) == most:
        last = {"tenant": rows[-1]["tenant"], "handler": rows[-1]["handler"], "id": rows[-1]["event_id"]}
        return Step(lanes=_lanes(rows), after=tuple(last[column] for column in columns))
    end = tuple(ends[f"end_{column}"] for column in columns)
    return Step(lanes=_lanes(rows), after=None if end[0] is None else end)


def _values(selection: Selection) -> dict[str, Any]:
    values = asdict(selection)
    return values | {"event_ids": None if selection.event_ids is None else list(selection.event_ids)}


def _counted(
    connection: Connection, query: str, selection: Selection, *, most: int | None = None, **values: object
) -> Lanes:
    rows = connection.execute(_SQL[query], _values(selection) | values | {"most": most}, prepare=False).fetchall()
    return Counter({(row["tenant"], row["handler"]): row["count"] for row in rows})


def _lanes(rows: Sequence[dict[str, Any]]) -> Lanes:
    return Counter((row["tenant"], row["handler"]) for row in rows)
