"""Jobs: what people have asked for is done in steps, once, whoever is killed meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.integration.test_manual import NOW, finish, open_, rows, store
from workers.housekeeping import jobs as worker
from workers.store import audit, jobs, manual
from workers.store.connect import Connection, connect
from workers.store.jobs import Filter, UnknownJobError

if TYPE_CHECKING:
    from uuid import UUID

    from workers.store.jobs import Job, Kind


def submit(connection: Connection, kind: Kind, chosen: Filter | None = None, **more: Any) -> int:
    return jobs.submit(connection, kind, chosen or Filter(), who="alice", **more)


def do(connection: Connection, kind: Kind, chosen: Filter | None = None, **more: Any) -> Job:
    """Submit a job, do it and return it."""
    job_id = submit(connection, kind, chosen, **more)
    worker.work(connection, seconds=60)
    return jobs.find_job(connection, job_id)


def kill_all(connection: Connection) -> None:
    """Let everything that is open die again."""
    connection.execute(
        "WITH d AS (DELETE FROM deliveries RETURNING *) INSERT INTO deliveries_done"
        " SELECT event_id, handler, tenant, 'dead', attempt, fence, worker, 'again', created_at FROM d"
    )


@pytest.fixture
def dead(connection: Connection) -> list[UUID]:
    """Thirty dead deliveries."""
    ids = sorted(store(connection) for _ in range(30))
    for event_id in ids:
        finish(connection, event_id, state="dead")
    return ids


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manual, "_BATCH", 4)


@pytest.mark.usefixtures("dead")
def test_a_job_says_what_was_asked_for_how_far_it_is_and_is_in_the_audit(connection: Connection) -> None:
    chosen = Filter(tenant="acme", since=NOW - timedelta(hours=1), state="dead")
    job = do(connection, "retry", chosen, why="their API is back")
    assert (job.state, job.expected, job.changed, job.seconds_left) == ("done", 30, 30, 0.0)
    assert (job.filter, job.who, job.why) == (chosen, "alice", "their API is back")
    assert jobs.list_counts(connection, job.id) == {("acme", "acme.grant"): 30}
    ended, begun = audit.list_entries(connection, limit=2, target="job")
    assert (begun.what, begun.who, begun.why) == ("jobs retry", "alice", "their API is back")
    assert (ended.what, ended.who, ended.after) == ("jobs done", "alice", {"changed": 30})


@pytest.mark.usefixtures("dead", "small_steps")
def test_a_step_that_is_killed_leaves_no_trace_and_the_next_one_goes_on_where_it_was(
    connection: Connection, database_url: str
) -> None:
    job_id = submit(connection, "retry", expected=30)
    assert worker.work_on(connection, job_id).can_go_on
    killed = connect(database_url, name="killed")
    killed.execute("BEGIN")
    job = jobs.lock(killed, job_id)
    assert job is not None
    worker._retry(killed, job, None)
    assert not worker.work_on(connection, job_id).can_go_on  # nobody else begins one meanwhile
    connection.execute("SELECT pg_terminate_backend(%s)", [killed.info.backend_pid])
    with pytest.raises(psycopg.OperationalError):
        killed.execute("COMMIT")
    assert jobs.find_job(connection, job_id).changed == 4
    worker.work(connection, seconds=60)
    assert jobs.find_job(connection, job_id).changed == 30
    assert len(rows(connection, "deliveries")) == 30


@pytest.mark.usefixtures("dead", "small_steps")
def test_two_jobs_with_overlapping_filters_do_no_delivery_twice(connection: Connection, database_url: str) -> None:
    first, second = submit(connection, "retry"), submit(connection, "retry", Filter(tenant="acme"))
    while any(it.state == "running" for it in jobs.list_jobs(connection, limit=2)):
        with connect(database_url, name="other") as other, ThreadPoolExecutor(2) as pool:
            steps = pool.submit(worker.work_on, connection, first), pool.submit(worker.work_on, other, second)
            for step in steps:
                step.result()
        kill_all(connection)  # what dies again is a new failure: neither job takes it
    assert sum(it.changed for it in jobs.list_jobs(connection, limit=2)) == 30


@pytest.mark.usefixtures("dead", "small_steps")
def test_a_paused_job_goes_on_where_it_was_and_a_cancelled_one_never(connection: Connection) -> None:
    job_id = submit(connection, "retry", expected=30)
    worker.work_on(connection, job_id)
    jobs.pause_job(connection, job_id)
    worker.work(connection, seconds=60)
    assert jobs.find_job(connection, job_id).changed == 4
    jobs.resume_job(connection, job_id)
    worker.work_on(connection, job_id)
    jobs.cancel_job(connection, job_id)
    worker.work(connection, seconds=60)
    ended = jobs.find_job(connection, job_id)
    assert (ended.state, ended.changed, ended.is_over) == ("cancelled", 8, True)
    with pytest.raises(UnknownJobError, match="is cancelled"):
        jobs.resume_job(connection, job_id)
    with pytest.raises(UnknownJobError, match="no job 99"):
        jobs.cancel_job(connection, 99)


@pytest.mark.usefixtures("dead")
def test_a_rate_is_kept_over_steps_and_processes(connection: Connection) -> None:
    job_id = submit(connection, "retry", rate=5.0, expected=30)
    connection.execute("UPDATE jobs SET counted_at = clock_timestamp() - interval '1 hour'")
    assert worker.work_on(connection, job_id).can_go_on
    job = jobs.find_job(connection, job_id)
    assert (job.changed, job.tokens) == (5, 0.0)  # what one second brings, however long nobody came
    assert (job.seconds_left or 0) == pytest.approx(5.0)
    connection.execute("UPDATE jobs SET counted_at = clock_timestamp() + interval '1 hour'")
    assert not worker.work_on(connection, job_id).can_go_on
    connection.execute("UPDATE jobs SET counted_at = clock_timestamp() - interval '0.5 s'")
    worker.work_on(connection, job_id)
    assert jobs.find_job(connection, job_id).changed == 7


@pytest.mark.usefixtures("dead", "small_steps")
def test_jobs_take_turns(connection: Connection) -> None:
    first = submit(connection, "retry", expected=30)
    second = submit(connection, "cancel", expected=0)
    for _ in range(2):
        worker.work_on(connection, jobs.list_waiting(connection)[0])
    assert jobs.find_job(connection, first).changed == 4
    assert jobs.find_job(connection, second).stepped_at is not None


@pytest.mark.usefixtures("dead")
def test_a_held_job_is_left_to_whoever_asked_until_it_is_released(connection: Connection) -> None:
    job_id = submit(connection, "retry", hold=60.0)
    worker.work(connection, seconds=60)
    assert jobs.find_job(connection, job_id).changed == 0
    jobs.release(connection, job_id)
    worker.work(connection, seconds=60)
    assert jobs.find_job(connection, job_id).state == "done"


@pytest.mark.parametrize(
    "narrow",
    [
        {"provider": "github"},
        {"type": "push"},
        {"error": "503 service"},
        {"until": NOW - timedelta(days=1)},
        {"tenant": "other"},
        {"handler": "acme.other"},
    ],
    ids=lambda it: next(iter(it)),
)
@pytest.mark.usefixtures("dead", "small_steps")
def test_only_what_the_filter_names_is_touched(connection: Connection, narrow: dict[str, Any]) -> None:
    wanted = store(connection, tenant="other", provider="github", type="push", at=NOW - timedelta(days=2))
    finish(connection, wanted, state="dead", handler="acme.other")
    connection.execute(
        "UPDATE deliveries_done SET last_error = 'HTTPError: 503 Service Unavailable' WHERE tenant = 'other'"
    )
    assert do(connection, "retry", Filter(**narrow)).changed == 1
    assert [event_id for event_id, _ in rows(connection, "deliveries")] == [wanted]


def test_what_has_succeeded_is_resent_once_by_name(connection: Connection) -> None:
    wanted = store(connection)
    finish(connection, wanted, state="succeeded", fence=3)
    finish(connection, wanted, state="succeeded", handler="acme.other")
    finish(connection, store(connection), state="dead")
    job = do(connection, "resend", Filter(handler="acme.grant"))
    assert (job.expected, job.changed) == (1, 1)
    row = rows(connection, "deliveries")[wanted, "acme.grant"]
    assert (row["state"], row["ready"], row["attempt"], row["fence"], row["last_error"]) == (
        "pending",
        True,
        0,
        3,
        None,
    )


def test_a_resend_walks_all_that_is_finished_and_leaves_what_succeeds_meanwhile(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manual, "_BATCH", 2)
    for _ in range(5):
        finish(connection, store(connection), state="succeeded")
    job_id = submit(connection, "resend", Filter(handler="acme.grant"), expected=5)
    worker.work_on(connection, job_id)
    connection.execute(
        "WITH d AS (DELETE FROM deliveries RETURNING *) INSERT INTO deliveries_done"
        " SELECT event_id, handler, tenant, 'succeeded', 1, fence, worker, NULL, created_at FROM d"
    )
    worker.work(connection, seconds=60)
    assert jobs.find_job(connection, job_id).changed == 5
    assert len(rows(connection, "deliveries")) == 3


def test_a_cancellation_comes_back_for_what_a_worker_held(connection: Connection, database_url: str) -> None:
    ids = [store(connection) for _ in range(2)]
    for event_id in ids:
        open_(connection, event_id, state="queued")
    job_id = submit(connection, "cancel", expected=2)
    with connect(database_url, name="test worker") as holder, holder.transaction():
        holder.execute("UPDATE deliveries SET state = 'running', fence = fence + 1 WHERE event_id = %s", [ids[0]])
        worker.work(connection, seconds=60)
        assert jobs.find_job(connection, job_id).changed == 1
    worker.work(connection, seconds=60)
    assert jobs.find_job(connection, job_id).state == "done"
    assert rows(connection, "deliveries_done")[ids[0], "acme.grant"]["fence"] == 9


def test_a_cancellation_can_be_of_what_only_waits(connection: Connection) -> None:
    for state in ("pending", "running"):
        open_(connection, store(connection), state=state)
    assert do(connection, "cancel", Filter(state="pending")).changed == 1
    assert [row["state"] for row in rows(connection, "deliveries").values()] == ["running"]


def test_a_backfill_counts_what_it_looked_at_and_made(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manual, "_EVENTS_PER_PAGE", 4)
    for minute in range(9):
        store(connection, tenant=f"t{minute % 2}", at=NOW - timedelta(minutes=minute))
    store(connection, type="other")
    chosen = Filter(handler="acme.later", type="verification.completed", since=NOW - timedelta(hours=1))
    job = do(connection, "backfill", chosen)
    assert (job.state, job.expected, job.looked_at, job.changed) == ("done", 10, 10, 9)
    assert jobs.list_counts(connection, job.id) == {("t0", "acme.later"): 5, ("t1", "acme.later"): 4}


def test_events_are_parsed_again_by_reason_and_by_id(connection: Connection) -> None:
    ids = [store(connection, type=None) for _ in range(3)]
    other = store(connection, tenant="other", type=None)
    connection.execute("UPDATE events SET headers = '{}'")
    job = do(connection, "reprocess", Filter(reason="not_json", tenant="acme"))
    assert (job.expected, job.changed) == (3, 3)
    by_id = jobs.submit(connection, "reprocess", Filter(event_ids=[other]), who="alice")
    connection.execute("DELETE FROM jobs WHERE id < %s", [by_id])
    worked = [worker.work_on(connection, by_id) for _ in range(2)]
    assert [it.event_id for worked_ in worked for it in worked_.outcomes] == [other]
    assert sum(jobs.list_counts(connection, by_id).values()) == 1
    assert len(ids) == 3


def test_an_event_that_cannot_be_parsed_again_at_all_keeps_none_of_the_others(
    connection: Connection,
) -> None:
    ids = [store(connection, type=None) for _ in range(3)]
    connection.execute("UPDATE events SET headers = '{}'")
    connection.execute("UPDATE events SET headers = %s WHERE id = %s", ['{"x": "\u0436"}', ids[1]])  # no header's bytes
    job = do(connection, "reprocess", Filter(reason="not_json"))
    assert (job.state, job.changed) == ("done", 3)
    assert jobs.list_counts(connection, job.id) == {("acme", "rejected"): 2, ("-", "failed"): 1}
    assert connection.execute("SELECT state FROM events WHERE id = %s", [ids[1]]).fetchone() == {"state": "rejected"}


@pytest.mark.usefixtures("dead")
def test_an_error_that_is_not_the_environments_ends_the_job_with_its_text(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(manual, "retry_step", refuse)
    job = do(connection, "retry")
    assert (job.state, job.error, job.changed) == ("failed", "ValueError: no such thing", 0)


@pytest.mark.usefixtures("dead")
def test_with_postgres_away_the_job_waits(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*_: Any, **__: Any) -> None:
        raise psycopg.OperationalError("gone")

    with monkeypatch.context() as away:
        away.setattr(manual, "retry_step", lose)
        with pytest.raises(psycopg.OperationalError):
            do(connection, "retry")
    worker.work(connection, seconds=60)
    assert jobs.list_jobs(connection, limit=1)[0].state == "done"


@pytest.mark.usefixtures("dead")
def test_what_cannot_be_counted_in_time_is_done_all_the_same(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: Any, **__: Any) -> None:
        raise psycopg.errors.QueryCanceled

    monkeypatch.setattr(manual, "count_lanes", late)
    job = do(connection, "retry")
    assert (job.state, job.expected, job.changed) == ("done", None, 30)


def test_a_filter_is_read_as_it_was_written_and_an_unknown_one_is_an_error() -> None:
    chosen = Filter(event_ids=[], tenant="acme", since=datetime.now(UTC), reason="poison")
    assert Filter.from_json(chosen.to_json()) == chosen
    with pytest.raises(ValueError, match="no filter 'colour'"):
        Filter.from_json({"colour": "red"})


def test_old_jobs_are_forgotten(connection: Connection) -> None:
    do(connection, "retry")
    submit(connection, "retry")
    connection.execute("UPDATE jobs SET finished_at = finished_at - interval '40 days'")
    jobs.forget_jobs(connection, days=30)
    assert [it.state for it in jobs.list_jobs(connection, limit=10)] == ["running"]
