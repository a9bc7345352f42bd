"""The commands `pipeline deliveries …`."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final, Literal
from uuid import UUID

import typer
from rich.console import Console

from deploy.cli.arguments import DryRun, HandlerFilter, HandlerName, Limit, Since, TenantFilter, past
from deploy.cli.connections import database
from deploy.cli.errors import CommandError
from deploy.cli.output import command, emit, say, wants_json
from workers.store import catalogue, event_history, manual
from workers.store.limits import ANY
from workers.store.manual import Selection

app: Final = typer.Typer(
    help="Deliveries: one event for one handler, until it succeeds or is dead.", no_args_is_help=True
)

State = StrEnum("State", "pending queued running succeeded dead cancelled")
Ids = Annotated[list[UUID] | None, typer.Argument(metavar="[EVENT_ID]...", help="Only of these events.")]
Everything = Annotated[bool, typer.Option("--all", help="All of them, when nothing narrows the choice.")]


@command(app, "list")
def list_(
    *,
    state: Annotated[
        list[State] | None, typer.Option(help="Only in this state; may be repeated. Default: open and dead.")
    ] = None,
    tenant: TenantFilter = None,
    handler: HandlerFilter = None,
    limit: Limit = 20,
) -> None:
    """List deliveries, those of the newest events first.

    Examples:
        pipeline deliveries list --state dead --tenant acme
    """
    states: list[str] = [*(state or (*event_history.OPEN_STATES, "dead"))]
    with database(read_only=True) as connection:
        found = event_history.list_deliveries(connection, states=states, tenant=tenant, handler=handler, limit=limit)
    emit(found, "event_id", "tenant", "handler", "state", "attempt", "due_at", "finished_at", "last_error")


@command(app)
def retry(
    event_ids: Ids = None,
    *,
    tenant: TenantFilter = None,
    handler: HandlerFilter = None,
    since: Since = None,
    everything: Everything = False,
    cancelled: Annotated[bool, typer.Option("--cancelled", help="Cancelled deliveries instead of dead ones.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Put dead deliveries back: due at once, with all their attempts again.

    What was recorded of earlier attempts stays in the event's history.

    Examples:
        pipeline deliveries retry --handler acme.grant_access --since 2h --dry-run
        pipeline deliveries retry 0198c0de-0000-7000-8000-000000000000
    """
    selection = _select(event_ids, tenant, handler, since, everything=everything)
    state: Literal["dead", "cancelled"] = "cancelled" if cancelled else "dead"
    with database() as connection:
        lanes = manual.retry(connection, selection, state=state, dry_run=dry_run)
        report_lanes(lanes, "put back", dry_run=dry_run)


@command(app)
def cancel(
    event_ids: Ids = None,
    *,
    tenant: TenantFilter = None,
    handler: HandlerFilter = None,
    since: Since = None,
    everything: Everything = False,
    dry_run: DryRun = False,
) -> None:
    """Cancel open deliveries; they can be put back with `deliveries retry --cancelled`.

    Of one that runs at this moment nothing is kept that it wrote through `delivery.connection`.

    Examples:
        pipeline deliveries cancel --tenant acme --handler acme.mail --dry-run
    """
    selection = _select(event_ids, tenant, handler, since, everything=everything)
    with database() as connection:
        report_lanes(manual.cancel(connection, selection, dry_run=dry_run), "cancelled", dry_run=dry_run)


@command(app)
def backfill(
    name: HandlerName,
    *,
    since: Annotated[
        datetime, typer.Option(parser=past, metavar="TIME", help="Events received since then: 2h, 7d, or a date.")
    ],
    tenant: TenantFilter = None,
    dry_run: DryRun = False,
) -> None:
    """Make the deliveries of a handler that was deployed later than its events came.

    Events that have a delivery of it already, in whatever state, get no other.

    Examples:
        pipeline deliveries backfill acme.grant_access --since 7d --dry-run
    """
    with database(read_only=True) as connection:
        registrations = catalogue.read_registrations(connection)
    known = registrations.get(name)
    if known is None:
        names = ", ".join(registrations) or "none"
        raise CommandError(f"no worker has announced a handler {name!r}; there are: {names}")
    if tenant is not None and known.tenant not in {ANY, tenant}:
        raise CommandError(f"{name} takes events of the tenant {known.tenant!r} only, not of {tenant!r}")
    provider, event, whose = (None if it == ANY else it for it in (known.provider, known.event, tenant or known.tenant))
    looked_at = missing = 0
    with database() as connection, Console(stderr=True).status("looking for events") as status:
        for page in manual.backfill(
            connection,
            handler=name,
            provider=provider,
            event=event,
            tenant=whose,
            since=since,
            until=datetime.now(UTC),
            dry_run=dry_run,
        ):
            looked_at += page.events
            missing += page.missing if dry_run else page.made
            status.update(f"{looked_at} events looked at, {missing} without a delivery")
    say(
        {"handler": name, "events": looked_at, "count": missing, "dry_run": dry_run},
        f"{_deliveries(missing, dry_run=dry_run)} made for {name}; "
        f"{looked_at} events since {since:%Y-%m-%d %H:%M} looked at",
    )


def _deliveries(count: int, *, dry_run: bool) -> str:
    return ("1 delivery" if count == 1 else f"{count} deliveries") + (" would be" if dry_run else "")


def _select(
    event_ids: list[UUID] | None, tenant: str | None, handler: str | None, since: datetime | None, *, everything: bool
) -> Selection:
    """Return what is meant; everything only if that was said."""
    if not everything and not event_ids and tenant is None and handler is None and since is None:
        raise CommandError("which ones? give event ids, --tenant, --handler or --since, or --all for everything")
    return Selection(event_ids=event_ids or None, tenant=tenant, handler=handler, since=since)


def report_lanes(batches: Iterable[manual.Lanes], done: str, *, dry_run: bool) -> int:
    """Print how many of each lane, when all batches are through, and return how many in all.

    Those that are stay so if one fails.
    """
    lanes: manual.Lanes = Counter()
    try:
        for batch in batches:
            lanes.update(batch)
    finally:
        rows = [
            {"tenant": tenant, "handler": handler, "count": count, "dry_run": dry_run}
            for (tenant, handler), count in sorted(lanes.items())
        ]
        if rows:
            emit(rows, "tenant", "handler", "count")
        if not wants_json():
            print(f"{_deliveries(lanes.total(), dry_run=dry_run)} {done}")
    return lanes.total()
