"""The stack that the faults are injected into: `pipeline up` between two proxies, and an ingress with its own clock.

It has a folder and ports of its own. What dies is started again, by the supervisor of `pipeline up` or, for what that
does not know, here. `stop` leaves nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.error import URLError

import psutil
import psycopg
from cryptography.fernet import Fernet
from psycopg import rows
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.chaos.proxy import Proxy
from tests.chaos.servers import postgres, until, valkey
from tests.chaos.wire import PREFIX
from tests.launching import free_port, open_url, spawn

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence
    from types import TracebackType

HERE: Final = Path(__file__).parent
TENANTS: Final = ("acme", "bravo", "capped", "delta")
FLOODING: Final = "flooding"
"""A tenant that has a slow handler of its own besides, and is left out of `endpoints`; see `tests.chaos.flood`."""
RATED: Final = "delta"
"""The tenant that a run gives a rate below what it is sent."""
FLOOD_BURST: Final = 5
"""Events of the flooding tenant that may come at once to the inbox of an ingress process; the others overflow."""
FLOOD_BYTES: Final = 30_000
"""Its share of the inbox: some 30 events, fewer than it sends at once."""
TABLES: Final = """
    CREATE TABLE chaos_effects (event_id uuid, attempt integer, at timestamptz DEFAULT clock_timestamp());
    CREATE INDEX ON chaos_effects (event_id);
    CREATE TABLE chaos_runs (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id uuid, attempt integer,
                             began timestamptz DEFAULT clock_timestamp(), ended timestamptz);
    CREATE INDEX ON chaos_runs (event_id);
"""
SETTINGS: Final = {
    "REDIS_PREFIX": PREFIX,
    "INGRESS_WORKERS": "2",
    "INGEST_WORKERS": "2",
    "HANDLER_WORKERS": "4",
    "MESSAGE_SECONDS": "0.5",
    "DRAIN_BATCH": "200",
    "RECLAIM_SECONDS": "4",
}
"""Small enough that a run of minutes meets every lease and limit many times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a tenant's events are posted."""

    port: int
    tenant: str
    secret: bytes

    @property
    def path(self) -> str:
        """The path of the endpoint."""
        return f"/webhooks/moveris/{self.tenant}"


