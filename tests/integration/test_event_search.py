"""Events are found by what they are, what became of them, and a text in their bodies."""

from __future__ import annotations

import json
import random
import re
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import pytest

from shared.envelope import new_event_id
from workers.store import event_search
from workers.store.event_search import EventQuery, Found, search_events

if TYPE_CHECKING:
    from workers.store.connect import Connection

NOW: Final = datetime.now(UTC)
HANDLERS: Final = ("acme.grant", "acme.mail", "acme.never")
STATES: Final = ("pending", "retrying", "queued", "running", "succeeded", "dead", "cancelled")
BODIES: Final = (
    b'{"data": {"model": "mixed-30-v2", "score": 0.50, "live": true, "tags": ["First", "second"]}}',
    '{"data": {"model": "Größe 50%_\'\\"", "score": 7}}'.encode(),
    b'{"data": {"mode\\u006c": "\\u006dixed-40"}}',
    b'{"data": "model mixed-30"}',
    b'{"other": {"model": "mixed-30"}, "data": {"model": {"name": "mixed-30"}}}',
    b"mixed-30: no JSON",
    b"\x00mixed-30\xff",
    b"",
    b"[" * 100_000,
)


def put(connection: Connection, *, at: datetime = NOW, deliveries: dict[str, str] | None = None, **other: Any) -> UUID:
    """Store an event with deliveries, handler to state; return its id."""
    event_id = new_event_id(at)
    is_rejected = other.get("reject_reason") is not None
    row: dict[str, Any] = {
        "id": event_id,
        "provider": "moveris",
        "tenant": "acme",
        "type": None if is_rejected else "verification.completed",
        "received_at": at,
        "headers": "{}",
        "body": b"{}",
        "secret_label": "v1",
        "fingerprint": event_id.bytes,
        "state": "rejected" if is_rejected else "accepted",
        "reject_reason": None,
    } | other
    columns, places = ", ".join(row), ", ".join(f"%({name})s" for name in row)
    connection.execute(f"INSERT INTO events ({columns}) VALUES ({places})", row)
    for handler, state in (deliveries or {}).items():
        deliver(connection, event_id, row["tenant"], handler, state)
    return event_id


def deliver(connection: Connection, event_id: UUID, tenant: str, handler: str, state: str) -> None:
    """Store a delivery in some state; "retrying" is one that waits for its next attempt."""
    values = {"id": event_id, "tenant": tenant, "handler": handler, "state": state}
    if state in {"succeeded", "dead", "cancelled"}:
        connection.execute(
            "INSERT INTO deliveries_done (event_id, handler, tenant, state, attempt, fence, last_error, created_at)"
            " VALUES (%(id)s, %(handler)s, %(tenant)s, %(state)s, 1, 1, 'ValueError: no', now())",
            values,
        )
    else:
        connection.execute(
            "INSERT INTO deliveries (event_id, handler, tenant, state, ready, lease_until)"
            " SELECT %(id)s, %(handler)s, %(tenant)s,"
            " CASE WHEN %(state)s = 'retrying' THEN 'pending' ELSE %(state)s END, %(state)s = 'pending',"
            " CASE WHEN %(state)s IN ('queued', 'running') THEN now() + interval '1 minute' END",
            values,
        )


def search(connection: Connection, *, limit: int = 50, before: UUID | None = None, **narrow: Any) -> list[UUID]:
    return [it.id for it in search_events(connection, EventQuery(**narrow), before=before, limit=limit).events]


# -- every filter, alone and with each other, against the same in Python


@pytest.fixture
def stored(connection: Connection) -> list[dict[str, Any]]:
    """Store 400 events of all kinds; return what they are, the newest first."""
    dice = random.Random(7)  # noqa: S311
    rows: list[dict[str, Any]] = []
    for number in range(400):
        reason = dice.choice([None] * 8 + ["not_json", "schema_mismatch"])
        row: dict[str, Any] = {
            "at": NOW - timedelta(minutes=number),
            "tenant": dice.choice(["acme", "acme", "globex", "o'hara_50%"]),
            "provider": dice.choice(["moveris", "github"]),
            "type": None if reason else dice.choice(["verification.completed", "push"]),
            "subject": dice.choice(["session-1", "session-2", None]),
            "reject_reason": reason,
            "body": dice.choice(BODIES),
            "deliveries": {},
        }
        if not reason:
            chosen = dice.sample(HANDLERS[:2], dice.choice([0, 1, 1, 2]))
            row["deliveries"] = {it: dice.choice([*STATES, "succeeded", "succeeded"]) for it in chosen}
        rows.append(row | {"id": put(connection, **row)})
    connection.execute("ANALYZE events, deliveries, deliveries_done")
    return rows


