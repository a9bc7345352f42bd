"""The ground that everything stands on: embedded servers with ports and a folder of their own, and fresh databases.

Redis writes its append-only file before it answers (`appendfsync always`) for all that is measured, ours and peers.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import redis
from cryptography.fernet import Fernet

from deploy.local.servers import prepare_postgres, prepare_valkey
from shared.registry import Cipher
from tests.benchmarks.bodies import SECRET, TENANT
from tests.benchmarks.naive.tables import TABLES
from tests.benchmarks.processes import ROOT, run_server
from tests.launching import free_port
from tests.names import NAMES
from workers.housekeeping.publishing import Publisher
from workers.store import tenants
from workers.store.connect import Connection, connect
from workers.store.migrate import migrate
from workers.store.partitions import ensure_partitions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DISK: Final = Path("/tmp")
MEMORY: Final = Path("/dev/shm")
TEMPLATE: Final = "bench_template"
_OWN_TABLES: Final = "CREATE TABLE grants (session_id text NOT NULL, granted_at timestamptz NOT NULL DEFAULT now())"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Running servers.

    Attributes:
        home: folder of the run: data and logs.
        postgres_url: of the database `postgres`.
        redis_url: of the one Redis.
        server_pids: of both.
    """

    home: Path
    postgres_url: str
    redis_url: str
    server_pids: tuple[int, ...]

    @contextmanager
    def fresh(self, redis_database: int = 0, *, drop: bool = True, migrated: bool = True) -> Iterator[Place]:
        """Yield a new, migrated database and an empty Redis; places that stand side by side are made before any fills.

        Args:
            redis_database: number of the one that it uses; all are emptied.
            drop: the database in the end.
            migrated: with this tree's tables; else with none.
        """
        redis_url = f"{self.redis_url.rpartition('/')[0]}/{redis_database}"
        name = f"bench_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.postgres_url, autocommit=True) as admin:
            admin.execute(f'CREATE DATABASE "{name}" TEMPLATE {TEMPLATE if migrated else "template0"}')
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
            place = Place(
                home=self.home,
                database_url=self.postgres_url.removesuffix("/postgres") + f"/{name}",
                redis_url=redis_url,
                redis=client,
                secrets_key=Fernet.generate_key().decode(),
            )
            yield place
        if drop:
            with psycopg.connect(self.postgres_url, autocommit=True) as admin:
                admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one thing is measured: its own database and an empty Redis.

    Attributes:
        tree: the folder whose code is measured.
    """

    home: Path
    database_url: str
    redis_url: str
    redis: redis.Redis
    secrets_key: str
    tree: Path = ROOT

    def waiting(self) -> int:
        """Return how many events wait for a drain."""
        lengths: Any = (self.redis.xlen("inbox"), self.redis.xlen("inbox:overflow"))
        return sum(lengths)

    def environ(self, **more: object) -> Mapping[str, str]:
        """Return the environment of a process that is measured here."""
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
        return {
            **kept,
            "PYTHONPATH": str(self.tree),
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "SECRETS_KEY": self.secrets_key,
            "LOG_LEVEL": "warning",
            **{name: str(value) for name, value in more.items()},
        }

    def connect(self) -> Connection:
        """Return a connection to the database."""
        return connect(self.database_url, name="benchmark")

    def query(self, text: str, parameters: Any = None) -> dict[str, Any]:
        """Return one row."""
        with self.connect() as connection:
            row = connection.execute(text, parameters).fetchone()
        return row or {}

    def add_endpoint(self, *names: str) -> None:
        """Make tenants with a Moveris endpoint each, and publish the registry."""
        cipher = Cipher([self.secrets_key])
        with self.connect() as connection:
            ciphertext = cipher.encrypt(SECRET)
            with connection.transaction():
                for name in names or (TENANT,):
                    tenants.add_tenant(connection, name)
                    tenants.add_endpoint(
                        connection, tenant=name, provider="moveris", scheme="moveris", label="a", ciphertext=ciphertext
                    )
            Publisher(self.redis, NAMES, environment="").publish(connection)


@contextmanager
def stand_on(*, maxmemory: str = "8gb", folder: Path = DISK) -> Iterator[Ground]:
    """Start the servers, make the database that others are copied from, and leave nothing behind."""
    home = Path(tempfile.mkdtemp(prefix="pipeline-bench-", dir=folder))
    home.chmod(0o755)
    try:
        postgres = prepare_postgres(home, port=free_port(), password="bench")
        valkey = prepare_valkey(home, port=free_port(), password="bench", maxmemory=maxmemory)
        with run_server(postgres, home) as postgres_pid, run_server(valkey, home) as valkey_pid:
            with psycopg.connect(postgres.url, autocommit=True) as admin:
                admin.execute(f"CREATE DATABASE {TEMPLATE}")
            with connect(postgres.url.removesuffix("/postgres") + f"/{TEMPLATE}", name="benchmark") as connection:
                migrate(connection)
                ensure_partitions(connection)
                connection.execute(_OWN_TABLES)
                connection.execute(TABLES)
            yield Ground(
                home=home, postgres_url=postgres.url, redis_url=valkey.url, server_pids=(postgres_pid, valkey_pid)
            )
    finally:
        shutil.rmtree(home, ignore_errors=True)
