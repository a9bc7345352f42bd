"""The commands `pipeline tenants …`."""

import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Annotated, Any, Final

import redis
import typer

from deploy.cli.arguments import InFlight, Limit, PauseEnd, Prefix, TenantName, rate, size
from deploy.cli.connections import broker_client, database, names, registry_change
from deploy.cli.errors import CommandError
from deploy.cli.output import command, emit, say
from deploy.cli.pauses import pause_deliveries, resume_deliveries
from shared import registry
from shared.settings import SettingError
from workers.live_workers import read_live
from workers.store import pauses, tenants
from workers.store.limits import ANY
from workers.store.stats import read_load

app: Final = typer.Typer(help="Tenants: whose events these are.", no_args_is_help=True)


@command(app, changes=True)
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
def list_(
    *,
    prefix: Prefix = None,
    after: Annotated[str | None, typer.Option(metavar="TENANT", help="Go on after this one.")] = None,
    limit: Limit = 200,
) -> None:
    """List tenants by name.

    Examples:
        pipeline tenants list --prefix acme
        pipeline tenants list --limit 100000 --json
    """
    with database(read_only=True) as connection:
        found = tenants.list_tenants(connection, prefix=prefix, after=after, limit=limit + 1)
    rows = [asdict(it) | {"tenant": it.name} for it in found[:limit]]
    emit(
        rows,
        "tenant",
        "max_in_flight",
        "weight",
        "ingest_rate",
        "ingest_burst",
        "inbox_bytes",
        "paused",
        "created_at",
        shown=lambda row: row | {"paused": _paused(row)},
    )
    if len(found) > limit:
        print(f"pipeline: there are more: --after {found[limit - 1].name} goes on, --limit shows more", file=sys.stderr)


@command(app)
def show(name: TenantName) -> None:
    """Show a tenant's limits, where its deliveries are, and what those that are due wait for."""
    with database() as connection:
        found = tenants.find_tenant(connection, name)
        (work,) = read_load(connection, tenant=name)
        held = pauses.list_pauses(connection, tenant=name)
    waits_for = work.waits_for(_live_handlers())
    lines = [
        *_in_words(found),
        *_settings_in_words(found.settings),
        f"work       {work.pending} due, {work.retrying} waiting for their next attempt, {work.dead} dead",
        f"in flight  {work.queued} with Celery, {work.running} running",
    ]
    lines += [f"paused     {it}" for it in held if it.handler == ANY]
    lines += [f"paused     {it.handler}, {it}" for it in held if it.handler != ANY]
    if waits_for is not None:
        lines.append(f"waits for  {waits_for}; the oldest has been due for {work.oldest_seconds} s")
    more = {"waits_for": waits_for, "pauses": [asdict(it) for it in held]}
    say(asdict(found) | asdict(work) | more, *lines)


def _live_handlers() -> Collection[str] | None:
    """Return the handlers that some worker runs; None where Redis does not tell."""
    try:
        with broker_client() as client:
            return read_live(client, names()).handlers
    except (redis.RedisError, SettingError):
        return None


@command(app, "set", changes=True)
def set_(
    name: TenantName,
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Values that are JSON are taken as such, others are texts."),
    ] = None,
    *,
    unset: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Take this setting away.")] = None,
) -> None:
    """Set what handlers are told about a tenant, as `delivery.settings`; running workers follow with the next delivery.

    It is no place for secrets: settings are shown, and kept in the audit.

    Examples:
        pipeline tenants set acme crm_url=https://crm.acme.example crm_timeout=5
        pipeline tenants set acme 'plan="5"' --unset crm_timeout
    """
    if not values and not unset:
        raise CommandError("nothing to set: give KEY=VALUE or --unset KEY; `pipeline tenants show` has the settings")
    pairs = [it.partition("=") for it in values or ()]
    if wrong := next((key for key, sign, _ in pairs if not sign), None):
        raise CommandError(f"{wrong!r} is no KEY=VALUE")
    with database() as connection:
        tenants.set_settings(connection, name, {key: _value(text) for key, _, text in pairs}, unset=unset or ())
        now = tenants.find_tenant(connection, name).settings
    say({"tenant": name, "settings": now}, *_settings_in_words(now) or ["settings   none"])