def has_outcome(row: dict[str, Any], outcome: str, handler: str | None) -> bool:
    states = [state for name, state in row["deliveries"].items() if handler in {None, name}]
    match outcome:
        case "open":
            return bool({"pending", "retrying", "queued", "running"} & {*states})
        case "handled":
            return {*states} == {"succeeded"}
        case "unwanted":
            return not states and row["reject_reason"] is None
    return outcome in states


def fits(row: dict[str, Any], narrow: dict[str, Any]) -> bool:
    """Say in Python what the search says in SQL."""
    handler, outcome = narrow.get("handler"), narrow.get("outcome")
    checks = {
        "state": lambda it: (row["reject_reason"] is None) == (it == "accepted"),
        "reason": lambda it: row["reject_reason"] == it,
        "since": lambda it: row["at"] >= it,
        "until": lambda it: row["at"] < it,
        "outcome": lambda it: has_outcome(row, it, handler),
        "handler": lambda it: outcome is not None or it in row["deliveries"],
        "field": lambda _: True,
        "text": lambda it: it in row["body"].lower() and row["body"] == BODIES[0],
    }
    return all(checks.get(name, lambda it, name=name: row[name] == it)(value) for name, value in narrow.items())


NARROW: Final[list[dict[str, Any]]] = [
    {"tenant": "acme"},
    {"tenant": "o'hara_50%"},
    {"tenant": "nobody"},
    {"provider": "github"},
    {"type": "push"},
    {"subject": "session-2"},
    {"state": "accepted"},
    {"state": "rejected"},
    {"reason": "schema_mismatch"},
    {"handler": "acme.grant"},
    {"handler": "acme.never"},
    {"since": NOW - timedelta(hours=3, seconds=1)},
    {"until": NOW - timedelta(hours=2, seconds=1)},
    {"field": ("data", "model"), "text": b"mixed-30-v2"},
    *({"outcome": it} for it in ("open", "retrying", "handled", "dead", "cancelled", "unwanted")),
]


def test_every_filter_finds_what_fits_alone_and_with_each_other(
    connection: Connection, stored: list[dict[str, Any]]
) -> None:
    pairs = [one | other for one, other in combinations(NARROW, 2) if not {*one} & {*other}]
    tried = 0
    for narrow in [{}, *NARROW, *pairs]:
        expected = [row["id"] for row in stored if fits(row, narrow)]
        asked: dict[str, Any] = {name: it.decode() if isinstance(it, bytes) else it for name, it in narrow.items()}
        found = search_events(connection, EventQuery(**asked), before=None, limit=400)
        assert ([it.id for it in found.events], found.has_more, found.bound) == (expected, False, None), narrow
        tried += bool(expected)
    assert tried > 100, "most of them find something"


def test_tenant_handler_and_outcome_together_find_what_fits(
    connection: Connection, stored: list[dict[str, Any]]
) -> None:
    for outcome in ("open", "retrying", "handled", "dead", "cancelled", "unwanted"):
        for handler in HANDLERS:
            more: dict[str, Any]
            for more in ({}, {"type": "push", "subject": "session-1"}):
                narrow: dict[str, Any] = {"tenant": "acme", "handler": handler, "outcome": outcome, **more}
                expected = [row["id"] for row in stored if fits(row, narrow)]
                assert search(connection, limit=400, **narrow) == expected, narrow


# -- pages


def test_pages_stay_put_while_events_come_in(connection: Connection) -> None:
    ids = [put(connection, at=NOW - timedelta(seconds=number)) for number in range(7)]
    query = EventQuery(tenant="acme")
    first = search_events(connection, query, before=None, limit=3)
    newer = [put(connection, at=NOW + timedelta(seconds=number)) for number in range(1, 6)]
    second = search_events(connection, query, before=first.events[-1].id, limit=3)
    third = search_events(connection, query, before=second.events[-1].id, limit=3)
    assert [it.id for page in (first, second, third) for it in page.events] == ids
    assert (first.has_more, second.has_more, third.has_more) == (True, True, False)

    back = search_events(connection, query, before=None, after=second.events[0].id, limit=3)
    assert [it.id for it in back.events] == ids[:3]
    assert back.has_more
    latest = search_events(connection, query, before=None, after=back.events[0].id, limit=3)
    assert [it.id for it in latest.events] == newer[:3][::-1]


