"""Connections to Postgres: what a process that was killed leaves behind there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
import pytest

from workers.store.connect import SESSION, connect
from workers.store.event_history import read_history

if TYPE_CHECKING:
    from deploy.local.service import Server
    from tests.integration.conftest import AddDeliveries, Run
    from workers.dispatch.delivery import Delivery
    from workers.store.connect import Connection

WAIT_IN_A_TRANSACTION = """
import sys
from workers.store.connect import connect
with connect(sys.argv[1], name="victim") as connection, connection.transaction():
    connection.execute("UPDATE admission SET tenant = 'held'")
    connection.execute("SELECT pg_advisory_xact_lock(1)")
"""


@pytest.mark.timeout(30)
def test_a_process_killed_while_it_waits_for_a_lock_lets_go_of_its_own_locks(
    connection: Connection, database_url: str
) -> None:
    waiting = "SELECT FROM pg_stat_activity WHERE application_name = 'victim' AND wait_event_type = 'Lock'"
    with connect(database_url, name="holder") as holder, holder.transaction():
        holder.execute("SELECT pg_advisory_xact_lock(1)")
        victim = subprocess.Popen([sys.executable, "-c", WAIT_IN_A_TRANSACTION, database_url])
        while not connection.execute(waiting).fetchall():
            time.sleep(0.02)
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        connection.execute("SET lock_timeout = '8s'")
        connection.execute("UPDATE admission SET tenant = 'free'")


HOSTILE = {
    "datestyle": "German, DMY",
    "intervalstyle": "iso_8601",
    "timezone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "row_security": "on",
    "statement_timeout": "20",
    "lock_timeout": "20",
    "idle_session_timeout": "20",
    "idle_in_transaction_session_timeout": "20",
    "client_encoding": "LATIN1",
    "client_connection_check_interval": "0",
    "synchronous_commit": "off",
    "plan_cache_mode": "force_custom_plan",
}


@pytest.fixture
def hostile_url(database_url: str) -> str:
    """A database whose defaults are unlike what a session needs."""
    with psycopg.connect(database_url, autocommit=True) as admin:
        name = admin.info.dbname
        for setting, value in HOSTILE.items():
            admin.execute(f'ALTER DATABASE "{name}" SET {setting} = {value!r}')
    return database_url


def test_a_session_sets_what_it_relies_on_whatever_its_database_sets(hostile_url: str) -> None:
    with connect(hostile_url, name="test") as one:
        found = {row["name"].lower(): row["setting"] for row in one.execute("SELECT name, setting FROM pg_settings")}
        assert {name: found[name] for name in SESSION} == SESSION
        assert found["synchronous_commit"] == "on"
        moment = one.execute("SELECT now() AS now, interval '90 s' AS age, '\\xff'::bytea AS raw").fetchone()
        assert moment is not None
        assert abs(moment["now"] - datetime.now(UTC)) < timedelta(minutes=1)
        assert (moment["age"], moment["raw"]) == (timedelta(seconds=90), b"\xff")


def test_deliveries_run_and_history_is_read_whatever_the_database_sets(
    connection: Connection, hostile_url: str, run: Run, add_deliveries: AddDeliveries
) -> None:
    del connection

    def handle(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("SELECT pg_sleep(0.05)")
        if delivery.attempt == 1:
            raise ValueError("once")

    (event_id,) = add_deliveries(1)
    run([event_id], handle, schedule=(0.0,))
    run([event_id], handle, schedule=(0.0,))
    with connect(hostile_url, name="test") as one:
        history = read_history(one, event_id)
    assert history is not None
    (delivery,) = history.deliveries
    assert delivery.state == "succeeded"
    (attempt,) = delivery.failures
    assert attempt.error == "ValueError: once"
    assert attempt.duration is not None
    assert attempt.duration >= timedelta(seconds=0.05)


def test_options_of_the_url_are_kept_and_ours_win(database_url: str) -> None:
    options = quote("-c search_path=elsewhere,public -c datestyle=German -c work_mem=7MB")
    with connect(f"{database_url}?options={options}", name="test") as one:
        shown = [one.execute(f"SHOW {name}").fetchone() for name in ("search_path", "datestyle", "work_mem")]
    assert [list(row.values()) for row in shown if row] == [["elsewhere,public"], ["ISO, MDY"], ["7MB"]]


def test_a_database_that_cannot_hold_every_text_is_refused(postgres_server: Server) -> None:
    name = f"ascii_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
        with pytest.raises(psycopg.OperationalError, match=r"encoding is SQL_ASCII, .*: create it"):
            connect(postgres_server.url.removesuffix("/postgres") + f"/{name}", name="test")
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
