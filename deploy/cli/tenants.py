"""The commands `pipeline tenants …`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from deploy.cli.arguments import TenantName  # noqa: TC001 - typer evaluates signatures
from deploy.cli.output import AsJson, emit, say
from deploy.cli.servers import database
from deploy.cli.stats import describe
from workers.store import tenants
from workers.store.refusals import UnknownTenantError
from workers.store.stats import read_load

app = typer.Typer(help="Tenants: whose events these are.", no_args_is_help=True)

InFlight = Annotated[
    int | None,
    typer.Option(
        "--in-flight", "--max-in-flight", min=1, help="At most so many deliveries queued and running at once."
    ),
]
Weight = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Deliveries of the tenant in each round of turns; 1 by default.")
]


@app.command()
def add(name: TenantName, *, max_in_flight: InFlight = None, as_json: AsJson = False) -> None:
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
        as_json=as_json,
        lines=[f"added the tenant {name}; next: pipeline endpoints add {name} --provider moveris --label …"],
    )


@app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List all tenants."""
    with database() as connection:
        found = tenants.list_tenants(connection)
    emit(
        (asdict(it) | {"tenant": it.name} for it in found),
        as_json=as_json,
        columns=["tenant", "max_in_flight", "weight", "paused_at", "created_at"],
    )


@app.command()
def show(name: TenantName, *, as_json: AsJson = False) -> None:
    """Show a tenant's limits, where its deliveries are, and what those that are due wait for."""
    with database() as connection:
        found = next((it for it in tenants.list_tenants(connection) if it.name == name), None)
        if found is None:
            raise UnknownTenantError(f"there is no tenant {name!r}; `pipeline tenants list` shows them")
        (work,) = read_load(connection, tenant=name)
    row = asdict(found) | describe(work)
    cap = "any number" if found.max_in_flight is None else f"at most {found.max_in_flight}"
    lines = [
        f"limits     {cap} in flight at once, {found.weight} in each round of turns",
        f"work       {work.pending} due, {work.retrying} waiting for their next attempt, {work.dead} dead",
        f"in flight  {work.queued} with Celery, {work.running} running",
    ]
    if found.paused_at is not None:
        lines.append(f"paused     since {found.paused_at.isoformat(sep=' ', timespec='seconds')}")
    if work.waits_for is not None:
        lines.append(f"waits for  {work.waits_for}; the oldest has been due for {row['oldest_seconds']} s")
    say(row, as_json=as_json, lines=lines)


@app.command()
def pause(name: TenantName, *, as_json: AsJson = False) -> None:
    """Run none of a tenant's handlers until it is resumed; its events are still accepted and stored."""
    with database() as connection:
        tenants.pause_tenant(connection, name)
    say({"tenant": name, "paused": True}, as_json=as_json, lines=[f"paused {name}; what is queued already still runs"])


@app.command()
def resume(name: TenantName, *, as_json: AsJson = False) -> None:
    """Run a paused tenant's handlers again."""
    with database() as connection:
        tenants.resume_tenant(connection, name)
    say({"tenant": name, "paused": False}, as_json=as_json, lines=[f"resumed {name}"])


@app.command()
def limit(
    name: TenantName,
    *,
    max_in_flight: InFlight = None,
    weight: Weight = None,
    lift: Annotated[bool, typer.Option("--lift", help="Lift what is not given.")] = False,
    as_json: AsJson = False,
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
    cap = "any number" if now.max_in_flight is None else f"at most {now.max_in_flight}"
    say(
        {"tenant": name, "max_in_flight": now.max_in_flight, "weight": now.weight},
        as_json=as_json,
        lines=[f"{name}: {cap} in flight at once, {now.weight} in each round of turns"],
    )
