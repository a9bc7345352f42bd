"""One run of the local stack, from the lock on its folder to the end of its last process.

Guarantees: whatever goes wrong while it starts, and whenever Ctrl-C or SIGTERM comes, everything started is stopped in
order within 15 s. Refuses: a folder in use, a port in use, servers that are away or too old (`StackError` and the
clients' own errors, each before anything of the pipeline runs).
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

import redis

from deploy.local.errors import StackError
from deploy.local.keep import open_keep
from deploy.local.remains import take_down
from deploy.local.servers import is_free, prepare_postgres, prepare_valkey
from deploy.local.services import STAGES, check_settings, pipeline_services, server_service
from deploy.local.state import Stack, locked, read_stack, write_stack
from deploy.local.supervisor import Supervisor
from deploy.local.threads import in_thread
from workers.store.connect import connect

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploy.local.report import Report
    from deploy.local.service import Service
    from deploy.local.settings import GivenSettings, StackSettings

OLDEST_POSTGRES: Final = 150000
OLDEST_REDIS: Final = 7
SERVERS_SECONDS: Final = 60.0
SERVICES_SECONDS: Final = 90.0
ECHO_SECONDS: Final = 1.0


class Steps(Protocol):
    """What `pipeline up` does between the steps of the stack."""

    def prepare(self, stack: Stack) -> None:
        """Bring the database up to date and make what must be in it; the servers are ready, nothing else runs."""

    def greet(self, stack: Stack) -> None:
        """Show that it works and how to use it; everything is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run was asked to do."""

    settings: StackSettings
    given: GivenSettings
    environ: Mapping[str, str]
    report: Report
    steps: Steps

    @property
    def home(self) -> Path:
        """Return the data folder."""
        return self.settings.home


async def run(this: Run) -> None:
    """Start everything, stay until SIGINT, SIGTERM or SIGHUP, stop everything.

    Raises:
        StackError: it cannot start; everything has been stopped again.
    """
    logs = _make_folders(this.home)
    with locked(this.home):
        if former := read_stack(this.home):
            for name in await in_thread(lambda: take_down(former.members)):
                this.report.bad(f"{name} was left over from a run that was killed; ended it")
        _check_ports(this.settings)
        supervisor = Supervisor(logs=logs, report=this.report, adopt=True)
        stop = _listen(supervisor, this.report)
        start = asyncio.create_task(_start(this, supervisor))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((start, stopping), return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                start.result()
                tending = asyncio.create_task(supervisor.tend())
                await stopping
                tending.cancel()
        finally:
            start.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await start
            await _stop(this, supervisor)


async def _start(this: Run, supervisor: Supervisor) -> None:
    """Start everything.

    1. The embedded servers, unless both are given; meanwhile see whether the settings hold.
    2. Migrate, make what must be there.
    3. The pipeline's services, all at once; wait until the last is ready.
    4. Greet.
    """
    stack, servers = await in_thread(lambda: _plan(this))
    supervisor.on_change = lambda members: write_stack(this.home, replace(stack, members=tuple(members)))
    urls = {"DATABASE_URL": stack.database_url, "REDIS_URL": stack.redis_url, "SECRETS_KEY": stack.secrets_key}
    environ = {**this.environ, **urls}
    await supervisor.start(*servers)
    await in_thread(lambda: check_settings(environ))
    await supervisor.wait_until_ready(*(server.name for server in servers), seconds=SERVERS_SECONDS)
    await in_thread(lambda: _check_servers(stack, this.report))
    names = ", ".join(server.name for server in servers)
    this.report.good(f"servers: {names or 'given by DATABASE_URL and REDIS_URL'}")
    await in_thread(lambda: this.steps.prepare(stack))
    services = pipeline_services(
        environ,
        ingress_port=this.settings.ingress_port,
        flower_port=this.settings.flower_port,
        ingest_slots=this.settings.ingest_slots,
        handler_slots=this.settings.handler_slots,
    )
    await supervisor.start(*services)
    with this.report.waiting("waiting until ingress, workers and Flower are ready"):
        await supervisor.wait_until_ready(*(service.name for service in services), seconds=SERVICES_SECONDS)
    this.report.good(f"ready: {', '.join(service.name for service in services)}")
    await in_thread(lambda: this.steps.greet(stack))


async def _stop(this: Run, supervisor: Supervisor) -> None:
    this.report.say("stopping everything in order")
    killed = await supervisor.stop(*STAGES)
    (this.home / "stack.json").unlink(missing_ok=True)
    if killed:
        this.report.bad(f"killed, for it did not end in time: {', '.join(killed)}")
    this.report.say("stopped")


def _make_folders(home: Path) -> Path:
    """Make the data folder and return that of the logs."""
    logs = home / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        logs.chmod(0o700)
        (home / "lock").touch()
    except OSError as error:
        raise StackError(
            f"{home} cannot be written ({error.strerror}): set PIPELINE_HOME to a folder of yours"
        ) from None
    return logs


def _check_ports(settings: StackSettings) -> None:
    for variable, port in (("INGRESS_PORT", settings.ingress_port), ("FLOWER_PORT", settings.flower_port)):
        if not is_free(port):
            raise StackError(f"port {port} is in use by another program: set {variable} to a free one")
    if settings.ingress_port == settings.flower_port:
        raise StackError(f"INGRESS_PORT and FLOWER_PORT are both {settings.ingress_port}: they must differ")


def _listen(supervisor: Supervisor, report: Report) -> asyncio.Event:
    """Return an event that the first signal sets; a second one hurries everything.

    What comes within a second of the first is its echo: `make` passes SIGTERM on, beside whoever signals the group.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    first = float("inf")

    def heard() -> None:
        nonlocal first
        if loop.time() - first > ECHO_SECONDS:
            report.bad("hurrying")
            supervisor.hurry()
        first = min(first, loop.time())
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, heard)
    return stop


