"""A schema of the pipeline's own, in a database where an application has tables of the same names."""

from __future__ import annotations

import subprocess
import sys
import uuid
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
import pytest

from workers.dispatch.handler_loop import HandlerLoop
from workers.dispatch.running import MessageRun
from workers.registration import Handler
from workers.store import tenants
from workers.store.connect import PostgresConnection, connect
from workers.store.migrate import MigrationError, migrate, migrations
from workers.store.partitions import drop_expired, ensure_partitions
from workers.store.session import HandlerSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.local.service import Server
    from workers.dispatch.delivery import Delivery

SCHEMA = "pipeline"


@pytest.fixture
def empty_url(postgres_server: Server) -> Iterator[str]:
    """An empty database."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield postgres_server.url.removesuffix("/postgres") + f"/{name}"
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def application_url(empty_url: str) -> str:
    """A database with the tables of an application."""
    with psycopg.connect(empty_url, autocommit=True) as application:
        application.execute("CREATE TABLE tenants (id int PRIMARY KEY, plan text)")
        application.execute("INSERT INTO tenants VALUES (1, 'free')")
        application.execute("CREATE TABLE migrations (version int PRIMARY KEY)")
        application.execute("INSERT INTO migrations VALUES (7)")
        application.execute("CREATE TABLE deliveries (parcel text)")
    return empty_url


def tables(url: str) -> dict[str, set[str]]:
    """Names of the tables of each schema."""
    found: dict[str, set[str]] = {}
    listing = "SELECT schemaname, tablename FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema)'"
    with psycopg.connect(url) as connection:
        for schema, table in connection.execute(listing):
            found.setdefault(schema, set()).add(table)
    return found


def run_one(url: str, function: Callable[..., object]) -> MessageRun:
    """Store an event with a delivery and run it."""
    postgres, session, event_id = PostgresConnection(url, name="test", schema=SCHEMA), None, uuid.uuid4()
    loop = HandlerLoop()
    try:
        postgres.connection.execute(
            "INSERT INTO events"
            " (id, provider, tenant, type, received_at, headers, body, secret_label, fingerprint, state)"
            " VALUES (%(id)s, 'other', 'acme', 'thing', now(), '{}', '{}', 'first', uuid_send(%(id)s), 'accepted')",
            {"id": event_id},
        )
        postgres.connection.execute(
            "INSERT INTO deliveries (event_id, handler, tenant, state, ready, lease_until)"
            " VALUES (%s, 'acme.run', 'acme', 'queued', false, now() + interval '1 min')",
            [event_id],
        )
        session = HandlerSession(url, schema=SCHEMA)
        message = MessageRun(
            Handler(name="acme.run", function=function),
            postgres=postgres,
            session=session,
            loop=loop,
            message_seconds=60.0,
            is_terminating=lambda: False,
        )
        message.run([event_id])
        return message
    finally:
        postgres.close()
        if session is not None:
            session.discard()
        loop.prepare().close()


def test_an_application_with_tables_of_the_same_names_keeps_them_untouched(application_url: str) -> None:
    before = tables(application_url)
    with connect(application_url, name="test", schema=SCHEMA) as connection:
        assert migrate(connection, schema=SCHEMA) == migrations()
        assert migrate(connection, schema=SCHEMA) == []
        ensure_partitions(connection)
        drop_expired(connection, retention_days=30, dedup_days=30)
        tenants.add_tenant(connection, "acme")
    after = tables(application_url)
    assert after["public"] == before["public"]
    assert {"tenants", "migrations", "events", "deliveries"} <= after[SCHEMA]
    with psycopg.connect(application_url) as application:
        assert application.execute("SELECT * FROM tenants").fetchall() == [(1, "free")]
        assert application.execute("SELECT * FROM migrations").fetchall() == [(7,)]


@pytest.mark.parametrize("path", ["", "pipeline, public"])
def test_handlers_find_the_teams_tables_and_the_outcome_goes_to_ours(application_url: str, path: str) -> None:
    with connect(application_url, name="test", schema=SCHEMA) as connection:
        migrate(connection, schema=SCHEMA)
    url = f"{application_url}?options={quote(f'-c search_path={path}'.replace(', ', ','))}" if path else application_url

    def handle(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("UPDATE tenants SET plan = 'paid'")
        delivery.connection.execute("INSERT INTO deliveries VALUES ('a parcel')")

    assert run_one(url, handle).succeeded == 1
    with psycopg.connect(application_url) as application:
        assert application.execute("SELECT * FROM tenants").fetchall() == [(1, "paid")]
        assert application.execute("SELECT * FROM deliveries").fetchall() == [("a parcel",)]
        done = application.execute(f"SELECT state, count(*) FROM {SCHEMA}.deliveries_done GROUP BY state").fetchall()
    assert done == [("succeeded", 1)]


def test_a_migration_beside_an_applications_tables_says_which_setting_keeps_them_apart(application_url: str) -> None:
    with connect(application_url, name="test") as connection:
        with pytest.raises(
            MigrationError, match="migrations in this database is an application's: set DATABASE_SCHEMA"
        ):
            migrate(connection)
        connection.execute("DROP TABLE migrations")
        with pytest.raises(MigrationError, match=r'relation "tenants" already exists, .* set DATABASE_SCHEMA'):
            migrate(connection)
    assert tables(application_url) == {"public": {"tenants", "deliveries"}}


def test_an_installation_elsewhere_is_not_left_behind_without_a_word(empty_url: str) -> None:
    with connect(empty_url, name="test") as connection:
        migrate(connection)
    with connect(empty_url, name="test", schema=SCHEMA) as connection:
        with pytest.raises(MigrationError, match="are in the schema public: unset DATABASE_SCHEMA"):
            migrate(connection, schema=SCHEMA)
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
        assert migrate(connection, schema=SCHEMA) == migrations()


def test_options_of_pgoptions_and_of_the_url_hold_together(empty_url: str) -> None:
    url = f"{empty_url}?options={quote('-c work_mem=7MB')}"
    show = (
        "import sys; from workers.store.connect import connect; connection = connect(sys.argv[1], name='test');"
        "rows = [connection.execute(f'SHOW {it}').fetchone() for it in ('search_path', 'work_mem', 'datestyle')];"
        "print(*(value for row in rows for value in row.values()))"
    )
    command = [sys.executable, "-c", show, url]
    environ = {"PGOPTIONS": "-c search_path=elsewhere -c work_mem=9MB -c datestyle=German"}
    shown = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "elsewhere 7MB ISO, MDY"
