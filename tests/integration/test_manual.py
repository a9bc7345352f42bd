"""Transitions by hand: retry, cancel, backfill."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from shared.envelope import new_event_id
from workers.store import manual
from workers.store.connect import Connection, connect
from workers.store.manual import Selection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    import pytest

NOW = datetime.now(UTC)


def store(
    connection: Connection,
    *,
    tenant: str = "acme",
    provider: str = "moveris",
    type: str | None = "verification.completed",  # noqa: A002 - the column's name
    at: datetime = NOW,
) -> UUID:
    """Store one event and return its id; no type: rejected."""
    event_id = new_event_id(at)
    connection.execute(
        "INSERT INTO events (id, provider, tenant, type, received_at, headers, body, secret_label, fingerprint, state,"
        " reject_reason) VALUES (%s, %s, %s, %s, %s, '[]', '', 'v1', %s, %s, %s)",
        [
            event_id,
            provider,
            tenant,
            type,
            at,
            event_id.bytes,
            "accepted" if type else "rejected",
            None if type else "not_json",
        ],
    )
    return event_id


def finish(connection: Connection, event_id: UUID, *, state: str, handler: str = "acme.grant", fence: int = 3) -> None:
    """Store a finished delivery of an event."""
    connection.execute(
        "INSERT INTO deliveries_done (event_id, handler, tenant, state, attempt, fence, last_error, created_at)"
        " SELECT id, %s, tenant, %s, 3, %s, 'broken', now() FROM events WHERE id = %s",
        [handler, state, fence, event_id],
    )


def open_(connection: Connection, event_id: UUID, *, state: str = "pending", handler: str = "acme.grant") -> None:
    """Store an open delivery of an event."""
    connection.execute(
        "INSERT INTO deliveries (event_id, handler, tenant, state, ready, fence, lease_until)"
        " SELECT id, %(handler)s, tenant, %(state)s, %(state)s = 'pending', 7,"
        " CASE WHEN %(state)s <> 'pending' THEN now() + interval '1 minute' END FROM events WHERE id = %(id)s",
        {"handler": handler, "state": state, "id": event_id},
    )


def rows(connection: Connection, table: str) -> dict[tuple[UUID, str], dict[str, Any]]:
    return {(row["event_id"], row["handler"]): row for row in connection.execute(f"SELECT * FROM {table}")}


def total(batches: Iterator[manual.Lanes]) -> int:
    return sum(batch.total() for batch in batches)


def test_a_dead_delivery_is_put_back_due_at_once_with_its_fence_and_fresh_attempts(connection: Connection) -> None:
    event_id = store(connection)
    finish(connection, event_id, state="dead")
    assert total(manual.retry(connection, Selection(event_ids=[event_id]), state="dead")) == 1
    row = rows(connection, "deliveries")[event_id, "acme.grant"]
    assert (row["state"], row["ready"], row["attempt"], row["fence"]) == ("pending", True, 0, 3)
    assert rows(connection, "deliveries_done") == {}


def test_only_what_was_selected_is_retried(connection: Connection) -> None:
    wanted = store(connection)
    finish(connection, wanted, state="dead")
    for other in (
        {"tenant": "other"},
        {"at": NOW - timedelta(days=2)},
    ):
        finish(connection, store(connection, **other), state="dead")
    finish(connection, store(connection), state="dead", handler="acme.other")
    finish(connection, store(connection), state="cancelled")
    finish(connection, store(connection), state="succeeded")
    selection = Selection(tenant="acme", handler="acme.grant", since=NOW - timedelta(hours=1))
    assert list(manual.retry(connection, selection, state="dead", dry_run=True)) == [{("acme", "acme.grant"): 1}]
    assert list(manual.retry(connection, selection, state="dead")) == [{("acme", "acme.grant"): 1}]
    assert list(rows(connection, "deliveries")) == [(wanted, "acme.grant")]


def test_counting_what_a_change_would_take_may_stop_early(connection: Connection) -> None:
    for _ in range(3):
        finish(connection, store(connection), state="dead")
    assert manual.count_lanes(connection, "retry", Selection()).total() == 3
    assert manual.count_lanes(connection, "retry", Selection(), most=2).total() == 2
    assert manual.count_lanes(connection, "resend", Selection(), most=2).total() == 0
    assert manual.count_lanes(connection, "cancel", Selection(), most=2).total() == 0


def test_cancelled_deliveries_are_retried_when_asked_for(connection: Connection) -> None:
    finish(connection, store(connection), state="cancelled")
    finish(connection, store(connection), state="dead")
    assert total(manual.retry(connection, Selection(), state="cancelled")) == 1
    assert [row["state"] for row in rows(connection, "deliveries_done").values()] == ["dead"]


def test_many_are_retried_in_batches_without_leaving_one(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manual, "_BATCH", 4)
    for tenant in ("a", "b"):
        for _ in range(15):
            finish(connection, store(connection, tenant=tenant), state="dead")
    batches = list(manual.retry(connection, Selection(), state="dead"))
    assert [batch.total() for batch in batches] == [4] * 7 + [2]
    assert len(rows(connection, "deliveries")) == 30


def test_what_dies_again_during_a_retry_is_not_taken_twice(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manual, "_BATCH", 2)
    event_ids = sorted(store(connection) for _ in range(6))
    for event_id in event_ids:
        finish(connection, event_id, state="dead")
    retried = 0
    for batch in manual.retry(connection, Selection(), state="dead"):
        retried += batch.total()
        connection.execute(
            "WITH d AS (DELETE FROM deliveries RETURNING *) INSERT INTO deliveries_done"
            " SELECT event_id, handler, tenant, 'dead', attempt, fence, worker, 'again', created_at FROM d"
        )
    assert retried == 6


def test_what_dies_during_a_retry_is_left_alone(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manual, "_BATCH", 1)
    first, second, later = sorted(store(connection) for _ in range(3))
    finish(connection, first, state="dead")
    finish(connection, second, state="dead")
    retrying = manual.retry(connection, Selection(), state="dead")
    assert next(retrying).total() == 1
    finish(connection, later, state="dead")
    assert total(retrying) == 1
    assert list(rows(connection, "deliveries_done")) == [(later, "acme.grant")]


def test_open_deliveries_are_cancelled_and_running_ones_fenced_out(connection: Connection) -> None:
    fences = {}
    for state in ("pending", "queued", "running"):
        event_id = store(connection)
        open_(connection, event_id, state=state)
        fences[event_id] = 8 if state == "running" else 7
    open_(connection, store(connection, tenant="other"))
    selection = Selection(tenant="acme")
    assert list(manual.cancel(connection, selection, dry_run=True)) == [{("acme", "acme.grant"): 3}]
    assert total(manual.cancel(connection, selection)) == 3
    done = rows(connection, "deliveries_done")
    assert {row["state"] for row in done.values()} == {"cancelled"}
    assert {event_id: row["fence"] for (event_id, _), row in done.items()} == fences
    assert len(rows(connection, "deliveries")) == 1


def test_what_is_made_during_a_cancellation_is_left_alone(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manual, "_BATCH", 1)
    for _ in range(2):
        open_(connection, store(connection))
    cancelling = manual.cancel(connection, Selection())
    assert next(cancelling).total() == 1
    later = store(connection, at=NOW + timedelta(hours=1))
    open_(connection, later)
    assert total(cancelling) == 1
    assert list(rows(connection, "deliveries")) == [(later, "acme.grant")]


def test_a_row_that_a_worker_holds_is_cancelled_as_soon_as_it_lets_go(
    connection: Connection, database_url: str
) -> None:
    event_id = store(connection)
    open_(connection, event_id, state="queued")
    with connect(database_url, name="test worker") as worker, ThreadPoolExecutor(1) as pool:
        passed = threading.Event()
        with worker.transaction():
            worker.execute("UPDATE deliveries SET state = 'running', fence = fence + 1")
            cancelling = pool.submit(lambda: total(manual.cancel(connection, Selection(event_ids=[event_id]))))
            passed.wait(0.3)  # it goes round and round meanwhile
            assert not cancelling.done()
        assert cancelling.result(10) == 1
    assert rows(connection, "deliveries_done")[event_id, "acme.grant"]["fence"] == 9


def fill(connection: Connection, **other: Any) -> tuple[int, int]:
    """Backfill the handler acme.later; return how many were missing and made."""
    asked: dict[str, Any] = {
        "handler": "acme.later",
        "provider": None,
        "event": None,
        "tenant": None,
        "since": NOW - timedelta(hours=1),
        "until": NOW + timedelta(hours=1),
    }
    pages = list(manual.backfill(connection, **asked | other))
    return sum(page.missing for page in pages), sum(page.made for page in pages)


def test_a_later_handler_gets_the_deliveries_of_accepted_events_since_then(connection: Connection) -> None:
    wanted = store(connection)
    store(connection, type=None)
    store(connection, at=NOW - timedelta(hours=2))
    store(connection, tenant="other")
    store(connection, type="verification.failed")
    store(connection, provider="github")
    narrowed = {"tenant": "acme", "event": "verification.completed", "provider": "moveris"}
    assert fill(connection, **narrowed, dry_run=True) == (1, 0)
    assert fill(connection, **narrowed) == (1, 1)
    (row,) = rows(connection, "deliveries").values()
    assert (row["event_id"], row["handler"], row["tenant"], row["ready"]) == (wanted, "acme.later", "acme", True)


def test_events_that_have_a_delivery_of_the_handler_get_no_other(connection: Connection) -> None:
    open_(connection, store(connection), handler="acme.later")
    finish(connection, store(connection), state="succeeded", handler="acme.later")
    finish(connection, store(connection), state="dead", handler="acme.later")
    finish(connection, store(connection), state="succeeded", handler="acme.other")
    assert fill(connection) == (1, 1)
    assert fill(connection) == (0, 0)


def test_a_star_at_the_end_of_an_event_stands_for_anything_in_backfills_too(connection: Connection) -> None:
    for kind in ("pull_request.opened", "pull_request.closed", "pull_request_review.submitted", "push", None):
        store(connection, type=kind)
    assert fill(connection, event="pull_request.*") == (2, 2)


def test_a_backfill_leaves_rejected_events_and_types_that_only_begin_alike(connection: Connection) -> None:
    store(connection, type=None)
    assert fill(connection) == (0, 0)
    store(connection, type="pushed")
    assert fill(connection, event="push") == (0, 0)


def test_a_backfill_walks_all_pages(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manual, "_EVENTS_PER_PAGE", 4)
    for minute in range(25):
        store(connection, at=NOW - timedelta(minutes=minute))
    assert fill(connection) == (25, 25)


def test_two_backfills_at_once_make_each_delivery_once_even_while_workers_finish_them(
    connection: Connection, database_url: str
) -> None:
    for _ in range(60):
        store(connection)
    connection.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(0.005); RETURN new; END $$;"
        "CREATE TRIGGER dawdle BEFORE INSERT ON deliveries FOR EACH ROW EXECUTE FUNCTION dawdle()"
    )
    over = threading.Event()

    def work() -> None:
        with connect(database_url, name="test worker") as mine:
            while not over.is_set():
                mine.execute(
                    "WITH d AS (DELETE FROM deliveries RETURNING *) INSERT INTO deliveries_done"
                    " SELECT event_id, handler, tenant, 'succeeded', 1, fence, worker, NULL, created_at FROM d"
                )

    def backfill() -> int:
        with connect(database_url, name="test backfill") as mine:
            return fill(mine)[1]

    with ThreadPoolExecutor(4) as pool:
        worker = pool.submit(work)
        backfills = [pool.submit(backfill) for _ in range(3)]
        made = sum(it.result() for it in backfills)
        over.set()
        worker.result()
    assert made == 60
