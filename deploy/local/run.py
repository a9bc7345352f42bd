"""One run of the local stack, from the lock on its folder to the end of its last process.

Whatever goes wrong at the start, and whenever Ctrl-C or SIGTERM comes, everything that was started is stopped in order
within 15 s. A folder in use, a port in use, and servers that are away or too old are refused before any service of the
pipeline runs.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import redis

from deploy.health import HEARTBEATS
from deploy.local.servers import is_free, prepare_postgres, prepare_valkey, read_credentials
from deploy.local.service import Server
from deploy.local.services import CONSOLE, STAGES, check_settings, pipeline_services
from deploy.local.settings import OLDEST_POSTGRES, OLDEST_REDIS, GivenSettings, StackSettings
from deploy.local.stale_processes import end_stale_processes
from deploy.local.state import Stack, StackError, locked, make_data_dir, read_stack, write_stack
from deploy.local.supervisor import Supervisor, run_blocking
from deploy.local.terminal import Terminal
from shared.durability import assess
from shared.redis_client import open_client
from shared.settings import redis_servers
from workers.store.connect import connect

SERVERS_SECONDS: Final = 60.0
SERVICES_SECONDS: Final = 90.0
ECHO_SECONDS: Final = 1.0
EXAMPLE_HANDLERS: Final = "workers.handlers.example"
"""What runs where `HANDLERS` is not set; workers that are started otherwise refuse that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run was asked to do.

    Attributes:
        environ: that the services inherit.
        prepare: brings the database up to date; called when the servers are ready and nothing else runs.
        greet: shows that it works and how to use it; called when everything is ready.
        with_console: whether the web console is served, too.
    """

    settings: StackSettings
    given: GivenSettings
    environ: Mapping[str, str]
    terminal: Terminal
    prepare: Callable[[Stack], None]
    greet: Callable[[Stack], None]
    with_console: bool = True


async def run(this: Run) -> None:
    """Start everything, stay until SIGINT, SIGTERM or SIGHUP, stop everything."""
    home = this.settings.home
    logs = make_data_dir(home)
    with locked(home):
        if former := read_stack(home):
            for name in await run_blocking(lambda: end_stale_processes(former.members)):
                this.terminal.bad(f"{name} was left over from a run that was killed; ended it")
        _check_ports(this.settings, with_console=this.with_console)
        supervisor = Supervisor(
            logs=logs,
            terminal=this.terminal,
            adopt=True,
            heartbeats=home / HEARTBEATS,
            health_seconds=this.settings.health_seconds,
        )
        stop = _handle_signals(supervisor, this.terminal)
        start = asyncio.create_task(_start(this, supervisor))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((start, stopping), return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                start.result()
                maintenance = asyncio.create_task(supervisor.maintain())
                await stopping
                maintenance.cancel()
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
    stack, servers = await run_blocking(lambda: _plan(this))
    supervisor.on_change = lambda members: write_stack(this.settings.home, replace(stack, members=tuple(members)))
    given = {"DATABASE_URL": stack.database_url, "REDIS_PREFIX": stack.redis_prefix}
    given |= {"INBOX_URL": stack.inbox_url, "BROKER_URL": stack.broker_url}
    environ = {**this.environ, **given, "SECRETS_KEY": stack.secrets_key}
    environ["HANDLERS"] = environ.get("HANDLERS", "").strip() or EXAMPLE_HANDLERS
    await supervisor.start(*servers)
    await run_blocking(lambda: check_settings(environ))
    await supervisor.wait_until_ready(*(server.name for server in servers), seconds=SERVERS_SECONDS)
    await run_blocking(lambda: _check_servers(stack, this))
    names = ", ".join(server.name for server in servers)
    this.terminal.good(f"servers: {names or 'given by DATABASE_URL and REDIS_URL'}")
    await run_blocking(lambda: this.prepare(stack))
    services = [it for it in pipeline_services(environ, this.settings) if this.with_console or it.name != CONSOLE]
    await supervisor.start(*services)
    with this.terminal.waiting("waiting until all of them are ready"):
        await supervisor.wait_until_ready(*(service.name for service in services), seconds=SERVICES_SECONDS)
    this.terminal.good(f"ready: {', '.join(service.name for service in services)}")
    await run_blocking(lambda: this.greet(stack))


async def _stop(this: Run, supervisor: Supervisor) -> None:
    this.terminal.print("stopping everything in order")
    killed = await supervisor.stop(*STAGES)
    (this.settings.home / "stack.json").unlink(missing_ok=True)
    if killed:
        this.terminal.bad(f"did not stop in time and was killed: {', '.join(killed)}")
    this.terminal.print("stopped")


def _check_ports(settings: StackSettings, *, with_console: bool) -> None:
    ports = {
        "INGRESS_PORT": settings.ingress_port,
        "FLOWER_PORT": settings.flower_port,
        "EXPORTER_PORT": settings.exporter_port,
    } | ({"CONSOLE_PORT": settings.console_port} if with_console else {})
    for variable, port in ports.items():
        if not is_free(port):
            raise StackError(f"port {port} is in use by another program: set {variable} to a free one")
        if same := [name for name, other in ports.items() if other == port and name != variable]:
            raise StackError(f"{variable} and {same[0]} are both {port}: they must differ")


def _handle_signals(supervisor: Supervisor, terminal: Terminal) -> asyncio.Event:
    """Return an event that the first signal sets; a second one ends everything at once.

    A signal within a second of the first is the same one: `make` passes SIGTERM on, and the group gets it too.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    first = float("inf")

    def handle() -> None:
        nonlocal first
        if loop.time() - first > ECHO_SECONDS:
            terminal.bad("ending everything at once")
            supervisor.kill_now()
        first = min(first, loop.time())
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, handle)
    return stop


