"""What workers say of themselves for the exporter, and who of them is lost."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from deploy.exporter.figures import Families
from deploy.exporter.redis_figures import RedisFigures
from tests.ingress_process import wait_for
from tests.integration.test_live_workers import start
from tests.names import NAMES
from workers.live_workers import LIVE_SECONDS
from workers.seen_workers import LOST_SECONDS, Activity, forget, read_seen, say_activity

if TYPE_CHECKING:
    from redis import Redis

    from tests.integration.test_live_workers import Start

__all__ = ["start"]

IDLE = Activity(queues=("ingest",), slots=2, busy=0, fetched_seconds=7.0)
HELPER = Activity(queues=("express", "handlers"), slots=4, busy=4, fetched_seconds=40.0)


def age(client: Redis, name: str, seconds: float) -> None:
    """Let a worker have been seen so long ago."""
    client.zincrby(NAMES.seen_workers, -seconds, name)


def figures(redis_url: str) -> dict[tuple[str, str], float]:
    """Return the figures of workers by name and duty."""
    families = Families()
    RedisFigures(redis_url, NAMES, meant="always").read(families)
    return {
        (sample.name.removeprefix("pipeline_"), sample.labels["duty"]): sample.value
        for family in families
        for sample in family.samples
        if "duty" in sample.labels
    }


def test_a_worker_that_falls_silent_is_lost_until_one_of_its_name_is_seen_or_an_hour_is_over(client: Redis) -> None:
    for name in ("ingest@one", "ingest@two"):
        say_activity(client, NAMES, name, IDLE)
    age(client, "ingest@one", LIVE_SECONDS)
    assert [(it.name, it.is_lost) for it in read_seen(client, NAMES)] == [("ingest@one", True), ("ingest@two", False)]
    say_activity(client, NAMES, "ingest@one", IDLE)
    assert not any(it.is_lost for it in read_seen(client, NAMES))
    age(client, "ingest@one", LOST_SECONDS)
    assert [it.name for it in read_seen(client, NAMES)] == ["ingest@two"]
    say_activity(client, NAMES, "ingest@two", IDLE)
    assert client.hkeys(NAMES.worker_activity) == [b"ingest@two"]
    assert client.zcard(NAMES.seen_workers) == 1


def test_a_worker_that_is_told_to_stop_is_not_lost(client: Redis) -> None:
    say_activity(client, NAMES, "ingest@one", IDLE)
    forget(client, NAMES, "ingest@one")
    assert read_seen(client, NAMES) == []
    assert not client.exists(NAMES.seen_workers, NAMES.worker_activity)


def test_figures_are_sums_by_duty_and_the_fetch_that_counts_is_that_of_a_worker_with_a_free_slot(
    client: Redis, redis_url: str
) -> None:
    say_activity(client, NAMES, "ingest@one", IDLE)
    say_activity(client, NAMES, "handlers@one", HELPER)
    say_activity(client, NAMES, "handlers@lost", HELPER)
    age(client, "handlers@lost", LIVE_SECONDS + 1)
    shown = figures(redis_url)
    assert shown["workers", "ingest"] == shown["workers", "handlers"] == shown["workers_lost", "handlers"] == 1
    assert shown["workers", "express"] == shown["workers", "housekeeping"] == shown["workers_lost", "ingest"] == 0
    assert (shown["worker_slots", "handlers"], shown["worker_busy_slots", "handlers"]) == (4, 4)
    assert (shown["worker_slots", "ingest"], shown["worker_busy_slots", "ingest"]) == (2, 0)
    assert 7 <= shown["worker_fetch_age_seconds", "ingest"] < 60
    assert shown["worker_fetch_age_seconds", "handlers"] == 0


def test_a_thousand_restarts_add_no_series(client: Redis, redis_url: str) -> None:
    before = set(figures(redis_url))
    for number in range(1000):
        say_activity(client, NAMES, f"handlers@pod-{number}", HELPER)
        age(client, f"handlers@pod-{number}", 4 * number)
    assert set(figures(redis_url)) == before
    assert client.zcard(NAMES.seen_workers) < 1000


def test_a_real_worker_is_seen_with_its_slots_and_lost_when_it_is_killed(
    start: Start, client: Redis, redis_url: str
) -> None:
    worker = start("housekeeping", slots=1)
    wait_for(lambda: figures(redis_url)["workers", "housekeeping"] == 1, seconds=30)
    assert figures(redis_url)["worker_slots", "housekeeping"] == 1
    for process in (worker, *worker.children(recursive=True)):
        process.send_signal(signal.SIGKILL)
    age(client, "housekeeping@0", LIVE_SECONDS)
    assert figures(redis_url)["workers_lost", "housekeeping"] == 1
    again = start("ingest", slots=1)
    wait_for(lambda: figures(redis_url)["workers", "ingest"] == 1, seconds=30)
    again.terminate()
    wait_for(lambda: figures(redis_url)["workers", "ingest"] == 0, seconds=30)
    assert figures(redis_url)["workers_lost", "ingest"] == 0
