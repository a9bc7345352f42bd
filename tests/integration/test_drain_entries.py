"""What an entry may hold: whatever it is, it is stored, and its neighbours go through."""

from __future__ import annotations

import json
import uuid
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import wire
from shared.envelope import Envelope, encode, new_event_id
from tests.integration.draining import HELLO, count, events, everyone, post, run, take_and_die
from tests.names import NAMES
from workers.ingest.reprocess import reprocess

if TYPE_CHECKING:
    from redis import Redis

    from workers.store.connect import Connection


SECOND, ZERO = timedelta(seconds=1), timedelta()


@pytest.mark.parametrize(
    "fields",
    [
        {b"v": b"9", b"id": b"x", b"body": HELLO},
        {b"v": b"1", b"tenant": b"acme\x00\xff"},
        {b"nonsense": b"\xff\x00"},
        {b"v": b"1", b"id": b"short", b"provider": b"p", b"tenant": b"t", b"label": b"l", b"received_at": b"0",
         b"headers": b"", b"body": b""},
    ],
)  # fmt: skip
def test_an_entry_that_is_no_envelope_is_kept_with_all_its_fields(
    client: Redis, connection: Connection, fields: dict[bytes, bytes]
) -> None:
    client.xadd(NAMES.inbox, fields)  # type: ignore[arg-type]
    good = post(client)
    take_and_die(client)
    assert run(client, connection).rejected == 1
    stored = events(connection)
    assert stored.pop(good)["state"] == "accepted"
    (broken,) = stored.values()
    assert (broken["reject_reason"], broken["state"]) == ("bad_envelope", "rejected")
    assert len(json.loads(broken["body"])) == len(fields)
    assert broken["notes"]
    assert client.xlen(NAMES.inbox) == 0


