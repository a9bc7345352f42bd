"""Changes of deliveries by hand: retry dead ones, cancel open ones, make those of a handler that was deployed later.

Each batch is one transaction, and moving a delivery is one statement, so that it is open or finished and never both.
Fences never fall. What became dead again meanwhile is not taken twice; two backfills at once make each delivery once.
An empty selection selects everything: the caller decides whether that is meant.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from typing import Literal

    from workers.store.connect import Connection

_SQL: Final = Queries("manual.sql")
_BATCH: Final = 2000
_EVENTS_PER_PAGE: Final = 5000
_NIL: Final = UUID(int=0)
_PASSES: Final = 50
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
    """

    event_ids: Sequence[UUID] | None = None
    tenant: str | None = None
    handler: str | None = None
    since: datetime | None = None
    incident: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one page of a backfill found.

    Attributes:
        events: looked at.
        last_id: of the last of them.
        missing: those that the handler wants and has no delivery of.
        made: deliveries that were made; 0 in a dry run.
    """

    events: int
    last_id: UUID
    missing: int
    made: int


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
    before = _now(connection)
    after: tuple[str, str, UUID] = ("", "", _NIL)
    while True:
        keyset = dict(zip(("after_tenant", "after_handler", "after_id"), after, strict=True))
        values = _values(selection) | keyset | {"state": state, "before": before, "most": _BATCH}
        rows = connection.execute(_SQL["retry"], values, prepare=False).fetchall()
        if not rows:
            return
        after = (rows[-1]["tenant"], rows[-1]["handler"], rows[-1]["event_id"])
        yield _lanes(rows)


def cancel(connection: Connection, selection: Selection, *, dry_run: bool = False) -> Iterator[Lanes]:
    """Finish open deliveries as cancelled; those that run are fenced out, so that their outcome changes nothing.

    Deliveries made after the call are left alone. Rows that somebody holds are tried again for about five seconds.

    Yields:
        What each batch cancelled; of a dry run, what all would.
    """
    before = _now(connection)
    if dry_run:
        yield _counted(connection, "preview_cancel", selection, before=before)
        return
    for _ in range(_PASSES):
        after: tuple[UUID, str] = (_NIL, "")
        while True:
            keyset = dict(zip(("after_id", "after_handler"), after, strict=True))
            values = _values(selection) | keyset | {"before": before, "most": _BATCH}
            rows = connection.execute(_SQL["cancel"], values, prepare=False).fetchall()
            if not rows:
                break
            after = (rows[-1]["event_id"], rows[-1]["handler"])
            yield _lanes(rows)
        if not _counted(connection, "preview_cancel", selection, before=before):
            return
        time.sleep(_PAUSE)


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
    (row,) = connection.execute(_SQL["first_id"], {"since": since}).fetchall()
    from_id = row["id"]
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
        "most": _EVENTS_PER_PAGE,
        "dry_run": dry_run,
    }
    if not dry_run:
        connection.execute(_SQL["lock_backfill"], {"handler": handler})
    (found,) = connection.execute(_SQL["backfill"], values, prepare=False).fetchall()
    return None if found["last_id"] is None else Page(**found)


def _values(selection: Selection) -> dict[str, Any]:
    values = asdict(selection)
    return values | {"event_ids": None if selection.event_ids is None else list(selection.event_ids)}


def _counted(connection: Connection, query: str, selection: Selection, **values: object) -> Lanes:
    rows = connection.execute(_SQL[query], _values(selection) | values, prepare=False).fetchall()
    return Counter({(row["tenant"], row["handler"]): row["count"] for row in rows})


def _lanes(rows: Sequence[dict[str, Any]]) -> Lanes:
    return Counter((row["tenant"], row["handler"]) for row in rows)


def _now(connection: Connection) -> datetime:
    (row,) = connection.execute(_SQL["now"]).fetchall()
    now: datetime = row["now"]
    return now
