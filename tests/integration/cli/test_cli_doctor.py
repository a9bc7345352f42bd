"""`pipeline doctor`: all is well, then each thing is broken on purpose."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import uuid
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from cryptography.fernet import Fernet

from deploy.doctor import deployment, postgres_server, redis_server
from deploy.local.servers import prepare_postgres
from shared import releases
from tests.conftest import running
from tests.ingress_process import Valkey, own_valkey, wait_for
from tests.integration.cli.conftest import Pipeline
from tests.launching import free_port, spawn
from tests.names import NAMES
from tests.pgbouncer import needs_pgbouncer, pooling
from workers.live_workers import LiveWorker, say_gone, say_live
from workers.store.connect import connect

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from deploy.local.service import Server


@pytest.fixture(scope="module")
def durable_postgres() -> Iterator[Server]:
    """A Postgres that keeps what it commits, unlike that of the other tests."""
    home = Path(tempfile.mkdtemp(prefix="doctor-", dir="/tmp"))
    home.chmod(0o755)
    with running(prepare_postgres(home, port=free_port(), password="test"), home) as server:
        yield server
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with own_valkey() as it, it.client() as client:
        client.config_set("appendfsync", "always")
        yield it


@pytest.fixture(scope="module")
def healthy(
    durable_postgres: Server, valkey: Valkey, zygote: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pipeline]:
    """A migrated database, an endpoint, a published registry, and a worker that serves all queues."""
    folder = tmp_path_factory.mktemp("doctor")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PIPELINE_HOME": str(folder / "no-stack"),
        "DATABASE_URL": durable_postgres.url,
        "REDIS_URL": valkey.url,
        "SECRETS_KEY": Fernet.generate_key().decode(),
        "HANDLERS": "workers.handlers.example",
    }
    it = Pipeline(zygote=zygote, environ=environ, folder=folder)
    it("migrate")
    it("tenants", "add", "acme")
    it("endpoints", "add", "acme", "--provider", "moveris", "--label", "v1", "--secret-stdin", stdin=b"first\n")
    queues = ("--queues", ",".join(deployment.QUEUES))
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "--concurrency", "1", *queues]
    worker = spawn(command, log=folder / "worker.log", environ=environ)
    try:
        wait_for(lambda: "announced" in (folder / "worker.log").read_text(), seconds=30)
        yield it
    finally:
        worker.terminate()
        worker.wait(20)


def examine(pipeline: Pipeline, **environ: str) -> dict[str, dict[str, Any]]:
    """Run it; findings by their thing."""
    result = replace(pipeline, environ=pipeline.environ | environ)("doctor", "--json", status=None)
    findings = {row["thing"]: row for row in result.rows}
    assert result.status == any(row["state"] == "wrong" for row in findings.values())
    return findings


def wrong(findings: dict[str, dict[str, Any]]) -> list[str]:
    return [thing for thing, row in findings.items() if row["state"] == "wrong"]


def test_what_is_well_is_told_in_a_line_each(healthy: Pipeline) -> None:
    findings = examine(healthy)
    expected = [
        *redis_server.THINGS,
        *postgres_server.THINGS,
        "identity",
        "clocks",
        "keys",
        "registry",
        "redis rights",
        "workers",
        "releases",
        "handlers",
    ]
    assert list(findings) == expected
    assert {row["state"] for row in findings.values()} == {"ok"}, findings
    lines = healthy("doctor").text.splitlines()
    assert len(lines) == len(expected)
    assert lines[2] == "ok       redis durability      append-only file, appendfsync always"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("appendonly", "no", ("redis durability", "set appendonly yes")),
        ("appendfsync", "everysec", ("redis durability", "set always")),
        ("maxmemory", "0", ("redis eviction", "set one")),
        ("maxmemory-policy", "allkeys-lru", ("redis eviction", "to noeviction")),
        ("maxmemory", "used", ("redis memory", "do the ingest workers run?")),
    ],
)
def test_a_redis_that_is_set_up_wrong(
    healthy: Pipeline, valkey: Valkey, name: str, value: str, expected: tuple[str, str]
) -> None:
    with valkey.client() as client:
        before = client.config_get(name)[name]
        client.config_set(name, int(client.info("memory")["used_memory"] * 1.2) if value == "used" else value)
        try:
            findings = examine(healthy)
        finally:
            client.config_set(name, before)
    thing, advice = expected
    assert wrong(findings) == [thing]
    assert advice in findings[thing]["found"]


def test_what_is_meant_of_redis_is_not_wrong(healthy: Pipeline, valkey: Valkey) -> None:
    with valkey.client() as client:
        client.config_set("appendfsync", "everysec")
        try:
            assert wrong(examine(healthy, INBOX_DURABILITY="everysec")) == []
        finally:
            client.config_set("appendfsync", "always")


def test_where_config_is_forbidden_it_is_unknown(healthy: Pipeline, valkey: Valkey) -> None:
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-config")
    findings = examine(healthy, REDIS_URL=valkey.url.replace("//:test@", "//limited:secret@"))
    assert findings["redis durability"]["state"] == "unknown"
    assert wrong(findings) == []


def test_a_user_of_redis_with_few_rights(healthy: Pipeline, valkey: Valkey) -> None:
    few = valkey.url.replace("//:test@", "//few:secret@")
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "few", "on", ">secret", "~*", "&*", "+@all", "-xack", "-lpush")
        findings = examine(healthy, REDIS_URL=few)
        assert wrong(findings) == ["redis rights"]
        said = findings["redis rights"]["found"]
        assert "XACK inbox" in said or "LPUSH ingest" in said
        client.execute_command("ACL", "SETUSER", "few", "+xack", "+lpush", "-eval")
        assert "may not run EVAL" in examine(healthy, REDIS_URL=few)["redis rights"]["found"]


def test_a_replica_of_redis(healthy: Pipeline) -> None:
    with own_valkey() as other, other.client() as client:
        client.config_set("appendfsync", "always")
        client.replicaof("127.0.0.1", 1)
        findings = examine(healthy, REDIS_URL=other.url)
    assert "name its primary" in findings["redis role"]["found"]


def test_an_old_redis() -> None:
    assert redis_server.version({"redis_version": "6.2.14"}).state == "wrong"


def test_servers_that_are_away_leave_the_rest_unknown(healthy: Pipeline) -> None:
    findings = examine(healthy, REDIS_URL="redis://127.0.0.1:1/0")
    assert "Redis cannot be reached" in findings["redis"]["found"]
    assert {findings[thing]["state"] for thing in redis_server.THINGS} == {"unknown"}
    assert {findings[thing]["state"] for thing in postgres_server.THINGS} == {"ok"}
    findings = examine(healthy, DATABASE_URL="postgresql://127.0.0.1:1/app")
    assert "Postgres cannot be reached" in findings["postgres"]["found"]
    assert {findings[thing]["state"] for thing in postgres_server.THINGS} == {"unknown"}
    assert {findings[thing]["state"] for thing in redis_server.THINGS} == {"ok"}


@contextmanager
def new_database(server: Server, options: str = "") -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} {options}")
        yield server.url.removesuffix("/postgres") + f"/{name}"
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_database_without_tables_or_days(healthy: Pipeline, durable_postgres: Server) -> None:
    with new_database(durable_postgres) as url:
        findings = examine(healthy, DATABASE_URL=url)
        assert "run `pipeline migrate`" in findings["postgres tables"]["found"]
        healthy("migrate", DATABASE_URL=url)
        with psycopg.connect(url) as connection:
            newest = "SELECT relname FROM pg_class WHERE relname ~ '^attempts_[0-9]{8}$' ORDER BY relname DESC LIMIT 3"
            for (table,) in connection.execute(newest).fetchall():
                connection.execute(f"DROP TABLE {table}")
        findings = examine(healthy, DATABASE_URL=url)
        assert "4 of 7 coming days have tables" in findings["postgres days"]["found"]
        assert "nothing is published" not in findings["registry"]["found"]


def test_an_encoding_that_cannot_hold_every_text(healthy: Pipeline, durable_postgres: Server) -> None:
    with new_database(durable_postgres, "TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'") as url:
        findings = examine(healthy, DATABASE_URL=url)
    assert "encoding is SQL_ASCII" in findings["postgres"]["found"]


@needs_pgbouncer
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_pooler(
    healthy: Pipeline, durable_postgres: Server, tmp_path_factory: pytest.TempPathFactory, mode: str
) -> None:
    home = Path(tempfile.mkdtemp(prefix="pgbouncer-", dir="/tmp"))
    home.chmod(0o755)
    try:
        with pooling(durable_postgres.url, home, mode=mode) as url:
            findings = examine(healthy, DATABASE_URL=url)
    finally:
        shutil.rmtree(home)
    if mode == "session":
        assert findings["postgres pooler"]["found"] == "one in session mode, which serves"
        assert wrong(findings) == []
    else:
        assert "a transaction pooler stands between" in findings["postgres"]["found"]


def test_a_role_with_few_rights(healthy: Pipeline, durable_postgres: Server) -> None:
    with psycopg.connect(durable_postgres.url, autocommit=True) as admin:
        admin.execute("CREATE ROLE reader LOGIN PASSWORD 'reader'")
        admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        try:
            findings = examine(healthy, DATABASE_URL=durable_postgres.url.replace("postgres:test@", "reader:reader@"))
        finally:
            admin.execute("DROP OWNED BY reader")
            admin.execute("DROP ROLE reader")
    assert wrong(findings) == ["postgres rights"]
    assert "events: delete, insert, update" in findings["postgres rights"]["found"]
    assert "pipeline grants --application reader" in findings["postgres rights"]["found"]


def test_the_role_of_handlers(healthy: Pipeline, durable_postgres: Server) -> None:
    own = durable_postgres.url
    found = examine(healthy)["postgres handlers"]
    assert found == {"thing": "postgres handlers", "state": "ok", "found": found["found"]}
    assert "handlers write as postgres" in found["found"]

    def look(url: str) -> str:
        findings = examine(healthy, HANDLER_DATABASE_URL=url)
        assert wrong(findings) in ([], ["postgres handlers"])
        return f"{findings['postgres handlers']['state']}: {findings['postgres handlers']['found']}"

    theirs = own.replace("postgres:test@", "acme:acme@")
    with psycopg.connect(own, autocommit=True) as admin, new_database(durable_postgres) as elsewhere:
        admin.execute("CREATE ROLE acme LOGIN PASSWORD 'acme'")
        try:
            assert "may not call the function record_success" in look(theirs)
            admin.execute("GRANT EXECUTE ON FUNCTION record_success TO acme")
            assert look(theirs).startswith("ok: the role acme may record a success, and change none")
            admin.execute("GRANT UPDATE ON deliveries, receipts TO acme")
            assert look(theirs).startswith("wrong: the role acme of handlers may change deliveries, receipts: revoke")
            admin.execute("REVOKE UPDATE ON deliveries, receipts FROM acme")
            assert look(own).startswith("wrong: HANDLER_DATABASE_URL has the role of DATABASE_URL, postgres")
            assert look(theirs.replace("acme:acme@", "acme:no@")).startswith("wrong: HANDLER_DATABASE_URL: connection")
            assert "the function record_success is not found" in look(elsewhere)
            healthy("migrate", DATABASE_URL=elsewhere)
            assert look(elsewhere).startswith("wrong: HANDLER_DATABASE_URL names another database")
        finally:
            admin.execute("DROP OWNED BY acme; DROP ROLE acme")


def test_commits_that_a_crash_loses(healthy: Pipeline, durable_postgres: Server) -> None:
    with psycopg.connect(durable_postgres.url, autocommit=True) as admin:
        admin.execute("ALTER DATABASE postgres SET synchronous_commit = off")
        try:
            findings = examine(healthy)
        finally:
            admin.execute("ALTER DATABASE postgres RESET synchronous_commit")
    assert wrong(findings) == ["postgres durability"]
    assert "synchronous_commit off" in findings["postgres durability"]["found"]


def test_commits_that_wait_for_a_replica_that_is_away(healthy: Pipeline, durable_postgres: Server) -> None:
    with psycopg.connect(durable_postgres.url, autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'other'")
        admin.execute("SELECT pg_reload_conf()")
        try:
            wait_for(lambda: admin.execute("SHOW synchronous_standby_names").fetchone() == ("other",), seconds=5)
            findings = examine(healthy)
        finally:
            admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            admin.execute("SELECT pg_reload_conf()")
    assert "commits wait for other" in findings["postgres replicas"]["found"]


def test_wal_that_is_kept_for_nobody(durable_postgres: Server) -> None:
    with connect(durable_postgres.url, name="test") as connection:
        connection.execute("SELECT pg_create_physical_replication_slot('gone', true)")
        try:
            assert postgres_server.replicas(connection).state == "ok"
            found = postgres_server.replicas(connection, lag_bytes=-1)
        finally:
            connection.execute("SELECT pg_drop_replication_slot('gone')")
    assert "of WAL are kept for the slot gone" in found.found


def test_a_snapshot_that_is_held(durable_postgres: Server) -> None:
    with connect(durable_postgres.url, name="test") as connection, connect(durable_postgres.url, name="dump") as dump:
        dump.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        dump.execute("SELECT count(*) FROM events")
        assert postgres_server.snapshots(connection).state == "ok"
        found = postgres_server.snapshots(connection, older_than=timedelta())
    assert found.state == "wrong"
    assert "dump of the role postgres" in found.found


def test_connections_that_run_out(durable_postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_server, "FULL", 0.0)
    with connect(durable_postgres.url, name="test") as connection:
        assert postgres_server.connections(connection).state == "wrong"


def test_an_old_postgres(durable_postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_server, "OLDEST_POSTGRES", 990_000)
    with connect(durable_postgres.url, name="test") as connection:
        found = postgres_server.version(connection)
    assert (found.state, "is older than 99: upgrade it" in found.found) == ("wrong", True)


def test_clocks_that_disagree() -> None:
    assert deployment.compare({"Postgres": 0.2, "Redis": -0.1}).state == "ok"
    found = deployment.compare({"Postgres": 3.0, "Redis": -4.0})
    assert found.state == "wrong"
    assert found.found.startswith("Postgres is 7.0 s ahead of Redis")


def test_keys_that_open_nothing(healthy: Pipeline) -> None:
    other = Fernet.generate_key().decode()
    findings = examine(healthy, SECRETS_KEY=other)
    assert wrong(findings) == ["keys"]
    assert "no key of SECRETS_KEY opens acme's moveris secret v1" in findings["keys"]["found"]
    assert examine(healthy, SECRETS_KEY="")["keys"]["state"] == "unknown"
    both = examine(healthy, SECRETS_KEY=f"{other},{healthy.environ['SECRETS_KEY']}")["keys"]
    assert (both["state"], "1 of them with an old key" in both["found"]) == ("ok", True)


def test_a_registry_that_is_not_published(healthy: Pipeline, valkey: Valkey) -> None:
    with valkey.client() as client:
        kept = client.dump(NAMES.registry)
        client.delete(NAMES.registry)
        try:
            findings = examine(healthy)
        finally:
            assert isinstance(kept, bytes)
            client.restore(NAMES.registry, 0, kept)
    assert wrong(findings) == ["registry"]
    assert "nothing is published" in findings["registry"]["found"]


def test_a_redis_of_another_environment_until_it_is_adopted(healthy: Pipeline, valkey: Valkey) -> None:
    findings = examine(healthy, PIPELINE_ENVIRONMENT="staging")
    assert wrong(findings) == ["identity"]
    assert "`pipeline adopt`" in findings["identity"]["found"]
    with valkey.client() as client:
        client.set(NAMES.identity, "production 1/2/3")
        registry = client.hgetall(NAMES.registry)
        assert wrong(examine(healthy)) == ["identity"]
        refused = healthy("tenants", "limit", "acme", "--rate", "10/s", status=1).err
        assert refused.startswith("pipeline: Redis belongs to production 1/2/3, and this is - ")
        assert client.hgetall(NAMES.registry) == registry
        assert "before, to production 1/2/3" in healthy("adopt").text
        assert client.hgetall(NAMES.registry) != registry, "what was changed meanwhile is published"
    assert "it did already" in healthy("adopt").text
    healthy("tenants", "limit", "acme", "--lift")
    assert wrong(examine(healthy)) == []


def test_queues_without_a_worker(healthy: Pipeline) -> None:
    with own_valkey() as other, other.client() as client:
        client.config_set("appendfsync", "always")
        findings = examine(healthy, REDIS_URL=other.url)
    assert wrong(findings) == ["registry", "workers"]
    assert "no worker serves ingest, handlers, express, housekeeping" in findings["workers"]["found"]


def test_processes_of_two_releases(healthy: Pipeline, valkey: Valkey) -> None:
    other = LiveWorker(id="x", name="ingest@old", queues=("ingest",), slots=1, code_version="", release="0.1.9")
    with valkey.client() as client:
        client.eval(releases.SAY, 1, NAMES.live_ingresses, releases.describe("one"))
        found = examine(healthy)["releases"]
        assert (found["state"], found["found"]) == ("ok", f"the processes are 2 of {releases.RELEASE}")
        say_live(client, NAMES, other, [])
        client.eval(releases.SAY, 1, NAMES.live_ingresses, '{"name": "two", "release": "9.0.0"}')
        try:
            findings = examine(healthy)
        finally:
            say_gone(client, NAMES, other)
            client.delete(NAMES.live_ingresses)
    assert wrong(findings) == ["releases"]
    assert findings["releases"]["found"].startswith("the processes are 1 of 0.1.9, 2 of 0.2.0, 1 of 9.0.0: finish the")


def test_handlers_that_nobody_runs(healthy: Pipeline, durable_postgres: Server) -> None:
    with psycopg.connect(durable_postgres.url, autocommit=True) as admin:
        for handler, ready in (("acme.gone", True), ("other.gone", False), ("example.completed", True)):
            admin.execute(
                "INSERT INTO deliveries (event_id, handler, tenant, ready, due_at)"
                " VALUES (gen_random_uuid(), %s, 'acme', %s, now() + interval '1 hour')",
                [handler, ready],
            )
        try:
            findings = examine(healthy)
        finally:
            admin.execute("DELETE FROM deliveries")
    assert wrong(findings) == ["handlers"]
    assert findings["handlers"]["found"].startswith("deliveries of acme.gone, example.completed, other.gone wait")


def test_a_wrong_setting_is_one_line(healthy: Pipeline) -> None:
    refused = replace(healthy)("doctor", status=1, INBOX_DURABILITY="sometimes")
    assert refused.err == "pipeline: INBOX_DURABILITY is wrong: always, everysec or any is expected, not 'sometimes'\n"
