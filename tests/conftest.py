"""Real servers for the tests: one Postgres and one Valkey a run, a fresh database and an empty Valkey for each test."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, settings

from deploy.local.servers import prepare_postgres, prepare_valkey
from deploy.local.service import Server
from tests.launching import end, free_port, spawn
from workers.store.connect import Connection, connect
from workers.store.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

# all servers of the tests are on the loopback, which no proxy knows
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"

SECRETS_KEY = Fernet.generate_key().decode()

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; a file stays in one process (`--dist loadfile`), for its tests share servers."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    first = {"browser": 0, "system": 0, "chaos": 0, "integration": 1}
    items.sort(key=lambda item: first.get(item.path.relative_to(Path(__file__).parent).parts[0], 2))


@contextmanager
def running(server: Server, home: Path) -> Iterator[Server]:
    """Run a server until the block ends."""
    log = home / f"{server.name}.log"
    process = spawn(server.argv, log=log, user=server.uid, at_our_end=server.stop_signal)
    try:
        while not server.is_ready():
            assert process.poll() is None, log.read_text()
        yield server
    finally:
        end(process, server.stop_signal)


@pytest.fixture(scope="session")
def servers_home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="pipeline-test-", dir="/tmp"))
    home.chmod(0o755)
    yield home
    shutil.rmtree(home, ignore_errors=True)


@contextmanager
def run_postgres(home: Path) -> Iterator[Server]:
    """Run a Postgres that need not survive a crash of the machine."""
    options = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
    with running(prepare_postgres(home, port=free_port(), password="test", options=options), home) as it:
        yield it


@pytest.fixture(scope="session")
def postgres_server(servers_home: Path) -> Iterator[Server]:
    if url := os.environ.get("TEST_POSTGRES_URL"):  # of `tests.mutation`, which runs the tests some hundred times
        yield Server(name="postgres", argv=(), is_ready=lambda: True, url=url)
        return
    with run_postgres(servers_home) as it:
        yield it


@pytest.fixture(scope="session")
def valkey_server(servers_home: Path) -> Iterator[Server]:
    with running(prepare_valkey(servers_home, port=free_port(), password="test"), servers_home) as it:
        yield it


@pytest.fixture(scope="session")
def template_database(postgres_server: Server) -> str:
    """Name of a migrated database that each test copies."""
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        if admin.execute("SELECT 1 FROM pg_database WHERE datname = 'template_pipeline'").fetchone():
            return "template_pipeline"
        admin.execute("CREATE DATABASE template_pipeline")
    with connect(postgres_server.url.removesuffix("/postgres") + "/template_pipeline", name="migrate") as connection:
        migrate(connection)
    return "template_pipeline"


@contextmanager
def fresh_database(server: Server, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE {template} STRATEGY FILE_COPY')
        yield server.url.removesuffix("/postgres") + f"/{name}"
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def database_url(postgres_server: Server, template_database: str) -> Iterator[str]:
    """A fresh, migrated database."""
    with fresh_database(postgres_server, template_database) as url:
        yield url


@pytest.fixture
def other_url(postgres_server: Server, template_database: str) -> Iterator[str]:
    """Another migrated database on the same server."""
    with fresh_database(postgres_server, template_database) as url:
        yield url


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with connect(database_url, name="test") as it:
        yield it


@pytest.fixture
def redis_url(valkey_server: Server) -> str:
    """An empty Valkey."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
    return valkey_server.url