@pytest.mark.parametrize(
    "narrow", [{}, {"tenant": "acme"}, {"outcome": "dead"}, {"outcome": "open"}, {"field": ("a",), "text": "x"}]
)
def test_every_event_is_on_one_page_in_both_directions(connection: Connection, narrow: dict[str, Any]) -> None:
    deliveries = {"acme.grant": "dead", "acme.mail": "dead", "acme.late": "pending", "acme.more": "running"}
    ids = [
        put(connection, at=NOW - timedelta(seconds=number // 3), deliveries=deliveries, body=b'{"a": "x"}')
        for number in range(11)
    ]
    ids.sort(reverse=True)
    query, pages, page = EventQuery(**narrow), [], search_events(connection, EventQuery(**narrow), before=None, limit=2)
    while page.events:
        pages.append([it.id for it in page.events])
        page = search_events(connection, query, before=page.events[-1].id, limit=2)
    assert [it for page in pages for it in page] == ids
    found, after = [], UUID(int=0)
    while page := search_events(connection, query, before=None, after=after, limit=2):
        if not page.events:
            break
        found += [it.id for it in reversed(page.events)]
        after = page.events[0].id
    assert found == ids[::-1]


def test_a_list_tells_the_deliveries_of_each_event(connection: Connection) -> None:
    states = {"a": "succeeded", "b": "succeeded", "c": "dead", "d": "retrying", "e": "pending", "f": "running"}
    put(connection)
    put(connection, at=NOW - timedelta(seconds=1), deliveries=states)
    plain, delivered = search_events(connection, EventQuery(), before=None).events
    assert plain.deliveries == {}
    assert delivered.deliveries == {"succeeded": 2, "dead": 1, "retrying": 1, "pending": 1, "running": 1}


# -- bounds


@pytest.mark.parametrize(
    ("bound", "narrow"),
    [
        ("LOOKED_BOUND", {"type": "rare"}),
        ("LOOKED_BOUND", {"subject": "shared", "type": "rare"}),
        ("LOOKED_BOUND", {"outcome": "unwanted"}),
        ("LOOKED_BOUND", {"outcome": "handled", "tenant": "acme"}),
        ("LOOKED_BOUND", {"outcome": "open", "handler": "acme.rare"}),
        ("LOOKED_BOUND", {"outcome": "dead", "type": "rare"}),
        ("LOOKED_BOUND", {"state": "rejected", "type": "rare"}),
        ("LOOKED_BOUND", {"outcome": "handled", "handler": "acme.rare"}),
        ("PARSED_BOUND", {"field": ("a",), "text": "rare"}),
        ("LOOKED_BOUND", {"field": ("a",), "text": "rare", "type": "rare"}),
        ("BODY_BYTES_BOUND", {"field": ("a",), "text": "rare"}),
    ],
)
def test_a_search_that_ends_at_a_bound_says_so_and_can_go_on(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, bound: str, narrow: dict[str, Any]
) -> None:
    others = {"acme.grant": "dead", "acme.mail": "succeeded", "acme.run": "pending"}
    rare = {"acme.rare": "pending"} if narrow.get("outcome") == "open" else {"acme.rare": "succeeded"}
    rare |= {"acme.mail": "dead"} if narrow.get("outcome") == "dead" else {}
    rare = {} if narrow.get("outcome") == "unwanted" else rare
    reason = "not_json" if "state" in narrow else None
    about: dict[str, Any] = {"type": "rare", "subject": "shared", "body": b'{"a": "rare"}', "reject_reason": reason}
    wanted = put(connection, at=NOW - timedelta(hours=1), deliveries=rare, **about)
    body = json.dumps({"a": "x" * 20}).encode()
    for number in range(20):
        at = NOW - timedelta(minutes=1, seconds=number)
        put(connection, at=at, deliveries=others, body=body, subject="shared", reject_reason=reason)
    monkeypatch.setattr(event_search, "SEARCH_SECONDS", 60.0)
    monkeypatch.setattr(event_search, bound, 8 * (len(body) if bound == "BODY_BYTES_BOUND" else 1))
    monkeypatch.setattr(event_search, "_BODIES_AT_ONCE", 2)
    monkeypatch.setattr(event_search, "_PORTION", 3)
    pages: list[Found] = []
    before = None
    while not pages or pages[-1].bound is not None:
        pages.append(search_events(connection, EventQuery(**narrow), before=before, limit=5))
        before = pages[-1].reached
        assert len(pages) < 20
    assert len(pages) > 2
    assert all(it.bound and it.reached for it in pages[:-1])
    assert [it.id for page in pages for it in page.events] == [wanted]


# -- texts in bodies


TEXTS: Final[list[tuple[tuple[str, ...], str, list[int]]]] = [
    (("data", "model"), "mixed-30", [0]),
    (("data", "model"), "MIXED", [0, 2]),
    (("data", "model"), "mixed-40", [2]),
    (("data", "model"), "grÖsse", []),
    (("data", "model"), "GRÖßE 50%_'\"", [1]),
    (("data", "model"), "%", [1]),
    (("data", "model"), "ö", [1]),
    (("data", "score"), "0.50", [0]),
    (("data", "score"), "7", [1]),
    (("data", "live"), "true", [0]),
    (("data", "tags", "0"), "first", [0]),
    (("data", "tags", "2"), "first", []),
    (("data", "tags"), "first", []),
    (("data",), "mixed-30", [3]),
    (("data", "model", "name"), "mixed-30", [4]),
    (("data", "nothing"), "mixed", []),
    (("data", "model"), "mixed\0", []),
    (("data", "model"), "\ud800", []),
    (("data", "model"), "x" * 1_000_000, []),
]


def test_a_text_is_found_in_its_field_and_a_body_that_is_no_json_is_left_out(connection: Connection) -> None:
    ids = [put(connection, at=NOW - timedelta(seconds=number), body=body) for number, body in enumerate(BODIES)]
    for field, text, numbers in TEXTS:
        found = search(connection, field=field, text=text)
        assert found == [ids[number] for number in numbers], (field, text[:50])


def test_an_empty_text_does_not_narrow_and_a_text_needs_a_field(connection: Connection) -> None:
    event_id = put(connection)
    assert search(connection, field=("data",), text="") == [event_id]
    with pytest.raises(ValueError, match="give one"):
        search(connection, text="x")


def test_a_hostile_text_is_a_text_like_others(connection: Connection) -> None:
    put(connection, deliveries={"acme.grant": "succeeded"})
    hostile = ["\0", "a\0b", "\ud800", "%", "_", "'", '"; DROP TABLE events; --', "\\", "x" * 100_000, "\U0001f600", ""]
    names = [it.name for it in fields(EventQuery) if it.type == "str | None"]
    assert names == ["tenant", "provider", "type", "subject", "reason", "handler", "text"]
    for name, text in product(names, hostile):
        narrow: dict[str, Any] = {name: text} | ({"field": (text,)} if name == "text" else {})
        assert len(search(connection, **narrow)) == (name == "text" and not text), (name, text[:50])


# -- plans


def test_no_search_scans_the_events(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO events (id, provider, tenant, type, received_at, headers, body, secret_label, fingerprint, state)"
        " SELECT overlay(uuid_at(now() - n * interval '1 s')::text PLACING lpad(to_hex(n), 12, '0') FROM 25)::uuid,"
        " 'moveris', 't' || n % 200, 'verification.completed', now(), '{}', '', 'v1', '', 'accepted'"
        " FROM generate_series(1, 60000) n"
    )
    connection.execute(
        "INSERT INTO deliveries_done (event_id, handler, tenant, state, attempt, fence, last_error, created_at)"
        " SELECT id, 'x.run', tenant, CASE WHEN tenant = 't7' THEN 'dead' ELSE 'succeeded' END, 1, 1, 'x', now()"
        " FROM events"
    )
    connection.execute(
        "INSERT INTO deliveries (event_id, handler, tenant)"
        " SELECT id, 'x.late', tenant FROM events ORDER BY id LIMIT 20000"
    )
    connection.execute("ANALYZE events, deliveries, deliveries_done")
    some = UUID(int=0)
    for one, other in combinations([{}, *NARROW, {"tenant": "t7"}, {"handler": "x.run"}], 2):
        query = EventQuery(**{name: value for name, value in (one | other).items() if name not in {"field", "text"}})
        name, values = event_search._choose_walk(query)
        for page in ({"before": None, "after": None}, {"before": some, "after": None}, {"before": None, "after": some}):
            statement: Any = event_search._SQL[name]
            if page["after"] is not None:
                statement = statement.replace(" DESC", " ASC")
            rows = connection.execute(
                f"EXPLAIN {statement}", values | page | {"most": 51, "bound": 2000}, prepare=False
            )
            plan = "\n".join(row["QUERY PLAN"] for row in rows)
            assert not re.findall(r"Seq Scan on (?:events|deliveries)\w*", plan), f"{one | other}\n{plan}"
