"""Searching events by what they are, what became of them, and a text in their bodies.

Guarantees: pages are by id, so that they stay put while events come in; a search walks one index in the order of ids
and looks at a bounded number of rows (`Found.bound`); a body that is no JSON is left out; a text that Postgres could
not hold finds nothing. Queries are in `event_search.sql`.

- `walk_events`: from event to event, of all tenants, of one, or of those rejected for a reason. What became of each is
  found by key.
- `walk_open`: from one open delivery to the next, where no tenant is given.
- `walk_done`: from one finished delivery to the next, for what is dead or cancelled, and for what a handler has done.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from psycopg.rows import class_row

from workers.store.event_history import EventSummary, read_outcomes
from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from workers.store.connect import Connection

_SQL: Final = Queries("event_search.sql")
LOOKED_BOUND: Final = 100_000
"""Rows that a search looks at."""
PROBED_BOUND: Final = 20_000
"""Rows that it looks at where each needs a look elsewhere."""
PARSED_BOUND: Final = 5_000
"""Bodies that it looks at."""
BODY_BYTES_BOUND: Final = 32_000_000
"""Bytes of bodies that it looks at."""
_BODY_BYTES_AT_ONCE: Final = 4_000_000
_BODIES_AT_ONCE: Final = 500
_UNESCAPED: Final = re.compile(r"[A-Za-z0-9_ .:-]+")
"""What JSON writes as it is, or as \\u00xx."""
_MISSING: Final = object()

Outcome = Literal["open", "retrying", "handled", "dead", "cancelled", "unwanted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuery:
    """Which events are looked for; None does not narrow.

    Attributes:
        tenant: whose; the whole name, as with all texts but the last.
        provider: that sent them.
        type: of this type.
        subject: about this.
        state: accepted or rejected ones.
        reason: rejected for this reason.
        outcome: with a delivery that is open, waits for another attempt (retrying), is dead or cancelled; all of whose
            deliveries succeeded (handled); accepted, and with no delivery (unwanted).
        handler: with a delivery for this handler; of an outcome, the outcome of that one.
        since: received at this (aware) time or later.
        until: received before this (aware) time.
        field: where in the JSON body `text` is looked for: keys, or numbers of list elements, from the outside in.
        text: is contained in the text, number or truth value there, in whatever case.
    """

    tenant: str | None = None
    provider: str | None = None
    type: str | None = None
    subject: str | None = None
    state: Literal["accepted", "rejected"] | None = None
    reason: str | None = None
    outcome: Outcome | None = None
    handler: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    field: tuple[str, ...] | None = None
    text: str | None = None

    @property
    def _is_about_content(self) -> bool:
        """Whether it asks for what a delivery does not tell."""
        return any(it is not None for it in (self.provider, self.type, self.subject))

    @property
    def _is_contradictory(self) -> bool:
        """Whether nothing can fit: rejected events have no deliveries, and no text in Postgres has a NUL in it."""
        is_rejected = self.reason is not None or self.state == "rejected"
        is_delivered = self.outcome is not None or self.handler is not None
        texts = (self.tenant, self.provider, self.type, self.subject, self.reason, self.handler, self.text)
        return (
            (is_rejected and (is_delivered or self.state == "accepted"))
            or any(it is not None and not _can_be_stored(it) for it in texts)
            or (self.since is not None and self.until is not None and self.since >= self.until)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One page.

    Attributes:
        events: the newest first.
        has_more: there are older ones that fit; of a page of newer ones, newer ones.
        bound: how many were looked at when a bound ended the search before the page was full; else None.
        reached: then the id of the last of them: the search goes on before it, or after it for newer ones.
    """

    events: list[EventSummary]
    has_more: bool = False
    bound: int | None = None
    reached: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    """Ids in the order of the walk; where a bound ended it, after how many and where."""

    ids: list[UUID]
    bound: int | None = None
    reached: UUID | None = None


def search_events(
    connection: Connection, query: EventQuery, *, before: UUID | None, after: UUID | None = None, limit: int = 50
) -> Found:
    """Return a page of the events that fit.

    Args:
        connection: outside a transaction, or in one of the caller's.
        query: which ones.
        before: only older ones than this id; None for all.
        after: only newer ones than this id, and of those the oldest: the page before a page. None for all.
        limit: events on a page.

    Raises:
        ValueError: a text is looked for, and no field is given.
    """
    if query.text and not query.field:
        raise ValueError("a text is looked for in a field: give one")
    if query._is_contradictory:  # noqa: SLF001 - of this module
        return Found(events=[])
    page = {"before": before, "after": after}
    with connection.transaction():
        connection.execute(_SQL["prepare_search"])
        if query.text and query.field:
            walk = _walk(connection, query, most=PARSED_BOUND, **page)
            walk = _search_bodies(connection, walk, query.field, query.text, most=limit + 1)
        else:
            walk = _walk(connection, query, most=limit + 1, **page)
        ids = sorted(walk.ids[:limit], reverse=True)
        return Found(
            events=_read_summaries(connection, ids),
            has_more=len(walk.ids) > limit,
            bound=walk.bound,
            reached=walk.reached,
        )