def test_an_envelope_that_a_later_version_can_read_is_accepted_then(
    client: Redis, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        later.setattr("shared.envelope.VERSION", b"2")
        post(client)
    assert run(client, connection).rejected == 1
    (still,) = reprocess(connection, catalogue=everyone, reason="bad_envelope")
    assert (still.outcome, still.reason) == ("rejected", "bad_envelope")
    monkeypatch.setattr("shared.envelope.VERSION", b"2")
    (result,) = reprocess(connection, catalogue=everyone, reason="bad_envelope")
    assert result.outcome == "accepted"
    (stored,) = events(connection).values()
    assert (stored["body"], stored["type"], stored["tenant"]) == (HELLO, "greeting", "acme")


def test_an_entry_that_repeats_a_field_is_no_envelope_and_is_kept_with_both_values(
    client: Redis, connection: Connection
) -> None:
    post(client)
    ((_, fields),) = cast("Any", client.xrange(NAMES.inbox))
    client.delete(NAMES.inbox)
    client.execute_command(
        "XADD", NAMES.inbox, "*", *(it for pair in fields.items() for it in pair), "body", b"another"
    )
    good = post(client, b'{"type":"later"}')
    assert run(client, connection).rejected == 1
    stored = events(connection)
    assert stored.pop(good)["state"] == "accepted"
    (broken,) = stored.values()
    assert broken["reject_reason"] == "bad_envelope"
    assert {HELLO, b"another"} <= {b64decode(value) for value in json.loads(broken["body"]).values()}
    assert client.xlen(NAMES.inbox) == 0


def completed(created_at: datetime) -> bytes:
    """A result of Moveris whose signed date is this one."""
    moment = created_at.isoformat()
    result = {"verdict": "live", "confidence": 0.9, "real_score": 0.9, "score": 90, "model": "m", "created_at": moment}
    tree = {"event": "verification.completed", "session_id": "s1", "timestamp": moment, "data": result}
    return json.dumps(tree).encode()


def test_an_event_older_than_its_receipt_could_be_is_rejected_and_may_be_taken_by_hand(
    client: Redis, connection: Connection
) -> None:
    now = datetime.now(UTC)
    ages = {name: timedelta(days=30) + more for name, more in (("old", SECOND), ("young", -SECOND), ("exact", ZERO))}
    ids = {name: post(client, completed(now - age), provider="moveris", received_at=now) for name, age in ages.items()}
    counts = run(client, connection)
    assert (counts.stored, counts.rejected) == (2, 1)
    row = events(connection)[ids["old"]]
    assert (row["state"], row["reject_reason"]) == ("rejected", "too_old")
    assert row["notes"] == ["dated 30 days before it was received; DEDUP_DAYS is 30"]
    assert {events(connection)[ids[name]]["state"] for name in ("young", "exact")} == {"accepted"}
    post(client, completed(now - ages["old"]), provider="moveris", received_at=now)
    assert run(client, connection).duplicates == 1
    (result,) = reprocess(connection, catalogue=everyone, reason="too_old")
    assert (result.event_id, result.outcome) == (ids["old"], "accepted")


def test_the_age_of_an_event_is_that_at_its_arrival_and_not_when_it_is_stored(
    client: Redis, connection: Connection
) -> None:
    received_at = datetime.now(UTC) - timedelta(days=40)  # it waited in the inbox
    post(client, completed(received_at - timedelta(days=29)), provider="moveris", received_at=received_at)
    assert run(client, connection).stored == 1


def test_what_carries_no_date_of_its_own_is_never_too_old(client: Redis, connection: Connection) -> None:
    post(client, b'{"type":"t","timestamp":"2001-01-01T00:00:00Z"}')
    post(client, b'{"id":1,"created_at":"2001-01-01T00:00:00Z"}', provider="shopify")
    assert run(client, connection).stored == 2
    post(client, b'{"id":"evt_1","type":"a","created":978307200}', provider="stripe")
    post(client, b'{"type":"event_callback","event_id":"E1","event_time":978307200}', provider="slack")
    post(client, b'{"event":"new.kind","timestamp":"2001-01-01T00:00:00Z"}', provider="moveris")
    assert run(client, connection).rejected == 3


GOOD: dict[bytes, bytes] = encode(
    Envelope(
        id=new_event_id(datetime(2026, 3, 27, tzinfo=UTC)),
        provider="in-house",
        tenant="acme",
        secret_label="first",
        received_at=datetime(2026, 3, 27, tzinfo=UTC),
        headers=((b"content-type", b"application/json"),),
        body=HELLO,
    )
)
AWKWARD = [b"", b"\0", b"a\0b", b"\xff", b"\xed\xa0\x80", b"x" * 9000, b"9" * 30, b"-1", b"\r\n\r\n: \0", b"{}"]


@pytest.mark.parametrize("field", sorted(GOOD), ids=lambda field: field.decode())
@pytest.mark.parametrize("value", AWKWARD, ids=range(len(AWKWARD)))
def test_whatever_stands_in_a_field_the_entry_is_stored_and_its_neighbours_go_through(
    client: Redis, connection: Connection, field: bytes, value: bytes
) -> None:
    client.xadd(NAMES.inbox, GOOD | {field: value})  # type: ignore[arg-type]
    neighbours = [post(client, b'{"type":"t","n":%d}' % number) for number in range(3)]
    counts = run(client, connection)
    assert counts.stored + counts.rejected == 4
    assert set(neighbours) <= {event_id for event_id, row in events(connection).items() if row["state"] == "accepted"}
    assert client.xlen(NAMES.inbox) == 0
    assert client.xpending(NAMES.inbox, wire.INBOX_GROUP)["pending"] == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from([*GOOD, b"other"]), st.binary(max_size=60)), min_size=1, max_size=8))
def test_arbitrary_bytes_in_any_fields_end_stored(
    client: Redis, connection: Connection, changes: list[dict[bytes, bytes]]
) -> None:
    before = count(connection, "events") + count(connection, "arrivals")
    for change in changes:
        client.xadd(NAMES.inbox, GOOD | {b"id": uuid.uuid4().bytes} | change)  # type: ignore[arg-type]
    counts = run(client, connection)
    assert counts.read == len(changes)
    assert client.xlen(NAMES.inbox) == 0
    kept = count(connection, "events") + count(connection, "arrivals") - before
    assert kept == counts.stored + counts.rejected + counts.duplicates
    with_own_id = sum(len(change.get(b"id", b"")) == 16 for change in changes)
    assert kept >= len(changes) - with_own_id  # an id that is there already is the same entry again


def test_what_the_database_refuses_in_any_other_form_is_stored_with_all_its_fields_in_base64(
    client: Redis, connection: Connection
) -> None:
    connection.execute("ALTER TABLE events ADD CHECK (tenant <> 'cursed')")
    cursed = post(client, tenant="cursed")
    post(client)
    counts = run(client, connection)
    assert (counts.stored, counts.rejected) == (1, 1)
    row = events(connection)[cursed]
    assert (row["state"], row["reject_reason"], row["tenant"]) == ("rejected", "refused_by_database", "unknown")
    fields = {name: b64decode(value) for name, value in json.loads(row["body"]).items()}
    assert (fields["tenant"], fields["body"], fields["provider"]) == (b"cursed", HELLO, b"in-house")
