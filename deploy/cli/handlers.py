"""The commands `pipeline handlers …`, and the handlers that other commands make deliveries for.

Modules in the current folder are found, as the workers find them.
"""

import inspect
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from deploy.cli.arguments import HandlerName, InFlight, rate
from deploy.cli.connections import database, database_url, redis_url
from deploy.cli.errors import CommandError
from deploy.cli.output import command, emit, say
from deploy.local.settings import inherited
from shared.settings import load
from workers import events, registration
from workers.errors import RegistrationError
from workers.registration import Handler, Handlers
from workers.settings import WorkerSettings
from workers.store import limits

app: Final = typer.Typer(help="Handlers: the code that events are handed to.", no_args_is_help=True)


@command(app, "list")
def list_() -> None:
    """List the handlers of the modules in HANDLERS: what each asks for, what it is given, and its limits.

    Examples:
        HANDLERS=acme_handlers pipeline handlers list
    """
    rows = (_describe(it) for it in sorted(load_handlers(), key=lambda it: it.name))
    emit(rows, "handler", "event", "provider", "tenant", "given", "max_attempts", "timeout", "about")


@command(app)
def limit(
    name: HandlerName,
    *,
    max_in_flight: InFlight = None,
    per_second: Annotated[
        float | None, typer.Option("--rate", parser=rate, metavar="RATE", help="At most 10/s, 300/m or 5000/h.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="Only of this tenant; without it, of all of them together.")] = limits.ANY,
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
    say(chosen, f"{name}, {whose}: {'at most ' + ' and '.join(bounds) if bounds else 'no limit'}")


@command(app, "limits")
def limits_() -> None:
    """List the limits of handlers; the tenant * stands for all of them together."""
    with database() as connection:
        emit(limits.list_limits(connection), "handler", "tenant", "max_in_flight", "rate")


def _describe(handler: Handler) -> dict[str, Any]:
    model, fields = _given(handler)
    kept = ("event", "provider", "tenant", "max_attempts", "timeout", "schedule")
    return {
        "handler": handler.name,
        "given": f"{model} ({', '.join(fields)})" if fields else model,
        "fields": fields,
        "about": (inspect.getdoc(handler.function) or "").partition("\n")[0],
    } | {name: getattr(handler, name) for name in kept}


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
    """Import the modules that EVENTS and HANDLERS name, and return the handlers."""
    found = {"DATABASE_URL": database_url(), "REDIS_URL": redis_url()}
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        settings = load(WorkerSettings, inherited() | found)
        events.load_modules(settings.events)
        return registration.load(settings.handlers)
    except RegistrationError as error:
        raise CommandError(str(error)) from None