def _value(text: str) -> Any:
    """Return a value as JSON, or else the text itself."""
    try:
        return json.loads(text, parse_constant=lambda _: text)
    except RecursionError:
        raise CommandError("the value is nested too deep: give it as a text") from None
    except ValueError:
        return text


def _settings_in_words(settings: Mapping[str, Any]) -> list[str]:
    return [f"settings   {key} = {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]


@command(app, changes=True)
def pause(name: TenantName, *, until: PauseEnd = None) -> None:
    """Start none of a tenant's deliveries until it is resumed; its events are still accepted and stored.

    What runs goes on to its end. `pipeline handlers pause` pauses one handler, of all tenants or of one.

    Examples:
        pipeline tenants pause acme --until 2h --reason "their database is being moved"
    """
    pause_deliveries(tenant=name, until=until)


@command(app, changes=True)
def resume(name: TenantName) -> None:
    """Run a paused tenant's handlers again; those that are paused by themselves stay so."""
    resume_deliveries(tenant=name)


@command(app, changes=True)
def limit(
    name: TenantName,
    *,
    max_in_flight: InFlight = None,
    weight: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Deliveries of the tenant in each round of turns; 1 by default.")
    ] = None,
    per_second: Annotated[
        float | None,
        typer.Option("--rate", parser=rate, metavar="RATE", help="At most 100/s or 3000/m events; 429 beyond."),
    ] = None,
    burst: Annotated[
        int | None,
        typer.Option(
            min=1, max=2**31 - 1, help="Events that may come at once; those beyond wait until the others are stored."
        ),
    ] = None,
    inbox: Annotated[
        int | None,
        typer.Option(
            parser=size, metavar="SIZE", help="At most 100MB of events in the inbox beside others; 503 beyond."
        ),
    ] = None,
    lift: Annotated[bool, typer.Option("--lift", help="Lift what is not given.")] = False,
) -> None:
    """Limit what a tenant may send and what is done for it at once, or give it more turns than others.

    --rate, --burst and --inbox are about events as they arrive, over all endpoints of the tenant; --in-flight and
    --weight are about deliveries to its handlers. What is not given stays as it is; with --lift, or with nothing given,
    it is lifted. Nothing that was acknowledged is ever dropped by a limit.

    Examples:
        pipeline tenants limit acme --in-flight 10 --weight 2
        pipeline tenants limit acme --rate 100/s --burst 1000 --inbox 100MB
        pipeline tenants limit acme --lift
    """
    of_events = any((per_second, burst, inbox))
    lift = lift or not (of_events or max_in_flight or weight)
    opened = registry_change() if of_events or lift else database()
    with opened as connection, connection.transaction():
        if max_in_flight is not None or lift:
            tenants.limit_tenant(connection, name, max_in_flight)
        if weight is not None or lift:
            tenants.weigh_tenant(connection, name, weight or 1)
        if of_events or lift:
            kept = registry.Limits() if lift else tenants.find_tenant(connection, name).ingest
            limits = registry.Limits(
                rate=per_second or kept.rate, burst=burst or kept.burst, inbox_bytes=inbox or kept.inbox_bytes
            )
            tenants.limit_ingest(connection, name, limits)
        now = tenants.find_tenant(connection, name)
    say({"tenant": name} | _limits(now), *_in_words(now))


def _paused(row: Mapping[str, Any]) -> str | None:
    if row["paused_at"] is None:
        return None
    return pauses.describe(row["paused_at"], row["paused_by"], row["pause_reason"], row["paused_until"])


def _limits(it: tenants.Tenant) -> dict[str, Any]:
    return {
        "max_in_flight": it.max_in_flight,
        "weight": it.weight,
        "rate": it.ingest_rate,
        "burst": it.ingest_burst,
        "inbox_bytes": it.inbox_bytes,
    }


def _in_words(it: tenants.Tenant) -> list[str]:
    cap = "any number" if it.max_in_flight is None else f"at most {it.max_in_flight}"
    events = "any number" if it.ingest_rate is None else f"at most {it.ingest_rate:g} a second"
    burst = "" if it.ingest_burst is None else f", {it.ingest_burst:,} at once"
    share = "" if it.inbox_bytes is None else f", {it.inbox_bytes / 1e6:,.4g} MB of the inbox beside others"
    return [
        f"deliveries {cap} in flight at once, {it.weight} in each round of turns",
        f"events     {events}{burst}{share}",
    ]
