"""Searching events by what they are, what became of them, and a text in their bodies.

Guarantees: pages are by id, so that they stay put while events come in; a search walks one index in the order of ids
and looks at a bounded number of rows, for a bounded time (`Found.bound`); a body that is no JSON is left out; a text
that Postgres could not hold finds nothing. Queries are in `event_search.sql`.

- `walk_events`: from event to event, of a subject, of a tenant or of all. What became of each is found by key.
- `walk_rejected`: from one rejected event to the next, where no tenant is given.
- `walk_open`: from one open delivery to the next, where no tenant is given.
- `walk_done`: from one finished delivery to the next, for what is dead or cancelled, and for what a handler has done.
"""

from __future__ import annotations

import json
import re
import time
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
PARSED_BOUND: Final = 5_000
"""Bodies that it looks at."""
BODY_BYTES_BOUND: Final = 32_000_000
"""Bytes of bodies that it looks at."""
SEARCH_SECONDS: Final = 0.08
"""Time budget of a search: a portion that has begun is looked at to its end."""
_PORTION: Final = 2_000
"""Rows of the first portion; the next has as many as there seems to be time for."""
_BODIES_AT_ONCE: Final = 500
_BODY_BYTES_AT_ONCE: Final = 4_000_000
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
    def is_contradictory(self) -> bool:
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
        bound: how many were looked at when a bound, of rows or of time, ended the search before the page was full; else
            None.
        reached: then the id of the last of them: the search goes on before it, or after it for newer ones.
    """

    events: list[EventSummary]
    has_more: bool = False
    bound: int | None = None
    reached: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Portion:
    """What one portion of a search found.

    Attributes:
        ids: in the order of the walk.
        places: of each, the number of rows that were looked at up to it.
        looked: rows that were looked at.
        end: the id of the last of them, after which the search goes on; None if nothing comes after it.
    """

    ids: Sequence[UUID]
    places: Sequence[int]
    looked: int
    end: UUID | None


@dataclass(slots=True, kw_only=True)
class _Bodies:
    """Looks for a text in a field of bodies, within `PARSED_BOUND` and `BODY_BYTES_BOUND`."""

    connection: Connection
    field: Sequence[str]
    text: str
    number: int = 0
    size: int = 0

    @property
    def is_over(self) -> bool:
        """Whether no more of them may be looked at."""
        return self.number >= PARSED_BOUND or self.size >= BODY_BYTES_BOUND

    def choose(self, portion: _Portion) -> _Portion:
        """Return what has the text, of as many events of a portion as may be looked at."""
        text = self.text.lower()
        part = max(_UNESCAPED.findall(text), key=len, default="")
        chosen: list[tuple[UUID, int]] = []
        places = dict(zip(portion.ids, portion.places, strict=True))
        looked = 0
        for ids, size in self._measure(portion.ids):
            if self.is_over:
                end = portion.ids[looked - 1]
                return _Portion(
                    ids=[it for it, _ in chosen], places=[it for _, it in chosen], looked=places[end], end=end
                )
            values = {"ids": ids, "part": part}
            rows = self.connection.execute(_SQL["read_bodies"], values, binary=True, prepare=False)
            chosen += [
                (row["id"], places[row["id"]]) for row in rows if text in _read_field(row["body"], self.field).lower()
            ]
            looked += len(ids)
            self.number += len(ids)
            self.size += size
        return replace(portion, ids=[it for it, _ in chosen], places=[it for _, it in chosen])

    def _measure(self, ids: Sequence[UUID]) -> Iterator[tuple[list[UUID], int]]:
        """Yield ids, in their order, of which the bodies may be read at once, and how many bytes these have."""
        part: list[UUID] = []
        size = 0
        for row in self.connection.execute(_SQL["measure_bodies"], {"ids": list(ids)}, prepare=False).fetchall():
            own = row["bytes"] or 0
            if part and size + own > _BODY_BYTES_AT_ONCE:
                yield part, size
                part, size = [], 0
            part.append(row["id"])
            size += own
        if part:
            yield part, size


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
    if query.is_contradictory:
        return Found(events=[])
    with connection.transaction():
        connection.execute(_SQL["prepare_search"])
        found, looked, end = _search(connection, query, before=before, after=after, most=limit + 1)
        has_more = len(found) > limit
        ids = sorted(found[:limit], reverse=True)
        is_cut = not has_more and end is not None
        return Found(
            events=_read_summaries(connection, ids),
            has_more=has_more,
            bound=looked if is_cut else None,
            reached=end if is_cut else None,
        )


def _search(
    connection: Connection, query: EventQuery, *, before: UUID | None, after: UUID | None, most: int
) -> tuple[list[UUID], int, UUID | None]:
    """Look at one portion after the other until the page is full, nothing is left, or a bound is reached.

    Returns:
        Ids in the order of the walk, how many rows were looked at, and where a bound ended the search.
    """
    bodies = _Bodies(connection=connection, field=query.field, text=query.text) if query.field and query.text else None
    found: list[UUID] = []
    looked, bound = 0, _PORTION
    began = time.monotonic()
    while True:
        wanted = _BODIES_AT_ONCE if bodies else most - len(found)
        portion = _walk(
            connection, query, before=before, after=after, most=wanted, bound=min(bound, LOOKED_BOUND - looked)
        )
        if bodies:
            portion = bodies.choose(portion)
        found += portion.ids
        looked += portion.looked
        taken = time.monotonic() - began
        if len(found) >= most or portion.end is None:
            return found[:most], looked, None
        if looked >= LOOKED_BOUND or taken >= SEARCH_SECONDS or (bodies and bodies.is_over):
            return found, looked, portion.end
        before, after = (portion.end, after) if after is None else (before, portion.end)
        bound = max(_PORTION, int(looked / taken * (SEARCH_SECONDS - taken)))


def _walk(
    connection: Connection, query: EventQuery, *, before: UUID | None, after: UUID | None, most: int, bound: int
) -> _Portion:
    """Return events that fit but for the text, the newest first; the oldest first after an id."""
    name, values = _choose_walk(query)
    statement = _SQL[name] if after is None else _SQL[name].replace(" DESC", " ASC")
    values |= {"before": before, "after": after, "most": most, "bound": bound}
    *rows, last = connection.execute(statement, values, prepare=False).fetchall()
    ids, places = [row["id"] for row in rows], [row["place"] for row in rows]
    if len(rows) == most:
        return _Portion(ids=ids, places=places, looked=places[-1], end=ids[-1])
    is_cut = last["place"] >= bound
    return _Portion(ids=ids, places=places, looked=last["place"], end=last["id"] if is_cut else None)


def _choose_walk(query: EventQuery) -> tuple[str, dict[str, Any]]:
    """Return the name of the query that walks along the index that narrows most, and its values."""
    values: dict[str, Any] = {
        name: getattr(query, name)
        for name in ("tenant", "provider", "type", "subject", "state", "reason", "handler", "since", "until")
    }
    is_rejected = query.reason is not None or query.state == "rejected"
    by_events = "walk_events", values | {"outcome": query.outcome or (None if query.handler is None else "any")}
    if query.subject is not None:
        return by_events
    match query.outcome:
        case "dead" | "cancelled":
            return "walk_done", values | {"done": query.outcome}
        case "handled" if query.handler is not None and query.tenant is None:
            return "walk_done", values | {"done": "succeeded"}
        case "open" | "retrying" if query.tenant is None:
            return "walk_open", values | {"outcome": query.outcome}
        case None if is_rejected and query.tenant is None:
            return "walk_rejected", values
    return by_events


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
