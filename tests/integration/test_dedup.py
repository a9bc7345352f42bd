"""The same event counts once, however often, wherever and in whatever company it arrives."""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from shared.envelope import Envelope, new_event_id
from tests.integration.draining import Fixed
from workers.ingest.parsing import parse_envelope
from workers.ingest.reprocess import reprocess
from workers.store import events as store
from workers.store.connect import connect
from workers.store.entry import Entry, headers_json, notes_array
from workers.store.events import Counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workers.store.connect import Connection

START = datetime(2026, 3, 27, 12, tzinfo=UTC)


CATALOGUE = Fixed(lambda *_: ("acme.run",))


def store_batch(connection: Connection, batch: Sequence[Entry]) -> Counts:
    return store.store_batch(connection, batch, CATALOGUE)


def entry(name: str, *, tenant: str = "acme", provider: str = "in-house", body: bytes | None = None) -> Entry:
    """An arrival of the event `name`, under an id of its own."""
    return parse_envelope(
        Envelope(
            id=new_event_id(START),
            provider=provider,
            tenant=tenant,
            secret_label="first",
            received_at=START,
            headers=((b"user-agent", b"test"),),
            body=b'{"type":"t","name":"%s"}' % name.encode() if body is None else body,
        )
    )


def verification(*, model: str = "mixed-10-v2") -> bytes:
    moment = "2026-03-27T15:26:42Z"
    result = {
        "verdict": "live",
        "confidence": 0.9,
        "real_score": 0.9,
        "score": 90,
        "model": model,
        "created_at": moment,
    }
    payload = {"event": "verification.completed", "session_id": "s1", "timestamp": moment, "data": result}
    return json.dumps(payload).encode()


def moveris(body: bytes) -> Entry:
    envelope = Envelope(
        id=new_event_id(START), provider="moveris", tenant="acme", secret_label="first", received_at=START, headers=(),
        body=body,
    )  # fmt: skip
    return parse_envelope(envelope)


def numbers(connection: Connection) -> tuple[int, int, int, int]:
    (row,) = connection.execute(
        "SELECT (SELECT count(*) FROM events) AS events, (SELECT count(*) FROM receipts) AS receipts,"
        " (SELECT count(*) FROM arrivals) AS arrivals, (SELECT count(*) FROM deliveries) AS deliveries"
    ).fetchall()
    return row["events"], row["receipts"], row["arrivals"], row["deliveries"]


def test_a_duplicate_within_a_batch_is_an_arrival_of_the_first(connection: Connection) -> None:
    first, second, other = entry("a"), entry("a"), entry("b")
    assert store_batch(connection, [first, second, other]) == Counts(2, 0, 1, 2)
    (arrival,) = connection.execute("SELECT * FROM arrivals").fetchall()
    assert (arrival["id"], arrival["first_id"]) == (second.id, first.id)


def test_a_duplicate_in_a_later_batch_is_an_arrival_of_the_first(connection: Connection) -> None:
    first, second = entry("a"), entry("a")
    store_batch(connection, [first])
    assert store_batch(connection, [second, entry("b")]) == Counts(1, 0, 1, 1)
    (arrival,) = connection.execute("SELECT * FROM arrivals").fetchall()
    assert (arrival["id"], arrival["first_id"]) == (second.id, first.id)


def test_an_empty_batch_stores_nothing(connection: Connection) -> None:
    assert store_batch(connection, []) == Counts()


def test_a_batch_stored_again_changes_nothing(connection: Connection) -> None:
    batch = [entry("a"), entry("a"), entry("b"), entry("bad", body=b"no json")]
    assert store_batch(connection, batch) == Counts(2, 1, 1, 2)
    before = numbers(connection)
    assert store_batch(connection, batch) == Counts()
    assert store_batch(connection, batch[::-1]) == Counts()
    assert numbers(connection) == before


def test_another_tenant_s_event_is_another_event(connection: Connection) -> None:
    assert store_batch(connection, [entry("a"), entry("a", tenant="globex")]).accepted == 2
    again = entry("a", tenant="globex")
    assert store_batch(connection, [again]) == Counts(0, 0, 1, 0)
    (row,) = connection.execute("SELECT a.id, e.tenant FROM arrivals AS a JOIN events AS e ON e.id = a.first_id")
    assert (row["id"], row["tenant"]) == (again.id, "globex")


def test_another_provider_s_event_is_another_event_in_one_batch_and_in_the_next(connection: Connection) -> None:
    assert store_batch(connection, [entry("a"), entry("a", provider="other")]) == Counts(2, 0, 0, 2)
    assert store_batch(connection, [entry("a", provider="third"), entry("a")]) == Counts(1, 0, 1, 1)


def test_a_rejected_body_counts_once_too(connection: Connection) -> None:
    batch = [entry("bad", body=b"no json"), entry("bad", body=b"no json")]
    assert store_batch(connection, batch) == Counts(0, 1, 1, 0)