class Stack:
    """One stack; an async context manager.

    Attributes:
        home: its folder.
        postgres_proxy: between every process and Postgres.
        redis_proxy: between every process and Redis.
        orders: folder of orders to the handlers.
        clock: file that steps the second ingress's clock.
        flushed: ids of the events that lay in the inbox when everything was flushed.
    """

    def __init__(self, *, settings: Mapping[str, str] | None = None, with_clock: bool = True) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="pipeline-chaos-", dir="/tmp"))
        self.home.chmod(0o755)
        self._folder = self.home / "up"
        self.logs = self._folder / "logs"
        self.logs.mkdir(parents=True)
        self.orders = self.home / "orders"
        self.orders.mkdir()
        self.clock = self.home / "clock"
        self.postgres, self._postgres_password = postgres(self.home)
        self.valkey, self._valkey_password = valkey(self.home)
        self.postgres_proxy = Proxy(to=self.postgres.port)
        self.redis_proxy = Proxy(to=self.valkey.port)
        self.port, self.clock_port = free_port(), free_port()
        self.starts = 0
        self.flushed: set[str] = set()
        self._flower_port = free_port()
        self._exporter_port = free_port()
        self._console_port = free_port()
        self._with_clock = with_clock
        self._key = Fernet.generate_key().decode()
        self._settings = {**SETTINGS, **(settings or {})}
        self._secrets = {tenant: secrets.token_bytes(24) for tenant in (*TENANTS, FLOODING)}
        self._up: subprocess.Popen[bytes] | None = None
        self._further: list[subprocess.Popen[bytes]] = []
        self._keeper: asyncio.Task[None] | None = None
        self._sql: psycopg.AsyncConnection[dict[str, Any]] | None = None
        self.redis: Redis = Redis.from_url(
            self._redis_url(self.valkey.port),
            socket_timeout=10,
            retry=Retry(ConstantBackoff(0.1), 300),
            retry_on_error=[RedisConnectionError, RedisTimeoutError, ReadOnlyError],
        )

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop(keep=True)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.stop(keep=error is not None)

    async def start(self) -> None:
        """Start everything, make the tenants, and wait until each ingress knows them."""
        await asyncio.gather(self.postgres.start(), self.valkey.start())
        await self.postgres_proxy.start(free_port())
        await self.redis_proxy.start(free_port())
        await self.start_up()
        await self.query(TABLES)
        cipher = Fernet(self._key)
        await self.query(
            "INSERT INTO tenants (name, max_in_flight) SELECT t, CASE t WHEN 'capped' THEN 200 END"
            " FROM unnest(%s::text[]) AS t",
            [list(self._secrets)],
        )
        await self.limit(FLOODING, burst=FLOOD_BURST, inbox_bytes=FLOOD_BYTES)
        await self.query(
            "INSERT INTO endpoints (tenant, provider, scheme)"
            " SELECT t, 'moveris', '\"moveris\"' FROM unnest(%s::text[]) AS t",
            [list(self._secrets)],
        )
        await self.query(
            "INSERT INTO endpoint_secrets (tenant, provider, label, ciphertext)"
            " SELECT t, 'moveris', 'first', c FROM unnest(%s::text[], %s::bytea[]) AS s(t, c)",
            [list(self._secrets), [cipher.encrypt(secret) for secret in self._secrets.values()]],
        )
        if self._with_clock:
            self._keeper = asyncio.create_task(self._keep_clock_ingress())
            await until(lambda: _answers(self.clock_port), seconds=30, what="the ingress with its own clock")
        await asyncio.sleep(3)  # the sweeper publishes within a tick, every ingress process looks four times a second

    async def limit(
        self, tenant: str, *, rate: float | None = None, burst: int | None = None, inbox_bytes: int | None = None
    ) -> None:
        """Set what a tenant may send; every ingress knows it some two seconds later."""
        await self.query(
            "UPDATE tenants SET ingest_rate = %s, ingest_burst = %s, inbox_bytes = %s WHERE name = %s",
            [rate, burst, inbox_bytes, tenant],
        )

    async def start_up(self) -> None:
        """Run `pipeline up` until it is ready."""
        self.starts += 1
        said = self.logs / f"up-{self.starts}.log"
        argv = [str(Path(sys.executable).with_name("pipeline")), "up", "--no-demo-event"]
        self._up = spawn(argv, log=said, environ=self._environ(), at_our_end=signal.SIGTERM)
        up = self._up
        await until(
            lambda: up.poll() is not None or "Ctrl-C" in said.read_text(), seconds=120, what=f"the stack, see {said}"
        )
        assert up.poll() is None, said.read_text()

    async def stop(self, *, keep: bool = False) -> None:
        """Stop everything and remove the folder, unless it is to be looked at."""
        if self._keeper is not None:
            self._keeper.cancel()
        for process in self._further:
            process.kill()
        if self._up is not None and self._up.poll() is None:
            self._up.terminate()
            with suppress(AssertionError):
                up = self._up
                await until(lambda: up.poll() is not None, seconds=20, what="the end of the stack")
        for left in self.processes():
            with suppress(psutil.NoSuchProcess):
                left.kill()
        self.postgres_proxy.stop()
        self.redis_proxy.stop()
        await self.redis.aclose()
        if self._sql is not None:
            await self._sql.close()
        self.postgres.kill()
        self.valkey.kill()
        if not keep:
            shutil.rmtree(self.home, ignore_errors=True)

    # Its processes --------------------------------------------------------------------------------------------------

    @property
    def supervisor(self) -> psutil.Process:
        """The process of `pipeline up`."""
        assert self._up is not None
        return psutil.Process(self._up.pid)

    def processes(self) -> list[psutil.Process]:
        """Return every living process of this stack but the servers."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("PIPELINE_HOME") == str(self._folder) and process.pid != os.getpid():
                    found.append(process)
        return found

    def main(self, name: str) -> psutil.Process | None:
        """Return the main process of a service, or None while there is none."""
        try:
            members = json.loads((self._folder / "stack.json").read_text())["members"]
            process = psutil.Process(next(member["pid"] for member in members if member["name"] == name))
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except (OSError, ValueError, StopIteration, psutil.NoSuchProcess):
            return None

    def children(self, name: str) -> list[psutil.Process]:
        """Return the children of a service's main process: ingress workers, pool processes."""
        main = self.main(name)
        with suppress(psutil.NoSuchProcess):
            return [child for child in main.children() if _works(child)] if main else []
        return []

    def further(self, *argv: str, environ: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start one more process of the pipeline; `stop` ends it at the latest."""
        process = spawn(
            [sys.executable, *argv], log=self.logs / "further.log", environ={**self._environ(), **(environ or {})}
        )
        self._further.append(process)
        return process

    async def _keep_clock_ingress(self) -> None:
        """Run the ingress whose clock can be stepped, again whenever it ends."""
        environ = {
            "INGRESS_PORT": str(self.clock_port),
            "INGRESS_WORKERS": "1",
            "PYTHONPATH": _path(HERE / "clock"),
            "CHAOS_CLOCK": str(self.clock),
        }
        while True:
            process = self.further("-m", "ingress", environ=environ)
            while process.poll() is None:  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.2)
            self._further.remove(process)

    # Its endpoints --------------------------------------------------------------------------------------------------

    def endpoints(self, *tenants: str) -> list[Endpoint]:
        """Return the endpoints of these tenants, or of all but the flooding one, at each ingress."""
        ports = [self.port, self.clock_port] if self._with_clock else [self.port]
        return [
            Endpoint(port=port, tenant=tenant, secret=self._secrets[tenant])
            for port in ports
            for tenant in tenants or TENANTS
        ]

    async def query(
        self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Run one statement beside the proxy and return its rows; waits while Postgres is away."""
        for _ in range(600):
            try:
                if self._sql is None or self._sql.closed:
                    self._sql = await self.connect()
                cursor = await self._sql.execute(sql, parameters)
                return await cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                if self._sql is not None:
                    await self._sql.close()
                await asyncio.sleep(0.1)
        raise AssertionError("Postgres did not come back within a minute")

    async def connect(self, database: str = "postgres") -> psycopg.AsyncConnection[dict[str, Any]]:
        """Open a connection beside the proxy."""
        return await psycopg.AsyncConnection.connect(
            self._database_url(self.postgres.port, database),
            autocommit=True,
            row_factory=rows.dict_row,
            connect_timeout=5,
            application_name="chaos",
        )

    def _environ(self) -> dict[str, str]:
        return {
            **os.environ,
            **self._settings,
            "PIPELINE_HOME": str(self._folder),
            "INGRESS_PORT": str(self.port),
            "FLOWER_PORT": str(self._flower_port),
            "EXPORTER_PORT": str(self._exporter_port),
            "CONSOLE_PORT": str(self._console_port),
            "FLOWER_USER": "chaos",
            "FLOWER_PASSWORD": "of-the-chaos",
            "DATABASE_URL": self._database_url(self.postgres_proxy.port),
            "REDIS_URL": self._redis_url(self.redis_proxy.port),
            "SECRETS_KEY": self._key,
            "HANDLERS": "chaos_handlers",
            "PYTHONPATH": _path(HERE / "team"),
            "CHAOS_ORDERS": str(self.orders),
        }

    def _database_url(self, port: int, database: str = "postgres") -> str:
        return f"postgresql://postgres:{self._postgres_password}@127.0.0.1:{port}/{database}"

    def _redis_url(self, port: int) -> str:
        return f"redis://:{self._valkey_password}@127.0.0.1:{port}/0"


def _path(*folders: Path) -> str:
    """Return these folders in front of what Python looks through already."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def _works(process: psutil.Process) -> bool:
    """Return whether a child does the service's work: not a zombie, nor multiprocessing's resource tracker."""
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(process.cmdline())
    return False


def _answers(port: int) -> bool:
    try:
        with open_url(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
