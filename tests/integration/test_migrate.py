"""Migrations are applied once, and a newer database is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.ingress_process import wait_for
from workers.store.migrate import MigrationError, applied, migrate, migrations

if TYPE_CHECKING:
    from workers.store.connect import Connection


def test_a_migrated_database_has_nothing_left_to_apply(connection: Connection) -> None:
    assert migrate(connection) == []


def test_a_database_of_a_newer_version_is_refused(connection: Connection) -> None:
    connection.execute("INSERT INTO migrations (name) VALUES ('9999_pre_future')")
    with pytest.raises(MigrationError, match="9999_pre_future"):
        migrate(connection)


def test_a_deadlock_with_a_worker_is_tried_again(connection: Connection, database_url: str) -> None:
    connection.execute("DELETE FROM migrations WHERE name = '0002_pre_bounded_tenants'; DROP INDEX tenants_bounded")
    with psycopg.connect(database_url) as worker, ThreadPoolExecutor() as pool:
        worker.execute("SET deadlock_timeout = '1min'")  # the migration is the one that Postgres cancels
        worker.execute("LOCK TABLE tenants IN ROW EXCLUSIVE MODE")
        done = pool.submit(migrate, connection)
        waits = "SELECT FROM pg_locks WHERE pid = %s AND NOT granted"
        wait_for(lambda: bool(worker.execute(waits, [connection.info.backend_pid]).fetchall()), seconds=20)
        worker.execute("LOCK TABLE migrations")  # the migration has inserted nothing yet, but has read it
        worker.commit()
        assert done.result(30) == ["0002_pre_bounded_tenants"]
    assert migrate(connection) == []


def test_each_file_that_follows_others_is_a_transaction_of_its_own(connection: Connection) -> None:
    """All in one held the locks of each until the end, and beside 200 events a second deadlocked in every attempt."""
    first, *others = migrations()
    text = resources.files("workers.store.migrations").joinpath(f"{first}.sql").read_text("utf-8")
    connection.execute("CREATE SCHEMA earlier")
    connection.execute("SET search_path = earlier")
    connection.execute(text)
    connection.execute("CREATE TABLE migrations (name text PRIMARY KEY, applied_at timestamptz DEFAULT now())")
    connection.execute("INSERT INTO migrations (name) VALUES (%s)", [first])
    assert migrate(connection) == others
    (row,) = connection.execute("SELECT count(DISTINCT applied_at) AS n FROM migrations")
    assert row["n"] == len(migrations())


def test_what_goes_after_a_deployment_is_refused_while_what_goes_before_is_missing(connection: Connection) -> None:
    connection.execute("DELETE FROM migrations WHERE name IN ('0002_pre_bounded_tenants', '0007_post_lane_marks')")
    with pytest.raises(MigrationError, match="0002_pre_bounded_tenants is missing: run `pipeline migrate --phase pre`"):
        migrate(connection, "post")
    assert "0007_post_lane_marks" not in applied(connection)


def test_every_migration_names_its_phase() -> None:
    assert migrations() == sorted(migrations("pre") + migrations("post"))