def test_the_provider_s_identity_counts_not_the_bytes(connection: Connection) -> None:
    assert store_batch(connection, [moveris(verification()), moveris(verification() + b" ")]).duplicates == 1
    assert store_batch(connection, [moveris(verification(model="mixed-30-v2"))]).accepted == 1


def test_eight_drains_with_the_same_events_store_each_once(connection: Connection, database_url: str) -> None:
    names = [f"event {number}" for number in range(60)]
    barrier = threading.Barrier(8)

    def store_all(worker: int) -> Counts:
        total = Counts()
        with connect(database_url, name=f"drain {worker}") as own:
            for start in range(0, 60, 20):
                # Every drain has them in another order; each arrival has an id of its own.
                batch = [entry(name) for name in names[start : start + 20]]
                batch = batch[worker:] + batch[:worker]
                barrier.wait()
                total = total.plus(store_batch(own, batch))
        return total

    with ThreadPoolExecutor(8) as pool:
        total = Counts()
        for counts in pool.map(store_all, range(8)):
            total = total.plus(counts)
    assert total == Counts(accepted=60, rejected=0, duplicates=420, deliveries=60)
    assert numbers(connection) == (60, 60, 420, 60)
    (row,) = connection.execute("SELECT count(*) AS n FROM arrivals a JOIN events e ON e.id = a.first_id").fetchall()
    assert row["n"] == 420


def test_eight_drains_with_the_same_entries_store_each_once_and_count_no_arrival(
    connection: Connection, database_url: str
) -> None:
    batch = [entry(f"event {number}") for number in range(100)]
    barrier = threading.Barrier(8)

    def store_all(worker: int) -> Counts:
        with connect(database_url, name=f"drain {worker}") as own:
            barrier.wait()
            return store_batch(own, batch[worker:] + batch[:worker])

    with ThreadPoolExecutor(8) as pool:
        accepted = sum(counts.accepted for counts in pool.map(store_all, range(8)))
    assert accepted == 100
    assert numbers(connection) == (100, 100, 0, 100)


def test_a_batch_waits_for_the_one_that_holds_its_key(connection: Connection, database_url: str) -> None:
    first, second = entry("a"), entry("a")
    with connect(database_url, name="other") as other, ThreadPoolExecutor(1) as pool:
        with other.transaction(force_rollback=True):
            assert store_batch(other, [first]).accepted == 1
            waiting = pool.submit(store_batch, connection, [second])
            while not _waits(other):
                pass
        # The other drain's transaction was lost: the event is ours.
        assert waiting.result(10) == Counts(1, 0, 0, 1)
    assert numbers(connection) == (1, 1, 0, 1)


def _waits(connection: Connection) -> bool:
    (row,) = connection.execute("SELECT count(*) AS n FROM pg_locks WHERE NOT granted").fetchall()
    return bool(row["n"])


