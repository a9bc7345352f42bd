"""The modules in HANDLERS and EVENTS: `pipeline handlers list`, and commands that make deliveries as ingest would.

Modules in the current folder are found, as the workers find them. A module that does not import is refused.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.arguments import rate
from deploy.cli.errors import CommandError
from deploy.cli.output import AsJson, emit, say
from deploy.cli.servers import database, database_url, redis_url
from deploy.local.settings import inherited
from shared.settings import load
from workers import events, registration
from workers.errors import RegistrationError
from workers.settings import WorkerSettings
from workers.store import limits

if TYPE_CHECKING:
    from workers.registration import Handler, Handlers

app = typer.Typer(help="Handlers: the code that events are handed to.", no_args_is_help=True)


@app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List the handlers of the modules in HANDLERS: what each asks for, what it is given, and its limits.

    Examples:
        HANDLERS=acme_handlers pipeline handlers list
    """
    emit(
        (_describe(it) for it in sorted(load_handlers(), key=lambda it: it.name)),
        as_json=as_json,
        columns=["handler", "event", "provider", "tenant", "given", "max_attempts", "timeout", "about"],
    )


@app.command()
def limit(
    name: Annotated[str, typer.Argument(metavar="HANDLER", help="Name of the handler, such as acme.grant.")],
    *,
    max_in_flight: Annotated[
        int | None, typer.Option("--in-flight", min=1, help="At most so many deliveries queued and running at once.")
    ] = None,
    per_second: Annotated[
        float | None, typer.Option("--rate", parser=rate, metavar="RATE", help="At most 10/s, 300/m or 5000/h.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="Only of this tenant; without it, of all of them together.")] = limits.ANY,
    as_json: AsJson = False,
) -> None:
    """Limit the deliveries of a handler, over all workers; without --in-flight and --rate, lift the limit.

    A rate counts what is sent to the workers: an API's quota, kept over restarts. Nothing is dropped: it waits.

    Examples:
        pipeline handlers limit acme.grant --in-flight 5
        pipeline handlers limit acme.notify --rate 10/s --tenant acme
        pipeline handlers limit acme.grant
    """
    chosen = limits.Limit(handler=name, tenant=tenant, max_in_flight=max_in_flight, rate=per_second)
    with database() as connection:
        limits.limit_handler(connection, chosen)
    whose = "all tenants together" if tenant == limits.ANY else tenant
    bounds = [] if max_in_flight is None else [f"{max_in_flight} in flight"]
    bounds += [] if per_second is None else [f"{per_second:g} a second"]
    say(
        asdict(chosen),
        as_json=as_json,
        lines=[f"{name}, {whose}: {'at most ' + ' and '.join(bounds) if bounds else 'no limit'}"],
    )


@app.command("limits")
def limits_(*, as_json: AsJson = False) -> None:
    """List the limits of handlers; the tenant * stands for all of them together."""
    with database() as connection:
        found = limits.list_limits(connection)
    emit((asdict(it) for it in found), as_json=as_json, columns=["handler", "tenant", "max_in_flight", "rate"])


def _describe(handler: Handler) -> dict[str, Any]:
    model, fields = _given(handler)
    return {
        "handler": handler.name,
        "event": handler.event,
        "provider": handler.provider,
        "tenant": handler.tenant,
        "given": f"{model} ({', '.join(fields)})" if fields else model,
        "fields": fields,
        "max_attempts": handler.max_attempts,
        "timeout": handler.timeout,
        "schedule": handler.schedule,
        "about": (inspect.getdoc(handler.function) or "").partition("\n")[0],
    }


def _given(handler: Handler) -> tuple[str, list[str]]:
    """Return the name of the event's type, as the handler's first parameter is annotated, and its fields."""
    first = next(iter(inspect.signature(handler.function).parameters.values()))
    if first.annotation is first.empty:
        return "Event", []
    annotation = first.annotation
    if isinstance(annotation, str):  # `from __future__ import annotations`; or imported for the type checker only
        annotation = getattr(handler.function, "__globals__", {}).get(annotation, annotation)
    fields = getattr(annotation, "model_fields", None) or getattr(annotation, "__dataclass_fields__", {})
    return getattr(annotation, "__name__", str(annotation)), [*fields]


def load_handlers() -> Handlers:
    """Import the modules that EVENTS and HANDLERS name, and return the handlers.

    Raises:
        CommandError: a module does not import, or registers what is refused.
    """
    found = {"DATABASE_URL": database_url(), "REDIS_URL": redis_url()}
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        settings = load(WorkerSettings, inherited() | found)
        events.load_modules(settings.events)
        return registration.load(settings.handlers)
    except RegistrationError as error:
        raise CommandError(str(error)) from None
