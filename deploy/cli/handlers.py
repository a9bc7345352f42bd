"""The commands `pipeline handlers …`: what is announced, what modules would register, and limits."""

import inspect
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from deploy.cli.arguments import DryRun, HandlerName, InFlight, PauseEnd, rate
from deploy.cli.connections import broker_client, database, database_url, names, redis_variables
from deploy.cli.errors import CommandError
from deploy.cli.output import command, emit, say
from deploy.cli.pauses import pause_deliveries, resume_deliveries
from deploy.local.settings import inherited
from shared.settings import load
from workers import events, registration
from workers.errors import RegistrationError
from workers.live_workers import Live, read_live
from workers.registration import Handler, Handlers
from workers.settings import WorkerSettings
from workers.store import catalogue, limits, manual, pauses
from workers.store.catalogue import Registered
from workers.store.connect import Connection
from workers.store.limits import ANY

RUNNING_SECONDS: Final = 60.0
"""For which a rename waits for what runs under the old name."""

app: Final = typer.Typer(help="Handlers: the code that events are handed to.", no_args_is_help=True)


@command(app, "list")
def list_() -> None:
    """List the handlers that workers have announced, which get deliveries, and how many workers run each now.

    Examples:
        pipeline handlers list
    """
    with database(read_only=True) as connection:
        registered = catalogue.list_registered(connection)
        held = pauses.list_pauses(connection)
    live = _read_live()
    rows = (_state_of(it, live) | {"paused": _paused(it.registration.name, held)} for it in registered)
    emit(
        rows,
        "handler",
        "event",
        "provider",
        "tenant",
        "max_attempts",
        "timeout",
        "live",
        "paused",
        "code_version",
        "last_seen_at",
    )


@command(app)
def check() -> None:
    """Import the modules in HANDLERS as a worker would: what each handler asks for, and what it is given.

    Modules in the current folder are found. Nothing is announced.

    Examples:
        HANDLERS=acme_handlers pipeline handlers check
    """
    rows = (_describe(it) for it in sorted(_load_handlers(), key=lambda it: it.name))
    emit(rows, "handler", "event", "provider", "tenant", "given", "max_attempts", "timeout", "about")


@command(app, changes=True)
def remove(name: HandlerName, *, dry_run: DryRun = False) -> None:
    """Take a handler out of the catalogue: it gets no deliveries any more, and its open ones are cancelled.

    First deploy handler workers without it: while one runs it, it cannot be removed. `deliveries retry --cancelled`
    puts deliveries back, should it return.

    Examples:
        pipeline handlers remove acme.grant --dry-run
    """
    _require_no_worker(name)
    with database() as connection:
        _require_known(connection, name)
        if not dry_run:
            catalogue.remove(connection, name)
        batches = manual.cancel(connection, manual.Selection(handler=name), dry_run=dry_run)
        cancelled = sum(sum(lanes.values()) for lanes in batches)
    would = "would be " if dry_run else ""
    say(
        {"handler": name, "cancelled": cancelled, "dry_run": dry_run},
        f"{name}: {would}removed, {cancelled} open deliveries {would}cancelled",
    )


@command(app, changes=True)
def rename(old: HandlerName, new: HandlerName) -> None:
    """Give a handler another name, with its open deliveries and its limits.

    Before or after the deployment that renames it in the code. Before, its deliveries wait for that deployment; after,
    events of the time in between may have run under both names. What is finished keeps the old name, and a backfill
    counts it. What runs is waited for.

    Examples:
        pipeline handlers rename acme.grant acme.grant_access
    """
    moved = cancelled = 0
    if not registration.is_name(new):
        raise CommandError(f"no handler can be named {new!r}: a name has letters, digits, _ and -, and a dot")
    with database() as connection:
        try:
            catalogue.rename(connection, old, new)
        except KeyError:
            raise CommandError(
                f"{old!r} is not announced, or {new!r} is a former name of a handler: see `pipeline handlers list`"
            ) from None
        ends = time.monotonic() + RUNNING_SECONDS
        while True:
            for batch in catalogue.rename_open(connection, old, new):
                moved, cancelled = moved + batch[0], cancelled + batch[1]
            left = catalogue.count_open(connection, old)
            if not left or time.monotonic() > ends:
                break
            time.sleep(0.2)
    more = f"; {left} still run under the old one: run the command again when they have ended" if left else ""
    double = f", {cancelled} cancelled that were there under both" if cancelled else ""
    say(
        {"handler": old, "renamed_to": new, "moved": moved, "cancelled": cancelled, "left": left},
        f"{old} is {new} now, {moved} open deliveries moved{double}{more}",
    )


