"""What an autoscaler is told: whole numbers in bounds, as of the moment, and never 0 because a server is away."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import httpx
import psycopg
import pytest

from deploy.exporter import wanted
from deploy.exporter.wanted import MOST, Wanted, handler_processes
from tests.integration.draining import post
from tests.integration.test_exporter import run_exporter
from tests.launching import free_port
from tests.names import NAMES
from workers.live_workers import LiveWorker, say_live

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from redis import Redis

    from tests.integration.conftest import AddDeliveries
    from workers.store.connect import Connection

NOTHING = {"express": 0, "handlers": 0, "ingest": 0}


@pytest.fixture
def wanted_here(redis_url: str, database_url: str) -> Iterator[Wanted]:
    with closing(Wanted(redis_url, NAMES, database_url, schema="")) as it:
        yield it


@pytest.mark.parametrize(
    ("counts", "means", "expected"),
    [
        ({}, {}, 0),
        ({"h": 1}, {"h": 0.0001}, 1),
        ({"h": 1}, {"h": 120.0}, 1),
        ({"h": 10}, {"h": 120.0}, 10),
        ({"h": 1_000}, {"h": 0.1}, 10),
        ({"h": 1_000}, {}, 5),
        ({"h": 10, "quick": 10}, {"h": 120.0, "quick": 0.001}, 11),
        ({"h": 30_000}, {"h": 120.0}, MOST),
    ],
    ids=[
        "nothing",
        "one quick",
        "one slow",
        "ten slow",
        "ten seconds each",
        "never run",
        "two handlers",
        "more than there may be",
    ],
)
def test_processes_follow_the_work_and_no_more_than_one_a_delivery(
    counts: dict[str, int], means: dict[str, float], expected: int
) -> None:
    assert handler_processes(counts, means) == expected


def test_what_waits_wants_a_process_at_once_and_nothing_wants_none(
    client: Redis, connection: Connection, add_deliveries: AddDeliveries, wanted_here: Wanted
) -> None:
    assert wanted_here.read() == NOTHING
    post(client)
    assert wanted_here.read() == {**NOTHING, "ingest": 1}
    add_deliveries()
    assert wanted_here.read() == {"express": 1, "handlers": 1, "ingest": 1}
    connection.execute(
        "UPDATE deliveries SET state = 'running', ready = false, lease_until = now(), attempt = 1, fence = 1"
    )
    client.delete(NAMES.inbox)
    assert wanted_here.read() == {"express": 1, "handlers": 1, "ingest": 0}


def test_durations_are_those_that_workers_share(
    client: Redis, add_deliveries: AddDeliveries, wanted_here: Wanted
) -> None:
    add_deliveries(40, handler="acme.slow")
    client.hset(NAMES.handler_means, "acme.slow", "5.0")
    assert wanted_here.read()["handlers"] == 20
    assert wanted_here.read()["express"] == 5


def test_what_a_pause_a_cap_or_no_worker_holds_back_wants_nothing(
    client: Redis, connection: Connection, add_deliveries: AddDeliveries, wanted_here: Wanted
) -> None:
    client.hset(NAMES.handler_means, mapping={"acme.run": "10", "acme.gone": "10"})
    add_deliveries(7)
    assert wanted_here.read()["handlers"] == 7
    connection.execute("INSERT INTO tenants (name, max_in_flight) VALUES ('acme', 2)")
    assert wanted_here.read()["handlers"] == 2
    connection.execute("UPDATE tenants SET paused_at = now()")
    assert wanted_here.read()["handlers"] == 0
    add_deliveries(3, tenant="globex", handler="acme.gone")
    assert wanted_here.read()["handlers"] == 3
    one = LiveWorker(id="1", name="handlers@here", queues=("handlers",), slots=4, code_version="1")
    say_live(client, NAMES, one, [("acme.run", "digest")])
    assert wanted_here.read()["handlers"] == 0


def test_a_server_that_is_away_stops_nothing(database_url: str, connection: Connection, redis_url: str) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with closing(Wanted(nowhere, NAMES, database_url, schema="")) as without_redis:
        assert without_redis.read() == {"express": 1, "handlers": 1, "ingest": 1}
    connection.execute("DROP TABLE lane_marks CASCADE")
    with closing(Wanted(redis_url, NAMES, database_url, schema="")) as unmigrated:
        assert unmigrated.read() == {"express": 1, "handlers": 1, "ingest": 0}


def test_many_who_ask_at_once_share_a_look(wanted_here: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    moments = iter(range(1, 100))
    monkeypatch.setattr(wanted_here, "_look", lambda: looks.append(next(moments)))
    wanted_here.read(clock=lambda: 5.0)
    wanted_here.read(clock=lambda: 5.0)
    wanted_here.read(clock=lambda: 4.0)
    assert len(looks) == 1
    wanted_here.read(clock=lambda: 6.0)
    assert len(looks) == 2


def test_requests_open_no_connection_and_see_what_has_just_come(
    client: Redis, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pipeline wanted'"
    with (
        run_exporter(tmp_path, REDIS_URL=redis_url, DATABASE_URL=database_url, EXPORTER_SECONDS="3600") as exporter,
        psycopg.connect(database_url, autocommit=True) as own,
        ThreadPoolExecutor(8) as threads,
    ):
        url = exporter.url.replace("/metrics", wanted.PATH)
        first = httpx.get(url)
        assert first.headers["content-type"] == "application/json"
        assert first.json() == NOTHING
        opened = client.info("stats")["total_connections_received"]
        post(client)
        answers = list(threads.map(lambda _: httpx.get(url).json()["ingest"], range(50)))
        assert answers == [1] * 50
        assert client.info("stats")["total_connections_received"] == opened
        assert own.execute(sessions).fetchone() == (1,)
        assert "pipeline_redis_answers" in exporter.text()
