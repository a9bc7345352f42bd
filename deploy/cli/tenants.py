"""The commands `pipeline tenants …`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final

import typer

from deploy.cli.arguments import InFlight, TenantName  # noqa: TC001 - typer evaluates signatures
from deploy.cli.connections import database
from deploy.cli.output import command, emit, say
from workers.store import tenants
from workers.store.refusals import UnknownTenantError
from workers.store.stats import read_load

app: Final = typer.Typer(help="Tenants: whose events these are.", no_args_is_help=True)


@command(app)
def add(name: TenantName, *, max_in_flight: InFlight = None) -> None:
    """Add a tenant.

    The name becomes part of its URLs: lower-case letters, digits, - and _.

    Examples:
        pipeline tenants add acme
        pipeline tenants add acme --in-flight 20
    """
    with database() as connection:
        tenants.add_tenant(connection, name, max_in_flight=max_in_flight)
    say(
        {"tenant": name, "max_in_flight": max_in_flight},
        f"added the tenant {name}; next: pipeline endpoints add {name} --provider moveris --label …",
    )


@command(app, "list")
def list_() -> None:
    """List all tenants."""
    with database() as connection:
        rows = [asdict(it) | {"tenant": it.name} for it in tenants.list_tenants(connection)]
    emit(rows, "tenant", "max_in_flight", "weight", "paused_at", "created_at")


@command(app)
def show(name: TenantName) -> None:
    """Show a tenant's limits, where its deliveries are, and what those that are due wait for."""
    with database() as connection:
        found = next((it for it in tenants.list_tenants(connection) if it.name == name), None)
        if found is None:
            raise UnknownTenantError(f"there is no tenant {name!r}; `pipeline tenants list` shows them")
        (work,) = read_load(connection, tenant=name)
    lines = [
        f"limits     {_limits(found)}",
        f"work       {work.pending} due, {work.retrying} waiting for their next attempt, {work.dead} dead",
        f"in flight  {work.queued} with Celery, {work.running} running",
    ]
    if found.paused_at is not None:
        lines.append(f"paused     since {found.paused_at.isoformat(sep=' ', timespec='seconds')}")
    if work.waits_for is not None:
        lines.append(f"waits for  {work.waits_for}; the oldest has been due for {work.oldest_seconds} s")
    say(asdict(found) | asdict(work) | {"waits_for": work.waits_for}, *lines)


@command(app)
def pause(name: TenantName) -> None:
    """Run none of a tenant's handlers until it is resumed; its events are still accepted and stored."""
    with database() as connection:
        tenants.pause_tenant(connection, name)
    say({"tenant": name, "paused": True}, f"paused {name}; what is queued already still runs")


@command(app)
def resume(name: TenantName) -> None:
    """Run a paused tenant's handlers again."""
    with database() as connection:
        tenants.resume_tenant(connection, name)
    say({"tenant": name, "paused": False}, f"resumed {name}")


@command(app)
def limit(
    name: TenantName,
    *,
    max_in_flight: InFlight = None,
    weight: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Deliveries of the tenant in each round of turns; 1 by default.")
    ] = None,
    lift: Annotated[bool, typer.Option("--lift", help="Lift what is not given.")] = False,
) -> None:
    """Limit a tenant's deliveries that are queued and running at once, or give it more turns than others.

    What is not given stays as it is; with --lift, or with nothing given, it is lifted.

    Examples:
        pipeline tenants limit acme --in-flight 10
        pipeline tenants limit acme --weight 2
        pipeline tenants limit acme --lift
    """
    lift = lift or (max_in_flight is None and weight is None)
    with database() as connection, connection.transaction():
        if max_in_flight is not None or lift:
            tenants.limit_tenant(connection, name, max_in_flight)
        if weight is not None or lift:
            tenants.weigh_tenant(connection, name, weight or 1)
        (now,) = (it for it in tenants.list_tenants(connection) if it.name == name)
    say({"tenant": name, "max_in_flight": now.max_in_flight, "weight": now.weight}, f"{name}: {_limits(now)}")


def _limits(it: tenants.Tenant) -> str:
    cap = "any number" if it.max_in_flight is None else f"at most {it.max_in_flight}"
    return f"{cap} in flight at once, {it.weight} in each round of turns"
