"""The commands `pipeline tenants …`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from deploy.cli.arguments import TenantName  # noqa: TC001 - typer evaluates signatures
from deploy.cli.output import AsJson, emit, say
from deploy.cli.servers import database
from workers.store import tenants

app = typer.Typer(help="Tenants: whose events these are.", no_args_is_help=True)

InFlight = Annotated[
    int | None, typer.Option(min=1, help="At most so many deliveries queued and running at once; without it, no cap.")
]


@app.command()
def add(name: TenantName, *, max_in_flight: InFlight = None, as_json: AsJson = False) -> None:
    """Add a tenant.

    The name becomes part of its URLs: lower-case letters, digits, - and _.

    Examples:
        pipeline tenants add acme
        pipeline tenants add acme --max-in-flight 20
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
        columns=["tenant", "max_in_flight", "paused_at", "created_at"],
    )


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
def limit(name: TenantName, *, max_in_flight: InFlight = None, as_json: AsJson = False) -> None:
    """Cap a tenant's deliveries that are queued and running at once, or lift the cap.

    Examples:
        pipeline tenants limit acme --max-in-flight 10
        pipeline tenants limit acme
    """
    with database() as connection:
        tenants.limit_tenant(connection, name, max_in_flight)
    cap = "no cap" if max_in_flight is None else f"at most {max_in_flight} at once"
    say({"tenant": name, "max_in_flight": max_in_flight}, as_json=as_json, lines=[f"{name}: {cap}"])