def _walk(connection: Connection, query: EventQuery, *, before: UUID | None, after: UUID | None, most: int) -> _Walk:
    """Return ids of events that fit but for the text, the newest first; the oldest first after an id."""
    name, values = _choose_walk(query)
    statement = _SQL[name] if after is None else _SQL[name].replace(" DESC", " ASC")
    values |= {"before": before, "after": after, "most": most}
    *rows, end = connection.execute(statement, values, prepare=False).fetchall()
    ids = [row["id"] for row in rows]
    if len(ids) == most or end["looked"] < values["bound"]:
        return _Walk(ids=ids)
    return _Walk(ids=ids, bound=end["looked"], reached=end["id"])


def _choose_walk(query: EventQuery) -> tuple[str, dict[str, Any]]:
    """Return the name of the query that walks along the index that narrows most, and its values."""
    values: dict[str, Any] = {
        name: getattr(query, name)
        for name in ("tenant", "provider", "type", "subject", "state", "reason", "handler", "since", "until")
    }
    if query.reason is not None:
        values["state"] = "rejected"  # which the index of reasons is of
    of_content = PROBED_BOUND if query._is_about_content else LOOKED_BOUND  # noqa: SLF001
    match query.outcome:
        case "dead" | "cancelled":
            return "walk_done", values | {"done": query.outcome, "bound": of_content}
        case "handled" if query.handler is not None and query.tenant is None:
            return "walk_done", values | {"done": "succeeded", "bound": of_content}
        case "open" | "retrying" if query.tenant is None:
            return "walk_open", values | {"outcome": query.outcome, "bound": of_content}
        case None if query.handler is None:
            return "walk_events", values | {"outcome": None, "bound": LOOKED_BOUND}
        case outcome:
            return "walk_events", values | {"outcome": outcome or "any", "bound": PROBED_BOUND}


def _search_bodies(connection: Connection, walk: _Walk, field: Sequence[str], text: str, *, most: int) -> _Walk:
    """Return which of the events of a walk have a text in a field, up to so many."""
    text = text.lower()
    part = max(_UNESCAPED.findall(text), key=len, default="")
    found: list[UUID] = []
    looked, looked_bytes = 0, 0
    for ids, size in _portions(connection, walk.ids):
        if looked and looked_bytes + size > BODY_BYTES_BOUND:
            return _Walk(ids=found, bound=looked, reached=walk.ids[looked - 1])
        for row in connection.execute(_SQL["read_bodies"], {"ids": ids, "part": part}, binary=True, prepare=False):
            if text in _read_field(row["body"], field).lower():
                found.append(row["id"])
                if len(found) == most:
                    return _Walk(ids=found)
        looked, looked_bytes = looked + len(ids), looked_bytes + size
    if len(walk.ids) == PARSED_BOUND:
        return _Walk(ids=found, bound=looked, reached=walk.ids[-1])
    return replace(walk, ids=found)


def _portions(connection: Connection, ids: Sequence[UUID]) -> Iterator[tuple[list[UUID], int]]:
    """Yield ids, in their order, of which the bodies may be read at once, and how many bytes these have."""
    for begin in range(0, len(ids), _BODIES_AT_ONCE):
        portion: list[UUID] = []
        size = 0
        values = {"ids": list(ids[begin : begin + _BODIES_AT_ONCE])}
        for row in connection.execute(_SQL["measure_bodies"], values, prepare=False).fetchall():
            own = row["bytes"] or 0
            if portion and size + own > _BODY_BYTES_AT_ONCE:
                yield portion, size
                portion, size = [], 0
            portion.append(row["id"])
            size += own
        yield portion, size


def _read_field(body: bytes, field: Sequence[str]) -> str:
    """Return the text, number or truth value in a field of a JSON body; empty if it is none, or there is none."""
    try:
        value = json.loads(bytes(body).decode(), parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return ""
    for key in field:
        value = _enter(value, key)
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
    return ""


def _enter(value: Any, key: str) -> Any:
    match value:
        case dict():
            return value.get(key, _MISSING)
        case list() if key.isascii() and key.isdecimal() and len(key) < 10 and int(key) < len(value):  # noqa: PLR2004
            return value[int(key)]
    return _MISSING


def _read_summaries(connection: Connection, ids: Sequence[UUID]) -> list[EventSummary]:
    """Return events in the order of these ids, with the deliveries of each by state."""
    outcomes = read_outcomes(connection, ids)
    with connection.cursor(row_factory=class_row(EventSummary)) as cursor:
        rows = {it.id: it for it in cursor.execute(_SQL["read_summaries"], {"ids": list(ids)}, prepare=False)}
    return [replace(rows[it], deliveries=outcomes.get(it, {})) for it in ids if it in rows]


def _can_be_stored(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