def _plan(this: Run) -> tuple[Stack, list[Server]]:
    """Decide which servers are used, and make the data folders of the embedded ones."""
    home, given, servers = this.settings.home, this.given, []
    own = read_credentials(home)
    if given.database_url is None:
        with this.terminal.waiting("preparing Postgres"):
            servers.append(prepare_postgres(home, port=own.postgres_port, password=own.postgres_password))
    if not (given.redis_url or (given.inbox_url and given.broker_url)):
        servers.append(prepare_valkey(home, port=own.valkey_port, password=own.valkey_password))
    urls = {server.name: server.url for server in servers}
    prefix = given.redis_prefix or own.redis_prefix
    redis_url = given.redis_url or urls.get("valkey", "")
    inbox, broker = redis_servers(redis_url, given.inbox_url, given.broker_url, prefix=prefix)
    stack = Stack(
        database_url=given.database_url or urls["postgres"],
        database_schema=given.database_schema,
        inbox_url=inbox,
        broker_url=broker,
        redis_prefix=prefix,
        environment=given.environment,
        secrets_key=",".join(given.secrets_key or [own.secrets_key]),
        ingress_url=this.settings.ingress_url,
        flower_url=this.settings.flower_url,
        console_url=this.settings.console_url if this.with_console else "",
        exporter_url=this.settings.exporter_url,
    )
    return stack, servers


def _check_servers(stack: Stack, this: Run) -> None:
    """Ask the servers who they are; an unreachable one raises its client's error."""
    with connect(stack.database_url, name="pipeline up", schema=stack.database_schema) as connection:
        if connection.info.server_version < OLDEST_POSTGRES:
            raise StackError("DATABASE_URL is a Postgres older than 15: upgrade it, or unset the variable")
    is_one = stack.inbox_url == stack.broker_url
    urls = {"REDIS_URL" if is_one else "INBOX_URL": stack.inbox_url}
    for variable, url in (urls if is_one else urls | {"BROKER_URL": stack.broker_url}).items():
        with open_client(url, seconds=5, prefix=stack.redis_prefix) as client:
            facts, appendfsync = client.info(), None
            with contextlib.suppress(redis.ResponseError):
                appendfsync = client.config_get("appendfsync").get("appendfsync")
        version = facts.get("valkey_version") or facts.get("redis_version", "0")
        if int(version.partition(".")[0]) < OLDEST_REDIS:
            raise StackError(f"{variable} is a Redis {version}, older than 7: upgrade it, or unset the variable")
        if variable == "BROKER_URL":
            break  # its messages are hints
        verdict = assess(facts, appendfsync, meant=this.given.inbox_durability)
        for unknown in verdict.texts("unknown"):
            this.terminal.bad(f"{variable}: {unknown}")
        if faults := verdict.texts("wrong"):
            raise StackError(f"{variable}: {'; '.join(faults)}. If that is meant, set INBOX_DURABILITY, such as to any")