def _plan(this: Run) -> tuple[Stack, list[Service]]:
    """Decide which servers are used, and make the data folders of the embedded ones."""
    keep = open_keep(this.home)
    servers = []
    if this.given.database_url is None:
        with this.report.waiting("preparing Postgres"):
            servers.append(prepare_postgres(this.home, port=keep.postgres_port, password=keep.postgres_password))
    if this.given.redis_url is None:
        servers.append(prepare_valkey(this.home, port=keep.valkey_port, password=keep.valkey_password))
    urls = {server.name: server.url for server in servers}
    stack = Stack(
        database_url=this.given.database_url or urls["postgres"],
        redis_url=this.given.redis_url or urls["valkey"],
        secrets_key=",".join(this.given.secrets_key or [keep.secrets_key]),
        ingress_url=f"http://127.0.0.1:{this.settings.ingress_port}",
        flower_url=f"http://127.0.0.1:{this.settings.flower_port}",
    )
    return stack, [server_service(server, this.environ) for server in servers]


def _check_servers(stack: Stack, report: Report) -> None:
    """Ask the servers who they are; an unreachable one raises its client's error."""
    with connect(stack.database_url, name="pipeline up") as connection:
        if connection.info.server_version < OLDEST_POSTGRES:
            raise StackError("DATABASE_URL is a Postgres older than 15: upgrade it, or unset the variable")
    with redis.Redis.from_url(stack.redis_url, socket_timeout=5, socket_connect_timeout=5) as client:
        facts = client.info()
    version = facts.get("valkey_version") or facts.get("redis_version", "0")
    if int(version.partition(".")[0]) < OLDEST_REDIS:
        raise StackError(f"REDIS_URL is a Redis {version}, older than 7: upgrade it, or unset the variable")
    if not facts.get("aof_enabled"):
        report.bad("REDIS_URL has no append-only file: what it acknowledged is lost when it dies; set appendonly yes")
    if facts.get("maxmemory_policy", "noeviction") != "noeviction":
        report.bad("REDIS_URL evicts keys when full, acknowledged events among them; set maxmemory-policy noeviction")