@command(app, changes=True)
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


OfTenant = Annotated[str, typer.Option("--tenant", help="Only of this tenant; without it, of all of them.")]


@command(app, changes=True)
def pause(name: HandlerName, *, tenant: OfTenant = ANY, until: PauseEnd = None) -> None:
    """Start none of a handler's deliveries until it is resumed; events go on to be stored, and their deliveries wait.

    What runs goes on to its end. `pipeline tenants pause` pauses all handlers of a tenant.

    Examples:
        pipeline handlers pause acme.sync_crm --reason "their API is down" --until 2h
        pipeline handlers pause acme.sync_crm --tenant acme
    """
    with database(read_only=True) as connection:
        _require_known(connection, name)
    pause_deliveries(tenant=tenant, handler=name, until=until)


@command(app, changes=True)
def resume(name: HandlerName, *, tenant: OfTenant = ANY) -> None:
    """Run a paused handler again; a pause of it for one tenant, or of a tenant, is resumed by itself."""
    resume_deliveries(tenant=tenant, handler=name)


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
        "settings": list(handler.settings.model_fields) if handler.settings else [],
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


def _state_of(it: Registered, live: Live) -> dict[str, Any]:
    """Return a row of the list; of a former name there is little to say."""
    registration = it.registration
    if it.renamed_to is not None:
        return {"handler": registration.name, "event": f"renamed to {it.renamed_to}", "renamed_to": it.renamed_to}
    versions = sorted(digest for name, digest in live.registrations if name == registration.name)
    kept = ("event", "provider", "tenant", "max_attempts", "timeout", "schedule", "serial_by")
    return {
        "handler": registration.name,
        "live": "no" if not versions else "yes" if versions == [registration.digest] else "yes, differing versions",
        "code_version": it.code_version,
        "announced_at": it.announced_at,
        "last_seen_at": it.last_seen_at,
        "backfills": it.backfills,
        "renamed_to": None,
    } | {name: getattr(registration, name) for name in kept}


def _paused(name: str, held: Iterable[pauses.Pause]) -> str | None:
    """Return what pauses a handler, in words: for which tenants, since when, by whom, why."""
    own = [it for it in held if it.handler == name]
    return "; ".join(str(it) if it.tenant == ANY else f"for {it.tenant} {it}" for it in own) or None


def _require_known(connection: Connection, name: str) -> None:
    known = {it.registration.name for it in catalogue.list_registered(connection)}
    if name not in known and not catalogue.count_open(connection, name):
        raise CommandError(f"no handler {name!r} is announced; there are: {', '.join(sorted(known)) or 'none'}")


def _require_no_worker(name: str) -> None:
    if name in (live := _read_live()).handlers:
        workers = ", ".join(it.name for it in live.workers if it.code_version) or "a worker"
        raise CommandError(f"{name} is run at this moment ({workers}): deploy handler workers without it first")


def _read_live() -> Live:
    with broker_client() as client:
        return read_live(client, names())


def _load_handlers() -> Handlers:
    """Import the modules that EVENTS and HANDLERS name, and return the handlers."""
    modules = load_events().handlers
    if not modules:
        raise CommandError("HANDLERS is not set: name the modules that register your handlers, such as acme_handlers")
    try:
        return registration.load(modules)
    except RegistrationError as error:
        raise CommandError(str(error)) from None


def load_events() -> WorkerSettings:
    """Import the modules that EVENTS names, those in the current folder too; return the settings."""
    found = {"DATABASE_URL": database_url(), "REDIS_PREFIX": names().prefix} | redis_variables()
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        settings = load(WorkerSettings, inherited() | found)
        events.load_modules(settings.events)
    except RegistrationError as error:
        raise CommandError(str(error)) from None
    return settings
