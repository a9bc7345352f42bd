"""The command `pipeline up`: the whole stack on this machine, until Ctrl-C.

Guarantees: a tenant `demo` with a Moveris endpoint exists; the first event's trail is shown before the URLs. Refuses: a
SECRETS_KEY that does not decrypt the secrets in the database, before any service runs with it.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import redis
import typer

from deploy.cli.endpoints import path_of
from deploy.cli.errors import CommandError
from deploy.cli.trail import PROVIDER, TENANT, follow
from deploy.local.report import Report
from deploy.local.settings import GivenSettings, StackSettings, inherited
from shared.registry import Cipher, RegistryError
from shared.settings import SettingError, fernet_keys, load
from workers.housekeeping.publishing import publish
from workers.store import tenants
from workers.store.connect import connect
from workers.store.migrate import migrate
from workers.store.partitions import ensure_partitions

if TYPE_CHECKING:
    from deploy.cli.trail import Trail
    from deploy.local.state import Stack
    from workers.store.connect import Connection

TRAIL_SECONDS = 30.0


def up(
    *,
    demo_event: Annotated[
        bool, typer.Option(help="Send one signed event to the tenant `demo` and show its trail.")
    ] = True,
) -> None:
    """Run the whole stack here until Ctrl-C: servers, ingress, workers, beat and Flower.

    Postgres and a Redis-compatible server are started below PIPELINE_HOME unless DATABASE_URL and REDIS_URL name
    others. Data stay between runs. What dies is started again. INGRESS_PORT and FLOWER_PORT choose the ports;
    INGRESS_WORKERS, INGEST_SLOTS and HANDLER_SLOTS the number of processes.
    """
    try:
        from deploy.local.run import Run, run  # noqa: PLC0415 - needs the extra `local`, the other commands do not
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is not installed: `pip install '.[local]'`, or use `make run`") from None
    report, settings = Report(), load(StackSettings)
    this = Run(
        settings=settings,
        given=load(GivenSettings),
        environ=inherited(),
        report=report,
        steps=_Steps(report=report, demo_event=demo_event, home=settings.home),
    )
    asyncio.run(run(this))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """See `deploy.local.run.Steps`."""

    report: Report
    demo_event: bool
    home: Path

    def prepare(self, stack: Stack) -> None:
        """Migrate, see that the key fits, make the demo's endpoint if there is none, publish the registry."""
        cipher = Cipher(fernet_keys(stack.secrets_key))
        with connect(stack.database_url, name="pipeline up", lease_seconds=3600) as connection:
            applied = migrate(connection)
            ensure_partitions(connection)
            _check_key(connection, cipher)
            made = _make_demo(connection, cipher)
            with redis.Redis.from_url(stack.redis_url, socket_timeout=5) as client:
                publish(connection, client)
        self.report.good(f"database: {len(applied)} migrations applied" if applied else "database: up to date")
        if made:
            self.report.good(f"tenant {TENANT}: made, with an endpoint of {PROVIDER}")

    def greet(self, stack: Stack) -> None:
        """Show one event's trail, then where everything is."""
        if self.demo_event:
            with self.report.waiting("one signed verification.completed, as Moveris would send it"):
                trail = follow(stack, seconds=TRAIL_SECONDS)
            self._tell(trail)
        self.report.say()
        self.report.say(f"  ingress    {stack.ingress_url}{path_of(TENANT, PROVIDER)}", "bold")
        self.report.say(f"  Flower     {stack.flower_url}", "bold")
        self.report.say(f"  logs       {self.home / 'logs'}")
        self.report.say(f"  send more  {_command(self.home)} send {TENANT} --count 100 --wait")
        self.report.say("  stop       Ctrl-C")

    def _tell(self, trail: Trail) -> None:
        if not trail.event_id:
            self.report.bad(f"the ingress did not take the event: {trail.refusal}")
            return
        self.report.good(f"event {trail.event_id}")
        self.report.good(f"acknowledged after {trail.acknowledged:.0f} ms")
        if trail.stored is None:
            self.report.bad(f"not stored after {TRAIL_SECONDS:.0f} s: see ingest.log")
            return
        self.report.good(f"stored after {trail.stored:.0f} ms")
        if trail.handled is not None:
            self.report.good(f"handled after {trail.handled:.0f} ms by {', '.join(trail.handlers)}")
        elif trail.handlers:
            self.report.bad(f"not handled after {TRAIL_SECONDS:.0f} s: {', '.join(trail.handlers)}; see handlers.log")
        else:
            self.report.bad("stored, and no handler asks for it: name the module of yours in HANDLERS")


def _command(home: Path) -> str:
    """Return how to type `pipeline` here, so that it finds this stack."""
    program = Path(sys.executable).with_name("pipeline")
    here = Path.cwd()
    known = shutil.which("pipeline")
    name = str(program.relative_to(here) if program.is_relative_to(here) else program)
    if known and Path(known) == program:
        name = "pipeline"
    return name if home == here / ".local" else f"PIPELINE_HOME={home} {name}"


def _check_key(connection: Connection, cipher: Cipher) -> None:
    """Refuse to go on with a key that does not decrypt what may sign now."""
    _, endpoints = tenants.read_registry(connection)
    for endpoint in endpoints:
        for secret in filter(tenants.is_alive, endpoint.secrets):
            try:
                cipher.decrypt(secret)
            except RegistryError:
                raise SettingError(
                    f"SECRETS_KEY is wrong: it does not decrypt {endpoint.tenant}'s {endpoint.provider} secret "
                    f"{secret.label!r}; set the key that encrypted it (a list of keys is tried in turn)"
                ) from None


def _make_demo(connection: Connection, cipher: Cipher) -> bool:
    """Make the demo's endpoint if there is none; say whether it was made."""
    if not any(tenant.name == TENANT for tenant in tenants.list_tenants(connection)):
        tenants.add_tenant(connection, TENANT)
    if any(endpoint.provider == PROVIDER for endpoint in tenants.list_endpoints(connection, tenant=TENANT)):
        return False
    ciphertext = cipher.encrypt(secrets.token_urlsafe(32).encode())
    tenants.add_endpoint(
        connection, tenant=TENANT, provider=PROVIDER, scheme="moveris", label="demo", ciphertext=ciphertext
    )
    return True
