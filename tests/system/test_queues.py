"""Celery messages are hints: losing them all costs time only. Workers that are told to stop hand their work back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.moveris import other
from tests.system.ledger import account, effects, effects_of_more_than_one_run, wait_until_settled
from tests.system.stack import PREFIX
from tests.system.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.stack import Stack

DELETED_COUNT = 1000
SHUTDOWN_COUNT = 1000
PAUSED_COUNT = 600
CELERY_NAMES = ("ingest", "handlers", "express", "housekeeping", "unacked", "unacked_index", "unacked_mutex")
CELERY_KEYS = [PREFIX + name for name in CELERY_NAMES]


def _store_backlog(stack: Stack, tenant: str, count: int, ids_file: Path) -> list[str]:
    """Make a backlog for a paused tenant, all of it stored, and resume the tenant; return the ids."""
    stack.query("UPDATE tenants SET paused_at = now() WHERE name = %s", [tenant])
    stack.pipeline("send", tenant, f"--count={count}", "--event=effect.slowly", f"--ids-file={ids_file}")
    ids = ids_file.read_text().split()
    until(lambda: account(stack, ids).is_stored, seconds=20, what="the stored backlog")
    assert account(stack, ids).open == count
    stack.query("UPDATE tenants SET paused_at = NULL WHERE name = %s", [tenant])
    return ids


def test_deleting_every_celery_queue_while_deliveries_wait_loses_none(stack: Stack, tmp_path: Path) -> None:
    ids = _store_backlog(stack, "flushed", DELETED_COUNT, tmp_path / "ids")
    with stack.redis() as redis:
        for share in (0.1, 0.3, 0.5):
            until(lambda: account(stack, ids).succeeded >= DELETED_COUNT * share, seconds=60, what="progress")  # noqa: B023 - called at once
            assert account(stack, ids).open > 0
            until(lambda: redis.llen(f"{PREFIX}handlers"), seconds=10, what="messages of handlers", every=0.01)
            assert redis.delete(*CELERY_KEYS) > 0
    done = wait_until_settled(stack, ids, seconds=60)
    assert (done.succeeded, done.failed) == (DELETED_COUNT, 0)
    assert len(effects(stack, ids)) == DELETED_COUNT
    assert effects_of_more_than_one_run(stack) == []


def test_nothing_of_a_paused_handler_starts_though_it_was_queued_and_all_of_it_runs_once_after(
    stack: Stack, tmp_path: Path
) -> None:
    ids = _store_backlog(stack, "held", PAUSED_COUNT, tmp_path / "ids")
    until(lambda: account(stack, ids).succeeded > 0, seconds=30, what="progress")
    pause = ("handlers", "pause", "effects.slowly", "--tenant", "held", "--reason", "their API is down")
    assert "what runs goes on to its end" in stack.pipeline(*pause)
    until(lambda: in_flight(stack, ids) == 0, seconds=2, what="the end of what ran")
    before = account(stack, ids)
    assert before.open > 0
    claims = "SELECT max(fence) AS last FROM deliveries WHERE tenant = 'held'"
    (last,) = stack.query(claims)
    ids.append(stack.endpoint("held").deliver(other("effect.slowly")))
    until(lambda: account(stack, ids).open == before.open + 1, seconds=10, what="the event that came meanwhile")
    with stack.redis() as redis:  # other work goes on, by workers that would take this too
        stack.pipeline("send", "shutdown", "--count=50", "--event=effect.slowly", "--wait")
        assert redis.llen(f"{PREFIX}handlers") == 0
    assert (account(stack, ids).succeeded, in_flight(stack, ids)) == (before.succeeded, 0)
    assert stack.query(claims) == [last]
    assert "their API is down" in stack.pipeline("events", "show", ids[-1])
    assert "paused     effects.slowly for held since" in stack.pipeline("stats")
    stack.pipeline("handlers", "resume", "effects.slowly", "--tenant", "held")
    done = wait_until_settled(stack, ids, seconds=60)
    assert (done.succeeded, done.failed) == (PAUSED_COUNT + 1, 0)
    assert len(effects(stack, ids)) == PAUSED_COUNT + 1
    assert effects_of_more_than_one_run(stack) == []


def in_flight(stack: Stack, ids: list[str]) -> int:
    (row,) = stack.query(
        "SELECT count(*) AS number FROM deliveries WHERE event_id = ANY (%s::uuid[]) AND state <> 'pending'", [ids]
    )
    number: int = row["number"]
    return number


def test_every_name_in_redis_has_the_prefix(stack: Stack) -> None:
    stack.pipeline("send", "prefixed", "--count=200", "--event=effect.slowly")
    seen: set[bytes] = set()

    def has_seen_all() -> bool:
        seen.update(redis.keys(), redis.pubsub_channels())  # type: ignore[arg-type] # bytes, for nothing is decoded
        return {f"{PREFIX}{name}".encode() for name in ("registry", "identity", "handlers", "unacked")} <= seen

    with stack.redis() as redis:
        until(has_seen_all, seconds=20, what="names of all kinds", every=0.005)
    assert [name for name in seen if not name.startswith(PREFIX.encode())] == []


def test_workers_told_to_stop_under_load_hand_their_work_back(stack: Stack, tmp_path: Path) -> None:
    ids = _store_backlog(stack, "shutdown", SHUTDOWN_COUNT, tmp_path / "ids")
    until(lambda: account(stack, ids).succeeded > 0, seconds=30, what="progress")
    for name in ("handlers", "express", "ingest"):
        former = stack.main(name)
        former.terminate()
        stack.successor(name, former)
        if name == "handlers":  # its successor has only been started: some time later it may have done everything
            assert account(stack, ids).open > 0
    done = wait_until_settled(stack, ids, seconds=60)
    assert (done.succeeded, done.failed) == (SHUTDOWN_COUNT, 0)
    charged = stack.query("SELECT error FROM attempts WHERE event_id = ANY (%s::uuid[])", [ids])
    assert charged == []
    assert len(effects(stack, ids)) == SHUTDOWN_COUNT
