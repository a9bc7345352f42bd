"""Poolers in front of Postgres: session mode serves, transaction mode is refused before anything is done."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
import pytest

from tests.pgbouncer import needs_pgbouncer, pooling
from workers.store.connect import SESSION, UnfitDatabaseError, connect
from workers.store.session import HandlerSession

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import AddDeliveries, Run
    from workers.dispatch.delivery import Delivery
    from workers.store.connect import Connection

pytestmark = [needs_pgbouncer, pytest.mark.timeout(60)]

IGNORING = "ignore_startup_parameters = options"


def settings_of(connection: Connection) -> dict[str, str]:
    return {row["name"].lower(): row["setting"] for row in connection.execute("SELECT name, setting FROM pg_settings")}


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize(
    "settings", ["", IGNORING, "default_pool_size = 1", "server_round_robin = 1", "server_reset_query_always = 1"]
)
def test_a_pooler_that_shares_sessions_is_refused_with_a_line_that_says_what_to_use(
    servers_home: Path, database_url: str, mode: str, settings: str
) -> None:
    with (
        pooling(database_url, servers_home, mode=mode, settings=settings) as url,
        pytest.raises(
            UnfitDatabaseError, match=r"at 127.0.0.1:\d+: .* session mode \(Supabase: port 5432.* host"
        ) as info,
    ):
        connect(url, name="test")
    assert "\n" not in str(info.value)


def test_a_pooler_that_shares_sessions_is_found_out_while_others_use_it(servers_home: Path, database_url: str) -> None:
    with pooling(database_url, servers_home, mode="transaction", settings="default_pool_size = 8") as url:
        is_over = threading.Event()

        def work() -> None:
            with psycopg.connect(url, autocommit=True, prepare_threshold=None) as busy:
                while not is_over.is_set():
                    busy.execute("SELECT pg_sleep(0.001)")

        workers = [threading.Thread(target=work) for _ in range(6)]
        for worker in workers:
            worker.start()
        try:
            for _ in range(20):
                with pytest.raises(UnfitDatabaseError, match="transaction pooler"):
                    connect(url, name="test")
        finally:
            is_over.set()
            for worker in workers:
                worker.join()


def test_a_worker_behind_a_transaction_pooler_ends_with_one_line(
    servers_home: Path, database_url: str, redis_url: str
) -> None:
    with pooling(database_url, servers_home, mode="transaction") as url:
        ended = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", "handlers", "-c", "1"],
            env=os.environ | {"DATABASE_URL": url, "REDIS_URL": redis_url, "HANDLERS": "workers.handlers.example"},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith(
        "workers: a transaction pooler stands between the pipeline and Postgres at 127.0.0.1:"
    )
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("settings", ["", IGNORING, f"{IGNORING}\nserver_reset_query ="])
def test_a_session_through_a_session_pooler_has_what_it_relies_on(
    servers_home: Path, database_url: str, settings: str
) -> None:
    with pooling(database_url, servers_home, mode="session", settings=f"{settings}\ndefault_pool_size = 2") as url:
        options = quote(r"-c search_path=elsewhere,public -c work_mem=7MB --application-name=two\ words")
        for _ in range(3):  # what a client leaves behind does not reach the next one on the same server
            with connect(f"{url}?options={options}", name="test", schema="") as one:
                found = settings_of(one)
                one.execute("SET datestyle = 'German'; PREPARE pipeline_success AS SELECT 1")
            assert {name: found[name] for name in SESSION} == SESSION
            assert (found["search_path"], found["work_mem"]) == ("elsewhere,public", "7168")
            assert found["application_name"] == "two words"


def test_deliveries_run_through_a_session_pooler_and_each_finds_a_clean_session(
    connection: Connection, servers_home: Path, database_url: str, run: Run, add_deliveries: AddDeliveries
) -> None:
    connection.execute("CREATE TABLE effects (event_id uuid)")
    seen = []

    def handle(event: object, delivery: Delivery) -> None:
        shown = (delivery.connection.execute(f"SHOW {name}").fetchone() for name in ("datestyle", "timezone"))
        seen.append([row[0] for row in shown if row])
        delivery.connection.execute("SET datestyle = 'German'; SET timezone = 'Asia/Kathmandu'")
        delivery.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])
        if delivery.attempt == 1 and len(seen) == 2:
            raise ValueError("once")

    with pooling(database_url, servers_home, mode="session") as url:
        ids = add_deliveries(4)
        run(ids, handle, session_url=url, schedule=(0.0,))
        run(ids, handle, session_url=url, schedule=(0.0,))
    assert seen == [["ISO, MDY", "UTC"]] * 5
    assert connection.execute("SELECT count(*) AS count FROM effects").fetchone() == {"count": 4}


def test_a_session_pooler_without_a_free_server_is_an_error_in_seconds(servers_home: Path, database_url: str) -> None:
    with (
        pooling(database_url, servers_home, mode="session", settings="default_pool_size = 1") as url,
        connect(url, name="first"),
        pytest.raises(psycopg.OperationalError, match="not answered within 5"),
    ):
        connect(url, name="second")


def test_an_option_that_no_pooler_passes_on_is_named(servers_home: Path, database_url: str) -> None:
    with (
        pooling(database_url, servers_home, mode="session") as url,
        pytest.raises(UnfitDatabaseError, match="option '-e' of DATABASE_URL or PGOPTIONS"),
    ):
        HandlerSession(f"{url}?options=-e")._connect()
