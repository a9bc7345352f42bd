"""Whose Redis it is: a second database or environment is refused, and `adopt` moves it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest

from shared import wire
from shared.identity import ForeignRedisError, claim
from tests.ingress_process import wait_for
from tests.integration.draining import post, reader, run
from tests.names import NAMES
from workers.housekeeping.publishing import Publisher, published_version
from workers.store import tenants
from workers.store.connect import connect
from workers.store.identity import UNTOLD, read_identity

if TYPE_CHECKING:
    from pathlib import Path

    from redis import Redis

    from workers.store.connect import Connection


def test_a_drain_of_another_database_takes_nothing(client: Redis, connection: Connection) -> None:
    post(client)
    run(client, connection, identity="ours")
    assert client.get(NAMES.identity) == b"ours"
    post(client, b'{"type":"another"}')
    client.set(NAMES.bell, "1")
    with pytest.raises(ForeignRedisError, match=r"belongs to ours, and this is theirs: .*`pipeline adopt`"):
        run(client, connection, identity="theirs")
    assert client.xlen(NAMES.inbox) == 1
    assert client.xpending(NAMES.inbox, wire.INBOX_GROUP)["pending"] == 0
    assert client.exists(NAMES.bell), "it is for the drain that comes"
    assert run(client, connection, identity="ours").stored == 1


def test_a_full_redis_that_has_no_identity_is_drained(client: Redis, connection: Connection) -> None:
    post(client)
    reader(client).forget_idle_consumers()  # makes the group, which a full Redis takes too, in a way of its own
    bound = client.config_get("maxmemory")["maxmemory"]
    client.config_set("maxmemory", 1)
    try:
        assert run(client, connection, identity="ours").stored == 1
        assert not client.exists(NAMES.identity)
    finally:
        client.config_set("maxmemory", bound or 0)


def test_a_publisher_of_another_environment_publishes_nothing_and_changes_nothing(
    client: Redis, connection: Connection, other_url: str
) -> None:
    Publisher(client, NAMES, environment="production").publish(connection)
    published = published_version(client, NAMES)
    with connect(other_url, name="test") as other:
        for mine, environment in ((other, "production"), (connection, "staging")):
            publisher = Publisher(client, NAMES, environment=environment)
            tenants.add_tenant(mine, environment)
            tenants.add_endpoint(
                mine, tenant=environment, provider="moveris", scheme="moveris", label="v1", ciphertext=b"x"
            )
            before = tenants.registry_version(mine)
            for act in (publisher.publish, publisher.publish_if_stale):
                with pytest.raises(ForeignRedisError):
                    act(mine)
            client.hset(NAMES.registry, "version", before + 1_000_000)
            with pytest.raises(ForeignRedisError):
                publisher.publish_if_stale(mine)
            assert tenants.registry_version(mine) == before
            client.hset(NAMES.registry, "version", published)


def test_the_identity_is_of_the_database_its_schema_and_the_environment(
    connection: Connection, database_url: str, other_url: str
) -> None:
    own = read_identity(connection, "")
    assert own.startswith("- ")
    assert read_identity(connection, "staging") == own.replace("-", "staging", 1)
    with connect(database_url, name="test") as again, connect(other_url, name="test") as other:
        assert read_identity(again, "") == own
        assert read_identity(other, "") != own
        connection.execute("CREATE SCHEMA copy; CREATE TABLE copy.deliveries ()")
        again.execute("SET search_path = copy")
        assert read_identity(again, "") != own


def test_a_role_that_may_not_read_the_system_identifier_goes_by_the_rest(connection: Connection) -> None:
    role = f"plain_{uuid.uuid4().hex[:8]}"
    connection.execute(f"CREATE ROLE {role}; REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    own = read_identity(connection, "staging")
    try:
        connection.execute(f"SET ROLE {role}")
        _, system_database_schema = read_identity(connection, "staging").split(" ")
        assert system_database_schema.split("/") == [UNTOLD, *own.split("/")[1:]]
    finally:
        connection.execute(f"RESET ROLE; DROP ROLE {role}")


def test_a_worker_of_another_environment_ends_with_one_line(
    client: Redis, connection: Connection, database_url: str, redis_url: str
) -> None:
    claim(client, NAMES, read_identity(connection, "production"))
    ended = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", "ingest", "-c", "1"],
        env=os.environ | {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "PIPELINE_ENVIRONMENT": "staging"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("workers: Redis belongs to production ")
    assert "and this is staging " in line


def test_a_worker_whose_redis_was_adopted_by_another_stores_nothing_until_it_is_its_own_again(
    client: Redis, connection: Connection, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    def ring() -> None:
        client.delete(NAMES.bell)
        keys, arguments = wire.ring_arguments(NAMES)
        client.eval(wire.RING, len(keys), *keys, *arguments)

    log = tmp_path / "log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", "ingest", "-c", "1"],
            env=os.environ | {"DATABASE_URL": database_url, "REDIS_URL": redis_url},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_for(lambda: "ready." in log.read_text(), seconds=30)
        own = client.get(NAMES.identity)
        assert own == read_identity(connection, "").encode()
        client.set(NAMES.identity, "production 1/2/3")
        post(client)
        for _ in range(2):
            ring()
            wait_for(lambda: not client.exists(NAMES.ingest_queue, NAMES.unacked), seconds=10)
        assert client.xlen(NAMES.inbox) == 1
        assert log.read_text().count("Redis belongs to production 1/2/3, and this is - ") == 1
        client.set(NAMES.identity, own)
        ring()
        wait_for(lambda: client.xlen(NAMES.inbox) == 0, seconds=10)
        assert "Traceback" not in log.read_text()
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
