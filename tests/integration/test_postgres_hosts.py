"""Several hosts in DATABASE_URL: a primary and its streaming replica, whichever of them is named first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest

from deploy.doctor.postgres_server import replicas
from deploy.local.servers import prepare_postgres
from tests.conftest import running
from tests.launching import free_port
from workers.store import tenants
from workers.store.connect import UNREACHABLE, PostgresConnection, connect
from workers.store.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.local.service import Server
    from tests.integration.conftest import AddDeliveries, Run
    from workers.dispatch.delivery import Delivery
    from workers.store.connect import Connection

pytestmark = pytest.mark.timeout(60)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A primary and its replica.

    Attributes:
        url: of both, the replica first.
    """

    primary: Server
    replica: Server
    stop_primary: ExitStack
    url: str


def make_replica(primary: Server, home: Path) -> Server:
    """Copy the primary's data, so that a server with them follows it."""
    data, port = home / "postgres", free_port()
    copy = [
        str(Path(primary.argv[0]).with_name("pg_basebackup")),
        "-d",
        primary.url.rpartition("/")[0],
        "-D",
        str(data),
    ]
    data.mkdir(mode=0o700)
    if primary.uid is not None:
        os.chown(data, primary.uid, -1)
    subprocess.run([*copy, "-R", "-X", "stream", "-c", "fast"], check=True, user=primary.uid, cwd="/")
    return prepare_postgres(home, port=port, password="test", options=["fsync=off"])


@pytest.fixture
def pair() -> Iterator[Pair]:
    home = Path(tempfile.mkdtemp(prefix="pair-", dir="/tmp"))
    home.chmod(0o755)
    homes = [home / name for name in ("one", "two")]
    for each in homes:
        each.mkdir()
    try:
        with ExitStack() as stack, ExitStack() as stop_primary:
            primary = prepare_postgres(homes[0], port=free_port(), password="test", options=["fsync=off"])
            stop_primary.enter_context(running(primary, homes[0]))
            replica = stack.enter_context(running(make_replica(primary, homes[1]), homes[1]))
            ports = [urlsplit(server.url).port for server in (replica, primary)]
            hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
            url = f"postgresql://postgres:test@{hosts}/postgres?target_session_attrs=read-write"
            with connect(url, name="migrate") as connection:
                migrate(connection)
            yield Pair(primary=primary, replica=replica, stop_primary=stop_primary, url=url)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def database_url(pair: Pair) -> str:
    """What `add_deliveries` and `run` use here."""
    return pair.url


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with connect(database_url, name="test") as it:
        it.execute("CREATE TABLE effects (event_id uuid)")
        yield it


def pipeline(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.cli", *arguments]
    environ = os.environ | {"DATABASE_URL": url, "REDIS_URL": "redis://127.0.0.1:1/0"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_everything_writes_to_the_primary_and_goes_on_there_when_the_replica_takes_over(
    pair: Pair, run: Run, add_deliveries: AddDeliveries
) -> None:
    worker = PostgresConnection(pair.url, name="worker")
    tenants.add_tenant(worker.connection, "before")
    assert pipeline(pair.url, "tenants", "add", "by-command").returncode == 0
    ids = add_deliveries(4)

    def write(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])
        if delivery.event_id == ids[1]:
            with psycopg.connect(pair.replica.url, autocommit=True) as replica:
                pair.stop_primary.close()
                replica.execute("SELECT pg_promote()")

    message = run(ids, write)
    assert (message.succeeded, [str(failure.outcome.claimed.event_id) for failure in message.failures]) == (
        3,
        [str(ids[1])],
    )
    with pytest.raises(UNREACHABLE):
        tenants.add_tenant(worker.connection, "after")
    worker.close()  # as every process does then
    tenants.add_tenant(worker.connection, "after")
    worker.close()
    assert pipeline(pair.url, "tenants", "add", "by-command-again").returncode == 0
    with psycopg.connect(pair.replica.url) as replica:
        names = [row[0] for row in replica.execute("SELECT name FROM tenants ORDER BY name").fetchall()]
        assert names == ["after", "before", "by-command", "by-command-again"]
        effects = [row[0] for row in replica.execute("SELECT event_id FROM effects ORDER BY event_id").fetchall()]
        assert effects == [event_id for event_id in ids if event_id != ids[1]]


def test_where_none_of_the_hosts_serves_the_line_tells_why_for_each(pair: Pair) -> None:
    replica_only = pair.url.replace(str(urlsplit(pair.primary.url).port), "1")
    refused = pipeline(replica_only, "tenants", "list")
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert "session is read-only" in refused.stderr
    assert "Connection refused" in refused.stderr
    assert "test@" not in refused.stderr


def test_the_doctor_tells_a_standby_and_a_replica_that_is_far_behind(pair: Pair) -> None:
    on_standby = pipeline(pair.replica.url, "doctor")
    assert on_standby.returncode == 1
    assert "DATABASE_URL names a standby, which takes no writes" in on_standby.stdout
    with connect(pair.primary.url, name="test") as primary, psycopg.connect(pair.replica.url) as replica:
        assert replicas(primary).state == "ok"
        replica.execute("SELECT pg_wal_replay_pause()")
        primary.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 2000000))")
        assert "MB behind" in replicas(primary, lag_bytes=1_000_000).found