def test_a_receipt_that_retention_drops_at_that_moment_loses_no_event(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = entry("a"), entry("a")
    store_batch(connection, [first])
    real = store._insert_arrivals
    gone: list[object] = []

    def drop_first(cursor: Any, others: Any) -> int:
        if not gone:
            gone.append(cursor.execute("DELETE FROM receipts"))
        return real(cursor, others)

    monkeypatch.setattr(store, "_insert_arrivals", drop_first)
    store_batch(connection, [second])
    (row,) = connection.execute("SELECT count(*) AS n FROM arrivals").fetchall()
    assert row["n"] == 1  # the whole attempt was rolled back, the deletion included, and done again


@pytest.mark.parametrize("place", [0, 3, 9])
def test_a_row_that_the_database_refuses_is_rejected_and_its_neighbours_pass(
    connection: Connection, place: int
) -> None:
    connection.execute("ALTER TABLE events ADD CONSTRAINT t CHECK (type <> 'refused')")
    batch = [entry(f"event {number}") for number in range(10)]
    body = b'{"type":"refused"}'
    batch[place] = entry("", body=body)
    assert store_batch(connection, batch) == Counts(9, 1, 0, 9)
    (row,) = connection.execute("SELECT * FROM events WHERE state = 'rejected'").fetchall()
    assert (row["id"], row["reject_reason"], row["body"]) == (batch[place].id, "refused_by_database", body)
    assert row["notes"] == ["23514 CheckViolation"]
    assert row["headers"] == {"user-agent": "test"}
    connection.execute("ALTER TABLE events DROP CONSTRAINT t")
    (result,) = reprocess(connection, catalogue=CATALOGUE, event_ids=[batch[place].id])
    assert (result.outcome, result.handlers) == ("accepted", ("acme.run",))


def test_headers_that_jsonb_refuses_are_left_out_and_that_is_noted(connection: Connection) -> None:
    bad = entry("a")._replace(headers='{"user-agent": "\\u0000"}')
    assert store_batch(connection, [entry("b"), bad]) == Counts(1, 1, 0, 1)
    (row,) = connection.execute("SELECT * FROM events WHERE state = 'rejected'").fetchall()
    assert (row["headers"], row["body"], row["notes"][-1]) == ({}, bad.body, "headers left out")


@pytest.mark.parametrize("text", ["a\0b", "\ud800"], ids=["NUL", "surrogate"])
@pytest.mark.parametrize("column", ["subject", "type", "tenant", "secret_label"])
def test_a_text_that_cannot_be_sent_at_all_is_refused_alone(connection: Connection, column: str, text: str) -> None:
    odd = entry("a")._replace(**{column: text})  # type: ignore[arg-type]
    assert store_batch(connection, [entry("b"), odd]) == Counts(1, 1, 0, 1)


def test_an_inbox_restored_from_an_old_backup_brings_nothing_twice(connection: Connection) -> None:
    batch = [entry("a"), entry("b")]
    store_batch(connection, batch)
    connection.execute("DELETE FROM receipts")  # their time is over
    connection.execute("DELETE FROM deliveries")  # done since
    new = entry("c")
    assert store_batch(connection, [*batch, new]) == Counts(1, 0, 0, 1)
    assert numbers(connection)[0] == 3
    assert [row["event_id"] for row in connection.execute("SELECT event_id FROM deliveries")] == [new.id]


def test_an_error_that_is_not_the_data_s_stores_nothing_and_rejects_nothing(connection: Connection) -> None:
    connection.execute("ALTER TABLE deliveries RENAME TO hidden")
    with pytest.raises(psycopg.errors.UndefinedTable):
        store_batch(connection, [entry("a"), entry("b")])
    connection.execute("ALTER TABLE hidden RENAME TO deliveries")
    assert numbers(connection) == (0, 0, 0, 0)


def test_a_serialization_failure_is_tried_again(connection: Connection) -> None:
    connection.execute(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval('tries') <= 2 THEN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END IF;"
        " RETURN NULL; END $$; CREATE SEQUENCE tries;"
        " CREATE TRIGGER fail AFTER INSERT ON receipts FOR EACH STATEMENT EXECUTE FUNCTION fail()"
    )
    assert store_batch(connection, [entry("a")]).accepted == 1


def test_a_rejected_event_that_is_understood_now_is_accepted_with_its_deliveries(connection: Connection) -> None:
    refused = moveris(verification())._replace(reject_reason="schema_mismatch", fingerprint=b"of the body", type=None)
    store_batch(connection, [refused])
    (tried,) = reprocess(connection, catalogue=CATALOGUE, reason="schema_mismatch", dry_run=True)
    assert (tried.outcome, numbers(connection)) == ("accepted", (1, 1, 0, 0))
    (result,) = reprocess(connection, catalogue=CATALOGUE, reason="schema_mismatch")
    assert (result.event_id, result.outcome, result.handlers) == (refused.id, "accepted", ("acme.run",))
    (row,) = connection.execute("SELECT * FROM events").fetchall()
    assert (row["state"], row["type"], row["reject_reason"]) == ("accepted", "verification.completed", None)
    assert store_batch(connection, [moveris(verification())]).duplicates == 1
    (again,) = reprocess(connection, catalogue=CATALOGUE, event_ids=[refused.id])
    assert again.outcome == "not_rejected"
    assert numbers(connection)[3] == 1


def test_a_rejected_event_whose_twin_was_accepted_stays_rejected_and_names_it(connection: Connection) -> None:
    refused = moveris(verification())._replace(reject_reason="schema_mismatch", fingerprint=b"of the body", type=None)
    twin = moveris(verification())
    store_batch(connection, [refused, twin])
    (result,) = reprocess(connection, catalogue=CATALOGUE, reason="schema_mismatch")
    assert (result.outcome, result.reason, result.same_as) == ("duplicate", "duplicate", twin.id)
    (row,) = connection.execute("SELECT * FROM events WHERE id = %s", [refused.id]).fetchall()
    assert (row["state"], row["reject_reason"], row["notes"]) == (
        "rejected",
        "duplicate",
        [f"the same event as {twin.id}"],
    )
    assert numbers(connection)[3] == 1


def test_what_is_still_bad_stays_rejected_and_what_is_not_there_is_said(connection: Connection) -> None:
    bad = entry("bad", body=b"no json")
    store_batch(connection, [bad])
    missing = uuid.uuid4()
    results = list(reprocess(connection, catalogue=CATALOGUE, event_ids=[bad.id, missing, bad.id]))
    assert [(result.event_id, result.outcome, result.reason) for result in results] == [
        (bad.id, "rejected", "invalid_json"),
        (missing, "not_found", None),
    ]


def test_notes_are_stored_as_they_are(connection: Connection) -> None:
    notes = ['a "quoted" one', "back\\slash, comma", "{braces}", "NULL", ""]
    odd = entry("a")._replace(notes=notes_array(notes), occurred_at=START - timedelta(days=1))
    store_batch(connection, [odd])
    (row,) = connection.execute("SELECT notes, occurred_at FROM events").fetchall()
    assert (row["notes"], row["occurred_at"]) == (notes, START - timedelta(days=1))


def test_a_repeated_header_is_joined() -> None:
    assert headers_json([(b"a", b"1"), (b"b", b"\xe9"), (b"a", b"2")]) == '{"a":"1, 2","b":"é"}'
